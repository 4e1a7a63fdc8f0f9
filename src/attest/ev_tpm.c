/* TPM 2.0: a quote over PCRs, the attestation key (AK) that signed it, and the event log of the boot.
 *
 * Whose the AK is, is told by a certificate to a pinned root (Google, Azure), or by the report of a confidential VM
 * whose runtime data names it (then tpm.chain is absent, and policy.c compares tpm.ak with what the report says).
 * Whoever can talk with a TPM may also activate a credential for its AK (attest/tpm_credential.h), and then knows it by
 * tpm.ak.
 *
 * Checks: tpm.signature, tpm.chain, tpm.revocation (with a certificate), tpm.ak_attributes (with a TPM's public area),
 * tpm.pcr_selection (one bank of SHA-256 or better with PCRs 0 to 7 at least, and no value of a PCR that is not
 * quoted), tpm.pcr_values (they hash to the quoted digest), tpm.event_log (digests are those of the data; replay gives
 * the quoted PCRs: all of 0 to 9 and 14, and of the others, which software also extends without this log, those with
 * events in it). */
#include "attest/endorsed.h"
#include "attest/event_log.h"
#include "attest/roots.h"
#include "attest/runtime_data.h"
#include "attest/settle.h"
#include "attest/tpm_quote.h"

#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>

#define PCRS_NEEDED 0x0000ffu  /* firmware and its configuration */
#define PCRS_OF_BOOT 0x0043ffu /* only firmware and boot loaders extend them, and log it */

struct work {
    const struct st_evidence *ev;
    const struct st_verify_env *env;
    struct st_appraisal *out;
    struct st_tpm_quote q;
    struct st_certs given, roots;
    struct st_tpm_key ak;
    unsigned hash; /* of the signature */
    struct st_pcrs pcrs;
    bool has_values; /* pcrs is filled with what was given */
    bool values_match;
    struct st_event_log log;
};

static bool recognise(const uint8_t *p, size_t len)
{
    return len > 6 && memcmp(p, "\xff\x54\x43\x47\x80\x18", 6) == 0;
}

/* The only endorsement of this type, or NULL; INPUT when there are several. */
static int only(const struct work *w, enum st_endorsement_type t, const struct st_endorsement **out, struct st_err *e)
{
    size_t at = 0;
    *out = st_evidence_next(w->ev, t, &at);
    return *out && st_evidence_next(w->ev, t, &at) ? st_fail(e, ST_INPUT, "%s: comes twice", st_endorsement_name(t))
                                                   : 0;
}

/* ---- the attestation key ---- */

static int same_key(const struct work *w, EVP_PKEY *key, const char *what, struct st_err *e)
{
    return key && EVP_PKEY_eq(w->ak.key, key) == 1 ? 0 : st_fail(e, ST_VERIFY, "%s is for another key", what);
}

static int key_of_runtime_data(struct work *w, const struct st_endorsement *en, struct st_err *e)
{
    struct st_runtime_data d;
    int rc = st_runtime_data_parse(en->data.p, en->data.len, &d, e);
    if (rc)
        return rc;
    if (w->ak.key)
        rc = same_key(w, d.ak, "runtime data", e);
    else {
        w->ak.key = d.ak;
        d.ak = NULL;
    }
    st_runtime_data_free(&d);
    return rc;
}

static int key_of_certificate(struct work *w, struct st_err *e)
{
    X509 *leaf = st_certs_leaf(&w->given);
    EVP_PKEY *key = leaf ? X509_get0_pubkey(leaf) : NULL;
    if (!key)
        return st_fail(e, ST_VERIFY, "certificates: none, or several, of a key that is not an issuer's");
    if (w->ak.key)
        return same_key(w, key, "the certificate", e);
    if (EVP_PKEY_up_ref(key) != 1)
        return st_fail(e, ST_INTERNAL, "public key: cannot be shared");
    w->ak.key = key;
    return 0;
}

