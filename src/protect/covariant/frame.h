/* The tight frame: how a hidden state x [d] becomes x P [d + 2h] and how readers of it cancel P.
 *
 * W is Haar-distributed in O(d + 2h). P is its first d rows, so P P^T = I: norms, and with them RMSNorm, are exact. The
 * other 2h rows span what P leaves free, and each reader adds its own random part R [2h, d] there: Q = P^T + W_rest^T
 * R, P Q = I. In the layout of a checkpoint (a matrix is [n_out, n_in]) both are one product with W, on rows of length
 * d: what writes x (embedding rows, columns of o and down):   w -> [w, 0] W what reads x  (rows of q, k, v, gate, up,
 * head):         w -> [w, w R^T] W Source: AloePri, arXiv 2603.01499, section on key matrices, with its Algorithm 1
 * keys replaced by the frame. */
#ifndef ST_PROTECT_COVARIANT_FRAME_H
#define ST_PROTECT_COVARIANT_FRAME_H

#include "crypto/stream.h"

#include <stdbool.h>

struct st_cov_frame {
    uint32_t d, wide; /* wide = d + 2h */
    double *w;        /* [wide, wide] row-major; secret */
};

/* MEMORY. Takes about 8/3 wide^3 operations on one thread. */
int st_cov_frame_init(struct st_cov_frame *f, uint32_t d, uint32_t h, struct st_stream *s,
                      struct st_err *e) ST_MUST_CHECK;
void st_cov_frame_wipe(struct st_cov_frame *f);

/* R [2h, d], normal with variance 1/d. Free with st_cov_doubles_free. */
int st_cov_frame_expand(const struct st_cov_frame *f, struct st_stream *s, double **r, struct st_err *e) ST_MUST_CHECK;

/* rows [n, wide], of which the first d columns are filled; fills the other 2h with rows R^T (r NULL: leaves them). */
void st_cov_frame_extend(const struct st_cov_frame *f, const double *r, double *rows, uint32_t n);
/* out [n, wide] = rows W (reader), or [rows, 0] W when not. */
void st_cov_frame_rows(const struct st_cov_frame *f, bool reader, const double *rows, uint32_t n, double *out);
/* out [wide, n]: the transpose of [rows, 0] W. */
void st_cov_frame_columns(const struct st_cov_frame *f, const double *rows, uint32_t n, double *out);

/* A Haar-distributed orthogonal matrix [n, n]. */
int st_cov_haar(struct st_stream *s, uint32_t n, double *out, struct st_err *e) ST_MUST_CHECK;

/* Secret working memory: zeroed when taken, overwritten when freed. n is that of the allocation. */
int st_cov_doubles(double **out, size_t n, const char *what, struct st_err *e) ST_MUST_CHECK;
void st_cov_doubles_free(double *p, size_t n);

#endif
