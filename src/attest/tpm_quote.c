#include "attest/tpm_quote.h"
#include "crypto/digest.h"
#include "crypto/x509.h"
#include "text/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC 0xff544347
#define TYPE_QUOTE 0x8018
#define MAX_BANKS 16

static const struct {
    unsigned alg;
    const char *name;
} banks[] = {{ST_TPM_SHA256, "sha256"}, {ST_TPM_SHA384, "sha384"}, {ST_TPM_SHA512, "sha512"}};

unsigned st_pcr_bank(const char *name)
{
    for (size_t i = 0; i < sizeof banks / sizeof *banks; i++)
        if (strcmp(banks[i].name, name) == 0)
            return banks[i].alg;
    return 0;
}

const char *st_pcr_bank_name(unsigned alg)
{
    for (size_t i = 0; i < sizeof banks / sizeof *banks; i++)
        if (banks[i].alg == alg)
            return banks[i].name;
    return alg == ST_TPM_SHA1 ? "sha1" : "unknown";
}

/* ---- values ---- */

static int read_value(const char *key, const json_t *v, struct st_pcrs *p, struct st_err *e)
{
    char *end, what[32];
    unsigned long n = strtoul(key, &end, 10);
    const char *hex = json_string_value(v);
    if (*key < '0' || *key > '9' || *end || n >= ST_PCR_COUNT || (*key == '0' && key[1]))
        return st_fail(e, ST_INPUT, "pcrs: '%.8s': want a number of 0..%d", key, ST_PCR_COUNT - 1);
    snprintf(what, sizeof what, "pcrs: %lu", n);
    if (!hex)
        return st_fail(e, ST_INPUT, "%s: want a text", what);
    if (st_unhex(hex, strlen(hex), p->value[n], st_tpm_hash_len(p->alg), what, e))
        return e->code;
    p->has |= 1u << n;
    return 0;
}

int st_pcrs_parse(const uint8_t *json, size_t len, struct st_pcrs *p, struct st_err *e)
{
    json_t *o, *v;
    const char *key;
    if (st_json_parse(json, len, "pcrs", &o, e))
        return e->code;
    int rc = 0;
    json_t *bank = json_object_get(json_object_get(o, "pcrs"), st_pcr_bank_name(p->alg));
    if (!json_is_object(bank) || json_object_size(o) != 1)
        rc = st_fail(e, ST_INPUT, "pcrs: want {\"pcrs\": {\"%s\": {\"0\": HEX, ...}}}", st_pcr_bank_name(p->alg));
    else
        json_object_foreach(bank, key, v) if ((rc = read_value(key, v, p, e))) break;
    json_decref(o);
    return rc;
}

/* ---- the quote ---- */

/* TPML_PCR_SELECTION */
static int read_selection(struct st_tpm_reader *r, struct st_tpm_quote *out, struct st_err *e)
{
    uint64_t n = st_tpm_number(r, 4);
    if (r->failed || n > MAX_BANKS)
        return st_fail(e, ST_INPUT, "tpm: PCR selection: want at most %d banks", MAX_BANKS);
    for (uint64_t i = 0; i < n; i++) {
        unsigned bank = (unsigned)st_tpm_number(r, 2);
        size_t size = (size_t)st_tpm_number(r, 1);
        struct st_span bits = st_tpm_bytes(r, size);
        uint32_t selected = 0;
        for (size_t k = 0; k < bits.len && k < 3; k++)
            selected |= (uint32_t)bits.p[k] << 8 * k;
        if (r->failed || (size > 3 && (size > 4 || bits.p[3])))
            return st_fail(e, ST_INPUT, "tpm: PCR selection: want PCRs of 0..%d", ST_PCR_COUNT - 1);
        if (!selected)
            continue;
        if (out->n_bank++ == 0) {
            out->bank = bank;
            out->selected = selected;
        }
    }
    return 0;
}

int st_tpm_quote_parse(const uint8_t *p, size_t len, struct st_tpm_quote *out, struct st_err *e)
{
    struct st_tpm_reader r = {p, p + len, false};
    *out = (struct st_tpm_quote){0};
    if (st_tpm_number(&r, 4) != MAGIC || r.failed)
        return st_fail(e, ST_INPUT, "tpm: magic: want ff544347: what a TPM says of itself");
    if (st_tpm_number(&r, 2) != TYPE_QUOTE || r.failed)
        return st_fail(e, ST_INPUT, "tpm: type: want 8018, a quote");
    out->qualified_signer = st_tpm_sized(&r);
    out->extra_data = st_tpm_sized(&r);
    out->clock = st_tpm_number(&r, 8);
    out->reset_count = (uint32_t)st_tpm_number(&r, 4);
    out->restart_count = (uint32_t)st_tpm_number(&r, 4);
    uint64_t safe = st_tpm_number(&r, 1);
    out->safe = safe == 1;
    out->firmware = st_tpm_number(&r, 8);
    if (r.failed)
        return st_fail(e, ST_INPUT, "tpm: cut off before the PCR selection");
    if (safe > 1 || out->qualified_signer.len > 66 || out->extra_data.len > 66)
        return st_fail(e, ST_INPUT, "tpm: clock info, qualified signer or qualifying data: out of range");
    if (read_selection(&r, out, e))
        return e->code;
    out->pcr_digest = st_tpm_sized(&r);
    if (r.failed || r.p != r.end)
        return st_fail(e, ST_INPUT, "tpm: PCR digest: cut off, or bytes behind it");
    return 0;
}

