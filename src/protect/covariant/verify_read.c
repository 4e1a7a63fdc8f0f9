#include "protect/covariant/gguf_arch.h"
#include "protect/covariant/out_cast.h"
#include "protect/covariant/out_gguf.h"
#include "protect/covariant/out_split.h"
#include "protect/covariant/verify.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- a Hugging Face directory ---- */

static int check_config(const struct st_cov_setup *s, const struct st_config *got, struct st_err *e)
{
    const struct st_config *want = &s->config;
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
    if (!(fabs((double)got->norm_eps - s->norm_eps) <= 1e-6 * s->norm_eps))
        return st_fail(e, ST_VERIFY, "rms_norm_eps: want %.9g, got %.9g", s->norm_eps, (double)got->norm_eps);
    return 0;
}

int st_cov_readback_hf(struct st_cov_readback *b, const char *dst, struct st_err *e)
{
    int n = b->setup->model->plan.n_weight;
    int rc = st_model_open(dst, &(struct st_model_opts){.n_threads = b->setup->rules.opts->n_threads}, &b->model, e);
    if (!rc)
        rc = check_config(b->setup, &b->model->config, e);
    if (rc)
        return rc;
    if (b->model->plan.n_weight != n)
        return st_fail(e, ST_VERIFY, "want %d tensors, got %d", n, b->model->plan.n_weight);
    for (int i = 0; i < n; i++) {
        const struct st_cov_out_tensor *t = &b->tensors[i];
        const struct st_plan_weight *got = &b->model->plan.weights[i];
        if (strcmp(got->name, t->name) != 0 || got->n_out != t->dim[0] || (t->n_dim == 2 && got->n_in != t->dim[1]))
            return st_fail(e, ST_VERIFY, "%s: want [%u, %u], got %s [%u, %u]", t->name, t->dim[0], t->dim[1], got->name,
                           got->n_out, got->n_in);
        if (t->n_dim == 2 && b->model->mats[i].dtype != t->dtype)
            return st_fail(e, ST_VERIFY, "%s: want %s, got %s", t->name, st_dtype_name(t->dtype),
                           st_dtype_name(b->model->mats[i].dtype));
    }
    return 0;
}

/* ---- a GGUF file ---- */

/* All of it is made anew from source and key, and must be there byte for byte. */
static int check_metadata(const struct st_cov_readback *b, struct st_err *e)
{
    struct st_gguf want = {0};
    struct st_span key = {0};
    const struct st_span *got = &b->gguf.pairs;
    size_t at = 0;
    int rc = 0;
    st_cov_gguf_metadata(&want, &b->setup->config, b->setup->norm_eps);
    if (want.pairs.failed)
        rc = st_fail(e, ST_MEMORY, "metadata: out of memory");
    while (!rc && at < want.pairs.len && at < got->len && (uint8_t)want.pairs.p[at] == got->p[at])
        at++;
    if (!rc && at < want.pairs.len) {
        st_gguf_key_at((struct st_span){(const uint8_t *)want.pairs.p, want.pairs.len}, want.n_pair, at, &key);
        rc = st_fail(e, ST_VERIFY, "metadata: %.*s is not what source and key give", (int)key.len,
                     key.p ? (const char *)key.p : "");
    }
    st_gguf_wipe(&want);
    return rc;
}

static enum st_gguf_type type_of(const struct st_cov_out_tensor *t)
{
    return t->q8_0                     ? ST_GGUF_Q8_0
           : t->dtype == ST_DTYPE_F16  ? ST_GGUF_F16
           : t->dtype == ST_DTYPE_BF16 ? ST_GGUF_BF16
                                       : ST_GGUF_F32;
}

/* The tensor `name`, which must have this type and shape (slowest first). */
static int find(const struct st_cov_readback *b, const char *name, const struct st_cov_out_tensor *as, int n_dim,
                const uint64_t *dim, struct st_gguf_view *v, struct st_err *e)
{
    if (!st_gguf_find(&b->gguf, name, v))
        return st_fail(e, ST_VERIFY, "%s: is missing", name);
    if (v->type != type_of(as) || v->n_dim != n_dim || memcmp(v->dim, dim, (size_t)n_dim * sizeof *dim) != 0)
        return st_fail(e, ST_VERIFY, "%s: has another type or shape than source and options give", name);
    return 0;
}

static int check_factors(const struct st_cov_readback *b, uint64_t *n, struct st_err *e)
{
    static const struct st_cov_out_tensor f32 = {.dtype = ST_DTYPE_F32};
    const struct st_config *c = &b->setup->config;
    const uint64_t dim[1] = {c->rope_dim / 2};
    float want[ST_MAX_HEAD_DIM / 2];
    struct st_gguf_view v;
    if (!st_cov_gguf_rope_factors(c, want))
        return 0;
    ++*n;
    int rc = find(b, "rope_freqs.weight", &f32, 1, dim, &v, e);
    if (!rc && memcmp(v.data, want, v.bytes) != 0)
        rc = st_fail(e, ST_VERIFY, "rope_freqs.weight: is not what the source's config gives");
    return rc;
}

