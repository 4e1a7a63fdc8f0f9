/* Vocabulary matching ("hidden no more"): states of a deeper layer of a causal public model, read token by token. With
 * the tokens found so far in its cache, the attacker runs candidates to the recorded layer, the likeliest next tokens
 * first, and takes the first whose state is the one seen, else the nearest of those tried. Of masks with a public
 * factor only the other directions are compared (atk_null_space.c), so ReMO falls at every layer; rows with a fresh pad
 * each have nothing to compare.
 *
 * States here are compared by angle: the trusted side sends each row at a length that says nothing. Rounding to int8
 * turns states by a few degrees at most; other tokens stand much further apart.
 *
 * Source: arXiv 2505.18332. */
#include "audit/match.h"
#include "audit/seen.h"
#include "audit/subspace.h"
#include "base/buf.h"
#include "engine/exec.h"

#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LAYER 1
#define ACCEPT 0.01  /* 1 - cosine at which a candidate is taken at once: 8 degrees */
#define DOCS 8       /* documents tried: one miss spoils what follows it, */
#define POSITIONS 8  /* and the first tokens of each; */
#define MANY_DOCS 32 /* thorough */
#define MORE_POSITIONS 16
#define TRIES 256                  /* candidates at each; thorough: all */
#define SMALL ((uint64_t)64 << 20) /* bytes of matrices below which one thread is the quickest */

/* A model that runs one token after the other, and a cache of its own. */
struct runner {
    struct st_boundary local;
    struct st_kv kv;
    struct st_seq seq;
    struct st_exec *exec;
};

struct vocabulary {
    const struct st_audit *a;
    struct st_texts_ids text; /* the first tokens of some documents */
    uint32_t *ids;
    size_t *ends, *at; /* [text.n]; [tokens] place in the whole text, whose rows were recorded */
    int layer;
    size_t d, k;        /* k directions are compared; k = d and rest NULL: all */
    const double *rest; /* [k][d] */
    struct st_model shallow;
    struct st_tap tap;
    struct runner deep, cut; /* the whole model for what comes next; its first layers for states */
    double *state;           /* [d] of the last token run through `cut` */
    float *mine, *theirs;    /* [k] */
    float *logits;           /* [n_vocab] of the last token; */
    uint32_t *order;         /* [n_vocab] */
    uint32_t n_vocab, tries;
};

static void keep_state(void *ctx, const struct st_plan_op *op, const float *in, const float *out, uint32_t n_row)
{
    struct vocabulary *v = ctx;
    (void)out;
    if (op->op != ST_OP_NORM || op->role != ST_ROLE_ATTN_NORM || op->layer != v->layer || n_row != 1)
        return;
    for (size_t k = 0; k < v->d; k++)
        v->state[k] = in[k];
}

/* The same model without what comes behind the layer's first norm. */
static int cut_plan(struct vocabulary *v, const struct st_model *m, struct st_err *e)
{
    v->shallow = *m;
    v->shallow.plan.n_op = 0;
    if (st_alloc(&v->shallow.plan.ops, (size_t)m->plan.n_op, sizeof *v->shallow.plan.ops, "plan", e))
        return e->code;
    for (int i = 0; i < m->plan.n_op; i++) {
        const struct st_plan_op *op = &m->plan.ops[i];
        bool norm = op->layer == v->layer && op->op == ST_OP_NORM && op->role == ST_ROLE_ATTN_NORM;
        if (op->layer < v->layer || norm)
            v->shallow.plan.ops[v->shallow.plan.n_op++] = *op;
    }
    return 0;
}

static int runner_new(struct runner *r, const struct st_model *m, uint32_t n_ctx, const struct st_tap *tap,
                      int n_threads, struct st_err *e)
{
    const struct st_exec_opts o = {.n_threads = n_threads, .max_row = 1, .deterministic = true, .tap = tap};
    if (st_kv_init(&r->kv, &m->config, ST_DTYPE_F32, st_kv_blocks_for(n_ctx), e) ||
        st_seq_reserve(&r->kv, &r->seq, n_ctx, e) || st_exec_new(m, &r->kv, &r->local, &o, &r->exec, e))
        return e->code;
    return 0;
}

static void runner_free(struct runner *r)
{
    st_exec_free(r->exec);
    if (r->kv.layers)
        st_seq_drop(&r->kv, &r->seq);
    st_kv_wipe(&r->kv);
}

