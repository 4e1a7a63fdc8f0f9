#include "audit/metrics.h"
#include "base/buf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void st_score_top_k(struct st_row *row, const uint32_t *guess, size_t k, const uint32_t *truth, size_t n_seen,
                    uint32_t none, const bool *used)
{
    uint64_t hits = 0, n = 0;
    for (size_t i = 0; i < n_seen; i++) {
        if (truth[i] == none || (used && !used[truth[i]]))
            continue;
        n++;
        for (size_t j = 0; j < k; j++)
            if (guess[i * k + j] == truth[i]) {
                hits++;
                break;
            }
    }
    st_row_share(row, hits, n);
}

void st_score_types(struct st_row *row, const uint32_t *guess, const uint32_t *truth, size_t n_seen, uint32_t none,
                    const bool *used)
{
    st_score_top_k(row, guess, 1, truth, n_seen, none, used);
}

void st_score_used(const struct st_texts_ids *text, bool *used, size_t n_plain)
{
    memset(used, 0, n_plain * sizeof *used);
    for (size_t i = 0, n = st_texts_len(text); i < n; i++)
        if (text->ids[i] < n_plain)
            used[text->ids[i]] = true;
}

void st_score_right(const uint32_t *guess, const uint32_t *truth, size_t n_seen, uint32_t none, bool *right,
                    size_t n_plain)
{
    memset(right, 0, n_plain * sizeof *right);
    for (size_t i = 0; i < n_seen; i++)
        if (truth[i] != none)
            right[truth[i]] = true;
    for (size_t i = 0; i < n_seen; i++)
        if (truth[i] != none && guess[i] != truth[i])
            right[truth[i]] = false;
}

int st_score_weigh(const uint32_t *ids, size_t n, uint32_t n_id, const bool *used, struct st_score_weights *out,
                   struct st_err *e)
{
    double squares = 0;
    uint64_t most = 0, *count;
    *out = (struct st_score_weights){.n = 0};
    if (st_alloc(&count, n_id, sizeof *count, "scores", e))
        return e->code;
    for (size_t i = 0; i < n; i++)
        if (!used || used[ids[i]]) {
            out->n++;
            count[ids[i]]++;
        }
    for (size_t id = 0; id < n_id; id++) {
        squares += (double)count[id] * (double)count[id];
        most = count[id] > most ? count[id] : most;
    }
    free(count);
    if (out->n) {
        out->independent = (double)out->n * (double)out->n / squares;
        out->commonest = (double)most / (double)out->n;
    }
    return 0;
}

int st_score_table_text(struct st_row *row, const bool *right, const struct st_texts_ids *text, const bool *used,
                        uint32_t n_plain, struct st_err *e)
{
    struct st_score_weights w;
    uint64_t hits = 0;
    if (st_score_weigh(text->ids, st_texts_len(text), n_plain, used, &w, e))
        return e->code;
    for (size_t i = 0; i < st_texts_len(text); i++)
        hits += right[text->ids[i]] && (!used || used[text->ids[i]]);
    st_row_share_of(row, hits, w.n, w.independent);
    row->chance = w.commonest;
    return 0;
}

void st_score_items(struct st_row *row, const bool *right, const struct st_texts_ids *text)
{
    uint64_t hits = 0;
    for (size_t i = 0; i < text->n_item; i++) {
        bool whole = true;
        for (size_t j = text->items[i].lo; j < text->items[i].hi; j++)
            whole = whole && right[text->ids[j]];
        hits += whole;
    }
    st_row_share(row, hits, text->n_item);
}

void st_score_position_items(struct st_row *row, const uint32_t *got, const struct st_texts_ids *text)
{
    uint64_t hits = 0;
    for (size_t i = 0; i < text->n_item; i++) {
        const struct st_text_item *t = &text->items[i];
        hits += memcmp(got + t->lo, text->ids + t->lo, (t->hi - t->lo) * sizeof *got) == 0;
    }
    st_row_share(row, hits, text->n_item);
}

double st_score_cosine(const float *a, const float *b, size_t n)
{
    double ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < n; i++) {
        ab += (double)a[i] * b[i];
        aa += (double)a[i] * a[i];
        bb += (double)b[i] * b[i];
    }
    return aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : 0;
}

#define ORDER 4

struct gram {
    uint32_t id[ORDER];
};

static int by_gram(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct gram));
}

/* Sorted n-grams of one document; behind the order's ids are zeros. */
static size_t grams(const uint32_t *ids, size_t len, size_t order, struct gram *out)
{
    size_t n = len >= order ? len - order + 1 : 0;
    for (size_t i = 0; i < n; i++) {
        out[i] = (struct gram){.id = {0}};
        memcpy(out[i].id, ids + i, order * sizeof *ids);
    }
    qsort(out, n, sizeof *out, by_gram);
    return n;
}

/* How many of a's are in b, each of b's once. */
static uint64_t common(const struct gram *a, size_t n_a, const struct gram *b, size_t n_b)
{
    uint64_t n = 0;
    for (size_t i = 0, j = 0; i < n_a && j < n_b;) {
        int c = by_gram(a + i, b + j);
        n += c == 0;
        i += c <= 0;
        j += c >= 0;
    }
    return n;
}

double st_score_bleu4(const struct st_texts_ids *got, const struct st_texts_ids *want)
{
    size_t n_got = st_texts_len(got), n_want = st_texts_len(want), n_doc = got->n < want->n ? got->n : want->n;
    uint64_t hits[ORDER] = {0}, total[ORDER] = {0};
    struct gram *a = malloc((n_got + n_want + 1) * sizeof *a);
    if (!a)
        return NAN;
    struct gram *b = a + n_got;
    for (size_t d = 0; d < n_doc; d++) {
        size_t lo_a = d ? got->ends[d - 1] : 0, lo_b = d ? want->ends[d - 1] : 0;
        for (size_t k = 0; k < ORDER; k++) {
            size_t n_a = grams(got->ids + lo_a, got->ends[d] - lo_a, k + 1, a);
            size_t n_b = grams(want->ids + lo_b, want->ends[d] - lo_b, k + 1, b);
            hits[k] += common(a, n_a, b, n_b);
            total[k] += n_a;
        }
    }
    free(a);
    double log_mean = 0;
    for (size_t k = 0; k < ORDER; k++) {
        if (!hits[k])
            return 0;
        log_mean += log((double)hits[k] / (double)total[k]) / ORDER;
    }
    return exp(log_mean) * (n_got < n_want ? exp(1 - (double)n_want / (double)n_got) : 1);
}
