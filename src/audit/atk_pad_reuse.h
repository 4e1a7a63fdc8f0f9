/* Two rows behind one pad: their difference holds no mask. Arithmetic of atk_pad_reuse.c on plain arrays. */
#ifndef ST_AUDIT_ATK_PAD_REUSE_H
#define ST_AUDIT_ATK_PAD_REUSE_H

#include "audit/attack.h"
#include "audit/dense.h"

struct st_reuse {
    size_t a, b;               /* rows, a < b */
    uint32_t token_a, token_b; /* what they were found to hold */
    double misfit;             /* of that: distance over the length of a row */
};

/* Pairs of rows [n][d] whose difference is so small that one pad explains it. Residues: every entry of the centred
 * difference is within 1/32 of q, which two fresh pads do with probability 16^-d. Floats at deviation 1: the length of
 * the difference is at most 2 sqrt(d). d >= 16, else INPUT: too few values tell. At most `max` pairs into out; *n is
 * how many there are. All pairs are looked at, most of them by one or two comparisons: rows squared, hence the
 * progress; IO: cancelled. a may be NULL: nobody waits. Rows are finite. */
int st_reuse_find(const struct st_audit *a, const double *rows, size_t n, size_t d, bool field, struct st_reuse *out,
                  size_t max, size_t *found, struct st_err *e) ST_MUST_CHECK;

/* Reads the pairs: with u_t = table[t] at deviation 1, a difference is s (u_a - u_b) with one scale s for all rows, so
 * each candidate a gives s itself, |D|^2 / (2 D.u_a), and b is the row nearest to u_a - D / s. Without a
 * known scale the pair that fits best fixes it for the others. ids [n_id]: candidates, the likely ones of a large
 * vocabulary. IO: cancelled. */
int st_reuse_read(const struct st_audit *a, const double *rows, size_t d, bool field, const struct st_dense *table,
                  const uint32_t *ids, size_t n_id, struct st_reuse *pairs, size_t n, struct st_err *e) ST_MUST_CHECK;

#endif
