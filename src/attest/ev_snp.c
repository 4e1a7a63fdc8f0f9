/* AMD SEV-SNP: the report, its key's certificate, AMD's chain and revocation list; and, on Azure, the runtime data that
 * the report binds.
 *
 * Checks: snp.reserved (every bit without a meaning is as it must be), snp.signature, snp.certificate (names,
 * extensions, kind of key), snp.tcb (the certificate is for the reported patch level), snp.chip_id (and for this chip;
 * VCEK only), snp.product (one line of processors in report and certificates), snp.chain, snp.revocation,
 * snp.runtime_data (where there is some). */
#include "attest/endorsed.h"
#include "attest/roots.h"
#include "attest/runtime_data.h"
#include "attest/settle.h"
#include "attest/snp_cert.h"
#include "attest/tpm_key.h"
#include "crypto/digest.h"

#include <stdio.h>
#include <string.h>

struct work {
    const struct st_evidence *ev;
    const struct st_verify_env *env;
    struct st_appraisal *out;
    struct st_snp_report r;
    struct st_span runtime; /* len 0: none */
    struct st_certs given, roots, chain;
    X509 *leaf; /* borrowed from given; NULL: none */
    struct st_snp_cert cert;
    bool has_cert;
};

static bool recognise(const uint8_t *p, size_t len)
{
    if (st_hcl_recognise(p, len))
        return true;
    return len == ST_SNP_REPORT && p[0] >= 2 && p[0] <= 5 && !p[1] && !p[2] && !p[3] && p[0x34] == 1 && !p[0x35] &&
           (p[0x0a] & 2);
}

/* ---- signature and chain ---- */

static int verify_signature(const struct work *w, X509 *x, struct st_err *e)
{
    const struct st_snp_report *r = &w->r;
    if (r->signature_algo != 1)
        return st_fail(e, ST_VERIFY, "signature algorithm %u, want 1 (ECDSA P-384 with SHA-384)", r->signature_algo);
    return st_ecdsa_verify(X509_get0_pubkey(x), r->raw, ST_SNP_SIGNED, r->r, r->s, 48, e);
}

/* The certificate whose key signed, whatever else was given; else the first whose key is of that kind. Returns what
 * verify_signature() says about it. */
static int choose_leaf(struct work *w, struct st_err *e)
{
    int rc = 0;
    for (size_t i = 0; i < w->given.n; i++) {
        X509 *x = w->given.p[i];
        const EVP_PKEY *key = X509_get0_pubkey(x);
        if (!key || EVP_PKEY_get_base_id(key) != EVP_PKEY_EC)
            continue;
        struct st_err why;
        int one = verify_signature(w, x, &why);
        if (!w->leaf || one == 0) {
            w->leaf = x;
            rc = one;
            *e = why;
        }
        if (one == 0)
            break;
    }
    return rc;
}

/* What was given, and AMD's pinned intermediates. */
static int fill_chain(struct work *w, struct st_err *e)
{
    if (st_roots_add(w->env, ST_ROOT_AMD, &w->roots, e) || st_roots_add(w->env, ST_ROOT_AMD_ASK, &w->chain, e))
        return e->code;
    for (size_t i = 0; i < w->given.n && w->chain.n < ST_X509_MAX; i++)
        if (w->given.p[i] != w->leaf && X509_up_ref(w->given.p[i]) == 1)
            w->chain.p[w->chain.n++] = w->given.p[i];
    return 0;
}

static int verify_chain(const struct work *w, const struct st_crls *crls, struct st_err *e)
{
    return st_x509_verify(&(struct st_x509_verify){.leaf = w->leaf,
                                                   .chain = &w->chain,
                                                   .roots = &w->roots,
                                                   .crls = crls,
                                                   .need_crl = crls != NULL,
                                                   .leaf_unlisted = true,
                                                   .time = w->env->time,
                                                   .until = &w->out->until},
                          e);
}

static int compare_key(const struct work *w, struct st_err *e)
{
    if (w->r.signing_key == w->cert.key)
        return 0;
    return st_fail(e, ST_VERIFY,
                   "the report says that key %u signed it (0 VCEK, 1 VLEK, 7 none), its certificate is "
                   "of a %s",
                   w->r.signing_key, w->cert.key == ST_SNP_VLEK ? "VLEK" : "VCEK");
}

