/* Evidence of several parts of one machine: Azure's SEV-SNP report with the quote of the virtual TPM that it names (a
 * public sample, from the shared data), and parts of different machines put together. */
#include "expect.h"

#include "attest/binding.h"
#include "attest/policy.h"
#include "base/file.h"
#include "crypto/digest.h"
#include "text/json.h"

#include <stdlib.h>

#include <openssl/evp.h>

#define AS_OF 1751328000 /* 2025-07-01 */

static const char lax[] = "{\"version\": 1, \"require\": [\"snp\", \"tpm\"], \"signature_only\": true}";

static bool sample(const char *name, struct st_buf *out)
{
    char path[512];
    struct st_err e;
    const char *shared = getenv("SOTTO_SHARED");
    snprintf(path, sizeof path, "%s/data/evidence/%s", shared ? shared : "../shared", name);
    if (!st_path_exists(path)) {
        print_message("skipped: %s is not here (SOTTO_SHARED)\n", name);
        return false;
    }
    assert_ok(st_file_read(path, 1 << 20, out, &e), &e);
    return true;
}

/* base64url without padding. */
static void from_base64url(const char *s, struct st_buf *out)
{
    char block[5] = "";
    uint8_t bytes[3];
    for (size_t len = strlen(s); len;) {
        size_t n = len < 4 ? len : 4;
        for (size_t i = 0; i < 4; i++)
            block[i] = i >= n ? '=' : s[i] == '-' ? '+' : s[i] == '_' ? '/' : s[i];
        assert_int_equal(EVP_DecodeBlock(bytes, (uint8_t *)block, 4), 3);
        st_buf_add(out, bytes, n - 1);
        s += n;
        len -= n;
    }
}

static void from_hex(const char *s, struct st_buf *out)
{
    struct st_err e;
    uint8_t bytes[512];
    size_t n = strlen(s) / 2;
    assert_true(n <= sizeof bytes);
    assert_ok(st_unhex(s, strlen(s), bytes, n, "sample", &e), &e);
    st_buf_add(out, bytes, n);
}

static const json_t *azure_quote(const json_t *o)
{
    return json_object_get(o, "tpm_quote");
}

/* The parts of Azure's sample. */
struct azure {
    struct st_buf hcl, vcek, message, signature;
    struct st_span runtime; /* inside hcl */
};

static struct st_span runtime_of(const struct st_buf *hcl)
{
    const uint8_t *p = (const uint8_t *)hcl->p, *start = memchr(p + 1216, '{', hcl->len - 1216);
    const uint8_t *end = memrchr(p, '}', hcl->len);
    assert_true(start && end && start < end);
    return (struct st_span){start, (size_t)(end + 1 - start)};
}

static bool load_azure(struct azure *a)
{
    struct st_buf text = {0};
    struct st_err e;
    json_t *o;
    *a = (struct azure){0};
    if (!sample("tpm/evidence-v1.json", &text))
        return false;
    assert_ok(st_json_parse(text.p, text.len, "sample", &o, &e), &e);
    from_base64url(json_string_value(json_object_get(o, "hcl_report")), &a->hcl);
    from_base64url(json_string_value(json_object_get(o, "vcek")), &a->vcek);
    from_hex(json_string_value(json_object_get(azure_quote(o), "message")), &a->message);
    from_hex(json_string_value(json_object_get(azure_quote(o), "signature")), &a->signature);
    a->runtime = runtime_of(&a->hcl);
    json_decref(o);
    st_buf_free(&text);
    return true;
}

static void free_azure(struct azure *a)
{
    st_buf_free(&a->hcl);
    st_buf_free(&a->vcek);
    st_buf_free(&a->message);
    st_buf_free(&a->signature);
}

static struct st_span span_of(const struct st_buf *b)
{
    return (struct st_span){(const uint8_t *)b->p, b->len};
}

static struct st_bundle bundle_of(const struct azure *a)
{
    struct st_bundle b = {.n_item = 2,
                          .items = {{.kind = "snp", .data = span_of(&a->hcl), .n_endorsement = 1},
                                    {.kind = "tpm", .data = span_of(&a->message), .n_endorsement = 2}}};
    b.items[0].endorsements[0] = (struct st_endorsement){ST_ENDORSEMENT_CERTS, span_of(&a->vcek)};
    b.items[1].endorsements[0] = (struct st_endorsement){ST_ENDORSEMENT_SIGNATURE, span_of(&a->signature)};
    b.items[1].endorsements[1] = (struct st_endorsement){ST_ENDORSEMENT_RUNTIME_DATA, a->runtime};
    return b;
}

/* The verdict's code; each of `passed` and `failed` (NULL: none) is a check that did. */
static void expect(const struct st_bundle *b, const char *policy, int code, const char *passed, const char *failed)
{
    struct st_err e;
    struct st_policy *p;
    struct st_verdict v;
    assert_ok(st_policy_parse(policy, strlen(policy), "policy", &p, &e), &e);
    const struct st_judge j = {.policy = p, .bundle = b, .time = AS_OF};
    assert_ok(st_policy_judge(&j, &v, &e), &e);
    const struct st_check *good = passed ? st_appraisal_find_check(&v.found, passed) : NULL;
    const struct st_check *bad = failed ? st_appraisal_find_check(&v.found, failed) : NULL;
    if (v.code != code || (passed && (!good || good->result != ST_CHECK_PASS)) ||
        (failed && (!bad || bad->result == ST_CHECK_PASS))) {
        for (size_t i = 0; i < v.found.n_check; i++)
            print_message("%d %s: %s\n", v.found.checks[i].result, v.found.checks[i].name, v.found.checks[i].detail);
        fail_msg("want %d, got %d", code, v.code);
    }
    st_verdict_wipe(&v);
    st_policy_free(p);
}

