#include "model/ckpt.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Every dtype of the format; sizes in bits, because some are smaller than a byte. */
static const struct dtype {
    const char *name;
    unsigned bits;
    enum st_dtype as;
} dtypes[] = {
    {"F32", 32, ST_DTYPE_F32},          {"F16", 16, ST_DTYPE_F16},          {"BF16", 16, ST_DTYPE_BF16},
    {"BOOL", 8, ST_DTYPE_COUNT},        {"U8", 8, ST_DTYPE_COUNT},          {"I8", 8, ST_DTYPE_COUNT},
    {"F8_E5M2", 8, ST_DTYPE_COUNT},     {"F8_E4M3", 8, ST_DTYPE_COUNT},     {"F8_E8M0", 8, ST_DTYPE_COUNT},
    {"F8_E4M3FNUZ", 8, ST_DTYPE_COUNT}, {"F8_E5M2FNUZ", 8, ST_DTYPE_COUNT}, {"F4", 4, ST_DTYPE_COUNT},
    {"F6_E2M3", 6, ST_DTYPE_COUNT},     {"F6_E3M2", 6, ST_DTYPE_COUNT},     {"I16", 16, ST_DTYPE_COUNT},
    {"U16", 16, ST_DTYPE_COUNT},        {"I32", 32, ST_DTYPE_COUNT},        {"U32", 32, ST_DTYPE_COUNT},
    {"F64", 64, ST_DTYPE_COUNT},        {"I64", 64, ST_DTYPE_COUNT},        {"U64", 64, ST_DTYPE_COUNT},
    {"C64", 64, ST_DTYPE_COUNT},
};

const char *st_stored_dtype(const char *word, enum st_dtype *as, unsigned *bits)
{
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++)
        if (strcmp(dtypes[i].name, word) == 0) {
            *as = dtypes[i].as;
            *bits = dtypes[i].bits;
            return dtypes[i].name;
        }
    return NULL;
}

int st_stored_list(const json_t *list, int max, uint64_t *out)
{
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n > (size_t)max)
        return -1;
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0)
            return -1;
        out[i] = (uint64_t)json_integer_value(v);
    }
    return (int)n;
}

/* Bytes of the shape; false when they overflow or do not fill whole bytes. */
static bool shape_bytes(const struct st_tensor *t, unsigned bits, uint64_t *out)
{
    uint64_t n = bits;
    for (int i = 0; i < t->n_dim; i++)
        if (__builtin_mul_overflow(n, t->dim[i], &n))
            return false;
    *out = n / 8;
    return n % 8 == 0;
}

static int read_tensor(const char *name, const json_t *o, const uint8_t *data, size_t data_len, const char *where,
                       struct st_tensors *out, struct st_err *e)
{
    const char *word = json_string_value(json_object_get(o, "dtype"));
    if (json_object_size(o) != 3 || !word)
        return st_fail(e, ST_INPUT, "%s: %s: want {dtype, shape, data_offsets}", where, name);
    enum st_dtype as;
    unsigned bits;
    const char *stored = st_stored_dtype(word, &as, &bits);
    if (!stored)
        return st_fail(e, ST_UNSUPPORTED, "%s: %s: dtype '%.16s' is not known", where, name, word);

    struct st_tensor *t = st_tensors_add(out, name, e);
    if (!t)
        return e->code;
    t->dtype = as;
    t->stored = stored;
    t->n_dim = st_stored_list(json_object_get(o, "shape"), ST_MAX_DIMS, t->dim);
    if (t->n_dim < 0) {
        t->n_dim = 0;
        return st_fail(e, ST_INPUT, "%s: %s: shape: want a list of at most %d sizes", where, name, ST_MAX_DIMS);
    }
    uint64_t at[2], bytes;
    if (st_stored_list(json_object_get(o, "data_offsets"), 2, at) != 2 || at[0] > at[1])
        return st_fail(e, ST_INPUT, "%s: %s: data_offsets: want [begin, end]", where, name);
    if (at[1] > data_len)
        return st_fail(e, ST_INPUT, "%s: %s: data_offsets end at %" PRIu64 ", the file holds %zu bytes of data", where,
                       name, at[1], data_len);
    if (!shape_bytes(t, bits, &bytes) || bytes != at[1] - at[0])
        return st_fail(e, ST_INPUT, "%s: %s: data_offsets span %" PRIu64 " bytes, which is not the size of its shape",
                       where, name, at[1] - at[0]);
    t->data = data + at[0];
    t->bytes = (size_t)bytes;
    return 0;
}

static int check_metadata(const json_t *o, const char *where, struct st_err *e)
{
    const char *key;
    json_t *v;
    bool ok = json_is_object(o);
    json_object_foreach((json_t *)o, key, v)
    {
        ok = ok && json_is_string(v);
    }
    return ok ? 0 : st_fail(e, ST_INPUT, "%s: __metadata__: want an object of strings", where);
}

static int by_place(const void *a, const void *b)
{
    const struct st_tensor *x = a, *y = b;
    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

/* "The byte buffer needs to be entirely indexed, and cannot contain holes" (format description): laid out by place,
 * each tensor begins where the one before ends. */
static int check_layout(struct st_tensor *t, size_t n, const uint8_t *data, size_t data_len, const char *where,
                        struct st_err *e)
{
    const uint8_t *end = data;
    if (n)
        qsort(t, n, sizeof *t, by_place);
    for (size_t i = 0; i < n; i++) {
        const uint8_t *begin = t[i].data;
        if (begin != end)
            return st_fail(e, ST_INPUT, "%s: %s: data_offsets %s", where, t[i].name,
                           begin < end ? "overlap with another tensor" : "leave a hole before it");
        end = begin + t[i].bytes;
    }
    if (end != data + data_len)
        return st_fail(e, ST_INPUT, "%s: %zu bytes after the last tensor", where, (size_t)(data + data_len - end));
    return 0;
}

int st_safetensors_parse(const uint8_t *p, size_t len, const char *where, struct st_tensors *out, struct st_err *e)
{
    uint64_t head = 0;
    if (len < 8)
        return st_fail(e, ST_INPUT, "%s: %zu bytes are too few for a safetensors file", where, len);
    for (int i = 0; i < 8; i++)
        head |= (uint64_t)p[i] << (8 * i);
    if (head > ST_SAFETENSORS_HEADER_MAX)
        return st_fail(e, ST_INPUT, "%s: safetensors header of %" PRIu64 " bytes; at most %u are accepted", where, head,
                       ST_SAFETENSORS_HEADER_MAX);
    if (head > len - 8)
        return st_fail(e, ST_INPUT, "%s: safetensors header of %" PRIu64 " bytes in a file of %zu", where, head, len);
    if (head == 0 || p[8] != '{')
        return st_fail(e, ST_INPUT, "%s: a safetensors header begins with '{'", where);

    const uint8_t *data = p + 8 + head;
    size_t data_len = len - 8 - (size_t)head, first = out->n;
    json_t *json = NULL;
    const char *name;
    json_t *v;
    int rc = st_json_parse(p + 8, (size_t)head, where, &json, e);
    if (!rc && !json_is_object(json))
        rc = st_fail(e, ST_INPUT, "%s: safetensors header: want an object", where);
    if (rc)
        goto out;
    json_object_foreach(json, name, v)
    {
        rc = strcmp(name, "__metadata__") == 0 ? check_metadata(v, where, e)
                                               : read_tensor(name, v, data, data_len, where, out, e);
        if (rc)
            goto out;
    }
    rc = check_layout(out->n > first ? out->at + first : NULL, out->n - first, data, data_len, where, e);
out:
    json_decref(json);
    return rc;
}
