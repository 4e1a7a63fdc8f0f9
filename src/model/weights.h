/* Weights that are not simply mapped. A source hands out the bytes of tensors when a model is opened (a sealed
 * container's, with or without its key). A store hands out matrices while the model runs, rows by rows, when they are
 * not in memory as a whole (protect/sealed/store.h: decrypted ahead of use, in the order of the plan). */
#ifndef ST_MODEL_WEIGHTS_H
#define ST_MODEL_WEIGHTS_H

#include "model/checkpoint.h"

struct st_container;

struct st_source {
    void *ctx;
    const struct st_container *container; /* whose tensors they are */
    /* Bytes at..at + len of a tensor of the container, checked. From any thread. VERIFY names the tensor. */
    int (*read)(void *ctx, const struct st_tensor *t, uint64_t at, size_t len, void *dst, struct st_err *e);
    /* How many bytes of the tensor are checked at once: reading such blocks, each as a whole, is what costs least.
     * Whole rows. */
    uint32_t (*block)(void *ctx, const struct st_tensor *t);
    /* Whether the tensor's bytes are secret: they may lie in locked memory (base/locked.h) only. */
    bool (*secret)(void *ctx, const struct st_tensor *t);
    /* False: this side cannot read it (sealed, and no key is here); its matrix stays without data. */
    bool (*readable)(void *ctx, const struct st_tensor *t);
};

/* All of it is called by the engine's thread, but work. A step asks in the order of the plan; asking elsewhere is
 * slower, not wrong. */
struct st_store {
    void *ctx;
    uint32_t n_hold; /* how many blocks may be taken and not given back yet, at least 1 */
    bool (*has)(void *ctx, int weight);
    /* Whether take would not wait. If it would: give everything back and let all threads work, then take. */
    bool (*ready)(void *ctx, int weight, uint32_t row);
    void (*work)(void *ctx); /* a share of what is asked for and of what comes next; any thread */
    /* Rows of weight i (index into the plan) from `row` on, as many as lie together; out->n_out says how many. They
     * stay until give; a block is not taken again before. VERIFY names the tensor. */
    int (*take)(void *ctx, int weight, uint32_t row, struct st_mat *out, struct st_err *e);
    void (*give)(void *ctx, int weight, uint32_t row); /* what take was asked for */
    /* The engine turns to something else that leaves processors idle: threads of the store go ahead, until it asks. */
    void (*away)(void *ctx);
};

#endif