/* From public area, runtime data and certificate: those that are there must agree. */
static int find_key(struct work *w, struct st_err *e)
{
    const struct st_endorsement *area, *runtime;
    if (only(w, ST_ENDORSEMENT_AK_PUBLIC, &area, e) || only(w, ST_ENDORSEMENT_RUNTIME_DATA, &runtime, e) ||
        (area && st_tpm_key_parse(area->data.p, area->data.len, &w->ak, e)) ||
        (runtime && key_of_runtime_data(w, runtime, e)))
        return e->code;
    if (st_endorsed_certs(w->ev, &w->given, e))
        return e->code;
    return w->given.n ? key_of_certificate(w, e) : 0;
}

static int verify_signature(struct work *w, struct st_err *e)
{
    const struct st_endorsement *en;
    struct st_tpm_signature s;
    if (only(w, ST_ENDORSEMENT_SIGNATURE, &en, e))
        return e->code;
    if (!en)
        return st_fail(e, ST_VERIFY, "no signature of the quote was given");
    if (st_tpm_signature_parse(en->data.p, en->data.len, &s, e))
        return e->code;
    w->hash = s.hash; /* of the digest of PCRs, too */
    if (!w->ak.key)
        return st_fail(e, ST_VERIFY, "no certificate, public area or runtime data of the attestation key was given");
    return st_tpm_signature_verify(&s, w->ak.key, w->ev->data.p, w->ev->data.len, e);
}

static int verify_chain(struct work *w, const struct st_crls *crls, struct st_err *e)
{
    X509 *leaf = st_certs_leaf(&w->given);
    if (!leaf)
        return st_fail(e, ST_VERIFY, "certificates: none, or several, of a key that is not an issuer's");
    /* The same issuers certify endorsement keys, which decrypt. */
    if ((X509_get_extension_flags(leaf) & EXFLAG_CA) || !(X509_get_key_usage(leaf) & KU_DIGITAL_SIGNATURE))
        return st_fail(e, ST_VERIFY, "certificate: not one of a key that signs");
    return st_x509_verify(&(struct st_x509_verify){.leaf = leaf,
                                                   .chain = &w->given,
                                                   .roots = &w->roots,
                                                   .crls = crls,
                                                   .need_crl = crls != NULL,
                                                   .time = w->env->time,
                                                   .until = &w->out->until},
                          e);
}

static void check_revocation(struct work *w)
{
    static const char name[] = "tpm.revocation";
    struct st_crls crls = {0};
    struct st_err e = {0};
    bool relevant = false;
    int rc = st_endorsed_crls(w->ev, &crls, &e);
    for (size_t i = 0; i < w->given.n; i++)
        relevant = relevant || st_crls_by(&crls, X509_get_issuer_name(w->given.p[i]));
    if (!rc && !relevant)
        st_settle_absent(w->out, name, ST_AREA_REVOCATION, "no revocation list of the key's issuers was given");
    else {
        if (!rc)
            rc = verify_chain(w, &crls, &e);
        st_settle(w->out, name, ST_AREA_REVOCATION, "the lists are valid, nothing used is on them", rc, &e);
    }
    st_crls_free(&crls);
}

static void check_attributes(struct work *w)
{
    struct st_err e = {0};
    if (!w->ak.has_name)
        return;
    int rc = st_tpm_key_check_signing(&w->ak, &e);
    st_settle(w->out, "tpm.ak_attributes", ST_AREA_SIGNATURE, "restricted signing key of this TPM", rc, &e);
}

