/* Pairwise break of embedded additive masks (TwinShield): the rows [Q + R ; a R] differ by small values once the
 * secret scalar is right, and one column says what the scalar can be. Every row falls, whatever m is; scalars of their
 * own per row fall to the same test. Here the attack runs on rows that its own encoder packs with the paper's numbers,
 * embeddings of the text, because systems in the field claim m >= 32 to be enough. Sotto has the packing for attention,
 * behind a flag that calls it breakable: atk_attention.c reads recordings of that.
 *
 * Source: arXiv 2507.03278 (the scheme); the break is ours. */
#include "audit/atk_pairwise.h"
#include "audit/seen.h"
#include "base/buf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLE 512 /* rows that are packed; the paper's batches are smaller */

const struct st_pack_field st_pack_paper = {.prime = 16777213u, .limit = 16 * ST_PACK_STEPS};

static uint32_t times(const struct st_pack_field *f, uint32_t a, uint32_t b)
{
    return (uint32_t)((uint64_t)a * b % f->prime);
}

static uint32_t inverse(const struct st_pack_field *f, uint32_t x)
{
    uint32_t y = 1;
    for (uint32_t n = f->prime - 2; n; n >>= 1, x = times(f, x, x))
        if (n & 1)
            y = times(f, y, x);
    return y;
}

static uint32_t less(const struct st_pack_field *f, uint32_t a, uint32_t b)
{
    return a < b ? a + (f->prime - b) : a - b;
}

static uint32_t more(const struct st_pack_field *f, uint32_t a, uint32_t b)
{
    return less(f, a, b ? f->prime - b : 0);
}

static uint32_t residue(const struct st_pack_field *f, int32_t x)
{
    return x < 0 ? f->prime - (uint32_t)-x : (uint32_t)x;
}

/* u - c w; false: it is not one of the small ones. */
static bool without(const struct st_pack_field *f, uint32_t u, uint32_t c, uint32_t w, int32_t *out)
{
    uint32_t x = less(f, u, times(f, c, w)), limit = (uint32_t)f->limit;
    bool minus = x > limit;
    uint32_t size = minus ? f->prime - x : x;
    *out = size > limit ? 0 : minus ? -(int32_t)size : (int32_t)size;
    return size <= limit;
}

int st_pack(const struct st_pack_field *f, const int32_t *q, size_t m, size_t d, struct st_rng *rng, uint32_t *out,
            uint32_t *place, struct st_err *e)
{
    for (size_t i = 0; i < m * d; i++)
        if (q[i] > f->limit || q[i] < -f->limit)
            return st_fail(e, ST_INPUT, "packing: a value beyond %d steps", f->limit);
    for (uint32_t i = 0; i < 2 * m; i++)
        place[i] = i;
    for (size_t i = 2 * m; i > 1; i--) {
        size_t j = st_rng_next(rng) % i;
        uint32_t t = place[i - 1];
        place[i - 1] = place[j];
        place[j] = t;
    }
    uint32_t a = 2 + (uint32_t)(st_rng_next(rng) % (f->prime - 3));
    for (size_t i = 0; i < m; i++)
        for (size_t k = 0; k < d; k++) {
            uint32_t r = (uint32_t)(st_rng_next(rng) % f->prime);
            out[place[i] * d + k] = more(f, residue(f, q[i * d + k]), r);
            out[place[m + i] * d + k] = times(f, a, r);
        }
    return 0;
}

static bool fits(const struct st_pack_field *f, const uint32_t *u, const uint32_t *w, size_t from, size_t d, uint32_t c)
{
    int32_t q;
    for (size_t k = from; k < d; k++)
        if (!without(f, u[k], c, w[k], &q))
            return false;
    return true;
}

bool st_pack_scalar(const struct st_pack_field *f, const uint32_t *rows, size_t n, size_t d, uint32_t *c)
{
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            const uint32_t *u = rows + i * d, *w = rows + j * d;
            if (i == j || w[0] == 0)
                continue;
            uint32_t over = inverse(f, w[0]);
            *c = times(f, more(f, u[0], (uint32_t)f->limit), over); /* what makes u_0 - c w_0 the least */
            for (int32_t g = -f->limit; g <= f->limit; g++, *c = less(f, *c, over))
                if (fits(f, u, w, 1, d, *c))
                    return true;
        }
    return false;
}

void st_pack_open(const struct st_pack_field *f, const uint32_t *rows, size_t n, size_t d, uint32_t c, int32_t *got,
                  bool *is_q)
{
    for (size_t i = 0; i < n; i++) {
        is_q[i] = false;
        for (size_t j = 0; j < n && !is_q[i]; j++) {
            const uint32_t *u = rows + i * d, *w = rows + j * d;
            if (i == j || !fits(f, u, w, 0, d, c))
                continue;
            is_q[i] = true;
            for (size_t k = 0; k < d; k++)
                without(f, u[k], c, w[k], &got[i * d + k]);
        }
    }
}

