/* Who stands beside whom in a text of ids, and what of it no substitution changes. Arithmetic of audit/decipher.h. */
#ifndef ST_AUDIT_NEIGHBOURS_H
#define ST_AUDIT_NEIGHBOURS_H

#include "audit/dense.h"

/* Neighbours of each id, with how often: those of id y are at[from[y]] to at[from[y + 1]]. Ids from n_type on, and
 * ST_NGRAM_BREAK, are nobody's neighbours. */
struct st_neighbour {
    uint32_t id, count;
};
struct st_neighbours {
    struct st_neighbour *at;
    size_t *from; /* [n_type + 1] */
    uint32_t n_type;
};
/* What follows each id; before: what stands before it. MEMORY. */
int st_neighbours_new(const uint32_t *seq, size_t n, uint32_t n_type, bool before, struct st_neighbours *out,
                      struct st_err *e) ST_MUST_CHECK;
void st_neighbours_free(struct st_neighbours *s);

/* Roots of the largest shares that neighbours have in an id's, in falling order, those that follow and those that stand
 * before: the root of a share of n has deviation 1 / (2 sqrt(n)) whatever the share. out [n_row][2 ST_NEIGHBOUR_MARKS],
 * of the first n_row ids, with counts [n_row]. Shares of few neighbours are larger than those of many: compare texts of
 * one length. */
#define ST_NEIGHBOUR_MARKS 16
int st_neighbour_marks(const uint32_t *seq, size_t n, uint32_t n_type, uint32_t n_row, struct st_dense *out,
                       uint32_t *counts, struct st_err *e) ST_MUST_CHECK;

#endif
