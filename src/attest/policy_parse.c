#include "attest/policy_priv.h"
#include "crypto/digest.h"
#include "crypto/x509.h"

#include <stdlib.h>
#include <string.h>

#define MAX_ENTRIES 256 /* of one list or object */

static int wrong(const char *where, const char *key, const char *want, struct st_err *e)
{
    return st_fail(e, ST_INPUT, "%s: %s: want %s", where, key, want);
}

static bool is_hex(const char *s, size_t min_bytes, size_t max_bytes)
{
    size_t n = strlen(s);
    return n % 2 == 0 && n / 2 >= min_bytes && n / 2 <= max_bytes && strspn(s, "0123456789abcdefABCDEF") == n;
}

static bool is_comment(const char *key)
{
    return strcmp(key, "comment") == 0;
}

/* ---- what may stand in the lists ---- */

static bool ok_kind(const json_t *v)
{
    const char *s = json_string_value(v);
    return s && st_verifier_find(s);
}
/* "tdx.mrtd": a kind known here, a dot, a name. */
static bool ok_claim_name(const char *s)
{
    char kind[16];
    size_t n = strcspn(s, ".");
    if (n >= sizeof kind || !s[n] || !s[n + 1])
        return false;
    memcpy(kind, s, n);
    kind[n] = 0;
    return st_verifier_find(kind) != NULL;
}
static bool ok_check_name(const json_t *v)
{
    const char *s = json_string_value(v);
    return s && ok_claim_name(s);
}
static bool ok_digest(const json_t *v)
{
    const char *s = json_string_value(v);
    return s && is_hex(s, 32, 32);
}
static bool ok_text(const json_t *v)
{
    return json_is_string(v) && json_string_length(v) > 0;
}
static bool ok_value(const json_t *v)
{
    return ok_text(v) || json_is_boolean(v) || (json_is_integer(v) && json_integer_value(v) >= 0);
}

/* A list of 1..MAX_ENTRIES values, each as `ok` wants; absent is fine. */
static int get_list(const json_t *o, const char *where, const char *key, bool (*ok)(const json_t *), const char *want,
                    const json_t **out, struct st_err *e)
{
    const json_t *list = json_object_get(o, key);
    size_t n = json_array_size(list);
    if (!list)
        return 0;
    if (!json_is_array(list) || n == 0 || n > MAX_ENTRIES)
        return wrong(where, key, want, e);
    for (size_t i = 0; i < n; i++)
        if (!ok(json_array_get(list, i)))
            return wrong(where, key, want, e);
    *out = list;
    return 0;
}

/* An object of 1..MAX_ENTRIES fields besides comments, each as `ok` wants. */
static int get_object(const json_t *o, const char *where, const char *key, bool (*ok)(const char *, const json_t *),
                      const char *want, const json_t **out, struct st_err *e)
{
    json_t *v, *object = json_object_get(o, key);
    const char *name;
    size_t n = 0;
    if (!object)
        return 0;
    if (!json_is_object(object))
        return wrong(where, key, want, e);
    json_object_foreach(object, name, v)
    {
        if (is_comment(name))
            continue;
        if (++n > MAX_ENTRIES || strlen(name) > 60 || !ok(name, v))
            return st_fail(e, ST_INPUT, "%s: %s: %.60s: want %s", where, key, name, want);
    }
    if (n == 0)
        return wrong(where, key, want, e);
    *out = object;
    return 0;
}

static bool all(const json_t *list, bool (*ok)(const json_t *))
{
    size_t n = json_array_size(list);
    for (size_t i = 0; i < n; i++)
        if (!ok(json_array_get(list, i)))
            return false;
    return n > 0 && n <= MAX_ENTRIES;
}
static bool ok_measurement(const char *name, const json_t *v)
{
    return ok_claim_name(name) && all(v, ok_value);
}
static bool ok_tcb(const char *name, const json_t *v)
{
    return st_verifier_find(name) && all(v, ok_text);
}
static bool ok_minimum(const char *name, const json_t *v)
{
    return ok_claim_name(name) && json_is_integer(v) && json_integer_value(v) >= 0;
}
static bool ok_roots(const char *name, const json_t *v)
{
    struct st_certs c = {0};
    struct st_err e;
    bool ok = st_verifier_find(name) && strcmp(name, "sim") != 0 && json_is_string(v) &&
              st_certs_add(&c, json_string_value(v), json_string_length(v), name, &e) == 0;
    st_certs_free(&c);
    return ok;
}
static bool ok_snp(const char *name, const json_t *v)
{
    (void)name;
    return json_is_boolean(v) || (json_is_integer(v) && json_integer_value(v) >= 0);
}

