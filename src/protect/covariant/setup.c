#include "protect/covariant/setup.h"
#include "base/mem.h"
#include "model/digest.h"
#include "protect/covariant/calibrate.h"
#include "protect/covariant/gguf_arch.h"
#include "protect/covariant/homophones.h"
#include "protect/covariant/out_config.h"

#include <cblas.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPAND_MAX 4096

static enum st_dtype stored_dtype(enum st_cov_store store, enum st_dtype source)
{
    switch (store) {
    case ST_COV_STORE_F32:
        return ST_DTYPE_F32;
    case ST_COV_STORE_F16:
        return ST_DTYPE_F16;
    case ST_COV_STORE_BF16:
        return ST_DTYPE_BF16;
    case ST_COV_STORE_KEEP:
    case ST_COV_STORE_Q8_0:
        break;
    }
    return source;
}

/* Larger is better: divides by the heads, by 64, by 32, is even (preset paper wants that), near the start. */
static int score(uint32_t h, uint32_t start, uint32_t d, uint32_t n_head)
{
    uint32_t wide = d + 2 * h;
    int far = abs((int)h - (int)start);
    return (wide % n_head == 0) * 4000 + (wide % 64 == 0) * 2000 + (wide % 32 == 0) * 1000 + (h % 2 == 0) * 500 - far;
}

uint32_t st_cov_expand(uint32_t d_model, uint32_t n_head)
{
    uint32_t start = d_model < 256 ? (d_model + 1) / 2 : 128;
    uint32_t best = start;
    for (uint32_t h = start - start / 4; h <= start + start / 2; h++)
        if (score(h, start, d_model, n_head) > score(best, start, d_model, n_head))
            best = h;
    return best;
}

static int choose_expand(const struct st_config *c, uint32_t wanted, uint32_t *h, struct st_err *e)
{
    *h = wanted ? wanted : st_cov_expand(c->d_model, c->n_head);
    if (*h > EXPAND_MAX || c->d_model + 2 * *h > ST_MAX_WIDTH)
        return st_fail(e, ST_USAGE, "h: want 1..%d and a hidden size of at most %u, got h %u (hidden size %u)",
                       EXPAND_MAX, ST_MAX_WIDTH, *h, c->d_model + 2 * *h);
    if ((c->d_model + 2 * *h) % c->n_head)
        return st_fail(e, ST_USAGE,
                       "h: d + 2h = %u is not a multiple of the %u heads, which transformers asks for; %u is taken "
                       "when none is given",
                       c->d_model + 2 * *h, c->n_head, st_cov_expand(c->d_model, c->n_head));
    return 0;
}

/* model_type is named here because a source need not name it and transformers wants it. */
static int check_arch(struct st_config *c, struct st_err *e)
{
    static const char *const known[][2] = {{"LlamaForCausalLM", "llama"},
                                           {"MistralForCausalLM", "mistral"},
                                           {"MixtralForCausalLM", "mixtral"},
                                           {"Qwen2ForCausalLM", "qwen2"},
                                           {"Qwen3ForCausalLM", "qwen3"},
                                           {"Qwen3MoeForCausalLM", "qwen3_moe"},
                                           {"DeepseekV2ForCausalLM", "deepseek_v2"},
                                           {"DeepseekV3ForCausalLM", "deepseek_v3"}};
    char names[256] = "";
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(c->arch, known[i][0]) == 0) {
            snprintf(c->model_type, sizeof c->model_type, "%s", known[i][1]);
            return 0;
        }
        size_t len = strlen(names);
        snprintf(names + len, sizeof names - len, "%s%s", i ? ", " : "", known[i][0]);
    }
    return st_fail(e, ST_UNSUPPORTED, "architecture '%s': covariant obfuscation supports %s", c->arch, names);
}

/* The frame in f64 and f32, and what drawing that of `paper` needs besides. */
static int check_memory(const struct st_cov_opts *o, size_t d, uint32_t wide, struct st_err *e)
{
    size_t need = (size_t)wide * wide * (sizeof(double) + sizeof(float)), have = st_mem_available();
    if (o->preset == ST_COV_PRESET_PAPER)
        need = ((size_t)wide * wide + 3 * d * wide + 2 * d * d + 4 * d * (wide - d)) * sizeof(double);
    char a[ST_MEM_TEXT], b[ST_MEM_TEXT];
    if (need > have)
        return st_fail(e, ST_MEMORY, "hidden size %u: the key matrices need %s of memory, there are %s", wide,
                       st_mem_text(need, a), st_mem_text(have, b));
    return 0;
}

/* Norm weights of kappa make RMSNorm of the wide state P times that of the plain one. A 16-bit dtype cannot hold kappa
 * exactly; what it holds is written, and the rest multiplied into the readers. A model has one eps for all norms. */
