/* TPM quotes: made here, with an attestation key below a root of our own, and real ones of clouds. */
#include "expect.h"

#include "attest/policy.h"
#include "attest/runtime_data.h"
#include "evidence_make.h"
#include "mutate.h"

#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/rsa.h>

#include "log_make.h"

#define NOW INT64_C(1750500000)

static const struct st_span pinned = {NULL, 0};

/* A root, an attestation key below it. */
static struct {
    EVP_PKEY *root_key, *rsa, *p256, *p384, *other;
    X509 *root;
    struct st_buf roots;
} authority;

static int open_authority(void **state)
{
    (void)state;
    authority.root_key = EVP_EC_gen("P-256");
    authority.rsa = EVP_RSA_gen(2048);
    authority.p256 = EVP_EC_gen("P-256");
    authority.p384 = EVP_EC_gen("P-384");
    authority.other = EVP_EC_gen("P-256");
    authority.root = made_ca("TPM root", authority.root_key, NULL, authority.root_key);
    add_pem(&authority.roots, authority.root);
    return 0;
}

static int close_authority(void **state)
{
    (void)state;
    EVP_PKEY_free(authority.root_key);
    EVP_PKEY_free(authority.rsa);
    EVP_PKEY_free(authority.p256);
    EVP_PKEY_free(authority.p384);
    EVP_PKEY_free(authority.other);
    X509_free(authority.root);
    st_buf_free(&authority.roots);
    return 0;
}

static X509 *ak_certificate(EVP_PKEY *key, const char *usage, int64_t to, struct st_buf *pem)
{
    X509 *x =
        made_sign(made_unsigned(&(struct made_cert){.cn = "AK", .key_usage = usage, .to = to}, key, authority.root),
                  authority.root_key);
    st_buf_clear(pem);
    add_pem(pem, x);
    return x;
}

/* A good quote by the P-256 key with a certificate. */
static void good(struct tpm *t, struct st_buf *pem)
{
    tpm_open(t, authority.p256, ST_TPM_ECDSA, ST_TPM_SHA256, ST_TPM_SHA256);
    X509_free(ak_certificate(authority.p256, "digitalSignature", 0, pem));
    endorse(&t->ev, ST_ENDORSEMENT_CERTS, span_of(pem));
}

static void look(const struct tpm *t, struct st_appraisal *a)
{
    appraise(&t->ev, span_of(&authority.roots), MADE_AT, a);
}

static void expect_fail(const struct tpm *t, const char *name, const char *says)
{
    struct st_appraisal a;
    look(t, &a);
    assert_check(&a, name, ST_CHECK_FAIL, says);
    st_appraisal_wipe(&a);
}

static void quotes_by_keys_of_every_kind_pass(void **state)
{
    const struct {
        EVP_PKEY *key;
        unsigned scheme, hash, bank;
    } kinds[] = {{authority.rsa, ST_TPM_RSASSA, ST_TPM_SHA256, ST_TPM_SHA256},
                 {authority.rsa, ST_TPM_RSASSA, ST_TPM_SHA512, ST_TPM_SHA384},
                 {authority.rsa, ST_TPM_RSAPSS, ST_TPM_SHA256, ST_TPM_SHA256},
                 {authority.p256, ST_TPM_ECDSA, ST_TPM_SHA256, ST_TPM_SHA384},
                 {authority.p384, ST_TPM_ECDSA, ST_TPM_SHA384, ST_TPM_SHA256}};
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct tpm t;
        struct st_buf pem = {0};
        struct st_appraisal a;
        const char *first = "";
        tpm_open(&t, kinds[i].key, kinds[i].scheme, kinds[i].hash, kinds[i].bank);
        X509_free(ak_certificate(kinds[i].key, "digitalSignature", 0, &pem));
        endorse(&t.ev, ST_ENDORSEMENT_CERTS, span_of(&pem));
        look(&t, &a);
        if (count_bad(&a, &first) != 1 || strcmp(first, "tpm.revocation") != 0)
            fail_msg("kind %zu: %s does not pass", i, first);
        assert_text(&a, "tpm.report_data", "61206e6f6e6365");
        assert_number(&a, "tpm.reset_count", 5);
        assert_number(&a, "tpm.secure_boot", 1);
        assert_non_null(st_appraisal_find_claim(&a, "tpm.pcr.14"));
        assert_null(st_appraisal_find_claim(&a, "tpm.pcr.12"));
        st_appraisal_wipe(&a);
        /* The log alone gives the values, too. */
        t.ev.endorsements[1] = t.ev.endorsements[2];
        t.ev.endorsements[2] = t.ev.endorsements[3];
        t.ev.n_endorsement = 3;
        look(&t, &a);
        assert_int_equal(count_bad(&a, NULL), 1);
        st_appraisal_wipe(&a);
        st_buf_free(&pem);
        tpm_close(&t);
    }
}