static void a_tpm_that_the_platforms_report_names_needs_no_certificate(void **state)
{
    (void)state;
    struct azure a;
    if (!load_azure(&a))
        return;
    struct st_bundle b = bundle_of(&a);
    expect(&b, lax, 0, "tpm.link", NULL);
    expect(&b, lax, 0, "tpm.chain", NULL);
    free_azure(&a);
}

static void without_the_platforms_report_the_tpm_is_nobodys(void **state)
{
    (void)state;
    struct azure a;
    if (!load_azure(&a))
        return;
    struct st_bundle b = bundle_of(&a);
    b.items[0] = b.items[1];
    b.n_item = 1;
    expect(&b, "{\"version\": 1, \"require\": [\"tpm\"], \"signature_only\": true}", ST_VERIFY, "tpm.signature",
           "tpm.chain");
    expect(&b, lax, ST_VERIFY, NULL, "policy.require.snp");
    free_azure(&a);
}

static void the_report_of_another_machine_does_not_vouch_for_this_tpm(void **state)
{
    (void)state;
    struct azure a;
    struct st_buf hcl = {0}, vcek = {0};
    if (!load_azure(&a) || !sample("tpm/hcl-report.bin", &hcl) || !sample("tpm/vcek.pem", &vcek))
        return;
    struct st_bundle b = bundle_of(&a);
    b.items[0].data = span_of(&hcl);
    b.items[0].endorsements[0].data = span_of(&vcek);
    expect(&b, lax, ST_VERIFY, "snp.signature", "tpm.link");
    expect(&b, lax, ST_VERIFY, "tpm.signature", "tpm.chain");
    /* Nor does its runtime data make the quote another key's. */
    b.items[1].endorsements[1].data = runtime_of(&hcl);
    expect(&b, lax, ST_VERIFY, "tpm.link", "tpm.signature");
    st_buf_free(&hcl);
    st_buf_free(&vcek);
    free_azure(&a);
}

static void two_platforms_are_two_machines(void **state)
{
    (void)state;
    struct azure a;
    struct st_buf quote = {0};
    if (!load_azure(&a) || !sample("tdx/dcapqvl_v4.dat", &quote))
        return;
    struct st_bundle b = bundle_of(&a);
    b.items[2] = (struct st_evidence){.kind = "tdx", .data = span_of(&quote)};
    b.n_item = 3;
    expect(&b, "{\"version\": 1, \"require\": [\"snp\", \"tpm\", \"tdx\"], \"signature_only\": true}", ST_POLICY,
           "tpm.link", "policy.platforms");
    st_buf_free(&quote);
    free_azure(&a);
}

static void evidence_that_was_asked_for_with_another_nonce_is_not_bound(void **state)
{
    (void)state;
    struct azure a;
    struct st_buf report = {0}, chain = {0};
    struct st_err e;
    struct st_bundle gpu;
    if (!load_azure(&a) || !sample("nvidia/gonvtrust_report.txt", &report) ||
        !sample("nvidia/gonvtrust_chain.txt", &chain))
        return;
    assert_ok(st_bundle_parse(report.p, report.len, "gpu", &gpu, &e), &e);
    assert_ok(st_bundle_endorse(&gpu, chain.p, chain.len, "chain", &e), &e);
    struct st_bundle b = bundle_of(&a);
    b.items[2] = gpu.items[0];
    b.n_item = 3;
    static const char all[] = "{\"version\": 1, \"require\": [\"snp\", \"tpm\", \"nvgpu\"], \"signature_only\": true}";
    expect(&b, all, 0, "nvgpu.signature", NULL);
    b.has_binding = true;
    b.binding =
        (struct st_binding){.suite = {ST_HPKE_KEM_X25519, ST_HPKE_KDF_SHA256, 1}, .hpke_key_len = 32, .nonce_len = 32};
    /* The platform's own report is bound by the TPM; TPM and GPU signed other nonces. */
    assert_int_equal(st_binding_carrier(&b), 1);
    expect(&b, all, ST_VERIFY, "snp.binding", "tpm.binding");
    expect(&b, all, ST_VERIFY, "nvgpu.signature", "nvgpu.binding");
    st_bundle_free(&gpu);
    st_buf_free(&report);
    st_buf_free(&chain);
    free_azure(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tpm_that_the_platforms_report_names_needs_no_certificate),
        cmocka_unit_test(without_the_platforms_report_the_tpm_is_nobodys),
        cmocka_unit_test(the_report_of_another_machine_does_not_vouch_for_this_tpm),
        cmocka_unit_test(two_platforms_are_two_machines),
        cmocka_unit_test(evidence_that_was_asked_for_with_another_nonce_is_not_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
