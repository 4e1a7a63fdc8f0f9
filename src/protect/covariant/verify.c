#include "protect/covariant/verify.h"
#include "protect/covariant/manifest.h"
#include "protect/covariant/out_gguf.h"

#include <math.h>
#include <stdlib.h>

/* ---- the tensors ---- */

/* As the compiler would make them. */
static int describe(struct st_cov_readback *b, const struct st_cov_setup *s, const struct st_cov_opts *made,
                    struct st_err *e)
{
    int n = s->model->plan.n_weight;
    b->setup = s;
    int rc = st_alloc(&b->tensors, (size_t)n, sizeof *b->tensors, "tensor list", e);
    for (int i = 0; !rc && i < n; i++) {
        rc = st_cov_rules_describe(&s->rules, i, &b->tensors[i], e);
        b->tensors[i].weight = &s->model->plan.weights[i];
    }
    if (!rc && made->format == ST_COV_FORMAT_GGUF)
        rc = st_cov_gguf_types(b->tensors, n, &s->config, made->dtype, e);
    return rc;
}

static int check_tensor(struct st_cov_setup *s, struct st_cov_readback *b, struct st_cov_probe *p, int i, double *worst,
                        struct st_err *e)
{
    struct st_cov_job j;
    struct st_cov_stored stored;
    int rc = st_cov_rules_job(&s->rules, i, &j, e);
    if (!rc)
        rc = st_cov_readback_tensor(b, i, &stored, e);
    if (rc)
        return rc;
    j.out = &b->tensors[i];
    rc = st_cov_probe_tensor(p, &j, &stored, worst, e);
    if (j.weight >= 0)
        st_model_release(s->model, j.weight);
    if (b->model)
        st_model_release(b->model, i);
    return rc;
}

static int check_tensors(struct st_cov_setup *s, struct st_cov_readback *b, const struct st_cov_opts *o,
                         struct st_err *e)
{
    struct st_cov_probe *p = NULL;
    struct st_progress progress;
    double worst = 0;
    int n = s->model->plan.n_weight;
    int rc = st_cov_probe_new(s->key, s->digest, o->n_threads, o->cancel, &p, e);
    st_progress_start(&progress, "verify", "tensors", (uint64_t)n);
    progress.on = progress.on && o->progress;
    for (int i = 0; !rc && i < n; i++) {
        rc = check_tensor(s, b, p, i, &worst, e);
        st_progress_update(&progress, (uint64_t)i + 1);
    }
    st_progress_end(&progress);
    st_cov_probe_free(p);
    if (!rc)
        st_log(ST_LOG_DEBUG, "verify: %d tensors, largest error %.2g of what is accepted", n, worst);
    return rc;
}

/* ---- the verdict ---- */

static double bound_of(enum st_dtype t)
{
    return t == ST_DTYPE_F32 ? ST_COV_BOUND_F32 : t == ST_DTYPE_F16 ? ST_COV_BOUND_F16 : ST_COV_BOUND_BF16;
}

static int check_logits(const struct st_cov_setup *s, const struct st_model *wide, const struct st_cov_opts *o,
                        double *max_rel_err, struct st_err *e)
{
    int rc = st_cov_compare_logits(s->model, wide, &s->cipher, o, max_rel_err, e);
    double bound = bound_of(wide->config.dtype);
    if (rc || !st_cov_opts_exact(o) || *max_rel_err <= bound)
        return rc;
    return st_fail(e, ST_VERIFY,
                   "logits differ from the source's by %.3g of the largest; at most %.3g is accepted for %s",
                   *max_rel_err, bound, st_dtype_name(wide->config.dtype));
}

/* How it was made, by its manifest; how to check it, by the caller. */
static struct st_cov_opts merge(const struct st_cov_opts *made, const struct st_cov_opts *o)
{
    struct st_cov_opts r = *made;
    r.n_threads = o->n_threads;
    r.isa = o->isa;
    r.progress = o->progress;
    r.memory_bytes = o->memory_bytes;
    r.calibrate = o->calibrate;
    r.cancel = o->cancel;
    return r;
}

int st_cov_verify(const char *src, const char *dst, const struct st_cov_key *key, const struct st_cov_opts *o,
                  double *max_rel_err, struct st_err *e)
{
    struct st_cov_setup s = {0};
    struct st_cov_readback b = {0};
    struct st_cov_manifest manifest;
    struct st_cov_opts made;
    *max_rel_err = NAN;
    int rc = st_cov_read_manifest(dst, &manifest, e);
    if (rc)
        return rc;
    made = merge(&manifest.made, o);
    rc = st_cov_setup_open(&s, src, key, &made, &manifest, e);
    if (!rc)
        rc = describe(&b, &s, &made, e);
    if (!rc)
        rc = made.format == ST_COV_FORMAT_GGUF ? st_cov_readback_gguf(&b, dst, e) : st_cov_readback_hf(&b, dst, e);
    if (!rc)
        rc = check_tensors(&s, &b, &made, e);
    if (!rc && b.model)
        rc = check_logits(&s, b.model, &made, max_rel_err, e);
    if (rc == ST_VERIFY)
        st_err_prefix(e, "%s", dst);
    st_cov_readback_close(&b);
    st_cov_setup_close(&s);
    return rc;
}
