#include "protect/sealed/device.h"
#include "attest/tpm_device.h"
#include "attest/tpm_duplicate.h"
#include "crypto/digest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- fields that devices and recipients have in common ---- */

int st_sealed_values_parse(const json_t *o, const char *where, struct st_tpm_values *out, struct st_err *e)
{
    const char *bank = NULL, *hex = NULL, *name;
    const json_t *pcrs = json_object_get(o, "pcrs");
    json_t *v;
    *out = (struct st_tpm_values){0};
    if (st_json_need(o, where, "bank", e) || st_json_str(o, where, "bank", &bank, e) ||
        st_json_need(o, where, "pcrs", e))
        return e->code;
    out->pcrs.bank = st_tpm_bank(bank);
    if (!out->pcrs.bank)
        return st_fail(e, ST_INPUT, "%s: bank: want sha1, sha256 or sha384", where);
    const size_t len = st_tpm_hash_len(out->pcrs.bank);
    if (!json_is_object(pcrs) || json_object_size(pcrs) == 0)
        return st_fail(e, ST_INPUT, "%s: pcrs: want an object with at least one PCR", where);
    json_object_foreach((json_t *)(uintptr_t)pcrs, name, v)
    {
        char again[4];
        unsigned i = 0;
        for (const char *p = name; *p >= '0' && *p <= '9' && p < name + 2; p++)
            i = 10 * i + (unsigned)(*p - '0');
        snprintf(again, sizeof again, "%u", i);
        if (strcmp(again, name) != 0 || i >= ST_TPM_N_PCR)
            return st_fail(e, ST_INPUT, "%s: pcrs: want names \"0\"..\"23\", got '%.20s'", where, name);
        hex = json_string_value(v);
        if (!hex || st_unhex(hex, strlen(hex), out->of[i], len, "pcrs", e))
            return st_fail(e, ST_INPUT, "%s: pcrs: %u: want %zu hexadecimal digits", where, i, 2 * len);
        out->pcrs.mask |= 1u << i;
    }
    return 0;
}

int st_sealed_values_add(const struct st_tpm_values *v, json_t *o, struct st_err *e)
{
    json_t *pcrs = json_object();
    char hex[2 * sizeof v->of[0] + 1], name[4];
    bool ok = pcrs != NULL;
    for (unsigned i = 0; ok && i < ST_TPM_N_PCR; i++)
        if (v->pcrs.mask >> i & 1) {
            st_hex(v->of[i], st_tpm_hash_len(v->pcrs.bank), hex);
            snprintf(name, sizeof name, "%u", i);
            ok = json_object_set_new(pcrs, name, json_string(hex)) == 0;
        }
    ok = ok && json_object_set_new(o, "bank", json_string(st_tpm_bank_name(v->pcrs.bank))) == 0 &&
         json_object_set(o, "pcrs", pcrs) == 0;
    json_decref(pcrs);
    return ok ? 0 : st_fail(e, ST_MEMORY, "PCRs: out of memory");
}

int st_sealed_index_parse(const json_t *o, const char *where, uint32_t *out, struct st_err *e)
{
    const char *text = NULL;
    uint8_t b[4];
    if (st_json_need(o, where, "index", e) || st_json_str(o, where, "index", &text, e))
        return e->code;
    if (strncmp(text, "0x", 2) == 0 && !st_unhex(text + 2, strlen(text + 2), b, sizeof b, "index", e)) {
        *out = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
        if (*out >= ST_TPM_COUNTER_FIRST && *out <= ST_TPM_COUNTER_LAST)
            return 0;
    }
    return st_fail(e, ST_INPUT, "%s: counter: index: want \"0x%08x\"..\"0x%08x\"", where, ST_TPM_COUNTER_FIRST,
                   ST_TPM_COUNTER_LAST);
}

/* ---- a device ---- */

static int parse_counter(const json_t *o, const char *where, struct st_sealed_device *out, struct st_err *e)
{
    static const char *const names[] = {"index", "value", "version", "comment", NULL};
    int64_t value = 0, version = 0;
    if (!o)
        return 0;
    if (st_json_only(o, where, names, e) || st_sealed_index_parse(o, where, &out->counter, e) ||
        st_json_need(o, where, "value", e) || st_json_int(o, where, "value", 1, INT64_MAX / 2, &value, e) ||
        st_json_int(o, where, "version", 0, INT64_MAX / 2, &version, e))
        return e->code;
    out->value = (uint64_t)value;
    out->from_version = (uint64_t)version;
    return 0;
}

static int parse_certified(const json_t *o, const char *where, struct st_sealed_device *out, struct st_err *e)
{
    static const char *const names[] = {"statement", "signature", "certificates", "comment", NULL};
    const char *pem = NULL;
    if (!o)
        return 0;
    if (st_json_only(o, where, names, e) || st_json_base64(o, where, "statement", &out->statement, e) ||
        st_json_base64(o, where, "signature", &out->signature, e) || st_json_need(o, where, "certificates", e) ||
        st_json_str(o, where, "certificates", &pem, e))
        return e->code;
    st_buf_add_str(&out->certificates, pem);
    return out->certificates.failed ? st_fail(e, ST_MEMORY, "%s: out of memory", where) : 0;
}

static struct st_span span(const struct st_buf *b)
{
    return (struct st_span){(const uint8_t *)b->p, b->len};
}

int st_sealed_device_check(const struct st_sealed_device *d, struct st_span roots, int64_t now, struct st_err *e)
{
    const struct st_tpm_certified c = {
        .statement = span(&d->statement), .signature = span(&d->signature), .certificates = span(&d->certificates)};
    if (!d->statement.len)
        return st_fail(e, ST_VERIFY, "storage_key: not certified (`sotto seal device --certify`)");
    return st_tpm_certified_check(&c, &d->storage, roots, now, e) ? st_err_prefix(e, "storage_key: certified") : 0;
}

