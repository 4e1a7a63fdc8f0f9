#include "protect/covariant/calibrate.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/hooks.h"
#include "engine/engine.h"
#include "model/locate.h"
#include "model/tokenizer.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TOKENS_MIN 16
#define OWN_TOKENS ST_COV_CALIBRATE_TOKENS /* without a tokenizer */
#define OWN_SEED 0x43616c6962ull
#define ROWS 256  /* of a site that are measured; they differ by one or two per cent */
#define GRID 4096 /* kappa is rounded: the last bits of another CPU's engine do not show */
#define TEXT_MAX ((size_t)16 << 20)

/* Prose, a dialogue, numbers, code and other scripts, so that the directions a model uses in each are met. */
static const char own_text[] =
    "The harbour lay quiet before sunrise. Two boats had come in during the night, and their crews were still asleep "
    "when Mara walked down the steps with a basket of bread under her arm. She counted the ropes, as her father had "
    "taught her: three to the quay, one to the buoy, and one that was never used but always kept dry.\n\n"
    "\"You are early,\" said the old man at the end of the pier. \"Did you sleep at all?\"\n\"A little. I wanted to "
    "see "
    "the tide turn. Is it true that it was higher last year?\"\n\"By almost half a metre. Write it down: 4.62 on the "
    "third of March, 4.15 today. People forget; paper does not.\"\n\n"
    "How a tide table is made. First, the height of the water is measured every ten minutes for at least a month. "
    "Second, the measurements are compared with the positions of the moon and the sun. Third, the result is written as "
    "a sum of waves, each with its own period. The largest of them takes 12 hours and 25 minutes. In most places a "
    "dozen such waves describe the sea to within a hand's breadth, unless there is a storm.\n\n"
    "def height(t, waves):\n    \"\"\"Sum of the waves at time t, in metres.\"\"\"\n    total = 0.0\n    for size, "
    "period, phase in waves:\n        total += size * math.cos(2 * math.pi * t / period + phase)\n    return total\n\n"
    "| port | high water | low water |\n|---|---|---|\n| North Quay | 06:40 | 12:55 |\n| Bell Rock | 07:05 | 13:20 "
    "|\n\n"
    "Question: Why are there two high tides a day? Answer: The earth turns once under two bulges of water, one on the "
    "side of the moon and one on the other side.\n\n"
    "Le port dort encore ; la mer monte doucement. Das Wasser steigt, und niemand sieht hin. "
    "El mar no espera a nadie. \xd0\x9c\xd0\xbe\xd1\x80\xd0\xb5 "
    "\xd1\x81\xd0\xbf\xd0\xbe\xd0\xba\xd0\xbe\xd0\xb9\xd0\xbd"
    "\xd0\xbe. \xe6\xbd\xae\xe6\xb0\xb4\xe4\xb8\x8a\xe6\xb6\xa8\xe4\xba\x86\xe3\x80\x82\n\n"
    "To whom it may concern: please send 12 copies of the new table, at 3.50 each, to the office at 17 Mill Lane. The "
    "total is 42.00, including postage. If the parcel is late again, we shall have to look for another printer. "
    "Thank you for your help; we remain, with kind regards, the Harbour Society.\n";

struct recorder {
    const struct st_model *m;
    const struct st_cov_frame *f;
    double *kappa;
    int final_norm;                /* weight; its input is what the last op on the residual stream leaves */
    const struct st_plan_op *last; /* that op */
    float *wide;                   /* [ROWS, wide] */
    uint32_t n_measured;           /* norms */
};

static double square_sum(const float *x, uint32_t n)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    return sum;
}

/* Mean of rms(x P) / rms(x) over at most ROWS rows of x [n_row, d], spread evenly. */
static double measure(struct recorder *r, const float *x, uint32_t n_row)
{
    const struct st_cov_frame *f = r->f;
    uint32_t step = (n_row + ROWS - 1) / ROWS, n = n_row / step, counted = 0;
    double sum = 0;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)n, (int)f->wide, (int)f->d, 1, x, (int)(f->d * step),
                f->writer32, (int)f->wide, 0, r->wide, (int)f->wide);
    for (uint32_t i = 0; i < n; i++) {
        double plain = square_sum(x + (size_t)i * step * f->d, f->d);
        if (!(plain > 0) || !isfinite(plain))
            continue;
        sum += sqrt(square_sum(r->wide + (size_t)i * f->wide, f->wide) / plain);
        counted++;
    }
    double factor = sqrt((double)f->d / f->wide);
    return counted ? round(GRID * factor * sum / counted) / GRID : factor;
}

