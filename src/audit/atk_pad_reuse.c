/* Pad reuse: x1 + r and x2 + r, the same pad from a trusted side that was rolled back, a small pool, or a fork. The
 * worker subtracts all pairs of rows; a small difference is x1 - x2 without mask, and the embedding says which two
 * tokens differ by it. No parameter helps against one reuse.
 *
 * Source: the one-time requirement of arXiv 1806.03287 (Slalom). */
#include "audit/atk_pad_reuse.h"
#include "audit/seen.h"
#include "base/buf.h"
#include "field/fq.h"

#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LEAST_WIDTH 16
#define FIELD_SHARE 32 /* part of q that a difference may take */
#define MAX_PAIRS 4096
#define MAX_CANDIDATES 2048
#define TOLERANCE 0.02 /* between the scale of a pair and what a candidate says it is */
#define SHOWN_ROWS 64  /* between two looks at the progress */
#define PROBES 8       /* pairs that are read without knowing the scale */

static bool is_small(const double *a, const double *b, size_t d, bool field)
{
    double square = 0, most = 4 * (double)d * (1 + 1e-3);
    for (size_t k = 0; k < d; k++) {
        double diff = a[k] - b[k];
        if (field) {
            diff -= ST_FQ * rint(diff / ST_FQ);
            if (!(fabs(diff) <= (double)ST_FQ / FIELD_SHARE))
                return false;
        } else if (!((square += diff * diff) <= most))
            return false;
    }
    return true;
}

static int cancelled(const struct st_audit *a, struct st_err *e)
{
    return a && a->cancel && *a->cancel ? st_fail(e, ST_IO, "cancelled") : 0;
}

/* Of n rows the first `done` have been held against all behind them. */
static void show(const struct st_audit *a, size_t done, size_t n)
{
    double left = 1 - (double)done / (double)n;
    if (a && a->progress && done % SHOWN_ROWS == 0)
        a->progress(a->arg, st_atk_pad_reuse.name, 1 - left * left);
}

int st_reuse_find(const struct st_audit *a, const double *rows, size_t n, size_t d, bool field, struct st_reuse *out,
                  size_t max, size_t *found, struct st_err *e)
{
    *found = 0;
    if (d < LEAST_WIDTH)
        return st_fail(e, ST_INPUT, "pad reuse: rows of %zu values; want at least %d to tell", d, LEAST_WIDTH);
    for (size_t i = 0; i < n; i++) {
        if (cancelled(a, e))
            return e->code;
        show(a, i, n);
        for (size_t k = i + 1; k < n; k++)
            if (is_small(rows + i * d, rows + k * d, d, field)) {
                if (*found < max)
                    out[*found] = (struct st_reuse){.a = i, .b = k};
                ++*found;
            }
    }
    return 0;
}

/* What the pairs are read with. */
struct reading {
    size_t d, n_id;
    const uint32_t *ids; /* [n_id] */
    float *known;        /* [n_id][d] their rows of the table */
    float *diff;         /* [d] */
    float *wanted;       /* [d] u_a - D / s */
    float *dots;         /* [n_id] */
};

static void take_difference(struct reading *r, const double *rows, bool field, const struct st_reuse *pair)
{
    for (size_t k = 0; k < r->d; k++) {
        double diff = rows[pair->a * r->d + k] - rows[pair->b * r->d + k];
        r->diff[k] = (float)(field ? diff - ST_FQ * rint(diff / ST_FQ) : diff);
    }
}

/* The two candidates that explain the difference best. scale 0 = not known; what the best says it is goes to *said. */
static void read_pair(struct reading *r, double scale, struct st_reuse *pair, double *said)
{
    int d = (int)r->d;
    double square = cblas_dsdot(d, r->diff, 1, r->diff, 1);
    float best = -INFINITY;
    pair->misfit = INFINITY;
    for (size_t a = 0; a < r->n_id; a++) {
        const float *u = r->known + a * r->d;
        double dot = cblas_dsdot(d, r->diff, 1, u, 1), s = dot > 0 ? square / (2 * dot) : 0;
        if (s <= 0 || (scale > 0 && fabs(s / scale - 1) > TOLERANCE))
            continue;
        for (size_t k = 0; k < r->d; k++)
            r->wanted[k] = u[k] - (float)(r->diff[k] / s);
        cblas_sgemv(CblasRowMajor, CblasNoTrans, (int)r->n_id, d, 1, r->known, d, r->wanted, 1, 0, r->dots, 1);
        for (size_t b = 0; b < r->n_id; b++)
            if (b != a && r->dots[b] > best) {
                best = r->dots[b];
                *said = s;
                pair->token_a = r->ids[a];
                pair->token_b = r->ids[b];
                pair->misfit = sqrt(fmax(0, 2 - 2 * (double)best / (double)r->d));
            }
    }
}

static int read_all(const struct st_audit *a, struct reading *r, const double *rows, bool field, struct st_reuse *pairs,
                    size_t n, struct st_err *e)
{
    double scale = field ? 0 : 1, said = 0, least = INFINITY;
    for (size_t i = 0; i < n && i < PROBES && field; i++) {
        take_difference(r, rows, field, &pairs[i]);
        read_pair(r, 0, &pairs[i], &said);
        if (cancelled(a, e))
            return e->code;
        if (pairs[i].misfit < least) {
            least = pairs[i].misfit;
            scale = said;
        }
    }
    for (size_t i = 0; i < n; i++) {
        take_difference(r, rows, field, &pairs[i]);
        read_pair(r, scale, &pairs[i], &said);
        if (cancelled(a, e))
            return e->code;
    }
    return 0;
}

