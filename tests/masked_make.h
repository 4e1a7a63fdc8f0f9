/* What tests of masked layers share: a small model with its linear layers placed outside, a worker that multiplies in
 * plain 64-bit integers and writes down what it is sent, and hints that are made when they are asked for. */
#ifndef ST_TESTS_MASKED_MAKE_H
#define ST_TESTS_MASKED_MAKE_H

#include "expect.h"
#include "field/fq.h"
#include "harness.h"
#include "protect/masked/masked.h"

#include <math.h>

#define HELD 40

/* An exchange that the worker received, in the order of arrival. */
struct seen {
    int op;
    uint32_t n_row, d;
    size_t at; /* of the rows in `words` */
};

struct fake_worker {
    const struct st_served *served;
    struct st_transport transport;
    struct held {
        bool open;
        uint64_t id;
        struct st_exposed reply;
        size_t cap;
    } held[HELD];
    bool record;
    struct seen *seen;
    size_t n_seen, cap_seen;
    uint32_t *words;
    size_t n_word, cap_word;
    /* Changes a reply on its way back; may be NULL. */
    void (*twist)(void *arg, struct st_exposed *reply);
    void *arg;
    bool down; /* submit fails */
};

static inline int worker_matrix(const struct st_served *s, const struct st_plan *p, const struct st_plan_op *op)
{
    char name[sizeof s->weights->name];
    snprintf(name, sizeof name, "%s%s", p->weights[op->weight].name, op->op == ST_OP_EMBED ? "^T" : "");
    int at = st_served_find(s, name);
    if (at < 0)
        tiny_die(name);
    return at;
}

static inline void worker_multiply(const struct st_served_weight *w, const void *rows, uint32_t n_row, bool field,
                                   uint32_t *out)
{
    for (uint32_t r = 0; r < n_row; r++)
        for (uint32_t j = 0; j < w->n_out; j++) {
            const int8_t *column = w->w + (size_t)j * w->n_in;
            if (field) {
                const uint32_t *u = (const uint32_t *)rows + (size_t)r * w->n_in;
                int64_t sum = 0; /* below 2^7 2^32 2^16 */
                for (uint32_t k = 0; k < w->n_in; k++)
                    sum += (int64_t)column[k] * u[k];
                sum %= (int64_t)ST_FQ;
                *out++ = (uint32_t)(sum < 0 ? sum + ST_FQ : sum);
            } else {
                const float *u = (const float *)rows + (size_t)r * w->n_in;
                double sum = 0;
                for (uint32_t k = 0; k < w->n_in; k++)
                    sum += (double)column[k] * u[k];
                float y = (float)(sum * w->scale[j]);
                memcpy(out++, &y, sizeof y);
            }
        }
}

static inline void worker_record(struct fake_worker *f, const struct st_exchange *x, const struct st_exposed *rows)
{
    size_t n = rows->len / sizeof(uint32_t);
    if (f->n_seen == f->cap_seen)
        f->seen = realloc(f->seen, (f->cap_seen = 2 * f->cap_seen + 64) * sizeof *f->seen);
    while (f->n_word + n > f->cap_word)
        f->words = realloc(f->words, (f->cap_word = 2 * f->cap_word + 4096) * sizeof *f->words);
    f->seen[f->n_seen++] = (struct seen){(int)(x->ops - x->plan->ops), x->n_row, (uint32_t)(n / x->n_row), f->n_word};
    memcpy(f->words + f->n_word, rows->p, rows->len);
    f->n_word += n;
}

static inline void worker_pair(const struct st_factors *p, const uint32_t *a, uint32_t *out)
{
    const uint32_t *b = a + (size_t)p->n_a * p->n_inner;
    for (uint32_t i = 0; i < p->n_a; i++)
        for (uint32_t j = 0; j < p->n_b; j++) {
            uint64_t sum = 0;
            for (uint32_t k = 0; k < p->n_inner; k++)
                sum = (sum + (uint64_t)a[(size_t)i * p->n_inner + k] * b[(size_t)j * p->n_inner + k] % ST_FQ) % ST_FQ;
            *out++ = (uint32_t)sum;
        }
}

static inline int worker_submit(void *ctx, const struct st_exchange *x, const struct st_exposed *rows, struct st_err *e)
{
    struct fake_worker *f = ctx;
    struct held *h = f->held;
    size_t n = 0;
    if (f->down)
        return st_fail(e, ST_IO, "worker: connection refused");
    while (h < f->held + HELD && h->open)
        h++;
    if (h == f->held + HELD)
        tiny_die("too many exchanges");
    if (f->record)
        worker_record(f, x, rows);
    const bool pair = x->pair.n_inner != 0;
    if (pair)
        n = (size_t)x->pair.n_a * x->pair.n_b;
    for (int k = 0; k < x->n_op && !pair; k++)
        n += (size_t)x->n_row * f->served->weights[worker_matrix(f->served, x->plan, &x->ops[k])].n_out;
    if (n > h->cap) {
        h->reply.p = realloc(h->reply.p, n * sizeof(uint32_t));
        h->cap = n;
    }
    h->open = true;
    h->id = x->id;
    h->reply.len = n * sizeof(uint32_t);
    h->reply.format = rows->format;
    uint32_t *out = h->reply.p;
    if (pair)
        worker_pair(&x->pair, rows->p, out);
    for (int k = 0; k < x->n_op && !pair; k++) {
        const struct st_served_weight *w = &f->served->weights[worker_matrix(f->served, x->plan, &x->ops[k])];
        if (rows->len != (size_t)x->n_row * w->n_in * sizeof(uint32_t))
            tiny_die("rows of another width");
        worker_multiply(w, rows->p, x->n_row, rows->format == ST_EXPOSED_FIELD, out);
        out += (size_t)x->n_row * w->n_out;
    }
    return 0;
}