static void on_op(void *ctx, const struct st_plan_op *op, const float *in, const float *out, uint32_t n_row)
{
    struct recorder *r = ctx;
    if (op->weight >= 0)
        st_model_release(r->m, op->weight);
    if (op->op == ST_OP_NORM && op->in == 0 && !op->head) {
        r->kappa[op->weight] = measure(r, in, n_row);
        r->n_measured++;
    }
    if (op == r->last) {
        r->kappa[r->final_norm] = measure(r, out, n_row);
        r->n_measured++;
    }
}

/* ---- running the source ---- */

struct reply {
    struct st_ids *ids;
    void (*on_logits)(void *arg, size_t pos, const float *row);
    void *arg;
    struct st_err err;
};

static bool on_token(void *ctx, const struct st_sampled *tok)
{
    struct reply *r = ctx;
    st_ids_add(r->ids, tok->id);
    return true;
}

static void on_end(void *ctx, enum st_finish finish, int64_t stop_id, const struct st_err *e)
{
    struct reply *r = ctx;
    (void)stop_id;
    if (finish == ST_FINISH_ERROR && e)
        r->err = *e;
}

static void on_prompt_logits(void *ctx, size_t pos, const float *row)
{
    struct reply *r = ctx;
    r->on_logits(r->arg, pos, row);
}

/* A prompt that fills the context gets no reply: then the head, the largest weight, runs only when its logits are
 * asked for. */
int st_cov_calibrate_run(const struct st_model *m, const struct st_cov_opts *o, struct st_ids *ids, uint32_t n_ctx,
                         const struct st_tap *tap, void (*on_logits)(void *arg, size_t pos, const float *row),
                         void *arg, struct st_err *e)
{
    struct st_engine *en;
    struct st_request *request;
    struct reply reply = {.ids = ids, .on_logits = on_logits, .arg = arg};
    struct st_engine_opts eo = {.n_threads = o->n_threads,
                                .isa = o->isa,
                                .kv_dtype = ST_DTYPE_F32,
                                .n_ctx = n_ctx,
                                .n_kv = n_ctx,
                                .max_batch = 1,
                                .max_row = (uint32_t)ids->len,
                                .deterministic = true,
                                .tap = tap};
    struct st_request_opts ro = {
        .ids = ids->p,
        .n_ids = ids->len,
        .sampling = {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = OWN_SEED, .n_logprobs = -1},
        .ignore_eos = true,
        .on_token = on_token,
        .on_end = on_end,
        .on_prompt_logits = on_logits ? on_prompt_logits : NULL,
        .arg = &reply};
    int rc = st_engine_new(m, &eo, &en, e);
    if (rc)
        return rc;
    rc = st_engine_submit(en, &ro, &request, e);
    while (!rc && st_engine_step(en) > 0)
        ;
    st_engine_free(en);
    if (!rc && reply.err.code) {
        *e = reply.err;
        rc = e->code;
    }
    return rc;
}

static int find_last(struct recorder *r, struct st_err *e)
{
    const struct st_plan *p = &r->m->plan;
    r->final_norm = -1;
    for (int i = 0; i < p->n_op; i++) {
        if (p->ops[i].out == 0 && !p->ops[i].last_row_only)
            r->last = &p->ops[i];
        if (p->ops[i].role == ST_ROLE_FINAL_NORM)
            r->final_norm = p->ops[i].weight;
    }
    return r->last && r->final_norm >= 0 ? 0 : st_fail(e, ST_INTERNAL, "calibrate: the plan has no final norm");
}

/* Ids of the text; none when the tokenizer does not fit the model. */
static int encode(const struct st_model *m, const struct st_tokenizer *t, const char *text, size_t len,
                  struct st_ids *ids, struct st_err *e)
{
    const struct st_encode_opts eo = {.add_special = true};
    int rc = st_tokenizer_encode(t, text, len, &eo, ids, e);
    for (size_t i = 0; !rc && i < ids->len; i++)
        if (ids->p[i] >= m->config.n_vocab)
            rc = st_fail(e, ST_INPUT, "calibrate: the tokenizer gives ids beyond the vocabulary of %u",
                         m->config.n_vocab);
    if (!rc && ids->failed)
        rc = st_fail(e, ST_MEMORY, "calibrate: out of memory");
    return rc;
}

