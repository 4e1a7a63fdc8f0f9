#include "base/buf.h"
#include "base/hooks.h"
#include "crypto/digest.h"
#include "engine/engine.h"
#include "protect/covariant/manifest.h"
#include "protect/covariant/probe.h"
#include "protect/covariant/setup.h"

#include <math.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#define PROBES 4
#define PROBE_LEN 32
#define PROBE_SEED 0x50726f6265ull

/* The plain model's logits on every probe, then the comparison. */
struct probe {
    const struct st_cov_cipher *cipher;
    uint32_t n_vocab, n_ids;
    uint32_t plain[PROBE_LEN];
    float *logits; /* [n_ids, n_vocab] of the probe under way */
    bool compare;
    double max_err;
    size_t n_seen;
    struct st_err err;
};

static void on_logits(void *arg, size_t pos, const float *row)
{
    struct probe *p = arg;
    float *plain = p->logits + pos * p->n_vocab;
    p->n_seen++;
    if (!p->compare) {
        memcpy(plain, row, p->n_vocab * sizeof *row);
        return;
    }
    double top = 0, diff = 0;
    for (uint32_t i = 0; i < p->n_vocab; i++) {
        double d = fabs((double)plain[i] - (double)row[p->cipher->to[i]]);
        top = fmax(top, fabs((double)plain[i]));
        diff = isnan(d) ? INFINITY : fmax(diff, d);
    }
    /* Infinite logits agree with nothing: inf / inf would be NaN, which fmax() reads over. */
    p->max_err = fmax(p->max_err, top > 0 && isfinite(diff) ? diff / top : diff);
}

static void on_end(void *arg, enum st_finish finish, int64_t stop_id, const struct st_err *e)
{
    struct probe *p = arg;
    (void)stop_id;
    if (finish == ST_FINISH_ERROR && e)
        p->err = *e;
}

static int run_probe(struct st_engine *en, struct probe *p, struct st_err *e)
{
    uint32_t ids[PROBE_LEN];
    for (uint32_t i = 0; i < p->n_ids; i++)
        ids[i] = p->compare ? p->cipher->to[p->plain[i]] : p->plain[i];
    struct st_request_opts o = {.ids = ids,
                                .n_ids = p->n_ids,
                                .n_predict = 1,
                                .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1},
                                .ignore_eos = true,
                                .on_end = on_end,
                                .on_prompt_logits = on_logits,
                                .arg = p};
    struct st_request *r;
    p->n_seen = 0;
    int rc = st_engine_submit(en, &o, &r, e);
    if (rc)
        return rc;
    while (st_engine_step(en) > 0)
        ;
    if (p->err.code) {
        *e = p->err;
        return e->code;
    }
    return p->n_seen == p->n_ids
               ? 0
               : st_fail(e, ST_INTERNAL, "verify: the engine gave %zu of %u logits", p->n_seen, p->n_ids);
}

static int open_engine(const struct st_model *m, const struct st_cov_opts *o, uint32_t n_ctx, struct st_engine **en,
                       struct st_err *e)
{
    struct st_engine_opts opts = {.n_threads = o->n_threads,
                                  .isa = o->isa,
                                  .kv_dtype = ST_DTYPE_F32,
                                  .n_ctx = n_ctx,
                                  .n_kv = n_ctx,
                                  .max_batch = 1,
                                  .max_row = PROBE_LEN,
                                  /* Activations of a bf16 model stay f32: the comparison is of weights. */
                                  .deterministic = true};
    return st_engine_new(m, &opts, en, e);
}

