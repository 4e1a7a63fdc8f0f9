#include "audit/seen.h"
#include "audit/metrics.h"
#include "audit/subspace.h"
#include "base/buf.h"
#include "engine/record.h"
#include "field/fq.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- rows of a recording ---- */

/* One walk over the recording: counts rows, or copies them once there is room. */
struct walk {
    const char *path;
    int layer;
    size_t max_row, max_asked, n, n_asked;
    char roles[ST_RECORD_ROLES]; /* of the layer's first group */
    uint32_t d;
    enum st_exposed_format format;
    struct st_seen *out; /* NULL = count */
};

static int copy_rows(const struct walk *w, const struct st_record_entry *entry, size_t n, double *to, struct st_err *e)
{
    size_t count = n * entry->n_in;
    for (size_t i = 0; i < count; i++) {
        uint32_t word;
        float value;
        memcpy(&word, entry->bytes.p + i * sizeof word, sizeof word);
        memcpy(&value, &word, sizeof value);
        to[i] = entry->format == ST_EXPOSED_FIELD ? st_fq_centre(word) : (double)value;
        if (!isfinite(to[i]))
            return st_fail(e, ST_INPUT, "recording %s: layer %d (%s): a value that is not finite", w->path, w->layer,
                           w->roles);
    }
    return 0;
}

static int check_group(struct walk *w, const struct st_record_entry *entry, struct st_err *e)
{
    if (w->d == 0) {
        memcpy(w->roles, entry->roles, sizeof w->roles);
        w->d = entry->n_in;
        w->format = entry->format;
    }
    if (entry->n_in == 0 || entry->n_in != w->d || entry->format != w->format)
        return st_fail(e, ST_INPUT, "recording %s: layer %d (%s): rows of %u values, want %u of one format", w->path,
                       w->layer, w->roles, entry->n_in, w->d);
    return 0;
}

static int take_entry(struct walk *w, const struct st_record_entry *entry, struct st_err *e)
{
    if (entry->kind != ST_RECORD_OUT || entry->layer != w->layer || st_record_is_pair(entry) ||
        (w->d && strcmp(entry->roles, w->roles) != 0))
        return 0;
    if (check_group(w, entry, e))
        return e->code;
    bool asked = entry->id >= ST_SEEN_ASKED;
    size_t *n = asked ? &w->n_asked : &w->n, some = entry->n_row, left = (asked ? w->max_asked : w->max_row) - *n;
    if (some > left)
        some = left;
    if (w->out && copy_rows(w, entry, some, (asked ? w->out->asked : w->out->rows) + *n * w->d, e))
        return e->code;
    *n += some;
    return 0;
}

static int walk(struct walk *w, struct st_err *e)
{
    struct st_record *record;
    struct st_record_entry entry;
    int rc;
    w->n = w->n_asked = 0;
    if (st_record_open(w->path, &record, e))
        return e->code;
    while ((rc = st_record_next(record, &entry, e)) == 0 && entry.kind != ST_RECORD_END &&
           entry.kind != ST_RECORD_FULL && (rc = take_entry(w, &entry, e)) == 0)
        ;
    if (!rc && (entry.kind == ST_RECORD_FULL || entry.torn) && w->n < w->max_row)
        rc = st_fail(e, ST_INPUT, "recording %s: %s, before the end of the text", w->path,
                     entry.torn ? "cut short" : "full");
    if (!rc && w->n == 0)
        rc = st_fail(e, ST_INPUT, "recording %s: no rows of layer %d", w->path, w->layer);
    st_record_close(record);
    return rc;
}

int st_seen_read(const char *path, int layer, size_t max_row, uint64_t memory, struct st_seen *out, struct st_err *e)
{
    struct walk w = {.path = path, .layer = layer, .max_row = max_row, .max_asked = SIZE_MAX};
    size_t values;
    *out = (struct st_seen){0};
    if (walk(&w, e))
        return e->code;
    if (!st_mul_size(w.n + w.n_asked, (size_t)w.d * sizeof(double), &values) || values > memory)
        return st_fail(e, ST_MEMORY, "recording %s: %zu rows of %u values of layer %d are more than the memory given",
                       path, w.n + w.n_asked, w.d, layer);
    *out = (struct st_seen){.d = w.d, .n = w.n, .n_asked = w.n_asked, .field = w.format == ST_EXPOSED_FIELD};
    /* Of a recording that still grows: no more than there is room for. */
    w.out = out;
    w.max_row = w.n;
    w.max_asked = w.n_asked;
    if (st_alloc(&out->rows, w.n, w.d * sizeof *out->rows, "recorded rows", e) ||
        st_alloc(&out->asked, w.n_asked ? w.n_asked : 1, w.d * sizeof *out->asked, "recorded rows", e) || walk(&w, e)) {
        st_seen_free(out);
        return e->code;
    }
    return 0;
}

void st_seen_free(struct st_seen *s)
{
    free(s->rows);
    free(s->asked);
    *s = (struct st_seen){0};
}

/* ---- the embedding ---- */

