/* ReMO as in the paper (Talaria, arXiv 2603.00196), for faithfulness and comparison: a mask is M_pvt M_pub with fresh
 * M_pvt [1, m] and M_pub [m, d] fixed for each input; R_pub = M_pub W comes from the worker. In f32, so the result is
 * exact up to rounding.
 *
 * BREAKABLE, by construction: the worker sees M_pub when it computes R_pub, projects what it receives on the complement
 * of its rows and reads d - m values of every row in clear; without M_pub, a few more than m rows give its span. Rows
 * arrive here scaled to deviation 1 (masked.c); masks have deviation `mask_scale`. */
#include "base/buf.h"
#include "base/hooks.h"
#include "base/log.h"
#include "base/mem.h"
#include "protect/masked/groups.h"

#include <math.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MASK_SCALE 100.0
#define ASK_ROWS 32 /* of M_pub in one exchange */

struct remo {
    struct remo_group {
        uint32_t d, n, m;
        const float *rows;  /* [m][d] M_pub */
        const float *recov; /* [m][n] R_pub */
    } * groups;
    double scale;
    struct st_area memory;
    char strength[128];
};

static const char *remo_strength(const void *s)
{
    return ((const struct remo *)s)->strength;
}

static void remo_close(void *s)
{
    struct remo *r = s;
    if (!r)
        return;
    if (r->memory.p)
        OPENSSL_cleanse(r->memory.p, r->memory.len);
    st_area_free(&r->memory);
    free(r->groups);
    free(r);
}

/* R_pub of one group: rows of M_pub go to the worker as they are. */
static int fetch(const struct st_scheme_opts *o, const struct st_mask_group *g, float *rows, float *recov, uint32_t m,
                 struct st_err *e)
{
    const struct st_transport *t = o->transport;
    uint32_t most = o->max_row ? o->max_row : ASK_ROWS;
    for (uint32_t at = 0, n; at < m; at += n) {
        n = m - at < most ? m - at : most;
        struct st_exchange x = {
            .plan = o->plan, .ops = &o->plan->ops[g->op], .n_op = g->n_op, .n_row = n, .id = (UINT64_C(1) << 62) + at};
        struct st_exposed out = {rows + (size_t)at * g->d, (size_t)n * g->d * sizeof *rows, ST_EXPOSED_F32}, reply;
        if (t->submit(t->ctx, &x, &out, e) || t->complete(t->ctx, &x, &reply, e))
            return e->code;
        if (reply.format != ST_EXPOSED_F32 || reply.len != (size_t)n * g->n * sizeof *recov)
            return st_fail(e, ST_VERIFY, "want %zu bytes, got %zu", (size_t)n * g->n * sizeof *recov, reply.len);
        const float *from = reply.p;
        uint32_t column = 0;
        for (int k = 0; k < g->n_op; k++) {
            uint32_t n_out = o->served->weights[g->served[k]].n_out;
            for (uint32_t i = 0; i < n; i++, from += n_out)
                memcpy(recov + (size_t)(at + i) * g->n + column, from, n_out * sizeof *recov);
            column += n_out;
        }
        for (size_t i = 0; i < (size_t)n * g->n; i++)
            if (!isfinite(recov[(size_t)at * g->n + i]))
                return st_fail(e, ST_VERIFY, "the worker's M_pub W is not finite");
    }
    return 0;
}

static int set_up(struct remo *r, const struct st_scheme_opts *o, struct st_stream *random, struct st_err *e)
{
    struct st_progress bar;
    char site[ST_MASK_SITE];
    float *p = r->memory.p;
    st_progress_start(&bar, "M_pub W", "groups", (uint64_t)o->n_group);
    bar.on = bar.on && o->progress;
    int rc = 0;
    for (int i = 0; i < o->n_group && !rc; i++) {
        struct remo_group *g = &r->groups[i];
        float *rows = p, *recov = p + (size_t)g->m * g->d;
        g->rows = rows;
        g->recov = recov;
        for (size_t k = 0; k < (size_t)g->m * g->d; k++)
            rows[k] = (float)(st_stream_normal(random) / sqrt(g->m));
        rc = fetch(o, &o->groups[i], rows, recov, g->m, e);
        if (rc)
            st_err_prefix(e, "remo: %s", st_mask_site(o->plan, &o->groups[i], site));
        p += (size_t)g->m * (g->d + (size_t)g->n);
        st_progress_update(&bar, (uint64_t)i + 1);
    }
    st_progress_end(&bar);
    return rc;
}

