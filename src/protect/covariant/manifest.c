#include "protect/covariant/manifest.h"
#include "text/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MANIFEST_VERSION 1
#define MANIFEST_BYTES_MAX 65536
#define PROTECTION "covariant"
#define PRESET "tight"
#define SCHEME "tight-frame"

static int64_t encipher(const struct st_cov_cipher *c, int64_t id)
{
    return id < 0 ? -1 : (int64_t)c->to[id];
}

void st_cov_config(const struct st_config *plain, uint32_t h, const struct st_cov_cipher *cipher, struct st_config *out)
{
    *out = *plain;
    out->d_model = plain->d_model + 2 * h;
    out->norm_eps *= (float)plain->d_model / (float)out->d_model;
    out->tied_head = false;
    out->rope_interleaved = false;
    out->bos = encipher(cipher, plain->bos);
    out->pad = encipher(cipher, plain->pad);
    for (int i = 0; i < plain->n_eos; i++)
        out->eos[i] = encipher(cipher, plain->eos[i]);
}

static json_t *yarn(const struct st_config *c)
{
    const struct st_yarn *y = &c->yarn;
    json_t *v = json_pack("{s:s, s:f, s:I, s:f, s:f, s:b}", "rope_type", "yarn", "factor", (double)c->rope_factor,
                          "original_max_position_embeddings", (json_int_t)c->rope_original_ctx, "beta_fast",
                          y->beta_fast, "beta_slow", y->beta_slow, "truncate", (int)y->truncate);
    const struct {
        const char *name;
        double value;
    } given[] = {
        {"mscale", y->mscale}, {"mscale_all_dim", y->mscale_all_dim}, {"attention_factor", y->attention_factor}};
    for (size_t i = 0; i < sizeof given / sizeof *given; i++)
        if (given[i].value > 0)
            json_object_set_new(v, given[i].name, json_real(given[i].value));
    return v;
}

static json_t *rope_scaling(const struct st_config *c)
{
    if (c->rope_scaling == ST_ROPE_NONE)
        return json_null();
    if (c->rope_scaling == ST_ROPE_LINEAR)
        return json_pack("{s:s, s:f}", "rope_type", "linear", "factor", (double)c->rope_factor);
    if (c->rope_scaling == ST_ROPE_YARN)
        return yarn(c);
    return json_pack("{s:s, s:f, s:f, s:f, s:I}", "rope_type", "llama3", "factor", (double)c->rope_factor,
                     "low_freq_factor", (double)c->rope_low_freq_factor, "high_freq_factor",
                     (double)c->rope_high_freq_factor, "original_max_position_embeddings",
                     (json_int_t)c->rope_original_ctx);
}

static json_t *id_or_null(int64_t id)
{
    return id < 0 ? json_null() : json_integer(id);
}

static json_t *eos_ids(const struct st_config *c)
{
    if (c->n_eos < 2)
        return id_or_null(c->n_eos ? c->eos[0] : -1);
    json_t *list = json_array();
    for (int i = 0; i < c->n_eos; i++)
        json_array_append_new(list, json_integer(c->eos[i]));
    return list;
}

static int write_json(const struct st_cov_out *o, const char *name, json_t *v, struct st_err *e)
{
    char *text = v ? json_dumps(v, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17)) : NULL;
    struct st_buf b = {0};
    if (text)
        st_buf_addf(&b, "%s\n", text);
    int rc =
        text && !b.failed ? st_cov_out_file(o, name, b.p, b.len, e) : st_fail(e, ST_MEMORY, "%s: out of memory", name);
    st_buf_free(&b);
    free(text);
    json_decref(v);
    return rc;
}

