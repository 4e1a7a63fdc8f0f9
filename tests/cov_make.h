/* For the tests of covariant obfuscation: a directory per test, small random source checkpoints, and running them. */
#ifndef ST_TESTS_COV_MAKE_H
#define ST_TESTS_COV_MAKE_H

#include "engine/engine.h"
#include "expect.h"
#include "model/arch.h"
#include "model/checkpoint.h"
#include "protect/covariant/covariant.h"
#include "protect/covariant/frame.h"
#include "protect/covariant/layer_keys.h"
#include "protect/covariant/out.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char work[64]; /* a fresh directory per test */

static inline int make_work(void **state)
{
    (void)state;
    strcpy(work, "/tmp/sotto-cov-XXXXXX");
    return mkdtemp(work) ? 0 : -1;
}

static inline int drop_work(void **state)
{
    char cmd[96];
    (void)state;
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", work);
    return system(cmd);
}

static inline const char *in_work(const char *name)
{
    static char path[4][256];
    static int turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], "%s/%s", work, name);
    return path[turn];
}

static inline int count_entries(const char *dir)
{
    int n = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *x; (x = readdir(d));)
        n += x->d_name[0] != '.';
    closedir(d);
    return n;
}

static inline struct st_cov_key key_of(uint8_t fill)
{
    struct st_err e;
    struct st_cov_key k = {.id = {fill}};
    assert_ok(st_secret_init(&k.seed, 32, &e), &e);
    memset(k.seed.p, fill, 32);
    return k;
}

/* ---- a small source checkpoint ---- */

struct tiny {
    const char *label;
    uint32_t d, layers, heads, kv, dh, ff, vocab;
    bool tied, bias, attn_bias; /* bias: attention and MLP */
    double eps;                 /* 0 = 0.01 */
    enum st_dtype dtype;
    const char *arch, *type, *extra; /* extra: more fields of config.json */
    const char *drop;                /* a tensor that is left out */
    const char *bend;                /* a tensor that is one row short */
    const char *poison;              /* a tensor with a NaN */
};

static const struct tiny plain_tiny = {
    .label = "tiny", .d = 32, .layers = 2, .heads = 4, .kv = 2, .dh = 8, .ff = 48, .vocab = 97};

struct writer {
    struct st_cov_out_tensor t[256], *list[256];
    int n;
};

/* What the architecture's plan asks for. */
static inline void list_tensors(struct writer *w, const struct tiny *m, const char *config)
{
    struct st_config c;
    const struct st_arch *arch;
    struct st_plan plan = {0};
    struct st_err e;
    w->n = 0;
    /* One that is not supported gets none. */
    if (st_config_parse(config, strlen(config), "config", &c, &e) || st_arch_find(c.arch, &arch, &e))
        return;
    arch->plan(&c, &plan);
    for (int i = 0; i < plan.n_weight; i++) {
        const struct st_plan_weight *p = &plan.weights[i];
        struct st_cov_out_tensor *t = &w->t[w->n];
        bool vector = p->n_in == 1;
        if (p->tied_to >= 0 || (m->drop && strcmp(p->name, m->drop) == 0))
            continue;
        assert_true(w->n < 256);
        *t = (struct st_cov_out_tensor){
            .dtype = m->dtype, .n_dim = vector ? 1 : 2, .dim = {p->n_out, vector ? 0 : p->n_in}};
        if (m->bend && strcmp(p->name, m->bend) == 0)
            t->dim[0]--;
        snprintf(t->name, sizeof t->name, "%s", p->name);
        w->list[w->n++] = t;
    }
    st_plan_free(&plan);
}

static inline void fill(const struct st_cov_out *o, const struct st_cov_out_tensor *t, const struct tiny *m,
                        struct st_rng *rng)
{
    struct st_err e;
    bool norm = strstr(t->name, "norm") != NULL;
    double scale = strstr(t->name, "embed") || strstr(t->name, "lm_head") ? 1 : 2 / sqrt(t->n_dim == 2 ? t->dim[1] : 8);
    size_t n = (size_t)t->bytes / st_dtype_size(t->dtype);
    float *f = malloc(n * sizeof *f);
    void *raw = malloc(t->bytes);
    assert_true(f && raw);
    for (size_t i = 0; i < n; i++)
        f[i] = (float)(scale * (2 * st_rng_unit(rng) - 1) + norm);
    if (m->poison && strcmp(t->name, m->poison) == 0)
        f[n / 2] = NAN;
    st_convert(ST_DTYPE_F32, f, t->dtype, raw, n);
    assert_ok(st_cov_out_write(o, t, 0, raw, t->bytes, &e), &e);
    free(f);
    free(raw);
}

