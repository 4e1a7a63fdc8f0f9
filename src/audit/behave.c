#include "audit/behave.h"
#include "audit/views.h"
#include "base/buf.h"
#include "base/hooks.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- prompts ---- */

struct st_prompter {
    struct st_engine *engine;
    struct st_session *session;
    uint32_t n_vocab;
    /* Of the request that runs. */
    size_t last;
    float *logits;
    bool done;
    struct st_err err;
};

static void on_logits(void *arg, size_t pos, const float *row)
{
    struct st_prompter *p = arg;
    if (pos == p->last && p->logits)
        memcpy(p->logits, row, p->n_vocab * sizeof *row);
}

static void on_end(void *arg, enum st_finish how, int64_t stop_id, const struct st_err *e)
{
    struct st_prompter *p = arg;
    (void)how;
    (void)stop_id;
    p->done = true;
    if (e)
        p->err = *e;
}

int st_prompter_new(const struct st_model *m, int n_threads, const struct st_tap *tap, struct st_prompter **out,
                    struct st_err *e)
{
    const struct st_engine_opts eo = {
        .n_threads = n_threads, .kv_dtype = ST_DTYPE_F32, .max_batch = 1, .deterministic = true, .tap = tap};
    struct st_prompter *p = calloc(1, sizeof *p);
    if (!p)
        return st_fail(e, ST_MEMORY, "no memory for running a model");
    p->n_vocab = m->config.n_vocab;
    int rc = st_engine_new(m, &eo, &p->engine, e);
    if (!rc)
        rc = st_session_new(p->engine, &p->session, e);
    if (rc) {
        st_prompter_free(p);
        return rc;
    }
    *out = p;
    return 0;
}

void st_prompter_free(struct st_prompter *p)
{
    if (!p)
        return;
    if (p->session)
        st_session_free(p->session);
    if (p->engine)
        st_engine_free(p->engine);
    free(p);
}

int st_prompt(struct st_prompter *p, const uint32_t *ids, size_t n, float *logits, bool keep, struct st_err *e)
{
    struct st_request *request;
    const struct st_request_opts o = {.ids = ids,
                                      .n_ids = n,
                                      .n_predict = 1,
                                      .ignore_eos = true,
                                      .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1},
                                      .on_end = on_end,
                                      .on_prompt_logits = keep ? NULL : on_logits,
                                      .arg = p,
                                      .session = keep ? p->session : NULL};
    p->last = n - 1;
    p->logits = logits;
    p->done = false;
    p->err.code = 0;
    int rc = st_engine_submit(p->engine, &o, &request, e);
    while (!rc && !p->done)
        st_engine_step(p->engine);
    if (!rc && p->err.code) {
        *e = p->err;
        rc = e->code;
    }
    return rc;
}

/* ---- single tokens ---- */

struct watch {
    struct st_behaviour *b;
    int *layer; /* [n_gate] which layer */
    uint32_t id;
};

static void see(void *ctx, const struct st_plan_op *op, const float *in, const float *out, uint32_t n_row)
{
    struct watch *w = ctx;
    (void)in;
    if (op->op != ST_OP_LINEAR || op->role != ST_ROLE_GATE || !n_row)
        return;
    for (uint32_t g = 0; g < w->b->n_gate; g++)
        if (w->layer[g] == op->layer) {
            struct st_dense *to = &w->b->gates[g];
            memcpy(st_dense_row(to, w->id), out + (size_t)(n_row - 1) * to->n_col, to->n_col * sizeof *out);
        }
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
        if (p->ops[i].op != ST_OP_LINEAR || p->ops[i].role != ST_ROLE_GATE)
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

int st_behave(const struct st_model *m, int n_threads, const volatile sig_atomic_t *cancel, struct st_behaviour *out,
              struct st_err *e)
{
    size_t n = m->config.n_vocab;
    struct watch w = {.b = out};
    const struct st_tap tap = {.fn = see, .ctx = &w};
    struct st_prompter *p = NULL;
    e->code = 0;
    *out = (struct st_behaviour){.n_gate = 0};
    if (st_dense_new(&out->said, n, n, "what a model says", e) || find_gates(m, &w, e) ||
        st_prompter_new(m, n_threads, &tap, &p, e))
        goto out;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t ids[2] = {m->config.bos >= 0 ? (uint32_t)m->config.bos : i, i};
        if (cancel && *cancel) {
            st_fail(e, ST_IO, "cancelled");
            goto out;
        }
        w.id = i;
        if (st_prompt(p, ids, m->config.bos >= 0 ? 2 : 1, st_dense_row(&out->said, i), false, e))
            goto out;
        log_softmax(st_dense_row(&out->said, i), n);
    }
out:
    st_prompter_free(p);
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

static float deviate(struct st_rng *rng)
{
    double r = sqrt(-2 * log(1 - st_rng_unit(rng)));
    return (float)(r * cos(2 * M_PI * st_rng_unit(rng)));
}

/* Deviation of what is added to a weight's values; 0 = none. */
static int deviation(const struct st_model *m, int i, const struct st_pair_noise *noise, struct st_pool *pool,
                     double *out, struct st_err *e)
{
    const struct st_plan_weight *w = &m->plan.weights[i];
    bool rows = w->role == ST_ROLE_EMBED || w->role == ST_ROLE_HEAD;
    double share = w->role == ST_ROLE_EMBED ? noise->embed : w->role == ST_ROLE_HEAD ? noise->head : noise->all;
    struct st_dense d = {.p = (float *)m->mats[i].data, .n_row = w->n_out, .n_col = w->n_in};
    *out = 0;
    if (w->n_in == 1 || share <= 0 || !d.p || m->mats[i].dtype != ST_DTYPE_F32)
        return 0;
    if (rows) {
        if (st_view_spread(pool, &d, out, e))
            return e->code;
    } else {
        double sum = 0, squares = 0, n = (double)d.n_row * (double)d.n_col;
        for (size_t k = 0; k < d.n_row * d.n_col; k++) {
            sum += d.p[k];
            squares += (double)d.p[k] * d.p[k];
        }
        *out = sqrt(fmax(squares / n - sum / n * (sum / n), 0));
    }
    *out *= share;
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
        size_t values = (size_t)mats[i].n_out * mats[i].n_in;
        if (deviation(base, (int)i, noise, pool, &by, e))
            goto out;
        if (by <= 0)
            continue;
        if (st_alloc(&out->owned[i], values, sizeof **out->owned, "noisy model", e))
            goto out;
        for (size_t k = 0; k < values; k++)
            out->owned[i][k] = ((const float *)mats[i].data)[k] + (float)by * deviate(&rng);
        mats[i].data = out->owned[i];
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
