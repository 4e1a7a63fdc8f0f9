#include "model/config.h"
#include "base/file.h"
#include "model/arch.h"
#include "model/ckpt.h"
#include "model/texts.h"
#include "tensor/compute.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define CONFIG_BYTES_MAX (16u << 20)
_Static_assert(ST_MAX_HEAD_DIM <= ST_ATTN_MAX_HEAD_DIM, "attention has room for every head");

/* A field that must be there. */
static int need_u32(const json_t *o, const char *where, const char *key, uint32_t max, uint32_t *out, struct st_err *e)
{
    int64_t v = 0;
    int rc = st_json_need(o, where, key, e);
    if (!rc)
        rc = st_json_int(o, where, key, 1, max, &v, e);
    if (!rc)
        *out = (uint32_t)v;
    return rc;
}

/* A field that may be absent or null. */
static int maybe_u32(const json_t *o, const char *where, const char *key, uint32_t max, uint32_t *out, struct st_err *e)
{
    int64_t v = *out;
    int rc = st_json_int(o, where, key, 1, max, &v, e);
    if (!rc)
        *out = (uint32_t)v;
    return rc;
}

static int maybe_float(const json_t *o, const char *where, const char *key, double min, double max, float *out,
                       struct st_err *e)
{
    double v = (double)*out;
    int rc = st_json_real(o, where, key, min, max, &v, e);
    if (!rc)
        *out = (float)v;
    return rc;
}

static int need_float(const json_t *o, const char *where, const char *key, double min, double max, float *out,
                      struct st_err *e)
{
    int rc = st_json_need(o, where, key, e);
    return rc ? rc : maybe_float(o, where, key, min, max, out, e);
}

static bool is_set(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return v && !json_is_null(v);
}

/* architectures: a list of one name. */
static int read_arch(const json_t *o, const char *where, struct st_config *c, const struct st_arch **arch,
                     struct st_err *e)
{
    int rc = st_json_need(o, where, "architectures", e);
    if (rc)
        return rc;
    const json_t *list = json_object_get(o, "architectures");
    const char *name = json_string_value(json_array_get(list, 0));
    if (json_array_size(list) != 1 || !name)
        return st_fail(e, ST_INPUT, "%s: architectures: want a list of one name", where);
    rc = st_arch_find(name, arch, e);
    if (rc)
        return st_err_prefix(e, "%s", where);
    snprintf(c->arch, sizeof c->arch, "%s", name);

    const char *type = "";
    rc = st_json_str(o, where, "model_type", &type, e);
    if (!rc && strlen(type) >= sizeof c->model_type)
        rc = st_fail(e, ST_INPUT, "%s: model_type: longer than %zu bytes", where, sizeof c->model_type - 1);
    if (!rc)
        snprintf(c->model_type, sizeof c->model_type, "%s", type);
    return rc;
}

static int read_sizes(const json_t *o, const char *where, struct st_config *c, struct st_err *e)
{
    int rc = need_u32(o, where, "hidden_size", ST_MAX_WIDTH, &c->d_model, e);
    if (!rc)
        rc = need_u32(o, where, "num_hidden_layers", ST_MAX_LAYERS, &c->n_layer, e);
    if (!rc)
        rc = need_u32(o, where, "num_attention_heads", ST_MAX_HEADS, &c->n_head, e);
    if (!rc)
        rc = need_u32(o, where, "intermediate_size", ST_MAX_FF, &c->d_ff, e);
    if (!rc)
        rc = need_u32(o, where, "vocab_size", ST_MAX_VOCAB, &c->n_vocab, e);
    c->n_kv_head = c->n_head;
    if (!rc)
        rc = maybe_u32(o, where, "num_key_value_heads", ST_MAX_HEADS, &c->n_kv_head, e);
    if (!rc)
        rc = maybe_u32(o, where, "head_dim", ST_MAX_HEAD_DIM, &c->head_dim, e);
    c->n_ctx = 2048;
    if (!rc)
        rc = maybe_u32(o, where, "max_position_embeddings", ST_MAX_CTX, &c->n_ctx, e);
    c->norm_eps = 1e-6f;
    if (!rc)
        rc = maybe_float(o, where, "rms_norm_eps", 1e-12, 0.1, &c->norm_eps, e);
    if (!rc)
        rc = st_json_bool(o, where, "tie_word_embeddings", &c->tied_head, e);
    return rc;
}

