#include "protect/covariant/gguf.h"

#include <string.h>

enum { TYPE_U32 = 4, TYPE_F32 = 6, TYPE_BOOL = 7, TYPE_STR = 8, TYPE_ARRAY = 9 };

static void put(struct st_buf *b, uint64_t v, int n)
{
    uint8_t c[8];
    for (int i = 0; i < n; i++)
        c[i] = (uint8_t)(v >> (8 * i));
    st_buf_add(b, c, (size_t)n);
}

static void put_str(struct st_buf *b, const char *s, size_t len)
{
    put(b, len, 8);
    st_buf_add(b, s, len);
}

static void put_key(struct st_gguf *g, const char *key, int type)
{
    size_t prefix = key[0] == '.' ? strlen(g->prefix) : 0;
    put(&g->pairs, prefix + strlen(key), 8);
    st_buf_add(&g->pairs, g->prefix, prefix);
    st_buf_add_str(&g->pairs, key);
    put(&g->pairs, (uint64_t)type, 4);
    g->n_pair++;
}

void st_gguf_u32(struct st_gguf *g, const char *key, uint32_t v)
{
    put_key(g, key, TYPE_U32);
    put(&g->pairs, v, 4);
}

void st_gguf_f32(struct st_gguf *g, const char *key, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_key(g, key, TYPE_F32);
    put(&g->pairs, bits, 4);
}

void st_gguf_bool(struct st_gguf *g, const char *key, bool v)
{
    put_key(g, key, TYPE_BOOL);
    put(&g->pairs, v, 1);
}

void st_gguf_str(struct st_gguf *g, const char *key, const char *v, size_t len)
{
    put_key(g, key, TYPE_STR);
    put_str(&g->pairs, v, len);
}

void st_gguf_array(struct st_gguf *g, const char *key, enum st_gguf_array type, uint64_t n)
{
    put_key(g, key, TYPE_ARRAY);
    put(&g->pairs, (uint64_t)type, 4);
    put(&g->pairs, n, 8);
}

void st_gguf_raw(struct st_gguf *g, const void *p, size_t len)
{
    st_buf_add(&g->pairs, p, len);
}

void st_gguf_raw_str(struct st_gguf *g, const char *v, size_t len)
{
    put_str(&g->pairs, v, len);
}

uint64_t st_gguf_tensor(struct st_gguf *g, const char *name, enum st_gguf_type type, int n_dim, const uint64_t *dim,
                        uint64_t bytes)
{
    uint64_t at = g->at;
    put_str(&g->tensors, name, strlen(name));
    put(&g->tensors, (uint64_t)n_dim, 4);
    for (int i = n_dim - 1; i >= 0; i--)
        put(&g->tensors, dim[i], 8);
    put(&g->tensors, (uint64_t)type, 4);
    put(&g->tensors, at, 8);
    g->n_tensor++;
    g->at = (at + bytes + ST_GGUF_ALIGN - 1) / ST_GGUF_ALIGN * ST_GGUF_ALIGN;
    return at;
}

int st_gguf_head(const struct st_gguf *g, struct st_buf *out, struct st_err *e)
{
    st_buf_add_str(out, "GGUF");
    put(out, 3, 4);
    put(out, g->n_tensor, 8);
    put(out, g->n_pair, 8);
    st_buf_add(out, g->pairs.p, g->pairs.len);
    st_buf_add(out, g->tensors.p, g->tensors.len);
    while (!out->failed && out->len % ST_GGUF_ALIGN)
        put(out, 0, 1);
    return out->failed || g->pairs.failed || g->tensors.failed ? st_fail(e, ST_MEMORY, "GGUF head: out of memory") : 0;
}

void st_gguf_wipe(struct st_gguf *g)
{
    st_buf_free(&g->pairs);
    st_buf_free(&g->tensors);
}
