/* Small secret integers: the discrete Gaussian of parameter sigma by its cumulative table, 31 bits of precision and a
 * sign, cut where less than 2^-32 of it is left (about 6.5 sigma). Every sample is compared with the whole table, or
 * found by a search within registers: neither the time nor which memory is read depends on what is drawn. The distance
 * to the exact distribution is below 2^-24 per sample. */
#ifndef ST_FIELD_SAMPLER_H
#define ST_FIELD_SAMPLER_H

#include "crypto/stream.h"

#define ST_GAUSS_MAX 127

struct st_gauss {
    double sigma;
    size_t n; /* largest value drawn */
    uint32_t threshold[ST_GAUSS_MAX];
};

/* USAGE: sigma outside [1, 19], where int8 would not hold the samples. */
int st_gauss_init(struct st_gauss *g, double sigma, struct st_err *e) ST_MUST_CHECK;
/* n samples, 4 bytes of the stream each. */
void st_gauss_fill(const struct st_gauss *g, struct st_stream *s, int8_t *out, size_t n);

#endif
