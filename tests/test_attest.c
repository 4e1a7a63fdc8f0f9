/* Bundles, policies and the binding of keys to evidence, on simulated evidence. */
#include "expect.h"

#include "attest/binding.h"
#include "attest/ev_sim.h"
#include "attest/policy.h"
#include "crypto/digest.h"
#include "text/base64.h"

#include <openssl/sha.h>
#include <stdlib.h>

#define NOW 1750000000

static struct st_ed25519 *root;
static char root_hex[65];

static int setup(void **state)
{
    (void)state;
    struct st_err e;
    uint8_t public[32];
    assert_ok(st_ed25519_new(&root, &e), &e);
    st_ed25519_public(root, public);
    st_hex(public, sizeof public, root_hex);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    st_ed25519_free(root);
    return 0;
}

/* A bundle of one statement; the caller keeps `bytes`. */
static struct st_bundle sim_bundle(const struct st_sim *s, uint8_t bytes[ST_SIM_LEN])
{
    struct st_err e;
    assert_ok(st_sim_collect(root, s, bytes, &e), &e);
    return (struct st_bundle){.n_item = 1, .items[0] = {.kind = "sim", .data = {bytes, ST_SIM_LEN}}};
}

/* `more` are fields of the policy, each with a comma before it. */
static struct st_policy *policy(const char *more)
{
    struct st_err e;
    struct st_policy *p;
    struct st_buf b = {0};
    st_buf_addf(&b, "{\"version\": 1, \"require\": [\"sim\"], \"sim_root\": \"%s\"%s}", root_hex, more);
    assert_ok(st_policy_parse(b.p, b.len, "policy", &p, &e), &e);
    st_buf_free(&b);
    return p;
}

static struct st_verdict judge_with(const struct st_bundle *b, const char *more, struct st_span nonce,
                                    int64_t nonce_time)
{
    struct st_err e;
    struct st_verdict v;
    struct st_policy *p = policy(more);
    const struct st_judge j = {.policy = p, .bundle = b, .time = NOW, .nonce = nonce, .nonce_time = nonce_time};
    assert_ok(st_policy_judge(&j, &v, &e), &e);
    st_policy_free(p);
    return v;
}

/* The verdict's code; `failed` is a check that must be among the failing ones (NULL: the verdict must be good). */
static void expect(const struct st_bundle *b, const char *more, int code, const char *failed)
{
    struct st_verdict v = judge_with(b, more, (struct st_span){0}, 0);
    const struct st_check *c = failed ? st_appraisal_find_check(&v.found, failed) : NULL;
    if (v.code != code || v.good != (code == 0) || (failed && (!c || c->result == ST_CHECK_PASS)))
        fail_msg("%s: want %d and %s, got %d", more, code, failed ? failed : "nothing", v.code);
    st_verdict_wipe(&v);
}

static const struct st_sim plain = {.svn = 3, .time = NOW - 100, .measurement = {0xaa, 0xbb}, .report_data = {1, 2, 3}};
#define MEASUREMENT "aabb000000000000000000000000000000000000000000000000000000000000"

/* ---- policy ---- */

static void each_demand_is_met_or_named(void **state)
{
    (void)state;
    uint8_t bytes[ST_SIM_LEN];
    struct st_bundle b = sim_bundle(&plain, bytes);
    expect(&b, "", 0, NULL);
    expect(&b, ", \"measurements\": {\"comment\": \"x\", \"sim.measurement\": [\"00\", \"" MEASUREMENT "\"]}", 0, NULL);
    expect(&b,
           ", \"measurements\": {\"sim.measurement\": "
           "[\"AABB000000000000000000000000000000000000000000000000000000000000\"]}",
           0, NULL);
    expect(&b, ", \"measurements\": {\"sim.measurement\": [\"00\"]}", ST_POLICY, "policy.sim.measurement");
    expect(&b, ", \"measurements\": {\"sim.other\": [\"00\"]}", ST_POLICY, "policy.sim.other");
    expect(&b, ", \"measurements\": {\"sim.svn\": [3], \"sim.debug\": [false]}", 0, NULL);
    expect(&b, ", \"measurements\": {\"sim.svn\": [4]}", ST_POLICY, "policy.sim.svn");
    expect(&b, ", \"measurements\": {\"sim.svn\": [\"3\"]}", ST_POLICY, "policy.sim.svn");
    expect(&b, ", \"minimum\": {\"sim.svn\": 3}", 0, NULL);
    expect(&b, ", \"minimum\": {\"sim.svn\": 4}", ST_POLICY, "policy.minimum.sim.svn");
    expect(&b, ", \"minimum\": {\"sim.measurement\": 1}", ST_POLICY, "policy.minimum.sim.measurement");
    expect(&b, ", \"minimum\": {\"sim.none\": 0}", ST_POLICY, "policy.minimum.sim.none");
    expect(&b, ", \"tcb\": {\"sim\": [\"UpToDate\"]}", ST_POLICY, "policy.tcb.sim");
    expect(&b, ", \"gpu\": true", ST_POLICY, "policy.gpu");
    expect(&b, ", \"gpu\": false", 0, NULL);
    expect(&b, ", \"model\": [\"" MEASUREMENT "\"]", ST_POLICY, "policy.model");
    expect(&b, ", \"engine\": [\"" MEASUREMENT "\"]", ST_POLICY, "policy.engine");
    expect(&b, ", \"max_age_s\": 100", ST_POLICY, "policy.max_age_s");
    expect(&b, ", \"revocation\": \"if_present\"", 0, NULL);
    expect(&b, ", \"allow\": [\"nvgpu\"]", 0, NULL);
    expect(&b, ", \"signature_only\": true", 0, NULL);
}

