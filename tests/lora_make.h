/* Small LoRA adapters for tests, as peft writes them: for the layers of a tiny model that the config names, from a seed
 * and each tensor's name; and the same change merged into a checkpoint, to compare with. */
#ifndef ST_TESTS_LORA_MAKE_H
#define ST_TESTS_LORA_MAKE_H

#include "harness.h"
#include "model/adapter_config.h"

struct lora {
    const char *targets; /* of target_modules, as JSON; NULL = "[\"q_proj\", \"v_proj\"]" */
    const char *extra;   /* more members of adapter_config.json: "\"use_rslora\": true" */
    uint32_t rank;       /* 0 = 4 */
    double alpha;        /* 0 = 16 */
    enum st_dtype dtype;
    uint64_t seed;
    const char *infix; /* ".default": lora_A.default.weight */
};

static inline void lora_config(const struct lora *l, struct st_buf *b)
{
    st_buf_addf(b,
                "{\"peft_type\": \"LORA\", \"task_type\": \"CAUSAL_LM\", \"bias\": \"none\", \"lora_dropout\": 0.05, "
                "\"use_dora\": false, \"modules_to_save\": null, \"r\": %u, \"lora_alpha\": %g, \"target_modules\": %s",
                l->rank ? l->rank : 4, l->alpha != 0 ? l->alpha : 16.0,
                l->targets ? l->targets : "[\"q_proj\", \"v_proj\"]");
    if (l->extra)
        st_buf_addf(b, ", %s", l->extra);
    st_buf_add_str(b, "}\n");
}

static inline struct st_adapter_config *lora_parsed(const struct lora *l)
{
    struct st_buf b = {0};
    struct st_adapter_config *c;
    struct st_err e;
    lora_config(l, &b);
    tiny_check(st_adapter_config_parse(b.p, b.len, "adapter_config.json", &c, &e), &e);
    st_buf_free(&b);
    return c;
}

/* Module of a weight, and its rank; 0 = the adapter does not change it. */
static inline uint32_t lora_rank(const struct st_adapter_config *c, const struct st_plan_weight *w,
                                 char module[ST_PLAN_NAME], float *scale)
{
    struct st_err e;
    uint32_t rank;
    bool yes;
    size_t n = strlen(w->name);
    if (w->n_in == 1 || w->role == ST_ROLE_EMBED || n < 8)
        return 0;
    snprintf(module, ST_PLAN_NAME, "%.*s", (int)(n - 7), w->name); /* without .weight */
    tiny_check(st_adapter_config_targets(c, module, w->layer, &yes, &e), &e);
    tiny_check(st_adapter_config_rank(c, module, &rank, scale, &e), &e);
    return yes ? rank : 0;
}

/* Values of A [rank, n_in] (side 'A') or B [n_out, rank], as they are stored. */
static inline float *lora_values(const struct lora *l, const char *module, char side, uint32_t rank, uint32_t n)
{
    size_t count = (size_t)rank * n;
    float *v = calloc(count, sizeof *v);
    void *stored = calloc(count, sizeof *v);
    struct st_rng rng;
    uint64_t seed = l->seed * 31 + (unsigned char)side;
    for (const char *c = module; *c; c++)
        seed = seed * 1099511628211u + (unsigned char)*c;
    st_rng_seed(&rng, seed);
    float spread = side == 'A' ? 1.5f / __builtin_sqrtf((float)n) : 0.15f;
    for (size_t i = 0; i < count; i++)
        v[i] = spread * (float)(2 * st_rng_unit(&rng) - 1);
    st_convert(ST_DTYPE_F32, v, l->dtype, stored, count);
    st_convert(l->dtype, stored, ST_DTYPE_F32, v, count);
    free(stored);
    return v;
}

static inline void lora_put(const struct lora *l, const char *module, char side, uint32_t rank, uint32_t n,
                            struct st_buf *head, struct st_buf *data)
{
    static const char *const words[] = {"F32", "F16", "BF16"};
    size_t count = (size_t)rank * n, from = data->len;
    float *v = lora_values(l, module, side, rank, n);
    void *stored = calloc(count, sizeof *v);
    st_convert(ST_DTYPE_F32, v, l->dtype, stored, count);
    st_buf_add(data, stored, count * st_dtype_size(l->dtype));
    st_buf_addf(head,
                ",\"base_model.model.%s.lora_%c%s.weight\":{\"dtype\":\"%s\",\"shape\":[%u,%u],"
                "\"data_offsets\":[%zu,%zu]}",
                module, side, l->infix ? l->infix : "", words[l->dtype], side == 'A' ? rank : n, side == 'A' ? n : rank,
                from, data->len);
    free(v);
    free(stored);
}