static int read_llama3(const json_t *r, const char *where, struct st_config *c, struct st_err *e)
{
    c->rope_scaling = ST_ROPE_LLAMA3;
    int rc = need_float(r, where, "low_freq_factor", 1e-3, 1e6, &c->rope_low_freq_factor, e);
    if (!rc)
        rc = need_float(r, where, "high_freq_factor", 1e-3, 1e6, &c->rope_high_freq_factor, e);
    if (!rc && c->rope_high_freq_factor <= c->rope_low_freq_factor)
        rc = st_fail(e, ST_INPUT, "%s: high_freq_factor: want more than low_freq_factor", where);
    return rc;
}

static int read_yarn(const json_t *r, const char *where, struct st_config *c, struct st_err *e)
{
    struct st_yarn *y = &c->yarn;
    const json_t *truncate = json_object_get(r, "truncate");
    c->rope_scaling = ST_ROPE_YARN;
    /* The reference takes null for false here, and 0 for absent in the other fields. */
    y->truncate = !(truncate && json_is_null(truncate));
    int rc = st_json_bool(r, where, "truncate", &y->truncate, e);
    if (!rc)
        rc = st_json_real(r, where, "beta_fast", 0, 1e6, &y->beta_fast, e);
    if (!rc)
        rc = st_json_real(r, where, "beta_slow", 0, 1e6, &y->beta_slow, e);
    if (!rc)
        rc = st_json_real(r, where, "mscale", 0, 1e3, &y->mscale, e);
    if (!rc)
        rc = st_json_real(r, where, "attention_factor", 1e-3, 1e3, &y->attention_factor, e);
    if (y->beta_fast == 0)
        y->beta_fast = 32;
    if (y->beta_slow == 0)
        y->beta_slow = 1;
    if (!rc && c->rope_theta <= 1)
        rc = st_fail(e, ST_INPUT, "%s: rope_theta: want more than 1 for yarn", where);
    return rc;
}

static int read_rope_kind(const json_t *r, const char *where, struct st_config *c, struct st_err *e)
{
    const char *type = "default";
    int rc = st_json_str(r, where, "type", &type, e); /* the name until transformers 4.43 */
    if (!rc)
        rc = st_json_str(r, where, "rope_type", &type, e);
    if (rc || strcmp(type, "default") == 0)
        return rc;
    bool linear = strcmp(type, "linear") == 0, yarn = strcmp(type, "yarn") == 0;
    if (!linear && !yarn && strcmp(type, "llama3") != 0)
        return st_fail(e, ST_UNSUPPORTED,
                       "%s: rope_type '%.32s' is not supported; supported: default, linear, llama3, yarn", where, type);
    rc = need_float(r, where, "factor", 1e-3, 1e6, &c->rope_factor, e);
    if (!rc)
        rc = st_json_real(r, where, "mscale_all_dim", 0, 1e3, &c->yarn.mscale_all_dim, e);
    if (rc)
        return rc;
    if (linear) {
        c->rope_scaling = ST_ROPE_LINEAR;
        return 0;
    }
    c->rope_original_ctx = c->n_ctx;
    rc = maybe_u32(r, where, "original_max_position_embeddings", ST_MAX_CTX, &c->rope_original_ctx, e);
    if (rc)
        return rc;
    return yarn ? read_yarn(r, where, c, e) : read_llama3(r, where, c, e);
}

/* rope_theta stands beside rope_scaling, or, since transformers 5, inside rope_parameters (either name holds either).
 * transformers prefers a rope_scaling that is not empty. */
static int read_rope(const json_t *o, const char *where, struct st_config *c, struct st_err *e)
{
    float rotated = 1;
    c->rope_theta = 10000;
    int rc = maybe_float(o, where, "rope_theta", 1, 1e12, &c->rope_theta, e);
    if (!rc)
        rc = maybe_float(o, where, "partial_rotary_factor", 0, 1, &rotated, e);
    const char *key = "rope_scaling";
    const json_t *r = json_object_get(o, key);
    if (!r || json_is_null(r) || (json_is_object(r) && json_object_size(r) == 0)) {
        key = "rope_parameters";
        r = json_object_get(o, key);
    }
    if (!rc && r && !json_is_null(r)) {
        char inside[ST_PATH_MAX + 32];
        snprintf(inside, sizeof inside, "%s: %s", where, key);
        if (!json_is_object(r))
            return st_fail(e, ST_INPUT, "%s: want an object", inside);
        const char *name;
        json_t *v;
        json_object_foreach((json_t *)r, name, v)
        {
            if (json_is_object(v))
                return st_fail(e, ST_UNSUPPORTED, "%s: %.40s: parameters per layer type are not supported", inside,
                               name);
        }
        rc = maybe_float(r, inside, "rope_theta", 1, 1e12, &c->rope_theta, e);
        if (!rc)
            rc = maybe_float(r, inside, "partial_rotary_factor", 0, 1, &rotated, e);
        if (!rc)
            rc = read_rope_kind(r, inside, c, e);
        /* Beside the other fields it outweighs the one among them. */
        if (!rc && c->rope_original_ctx)
            rc = maybe_u32(o, where, "original_max_position_embeddings", ST_MAX_CTX, &c->rope_original_ctx, e);
    }
    if (!rc && rotated != 1)
        rc = st_fail(e, ST_UNSUPPORTED, "%s: partial_rotary_factor %g is not supported; supported: 1", where,
                     (double)rotated);
    return rc;
}