static inline const char *write_tiny(const struct tiny *m)
{
    static struct writer w;
    static char path[256];
    struct st_cov_out o;
    struct st_err e;
    struct st_rng rng;
    char config[1024];
    snprintf(path, sizeof path, "%s/%s", work, m->label);
    snprintf(config, sizeof config,
             "{\"architectures\": [\"%s\"], \"model_type\": \"%s\", \"hidden_size\": %u, \"intermediate_size\": %u, "
             "\"num_hidden_layers\": %u, \"num_attention_heads\": %u, \"num_key_value_heads\": %u, \"head_dim\": %u, "
             "\"vocab_size\": %u, \"max_position_embeddings\": 300, \"rms_norm_eps\": %g, \"rope_theta\": 10000.0, "
             "\"tie_word_embeddings\": %s, \"attention_bias\": %s, \"mlp_bias\": %s, \"bos_token_id\": 1, "
             "\"eos_token_id\": [2, 5], \"pad_token_id\": 0%s, \"hidden_act\": \"silu\"}",
             m->arch ? m->arch : "LlamaForCausalLM", m->type ? m->type : "llama", m->d, m->ff, m->layers, m->heads,
             m->kv, m->dh, m->vocab, m->eps > 0 ? m->eps : 0.01, m->tied ? "true" : "false",
             m->bias || m->attn_bias ? "true" : "false", m->bias ? "true" : "false", m->extra ? m->extra : "");
    list_tensors(&w, m, config);
    assert_ok(st_cov_out_open(&o, path, &e), &e);
    assert_ok(st_cov_out_plan(&o, w.list, w.n, UINT64_MAX, &e), &e);
    assert_ok(st_cov_out_file(&o, "config.json", config, strlen(config), &e), &e);
    st_rng_seed(&rng, 7);
    for (int i = 0; i < w.n; i++)
        fill(&o, &w.t[i], m, &rng);
    assert_ok(st_cov_out_publish(&o, &e), &e);
    st_cov_out_close(&o);
    return path;
}

/* ---- running a model ---- */

struct reply {
    uint32_t ids[512];
    size_t n;
};

static inline bool on_token(void *arg, const struct st_sampled *tok)
{
    struct reply *r = arg;
    r->ids[r->n++] = tok->id;
    return true;
}

static inline void on_end(void *arg, enum st_finish finish, int64_t stop_id, const struct st_err *e)
{
    (void)arg;
    (void)finish;
    (void)stop_id;
    assert_null(e);
}

/* Greedy ids after the prompt; through the cipher when there is one. */
static inline void generate(const char *path, const struct st_cov_cipher *cipher, const uint32_t *prompt,
                            size_t n_prompt, uint32_t n_predict, struct reply *out)
{
    struct st_err e;
    struct st_model *m;
    struct st_engine *en;
    struct st_request *r;
    uint32_t ids[64];
    assert_ok(st_model_open(path, &(struct st_model_opts){.n_threads = 1}, &m, &e), &e);
    struct st_engine_opts eo = {.n_threads = 1, .kv_dtype = ST_DTYPE_F32, .max_batch = 1};
    assert_ok(st_engine_new(m, &eo, &en, &e), &e);
    for (size_t i = 0; i < n_prompt; i++)
        ids[i] = cipher ? cipher->to[prompt[i]] : prompt[i];
    out->n = 0;
    struct st_request_opts o = {.ids = ids,
                                .n_ids = n_prompt,
                                .n_predict = n_predict,
                                .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1},
                                .ignore_eos = true,
                                .on_token = on_token,
                                .on_end = on_end,
                                .arg = out};
    assert_ok(st_engine_submit(en, &o, &r, &e), &e);
    while (st_engine_step(en))
        ;
    for (size_t i = 0; cipher && i < out->n; i++)
        out->ids[i] = cipher->from[out->ids[i]];
    st_engine_free(en);
    st_model_close(m);
}

static inline void obfuscate(const char *src, const char *dst, const struct st_cov_key *key, int n_threads)
{
    struct st_err e;
    struct st_cov_opts o = {.n_threads = n_threads};
    assert_ok(st_cov_obfuscate(src, dst, key, &o, &e), &e);
}

#endif
