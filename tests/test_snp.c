/* SEV-SNP reports: AMD's own below the pinned root, and reports made here below a root of our own, right or wrong in
 * one place. */
#include "expect.h"

#include "attest/policy.h"
#include "attest/runtime_data.h"
#include "attest/snp_cert.h"
#include "crypto/digest.h"
#include "evidence_make.h"
#include "mutate.h"

#include <openssl/ec.h>

#define NOW INT64_C(1717200000) /* 1 June 2024 */

static const struct st_span pinned = {NULL, 0};

/* ---- made reports ---- */

#define OID "1.3.6.1.4.1.3704.1."

/* Everything that goes into a report and its certificates; a test changes what it wants before build(). */
struct snp {
    const char *product; /* of the certificates */
    uint8_t family, model;
    unsigned version, signing_key;
    bool vlek;
    const char *leaf_cn; /* NULL: as it has to be */
    uint64_t policy;
    uint8_t tcb[5] /* fmc, bootloader, tee, snp, microcode */, cert_tcb[5];
    uint8_t chip[64], cert_chip[64];
    const char *twice; /* an extension that comes twice */
    int64_t leaf_to;
    uint32_t vmpl;
    uint8_t report_data[64];
    size_t dirty; /* a byte of the report that is set to 1 */
    /* out */
    EVP_PKEY *ark_key, *ask_key, *vek_key;
    X509 *ark, *ask, *vek;
    struct st_buf roots, certs, crl;
    uint8_t report[ST_SNP_REPORT];
    struct st_evidence ev;
};