static int run_token(struct runner *r, uint32_t id, uint32_t pos, struct st_err *e)
{
    const struct st_attn_seq seq = {.blocks = r->seq.blocks, .n_row = 1, .pos0 = pos};
    const struct st_exec_step step = {.ids = &id, .pos = &pos, .n_row = 1, .seqs = &seq, .n_seq = 1};
    return st_exec_body(r->exec, &step, e);
}

/* ---- one position ---- */

static int by_logit(const void *a, const void *b, void *logits)
{
    float x = ((const float *)logits)[*(const uint32_t *)a], y = ((const float *)logits)[*(const uint32_t *)b];
    uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;
    return x != y ? (x < y) - (x > y) : (i > k) - (i < k);
}

/* Candidates, the likeliest first: a document begins with BOS, where there is one. */
static void put_in_order(struct vocabulary *v, bool start)
{
    int64_t bos = v->a->target->base->config.bos;
    for (uint32_t i = 0; i < v->n_vocab; i++)
        v->order[i] = i;
    if (start && bos >= 0 && bos < v->n_vocab) {
        v->order[0] = (uint32_t)bos;
        v->order[bos] = 0;
    }
    if (!start)
        qsort_r(v->order, v->n_vocab, sizeof *v->order, by_logit, v->logits);
}

static void compared(const struct vocabulary *v, const double *row, float *out)
{
    if (v->rest)
        st_subspace_project(row, 1, v->d, v->rest, v->k, out);
    else
        for (size_t k = 0; k < v->d; k++)
            out[k] = (float)row[k];
}

/* 1 - cosine. */
static double misfit(const struct vocabulary *v)
{
    int k = (int)v->k;
    double size = (double)cblas_snrm2(k, v->mine, 1) * cblas_snrm2(k, v->theirs, 1);
    return size > 0 ? 1 - cblas_dsdot(k, v->mine, 1, v->theirs, 1) / size : 1;
}

static int find_token(struct vocabulary *v, const double *row, uint32_t pos, uint32_t *found, struct st_err *e)
{
    double best = INFINITY;
    compared(v, row, v->theirs);
    *found = v->order[0];
    for (uint32_t i = 0; i < v->tries && best > ACCEPT; i++) {
        if (run_token(&v->cut, v->order[i], pos, e))
            return e->code;
        compared(v, v->state, v->mine);
        double far = misfit(v);
        if (far < best) {
            best = far;
            *found = v->order[i];
        }
    }
    return 0;
}

/* The token is part of the prefix from now on, in both caches. */
static int settle(struct vocabulary *v, uint32_t id, uint32_t pos, struct st_err *e)
{
    const uint32_t first = 0;
    float *logits;
    if (run_token(&v->cut, id, pos, e) || run_token(&v->deep, id, pos, e) ||
        st_exec_tail(v->deep.exec, &first, 1, &logits, e))
        return e->code;
    memcpy(v->logits, logits, v->n_vocab * sizeof *logits);
    return 0;
}

/* rows [n][d] of the n tokens that are tried -> got [n]. */
static int read_rows(struct vocabulary *v, const double *rows, size_t n, uint32_t *got, struct st_err *e)
{
    const struct st_texts_ids *text = &v->text;
    size_t doc = 0, start = 0;
    for (size_t i = 0; i < n; i++) {
        for (; doc < text->n && i >= text->ends[doc]; doc++)
            start = text->ends[doc];
        uint32_t pos = (uint32_t)(i - start);
        if (v->a->cancel && *v->a->cancel)
            return st_fail(e, ST_IO, "cancelled");
        put_in_order(v, pos == 0);
        if (find_token(v, rows + i * v->d, pos, &got[i], e) || settle(v, got[i], pos, e))
            return e->code;
        if (v->a->progress)
            v->a->progress(v->a->arg, st_atk_vocabulary.name, (double)i / (double)n);
    }
    return 0;
}

/* States of the true text, as a worker would see them without masks. */
static int bare_rows(struct vocabulary *v, size_t n, double *rows, struct st_err *e)
{
    const struct st_texts_ids *text = &v->text;
    size_t doc = 0, start = 0;
    for (size_t i = 0; i < n; i++) {
        for (; doc < text->n && i >= text->ends[doc]; doc++)
            start = text->ends[doc];
        if (run_token(&v->cut, text->ids[i], (uint32_t)(i - start), e))
            return e->code;
        memcpy(rows + i * v->d, v->state, v->d * sizeof *rows);
    }
    return 0;
}

