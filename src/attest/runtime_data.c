#include "attest/runtime_data.h"
#include "attest/snp_report.h"
#include "attest/tpm_key.h"
#include "crypto/digest.h"
#include "text/base64.h"
#include "text/json.h"

#include <string.h>

#define HEAD 32
#define DATA_HEAD 20
#define REQUEST_SNP 2
#define HASH_SHA256 1

static uint32_t le32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

bool st_hcl_recognise(const uint8_t *p, size_t len)
{
    return len >= HEAD + ST_SNP_REPORT + DATA_HEAD && memcmp(p, "HCLA", 4) == 0 && le32(p + 12) == REQUEST_SNP;
}

static bool all_zero(const uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (p[i])
            return false;
    return true;
}

int st_hcl_split(const uint8_t *p, size_t len, struct st_span *report, struct st_span *json, struct st_err *e)
{
    if (!st_hcl_recognise(p, len))
        return st_fail(e, ST_INPUT, "hcl: want a file of an SEV-SNP report and runtime data");
    const uint8_t *data = p + HEAD + ST_SNP_REPORT;
    size_t begin = HEAD + ST_SNP_REPORT + DATA_HEAD, n = le32(data + 16);
    if (le32(p + 4) < 1 || le32(p + 4) > 2 || le32(data + 4) != 1)
        return st_fail(e, ST_UNSUPPORTED, "hcl: versions %u and %u, want 1..2 and 1", le32(p + 4), le32(data + 4));
    if (le32(data + 8) != REQUEST_SNP || le32(data + 12) != HASH_SHA256)
        return st_fail(e, ST_UNSUPPORTED, "hcl: want a report of type 2 and SHA-256");
    if (n > len - begin || le32(data) != n + DATA_HEAD || le32(p + 8) != begin + n)
        return st_fail(e, ST_INPUT, "hcl: sizes do not agree with each other or with the file");
    if (le32(p + 16) || !all_zero(p + 20, 12) || !all_zero(p + begin + n, len - begin - n))
        return st_fail(e, ST_INPUT, "hcl: want zeros where nothing stands");
    *report = (struct st_span){p + HEAD, ST_SNP_REPORT};
    *json = (struct st_span){p + begin, n};
    return 0;
}

/* RFC 7515, section 2: the alphabet for URLs, without padding. */
static int get_base64url(const json_t *o, const char *key, struct st_buf *out, struct st_err *e)
{
    char text[1024];
    const char *s = json_string_value(json_object_get(o, key));
    size_t n = s ? strlen(s) : 0;
    if (n == 0 || n > sizeof text - 4)
        return st_fail(e, ST_INPUT, "runtime data: HCLAkPub: %s: want base64url", key);
    for (size_t i = 0; i < n; i++)
        text[i] = s[i] == '-' ? '+' : s[i] == '_' ? '/' : s[i] == '+' || s[i] == '/' ? '!' : s[i];
    while (n % 4)
        text[n++] = '=';
    if (!st_base64_decode(text, n, out))
        return st_fail(e, ST_INPUT, "runtime data: HCLAkPub: %s: want base64url", key);
    return out->failed ? st_fail(e, ST_MEMORY, "runtime data: out of memory") : 0;
}

/* RFC 7518, section 6.3.1 */
static int read_jwk(const json_t *o, EVP_PKEY **out, struct st_err *e)
{
    struct st_buf n = {0}, exponent = {0};
    const char *kty = json_string_value(json_object_get(o, "kty"));
    int rc = kty && strcmp(kty, "RSA") == 0 ? 0 : st_fail(e, ST_INPUT, "runtime data: HCLAkPub: want kty RSA");
    if (!rc)
        rc = get_base64url(o, "n", &n, e);
    if (!rc)
        rc = get_base64url(o, "e", &exponent, e);
    if (!rc)
        rc = st_rsa_key((struct st_span){(uint8_t *)n.p, n.len}, (struct st_span){(uint8_t *)exponent.p, exponent.len},
                        out, e);
    st_buf_free(&n);
    st_buf_free(&exponent);
    return rc;
}

static int read_ak(const json_t *o, EVP_PKEY **out, struct st_err *e)
{
    const json_t *keys = json_object_get(o, "keys"), *found = NULL;
    for (size_t i = 0; i < json_array_size(keys); i++) {
        const json_t *k = json_array_get(keys, i);
        const char *kid = json_string_value(json_object_get(k, "kid"));
        if (!kid || strcmp(kid, "HCLAkPub") != 0)
            continue;
        if (found)
            return st_fail(e, ST_INPUT, "runtime data: keys: HCLAkPub comes twice");
        found = k;
    }
    return found ? read_jwk(found, out, e) : st_fail(e, ST_INPUT, "runtime data: keys: want one with kid HCLAkPub");
}

int st_runtime_data_parse(const uint8_t *p, size_t len, struct st_runtime_data *out, struct st_err *e)
{
    json_t *o;
    *out = (struct st_runtime_data){0};
    if (st_json_parse(p, len, "runtime data", &o, e))
        return e->code;
    int rc = read_ak(o, &out->ak, e);
    const json_t *vm = json_object_get(o, "vm-configuration");
    const char *user = json_string_value(json_object_get(o, "user-data"));
    if (!rc && json_is_boolean(json_object_get(vm, "secure-boot"))) {
        out->has_secure_boot = true;
        out->secure_boot = json_is_true(json_object_get(vm, "secure-boot"));
    }
    size_t n = user ? strlen(user) : 0;
    if (!rc && n && n % 2 == 0 && n <= 2 * sizeof out->user_data) {
        rc = st_unhex(user, n, out->user_data, n / 2, "runtime data: user-data", e);
        out->user_data_len = n / 2;
    } else if (!rc && n)
        rc = st_fail(e, ST_INPUT, "runtime data: user-data: want at most 64 bytes in hexadecimal");
    json_decref(o);
    if (rc)
        st_runtime_data_free(out);
    return rc;
}

void st_runtime_data_free(struct st_runtime_data *r)
{
    EVP_PKEY_free(r->ak);
    *r = (struct st_runtime_data){0};
}
