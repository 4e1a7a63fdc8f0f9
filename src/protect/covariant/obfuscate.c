#include "base/mem.h"
#include "crypto/digest.h"
#include "model/model.h"
#include "protect/covariant/covariant.h"
#include "protect/covariant/layer_keys.h"
#include "protect/covariant/manifest.h"
#include "protect/covariant/transform.h"

#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHARD_BYTES ((uint64_t)4 << 30)
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
    struct st_cov_layer_keys keys;     /* of layer `layer` */
    int layer;
    const struct st_cov_opts *opts;
    double kappa;   /* sqrt(d / wide): rms(x P) = kappa rms(x) */
    double stored;  /* kappa as the checkpoint's dtype holds it; readers are multiplied by kappa / stored */
    float *norm;    /* [wide], the new norm weight */
    double *expand; /* R of the tensor under way */
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
    static const char *const known[][2] = {{"LlamaForCausalLM", "llama"}, {"MistralForCausalLM", "mistral"}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(c->arch, known[i][0]) == 0) {
            snprintf(c->model_type, sizeof c->model_type, "%s", known[i][1]);
            return 0;
        }
    return st_fail(e, ST_UNSUPPORTED,
                   "architecture '%s': covariant obfuscation supports LlamaForCausalLM, MistralForCausalLM", c->arch);
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

static const struct st_mat *weight_of(const struct build *b, enum st_role role, int layer)
{
    const struct st_plan *p = &b->model->plan;
    for (int i = 0; i < p->n_weight; i++)
        if (p->weights[i].role == role && p->weights[i].layer == layer)
            return &b->model->mats[i];
    return NULL;
}

/* What happens to the weight of one role (AloePri section 4; the table of docs/covariant.md). */
enum cov_key { KEY_NONE, KEY_TAU, KEY_Q, KEY_K, KEY_V, KEY_O, KEY_NEURON, KEY_UP, KEY_DOWN };

static const struct rule {
    bool known, vector;
    bool constant; /* a norm: its weight goes into its readers, kappa takes its place */
    enum st_cov_side side;
    enum cov_key key;
    enum st_role norm; /* folded in */
} rules[ST_ROLE_COUNT] = {
#define MATRIX(role, ...) [ST_ROLE_##role] = {.known = true, __VA_ARGS__}
#define VECTOR(role, ...) [ST_ROLE_##role] = {.known = true, .vector = true, __VA_ARGS__}
    MATRIX(EMBED, .side = ST_COV_WRITES_ROWS, .key = KEY_TAU),
    MATRIX(HEAD, .side = ST_COV_READS, .key = KEY_TAU, .norm = ST_ROLE_FINAL_NORM),
    MATRIX(Q, .side = ST_COV_READS, .key = KEY_Q, .norm = ST_ROLE_ATTN_NORM),
    MATRIX(K, .side = ST_COV_READS, .key = KEY_K, .norm = ST_ROLE_ATTN_NORM),
    MATRIX(V, .side = ST_COV_READS, .key = KEY_V, .norm = ST_ROLE_ATTN_NORM),
    MATRIX(O, .side = ST_COV_WRITES_COLUMNS, .key = KEY_O),
    MATRIX(GATE, .side = ST_COV_READS, .key = KEY_NEURON, .norm = ST_ROLE_FFN_NORM),
    MATRIX(UP, .side = ST_COV_READS, .key = KEY_UP, .norm = ST_ROLE_FFN_NORM),
    MATRIX(DOWN, .side = ST_COV_WRITES_COLUMNS, .key = KEY_DOWN),
    VECTOR(Q_BIAS, .side = ST_COV_NO_FRAME, .key = KEY_Q),
    VECTOR(K_BIAS, .side = ST_COV_NO_FRAME, .key = KEY_K),
    VECTOR(V_BIAS, .side = ST_COV_NO_FRAME, .key = KEY_V),
    VECTOR(O_BIAS, .side = ST_COV_WRITES_ROWS),
    VECTOR(GATE_BIAS, .side = ST_COV_NO_FRAME, .key = KEY_NEURON),
    VECTOR(UP_BIAS, .side = ST_COV_NO_FRAME, .key = KEY_UP),
    VECTOR(DOWN_BIAS, .side = ST_COV_WRITES_ROWS),
    VECTOR(ATTN_NORM, .side = ST_COV_WRITES_ROWS, .constant = true),
    VECTOR(FFN_NORM, .side = ST_COV_WRITES_ROWS, .constant = true),
    VECTOR(FINAL_NORM, .side = ST_COV_WRITES_ROWS, .constant = true),
#undef MATRIX
#undef VECTOR
};