static inline int worker_complete(void *ctx, const struct st_exchange *x, struct st_exposed *reply, struct st_err *e)
{
    struct fake_worker *f = ctx;
    for (struct held *h = f->held; h < f->held + HELD; h++)
        if (h->open && h->id == x->id) {
            h->open = false;
            *reply = h->reply;
            if (f->twist)
                f->twist(f->arg, reply);
            return 0;
        }
    return st_fail(e, ST_IO, "worker: no such exchange");
}

static inline void worker_init(struct fake_worker *f, const struct st_served *served)
{
    *f = (struct fake_worker){.served = served,
                              .transport = {.submit = worker_submit, .complete = worker_complete, .ctx = f}};
}

static inline void worker_free(struct fake_worker *f)
{
    for (int i = 0; i < HELD; i++)
        free(f->held[i].reply.p);
    free(f->seen);
    free(f->words);
}

/* Hints, with one thing wrong in them when asked for. */
struct fake_hints {
    const struct st_served *served;
    struct st_lwe_basis basis;
    struct st_hint_source source;
    enum {
        HINTS_RIGHT,
        HINTS_FLIPPED,
        HINTS_NOT_CANONICAL,
        HINTS_SHORT,
        HINTS_LONG,
        HINTS_SCALE,
        HINTS_NORM,
        HINTS_SWAPPED,
    } wrong;
    const char *wrong_name; /* of which matrix */
};

static inline int hints_read(void *ctx, const char *name, uint32_t n_out, uint32_t n_in,
                             int (*sink)(void *arg, const struct st_hint_columns *c, struct st_err *e), void *arg,
                             struct st_err *e)
{
    struct fake_hints *f = ctx;
    const struct st_served_weight *w = f->served->weights;
    uint32_t m = f->basis.params->m, *h = malloc((size_t)ST_LWE_HINTS * m * sizeof *h);
    float norm[ST_LWE_HINTS], scale[ST_LWE_HINTS];
    const struct st_limb_kernels *limb;
    int rc = st_limb_find(NULL, &limb, e);
    while (strcmp(w->name, name) != 0)
        w++;
    bool bad = f->wrong && strcmp(name, f->wrong_name) == 0;
    if (w->n_out != n_out || w->n_in != n_in)
        tiny_die("hints of another shape");
    for (uint32_t at = 0, n; at < n_out && !rc; at += n) {
        n = n_out - at < ST_LWE_HINTS ? n_out - at : ST_LWE_HINTS;
        st_lwe_basis_hints(&f->basis, limb, w->w + (size_t)at * n_in, n, n_in, h);
        for (uint32_t j = 0; j < n; j++) {
            double sum = 0;
            for (uint32_t k = 0; k < n_in; k++)
                sum += w->w[(size_t)(at + j) * n_in + k] * w->w[(size_t)(at + j) * n_in + k];
            norm[j] = (float)sqrt(sum);
            scale[j] = w->scale[at + j];
        }
        if (bad && at == 0) {
            if (f->wrong == HINTS_FLIPPED)
                h[m + 7] = st_fq_add(h[m + 7], 1);
            if (f->wrong == HINTS_NOT_CANONICAL)
                h[3] = ST_FQ;
            if (f->wrong == HINTS_SCALE)
                scale[1] = -scale[1];
            if (f->wrong == HINTS_NORM)
                norm[1] = NAN;
            for (uint32_t k = 0; f->wrong == HINTS_SWAPPED && k < m; k++) {
                uint32_t t = h[k];
                h[k] = h[m + k];
                h[m + k] = t;
            }
        }
        if (bad && f->wrong == HINTS_SHORT && at + n == n_out)
            break;
        uint32_t given = n + (bad && f->wrong == HINTS_LONG && at + n == n_out);
        rc = sink(arg, &(struct st_hint_columns){at, given, m, scale, norm, h}, e);
    }
    free(h);
    return rc;
}

static inline void hints_init(struct fake_hints *f, const struct st_served *served, const struct st_lwe_params *params,
                              const uint8_t *digest)
{
    struct st_err e;
    uint32_t d = 0;
    *f = (struct fake_hints){.served = served};
    for (uint32_t i = 0; i < served->n; i++)
        d = served->weights[i].n_in > d ? served->weights[i].n_in : d;
    tiny_check(st_lwe_basis_init_hints(&f->basis, params, digest, d, &e), &e);
    f->source = (struct st_hint_source){.digest = digest, .params = params->name, .read = hints_read, .ctx = f};
}

#endif
