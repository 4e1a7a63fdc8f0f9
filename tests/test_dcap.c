/* Real Intel quotes with their collateral, at pinned times; and every byte of them flipped. */
#include "expect.h"

#include "attest/dcap.h"
#include "attest/policy.h"
#include "base/file.h"
#include "intel_checks.h"
#include "text/json.h"

#include <stdio.h>
#include <stdlib.h>

/* Times inside the dates of all certificates concerned. */
#define JUNE_2023 INT64_C(1687300000) /* 20 June 2023 */
#define AUG_2023 INT64_C(1692000000)  /* 14 August 2023 */
#define JUNE_2025 INT64_C(1750500000) /* 21 June 2025 */
#define AUG_2025 INT64_C(1755000000)  /* 12 August 2025 */
#define FEB_2026 INT64_C(1770700000)  /* 10 February 2026 */
#define YEAR_2035 INT64_C(2051222400)

static const struct sample {
    const char *file, *kind;
    unsigned version;
    size_t used; /* bytes up to the end of the signature data; what follows is padding */
    int64_t time;
    const char *fmspc;
    bool whole; /* every byte of its certificates is flipped too; of the others' every 32nd */
} samples[] = {
    {"tdx/azure_v4.dat", "tdx", 4, 4936, JUNE_2025, "00806f050000", true},
    {"tdx/cos113_v4.dat", "tdx", 4, 4935, JUNE_2025, "00806f050000", false},
    {"tdx/dcapqvl_v4.dat", "tdx", 4, 4936, JUNE_2025, "b0c06f000000", false},
    {"tdx/gotdx_spr_v4.dat", "tdx", 4, 4935, JUNE_2023, "50806f000000", false},
    {"tdx/gotdx_v5.dat", "tdx", 5, 5006, FEB_2026, "90c06f000000", false},
    {"tdx/gce_report.txt", "tdx", 4, 4939, JUNE_2025, "00806f050000", false},
    {"sgx/dcapqvl_v3.dat", "sgx", 3, 4600, JUNE_2025, "00a067110000", false},
};
#define N_SAMPLE (sizeof samples / sizeof *samples)

/* A file of the shared evidence; false (and a line that says so) when it is not here. */
static bool shared(const char *name, struct st_buf *out)
{
    char path[512];
    struct st_err e;
    const char *dir = getenv("SOTTO_SHARED");
    snprintf(path, sizeof path, "%s/data/evidence/%s", dir ? dir : "../shared", name);
    FILE *f = fopen(path, "r");
    if (!f) {
        print_message("skipped: %s is not here (SOTTO_SHARED)\n", name);
        return false;
    }
    fclose(f);
    assert_ok(st_file_read(path, 1 << 20, out, &e), &e);
    return true;
}

/* A bundle of one sample, and files of endorsements (NULL-terminated). */
static bool open_sample(const char *file, const char *const *endorsements, struct st_bundle *b)
{
    struct st_buf bytes = {0};
    struct st_err e;
    if (!shared(file, &bytes))
        return false;
    assert_ok(st_bundle_parse(bytes.p, bytes.len, file, b, &e), &e);
    assert_int_equal(b->n_item, 1);
    for (; endorsements && *endorsements; endorsements++) {
        st_buf_free(&bytes);
        assert_true(shared(*endorsements, &bytes));
        assert_ok(st_bundle_endorse(b, bytes.p, bytes.len, *endorsements, &e), &e);
    }
    st_buf_free(&bytes);
    return true;
}

/* Checks and claims of one sample at a time, with endorsements. */
static bool appraise_sample(const char *file, const char *const *endorsements, int64_t time, struct st_appraisal *a)
{
    struct st_bundle b;
    struct st_err e;
    if (!open_sample(file, endorsements, &b))
        return false;
    *a = (struct st_appraisal){0};
    const struct st_verifier *v = st_verifier_find(b.items[0].kind);
    assert_ok(v->verify(&b.items[0], &(struct st_verify_env){.time = time}, a, &e), &e);
    assert_false(a->failed);
    st_bundle_free(&b);
    return true;
}

