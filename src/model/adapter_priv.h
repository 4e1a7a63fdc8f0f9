/* The inside of struct st_adapter, shared by adapter.c (files), adapter_plan.c (ops) and adapter_load.c (matrices). */
#ifndef ST_MODEL_ADAPTER_PRIV_H
#define ST_MODEL_ADAPTER_PRIV_H

#include "model/adapter.h"
#include "model/adapter_config.h"

/* A and B of one module. */
struct st_adapter_pair {
    char module[ST_PLAN_NAME]; /* "model.layers.3.self_attn.q_proj" */
    const struct st_tensor *a, *b;
};

/* What one linear layer has of a pair: all of it; or, where one pair is for all experts of a layer (`shared`), of A the
 * rows from expert * rank on, of B the columns expert, expert + n_expert, ..., and, where gate and up are one matrix
 * (`halves` 2), half of B's rows. */
struct st_adapter_part {
    const struct st_adapter_pair *pair; /* NULL: the adapter does not change the layer */
    uint32_t rank, expert, n_expert, half, halves;
    float scale;
    bool shared;
};

struct st_adapter {
    char *path, name[ST_ADAPTER_NAME];
    struct st_adapter_config *config;
    struct st_ckpt *ckpt; /* of a directory; or these two */
    const struct st_container *container;
    const struct st_source *source;
    struct st_adapter_pair *pairs; /* [n_pair] by module */
    size_t n_pair;
};

/* Of "base_model.model.MODULE.lora_A.weight" or ".lora_A.NAME.weight" the module, and 'A' or 'B'. */
bool st_adapter_module(const char *name, char module[ST_PLAN_NAME], char *side);
const struct st_adapter_pair *st_adapter_find(const struct st_adapter *a, const char *module); /* NULL if absent */
/* Of a linear layer, by its module's name in the checkpoints. INPUT: tensors that the config does not name, or names
 * and that are not there. */
int st_adapter_part(const struct st_adapter *a, const char *module, int layer, struct st_adapter_part *out,
                    struct st_err *e) ST_MUST_CHECK;

#endif
