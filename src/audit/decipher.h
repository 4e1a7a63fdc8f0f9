/* A substitution of ids is read with a language model of public text and nothing else. Arithmetic of
 * atk_substitution.c on plain arrays.
 *
 *   1. frequent ids of both texts; how much their counts and the sorted counts of their neighbours are alike, which
 *      no substitution changes, gives a first belief q(id, plain)
 *   2. in turns: each id is compared with each plain id by its neighbours, the neighbours read as q believes them:
 *      sum of c(a, b) log sum_y q(b, y) P(x y) / (P(x) P(y)), both sides; a plain id is shared by no more ids than it
 *      has (Sinkhorn). Counts are damped at first, so that frequent ids do not settle before others tell about them
 *   3. hill climbing: pairs of ids change places when a trigram model likes the text better
 *   4. ids beyond the frequent ones by rank
 *
 * Memory: 5 matrices of n_type^2 floats, four of them up to ST_DECIPHER_MORE times as large with homophones. Sources:
 * EM for substitutions, Knight et al., ACL 2006; one-to-one by Sinkhorn's scaling, Gold and Rangarajan, IEEE PAMI 18,
 * 1996; what it stands in for, Aldarrab and May, EMNLP 2021. */
#ifndef ST_AUDIT_DECIPHER_H
#define ST_AUDIT_DECIPHER_H

#include "audit/text.h"
#include "base/pool.h"

struct st_decipher {
    const struct st_texts_ids *sent, *prior;
    uint32_t n_id, n_plain; /* ids that there are in each */
    uint32_t n_type;        /* frequent ones that are looked at; with homophones so many plain ids, and more of sent */
    const uint32_t *copies; /* [n_plain] further ids that each plain id has (homophones); NULL = none has */
    int rounds;             /* of 2; 0 = ST_DECIPHER_ROUNDS */
    const volatile sig_atomic_t *cancel;
    void (*progress)(void *arg, double part);
    void *arg;
};
#define ST_DECIPHER_ROUNDS 12
#define ST_DECIPHER_MORE 3
/* Bytes it takes at most. */
uint64_t st_decipher_bytes(const struct st_decipher *d);

/* guess [n_id]: plain id of each id; n_plain for those that did not occur. MEMORY; IO: cancelled. */
int st_decipher(struct st_pool *pool, const struct st_decipher *d, uint32_t *guess, struct st_err *e) ST_MUST_CHECK;

#endif
