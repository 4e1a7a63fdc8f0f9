#include "audit/ngram.h"

#include "base/buf.h"

#include <stdlib.h>

#define DISCOUNT 0.75

static size_t slot_of(const struct st_grams *g, uint64_t key)
{
    uint64_t h = key * 0x9e3779b97f4a7c15u;
    size_t at = (size_t)(h ^ (h >> 29)) & (g->cap - 1);
    while (g->at[at].key && g->at[at].key != key)
        at = (at + 1) & (g->cap - 1);
    return at;
}

/* At most half full, so that a search ends. */
static int grow(struct st_grams *g, struct st_err *e)
{
    struct st_grams wide = {.cap = g->cap ? 2 * g->cap : 1024, .n = g->n};
    if (2 * (g->n + 1) <= g->cap)
        return 0;
    if (st_alloc(&wide.at, wide.cap, sizeof *wide.at, "language model", e))
        return e->code;
    for (size_t i = 0; i < g->cap; i++)
        if (g->at[i].key)
            wide.at[slot_of(&wide, g->at[i].key)] = g->at[i];
    free(g->at);
    *g = wide;
    return 0;
}

/* One more of it; *first says that there was none. */
static int count(struct st_grams *g, uint64_t key, bool follower, bool *first, struct st_err *e)
{
    if (grow(g, e))
        return e->code;
    struct st_gram *x = &g->at[slot_of(g, key + 1)];
    g->n += x->key == 0;
    x->key = key + 1;
    *first = x->count++ == 0;
    x->followers += follower;
    return 0;
}

static const struct st_gram *find(const struct st_grams *g, uint64_t key)
{
    static const struct st_gram none;
    if (!g->cap)
        return &none;
    const struct st_gram *x = &g->at[slot_of(g, key + 1)];
    return x->key ? x : &none;
}

static uint64_t key2(uint32_t y, uint32_t x)
{
    return (uint64_t)y << 20 | x;
}

static uint64_t key3(uint32_t z, uint32_t y, uint32_t x)
{
    return key2(z, y) << 20 | x;
}

static int count_one(const uint32_t *seq, size_t n, struct st_ngram *m, struct st_err *e)
{
    double total = 0;
    if (st_alloc(&m->one, m->n_type, sizeof *m->one, "language model", e))
        return e->code;
    for (size_t i = 0; i < n; i++)
        if (seq[i] != ST_NGRAM_BREAK) {
            m->one[seq[i]]++;
            total++;
        }
    for (uint32_t t = 0; t < m->n_type; t++)
        m->one[t] = (m->one[t] + 0.5) / (total + 0.5 * m->n_type);
    return 0;
}

int st_ngram_new(const uint32_t *seq, size_t n, uint32_t n_type, int order, struct st_ngram *out, struct st_err *e)
{
    *out = (struct st_ngram){.n_type = n_type};
    bool first, ignored;
    int rc = count_one(seq, n, out, e);
    for (size_t i = 1; !rc && i < n; i++) {
        uint32_t x = seq[i], y = seq[i - 1], z = i > 1 ? seq[i - 2] : ST_NGRAM_BREAK;
        if (x == ST_NGRAM_BREAK || y == ST_NGRAM_BREAK)
            continue;
        rc = count(&out->two, key2(y, x), false, &first, e);
        if (!rc)
            rc = count(&out->after1, y, first, &ignored, e);
        if (rc || order < 3 || z == ST_NGRAM_BREAK)
            continue;
        rc = count(&out->three, key3(z, y, x), false, &first, e);
        if (!rc)
            rc = count(&out->after2, key2(z, y), first, &ignored, e);
    }
    if (rc)
        st_ngram_free(out);
    return rc;
}

void st_ngram_free(struct st_ngram *m)
{
    free(m->one);
    free(m->after1.at);
    free(m->two.at);
    free(m->after2.at);
    free(m->three.at);
    *m = (struct st_ngram){0};
}

static double interpolate(const struct st_gram *context, const struct st_gram *whole, double below)
{
    if (!context->count)
        return below;
    double seen = whole->count ? whole->count - DISCOUNT : 0;
    return (seen + DISCOUNT * context->followers * below) / context->count;
}

double st_ngram_2(const struct st_ngram *m, uint32_t y, uint32_t x)
{
    return interpolate(find(&m->after1, y), find(&m->two, key2(y, x)), m->one[x]);
}

double st_ngram_3(const struct st_ngram *m, uint32_t z, uint32_t y, uint32_t x)
{
    return interpolate(find(&m->after2, key2(z, y)), find(&m->three, key3(z, y, x)), st_ngram_2(m, y, x));
}

void st_ngram_ratios(const struct st_ngram *m, struct st_dense *out)
{
    for (uint32_t y = 0; y < m->n_type; y++) {
        const struct st_gram *context = find(&m->after1, y);
        double rest = context->count ? DISCOUNT * context->followers / context->count : 1;
        for (uint32_t x = 0; x < m->n_type; x++)
            st_dense_row(out, y)[x] = (float)rest;
    }
    for (size_t i = 0; i < m->two.cap; i++) {
        const struct st_gram *g = &m->two.at[i];
        if (!g->key)
            continue;
        uint32_t y = (uint32_t)((g->key - 1) >> 20), x = (uint32_t)((g->key - 1) & (ST_NGRAM_TYPES - 1));
        st_dense_row(out, y)[x] += (float)((g->count - DISCOUNT) / (find(&m->after1, y)->count * m->one[x]));
    }
}
