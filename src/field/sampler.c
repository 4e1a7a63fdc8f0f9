#include "field/sampler.h"
#include "field/mask_kernels.h"

#include <math.h>
#include <openssl/crypto.h>

#define CHUNK 1024

int st_gauss_init(struct st_gauss *g, double sigma, struct st_err *e)
{
    double sum = 1, below = 0;
    if (!(sigma >= 1 && sigma <= 19))
        return st_fail(e, ST_USAGE, "sigma: want 1..19, got %g", sigma);
    *g = (struct st_gauss){.sigma = sigma};
    for (int k = 1; k < 40 * sigma; k++)
        sum += 2 * exp(-k * (double)k / (2 * sigma * sigma));
    /* threshold[k]: 2^31 P(|x| <= k); a draw of 31 bits takes the number of thresholds it reaches. */
    for (int k = 0; k < ST_GAUSS_MAX; k++) {
        below += (k ? 2 : 1) * exp(-k * (double)k / (2 * sigma * sigma)) / sum;
        double t = round(ldexp(below, 31));
        if (t >= 0x1p31 - 0.5)
            break;
        g->threshold[g->n++] = (uint32_t)t;
    }
    return 0;
}

void st_gauss_fill(const struct st_gauss *g, struct st_stream *s, int8_t *out, size_t n)
{
    uint32_t r[CHUNK];
    const struct st_mask_kernels *k = st_mask_kernels();
    for (size_t at = 0; at < n; at += CHUNK) {
        size_t m = n - at < CHUNK ? n - at : CHUNK;
        st_stream_bytes(s, r, m * sizeof *r);
        k->sample(r, m, g->threshold, g->n, out + at);
    }
    OPENSSL_cleanse(r, sizeof r);
}