static void test_real_quotes_verify_within_their_certificates_dates(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SAMPLE; i++) {
        const struct sample *s = &samples[i];
        struct st_appraisal a;
        if (!appraise_sample(s->file, NULL, s->time, &a))
            continue;
        expect_checks(&a, s->kind, "crl collateral tcb_info qe_identity collateral_dates tcb", ST_CHECK_ABSENT);
        assert_string_equal(intel_claim(&a, s->kind, "fmspc")->text, s->fmspc);
        assert_int_equal(intel_claim(&a, s->kind, "quote_version")->number, s->version);
        assert_int_equal(intel_claim(&a, s->kind, "debug")->number, 0);
        st_appraisal_wipe(&a);
    }
}

static void test_real_quotes_fail_outside_their_certificates_dates(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SAMPLE; i++) {
        static const int64_t times[] = {INT64_C(1600000000), YEAR_2035};
        for (size_t k = 0; k < 2; k++) {
            struct st_appraisal a;
            if (!appraise_sample(samples[i].file, NULL, times[k], &a))
                continue;
            expect_fail(&a, samples[i].kind, "chain", k ? "expired" : "not yet valid");
            st_appraisal_wipe(&a);
        }
    }
}

static void test_claims_of_real_quotes_are_what_they_say(void **state)
{
    struct st_appraisal a;
    (void)state;
    if (appraise_sample("tdx/gce_report.txt", NULL, JUNE_2025, &a)) {
        assert_string_equal(
            intel_claim(&a, "tdx", "mrtd")->text,
            "2a90c8fa38672cafd791d994beb6836b99383b2563736858632284f0f760a6446efd1e7ec457cf08b629ea630f7b"
            "4525");
        assert_string_equal(intel_claim(&a, "tdx", "td_attributes")->text, "0000001000000000");
        assert_int_equal(intel_claim(&a, "tdx", "padding_unsigned")->number, 8000 - 4939);
        assert_null(st_appraisal_find_claim(&a, "tdx.mrservicetd"));
        st_appraisal_wipe(&a);
    }
    if (appraise_sample("tdx/gotdx_v5.dat", NULL, FEB_2026, &a)) {
        assert_string_equal(intel_claim(&a, "tdx", "tee_tcb_svn")->text, "0b010400000000000000000000000000");
        assert_string_equal(intel_claim(&a, "tdx", "tee_tcb_svn2")->text, "0d010400000000000000000000000000");
        assert_int_equal(strlen(intel_claim(&a, "tdx", "mrservicetd")->text), 96);
        st_appraisal_wipe(&a);
    }
    if (appraise_sample("sgx/dcapqvl_v3.dat", NULL, JUNE_2025, &a)) {
        assert_memory_equal(intel_claim(&a, "sgx", "report_data")->text, "48656c6c6f2c20776f726c6421", 26);
        assert_int_equal(strlen(intel_claim(&a, "sgx", "mrenclave")->text), 64);
        st_appraisal_wipe(&a);
    }
}

static void test_a_tdx_quote_with_its_collateral_is_up_to_date(void **state)
{
    static const char *const with[] = {"collateral/dcapqvl_tdx.json", NULL};
    struct st_appraisal a;
    (void)state;
    if (!appraise_sample("tdx/dcapqvl_v4.dat", with, JUNE_2025, &a))
        skip();
    expect_checks(&a, "tdx", "", ST_CHECK_ABSENT);
    assert_string_equal(intel_claim(&a, "tdx", "tcb_status")->text, "UpToDate");
    assert_string_equal(intel_claim(&a, "tdx", "advisories")->text, "");
    assert_int_equal(intel_claim(&a, "tdx", "tcb_date")->number, 1710288000); /* 2024-03-13 */
    assert_int_equal(intel_claim(&a, "tdx", "tcb_evaluation")->number, 17);
    st_appraisal_wipe(&a);
}

