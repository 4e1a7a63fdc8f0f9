/* Copying a model by asking it: the attacker has the public base that the private model was fine-tuned from, and asks
 * for logits of texts that it has read. The model at hand is the private one; the public base is made of it by noise on
 * all matrices, a tenth of their deviation. Every figure stands beside what the base agrees in before the first
 * question: that is its chance.
 *   last layer    share of the space of the last layer that the rows of logits give away
 *   same token    the student's most likely token is the model's, over the victims' text
 *   replies       the student's replies at temperature 0 are the model's, token by token; and BLEU-4
 * A student that says less of the model's own words than the base does, to prompts of the prior that were held out, is
 * thrown away for replies: the base speaks. For replies as they are and as `--harden` changes them; topk=1 is what
 * replies at temperature 0 tell. Unprotected: without hardening. Sources: arXiv 2403.06634; the student is ours. */
#include "audit/ask.h"
#include "audit/behave.h"
#include "audit/distill.h"
#include "audit/metrics.h"
#include "audit/views.h"
#include "base/buf.h"
#include "base/hooks.h"
#include "protect/sealed/harden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TUNED 0.1
#define QUESTIONS 2000 /* rows of logits; four times as many with `thorough` */
#define TESTED 1000
#define EXTRA 64 /* rows beyond the width for its space */
#define WIDEST 1024
#define PROMPT 16 /* tokens of a prompt */
#define REPLY 24
#define N_PROMPT 16
#define DRAWS 200

static const struct {
    const char *name, *harden;
    bool thorough;
} variants[] = {
    {"as they are", NULL, false},
    {"round=4,noise=0.2", "round=4,noise=0.2", false},
    {"topk=20,round=4,noise=0.2", "topk=20,round=4,noise=0.2", false},
    {"topk=1", "topk=1", false},
    {"round=4", "round=4", true},
    {"noise=0.5", "noise=0.5", true},
    {"topk=20", "topk=20", true},
};

#define N_VARIANT (sizeof variants / sizeof *variants)

static int head_of(const struct st_model *m)
{
    for (int i = 0; i < m->plan.n_op; i++)
        if (m->plan.ops[i].op == ST_OP_LINEAR && m->plan.ops[i].role == ST_ROLE_HEAD)
            return m->plan.ops[i].weight;
    return -1;
}

struct stage {
    const struct st_audit *a;
    struct st_noisy_model base;
    struct st_model student;  /* the base's matrices but the head */
    struct st_dense head_now; /* [v][d] of the student */
    int head;                 /* weight */
    size_t v, d, n, n_test, n_doc;
    struct st_dense own, x;                /* of the base, over the prior: logits [n][v], states [n][d] */
    struct st_dense own_test, x_test;      /* over the text */
    struct st_dense given, delta;          /* [n][v] replies, then residuals; [v][d] */
    uint32_t *best, *want, *got;           /* [n] replies' largest; [n_test] the model's; an attempt */
    uint32_t replies[3][N_PROMPT * REPLY]; /* the model's, the base's, the student's */
    uint32_t held[3][N_PROMPT * REPLY];    /* the same to prompts of the prior */
    size_t ends[N_PROMPT], n_held;
};

struct figures {
    double token, reply, bleu;
};

static double share_equal(const uint32_t *x, const uint32_t *y, size_t n)
{
    size_t hits = 0;
    for (size_t i = 0; i < n; i++)
        hits += x[i] == y[i];
    return n ? (double)hits / (double)n : 0;
}