static int compare_tcb(const struct work *w, struct st_err *e)
{
    const struct st_snp_tcb *a = &w->r.reported, *b = &w->cert.tcb;
    if (a->fmc == b->fmc && a->bootloader == b->bootloader && a->tee == b->tee && a->snp == b->snp &&
        a->microcode == b->microcode)
        return 0;
    return st_fail(
        e, ST_VERIFY, "reported fmc %u, bootloader %u, tee %u, snp %u, microcode %u; certificate %u, %u, %u, %u, %u",
        a->fmc, a->bootloader, a->tee, a->snp, a->microcode, b->fmc, b->bootloader, b->tee, b->snp, b->microcode);
}

static int compare_product(const struct work *w, struct st_err *e)
{
    const struct st_snp_report *r = &w->r;
    if (r->version >= 3 && r->product != w->cert.product)
        return st_fail(e, ST_VERIFY, "report of family %02xh model %02xh (%s), certificate of %s", r->family, r->model,
                       st_snp_product_name(r->product), st_snp_product_name(w->cert.product));
    if (r->version < 3 && w->cert.product == ST_SNP_TURIN)
        return st_fail(e, ST_VERIFY, "a report of version 2 cannot be of Turin");
    return 0;
}

static void check_certificate(struct work *w)
{
    struct st_err e = {0};
    int rc = st_snp_cert_read(w->leaf, &w->cert, &e);
    w->has_cert = rc == 0;
    if (!rc)
        rc = compare_key(w, &e);
    st_settle(w->out, "snp.certificate", ST_AREA_SIGNATURE, w->cert.key == ST_SNP_VLEK ? "VLEK" : "VCEK", rc, &e);
    if (!w->has_cert)
        return;
    rc = compare_tcb(w, &e);
    st_settle(w->out, "snp.tcb", ST_AREA_SIGNATURE, "the certificate is for the reported patch level", rc, &e);
    rc = compare_product(w, &e);
    st_settle(w->out, "snp.product", ST_AREA_SIGNATURE, st_snp_product_name(w->cert.product), rc, &e);
    if (!w->cert.has_chip_id)
        return;
    rc = memcmp(w->cert.chip_id, w->r.chip_id, ST_SNP_CHIP_ID)
             ? st_fail(&e, ST_VERIFY, "the certificate is for another chip, or the report masks its chip's id")
             : 0;
    st_settle(w->out, "snp.chip_id", ST_AREA_SIGNATURE, "the certificate is for this chip", rc, &e);
}

/* Some list is by an issuer of this chain; others may be meant for other machines. */
static bool has_list(const struct work *w, const struct st_crls *crls)
{
    const X509_NAME *above = X509_get_issuer_name(w->leaf);
    if (st_crls_by(crls, above))
        return true;
    for (size_t i = 0; i < w->chain.n; i++)
        if (X509_NAME_cmp(X509_get_subject_name(w->chain.p[i]), above) == 0 &&
            st_crls_by(crls, X509_get_issuer_name(w->chain.p[i])))
            return true;
    return false;
}

static void check_revocation(struct work *w)
{
    static const char name[] = "snp.revocation";
    struct st_crls crls = {0};
    struct st_err e = {0};
    int rc = st_endorsed_crls(w->ev, &crls, &e);
    if (!rc && !has_list(w, &crls))
        st_settle_absent(w->out, name, ST_AREA_REVOCATION, "no revocation list for this line of processors was given");
    else {
        if (!rc)
            rc = verify_chain(w, &crls, &e);
        st_settle(w->out, name, ST_AREA_REVOCATION, "AMD's list is valid, nothing used is on it", rc, &e);
    }
    st_crls_free(&crls);
}