static void a_debug_guest_passes_only_where_the_policy_says_so(void **state)
{
    (void)state;
    uint8_t bytes[ST_SIM_LEN];
    struct st_sim s = plain;
    s.debug = true;
    struct st_bundle b = sim_bundle(&s, bytes);
    expect(&b, "", ST_POLICY, "policy.debug.sim");
    expect(&b, ", \"debug\": false", ST_POLICY, "policy.debug.sim");
    expect(&b, ", \"debug\": true", 0, NULL);
}

static void simulated_evidence_counts_only_under_the_root_that_the_policy_names(void **state)
{
    (void)state;
    uint8_t bytes[ST_SIM_LEN];
    struct st_err e;
    struct st_policy *p;
    static const char *const without[] = {"{\"version\": 1, \"require\": \"any\"}",
                                          "{\"version\": 1, \"require\": [\"sim\"]}",
                                          "{\"version\": 1, \"require\": \"any\", \"allow\": [\"sim\"]}",
                                          "{\"version\": 1, \"require\": \"any\", \"signature_only\": true}"};
    struct st_bundle b = sim_bundle(&plain, bytes);
    for (size_t i = 0; i < sizeof without / sizeof *without; i++) {
        struct st_verdict v;
        assert_ok(st_policy_parse(without[i], strlen(without[i]), "policy", &p, &e), &e);
        const struct st_judge j = {.policy = p, .bundle = &b, .time = NOW};
        assert_ok(st_policy_judge(&j, &v, &e), &e);
        assert_false(v.good);
        assert_non_null(st_appraisal_find_check(&v.found, "policy.allow.sim"));
        st_verdict_wipe(&v);
        st_policy_free(p);
    }
    /* Another key. */
    struct st_ed25519 *other = root;
    assert_ok(st_ed25519_new(&root, &e), &e);
    b = sim_bundle(&plain, bytes);
    st_ed25519_free(root);
    root = other;
    expect(&b, "", ST_VERIFY, "sim.signature");
}

static void any_means_hardware_even_with_a_sim_root(void **state)
{
    (void)state;
    uint8_t bytes[ST_SIM_LEN];
    struct st_err e;
    struct st_policy *p;
    struct st_verdict v;
    struct st_buf text = {0};
    struct st_bundle b = sim_bundle(&plain, bytes);
    st_buf_addf(&text, "{\"version\": 1, \"require\": \"any\", \"allow\": [\"sim\"], \"sim_root\": \"%s\"}", root_hex);
    assert_ok(st_policy_parse(text.p, text.len, "policy", &p, &e), &e);
    const struct st_judge j = {.policy = p, .bundle = &b, .time = NOW};
    assert_ok(st_policy_judge(&j, &v, &e), &e);
    assert_int_equal(v.code, ST_POLICY);
    assert_int_equal(st_appraisal_find_check(&v.found, "policy.require.any")->result, ST_CHECK_FAIL);
    st_verdict_wipe(&v);
    st_policy_free(p);
    st_buf_free(&text);
}

