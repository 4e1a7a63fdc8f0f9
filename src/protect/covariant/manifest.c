#include "protect/covariant/manifest.h"
#include "protect/covariant/gguf_read.h"
#include "text/json.h"

#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MANIFEST_VERSION 3
#define MANIFEST_BYTES_MAX 65536
#define PROTECTION "covariant"

json_t *st_cov_manifest_json(const struct st_cov_manifest *m)
{
    const struct st_cov_opts *o = &m->made;
    json_t *v = json_pack("{s:i, s:s, s:s, s:I, s:{s:f, s:f, s:f, s:f, s:I, s:f, s:I}, s:s, s:s, s:s}", "version",
                          MANIFEST_VERSION, "protection", PROTECTION, "preset", st_cov_preset_name(o->preset), "h",
                          (json_int_t)o->expand, "parameters", "lambda", o->lambda, "alpha_e", o->alpha_e, "alpha_h",
                          o->alpha_h, "noise_all", o->noise_all, "beta", (json_int_t)o->beta, "gamma", o->gamma,
                          "homophones", (json_int_t)o->homophones, "format", st_cov_format_name(o->format), "dtype",
                          st_cov_store_name(o->dtype), "commitment", m->commitment);
    if (v && m->frequent[0] && json_object_set_new(v, "frequent", json_string(m->frequent)) != 0) {
        json_decref(v);
        v = NULL;
    }
    return v;
}