static void check_signatures(struct work *w)
{
    struct st_err e = {0}, unsigned_by = {0};
    int rc = st_endorsed_certs(w->ev, &w->given, &e), sig = choose_leaf(w, &unsigned_by);
    if (!rc)
        rc = fill_chain(w, &e);
    if (!rc && !w->leaf) {
        static const char why[] = "no certificate of the key that signs (VCEK or VLEK) was given";
        st_settle_absent(w->out, "snp.signature", ST_AREA_SIGNATURE, why);
        st_settle_absent(w->out, "snp.chain", ST_AREA_SIGNATURE, why);
        return;
    }
    st_settle(w->out, "snp.signature", ST_AREA_SIGNATURE, "by the certificate's key", rc ? rc : sig,
              rc ? &e : &unsigned_by);
    if (!rc)
        check_certificate(w);
    if (!rc)
        rc = verify_chain(w, NULL, &e);
    st_settle(w->out, "snp.chain", ST_AREA_SIGNATURE, "to AMD's pinned root", rc, &e);
    if (w->leaf && w->roots.n)
        check_revocation(w);
}

/* ---- runtime data ---- */

static int find_runtime_data(struct work *w, struct st_err *e)
{
    size_t at = 0;
    const struct st_endorsement *en = st_evidence_next(w->ev, ST_ENDORSEMENT_RUNTIME_DATA, &at);
    if (!en)
        return 0;
    if (w->runtime.len || st_evidence_next(w->ev, ST_ENDORSEMENT_RUNTIME_DATA, &at))
        return st_fail(e, ST_INPUT, "snp: runtime data: comes twice");
    w->runtime = en->data;
    return 0;
}

static int verify_runtime_data(struct work *w, struct st_runtime_data *d, struct st_err *e)
{
    uint8_t want[64] = {0};
    st_sha256(w->runtime.p, w->runtime.len, want);
    if (memcmp(want, w->r.report_data, sizeof want) != 0)
        return st_fail(e, ST_VERIFY, "the report data is not the SHA-256 of this runtime data");
    return st_runtime_data_parse(w->runtime.p, w->runtime.len, d, e);
}

static void check_runtime_data(struct work *w)
{
    struct st_runtime_data d = {0};
    struct st_err e = {0};
    uint8_t ak[32];
    if (!w->runtime.len)
        return;
    int rc = verify_runtime_data(w, &d, &e);
    if (!rc)
        rc = st_key_digest(d.ak, ak, &e);
    st_settle(w->out, "snp.runtime_data", ST_AREA_SIGNATURE, "the report data is its SHA-256", rc, &e);
    if (!rc) {
        st_appraisal_hex(w->out, "snp.runtime_ak", ak, sizeof ak);
        if (d.user_data_len)
            st_appraisal_hex(w->out, "snp.runtime_user_data", d.user_data, d.user_data_len);
        if (d.has_secure_boot)
            st_appraisal_bool(w->out, "snp.runtime_secure_boot", d.secure_boot);
    }
    st_runtime_data_free(&d);
}

/* ---- claims ---- */

static void claim_bits(struct work *w, const char *prefix, uint64_t v, const char *const *names, size_t n, int first)
{
    for (size_t i = 0; i < n; i++) {
        char name[64];
        if (!names[i])
            continue;
        snprintf(name, sizeof name, "snp.%s.%s", prefix, names[i]);
        st_appraisal_bool(w->out, name, v >> (first + (int)i) & 1);
    }
}

static void claim_policy(struct work *w)
{
    static const char *const policy[] = {"smt",
                                         NULL,
                                         "migrate_ma",
                                         "debug",
                                         "single_socket",
                                         "cxl_allow",
                                         "mem_aes_256_xts",
                                         "rapl_dis",
                                         "ciphertext_hiding_dram",
                                         "page_swap_disable"};
    static const char *const platform[] = {
        "smt_en", "tsme_en", "ecc_en", "rapl_dis", "ciphertext_hiding_dram_en", "alias_check_complete", NULL, "tio_en"};
    const struct st_snp_report *r = &w->r;
    st_appraisal_number(w->out, "snp.policy.abi_major", r->policy >> 8 & 0xff);
    st_appraisal_number(w->out, "snp.policy.abi_minor", r->policy & 0xff);
    claim_bits(w, "policy", r->policy, policy, sizeof policy / sizeof *policy, 16);
    st_appraisal_bool(w->out, "snp.debug", r->policy >> 19 & 1);
    st_appraisal_number(w->out, "snp.platform_info", r->platform_info);
    claim_bits(w, "platform", r->platform_info, platform, sizeof platform / sizeof *platform, 0);
}

