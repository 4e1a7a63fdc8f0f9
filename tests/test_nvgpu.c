/* Evidence of NVIDIA GPUs: the public samples of the shared data, and every damage to them. */
#include "expect.h"

#include "attest/policy.h"
#include "attest/rim.h"
#include "attest/roots.h"
#include "base/file.h"

#include <stdlib.h>

#define AS_OF 1700000000 /* 2023-11-14: the sample's RIM is signed by a certificate of 2023-06 to 2025-06 */

static const char lax[] = "{\"version\": 1, \"require\": [\"nvgpu\"], \"signature_only\": true}";

static bool sample(const char *name, struct st_buf *out)
{
    char path[512];
    struct st_err e;
    const char *shared = getenv("SOTTO_SHARED");
    snprintf(path, sizeof path, "%s/data/evidence/nvidia/%s", shared ? shared : "../shared", name);
    if (!st_path_exists(path)) {
        print_message("skipped: %s is not here (SOTTO_SHARED)\n", name);
        return false;
    }
    assert_ok(st_file_read(path, 1 << 20, out, &e), &e);
    return true;
}

/* The report as raw bytes with a certificate chain; false when the samples are not here. */
static bool load(const char *report, const char *chain, struct st_bundle *out)
{
    struct st_buf b = {0};
    struct st_err e;
    bool here = sample(report, &b);
    if (here) {
        assert_ok(st_bundle_parse(b.p, b.len, report, out, &e), &e);
        assert_string_equal(out->items[0].kind, "nvgpu");
        here = sample(chain, &b);
    }
    if (here)
        assert_ok(st_bundle_endorse(out, b.p, b.len, chain, &e), &e);
    st_buf_free(&b);
    return here;
}

static struct st_verdict judge(const struct st_bundle *b, const char *policy, int64_t time, struct st_span nonce)
{
    struct st_err e;
    struct st_policy *p;
    struct st_verdict v;
    assert_ok(st_policy_parse(policy, strlen(policy), "policy", &p, &e), &e);
    const struct st_judge j = {.policy = p, .bundle = b, .time = time, .nonce = nonce};
    assert_ok(st_policy_judge(&j, &v, &e), &e);
    st_policy_free(p);
    return v;
}

static enum st_check_result result_of(const struct st_verdict *v, const char *name)
{
    const struct st_check *c = st_appraisal_find_check(&v->found, name);
    if (!c)
        fail_msg("no check %s", name);
    return c ? c->result : ST_CHECK_FAIL;
}

static void real_reports_verify_to_nvidias_root(void **state)
{
    (void)state;
    static const char *const samples[][4] = {
        {"hopperAttestationReport.txt", "hopperCertChain.txt", "550.90.07", "96.00.9F.00.01"},
        {"gonvtrust_report.txt", "gonvtrust_chain.txt", "545.00", "96.00.5E.00.01"}};
    for (size_t i = 0; i < 2; i++) {
        struct st_bundle b;
        if (!load(samples[i][0], samples[i][1], &b))
            return;
        struct st_verdict v = judge(&b, lax, AS_OF, (struct st_span){0});
        assert_true(v.good);
        assert_string_equal(st_appraisal_find_claim(&v.found, "nvgpu.driver")->text, samples[i][2]);
        assert_string_equal(st_appraisal_find_claim(&v.found, "nvgpu.vbios")->text, samples[i][3]);
        assert_non_null(st_appraisal_find_claim(&v.found, "nvgpu.measurement.63"));
        assert_null(st_appraisal_find_claim(&v.found, "nvgpu.measurement.64"));
        st_verdict_wipe(&v);
        st_bundle_free(&b);
    }
}

static void the_nonce_is_that_of_the_request(void **state)
{
    (void)state;
    struct st_bundle b;
    if (!load("gonvtrust_report.txt", "gonvtrust_chain.txt", &b))
        return;
    struct st_verdict v = judge(&b, lax, AS_OF, (struct st_span){b.items[0].data.p + 4, 32});
    assert_true(v.good);
    st_verdict_wipe(&v);
    v = judge(&b, lax, AS_OF, (struct st_span){b.items[0].data.p + 5, 32});
    assert_false(v.good);
    assert_int_equal(v.code, ST_POLICY);
    st_verdict_wipe(&v);
    st_bundle_free(&b);
}

static void a_chain_with_a_gap_is_refused(void **state)
{
    (void)state;
    struct st_bundle b;
    if (!load("gonvtrust_report.txt", "gonvtrust_chain_INVALID.txt", &b))
        return;
    struct st_verdict v = judge(&b, lax, AS_OF, (struct st_span){0});
    assert_int_equal(v.code, ST_VERIFY);
    assert_int_equal(result_of(&v, "nvgpu.signature"), ST_CHECK_PASS);
    assert_int_equal(result_of(&v, "nvgpu.chain"), ST_CHECK_FAIL);
    st_verdict_wipe(&v);
    st_bundle_free(&b);
}