static void every_flipped_byte_of_a_statement_is_refused(void **state)
{
    (void)state;
    uint8_t bytes[ST_SIM_LEN];
    struct st_bundle b = sim_bundle(&plain, bytes);
    struct st_policy *p = policy("");
    const struct st_judge j = {.policy = p, .bundle = &b, .time = NOW};
    for (size_t i = 0; i < ST_SIM_LEN; i++) {
        struct st_verdict v;
        struct st_err e;
        bytes[i] ^= 0x10;
        assert_ok(st_policy_judge(&j, &v, &e), &e);
        assert_int_equal(v.code, ST_VERIFY);
        st_verdict_wipe(&v);
        bytes[i] ^= 0x10;
    }
    for (size_t n = 0; n < ST_SIM_LEN; n++) {
        b.items[0].data.len = n;
        expect(&b, "", ST_VERIFY, "sim.format");
    }
    st_policy_free(p);
}

static void evidence_from_the_future_is_refused(void **state)
{
    (void)state;
    uint8_t bytes[ST_SIM_LEN];
    struct st_sim s = plain;
    s.time = NOW + 1;
    struct st_bundle b = sim_bundle(&s, bytes);
    expect(&b, "", ST_VERIFY, "sim.time");
}

static void policies_are_read_strictly(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
        int code;
    } bad[] = {
        {"", "not valid JSON", ST_INPUT},
        {"[]", "want a policy", ST_INPUT},
        {"{}", "version: missing", ST_INPUT},
        {"{\"version\": 2, \"require\": \"any\"}", "version: want 1", ST_UNSUPPORTED},
        {"{\"version\": 1}", "require: missing", ST_INPUT},
        {"{\"version\": 1, \"require\": null}", "require: want a value", ST_INPUT},
        {"{\"version\": 1, \"require\": []}", "require: want", ST_INPUT},
        {"{\"version\": 1, \"require\": \"some\"}", "require: want", ST_INPUT},
        {"{\"version\": 1, \"require\": [\"xyz\"]}", "require: want", ST_INPUT},
        {"{\"version\": 1, \"require\": \"any\", \"requires\": []}", "unknown field 'requires'", ST_INPUT},
        {"{\"version\": 1, \"require\": \"any\", \"require\": \"any\"}", "not valid JSON", ST_INPUT},
        {"{\"version\": 1, \"require\": \"any\", \"allow\": \"tpm\"}", "allow: want", ST_INPUT},
        {"{\"version\": 1, \"require\": \"any\", \"measurements\": {}}", "measurements: want", ST_INPUT},
        {"{\"version\": 1, \"require\": \"any\", \"measurements\": {\"sim.a\": []}}", "measurements: sim.a: want",
         ST_INPUT},
        {"{\"version\": 1, \"require\": \"any\", \"measurements\": {\"sim.a\": \"00\"}}", "sim.a: want", ST_INPUT},
        {"{\"version\": 1, \"require\": \"any\", \"measurements\": {\"a\": [\"00\"]}}", "measurements: a: want",
         ST_INPUT},
        {"{\"version\": 1, \"require\": \"any\", \"measurements\": {\"sim.a\": [-1]}}", "sim.a: want", ST_INPUT},
        {"{\"version\": 1, \"require\": \"any\", \"tcb\": {\"sim\": [1]}}", "tcb: sim: want", ST_INPUT},
        {"{\"version\": 1, \"require\": \"any\", \"minimum\": {\"sim.a\": \"1\"}}", "minimum: sim.a: want", ST_INPUT},
        {"{\"version\": 1, \"require\": \"any\", \"debug\": 1}", "debug: want", ST_INPUT},
        {"{\"version\": 1, \"require\": \"any\", \"snp_policy\": {\"smt\": \"x\"}}", "snp_policy: smt: want", ST_INPUT},
        {"{\"version\": 1, \"require\": \"any\", \"gpu\": \"yes\"}", "gpu: want", ST_INPUT},
        {"{\"version\": 1, \"require\": \"any\", \"model\": [\"00\"]}", "model: want", ST_INPUT},
        {"{\"version\": 1, \"require\": \"any\", \"engine\": [\"00\"]}", "engine: want", ST_INPUT},
        {"{\"version\": 1, \"require\": \"any\", \"max_age_s\": -1}", "max_age_s: want", ST_INPUT},
        {"{\"version\": 1, \"require\": \"any\", \"revocation\": \"never\"}", "revocation: want", ST_INPUT},
        {"{\"version\": 1, \"require\": \"any\", \"optional\": [\"signature\"]}", "optional: want", ST_INPUT},
        {"{\"version\": 1, \"require\": \"any\", \"sim_root\": \"00\"}", "sim_root: want", ST_INPUT},
        {"{\"version\": 1, \"require\": \"any\", \"roots\": {\"tpm\": \"x\"}}", "roots: tpm: want", ST_INPUT},
        {"{\"version\": 1, \"require\": \"any\", \"roots\": {\"sim\": \"x\"}}", "roots: sim: want", ST_INPUT},
        {"{\"version\": 1, \"require\": \"any\", \"image\": true}", "image: needs", ST_INPUT},
        {"{\"version\": 1, \"require\": \"any\", \"image\": true, \"measurements\": {\"sim.measurement\": [\"00\"]}}",
         "image: needs", ST_INPUT},
        {"{\"version\": 1, \"require\": \"any\", \"signature_only\": true, \"debug\": false}", "debug: goes not",
         ST_INPUT},
        {"{\"version\": 1, \"require\": \"any\", \"signature_only\": true, \"max_age_s\": 1}", "max_age_s: goes not",
         ST_INPUT},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct st_err e;
        struct st_policy *p;
        expect_refusal(st_policy_parse(bad[i].text, strlen(bad[i].text), "p.json", &p, &e), &e, bad[i].code,
                       bad[i].says);
        assert_null(p);
    }
}

