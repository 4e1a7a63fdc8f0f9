#include "text/json.h"
#include "base/file.h"
#include "text/base64.h"
#include "text/utf8.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

int st_json_parse(const void *p, size_t len, const char *where, json_t **out, struct st_err *e)
{
    json_error_t je;
    *out = json_loadb(len ? p : "", len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &je);
    if (*out)
        return 0;
    if (json_error_code(&je) == json_error_out_of_memory)
        return st_fail(e, ST_MEMORY, "%s: no memory for %zu bytes of JSON", where, len);
    return st_fail(e, ST_INPUT, "%s: not valid JSON at line %d, column %d", where, je.line, je.column);
}

int st_json_read_file(const char *path, size_t max, json_t **out, struct st_err *e)
{
    struct st_buf b = {0};
    *out = NULL;
    int rc = st_file_read(path, max, &b, e);
    if (!rc)
        rc = st_json_parse(b.p, b.len, path, out, e);
    st_buf_free(&b);
    return rc;
}

static const char *type_name(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    default:
        return "null";
    }
}

/* The field, or NULL when absent or null. */
static const json_t *field(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_null(v) ? NULL : v;
}

int st_json_int(const json_t *o, const char *where, const char *key, int64_t min, int64_t max, int64_t *out,
                struct st_err *e)
{
    const json_t *v = field(o, key);
    if (!v)
        return 0;
    double r = json_number_value(v);
    if (json_is_integer(v) && json_integer_value(v) >= min && json_integer_value(v) <= max)
        *out = json_integer_value(v);
    else if (json_is_real(v) && r == floor(r) && fabs(r) <= 0x1p53 && r >= (double)min && r <= (double)max)
        *out = (int64_t)r;
    else if (json_is_number(v))
        return st_fail(e, ST_INPUT, "%s: %s: want an integer in %" PRId64 "..%" PRId64 ", got %.17g", where, key, min,
                       max, r);
    else
        return st_fail(e, ST_INPUT, "%s: %s: want an integer in %" PRId64 "..%" PRId64 ", got %s", where, key, min, max,
                       type_name(v));
    return 0;
}

int st_json_real(const json_t *o, const char *where, const char *key, double min, double max, double *out,
                 struct st_err *e)
{
    const json_t *v = field(o, key);
    if (!v)
        return 0;
    double r = json_number_value(v);
    if (!json_is_number(v))
        return st_fail(e, ST_INPUT, "%s: %s: want a number in %g..%g, got %s", where, key, min, max, type_name(v));
    if (!(r >= min && r <= max))
        return st_fail(e, ST_INPUT, "%s: %s: want a number in %g..%g, got %.9g", where, key, min, max, r);
    *out = r;
    return 0;
}

int st_json_bool(const json_t *o, const char *where, const char *key, bool *out, struct st_err *e)
{
    const json_t *v = field(o, key);
    if (!v)
        return 0;
    if (!json_is_boolean(v))
        return st_fail(e, ST_INPUT, "%s: %s: want true or false, got %s", where, key, type_name(v));
    *out = json_is_true(v);
    return 0;
}

int st_json_str(const json_t *o, const char *where, const char *key, const char **out, struct st_err *e)
{
    const json_t *v = field(o, key);
    if (!v)
        return 0;
    if (!json_is_string(v))
        return st_fail(e, ST_INPUT, "%s: %s: want a string, got %s", where, key, type_name(v));
    *out = json_string_value(v);
    return 0;
}

int st_json_need(const json_t *o, const char *where, const char *key, struct st_err *e)
{
    if (!field(o, key))
        return st_fail(e, ST_INPUT, "%s: %s: missing", where, key);
    return 0;
}

int st_json_base64(const json_t *o, const char *where, const char *key, struct st_buf *out, struct st_err *e)
{
    const char *s = NULL;
    if (st_json_need(o, where, key, e) || st_json_str(o, where, key, &s, e))
        return e->code;
    if (!st_base64_decode(s, strlen(s), out))
        return st_fail(e, ST_INPUT, "%s: %s: want base64", where, key);
    return out->failed ? st_fail(e, ST_MEMORY, "%s: %s: out of memory", where, key) : 0;
}

int st_json_base64_exact(const json_t *o, const char *where, const char *key, void *out, size_t len, struct st_err *e)
{
    struct st_buf b = {0};
    int rc = st_json_base64(o, where, key, &b, e);
    if (!rc && b.len != len)
        rc = st_fail(e, ST_INPUT, "%s: %s: want %zu bytes, got %zu", where, key, len, b.len);
    if (!rc)
        memcpy(out, b.p, len);
    st_buf_free(&b);
    return rc;
}

json_t *st_json_bytes(const void *p, size_t len)
{
    struct st_buf b = {0};
    st_base64_encode(p, len, &b);
    json_t *text = b.failed ? NULL : json_stringn(b.p, b.len);
    st_buf_free(&b);
    return text;
}

int st_json_only(const json_t *o, const char *where, const char *const *names, struct st_err *e)
{
    const char *key;
    json_t *v;
    if (!json_is_object(o))
        return st_fail(e, ST_INPUT, "%s: want an object", where);
    json_object_foreach((json_t *)(uintptr_t)o, key, v)
    {
        bool known = false;
        for (size_t i = 0; names[i] && !known; i++)
            known = strcmp(key, names[i]) == 0;
        if (!known)
            return st_fail(e, ST_INPUT, "%s: unknown field '%.40s'", where, key);
    }
    return 0;
}

static int append(const char *p, size_t len, void *b)
{
    st_buf_add(b, p, len);
    return 0;
}

void st_json_dump(const json_t *v, struct st_buf *b)
{
    if (json_dump_callback(v, append, b, JSON_COMPACT | JSON_ENCODE_ANY) != 0)
        b->failed = true;
}

void st_json_quote(struct st_buf *b, const char *s, size_t len)
{
    st_buf_add(b, "\"", 1);
    while (len) {
        uint32_t cp;
        size_t n = st_utf8_next((const uint8_t *)s, len, &cp);
        if (n == 0) {
            st_buf_add(b, "\xef\xbf\xbd", 3);
            n = 1;
        } else if (cp == '"' || cp == '\\')
            st_buf_addf(b, "\\%c", (int)cp);
        else if (cp == '\n')
            st_buf_add(b, "\\n", 2);
        else if (cp < 0x20 || cp == 0x7f)
            st_buf_addf(b, "\\u%04x", cp);
        else
            st_buf_add(b, s, n);
        s += n;
        len -= n;
    }
    st_buf_add(b, "\"", 1);
}
