/* What st_cov_verify() is made of. A result is read back from disk in one of its two forms; either gives its tensors as
 * the rules say they ought to be. */
#ifndef ST_PROTECT_COVARIANT_VERIFY_H
#define ST_PROTECT_COVARIANT_VERIFY_H

#include "protect/covariant/gguf_read.h"
#include "protect/covariant/probe.h"
#include "protect/covariant/setup.h"

struct st_cov_readback {
    const struct st_cov_setup *setup;
    struct st_cov_out_tensor *tensors; /* [n_weight] as they ought to be */
    struct st_model *model;            /* a Hugging Face directory */
    struct st_gguf_file gguf;
    float *joined; /* of a weight that GGUF stores in two parts */
};

/* Either form: opens it and checks all but the tensors' values: names, shapes and types, and the fields of the config
 * or the metadata that depend on the key. VERIFY names the field or tensor. Close also after an error. */
int st_cov_readback_hf(struct st_cov_readback *b, const char *dst, struct st_err *e) ST_MUST_CHECK;
int st_cov_readback_gguf(struct st_cov_readback *b, const char *dst, struct st_err *e) ST_MUST_CHECK;
void st_cov_readback_close(struct st_cov_readback *b);
/* Weight i of the plan. Valid until the next call. MEMORY. */
int st_cov_readback_tensor(struct st_cov_readback *b, int i, struct st_cov_stored *out, struct st_err *e) ST_MUST_CHECK;

/* The largest difference of a logit over the largest logit of its position, after deciphering, on probe batches of
 * seeded random ids, by our engine (f32 cache). */
int st_cov_compare_logits(const struct st_model *plain, const struct st_model *wide, const struct st_cov_cipher *cipher,
                          const struct st_cov_opts *o, double *max_rel_err, struct st_err *e) ST_MUST_CHECK;

#endif
