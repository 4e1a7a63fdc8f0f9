#include "field/product.h"
#include "field/fq.h"

#include <string.h>

/* Values of k in one pass: four vectors of s and the limbs of one vector of u stay in the first-level cache. */
#define K_BLOCK 2048
#define U_BLOCK 8 /* vectors of u in one block */

void st_limbs_split(const uint32_t *x, uint32_t n_vec, uint32_t len, uint8_t *p)
{
    for (uint32_t v = 0; v < n_vec; v++)
        for (uint32_t l = 0; l < 4; l++) {
            const uint32_t *from = x + (size_t)v * len;
            uint8_t *to = p + ((size_t)v * 4 + l) * len;
            for (uint32_t k = 0; k < len; k++)
                to[k] = (uint8_t)(from[k] >> 8 * l);
        }
}

void st_limbs_split24(const uint32_t *x, uint32_t n_vec, uint32_t len, uint8_t *p)
{
    for (uint32_t v = 0; v < n_vec; v++)
        for (uint32_t l = 0; l < 3; l++) {
            const uint32_t *from = x + (size_t)v * len;
            uint8_t *to = p + ((size_t)v * 3 + l) * len;
            for (uint32_t k = 0; k < len; k++)
                to[k] = (uint8_t)((from[k] + 128) >> 8 * (l + 1)); /* q + 128 < 2^32 */
        }
}

/* Puts the sums of the limbs together: |sum| < 2^31, so |value| < 2^31 * (1 + 2^8 + 2^16 + 2^24) < 2^56. */
static uint32_t join(const int32_t *sum, uint32_t n_limb)
{
    int64_t x = 0;
    for (uint32_t l = 0; l < n_limb; l++)
        x += (int64_t)sum[l] * ((int64_t)1 << 8 * (l + 4 - n_limb));
    return st_fq_from(x);
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Vectors s0.. (up to ST_LIMB_S) times vectors v0.. (up to U_BLOCK). */
static void block(st_limb_dot_fn *dot, const struct st_field_product *p, uint32_t s0, uint32_t n_s, uint32_t v0,
                  uint32_t n_v)
{
    int32_t sum[U_BLOCK][ST_LIMB_S * ST_LIMB_U];
    const struct st_limbs *u = &p->u;
    for (uint32_t k = 0; k < u->len; k += K_BLOCK) {
        if (k % ST_LIMB_MAX_K == 0)
            memset(sum, 0, n_v * sizeof sum[0]);
        for (uint32_t v = 0; v < n_v; v++)
            dot(&(struct st_limb_tile){.s = p->s + s0 * p->lds + k,
                                       .lds = p->lds,
                                       .n_s = n_s,
                                       .u = u->p + (size_t)(v0 + v) * u->n_limb * u->len + k,
                                       .ldu = u->len,
                                       .n_u = u->n_limb,
                                       .n_k = least(K_BLOCK, u->len - k),
                                       .sum = sum[v]});
        if (u->len - k > K_BLOCK && (k + K_BLOCK) % ST_LIMB_MAX_K != 0)
            continue;
        for (uint32_t v = 0; v < n_v; v++)
            for (uint32_t i = 0; i < n_s; i++) {
                uint32_t *out = &p->out[(s0 + i) * p->out_s + (v0 + v) * p->out_u];
                uint32_t more = join(sum[v] + i * ST_LIMB_U, u->n_limb);
                *out = k < ST_LIMB_MAX_K ? more : st_fq_add(*out, more);
            }
    }
}

struct work {
    st_limb_dot_fn *dot;
    const struct st_field_product *p;
};

/* The larger side is cut among the threads and read once. */
static void run(void *arg, int thread, int n_threads)
{
    const struct work *w = arg;
    const struct st_field_product *p = w->p;
    size_t lo, hi;
    if (p->n_s >= p->u.n_vec) {
        st_pool_part(p->n_s, ST_LIMB_S, thread, n_threads, &lo, &hi);
        for (uint32_t i = (uint32_t)lo; i < hi; i += ST_LIMB_S)
            for (uint32_t v = 0; v < p->u.n_vec; v += U_BLOCK)
                block(w->dot, p, i, least(ST_LIMB_S, (uint32_t)hi - i), v, least(U_BLOCK, p->u.n_vec - v));
        return;
    }
    st_pool_part(p->u.n_vec, U_BLOCK, thread, n_threads, &lo, &hi);
    for (uint32_t v = (uint32_t)lo; v < hi; v += U_BLOCK)
        for (uint32_t i = 0; i < p->n_s; i += ST_LIMB_S)
            block(w->dot, p, i, least(ST_LIMB_S, p->n_s - i), v, least(U_BLOCK, (uint32_t)hi - v));
}

void st_field_product(struct st_pool *pool, st_limb_dot_fn *dot, const struct st_field_product *p)
{
    struct work w = {dot, p};
    if (pool)
        st_pool_run(pool, run, &w);
    else
        run(&w, 0, 1);
}