/* Name, dtype and shape in the result. */
static int describe(const struct build *b, int i, struct st_cov_out_tensor *t, struct st_err *e)
{
    const struct st_plan_weight *w = &b->model->plan.weights[i];
    const struct rule *r = &rules[w->role];
    if (!r->known)
        return st_fail(e, ST_UNSUPPORTED, "%s: covariant obfuscation has no rule for role '%s'", w->name,
                       st_role_name(w->role));
    *t = (struct st_cov_out_tensor){.dtype = r->vector || b->opts->dtype != ST_COV_STORE_KEEP ? b->config.dtype
                                                                                              : b->model->mats[i].dtype,
                                    .n_dim = r->vector ? 1 : 2,
                                    .dim = {w->n_out, w->n_in}};
    snprintf(t->name, sizeof t->name, "%s", w->name);
    if (r->side == ST_COV_WRITES_COLUMNS || (r->vector && r->side != ST_COV_NO_FRAME))
        t->dim[0] = b->frame.wide;
    else if (!r->vector)
        t->dim[1] = b->frame.wide;
    return 0;
}

static void set_mix(struct st_cov_job *j, uint32_t head_dim, const uint32_t *order, const double *mix, uint32_t share)
{
    j->unit = head_dim;
    j->order = order;
    j->mix = mix;
    j->mix_share = share;
}

static void set_neurons(struct st_cov_job *j, const uint32_t *order, const double *scale)
{
    j->order = order;
    j->scale = scale;
}

static void set_key(const struct build *b, enum cov_key key, struct st_cov_job *j)
{
    const struct st_cov_layer_keys *k = &b->keys;
    switch (key) {
    case KEY_NONE:
        break;
    case KEY_TAU:
        j->order = b->cipher.from;
        break;
    case KEY_Q:
        set_mix(j, k->head_dim, k->q_order, k->q_mix, k->n_head / k->n_kv_head);
        break;
    case KEY_K:
        set_mix(j, k->head_dim, k->kv_order, k->k_mix, 1);
        break;
    case KEY_V:
        set_mix(j, k->head_dim, k->kv_order, k->v_mix, 1);
        break;
    case KEY_O:
        set_mix(j, k->head_dim, k->q_order, k->o_mix, k->n_head / k->n_kv_head);
        break;
    case KEY_NEURON:
        set_neurons(j, k->ffn_order, NULL);
        break;
    case KEY_UP:
        set_neurons(j, k->ffn_order, k->up_scale);
        break;
    case KEY_DOWN:
        set_neurons(j, k->ffn_order, k->down_scale);
        break;
    }
}

/* R is fresh for every reader. */
static int draw_expand(struct build *b, const char *name, struct st_err *e)
{
    char label[160];
    struct st_stream *s;
    snprintf(label, sizeof label, "expand.%s", name);
    int rc = st_cov_key_stream(b->key, b->digest, label, &s, e);
    if (rc)
        return rc;
    rc = st_cov_frame_expand(&b->frame, s, &b->expand, e);
    st_stream_free(s);
    return rc;
}

static void drop_expand(struct build *b)
{
    st_cov_doubles_free(b->expand, (size_t)(b->frame.wide - b->frame.d) * b->frame.d);
    b->expand = NULL;
}

static int layer_keys(struct build *b, int layer, struct st_err *e)
{
    if (layer < 0 || layer == b->layer)
        return 0;
    st_cov_layer_keys_wipe(&b->keys);
    b->layer = layer;
    return st_cov_layer_keys_init(&b->keys, &b->model->config, layer, b->key, b->digest, e);
}

static int transform(struct build *b, int i, struct st_err *e)
{
    const struct st_plan_weight *w = &b->model->plan.weights[i];
    const struct st_mat *m = &b->model->mats[i];
    const struct rule *r = &rules[w->role];
    struct st_cov_job j = {.side = r->side,
                           .src = m->data,
                           .src_dtype = r->vector ? ST_DTYPE_F32 : m->dtype,
                           .n = w->n_out,
                           .len = w->n_in,
                           .unit = 1,
                           .mix_share = 1,
                           .gain = 1,
                           .out = &b->tensors[i]};
    if (r->constant) {
        j.src = b->norm;
        j.side = ST_COV_NO_FRAME;
        j.n = b->frame.wide;
    } else if (r->side == ST_COV_WRITES_COLUMNS || (r->vector && r->side == ST_COV_WRITES_ROWS)) {
        /* vectors along the other dimension: the columns of o and down; a bias of theirs is one column */
        j.n = w->n_in;
        j.len = w->n_out;
    }
    int rc = layer_keys(b, w->layer, e);
    if (!rc && r->side == ST_COV_READS) {
        j.norm = weight_of(b, r->norm, w->layer)->data;
        j.gain = b->kappa / b->stored;
        rc = draw_expand(b, w->name, e);
        j.expand = b->expand;
    }
    if (!rc) {
        set_key(b, r->key, &j);
        rc = st_cov_run_job(b->run, &j, &b->progress, e);
    }
    drop_expand(b);
    st_model_release(b->model, i);
    return rc;
}

