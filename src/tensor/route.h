/* Mixtures of experts: which experts a row takes and with what weights, and the moves of rows to an expert and back.
 * Every row is routed by itself, so that a batch changes nothing. Not thread-safe, like compute.h; nothing allocates.
 * Source: Mixtral (arXiv 2401.04088), Qwen3 (2505.09388), DeepSeek-V2 (2405.04434, group_limited_greedy) and V3
 * (2412.19437, noaux_tc), with the arithmetic of transformers. */
#ifndef ST_TENSOR_ROUTE_H
#define ST_TENSOR_ROUTE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ST_ROUTE_MAX_EXPERTS 1024

enum st_score { ST_SCORE_SOFTMAX, ST_SCORE_SIGMOID };
/* What a group counts for: its best expert, or the sum of its two best. */
enum st_group_score { ST_GROUP_MAX, ST_GROUP_TOP2 };

struct st_route {
    uint32_t n_expert; /* 1..ST_ROUTE_MAX_EXPERTS */
    uint32_t n_used;   /* 1..n_expert; with groups at most what n_group_used of them hold */
    enum st_score score;
    uint32_t n_group, n_group_used;  /* n_group divides n_expert; 0 = no groups */
    enum st_group_score group_score; /* TOP2 wants groups of at least 2 */
    bool norm;                       /* the weights of a row sum to 1 before `scale` */
    float scale;
};

struct st_compute;

/* x [n_row, n_expert], in place: logits -> weights, 0 for experts that the row does not take. The n_used experts with
 * the highest score + bias win, the lower index among equals; bias [n_expert] or NULL. A NaN wins or loses, but nothing
 * else: always exactly n_used experts are taken. */
void st_route(struct st_compute *c, const struct st_route *r, const float *bias, float *x, uint32_t n_row);

/* Rows whose weight for `expert` is not 0, ascending, into rows [n_row]; returns how many. weights [n_row, n_expert].
 */
uint32_t st_route_rows(const float *weights, uint32_t n_row, uint32_t n_expert, uint32_t expert, uint32_t *rows);
/* y [n, d] = rows of x. */
void st_gather(struct st_compute *c, const float *x, const uint32_t *rows, uint32_t n, uint32_t d, float *y);
/* y[rows[i]] += weights[rows[i] * n_expert + expert] * x[i]; x [n, d], no row twice. */
void st_scatter(struct st_compute *c, const float *x, const uint32_t *rows, uint32_t n, uint32_t d,
                const float *weights, uint32_t n_expert, uint32_t expert, float *y);

#endif
