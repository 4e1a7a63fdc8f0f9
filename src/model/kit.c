#include "model/kit.h"
#include "base/file.h"
#include "crypto/digest.h"
#include "model/measure.h"
#include "text/json.h"

#include <string.h>

#define BYTES_MAX 4096

static int manifest_path(const char *dir, char out[ST_PATH_MAX], struct st_err *e)
{
    return st_path_join(out, ST_PATH_MAX, dir, ST_KIT_MANIFEST, e);
}

bool st_kit_is(const char *path)
{
    char manifest[ST_PATH_MAX];
    struct st_err e;
    return st_path_is_dir(path) && !manifest_path(path, manifest, &e) && st_path_exists(manifest);
}

static int need_word(const json_t *v, const char *where, const char *key, const char **out, struct st_err *e)
{
    int rc = st_json_need(v, where, key, e);
    return rc ? rc : st_json_str(v, where, key, out, e);
}

static int read_digest(const json_t *v, const char *where, uint8_t out[32], struct st_err *e)
{
    static const char digits[] = "0123456789abcdef";
    const char *hex = "";
    int rc = need_word(v, where, "model_digest", &hex, e);
    if (rc)
        return rc;
    if (strlen(hex) != 64 || strspn(hex, digits) != 64)
        return st_fail(e, ST_INPUT, "%s: model_digest: want 64 digits 0-9, a-f", where);
    for (size_t i = 0; i < 32; i++)
        out[i] = (uint8_t)((strchr(digits, hex[2 * i]) - digits) << 4 | (strchr(digits, hex[2 * i + 1]) - digits));
    return 0;
}

static int read_embedding(const json_t *v, const char *where, bool *out, struct st_err *e)
{
    const char *word = "";
    int rc = need_word(v, where, "embedding", &word, e);
    *out = strcmp(word, "local") == 0;
    if (!rc && !*out && strcmp(word, "remote") != 0)
        rc = st_fail(e, ST_INPUT, "%s: embedding: want 'local' or 'remote', got '%.40s'", where, word);
    return rc;
}

static int read_dtype(const json_t *v, const char *where, enum st_dtype *out, struct st_err *e)
{
    const char *word = "";
    int rc = need_word(v, where, "dtype", &word, e);
    for (int i = ST_DTYPE_F32; !rc && i <= ST_DTYPE_BF16; i++)
        if (strcmp(word, st_dtype_name((enum st_dtype)i)) == 0) {
            *out = (enum st_dtype)i;
            return 0;
        }
    return rc ? rc : st_fail(e, ST_INPUT, "%s: dtype: want f32, f16 or bf16, got '%.40s'", where, word);
}

static int read_params(const json_t *v, const char *where, char out[ST_LWE_NAME], struct st_err *e)
{
    const char *word = "";
    int rc = need_word(v, where, "params", &word, e);
    size_t len = strlen(word);
    if (!rc && (len == 0 || len >= ST_LWE_NAME))
        rc = st_fail(e, ST_INPUT, "%s: params: want a name of 1..%d bytes, got %zu", where, ST_LWE_NAME - 1, len);
    if (!rc)
        memcpy(out, word, len + 1);
    return rc;
}

static int refuse_strays(const json_t *v, const char *where, struct st_err *e)
{
    static const char *const known[] = {"version", "model_digest", "params", "embedding", "dtype", "comment"};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)v, key, value)
    {
        size_t i = 0;
        while (i < sizeof known / sizeof *known && strcmp(key, known[i]) != 0)
            i++;
        if (i == sizeof known / sizeof *known)
            return st_fail(e, ST_INPUT, "%s: %.40s: unknown field", where, key);
    }
    return 0;
}

int st_kit_parse(const void *p, size_t len, const char *where, struct st_kit *out, struct st_err *e)
{
    json_t *v = NULL;
    int64_t version = 0;
    *out = (struct st_kit){0};
    int rc = st_json_parse(p, len, where, &v, e);
    if (rc)
        return rc;
    if (!json_is_object(v))
        rc = st_fail(e, ST_INPUT, "%s: want an object", where);
    if (!rc)
        rc = st_json_need(v, where, "version", e);
    if (!rc)
        rc = st_json_int(v, where, "version", 0, INT32_MAX, &version, e);
    if (!rc && version != ST_KIT_VERSION)
        rc = st_fail(e, ST_UNSUPPORTED, "%s: version %d is not supported; supported: %d", where, (int)version,
                     ST_KIT_VERSION);
    if (!rc)
        rc = refuse_strays(v, where, e);
    if (!rc)
        rc = read_digest(v, where, out->digest, e);
    if (!rc)
        rc = read_params(v, where, out->params, e);
    if (!rc)
        rc = read_embedding(v, where, &out->embedding, e);
    if (!rc)
        rc = read_dtype(v, where, &out->dtype, e);
    json_decref(v);
    return rc;
}

int st_kit_read(const char *dir, struct st_kit *out, struct st_err *e)
{
    char path[ST_PATH_MAX];
    struct st_buf b = {0};
    int rc = manifest_path(dir, path, e);
    if (!rc)
        rc = st_file_read(path, BYTES_MAX, &b, e);
    if (!rc)
        rc = st_kit_parse(b.p, b.len, path, out, e);
    st_buf_free(&b);
    return rc;
}

int st_kit_measure(const char *dir, uint8_t out[32], struct st_err *e)
{
    uint8_t parts[2][32];
    char path[ST_PATH_MAX];
    struct st_buf b = {0};
    if (st_model_measure(dir, false, parts[0], e) || manifest_path(dir, path, e))
        return e->code;
    int rc = st_file_read(path, BYTES_MAX, &b, e);
    if (!rc) {
        st_sha256(b.p, b.len, parts[1]);
        st_sha256(parts, sizeof parts, out);
    }
    st_buf_free(&b);
    return rc;
}