int st_seen_table(const struct st_model *m, struct st_dense *out, struct st_err *e)
{
    const struct st_mat *embed = NULL;
    for (int i = 0; i < m->plan.n_op && !embed; i++)
        if (m->plan.ops[i].op == ST_OP_EMBED)
            embed = &m->mats[m->plan.ops[i].weight];
    if (!embed || !embed->data || embed->dtype == ST_DTYPE_I8)
        return st_fail(e, ST_UNSUPPORTED, "%s: no embedding in floats", m->name);
    if (st_dense_new(out, embed->n_out, embed->n_in, "the embedding", e))
        return e->code;
    st_convert(embed->dtype, embed->data, ST_DTYPE_F32, out->p, out->n_row * out->n_col);
    for (size_t r = 0; r < out->n_row; r++) {
        float *p = st_dense_row(out, r);
        double square = 0;
        for (size_t k = 0; k < out->n_col; k++)
            square += (double)p[k] * p[k];
        float scale = square > 0 ? (float)sqrt((double)out->n_col / square) : 0;
        for (size_t k = 0; k < out->n_col; k++)
            p[k] *= scale;
    }
    return 0;
}

/* ---- rows and text ---- */

static int check_text(const struct st_target *t, const struct st_seen_text *s, size_t n, struct st_err *e)
{
    if (s->seen.d != s->table.n_col)
        return st_fail(e, ST_INPUT, "recording %s: rows of %zu values, but the model has %zu", t->recording, s->seen.d,
                       s->table.n_col);
    if (s->seen.n < n)
        return st_fail(e, ST_INPUT, "recording %s: %zu rows, but the text has %zu ids", t->recording, s->seen.n, n);
    for (size_t i = 0; i < n; i++)
        if (t->text.ids[i] >= s->table.n_row)
            return st_fail(e, ST_INPUT, "text: an id beyond the model's %zu", s->table.n_row);
    return 0;
}

int st_seen_open(const struct st_audit *a, int layer, struct st_seen_text *out, struct st_err *e)
{
    const struct st_target *t = a->target;
    size_t n = st_texts_len(&t->text);
    *out = (struct st_seen_text){0};
    if (!t->recording || !t->base || n == 0)
        return st_fail(e, ST_UNSUPPORTED, "needs a recording, its base model and the text that was asked");
    if (st_seen_read(t->recording, layer, n, a->memory, &out->seen, e) || st_seen_table(t->base, &out->table, e) ||
        check_text(t, out, n, e)) {
        st_seen_close(out);
        return e->code;
    }
    return 0;
}

void st_seen_close(struct st_seen_text *s)
{
    st_seen_free(&s->seen);
    st_dense_free(&s->table);
}

/* ---- scores ---- */

double st_seen_chance(const uint32_t *ids, size_t n, uint32_t n_vocab)
{
    struct st_err e;
    uint32_t *count, most = 0;
    if (st_alloc(&count, n_vocab, sizeof *count, "counts", &e))
        return NAN;
    for (size_t i = 0; i < n; i++)
        if (++count[ids[i]] > most)
            most = count[ids[i]];
    free(count);
    return n ? (double)most / (double)n : 0;
}

/* What the same match gets from rows that nothing hides: all but tokens with the same embedding. */
static int bare_share(struct st_pool *pool, const struct st_dense *table, const uint32_t *ids, size_t n, double *out,
                      struct st_err *e)
{
    struct st_dense rows, copy = {0};
    uint32_t *got = NULL;
    size_t hits = 0;
    int rc = st_dense_new(&rows, n, table->n_col, "rows", e);
    if (!rc)
        rc = st_dense_new(&copy, table->n_row, table->n_col, "the embedding", e);
    if (!rc)
        rc = st_alloc(&got, n, sizeof *got, "rows", e);
    if (!rc) {
        memcpy(copy.p, table->p, table->n_row * table->n_col * sizeof *copy.p);
        for (size_t i = 0; i < n; i++)
            memcpy(st_dense_row(&rows, i), st_dense_row(table, ids[i]), table->n_col * sizeof *rows.p);
        rc = st_dense_nearest(pool, &rows, &copy, got, NULL, NULL, e);
    }
    for (size_t i = 0; i < n && !rc; i++)
        hits += got[i] == ids[i];
    *out = (double)hits / (double)n;
    st_dense_free(&rows);
    st_dense_free(&copy);
    free(got);
    return rc;
}

static int add_items(const struct st_audit *a, const uint32_t *got, const struct st_row *row, struct st_rows *rows,
                     struct st_err *e)
{
    struct st_row items = *row;
    if (a->target->text.n_item == 0)
        return 0;
    st_score_position_items(&items, got, &a->target->text);
    items.metric = "share of personal items recovered";
    size_t at = strlen(items.variant);
    snprintf(items.variant + at, sizeof items.variant - at, ", items");
    items.chance = 0;
    return st_rows_add(rows, &items, e);
}

int st_seen_score(const struct st_audit *a, const struct st_seen_text *s, size_t from, const double *rest, size_t k,
                  struct st_row *row, struct st_rows *rows, struct st_err *e)
{
    const uint32_t *ids = a->target->text.ids + from;
    size_t n = s->seen.n - from, hits = 0;
    uint32_t *got;
    if (st_alloc(&got, n ? n : 1, sizeof *got, "tokens", e))
        return e->code;
    int rc = st_subspace_match(a->pool, s->seen.rows + from * s->seen.d, n, &s->table, rest, k, s->seen.field, got, e);
    for (size_t i = 0; i < n && !rc; i++)
        hits += got[i] == ids[i];
    st_row_share(row, hits, n);
    row->chance = st_seen_chance(ids, n, (uint32_t)s->table.n_row);
    if (!rc)
        rc = bare_share(a->pool, &s->table, ids, n, &row->unprotected, e);
    if (!rc)
        rc = st_rows_add(rows, row, e);
    if (!rc && from == 0)
        rc = add_items(a, got, row, rows, e);
    free(got);
    return rc;
}