static void a_certificate_of_another_key_or_root_or_use_is_refused(void **state)
{
    struct tpm t;
    struct st_buf pem = {0}, roots = {0}, crl = {0};
    struct st_appraisal a;
    (void)state;
    good(&t, &pem);
    appraise(&t.ev, pinned, MADE_AT, &a);
    assert_check(&a, "tpm.chain", ST_CHECK_FAIL, "");
    st_appraisal_wipe(&a);
    appraise(&t.ev, span_of(&authority.roots), MADE_AT + 30 * DAY, &a);
    assert_check(&a, "tpm.chain", ST_CHECK_FAIL, "expired");
    st_appraisal_wipe(&a);

    X509 *x = ak_certificate(authority.p256, "digitalSignature", 0, &pem);
    t.ev.endorsements[3].data = span_of(&pem);
    made_crl(&crl, authority.root, authority.root_key, x, MADE_AT - DAY, MADE_AT + DAY);
    endorse(&t.ev, ST_ENDORSEMENT_CRL, span_of(&crl));
    expect_fail(&t, "tpm.revocation", "revoked");
    made_crl(&crl, authority.root, authority.root_key, NULL, MADE_AT - DAY, MADE_AT + DAY);
    t.ev.endorsements[4].data = span_of(&crl);
    look(&t, &a);
    assert_int_equal(count_bad(&a, NULL), 0);
    st_appraisal_wipe(&a);
    X509_free(x);

    X509_free(ak_certificate(authority.p256, "keyEncipherment", 0, &pem));
    t.ev.endorsements[3].data = span_of(&pem);
    expect_fail(&t, "tpm.chain", "not one of a key that signs");
    X509_free(ak_certificate(authority.other, "digitalSignature", 0, &pem));
    t.ev.endorsements[3].data = span_of(&pem);
    expect_fail(&t, "tpm.signature", "not this key's");
    st_buf_free(&pem);
    st_buf_free(&roots);
    st_buf_free(&crl);
    tpm_close(&t);
}

static void put_rsa_area(struct st_buf *b, uint32_t attributes, EVP_PKEY *key)
{
    uint8_t n[256];
    BIGNUM *bn = NULL;
    assert_int_equal(EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_N, &bn), 1);
    BN_bn2binpad(bn, n, sizeof n);
    BN_free(bn);
    st_buf_clear(b);
    put_be(b, 0x0001, 2);
    put_be(b, ST_TPM_SHA256, 2);
    put_be(b, attributes, 4);
    put_be(b, 0, 2);
    put_be(b, 0x0010, 2);
    put_be(b, ST_TPM_RSASSA, 2);
    put_be(b, ST_TPM_SHA256, 2);
    put_be(b, 2048, 2);
    put_be(b, 0, 4);
    put_sized(b, n, sizeof n);
}

static void gap_n8_attributes_of_the_key_are_judged(void **state)
{
    const uint32_t right =
        ST_TPMA_FIXED_TPM | ST_TPMA_FIXED_PARENT | ST_TPMA_SENSITIVE_DATA_ORIGIN | ST_TPMA_RESTRICTED | ST_TPMA_SIGN;
    const uint32_t wrong[] = {
        right & ~ST_TPMA_FIXED_TPM,  right & ~ST_TPMA_FIXED_PARENT, right & ~ST_TPMA_SENSITIVE_DATA_ORIGIN,
        right & ~ST_TPMA_RESTRICTED, right & ~ST_TPMA_SIGN,         right | ST_TPMA_DECRYPT};
    struct tpm t;
    struct st_buf area = {0};
    struct st_appraisal a;
    (void)state;
    tpm_open(&t, authority.rsa, ST_TPM_RSASSA, ST_TPM_SHA256, ST_TPM_SHA256);
    put_rsa_area(&area, right, authority.rsa);
    endorse(&t.ev, ST_ENDORSEMENT_AK_PUBLIC, span_of(&area));
    look(&t, &a);
    assert_check(&a, "tpm.signature", ST_CHECK_PASS, "");
    assert_check(&a, "tpm.ak_attributes", ST_CHECK_PASS, "");
    assert_check(&a, "tpm.chain", ST_CHECK_ABSENT, "no certificate");
    st_appraisal_wipe(&a);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        put_rsa_area(&area, wrong[i], authority.rsa);
        t.ev.endorsements[3].data = span_of(&area);
        expect_fail(&t, "tpm.ak_attributes", "want fixedTPM");
    }
    for (size_t n = 0; n < area.len; n++) {
        t.ev.endorsements[3].data.len = n;
        expect_fail(&t, "tpm.signature", "public key");
    }
    st_buf_free(&area);
    tpm_close(&t);
}