static void a_policy_says_when_it_judges_signatures_alone(void **state)
{
    (void)state;
    struct st_policy *p = policy(", \"signature_only\": true");
    assert_true(st_policy_signature_only(p));
    st_policy_free(p);
    p = policy("");
    assert_false(st_policy_signature_only(p));
    st_policy_free(p);
}

static void only_named_checks_may_be_absent_and_no_signature_ever(void **state)
{
    (void)state;
    static const enum st_check_area areas[] = {ST_AREA_SIGNATURE, ST_AREA_REVOCATION, ST_AREA_STATUS, ST_AREA_POLICY};
    /* Per area: tolerated when absent under the default, if_present, optional by name, signature_only. */
    static const bool want[4][4] = {{0, 0, 0, 0}, {0, 1, 1, 1}, {0, 0, 1, 1}, {0, 0, 0, 0}};
    static const char *const more[] = {"", ", \"revocation\": \"if_present\"", ", \"optional\": [\"sim.x\"]",
                                       ", \"signature_only\": true"};
    for (size_t k = 0; k < 4; k++) {
        struct st_policy *p = policy(more[k]);
        for (size_t i = 0; i < 4; i++) {
            struct st_check c = {.name = "sim.x", .area = areas[i], .result = ST_CHECK_ABSENT};
            assert_int_equal(st_policy_tolerates(p, &c), want[i][k]);
            c.result = ST_CHECK_FAIL;
            assert_int_equal(st_policy_tolerates(p, &c), k == 3 && areas[i] == ST_AREA_STATUS);
            c.result = ST_CHECK_PASS;
            assert_true(st_policy_tolerates(p, &c));
        }
        st_policy_free(p);
    }
}

/* ---- nonce and age ---- */

static void the_nonce_stands_in_the_report_data_as_it_is_or_hashed(void **state)
{
    (void)state;
    static const uint8_t nonce[20] = {9, 8, 7};
    for (int form = 0; form < 4; form++) {
        uint8_t bytes[ST_SIM_LEN];
        struct st_sim s = plain;
        memset(s.report_data, 0, sizeof s.report_data);
        if (form == 0)
            memcpy(s.report_data, nonce, sizeof nonce);
        else if (form == 1)
            SHA512(nonce, sizeof nonce, s.report_data);
        else if (form == 2)
            st_sha256(nonce, sizeof nonce, s.report_data);
        else {
            memcpy(s.report_data, nonce, sizeof nonce);
            s.report_data[63] = 1;
        }
        struct st_bundle b = sim_bundle(&s, bytes);
        struct st_verdict v = judge_with(&b, ", \"max_age_s\": 10", (struct st_span){nonce, sizeof nonce}, NOW - 10);
        assert_int_equal(v.code, form == 3 ? ST_POLICY : 0);
        st_verdict_wipe(&v);
    }
}

static void age_is_that_of_the_nonce(void **state)
{
    (void)state;
    static const int64_t made[] = {NOW - 11, NOW + 1, 0};
    uint8_t bytes[ST_SIM_LEN];
    struct st_bundle b = sim_bundle(&plain, bytes);
    for (size_t i = 0; i < sizeof made / sizeof *made; i++) {
        struct st_verdict v = judge_with(&b, ", \"max_age_s\": 10", (struct st_span){plain.report_data, 16}, made[i]);
        assert_int_equal(v.code, ST_POLICY);
        assert_int_equal(st_appraisal_find_check(&v.found, "policy.max_age_s")->result, ST_CHECK_FAIL);
        st_verdict_wipe(&v);
    }
}

