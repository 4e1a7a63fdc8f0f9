#include "attest/ev_intel.h"
#include "attest/intel_collateral.h"
#include "attest/intel_tcb.h"
#include "attest/roots.h"
#include "crypto/digest.h"

#include <openssl/core_names.h>
#include <openssl/params.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <string.h>

enum { PCK, PCK_CA, ROOT, N_CHAIN }; /* the order of certificates in a quote */

struct work {
    const struct st_evidence *ev;
    const struct st_dcap_quote *q;
    const struct st_verify_env *env;
    struct st_appraisal *out;
    struct st_certs roots, chain;
    struct st_pck pck;
    bool has_pck;
    struct st_intel_collateral collateral;
    X509 *signers[2]; /* of the statements that are used; borrowed from collateral */
    size_t n_signer;
    struct st_tcb_info tcb_info;
    struct st_qe_identity qe_identity;
    bool has_tcb_info, has_qe_identity;
    struct st_tcb_found found;
};

const char *st_intel_name(const struct st_evidence *ev, const char *name)
{
    static _Thread_local char text[64];
    snprintf(text, sizeof text, "%s.%s", ev->kind, name);
    return text;
}

static struct st_check *check(struct work *w, const char *name, enum st_check_area area, const char *detail)
{
    struct st_check *c = st_appraisal_check(w->out, st_intel_name(w->ev, name), "%s", detail);
    c->area = area;
    return c;
}

/* A check that passes when rc is 0, and else says what e does. */
static void settle(struct st_check *c, int rc, const struct st_err *e)
{
    if (rc == 0)
        c->result = ST_CHECK_PASS;
    else
        st_check_detail(c, "%s", e->msg);
}

static void absent(struct work *w, const char *name, enum st_check_area area, const char *detail)
{
    check(w, name, area, detail)->result = ST_CHECK_ABSENT;
}

/* From the root to the quote.
 * ------------------------------------------------------------------------------------------------------------ */

static void check_form(struct work *w)
{
    const struct st_dcap_quote *q = w->q;
    struct st_check *c = check(w, "vendor", ST_AREA_SIGNATURE, "the quoting enclave's vendor is Intel");
    if (memcmp(q->vendor, st_dcap_vendor_intel, sizeof st_dcap_vendor_intel) == 0)
        c->result = ST_CHECK_PASS;
    c = check(w, "reserved", ST_AREA_SIGNATURE, "reserved bytes and attributes are zero");
    if (q->header_reserved_zero && (q->is_tdx ? q->td.reserved_zero : q->sgx.reserved_zero && q->sgx.init))
        c->result = ST_CHECK_PASS;
}

/* The text is what PEM writes for these certificates, and at most one NUL behind it: so no byte of it is free. */
static int check_canonical(struct st_span text, const struct st_certs *certs, struct st_err *e)
{
    char *pem = NULL;
    int rc = st_fail(e, ST_MEMORY, "PCK chain: no memory");
    BIO *bio = BIO_new(BIO_s_mem());
    for (size_t i = 0; bio && i < certs->n; i++)
        if (PEM_write_bio_X509(bio, certs->p[i]) != 1)
            goto out;
    size_t len = bio ? (size_t)BIO_get_mem_data(bio, &pem) : 0;
    if (!pem)
        goto out;
    bool same = text.len >= len && memcmp(text.p, pem, len) == 0;
    bool tail = text.len == len || (text.len == len + 1 && text.p[len] == 0);
    rc = same && tail ? 0 : st_fail(e, ST_VERIFY, "PCK chain: want certificates as PEM and nothing else");
out:
    BIO_free(bio);
    return rc;
}