static void another_gpus_chain_is_refused(void **state)
{
    (void)state;
    struct st_bundle b;
    if (!load("hopperAttestationReport.txt", "gonvtrust_chain.txt", &b))
        return;
    struct st_verdict v = judge(&b, lax, AS_OF, (struct st_span){0});
    assert_int_equal(result_of(&v, "nvgpu.signature"), ST_CHECK_FAIL);
    assert_int_equal(result_of(&v, "nvgpu.chain"), ST_CHECK_PASS);
    assert_int_equal(result_of(&v, "nvgpu.fwid"), ST_CHECK_FAIL);
    assert_int_equal(v.code, ST_VERIFY);
    st_verdict_wipe(&v);
    st_bundle_free(&b);
}

static void without_certificates_or_before_their_time_nothing_verifies(void **state)
{
    (void)state;
    struct st_bundle b;
    if (!load("gonvtrust_report.txt", "gonvtrust_chain.txt", &b))
        return;
    struct st_verdict v = judge(&b, lax, 1500000000, (struct st_span){0});
    assert_int_equal(result_of(&v, "nvgpu.chain"), ST_CHECK_FAIL);
    st_verdict_wipe(&v);
    b.items[0].n_endorsement = 0;
    v = judge(&b, lax, AS_OF, (struct st_span){0});
    assert_int_equal(v.code, ST_VERIFY);
    st_verdict_wipe(&v);
    st_bundle_free(&b);
}

/* The signature covers every byte before it: no byte of a report is outside. The chain is left out but for the leaf,
 * since only the signature can notice. */
static void every_flipped_byte_is_refused(void **state)
{
    (void)state;
    struct st_bundle b;
    struct st_err e;
    struct st_certs chain = {0};
    if (!load("gonvtrust_report.txt", "gonvtrust_chain.txt", &b))
        return;
    struct st_evidence *ev = &b.items[0];
    const struct st_verify_env env = {.time = AS_OF};
    assert_ok(st_certs_add(&chain, ev->endorsements[0].data.p, ev->endorsements[0].data.len, "chain", &e), &e);
    uint8_t *leaf = NULL, *copy = malloc(ev->data.len);
    int leaf_len = i2d_X509(st_certs_leaf(&chain), &leaf);
    ev->endorsements[0].data = (struct st_span){leaf, (size_t)leaf_len};
    memcpy(copy, ev->data.p, ev->data.len);
    ev->data.p = copy;
    for (size_t i = 0; i <= ev->data.len; i++) {
        struct st_appraisal a = {0};
        if (i < ev->data.len)
            copy[i] ^= (uint8_t)(1u << i % 8);
        int rc = st_verifier_find("nvgpu")->verify(ev, &env, &a, &e);
        const struct st_check *c = st_appraisal_find_check(&a, "nvgpu.signature");
        bool passed = !rc && c && c->result == ST_CHECK_PASS;
        if (passed != (i == ev->data.len))
            fail_msg("byte %zu of %zu: %s", i, ev->data.len, passed ? "passed" : "the good one was refused");
        st_appraisal_wipe(&a);
        if (i < ev->data.len)
            copy[i] ^= (uint8_t)(1u << i % 8);
    }
    free(copy);
    OPENSSL_free(leaf);
    st_certs_free(&chain);
    st_bundle_free(&b);
}

/* As DER: a change must break the certificate, its issuer's signature, or the report's. One byte in 11; all of them
 * were tried once. */
static void every_flipped_byte_of_the_gpus_certificate_is_refused(void **state)
{
    (void)state;
    struct st_bundle b;
    struct st_err e;
    struct st_certs chain = {0};
    struct st_buf rest = {0};
    if (!load("gonvtrust_report.txt", "gonvtrust_chain.txt", &b))
        return;
    struct st_evidence *ev = &b.items[0];
    const struct st_verify_env env = {.time = AS_OF};
    assert_ok(st_certs_add(&chain, ev->endorsements[0].data.p, ev->endorsements[0].data.len, "chain", &e), &e);
    uint8_t *leaf = NULL;
    int leaf_len = i2d_X509(st_certs_leaf(&chain), &leaf);
    for (size_t i = 0; i < chain.n; i++) {
        uint8_t *der = NULL;
        int n = i2d_X509(chain.p[i], &der);
        if (chain.p[i] != st_certs_leaf(&chain))
            st_buf_add(&rest, der, (size_t)n);
        OPENSSL_free(der);
    }
    ev->endorsements[0].data = (struct st_span){leaf, (size_t)leaf_len};
    ev->endorsements[1] = (struct st_endorsement){ST_ENDORSEMENT_CERTS, {(uint8_t *)rest.p, rest.len}};
    ev->n_endorsement = 2;
    for (int i = 0; i < leaf_len; i += 11) {
        struct st_appraisal a = {0};
        leaf[i] ^= (uint8_t)(1u << i % 8);
        int rc = st_verifier_find("nvgpu")->verify(ev, &env, &a, &e);
        const struct st_check *c = st_appraisal_find_check(&a, "nvgpu.signature");
        const struct st_check *k = st_appraisal_find_check(&a, "nvgpu.chain");
        if (!rc && c->result == ST_CHECK_PASS && k->result == ST_CHECK_PASS)
            fail_msg("byte %d of %d of the certificate", i, leaf_len);
        st_appraisal_wipe(&a);
        leaf[i] ^= (uint8_t)(1u << i % 8);
    }
    OPENSSL_free(leaf);
    st_certs_free(&chain);
    st_buf_free(&rest);
    st_bundle_free(&b);
}

