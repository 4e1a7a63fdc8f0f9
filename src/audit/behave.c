#include "audit/behave.h"
#include "audit/deviates.h"
#include "base/buf.h"
#include "base/hooks.h"
#include "protect/covariant/noise.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define SINGLES 128 /* tokens that run together */

/* ---- lanes ---- */

struct st_lanes {
    struct st_engine *engine;
    struct st_session **sessions; /* [n_lane] */
    int *code;                    /* [n_lane] how the request ended */
    uint32_t *ids;                /* [n_max] of the request that is handed in */
    uint32_t n_lane, n_max;
};

static void on_lane_end(void *arg, enum st_finish how, int64_t stop_id, const struct st_err *e)
{
    (void)how;
    (void)stop_id;
    *(int *)arg = e ? e->code : 0;
}

int st_lanes_new(const struct st_model *m, int n_threads, uint32_t n_lane, size_t n_max, const struct st_tap *tap,
                 struct st_lanes **out, struct st_err *e)
{
    uint32_t n_ctx = (uint32_t)n_max + 1;
    const struct st_engine_opts eo = {.n_threads = n_threads,
                                      .kv_dtype = ST_DTYPE_F32,
                                      .n_ctx = n_ctx < m->config.n_ctx ? n_ctx : m->config.n_ctx,
                                      .max_batch = n_lane,
                                      .max_row = n_lane > n_max ? n_lane : (uint32_t)n_max,
                                      .deterministic = true,
                                      .tap = tap};
    struct st_lanes *l;
    if (st_alloc(&l, 1, sizeof *l, "running a model", e))
        return e->code;
    *l = (struct st_lanes){.n_lane = n_lane, .n_max = (uint32_t)n_max};
    if (st_engine_new(m, &eo, &l->engine, e) || st_alloc(&l->sessions, n_lane, sizeof(void *), "running a model", e) ||
        st_alloc(&l->code, n_lane, sizeof *l->code, "running a model", e) ||
        st_alloc(&l->ids, n_max, sizeof *l->ids, "running a model", e))
        goto out;
    for (uint32_t k = 0; k < n_lane; k++)
        if (st_session_new(l->engine, &l->sessions[k], e))
            goto out;
    *out = l;
    return 0;
out:
    st_lanes_free(l);
    return e->code;
}

void st_lanes_free(struct st_lanes *l)
{
    if (!l)
        return;
    st_engine_free(l->engine); /* its sessions with it */
    free(l->sessions);
    free(l->code);
    free(l->ids);
    free(l);
}

int st_lanes_run(struct st_lanes *l, const uint32_t *ids, size_t n, const uint32_t *last, uint32_t n_lane,
                 struct st_err *e)
{
    struct st_request *request;
    e->code = 0;
    if (n >= l->n_max)
        return st_fail(e, ST_INTERNAL, "%zu tokens and one more in lanes of %u", n, l->n_max);
    memcpy(l->ids, ids, n * sizeof *ids);
    for (uint32_t k = 0; k < n_lane; k++) {
        const struct st_request_opts o = {.ids = l->ids,
                                          .n_ids = n + 1,
                                          .n_predict = 1,
                                          .ignore_eos = true,
                                          .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1},
                                          .on_end = on_lane_end,
                                          .arg = &l->code[k],
                                          .session = l->sessions[k]};
        l->ids[n] = last[k];
        if (st_engine_submit(l->engine, &o, &request, e))
            return e->code;
    }
    while (st_engine_step(l->engine))
        ;
    for (uint32_t k = 0; k < n_lane; k++)
        if (l->code[k])
            return st_fail(e, l->code[k], "token %u after %zu others could not be run through the model", last[k], n);
    return 0;
}

/* ---- single tokens ---- */

struct watch {
    struct st_behaviour *b;
    int *layer;      /* [n_gate] which layer */
    uint32_t id, n;  /* of the first lane; those of the others follow, n in all; 0 = nothing is kept */
    uint32_t n_said; /* lanes whose logits were seen: they come in parts */
};