static int check_chain(struct work *w, struct st_err *e)
{
    struct st_certs *c = &w->chain;
    int rc = st_certs_add(c, w->q->pck_chain.p, w->q->pck_chain.len, "PCK chain", e);
    if (rc)
        return rc;
    if (c->n != N_CHAIN)
        return st_fail(e, ST_VERIFY, "PCK chain: want 3 certificates, got %zu", c->n);
    rc = check_canonical(w->q->pck_chain, c, e);
    if (rc)
        return rc;
    bool pinned = false;
    for (size_t i = 0; i < w->roots.n; i++)
        pinned = pinned || X509_cmp(c->p[ROOT], w->roots.p[i]) == 0;
    if (!pinned)
        return st_fail(e, ST_VERIFY, "PCK chain: its root is not the pinned one");
    /* Names tell apart the roles of keys below the one root. */
    X509_NAME *ca = X509_get_subject_name(c->p[PCK_CA]);
    if (!st_intel_is(X509_get_subject_name(c->p[PCK]), "Intel SGX PCK Certificate"))
        return st_fail(e, ST_VERIFY, "PCK chain: the first is no Intel SGX PCK Certificate");
    if (!st_intel_is(ca, "Intel SGX PCK Platform CA") && !st_intel_is(ca, "Intel SGX PCK Processor CA"))
        return st_fail(e, ST_VERIFY, "PCK chain: the second is no Intel SGX PCK Platform or Processor CA");
    return st_x509_verify(
        &(struct st_x509_verify){
            .leaf = c->p[PCK], .chain = c, .roots = &w->roots, .time = w->env->time, .until = &w->out->until},
        e);
}

/* A public key of P-256 from x || y; NULL when it is no point of the curve. */
static EVP_PKEY *p256_key(const uint8_t xy[64])
{
    char group[] = "prime256v1";
    uint8_t point[65] = {0x04};
    EVP_PKEY *key = NULL;
    memcpy(point + 1, xy, 64);
    OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, group, 0),
                           OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, point, sizeof point),
                           OSSL_PARAM_construct_end()};
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
    if (ctx && EVP_PKEY_fromdata_init(ctx) == 1)
        (void)!EVP_PKEY_fromdata(ctx, &key, EVP_PKEY_PUBLIC_KEY, params); /* key stays NULL */
    EVP_PKEY_CTX_free(ctx);
    return key;
}

static int check_qe_report(struct work *w, struct st_err *e)
{
    const struct st_sgx_report *qe = &w->q->qe;
    if (w->chain.n == 0)
        return st_fail(e, ST_VERIFY, "QE report: no PCK certificate");
    if (!qe->init || qe->debug || !qe->reserved_zero)
        return st_fail(e, ST_VERIFY, "QE report: debug enclave, or reserved bytes that are not zero");
    return st_ecdsa_verify(X509_get0_pubkey(w->chain.p[PCK]), w->q->qe_raw, ST_DCAP_REPORT, w->q->qe_signature,
                           w->q->qe_signature + 32, 32, e);
}

/* SHA-256(attestation key || auth data) || 32 zeros */
static int check_qe_binding(struct work *w, struct st_err *e)
{
    uint8_t want[64] = {0};
    struct st_digest d;
    int rc = st_digest_init(&d, e);
    if (rc)
        return rc;
    st_digest_add(&d, w->q->key, 64);
    st_digest_add(&d, w->q->auth_data.p, w->q->auth_data.len);
    st_digest_end(&d, want);
    return memcmp(want, w->q->qe.report_data, sizeof want) == 0
               ? 0
               : st_fail(e, ST_VERIFY, "QE report: its report data is not SHA-256 of attestation key and auth data");
}

static int check_signature(struct work *w, struct st_err *e)
{
    const struct st_dcap_quote *q = w->q;
    EVP_PKEY *key = p256_key(q->key);
    int rc = key ? st_ecdsa_verify(key, q->covered.p, q->covered.len, q->signature, q->signature + 32, 32, e)
                 : st_fail(e, ST_VERIFY, "attestation key: no point of P-256");
    EVP_PKEY_free(key);
    return rc;
}

