/* The frame: how a hidden state x [d] becomes x P [d + 2h], and how the weights that read it cancel P.
 *
 * Row convention, y = x W. Both presets come down to two matrices, drawn in double:
 *     writer  P [d, wide]            rows w [d] of a weight that writes x (embedding, columns of o and down) -> w P
 *     reader  [d + spare, wide]      rows w of a weight that reads x (q, k, v, gate, up, head)  -> [w, w R^T] reader
 * with R [spare, d] normal of deviation `spread`, fresh for each reading tensor. The upper d rows of `reader` are a
 * right inverse of P (writer upper^T = I) and the others lie in its null space, so x P meets [w, w R^T] reader as x met
 * w.
 *
 *   tight  W is Haar-distributed in O(wide). P is its first d rows, reader is W, spare = 2h. P P^T = I: norms, and with
 *          them RMSNorm, are exact. spread = d^-1/2 / 2: R lengthens what a tensor stores, and its rounding with it, by
 *          1 + 2h spread^2 (energy; a quarter of that of spread d^-1/2). (Ours.)
 *   paper  P = [B C E] Z and reader = [[B^-T F^T 0] Z ; [0 0 N^T] Z], Z Haar in O(wide), B = U + lambda V (U Haar, V
 *          normal of variance 1/d), E and F of rank h/2, C F = 0 and E N = 0; spare = h/2, which is all that D = s N G
 *          can hold, and spread = s. Norms are changed by a few per cent: kappa is measured (calibrate.h). AloePri,
 * arXiv 2603.01499, Algorithm 1, with C and D in the null spaces that fit (its rows and columns are swapped in print),
 * scale s = d^-1/2 (not given there) and one C for all writers. The matrices are secret and are overwritten when freed.
 */
#ifndef ST_PROTECT_COVARIANT_FRAME_H
#define ST_PROTECT_COVARIANT_FRAME_H

#include "crypto/stream.h"
#include "protect/covariant/covariant.h"

struct st_cov_frame {
    uint32_t d, wide, spare;
    float spread;
    double *writer;             /* [d, wide] */
    double *reader;             /* [d + spare, wide]; tight: its first d rows are the writer, one allocation */
    float *writer32, *reader32; /* the same, cast once: what the large products run on */
};

/* s is the stream "frame" of the key. tight with h = 0 is an orthogonal change of basis, as latents need it. About 8/3
 * wide^3 operations on one thread (LAPACK's results depend on their number). MEMORY; USAGE: paper with an odd h, or a
 * lambda for which no well-conditioned B turned up. */
int st_cov_frame_init(struct st_cov_frame *f, enum st_cov_preset preset, uint32_t d, uint32_t h, double lambda,
                      struct st_stream *s, struct st_err *e) ST_MUST_CHECK;
void st_cov_frame_wipe(struct st_cov_frame *f);
/* What it holds. */
uint64_t st_cov_frame_bytes(const struct st_cov_frame *f);

/* Rows lo..lo+n of R^T [d, spare] in f32; s is the stream "expand.<tensor>" of the key. Any rows, in any order. */
void st_cov_frame_expand(const struct st_cov_frame *f, struct st_stream *s, uint32_t lo, uint32_t n, float *rt);

/* Of one preset each; called by st_cov_frame_init(), which wipes after an error. */
int st_cov_frame_tight(struct st_cov_frame *f, uint32_t h, struct st_stream *s, struct st_err *e) ST_MUST_CHECK;
int st_cov_frame_paper(struct st_cov_frame *f, uint32_t h, double lambda, struct st_stream *s,
                       struct st_err *e) ST_MUST_CHECK;

/* A Haar-distributed orthogonal matrix [n, n]. */
int st_cov_haar(struct st_stream *s, uint32_t n, double *out, struct st_err *e) ST_MUST_CHECK;

/* Secret working memory: zeroed when taken, overwritten when freed. n is that of the allocation. */
int st_cov_doubles(double **out, size_t n, const char *what, struct st_err *e) ST_MUST_CHECK;
void st_cov_doubles_free(double *p, size_t n);
void st_cov_floats_free(float *p, size_t n);

#endif