static void check_key(struct work *w)
{
    struct st_err e = {0};
    int rc = find_key(w, &e), found = rc;
    if (!rc)
        rc = verify_signature(w, &e);
    st_settle(w->out, "tpm.signature", ST_AREA_SIGNATURE, "by the attestation key", rc, &e);
    check_attributes(w);
    if (found || !w->given.n) {
        st_settle_absent(w->out, "tpm.chain", ST_AREA_SIGNATURE,
                         "no certificate of the attestation key; want one, or a platform's report that names the key");
        return;
    }
    rc = st_roots_add(w->env, ST_ROOT_TPM, &w->roots, &e);
    if (!rc)
        rc = verify_chain(w, NULL, &e);
    st_settle(w->out, "tpm.chain", ST_AREA_SIGNATURE, "the attestation key's certificate, to a pinned root", rc, &e);
    check_revocation(w);
}

/* ---- PCRs ---- */

static int read_values(struct work *w, struct st_err *e)
{
    const struct st_endorsement *en;
    if (only(w, ST_ENDORSEMENT_PCRS, &en, e))
        return e->code;
    w->has_values = en != NULL;
    return en ? st_pcrs_parse(en->data.p, en->data.len, &w->pcrs, e) : 0;
}

static int judge_selection(const struct work *w, struct st_err *e)
{
    const struct st_tpm_quote *q = &w->q;
    if (q->n_bank != 1)
        return st_fail(e, ST_VERIFY, "%u banks are quoted, want one", q->n_bank);
    if (q->bank != ST_TPM_SHA256 && q->bank != ST_TPM_SHA384 && q->bank != ST_TPM_SHA512)
        return st_fail(e, ST_VERIFY, "bank %s, want sha256, sha384 or sha512", st_pcr_bank_name(q->bank));
    if ((q->selected & PCRS_NEEDED) != PCRS_NEEDED)
        return st_fail(e, ST_VERIFY, "%06x, want PCRs 0 to 7 at least", q->selected);
    if (w->pcrs.has & ~q->selected)
        return st_fail(e, ST_VERIFY, "values of PCRs %06x, of which not all are quoted (%06x)", w->pcrs.has,
                       q->selected);
    return 0;
}

/* Replayed PCRs stand for values that were not given. */
static int verify_log(struct work *w, const struct st_endorsement *en, struct st_pcrs *replayed, uint32_t *touched,
                      struct st_err *e)
{
    replayed->alg = w->q.bank;
    if (st_event_log_parse(en->data.p, en->data.len, &w->log, e) || st_event_log_check(&w->log, e))
        return e->code;
    return st_event_log_replay(&w->log, replayed, touched, e);
}

static int compare_log(const struct work *w, const struct st_pcrs *replayed, uint32_t touched, struct st_err *e)
{
    if (!w->values_match)
        return st_fail(e, ST_VERIFY, "what it replays to is not what the TPM quoted");
    for (unsigned i = 0; i < ST_PCR_COUNT; i++) {
        uint32_t bit = 1u << i;
        if ((w->q.selected & bit) && ((touched | PCRS_OF_BOOT) & bit) &&
            memcmp(w->pcrs.value[i], replayed->value[i], st_tpm_hash_len(w->q.bank)) != 0)
            return st_fail(e, ST_VERIFY, "PCR %u: what it replays to is not what the TPM quoted", i);
    }
    return 0;
}

static void check_values(struct work *w, const struct st_pcrs *replayed)
{
    static const char name[] = "tpm.pcr_values";
    struct st_err e = {0};
    if (!w->has_values && !replayed) {
        st_settle_absent(w->out, name, ST_AREA_STATUS, "neither values nor an event log that gives them");
        return;
    }
    if (!w->has_values)
        w->pcrs = *replayed;
    int rc = w->q.n_bank == 1 ? st_tpm_quote_match(&w->q, w->hash, &w->pcrs, &e)
                              : st_fail(&e, ST_VERIFY, "%u banks are quoted, want one", w->q.n_bank);
    w->values_match = rc == 0;
    st_settle(w->out, name, ST_AREA_STATUS, "they hash to the quoted digest", rc, &e);
}

static void claim_pcrs(struct work *w)
{
    for (unsigned i = 0; i < ST_PCR_COUNT; i++) {
        char name[32];
        if (!(w->q.selected >> i & 1))
            continue;
        snprintf(name, sizeof name, "tpm.pcr.%u", i);
        st_appraisal_hex(w->out, name, w->pcrs.value[i], st_tpm_hash_len(w->q.bank));
    }
}

