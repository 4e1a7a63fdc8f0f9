#include "audit/states.h"
#include "base/buf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- watching ---- */

static uint32_t width_of(const struct st_plan *p, enum st_role role, int layer)
{
    for (int i = 0; i < p->n_op; i++)
        if (p->ops[i].op == ST_OP_ROPE && p->ops[i].role == role && p->ops[i].layer == layer)
            return p->slot_width[p->ops[i].out];
    return 0;
}

int st_states_new(const struct st_model *m, int layer, size_t n_max, struct st_states *out, struct st_err *e)
{
    const struct st_plan *p = &m->plan;
    uint32_t q = width_of(p, ST_ROLE_Q, layer), k = width_of(p, ST_ROLE_K, layer);
    *out = (struct st_states){.n_head = m->config.n_head, .n_kv = m->config.n_kv_head, .layer = layer};
    if (!q || !k || !out->n_kv || q % out->n_head || k % out->n_kv || q / out->n_head != k / out->n_kv)
        return st_fail(e, ST_UNSUPPORTED, "%s: layer %d has no queries and keys of its own to compare", m->name, layer);
    if (st_dense_new(&out->hidden, n_max, p->slot_width[0], "states", e) ||
        st_dense_new(&out->query, n_max, q, "states", e) || st_dense_new(&out->key, n_max, k, "states", e)) {
        st_states_free(out);
        return e->code;
    }
    return 0;
}

void st_states_free(struct st_states *s)
{
    st_dense_free(&s->hidden);
    st_dense_free(&s->query);
    st_dense_free(&s->key);
}

static void take(struct st_states *s, struct st_dense *to, const float *rows, uint32_t n_row)
{
    if (n_row <= s->n && s->n <= to->n_row)
        memcpy(st_dense_row(to, s->n - n_row), rows, n_row * to->n_col * sizeof *rows);
}

static void see(void *ctx, const struct st_plan_op *op, const float *in, const float *out, uint32_t n_row)
{
    struct st_states *s = ctx;
    (void)in;
    if (op->layer != s->layer || op->expert >= 0)
        return;
    if (op->op == ST_OP_ROPE && op->role == ST_ROLE_Q)
        take(s, &s->query, out, n_row);
    else if (op->op == ST_OP_ROPE && op->role == ST_ROLE_K)
        take(s, &s->key, out, n_row);
    else if (op->op == ST_OP_ADD && op->out == 0)
        take(s, &s->hidden, out, n_row); /* the last one of the layer stays */
}

struct st_tap st_states_tap(struct st_states *s)
{
    return (struct st_tap){.fn = see, .ctx = s};
}

/* ---- forms ---- */

