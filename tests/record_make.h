/* A recording of a masked model, and the target that an attack on it gets: the tiny model or stories260K, asked a few
 * documents under a scheme, under none (rows as they are), or under pads that are used again. */
#ifndef ST_TESTS_RECORD_MAKE_H
#define ST_TESTS_RECORD_MAKE_H

#include "masked_setup.h"

#include "audit/attack.h"
#include "audit/text.h"
#include "engine/record.h"
#include "protect/masked/rows.h"

#include <unistd.h>

#define RIG_DOCS 64

/* Rows of layer 0's first group whose pad is used again. */
enum { ONCE = 17, ONCE_AGAIN = 43 };

/* Residues without pads, and with the pads of `period` rows over and over: 0 = no pads at all. */
struct weak {
    const struct st_protection_hooks *inner; /* leaves */
    uint32_t rows[64 * 512];
    uint32_t pads[64][512];
    size_t period, at;
    bool once; /* the pad of row ONCE_AGAIN is that of row ONCE, all others are fresh */
    struct st_rng rng;
    unsigned slow; /* microseconds that each row takes */
};

struct rig {
    struct setup s;
    struct st_model *base;
    struct st_pool *pool;
    struct st_target target;
    struct st_audit audit;
    struct st_rows rows;
    struct st_text_made made;
    struct weak weak;
    uint32_t *ids;
    size_t ends[RIG_DOCS];
    struct st_asked asked[RIG_DOCS];
    char path[64];
};

struct rig_opts {
    const char *scheme; /* NULL = weak */
    const char *model;  /* NULL = the tiny one */
    const char *tokenizer;
    uint32_t rank;
    size_t n_doc, len; /* len: of each document, BOS and random ids */
    bool uneven;       /* document i is i ids shorter */
    size_t period;     /* weak */
    unsigned slow;     /* weak */
    bool once;         /* weak */
    size_t n_asked;    /* requests with replies behind the text */
    bool attention;    /* its products leave, too; with a scheme */
    bool own_words;    /* the text is the model's own, with tokenizer */
};

static int weak_enter(void *ctx, const struct st_exchange *x, const struct st_trusted *in, struct st_exposed *out,
                      struct st_err *e)
{
    struct weak *w = ctx;
    size_t d = in->width;
    if (w->slow)
        usleep(w->slow * in->n_row);
    assert_true(in->n_row * d <= 64 * 512 && d <= 512 && in->p);
    for (uint32_t r = 0; r < in->n_row; r++) {
        float alpha;
        size_t pad = w->period ? w->at++ % w->period : 0, n_pad = sizeof w->pads / sizeof *w->pads;
        bool first = w->once && x->ops[0].layer == 0 && x->ops[0].role == ST_ROLE_Q;
        if (w->once) {
            pad = first && (w->at == ONCE || w->at == ONCE_AGAIN) ? 0 : 1;
            w->at += first;
            for (size_t k = 0; pad && k < d; k++)
                w->pads[n_pad - 1][k] = (uint32_t)(st_rng_next(&w->rng) % ST_FQ);
            pad = pad ? n_pad - 1 : 0;
        }
        assert_ok(st_rows_alpha(in->p + r * d, (uint32_t)d, 2000, 0, &alpha, e), e);
        for (size_t k = 0; k < d; k++)
            w->rows[r * d + k] = st_fq_add(st_fq_from((int64_t)rintf(in->p[r * d + k] * alpha)),
                                           w->period || w->once ? w->pads[pad][k] : 0);
    }
    *out = (struct st_exposed){.p = w->rows, .len = in->n_row * d * 4, .format = ST_EXPOSED_FIELD};
    return 0;
}