static void test_an_sgx_quote_with_its_collateral_has_its_status_and_advisories(void **state)
{
    static const char *const with[] = {"collateral/dcapqvl_sgx.json", NULL};
    struct st_appraisal a;
    (void)state;
    if (!appraise_sample("sgx/dcapqvl_v3.dat", with, JUNE_2025, &a))
        skip();
    expect_checks(&a, "sgx", "", ST_CHECK_ABSENT);
    assert_string_equal(intel_claim(&a, "sgx", "tcb_status")->text, "ConfigurationAndSWHardeningNeeded");
    assert_string_equal(intel_claim(&a, "sgx", "advisories")->text, "INTEL-SA-00289,INTEL-SA-00615");
    st_appraisal_wipe(&a);
}

static void test_collateral_behind_its_next_update_fails(void **state)
{
    static const char *const with[] = {"collateral/dcapqvl_tdx.json", NULL};
    struct st_appraisal a;
    (void)state;
    if (!appraise_sample("tdx/dcapqvl_v4.dat", with, AUG_2025, &a))
        skip();
    expect_fail(&a, "tdx", "collateral_dates", "expired");
    expect_fail(&a, "tdx", "crl", "CRL has expired");
    st_appraisal_wipe(&a);
}

static void test_collateral_of_another_platform_does_not_fit(void **state)
{
    static const char *const tdx[] = {"collateral/dcapqvl_tdx.json", NULL};
    static const char *const sgx[] = {"collateral/dcapqvl_sgx.json", NULL};
    struct st_appraisal a;
    (void)state;
    if (!appraise_sample("tdx/azure_v4.dat", tdx, JUNE_2025, &a))
        skip();
    expect_fail(&a, "tdx", "tcb_info", "another TEE, FMSPC or PCE-ID");
    st_appraisal_wipe(&a);
    assert_true(appraise_sample("tdx/dcapqvl_v4.dat", sgx, JUNE_2025, &a));
    expect_fail(&a, "tdx", "tcb_info", "another TEE, FMSPC or PCE-ID");
    expect_fail(&a, "tdx", "qe_identity", "another TEE");
    assert_int_equal(intel_check(&a, "tdx", "crl")->result, ST_CHECK_FAIL); /* the list of the other CA */
    st_appraisal_wipe(&a);
}

static void test_a_v5_quote_with_tcb_info_from_intels_service(void **state)
{
    /* Its issuers come from the other collateral, which has no statement that fits. */
    static const char *const with[] = {"collateral/sample_tcbinfo_response_v5", "collateral/dcapqvl_tdx.json", NULL};
    struct st_appraisal a;
    (void)state;
    if (!appraise_sample("tdx/gotdx_v5.dat", with, FEB_2026, &a))
        skip();
    assert_int_equal(intel_check(&a, "tdx", "tcb_info")->result, ST_CHECK_PASS);
    assert_int_equal(intel_check(&a, "tdx", "module")->result, ST_CHECK_PASS);
    assert_int_equal(intel_check(&a, "tdx", "tcb")->result, ST_CHECK_PASS);
    assert_string_equal(intel_claim(&a, "tdx", "tcb_status")->text, "UpToDate");
    expect_fail(&a, "tdx", "collateral_dates", "QE identity: expired");
    st_appraisal_wipe(&a);
}

static void test_a_v4_quote_with_collateral_from_intels_service(void **state)
{
    static const char *const with[] = {"collateral/sample_tcbInfo_response",
                                       "collateral/sample_qeIdentity_response",
                                       "collateral/rootcrl.der",
                                       "collateral/pckcrl",
                                       "collateral/dcapqvl_tdx.json",
                                       NULL};
    static const char *const lists[] = {"collateral/rootcrl.der", "collateral/pckcrl", NULL};
    struct st_appraisal a;
    (void)state;
    if (!appraise_sample("tdx/gotdx_spr_v4.dat", lists, JUNE_2023, &a))
        skip();
    expect_checks(&a, "tdx", "tcb_info qe_identity collateral_dates tcb", ST_CHECK_ABSENT);
    st_appraisal_wipe(&a);
    assert_true(appraise_sample("tdx/gotdx_spr_v4.dat", lists, AUG_2023, &a));
    expect_fail(&a, "tdx", "crl", "CRL has expired");
    st_appraisal_wipe(&a);
    /* The only certificate of the signer at hand is younger than the statements. */
    assert_true(appraise_sample("tdx/gotdx_spr_v4.dat", with, JUNE_2023, &a));
    expect_fail(&a, "tdx", "tcb_info", "not yet valid");
    st_appraisal_wipe(&a);
    assert_true(appraise_sample("tdx/gotdx_spr_v4.dat", with, JUNE_2025, &a));
    assert_int_equal(intel_check(&a, "tdx", "tcb_info")->result, ST_CHECK_PASS);
    assert_int_equal(intel_check(&a, "tdx", "qe_identity")->result, ST_CHECK_PASS);
    expect_fail(&a, "tdx", "collateral_dates", "expired");
    st_appraisal_wipe(&a);
}

