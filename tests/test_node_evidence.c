/* Evidence of a whole node: a TDX guest that carries the binding and a GPU that was asked with its nonce, both below
 * roots of our own that the policy names. All of it right, then wrong in one place each. */
#include "expect.h"

#include "attest/binding.h"
#include "attest/policy.h"
#include "gpu_make.h"
#include "mint.h"
#include "quote_make.h"

#define REPORT_DATA 520 /* in the body of a TDX 1.0 quote */
#define MRTD 136
#define ATTRIBUTES 120

struct node {
    struct maker intel;
    struct quote_make quote;
    struct mint gpu_root, gpu;
    struct st_binding keys;
    uint8_t gpu_nonce[32], model[32];
    struct st_buf chain, report, tdx; /* the GPU's certificates, its report, the quote */
    struct st_bundle bundle;
};

static int setup(void **state)
{
    struct node *n = calloc(1, sizeof *n);
    maker_open(&n->intel, true);
    quote_start(&n->quote, 4, true, false);
    n->gpu_root = mint_new((struct mint_spec){.name = "GPU Root"});
    n->gpu = mint_new((struct mint_spec){.name = "GPU", .issuer = &n->gpu_root, .not_ca = true});
    add_pem(&n->chain, n->gpu.cert);
    memset(n->model, 0x4d, sizeof n->model);
    n->keys = (struct st_binding){.suite = {ST_HPKE_KEM_X25519, ST_HPKE_KDF_SHA256, 1},
                                  .hpke_key = {1},
                                  .hpke_key_len = 32,
                                  .receipt_key = {2},
                                  .nonce = {3},
                                  .nonce_len = 32,
                                  .engine = {4},
                                  .has_engine = true,
                                  .has_model = true};
    memcpy(n->keys.model, n->model, 32);
    *state = n;
    return 0;
}

static int teardown(void **state)
{
    struct node *n = *state;
    maker_close(&n->intel);
    mint_free(&n->gpu);
    mint_free(&n->gpu_root);
    st_buf_free(&n->chain);
    st_buf_free(&n->report);
    st_buf_free(&n->tdx);
    free(n);
    return 0;
}

/* Asks GPU and platform as a node does; what a test changed before is used. */
static void collect(struct node *n)
{
    struct st_err e;
    assert_ok(st_binding_gpu_nonce(&n->keys, n->gpu_nonce, &e), &e);
    gpu_report(n->gpu.key, n->gpu_nonce, &n->report);
    n->bundle = (struct st_bundle){.n_item = 2, .has_binding = true, .binding = n->keys};
    n->bundle.items[0] = (struct st_evidence){.kind = "nvgpu", .data = {(uint8_t *)n->report.p, n->report.len}};
    endorse(&n->bundle.items[0], ST_ENDORSEMENT_CERTS, span_of(&n->chain));
    n->bundle.items[1].kind = "tdx";
    assert_ok(st_binding_report_data(&n->bundle, 1, n->quote.body + REPORT_DATA, &e), &e);
    st_buf_free(&n->tdx);
    n->tdx = quote_end(&n->quote, &n->intel);
    n->bundle.items[1] = maker_evidence(&n->intel, "tdx", &n->tdx);
}

static void add_text(struct st_buf *b, const char *key, const struct st_buf *pem)
{
    st_buf_addf(b, "\"%s\": \"", key);
    for (size_t i = 0; i < pem->len; i++)
        if (pem->p[i] == '\n')
            st_buf_add_str(b, "\\n");
        else
            st_buf_add(b, pem->p + i, 1);
    st_buf_add_str(b, "\"");
}

static void add_digest(struct st_buf *b, const uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        st_buf_addf(b, "%02x", p[i]);
}

