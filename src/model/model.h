/* A loaded model: config, plan, and the plan's weights as views. Weights stay in the memory-mapped file whenever their
 * dtype fits; `dtype` INT8 makes int8 copies of the matrices (not of embed, norms, biases) and gives the mapped pages
 * back as it goes, so that the resident set never holds both. A tied head that is converted gets its own copy; embed
 * stays a view. Routers are always f32: a rounded score can send a token to another expert, and they are small. A
 * matrix whose file offset is not a multiple of its value size is copied: the kernels read whole values. MODEL paths: a
 * Hugging Face directory, a llama2.c .bin (version 0) file, or a sealed container. Strict: every tensor of the
 * checkpoint must have a place in the plan, except a head that is tied and stored rotary frequencies; so a bias or
 * adapter that the architecture file does not know is refused, not ignored. */
#ifndef ST_MODEL_MODEL_H
#define ST_MODEL_MODEL_H

#include "base/pool.h"
#include "model/adapter.h"
#include "model/plan.h"

struct st_model {
    struct st_config config;
    struct st_plan plan;
    struct st_mat *mats;   /* [plan.n_weight] matrices; for vectors .data is f32 [n_out] */
    uint64_t matrix_bytes; /* all matrices (with int8 scales) but the embedding */
    uint64_t expert_bytes; /* of them those of routed experts */
    uint64_t weight_bytes; /* read per decoded token: st_model_read_bytes() of one row */
    char *path;
    char name[128]; /* last path component, what /v1/models shows */
    uint32_t n_adapter;
    char (*adapters)[ST_ADAPTER_NAME]; /* [n_adapter] number i + 1 in ops and requests */
    struct st_model_priv *priv;
};

enum st_load_dtype { ST_LOAD_KEEP, ST_LOAD_INT8, ST_LOAD_BF16, ST_LOAD_F32 };

struct st_model_opts {
    enum st_load_dtype dtype;
    int n_threads; /* for conversions, 0 = all */
    bool progress; /* draw a progress bar for long conversions */
    /* Norm weights go into the matrices that read the norm's output, before those are converted; the norms' own vectors
     * become ones. Norms inside heads stay. Needs dtype INT8, BF16 or F32. */
    bool fold_norms;
    /* The checkpoint is the trusted side's part of one (`sotto-worker prepare --kit`): it has no matrices of linear
     * layers but routers; their mats have data NULL. */
    bool no_linear;
    /* Applied to requests that ask for them, in this order; used during the call only. Their names differ. */
    const struct st_adapter *const *adapters;
    uint32_t n_adapter;  /* at most ST_ADAPTERS_MAX */
    bool allow_unlocked; /* of what is secret: base/locked.h */
    /* Of a sealed container that is open already (path names it in messages): hands out its bytes, lives until
     * st_model_close(). NULL with the path of one: only what lies outside can be read.
     * Nothing of a container is mapped. What lies outside is copied, as it is stored or as dtype says; norms are not
     * folded. Of what lies inside, vectors and routers are copied to locked memory; other matrices have data NULL and
     * the dtype that they are stored in: a store hands them out (model/weights.h). */
    const struct st_source *source;
    /* A side that computes only with what lies outside, or hands that to one: dtype is for this alone, and what cannot
     * be read stays without data. Otherwise what is sealed is refused without its key (POLICY), and so is another dtype
     * for it (UNSUPPORTED). */
    bool only_outside;
};

/* Errors: IO (cannot read), INPUT (malformed: names file, tensor, field), UNSUPPORTED (architecture, dtype),
 * MEMORY (says what it needs and what there is). */
int st_model_open(const char *path, const struct st_model_opts *o, struct st_model **out,
                  struct st_err *e) ST_MUST_CHECK;
void st_model_close(struct st_model *m);
/* Bytes of weights that a step of n_row rows reads: all matrices, but of the embedding a row each, and of the routed
 * experts the share that rows taking them independently and evenly would hit. */
uint64_t st_model_read_bytes(const struct st_model *m, uint32_t n_row);
/* The mapped pages of one weight (index into the plan) may leave memory; they come back from the file when read again.
 */
void st_model_release(const struct st_model *m, int weight);
/* Of its rows lo..lo + n only. */
void st_model_release_rows(const struct st_model *m, int weight, uint32_t lo, uint32_t n);

#endif