/* ---- fields ---- */

static int check_fields(const json_t *o, const char *where, struct st_err *e)
{
    static const char *const known[] = {
        "version",        "require", "allow",  "measurements", "image",      "tcb",      "minimum",  "debug",
        "snp_policy",     "gpu",     "model",  "max_age_s",    "revocation", "optional", "sim_root", "roots",
        "signature_only", "log",     "logged", "proofs",       "min_nodes",  "engine"};
    const char *key;
    json_t *v;
    int64_t version = 0;
    if (!json_is_object(o))
        return st_fail(e, ST_INPUT, "%s: want a policy: an object with version and require", where);
    json_object_foreach((json_t *)(uintptr_t)o, key, v)
    {
        bool ok = is_comment(key);
        for (size_t i = 0; i < sizeof known / sizeof *known && !ok; i++)
            ok = strcmp(key, known[i]) == 0;
        if (!ok)
            return st_fail(e, ST_INPUT, "%s: unknown field '%.40s'", where, key);
        if (json_is_null(v))
            return st_fail(e, ST_INPUT, "%s: %s: want a value, got null", where, key);
    }
    if (st_json_need(o, where, "version", e) || st_json_int(o, where, "version", 0, INT32_MAX, &version, e))
        return e->code;
    return version == 1 ? 0 : st_fail(e, ST_UNSUPPORTED, "%s: version: want 1, got %d", where, (int)version);
}

static int read_kinds(struct st_policy *p, const char *where, struct st_err *e)
{
    const json_t *require = json_object_get(p->json, "require");
    if (st_json_need(p->json, where, "require", e))
        return e->code;
    if (json_is_string(require)) {
        if (strcmp(json_string_value(require), "any") != 0)
            return wrong(where, "require", "a list of kinds, or \"any\"", e);
        p->require_any = true;
    } else if (get_list(p->json, where, "require", ok_kind, "a list of kinds known here, or \"any\"", &p->require, e))
        return e->code;
    return get_list(p->json, where, "allow", ok_kind, "a list of kinds known here", &p->allow, e);
}

static int read_demands(struct st_policy *p, const char *where, struct st_err *e)
{
    const json_t *o = p->json;
    if (get_object(o, where, "measurements", ok_measurement, "a claim (kind.name) and a list of values",
                   &p->measurements, e) ||
        get_object(o, where, "tcb", ok_tcb, "a kind and a list of words", &p->tcb, e) ||
        get_object(o, where, "minimum", ok_minimum, "a claim (kind.name) and a number", &p->minimum, e) ||
        get_object(o, where, "snp_policy", ok_snp, "true, false or a number", &p->snp_policy, e) ||
        get_object(o, where, "roots", ok_roots, "a kind that hardware signs and certificates (PEM)", &p->roots, e) ||
        get_list(o, where, "model", ok_digest, "a list of SHA-256 digests in hexadecimal", &p->model, e) ||
        get_list(o, where, "engine", ok_digest, "a list of SHA-256 digests in hexadecimal", &p->engine, e) ||
        get_list(o, where, "optional", ok_check_name, "a list of checks (kind.name)", &p->optional, e))
        return e->code;
    p->max_age_s = -1;
    return st_json_bool(o, where, "image", &p->image, e) || st_json_bool(o, where, "debug", &p->debug, e) ||
                   st_json_bool(o, where, "gpu", &p->gpu, e) ||
                   st_json_bool(o, where, "signature_only", &p->signature_only, e) ||
                   st_json_int(o, where, "max_age_s", 0, (int64_t)1 << 40, &p->max_age_s, e)
               ? e->code
               : 0;
}