/* A safetensors file of a header without its braces and the data. */
static inline void lora_save(const char *dir, const struct st_buf *head, const struct st_buf *data)
{
    struct st_buf all = {0};
    uint64_t len = head->len + 1;
    st_buf_add(&all, &len, 8);
    st_buf_add(&all, head->p, head->len);
    st_buf_add_str(&all, "}");
    st_buf_add(&all, data->p ? data->p : "", data->len);
    tiny_save(dir, "adapter_model.safetensors", all.p, all.len);
    st_buf_free(&all);
}

/* The adapter of a model like t, into dir, which exists. */
static inline void lora_write(const struct lora *l, const struct tiny *t, const char *dir)
{
    struct st_buf head = {0}, data = {0}, config = {0};
    struct st_adapter_config *c = lora_parsed(l);
    struct st_config mc;
    struct st_plan plan = {0};
    const struct st_arch *arch;
    struct st_err e;
    float scale;
    char module[ST_PLAN_NAME];
    lora_config(l, &config);
    tiny_save(dir, "adapter_config.json", config.p, config.len);
    tiny_check(parse_tiny(t, &mc, &e), &e);
    tiny_check(st_arch_find(mc.arch, &arch, &e), &e);
    arch->plan(&mc, &plan);
    st_buf_add_str(&head, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; i < plan.n_weight; i++) {
        const struct st_plan_weight *w = &plan.weights[i];
        uint32_t rank = lora_rank(c, w, module, &scale);
        if (!rank)
            continue;
        lora_put(l, module, 'A', rank, w->n_in, &head, &data);
        lora_put(l, module, 'B', rank, w->n_out, &head, &data);
    }
    lora_save(dir, &head, &data);
    st_plan_free(&plan);
    st_adapter_config_free(c);
    st_buf_free(&head);
    st_buf_free(&data);
    st_buf_free(&config);
}

/* For struct tiny.change: W + scale B A, its argument a struct lora. */
static inline void lora_merge(const void *arg, const struct st_plan_weight *w, float *values)
{
    const struct lora *l = arg;
    struct st_adapter_config *c = lora_parsed(l);
    char module[ST_PLAN_NAME];
    float scale;
    uint32_t rank = lora_rank(c, w, module, &scale);
    st_adapter_config_free(c);
    if (!rank)
        return;
    float *a = lora_values(l, module, 'A', rank, w->n_in), *b = lora_values(l, module, 'B', rank, w->n_out);
    for (uint32_t o = 0; o < w->n_out; o++)
        for (uint32_t i = 0; i < w->n_in; i++) {
            double sum = 0;
            for (uint32_t k = 0; k < rank; k++)
                sum += (double)b[(size_t)o * rank + k] * a[(size_t)k * w->n_in + i];
            values[(size_t)o * w->n_in + i] += (float)(scale * sum);
        }
    free(a);
    free(b);
}

/* A model with n adapters of these, "first", "second", ... by number. */
static inline struct st_model *lora_model(const struct tiny *t, const struct lora *l, uint32_t n,
                                          struct st_model_opts o)
{
    struct st_adapter *open[8];
    struct st_model *m;
    struct st_err e;
    char base[64], dir[64], name[16];
    tiny_mkdir(base);
    tiny_write(t, base);
    for (uint32_t i = 0; i < n; i++) {
        tiny_mkdir(dir);
        lora_write(&l[i], t, dir);
        snprintf(name, sizeof name, "adapter-%u", i + 1);
        tiny_check(st_adapter_open(dir, &(struct st_adapter_opts){.name = name}, &open[i], &e), &e);
        tiny_rmdir(dir); /* the maps stay valid */
    }
    o.n_threads = 1;
    o.adapters = (const struct st_adapter *const *)open;
    o.n_adapter = n;
    tiny_check(st_model_open(base, &o, &m, &e), &e);
    for (uint32_t i = 0; i < n; i++)
        st_adapter_close(open[i]);
    tiny_rmdir(base);
    return m;
}

/* Logits of every position of a prompt, [n_ids, n_vocab]. */
static inline float *lora_logits(struct st_engine *en, uint32_t n_vocab, uint32_t adapter, const uint32_t *ids,
                                 size_t n)
{
    struct client c = {.n_vocab = n_vocab, .prompt_rows = calloc(n * n_vocab, sizeof(float))};
    struct st_request_opts o = client_opts(&c, ids, n, 1);
    o.on_prompt_logits = client_row;
    o.adapter = adapter;
    client_submit(&c, en, &o);
    while (st_engine_step(en))
        ;
    if (c.finish == ST_FINISH_ERROR)
        tiny_die(c.err.msg);
    return c.prompt_rows;
}

#endif
