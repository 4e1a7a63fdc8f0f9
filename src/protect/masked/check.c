#include "protect/masked/check.h"
#include "base/hooks.h"
#include "base/locked.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(ST_FREIVALDS_MAX >= ST_MAX_GROUP, "a check holds the matrices of one exchange");

static int draw_secret(struct st_mask_checks *c, const struct st_mask_groups *g, struct st_err *e)
{
    struct st_stream *random = NULL;
    uint8_t seed[32];
    uint32_t n = 0;
    for (int i = 0; i < g->n; i++)
        n = g->g[i].n > n ? g->g[i].n : n;
    int rc = st_random(seed, sizeof seed, e);
    if (!rc)
        rc = st_stream_new(seed, sizeof seed, NULL, 0, "masked integrity", &random, e);
    if (!rc)
        rc = st_freivalds_secret_init(&c->secret, n, random, e);
    OPENSSL_cleanse(seed, sizeof seed);
    st_stream_free(random);
    return rc;
}

struct making {
    struct st_mask_checks *checks;
    const struct st_mask_groups *groups;
    const struct st_preparer *preparer; /* NULL: the weights are here */
};

/* The products come from the preparer. */
static int make_there(const struct making *m, int group, struct st_err *e)
{
    const struct st_mask_group *g = &m->groups->g[group];
    const struct st_freivalds_secret *secret = &m->checks->secret;
    size_t n_s = (size_t)ST_FREIVALDS_N * g->n, n_ws = (size_t)ST_FREIVALDS_N * g->d;
    uint32_t n_out[ST_MAX_GROUP];
    struct st_locked scratch;
    if (st_locked_new(&scratch, (n_s + n_ws) * sizeof(uint32_t), &st_scheme_scratch, e))
        return e->code;
    uint32_t *s = (uint32_t *)(void *)scratch.p;
    for (size_t v = 0; v < ST_FREIVALDS_N; v++)
        memcpy(s + v * g->n, secret->s[v], g->n * sizeof *s);
    for (int k = 0; k < g->n_op; k++)
        n_out[k] = m->groups->served->weights[g->served[k]].n_out;
    int rc = m->preparer->combine(m->preparer->ctx, g, s, ST_FREIVALDS_N, s + n_s, e);
    if (!rc)
        rc = st_freivalds_take(&m->checks->of[group], n_out, (uint32_t)g->n_op, g->d, s + n_s, secret, e);
    st_locked_free(&scratch);
    return rc;
}

static int make(void *ctx, int group, struct st_err *e)
{
    struct making *m = ctx;
    const struct st_mask_group *g = &m->groups->g[group];
    struct st_freivalds_matrix w[ST_MAX_GROUP];
    if (m->preparer)
        return make_there(m, group, e);
    for (int k = 0; k < g->n_op; k++) {
        const struct st_served_weight *one = &m->groups->served->weights[g->served[k]];
        w[k] = (struct st_freivalds_matrix){one->w, one->n_out};
    }
    return st_freivalds_init(&m->checks->of[group], w, (uint32_t)g->n_op, g->d, &m->checks->secret, e);
}

int st_mask_checks_init(struct st_mask_checks *c, const struct st_mask_groups *g, const struct st_preparer *preparer,
                        struct st_pool *pool, bool progress, struct st_err *e)
{
    struct making m = {c, g, preparer};
    *c = (struct st_mask_checks){.n = g->n};
    int rc = st_alloc(&c->of, (size_t)g->n, sizeof *c->of, "integrity check", e);
    if (!rc)
        rc = draw_secret(c, g, e);
    if (!rc)
        rc = st_mask_groups_each(g, pool, progress ? "integrity check" : NULL, make, &m, e);
    if (rc)
        st_mask_checks_wipe(c);
    return rc;
}

void st_mask_checks_wipe(struct st_mask_checks *c)
{
    for (int i = 0; i < c->n && c->of; i++)
        st_freivalds_wipe(&c->of[i]);
    free(c->of);
    st_freivalds_secret_wipe(&c->secret);
    *c = (struct st_mask_checks){0};
}
