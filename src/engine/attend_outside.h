/* Attention whose two products, Q K^T and P V, an untrusted side computes, through the boundary (st_boundary_pair()).
 * Here stay the cache, the causal mask and the window, softmax, and the sum over keys. No published way of hiding the
 * two factors of such a product both holds and saves work, so this is for comparing (docs/sealed.md).
 *
 * For each sequence and kv head: tiles of its query vectors (all query heads that share the kv head) times blocks of
 * its keys, then their weights times the values of the same blocks. What leaves are shapes of single heads. Limit: one
 * thread, one exchange after the other. */
#ifndef ST_ENGINE_ATTEND_OUTSIDE_H
#define ST_ENGINE_ATTEND_OUTSIDE_H

#include "engine/boundary.h"

struct st_attend_outside;

/* For sequences of at most max_pos tokens; memory is taken as they grow. */
int st_attend_outside_new(const struct st_config *c, size_t max_pos, struct st_attend_outside **out,
                          struct st_err *e) ST_MUST_CHECK;
void st_attend_outside_free(struct st_attend_outside *o);

/* One ATTEND op of a step, as st_attend() takes it. */
struct st_attention {
    const struct st_plan *plan;
    const struct st_plan_op *op;
    const struct st_kv_layer *kv; /* holds the rows' own keys already */
    const struct st_attn_seq *seqs;
    uint32_t n_seq, n_head;
    float scale;
    uint32_t window; /* 0 = all */
};
/* q [.., n_head, head_dim] -> out [.., n_head, v_head_dim]. Errors are the boundary's. */
int st_attend_outside(struct st_attend_outside *o, struct st_boundary *b, const struct st_attention *a, const float *q,
                      float *out, struct st_err *e) ST_MUST_CHECK;

#endif