static void check_pcrs(struct work *w)
{
    struct st_err e = {0}, log_e = {0};
    struct st_pcrs replayed = {0};
    uint32_t touched = 0;
    const struct st_endorsement *en = NULL;
    w->pcrs.alg = w->q.bank;
    int rc = st_tpm_hash_len(w->q.bank) > 20 ? read_values(w, &e) : 0;
    if (!rc)
        rc = judge_selection(w, &e);
    st_settle(w->out, "tpm.pcr_selection", ST_AREA_STATUS, "one bank, PCRs 0 to 7 and those with a value", rc, &e);
    int log = only(w, ST_ENDORSEMENT_EVENT_LOG, &en, &log_e);
    if (!log && en)
        log = verify_log(w, en, &replayed, &touched, &log_e);
    check_values(w, en && !log ? &replayed : NULL);
    if (w->values_match)
        claim_pcrs(w);
    if (!log && !en) {
        st_settle_absent(w->out, "tpm.event_log", ST_AREA_STATUS, "none was given");
        return;
    }
    if (!log)
        log = compare_log(w, &replayed, touched, &log_e);
    st_settle(w->out, "tpm.event_log", ST_AREA_STATUS, "digests are of the data, replay gives the quoted PCRs", log,
              &log_e);
    if (!log)
        st_event_log_claim(&w->log, w->q.bank, w->q.selected, w->out);
}

static void claim_quote(struct work *w)
{
    const struct st_tpm_quote *q = &w->q;
    struct st_err e;
    uint8_t ak[32];
    st_appraisal_hex(w->out, "tpm.report_data", q->extra_data.p, q->extra_data.len);
    if (w->ak.key && st_key_digest(w->ak.key, ak, &e) == 0)
        st_appraisal_hex(w->out, "tpm.ak", ak, sizeof ak);
    st_appraisal_hex(w->out, "tpm.qualified_signer", q->qualified_signer.p, q->qualified_signer.len);
    st_appraisal_number(w->out, "tpm.clock", q->clock);
    st_appraisal_number(w->out, "tpm.reset_count", q->reset_count);
    st_appraisal_number(w->out, "tpm.restart_count", q->restart_count);
    st_appraisal_bool(w->out, "tpm.clock_safe", q->safe);
    st_appraisal_number(w->out, "tpm.firmware", q->firmware);
    st_appraisal_text(w->out, "tpm.pcr_bank", st_pcr_bank_name(q->bank));
    st_appraisal_hex(w->out, "tpm.pcr_digest", q->pcr_digest.p, q->pcr_digest.len);
}

static int verify(const struct st_evidence *ev, const struct st_verify_env *env, struct st_appraisal *out,
                  struct st_err *e)
{
    struct work w = {.ev = ev, .env = env, .out = out};
    if (st_tpm_quote_parse(ev->data.p, ev->data.len, &w.q, e))
        return e->code;
    check_key(&w);
    claim_quote(&w);
    check_pcrs(&w);
    st_event_log_free(&w.log);
    st_tpm_key_free(&w.ak);
    st_certs_free(&w.given);
    st_certs_free(&w.roots);
    return 0;
}

const struct st_verifier st_verifier_tpm = {
    .kind = "tpm",
    .recognise = recognise,
    .endorsements = 1u << ST_ENDORSEMENT_CERTS | 1u << ST_ENDORSEMENT_CRL | 1u << ST_ENDORSEMENT_SIGNATURE |
                    1u << ST_ENDORSEMENT_AK_PUBLIC | 1u << ST_ENDORSEMENT_PCRS | 1u << ST_ENDORSEMENT_EVENT_LOG |
                    1u << ST_ENDORSEMENT_RUNTIME_DATA,
    .verify = verify};
