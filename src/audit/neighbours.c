#include "audit/neighbours.h"

#include "base/buf.h"

#include <math.h>
#include <stdlib.h>

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static size_t pairs_of(const uint32_t *seq, size_t n, uint32_t n_type, bool before, uint64_t *out)
{
    size_t n_pair = 0;
    for (size_t i = 1; i < n; i++) {
        uint64_t of = seq[before ? i : i - 1], other = seq[before ? i - 1 : i];
        if (of < n_type && other < n_type)
            out[n_pair++] = of << 32 | other;
    }
    qsort(out, n_pair, sizeof *out, by_value);
    return n_pair;
}

int st_neighbours_new(const uint32_t *seq, size_t n, uint32_t n_type, bool before, struct st_neighbours *out,
                      struct st_err *e)
{
    uint64_t *pairs = NULL;
    *out = (struct st_neighbours){.n_type = n_type};
    int rc = st_alloc(&pairs, n + 1, sizeof *pairs, "neighbours", e);
    size_t n_pair = rc ? 0 : pairs_of(seq, n, n_type, before, pairs), k = 0;
    if (!rc)
        rc = st_alloc(&out->at, n_pair + 1, sizeof *out->at, "neighbours", e);
    if (!rc)
        rc = st_alloc(&out->from, (size_t)n_type + 1, sizeof *out->from, "neighbours", e);
    for (size_t i = 0; !rc && i < n_pair; i++) {
        if (i && pairs[i] == pairs[i - 1]) {
            out->at[k - 1].count++;
            continue;
        }
        out->at[k++] = (struct st_neighbour){(uint32_t)pairs[i], 1};
        out->from[(pairs[i] >> 32) + 1] = k;
    }
    for (uint32_t t = 0; !rc && t < n_type; t++) /* ids without any end where the one before them does */
        if (out->from[t + 1] < out->from[t])
            out->from[t + 1] = out->from[t];
    free(pairs);
    if (rc)
        st_neighbours_free(out);
    return rc;
}

void st_neighbours_free(struct st_neighbours *s)
{
    free(s->at);
    free(s->from);
    *s = (struct st_neighbours){0};
}

/* The largest counts of one id's neighbours, falling, as roots of shares. */
static void marks_of(const struct st_neighbour *at, size_t n, float out[ST_NEIGHBOUR_MARKS])
{
    uint32_t top[ST_NEIGHBOUR_MARKS] = {0};
    uint64_t total = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t c = at[i].count;
        total += c;
        for (size_t k = 0; k < ST_NEIGHBOUR_MARKS && c; k++)
            if (c > top[k]) {
                uint32_t moved = top[k];
                top[k] = c;
                c = moved;
            }
    }
    for (size_t k = 0; k < ST_NEIGHBOUR_MARKS; k++)
        out[k] = total ? (float)sqrt((double)top[k] / (double)total) : 0;
}

int st_neighbour_marks(const uint32_t *seq, size_t n, uint32_t n_type, uint32_t n_row, struct st_dense *out,
                       uint32_t *counts, struct st_err *e)
{
    struct st_neighbours s = {0};
    int rc = st_dense_new(out, n_row, 2 * ST_NEIGHBOUR_MARKS, "neighbours", e);
    for (int side = 0; !rc && side < 2; side++) {
        rc = st_neighbours_new(seq, n, n_type, side, &s, e);
        for (uint32_t t = 0; !rc && t < n_row; t++)
            marks_of(s.at + s.from[t], s.from[t + 1] - s.from[t],
                     st_dense_row(out, t) + (side ? ST_NEIGHBOUR_MARKS : 0));
        st_neighbours_free(&s);
    }
    for (uint32_t t = 0; !rc && t < n_row; t++)
        counts[t] = 0;
    for (size_t i = 0; !rc && i < n; i++)
        if (seq[i] < n_row)
            counts[seq[i]]++;
    return rc;
}
