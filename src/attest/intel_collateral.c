#include "attest/intel_collateral.h"
#include "crypto/digest.h"
#include "text/json.h"

#include <stdlib.h>
#include <string.h>

#define MAX_CRL ((size_t)1 << 20)

/* Exact bytes.
 * ------------------------------------------------------------------------------------------------------------ */

/* The end of the JSON value at p: behind its last bracket or quote. The text is known to be valid JSON, so that only
 * strings and nesting must be told apart; NULL when it ends early all the same. */
static const char *value_end(const char *p, const char *end)
{
    size_t depth = 0;
    bool in_string = false;
    for (; p < end; p++) {
        if (in_string) {
            if (*p == '\\')
                p++;
            else if (*p == '"')
                in_string = false;
        } else if (*p == '"')
            in_string = true;
        else if (*p == '{' || *p == '[')
            depth++;
        else if (*p == '}' || *p == ']')
            depth--;
        else
            continue;
        if (depth == 0 && !in_string)
            return p < end ? p + 1 : NULL;
    }
    return NULL;
}

static const char *skip(const char *p, const char *end, const char *these)
{
    while (p < end && strchr(these, *p) && *p)
        p++;
    return p;
}

/* The bytes of the object that stands under `key` in a valid JSON object whose values are strings and objects; the key
 * must be written without escapes. len 0 when there is none. */
static struct st_span member_bytes(struct st_span text, const char *key)
{
    const char *p = (const char *)text.p, *end = p + text.len;
    size_t key_len = strlen(key);
    p = skip(p, end, " \t\r\n{");
    while (p < end && *p == '"') {
        const char *name = p + 1, *name_end = value_end(p, end);
        if (!name_end)
            break;
        p = skip(name_end, end, " \t\r\n:");
        const char *value = p;
        p = value_end(p, end);
        if (!p)
            break;
        if ((size_t)(name_end - 1 - name) == key_len && memcmp(name, key, key_len) == 0 && *value == '{')
            return (struct st_span){(const uint8_t *)value, (size_t)(p - value)};
        p = skip(p, end, " \t\r\n,");
    }
    return (struct st_span){0};
}

/* Reading.
 * ------------------------------------------------------------------------------------------------------------ */

static int add_statement(struct st_intel_statements *to, struct st_span json, const char *signature, const char *where,
                         struct st_err *e)
{
    if (to->n == ST_INTEL_MAX_STATEMENTS)
        return st_fail(e, ST_INPUT, "%s: want at most %d", where, ST_INTEL_MAX_STATEMENTS);
    struct st_intel_statement *s = &to->list[to->n];
    s->json = json;
    int rc = st_unhex(signature, strlen(signature), s->signature, sizeof s->signature, "signature", e);
    if (rc)
        return st_err_prefix(e, "%s", where);
    to->n++;
    return 0;
}

/* A reply of Intel's service: {KEY: {...}, "signature": HEX} and nothing else. */
static int read_reply(struct st_span text, const char *key, struct st_intel_statements *to, struct st_err *e)
{
    json_t *o = NULL;
    const char *signature = "";
    int rc = st_json_parse(text.p, text.len, key, &o, e);
    if (rc)
        return rc;
    if (!json_is_object(json_object_get(o, key)) || json_object_size(o) != 2)
        rc = st_fail(e, ST_INPUT, "%s: want an object of this name and its signature, nothing else", key);
    if (rc == 0)
        rc = st_json_need(o, key, "signature", e);
    if (rc == 0)
        rc = st_json_str(o, key, "signature", &signature, e);
    if (rc == 0) {
        struct st_span json = member_bytes(text, key);
        rc = json.len ? add_statement(to, json, signature, key, e)
                      : st_fail(e, ST_INPUT, "%s: its name is written with escapes", key);
    }
    json_decref(o);
    return rc;
}

static int add_hex_crl(struct st_crls *to, const char *hex, const char *where, struct st_err *e)
{
    size_t len = strlen(hex) / 2;
    if (len == 0 || len > MAX_CRL)
        return st_fail(e, ST_INPUT, "%s: want 2 to %zu hexadecimal digits", where, 2 * MAX_CRL);
    uint8_t *der = malloc(len);
    if (!der)
        return st_fail(e, ST_MEMORY, "%s: no memory for %zu bytes", where, len);
    int rc = st_unhex(hex, strlen(hex), der, len, where, e);
    if (rc == 0)
        rc = st_crls_add(to, der, len, where, e);
    free(der);
    return rc;
}

enum collateral_field {
    PCK_CRL_ISSUERS,
    ROOT_CRL,
    PCK_CRL,
    TCB_INFO_ISSUERS,
    TCB_INFO,
    TCB_INFO_SIGNATURE,
    QE_IDENTITY_ISSUERS,
    QE_IDENTITY,
    QE_IDENTITY_SIGNATURE,
    PCK_CHAIN, /* newer files have it; the quote's own chain is used */
    N_COLLATERAL
};
static const char *const collateral_names[N_COLLATERAL] = {
    "pck_crl_issuer_chain",     "root_ca_crl", "pck_crl",
    "tcb_info_issuer_chain",    "tcb_info",    "tcb_info_signature",
    "qe_identity_issuer_chain", "qe_identity", "qe_identity_signature",
    "pck_certificate_chain"};