int st_cov_write_config(const struct st_cov_out *o, const struct st_config *c, double norm_eps, struct st_err *e)
{
    const char *dtype = c->dtype == ST_DTYPE_F32 ? "float32" : c->dtype == ST_DTYPE_F16 ? "float16" : "bfloat16";
    json_t *v = json_pack(
        "{s:[s], s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:o, s:b, s:b, s:b, s:s, s:o, s:o, s:o}",
        "architectures", c->arch, "model_type", c->model_type, "hidden_act", "silu", "hidden_size",
        (json_int_t)c->d_model, "intermediate_size", (json_int_t)c->d_ff, "num_hidden_layers", (json_int_t)c->n_layer,
        "num_attention_heads", (json_int_t)c->n_head, "num_key_value_heads", (json_int_t)c->n_kv_head, "head_dim",
        (json_int_t)c->head_dim, "vocab_size", (json_int_t)c->n_vocab, "max_position_embeddings", (json_int_t)c->n_ctx,
        "rms_norm_eps", norm_eps, "rope_theta", (double)c->rope_theta, "rope_scaling", rope_scaling(c),
        "attention_bias", (int)c->qkv_bias, "mlp_bias", (int)c->mlp_bias, "tie_word_embeddings", 0, "torch_dtype",
        dtype, "bos_token_id", id_or_null(c->bos), "eos_token_id", eos_ids(c), "pad_token_id", id_or_null(c->pad));
    if (v && strcmp(c->model_type, "mistral") == 0)
        json_object_set_new(v, "sliding_window", c->sliding_window ? json_integer(c->sliding_window) : json_null());
    if (v && strncmp(c->model_type, "qwen", 4) == 0 && c->sliding_window) {
        json_object_set_new(v, "use_sliding_window", json_true());
        json_object_set_new(v, "sliding_window", json_integer(c->sliding_window));
        json_object_set_new(v, "max_window_layers", json_integer(0));
    }
    int rc = write_json(o, "config.json", v, e);
    if (rc)
        return rc;
    v = json_pack("{s:o, s:o, s:o}", "bos_token_id", id_or_null(c->bos), "eos_token_id", eos_ids(c), "pad_token_id",
                  id_or_null(c->pad));
    return write_json(o, "generation_config.json", v, e);
}

int st_cov_write_manifest(const struct st_cov_out *o, const struct st_cov_manifest *m, struct st_err *e)
{
    return write_json(o, ST_COV_MANIFEST,
                      json_pack("{s:i, s:s, s:s, s:s, s:I, s:s}", "version", MANIFEST_VERSION, "protection", PROTECTION,
                                "preset", PRESET, "scheme", SCHEME, "h", (json_int_t)m->expand, "commitment",
                                m->commitment),
                      e);
}

static int want_word(const json_t *v, const char *path, const char *key, const char *want, struct st_err *e)
{
    const char *got = "";
    int rc = st_json_need(v, path, key, e);
    if (!rc)
        rc = st_json_str(v, path, key, &got, e);
    if (!rc && strcmp(got, want) != 0)
        rc = st_fail(e, ST_UNSUPPORTED, "%s: %s: want '%s', got '%.40s'", path, key, want, got);
    return rc;
}

int st_cov_read_manifest(const char *dir, struct st_cov_manifest *m, struct st_err *e)
{
    char path[ST_PATH_MAX];
    json_t *v = NULL;
    int64_t version = 0, h = 0;
    const char *commitment = "";
    *m = (struct st_cov_manifest){0};
    int rc = st_path_join(path, sizeof path, dir, ST_COV_MANIFEST, e);
    if (!rc)
        rc = st_json_read_file(path, MANIFEST_BYTES_MAX, &v, e);
    if (!rc)
        rc = st_json_need(v, path, "version", e);
    if (!rc)
        rc = st_json_int(v, path, "version", 1, INT32_MAX, &version, e);
    if (!rc && version != MANIFEST_VERSION)
        rc = st_fail(e, ST_UNSUPPORTED, "%s: version: want %d, got %lld", path, MANIFEST_VERSION, (long long)version);
    if (!rc)
        rc = want_word(v, path, "protection", PROTECTION, e);
    if (!rc)
        rc = want_word(v, path, "preset", PRESET, e);
    if (!rc)
        rc = want_word(v, path, "scheme", SCHEME, e);
    if (!rc)
        rc = st_json_int(v, path, "h", 1, UINT32_MAX, &h, e);
    if (!rc)
        rc = st_json_need(v, path, "commitment", e);
    if (!rc)
        rc = st_json_str(v, path, "commitment", &commitment, e);
    if (!rc && strlen(commitment) != 64)
        rc = st_fail(e, ST_INPUT, "%s: commitment: want 64 hex digits", path);
    if (!rc) {
        m->expand = (uint32_t)h;
        memcpy(m->commitment, commitment, 65);
    }
    json_decref(v);
    return rc;
}
