/* Statistical uniformity of what a worker receives under masks in the field: chi-square over single residues (high and
 * low part) and over pairs (serial test), for each exchange group of the recording.
 *
 * How to read it: the score is the share of tests that reject at the level of one in 10,000, so strict that of a
 * hundred audits of sound masks, some 200 tests each, one or two have a test that rejects. Masks that are not uniform
 * are rejected in most groups. A share of 0 says no more than that these tests see nothing: masks of a broken generator
 * can pass them, and for lwe it does not replace its assumption. Beside it: what the tests say of rows without masks.
 *
 * Source: Knuth, The Art of Computer Programming 2, 3.3 (equidistribution and serial tests). */
#include "audit/atk_uniform.h"
#include "audit/seen.h"
#include "base/buf.h"
#include "engine/record.h"
#include "field/fq.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CELLS 256
#define SIDE 16
#define LOW_PRIME 251
#define LEVEL 0.0001
#define LEAST_IN_CELL 5
#define MAX_VALUES ((size_t)1 << 22) /* of one group */
#define LEAST_SHARE (64 << 10)       /* bytes of it */

double st_chi_square_tail(double x, double freedom)
{
    double spread = 2 / (9 * freedom);
    return erfc((cbrt(x / freedom) - (1 - spread)) / sqrt(2 * spread)) / 2;
}

const char *st_uniform_name(enum st_uniform_test t)
{
    static const char *const names[] = {"high part", "low part", "neighbours in a row", "rows one after the other"};
    return names[t];
}

static uint32_t part(uint32_t x, uint32_t n)
{
    return (uint32_t)((uint64_t)x * n / ST_FQ);
}

/* Pairs do not overlap, so that they are independent. */
static size_t count_cells(enum st_uniform_test t, const uint32_t *v, size_t n_row, size_t d, uint32_t *cells)
{
    size_t n = 0;
    memset(cells, 0, CELLS * sizeof *cells);
    if (t == ST_UNIFORM_HIGH || t == ST_UNIFORM_LOW)
        for (; n < n_row * d; n++)
            cells[t == ST_UNIFORM_HIGH ? part(v[n], CELLS) : v[n] % LOW_PRIME]++;
    for (size_t r = 0; t == ST_UNIFORM_ALONG && r < n_row; r++)
        for (size_t k = 0; k + 2 <= d; k += 2, n++)
            cells[part(v[r * d + k], SIDE) * SIDE + part(v[r * d + k + 1], SIDE)]++;
    for (size_t r = 0; t == ST_UNIFORM_BETWEEN && r + 2 <= n_row; r += 2)
        for (size_t k = 0; k < d; k++, n++)
            cells[part(v[r * d + k], SIDE) * SIDE + part(v[(r + 1) * d + k], SIDE)]++;
    return n;
}

double st_uniform_p(enum st_uniform_test t, const uint32_t *residues, size_t n_row, size_t d)
{
    uint32_t cells[CELLS];
    size_t n_cell = t == ST_UNIFORM_LOW ? LOW_PRIME : CELLS, n = count_cells(t, residues, n_row, d, cells);
    double want = (double)n / (double)n_cell, x = 0;
    if (want < LEAST_IN_CELL)
        return NAN;
    for (size_t i = 0; i < n_cell; i++)
        x += ((double)cells[i] - want) * ((double)cells[i] - want) / want;
    return st_chi_square_tail(x, (double)n_cell - 1);
}

/* ---- on a recording ---- */

/* Rows of one exchange group, one behind the other. */
struct group {
    int layer, expert;
    char roles[ST_RECORD_ROLES];
    uint32_t d;
    struct st_buf rows;
};

struct groups {
    struct group *at;
    size_t n, cap;
    size_t max_values; /* of one group; 0 = they are only counted */
};

static struct group *group_of(struct groups *g, const struct st_record_entry *entry, struct st_err *e)
{
    for (size_t i = 0; i < g->n; i++)
        if (g->at[i].layer == entry->layer && g->at[i].expert == entry->expert && g->at[i].d == entry->n_in &&
            strcmp(g->at[i].roles, entry->roles) == 0)
            return &g->at[i];
    if (g->n == g->cap) {
        size_t cap = g->cap ? 2 * g->cap : 64;
        struct group *at = realloc(g->at, cap * sizeof *at);
        if (!at) {
            st_fail(e, ST_MEMORY, "recording: no memory for its groups");
            return NULL;
        }
        g->at = at;
        g->cap = cap;
    }
    struct group *new = &g->at[g->n++];
    *new = (struct group){.layer = entry->layer, .expert = entry->expert, .d = entry->n_in};
    memcpy(new->roles, entry->roles, sizeof new->roles);
    return new;
}

static int take_entry(struct groups *g, const char *path, const struct st_record_entry *entry, struct st_err *e)
{
    struct group *group;
    if (entry->kind != ST_RECORD_OUT || entry->n_in == 0 || st_record_is_pair(entry))
        return 0;
    if (entry->format != ST_EXPOSED_FIELD)
        return st_fail(e, ST_UNSUPPORTED, "its rows are floats, which are uniform in nothing");
    for (size_t i = 0; i + 4 <= entry->bytes.len; i += 4) {
        uint32_t word;
        memcpy(&word, entry->bytes.p + i, sizeof word);
        if (word >= ST_FQ)
            return st_fail(e, ST_INPUT, "recording %s: layer %d (%s): a value that is no residue", path, entry->layer,
                           entry->roles);
    }
    if (!(group = group_of(g, entry, e)))
        return e->code;
    size_t room = g->max_values * 4 > group->rows.len ? g->max_values * 4 - group->rows.len : 0,
           row = 4 * (size_t)group->d;
    size_t len = room / row * row < entry->bytes.len ? room / row * row : entry->bytes.len;
    st_buf_add(&group->rows, entry->bytes.p, len);
    return group->rows.failed ? st_fail(e, ST_MEMORY, "recording %s: no memory for its rows", path) : 0;
}

