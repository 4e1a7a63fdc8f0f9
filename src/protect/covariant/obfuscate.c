#include "base/mem.h"
#include "crypto/digest.h"
#include "model/model.h"
#include "protect/covariant/covariant.h"
#include "protect/covariant/manifest.h"
#include "protect/covariant/out_tokenizer.h"
#include "protect/covariant/rules.h"

#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHARD_BYTES ((uint64_t)4 << 30)
#define MEMORY_BYTES ((uint64_t)2 << 30)
#define EXPAND_MAX 4096

/* Everything of one compilation. */
struct build {
    struct st_model *model;
    const struct st_cov_key *key;
    uint8_t digest[32];
    struct st_cov_cipher cipher;
    struct st_cov_frame frame;
    struct st_config config; /* of the result */
    struct st_cov_out out;
    struct st_cov_out_tensor *tensors; /* [plan.n_weight] */
    struct st_cov_rules rules;
    double kappa; /* sqrt(d / wide): rms(x P) = kappa rms(x) */
    struct st_cov_run *run;
    struct st_progress progress;
};

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

/* Larger is better: divides by the heads, by 64, by 32, near the start. */
static int score(uint32_t h, uint32_t start, uint32_t d, uint32_t n_head)
{
    uint32_t wide = d + 2 * h;
    int far = abs((int)h - (int)start);
    return (wide % n_head == 0) * 4000 + (wide % 64 == 0) * 2000 + (wide % 32 == 0) * 1000 - far;
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
    static const char *const known[][2] = {{"LlamaForCausalLM", "llama"},     {"MistralForCausalLM", "mistral"},
                                           {"Qwen2ForCausalLM", "qwen2"},     {"Qwen3ForCausalLM", "qwen3"},
                                           {"MixtralForCausalLM", "mixtral"}, {"Qwen3MoeForCausalLM", "qwen3_moe"}};
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

static int check_memory(const struct st_config *c, uint32_t wide, struct st_err *e)
{
    /* The frame and one R; tiles are small beside them. */
    size_t need = ((size_t)wide * wide + (size_t)(wide - c->d_model) * c->d_model) * sizeof(double),
           have = st_mem_available();
    char a[ST_MEM_TEXT], b[ST_MEM_TEXT];
    if (need > have)
        return st_fail(e, ST_MEMORY, "hidden size %u: the key matrices need %s of memory, there are %s", wide,
                       st_mem_text(need, a), st_mem_text(have, b));
    return 0;
}

/* Jobs point to the keys of their layer: those of a layer are done before the next one's are drawn. */
static int transform(struct build *b, struct st_err *e)
{
    const struct st_plan *p = &b->model->plan;
    struct st_cov_job j;
    int rc = 0;
    for (int i = 0; !rc && i < p->n_weight; i++) {
        if (i && p->weights[i].layer != p->weights[i - 1].layer)
            rc = st_cov_run_flush(b->run, e);
        if (!rc && st_cov_out_done(&b->out, &b->tensors[i])) {
            st_cov_run_skip(b->run, &b->tensors[i]);
            continue;
        }
        if (!rc)
            rc = st_cov_rules_job(&b->rules, i, &j, e);
        j.out = &b->tensors[i];
        if (!rc)
            rc = st_cov_run_add(b->run, &j, e);
    }
    return rc ? rc : st_cov_run_flush(b->run, e);
}

/* Norm weights of kappa make RMSNorm of the wide state equal P times that of the plain one. A 16-bit dtype cannot hold
 * kappa exactly; what it holds is written, and the rest multiplied into the readers. */
static void prepare_norm(struct build *b)
{
    uint32_t raw = 0; /* room for one value of any dtype */
    float stored;
    b->kappa = sqrt((double)b->frame.d / b->frame.wide);
    stored = (float)b->kappa;
    st_convert(ST_DTYPE_F32, &stored, b->config.dtype, &raw, 1);
    st_convert(b->config.dtype, &raw, ST_DTYPE_F32, &stored, 1);
    b->rules.norm = stored;
    b->rules.eps_ratio = b->kappa * b->kappa;
    b->rules.gain = b->kappa / (double)stored;
}

static int prepare_frame(struct build *b, uint32_t h, struct st_err *e)
{
    struct st_stream *s;
    int rc = check_memory(&b->model->config, b->model->config.d_model + 2 * h, e);
    if (!rc)
        rc = st_cov_key_stream(b->key, b->digest, "frame", &s, e);
    if (rc)
        return rc;
    rc = st_cov_frame_init(&b->frame, b->rules.opts->preset, b->model->config.d_model, h, b->rules.opts->lambda, s, e);
    st_stream_free(s);
    return rc;
}

static int write_small_files(struct build *b, uint32_t h, struct st_err *e)
{
    struct st_cov_manifest manifest = {.expand = h};
    int rc = st_cov_key_commit(b->key, b->digest, manifest.commitment, e);
    if (!rc)
        rc = st_cov_write_manifest(&b->out, &manifest, e);
    if (!rc)
        rc = st_cov_write_config(&b->out, &b->config, b->kappa * b->kappa * (double)b->model->config.norm_eps, e);
    if (!rc)
        rc = st_cov_write_tokenizer(&b->out, &b->config, e);
    return rc;
}

/* Begins the journal, or takes up that of a run that did not end. */
static int bind(struct build *b, struct st_cov_out_tensor **list, uint32_t h, const struct st_cov_opts *o,
                struct st_err *e)
{
    struct st_cov_binding binding;
    int rc = st_cov_key_commit(b->key, b->digest, binding.commitment, e);
    st_hex(b->digest, sizeof b->digest, binding.source);
    if (!rc)
        rc = st_cov_opts_line(o, h, binding.options, sizeof binding.options, e);
    return rc ? rc : st_cov_out_bind(&b->out, &binding, list, b->model->plan.n_weight, o->restart, e);
}

static int lay_out(struct build *b, uint32_t h, const struct st_cov_opts *o, struct st_err *e)
{
    int n = b->model->plan.n_weight;
    struct st_cov_out_tensor **list = NULL;
    int rc = st_alloc(&b->tensors, (size_t)n, sizeof *b->tensors, "tensor list", e);
    if (!rc)
        rc = st_alloc(&list, (size_t)n, sizeof *list, "tensor list", e);
    for (int i = 0; !rc && i < n; i++) {
        rc = st_cov_rules_describe(&b->rules, i, &b->tensors[i], e);
        b->tensors[i].weight = &b->model->plan.weights[i];
        list[i] = &b->tensors[i];
    }
    if (!rc)
        rc = bind(b, list, h, o, e);
    if (!rc)
        rc = st_cov_out_plan(&b->out, list, n, o->shard_bytes ? o->shard_bytes : SHARD_BYTES, e);
    free(list);
    return rc;
}

static int compile(struct build *b, const struct st_cov_opts *o, struct st_err *e)
{
    uint64_t total = 0;
    const struct st_cov_run_opts run = {.model = b->model,
                                        .key = b->key,
                                        .digest = b->digest,
                                        .out = &b->out,
                                        .n_threads = o->n_threads,
                                        .memory = o->memory_bytes ? o->memory_bytes : MEMORY_BYTES,
                                        .progress = &b->progress,
                                        .cancel = o->cancel};
    for (int i = 0; i < b->model->plan.n_weight; i++)
        total += b->tensors[i].bytes;
    st_progress_start(&b->progress, "obfuscate", "B", total);
    b->progress.on = b->progress.on && o->progress;
    int rc = st_cov_run_new(&run, &b->run, e);
    if (!rc)
        rc = transform(b, e);
    st_progress_end(&b->progress);
    return rc;
}

/* What stopped the run may be gone next time: then finished tensors stay. A source that is refused is refused again. */
static void keep_finished(struct build *b, struct st_err *e)
{
    struct st_err cause = *e;
    size_t n = b->out.journal.n_found + b->out.journal.n_noted;
    if (n == 0 || (e->code != ST_IO && e->code != ST_MEMORY))
        return;
    b->out.keep = true;
    st_fail(e, cause.code, "%.300s; finished tensors stay in %.120s, and the same command goes on from there",
            cause.msg, b->out.stage);
}

static void wipe(struct build *b)
{
    st_cov_run_free(b->run);
    st_cov_rules_wipe(&b->rules);
    st_cov_frame_wipe(&b->frame);
    st_cov_cipher_wipe(&b->cipher);
    st_cov_out_close(&b->out);
    free(b->tensors);
    st_model_close(b->model);
}

int st_cov_obfuscate(const char *src, const char *dst, const struct st_cov_key *key, const struct st_cov_opts *o,
                     struct st_err *e)
{
    struct build b = {.key = key, .rules = {.opts = o}};
    uint32_t h = 0;
    /* Tiles are the unit of parallel work, and their number of threads must not show in the result. */
    openblas_set_num_threads(1);
    int rc = st_cov_opts_check(o, e);
    if (!rc)
        rc = st_cov_out_open(&b.out, dst, e);
    if (!rc)
        rc = st_model_open(src, &(struct st_model_opts){.n_threads = o->n_threads}, &b.model, e);
    if (!rc)
        rc = check_arch(&b.model->config, e);
    if (!rc)
        rc = choose_expand(&b.model->config, o->expand, &h, e);
    if (!rc)
        rc = st_model_digest(src, b.digest, e);
    if (!rc)
        rc = st_cov_cipher_init(b.model->config.n_vocab, b.digest, key, &b.cipher, e);
    if (!rc)
        rc = prepare_frame(&b, h, e);
    if (!rc) {
        st_cov_config(&b.model->config, h, &b.cipher, &b.config);
        b.config.dtype = stored_dtype(o->dtype, b.config.dtype);
        b.rules.model = b.model;
        b.rules.config = &b.config;
        b.rules.key = key;
        b.rules.digest = b.digest;
        b.rules.cipher = &b.cipher;
        b.rules.frame = &b.frame;
        prepare_norm(&b);
    }
    if (!rc)
        rc = lay_out(&b, h, o, e);
    if (!rc)
        rc = write_small_files(&b, h, e);
    if (!rc)
        rc = compile(&b, o, e);
    if (!rc)
        rc = st_cov_out_publish(&b.out, e);
    if (rc)
        keep_finished(&b, e);
    wipe(&b);
    return rc;
}
