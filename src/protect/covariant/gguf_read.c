#include "protect/covariant/gguf_read.h"

#include <string.h>

enum { TYPE_STR = 8, TYPE_ARRAY = 9 };

/* What is left to read; bad once more was asked for than there was. */
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

static struct st_span get_str(struct reader *r)
{
    uint64_t len = get(r, 8);
    const uint8_t *p = take(r, len);
    return (struct st_span){p, p ? (size_t)len : 0};
}

static bool equal(struct st_span s, const char *text)
{
    return s.p && s.len == strlen(text) && memcmp(s.p, text, s.len) == 0;
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
            get_str(r);
        return;
    }
    size_t size = size_of(type), len;
    if (size == 0 || !st_mul_size(n, size, &len))
        r->bad = true;
    else
        take(r, len);
}

/* Bytes of a tensor of these dimensions; false: overflow, or rows that are not whole blocks. */
static bool bytes_of(struct st_gguf_view *v)
{
    uint64_t n = 1, fastest = v->dim[v->n_dim - 1];
    for (int i = 0; i < v->n_dim; i++)
        if (v->dim[i] == 0 || __builtin_mul_overflow(n, v->dim[i], &n))
            return false;
    if (v->type == ST_GGUF_Q8_0) {
        v->bytes = n / 32;
        return fastest % 32 == 0 && !__builtin_mul_overflow(v->bytes, (uint64_t)34, &v->bytes);
    }
    return !__builtin_mul_overflow(n, v->type == ST_GGUF_F32 ? (uint64_t)4 : 2, &v->bytes);
}

/* The next tensor of the list. Its offset is taken as one into the data, `room` bytes long, and left in *at. */
static struct st_span get_tensor(struct reader *r, uint64_t room, struct st_gguf_view *v, uint64_t *at, bool *known)
{
    struct st_span name = get_str(r);
    uint64_t n = get(r, 4);
    if (n < 1 || n > 4)
        r->bad = true;
    v->n_dim = r->bad ? 1 : (int)n;
    for (int i = v->n_dim - 1; i >= 0; i--)
        v->dim[i] = get(r, 8);
    uint64_t type = get(r, 4);
    *at = get(r, 8);
    *known = type == ST_GGUF_F32 || type == ST_GGUF_F16 || type == ST_GGUF_Q8_0 || type == ST_GGUF_BF16;
    v->type = *known ? (enum st_gguf_type)type : ST_GGUF_F32;
    if (*known && !r->bad && (!bytes_of(v) || *at > room || v->bytes > room - *at || *at % ST_GGUF_ALIGN))
        r->bad = true;
    return name;
}

static int check_tensors(struct st_gguf_file *f, const char *path, struct st_err *e)
{
    struct reader r = {f->tensors.p, f->tensors.len, false};
    for (uint64_t i = 0; i < f->n_tensor; i++) {
        struct st_gguf_view v;
        uint64_t at;
        bool known;
        struct st_span name = get_tensor(&r, f->bytes.len - f->data, &v, &at, &known);
        if (r.bad)
            return st_fail(e, ST_INPUT, "%s: tensor %.*s: shape or place is outside the file", path,
                           (int)(name.len < 80 ? name.len : 80), name.p ? (const char *)name.p : "");
        if (!known)
            return st_fail(e, ST_UNSUPPORTED, "%s: tensor %.*s: its type is not one of F32, F16, BF16, Q8_0", path,
                           (int)(name.len < 80 ? name.len : 80), (const char *)name.p);
    }
    return 0;
}

/* Where the list of tensors ends, whatever it says. */
static void skip_tensor(struct reader *r)
{
    get_str(r);
    uint64_t n = get(r, 4);
    if (n > 4)
        r->bad = true;
    else
        take(r, 8 * n + 12);
}

int st_gguf_parse(struct st_span bytes, const char *path, struct st_gguf_file *f, struct st_err *e)
{
    *f = (struct st_gguf_file){.bytes = bytes};
    struct reader r = {f->bytes.p, f->bytes.len, false};
    const uint8_t *magic = take(&r, 4);
    if (!magic || memcmp(magic, "GGUF", 4) != 0 || get(&r, 4) != 3)
        return st_fail(e, ST_INPUT, "%s: not a GGUF file of version 3", path);
    f->n_tensor = get(&r, 8);
    f->n_pair = get(&r, 8);
    const uint8_t *begin = r.p;
    for (uint64_t i = 0; i < f->n_pair && !r.bad; i++) {
        get_str(&r);
        skip_value(&r, get(&r, 4));
    }
    f->pairs = (struct st_span){begin, (size_t)(r.p - begin)};
    begin = r.p;
    for (uint64_t i = 0; i < f->n_tensor && !r.bad; i++)
        skip_tensor(&r);
    f->tensors = (struct st_span){begin, (size_t)(r.p - begin)};
    size_t head = f->bytes.len - r.left;
    f->data = (head + ST_GGUF_ALIGN - 1) / ST_GGUF_ALIGN * ST_GGUF_ALIGN;
    if (r.bad || f->data > f->bytes.len)
        return st_fail(e, ST_INPUT, "%s: damaged: its head does not end in the file", path);
    return check_tensors(f, path, e);
}

int st_gguf_open(const char *path, struct st_gguf_file *f, struct st_err *e)
{
    struct st_map map;
    *f = (struct st_gguf_file){0};
    int rc = st_map_open(path, &map, e);
    if (!rc)
        rc = st_gguf_parse((struct st_span){map.p, map.len}, path, f, e);
    f->map = map;
    if (rc)
        st_gguf_close(f);
    return rc;
}

void st_gguf_close(struct st_gguf_file *f)
{
    st_map_close(&f->map);
    *f = (struct st_gguf_file){0};
}

bool st_gguf_find(const struct st_gguf_file *f, const char *name, struct st_gguf_view *out)
{
    struct reader r = {f->tensors.p, f->tensors.len, false};
    for (uint64_t i = 0; i < f->n_tensor; i++) {
        uint64_t at;
        bool known;
        if (!equal(get_tensor(&r, f->bytes.len - f->data, out, &at, &known), name))
            continue;
        out->data = f->bytes.p + f->data + at;
        return true;
    }
    return false;
}

bool st_gguf_find_str(const struct st_gguf_file *f, const char *key, struct st_span *out)
{
    struct reader r = {f->pairs.p, f->pairs.len, false};
    for (uint64_t i = 0; i < f->n_pair; i++) {
        struct st_span name = get_str(&r);
        uint64_t type = get(&r, 4);
        if (type == TYPE_STR && equal(name, key)) {
            *out = get_str(&r);
            return true;
        }
        skip_value(&r, type);
    }
    return false;
}

bool st_gguf_key_at(struct st_span pairs, uint64_t n, size_t at, struct st_span *key)
{
    struct reader r = {pairs.p, pairs.len, false};
    for (uint64_t i = 0; i < n && !r.bad; i++) {
        *key = get_str(&r);
        skip_value(&r, get(&r, 4));
        if (!r.bad && at < pairs.len - r.left)
            return true;
    }
    return false;
}