/* ---- binding ---- */

static const struct st_binding keys = {.suite = {ST_HPKE_KEM_X25519, ST_HPKE_KDF_SHA256, 1},
                                       .hpke_key = {1, 2, 3},
                                       .hpke_key_len = 32,
                                       .receipt_key = {4, 5, 6},
                                       .nonce = {7, 8, 9},
                                       .nonce_len = 32,
                                       .engine = {10},
                                       .model = {11},
                                       .has_engine = true,
                                       .has_model = true};

/* A bundle whose statement carries the binding. */
static struct st_bundle bound(uint8_t bytes[ST_SIM_LEN])
{
    struct st_err e;
    struct st_sim s = plain;
    struct st_bundle b = {.n_item = 1, .items[0] = {.kind = "sim"}, .has_binding = true, .binding = keys};
    assert_int_equal(st_binding_carrier(&b), 0);
    assert_ok(st_binding_report_data(&b, 0, s.report_data, &e), &e);
    struct st_bundle out = sim_bundle(&s, bytes);
    out.has_binding = true;
    out.binding = keys;
    return out;
}

static void a_bound_bundle_passes_and_any_change_of_it_does_not(void **state)
{
    (void)state;
    uint8_t bytes[ST_SIM_LEN];
    struct st_bundle b = bound(bytes);
    struct st_binding *k = &b.binding;
    uint8_t *const fields[] = {k->hpke_key, k->hpke_key + 31, k->receipt_key, k->receipt_key + 31,
                               k->nonce,    k->nonce + 31,    k->engine,      k->engine + 31,
                               k->model,    k->model + 31};
    expect(&b, "", 0, NULL);
    expect(&b, ", \"signature_only\": true", 0, NULL);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        *fields[i] ^= 1;
        expect(&b, "", ST_VERIFY, "sim.binding");
        expect(&b, ", \"signature_only\": true", ST_VERIFY, "sim.binding");
        *fields[i] ^= 1;
    }
    k->suite.aead = 2;
    expect(&b, "", ST_VERIFY, "sim.binding");
    k->suite.aead = 1;
    k->has_model = false;
    expect(&b, "", ST_VERIFY, "sim.binding");
    k->has_model = true;
    k->nonce_len = 31;
    expect(&b, "", ST_VERIFY, "sim.binding");
    k->nonce_len = 32;
    expect(&b, "", 0, NULL);
}

static void a_models_digest_is_compared_and_said_to_be_unverified(void **state)
{
    (void)state;
    uint8_t bytes[ST_SIM_LEN];
    struct st_bundle b = bound(bytes);
    struct st_verdict v =
        judge_with(&b, ", \"model\": [\"0b00000000000000000000000000000000000000000000000000000000000000\"]",
                   (struct st_span){keys.nonce, 32}, 0);
    assert_true(v.good);
    assert_true(v.model_stated);
    assert_false(v.model_verified);
    assert_non_null(strstr(st_appraisal_find_check(&v.found, "policy.model")->detail, "unverified"));
    st_verdict_wipe(&v);
    expect(&b, ", \"model\": [\"" MEASUREMENT "\"]", ST_POLICY, "policy.model");
    v = judge_with(&b, "", (struct st_span){keys.nonce, 31}, 0);
    assert_int_equal(v.code, ST_POLICY);
    st_verdict_wipe(&v);
}