static int compare(const struct st_model *plain, const struct st_model *wide, const struct st_cov_cipher *cipher,
                   const struct st_cov_opts *o, double *max_rel_err, struct st_err *e)
{
    struct st_engine *a = NULL, *b = NULL;
    struct st_rng rng;
    uint32_t ctx = plain->config.n_ctx < PROBE_LEN + 1 ? plain->config.n_ctx : PROBE_LEN + 1;
    struct probe p = {.cipher = cipher, .n_vocab = plain->config.n_vocab, .n_ids = ctx > 1 ? ctx - 1 : 1};
    int rc = st_alloc(&p.logits, (size_t)p.n_ids * p.n_vocab, sizeof *p.logits, "probe logits", e);
    if (!rc)
        rc = open_engine(plain, o, ctx, &a, e);
    if (!rc)
        rc = open_engine(wide, o, ctx, &b, e);
    st_rng_seed(&rng, PROBE_SEED);
    for (int i = 0; !rc && i < PROBES; i++) {
        for (uint32_t j = 0; j < p.n_ids; j++)
            p.plain[j] = (uint32_t)(st_rng_next(&rng) % p.n_vocab);
        p.compare = false;
        rc = run_probe(a, &p, e);
        p.compare = true;
        if (!rc)
            rc = run_probe(b, &p, e);
        if (!rc && o->cancel && *o->cancel)
            rc = st_fail(e, ST_IO, "cancelled");
    }
    *max_rel_err = p.max_err;
    if (a)
        st_engine_free(a);
    if (b)
        st_engine_free(b);
    free(p.logits);
    return rc;
}

/* ---- the config and the tensors ---- */

static int check_config(const struct st_cov_setup *s, const struct st_config *got, struct st_err *e)
{
    const struct st_config *want = &s->config;
    double eps = s->kappa * s->kappa * (double)s->model->config.norm_eps;
    const struct {
        const char *field;
        int64_t want, got;
    } rows[] = {{"hidden_size", want->d_model, got->d_model},
                {"vocab_size", want->n_vocab, got->n_vocab},
                {"num_hidden_layers", want->n_layer, got->n_layer},
                {"tie_word_embeddings", want->tied_head, got->tied_head},
                {"bos_token_id", want->bos, got->bos},
                {"pad_token_id", want->pad, got->pad},
                {"number of eos ids", want->n_eos, got->n_eos}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].want != rows[i].got)
            return st_fail(e, ST_VERIFY, "%s: want %lld, got %lld", rows[i].field, (long long)rows[i].want,
                           (long long)rows[i].got);
    for (int i = 0; i < want->n_eos; i++)
        if (want->eos[i] != got->eos[i])
            return st_fail(e, ST_VERIFY, "eos_token_id: is not the source's, enciphered");
    if (!(fabs((double)got->norm_eps - eps) <= 1e-6 * eps))
        return st_fail(e, ST_VERIFY, "rms_norm_eps: want %.9g, got %.9g", eps, (double)got->norm_eps);
    return 0;
}

static int check_tensor(struct st_cov_setup *s, struct st_cov_probe *p, const struct st_model *wide, int i,
                        double *worst, struct st_err *e)
{
    struct st_cov_out_tensor t;
    struct st_cov_job j;
    const struct st_plan_weight *got = &wide->plan.weights[i];
    int rc = st_cov_rules_describe(&s->rules, i, &t, e);
    if (!rc)
        rc = st_cov_rules_job(&s->rules, i, &j, e);
    if (rc)
        return rc;
    if (strcmp(got->name, t.name) != 0 || got->n_out != t.dim[0] || (t.n_dim == 2 && got->n_in != t.dim[1]))
        return st_fail(e, ST_VERIFY, "%s: want [%u, %u], got %s [%u, %u]", t.name, t.dim[0], t.dim[1], got->name,
                       got->n_out, got->n_in);
    if (t.n_dim == 2)
        t.dtype = wide->mats[i].dtype;
    j.out = &t;
    rc = st_cov_probe_tensor(p, &j, &wide->mats[i], worst, e);
    if (j.weight >= 0)
        st_model_release(s->model, j.weight);
    st_model_release(wide, i);
    return rc;
}

static int check_tensors(struct st_cov_setup *s, const struct st_model *wide, const struct st_cov_opts *o,
                         struct st_err *e)
{
    struct st_cov_probe *p = NULL;
    struct st_progress progress;
    double worst = 0;
    int n = s->model->plan.n_weight;
    if (wide->plan.n_weight != n)
        return st_fail(e, ST_VERIFY, "want %d tensors, got %d", n, wide->plan.n_weight);
    int rc = st_cov_probe_new(s->key, s->digest, o->n_threads, o->cancel, &p, e);
    st_progress_start(&progress, "verify", "tensors", (uint64_t)n);
    progress.on = progress.on && o->progress;
    for (int i = 0; !rc && i < n; i++) {
        rc = check_tensor(s, p, wide, i, &worst, e);
        st_progress_update(&progress, (uint64_t)i + 1);
    }
    st_progress_end(&progress);
    st_cov_probe_free(p);
    if (!rc)
        st_log(ST_LOG_DEBUG, "verify: %d tensors, largest error %.2g of what is accepted", n, worst);
    return rc;
}