static double dot(const float *a, const float *b, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static size_t scores(const struct st_states *s, size_t t, float *out)
{
    size_t d = s->query.n_col / s->n_head, share = s->n_head / s->n_kv;
    for (size_t j = 0; j <= t; j++) {
        for (size_t h = 0; h < s->n_head; h++)
            out[j * s->n_head + h] =
                (float)dot(st_dense_row(&s->query, t) + h * d, st_dense_row(&s->key, j) + h / share * d, d);
        qsort(out + j * s->n_head, s->n_head, sizeof *out, by_value);
    }
    return (t + 1) * s->n_head;
}

size_t st_state_values(const struct st_states *s, enum st_state_form form, const struct st_dense *map, size_t t,
                       float *out)
{
    const float *h = st_dense_row(&s->hidden, t);
    switch (form) {
    case ST_STATE_SCORES:
        return scores(s, t, out);
    case ST_STATE_GRAM:
        for (size_t j = 0; j <= t; j++)
            out[j] = (float)dot(h, st_dense_row(&s->hidden, j), s->hidden.n_col);
        return t + 1;
    case ST_STATE_MAPPED:
        break;
    }
    if (!map) {
        memcpy(out, h, s->hidden.n_col * sizeof *out);
        return s->hidden.n_col;
    }
    for (size_t j = 0; j < map->n_col; j++) {
        double sum = 0;
        for (size_t k = 0; k < map->n_row; k++)
            sum += (double)h[k] * st_dense_row(map, k)[j];
        out[j] = (float)sum;
    }
    return map->n_col;
}

double st_state_distance(const float *a, const float *b, size_t n)
{
    double sum = 0, all = 0;
    for (size_t i = 0; i < n; i++) {
        sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        all += (double)b[i] * b[i];
    }
    return sum / (all + 1e-30);
}

/* ---- the search ---- */

struct candidate {
    uint32_t id;
    float logit;
};

static int likelier(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    return x->logit < y->logit ? 1 : x->logit > y->logit ? -1 : x->id < y->id ? -1 : x->id > y->id;
}

struct search {
    const struct st_state_search *s;
    struct st_states own;  /* of the text so far, and of a candidate behind it */
    struct st_states lane; /* row k: the last row of lane k */
    struct st_lanes *lanes;
    struct candidate *candidates; /* [n_vocab] */
    uint32_t ids[ST_STATE_LANES];
    float *logits, *want, *got;
    uint32_t n_vocab, n_run; /* lanes that run */
    bool logits_wanted;
};

/* One row of each lane that runs. */
static void see_lanes(void *ctx, const struct st_plan_op *op, const float *in, const float *out, uint32_t n_row)
{
    struct search *f = ctx;
    if (op->last_row_only && op->op == ST_OP_LINEAR) {
        if (f->logits_wanted)
            memcpy(f->logits, out, f->n_vocab * sizeof *out);
        f->logits_wanted = false; /* what follows is of the other lanes */
    } else if (n_row == f->n_run) {
        see(&f->lane, op, in, out, n_row);
    }
}

/* Row k of the lanes as what the text has at t. */
static void put(struct search *f, size_t t, uint32_t k)
{
    struct st_dense *to[] = {&f->own.hidden, &f->own.query, &f->own.key},
                    *from[] = {&f->lane.hidden, &f->lane.query, &f->lane.key};
    for (int i = 0; i < 3; i++)
        memcpy(st_dense_row(to[i], t), st_dense_row(from[i], k), to[i]->n_col * sizeof *to[i]->p);
}

/* Every lane gets the text's next token, the one at t; what the base has for it stays. */
static int settle(struct search *f, const uint32_t *ids, size_t t, struct st_err *e)
{
    for (uint32_t k = 0; k < ST_STATE_LANES; k++)
        f->ids[k] = ids[t];
    f->n_run = f->lane.n = ST_STATE_LANES;
    f->logits_wanted = true;
    if (st_lanes_run(f->lanes, ids, t, f->ids, f->n_run, e))
        return e->code;
    put(f, t, 0);
    for (uint32_t i = 0; i < f->n_vocab; i++)
        f->candidates[i] = (struct candidate){i, f->logits[i]};
    qsort(f->candidates, f->n_vocab, sizeof *f->candidates, likelier);
    return 0;
}

/* The candidate behind ids [t] whose states are most like those that were seen. */
static int find_next(struct search *f, uint32_t *ids, size_t t, struct st_err *e)
{
    const struct st_state_search *s = f->s;
    size_t n_want = st_state_values(s->seen, s->form, s->map, t, f->want);
    uint32_t n = s->n_candidate < f->n_vocab ? s->n_candidate : f->n_vocab;
    double least = INFINITY;
    ids[t] = f->candidates[0].id;
    for (uint32_t c = 0; c < n && least > s->accept; c += f->n_run) {
        f->n_run = n - c < ST_STATE_LANES ? n - c : ST_STATE_LANES;
        f->lane.n = f->n_run;
        for (uint32_t k = 0; k < f->n_run; k++)
            f->ids[k] = f->candidates[c + k].id;
        if (st_lanes_run(f->lanes, ids, t, f->ids, f->n_run, e))
            return e->code;
        for (uint32_t k = 0; k < f->n_run; k++) {
            put(f, t, k);
            size_t n_got = st_state_values(&f->own, s->form, NULL, t, f->got);
            double far = n_got == n_want ? st_state_distance(f->got, f->want, n_want) : INFINITY;
            if (far < least) {
                least = far;
                ids[t] = f->ids[k];
            }
        }
    }
    return 0;
}

int st_state_find(const struct st_state_search *s, uint32_t *ids, size_t n, const uint32_t *truth, size_t *likeliest,
                  struct st_err *e)
{
    struct search f = {.s = s, .n_vocab = s->base->config.n_vocab};
    const struct st_tap tap = {.fn = see_lanes, .ctx = &f};
    size_t values = ST_STATE_VALUES(s->seen, n, s->map);
    *likeliest = 0;
    e->code = 0;
    if (st_states_new(s->base, s->layer, n, &f.own, e) || st_states_new(s->base, s->layer, ST_STATE_LANES, &f.lane, e))
        goto out;
    size_t own_values = ST_STATE_VALUES(&f.own, n, s->map);
    if (st_alloc(&f.candidates, f.n_vocab, sizeof *f.candidates, "candidates", e) ||
        st_alloc(&f.logits, f.n_vocab, sizeof *f.logits, "candidates", e) ||
        st_alloc(&f.want, values, sizeof *f.want, "states", e) ||
        st_alloc(&f.got, own_values, sizeof *f.got, "states", e) ||
        st_lanes_new(s->base, s->n_threads, ST_STATE_LANES, n, &tap, &f.lanes, e))
        goto out;
    for (size_t t = 1; t < n; t++) {
        if (s->cancel && *s->cancel) {
            st_fail(e, ST_IO, "cancelled");
            goto out;
        }
        if (settle(&f, ids, t - 1, e) || find_next(&f, ids, t, e))
            goto out;
        *likeliest += f.candidates[0].id == truth[t];
    }
out:
    st_lanes_free(f.lanes);
    st_states_free(&f.own);
    st_states_free(&f.lane);
    free(f.candidates);
    free(f.logits);
    free(f.want);
    free(f.got);
    return e->code;
}