static int commit(const struct st_cov_manifest *m, const struct st_cov_key *key, const uint8_t digest[32], char hex[65],
                  struct st_err *e)
{
    json_t *v = st_cov_manifest_json(m);
    if (v)
        json_object_del(v, "commitment");
    char *facts = v ? json_dumps(v, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    int rc = facts ? st_cov_key_commit(key, digest, facts, hex, e) : st_fail(e, ST_MEMORY, "manifest: out of memory");
    free(facts);
    json_decref(v);
    return rc;
}

int st_cov_manifest_commit(struct st_cov_manifest *m, const struct st_cov_key *key, const uint8_t digest[32],
                           struct st_err *e)
{
    return commit(m, key, digest, m->commitment, e);
}

int st_cov_manifest_check(const struct st_cov_manifest *m, const struct st_cov_key *key, const uint8_t digest[32],
                          struct st_err *e)
{
    char want[65];
    int rc = commit(m, key, digest, want, e);
    if (!rc && CRYPTO_memcmp(want, m->commitment, 64) != 0)
        rc = st_fail(e, ST_VERIFY, "was not made from this source with this key, or its manifest was changed");
    return rc;
}

/* A string that is one of n names; *out is its number. */
static int read_word(const json_t *v, const char *where, const char *key, const char *const *names, int n, int *out,
                     struct st_err *e)
{
    const char *got = "";
    int rc = st_json_need(v, where, key, e);
    if (!rc)
        rc = st_json_str(v, where, key, &got, e);
    for (*out = 0; !rc && *out < n; ++*out)
        if (strcmp(got, names[*out]) == 0)
            return 0;
    return rc ? rc : st_fail(e, ST_UNSUPPORTED, "%s: %s: '%.40s' is not known here", where, key, got);
}

static int read_words(const json_t *v, const char *where, struct st_cov_opts *o, struct st_err *e)
{
    const char *presets[] = {st_cov_preset_name(ST_COV_PRESET_TIGHT), st_cov_preset_name(ST_COV_PRESET_PAPER)};
    const char *formats[] = {st_cov_format_name(ST_COV_FORMAT_HF), st_cov_format_name(ST_COV_FORMAT_GGUF)};
    const char *stores[ST_COV_STORE_Q8_0 + 1];
    int preset = 0, format = 0, store = 0;
    for (int i = 0; i <= ST_COV_STORE_Q8_0; i++)
        stores[i] = st_cov_store_name((enum st_cov_store)i);
    int rc = read_word(v, where, "preset", presets, 2, &preset, e);
    if (!rc)
        rc = read_word(v, where, "format", formats, 2, &format, e);
    if (!rc)
        rc = read_word(v, where, "dtype", stores, ST_COV_STORE_Q8_0 + 1, &store, e);
    o->preset = (enum st_cov_preset)preset;
    o->format = (enum st_cov_format)format;
    o->dtype = (enum st_cov_store)store;
    return rc;
}

/* Ranges are those of st_cov_opts_check(). */
static int read_parameters(const json_t *v, const char *where, struct st_cov_opts *o, struct st_err *e)
{
    const json_t *p = json_object_get(v, "parameters");
    const struct {
        const char *key;
        double *out;
    } reals[] = {{"lambda", &o->lambda},
                 {"alpha_e", &o->alpha_e},
                 {"alpha_h", &o->alpha_h},
                 {"noise_all", &o->noise_all},
                 {"gamma", &o->gamma}};
    int64_t h = 0, beta = 0, homophones = 0;
    int rc = st_json_need(v, where, "h", e);
    if (!rc)
        rc = st_json_int(v, where, "h", 1, UINT32_MAX, &h, e);
    if (!rc && !json_is_object(p))
        rc = st_fail(e, ST_INPUT, "%s: parameters: want an object", where);
    for (size_t i = 0; !rc && i < sizeof reals / sizeof *reals; i++)
        rc = st_json_real(p, where, reals[i].key, 0, 1e300, reals[i].out, e);
    if (!rc)
        rc = st_json_int(p, where, "beta", 0, UINT32_MAX, &beta, e);
    if (!rc)
        rc = st_json_int(p, where, "homophones", 0, UINT32_MAX, &homophones, e);
    o->expand = (uint32_t)h;
    o->beta = (uint32_t)beta;
    o->homophones = (uint32_t)homophones;
    return rc;
}

static int want_protection(const json_t *v, const char *path, struct st_err *e)
{
    const char *got = "";
    int rc = st_json_need(v, path, "protection", e);
    if (!rc)
        rc = st_json_str(v, path, "protection", &got, e);
    if (!rc && strcmp(got, PROTECTION) != 0)
        rc = st_fail(e, ST_UNSUPPORTED, "%s: protection: want '" PROTECTION "', got '%.40s'", path, got);
    return rc;
}

/* The text, wherever it stands. */
static int read_text(const char *path, char where[ST_PATH_MAX], json_t **v, struct st_err *e)
{
    struct st_gguf_file f;
    struct st_span text;
    int rc;
    if (st_path_is_dir(path)) {
        rc = st_path_join(where, ST_PATH_MAX, path, ST_COV_MANIFEST, e);
        return rc ? rc : st_json_read_file(where, MANIFEST_BYTES_MAX, v, e);
    }
    snprintf(where, ST_PATH_MAX, "%s", path);
    size_t n = strlen(path);
    if (n > 5 && strcmp(path + n - 5, ".json") == 0)
        return st_json_read_file(path, MANIFEST_BYTES_MAX, v, e);
    rc = st_gguf_open(path, &f, e);
    if (rc)
        return rc;
    if (!st_gguf_find_str(&f, ST_COV_MANIFEST_GGUF, &text) || text.len > MANIFEST_BYTES_MAX)
        rc = st_fail(e, ST_INPUT, "%s: its metadata has no string " ST_COV_MANIFEST_GGUF, path);
    if (!rc)
        rc = st_json_parse((const char *)text.p, text.len, where, v, e);
    st_gguf_close(&f);
    return rc;
}

int st_cov_read_manifest(const char *path, struct st_cov_manifest *m, struct st_err *e)
{
    char where[ST_PATH_MAX];
    json_t *v = NULL;
    int64_t version = 0;
    const char *commitment = "", *frequent = "";
    *m = (struct st_cov_manifest){0};
    int rc = read_text(path, where, &v, e);
    if (!rc)
        rc = st_json_need(v, where, "version", e);
    if (!rc)
        rc = st_json_int(v, where, "version", 1, INT32_MAX, &version, e);
    if (!rc && version != MANIFEST_VERSION)
        rc = st_fail(e, ST_UNSUPPORTED, "%s: version: want %d, got %lld", where, MANIFEST_VERSION, (long long)version);
    if (!rc)
        rc = want_protection(v, where, e);
    if (!rc)
        rc = read_words(v, where, &m->made, e);
    if (!rc)
        rc = read_parameters(v, where, &m->made, e);
    if (!rc && (rc = st_cov_opts_check(&m->made, e)))
        st_err_prefix(e, "%s", where);
    if (!rc)
        rc = st_json_need(v, where, "commitment", e);
    if (!rc)
        rc = st_json_str(v, where, "commitment", &commitment, e);
    if (!rc && strlen(commitment) != 64)
        rc = st_fail(e, ST_INPUT, "%s: commitment: want 64 hex digits", where);
    if (!rc)
        rc = st_json_str(v, where, "frequent", &frequent, e);
    if (!rc && (m->made.homophones > 0) != (*frequent != 0))
        rc = st_fail(e, ST_INPUT, "%s: frequent: want it with homophones, and only then", where);
    if (!rc && strlen(frequent) >= sizeof m->frequent)
        rc = st_fail(e, ST_INPUT, "%s: frequent: want at most %d tokens", where, ST_COV_FREQUENT_MAX);
    if (!rc) {
        memcpy(m->commitment, commitment, 65);
        strcpy(m->frequent, frequent);
    }
    json_decref(v);
    return rc;
}