static void check_signatures(struct work *w)
{
    struct st_err e = {0};
    struct st_check *c = check(w, "chain", ST_AREA_SIGNATURE, "PCK certificate, its CA and the pinned root");
    settle(c, check_chain(w, &e), &e);
    c = check(w, "pck", ST_AREA_SIGNATURE, "the PCK certificate names platform and patch level");
    int rc = w->chain.n ? st_pck_read(w->chain.p[PCK], &w->pck, &e) : st_fail(&e, ST_VERIFY, "no PCK certificate");
    w->has_pck = rc == 0;
    settle(c, rc, &e);
    c = check(w, "qe_report", ST_AREA_SIGNATURE, "the quoting enclave's report is signed by the PCK certificate's key");
    settle(c, check_qe_report(w, &e), &e);
    c = check(w, "qe_binding", ST_AREA_SIGNATURE, "the quoting enclave's report binds the attestation key");
    settle(c, check_qe_binding(w, &e), &e);
    c = check(w, "signature", ST_AREA_SIGNATURE, "header and body are signed by the attestation key");
    settle(c, check_signature(w, &e), &e);
}

/* Collateral.
 * ------------------------------------------------------------------------------------------------------------ */

/* The first TCB info that Intel signed for this kind of platform. */
static int find_tcb_info(struct work *w, struct st_err *e)
{
    const struct st_intel_statements *s = &w->collateral.tcb_info;
    int rc = w->has_pck ? 0 : st_fail(e, ST_VERIFY, "no PCK certificate to compare with");
    for (size_t i = 0; i < s->n && w->has_pck; i++) {
        X509 *signer = NULL;
        struct st_tcb_info t = {0};
        rc = st_intel_statement_verify(&s->list[i], &w->collateral.certs, &w->roots, w->env->time, &signer,
                                       &w->out->until, e);
        if (rc == 0)
            rc = st_tcb_info_parse(s->list[i].json, &t, e);
        if (rc)
            continue;
        if (t.is_tdx == w->q->is_tdx && memcmp(t.fmspc, w->pck.fmspc, sizeof t.fmspc) == 0 &&
            memcmp(t.pce_id, w->pck.pce_id, sizeof t.pce_id) == 0) {
            w->tcb_info = t;
            w->signers[w->n_signer++] = signer;
            w->has_tcb_info = true;
            return 0;
        }
        st_tcb_info_free(&t);
        rc = st_fail(e, ST_VERIFY, "TCB info: for another TEE, FMSPC or PCE-ID");
    }
    return rc;
}

/* The first identity that Intel signed for this TEE's quoting enclave. */
static int find_qe_identity(struct work *w, struct st_err *e)
{
    const struct st_intel_statements *s = &w->collateral.qe_identity;
    int rc = 0;
    for (size_t i = 0; i < s->n; i++) {
        X509 *signer = NULL;
        struct st_qe_identity q = {0};
        rc = st_intel_statement_verify(&s->list[i], &w->collateral.certs, &w->roots, w->env->time, &signer,
                                       &w->out->until, e);
        if (rc == 0)
            rc = st_qe_identity_parse(s->list[i].json, &q, e);
        if (rc)
            continue;
        if (q.is_tdx == w->q->is_tdx) {
            w->qe_identity = q;
            w->signers[w->n_signer++] = signer;
            w->has_qe_identity = true;
            return 0;
        }
        st_qe_identity_free(&q);
        rc = st_fail(e, ST_VERIFY, "QE identity: for another TEE");
    }
    return rc;
}

