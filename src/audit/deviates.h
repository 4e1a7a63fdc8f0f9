/* Normal deviates from a seed: one by one for few, pairwise for many, and a table to take from again and again where
 * noise is only there to be noise (simulations of it, training that must not learn rows by heart). */
#ifndef ST_AUDIT_DEVIATES_H
#define ST_AUDIT_DEVIATES_H

#include "base/hooks.h"

/* Deviation 1 (Box and Muller). */
float st_deviate(struct st_rng *rng);
/* to [n] = from [n] + by * deviates; from may be to, NULL = zeros. */
void st_deviates(struct st_rng *rng, double by, const float *from, float *to, size_t n);

/* Deviates that all simulations take from; the same for the same seed. */
struct st_noise_table {
    float *at;
    size_t n;
};
/* Picks of `least` and fewer are possible. MEMORY. */
int st_noise_table_new(struct st_noise_table *t, size_t least, uint64_t seed, struct st_err *e) ST_MUST_CHECK;
void st_noise_table_free(struct st_noise_table *t);
/* n deviates, by a number: others for other numbers. */
const float *st_noise_pick(const struct st_noise_table *t, uint64_t number, size_t n);

#endif