/* One walk over the recording. */
static int read_groups(const struct st_audit *a, struct groups *g, struct st_err *e)
{
    struct st_record *record;
    struct st_record_entry entry;
    const char *path = a->target->recording;
    int rc;
    if (st_record_open(path, &record, e))
        return e->code;
    while ((rc = st_record_next(record, &entry, e)) == 0 && entry.kind != ST_RECORD_END &&
           (rc = take_entry(g, path, &entry, e)) == 0)
        if (a->cancel && *a->cancel) {
            rc = st_fail(e, ST_IO, "cancelled");
            break;
        }
    st_record_close(record);
    return rc;
}

/* Each group gets its share of the memory; buffers that grow take up to twice what they hold. */
static int take_groups(const struct st_audit *a, struct groups *g, struct st_err *e)
{
    if (read_groups(a, g, e))
        return e->code;
    uint64_t own = g->cap * (uint64_t)sizeof *g->at, share = own < a->memory ? (a->memory - own) / (g->n + 1) : 0;
    if (share < LEAST_SHARE)
        return st_fail(e, ST_MEMORY, "%zu groups of rows; --memory leaves each %" PRIu64 " KiB, want %d", g->n,
                       share >> 10, LEAST_SHARE >> 10);
    g->max_values = share / (2 * sizeof(uint32_t)) < MAX_VALUES ? share / (2 * sizeof(uint32_t)) : MAX_VALUES;
    return read_groups(a, g, e);
}

/* Rows of embeddings as residues, no mask on them: what the tests say of those. */
static int bare_rows(const struct st_audit *a, size_t max_values, struct group *out, struct st_err *e)
{
    struct st_dense table;
    const struct st_texts_ids *text = &a->target->text;
    if (st_seen_table(a->target->base, &table, e))
        return e->code;
    *out = (struct group){.d = (uint32_t)table.n_col};
    for (size_t i = 0; i < st_texts_len(text) && out->rows.len < sizeof(uint32_t) * max_values; i++)
        for (size_t k = 0; k < table.n_col && text->ids[i] < table.n_row; k++) {
            uint32_t x = st_fq_from((int64_t)rintf(st_dense_row(&table, text->ids[i])[k] * 0x1p20f));
            st_buf_add(&out->rows, &x, sizeof x);
        }
    st_dense_free(&table);
    return out->rows.failed ? st_fail(e, ST_MEMORY, "rows of the embedding: out of memory") : 0;
}

static void run_tests(enum st_uniform_test t, const struct group *g, size_t n, uint64_t *hits, uint64_t *n_test,
                      double *least)
{
    *hits = *n_test = 0;
    *least = 1;
    for (size_t i = 0; i < n; i++) {
        double p = st_uniform_p(t, (const uint32_t *)(const void *)g[i].rows.p, g[i].rows.len / 4 / g[i].d, g[i].d);
        if (isnan(p))
            continue;
        ++*n_test;
        *hits += p < LEVEL;
        *least = p < *least ? p : *least;
    }
}

static int add_tests(const struct groups *g, const struct group *bare, struct st_rows *rows, struct st_err *e)
{
    for (int t = 0; t < ST_UNIFORM_COUNT; t++) {
        uint64_t hits, n, bare_hits, n_bare;
        double least, ignored;
        struct st_row row = {.chance = LEVEL};
        run_tests((enum st_uniform_test)t, bare, 1, &bare_hits, &n_bare, &ignored);
        run_tests((enum st_uniform_test)t, g->at, g->n, &hits, &n, &least);
        if (n == 0)
            return st_fail(e, ST_UNSUPPORTED, "the recording has too few rows for a test of uniformity");
        row.unprotected = n_bare ? (double)bare_hits / (double)n_bare : NAN;
        snprintf(row.variant, sizeof row.variant, "%s", st_uniform_name((enum st_uniform_test)t));
        snprintf(row.note, sizeof row.note,
                 "%llu groups tested; the least chance is %.2g. One in ten thousand rejects by itself.",
                 (unsigned long long)n, least);
        st_row_share(&row, hits, n);
        if (st_rows_add(rows, &row, e))
            return e->code;
    }
    return 0;
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    struct groups g = {.max_values = 0};
    struct group bare = {0};
    if (!a->target->recording || !a->target->base)
        return st_fail(e, ST_UNSUPPORTED, "needs a recording and its base model");
    int rc = take_groups(a, &g, e);
    if (!rc)
        rc = bare_rows(a, g.max_values, &bare, e);
    if (!rc)
        rc = add_tests(&g, &bare, rows, e);
    for (size_t i = 0; i < g.n; i++)
        st_buf_free(&g.at[i].rows);
    st_buf_free(&bare.rows);
    free(g.at);
    return rc;
}

const struct st_attack st_atk_uniform = {.name = "uniformity",
                                         .title = "Statistical tests of masked rows",
                                         .metric = "share of tests that reject uniform residues at 0.01 %",
                                         .source = "Knuth, TAOCP 2, 3.3",
                                         .adversary = ST_ADVERSARY_WORKER,
                                         .needs = ST_TARGET_RECORD,
                                         .run = run};
