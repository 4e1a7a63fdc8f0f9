#include "protect/masked/check.h"
#include "base/buf.h"
#include "base/hooks.h"

#include <openssl/crypto.h>
#include <stdlib.h>

struct making {
    struct st_mask_checks *checks;
    const struct st_served *served;
    struct st_stream **random; /* [n_threads] */
};

static int make(void *ctx, int at, int thread, struct st_err *e)
{
    struct making *m = ctx;
    const struct st_served_weight *w = &m->served->weights[at];
    return st_freivalds_init(&m->checks->of[at], w->w, w->n_out, w->n_in, m->random[thread], e);
}

int st_mask_checks_init(struct st_mask_checks *c, const struct st_mask_groups *g, const struct st_served *served,
                        struct st_pool *pool, bool progress, struct st_err *e)
{
    int n_threads = pool ? st_pool_size(pool) : 1;
    struct making m = {.checks = c, .served = served};
    uint8_t seed[32];
    *c = (struct st_mask_checks){.n = served->n};
    int rc = st_alloc(&c->of, served->n, sizeof *c->of, "integrity check", e);
    if (!rc)
        rc = st_alloc(&m.random, (size_t)n_threads, sizeof(struct st_stream *), "integrity check", e);
    for (int t = 0; t < n_threads && !rc; t++) {
        rc = st_random(seed, sizeof seed, e);
        if (!rc)
            rc = st_stream_new(seed, sizeof seed, NULL, 0, "masked integrity", &m.random[t], e);
    }
    if (!rc)
        rc = st_mask_groups_each(g, served, pool, progress ? "integrity check" : NULL, make, &m, e);
    for (int t = 0; t < n_threads && m.random; t++)
        st_stream_free(m.random[t]);
    free(m.random);
    OPENSSL_cleanse(seed, sizeof seed);
    if (rc)
        st_mask_checks_wipe(c);
    return rc;
}

void st_mask_checks_wipe(struct st_mask_checks *c)
{
    for (uint32_t i = 0; i < c->n && c->of; i++)
        st_freivalds_wipe(&c->of[i]);
    free(c->of);
    *c = (struct st_mask_checks){0};
}