/* What comes back is not used: each document is a prompt, and states of later layers need not be right. */
static int weak_leave(void *ctx, const struct st_exchange *x, const struct st_exposed *reply, struct st_trusted *outs,
                      struct st_err *e)
{
    (void)ctx;
    (void)reply;
    (void)e;
    for (int k = 0; k < x->n_op; k++)
        for (size_t i = 0; i < (size_t)outs[k].n_row * outs[k].width; i++)
            outs[k].p[i] = 0.01f * (float)(i % 17);
    return 0;
}

static inline const char *rig_shared(const char *name, char out[256])
{
    const char *shared = getenv("SOTTO_SHARED");
    snprintf(out, 256, "%s/data/models/%s", shared ? shared : "../shared", name);
    if (access(out, R_OK) == 0)
        return out;
    print_message("skipped: %s is not here (SOTTO_SHARED)\n", name);
    return NULL;
}

static inline void rig_models(struct rig *r, const struct rig_opts *o)
{
    struct tiny t = {.seed = 5, .n_vocab = 300};
    struct st_model_opts masked = {.n_threads = 1, .dtype = ST_LOAD_INT8, .fold_norms = true};
    struct st_model_opts plain = {.n_threads = 1, .dtype = ST_LOAD_F32};
    struct st_err e;
    if (o->model) {
        assert_ok(st_model_open(o->model, &masked, &r->s.m, &e), &e);
        assert_ok(st_model_open(o->model, &plain, &r->base, &e), &e);
    } else {
        r->s.m = open_int8(&t);
        r->base = tiny_model(&t);
    }
    assert_ok(st_masked_place(&r->s.m->plan, &(struct st_masked_place){.attention = o->attention}, &e), &e);
    assert_ok(st_served_init(&r->s.served, r->s.m, false, &e), &e);
    worker_init(&r->s.worker, &r->s.served);
}

static inline void rig_text(struct rig *r, const struct rig_opts *o)
{
    struct st_err e;
    if (o->own_words) {
        struct st_tokenizer *tok;
        assert_ok(st_tokenizer_open(o->tokenizer, &tok, &e), &e);
        struct st_text_speak speak = {.model = r->base,
                                      .tok = tok,
                                      .n_doc = o->n_doc,
                                      .n_token = o->len,
                                      .n_record = 1,
                                      .seed = 4,
                                      .n_threads = 1};
        assert_ok(st_text_make(&speak, &r->made, &e), &e);
        st_tokenizer_free(tok);
        r->target.text = r->made.view;
        return;
    }
    assert_true(o->n_doc <= RIG_DOCS);
    r->ids = calloc(o->n_doc * o->len, sizeof *r->ids);
    random_ids(r->ids, o->n_doc * o->len, r->base->config.n_vocab, 77);
    for (size_t i = 0, at = 0; i < o->n_doc; i++) {
        r->ids[at] = 1;
        r->ends[i] = at += o->len - (o->uneven ? i : 0);
    }
    r->target.text = (struct st_texts_ids){.ids = r->ids, .ends = r->ends, .n = o->n_doc};
}

/* The beginning of document i % n, prompt i + 3 ids long, and up to 7 tokens of a reply. */
static inline void rig_ask_more(struct rig *r, struct st_engine *en, size_t i)
{
    const struct st_texts_ids *t = &r->target.text;
    struct client c = {0};
    size_t d = i % t->n;
    r->asked[i].prompt = i + 3;
    client_run(&c, en, t->ids + (d ? t->ends[d - 1] : 0), i + 3, (uint32_t)(1 + i % 7));
    r->asked[i].reply = c.n + (c.finish == ST_FINISH_STOP);
}

static inline void rig_ask(struct rig *r, const struct st_boundary *b, size_t n_asked)
{
    struct st_boundary boundary = *b;
    struct st_engine *en = tiny_engine(r->s.m, (struct st_engine_opts){.boundary = &boundary, .n_threads = 1});
    const struct st_texts_ids *t = &r->target.text;
    for (size_t i = 0, from = 0; i < t->n; from = t->ends[i++]) {
        struct client c = {0};
        client_run(&c, en, t->ids + from, t->ends[i] - from, 1);
        if (c.finish == ST_FINISH_ERROR)
            tiny_die(c.err.msg);
    }
    for (size_t i = 0; i < n_asked; i++)
        rig_ask_more(r, en, i);
    if (n_asked)
        r->target.asked = r->asked;
    r->target.n_asked = n_asked;
    st_engine_free(en);
}

