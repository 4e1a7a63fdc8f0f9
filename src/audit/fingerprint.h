/* Columns of a product by what no order of its rows changes: mean, deviation and quantiles over the whole vocabulary.
 * The first step of column-first matching, and how rotary pairs are matched.
 *
 * Noise is known to the adversary (the method is public), so its effect on the marks is simulated: noise of the rows
 * adds to column w a deviate of deviation noise |w| per row, noise of the columns another product. The covariance
 * of the marks within a column, pooled over the columns, whitens their distances.
 * Source: ours (papers/attacks.md A2, steps 1 and 2). */
#ifndef ST_AUDIT_FINGERPRINT_H
#define ST_AUDIT_FINGERPRINT_H

#include "audit/deviates.h"
#include "audit/views.h"

#define ST_MARKS 15    /* mean, deviation, 13 quantiles: 7 and their mirror images about the median */
#define ST_MARK_SIMS 6 /* draws of noise */

/* Marks of n values. */
void st_marks(const float *values, size_t n, float out[ST_MARKS]);

/* Marks of every column of rows * columns^T: out [n_column][ST_MARKS], or without noise of ST_MARK_SIMS draws each:
 * out [n_column * ST_MARK_SIMS][ST_MARKS]. each: a column's values are divided by the root of their mean square. */
struct st_mark_noise {
    const struct st_noise_table *table;
    double rows, columns; /* deviations of what is added to their values */
    uint64_t seed;
};
int st_column_marks(struct st_pool *pool, const struct st_dense *rows, const struct st_dense *columns, bool each,
                    const struct st_mark_noise *noise, struct st_dense *out, struct st_err *e) ST_MUST_CHECK;

/* For each column of what was seen the base's column. */
struct st_column_match {
    uint32_t *column; /* [n] */
    float *sign;      /* [n] +1 or -1 */
    float *sure;      /* [n] how much nearer than the second, relative to the distance */
    size_t n;
};
int st_column_match_new(struct st_column_match *m, size_t n, struct st_err *e) ST_MUST_CHECK;
void st_column_match_free(struct st_column_match *m);
/* seen [n][ST_MARKS], sims [m * ST_MARK_SIMS][ST_MARKS]; both signs are tried when columns were scaled. One to one when
 * n = m and n is at most ST_ASSIGN_MAX. */
int st_match_marks(struct st_pool *pool, const struct st_dense *seen, const struct st_dense *sims, bool scaled,
                   struct st_column_match *out, struct st_err *e) ST_MUST_CHECK;

/* Draws [m * ST_MARK_SIMS][k] of m things: their means [m][k], and W [k][k] that whitens what is left. Without noise
 * all of the k count alike. Both are made here. */
int st_whiten_draws(const struct st_dense *draws, struct st_dense *mean, struct st_dense *w,
                    struct st_err *e) ST_MUST_CHECK;

/* From costs [n][m] to columns, and the margin of the second best. One to one when square and small enough. */
#define ST_ASSIGN_MAX 2048
int st_choose_columns(const struct st_dense *cost, uint32_t *column, float *margin, struct st_err *e) ST_MUST_CHECK;

#endif
