/* A language model of small things: how likely an id is after one or two others, from counts of a text. Ids are
 * renumbered by the caller, 0 to n_type - 1.
 *
 * Absolute discounting, each order backed off to the one below by interpolation: Ney, Essen and Kneser, Computer Speech
 * and Language 8, 1994. Discount 3/4. The lowest order adds 1/2 to each count, so that nothing is impossible. */
#ifndef ST_AUDIT_NGRAM_H
#define ST_AUDIT_NGRAM_H

#include "audit/dense.h"

#include <stddef.h>
#include <stdint.h>

#define ST_NGRAM_BREAK UINT32_MAX          /* in a sequence: nothing is counted across it */
#define ST_NGRAM_TYPES ((uint32_t)1 << 20) /* at most */

/* Counts by key, open addressing. */
struct st_gram {
    uint64_t key; /* 0 = free: keys are shifted by one */
    uint32_t count, followers;
};
struct st_grams {
    struct st_gram *at;
    size_t cap, n; /* cap: a power of two */
};
struct st_ngram {
    uint32_t n_type;
    double *one;            /* [n_type] probability alone */
    struct st_grams after1; /* (y): how often it is followed, by how many kinds */
    struct st_grams two;    /* (y x) */
    struct st_grams after2; /* (z y): the same of two */
    struct st_grams three;  /* (z y x) */
};
/* seq [n]: ids below n_type, or breaks. order 2 or 3: with 2, st_ngram_3() may not be asked. MEMORY. */
int st_ngram_new(const uint32_t *seq, size_t n, uint32_t n_type, int order, struct st_ngram *out,
                 struct st_err *e) ST_MUST_CHECK;
void st_ngram_free(struct st_ngram *m);

/* Probability of x after y, and after z y. */
double st_ngram_2(const struct st_ngram *m, uint32_t y, uint32_t x);
double st_ngram_3(const struct st_ngram *m, uint32_t z, uint32_t y, uint32_t x);
/* out [n_type][n_type]: how much likelier x is after y than alone, at row y and column x; always above 0. */
void st_ngram_ratios(const struct st_ngram *m, struct st_dense *out);

#endif