static void see(void *ctx, const struct st_plan_op *op, const float *in, const float *out, uint32_t n_row)
{
    struct watch *w = ctx;
    (void)in;
    if (op->op != ST_OP_LINEAR || op->expert >= 0 || w->n_said + n_row > w->n)
        return;
    if (op->last_row_only) {
        memcpy(st_dense_row(&w->b->said, w->id + w->n_said), out, n_row * w->b->said.n_col * sizeof *out);
        w->n_said += n_row;
    }
    for (uint32_t g = 0; op->role == ST_ROLE_GATE && g < w->b->n_gate; g++)
        if (w->layer[g] == op->layer)
            memcpy(st_dense_row(&w->b->gates[g], w->id), out, n_row * w->b->gates[g].n_col * sizeof *out);
}

/* Space for all gates that the plan has. */
static int find_gates(const struct st_model *m, struct watch *w, struct st_err *e)
{
    const struct st_plan *p = &m->plan;
    struct st_behaviour *b = w->b;
    size_t n = m->config.n_layer;
    if (st_alloc(&b->gates, n ? n : 1, sizeof *b->gates, "gates", e) ||
        st_alloc(&w->layer, n ? n : 1, sizeof *w->layer, "gates", e))
        return e->code;
    for (int i = 0; i < p->n_op && b->n_gate < n; i++) {
        if (p->ops[i].op != ST_OP_LINEAR || p->ops[i].role != ST_ROLE_GATE || p->ops[i].expert >= 0)
            continue;
        w->layer[b->n_gate] = p->ops[i].layer;
        if (st_dense_new(&b->gates[b->n_gate], m->config.n_vocab, p->slot_width[p->ops[i].out], "gates", e))
            return e->code;
        b->n_gate++;
    }
    return 0;
}

static void log_softmax(float *row, size_t n)
{
    float max = row[0];
    double sum = 0;
    for (size_t i = 1; i < n; i++)
        max = row[i] > max ? row[i] : max;
    for (size_t i = 0; i < n; i++)
        sum += exp((double)row[i] - max);
    for (size_t i = 0; i < n; i++)
        row[i] = fmaxf((float)(row[i] - max - log(sum)), ST_BEHAVE_LEAST);
}

/* Of the next ids, one in each lane. */
static int run_singles(struct st_lanes *l, int64_t bos, struct watch *w, struct st_err *e)
{
    uint32_t first = (uint32_t)bos, ids[SINGLES];
    for (uint32_t k = 0; k < w->n; k++)
        ids[k] = w->id + k;
    w->n_said = 0;
    if (st_lanes_run(l, &first, bos >= 0, ids, w->n, e))
        return e->code;
    if (w->n_said != w->n)
        return st_fail(e, ST_INTERNAL, "%u of %u tokens said something", w->n_said, w->n);
    for (uint32_t k = 0; k < w->n; k++)
        log_softmax(st_dense_row(&w->b->said, ids[k]), w->b->said.n_col);
    return 0;
}

/* BOS in every lane, which is there for all that follow. */
static int run_bos(struct st_lanes *l, int64_t bos, struct st_err *e)
{
    uint32_t ids[SINGLES];
    for (uint32_t k = 0; k < SINGLES; k++)
        ids[k] = (uint32_t)bos;
    return bos >= 0 ? st_lanes_run(l, ids, 0, ids, SINGLES, e) : 0;
}

