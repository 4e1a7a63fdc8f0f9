#include "attest/tpm_certify.h"
#include "attest/tpm_quote.h"
#include "crypto/x509.h"

#include <openssl/x509v3.h>
#include <string.h>

#define MAGIC 0xff544347
#define TYPE_CERTIFY 0x8017

/* The statement is a TPM's own, and about the key of this name. */
static int check_statement(struct st_span statement, const struct st_tpm_key *key, struct st_err *e)
{
    struct st_tpm_reader r = {statement.p, statement.p + statement.len, false};
    bool ok = st_tpm_number(&r, 4) == MAGIC && st_tpm_number(&r, 2) == TYPE_CERTIFY;
    st_tpm_sized(&r);         /* qualified signer */
    st_tpm_sized(&r);         /* qualifying data */
    st_tpm_bytes(&r, 17 + 8); /* clock, firmware */
    struct st_span name = st_tpm_sized(&r);
    st_tpm_sized(&r); /* qualified name */
    if (!ok || r.failed || r.p != r.end)
        return st_fail(e, ST_VERIFY, "statement: want TPMS_ATTEST of type certify");
    return key->has_name && name.len == key->name_len && memcmp(name.p, key->name, name.len) == 0
               ? 0
               : st_fail(e, ST_VERIFY, "statement: it is about another key");
}

static int check_chain(X509 *leaf, const struct st_certs *given, struct st_span pem, int64_t now, struct st_err *e)
{
    struct st_certs roots = {0};
    /* The same issuers certify endorsement keys, which decrypt. */
    if (!leaf || (X509_get_extension_flags(leaf) & EXFLAG_CA) || !(X509_get_key_usage(leaf) & KU_DIGITAL_SIGNATURE))
        return st_fail(e, ST_VERIFY, "certificates: want one of a key that signs, and its issuers");
    int rc = st_certs_add(&roots, pem.p, pem.len, "roots", e);
    if (!rc)
        rc = st_x509_verify(&(struct st_x509_verify){.leaf = leaf, .chain = given, .roots = &roots, .time = now}, e);
    st_certs_free(&roots);
    return rc;
}

int st_tpm_certified_check(const struct st_tpm_certified *c, const struct st_tpm_key *key, struct st_span roots,
                           int64_t now, struct st_err *e)
{
    struct st_certs given = {0};
    struct st_tpm_signature s;
    if (st_certs_add(&given, c->certificates.p, c->certificates.len, "certificates", e) ||
        st_tpm_signature_parse(c->signature.p, c->signature.len, &s, e)) {
        st_certs_free(&given);
        e->code = ST_VERIFY;
        return ST_VERIFY;
    }
    X509 *leaf = st_certs_leaf(&given);
    int rc = check_chain(leaf, &given, roots, now, e);
    if (!rc)
        rc = st_tpm_signature_verify(&s, X509_get0_pubkey(leaf), c->statement.p, c->statement.len, e);
    if (!rc)
        rc = check_statement(c->statement, key, e);
    st_certs_free(&given);
    return rc;
}