/* ---- on a recording ---- */

static void vocabulary_free(struct vocabulary *v)
{
    runner_free(&v->deep);
    runner_free(&v->cut);
    free(v->shallow.plan.ops);
    free(v->state);
    free(v->mine);
    free(v->theirs);
    free(v->logits);
    free(v->order);
    free(v->ids);
    free(v->ends);
    free(v->at);
}

static int vocabulary_new(struct vocabulary *v, uint32_t n_ctx, struct st_err *e)
{
    const struct st_model *m = v->a->target->base;
    int n_threads = m->matrix_bytes < SMALL ? 1 : st_pool_size(v->a->pool);
    v->tap = (struct st_tap){.fn = keep_state, .ctx = v};
    if (st_alloc(&v->state, v->d, sizeof *v->state, "states", e) ||
        st_alloc(&v->mine, v->d, sizeof *v->mine, "states", e) ||
        st_alloc(&v->theirs, v->d, sizeof *v->theirs, "states", e) ||
        st_alloc(&v->logits, v->n_vocab, sizeof *v->logits, "candidates", e) ||
        st_alloc(&v->order, v->n_vocab, sizeof *v->order, "candidates", e) || cut_plan(v, m, e) ||
        runner_new(&v->deep, m, n_ctx, NULL, n_threads, e) ||
        runner_new(&v->cut, &v->shallow, n_ctx, &v->tap, n_threads, e))
        return e->code;
    return 0;
}

static uint64_t count_hits(const uint32_t *got, const uint32_t *ids, size_t n)
{
    uint64_t hits = 0;
    for (size_t i = 0; i < n; i++)
        hits += got[i] == ids[i];
    return hits;
}

static void score_documents(const struct vocabulary *v, const uint32_t *got, struct st_row *row)
{
    double hits[MANY_DOCS], n[MANY_DOCS];
    for (size_t d = 0; d < v->text.n; d++) {
        size_t lo = d ? v->ends[d - 1] : 0;
        n[d] = (double)(v->ends[d] - lo);
        hits[d] = (double)count_hits(got + lo, v->ids + lo, v->ends[d] - lo);
    }
    st_row_groups(row, hits, n, v->text.n);
}

/* Both: rows without masks, in all directions; then what was seen, in those that masks leave. */
static int try_both(struct vocabulary *v, const struct st_seen *seen, const double *rest, uint32_t *got, double *bare,
                    struct st_rows *rows, struct st_err *e)
{
    const uint32_t *ids = v->ids;
    size_t n = seen->n;
    struct st_row row = {0};
    v->rest = NULL;
    v->k = v->d;
    if (bare_rows(v, n, bare, e) || read_rows(v, bare, n, got, e))
        return e->code;
    row.unprotected = (double)count_hits(got, ids, n) / (double)n;
    if (rest) {
        v->rest = rest;
        v->k = v->d - seen->n_asked;
    }
    if (read_rows(v, seen->rows, n, got, e))
        return e->code;
    score_documents(v, got, &row);
    row.chance = st_seen_chance(ids, n, v->n_vocab);
    snprintf(row.variant, sizeof row.variant, "layer %d, %u candidates", v->layer, v->tries);
    snprintf(row.note, sizeof row.note, "The first tokens of %zu documents, each from the state of layer %d%s.",
             v->text.n, v->layer, rest ? " outside the masks' directions" : "");
    return st_rows_add(rows, &row, e);
}

/* Which tokens are tried. */
static int choose(struct vocabulary *v, struct st_err *e)
{
    const struct st_texts_ids *all = &v->a->target->text;
    size_t n_doc = v->a->thorough ? MANY_DOCS : DOCS, most = v->a->thorough ? MORE_POSITIONS : POSITIONS, n = 0;
    n_doc = n_doc < all->n ? n_doc : all->n;
    if (st_alloc(&v->ids, n_doc * most, sizeof *v->ids, "tokens", e) ||
        st_alloc(&v->ends, n_doc, sizeof *v->ends, "tokens", e) ||
        st_alloc(&v->at, n_doc * most, sizeof *v->at, "tokens", e))
        return e->code;
    for (size_t d = 0; d < n_doc; d++) {
        size_t lo = d ? all->ends[d - 1] : 0;
        for (size_t i = lo; i < all->ends[d] && i < lo + most; i++) {
            v->at[n] = i;
            v->ids[n++] = all->ids[i];
        }
        v->ends[d] = n;
    }
    v->text = (struct st_texts_ids){.ids = v->ids, .ends = v->ends, .n = n_doc};
    return n ? 0 : st_fail(e, ST_UNSUPPORTED, "the text has no tokens");
}

