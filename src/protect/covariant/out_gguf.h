/* The GGUF layout: one file, data in the order of the plan, all experts of a layer stacked in one tensor. Vectors and
 * routers are F32, as llama.cpp's own converter writes them; the manifest (manifest.h) is the string `sotto.manifest`
 * of the metadata, so that the file stays one. */
#ifndef ST_PROTECT_COVARIANT_OUT_GGUF_H
#define ST_PROTECT_COVARIANT_OUT_GGUF_H

#include "protect/covariant/covariant.h"
#include "protect/covariant/out.h"

struct st_config;

/* Settles how each tensor is stored; call it before bind. Q8_0 goes by blocks of 32 values of a row: a matrix whose
 * rows are no multiple of 32 stays F16, and a line of the log says so. MEMORY. */
int st_cov_gguf_types(struct st_cov_out_tensor *t, int n, const struct st_config *c, enum st_cov_store store,
                      struct st_err *e) ST_MUST_CHECK;
/* Lays the tensors out and writes the head; takes the place of st_cov_out_plan(). c: config of the result. */
int st_cov_out_plan_gguf(struct st_cov_out *o, struct st_cov_out_tensor **t, int n, const struct st_config *c,
                         double norm_eps, const char *manifest, struct st_err *e) ST_MUST_CHECK;
/* What st_cov_gguf_types() took. */
void st_cov_gguf_free(struct st_cov_out_tensor *t, int n);

#endif
