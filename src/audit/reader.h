/* A transformer that reads a text of rows (one for each token, of one kind) and says rows of another kind: at each
 * place out = A x + C f(B x), f two layers of eight heads that look both ways (audit/blocks.h). What stands around a
 * token so helps to tell which one it is. Trained by least squares over the places whose row is known, by Adam.
 *
 * A begins as a map that the caller has; B and C are random, C small: what is learned is what the map leaves. Limits:
 * of texts windows of ST_READER_LEN tokens are read, without what stands before them. Source: arXiv 2603.01499, section
 * 6 (a transformer of two layers and eight heads); the form is ours. */
#ifndef ST_AUDIT_READER_H
#define ST_AUDIT_READER_H

#include "audit/blocks.h"
#include "audit/dense.h"
#include "audit/text.h"

#include <signal.h>

#define ST_READER_LEN 32

struct st_reader {
    struct st_blocks blocks;
    uint32_t n_in, n_out;
    float *a, *b, *c; /* [n_out][n_in], [d][n_in], [n_out][d]; one allocation */
    size_t n_w;
};
/* map [n_in][n_out]: x map is what is said at first; NULL = x itself (n_in = n_out). */
int st_reader_new(struct st_reader *r, uint32_t n_in, uint32_t n_out, const struct st_dense *map, uint64_t seed,
                  struct st_err *e) ST_MUST_CHECK;
void st_reader_free(struct st_reader *r);

struct st_reader_lesson {
    const struct st_dense *rows, *table; /* [..][n_in]; [n_id][n_out] */
    const uint32_t *row;                 /* [n_id] the row of an id; ST_READER_UNKNOWN = not known: */
    const uint32_t *others;              /* [n_other] one of these stands for it */
    size_t n_other;
    const struct st_texts_ids *text; /* ids, at least one window of them */
    double noise;                    /* deviation of what is added to each value of a row, anew each time */
    uint32_t n_step;
    uint64_t seed;
    const volatile sig_atomic_t *cancel; /* may be NULL */
};
#define ST_READER_UNKNOWN UINT32_MAX
/* INPUT: text shorter than a window, or no row is known; IO: cancelled; MEMORY. */
int st_reader_train(struct st_reader *r, const struct st_reader_lesson *l, struct st_err *e) ST_MUST_CHECK;
/* Reads n rows by number; sums [rows.n_row][n_out] gets what is said of each, added up. What is left of the last
 * window is not read. */
int st_reader_read(const struct st_reader *r, const struct st_dense *rows, const uint32_t *number, size_t n,
                   const volatile sig_atomic_t *cancel, struct st_dense *sums, struct st_err *e) ST_MUST_CHECK;

#endif
