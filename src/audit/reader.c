#include "audit/reader.h"
#include "audit/deviates.h"
#include "base/buf.h"

#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LAYERS 2
#define HEADS 8
#define HEAD 8
#define TEXTS 16 /* windows of a step */
#define ROWS ((size_t)TEXTS * ST_READER_LEN)
#define RATE 2e-3
#define DECAY 1e-2

int st_reader_new(struct st_reader *r, uint32_t n_in, uint32_t n_out, const struct st_dense *map, uint64_t seed,
                  struct st_err *e)
{
    const struct st_blocks shape = {.n_layer = LAYERS,
                                    .d = HEADS * HEAD,
                                    .n_head = HEADS,
                                    .n_kv = HEADS,
                                    .head = HEAD,
                                    .n_ff = 2 * HEADS * HEAD,
                                    .both_ways = true,
                                    .eps = 1e-5F};
    struct st_rng rng;
    size_t d = shape.d;
    *r = (struct st_reader){.n_in = n_in, .n_out = n_out, .n_w = (size_t)n_in * n_out + d * n_in + d * n_out};
    if (st_blocks_new(&shape, &r->blocks, e) || st_alloc(&r->a, r->n_w, sizeof *r->a, "transformer", e)) {
        st_reader_free(r);
        return e->code;
    }
    r->b = r->a + (size_t)n_in * n_out;
    r->c = r->b + d * n_in;
    st_blocks_draw(&r->blocks, seed);
    st_rng_seed(&rng, seed + 1);
    for (size_t o = 0; o < n_out; o++)
        for (size_t i = 0; i < n_in; i++)
            r->a[o * n_in + i] = map ? st_dense_row(map, i)[o] : o == i;
    st_deviates(&rng, 1 / sqrt(n_in), NULL, r->b, d * n_in);
    st_deviates(&rng, .01, NULL, r->c, d * n_out);
    return 0;
}

void st_reader_free(struct st_reader *r)
{
    st_blocks_free(&r->blocks);
    free(r->a);
    *r = (struct st_reader){.n_in = 0};
}

/* Of one step of TEXTS windows. */
struct space {
    struct st_pass *pass;
    float *x, *want, *out, *in, *d_in, *d_mid; /* rows; in: of the blocks */
    float *grad, *block_grad;
    struct st_adam outer, inner;
    struct st_noise_table noise;
    bool *known;
};

static int open_space(const struct st_reader *r, bool train, struct space *s, struct st_err *e)
{
    size_t d = r->blocks.d;
    *s = (struct space){.pass = NULL};
    if (st_pass_new(&r->blocks, TEXTS, ST_READER_LEN, &s->pass, e) ||
        st_alloc(&s->x, ROWS * r->n_in, sizeof *s->x, "transformer", e) ||
        st_alloc(&s->out, ROWS * r->n_out, sizeof *s->out, "transformer", e) ||
        st_alloc(&s->in, ROWS * d, sizeof *s->in, "transformer", e))
        return e->code;
    if (!train)
        return 0;
    if (st_alloc(&s->want, ROWS * r->n_out, sizeof *s->want, "transformer", e) ||
        st_alloc(&s->d_in, ROWS * d, sizeof *s->d_in, "transformer", e) ||
        st_alloc(&s->d_mid, ROWS * d, sizeof *s->d_mid, "transformer", e) ||
        st_alloc(&s->grad, r->n_w, sizeof *s->grad, "transformer", e) ||
        st_alloc(&s->block_grad, r->blocks.n_w, sizeof *s->block_grad, "transformer", e) ||
        st_alloc(&s->known, ROWS, sizeof *s->known, "transformer", e) || st_adam_new(&s->outer, r->n_w, e) ||
        st_adam_new(&s->inner, r->blocks.n_w, e))
        return e->code;
    return 0;
}

static void close_space(struct space *s)
{
    st_pass_free(s->pass);
    st_adam_free(&s->outer);
    st_adam_free(&s->inner);
    st_noise_table_free(&s->noise);
    float *all[] = {s->x, s->want, s->out, s->in, s->d_in, s->d_mid, s->grad, s->block_grad};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    free(s->known);
}

/* c [n][k] = keep c + a [n][m] b^T [m][k] */
static void times(const float *a, const float *b, float *c, size_t m, size_t k, float keep)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)ROWS, (int)k, (int)m, 1, a, (int)m, b, (int)m, keep, c,
                (int)k);
}

/* c [k][m] = a^T b of a [n][k], b [n][m] */
static void sums_of(const float *a, const float *b, float *c, size_t k, size_t m)
{
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)k, (int)m, (int)ROWS, 1, a, (int)k, b, (int)m, 0, c,
                (int)m);
}

/* What the blocks made of the rows, for the derivatives; s->out is what is said. */
static const float *say(const struct st_reader *r, struct space *s)
{
    times(s->x, r->b, s->in, r->n_in, r->blocks.d, 0);
    const float *mid = st_pass_forward(s->pass, &r->blocks, s->in);
    times(s->x, r->a, s->out, r->n_in, r->n_out, 0);
    times(mid, r->c, s->out, r->blocks.d, r->n_out, 1);
    return mid;
}