static void gap_n3_the_selection_must_be_complete_and_no_value_may_be_unquoted(void **state)
{
    static const struct {
        uint32_t selected, has;
        unsigned bank, more;
        const char *check, *says;
    } wrong[] = {{0x000001, 0x0043ff, ST_TPM_SHA256, 0, "tpm.pcr_selection", "want PCRs 0 to 7"},
                 {0x00437f, 0x00437f, ST_TPM_SHA256, 0, "tpm.pcr_selection", "want PCRs 0 to 7"},
                 {0x0043ff, 0x0053ff, ST_TPM_SHA256, 0, "tpm.pcr_selection", "not all are quoted"},
                 {0x0043ff, 0x0042ff, ST_TPM_SHA256, 0, "tpm.pcr_values", "PCR 8 is quoted"},
                 {0x0043ff, 0x0043ff, ST_TPM_SHA1, 0, "tpm.pcr_selection", "bank sha1"},
                 {0x0043ff, 0x0043ff, ST_TPM_SHA256, 1, "tpm.pcr_selection", "2 banks"}};
    struct tpm t;
    struct st_buf pem = {0};
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        good(&t, &pem);
        t.selected = wrong[i].selected;
        t.pcrs.has = wrong[i].has;
        t.bank = wrong[i].bank;
        t.more_banks = wrong[i].more;
        quote_build(&t);
        endorse(&t.ev, ST_ENDORSEMENT_CERTS, span_of(&pem));
        expect_fail(&t, wrong[i].check, wrong[i].says);
        tpm_close(&t);
    }
    st_buf_free(&pem);
}

static void gap_n1_another_value_of_the_models_pcr_is_refused(void **state)
{
    struct tpm t;
    struct st_buf pem = {0};
    struct st_appraisal a;
    (void)state;
    good(&t, &pem);
    log_add(&t.log, ST_TPM_SHA256, 12, ST_EV_IPL, "model digest", 12, "model", 5);
    t.selected |= 1u << 12;
    pcrs_of(&t.log, ST_TPM_SHA256, t.selected, &t.pcrs);
    quote_build(&t);
    endorse(&t.ev, ST_ENDORSEMENT_CERTS, span_of(&pem));
    look(&t, &a);
    assert_int_equal(count_bad(&a, NULL), 1);
    st_appraisal_wipe(&a);
    /* Said to be another one: not what was quoted. */
    t.pcrs.value[12][0] ^= 1;
    pcrs_json(&t.pcrs, &t.values);
    t.ev.endorsements[1].data = span_of(&t.values);
    expect_fail(&t, "tpm.pcr_values", "not those that the TPM quoted");
    expect_fail(&t, "tpm.event_log", "not what the TPM quoted");
    /* Quoted to be another one than logged. */
    quote_build(&t);
    endorse(&t.ev, ST_ENDORSEMENT_CERTS, span_of(&pem));
    expect_fail(&t, "tpm.event_log", "PCR 12");
    st_buf_free(&pem);
    tpm_close(&t);
}

static void make_runtime_data(struct st_buf *out, EVP_PKEY *key)
{
    uint8_t n[256];
    char text[400];
    BIGNUM *bn = NULL;
    assert_int_equal(EVP_PKEY_get_bn_param(key, OSSL_PKEY_PARAM_RSA_N, &bn), 1);
    BN_bn2binpad(bn, n, sizeof n);
    BN_free(bn);
    int len = EVP_EncodeBlock((unsigned char *)text, n, sizeof n);
    while (text[len - 1] == '=')
        text[--len] = 0;
    for (char *c = text; *c; c++)
        *c = *c == '+' ? '-' : *c == '/' ? '_' : *c;
    st_buf_clear(out);
    st_buf_addf(out, "{\"keys\":[{\"kid\":\"HCLAkPub\",\"kty\":\"RSA\",\"e\":\"AQAB\",\"n\":\"%s\"}]}", text);
}