/* Adds one id to the list of end ids, once. */
static int add_eos(const json_t *v, const char *where, struct st_config *c, struct st_err *e)
{
    int64_t id = json_is_integer(v) ? json_integer_value(v) : -2;
    if (id == -1)
        return 0;
    if (id < 0 || id >= (int64_t)c->n_vocab)
        return st_fail(e, ST_INPUT, "%s: eos_token_id: want ids in 0..%u", where, c->n_vocab - 1);
    for (int i = 0; i < c->n_eos; i++)
        if (c->eos[i] == id)
            return 0;
    if (c->n_eos == ST_MAX_EOS)
        return st_fail(e, ST_INPUT, "%s: eos_token_id: more than %d ids", where, ST_MAX_EOS);
    c->eos[c->n_eos++] = id;
    return 0;
}

static int read_eos(const json_t *o, const char *where, struct st_config *c, struct st_err *e)
{
    const json_t *v = json_object_get(o, "eos_token_id");
    if (!v || json_is_null(v))
        return 0;
    if (!json_is_array(v))
        return add_eos(v, where, c, e);
    int rc = 0;
    for (size_t i = 0; !rc && i < json_array_size(v); i++)
        rc = add_eos(json_array_get(v, i), where, c, e);
    return rc;
}

static int read_ids(const json_t *o, const char *where, struct st_config *c, struct st_err *e)
{
    c->bos = c->pad = -1;
    int rc = st_json_int(o, where, "bos_token_id", -1, (int64_t)c->n_vocab - 1, &c->bos, e);
    /* Fine-tunes name pad ids that their embedding does not have; nothing here pads. */
    if (!rc)
        rc = st_json_int(o, where, "pad_token_id", -1, INT32_MAX, &c->pad, e);
    if (c->pad >= (int64_t)c->n_vocab)
        c->pad = -1;
    return rc ? rc : read_eos(o, where, c, e);
}

static int refuse_unsupported(const json_t *o, const char *where, struct st_err *e)
{
    const char *act = "silu";
    int rc = st_json_str(o, where, "hidden_act", &act, e);
    if (rc)
        return rc;
    if (strcmp(act, "silu") != 0)
        return st_fail(e, ST_UNSUPPORTED, "%s: hidden_act '%.32s' is not supported; supported: silu", where, act);
    if (is_set(o, "quantization_config")) {
        const json_t *q = json_object_get(o, "quantization_config");
        const char *method = json_string_value(json_object_get(q, "quant_method"));
        return st_fail(e, ST_UNSUPPORTED,
                       "%s: quantization_config '%.32s' is not supported; supported: plain f32, f16 and bf16 weights",
                       where, method ? method : "(unnamed)");
    }
    return 0;
}

static int check_heads(const struct st_config *c, const char *where, struct st_err *e)
{
    const char *rotated = c->kv_lora_rank ? "qk_rope_head_dim" : "head_dim";
    if (c->rope_dim % 2 || c->rope_dim < 2 || c->rope_dim > ST_MAX_HEAD_DIM)
        return st_fail(e, ST_INPUT, "%s: %s: want an even number in 2..%u, got %u", where, rotated, ST_MAX_HEAD_DIM,
                       c->rope_dim);
    if (c->head_dim < c->rope_dim || c->head_dim > ST_MAX_HEAD_DIM)
        return st_fail(e, ST_INPUT, "%s: qk_nope_head_dim + qk_rope_head_dim: want at most %u, got %u", where,
                       ST_MAX_HEAD_DIM, c->head_dim);
    if (c->v_head_dim < 2 || c->v_head_dim > ST_MAX_HEAD_DIM)
        return st_fail(e, ST_INPUT, "%s: v_head_dim: want 2..%u, got %u", where, ST_MAX_HEAD_DIM, c->v_head_dim);
    /* kv_b puts out the unrotated part of a key and a value, per head. */
    uint32_t widest = c->head_dim - c->rope_dim + c->v_head_dim;
    widest = widest > c->head_dim ? widest : c->head_dim;
    if (c->n_head * widest > ST_MAX_WIDTH)
        return st_fail(e, ST_INPUT, "%s: num_attention_heads x head_dim: want at most %u, got %u", where, ST_MAX_WIDTH,
                       c->n_head * widest);
    return 0;
}