static int read_rest(struct st_policy *p, const char *where, struct st_err *e)
{
    const char *revocation = "required", *root = NULL;
    if (st_json_str(p->json, where, "revocation", &revocation, e) || st_json_str(p->json, where, "sim_root", &root, e))
        return e->code;
    p->revocation_if_present = strcmp(revocation, "if_present") == 0;
    if (!p->revocation_if_present && strcmp(revocation, "required") != 0)
        return wrong(where, "revocation", "\"required\" or \"if_present\"", e);
    if (root && st_unhex(root, strlen(root), p->sim_root, sizeof p->sim_root, "sim_root", e))
        return st_err_prefix(e, "%s", where);
    p->has_sim_root = root != NULL;
    return 0;
}

/* Measurements that together say which kernel, command line and initial file system run, and with them which root file
 * system (its dm-verity hash stands on the command line). */
static bool pins_image(const json_t *measurements)
{
    static const char *const sets[][3] = {{"snp.measurement"},
                                          {"sgx.mrenclave"},
                                          {"tdx.mrtd", "tdx.rtmr1", "tdx.rtmr2"},
                                          {"tpm.pcr.4", "tpm.pcr.11"},
                                          {"tpm.pcr.4", "tpm.pcr.8", "tpm.pcr.9"}};
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        bool whole = true;
        for (size_t k = 0; k < 3 && sets[i][k]; k++)
            whole = whole && json_object_get(measurements, sets[i][k]);
        if (whole)
            return true;
    }
    return false;
}

/* A policy that judges signatures alone must not look as if it demanded more. */
static int check_whole(const struct st_policy *p, const char *where, struct st_err *e)
{
    static const char *const more[] = {"measurements", "image",  "tcb",       "minimum",    "debug",    "snp_policy",
                                       "gpu",          "model",  "max_age_s", "revocation", "optional", "log",
                                       "logged",       "proofs", "min_nodes", "engine"};
    for (size_t i = 0; p->signature_only && i < sizeof more / sizeof *more; i++)
        if (json_object_get(p->json, more[i]))
            return st_fail(e, ST_INPUT, "%s: %s: goes not with signature_only, which judges nothing else", where,
                           more[i]);
    if (p->image && !pins_image(p->measurements))
        return st_fail(e, ST_INPUT,
                       "%s: image: needs measurements that pin it whole: snp.measurement, sgx.mrenclave, tdx.mrtd with "
                       "tdx.rtmr1 and tdx.rtmr2, or tpm.pcr.4 with tpm.pcr.11 or with tpm.pcr.8 and tpm.pcr.9",
                       where);
    return 0;
}

int st_policy_parse(const void *bytes, size_t len, const char *where, struct st_policy **out, struct st_err *e)
{
    struct st_policy *p = *out = NULL;
    if (len > ST_POLICY_MAX_BYTES)
        return st_fail(e, ST_INPUT, "%s: want at most %zu bytes of policy", where, ST_POLICY_MAX_BYTES);
    p = calloc(1, sizeof *p);
    if (!p)
        return st_fail(e, ST_MEMORY, "%s: out of memory", where);
    if (st_json_parse(bytes, len, where, &p->json, e) || check_fields(p->json, where, e) || read_kinds(p, where, e) ||
        read_demands(p, where, e) || read_rest(p, where, e) || st_policy_read_log(p, where, e) ||
        check_whole(p, where, e)) {
        st_policy_free(p);
        return e->code;
    }
    st_sha256(bytes, len, p->digest);
    *out = p;
    return 0;
}

void st_policy_free(struct st_policy *p)
{
    if (p) {
        json_decref(p->json);
        free(p->statements);
    }
    free(p);
}

bool st_policy_signature_only(const struct st_policy *p)
{
    return p->signature_only;
}

bool st_policy_pins(const struct st_policy *p)
{
    return p->measurements != NULL;
}

bool st_policy_pins_image(const struct st_policy *p)
{
    return pins_image(p->measurements) || json_object_get(p->measurements, "sim.measurement");
}

bool st_policy_pins_engine(const struct st_policy *p)
{
    return p->engine != NULL;
}

int64_t st_policy_max_age(const struct st_policy *p)
{
    return p->max_age_s;
}