static void the_formulas_are_those_of_the_header(void **state)
{
    (void)state;
    struct st_err e;
    uint8_t pre[512], want[64], got[64];
    size_t n = 0;
    struct {
        const void *p;
        uint32_t len;
    } fields[] = {{"sotto node gpu nonce v1", 23},
                  {"\x00\x20\x00\x01\x00\x01", 6},
                  {keys.hpke_key, 32},
                  {keys.receipt_key, 32},
                  {keys.nonce, 32}};
    for (size_t i = 0; i < 5; i++) {
        memcpy(pre + n, &fields[i].len, 4);
        memcpy(pre + n + 4, fields[i].p, fields[i].len);
        n += 4 + fields[i].len;
    }
    st_sha256(pre, n, want);
    assert_ok(st_binding_gpu_nonce(&keys, got, &e), &e);
    assert_memory_equal(got, want, 32);
    /* Two items: a carrier, and a GPU before it in the list. */
    static const uint8_t gpu[] = "report";
    struct st_bundle b = {.n_item = 2,
                          .items = {{.kind = "nvgpu", .data = {gpu, 6}}, {.kind = "tdx"}},
                          .has_binding = true,
                          .binding = keys};
    uint8_t item[4 + 5 + 4 + 6] = {5, 0, 0, 0, 'n', 'v', 'g', 'p', 'u', 6, 0, 0, 0, 'r', 'e', 'p', 'o', 'r', 't'};
    assert_int_equal(st_binding_carrier(&b), 1);
    assert_ok(st_evidence_digest(&b.items[0], got, &e), &e);
    st_sha256(item, sizeof item, want);
    assert_memory_equal(got, want, 32);
    static const char label[] = "sotto node report data v1";
    uint32_t len = sizeof label - 1;
    memmove(pre + 4 + len, pre + 27, n - 27);
    n += len - 23;
    memcpy(pre, &len, 4);
    memcpy(pre + 4, label, len);
    const uint8_t *const tail[] = {want, keys.engine, keys.model};
    for (size_t i = 0; i < 3; i++) {
        len = 32;
        memcpy(pre + n, &len, 4);
        memcpy(pre + n + 4, tail[i], 32);
        n += 36;
    }
    assert_ok(st_binding_report_data(&b, 1, got, &e), &e);
    SHA512(pre, n, want);
    assert_memory_equal(got, want, 64);
}

static void the_carrier_is_the_platform_and_a_tpm_has_less_room(void **state)
{
    (void)state;
    struct st_err e;
    uint8_t data[64], hash[32], got[64];
    size_t len;
    static const uint8_t bytes[] = "x";
    struct st_bundle b = {.n_item = 2,
                          .items = {{.kind = "tpm", .data = {bytes, 1}}, {.kind = "snp", .data = {bytes, 1}}},
                          .has_binding = true,
                          .binding = keys};
    assert_int_equal(st_binding_carrier(&b), 1);
    assert_ok(st_binding_expected(&b, 0, got, &len, &e), &e);
    assert_int_equal(len, 32);
    /* Azure: the report data is the digest of runtime data. */
    b.items[1].endorsements[0] = (struct st_endorsement){ST_ENDORSEMENT_RUNTIME_DATA, {bytes, 1}};
    b.items[1].n_endorsement = 1;
    assert_int_equal(st_binding_carrier(&b), 0);
    assert_ok(st_binding_expected(&b, 1, got, &len, &e), &e);
    assert_int_equal(len, 0);
    assert_ok(st_binding_report_data(&b, 0, data, &e), &e);
    st_sha256(data, 64, hash);
    assert_ok(st_binding_expected(&b, 0, got, &len, &e), &e);
    assert_int_equal(len, 32);
    assert_memory_equal(got, hash, 32);
    b.items[0].kind = "nvgpu";
    assert_int_equal(st_binding_carrier(&b), -1);
    expect_refusal(st_binding_expected(&b, 0, got, &len, &e), &e, ST_INPUT, "no item here can carry it");
}

/* ---- bundles ---- */

static void a_bundle_is_written_and_read_back(void **state)
{
    (void)state;
    struct st_err e;
    uint8_t bytes[ST_SIM_LEN];
    struct st_bundle b = bound(bytes), again;
    struct st_buf text = {0};
    st_bundle_write(&b, &text);
    assert_false(text.failed);
    assert_ok(st_bundle_parse(text.p, text.len, "bundle", &again, &e), &e);
    assert_int_equal(again.n_item, 1);
    assert_int_equal(again.items[0].data.len, ST_SIM_LEN);
    assert_memory_equal(again.items[0].data.p, bytes, ST_SIM_LEN);
    assert_memory_equal(&again.binding, &b.binding, sizeof b.binding);
    expect(&again, "", 0, NULL);
    st_bundle_free(&again);
    for (size_t n = 0; n < text.len - 2; n++) {
        assert_int_not_equal(st_bundle_parse(text.p, n, "cut", &again, &e), 0);
        assert_null(again.memory);
    }
    st_buf_free(&text);
}