/* All that must hold without collateral. */
static bool accepted(const struct st_evidence *ev, int64_t time)
{
    struct st_appraisal a = {0};
    struct st_err e;
    bool good = st_verifier_find(ev->kind)->verify(ev, &(struct st_verify_env){.time = time}, &a, &e) == 0;
    for (size_t i = 0; i < a.n_check; i++)
        good = good && (a.checks[i].area != ST_AREA_SIGNATURE || a.checks[i].result == ST_CHECK_PASS);
    good = good && a.n_check > 0 && !a.failed;
    st_appraisal_wipe(&a);
    return good;
}

static void test_every_flipped_byte_is_refused_but_padding_behind_the_quote(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SAMPLE; i++) {
        struct st_bundle b;
        if (!open_sample(samples[i].file, NULL, &b))
            continue;
        struct st_evidence ev = b.items[0];
        uint8_t *copy = malloc(ev.data.len);
        memcpy(copy, ev.data.p, ev.data.len);
        ev.data.p = copy;
        assert_true(accepted(&ev, samples[i].time));
        /* [used, end) is the range that no signature covers; all of it, and nothing else, may change. */
        struct st_dcap_quote q;
        struct st_err e;
        assert_ok(st_dcap_parse(copy, ev.data.len, &q, &e), &e);
        size_t certs = (size_t)(q.pck_chain.p - copy);
        for (size_t at = 0; at < ev.data.len; at++) {
            if (at >= samples[i].used ? at % 97 : at >= certs && !samples[i].whole && at % 32)
                continue;
            copy[at] ^= (uint8_t)(1u << at % 8);
            if (accepted(&ev, samples[i].time) != (at >= samples[i].used))
                fail_msg("%s: byte %zu of %zu", samples[i].file, at, samples[i].used);
            copy[at] ^= (uint8_t)(1u << at % 8);
        }
        free(copy);
        st_bundle_free(&b);
    }
}

static void test_every_truncation_is_refused_but_of_padding(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SAMPLE; i++) {
        struct st_bundle b;
        struct st_dcap_quote q;
        struct st_err e;
        if (!open_sample(samples[i].file, NULL, &b))
            continue;
        for (size_t len = 0; len < b.items[0].data.len; len++) {
            uint8_t *exact = malloc(len ? len : 1);
            memcpy(exact, b.items[0].data.p, len);
            int rc = st_dcap_parse(exact, len, &q, &e);
            if ((rc == 0) != (len >= samples[i].used))
                fail_msg("%s: %zu bytes of %zu", samples[i].file, len, samples[i].used);
            assert_true(rc == 0 || rc == ST_INPUT);
            free(exact);
        }
        st_bundle_free(&b);
    }
}

/* Where a field's value begins. */
static size_t field_at(const struct st_buf *text, const char *name)
{
    const char *at = strstr(text->p, name);
    assert_non_null(at);
    return (size_t)(at - text->p) + strlen(name);
}

