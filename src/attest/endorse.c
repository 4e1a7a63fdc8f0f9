/* Endorsements that come as files of their own: what they are is read from their content. Knows no verifier: a node
 * that collects evidence links this file too. */
#include "attest/bundle.h"
#include "text/json.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <string.h>

#define BIT(t) (1u << ST_ENDORSEMENT_##t)

static bool holds(const uint8_t *p, size_t len, const char *text)
{
    return memmem(p, len, text, strlen(text)) != NULL;
}

static unsigned recognise_pem(const uint8_t *p, size_t len)
{
    unsigned t = 0;
    if (holds(p, len, "-----BEGIN CERTIFICATE-----"))
        t |= BIT(CERTS);
    if (holds(p, len, "-----BEGIN X509 CRL-----"))
        t |= BIT(CRL);
    if (holds(p, len, "-----BEGIN PUBLIC KEY-----"))
        t |= BIT(AK_PUBLIC);
    return t;
}

/* One DER value; what follows is the reader's business. */
static unsigned recognise_der(const uint8_t *p, size_t len)
{
    const uint8_t *at = p;
    unsigned t = 0;
    X509 *cert = d2i_X509(NULL, &at, (long)len);
    at = p;
    X509_CRL *crl = cert ? NULL : d2i_X509_CRL(NULL, &at, (long)len);
    at = p;
    EVP_PKEY *key = cert || crl ? NULL : d2i_PUBKEY(NULL, &at, (long)len);
    t = cert ? BIT(CERTS) : crl ? BIT(CRL) : key ? BIT(AK_PUBLIC) : 0;
    X509_free(cert);
    X509_CRL_free(crl);
    EVP_PKEY_free(key);
    ERR_clear_error();
    return t;
}

static unsigned recognise_json(const uint8_t *p, size_t len)
{
    static const struct {
        const char *field;
        unsigned type;
    } fields[] = {{"tcb_info", BIT(COLLATERAL)},
                  {"tcbInfo", BIT(TCB_INFO)},
                  {"enclaveIdentity", BIT(QE_IDENTITY)},
                  {"vm-configuration", BIT(RUNTIME_DATA)},
                  {"pcrs", BIT(PCRS)}};
    json_t *o;
    struct st_err e;
    unsigned t = 0;
    if (st_json_parse(p, len, "", &o, &e))
        return 0;
    for (size_t i = 0; i < sizeof fields / sizeof *fields && !t; i++)
        if (json_object_get(o, fields[i].field))
            t = fields[i].type;
    json_decref(o);
    return t;
}

static unsigned be16(const uint8_t *p)
{
    return (unsigned)p[0] << 8 | p[1];
}

/* TPMT_PUBLIC: type RSA or ECC, name algorithm SHA-256, SHA-384 or SHA-512 (TPM 2.0 Part 2, 12.2.4). */
static bool is_tpmt_public(const uint8_t *p, size_t len)
{
    return len >= 10 && (be16(p) == 0x0001 || be16(p) == 0x0023) && be16(p + 2) >= 0x000b && be16(p + 2) <= 0x000d;
}

/* TPMT_SIGNATURE: RSASSA, RSAPSS or ECDSA, then the hash algorithm (11.3.4); or an RSA signature as it is. */
static bool is_tpm_signature(const uint8_t *p, size_t len)
{
    if (len == 256 || len == 384 || len == 512)
        return true;
    unsigned scheme = len >= 8 ? be16(p) : 0;
    return (scheme == 0x0014 || scheme == 0x0016 || scheme == 0x0018) && be16(p + 2) >= 0x000b && be16(p + 2) <= 0x000d;
}

/* The first event of a TCG2 log: PCR 0, EV_NO_ACTION, a SHA-1 digest of zeros, a size, then its own name. */
static bool is_event_log(const uint8_t *p, size_t len)
{
    static const uint8_t head[28] = {0, 0, 0, 0, 3};
    return len >= 48 && memcmp(p, head, sizeof head) == 0 && memcmp(p + 32, "Spec ID Event03", 16) == 0;
}

unsigned st_endorsement_recognise(const uint8_t *p, size_t len)
{
    size_t i = 0;
    if (len == 0)
        return 0;
    while (i < len && (p[i] == ' ' || p[i] == '\n' || p[i] == '\r' || p[i] == '\t'))
        i++;
    if (i < len && p[i] == '{') /* first: collateral has certificates as PEM in its strings */
        return recognise_json(p, len);
    if (holds(p, len, "-----BEGIN "))
        return recognise_pem(p, len);
    if (is_event_log(p, len))
        return BIT(EVENT_LOG);
    if (holds(p, len < 4096 ? len : 4096, "<SoftwareIdentity") ||
        holds(p, len < 4096 ? len : 4096, ":SoftwareIdentity"))
        return BIT(RIM);
    if (p[0] == 0x30 && recognise_der(p, len))
        return recognise_der(p, len);
    if (is_tpmt_public(p, len) || (len > 2 && be16(p) == len - 2 && is_tpmt_public(p + 2, len - 2)))
        return BIT(AK_PUBLIC);
    return is_tpm_signature(p, len) ? BIT(SIGNATURE) : 0;
}