/* The client's policy: our image, our model, a GPU. */
static struct st_policy *policy(const struct node *n, bool image)
{
    static const char *const pinned[] = {"mrtd", "rtmr1", "rtmr2"};
    static const size_t at[] = {136, 376, 424};
    struct quote_make good;
    struct st_policy *p;
    struct st_err e;
    struct st_buf b = {0}, gpu_root = {0};
    quote_start(&good, 4, true, false);
    add_pem(&gpu_root, n->gpu_root.cert);
    st_buf_add_str(&b, "{\"version\": 1, \"require\": [\"tdx\", \"nvgpu\"], \"roots\": {");
    add_text(&b, "tdx", &n->intel.roots);
    st_buf_add_str(&b, ", ");
    add_text(&b, "nvgpu", &gpu_root);
    st_buf_addf(&b, "}, \"image\": %s, \"measurements\": {\"nvgpu.driver\": [\"550.90.07\"]", image ? "true" : "false");
    for (int i = 0; i < 3; i++) {
        st_buf_addf(&b, ", \"tdx.%s\": [\"", pinned[i]);
        add_digest(&b, good.body + at[i], 48);
        st_buf_add_str(&b, "\"]");
    }
    st_buf_add_str(&b, "}, \"model\": [\"");
    add_digest(&b, n->model, 32);
    st_buf_add_str(&b,
                   "\"], \"gpu\": true, \"max_age_s\": 60, \"optional\": [\"nvgpu.revocation\", \"nvgpu.rim.driver\", "
                   "\"nvgpu.rim.vbios\"]}");
    assert_ok(st_policy_parse(b.p, b.len, "policy", &p, &e), &e);
    st_buf_free(&b);
    st_buf_free(&gpu_root);
    return p;
}

static struct st_verdict judge(const struct node *n, bool image, int64_t age)
{
    struct st_policy *p = policy(n, image);
    struct st_verdict v;
    struct st_err e;
    static const uint8_t nonce[32] = {3};
    const struct st_judge j = {.policy = p,
                               .bundle = &n->bundle,
                               .time = MADE_AT,
                               .nonce = {nonce, sizeof nonce},
                               .nonce_time = MADE_AT - age};
    assert_ok(st_policy_judge(&j, &v, &e), &e);
    st_policy_free(p);
    return v;
}

static void expect_refused(const struct node *n, int code, const char *failed)
{
    struct st_verdict v = judge(n, true, 10);
    const struct st_check *c = st_appraisal_find_check(&v.found, failed);
    if (v.good || v.model_verified || v.code != code || !c || c->result == ST_CHECK_PASS)
        fail_msg("want %d by %s, got %d", code, failed, v.code);
    st_verdict_wipe(&v);
}

static void all_in_order_is_accepted_and_the_model_counts(void **state)
{
    struct node *n = *state;
    collect(n);
    struct st_verdict v = judge(n, true, 10);
    for (size_t i = 0; i < v.found.n_check && !v.good; i++)
        print_message("%d %s: %s\n", v.found.checks[i].result, v.found.checks[i].name, v.found.checks[i].detail);
    assert_true(v.good);
    assert_true(v.model_stated);
    assert_true(v.model_verified);
    assert_non_null(st_appraisal_find_check(&v.found, "policy.roots.tdx"));
    st_verdict_wipe(&v);
}

static void without_a_pinned_image_the_model_is_what_the_node_says(void **state)
{
    struct node *n = *state;
    collect(n);
    struct st_verdict v = judge(n, false, 10);
    assert_true(v.good);
    assert_true(v.model_stated);
    assert_false(v.model_verified);
    st_verdict_wipe(&v);
}

static void gap_n1_another_model_or_none_is_refused(void **state)
{
    struct node *n = *state;
    n->keys.model[0] ^= 1;
    collect(n);
    expect_refused(n, ST_POLICY, "policy.model");
    n->keys.has_model = false;
    collect(n);
    expect_refused(n, ST_POLICY, "policy.model");
}

static void other_software_is_refused(void **state)
{
    struct node *n = *state;
    n->quote.body[MRTD] ^= 1;
    collect(n);
    expect_refused(n, ST_POLICY, "policy.tdx.mrtd");
}

static void a_debug_guest_is_refused(void **state)
{
    struct node *n = *state;
    n->quote.body[ATTRIBUTES] |= 1;
    collect(n);
    expect_refused(n, ST_POLICY, "policy.debug.tdx");
}