static void raw_evidence_comes_as_bytes_digits_or_pem(void **state)
{
    (void)state;
    struct st_err e;
    uint8_t bytes[ST_SIM_LEN];
    char hex[2 * ST_SIM_LEN + 1];
    struct st_bundle b = sim_bundle(&plain, bytes), got;
    struct st_buf text[3] = {{0}, {0}, {0}};
    st_buf_add(&text[0], bytes, sizeof bytes);
    st_hex(bytes, sizeof bytes, hex);
    st_buf_addf(&text[1], "%.100s\n%s\n", hex, hex + 100);
    st_buf_add_str(&text[2], "A report:\n-----BEGIN REPORT-----\n");
    st_base64_encode(bytes, 48, &text[2]);
    st_buf_add_str(&text[2], "\n");
    st_base64_encode(bytes + 48, 48, &text[2]);
    st_buf_add_str(&text[2], "\n");
    st_base64_encode(bytes + 96, 48, &text[2]);
    st_buf_add_str(&text[2], "\n");
    st_base64_encode(bytes + 144, 48, &text[2]);
    st_buf_add_str(&text[2], "\n-----END REPORT-----\n");
    for (int i = 0; i < 3; i++) {
        assert_ok(st_bundle_parse(text[i].p, text[i].len, "raw", &got, &e), &e);
        assert_string_equal(got.items[0].kind, "sim");
        assert_int_equal(got.items[0].data.len, ST_SIM_LEN);
        assert_memory_equal(got.items[0].data.p, b.items[0].data.p, ST_SIM_LEN);
        st_bundle_free(&got);
        st_buf_free(&text[i]);
    }
    expect_refusal(st_bundle_parse("zz", 2, "raw", &got, &e), &e, ST_UNSUPPORTED, "neither a bundle");
    expect_refusal(st_bundle_parse("534", 3, "raw", &got, &e), &e, ST_UNSUPPORTED, "neither a bundle");
    expect_refusal(st_bundle_parse("", 0, "raw", &got, &e), &e, ST_INPUT, "want 1..");
}

static void bundles_are_read_strictly(void **state)
{
    (void)state;
#define ITEM "{\"kind\": \"sim\", \"evidence\": \"AAAA\"}"
#define KEYS "\"hpke_key\": \"" MEASUREMENT "\", \"receipt_key\": \"" MEASUREMENT "\", \"nonce\": \"" MEASUREMENT "\""
    static const struct {
        const char *text, *says;
        int code;
    } bad[] = {
        {"{", "not valid JSON", ST_INPUT},
        {"{\"items\": [" ITEM "]}", "version: missing", ST_INPUT},
        {"{\"version\": 2, \"items\": [" ITEM "]}", "version: want 1", ST_UNSUPPORTED},
        {"{\"version\": 1, \"items\": []}", "items: want", ST_INPUT},
        {"{\"version\": 1, \"items\": {}}", "items: want", ST_INPUT},
        {"{\"version\": 1, \"items\": [1]}", "items[0]: want an object", ST_INPUT},
        {"{\"version\": 1, \"items\": [" ITEM "], \"x\": 1}", "unknown field 'x'", ST_INPUT},
        {"{\"version\": 1, \"items\": [" ITEM ", " ITEM "]}", "'sim' comes twice", ST_INPUT},
        {"{\"version\": 1, \"items\": [{\"kind\": \"sgx2\", \"evidence\": \"AAAA\"}]}", "'sgx2' is not known",
         ST_INPUT},
        {"{\"version\": 1, \"items\": [{\"kind\": \"sim\"}]}", "evidence: missing", ST_INPUT},
        {"{\"version\": 1, \"items\": [{\"kind\": \"sim\", \"evidence\": \"AAA\"}]}", "evidence: want base64",
         ST_INPUT},
        {"{\"version\": 1, \"items\": [{\"kind\": \"sim\", \"evidence\": \"AB==\"}]}", "evidence: want base64",
         ST_INPUT},
        {"{\"version\": 1, \"items\": [{\"kind\": \"sim\", \"evidence\": \"AAAA\", \"endorsements\": 1}]}",
         "endorsements: want an array", ST_INPUT},
        {"{\"version\": 1, \"items\": [{\"kind\": \"sim\", \"evidence\": \"AAAA\", \"endorsements\": [{\"type\": "
         "\"certs\", "
         "\"data\": \"AAAA\"}]}]}",
         "has no use for 'certs'", ST_INPUT},
        {"{\"version\": 1, \"items\": [{\"kind\": \"nvgpu\", \"evidence\": \"AAAA\", \"endorsements\": [{\"type\": "
         "\"certs\", \"data\": \"AAAA\", \"x\": 1}]}]}",
         "unknown field 'x'", ST_INPUT},
        {"{\"version\": 1, \"items\": [" ITEM "], \"binding\": {\"kem\": 32, \"kdf\": 1, \"aead\": 1}}",
         "hpke_key: missing", ST_INPUT},
        {"{\"version\": 1, \"items\": [" ITEM "], \"binding\": {\"kem\": 33, \"kdf\": 1, \"aead\": 1, " KEYS "}}",
         "suite 0021-0001-0001", ST_INPUT},
        {"{\"version\": 1, \"items\": [" ITEM "], \"binding\": {\"kem\": 16, \"kdf\": 1, \"aead\": 1, " KEYS "}}",
         "hpke_key: want 65..65 bytes", ST_INPUT},
        {"{\"version\": 1, \"items\": [" ITEM "], \"binding\": {\"kem\": 32, \"kdf\": 1, \"aead\": 1, " KEYS
         ", \"engine\": \"00\"}}",
         "engine: want 32..32 bytes", ST_INPUT},
        {"{\"version\": 1, \"items\": [" ITEM "], \"binding\": {\"kem\": 32, \"kdf\": 1, \"aead\": 1, " KEYS
         ", \"y\": 1}}",
         "unknown field 'y'", ST_INPUT},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct st_err e;
        struct st_bundle b;
        expect_refusal(st_bundle_parse(bad[i].text, strlen(bad[i].text), "b", &b, &e), &e, bad[i].code, bad[i].says);
        assert_null(b.memory);
    }
}