/* Norm weights of kappa make RMSNorm of the wide state equal P times that of the plain one. A 16-bit dtype cannot hold
 * kappa exactly; what it holds is written, and the rest multiplied into the readers. */
static int prepare_norm(struct build *b, struct st_err *e)
{
    uint32_t raw = 0; /* room for one value of any dtype */
    float stored;
    b->kappa = sqrt((double)b->frame.d / b->frame.wide);
    stored = (float)b->kappa;
    st_convert(ST_DTYPE_F32, &stored, b->config.dtype, &raw, 1);
    st_convert(b->config.dtype, &raw, ST_DTYPE_F32, &stored, 1);
    b->stored = (double)stored;
    int rc = st_alloc(&b->norm, b->frame.wide, sizeof *b->norm, "norm", e);
    for (uint32_t i = 0; !rc && i < b->frame.wide; i++)
        b->norm[i] = stored;
    return rc;
}

static int prepare_frame(struct build *b, uint32_t h, struct st_err *e)
{
    struct st_stream *s;
    int rc = check_memory(&b->model->config, b->model->config.d_model + 2 * h, e);
    if (!rc)
        rc = st_cov_key_stream(b->key, b->digest, "frame", &s, e);
    if (rc)
        return rc;
    rc = st_cov_frame_init(&b->frame, b->model->config.d_model, h, s, e);
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
    return rc;
}

static int lay_out(struct build *b, uint64_t shard_bytes, struct st_err *e)
{
    int n = b->model->plan.n_weight;
    struct st_cov_out_tensor **list = NULL;
    int rc = st_alloc(&b->tensors, (size_t)n, sizeof *b->tensors, "tensor list", e);
    if (!rc)
        rc = st_alloc(&list, (size_t)n, sizeof *list, "tensor list", e);
    for (int i = 0; !rc && i < n; i++) {
        rc = describe(b, i, &b->tensors[i], e);
        list[i] = &b->tensors[i];
    }
    if (!rc)
        rc = st_cov_out_plan(&b->out, list, n, shard_bytes ? shard_bytes : SHARD_BYTES, e);
    free(list);
    return rc;
}

static int compile(struct build *b, const struct st_cov_opts *o, struct st_err *e)
{
    uint64_t total = 0;
    const struct st_config *c = &b->model->config;
    int rc = st_cov_run_new(&b->frame, &b->out, o->n_threads, c->head_dim, o->cancel, &b->run, e);
    for (int i = 0; i < b->model->plan.n_weight; i++)
        total += b->tensors[i].bytes;
    st_progress_start(&b->progress, "obfuscate", "B", total);
    b->progress.on = b->progress.on && o->progress;
    for (int i = 0; !rc && i < b->model->plan.n_weight; i++)
        rc = transform(b, i, e);
    st_progress_end(&b->progress);
    return rc;
}

static void wipe(struct build *b)
{
    st_cov_run_free(b->run);
    st_cov_layer_keys_wipe(&b->keys);
    drop_expand(b);
    st_cov_frame_wipe(&b->frame);
    st_cov_cipher_wipe(&b->cipher);
    st_cov_out_close(&b->out);
    free(b->tensors);
    free(b->norm);
    st_model_close(b->model);
}

int st_cov_obfuscate(const char *src, const char *dst, const struct st_cov_key *key, const struct st_cov_opts *o,
                     struct st_err *e)
{
    struct build b = {.key = key, .layer = -1, .opts = o};
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
        rc = prepare_norm(&b, e);
    }
    if (!rc)
        rc = lay_out(&b, o->shard_bytes, e);
    if (!rc)
        rc = write_small_files(&b, h, e);
    if (!rc)
        rc = compile(&b, o, e);
    if (!rc)
        rc = st_cov_out_publish(&b.out, e);
    wipe(&b);
    return rc;
}