static void gap_n7_runtime_data_names_the_key_and_no_other_counts(void **state)
{
    struct tpm t;
    struct st_buf data = {0};
    struct st_appraisal a;
    EVP_PKEY *other = EVP_RSA_gen(2048);
    (void)state;
    tpm_open(&t, authority.rsa, ST_TPM_RSASSA, ST_TPM_SHA256, ST_TPM_SHA256);
    make_runtime_data(&data, authority.rsa);
    endorse(&t.ev, ST_ENDORSEMENT_RUNTIME_DATA, span_of(&data));
    look(&t, &a);
    assert_check(&a, "tpm.signature", ST_CHECK_PASS, "");
    assert_check(&a, "tpm.chain", ST_CHECK_ABSENT, "platform's report");
    st_appraisal_wipe(&a);
    make_runtime_data(&data, other);
    t.ev.endorsements[3].data = span_of(&data);
    expect_fail(&t, "tpm.signature", "not this key's");
    EVP_PKEY_free(other);
    st_buf_free(&data);
    tpm_close(&t);
}

static void gap_n9_the_nonce_and_the_boot_of_a_quote_are_judged(void **state)
{
    static const char policy[] =
        "{\"version\": 1, \"require\": [\"tpm\"], \"measurements\": {\"tpm.reset_count\": [6]}}";
    struct tpm t;
    struct st_buf pem = {0};
    struct st_err e = {0};
    struct st_policy *p;
    struct st_verdict v;
    (void)state;
    good(&t, &pem);
    assert_ok(st_policy_parse(policy, strlen(policy), "policy", &p, &e), &e);
    struct st_bundle b = {.n_item = 1, .items = {t.ev}};
    for (int i = 0; i < 2; i++) {
        struct st_judge j = {
            .policy = p, .bundle = &b, .time = MADE_AT, .nonce = {(const uint8_t *)(i ? "another" : "a nonce"), 7}};
        assert_ok(st_policy_judge(&j, &v, &e), &e);
        assert_check(&v.found, "policy.nonce.tpm", i ? ST_CHECK_FAIL : ST_CHECK_PASS, "");
        assert_check(&v.found, "policy.tpm.reset_count", ST_CHECK_FAIL, "5");
        st_verdict_wipe(&v);
    }
    st_policy_free(p);
    st_buf_free(&pem);
    tpm_close(&t);
}

static void every_flipped_byte_and_every_truncation_of_quote_and_signature_is_refused(void **state)
{
    struct tpm t;
    struct st_buf pem = {0};
    (void)state;
    good(&t, &pem);
    for (int k = 0; k < 2; k++) {
        struct st_buf *b = k ? &t.signature : &t.quote;
        struct st_span *s = k ? &t.ev.endorsements[0].data : &t.ev.data;
        for (size_t i = 0; i < b->len; i++) {
            b->p[i] ^= (char)(1u << i % 8);
            if (!is_refused(&t.ev, span_of(&authority.roots), MADE_AT))
                fail_msg("%s: byte %zu can be changed", k ? "signature" : "quote", i);
            b->p[i] ^= (char)(1u << i % 8);
        }
        for (s->len = 0; s->len < b->len; s->len++)
            if (!is_refused(&t.ev, span_of(&authority.roots), MADE_AT))
                fail_msg("%s: %zu bytes suffice", k ? "signature" : "quote", s->len);
    }
    st_buf_free(&pem);
    tpm_close(&t);
}

static void damaged_endorsements_never_crash(void **state)
{
    struct tpm t;
    struct st_buf pem = {0};
    struct st_rng r;
    (void)state;
    good(&t, &pem);
    st_rng_seed(&r, 9);
    for (int i = 0; i < 400; i++) {
        struct st_endorsement *en = &t.ev.endorsements[i % 4];
        struct st_span was = en->data;
        struct st_appraisal a;
        size_t len;
        uint8_t *p = mutate(&r, was.p, was.len, was.len, &len);
        en->data = (struct st_span){p, len};
        look(&t, &a);
        st_appraisal_wipe(&a);
        en->data = was;
        free(p);
    }
    st_buf_free(&pem);
    tpm_close(&t);
}

/* ---- real ones ---- */

static uint64_t le64(const char *p)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v |= (uint64_t)(uint8_t)p[i] << 8 * i;
    return v;
}