static void check_statements(struct work *w)
{
    struct st_err e = {0};
    if (w->collateral.tcb_info.n == 0)
        absent(w, "tcb_info", ST_AREA_STATUS, "no TCB info was given");
    else {
        struct st_check *c = check(w, "tcb_info", ST_AREA_STATUS, "TCB info for this platform, signed by Intel");
        settle(c, find_tcb_info(w, &e), &e);
    }
    if (w->collateral.qe_identity.n == 0)
        absent(w, "qe_identity", ST_AREA_STATUS, "no QE identity was given: which enclave made the quote is not known");
    else {
        struct st_check *c =
            check(w, "qe_identity", ST_AREA_STATUS, "the quoting enclave is the one that Intel describes");
        int rc = find_qe_identity(w, &e);
        if (rc == 0)
            rc = st_qe_identity_match(&w->qe_identity, &w->q->qe, &w->found, &e);
        settle(c, rc, &e);
    }
}

static int in_dates(const struct work *w, const char *what, int64_t issued, int64_t next, struct st_err *e)
{
    if (w->env->time < issued)
        return st_fail(e, ST_VERIFY, "%s: issued later than the time of verification", what);
    if (w->env->time > next)
        return st_fail(e, ST_VERIFY, "%s: expired", what);
    st_x509_limit(&w->out->until, next + 1);
    return 0;
}

static void check_dates(struct work *w)
{
    struct st_err e = {0};
    int rc = 0;
    if (!w->has_tcb_info && !w->has_qe_identity) {
        absent(w, "collateral_dates", ST_AREA_STATUS, "no statement of Intel's counts");
        return;
    }
    struct st_check *c = check(w, "collateral_dates", ST_AREA_STATUS, "within the dates of Intel's statements");
    if (w->has_tcb_info)
        rc = in_dates(w, "TCB info", w->tcb_info.issued, w->tcb_info.next_update, &e);
    if (rc == 0 && w->has_qe_identity)
        rc = in_dates(w, "QE identity", w->qe_identity.issued, w->qe_identity.next_update, &e);
    settle(c, rc, &e);
}

static bool is_zero(const uint8_t *p, size_t len)
{
    while (len && *p == 0)
        p++, len--;
    return len == 0;
}

/* Zeros stand for Intel as signer of the TDX module; TCB info says more where it is there. */
static void check_module(struct work *w)
{
    struct st_err e = {0};
    const struct st_td_report *td = &w->q->td;
    struct st_check *c = check(w, "module", ST_AREA_SIGNATURE, "the TDX module is Intel's");
    int rc = is_zero(td->mrsignerseam, 48) ? 0 : st_fail(&e, ST_VERIFY, "TDX module: not signed by Intel");
    if (rc == 0 && w->has_tcb_info)
        rc = st_tcb_info_module(&w->tcb_info, td, &w->found, &e);
    settle(c, rc, &e);
}

static void claim_status(struct work *w)
{
    const struct st_buf *advisories = &w->found.advisories;
    st_appraisal_text(w->out, st_intel_name(w->ev, "tcb_status"), st_tcb_status_word(w->found.status));
    st_appraisal_time(w->out, st_intel_name(w->ev, "tcb_date"), w->found.date);
    st_appraisal_number(w->out, st_intel_name(w->ev, "tcb_evaluation"), w->tcb_info.evaluation);
    st_appraisal_text(w->out, st_intel_name(w->ev, "advisories"), advisories->len ? advisories->p : "");
}

/* Which status is good enough is the policy's business, but a revoked one never is. */
static void check_level(struct work *w)
{
    struct st_err e = {0};
    if (!w->has_tcb_info) {
        absent(w, "tcb", ST_AREA_STATUS, "no TCB info counts");
        return;
    }
    struct st_check *c = check(w, "tcb", ST_AREA_STATUS, "");
    int rc = st_tcb_info_level(&w->tcb_info, &w->pck, w->q->is_tdx ? &w->q->td : NULL, &w->found, &e);
    if (rc == 0) {
        claim_status(w);
        st_check_detail(c, "patch level: %s", st_tcb_status_word(w->found.status));
    }
    if (rc == 0 && w->found.status == ST_TCB_REVOKED)
        rc = st_fail(&e, ST_VERIFY, "patch level: Revoked");
    settle(c, rc, &e);
}

