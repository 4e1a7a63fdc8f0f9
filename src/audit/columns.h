/* Column-first matching: from a view of the base and one of the obfuscated model to a guess of every cipher id's row.
 * Columns are matched by their marks (audit/fingerprint.h), rows are estimated from the columns that are sure, columns
 * are matched again by correlation over the rows that are sure, and so on (expectation and maximisation in turns).
 *
 * All rows take part up to ST_COLUMNS_ROWS; of larger vocabularies that many, drawn by the seed, and all of them in the
 * last estimate. Memory at d 2048, 4 layers of 5632 columns, vocabulary 32000: 3 GiB beside the views.
 * Source: ours (papers/attacks.md A2, steps 3 to 5). Differs from it in scale: products have mean square 1 with the
 * noise counted, and rows are matched in the metric of all that the estimate leaves open. */
#ifndef ST_AUDIT_COLUMNS_H
#define ST_AUDIT_COLUMNS_H

#include "audit/fingerprint.h"

#include <signal.h>

#define ST_COLUMNS_ROWS 4096

/* What matching takes at most beside the views, of vocabularies of n ids and widths d of the base and wide of seen. */
uint64_t st_columns_bytes(size_t n, size_t d, size_t wide, size_t n_column, size_t widest);

struct st_columns_opts {
    double rows, columns; /* noise over the standard deviation: of the rows' matrix, of all others */
    uint32_t n_round;     /* 0 = 8; less when a round changes next to nothing */
    uint64_t seed;
    const volatile sig_atomic_t *cancel;       /* may be NULL */
    void (*progress)(void *arg, double share); /* may be NULL */
    void *arg;
};

/* Points whose squared distances say how unlikely it is that a cipher id is a plain id: those of several views add up
 * when the points are put side by side. */
struct st_columns_found {
    struct st_dense guess;           /* [n_vocab of seen][d] */
    struct st_dense rows;            /* [n_vocab of base][d] */
    struct st_column_match *columns; /* [n_layer] */
    uint32_t n_layer;
};

/* Both views are normalised here (their columns change). INPUT: other numbers of layers, or fewer columns than the
 * base; IO: cancelled. */
int st_columns_first(struct st_pool *pool, struct st_view *base, struct st_view *seen, const struct st_columns_opts *o,
                     struct st_columns_found *out, struct st_err *e) ST_MUST_CHECK;
void st_columns_found_free(struct st_columns_found *f);

#endif
