#include "audit/ask.h"
#include "audit/distill.h"

#include <string.h>

/* One request after the other fills it. */
struct filling {
    struct st_ask_rows *q;
    size_t v, d, at, at_state;
    uint32_t *reply; /* [n_reply] or NULL */
    size_t n_reply, at_reply;
    struct st_err err;
};

static void on_op(void *ctx, const struct st_plan_op *op, const float *in, const float *out, uint32_t n_row)
{
    struct filling *f = ctx;
    (void)out;
    if (op->role != ST_ROLE_HEAD || op->op != ST_OP_LINEAR)
        return;
    size_t n = n_row < f->q->n - f->at_state ? n_row : f->q->n - f->at_state;
    memcpy(f->q->states + f->at_state * f->d, in, n * f->d * sizeof *in);
    f->at_state += n;
}

static void on_row(void *arg, size_t pos, const float *row)
{
    struct filling *f = arg;
    (void)pos;
    if (f->at == f->q->n)
        return;
    if (f->q->logits)
        memcpy(f->q->logits + f->at * f->v, row, f->v * sizeof *row);
    if (f->q->best)
        f->q->best[f->at] = st_distill_largest(row, f->v);
    f->at++;
}

static bool on_token(void *arg, const struct st_sampled *tok)
{
    struct filling *f = arg;
    if (f->reply && f->at_reply < f->n_reply)
        f->reply[f->at_reply++] = tok->id;
    return true;
}

static void on_end(void *arg, enum st_finish how, int64_t stop_id, const struct st_err *e)
{
    struct filling *f = arg;
    (void)how;
    (void)stop_id;
    if (e)
        f->err = *e;
}

static int ask(const struct st_audit *a, struct st_engine *en, struct filling *f, const uint32_t *ids, size_t n,
               struct st_err *e)
{
    struct st_request *request;
    const struct st_request_opts o = {.ids = ids,
                                      .n_ids = n,
                                      .n_predict = f->reply ? (uint32_t)f->n_reply : 1,
                                      .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1},
                                      .ignore_eos = true,
                                      .on_token = on_token,
                                      .on_end = on_end,
                                      .on_prompt_logits = f->q ? on_row : NULL,
                                      .arg = f};
    int rc = st_engine_submit(en, &o, &request, e);
    while (!rc && st_engine_step(en) > 0)
        if (a->cancel && *a->cancel)
            rc = st_fail(e, ST_IO, "cancelled");
    if (!rc && f->err.code) {
        *e = f->err;
        rc = e->code;
    }
    return rc;
}

int st_ask_text(const struct st_audit *a, const struct st_model *m, const struct st_filter *filter,
                const struct st_texts_ids *t, struct st_ask_rows *q, struct st_err *e)
{
    struct filling f = {.q = q, .v = m->config.n_vocab, .d = m->config.d_model};
    const struct st_tap tap = {.fn = on_op, .ctx = &f};
    const struct st_engine_opts eo = {.n_threads = st_pool_size(a->pool),
                                      .max_batch = 1,
                                      .deterministic = true,
                                      .filter = filter,
                                      .tap = q->states ? &tap : NULL};
    struct st_engine *en;
    int rc = st_engine_new(m, &eo, &en, e);
    if (rc)
        return rc;
    size_t most = st_engine_ctx(en) - 1;
    for (size_t i = 0, from = 0; !rc && i < t->n && f.at < q->n; from = t->ends[i++]) {
        size_t n = t->ends[i] - from < most ? t->ends[i] - from : most;
        n = n < q->n - f.at ? n : q->n - f.at;
        if (n)
            rc = ask(a, en, &f, t->ids + from, n, e);
    }
    st_engine_free(en);
    q->n = f.at;
    return rc;
}

int st_ask_replies(const struct st_audit *a, const struct st_model *m, const struct st_texts_ids *t,
                   const struct st_ask_replies *o, uint32_t *ids, size_t *n_doc, struct st_err *e)
{
    const struct st_engine_opts eo = {.n_threads = st_pool_size(a->pool), .max_batch = 1, .deterministic = true};
    struct st_engine *en;
    *n_doc = 0;
    int rc = st_engine_new(m, &eo, &en, e);
    if (rc)
        return rc;
    for (size_t i = 0, from = 0; !rc && i < t->n && *n_doc < o->max_doc; from = t->ends[i++]) {
        struct filling f = {.reply = ids + *n_doc * o->n_reply, .n_reply = o->n_reply};
        if (t->ends[i] - from < o->n_prompt || st_engine_ctx(en) < o->n_prompt + o->n_reply)
            continue;
        rc = ask(a, en, &f, t->ids + from, o->n_prompt, e);
        if (!rc && f.at_reply != o->n_reply)
            rc = st_fail(e, ST_INTERNAL, "a reply of %zu tokens, want %zu", f.at_reply, o->n_reply);
        ++*n_doc;
    }
    st_engine_free(en);
    return rc;
}