/* Some list is by an issuer of the PCK chain; others may be meant for other evidence. */
static bool has_list(const struct work *w)
{
    for (size_t i = 0; i < w->collateral.crls.n; i++)
        for (size_t k = PCK_CA; k < w->chain.n; k++)
            if (X509_NAME_cmp(X509_CRL_get_issuer(w->collateral.crls.p[i]), X509_get_subject_name(w->chain.p[k])) == 0)
                return true;
    return false;
}

static int check_revoked(const struct work *w, X509 *leaf, const struct st_certs *chain, struct st_err *e)
{
    return st_x509_verify(&(struct st_x509_verify){.leaf = leaf,
                                                   .chain = chain,
                                                   .roots = &w->roots,
                                                   .crls = &w->collateral.crls,
                                                   .need_crl = true,
                                                   .time = w->env->time,
                                                   .until = &w->out->until},
                          e);
}

static void check_revocation(struct work *w)
{
    struct st_err e = {0};
    if (!has_list(w)) {
        absent(w, "crl", ST_AREA_REVOCATION, "no revocation list of Intel's was given");
        return;
    }
    struct st_check *c =
        check(w, "crl", ST_AREA_REVOCATION, "lists of root and PCK CA are valid, nothing used is on them");
    int rc = check_revoked(w, w->chain.p[PCK], &w->chain, &e);
    for (size_t i = 0; i < w->n_signer && rc == 0; i++)
        rc = check_revoked(w, w->signers[i], &w->collateral.certs, &e);
    settle(c, rc, &e);
}

static void check_collateral(struct work *w)
{
    struct st_err e = {0};
    const struct st_intel_collateral *col = &w->collateral;
    int rc = st_intel_collateral_read(w->ev, &w->collateral, &e);
    if (rc == 0 && col->crls.n == 0 && col->tcb_info.n == 0 && col->qe_identity.n == 0)
        absent(w, "collateral", ST_AREA_STATUS, "none was given");
    else
        settle(check(w, "collateral", ST_AREA_STATUS, "what was given can be read"), rc, &e);
    check_statements(w);
    check_dates(w);
    if (w->q->is_tdx)
        check_module(w);
    check_level(w);
    check_revocation(w);
}

static void claim_common(struct work *w)
{
    const struct st_dcap_quote *q = w->q;
    st_appraisal_number(w->out, st_intel_name(w->ev, "quote_version"), q->version);
    st_appraisal_number(w->out, st_intel_name(w->ev, "qe_isv_svn"), q->qe.isv_svn);
    if (w->has_pck) {
        st_appraisal_hex(w->out, st_intel_name(w->ev, "fmspc"), w->pck.fmspc, sizeof w->pck.fmspc);
        st_appraisal_number(w->out, st_intel_name(w->ev, "pce_svn"), w->pck.pce_svn);
    }
    if (q->padding)
        st_appraisal_number(w->out, st_intel_name(w->ev, "padding_unsigned"), q->padding);
}

int st_intel_appraise(const struct st_evidence *ev, const struct st_dcap_quote *q, const struct st_verify_env *env,
                      struct st_appraisal *out, struct st_err *e)
{
    struct work w = {.ev = ev, .q = q, .env = env, .out = out};
    int rc = st_roots_add(env, ST_ROOT_INTEL, &w.roots, e);
    if (rc == 0) {
        check_form(&w);
        check_signatures(&w);
        check_collateral(&w);
        claim_common(&w);
    }
    if (w.has_tcb_info)
        st_tcb_info_free(&w.tcb_info);
    if (w.has_qe_identity)
        st_qe_identity_free(&w.qe_identity);
    st_tcb_found_free(&w.found);
    st_intel_collateral_free(&w.collateral);
    st_certs_free(&w.chain);
    st_certs_free(&w.roots);
    return rc;
}