static void files_of_endorsements_that_say_nothing_here_are_refused(void **state)
{
    (void)state;
    struct st_err e;
    uint8_t bytes[ST_SIM_LEN];
    struct st_bundle b, made = sim_bundle(&plain, bytes);
    assert_ok(st_bundle_parse(made.items[0].data.p, ST_SIM_LEN, "sim", &b, &e), &e);
    expect_refusal(st_bundle_endorse(&b, "rubbish", 7, "f", &e), &e, ST_INPUT, "f: want certificates");
    static const char rim[] = "<SoftwareIdentity/>";
    expect_refusal(st_bundle_endorse(&b, rim, strlen(rim), "f", &e), &e, ST_INPUT, "say nothing about the evidence");
    st_bundle_free(&b);
}

/* ---- appraisals ---- */

static void an_appraisal_that_is_full_is_believed_by_nobody(void **state)
{
    (void)state;
    struct st_appraisal a = {0};
    for (int i = 0; i < ST_APPRAISAL_MAX; i++)
        st_appraisal_check(&a, "x", "%d", i)->result = ST_CHECK_PASS;
    assert_false(a.failed);
    st_appraisal_check(&a, "x", "one more")->result = ST_CHECK_PASS;
    assert_true(a.failed);
    assert_int_equal(a.n_check, ST_APPRAISAL_MAX);
    st_appraisal_wipe(&a);
    st_appraisal_text(&a, "sim.text", "a\nb\033c");
    assert_string_equal(a.claims[0].text, "a?b?c");
    st_appraisal_wipe(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_demand_is_met_or_named),
        cmocka_unit_test(a_debug_guest_passes_only_where_the_policy_says_so),
        cmocka_unit_test(simulated_evidence_counts_only_under_the_root_that_the_policy_names),
        cmocka_unit_test(any_means_hardware_even_with_a_sim_root),
        cmocka_unit_test(every_flipped_byte_of_a_statement_is_refused),
        cmocka_unit_test(evidence_from_the_future_is_refused),
        cmocka_unit_test(policies_are_read_strictly),
        cmocka_unit_test(a_policy_says_when_it_judges_signatures_alone),
        cmocka_unit_test(only_named_checks_may_be_absent_and_no_signature_ever),
        cmocka_unit_test(the_nonce_stands_in_the_report_data_as_it_is_or_hashed),
        cmocka_unit_test(age_is_that_of_the_nonce),
        cmocka_unit_test(a_bound_bundle_passes_and_any_change_of_it_does_not),
        cmocka_unit_test(a_models_digest_is_compared_and_said_to_be_unverified),
        cmocka_unit_test(the_formulas_are_those_of_the_header),
        cmocka_unit_test(the_carrier_is_the_platform_and_a_tpm_has_less_room),
        cmocka_unit_test(a_bundle_is_written_and_read_back),
        cmocka_unit_test(raw_evidence_comes_as_bytes_digits_or_pem),
        cmocka_unit_test(bundles_are_read_strictly),
        cmocka_unit_test(files_of_endorsements_that_say_nothing_here_are_refused),
        cmocka_unit_test(an_appraisal_that_is_full_is_believed_by_nobody),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
