/* A stack of Llama layers over whole texts, forwards and backwards, in f32: what learns (the trained inverter), and
 * what tells how states change with the input that made them (gradient inversion). One thread, and sums in a fixed
 * order: the result depends on the input alone.
 *
 * The engine is for speed and for every architecture, and goes forwards only; this is for small stacks of the plain
 * one: RMS norms, rotary queries and keys in groups, a gated SiLU network, no biases. Attention looks back only, or
 * both ways where `both_ways` says so. Activations of a pass are held: about n_row * n_layer * (10 d + 4 n_ff) floats
 * and the scores. */
#ifndef ST_AUDIT_BLOCKS_H
#define ST_AUDIT_BLOCKS_H

#include "model/model.h"

#include <stdbool.h>

struct st_blocks {
    uint32_t n_layer, d, n_head, n_kv, head, n_ff; /* n_kv divides n_head; head is even */
    bool interleaved, both_ways;
    float eps, gain, scale; /* of norms; of sines and cosines; of scores */
    float *inv_freq;        /* [head / 2] */
    float *w;               /* [n_w] layer by layer: two norms [d], q, k, v, o, gate, up, down, each [n_out][n_in] */
    size_t n_w;
};
/* Zero weights and norms of 1; n_layer to n_ff, interleaved, both_ways and eps are taken from `shape`. MEMORY. */
int st_blocks_new(const struct st_blocks *shape, struct st_blocks *out, struct st_err *e) ST_MUST_CHECK;
/* Random weights that leave the residual stream nearly as it is. */
void st_blocks_draw(struct st_blocks *b, uint64_t seed);
/* The first n_layer layers of a model. UNSUPPORTED: another architecture than the plain one, or other values than f32
 * can hold. */
int st_blocks_of_model(const struct st_model *m, uint32_t n_layer, struct st_blocks *out,
                       struct st_err *e) ST_MUST_CHECK;
void st_blocks_free(struct st_blocks *b);

/* One pass of n_text texts of `len` tokens each: rows of one text stand together. */
struct st_pass;
int st_pass_new(const struct st_blocks *b, uint32_t n_text, uint32_t len, struct st_pass **out,
                struct st_err *e) ST_MUST_CHECK;
void st_pass_free(struct st_pass *p);
/* x [n_text * len][d] -> what the last layer leaves there, valid until the next call. b as at st_pass_new, with other
 * weights if need be. */
const float *st_pass_forward(struct st_pass *p, const struct st_blocks *b, const float *x);
/* Products q.k of the last layer: [n_text][n_head][len][len], row: the query. Valid until the next forward. */
const float *st_pass_scores(const struct st_pass *p);
/* After a forward: from the derivatives d_out [n][d] of what it returned, and d_scores (or NULL), those of its input,
 * d_x [n][d]; grad [n_w] (or NULL) gets those of the weights. */
void st_pass_backward(struct st_pass *p, const struct st_blocks *b, const float *d_out, const float *d_scores,
                      float *d_x, float *grad);

/* Adam (Kingma and Ba, ICLR 2015) with decoupled weight decay, over n values. */
struct st_adam {
    float *first, *second;
    size_t n;
    uint32_t step;
};
int st_adam_new(struct st_adam *a, size_t n, struct st_err *e) ST_MUST_CHECK;
void st_adam_free(struct st_adam *a);
void st_adam_step(struct st_adam *a, const float *grad, double rate, double decay, float *w);

#endif