static void put(uint8_t *p, uint64_t v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

static void put_tcb(uint8_t *p, const uint8_t t[5], bool turin)
{
    memset(p, 0, 8);
    if (turin)
        memcpy(p, t, 4);
    else {
        p[0] = t[1];
        p[1] = t[2];
        p[6] = t[3];
    }
    p[7] = t[4];
}

static void add_number(const struct snp *s, X509 *x, const char *oid, uint8_t v)
{
    uint8_t der[4] = {2, 1, v};
    size_t n = 3;
    if (v >= 0x80) {
        der[1] = 2;
        der[2] = 0;
        der[3] = v;
        n = 4;
    }
    for (int i = 0; i <= (s->twice && strcmp(oid, s->twice) == 0); i++)
        add_bytes(x, oid, der, n);
}

static void add_text(X509 *x, const char *oid, const char *text)
{
    uint8_t der[64] = {0x16, (uint8_t)strlen(text)};
    memcpy(der + 2, text, strlen(text));
    add_bytes(x, oid, der, 2 + strlen(text));
}

static void add_extensions(const struct snp *s, X509 *x)
{
    static const char *const spl[] = {OID "3.9", OID "3.1", OID "3.2", OID "3.3", OID "3.8"};
    bool turin = strcmp(s->product, "Turin") == 0;
    char name[32];
    add_number(s, x, OID "1", turin);
    snprintf(name, sizeof name, "%s%s", s->product, s->vlek ? "" : "-B0");
    add_text(x, OID "2", name);
    for (size_t i = turin ? 0 : 1; i < 5; i++)
        add_number(s, x, spl[i], s->cert_tcb[i]);
    if (s->vlek)
        add_text(x, OID "5", "some cloud");
    else
        add_bytes(x, OID "4", s->cert_chip, turin ? 8 : 64);
}

static void sign_report(uint8_t *report, EVP_PKEY *key)
{
    unsigned char sig[128];
    const unsigned char *at = sig;
    uint8_t big[48];
    size_t n = sizeof sig;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    assert_int_equal(EVP_DigestSignInit(ctx, NULL, EVP_sha384(), NULL, key), 1);
    assert_int_equal(EVP_DigestSign(ctx, sig, &n, report, ST_SNP_SIGNED), 1);
    ECDSA_SIG *s = d2i_ECDSA_SIG(NULL, &at, (long)n);
    for (int k = 0; k < 2; k++) {
        BN_bn2binpad(k ? ECDSA_SIG_get0_s(s) : ECDSA_SIG_get0_r(s), big, 48);
        for (int i = 0; i < 48; i++)
            report[ST_SNP_SIGNED + 72 * k + i] = big[47 - i];
    }
    ECDSA_SIG_free(s);
    EVP_MD_CTX_free(ctx);
}

static void fill_report(struct snp *s)
{
    bool turin = s->version >= 3 && s->family == 0x1a;
    uint8_t *p = s->report;
    memset(p, 0, sizeof s->report);
    put(p, s->version, 4);
    put(p + 0x08, s->policy, 8);
    put(p + 0x30, s->vmpl, 4);
    put(p + 0x34, 1, 4);
    put(p + 0x40, 0x25, 8);
    put(p + 0x48, s->signing_key << 2, 4);
    memcpy(p + 0x50, s->report_data, 64);
    memset(p + 0x90, 0x5a, 48);
    if (s->version >= 3) {
        p[0x188] = s->family;
        p[0x189] = s->model;
    }
    for (size_t i = 0; i < 4; i++)
        put_tcb(p + (const size_t[]){0x38, 0x180, 0x1e0, 0x1f0}[i], s->tcb, turin);
    memcpy(p + 0x1a0, s->chip, 64);
    if (s->version >= 5)
        put(p + 0x1f8, 7, 8);
    if (s->dirty)
        p[s->dirty] ^= 1;
}

static struct snp defaults(void)
{
    struct snp s = {.product = "Milan",
                    .family = 0x19,
                    .model = 0x01,
                    .version = 3,
                    .policy = 0x3001f,
                    .tcb = {0, 3, 0, 23, 213},
                    .cert_tcb = {0, 3, 0, 23, 213}};
    for (int i = 0; i < 64; i++)
        s.chip[i] = s.cert_chip[i] = (uint8_t)(i + 1);
    return s;
}

static void build(struct snp *s)
{
    char ark[32], ask[32];
    snprintf(ark, sizeof ark, "ARK-%s", s->product);
    snprintf(ask, sizeof ask, "SEV-%s%s", s->vlek ? "VLEK-" : "", s->product);
    s->ark_key = EVP_EC_gen("P-256");
    s->ask_key = EVP_EC_gen("P-256");
    s->vek_key = EVP_EC_gen("P-384");
    s->ark = made_ca(ark, s->ark_key, NULL, s->ark_key);
    s->ask = made_ca(ask, s->ask_key, s->ark, s->ark_key);
    const char *cn = s->leaf_cn ? s->leaf_cn : s->vlek ? "SEV-VLEK" : "SEV-VCEK";
    s->vek = made_unsigned(&(struct made_cert){.cn = cn, .to = s->leaf_to}, s->vek_key, s->ask);
    add_extensions(s, s->vek);
    made_sign(s->vek, s->ask_key);
    add_pem(&s->roots, s->ark);
    add_pem(&s->certs, s->vek);
    add_pem(&s->certs, s->ask);
    made_crl(&s->crl, s->ark, s->ark_key, NULL, MADE_AT - DAY, MADE_AT + DAY);
    fill_report(s);
    sign_report(s->report, s->vek_key);
    s->ev = (struct st_evidence){.kind = "snp", .data = {s->report, sizeof s->report}};
    endorse(&s->ev, ST_ENDORSEMENT_CERTS, span_of(&s->certs));
    endorse(&s->ev, ST_ENDORSEMENT_CRL, span_of(&s->crl));
}

static void drop(struct snp *s)
{
    X509_free(s->ark);
    X509_free(s->ask);
    X509_free(s->vek);
    EVP_PKEY_free(s->ark_key);
    EVP_PKEY_free(s->ask_key);
    EVP_PKEY_free(s->vek_key);
    st_buf_free(&s->roots);
    st_buf_free(&s->certs);
    st_buf_free(&s->crl);
}

/* Builds, verifies, and wants exactly one check that does not pass, or none (NULL). */
static void expect_only(struct snp s, const char *name, const char *says)
{
    struct st_appraisal a;
    const char *first = "";
    build(&s);
    appraise(&s.ev, span_of(&s.roots), MADE_AT, &a);
    size_t n = count_bad(&a, &first);
    if (n != (name != NULL))
        fail_msg("want %s alone to fail, got %zu, first %s", name ? name : "nothing", n, first);
    if (name)
        assert_check(&a, name, ST_CHECK_FAIL, says);
    st_appraisal_wipe(&a);
    drop(&s);
}

static void reports_of_every_version_and_line_pass_with_vcek_or_vlek(void **state)
{
    static const struct {
        const char *product;
        uint8_t family, model;
    } lines[] = {{"Milan", 0x19, 0x01}, {"Genoa", 0x19, 0x11}, {"Genoa", 0x19, 0xa0}, {"Turin", 0x1a, 0x02}};
    (void)state;
    for (unsigned version = 2; version <= 5; version++)
        for (size_t i = 0; i < 4; i++)
            for (int vlek = 0; vlek < 2; vlek++) {
                struct snp s = defaults();
                if (version == 2 && i == 3) /* Turin's firmware never wrote version 2 */
                    continue;
                s.version = version;
                s.product = lines[i].product;
                s.family = lines[i].family;
                s.model = lines[i].model;
                s.vlek = vlek;
                s.signing_key = (unsigned)vlek;
                if (i == 3) {
                    s.tcb[0] = s.cert_tcb[0] = 4;
                    memset(s.chip + 8, 0, 56);
                }
                expect_only(s, NULL, NULL);
            }
}

static void a_report_says_what_a_policy_asks(void **state)
{
    struct snp s = defaults();
    struct st_appraisal a;
    (void)state;
    s.version = 5;
    s.policy = 0x3001f | 1ull << 20 | 1ull << 24;
    s.vmpl = 2;
    build(&s);
    appraise(&s.ev, span_of(&s.roots), MADE_AT, &a);
    assert_number(&a, "snp.tcb.bootloader", 3);
    assert_number(&a, "snp.tcb.snp", 23);
    assert_number(&a, "snp.tcb.microcode", 213);
    assert_number(&a, "snp.policy.abi_minor", 0x1f);
    assert_number(&a, "snp.policy.smt", 1);
    assert_number(&a, "snp.policy.single_socket", 1);
    assert_number(&a, "snp.policy.migrate_ma", 0);
    assert_number(&a, "snp.policy.ciphertext_hiding_dram", 1);
    assert_number(&a, "snp.platform.alias_check_complete", 1);
    assert_number(&a, "snp.debug", 0);
    assert_number(&a, "snp.vmpl", 2);
    assert_number(&a, "snp.launch_mitigations", 7);
    assert_text(&a, "snp.product", "Milan");
    st_appraisal_wipe(&a);
    drop(&s);
}

/* ---- wrong in one place ---- */

static void a_certificate_for_another_patch_level_or_chip_is_refused(void **state)
{
    (void)state;
    for (int i = 1; i < 5; i++) {
        struct snp s = defaults();
        s.cert_tcb[i]++;
        expect_only(s, "snp.tcb", "reported");
    }
    struct snp s = defaults();
    s.cert_chip[63] ^= 1;
    expect_only(s, "snp.chip_id", "another chip");
    s = defaults();
    memset(s.chip, 0, sizeof s.chip);
    expect_only(s, "snp.chip_id", "masks");
}

static void a_certificate_of_another_line_or_kind_of_key_is_refused(void **state)
{
    struct snp s = defaults();
    (void)state;
    s.model = 0x11;
    expect_only(s, "snp.product", "Genoa");
    s = defaults();
    s.signing_key = 1;
    expect_only(s, "snp.certificate", "VCEK");
    s = defaults();
    s.signing_key = 7;
    expect_only(s, "snp.certificate", "key 7");
    s = defaults();
    s.leaf_cn = "SEV-Other";
    expect_only(s, "snp.certificate", "SEV-VCEK or SEV-VLEK");
    s = defaults();
    s.leaf_cn = "SEV-VLEK"; /* its issuer is that of VCEKs */
    expect_only(s, "snp.certificate", "issuer");
    s = defaults();
    s.twice = OID "3.8";
    expect_only(s, "snp.certificate", "twice");
}

static void bits_without_a_meaning_must_be_zero(void **state)
{
    static const struct {
        unsigned version;
        size_t at;
    } dirty[] = {{2, 0x188}, {3, 0x18b}, {4, 0x19f}, {4, 0x1f8}, {5, 0x208}, {5, 0x29f},
                 {3, 0x4c},  {3, 0x49},  {3, 0x1eb}, {3, 0x1ef}, {3, 0x182}, {3, 0x0b + 4}};
    (void)state;
    for (size_t i = 0; i < sizeof dirty / sizeof *dirty; i++) {
        struct snp s = defaults();
        s.version = dirty[i].version;
        s.dirty = dirty[i].at;
        expect_only(s, "snp.reserved", "has to be");
    }
    struct snp s = defaults();
    s.policy &= ~(1ull << 17);
    expect_only(s, "snp.reserved", "has to be");
}

static void certificates_that_expired_or_are_revoked_or_of_another_root_are_refused(void **state)
{
    struct snp s = defaults(), other = defaults();
    struct st_appraisal a;
    struct st_buf crl = {0};
    (void)state;
    s.leaf_to = MADE_AT - 1;
    build(&s);
    appraise(&s.ev, span_of(&s.roots), MADE_AT, &a);
    assert_check(&a, "snp.chain", ST_CHECK_FAIL, "expired");
    st_appraisal_wipe(&a);
    drop(&s);

    s = defaults();
    build(&s);
    build(&other);
    appraise(&s.ev, span_of(&other.roots), MADE_AT, &a);
    assert_check(&a, "snp.chain", ST_CHECK_FAIL, "");
    st_appraisal_wipe(&a);
    appraise(&s.ev, pinned, MADE_AT, &a);
    assert_check(&a, "snp.chain", ST_CHECK_FAIL, "");
    st_appraisal_wipe(&a);

    /* The ASK on its root's list; a VCEK on a list of the ASK's; a list that is no longer valid; one by another key. */
    X509 *revoked[] = {s.ask, s.vek, NULL, NULL};
    for (size_t i = 0; i < 4; i++) {
        int64_t to = MADE_AT + (i == 2 ? -1 : DAY);
        s.ev.n_endorsement = 2;
        made_crl(&crl, i == 1 ? s.ask : s.ark,
                 i == 1   ? s.ask_key
                 : i == 3 ? other.ark_key
                          : s.ark_key,
                 revoked[i], MADE_AT - DAY, to);
        if (i == 1)
            endorse(&s.ev, ST_ENDORSEMENT_CRL, span_of(&crl));
        else
            s.ev.endorsements[1].data = span_of(&crl);
        appraise(&s.ev, span_of(&s.roots), MADE_AT, &a);
        assert_check(&a, "snp.revocation", ST_CHECK_FAIL, i < 2 ? "revoked" : i == 2 ? "expired" : "");
        assert_check(&a, "snp.chain", ST_CHECK_PASS, "");
        st_appraisal_wipe(&a);
        s.ev.endorsements[1].data = span_of(&s.crl);
    }
    s.ev.n_endorsement = 1;
    appraise(&s.ev, span_of(&s.roots), MADE_AT, &a);
    assert_check(&a, "snp.revocation", ST_CHECK_ABSENT, "no revocation list");
    st_appraisal_wipe(&a);
    s.ev.n_endorsement = 0;
    appraise(&s.ev, span_of(&s.roots), MADE_AT, &a);
    assert_check(&a, "snp.signature", ST_CHECK_ABSENT, "no certificate");
    assert_check(&a, "snp.chain", ST_CHECK_ABSENT, "no certificate");
    st_appraisal_wipe(&a);
    st_buf_free(&crl);
    drop(&s);
    drop(&other);
}

static void every_flipped_byte_and_every_truncation_of_a_made_report_is_refused(void **state)
{
    struct snp s = defaults();
    uint8_t copy[ST_SNP_REPORT];
    (void)state;
    build(&s);
    s.ev.data.p = copy;
    s.ev.n_endorsement = 1;
    for (size_t i = 0; i < sizeof copy; i++) {
        memcpy(copy, s.report, sizeof copy);
        copy[i] ^= (uint8_t)(1u << i % 8);
        if (!is_refused(&s.ev, span_of(&s.roots), MADE_AT))
            fail_msg("byte %zu can be changed", i);
    }
    memcpy(copy, s.report, sizeof copy);
    for (size_t n = 0; n < sizeof copy; n++) {
        s.ev.data.len = n;
        if (!is_refused(&s.ev, span_of(&s.roots), MADE_AT))
            fail_msg("%zu bytes suffice", n);
    }
    drop(&s);
}

static void damaged_certificates_and_lists_never_crash_and_never_pass(void **state)
{
    struct snp s = defaults();
    struct st_rng r;
    (void)state;
    build(&s);
    st_rng_seed(&r, 7);
    for (int i = 0; i < 300; i++) {
        struct st_appraisal a;
        size_t len;
        const struct st_buf *from = i % 2 ? &s.crl : &s.certs;
        uint8_t *p = mutate(&r, from->p, from->len, from->len, &len);
        bool same = len == from->len && memcmp(p, from->p, len) == 0;
        s.ev.endorsements[i % 2].data = (struct st_span){p, len};
        appraise(&s.ev, span_of(&s.roots), MADE_AT, &a);
        const struct st_check *c = st_appraisal_find_check(&a, "snp.revocation");
        if (i % 2 && !same && c && c->result == ST_CHECK_PASS)
            fail_msg("a damaged list passes");
        st_appraisal_wipe(&a);
        s.ev.endorsements[i % 2].data = span_of(from);
        free(p);
    }
    drop(&s);
}

/* ---- policies ---- */

static int judge(const struct snp *s, const char *policy, struct st_verdict *v)
{
    struct st_err e = {0};
    struct st_policy *p;
    struct st_bundle b = {.n_item = 1, .items = {s->ev}};
    assert_ok(st_policy_parse(policy, strlen(policy), "policy", &p, &e), &e);
    struct st_judge j = {.policy = p, .bundle = &b, .time = MADE_AT};
    assert_ok(st_policy_judge(&j, v, &e), &e);
    st_policy_free(p);
    return v->code;
}

/* The name, and what it has to be for the policy to be content. Roots are pinned there: everything else may fail. */
static void expect_demand(const struct snp *given, const char *policy, const char *check, enum st_check_result want)
{
    struct snp s = *given;
    struct st_verdict v;
    build(&s);
    judge(&s, policy, &v);
    assert_check(&v.found, check, want, "");
    assert_false(v.good);
    st_verdict_wipe(&v);
    drop(&s);
}

static void gap_n6_debug_measurement_patch_level_vmpl_and_migration_are_judged(void **state)
{
    static const char policy[] = "{\"version\": 1, \"require\": [\"snp\"], \"measurements\": {\"snp.measurement\": "
                                 "[\"5a5a5a5a5a5a5a5a5a5a5a5a5a5a"
                                 "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a\"]}, "
                                 "\"minimum\": {\"snp.tcb.microcode\": 213, \"snp.policy.abi_minor\": 31}}";
    struct snp s = defaults();
    (void)state;
    static const char *const good[] = {"policy.snp.measurement", "policy.minimum.snp.tcb.microcode",
                                       "policy.debug.snp",       "policy.snp.migrate_ma",
                                       "policy.snp.vmpl",        "policy.minimum.snp.policy.abi_minor"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        expect_demand(&s, policy, good[i], ST_CHECK_PASS);
    s.dirty = 0x90;
    expect_demand(&s, policy, "policy.snp.measurement", ST_CHECK_FAIL);
    s = defaults();
    s.tcb[4] = s.cert_tcb[4] = 212;
    expect_demand(&s, policy, "policy.minimum.snp.tcb.microcode", ST_CHECK_FAIL);
    s = defaults();
    s.policy |= 1u << 19;
    expect_demand(&s, policy, "policy.debug.snp", ST_CHECK_FAIL);
    s = defaults();
    s.policy |= 1u << 18;
    expect_demand(&s, policy, "policy.snp.migrate_ma", ST_CHECK_FAIL);
    s = defaults();
    s.vmpl = 3;
    expect_demand(&s, policy, "policy.snp.vmpl", ST_CHECK_FAIL);
    s = defaults();
    s.policy = (s.policy & ~0xffull) | 30;
    expect_demand(&s, policy, "policy.minimum.snp.policy.abi_minor", ST_CHECK_FAIL);
}

/* ---- runtime data ---- */

/* A key of 2048 bits that need not be anybody's. */
static void make_runtime_data(struct st_buf *out, char fill)
{
    st_buf_add_str(out, "{\"keys\":[{\"kid\":\"HCLAkPub\",\"kty\":\"RSA\",\"e\":\"AQAB\",\"n\":\"");
    for (int i = 0; i < 341; i++)
        st_buf_add(out, &fill, 1);
    st_buf_add_str(out, "w\"}],\"vm-configuration\":{\"secure-boot\":true},\"user-data\":\"00ff\"}");
}

static void gap_n7_runtime_data_must_be_what_the_report_binds(void **state)
{
    struct snp s = defaults();
    struct st_appraisal a;
    struct st_buf data = {0}, other = {0};
    (void)state;
    make_runtime_data(&data, 'q');
    make_runtime_data(&other, 'r');
    st_sha256(data.p, data.len, s.report_data);
    build(&s);
    endorse(&s.ev, ST_ENDORSEMENT_RUNTIME_DATA, span_of(&data));
    appraise(&s.ev, span_of(&s.roots), MADE_AT, &a);
    assert_int_equal(count_bad(&a, NULL), 0);
    assert_check(&a, "snp.runtime_data", ST_CHECK_PASS, "");
    assert_text(&a, "snp.runtime_user_data", "00ff");
    assert_non_null(st_appraisal_find_claim(&a, "snp.runtime_ak"));
    st_appraisal_wipe(&a);
    s.ev.endorsements[2].data = span_of(&other);
    appraise(&s.ev, span_of(&s.roots), MADE_AT, &a);
    assert_check(&a, "snp.runtime_data", ST_CHECK_FAIL, "not the SHA-256");
    assert_null(st_appraisal_find_claim(&a, "snp.runtime_ak"));
    st_appraisal_wipe(&a);
    st_buf_free(&data);
    st_buf_free(&other);
    drop(&s);
}

/* ---- real ones ---- */

static void amds_own_report_verifies_and_every_damage_to_it_is_refused(void **state)
{
    struct st_buf report = {0}, vcek = {0}, chain = {0}, crl = {0}, crl_der = {0};
    struct st_appraisal a;
    (void)state;
    if (!shared_file("snp/milan_v2_report.bin", &report) || !shared_file("snp/milan_vcek.der", &vcek) ||
        !shared_file("snp/milan_ark_ask.pem", &chain) || !shared_file("snp/sev_certificates.txt", &crl))
        return;
    struct st_evidence ev = {.kind = "snp", .data = span_of(&report)};
    assert_string_equal(st_verifier_recognise(ev.data.p, ev.data.len)->kind, "snp");
    endorse(&ev, ST_ENDORSEMENT_CERTS, span_of(&vcek)); /* the rest of the chain is pinned */
    appraise(&ev, pinned, NOW, &a);
    assert_int_equal(count_bad(&a, NULL), 1);
    assert_check(&a, "snp.revocation", ST_CHECK_ABSENT, "");
    assert_number(&a, "snp.debug", 1);
    assert_number(&a, "snp.tcb.microcode", 68);
    assert_text(&a, "snp.product", "Milan");
    st_appraisal_wipe(&a);
    endorse(&ev, ST_ENDORSEMENT_CERTS, span_of(&chain));
    pem_block(&crl, "test_amd_milan_crl.pem", &crl_der);
    endorse(&ev, ST_ENDORSEMENT_CRL, span_of(&crl_der));
    appraise(&ev, pinned, INT64_C(1750000000), &a); /* June 2025, when the list was valid */
    assert_int_equal(count_bad(&a, NULL), 0);
    st_appraisal_wipe(&a);
    appraise(&ev, pinned, INT64_C(1900000000), &a); /* 2030 */
    assert_check(&a, "snp.chain", ST_CHECK_FAIL, "expired");
    st_appraisal_wipe(&a);
    ev.n_endorsement = 1;
    for (size_t i = 0; i < report.len; i++) {
        report.p[i] ^= (char)(1u << i % 8);
        if (!is_refused(&ev, pinned, NOW))
            fail_msg("byte %zu can be changed", i);
        report.p[i] ^= (char)(1u << i % 8);
    }
    st_buf_free(&report);
    st_buf_free(&vcek);
    st_buf_free(&chain);
    st_buf_free(&crl);
    st_buf_free(&crl_der);
}

static void googles_report_is_read_and_refused_with_the_certificate_of_another_chip(void **state)
{
    struct st_buf text = {0}, report = {0}, certs = {0}, vcek = {0};
    struct st_appraisal a;
    (void)state;
    if (!shared_file("snp/gce_sevsnp_report.txt", &text) || !shared_file("snp/sev_certificates.txt", &certs))
        return;
    pem_block(&text, "test_gce_sevsnp_report", &report);
    pem_block(&certs, "test_vcek.pem", &vcek);
    struct st_evidence ev = {.kind = "snp", .data = span_of(&report)};
    appraise(&ev, pinned, NOW, &a);
    assert_check(&a, "snp.reserved", ST_CHECK_PASS, "");
    assert_check(&a, "snp.signature", ST_CHECK_ABSENT, "no certificate");
    assert_number(&a, "snp.version", 4);
    assert_number(&a, "snp.tcb.microcode", 219);
    assert_text(&a, "snp.firmware", "1.55.31");
    st_appraisal_wipe(&a);
    endorse(&ev, ST_ENDORSEMENT_CERTS, span_of(&vcek));
    appraise(&ev, pinned, INT64_C(1760000000), &a);
    assert_check(&a, "snp.signature", ST_CHECK_FAIL, "not this key's");
    assert_check(&a, "snp.tcb", ST_CHECK_FAIL, "reported");
    assert_check(&a, "snp.product", ST_CHECK_FAIL, "Genoa");
    assert_check(&a, "snp.chip_id", ST_CHECK_FAIL, "another chip");
    assert_check(&a, "snp.chain", ST_CHECK_PASS, ""); /* a good certificate, of somebody else */
    st_appraisal_wipe(&a);
    st_buf_free(&text);
    st_buf_free(&report);
    st_buf_free(&certs);
    st_buf_free(&vcek);
}

static void azures_file_of_report_and_runtime_data_verifies(void **state)
{
    struct st_buf hcl = {0}, vcek = {0};
    struct st_appraisal a;
    (void)state;
    if (!shared_file("tpm/hcl-report.bin", &hcl) || !shared_file("tpm/vcek.pem", &vcek))
        return;
    struct st_evidence ev = {.kind = "snp", .data = span_of(&hcl)};
    assert_string_equal(st_verifier_recognise(ev.data.p, ev.data.len)->kind, "snp");
    endorse(&ev, ST_ENDORSEMENT_CERTS, span_of(&vcek));
    appraise(&ev, pinned, NOW, &a);
    assert_int_equal(count_bad(&a, NULL), 1); /* no list */
    assert_check(&a, "snp.runtime_data", ST_CHECK_PASS, "");
    assert_number(&a, "snp.runtime_secure_boot", 1);
    st_appraisal_wipe(&a);
    /* Of the report inside, which the test above damages whole, every fourth byte. */
    for (size_t i = 0; i < hcl.len; i++) {
        if (i >= 32 && i < 32 + ST_SNP_REPORT && i % 4)
            continue;
        hcl.p[i] ^= (char)(1u << i % 8);
        if (!is_refused(&ev, pinned, NOW))
            fail_msg("byte %zu can be changed", i);
        hcl.p[i] ^= (char)(1u << i % 8);
    }
    for (size_t n = 0; n < hcl.len - 254; n++) { /* the last 254 are zeros that fill up */
        ev.data.len = n;
        if (!is_refused(&ev, pinned, NOW))
            fail_msg("%zu bytes suffice", n);
    }
    st_buf_free(&hcl);
    st_buf_free(&vcek);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reports_of_every_version_and_line_pass_with_vcek_or_vlek),
        cmocka_unit_test(a_report_says_what_a_policy_asks),
        cmocka_unit_test(a_certificate_for_another_patch_level_or_chip_is_refused),
        cmocka_unit_test(a_certificate_of_another_line_or_kind_of_key_is_refused),
        cmocka_unit_test(bits_without_a_meaning_must_be_zero),
        cmocka_unit_test(certificates_that_expired_or_are_revoked_or_of_another_root_are_refused),
        cmocka_unit_test(every_flipped_byte_and_every_truncation_of_a_made_report_is_refused),
        cmocka_unit_test(damaged_certificates_and_lists_never_crash_and_never_pass),
        cmocka_unit_test(gap_n6_debug_measurement_patch_level_vmpl_and_migration_are_judged),
        cmocka_unit_test(gap_n7_runtime_data_must_be_what_the_report_binds),
        cmocka_unit_test(amds_own_report_verifies_and_every_damage_to_it_is_refused),
        cmocka_unit_test(googles_report_is_read_and_refused_with_the_certificate_of_another_chip),
        cmocka_unit_test(azures_file_of_report_and_runtime_data_verifies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