static int parse_key(const json_t *o, const char *where, struct st_sealed_device *out, struct st_err *e)
{
    struct st_buf area = {0};
    int rc = st_json_base64(o, where, "storage_key", &area, e);
    if (!rc && st_tpm_key_parse((const uint8_t *)area.p, area.len, &out->storage, e))
        rc = st_err_prefix(e, "%s: storage_key", where);
    if (!rc && st_tpm_key_check_storage(&out->storage, e))
        rc = st_err_prefix(e, "%s: storage_key", where);
    if (!rc)
        out->kind = EVP_PKEY_get_base_id(out->storage.key) == EVP_PKEY_RSA ? ST_TPM_STORAGE_RSA : ST_TPM_STORAGE_ECC;
    st_buf_free(&area);
    return rc;
}

int st_sealed_device_parse(struct st_span text, const char *where, struct st_sealed_device *out, struct st_err *e)
{
    static const char *const names[] = {"version", "storage_key", "bank",    "pcrs",
                                        "counter", "certified",   "comment", NULL};
    json_t *o = NULL;
    int64_t version = 0;
    *out = (struct st_sealed_device){0};
    if (text.len > ST_SEALED_DEVICE_MAX)
        return st_fail(e, ST_INPUT, "%s: want at most %zu bytes", where, ST_SEALED_DEVICE_MAX);
    int rc = st_json_parse(text.p, text.len, where, &o, e);
    if (!rc)
        rc = st_json_only(o, where, names, e);
    if (!rc)
        rc = st_json_need(o, where, "version", e);
    if (!rc)
        rc = st_json_int(o, where, "version", 1, 1, &version, e);
    if (!rc)
        rc = parse_key(o, where, out, e);
    if (!rc)
        rc = st_sealed_values_parse(o, where, &out->values, e);
    if (!rc)
        rc = parse_counter(json_object_get(o, "counter"), where, out, e);
    if (!rc)
        rc = parse_certified(json_object_get(o, "certified"), where, out, e);
    json_decref(o);
    if (rc)
        st_sealed_device_free(out);
    return rc;
}

void st_sealed_device_free(struct st_sealed_device *d)
{
    st_tpm_key_free(&d->storage);
    st_buf_free(&d->statement);
    st_buf_free(&d->signature);
    st_buf_free(&d->certificates);
    *d = (struct st_sealed_device){0};
}

static int add_bytes(json_t *o, const char *name, struct st_span bytes, struct st_err *e)
{
    bool ok = json_object_set_new(o, name, st_json_bytes(bytes.p, bytes.len)) == 0;
    return ok ? 0 : st_fail(e, ST_MEMORY, "device: out of memory");
}

/* What the TPM's storage says: key, PCRs, counter. */
static int add_storage(const struct st_sealed_device_opts *o, json_t *out, struct st_err *e)
{
    struct st_tpm_storage *s;
    struct st_tpm_values now;
    uint32_t counter = 0;
    uint64_t value = 0;
    char index[11];
    int rc = st_tpm_storage_open(o->tcti, o->kind, &s, e);
    if (!rc)
        rc = st_tpm_storage_pcrs(s, &o->pcrs, &now, e);
    if (!rc && o->counter)
        rc = st_tpm_counter_make(s, o->index, &counter, e);
    if (!rc && o->counter)
        rc = st_tpm_counter_read(s, counter, &value, e);
    if (!rc)
        rc = add_bytes(out, "storage_key", st_tpm_storage_area(s), e);
    if (!rc)
        rc = st_sealed_values_add(&now, out, e);
    st_tpm_storage_close(s);
    snprintf(index, sizeof index, "0x%08x", counter);
    if (!rc && counter &&
        json_object_set_new(out, "counter",
                            json_pack("{s:s,s:I,s:i}", "index", index, "value", (json_int_t)value, "version", 0)) != 0)
        rc = st_fail(e, ST_MEMORY, "device: out of memory");
    return rc;
}

static int add_certified(const struct st_sealed_device_opts *o, json_t *out, struct st_err *e)
{
    struct st_tpm_device *d = NULL;
    struct st_buf statement = {0}, signature = {0};
    json_t *c = json_object();
    int rc = st_tpm_device_open(o->tcti, o->ak, &d, e);
    if (!rc)
        rc = st_tpm_device_certify(d, o->kind, &statement, &signature, e);
    if (!rc)
        rc = add_bytes(c, "statement", span(&statement), e);
    if (!rc)
        rc = add_bytes(c, "signature", span(&signature), e);
    if (!rc && (json_object_set_new(c, "certificates",
                                    json_stringn((const char *)o->certificates.p, o->certificates.len)) != 0 ||
                json_object_set(out, "certified", c) != 0))
        rc = st_fail(e, ST_INPUT, "certificates: want PEM");
    json_decref(c);
    st_tpm_device_close(d);
    st_buf_free(&statement);
    st_buf_free(&signature);
    return rc;
}

int st_sealed_device_read(const struct st_sealed_device_opts *o, struct st_buf *out, struct st_err *e)
{
    json_t *device = json_pack("{s:i}", "version", 1);
    int rc = device ? add_storage(o, device, e) : st_fail(e, ST_MEMORY, "device: out of memory");
    if (!rc && o->certificates.len)
        rc = add_certified(o, device, e);
    char *text = rc ? NULL : json_dumps(device, JSON_INDENT(2));
    json_decref(device);
    if (rc)
        return rc;
    if (text) {
        st_buf_add_str(out, text);
        st_buf_add_str(out, "\n");
    }
    free(text);
    return text && !out->failed ? 0 : st_fail(e, ST_MEMORY, "device: out of memory");
}
