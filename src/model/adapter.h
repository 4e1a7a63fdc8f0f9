/* A LoRA adapter to a base model, as `peft` saves it: a directory with adapter_config.json and
 * adapter_model.safetensors, or a sealed container of kind adapter. It is applied unmerged: behind each linear layer
 * that it changes stands an op of its own (ST_OP_LORA), so that many adapters share one base, and the base may lie
 * elsewhere. The matrices never leave this process.
 *
 * Every tensor must have a place in the plan of the base, in pairs `base_model.model.MODULE.lora_A.weight` [rank, n_in]
 * and `.lora_B.weight` [n_out, rank] (or `.lora_A.NAME.weight`), F32, F16 or BF16, of the rank that the config says;
 * and every dense layer that the config names must have its tensors. Routed experts have a pair each, or as peft saves
 * them with transformers 5, which holds them as one parameter (target_parameters): one pair for all experts of a layer,
 * A [n_expert * rank, n_in], B [n_out, rank * n_expert], gate and up together. Hostile like any checkpoint. Not
 * supported, refused by name: DoRA, biases, embeddings, copies of weights of the base. Two open adapters are
 * independent; one is used by one thread. */
#ifndef ST_MODEL_ADAPTER_H
#define ST_MODEL_ADAPTER_H

#include "base/locked.h"
#include "base/mem.h"
#include "model/container.h"
#include "model/fold.h"
#include "model/weights.h"

#define ST_ADAPTER_NAME 128
#define ST_ADAPTERS_MAX 64 /* of one model */

struct st_adapter;

struct st_adapter_opts {
    const char *name; /* as requests call it; NULL = the path's last component, of a container its own name */
    /* Of a sealed one, both or neither; borrowed until close. */
    const struct st_container *container;
    const struct st_source *source;
};

/* Errors: IO; INPUT (malformed: names file, field, tensor); UNSUPPORTED; USAGE: a name that no request could say. */
int st_adapter_open(const char *path, const struct st_adapter_opts *o, struct st_adapter **out,
                    struct st_err *e) ST_MUST_CHECK;
void st_adapter_close(struct st_adapter *a);
const char *st_adapter_name(const struct st_adapter *a);

/* Adds the ops and weights of adapter number `index` (from 1) to the plan of a base. INPUT: it is of another base:
 * names the tensor and both shapes; or tensors are missing. */
int st_adapter_plan(const struct st_adapter *a, int index, struct st_plan *plan, struct st_err *e) ST_MUST_CHECK;

/* Where its matrices lie: in locked memory when they are secret. */
struct st_adapter_memory {
    struct st_area area;
    struct st_locked locked;
};
/* Copies the matrices, in f32, and fills the mats of its weights in the plan. fold: norms that go into the columns of
 * A (NULL = none), whose mats are filled already. allow_unlocked: as in base/locked.h. MEMORY; POLICY; VERIFY: sealed
 * and changed. */
int st_adapter_load(const struct st_adapter *a, int index, const struct st_plan *plan, const struct st_fold *fold,
                    bool allow_unlocked, struct st_mat *mats, struct st_adapter_memory *out,
                    struct st_err *e) ST_MUST_CHECK;
void st_adapter_memory_free(struct st_adapter_memory *m); /* overwrites what is secret */

#endif