static void claim_tcb(struct work *w, const char *prefix, const struct st_snp_tcb *t)
{
    const struct {
        const char *name;
        uint8_t v;
    } parts[] = {
        {"bootloader", t->bootloader}, {"tee", t->tee}, {"snp", t->snp}, {"microcode", t->microcode}, {"fmc", t->fmc}};
    for (size_t i = 0; i < (w->r.product == ST_SNP_TURIN ? 5 : 4); i++) {
        char name[64];
        snprintf(name, sizeof name, "snp.%s.%s", prefix, parts[i].name);
        st_appraisal_number(w->out, name, parts[i].v);
    }
}

static void claim_version(struct work *w, const char *name, const uint8_t v[3])
{
    char text[16];
    snprintf(text, sizeof text, "%u.%u.%u", v[0], v[1], v[2]);
    st_appraisal_text(w->out, name, text);
}

static void claim_all(struct work *w)
{
    const struct st_snp_report *r = &w->r;
    st_appraisal_number(w->out, "snp.version", r->version);
    st_appraisal_hex(w->out, "snp.measurement", r->measurement, 48);
    st_appraisal_hex(w->out, "snp.report_data", r->report_data, 64);
    st_appraisal_hex(w->out, "snp.host_data", r->host_data, 32);
    st_appraisal_number(w->out, "snp.vmpl", r->vmpl);
    claim_policy(w);
    claim_tcb(w, "tcb", &r->reported);
    claim_tcb(w, "current_tcb", &r->current);
    claim_tcb(w, "committed_tcb", &r->committed);
    claim_tcb(w, "launch_tcb", &r->launch);
    st_appraisal_number(w->out, "snp.guest_svn", r->guest_svn);
    st_appraisal_hex(w->out, "snp.family_id", r->family_id, 16);
    st_appraisal_hex(w->out, "snp.image_id", r->image_id, 16);
    st_appraisal_bool(w->out, "snp.author_key_en", r->author_key_en);
    st_appraisal_hex(w->out, "snp.id_key_digest", r->id_key_digest, 48);
    st_appraisal_hex(w->out, "snp.author_key_digest", r->author_key_digest, 48);
    st_appraisal_hex(w->out, "snp.report_id", r->report_id, 32);
    st_appraisal_hex(w->out, "snp.report_id_ma", r->report_id_ma, 32);
    st_appraisal_hex(w->out, "snp.chip_id", r->chip_id, ST_SNP_CHIP_ID);
    claim_version(w, "snp.firmware", r->current_version);
    claim_version(w, "snp.committed_firmware", r->committed_version);
    if (r->version >= 5) {
        st_appraisal_number(w->out, "snp.launch_mitigations", r->launch_mitigations);
        st_appraisal_number(w->out, "snp.current_mitigations", r->current_mitigations);
    }
    if (w->has_cert)
        st_appraisal_text(w->out, "snp.product", st_snp_product_name(w->cert.product));
    if (w->has_cert && w->cert.csp_id[0])
        st_appraisal_text(w->out, "snp.csp_id", w->cert.csp_id);
}

static int verify(const struct st_evidence *ev, const struct st_verify_env *env, struct st_appraisal *out,
                  struct st_err *e)
{
    struct work w = {.ev = ev, .env = env, .out = out};
    struct st_span report = ev->data;
    struct st_err bad = {0};
    if ((st_hcl_recognise(report.p, report.len) && st_hcl_split(ev->data.p, ev->data.len, &report, &w.runtime, e)) ||
        st_snp_report_parse(report.p, report.len, &w.r, e) || find_runtime_data(&w, e))
        return e->code;
    int rc = w.r.reserved_zero ? 0 : st_fail(&bad, ST_VERIFY, "a bit without a meaning is not what it has to be");
    st_settle(out, "snp.reserved", ST_AREA_SIGNATURE, "as they have to be", rc, &bad);
    check_signatures(&w);
    check_runtime_data(&w);
    claim_all(&w);
    st_certs_free(&w.given);
    st_certs_free(&w.roots);
    st_certs_free(&w.chain);
    return 0;
}

const struct st_verifier st_verifier_snp = {.kind = "snp",
                                            .recognise = recognise,
                                            .endorsements = 1u << ST_ENDORSEMENT_CERTS | 1u << ST_ENDORSEMENT_CRL |
                                                            1u << ST_ENDORSEMENT_RUNTIME_DATA,
                                            .verify = verify};