int st_tpm_quote_match(const struct st_tpm_quote *q, unsigned hash, const struct st_pcrs *pcrs, struct st_err *e)
{
    uint8_t all[ST_PCR_COUNT * 64], digest[64];
    size_t n = 0, len = st_tpm_hash_len(pcrs->alg);
    unsigned digest_len = 0;
    const char *name = st_tpm_hash_name(hash);
    for (unsigned i = 0; i < ST_PCR_COUNT; i++) {
        if (!(q->selected >> i & 1))
            continue;
        if (!(pcrs->has >> i & 1))
            return st_fail(e, ST_VERIFY, "PCR %u is quoted, but its value was not given", i);
        memcpy(all + n, pcrs->value[i], len);
        n += len;
    }
    if (!name || EVP_Digest(all, n, digest, &digest_len, EVP_get_digestbyname(name), NULL) != 1)
        return st_fail(e, ST_VERIFY, "hash %04x of the signature is not known", hash);
    if (q->pcr_digest.len != digest_len || memcmp(q->pcr_digest.p, digest, digest_len) != 0)
        return st_fail(e, ST_VERIFY, "the values are not those that the TPM quoted");
    return 0;
}

/* ---- the signature ---- */

int st_tpm_signature_parse(const uint8_t *p, size_t len, struct st_tpm_signature *out, struct st_err *e)
{
    struct st_tpm_reader r = {p, p + len, false};
    *out = (struct st_tpm_signature){0};
    if (len == 256 || len == 384 || len == 512) {
        out->hash = ST_TPM_SHA256;
        out->rsa = (struct st_span){p, len};
        return 0;
    }
    out->scheme = (unsigned)st_tpm_number(&r, 2);
    out->hash = (unsigned)st_tpm_number(&r, 2);
    if (out->scheme != ST_TPM_RSASSA && out->scheme != ST_TPM_RSAPSS && out->scheme != ST_TPM_ECDSA)
        return st_fail(e, ST_UNSUPPORTED, "signature: scheme %04x, want RSASSA, RSAPSS or ECDSA", out->scheme);
    if (out->hash < ST_TPM_SHA256 || out->hash > ST_TPM_SHA512)
        return st_fail(e, ST_UNSUPPORTED, "signature: hash %04x, want SHA-256, SHA-384 or SHA-512", out->hash);
    if (out->scheme == ST_TPM_ECDSA) {
        out->r = st_tpm_sized(&r);
        out->s = st_tpm_sized(&r);
    } else
        out->rsa = st_tpm_sized(&r);
    if (r.failed || r.p != r.end)
        return st_fail(e, ST_INPUT, "signature: cut off, or bytes behind it");
    return 0;
}

static int verify_ecdsa(const struct st_tpm_signature *s, EVP_PKEY *key, const uint8_t *p, size_t len, struct st_err *e)
{
    uint8_t r48[48] = {0}, s48[48] = {0};
    size_t half = s->hash == ST_TPM_SHA384 ? 48 : 32;
    if (s->hash == ST_TPM_SHA512 || s->r.len > half || s->s.len > half)
        return st_fail(e, ST_VERIFY, "signature: want P-256 with SHA-256 or P-384 with SHA-384");
    memcpy(r48 + half - s->r.len, s->r.p, s->r.len);
    memcpy(s48 + half - s->s.len, s->s.p, s->s.len);
    return st_ecdsa_verify(key, p, len, r48, s48, half, e);
}

int st_tpm_signature_verify(const struct st_tpm_signature *s, EVP_PKEY *key, const uint8_t *p, size_t len,
                            struct st_err *e)
{
    if (s->scheme == ST_TPM_ECDSA)
        return verify_ecdsa(s, key, p, len, e);
    if (EVP_PKEY_get_base_id(key) != EVP_PKEY_RSA)
        return st_fail(e, ST_VERIFY, "signature: of an RSA key, but the attestation key is none");
    return st_signature_verify(key, st_tpm_hash_name(s->hash), s->scheme == ST_TPM_RSAPSS, p, len, s->rsa, e);
}
