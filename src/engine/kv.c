#include "engine/kv.h"
#include "base/buf.h"

#include <stdlib.h>
#include <string.h>

/* Values of K of one layer in one block, and of K and V. */
static size_t key_values(const struct st_config *c)
{
    return (size_t)c->n_kv_head * ST_KV_BLOCK * c->head_dim;
}

static size_t layer_values(const struct st_config *c)
{
    return key_values(c) + (size_t)c->n_kv_head * ST_KV_BLOCK * c->v_head_dim;
}

size_t st_kv_block_bytes(const struct st_config *c, enum st_dtype dtype)
{
    return c->n_layer * layer_values(c) * st_dtype_size(dtype);
}

int st_kv_init(struct st_kv *kv, const struct st_config *c, enum st_dtype dtype, uint32_t n_block, struct st_err *e)
{
    *kv = (struct st_kv){.n_layer = c->n_layer, .n_block = n_block, .n_free = n_block};
    if (dtype != ST_DTYPE_F32 && dtype != ST_DTYPE_BF16)
        return st_fail(e, ST_USAGE, "key/value cache: want f32 or bf16, got %s", st_dtype_name(dtype));
    kv->block_bytes = st_kv_block_bytes(c, dtype);
    if (st_alloc(&kv->layers, c->n_layer, sizeof *kv->layers, "key/value layers", e) ||
        st_alloc(&kv->free, n_block, sizeof *kv->free, "key/value blocks", e) ||
        st_area_new(&kv->area, n_block, kv->block_bytes, "key/value cache", e)) {
        st_kv_wipe(kv);
        return e->code;
    }
    for (uint32_t l = 0; l < c->n_layer; l++) {
        char *k = (char *)kv->area.p + l * layer_values(c) * st_dtype_size(dtype);
        kv->layers[l] = (struct st_kv_layer){.k = k,
                                             .v = k + key_values(c) * st_dtype_size(dtype),
                                             .block_stride = c->n_layer * layer_values(c),
                                             .block_len = ST_KV_BLOCK,
                                             .n_kv_head = c->n_kv_head,
                                             .head_dim = c->head_dim,
                                             .v_head_dim = c->v_head_dim,
                                             .dtype = dtype};
    }
    for (uint32_t i = 0; i < n_block; i++)
        kv->free[i] = n_block - 1 - i;
    return 0;
}

void st_kv_wipe(struct st_kv *kv)
{
    free(kv->layers);
    free(kv->free);
    st_area_free(&kv->area);
    *kv = (struct st_kv){0};
}

bool st_seq_fits(const struct st_kv *kv, const struct st_seq *s, uint32_t n_token)
{
    uint32_t want = st_kv_blocks_for(n_token);
    return want <= s->n_block || want - s->n_block <= kv->n_free;
}

int st_seq_reserve(struct st_kv *kv, struct st_seq *s, uint32_t n_token, struct st_err *e)
{
    uint32_t want = st_kv_blocks_for(n_token);
    if (n_token > s->cap_id) {
        uint32_t *ids = realloc(s->ids, n_token * sizeof *ids);
        if (!ids)
            return st_fail(e, ST_MEMORY, "sequence: the system refuses memory for %u tokens", n_token);
        s->ids = ids;
        s->cap_id = n_token;
    }
    if (want <= s->n_block)
        return 0;
    if (want - s->n_block > kv->n_free)
        return st_fail(e, ST_MEMORY, "key/value cache: %u more blocks are needed, %u are free", want - s->n_block,
                       kv->n_free);
    uint32_t *blocks = realloc(s->blocks, want * sizeof *blocks);
    if (!blocks)
        return st_fail(e, ST_MEMORY, "sequence: the system refuses memory for %u blocks", want);
    s->blocks = blocks;
    while (s->n_block < want)
        s->blocks[s->n_block++] = kv->free[--kv->n_free];
    return 0;
}

static void give_back(struct st_kv *kv, struct st_seq *s, uint32_t keep)
{
    while (s->n_block > keep)
        kv->free[kv->n_free++] = s->blocks[--s->n_block];
}

void st_seq_trim(struct st_kv *kv, struct st_seq *s)
{
    give_back(kv, s, st_kv_blocks_for(s->n_cached));
}

void st_seq_drop(struct st_kv *kv, struct st_seq *s)
{
    give_back(kv, s, 0);
    free(s->ids);
    free(s->blocks);
    *s = (struct st_seq){0};
}

uint32_t st_seq_rebase(struct st_seq *s, const uint32_t *ids, uint32_t n)
{
    uint32_t same = 0;
    while (same < s->n_cached && same + 1 < n && s->ids[same] == ids[same])
        same++;
    memcpy(s->ids + same, ids + same, (n - same) * sizeof *ids);
    s->n_id = n;
    s->n_cached = same;
    return same;
}