int st_reuse_read(const struct st_audit *a, const double *rows, size_t d, bool field, const struct st_dense *table,
                  const uint32_t *ids, size_t n_id, struct st_reuse *pairs, size_t n, struct st_err *e)
{
    struct reading r = {.d = d, .n_id = n_id, .ids = ids};
    int rc = st_alloc(&r.known, n_id, d * sizeof *r.known, "known rows", e);
    if (!rc)
        rc = st_alloc(&r.diff, 2 * d + n_id, sizeof *r.diff, "differences", e);
    if (!rc) {
        r.wanted = r.diff + d;
        r.dots = r.wanted + d;
        for (size_t i = 0; i < n_id; i++)
            memcpy(r.known + i * d, st_dense_row(table, ids[i]), d * sizeof *r.known);
        openblas_set_num_threads(1);
        rc = read_all(a, &r, rows, field, pairs, n, e);
    }
    free(r.known);
    free(r.diff);
    return rc;
}

/* ---- on a recording ---- */

/* Tokens that a pair may hold: those that the adversary's own text has, or all of a small vocabulary. Number of them.
 */
static size_t candidates(const struct st_target *t, size_t n_vocab, bool *has, uint32_t *ids)
{
    size_t n = 0;
    for (size_t i = 0; n_vocab > MAX_CANDIDATES && i < st_texts_len(&t->prior); i++)
        if (t->prior.ids[i] < n_vocab)
            has[t->prior.ids[i]] = true;
    for (uint32_t id = 0; id < n_vocab && n < MAX_CANDIDATES; id++)
        if (n_vocab <= MAX_CANDIDATES || has[id])
            ids[n++] = id;
    return n;
}

struct work {
    struct st_reuse *pairs;
    bool *has, *shared, *read; /* [n_vocab], [n_row], [n_row] */
    uint32_t *ids;
};

static int find_and_read(const struct st_audit *a, const struct st_seen_text *s, struct work *w, size_t *found,
                         struct st_err *e)
{
    const struct st_seen *seen = &s->seen;
    const uint32_t *truth = a->target->text.ids;
    if (st_reuse_find(a, seen->rows, seen->n, seen->d, seen->field, w->pairs, MAX_PAIRS, found, e))
        return e->code;
    size_t n = *found < MAX_PAIRS ? *found : MAX_PAIRS, n_id = candidates(a->target, s->table.n_row, w->has, w->ids);
    if (n && n_id && st_reuse_read(a, seen->rows, seen->d, seen->field, &s->table, w->ids, n_id, w->pairs, n, e))
        return e->code;
    for (size_t i = 0; i < n; i++) {
        const struct st_reuse *p = &w->pairs[i];
        w->shared[p->a] = w->shared[p->b] = true;
        w->read[p->a] |= n_id && p->token_a == truth[p->a];
        w->read[p->b] |= n_id && p->token_b == truth[p->b];
    }
    return 0;
}

static int add_rows(const struct st_seen_text *s, const struct work *w, size_t found, struct st_rows *rows,
                    struct st_err *e)
{
    uint64_t shared = 0, read = 0;
    for (size_t i = 0; i < s->seen.n; i++) {
        shared += w->shared[i];
        read += w->read[i];
    }
    struct st_row row = {.unprotected = 1, .in_clear = true}, tokens = row;
    row.metric = "share of rows whose pad another row has";
    snprintf(row.variant, sizeof row.variant, "layer 0, rows that share a pad");
    snprintf(row.note, sizeof row.note, "%zu pairs of rows with one pad among %zu rows.", found, s->seen.n);
    st_row_share(&row, shared, s->seen.n);
    if (st_rows_add(rows, &row, e))
        return e->code;
    snprintf(tokens.variant, sizeof tokens.variant, "layer 0, tokens read from their differences");
    tokens.chance = 0;
    st_row_share(&tokens, read, s->seen.n);
    return st_rows_add(rows, &tokens, e);
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    struct st_seen_text s;
    struct work w = {0};
    size_t found = 0;
    if (st_seen_open(a, 0, &s, e))
        return e->code;
    int rc = st_alloc(&w.pairs, MAX_PAIRS, sizeof *w.pairs, "pairs of rows", e);
    if (!rc)
        rc = st_alloc(&w.has, s.table.n_row + 2 * s.seen.n, sizeof *w.has, "tokens", e);
    if (!rc)
        rc = st_alloc(&w.ids, MAX_CANDIDATES, sizeof *w.ids, "tokens", e);
    if (!rc) {
        w.shared = w.has + s.table.n_row;
        w.read = w.shared + s.seen.n;
        rc = find_and_read(a, &s, &w, &found, e);
    }
    if (!rc)
        rc = add_rows(&s, &w, found, rows, e);
    free(w.pairs);
    free(w.has);
    free(w.ids);
    st_seen_close(&s);
    return rc;
}

const struct st_attack st_atk_pad_reuse = {.name = "pad-reuse",
                                           .title = "Rows behind one pad",
                                           .metric = "share of the text's tokens recovered",
                                           .source = "arXiv 1806.03287 (one-time requirement)",
                                           .adversary = ST_ADVERSARY_WORKER,
                                           .needs = ST_TARGET_RECORD,
                                           .run = run};
