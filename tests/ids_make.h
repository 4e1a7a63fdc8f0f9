/* Texts of ids for attacks of an observer: a made language, in which each id is followed by a few others, and what a
 * substitution makes of a text. */
#ifndef ST_TESTS_IDS_MAKE_H
#define ST_TESTS_IDS_MAKE_H

#include "audit/heard.h"
#include "audit/metrics.h"
#include "base/hooks.h"
#include "expect.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define DOC 100 /* ids of a document */
#define NEXT 6  /* ids that may follow an id */

struct language {
    uint32_t n, next[512][NEXT];
};

/* Frequent ids follow more of the others, so that counts fall as they do in a language. */
static inline struct language *language_of(uint64_t seed, uint32_t n)
{
    struct language *l = calloc(1, sizeof *l);
    struct st_rng rng;
    assert_true(l && n <= 512);
    l->n = n;
    st_rng_seed(&rng, seed);
    for (uint32_t i = 0; i < n; i++)
        for (int k = 0; k < NEXT; k++) {
            double u = st_rng_unit(&rng);
            l->next[i][k] = (uint32_t)((double)n * u * u);
        }
    return l;
}

struct words {
    struct st_texts_ids t;
    uint32_t *ids;
    size_t *ends;
};

static inline struct words words_new(size_t n_doc)
{
    struct words w = {.ids = malloc(n_doc * DOC * sizeof *w.ids), .ends = malloc(n_doc * sizeof *w.ends)};
    assert_true(w.ids && w.ends);
    for (size_t d = 0; d < n_doc; d++)
        w.ends[d] = (d + 1) * DOC;
    w.t = (struct st_texts_ids){.ids = w.ids, .ends = w.ends, .n = n_doc};
    return w;
}

/* l NULL: uniform ids below n. */
static inline struct words speak(const struct language *l, uint32_t n, size_t n_doc, uint64_t seed)
{
    struct words w = words_new(n_doc);
    struct st_rng rng;
    st_rng_seed(&rng, seed);
    for (size_t i = 0; i < n_doc * DOC; i++) {
        double u = st_rng_unit(&rng);
        if (l)
            w.ids[i] = i % DOC ? l->next[w.ids[i - 1]][(int)(NEXT * u * u)] : 0;
        else
            w.ids[i] = (uint32_t)(u * n);
    }
    return w;
}

static inline void words_free(struct words *w)
{
    free(w->ids);
    free(w->ends);
}

/* truth [n + n_frequent * n_copy]: a shuffled table; the first n_frequent plain ids have n_copy more ids each. */
static inline uint32_t *table_of(uint64_t seed, uint32_t n, uint32_t n_frequent, uint32_t n_copy)
{
    uint32_t all = n + n_frequent * n_copy, *truth = malloc(all * sizeof *truth);
    struct st_rng rng;
    assert_non_null(truth);
    for (uint32_t i = 0; i < all; i++)
        truth[i] = i < n ? i : (i - n) / n_copy;
    st_rng_seed(&rng, seed);
    for (uint32_t i = all; i > 1; i--) {
        uint32_t j = (uint32_t)(st_rng_next(&rng) % i), x = truth[i - 1];
        truth[i - 1] = truth[j];
        truth[j] = x;
    }
    return truth;
}

static inline double text_share(const struct st_heard *h, const uint32_t *guess)
{
    size_t n = st_texts_len(&h->text);
    uint32_t *got = malloc(n * sizeof *got);
    size_t hits = 0;
    assert_non_null(got);
    st_heard_read(h, guess, got);
    for (size_t i = 0; i < n; i++)
        hits += got[i] == h->text.ids[i];
    free(got);
    return (double)hits / (double)n;
}

static inline double type_share(const struct st_heard *h, const uint32_t *guess)
{
    struct st_row row = {.n = 0};
    st_score_types(&row, guess, h->truth, h->n_id, h->n_plain, NULL);
    return row.score;
}

#endif