/* Rows of the recording and bare ones, what a masks' factor spans, and two runners with their caches. */
static uint64_t takes(const struct st_model *m, size_t n, uint32_t n_ctx)
{
    const struct st_config *c = &m->config;
    uint64_t d = c->d_model, row = 8 * d + 4 * (uint64_t)c->d_ff + 3 * (uint64_t)c->n_vocab;
    return sizeof(double) * (3 * (uint64_t)n * d + 4 * d * d) +
           2 * (st_kv_blocks_for(n_ctx) * (uint64_t)st_kv_block_bytes(c, ST_DTYPE_F32) + row * sizeof(float));
}

static int run_layer(const struct st_audit *a, int layer, struct st_rows *rows, struct st_err *e)
{
    const struct st_target *t = a->target;
    struct st_seen seen = {0};
    struct vocabulary v = {.a = a, .layer = layer, .n_vocab = t->base->config.n_vocab};
    double *rest = NULL, *bare = NULL;
    uint32_t *got = NULL;
    size_t n = choose(&v, e) ? 0 : st_texts_len(&v.text), last = n ? v.at[n - 1] + 1 : 0;
    if (!n || st_match_fits(a, takes(t->base, last, a->thorough ? MORE_POSITIONS : POSITIONS), e) ||
        st_seen_read(t->recording, layer, last, a->memory, &seen, e)) {
        vocabulary_free(&v);
        return e->code;
    }
    v.d = v.k = seen.d;
    v.tries = a->thorough || v.n_vocab < TRIES ? v.n_vocab : TRIES;
    bool factor = seen.n_asked > 0 && seen.n_asked < seen.d;
    int rc = seen.d == t->base->config.d_model && seen.n == last
                 ? 0
                 : st_fail(e, ST_INPUT, "recording %s: %zu rows of %zu values of layer %d, want %zu of %u",
                           t->recording, seen.n, seen.d, layer, last, t->base->config.d_model);
    for (size_t i = 0; !rc && i < n; i++)
        memmove(seen.rows + i * seen.d, seen.rows + v.at[i] * seen.d, seen.d * sizeof *seen.rows);
    seen.n = rc ? seen.n : n;
    if (!rc)
        rc = st_alloc(&got, n, sizeof *got, "tokens", e);
    if (!rc)
        rc = st_alloc(&bare, n, v.d * sizeof *bare, "states", e);
    if (!rc && factor)
        rc = st_alloc(&rest, v.d, v.d * sizeof *rest, "directions of masks", e);
    if (!rc && factor)
        rc = st_subspace_rest(seen.asked, seen.n_asked, v.d, seen.n_asked, rest, e);
    if (!rc)
        rc = vocabulary_new(&v, a->thorough ? MORE_POSITIONS : POSITIONS, e);
    if (!rc)
        rc = try_both(&v, &seen, rest, got, bare, rows, e);
    vocabulary_free(&v);
    st_seen_free(&seen);
    free(rest);
    free(bare);
    free(got);
    return rc;
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    const struct st_target *t = a->target;
    if (!t->recording || !t->base || st_texts_len(&t->text) == 0)
        return st_fail(e, ST_UNSUPPORTED, "needs a recording, its base model and the text that was asked");
    if (t->base->config.n_layer <= LAYER)
        return st_fail(e, ST_UNSUPPORTED, "the model has one layer: what it shows is matched by null-space");
    int last = (int)t->base->config.n_layer - 1;
    int rc = run_layer(a, LAYER, rows, e);
    return rc || !a->thorough || last == LAYER ? rc : run_layer(a, last, rows, e);
}

const struct st_attack st_atk_vocabulary = {.name = "vocabulary",
                                            .title = "Vocabulary matching at a deeper layer",
                                            .metric = "share of the first tokens of documents recovered",
                                            .source = "arXiv 2505.18332",
                                            .adversary = ST_ADVERSARY_WORKER,
                                            .needs = ST_TARGET_RECORD,
                                            .run = run};