static int alloc_groups(struct remo *r, const struct st_scheme_opts *o, struct st_err *e)
{
    char need[ST_MEM_TEXT], have[ST_MEM_TEXT];
    size_t values = 0, room = st_mem_available();
    if (st_alloc(&r->groups, (size_t)o->n_group, sizeof *r->groups, "scheme remo", e))
        return e->code;
    for (int i = 0; i < o->n_group; i++) {
        const struct st_mask_group *g = &o->groups[i];
        uint32_t m = o->rank ? o->rank : g->d / 2;
        if (m < 1 || m > g->d)
            return st_fail(e, ST_USAGE, "remo: rank %u, want 1 to %u", m, g->d);
        r->groups[i] = (struct remo_group){.d = g->d, .n = g->n, .m = m};
        values += (size_t)m * ((size_t)g->d + g->n);
    }
    if (o->rank)
        snprintf(r->strength, sizeof r->strength,
                 "remo: breakable: masks of rank %u leave all other dimensions in clear", o->rank);
    else
        snprintf(r->strength, sizeof r->strength,
                 "remo: breakable: masks of half rank leave half of each row in clear");
    if (values > room / sizeof(float))
        return st_fail(e, ST_MEMORY, "not enough memory for M_pub W: %s needed, %s available",
                       st_mem_text(values * sizeof(float), need), st_mem_text(room, have));
    return st_area_new(&r->memory, values, sizeof(float), "M_pub W", e);
}

static int remo_open(const struct st_scheme_opts *o, void **out, struct st_err *e)
{
    struct remo *r;
    struct st_stream *random = NULL;
    uint8_t seed[32];
    if (!o->transport)
        return st_fail(e, ST_INTERNAL, "remo: no transport to ask the worker for M_pub W");
    if (!(o->mask_scale >= 0 && o->mask_scale <= 1e4))
        return st_fail(e, ST_USAGE, "remo: scale of masks %g, want 0 to 10000", o->mask_scale);
    if (st_alloc(&r, 1, sizeof *r, "scheme remo", e))
        return e->code;
    r->scale = o->mask_scale > 0 ? o->mask_scale : MASK_SCALE;
    if (alloc_groups(r, o, e) || st_random(seed, sizeof seed, e) ||
        st_stream_new(seed, sizeof seed, NULL, 0, "remo", &random, e) || set_up(r, o, random, e)) {
        st_stream_free(random);
        remo_close(r);
        return e->code;
    }
    st_stream_free(random);
    *out = r;
    return 0;
}

static double remo_slack(const void *s, int group)
{
    (void)s;
    (void)group;
    return 0;
}

/* out [n] = a [m] times rows [m][n]. */
static void combine(const float *a, const float *rows, uint32_t m, uint32_t n, float *out)
{
    memset(out, 0, n * sizeof *out);
    for (uint32_t k = 0; k < m; k++)
        for (uint32_t i = 0; i < n; i++)
            out[i] += a[k] * rows[(size_t)k * n + i];
}

static int remo_make(void *s, int group, uint32_t n, struct st_stream *random, uint32_t *pads, struct st_err *e)
{
    const struct remo *r = s;
    const struct remo_group *g = &r->groups[group];
    struct st_locked scratch;
    if (st_locked_new(&scratch, g->m * sizeof(float), &st_scheme_scratch, e))
        return e->code;
    float *a = (float *)scratch.p;
    for (uint32_t i = 0; i < n; i++) {
        float *pad = (float *)pads + (size_t)i * ((size_t)g->d + g->n);
        for (uint32_t k = 0; k < g->m; k++)
            a[k] = (float)(r->scale * st_stream_normal(random));
        combine(a, g->rows, g->m, g->d, pad);
        combine(a, g->recov, g->m, g->n, pad + g->d);
    }
    st_locked_free(&scratch);
    return 0;
}

static size_t remo_bytes(const void *s)
{
    return ((const struct remo *)s)->memory.len;
}

const struct st_scheme st_scheme_remo = {.name = "remo",
                                         .domain = ST_MASK_F32,
                                         .strength = remo_strength,
                                         .open = remo_open,
                                         .close = remo_close,
                                         .slack = remo_slack,
                                         .make = remo_make,
                                         .bytes = remo_bytes};