/* Without a tokenizer: what the source says by itself after its BOS, which is nearer to real text than random ids (on
 * stories260K 2.6 % of perplexity against 3.4 %); random ids when it is too large to be asked. */
int st_cov_calibrate_own(const struct st_model *m, const struct st_cov_opts *o, struct st_ids *ids, struct st_err *e)
{
    const struct st_config *c = &m->config;
    uint32_t n = c->n_ctx < OWN_TOKENS ? c->n_ctx : OWN_TOKENS;
    struct st_rng rng;
    int rc = 0;
    ids->len = 0;
    st_rng_seed(&rng, OWN_SEED);
    if (m->weight_bytes > ST_COV_SPEAK_BYTES) {
        while (ids->len < n && !ids->failed)
            st_ids_add(ids, (uint32_t)(st_rng_next(&rng) % c->n_vocab));
    } else {
        st_ids_add(ids, c->bos >= 0 ? (uint32_t)c->bos : 0);
        if (!ids->failed)
            rc = st_cov_calibrate_run(m, o, ids, n, NULL, NULL, NULL, e);
    }
    return rc || !ids->failed ? rc : st_fail(e, ST_MEMORY, "calibrate: out of memory");
}

int st_cov_calibrate_ids(const struct st_model *m, const char *src, const struct st_cov_opts *o, size_t most,
                         struct st_ids *ids, struct st_err *e)
{
    struct st_tokenizer *t = NULL;
    struct st_buf file = {0};
    char beside[ST_PATH_MAX];
    if (most > m->config.n_ctx)
        most = m->config.n_ctx;
    /* A llama2.c file has its tokenizer beside it; it is needed for a text that was given. */
    int rc = o->calibrate ? st_locate_tokenizer(src, beside, e) : 0;
    if (!rc && o->calibrate)
        rc = st_file_read(o->calibrate, TEXT_MAX, &file, e);
    if (rc)
        return rc;
    rc = st_tokenizer_open(o->calibrate ? beside : src, &t, e);
    if (!rc)
        rc = encode(m, t, o->calibrate ? file.p : own_text, o->calibrate ? file.len : sizeof own_text - 1, ids, e);
    if (!rc && o->calibrate && ids->len < TOKENS_MIN && (!most || ids->len < most))
        rc = st_fail(e, ST_INPUT, "%s: want a text of at least %d tokens, got %zu", o->calibrate, TOKENS_MIN, ids->len);
    if (rc && !o->calibrate)
        rc = st_cov_calibrate_own(m, o, ids, e);
    if (most && ids->len > most)
        ids->len = most;
    st_tokenizer_free(t);
    st_buf_free(&file);
    return rc;
}

int st_cov_calibrate(const struct st_model *m, const char *src, const struct st_cov_frame *f,
                     const struct st_cov_opts *o, double *kappa, struct st_err *e)
{
    struct recorder r = {.m = m, .f = f, .kappa = kappa};
    const struct st_tap tap = {on_op, &r};
    struct st_ids ids = {0};
    for (int i = 0; i < m->plan.n_weight; i++)
        kappa[i] = sqrt((double)f->d / f->wide);
    if (o->preset == ST_COV_PRESET_TIGHT)
        return 0;
    int rc = find_last(&r, e);
    if (!rc)
        rc = st_cov_calibrate_ids(m, src, o, ST_COV_CALIBRATE_TOKENS, &ids, e);
    if (!rc)
        rc = st_alloc(&r.wide, (size_t)ROWS * f->wide, sizeof *r.wide, "calibration", e);
    if (!rc)
        rc = st_cov_calibrate_run(m, o, &ids, (uint32_t)ids.len, &tap, NULL, NULL, e);
    if (!rc && r.n_measured < 2)
        rc = st_fail(e, ST_INTERNAL, "calibrate: the run reached no norm");
    free(r.wide);
    st_ids_free(&ids);
    return rc;
}
