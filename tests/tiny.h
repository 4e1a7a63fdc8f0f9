/* Small random Hugging Face checkpoints for tests: config.json and safetensors of any supported architecture, from a
 * seed. Names and shapes come from the architecture's plan (the comparison with transformers checks those). Every
 * tensor takes its numbers from the seed and its own name, so that shards, dtypes and header padding do not change the
 * values. */
#ifndef ST_TESTS_TINY_H
#define ST_TESTS_TINY_H

#include "base/file.h"
#include "base/hooks.h"
#include "model/arch.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct tiny {
    const char *arch;                /* NULL = LlamaForCausalLM */
    uint32_t d_model, d_ff, n_layer; /* 0 = 64, 96, 2 */
    uint32_t n_head, n_kv_head;      /* 0 = 4, 2 */
    uint32_t head_dim;               /* 0 = not given */
    uint32_t n_vocab, n_ctx;         /* 0 = 128, 64 */
    enum st_dtype dtype;             /* of the matrices; norms and biases are F32 */
    bool tied;
    const char *extra;   /* more members of config.json: "\"mlp_bias\": true" */
    uint32_t n_shard;    /* 0 = model.safetensors, else an index and that many files */
    uint32_t header_pad; /* spaces after each header, which shift the data */
    uint64_t seed;
    /* Changes the values of a weight before they are stored; NULL = as the seed says. */
    void (*change)(const void *arg, const struct st_plan_weight *w, float *values);
    const void *change_arg;
};

/* Ends the test program: a helper that fails has nothing to report to. */
static inline void tiny_die(const char *what)
{
    fprintf(stderr, "tiny: %s\n", what);
    abort();
}

static inline void tiny_check(int rc, const struct st_err *e)
{
    if (rc)
        tiny_die(e->msg);
}

/* A fresh directory under /tmp; remove with tiny_rmdir. */
static inline void tiny_mkdir(char dir[64])
{
    snprintf(dir, 64, "/tmp/sotto-test-XXXXXX");
    if (!mkdtemp(dir))
        tiny_die("cannot make a directory");
}

/* Removes the directory and the plain files in it. */
static inline void tiny_rmdir(const char *dir)
{
    char path[ST_PATH_MAX];
    struct st_err e;
    DIR *d = opendir(dir);
    for (struct dirent *f; d && (f = readdir(d));)
        if (f->d_name[0] != '.' && st_path_join(path, sizeof path, dir, f->d_name, &e) == 0)
            unlink(path);
    if (d)
        closedir(d);
    rmdir(dir);
}

static inline void tiny_save(const char *dir, const char *name, const void *p, size_t len)
{
    char path[ST_PATH_MAX];
    struct st_err e = {0};
    tiny_check(st_path_join(path, sizeof path, dir, name, &e), &e);
    /* A new file each time: ext4 writes a file that was cut to nothing to disk at once. */
    unlink(path);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(p, 1, len, f) != len || fclose(f) != 0)
        tiny_die("cannot write");
}

static inline void tiny_config(const struct tiny *t, struct st_buf *b)
{
    st_buf_addf(
        b,
        "{\"architectures\": [\"%s\"], \"model_type\": \"tiny\", \"hidden_size\": %u, \"intermediate_size\": %u, "
        "\"num_hidden_layers\": %u, \"num_attention_heads\": %u, \"num_key_value_heads\": %u, \"vocab_size\": %u, "
        "\"max_position_embeddings\": %u, \"rms_norm_eps\": 1e-5, \"rope_theta\": 10000.0, \"bos_token_id\": 1, "
        "\"eos_token_id\": 2, \"tie_word_embeddings\": %s",
        t->arch ? t->arch : "LlamaForCausalLM", t->d_model ? t->d_model : 64, t->d_ff ? t->d_ff : 96,
        t->n_layer ? t->n_layer : 2, t->n_head ? t->n_head : 4, t->n_kv_head ? t->n_kv_head : 2,
        t->n_vocab ? t->n_vocab : 128, t->n_ctx ? t->n_ctx : 64, t->tied ? "true" : "false");
    if (t->head_dim)
        st_buf_addf(b, ", \"head_dim\": %u", t->head_dim);
    if (t->extra)
        st_buf_addf(b, ", %s", t->extra);
    st_buf_add_str(b, "}\n");
}

