/* Inside of st_model_open(): from a plan and a checkpoint to matrices and vectors. Owned by the one call; what stays is
 * in struct st_model_priv. */
#ifndef ST_MODEL_MODEL_LOAD_H
#define ST_MODEL_MODEL_LOAD_H

#include "base/locked.h"
#include "base/mem.h"
#include "model/checkpoint.h"
#include "model/convert.h"
#include "model/fold.h"
#include "model/kit.h"
#include "model/model.h"

struct st_model_priv {
    struct st_ckpt *ckpt;
    struct st_container *container; /* opened here; NULL: somebody else's, or none */
    struct st_area copies;          /* converted matrices and int8 scales */
    struct st_locked secrets;       /* routers that lie inside */
    float *vectors;                 /* all norms and biases, each on its own cache line; in locked when any is secret */
    struct st_locked locked;
    struct st_adapter_memory adapters[ST_ADAPTERS_MAX];
};

struct st_load {
    struct st_model *m;
    const struct st_model_opts *o;
    const struct st_source *source; /* of a container; NULL: the checkpoint is mapped */
    const struct st_tensor **src;   /* [plan.n_weight]; NULL: not in the checkpoint */
    struct st_fold fold;            /* empty unless norms are folded */
    struct st_kit kit;              /* no_linear */
    struct st_convert_job *jobs;    /* [n_job] */
    size_t n_job;
};

static inline bool st_load_is_adapter(const struct st_plan_weight *w)
{
    return w->role == ST_ROLE_LORA_A || w->role == ST_ROLE_LORA_B;
}

static inline bool st_load_is_vector(const struct st_plan_weight *w)
{
    return w->n_in == 1 && !st_load_is_adapter(w);
}

/* Of a weight that is in the checkpoint. */
static inline bool st_load_is_secret(const struct st_load *l, int i)
{
    return l->source && l->source->secret(l->source->ctx, l->src[i]);
}

static inline bool st_load_is_readable(const struct st_load *l, int i)
{
    return !l->source || l->source->readable(l->source->ctx, l->src[i]);
}

/* Finds the tensor of every weight, and a weight for every tensor. INPUT, UNSUPPORTED; POLICY: it is sealed. */
int st_load_resolve(struct st_load *l, struct st_err *e) ST_MUST_CHECK;
/* Then the vectors, which go into matrices; then those. */
int st_load_vectors(struct st_load *l, struct st_err *e) ST_MUST_CHECK;
int st_load_matrices(struct st_load *l, struct st_err *e) ST_MUST_CHECK;
/* Norms whose weights are in the matrices now become ones. */
void st_load_unit_norms(struct st_load *l);

#endif
