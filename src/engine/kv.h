/* The key/value cache in pages, and the token sequences that own them.
 *
 * A block holds ST_KV_BLOCK tokens of all layers, K and V, in one piece:
 * [layer][K,V][n_kv_head][ST_KV_BLOCK][head_dim or v_head_dim]. Free blocks stand on a stack, last returned first
 * taken, and memory comes into being when a block is first written: the process grows with the tokens that are really
 * held, not with the capacity. A sequence is what a request fills and a session keeps between requests. */
#ifndef ST_ENGINE_KV_H
#define ST_ENGINE_KV_H

#include "base/mem.h"
#include "model/config.h"
#include "tensor/compute.h"

#define ST_KV_BLOCK 32

struct st_kv {
    struct st_kv_layer *layers; /* [n_layer], as the kernels take them */
    uint32_t *free;             /* stack of block numbers */
    uint32_t n_layer, n_block, n_free;
    size_t block_bytes;
    struct st_area area;
};

/* Bytes of one block for this model. */
size_t st_kv_block_bytes(const struct st_config *c, enum st_dtype dtype);
/* dtype F32 or BF16, else USAGE. */
int st_kv_init(struct st_kv *kv, const struct st_config *c, enum st_dtype dtype, uint32_t n_block,
               struct st_err *e) ST_MUST_CHECK;
void st_kv_wipe(struct st_kv *kv);

struct st_seq {
    uint32_t *ids;    /* [cap_id]; ids[0..n_id) prompt and reply */
    uint32_t *blocks; /* [n_block] */
    uint32_t n_id, cap_id, n_block;
    uint32_t n_cached; /* of the ids; their keys and values are in the blocks */
};

static inline uint32_t st_kv_blocks_for(uint32_t n_token)
{
    return n_token / ST_KV_BLOCK + (n_token % ST_KV_BLOCK != 0);
}
/* True when the free blocks suffice for n_token tokens in all. */
bool st_seq_fits(const struct st_kv *kv, const struct st_seq *s, uint32_t n_token);
/* Takes blocks and tables for n_token tokens in all. MEMORY when the cache or the system has too little. */
int st_seq_reserve(struct st_kv *kv, struct st_seq *s, uint32_t n_token, struct st_err *e) ST_MUST_CHECK;
/* Gives back the blocks beyond the cached tokens. */
void st_seq_trim(struct st_kv *kv, struct st_seq *s);
/* Gives everything back; the sequence is empty afterwards. */
void st_seq_drop(struct st_kv *kv, struct st_seq *s);
/* Replaces the ids by a prompt and keeps what is cached of their common beginning, at most n - 1 tokens, so that there
 * is always a row to compute. cap_id >= n. Returns the number of tokens kept. */
uint32_t st_seq_rebase(struct st_seq *s, const uint32_t *ids, uint32_t n);

#endif