int st_config_check(const struct st_config *c, const char *where, struct st_err *e)
{
    /* A matrix of one column could not be told from a vector. */
    if (c->d_model < 2 || c->d_ff < 2)
        return st_fail(e, ST_INPUT, "%s: %s: want at least 2", where,
                       c->d_model < 2 ? "hidden_size" : "intermediate_size");
    if (c->n_head % c->n_kv_head)
        return st_fail(e, ST_INPUT, "%s: num_attention_heads %u is not a multiple of num_key_value_heads %u", where,
                       c->n_head, c->n_kv_head);
    if (c->n_head / c->n_kv_head > ST_ATTN_MAX_GROUP)
        return st_fail(e, ST_UNSUPPORTED, "%s: %u query heads per key/value head; supported: at most %d", where,
                       c->n_head / c->n_kv_head, ST_ATTN_MAX_GROUP);
    int rc = check_heads(c, where, e);
    return rc ? rc : st_config_check_moe(c, where, e);
}

static int parse(const json_t *o, const char *where, struct st_config *c, struct st_err *e)
{
    const struct st_arch *arch = NULL;
    if (!json_is_object(o))
        return st_fail(e, ST_INPUT, "%s: want a JSON object", where);
    int rc = read_arch(o, where, c, &arch, e);
    if (!rc)
        rc = refuse_unsupported(o, where, e);
    if (!rc)
        rc = read_sizes(o, where, c, e);
    if (!rc)
        rc = read_rope(o, where, c, e);
    if (!rc)
        rc = read_ids(o, where, c, e);
    if (!rc)
        rc = arch->config(o, where, c, e);
    if (!rc && c->head_dim == 0 && c->d_model % c->n_head)
        rc = st_fail(e, ST_INPUT,
                     "%s: hidden_size %u is not a multiple of num_attention_heads %u, and no head_dim is given", where,
                     c->d_model, c->n_head);
    if (rc)
        return rc;
    if (c->head_dim == 0)
        c->head_dim = c->d_model / c->n_head;
    if (c->kv_lora_rank == 0)
        c->v_head_dim = c->rope_dim = c->head_dim;
    return st_config_check(c, where, e);
}

int st_config_parse(const void *p, size_t len, const char *where, struct st_config *out, struct st_err *e)
{
    json_t *o = NULL;
    *out = (struct st_config){0};
    int rc = st_json_parse(p, len, where, &o, e);
    if (!rc)
        rc = parse(o, where, out, e);
    json_decref(o);
    return rc;
}

int st_config_parse_generation(const void *p, size_t len, const char *where, struct st_config *c, struct st_err *e)
{
    json_t *o = NULL;
    int rc = st_json_parse(p, len, where, &o, e);
    if (!rc && !json_is_object(o))
        rc = st_fail(e, ST_INPUT, "%s: want a JSON object", where);
    if (!rc)
        rc = read_eos(o, where, c, e);
    json_decref(o);
    return rc;
}

/* A llama2.c model in a container: its header is its config. */
static int read_llama2c(const struct st_texts *t, struct st_buf *b, char *where, struct st_config *out,
                        struct st_err *e)
{
    int rc = st_texts_read(t, ST_CONTAINER_LLAMA2C, ST_LLAMA2C_HEADER, b, where, e);
    if (!rc && b->len != ST_LLAMA2C_HEADER)
        rc = st_fail(e, ST_INPUT, "%s: want %d bytes", where, ST_LLAMA2C_HEADER);
    return rc ? rc : st_llama2c_config((const uint8_t *)b->p, where, out, e);
}

static int read_json(const struct st_texts *t, struct st_buf *b, char *where, struct st_config *out, struct st_err *e)
{
    int rc = st_texts_read(t, "config.json", CONFIG_BYTES_MAX, b, where, e);
    if (!rc)
        rc = st_config_parse(b->p, b->len, where, out, e);
    if (rc || !st_texts_has(t, "generation_config.json"))
        return rc;
    rc = st_texts_read(t, "generation_config.json", CONFIG_BYTES_MAX, b, where, e);
    return rc ? rc : st_config_parse_generation(b->p, b->len, where, out, e);
}

