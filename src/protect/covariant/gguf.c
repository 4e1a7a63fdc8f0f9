#include "protect/covariant/gguf.h"
#include "base/file.h"

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

/* ---- reading ---- */

struct reader {
    const uint8_t *p;
    size_t left;
    bool bad;
};

/* The next n bytes; NULL, and bad, when there are fewer. */
static const uint8_t *take(struct reader *r, uint64_t n)
{
    if (r->bad || n > r->left) {
        r->bad = true;
        return NULL;
    }
    const uint8_t *p = r->p;
    r->p += n;
    r->left -= n;
    return p;
}

static uint64_t get(struct reader *r, int n)
{
    const uint8_t *p = take(r, (uint64_t)n);
    uint64_t v = 0;
    for (int i = n - 1; p && i >= 0; i--)
        v = v << 8 | p[i];
    return v;
}

/* Types 0 to 12 of the specification; 0 for those of no fixed size. */
static size_t size_of(uint64_t type)
{
    static const uint8_t sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < sizeof sizes ? sizes[type] : 0;
}

static void skip_value(struct reader *r, uint64_t type)
{
    uint64_t n = 1;
    if (type == TYPE_ARRAY) {
        type = get(r, 4);
        n = get(r, 8);
    }
    if (type == TYPE_STR) {
        for (; n && !r->bad; n--)
            take(r, get(r, 8));
        return;
    }
    size_t size = size_of(type), len;
    if (size == 0 || !st_mul_size(n, size, &len))
        r->bad = true;
    else
        take(r, len);
}

static int find_str(struct reader *r, const char *where, const char *key, size_t max, struct st_buf *out,
                    struct st_err *e)
{
    const uint8_t *magic = take(r, 4);
    if (!magic || memcmp(magic, "GGUF", 4) != 0 || get(r, 4) != 3)
        return st_fail(e, ST_INPUT, "%s: not a GGUF file of version 3", where);
    get(r, 8);
    for (uint64_t n = get(r, 8); n && !r->bad; n--) {
        uint64_t len = get(r, 8);
        const uint8_t *name = take(r, len);
        uint64_t type = get(r, 4);
        if (!name || len != strlen(key) || memcmp(name, key, len) != 0 || type != TYPE_STR) {
            skip_value(r, type);
            continue;
        }
        len = get(r, 8);
        const uint8_t *v = take(r, len);
        if (!v || len > max)
            break;
        st_buf_add(out, v, len);
        return out->failed ? st_fail(e, ST_MEMORY, "%s: out of memory", where) : 0;
    }
    return st_fail(e, ST_INPUT, "%s: its metadata has no string %s", where, key);
}

int st_gguf_read_str(const char *path, const char *key, size_t max, struct st_buf *out, struct st_err *e)
{
    struct st_map map;
    int rc = st_map_open(path, &map, e);
    if (rc)
        return rc;
    struct reader r = {map.p, map.len, false};
    rc = find_str(&r, path, key, max, out, e);
    st_map_close(&map);
    return rc;
}