static int prepare_norms(struct st_cov_setup *s, const char *src, struct st_err *e)
{
    const struct st_plan *p = &s->model->plan;
    double *kappa, sum = 0;
    int n = 0;
    int rc = st_alloc(&kappa, (size_t)p->n_weight, sizeof *kappa, "norms", e);
    if (!rc)
        rc = st_alloc(&s->sites, (size_t)p->n_weight, sizeof *s->sites, "norms", e);
    if (!rc)
        rc = st_cov_calibrate(s->model, src, &s->frame, s->rules.opts, kappa, e);
    for (int i = 0; !rc && i < p->n_weight; i++) {
        if (!st_cov_rules_is_norm(p->weights[i].role))
            continue;
        float stored = (float)kappa[i];
        uint32_t raw = 0; /* room for one value of any dtype */
        st_convert(ST_DTYPE_F32, &stored, s->config.dtype, &raw, 1);
        st_convert(s->config.dtype, &raw, ST_DTYPE_F32, &stored, 1);
        s->sites[i] = (struct st_cov_site){.norm = stored, .gain = kappa[i] / (double)stored};
        sum += kappa[i];
        n++;
    }
    s->rules.sites = s->sites;
    s->rules.eps_ratio = n ? sum / n * (sum / n) : 1;
    s->norm_eps = s->rules.eps_ratio * (double)s->model->config.norm_eps;
    s->config.norm_eps = (float)s->norm_eps;
    free(kappa);
    return rc;
}

static int prepare_frame(struct st_cov_setup *s, struct st_err *e)
{
    struct st_stream *stream;
    int rc = check_memory(s->rules.opts, s->model->config.d_model, s->model->config.d_model + 2 * s->expand, e);
    if (!rc)
        rc = st_cov_key_stream(s->key, s->digest, "frame", &stream, e);
    if (rc)
        return rc;
    rc = st_cov_frame_init(&s->frame, s->rules.opts->preset, s->model->config.d_model, s->expand, s->rules.opts->lambda,
                           stream, e);
    st_stream_free(stream);
    return rc;
}

static int prepare_cipher(struct st_cov_setup *s, const char *src, struct st_err *e)
{
    const struct st_cov_opts *o = s->rules.opts;
    int rc = 0;
    if (o->homophones) {
        rc = st_cov_frequent_choose(s->model, src, o, &s->frequent, e);
        if (!rc)
            rc = st_alloc(&s->never, s->model->config.d_model, sizeof *s->never, "head row of homophones", e);
        if (!rc)
            rc = st_cov_never_row(s->model, src, o, s->never, e);
    }
    return rc ? rc
              : st_cov_cipher_init(s->model->config.n_vocab, &s->frequent, o->homophones, s->digest, s->key, &s->cipher,
                                   e);
}

int st_cov_setup_open(struct st_cov_setup *s, const char *src, const struct st_cov_key *key,
                      const struct st_cov_opts *o, const struct st_cov_manifest *of, struct st_err *e)
{
    bool interleaved = false; /* rotary pairs of a GGUF file */
    *s = (struct st_cov_setup){.key = key, .rules = {.opts = o}};
    /* Tiles are the unit of parallel work, and their number of threads must not show in the result. */
    openblas_set_num_threads(1);
    int rc = st_model_open(src, &(struct st_model_opts){.n_threads = o->n_threads}, &s->model, e);
    if (!rc)
        rc = check_arch(&s->model->config, e);
    /* Before the source is hashed, or, when h is that of a result, after it is known to be this source's. */
    if (!rc && !of)
        rc = choose_expand(&s->model->config, o->expand, &s->expand, e);
    if (!rc)
        rc = st_model_digest(src, false, s->digest, e);
    if (!rc && of)
        rc = st_cov_manifest_check(of, key, s->digest, e);
    if (!rc && of)
        rc = choose_expand(&s->model->config, o->expand, &s->expand, e);
    if (!rc)
        rc = prepare_cipher(s, src, e);
    if (!rc && o->format == ST_COV_FORMAT_GGUF)
        rc = st_cov_gguf_check(&s->model->config, &interleaved, e);
    if (!rc)
        rc = prepare_frame(s, e);
    if (rc) {
        st_cov_setup_close(s);
        return rc;
    }
    st_cov_config(&s->model->config, s->expand, &s->cipher, &s->config);
    if (o->format == ST_COV_FORMAT_GGUF)
        s->config.rope_interleaved = interleaved;
    s->config.dtype = stored_dtype(o->dtype, s->config.dtype);
    s->rules.model = s->model;
    s->rules.config = &s->config;
    s->rules.key = key;
    s->rules.digest = s->digest;
    s->rules.cipher = &s->cipher;
    s->rules.never = s->never;
    s->rules.frame = &s->frame;
    rc = prepare_norms(s, src, e);
    if (rc)
        st_cov_setup_close(s);
    return rc;
}

void st_cov_setup_close(struct st_cov_setup *s)
{
    st_cov_rules_wipe(&s->rules);
    st_cov_frame_wipe(&s->frame);
    st_cov_cipher_wipe(&s->cipher);
    st_cov_frequent_wipe(&s->frequent);
    free(s->never);
    free(s->sites);
    st_model_close(s->model);
    *s = (struct st_cov_setup){0};
}
