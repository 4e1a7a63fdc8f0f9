#include "protect/masked/check.h"
#include "base/buf.h"
#include "base/hooks.h"

#include <openssl/crypto.h>
#include <stdlib.h>

static int draw(struct st_mask_checks *c, struct st_err *e)
{
    uint8_t seed[32];
    struct st_stream *random = NULL;
    int rc = st_random(seed, sizeof seed, e);
    if (!rc)
        rc = st_stream_new(seed, sizeof seed, NULL, 0, "masked integrity", &random, e);
    OPENSSL_cleanse(seed, sizeof seed);
    if (!rc)
        rc = st_freivalds_draw(c->s, c->n_s, random, e);
    st_stream_free(random);
    return rc;
}

struct making {
    struct st_mask_checks *checks;
    const struct st_served *served;
    uint32_t *at; /* [served->n] place of a matrix's outputs in its group */
};

static int make(void *ctx, int at, int thread, struct st_err *e)
{
    struct making *m = ctx;
    const struct st_served_weight *w = &m->served->weights[at];
    (void)thread;
    return st_freivalds_init_shared(&m->checks->of[at], w->w, w->n_out, w->n_in, m->checks->s, m->at[at], e);
}

static int join(struct st_mask_checks *c, const struct st_mask_groups *g, struct st_err *e)
{
    int rc = 0;
    for (int i = 0; i < g->n && !rc; i++) {
        const struct st_freivalds *parts[ST_MAX_GROUP];
        for (int k = 0; k < g->g[i].n_op; k++)
            parts[k] = &c->of[g->g[i].served[k]];
        rc = st_freivalds_join(&c->groups[i], parts, g->g[i].n_op, e);
    }
    return rc;
}

int st_mask_checks_init(struct st_mask_checks *c, const struct st_mask_groups *g, const struct st_served *served,
                        struct st_pool *pool, bool progress, struct st_err *e)
{
    struct making m = {.checks = c, .served = served};
    *c = (struct st_mask_checks){.n = served->n, .n_group = g->n};
    int rc = st_alloc(&m.at, served->n, sizeof *m.at, "integrity check", e);
    for (int i = 0; i < g->n && !rc; i++) {
        c->n_s = g->g[i].n > c->n_s ? g->g[i].n : c->n_s;
        for (uint32_t k = 0, at = 0; k < (uint32_t)g->g[i].n_op; at += served->weights[g->g[i].served[k++]].n_out)
            m.at[g->g[i].served[k]] = at;
    }
    if (!rc)
        rc = st_alloc(&c->of, served->n, sizeof *c->of, "integrity check", e);
    if (!rc)
        rc = st_alloc(&c->groups, (size_t)g->n, sizeof *c->groups, "integrity check", e);
    if (!rc)
        rc = draw(c, e);
    if (!rc)
        rc = st_mask_groups_each(g, served, pool, progress ? "integrity check" : NULL, make, &m, e);
    if (!rc)
        rc = join(c, g, e);
    free(m.at);
    if (rc)
        st_mask_checks_wipe(c);
    return rc;
}

bool st_mask_checks_pass(const struct st_mask_checks *c, const struct st_mask_group *g, int group, const uint32_t *u,
                         const uint32_t *v, uint32_t n_row)
{
    uint32_t n_out[ST_MAX_GROUP];
    for (int k = 0; k < g->n_op; k++)
        n_out[k] = c->of[g->served[k]].n_out;
    return st_freivalds_check_parts(&c->groups[group], n_out, g->n_op, u, v, n_row);
}

void st_mask_checks_wipe(struct st_mask_checks *c)
{
    for (uint32_t i = 0; i < c->n && c->of; i++)
        st_freivalds_wipe(&c->of[i]);
    for (int i = 0; i < c->n_group && c->groups; i++)
        st_freivalds_wipe(&c->groups[i]);
    st_freivalds_free_s(c->s, c->n_s);
    free(c->of);
    free(c->groups);
    *c = (struct st_mask_checks){0};
}