static inline void rig_record(struct rig *r, const struct rig_opts *o)
{
    struct st_recorder *recorder;
    struct st_err e;
    snprintf(r->path, sizeof r->path, "/tmp/sotto-rig-%d", (int)getpid());
    unlink(r->path);
    struct st_recorder_opts ro = {.path = r->path, .inner = &r->s.worker.transport};
    assert_ok(st_recorder_new(&ro, &recorder, &e), &e);
    struct st_protection_hooks weak = {.enter = weak_enter, .leave = weak_leave, .ctx = &r->weak};
    struct st_boundary b = {.hooks = &weak, .transport = st_recorder_transport(recorder), .max_row = 64};
    if (o->scheme) {
        struct st_masked_opts mo = options(&r->s, o->scheme);
        mo.scheme_opts.rank = o->rank;
        mo.pads.memory = (size_t)32 << 20;
        mo.scheme_opts.transport = st_recorder_transport(recorder);
        assert_ok(st_masked_new(r->s.m, &mo, &r->s.masked, &e), &e);
        b.hooks = st_masked_hooks(r->s.masked);
    }
    rig_ask(r, &b, o->n_asked);
    st_recorder_free(recorder);
}

static inline struct rig *rig_new(const struct rig_opts *o)
{
    struct rig *r = calloc(1, sizeof *r);
    struct st_rng rng;
    struct st_err e;
    rig_models(r, o);
    rig_text(r, o);
    st_rng_seed(&rng, 8);
    r->weak.period = o->period;
    r->weak.slow = o->slow;
    r->weak.once = o->once;
    st_rng_seed(&r->weak.rng, 9);
    for (size_t i = 0; i < 64 * 512; i++)
        r->weak.pads[i / 512][i % 512] = (uint32_t)(st_rng_next(&rng) % ST_FQ);
    rig_record(r, o);
    assert_ok(st_pool_new(2, &r->pool, &e), &e);
    r->target.kinds = ST_TARGET_RECORD;
    r->target.base = r->base;
    r->target.recording = r->path;
    r->target.scheme = o->scheme;
    r->audit = (struct st_audit){.target = &r->target, .pool = r->pool, .seed = 1, .memory = (uint64_t)1 << 30};
    return r;
}

static inline void rig_free(struct rig *r)
{
    unlink(r->path);
    st_rows_free(&r->rows);
    st_text_free(&r->made);
    st_pool_free(r->pool);
    tear_down(&r->s);
    st_model_close(r->base);
    free(r->ids);
    free(r);
}

/* Runs it and returns its first row; the others follow. */
static inline const struct st_row *rig_run(struct rig *r, const struct st_attack *attack)
{
    struct st_err e;
    size_t from = r->rows.n;
    assert_ok(attack->run(&r->audit, &r->rows, &e), &e);
    assert_true(r->rows.n > from);
    for (size_t i = from; i < r->rows.n; i++) {
        const struct st_row *w = &r->rows.at[i];
        print_message("  %s, %s: %s: %.3f [%.3f, %.3f], chance %.3f, unprotected %.3f, n %zu\n",
                      r->target.scheme ? r->target.scheme : "weak", attack->name, w->variant, w->score, w->low, w->high,
                      w->chance, w->unprotected, (size_t)w->n);
    }
    return &r->rows.at[from];
}

/* No better than the best single guess, as far as the interval can tell. */
static inline void assert_chance(const struct st_row *row)
{
    if (row->low > row->chance)
        fail_msg("%s: %.3f is above chance, %.3f", row->variant, row->score, row->chance);
}

#endif