/* ---- on the text ---- */

struct work {
    int32_t *q, *got;
    uint32_t *packed, *place;
    bool *is_q;
};

static void quantise(const struct st_dense *table, const uint32_t *ids, size_t n, int32_t *q)
{
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < table->n_col; k++) {
            float v = rintf(st_dense_row(table, ids[i])[k] * ST_PACK_STEPS), most = (float)st_pack_paper.limit;
            q[i * table->n_col + k] = (int32_t)fminf(fmaxf(v, -most), most);
        }
}

/* Batches of m rows; rows of q that come out exactly. */
static int break_batches(const struct st_audit *a, struct work *w, size_t n, size_t m, size_t d, uint64_t *hits,
                         struct st_err *e)
{
    struct st_rng rng;
    st_rng_seed(&rng, a->seed + m);
    *hits = 0;
    for (size_t at = 0; at + m <= n; at += m) {
        uint32_t c;
        const int32_t *q = w->q + at * d;
        if (a->cancel && *a->cancel)
            return st_fail(e, ST_IO, "cancelled");
        if (st_pack(&st_pack_paper, q, m, d, &rng, w->packed, w->place, e))
            return e->code;
        if (!st_pack_scalar(&st_pack_paper, w->packed, 2 * m, d, &c))
            continue;
        st_pack_open(&st_pack_paper, w->packed, 2 * m, d, c, w->got, w->is_q);
        for (size_t i = 0; i < m; i++)
            *hits += w->is_q[w->place[i]] && memcmp(w->got + w->place[i] * d, q + i * d, d * sizeof *q) == 0;
    }
    return 0;
}

static int run_sizes(const struct st_audit *a, struct work *w, size_t n, size_t d, struct st_rows *rows,
                     struct st_err *e)
{
    static const size_t sizes[] = {1, 4, 32, 128, 512};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t m = sizes[i], some = m < 4 ? 4 * m : n - n % m; /* one row in a batch is the quick case: four of them */
        struct st_row row = {.unprotected = 1,
                             .in_clear = true,
                             .sweep = true,
                             .x = (double)m,
                             .x_name = "m",
                             .cost = NAN,
                             .others = true};
        uint64_t hits;
        if (m > n)
            break;
        some = some < n ? some : n;
        if (break_batches(a, w, some, m, d, &hits, e))
            return e->code;
        snprintf(row.variant, sizeof row.variant, "TwinShield packing, m %zu", m);
        snprintf(row.note, sizeof row.note,
                 "A published scheme, on rows packed for this test with the paper's numbers.");
        st_row_share(&row, hits, some - some % m);
        if (st_rows_add(rows, &row, e))
            return e->code;
    }
    return 0;
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    const struct st_texts_ids *text = &a->target->text;
    struct st_dense table = {0};
    struct work w = {0};
    size_t n = st_texts_len(text) < SAMPLE ? st_texts_len(text) : SAMPLE;
    if (!a->target->base || n == 0)
        return st_fail(e, ST_UNSUPPORTED, "needs a model and a text");
    if (st_seen_table(a->target->base, &table, e))
        return e->code;
    size_t d = table.n_col;
    int rc = st_alloc(&w.q, n, d * sizeof *w.q, "packed rows", e);
    if (!rc)
        rc = st_alloc(&w.got, 2 * n, d * sizeof *w.got, "packed rows", e);
    if (!rc)
        rc = st_alloc(&w.packed, 2 * n, d * sizeof *w.packed, "packed rows", e);
    if (!rc)
        rc = st_alloc(&w.place, 2 * n, sizeof *w.place, "packed rows", e);
    if (!rc)
        rc = st_alloc(&w.is_q, 2 * n, sizeof *w.is_q, "packed rows", e);
    if (!rc) {
        quantise(&table, text->ids, n, w.q);
        rc = run_sizes(a, &w, n, d, rows, e);
    }
    free(w.q);
    free(w.got);
    free(w.packed);
    free(w.place);
    free(w.is_q);
    st_dense_free(&table);
    return rc;
}

/* needs nothing of a target but model and text: it stands for no scheme of ours. */
const struct st_attack st_atk_pairwise = {.name = "pairwise",
                                          .title = "Pairs of rows in embedded additive masks",
                                          .metric = "share of rows recovered exactly",
                                          .source = "ours, on arXiv 2507.03278",
                                          .adversary = ST_ADVERSARY_WORKER,
                                          .needs = 0,
                                          .run = run};
