/* llama2.c "version 0" files (github.com/karpathy/llama2.c, run.c): seven int32, then f32 arrays, each stacked over
 * layers. */
#include "model/ckpt.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MAGIC_LATER 0x616b3432 /* "ak42": version 1 and later */

static int64_t header_int(const uint8_t *p, int i)
{
    p += 4 * i;
    return (int32_t)((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24);
}

static int read_field(const uint8_t *p, int i, const char *name, uint32_t max, uint32_t *out, const char *where,
                      struct st_err *e)
{
    int64_t v = header_int(p, i);
    if (v < 1 || v > (int64_t)max)
        return st_fail(e, ST_INPUT, "%s: llama2.c header: %s: want 1..%u, got %" PRId64, where, name, max, v);
    *out = (uint32_t)v;
    return 0;
}

int st_llama2c_config(const uint8_t *p, const char *where, struct st_config *c, struct st_err *e)
{
    if (header_int(p, 0) == MAGIC_LATER)
        return st_fail(e, ST_UNSUPPORTED,
                       "%s: llama2.c files of version 1 and later are not supported; supported: version 0", where);
    *c = (struct st_config){.arch = "LlamaForCausalLM",
                            .model_type = "llama",
                            .norm_eps = 1e-5f,
                            .rope_theta = 10000,
                            .rope_interleaved = true,
                            .dtype = ST_DTYPE_F32,
                            .bos = 1,
                            .pad = -1,
                            .eos = {1, 2}, /* llama2.c stops at BOS; 2 is </s> of its vocabulary */
                            .n_eos = 2};
    /* A negative vocabulary size marks a head of its own. */
    int64_t vocab = header_int(p, 5);
    c->tied_head = vocab > 0;
    vocab = vocab < 0 ? -vocab : vocab;
    if (vocab < 3 || vocab > (int64_t)ST_MAX_VOCAB)
        return st_fail(e, ST_INPUT, "%s: llama2.c header: vocab_size: want 3..%u, got %" PRId64, where, ST_MAX_VOCAB,
                       vocab);
    c->n_vocab = (uint32_t)vocab;

    int rc = read_field(p, 0, "dim", ST_MAX_WIDTH, &c->d_model, where, e);
    if (!rc)
        rc = read_field(p, 1, "hidden_dim", ST_MAX_FF, &c->d_ff, where, e);
    if (!rc)
        rc = read_field(p, 2, "n_layers", ST_MAX_LAYERS, &c->n_layer, where, e);
    if (!rc)
        rc = read_field(p, 3, "n_heads", ST_MAX_HEADS, &c->n_head, where, e);
    if (!rc)
        rc = read_field(p, 4, "n_kv_heads", ST_MAX_HEADS, &c->n_kv_head, where, e);
    if (!rc)
        rc = read_field(p, 6, "seq_len", ST_MAX_CTX, &c->n_ctx, where, e);
    if (!rc && c->d_model % c->n_head)
        rc = st_fail(e, ST_INPUT, "%s: llama2.c header: dim %u is not a multiple of n_heads %u", where, c->d_model,
                     c->n_head);
    if (rc)
        return rc;
    c->head_dim = c->v_head_dim = c->rope_dim = c->d_model / c->n_head;
    return st_config_check(c, where, e);
}

/* One array of the file. NULL name: skipped. per_layer: stacked, its name has one %d. */
struct part {
    const char *name;
    bool per_layer;
    uint64_t rows, cols; /* cols 0: a vector */
};

static uint64_t part_values(const struct part *a, const struct st_config *c)
{
    /* At most 2^10 layers x 2^22 x 2^20: no overflow. */
    return (a->per_layer ? c->n_layer : 1) * a->rows * (a->cols ? a->cols : 1);
}

static int add_part(const struct part *a, const struct st_config *c, const uint8_t *at, struct st_tensors *out,
                    struct st_err *e)
{
    uint32_t n = a->per_layer ? c->n_layer : 1;
    size_t bytes = (size_t)(part_values(a, c) / n * 4);
    for (uint32_t layer = 0; layer < n; layer++) {
        char name[128];
        if (a->per_layer)
            snprintf(name, sizeof name, "model.layers.%u.%s", layer, a->name);
        else
            snprintf(name, sizeof name, "%s", a->name);
        struct st_tensor *t = st_tensors_add(out, name, e);
        if (!t)
            return e->code;
        t->dtype = ST_DTYPE_F32;
        t->stored = "F32";
        t->n_dim = a->cols ? 2 : 1;
        t->dim[0] = a->rows;
        t->dim[1] = a->cols;
        t->data = at + layer * bytes;
        t->bytes = bytes;
    }
    return 0;
}

int st_llama2c_parse(const uint8_t *p, size_t len, const char *where, struct st_config *c, struct st_tensors *out,
                     struct st_err *e)
{
    if (len >= 4 && memcmp(p, "GGUF", 4) == 0)
        return st_fail(e, ST_UNSUPPORTED, "%s: GGUF files are not supported", where);
    /* safetensors: the length of a JSON object, then the object. */
    if (len >= 10 && p[8] == '{' && p[9] == '"')
        return st_fail(e, ST_INPUT, "%s: is a safetensors file; want the directory that has it and its config.json",
                       where);
    if (len < ST_LLAMA2C_HEADER)
        return st_fail(e, ST_INPUT, "%s: %zu bytes are too few for a llama2.c file", where, len);
    int rc = st_llama2c_config(p, where, c, e);
    if (rc)
        return rc;

    uint64_t d = c->d_model, ff = c->d_ff, kv = (uint64_t)c->n_kv_head * c->head_dim;
    const struct part parts[] = {
        {"model.embed_tokens.weight", false, c->n_vocab, d},
        {"input_layernorm.weight", true, d, 0},
        {"self_attn.q_proj.weight", true, d, d},
        {"self_attn.k_proj.weight", true, kv, d},
        {"self_attn.v_proj.weight", true, kv, d},
        {"self_attn.o_proj.weight", true, d, d},
        {"post_attention_layernorm.weight", true, d, 0},
        {"mlp.gate_proj.weight", true, ff, d},
        {"mlp.down_proj.weight", true, d, ff},
        {"mlp.up_proj.weight", true, ff, d},
        {"model.norm.weight", false, d, 0},
        {NULL, false, c->n_ctx, c->head_dim}, /* two tables of rotary angles, half of this each */
        {"lm_head.weight", false, c->n_vocab, d},
    };
    size_t n = sizeof parts / sizeof parts[0] - (c->tied_head ? 1 : 0);
    uint64_t want = ST_LLAMA2C_HEADER;
    for (size_t i = 0; i < n; i++)
        want += part_values(&parts[i], c) * 4;
    if (want != len)
        return st_fail(e, ST_INPUT, "%s: a llama2.c file with this header has %" PRIu64 " bytes, this one has %zu",
                       where, want, len);

    const uint8_t *at = p + ST_LLAMA2C_HEADER;
    for (size_t i = 0; !rc && i < n; i++) {
        if (parts[i].name)
            rc = add_part(&parts[i], c, at, out, e);
        at += part_values(&parts[i], c) * 4;
    }
    return rc;
}
