#include "protect/covariant/out_gguf.h"
#include "base/log.h"
#include "protect/covariant/gguf_arch.h"
#include "protect/covariant/out_split.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 32

/* ---- how tensors are stored ---- */

/* Whether Q8_0 holds the matrix: whole blocks in a row, and in what the compiler hands over at a time (heads that no
 * small multiple of which is a multiple of 32 would need tiles of thousands of columns). */
static bool fits_blocks(const struct st_cov_out_tensor *t, const struct st_config *c)
{
    uint32_t head = c->kv_lora_rank ? c->v_head_dim : c->head_dim;
    return t->dim[1] % BLOCK == 0 && (t->weight->role != ST_ROLE_O || head % 8 == 0);
}

static void set_type(struct st_cov_out_tensor *t, bool fits, enum st_cov_store store)
{
    if (store != ST_COV_STORE_Q8_0)
        return;
    t->q8_0 = fits;
    t->dtype = fits ? ST_DTYPE_F32 : ST_DTYPE_F16;
}

/* The tensor takes f32; its parts have the types. */
static int make_split(struct st_cov_out_tensor *t, const struct st_config *c, enum st_cov_store store, struct st_err *e)
{
    struct st_cov_split *s = calloc(1, sizeof *s);
    if (!s)
        return st_fail(e, ST_MEMORY, "%s: out of memory", t->name);
    *s = (struct st_cov_split){.n_head = c->n_head,
                               .nope = c->head_dim - c->rope_dim,
                               .v = c->v_head_dim,
                               .rank = c->kv_lora_rank,
                               .key = {.dtype = t->dtype},
                               .value = {.dtype = t->dtype}};
    set_type(&s->key, s->nope % BLOCK == 0, store);
    set_type(&s->value, s->rank % BLOCK == 0, store);
    t->dtype = ST_DTYPE_F32;
    t->split = s;
    return 0;
}

int st_cov_gguf_types(struct st_cov_out_tensor *t, int n, const struct st_config *c, enum st_cov_store store,
                      struct st_err *e)
{
    int n_kept = 0, rc = 0;
    for (int i = 0; !rc && i < n; i++) {
        if (t[i].n_dim == 1 || t[i].weight->role == ST_ROLE_ROUTER) {
            t[i].dtype = ST_DTYPE_F32;
        } else if (t[i].weight->role == ST_ROLE_KV_B) {
            rc = make_split(&t[i], c, store, e);
            n_kept += !rc && store == ST_COV_STORE_Q8_0 && (!t[i].split->key.q8_0 || !t[i].split->value.q8_0);
        } else {
            set_type(&t[i], fits_blocks(&t[i], c), store);
            n_kept += store == ST_COV_STORE_Q8_0 && !t[i].q8_0;
        }
    }
    if (!rc && n_kept)
        st_log(ST_LOG_INFO,
               "%d matrices are stored as f16: their rows are no multiple of the 32 values of a q8_0 block", n_kept);
    return rc;
}

void st_cov_gguf_free(struct st_cov_out_tensor *t, int n)
{
    for (int i = 0; t && i < n; i++)
        if (t[i].split) {
            free(t[i].split->all);
            free(t[i].split);
            t[i].split = NULL;
        }
}

static enum st_gguf_type type_of(const struct st_cov_out_tensor *t)
{
    return t->q8_0                     ? ST_GGUF_Q8_0
           : t->dtype == ST_DTYPE_F16  ? ST_GGUF_F16
           : t->dtype == ST_DTYPE_BF16 ? ST_GGUF_BF16
                                       : ST_GGUF_F32;
}

/* ---- where they are ---- */

/* The stacked tensors of the layer under way. */
struct stacks {
    struct {
        const struct st_cov_out_tensor *first;
        uint64_t at;
    } of[ST_ROLE_COUNT];
};

/* Experts come in ascending order, so that the first one makes the tensor. */
static int place_expert(struct st_gguf *g, struct stacks *s, struct st_cov_out_tensor *t, uint32_t n_expert,
                        const char *name, struct st_err *e)
{
    const struct st_plan_weight *w = t->weight;
    const uint64_t dim[3] = {n_expert, t->dim[0], t->dim[1]};
    if (w->expert == 0) {
        s->of[w->role].first = t;
        s->of[w->role].at = st_gguf_tensor(g, name, type_of(t), 3, dim, n_expert * t->bytes);
    }
    if (t->dtype != s->of[w->role].first->dtype)
        return st_fail(e, ST_UNSUPPORTED,
                       "%s: format gguf stacks the experts, and their dtypes differ: choose a --dtype", t->name);
    t->at = s->of[w->role].at + (uint64_t)w->expert * t->bytes;
    return 0;
}