static void every_truncation_and_every_tail_is_refused(void **state)
{
    (void)state;
    struct st_bundle b;
    struct st_err e;
    if (!load("hopperAttestationReport.txt", "hopperCertChain.txt", &b))
        return;
    struct st_evidence *ev = &b.items[0];
    const struct st_verify_env env = {.time = AS_OF};
    const uint8_t *whole = ev->data.p;
    size_t full = ev->data.len;
    for (size_t n = 0; n <= full + 1; n++) {
        struct st_appraisal a = {0};
        uint8_t *exact = calloc(1, n ? n : 1); /* so that a sanitizer sees what is read past the end */
        memcpy(exact, whole, n < full ? n : full);
        ev->data = (struct st_span){exact, n};
        int rc = n == full ? ST_INPUT : st_verifier_find("nvgpu")->verify(ev, &env, &a, &e);
        assert_int_equal(rc, ST_INPUT);
        st_appraisal_wipe(&a);
        free(exact);
    }
    st_bundle_free(&b);
}

/* ---- reference measurements ---- */

static const char rim_name[] = "1010_0200_882_96005E0001_PROD.swidtag";

static int read_rim_below(enum st_root root, const struct st_buf *b, int64_t time, struct st_rim *rim, struct st_err *e)
{
    struct st_certs roots = {0};
    const struct st_verify_env env = {0};
    assert_ok(st_roots_add(&env, root, &roots, e), e);
    int rc = st_rim_read(b->p, b->len, &roots, time, rim, e);
    st_certs_free(&roots);
    return rc;
}

static int read_rim(const struct st_buf *b, int64_t time, struct st_rim *rim, struct st_err *e)
{
    return read_rim_below(ST_ROOT_NVIDIA_RIM, b, time, rim, e);
}

static void reference_measurements_are_read_after_their_signature(void **state)
{
    (void)state;
    struct st_buf b = {0};
    struct st_err e;
    struct st_rim *rim = malloc(sizeof *rim);
    if (sample(rim_name, &b)) {
        assert_ok(read_rim(&b, AS_OF, rim, &e), &e);
        assert_string_equal(rim->version, "96.00.5E.00.01");
        assert_int_equal(rim->n_value, 15); /* 12 active measurements, one of them with 4 alternatives */
        int64_t until = rim->until;
        assert_true(until > AS_OF);
        assert_ok(read_rim(&b, AS_OF, rim, &e), &e); /* now known */
        assert_int_equal(rim->until, until);
        expect_refusal(read_rim(&b, until, rim, &e), &e, ST_VERIFY, "expired");
        expect_refusal(read_rim(&b, AS_OF - 3 * 365 * 86400, rim, &e), &e, ST_VERIFY, "not yet valid");
        expect_refusal(read_rim_below(ST_ROOT_NVIDIA_DEVICE, &b, AS_OF, rim, &e), &e, ST_VERIFY, "rim: ");
    }
    st_buf_free(&b);
    free(rim);
}

/* Outside of what must be as it is lies only the last certificate of the KeyInfo: a copy of the root, which nobody
 * reads since the pinned one is taken; and the end of the document, as far as it stays well-formed. (Every single byte
 * before was flipped once by hand; here one in 61.) */
static void changed_reference_measurements_are_refused(void **state)
{
    (void)state;
    struct st_buf b = {0};
    struct st_err e;
    struct st_rim *good = malloc(sizeof *good), *rim = malloc(sizeof *rim);
    if (sample(rim_name, &b)) {
        const char *root_copy = b.p;
        for (const char *at = b.p; (at = strstr(at, "<ds:X509Certificate>")); at++)
            root_copy = at;
        size_t free_from = (size_t)(root_copy - b.p) + strlen("<ds:X509Certificate>");
        assert_ok(read_rim(&b, AS_OF, good, &e), &e);
        for (size_t i = 0; i < b.len; i += 61) {
            b.p[i] = (char)(b.p[i] ^ 1);
            int rc = read_rim(&b, AS_OF, rim, &e);
            if (!rc && (i < free_from || memcmp(good, rim, sizeof *rim) != 0))
                fail_msg("byte %zu of %zu: accepted", i, b.len);
            b.p[i] = (char)(b.p[i] ^ 1);
        }
    }
    st_buf_free(&b);
    free(good);
    free(rim);
}