int st_behave(const struct st_model *m, int n_threads, const volatile sig_atomic_t *cancel, struct st_behaviour *out,
              struct st_err *e)
{
    uint32_t n = m->config.n_vocab;
    struct watch w = {.b = out};
    const struct st_tap tap = {.fn = see, .ctx = &w};
    struct st_lanes *l = NULL;
    e->code = 0;
    *out = (struct st_behaviour){.n_gate = 0};
    if (st_dense_new(&out->said, n, n, "what a model says", e) || find_gates(m, &w, e) ||
        st_lanes_new(m, n_threads, SINGLES, 2, &tap, &l, e) || run_bos(l, m->config.bos, e))
        goto out;
    for (w.id = 0; w.id < n; w.id += SINGLES) {
        w.n = n - w.id < SINGLES ? n - w.id : SINGLES;
        if (cancel && *cancel) {
            st_fail(e, ST_IO, "cancelled");
            goto out;
        }
        if (run_singles(l, m->config.bos, &w, e))
            goto out;
    }
out:
    st_lanes_free(l);
    free(w.layer);
    if (e->code)
        st_behaviour_free(out);
    return e->code;
}

void st_behaviour_free(struct st_behaviour *b)
{
    for (uint32_t i = 0; b->gates && i < b->n_gate; i++)
        st_dense_free(&b->gates[i]);
    free(b->gates);
    st_dense_free(&b->said);
    *b = (struct st_behaviour){.n_gate = 0};
}

/* ---- noise ---- */

/* What is added to a weight's values, as the method that made the victim counts it; 0 = none. */
static int deviation(const struct st_model *m, int i, const struct st_pair_noise *noise, struct st_pool *pool,
                     double *out, struct st_err *e)
{
    const struct st_plan_weight *w = &m->plan.weights[i];
    bool rows = w->role == ST_ROLE_EMBED || w->role == ST_ROLE_HEAD;
    double share = w->role == ST_ROLE_EMBED ? noise->embed : w->role == ST_ROLE_HEAD ? noise->head : noise->all;
    *out = 0;
    if (w->n_in == 1 || share <= 0)
        return 0;
    if (!m->mats[i].data || m->mats[i].dtype == ST_DTYPE_I8)
        return st_fail(e, ST_UNSUPPORTED, "%s: its values are not here to add noise to", w->name);
    if (st_cov_noise_std(&m->mats[i], rows, pool, out, e))
        return e->code;
    *out *= share;
    return 0;
}

/* A copy of weight i in f32 with noise. An embedding may lie there as the file has it. */
static int add_noise(struct st_noisy_model *m, size_t i, double by, struct st_rng *rng, struct st_err *e)
{
    struct st_mat *mat = &m->model.mats[i];
    size_t n = (size_t)mat->n_out * mat->n_in;
    if (st_alloc(&m->owned[i], n, sizeof **m->owned, "noisy model", e))
        return e->code;
    st_convert(mat->dtype, mat->data, ST_DTYPE_F32, m->owned[i], n);
    st_deviates(rng, by, m->owned[i], m->owned[i], n);
    mat->data = m->owned[i];
    mat->dtype = ST_DTYPE_F32;
    return 0;
}

int st_noisy_model_new(const struct st_model *base, const struct st_pair_noise *noise, struct st_pool *pool,
                       uint64_t seed, struct st_noisy_model *out, struct st_err *e)
{
    size_t n = (size_t)base->plan.n_weight;
    struct st_rng rng;
    struct st_mat *mats = NULL;
    *out = (struct st_noisy_model){.model = *base};
    out->model.mats = NULL;
    if (st_alloc(&mats, n, sizeof *mats, "noisy model", e))
        return e->code;
    memcpy(mats, base->mats, n * sizeof *mats);
    out->model.mats = mats;
    if (st_alloc(&out->owned, n, sizeof *out->owned, "noisy model", e))
        goto out;
    st_rng_seed(&rng, seed);
    for (size_t i = 0; i < n; i++) {
        double by;
        if (deviation(base, (int)i, noise, pool, &by, e) || (by > 0 && add_noise(out, i, by, &rng, e)))
            goto out;
    }
    return 0;
out:
    st_noisy_model_free(out);
    return e->code;
}

void st_noisy_model_free(struct st_noisy_model *n)
{
    for (int i = 0; n->owned && i < n->model.plan.n_weight; i++)
        free(n->owned[i]);
    free(n->owned);
    free(n->model.mats);
    *n = (struct st_noisy_model){.owned = NULL};
}