/* s->out holds the derivatives of the loss. */
static void learn(struct st_reader *r, struct space *s, const float *mid, double rate)
{
    size_t d = r->blocks.d, n_a = (size_t)r->n_in * r->n_out;
    sums_of(s->out, s->x, s->grad, r->n_out, r->n_in);
    sums_of(s->out, mid, s->grad + n_a + d * r->n_in, r->n_out, d);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)ROWS, (int)d, (int)r->n_out, 1, s->out, (int)r->n_out,
                r->c, (int)d, 0, s->d_mid, (int)d);
    st_pass_backward(s->pass, &r->blocks, s->d_mid, NULL, s->d_in, s->block_grad);
    sums_of(s->d_in, s->x, s->grad + n_a, d, r->n_in);
    st_adam_step(&s->outer, s->grad, rate, 0, r->a);
    st_adam_step(&s->inner, s->block_grad, rate, DECAY, r->blocks.w);
}

static void draw_windows(const struct st_reader *r, const struct st_reader_lesson *l, struct st_rng *rng,
                         struct space *s)
{
    size_t places = st_texts_len(l->text) - ST_READER_LEN + 1, from = 0;
    for (size_t i = 0; i < ROWS; i++) {
        if (i % ST_READER_LEN == 0)
            from = st_rng_next(rng) % places;
        uint32_t id = l->text->ids[from + i % ST_READER_LEN], row = l->row[id];
        s->known[i] = row != ST_READER_UNKNOWN;
        if (!s->known[i])
            row = l->others[st_rng_next(rng) % l->n_other];
        const float *x = st_dense_row(l->rows, row), *z = st_noise_pick(&s->noise, st_rng_next(rng), r->n_in);
        memcpy(s->want + i * r->n_out, st_dense_row(l->table, id), r->n_out * sizeof *s->want);
        for (size_t k = 0; k < r->n_in; k++)
            s->x[i * r->n_in + k] = x[k] + (float)l->noise * z[k];
    }
}

static int check_lesson(const struct st_reader_lesson *l, struct st_err *e)
{
    size_t known = 0;
    if (st_texts_len(l->text) < ST_READER_LEN)
        return st_fail(e, ST_INPUT, "transformer: a text of %zu tokens, want %d", st_texts_len(l->text), ST_READER_LEN);
    for (size_t i = 0; i < st_texts_len(l->text); i++)
        known += l->row[l->text->ids[i]] != ST_READER_UNKNOWN;
    if (!known || (known < st_texts_len(l->text) && !l->n_other))
        return st_fail(e, ST_INPUT, "transformer: no rows of the text to learn from");
    return 0;
}

int st_reader_train(struct st_reader *r, const struct st_reader_lesson *l, struct st_err *e)
{
    struct space s = {.pass = NULL};
    struct st_rng rng;
    e->code = 0;
    if (check_lesson(l, e))
        return e->code;
    if (open_space(r, true, &s, e) || st_noise_table_new(&s.noise, r->n_in, l->seed, e))
        goto out;
    st_rng_seed(&rng, l->seed);
    for (uint32_t step = 0; step < l->n_step; step++) {
        if (l->cancel && *l->cancel) {
            st_fail(e, ST_IO, "cancelled");
            goto out;
        }
        draw_windows(r, l, &rng, &s);
        const float *mid = say(r, &s);
        for (size_t i = 0; i < ROWS * r->n_out; i++)
            s.out[i] = s.known[i / r->n_out] ? (s.out[i] - s.want[i]) / (float)ROWS : 0;
        learn(r, &s, mid, RATE * (1 - (double)step / l->n_step));
    }
out:
    close_space(&s);
    return e->code;
}

int st_reader_read(const struct st_reader *r, const struct st_dense *rows, const uint32_t *number, size_t n,
                   const volatile sig_atomic_t *cancel, struct st_dense *sums, struct st_err *e)
{
    struct space s;
    e->code = 0;
    if (open_space(r, false, &s, e))
        goto out;
    for (size_t at = 0; at + ST_READER_LEN <= n; at += ROWS) {
        if (cancel && *cancel) {
            st_fail(e, ST_IO, "cancelled");
            goto out;
        }
        for (size_t i = 0; i < ROWS; i++) /* what lies behind the end is read as well, and left out */
            memcpy(s.x + i * r->n_in, st_dense_row(rows, number[at + i < n ? at + i : 0]), r->n_in * sizeof *s.x);
        (void)say(r, &s);
        for (size_t i = 0; i < ROWS && at + i < n / ST_READER_LEN * ST_READER_LEN; i++)
            for (size_t k = 0; k < r->n_out; k++)
                st_dense_row(sums, number[at + i])[k] += s.out[i * r->n_out + k];
    }
out:
    close_space(&s);
    return e->code;
}