/* Not the issuers' chains: each certificate stands there several times, and one good copy is enough. */
static void test_flipped_bytes_of_collateral_are_refused(void **state)
{
    struct st_buf text = {0};
    struct st_bundle b;
    (void)state;
    if (!open_sample("tdx/dcapqvl_v4.dat", NULL, &b) || !shared("collateral/dcapqvl_tdx.json", &text))
        skip();
    const size_t ranges[][2] = {
        {field_at(&text, "\"root_ca_crl\""), field_at(&text, "\"tcb_info_issuer_chain\"")},
        {field_at(&text, "\"tcb_info\""), field_at(&text, "\"qe_identity_issuer_chain\"")},
        {field_at(&text, "\"qe_identity\""), text.len - 3},
    };
    struct st_evidence *ev = &b.items[0];
    ev->n_endorsement = 1;
    ev->endorsements[0] = (struct st_endorsement){ST_ENDORSEMENT_COLLATERAL, {(uint8_t *)text.p, text.len}};
    for (size_t r = 0; r < 3; r++)
        for (size_t at = ranges[r][0]; at < ranges[r][1]; at += 23) {
            struct st_appraisal a = {0};
            struct st_err e;
            bool good = true;
            text.p[at] ^= 0x01;
            assert_ok(st_verifier_find("tdx")->verify(ev, &(struct st_verify_env){.time = JUNE_2025}, &a, &e), &e);
            for (size_t i = 0; i < a.n_check; i++)
                good = good && a.checks[i].result == ST_CHECK_PASS;
            if (good)
                fail_msg("byte %zu", at);
            text.p[at] ^= 0x01;
            st_appraisal_wipe(&a);
        }
    st_buf_free(&text);
    st_bundle_free(&b);
}

/* Under a policy.
 * ------------------------------------------------------------------------------------------------------------ */

#define MRTD_DCAPQVL "91eb2b44d141d4ece09f0c75c2c53d247a3c68edd7fafe8a3520c942a604a407de03ae6dc5f87f27428b2538873118b7"
static const char *const tdx_collateral[] = {"collateral/dcapqvl_tdx.json", NULL};
static const char *const sgx_collateral[] = {"collateral/dcapqvl_sgx.json", NULL};

struct wanted {
    const char *policy;
    const char *fails; /* a check that does not pass; NULL = the verdict is good */
    struct st_span nonce;
    int64_t nonce_time;
};

static void judge(const struct st_bundle *b, const struct wanted *w)
{
    struct st_policy *p;
    struct st_verdict v;
    struct st_err e;
    assert_ok(st_policy_parse(w->policy, strlen(w->policy), "policy", &p, &e), &e);
    struct st_judge j = {.policy = p, .bundle = b, .time = JUNE_2025, .nonce = w->nonce, .nonce_time = w->nonce_time};
    assert_ok(st_policy_judge(&j, &v, &e), &e);
    for (size_t i = 0; i < v.found.n_check; i++) {
        const struct st_check *c = &v.found.checks[i];
        bool bad = !st_policy_tolerates(p, c);
        if (bad != (w->fails && strcmp(c->name, w->fails) == 0))
            fail_msg("%s: %s: %s (%s)", w->policy, c->name, bad ? "fails" : "passes", c->detail);
    }
    assert_int_equal(v.good, w->fails == NULL);
    if (w->fails)
        assert_non_null(st_appraisal_find_check(&v.found, w->fails));
    st_verdict_wipe(&v);
    st_policy_free(p);
}

static void judge_tdx(const struct wanted *w)
{
    struct st_bundle b;
    if (!open_sample("tdx/dcapqvl_v4.dat", tdx_collateral, &b))
        skip();
    judge(&b, w);
    st_bundle_free(&b);
}

static void test_a_quote_that_meets_the_policy_gets_a_good_verdict(void **state)
{
    (void)state;
    judge_tdx(&(struct wanted){"{\"version\":1,\"require\":[\"tdx\"]}", .fails = NULL});
    judge_tdx(&(struct wanted){"{\"version\":1,\"require\":[\"tdx\"],\"measurements\":{\"tdx.mrtd\":[\"" MRTD_DCAPQVL
                               "\"],"
                               "\"tdx.td_attributes\":[\"0000001000000000\"],\"tdx.migratable\":[false]},\"minimum\":{"
                               "\"tdx.tcb_evaluation\":17}}",
                               .fails = NULL});
}