static void a_report_is_compared_with_its_rim(void **state)
{
    (void)state;
    struct st_bundle b;
    struct st_buf rim = {0};
    struct st_err e;
    if (!load("gonvtrust_report.txt", "gonvtrust_chain.txt", &b) || !sample(rim_name, &rim))
        return;
    assert_ok(st_bundle_endorse(&b, rim.p, rim.len, rim_name, &e), &e);
    /* This sample was made with a driver before its release: four measurements are not the published ones. */
    struct st_verdict v = judge(&b,
                                "{\"version\": 1, \"require\": [\"nvgpu\"], \"revocation\": \"if_present\", "
                                "\"optional\": [\"nvgpu.rim.driver\"]}",
                                AS_OF, (struct st_span){0});
    const struct st_check *c = st_appraisal_find_check(&v.found, "nvgpu.rim.vbios");
    assert_non_null(c);
    assert_int_equal(c->result, ST_CHECK_FAIL);
    assert_string_equal(c->detail, "96.00.5E.00.01: 4 of 12 measurements differ: 1, 2, 3, 9");
    assert_int_equal(v.code, ST_VERIFY);
    st_verdict_wipe(&v);
    st_bundle_free(&b);
    st_buf_free(&rim);
}

static void reference_measurements_of_another_version_do_not_count(void **state)
{
    (void)state;
    struct st_bundle b;
    struct st_buf rim = {0};
    struct st_err e;
    if (!load("hopperAttestationReport.txt", "hopperCertChain.txt", &b) || !sample(rim_name, &rim))
        return;
    assert_ok(st_bundle_endorse(&b, rim.p, rim.len, rim_name, &e), &e);
    struct st_verdict v = judge(&b,
                                "{\"version\": 1, \"require\": [\"nvgpu\"], \"revocation\": \"if_present\", "
                                "\"optional\": [\"nvgpu.rim.driver\", \"nvgpu.rim.vbios\"]}",
                                AS_OF, (struct st_span){0});
    assert_int_equal(result_of(&v, "nvgpu.rim"), ST_CHECK_FAIL);
    assert_false(v.good);
    st_verdict_wipe(&v);
    b.items[0].n_endorsement--;
    v = judge(&b,
              "{\"version\": 1, \"require\": [\"nvgpu\"], \"revocation\": \"if_present\", "
              "\"optional\": [\"nvgpu.rim.driver\", \"nvgpu.rim.vbios\"]}",
              AS_OF, (struct st_span){0});
    assert_true(v.good);
    st_verdict_wipe(&v);
    st_bundle_free(&b);
    st_buf_free(&rim);
}

static void documents_that_are_no_rim_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "<SoftwareIdentity/>",
        "<!DOCTYPE x [<!ENTITY a \"b\">]><SoftwareIdentity "
        "xmlns=\"http://standards.iso.org/iso/19770/-2/2015/schema.xsd\"/>",
        "<SoftwareIdentity xmlns=\"http://standards.iso.org/iso/19770/-2/2015/schema.xsd\"><Meta "
        "colloquialVersion=\"1\"/>"
        "<Payload/></SoftwareIdentity>",
        "<SoftwareIdentity", ""};
    struct st_rim *rim = malloc(sizeof *rim);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct st_err e;
        struct st_buf b = {0};
        st_buf_add_str(&b, bad[i]);
        expect_refusal(read_rim(&b, AS_OF, rim, &e), &e, ST_INPUT, "rim: ");
        st_buf_free(&b);
    }
    free(rim);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(real_reports_verify_to_nvidias_root),
        cmocka_unit_test(the_nonce_is_that_of_the_request),
        cmocka_unit_test(a_chain_with_a_gap_is_refused),
        cmocka_unit_test(another_gpus_chain_is_refused),
        cmocka_unit_test(without_certificates_or_before_their_time_nothing_verifies),
        cmocka_unit_test(every_flipped_byte_is_refused),
        cmocka_unit_test(every_flipped_byte_of_the_gpus_certificate_is_refused),
        cmocka_unit_test(every_truncation_and_every_tail_is_refused),
        cmocka_unit_test(reference_measurements_are_read_after_their_signature),
        cmocka_unit_test(changed_reference_measurements_are_refused),
        cmocka_unit_test(a_report_is_compared_with_its_rim),
        cmocka_unit_test(reference_measurements_of_another_version_do_not_count),
        cmocka_unit_test(documents_that_are_no_rim_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
