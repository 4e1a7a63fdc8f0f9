/* What a covariant checkpoint cannot hide: products of a writer and a reader of the hidden state, in which its keys
 * cancel (P Q = I). A view is one such family of products: rows (embedding, or head with the final norm's weight) times
 * columns of each layer (gate, up, q, k with the weight of the norm before them; down). Of the base model it is
 * E W, of the obfuscated one Pi (E + noise) W Z: the rows are reordered, the columns too, and some are scaled.
 *
 * Views hold f32 copies of the columns; rows without a factor are borrowed from the model.
 * Source: arXiv 2603.01499, appendix F.1; arXiv 2505.18332. */
#ifndef ST_AUDIT_VIEWS_H
#define ST_AUDIT_VIEWS_H

#include "audit/dense.h"
#include "model/model.h"

/* Rows of DOWN are those of the head, of the others those of the embedding. Columns of GATE are only reordered by the
 * key, those of the others scaled by +-s as well. */
enum st_view_family { ST_VIEW_GATE, ST_VIEW_UP, ST_VIEW_DOWN, ST_VIEW_Q, ST_VIEW_K };

struct st_view {
    struct st_dense rows;     /* [n_vocab][d] */
    struct st_dense *columns; /* [n_layer], each [n_column of the layer][d]: column j of the product is rows * row j */
    uint32_t n_layer;
    bool scaled;
};

/* Columns of one layer; more are refused (a matrix of all pairs of them is held). */
#define ST_VIEW_COLUMNS 16384

/* Of the first max_layer layers that have such weights; those of all experts of a layer stand one behind the other.
 * UNSUPPORTED: there are none, too many columns, or weights without data; INPUT: values that are not finite. */
int st_view_of_model(const struct st_model *m, enum st_view_family kind, uint32_t max_layer, struct st_view *out,
                     struct st_err *e) ST_MUST_CHECK;
void st_view_free(struct st_view *v);
/* What such a view of the first max_layer layers takes, before it is made; no layer has such weights: no columns. */
struct st_view_size {
    uint64_t bytes;
    size_t columns, widest; /* of all layers; of the one that has most */
};
struct st_view_size st_view_size(const struct st_model *m, enum st_view_family kind, uint32_t max_layer);
/* Weight i of the plan as f32 [n_out][n_in]: borrowed where it is f32, else a copy. UNSUPPORTED: it is not here, or
 * int8; INPUT: values that are not finite. */
int st_view_weight(const struct st_model *m, int i, struct st_dense *out, struct st_err *e) ST_MUST_CHECK;
/* Rows of one matrix as f32; embed or head, which has the final norm's weight in it. */
int st_view_rows(const struct st_model *m, enum st_role role, struct st_dense *out, struct st_err *e) ST_MUST_CHECK;

/* Standard deviation of the rows that were trained: what noise is a share of. */
int st_view_spread(struct st_pool *pool, const struct st_dense *rows, double *std, struct st_err *e) ST_MUST_CHECK;
/* Second moments of rows: out [d][d], row-major, sums of products over n. */
int st_view_moments(struct st_pool *pool, const struct st_dense *rows, double *out, struct st_err *e) ST_MUST_CHECK;

/* Scales columns so that the mean square of a product is 1: of each column of its own when the key scales columns, of
 * each layer otherwise. noise: of the rows' values, `share` of the columns' values over their standard deviation, which
 * will be added to them and count: both 0 for what was seen. */
int st_view_normalise(struct st_pool *pool, struct st_view *v, double noise, double share,
                      struct st_err *e) ST_MUST_CHECK;

#endif