static void azures_quote_verifies_with_the_key_that_its_report_names(void **state)
{
    struct st_buf quote = {0}, hcl = {0}, msg = {0}, sig = {0}, values = {0};
    struct st_span report, json;
    struct st_appraisal a;
    struct st_err e = {0};
    (void)state;
    if (!shared_file("tpm/quote.bin", &quote) || !shared_file("tpm/hcl-report.bin", &hcl) ||
        !shared_file("tpm/tpm-quote.msg", &msg) || !shared_file("tpm/tpm-quote.sig", &sig))
        return;
    assert_ok(st_hcl_split((const uint8_t *)hcl.p, hcl.len, &report, &json, &e), &e);
    /* Signature, message and values, each with a count of 64 bits before it. */
    size_t at = 8 + le64(quote.p), len = le64(quote.p + at);
    struct st_pcrs pcrs = {.alg = ST_TPM_SHA256, .has = 0xffffff};
    for (int i = 0; i < ST_PCR_COUNT; i++)
        memcpy(pcrs.value[i], quote.p + at + 16 + len + 32 * i, 32);
    pcrs_json(&pcrs, &values);
    struct st_evidence ev = {.kind = "tpm", .data = {(const uint8_t *)quote.p + at + 8, len}};
    assert_string_equal(st_verifier_recognise(ev.data.p, ev.data.len)->kind, "tpm");
    endorse(&ev, ST_ENDORSEMENT_SIGNATURE, (struct st_span){(const uint8_t *)quote.p + 8, at - 8});
    endorse(&ev, ST_ENDORSEMENT_RUNTIME_DATA, json);
    endorse(&ev, ST_ENDORSEMENT_PCRS, span_of(&values));
    appraise(&ev, pinned, NOW, &a);
    assert_check(&a, "tpm.signature", ST_CHECK_PASS, "");
    assert_check(&a, "tpm.pcr_selection", ST_CHECK_PASS, "");
    assert_check(&a, "tpm.pcr_values", ST_CHECK_PASS, "");
    assert_check(&a, "tpm.event_log", ST_CHECK_ABSENT, "");
    assert_check(&a, "tpm.chain", ST_CHECK_ABSENT, "");
    assert_text(&a, "tpm.report_data", "6368616c6c656e6765");
    st_appraisal_wipe(&a);
    for (size_t i = 0; i < len; i++) {
        char *p = quote.p + at + 8 + i;
        *p ^= (char)(1u << i % 8);
        if (!is_refused(&ev, pinned, NOW))
            fail_msg("byte %zu can be changed", i);
        *p ^= (char)(1u << i % 8);
    }
    /* The quote of another machine's TPM. */
    ev.data = span_of(&msg);
    ev.endorsements[0].data = span_of(&sig);
    appraise(&ev, pinned, NOW, &a);
    assert_check(&a, "tpm.signature", ST_CHECK_FAIL, "not this key's");
    assert_check(&a, "tpm.pcr_selection", ST_CHECK_FAIL, "not all are quoted");
    st_appraisal_wipe(&a);
    st_buf_free(&quote);
    st_buf_free(&hcl);
    st_buf_free(&msg);
    st_buf_free(&sig);
    st_buf_free(&values);
}

static void googles_certificate_of_a_key_leads_to_the_pinned_root(void **state)
{
    struct st_buf certs = {0};
    struct st_appraisal a;
    struct tpm t;
    (void)state;
    if (!shared_file("tpm/gce_ak_certificates.txt", &certs))
        return;
    tpm_open(&t, authority.rsa, ST_TPM_RSASSA, ST_TPM_SHA256, ST_TPM_SHA256);
    endorse(&t.ev, ST_ENDORSEMENT_CERTS, span_of(&certs));
    appraise(&t.ev, pinned, NOW, &a);
    assert_check(&a, "tpm.chain", ST_CHECK_PASS, "");
    assert_check(&a, "tpm.signature", ST_CHECK_FAIL, "not this key's");
    st_appraisal_wipe(&a);
    st_buf_free(&certs);
    tpm_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quotes_by_keys_of_every_kind_pass),
        cmocka_unit_test(a_certificate_of_another_key_or_root_or_use_is_refused),
        cmocka_unit_test(gap_n8_attributes_of_the_key_are_judged),
        cmocka_unit_test(gap_n3_the_selection_must_be_complete_and_no_value_may_be_unquoted),
        cmocka_unit_test(gap_n1_another_value_of_the_models_pcr_is_refused),
        cmocka_unit_test(gap_n7_runtime_data_names_the_key_and_no_other_counts),
        cmocka_unit_test(gap_n9_the_nonce_and_the_boot_of_a_quote_are_judged),
        cmocka_unit_test(every_flipped_byte_and_every_truncation_of_quote_and_signature_is_refused),
        cmocka_unit_test(damaged_endorsements_never_crash),
        cmocka_unit_test(azures_quote_verifies_with_the_key_that_its_report_names),
        cmocka_unit_test(googles_certificate_of_a_key_leads_to_the_pinned_root),
    };
    return cmocka_run_group_tests(tests, open_authority, close_authority);
}