int st_config_read_in(const struct st_texts *t, struct st_config *out, struct st_err *e)
{
    char where[ST_PATH_MAX];
    struct st_buf b = {0};
    bool is_llama2c = t->container && st_texts_has(t, ST_CONTAINER_LLAMA2C);
    int rc = is_llama2c ? read_llama2c(t, &b, where, out, e) : read_json(t, &b, where, out, e);
    st_buf_free(&b);
    return rc;
}

int st_config_read(const char *path, struct st_config *out, struct st_err *e)
{
    struct st_texts t;
    int rc = st_texts_open(path, NULL, &t, e);
    if (!rc)
        rc = st_config_read_in(&t, out, e);
    st_texts_close(&t);
    return rc;
}

/* Llama 3's scaling of one frequency: long waves are slowed by `factor`, short ones stay, those between are mixed
 * (transformers, modeling_rope_utils.py). */
static float scale_llama3(const struct st_config *c, float inv_freq)
{
    float ctx = (float)c->rope_original_ctx;
    float low = c->rope_low_freq_factor, high = c->rope_high_freq_factor;
    float wavelen = (float)(2 * M_PI) / inv_freq;
    if (wavelen > ctx / low)
        return inv_freq / c->rope_factor;
    if (wavelen < ctx / high)
        return inv_freq;
    float smooth = (ctx / wavelen - low) / (high - low);
    return (1 - smooth) * inv_freq / c->rope_factor + smooth * inv_freq;
}

/* Number of the pair that turns `rotations` times over the original context. */
static double yarn_pair(const struct st_config *c, double rotations)
{
    return c->rope_dim * log(c->rope_original_ctx / (rotations * 2 * M_PI)) / (2 * log((double)c->rope_theta));
}

/* Pairs below `low` keep their frequency, those above `high` are slowed by the factor, those between are mixed. */
static void yarn_borders(const struct st_config *c, double *low, double *high)
{
    *low = yarn_pair(c, c->yarn.beta_fast);
    *high = yarn_pair(c, c->yarn.beta_slow);
    if (c->yarn.truncate) {
        *low = floor(*low);
        *high = ceil(*high);
    }
    *low = fmax(*low, 0);
    *high = fmin(*high, c->rope_dim - 1);
    if (*low == *high)
        *high += 0.001;
}

static float scale_yarn(const struct st_config *c, uint32_t pair, float wave, double low, double high)
{
    float slowed = ((float)pair - (float)low) / (float)(high - low);
    slowed = slowed < 0 ? 0 : slowed > 1 ? 1 : slowed;
    float kept = 1 - slowed;
    return 1 / (c->rope_factor * wave) * (1 - kept) + 1 / wave * kept;
}

void st_config_inv_freq(const struct st_config *c, float *out)
{
    double low = 0, high = 0;
    if (c->rope_scaling == ST_ROPE_YARN)
        yarn_borders(c, &low, &high);
    for (uint32_t i = 0; i < c->rope_dim / 2; i++) {
        float wave = powf(c->rope_theta, (float)(2 * i) / (float)c->rope_dim);
        out[i] = 1.0f / wave;
        if (c->rope_scaling == ST_ROPE_LINEAR)
            out[i] /= c->rope_factor;
        else if (c->rope_scaling == ST_ROPE_LLAMA3)
            out[i] = scale_llama3(c, out[i]);
        else if (c->rope_scaling == ST_ROPE_YARN)
            out[i] = scale_yarn(c, i, wave, low, high);
    }
}

static double mscale(double factor, double m)
{
    return factor <= 1 ? 1 : 0.1 * m * log(factor) + 1;
}

float st_config_rope_gain(const struct st_config *c)
{
    double factor = (double)c->rope_factor;
    const struct st_yarn *y = &c->yarn;
    if (c->rope_scaling != ST_ROPE_YARN)
        return 1;
    if (y->attention_factor > 0)
        return (float)y->attention_factor;
    if (y->mscale > 0 && y->mscale_all_dim > 0)
        return (float)(mscale(factor, y->mscale) / mscale(factor, y->mscale_all_dim));
    return (float)mscale(factor, 1);
}

float st_config_attn_scale(const struct st_config *c)
{
    double scale = 1 / sqrt(c->head_dim);
    /* Only DeepSeek's models read mscale_all_dim here; under any scaling of the positions. */
    if (c->kv_lora_rank && c->rope_scaling != ST_ROPE_NONE && c->yarn.mscale_all_dim > 0) {
        double m = mscale((double)c->rope_factor, c->yarn.mscale_all_dim);
        scale *= m * m;
    }
    return (float)scale;
}