/* BLEU-4 of the documents that `pick` names. */
static double bleu(const struct stage *s, const uint32_t *got, const size_t pick[N_PROMPT])
{
    uint32_t ids[2][N_PROMPT * REPLY];
    for (size_t i = 0; i < s->n_doc; i++) {
        memcpy(ids[0] + i * REPLY, got + pick[i] * REPLY, REPLY * sizeof *got);
        memcpy(ids[1] + i * REPLY, s->replies[0] + pick[i] * REPLY, REPLY * sizeof *got);
    }
    const struct st_texts_ids g = {.ids = ids[0], .ends = s->ends, .n = s->n_doc},
                              w = {.ids = ids[1], .ends = s->ends, .n = s->n_doc};
    return st_score_bleu4(&g, &w);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void score_bleu(const struct stage *s, const uint32_t *got, struct st_row *row)
{
    double draws[DRAWS];
    size_t pick[N_PROMPT];
    struct st_rng rng;
    for (size_t i = 0; i < s->n_doc; i++)
        pick[i] = i;
    row->score = bleu(s, got, pick);
    row->n = s->n_doc;
    st_rng_seed(&rng, s->a->seed);
    for (size_t k = 0; k < DRAWS; k++) {
        for (size_t i = 0; i < s->n_doc; i++)
            pick[i] = st_rng_next(&rng) % s->n_doc;
        draws[k] = bleu(s, got, pick);
    }
    qsort(draws, DRAWS, sizeof *draws, by_value);
    row->low = draws[DRAWS / 40];
    row->high = draws[DRAWS - 1 - DRAWS / 40];
}

static struct figures of_base(const struct stage *s)
{
    struct st_row row = {0};
    score_bleu(s, s->replies[1], &row);
    return (struct figures){.token = share_equal(s->got, s->want, s->n_test),
                            .reply = share_equal(s->replies[1], s->replies[0], s->n_doc * REPLY),
                            .bleu = row.score};
}

static int add(struct st_row *row, const char *replies, const char *what, const char *metric, struct st_rows *rows,
               struct st_err *e)
{
    row->metric = metric;
    snprintf(row->variant, sizeof row->variant, "%s: %s", replies, what);
    return st_rows_add(rows, row, e);
}

static int add_space(struct stage *s, const char *name, double *bare, struct st_rows *rows, struct st_err *e)
{
    size_t n = s->d + EXTRA < s->n ? s->d + EXTRA : s->n;
    const struct st_dense some = {.p = s->given.p, .n_row = n, .n_col = s->v};
    struct st_dense head;
    double *basis = NULL, *singular = NULL, *shares = NULL;
    struct st_row row = {.chance = (double)s->d / (double)s->v};
    if (n <= s->d)
        return 0;
    if (st_view_weight(s->a->target->base, s->head, &head, e))
        return e->code;
    int rc = st_alloc(&basis, s->d, s->v * sizeof *basis, "the last layer", e);
    if (!rc)
        rc = st_alloc(&singular, n, sizeof *singular, "the last layer", e);
    if (!rc)
        rc = st_alloc(&shares, s->d, sizeof *shares, "the last layer", e);
    if (!rc)
        rc = st_distill_span(&some, s->d, basis, singular, e);
    if (!rc)
        rc = st_distill_shares(basis, &head, shares, e);
    if (!rc) {
        st_row_mean(&row, shares, s->d, s->a->seed);
        *bare = isnan(*bare) ? row.score : *bare;
        row.unprotected = *bare;
        snprintf(
            row.note, sizeof row.note,
            "%zu rows of logits; the largest step of their singular values is behind number %zu, the width is %zu.", n,
            st_distill_width(singular, n), s->d);
        rc = add(&row, name, "last layer", "share of the space of the last layer recovered", rows, e);
    }
    st_dense_free(&head);
    free(basis);
    free(singular);
    free(shares);
    return rc;
}

/* Residuals, and a head for them: in the student and in delta. */
static int train(struct stage *s, double *ridge, struct st_err *e)
{
    const float *head = s->base.model.mats[s->head].data;
    for (size_t r = 0; r < s->n; r++) {
        s->best[r] = st_distill_largest(st_dense_row(&s->given, r), s->v);
        st_distill_residual(st_dense_row(&s->own, r), st_dense_row(&s->given, r), s->v);
    }
    const struct st_distill_rows rows = {.x = &s->x, .own = &s->own, .r = &s->given, .best = s->best};
    if (st_distill_fit(s->a->pool, &rows, &s->delta, ridge, e))
        return e->code;
    for (size_t i = 0; i < s->v * s->d; i++)
        s->head_now.p[i] = head[i] + s->delta.p[i];
    return 0;
}

static int ask_replies(const struct stage *s, const struct st_model *m, bool held, uint32_t *ids, size_t *n_doc,
                       struct st_err *e)
{
    const struct st_target *t = s->a->target;
    const struct st_ask_replies o = {.n_prompt = PROMPT, .n_reply = REPLY, .max_doc = N_PROMPT};
    return st_ask_replies(s->a, m, held ? &t->prior : &t->text, &o, ids, n_doc, e);
}

/* Who speaks: the student, or the base where that is nearer to the model. */
static int ask_student(struct stage *s, bool *student, struct st_err *e)
{
    size_t n, n_word = s->n_held * REPLY;
    if (ask_replies(s, &s->student, true, s->held[2], &n, e))
        return e->code;
    *student = share_equal(s->held[2], s->held[0], n_word) >= share_equal(s->held[1], s->held[0], n_word);
    if (*student)
        return ask_replies(s, &s->student, false, s->replies[2], &n, e);
    memcpy(s->replies[2], s->replies[1], sizeof s->replies[2]);
    return 0;
}

static int add_student(struct stage *s, const char *name, const struct figures *base, struct figures *bare,
                       struct st_rows *rows, struct st_err *e)
{
    struct st_row row = {0};
    double ridge;
    size_t hits = 0;
    bool student;
    double of[N_PROMPT], right[N_PROMPT];
    if (train(s, &ridge, e) || st_distill_answers(s->a->pool, &s->x_test, &s->own_test, &s->delta, s->got, e) ||
        ask_student(s, &student, e))
        return e->code;
    struct figures now = {.token = share_equal(s->got, s->want, s->n_test),
                          .reply = share_equal(s->replies[2], s->replies[0], s->n_doc * REPLY)};
    snprintf(row.note, sizeof row.note, "A student from %zu replies%s. Chance: what the public base agrees in.", s->n,
             isfinite(ridge) ? "" : ", which taught it nothing");
    for (size_t i = 0; i < s->n_test; i++)
        hits += s->got[i] == s->want[i];
    st_row_share(&row, hits, s->n_test);
    if (isnan(bare->token))
        bare->token = now.token;
    row.chance = base->token;
    row.unprotected = bare->token;
    if (add(&row, name, "same token", "share of positions whose most likely token is the model's", rows, e))
        return e->code;
    if (!s->n_doc)
        return 0;
    for (size_t i = 0; i < s->n_doc; i++) { /* one other word changes those behind it */
        of[i] = REPLY;
        right[i] = REPLY * share_equal(s->replies[2] + i * REPLY, s->replies[0] + i * REPLY, REPLY);
    }
    st_row_groups(&row, right, of, s->n_doc);
    if (!student)
        snprintf(row.note, sizeof row.note, "The student from %zu replies says less than its base, which is kept.",
                 s->n);
    if (isnan(bare->reply))
        bare->reply = now.reply;
    row.chance = base->reply;
    row.unprotected = bare->reply;
    if (add(&row, name, "replies", "share of tokens of replies that are the model's", rows, e))
        return e->code;
    score_bleu(s, s->replies[2], &row);
    if (isnan(bare->bleu))
        bare->bleu = row.score;
    row.chance = base->bleu;
    row.unprotected = bare->bleu;
    return add(&row, name, "BLEU-4", "BLEU-4 of replies against the model's", rows, e);
}

static int ask_hardened(struct stage *s, const char *harden, struct st_err *e)
{
    struct st_harden_opts ho;
    struct st_harden *h = NULL;
    uint8_t key[32] = {0};
    struct st_ask_rows q = {.n = s->n, .logits = s->given.p};
    memcpy(key, &s->a->seed, sizeof s->a->seed);
    int rc = harden ? st_harden_parse(harden, &ho, e) : 0;
    if (!rc && harden)
        rc = st_harden_new(&ho, key, (uint32_t)s->v, &h, e);
    if (!rc)
        rc = st_ask_text(s->a, s->a->target->base, h ? st_harden_filter(h) : NULL, &s->a->target->prior, &q, e);
    if (!rc && q.n != s->n)
        rc = st_fail(e, ST_INTERNAL, "%zu rows of logits, want %zu", q.n, s->n);
    st_harden_free(h);
    return rc;
}

static int try_variants(struct stage *s, const struct figures *base, struct st_rows *rows, struct st_err *e)
{
    struct figures bare = {NAN, NAN, NAN};
    double bare_space = NAN;
    int rc = 0;
    for (size_t i = 0; !rc && i < N_VARIANT; i++) {
        if (variants[i].thorough && !s->a->thorough)
            continue;
        rc = ask_hardened(s, variants[i].harden, e);
        if (!rc)
            rc = add_space(s, variants[i].name, &bare_space, rows, e);
        if (!rc)
            rc = add_student(s, variants[i].name, base, &bare, rows, e);
        if (s->a->progress)
            s->a->progress(s->a->arg, st_atk_distill.name, (double)(i + 1) / N_VARIANT);
    }
    return rc;
}

/* What the base says itself, and the model over the victims' text. */
static int look(struct stage *s, struct st_err *e)
{
    const struct st_target *t = s->a->target;
    struct st_ask_rows own = {.n = s->n, .logits = s->own.p, .states = s->x.p},
                       test = {.n = s->n_test, .logits = s->own_test.p, .states = s->x_test.p},
                       want = {.n = s->n_test, .best = s->want};
    size_t n_doc;
    if (st_ask_text(s->a, &s->base.model, NULL, &t->prior, &own, e) ||
        st_ask_text(s->a, &s->base.model, NULL, &t->text, &test, e) ||
        st_ask_text(s->a, t->base, NULL, &t->text, &want, e) ||
        ask_replies(s, t->base, false, s->replies[0], &s->n_doc, e) ||
        ask_replies(s, &s->base.model, false, s->replies[1], &n_doc, e) ||
        ask_replies(s, t->base, true, s->held[0], &s->n_held, e) ||
        ask_replies(s, &s->base.model, true, s->held[1], &n_doc, e))
        return e->code;
    s->n = s->own.n_row = s->x.n_row = s->given.n_row = own.n;
    s->n_test = s->own_test.n_row = s->x_test.n_row = test.n;
    for (size_t i = 0; i < s->n_doc; i++)
        s->ends[i] = (i + 1) * REPLY;
    if (s->n < 10 || !s->n_test)
        return st_fail(e, ST_UNSUPPORTED, "prior and text are too short to learn from and to test with");
    return st_distill_answers(s->a->pool, &s->x_test, &s->own_test, NULL, s->got, e);
}

/* The public base, and a student that begins as it. */
static int make(struct stage *s, struct st_err *e)
{
    const struct st_pair_noise noise = {.head = TUNED, .all = TUNED};
    size_t n = s->n, v = s->v, d = s->d, n_weight = (size_t)s->a->target->base->plan.n_weight;
    if (st_noisy_model_new(s->a->target->base, &noise, s->a->pool, s->a->seed, &s->base, e))
        return e->code;
    s->student = s->base.model;
    s->student.mats = NULL;
    if (st_alloc(&s->student.mats, n_weight, sizeof *s->student.mats, "a student", e) ||
        st_dense_new(&s->head_now, v, d, "a student", e) || st_dense_new(&s->own, n, v, "logits", e) ||
        st_dense_new(&s->x, n, d, "hidden states", e) || st_dense_new(&s->given, n, v, "logits", e) ||
        st_dense_new(&s->own_test, s->n_test, v, "logits", e) ||
        st_dense_new(&s->x_test, s->n_test, d, "hidden states", e) || st_dense_new(&s->delta, v, d, "a student", e) ||
        st_alloc(&s->best, n, sizeof *s->best, "logits", e) ||
        st_alloc(&s->want, s->n_test, sizeof *s->want, "logits", e) ||
        st_alloc(&s->got, s->n_test, sizeof *s->got, "logits", e))
        return e->code;
    memcpy(s->student.mats, s->base.model.mats, n_weight * sizeof *s->student.mats);
    s->student.mats[s->head].data = s->head_now.p;
    return 0;
}

static void stage_free(struct stage *s)
{
    struct st_dense *all[] = {&s->own, &s->x, &s->given, &s->own_test, &s->x_test, &s->delta, &s->head_now};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        st_dense_free(all[i]);
    free(s->student.mats);
    st_noisy_model_free(&s->base);
    free(s->best);
    free(s->want);
    free(s->got);
    free(s);
}

/* Sizes, and whether they fit. */
static int plan(const struct st_audit *a, struct stage *s, struct st_err *e)
{
    const struct st_target *t = a->target;
    s->a = a;
    s->head = head_of(t->base);
    s->v = t->base->config.n_vocab;
    s->d = t->base->config.d_model;
    s->n = a->thorough ? 4 * QUESTIONS : QUESTIONS;
    s->n_test = TESTED;
    if (st_texts_len(&t->prior) < s->n)
        s->n = st_texts_len(&t->prior);
    if (st_texts_len(&t->text) < s->n_test)
        s->n_test = st_texts_len(&t->text);
    if (!s->n || !s->n_test)
        return st_fail(e, ST_UNSUPPORTED, "needs a text and a prior");
    if (s->head < 0)
        return st_fail(e, ST_UNSUPPORTED, "the model has no head");
    if (!a->thorough && s->d > WIDEST)
        return st_fail(e, ST_UNSUPPORTED, "a model of width %zu takes --thorough", s->d);
    uint64_t values = 2 * (uint64_t)s->n * s->v + 2 * (uint64_t)s->n_test * s->v + 8 * (s->d + EXTRA) * s->v +
                      t->base->matrix_bytes / sizeof(float);
    if (values > a->memory / sizeof(float))
        return st_fail(e, ST_MEMORY, "logits and a second model take more than the memory that the audit has");
    return 0;
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    struct stage *s;
    e->code = 0;
    if (!a->target->base)
        return st_fail(e, ST_UNSUPPORTED, "needs a model");
    if (st_alloc(&s, 1, sizeof *s, "a student", e))
        return e->code;
    int rc = plan(a, s, e);
    if (!rc)
        rc = make(s, e);
    if (!rc)
        rc = look(s, e);
    if (!rc) {
        struct figures base = of_base(s);
        rc = try_variants(s, &base, rows, e);
    }
    stage_free(s);
    return rc;
}

const struct st_attack st_atk_distill = {.name = "distillation",
                                         .title = "Copying the model through its API",
                                         .metric = "share of positions whose most likely token is the model's",
                                         .source = "arXiv 2403.06634; student ours",
                                         .adversary = ST_ADVERSARY_CLIENT,
                                         .needs = 0,
                                         .run = run};