static void an_old_nonce_or_another_one_is_refused(void **state)
{
    struct node *n = *state;
    collect(n);
    struct st_verdict v = judge(n, true, 61);
    assert_int_equal(v.code, ST_POLICY);
    st_verdict_wipe(&v);
    n->keys.nonce[0]++;
    collect(n);
    expect_refused(n, ST_POLICY, "policy.nonce");
}

static void keys_that_were_changed_on_the_way_are_refused(void **state)
{
    struct node *n = *state;
    collect(n);
    n->bundle.binding.hpke_key[5] ^= 1;
    expect_refused(n, ST_VERIFY, "tdx.binding");
    expect_refused(n, ST_VERIFY, "nvgpu.binding");
    n->bundle.binding = n->keys;
    n->bundle.binding.model[0] ^= 1;
    expect_refused(n, ST_VERIFY, "tdx.binding");
}

static void evidence_without_its_binding_is_refused(void **state)
{
    struct node *n = *state;
    collect(n);
    n->bundle.has_binding = false;
    expect_refused(n, ST_POLICY, "policy.nonce.tdx");
}

static void gap_n4_n5_a_dropped_or_exchanged_gpu_is_refused(void **state)
{
    struct node *n = *state;
    collect(n);
    struct st_evidence tdx = n->bundle.items[1], gpu = n->bundle.items[0];
    n->bundle.items[0] = tdx;
    n->bundle.n_item = 1;
    expect_refused(n, ST_VERIFY, "tdx.binding");
    struct st_verdict v = judge(n, true, 10);
    assert_int_equal(st_appraisal_find_check(&v.found, "policy.gpu")->result, ST_CHECK_FAIL);
    st_verdict_wipe(&v);
    /* The same GPU, asked again with the same nonce: another report, which the quote does not name. */
    n->bundle.items[0] = gpu;
    n->bundle.n_item = 2;
    gpu_report(n->gpu.key, n->gpu_nonce, &n->report);
    n->bundle.items[0].data = (struct st_span){(uint8_t *)n->report.p, n->report.len};
    expect_refused(n, ST_VERIFY, "tdx.binding");
}

static void a_further_item_is_refused(void **state)
{
    struct node *n = *state;
    collect(n);
    n->bundle.items[2] = n->bundle.items[0];
    n->bundle.n_item = 3;
    expect_refused(n, ST_VERIFY, "tdx.binding");
}

static void the_vendors_roots_do_not_vouch_for_ours(void **state)
{
    struct node *n = *state;
    struct st_policy *p;
    struct st_verdict v;
    struct st_err e;
    static const char plain[] = "{\"version\": 1, \"require\": [\"tdx\", \"nvgpu\"], \"signature_only\": true}";
    collect(n);
    assert_ok(st_policy_parse(plain, strlen(plain), "policy", &p, &e), &e);
    const struct st_judge j = {.policy = p, .bundle = &n->bundle, .time = MADE_AT};
    assert_ok(st_policy_judge(&j, &v, &e), &e);
    assert_int_equal(v.code, ST_VERIFY);
    assert_int_equal(st_appraisal_find_check(&v.found, "tdx.chain")->result, ST_CHECK_FAIL);
    assert_int_equal(st_appraisal_find_check(&v.found, "nvgpu.chain")->result, ST_CHECK_FAIL);
    st_verdict_wipe(&v);
    st_policy_free(p);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(all_in_order_is_accepted_and_the_model_counts),
        CASE(without_a_pinned_image_the_model_is_what_the_node_says),
        CASE(gap_n1_another_model_or_none_is_refused),
        CASE(other_software_is_refused),
        CASE(a_debug_guest_is_refused),
        CASE(an_old_nonce_or_another_one_is_refused),
        CASE(keys_that_were_changed_on_the_way_are_refused),
        CASE(evidence_without_its_binding_is_refused),
        CASE(gap_n4_n5_a_dropped_or_exchanged_gpu_is_refused),
        CASE(a_further_item_is_refused),
        CASE(the_vendors_roots_do_not_vouch_for_ours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