/* The strings of a collateral file; no field else may be there, all but the last must. */
static int read_strings(const json_t *o, const char *text[N_COLLATERAL], struct st_err *e)
{
    static const char where[] = "collateral";
    size_t known = 0;
    for (size_t i = 0; i < N_COLLATERAL; i++) {
        text[i] = "";
        int rc = i == PCK_CHAIN ? 0 : st_json_need(o, where, collateral_names[i], e);
        if (rc == 0)
            rc = st_json_str(o, where, collateral_names[i], &text[i], e);
        if (rc)
            return rc;
        known += json_object_get(o, collateral_names[i]) != NULL;
    }
    if (json_object_size(o) != known)
        return st_fail(e, ST_INPUT, "%s: there is an unknown field", where);
    return 0;
}

/* A dcap-qvl file. */
static int read_collateral(struct st_span file, struct st_intel_collateral *c, struct st_err *e)
{
    json_t *o = NULL;
    const char *text[N_COLLATERAL];
    int rc = st_json_parse(file.p, file.len, "collateral", &o, e);
    if (rc)
        return rc;
    c->files[c->n_file++] = o;
    rc = read_strings(o, text, e);
    static const enum collateral_field chains[] = {PCK_CRL_ISSUERS, TCB_INFO_ISSUERS, QE_IDENTITY_ISSUERS};
    for (size_t i = 0; rc == 0 && i < sizeof chains / sizeof *chains; i++)
        rc = st_certs_add(&c->certs, text[chains[i]], strlen(text[chains[i]]), collateral_names[chains[i]], e);
    static const enum collateral_field lists[] = {ROOT_CRL, PCK_CRL};
    for (size_t i = 0; rc == 0 && i < sizeof lists / sizeof *lists; i++)
        rc = add_hex_crl(&c->crls, text[lists[i]], collateral_names[lists[i]], e);
    if (rc == 0)
        rc = add_statement(&c->tcb_info, (struct st_span){(const uint8_t *)text[TCB_INFO], strlen(text[TCB_INFO])},
                           text[TCB_INFO_SIGNATURE], "tcb_info", e);
    if (rc == 0)
        rc = add_statement(&c->qe_identity,
                           (struct st_span){(const uint8_t *)text[QE_IDENTITY], strlen(text[QE_IDENTITY])},
                           text[QE_IDENTITY_SIGNATURE], "qe_identity", e);
    return rc;
}

static int read_one(const struct st_endorsement *x, struct st_intel_collateral *c, struct st_err *e)
{
    switch (x->type) {
    case ST_ENDORSEMENT_CERTS:
        return st_certs_add(&c->certs, x->data.p, x->data.len, "certs", e);
    case ST_ENDORSEMENT_CRL:
        return st_crls_add(&c->crls, x->data.p, x->data.len, "crl", e);
    case ST_ENDORSEMENT_COLLATERAL:
        return read_collateral(x->data, c, e);
    case ST_ENDORSEMENT_TCB_INFO:
        return read_reply(x->data, "tcbInfo", &c->tcb_info, e);
    case ST_ENDORSEMENT_QE_IDENTITY:
        return read_reply(x->data, "enclaveIdentity", &c->qe_identity, e);
    default:
        return 0;
    }
}

int st_intel_collateral_read(const struct st_evidence *ev, struct st_intel_collateral *out, struct st_err *e)
{
    int rc = 0;
    *out = (struct st_intel_collateral){0};
    for (size_t i = 0; rc == 0 && i < ev->n_endorsement; i++)
        rc = read_one(&ev->endorsements[i], out, e);
    if (rc)
        st_intel_collateral_free(out);
    return rc;
}

void st_intel_collateral_free(struct st_intel_collateral *c)
{
    st_certs_free(&c->certs);
    st_crls_free(&c->crls);
    for (size_t i = 0; i < c->n_file; i++)
        json_decref(c->files[i]);
    *c = (struct st_intel_collateral){0};
}

/* Signatures.
 * ------------------------------------------------------------------------------------------------------------ */

bool st_intel_is(X509_NAME *name, const char *cn)
{
    int at = X509_NAME_get_index_by_NID(name, NID_commonName, -1);
    if (at < 0 || X509_NAME_get_index_by_NID(name, NID_commonName, at) >= 0)
        return false;
    const ASN1_STRING *s = X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at));
    size_t len = (size_t)ASN1_STRING_length(s);
    return len == strlen(cn) && memcmp(ASN1_STRING_get0_data(s), cn, len) == 0;
}

int st_intel_statement_verify(const struct st_intel_statement *s, const struct st_certs *certs,
                              const struct st_certs *roots, int64_t time, X509 **signer, int64_t *until,
                              struct st_err *e)
{
    int rc = st_fail(e, ST_VERIFY, "no certificate of Intel SGX TCB Signing");
    for (size_t i = 0; i < certs->n && rc; i++) {
        X509 *x = certs->p[i];
        /* Other keys below the same root sign other things. */
        if (!st_intel_is(X509_get_subject_name(x), "Intel SGX TCB Signing"))
            continue;
        rc = st_x509_verify(
            &(struct st_x509_verify){.leaf = x, .chain = certs, .roots = roots, .time = time, .until = until}, e);
        if (rc == 0)
            rc = st_ecdsa_verify(X509_get0_pubkey(x), s->json.p, s->json.len, s->signature, s->signature + 32, 32, e);
        if (rc == 0)
            *signer = x;
    }
    return rc;
}