static void place_split(struct st_gguf *g, struct st_cov_out_tensor *t, const char *name)
{
    struct st_cov_split *s = t->split;
    const uint64_t key[3] = {s->n_head, s->rank, s->nope}, value[3] = {s->n_head, s->v, s->rank};
    char second[80];
    t->bytes = st_cov_out_bytes(&s->key, (uint64_t)s->n_head * s->rank * s->nope);
    s->bytes = st_cov_out_bytes(&s->value, (uint64_t)s->n_head * s->rank * s->v);
    t->at = st_gguf_tensor(g, name, type_of(&s->key), 3, key, t->bytes);
    snprintf(second, sizeof second, "blk.%d.attn_v_b.weight", t->weight->layer);
    s->at = st_gguf_tensor(g, second, type_of(&s->value), 3, value, s->bytes);
}

static int place(struct st_gguf *g, struct stacks *s, struct st_cov_out_tensor *t, uint32_t n_expert, struct st_err *e)
{
    char name[80];
    const uint64_t dim[2] = {t->dim[0], t->dim[1]};
    int rc = st_cov_gguf_name(t->weight, name, sizeof name, e);
    if (rc)
        return rc;
    t->shard = 0;
    t->bytes = st_cov_out_bytes(t, (uint64_t)t->dim[0] * (t->n_dim == 2 ? t->dim[1] : 1));
    if (t->weight->expert >= 0)
        return place_expert(g, s, t, n_expert, name, e);
    if (t->split)
        place_split(g, t, name);
    else
        t->at = st_gguf_tensor(g, name, type_of(t), t->n_dim, dim, t->bytes);
    return 0;
}

/* llama.cpp's word for what most matrices are. */
static uint32_t file_type(struct st_cov_out_tensor *const *t, int n)
{
    uint64_t most = 0;
    const struct st_cov_out_tensor *of = t[0];
    for (int i = 0; i < n; i++)
        if (t[i]->n_dim == 2 && (uint64_t)t[i]->dim[0] * t[i]->dim[1] > most) {
            most = (uint64_t)t[i]->dim[0] * t[i]->dim[1];
            of = t[i];
        }
    return of->q8_0 ? 7 : of->dtype == ST_DTYPE_F16 ? 1 : of->dtype == ST_DTYPE_BF16 ? 32 : 0;
}

static int make_file(struct st_cov_out *o, struct st_cov_out_tensor **t, int n, const struct st_gguf *g,
                     struct st_cov_out_tensor *factors, const float *values, struct st_err *e)
{
    struct st_buf head = {0};
    int rc = st_gguf_head(g, &head, e);
    if (!rc)
        rc = st_alloc(&o->fd, 1, sizeof *o->fd, "weight files", e);
    if (!rc)
        rc = st_cov_out_make_file(o, NULL, &head, head.len + g->at, e);
    for (int i = 0; i < n; i++) {
        t[i]->at += head.len;
        if (t[i]->split)
            t[i]->split->at += head.len;
    }
    factors->at += head.len;
    if (!rc && factors->bytes)
        rc = st_cov_out_write(o, factors, 0, values, factors->bytes, e);
    st_buf_free(&head);
    return rc;
}

int st_cov_out_plan_gguf(struct st_cov_out *o, struct st_cov_out_tensor **t, int n, const struct st_config *c,
                         double norm_eps, const char *manifest, struct st_err *e)
{
    struct st_gguf g = {0};
    struct stacks stacks = {0};
    struct st_cov_out_tensor factors = {.name = "rope_freqs.weight"};
    float values[ST_MAX_HEAD_DIM / 2];
    int rc = 0;
    st_cov_gguf_metadata(&g, c, norm_eps);
    st_gguf_u32(&g, "general.file_type", file_type(t, n));
    st_gguf_str(&g, "sotto.manifest", manifest, strlen(manifest));
    if (st_cov_gguf_rope_factors(c, values)) {
        const uint64_t dim[1] = {c->rope_dim / 2};
        factors.bytes = dim[0] * sizeof *values;
        factors.at = st_gguf_tensor(&g, factors.name, ST_GGUF_F32, 1, dim, factors.bytes);
    }
    for (int i = 0; !rc && i < n; i++)
        rc = place(&g, &stacks, t[i], c->n_expert, e);
    if (!rc)
        rc = make_file(o, t, n, &g, &factors, values, e);
    st_gguf_wipe(&g);
    return rc;
}