int st_cov_readback_gguf(struct st_cov_readback *b, const char *dst, struct st_err *e)
{
    uint64_t n = 0;
    int rc = st_gguf_open(dst, &b->gguf, e);
    if (!rc)
        rc = check_metadata(b, e);
    if (!rc)
        rc = check_factors(b, &n, e);
    for (int i = 0; !rc && i < b->setup->model->plan.n_weight; i++) {
        const struct st_cov_out_tensor *t = &b->tensors[i];
        n += t->weight->expert > 0 ? 0 : t->split ? 2 : 1;
    }
    if (!rc && n != b->gguf.n_tensor)
        rc = st_fail(e, ST_VERIFY, "want %llu tensors, got %llu", (unsigned long long)n,
                     (unsigned long long)b->gguf.n_tensor);
    return rc;
}

/* kv_b [n_head (nope + v), rank] from its two parts (out_split.h). */
static int join(struct st_cov_readback *b, struct st_cov_out_tensor *t, const char *name, struct st_cov_stored *out,
                struct st_err *e)
{
    const struct st_cov_split *s = t->split;
    const uint64_t key_dim[3] = {s->n_head, s->rank, s->nope}, value_dim[3] = {s->n_head, s->v, s->rank};
    struct st_gguf_view key = {0}, value = {0};
    char second[80];
    float *turned = NULL;
    size_t part = (size_t)s->nope * s->rank, rest = (size_t)s->v * s->rank;
    snprintf(second, sizeof second, "blk.%d.attn_v_b.weight", t->weight->layer);
    int rc = find(b, name, &s->key, 3, key_dim, &key, e);
    if (!rc)
        rc = find(b, second, &s->value, 3, value_dim, &value, e);
    if (!rc)
        rc = st_alloc(&b->joined, s->n_head * (part + rest), sizeof *b->joined, t->name, e);
    if (!rc)
        rc = st_alloc(&turned, part, sizeof *turned, t->name, e);
    for (size_t h = 0; !rc && h < s->n_head; h++) {
        float *head = b->joined + h * (part + rest);
        st_cov_out_uncast(s->key.dtype, s->key.q8_0, key.data, h * part, part, turned);
        for (size_t i = 0; i < s->nope; i++)
            for (size_t c = 0; c < s->rank; c++)
                head[i * s->rank + c] = turned[c * s->nope + i];
        st_cov_out_uncast(s->value.dtype, s->value.q8_0, value.data, h * rest, rest, head + part);
    }
    free(turned);
    *out = (struct st_cov_stored){b->joined, ST_DTYPE_F32, false};
    /* Judged by the coarser of the two. */
    t->q8_0 = s->key.q8_0 || s->value.q8_0;
    t->dtype = s->key.dtype;
    return rc;
}

static int tensor_of_gguf(struct st_cov_readback *b, int i, struct st_cov_stored *out, struct st_err *e)
{
    struct st_cov_out_tensor *t = &b->tensors[i];
    int expert = t->weight->expert;
    const uint64_t dim[3] = {b->setup->config.n_expert, t->dim[0], t->dim[1]};
    struct st_gguf_view v;
    char name[80];
    int rc = st_cov_gguf_name(t->weight, name, sizeof name, e);
    if (!rc && t->split)
        return join(b, t, name, out, e);
    if (!rc)
        rc = find(b, name, t, expert < 0 ? t->n_dim : 3, expert < 0 ? dim + 1 : dim, &v, e);
    if (rc)
        return rc;
    uint64_t bytes = st_cov_out_bytes(t, (uint64_t)t->dim[0] * (t->n_dim == 2 ? t->dim[1] : 1));
    *out = (struct st_cov_stored){v.data + (expert < 0 ? 0 : (uint64_t)expert * bytes), t->dtype, t->q8_0};
    return 0;
}

/* ---- either ---- */

int st_cov_readback_tensor(struct st_cov_readback *b, int i, struct st_cov_stored *out, struct st_err *e)
{
    free(b->joined);
    b->joined = NULL;
    if (!b->model)
        return tensor_of_gguf(b, i, out, e);
    /* The model holds vectors as f32. */
    *out = (struct st_cov_stored){b->model->mats[i].data,
                                  b->tensors[i].n_dim == 2 ? b->model->mats[i].dtype : ST_DTYPE_F32, false};
    return 0;
}

void st_cov_readback_close(struct st_cov_readback *b)
{
    free(b->joined);
    if (b->tensors)
        st_cov_gguf_free(b->tensors, b->setup->model->plan.n_weight);
    free(b->tensors);
    st_model_close(b->model);
    st_gguf_close(&b->gguf);
    *b = (struct st_cov_readback){0};
}