static void test_gap_n4_evidence_without_its_collateral_is_refused(void **state)
{
    static const char policy[] =
        "{\"version\":1,\"require\":[\"tdx\"],\"optional\":[\"tdx.collateral\",\"tdx.tcb_info\","
        "\"tdx.qe_identity\",\"tdx.collateral_dates\",\"tdx.tcb\"],"
        "\"revocation\":\"if_present\"}";
    struct st_bundle b;
    (void)state;
    if (!open_sample("tdx/dcapqvl_v4.dat", NULL, &b))
        skip();
    /* Even a policy that calls every statement optional wants a patch level. */
    judge(&b, &(struct wanted){policy, .fails = "policy.tcb.tdx"});
    judge(&b, &(struct wanted){"{\"version\":1,\"require\":\"any\",\"signature_only\":true}", .fails = NULL});
    st_bundle_free(&b);
}

static void test_gap_n5_n9_another_nonce_or_evidence_of_unknown_age_is_refused(void **state)
{
    static const char any[] = "{\"version\":1,\"require\":[\"tdx\"]}";
    static const char young[] = "{\"version\":1,\"require\":[\"tdx\"],\"max_age_s\":3600}";
    struct st_bundle b;
    struct st_dcap_quote q;
    struct st_err e;
    (void)state;
    if (!open_sample("tdx/dcapqvl_v4.dat", tdx_collateral, &b))
        skip();
    assert_ok(st_dcap_parse(b.items[0].data.p, b.items[0].data.len, &q, &e), &e);
    uint8_t nonce[64];
    memcpy(nonce, q.td.report_data, 64);
    struct st_span n = {nonce, 64};
    judge(&b, &(struct wanted){any, .fails = NULL, .nonce = n});
    judge(&b, &(struct wanted){young, .fails = NULL, .nonce = n, .nonce_time = JUNE_2025 - 60});
    judge(&b, &(struct wanted){young, .fails = "policy.max_age_s", .nonce = n, .nonce_time = JUNE_2025 - 7200});
    judge(&b, &(struct wanted){young, .fails = "policy.max_age_s"});
    nonce[63] ^= 1;
    judge(&b, &(struct wanted){any, .fails = "policy.nonce.tdx", .nonce = n});
    st_bundle_free(&b);
}

static void test_gap_n6_an_unknown_launch_measurement_is_refused(void **state)
{
    (void)state;
    judge_tdx(&(struct wanted){"{\"version\":1,\"require\":[\"tdx\"],\"measurements\":{\"tdx.mrtd\":[\"00\"]}}",
                               .fails = "policy.tdx.mrtd"});
    judge_tdx(&(struct wanted){"{\"version\":1,\"require\":[\"tdx\"],\"measurements\":{\"tdx.rtmr2\":[\"" MRTD_DCAPQVL
                               "\"]}}",
                               .fails = "policy.tdx.rtmr2"});
    judge_tdx(&(struct wanted){"{\"version\":1,\"require\":[\"tdx\"],\"measurements\":{\"tdx.padding_unsigned\":[70]}}",
                               .fails = "policy.tdx.padding_unsigned"});
}

static void test_gap_n6_a_patch_level_below_the_floor_is_refused(void **state)
{
    struct st_bundle b;
    (void)state;
    judge_tdx(&(struct wanted){"{\"version\":1,\"require\":[\"tdx\"],\"minimum\":{\"tdx.tcb_evaluation\":18}}",
                               .fails = "policy.minimum.tdx.tcb_evaluation"});
    judge_tdx(&(struct wanted){"{\"version\":1,\"require\":[\"tdx\"],\"tcb\":{\"tdx\":[\"OutOfDate\"]}}",
                               .fails = "policy.tcb.tdx"});
    if (!open_sample("sgx/dcapqvl_v3.dat", sgx_collateral, &b))
        skip();
    judge(&b, &(struct wanted){"{\"version\":1,\"require\":[\"sgx\"]}", .fails = "policy.tcb.sgx"});
    judge(&b,
          &(struct wanted){"{\"version\":1,\"require\":[\"sgx\"],\"tcb\":{\"sgx\":[\"ConfigurationAndSWHardeningNeeded"
                           "\"]}}",
                           .fails = NULL});
    st_bundle_free(&b);
}