/* ---- the verdict ---- */

/* Logits change by design where the paper's keys or noise are: then they are measured, and the tensors judged. */
static bool exact(const struct st_cov_opts *o)
{
    return o->preset == ST_COV_PRESET_TIGHT && o->alpha_e <= 0 && o->alpha_h <= 0 && o->noise_all <= 0 && o->beta < 2;
}

static double bound_of(enum st_dtype t)
{
    return t == ST_DTYPE_F32 ? ST_COV_BOUND_F32 : t == ST_DTYPE_F16 ? ST_COV_BOUND_F16 : ST_COV_BOUND_BF16;
}

static int check_logits(const struct st_cov_setup *s, const struct st_model *wide, const struct st_cov_opts *o,
                        double *max_rel_err, struct st_err *e)
{
    int rc = compare(s->model, wide, &s->cipher, o, max_rel_err, e);
    double bound = bound_of(wide->config.dtype);
    if (rc || !exact(o) || *max_rel_err <= bound)
        return rc;
    return st_fail(e, ST_VERIFY,
                   "logits differ from the source's by %.3g of the largest; at most %.3g is accepted for %s",
                   *max_rel_err, bound, st_dtype_name(wide->config.dtype));
}

static enum st_cov_store store_of(enum st_dtype t)
{
    return t == ST_DTYPE_F32 ? ST_COV_STORE_F32 : t == ST_DTYPE_F16 ? ST_COV_STORE_F16 : ST_COV_STORE_BF16;
}

static int check_commitment(const struct st_cov_manifest *m, const char *src, const struct st_cov_key *key,
                            struct st_err *e)
{
    uint8_t digest[32];
    char want[65];
    int rc = st_model_digest(src, digest, e);
    if (!rc)
        rc = st_cov_key_commit(key, digest, want, e);
    if (!rc && CRYPTO_memcmp(want, m->commitment, 64) != 0)
        rc = st_fail(e, ST_VERIFY, "was not made from this source with this key");
    return rc;
}

int st_cov_verify(const char *src, const char *dst, const struct st_cov_key *key, const struct st_cov_opts *o,
                  double *max_rel_err, struct st_err *e)
{
    struct st_model *wide = NULL;
    struct st_cov_setup s = {0};
    struct st_cov_manifest manifest;
    struct st_cov_opts made;
    *max_rel_err = INFINITY;
    if (o->format == ST_COV_FORMAT_GGUF)
        return st_fail(e, ST_UNSUPPORTED, "%s: only Hugging Face directories can be verified, not GGUF files", dst);
    int rc = st_cov_read_manifest(dst, &manifest, e);
    if (!rc && check_commitment(&manifest, src, key, e))
        rc = e->code == ST_VERIFY ? st_err_prefix(e, "%s", dst) : e->code;
    if (!rc && manifest.made.format == ST_COV_FORMAT_GGUF)
        rc = st_fail(e, ST_UNSUPPORTED, "%s: only Hugging Face directories can be verified", dst);
    if (!rc)
        rc = st_model_open(dst, &(struct st_model_opts){.n_threads = o->n_threads}, &wide, e);
    if (rc)
        goto out;
    made = manifest.made;
    made.n_threads = o->n_threads;
    made.isa = o->isa;
    made.progress = o->progress;
    made.memory_bytes = o->memory_bytes;
    made.calibrate = o->calibrate;
    made.cancel = o->cancel;
    made.dtype = store_of(wide->config.dtype);
    rc = st_cov_setup_open(&s, src, key, &made, e);
    if (rc)
        goto out;
    rc = check_config(&s, &wide->config, e);
    if (!rc)
        rc = check_tensors(&s, wide, &made, e);
    if (!rc)
        rc = check_logits(&s, wide, &made, max_rel_err, e);
    if (rc == ST_VERIFY)
        st_err_prefix(e, "%s", dst);
out:
    st_cov_setup_close(&s);
    st_model_close(wide);
    return rc;
}