/* Uniform values: norms around 1, matrices with a spread near 1/sqrt(n_in), biases small but not zero. */
static inline void tiny_values(const struct tiny *t, const struct st_plan_weight *w, float *out)
{
    struct st_rng rng;
    uint64_t seed = t->seed;
    for (const char *c = w->name; *c; c++)
        seed = seed * 1099511628211u + (unsigned char)*c;
    st_rng_seed(&rng, seed);
    bool norm = strstr(w->name, "norm") != NULL;
    float spread = norm || w->n_in == 1 ? 0.3f : 1.7f / __builtin_sqrtf((float)w->n_in);
    for (size_t i = 0; i < (size_t)w->n_out * w->n_in; i++)
        out[i] = (norm ? 1.0f : 0.0f) + spread * (float)(2 * st_rng_unit(&rng) - 1);
}

/* One safetensors file with the plan's weights of which number % n_shard == shard; their names join the index. */
static inline void tiny_shard(const struct tiny *t, const struct st_plan *p, uint32_t shard, uint32_t n_shard,
                              const char *file, const char *dir, struct st_buf *map)
{
    static const char *const words[] = {"F32", "F16", "BF16"};
    struct st_buf head = {0}, data = {0}, all = {0};
    st_buf_add_str(&head, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; i < p->n_weight; i++) {
        const struct st_plan_weight *w = &p->weights[i];
        size_t n = (size_t)w->n_out * w->n_in, from = data.len;
        enum st_dtype dtype = w->n_in == 1 ? ST_DTYPE_F32 : t->dtype;
        if (w->tied_to >= 0 || (uint32_t)i % n_shard != shard)
            continue;
        float *v = calloc(n, sizeof *v);
        void *stored = calloc(n, sizeof *v);
        tiny_values(t, w, v);
        if (t->change)
            t->change(t->change_arg, w, v);
        st_convert(ST_DTYPE_F32, v, dtype, stored, n);
        st_buf_add(&data, stored, n * st_dtype_size(dtype));
        free(v);
        free(stored);
        st_buf_addf(&head, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%u", w->name, words[dtype], w->n_out);
        if (w->n_in != 1)
            st_buf_addf(&head, ",%u", w->n_in);
        st_buf_addf(&head, "],\"data_offsets\":[%zu,%zu]}", from, data.len);
        st_buf_addf(map, "%s\"%s\": \"%s\"", map->len ? ", " : "", w->name, file);
    }
    st_buf_add_str(&head, "}");
    while (head.len % 8)
        st_buf_add_str(&head, " ");
    for (uint32_t i = 0; i < t->header_pad; i++)
        st_buf_add_str(&head, " ");
    uint64_t len = head.len; /* little-endian machines only, as everywhere */
    st_buf_add(&all, &len, 8);
    st_buf_add(&all, head.p, head.len);
    st_buf_add(&all, data.p ? data.p : "", data.len);
    tiny_save(dir, file, all.p, all.len);
    st_buf_free(&head);
    st_buf_free(&data);
    st_buf_free(&all);
}

/* Writes the checkpoint into dir, which exists. */
static inline void tiny_write(const struct tiny *t, const char *dir)
{
    struct st_err e = {0};
    struct st_buf config = {0}, map = {0}, index = {0};
    struct st_config c;
    struct st_plan plan = {0};
    const struct st_arch *arch;
    tiny_config(t, &config);
    tiny_save(dir, "config.json", config.p, config.len);
    tiny_check(st_config_parse(config.p, config.len, "config.json", &c, &e), &e);
    tiny_check(st_arch_find(c.arch, &arch, &e), &e);
    arch->plan(&c, &plan);
    tiny_check(st_plan_check(&plan, &e), &e);
    if (t->n_shard == 0)
        tiny_shard(t, &plan, 0, 1, "model.safetensors", dir, &map);
    for (uint32_t i = 0; i < t->n_shard; i++) {
        char file[64];
        snprintf(file, sizeof file, "model-%05u-of-%05u.safetensors", i + 1, t->n_shard);
        tiny_shard(t, &plan, i, t->n_shard, file, dir, &map);
    }
    if (t->n_shard) {
        st_buf_addf(&index, "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {%s}}", map.p);
        tiny_save(dir, "model.safetensors.index.json", index.p, index.len);
    }
    st_plan_free(&plan);
    st_buf_free(&config);
    st_buf_free(&map);
    st_buf_free(&index);
}

/* The config of such a checkpoint, parsed. */
static inline int parse_tiny(const struct tiny *t, struct st_config *c, struct st_err *e)
{
    struct st_buf b = {0};
    tiny_config(t, &b);
    int rc = st_config_parse(b.p, b.len, "config.json", c, e);
    st_buf_free(&b);
    return rc;
}

#endif