static void test_gap_n6_revocation_is_not_optional_unless_the_policy_says_so(void **state)
{
    static const char *const statements[] = {"collateral/dcapqvl_tdx.json", NULL};
    struct st_bundle b;
    struct st_buf text = {0};
    (void)state;
    if (!open_sample("tdx/dcapqvl_v4.dat", NULL, &b) || !shared(statements[0], &text))
        skip();
    /* The same statements as replies of Intel's service, without the lists. */
    json_t *o;
    struct st_err e;
    assert_ok(st_json_parse(text.p, text.len, "collateral", &o, &e), &e);
    struct st_buf tcb = {0}, qe = {0};
#define FIELD(name) json_string_value(json_object_get(o, name))
    st_buf_addf(&tcb, "{\"tcbInfo\":%s,\"signature\":\"%s\"}", FIELD("tcb_info"), FIELD("tcb_info_signature"));
    st_buf_addf(&qe, "{\"enclaveIdentity\":%s,\"signature\":\"%s\"}", FIELD("qe_identity"),
                FIELD("qe_identity_signature"));
    const char *chain = FIELD("tcb_info_issuer_chain");
    assert_ok(st_bundle_endorse(&b, tcb.p, tcb.len, "tcb", &e), &e);
    assert_ok(st_bundle_endorse(&b, qe.p, qe.len, "qe", &e), &e);
    assert_ok(st_bundle_endorse(&b, chain, strlen(chain), "chain", &e), &e);
    judge(&b, &(struct wanted){"{\"version\":1,\"require\":[\"tdx\"]}", .fails = "tdx.crl"});
    judge(&b, &(struct wanted){"{\"version\":1,\"require\":[\"tdx\"],\"revocation\":\"if_present\"}", .fails = NULL});
    json_decref(o);
    st_buf_free(&tcb);
    st_buf_free(&qe);
    st_buf_free(&text);
    st_bundle_free(&b);
}

static void test_two_platforms_in_one_bundle_are_refused(void **state)
{
    struct st_bundle tdx, sgx;
    (void)state;
    if (!open_sample("tdx/dcapqvl_v4.dat", tdx_collateral, &tdx) ||
        !open_sample("sgx/dcapqvl_v3.dat", sgx_collateral, &sgx))
        skip();
    struct st_bundle both = {.items = {tdx.items[0], sgx.items[0]}, .n_item = 2};
    judge(&both, &(struct wanted){"{\"version\":1,\"require\":[\"tdx\",\"sgx\"],\"tcb\":{\"sgx\":"
                                  "[\"ConfigurationAndSWHardeningNeeded\"]}}",
                                  .fails = "policy.platforms"});
    st_bundle_free(&tdx);
    st_bundle_free(&sgx);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real_quotes_verify_within_their_certificates_dates),
        cmocka_unit_test(test_real_quotes_fail_outside_their_certificates_dates),
        cmocka_unit_test(test_claims_of_real_quotes_are_what_they_say),
        cmocka_unit_test(test_a_tdx_quote_with_its_collateral_is_up_to_date),
        cmocka_unit_test(test_an_sgx_quote_with_its_collateral_has_its_status_and_advisories),
        cmocka_unit_test(test_collateral_behind_its_next_update_fails),
        cmocka_unit_test(test_collateral_of_another_platform_does_not_fit),
        cmocka_unit_test(test_a_v5_quote_with_tcb_info_from_intels_service),
        cmocka_unit_test(test_a_v4_quote_with_collateral_from_intels_service),
        cmocka_unit_test(test_a_quote_that_meets_the_policy_gets_a_good_verdict),
        cmocka_unit_test(test_gap_n4_evidence_without_its_collateral_is_refused),
        cmocka_unit_test(test_gap_n5_n9_another_nonce_or_evidence_of_unknown_age_is_refused),
        cmocka_unit_test(test_gap_n6_an_unknown_launch_measurement_is_refused),
        cmocka_unit_test(test_gap_n6_a_patch_level_below_the_floor_is_refused),
        cmocka_unit_test(test_gap_n6_revocation_is_not_optional_unless_the_policy_says_so),
        cmocka_unit_test(test_two_platforms_in_one_bundle_are_refused),
        cmocka_unit_test(test_every_flipped_byte_is_refused_but_padding_behind_the_quote),
        cmocka_unit_test(test_every_truncation_is_refused_but_of_padding),
        cmocka_unit_test(test_flipped_bytes_of_collateral_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
