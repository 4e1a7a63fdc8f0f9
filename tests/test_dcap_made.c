/* Intel quotes and collateral made here, below a root of our own: right in everything, then wrong in one place. */
#include "expect.h"

#include "attest/dcap.h"
#include "attest/intel_collateral.h"
#include "attest/intel_tcb.h"
#include "attest/verifier.h"
#include "intel_checks.h"
#include "quote_make.h"

static void appraise_ev(struct maker *m, const struct st_evidence *ev, int64_t time, struct st_appraisal *a)
{
    struct st_verify_env env = {.time = time, .roots = {(const uint8_t *)m->roots.p, m->roots.len}};
    struct st_err e;
    *a = (struct st_appraisal){0};
    assert_ok(st_verifier_find(ev->kind)->verify(ev, &env, a, &e), &e);
    assert_false(a->failed);
}

/* Signs q, then checks it with all collateral. */
static void appraise_quote(struct maker *m, struct quote_make *q, struct st_appraisal *a)
{
    struct st_buf quote = quote_end(q, m);
    struct st_evidence ev = maker_evidence(m, q->is_tdx ? "tdx" : "sgx", &quote);
    appraise_ev(m, &ev, MADE_AT, a);
    st_buf_free(&quote);
}

/* One test's maker and a right TDX 1.0 quote, v4. */
static int setup(void **state)
{
    struct maker *m = malloc(sizeof *m);
    maker_open(m, true);
    *state = m;
    return 0;
}
static int teardown(void **state)
{
    maker_close(*state);
    free(*state);
    return 0;
}

/* The quote made from q fails in one check, with these words. */
static void made_fails(struct maker *m, struct quote_make *q, const char *check, const char *says)
{
    struct st_appraisal a;
    const char *kind = q->is_tdx ? "tdx" : "sgx";
    appraise_quote(m, q, &a);
    expect_fail(&a, kind, check, says);
    expect_checks(&a, kind, check, ST_CHECK_FAIL);
    st_appraisal_wipe(&a);
}

static void tdx_fails(struct maker *m, const char *check, const char *says)
{
    struct quote_make q;
    quote_start(&q, 4, true, false);
    made_fails(m, &q, check, says);
}

static void test_every_kind_of_quote_with_all_collateral_passes_every_check(void **state)
{
    static const struct {
        unsigned version;
        bool is_tdx, td15;
    } kinds[] = {{3, false, false}, {4, false, false}, {5, false, false},
                 {4, true, false},  {5, true, false},  {5, true, true}};
    struct maker *m = *state;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct quote_make q;
        struct st_appraisal a;
        const char *kind = kinds[i].is_tdx ? "tdx" : "sgx";
        make_statements(m, kinds[i].is_tdx);
        quote_start(&q, kinds[i].version, kinds[i].is_tdx, kinds[i].td15);
        appraise_quote(m, &q, &a);
        expect_checks(&a, kind, "", ST_CHECK_PASS);
        assert_string_equal(intel_claim(&a, kind, "tcb_status")->text, "UpToDate");
        assert_string_equal(intel_claim(&a, kind, "fmspc")->text, "00806f050000");
        assert_int_equal(intel_claim(&a, kind, "quote_version")->number, kinds[i].version);
        assert_memory_equal(intel_claim(&a, kind, "report_data")->text, "5a5a5a5a", 8);
        assert_int_equal(intel_claim(&a, kind, "debug")->number, 0);
        st_appraisal_wipe(&a);
    }
}

static void test_quotes_that_are_not_read_are_refused_by_field(void **state)
{
    static const struct {
        size_t at;
        unsigned value;
        int code;
        const char *says;
    } wrong[] = {{0, 2, ST_UNSUPPORTED, "version"},
                 {0, 6, ST_UNSUPPORTED, "version"},
                 {2, 3, ST_UNSUPPORTED, "attestation key type"},
                 {4, 0x80, ST_UNSUPPORTED, "TEE type"},
                 {48, 2, ST_INPUT, "body of type 2: want 584"},
                 {48, 1, ST_INPUT, "body type"},
                 {48, 4, ST_INPUT, "body type"},
                 {50, 649, ST_INPUT, "want 648 bytes"}};
    struct maker *m = *state;
    struct st_dcap_quote out;
    struct st_err e;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct quote_make q;
        quote_start(&q, 5, true, true);
        struct st_buf b = quote_end(&q, m);
        put16((uint8_t *)b.p + wrong[i].at, wrong[i].value);
        expect_refusal(st_dcap_parse((uint8_t *)b.p, b.len, &out, &e), &e, wrong[i].code, wrong[i].says);
        st_buf_free(&b);
    }
    for (unsigned version = 3; version <= 5; version++) {
        struct quote_make q;
        quote_start(&q, version, version > 3, false);
        q.inner_type = 3;
        struct st_buf b = quote_end(&q, m);
        expect_refusal(st_dcap_parse((uint8_t *)b.p, b.len, &out, &e), &e, ST_UNSUPPORTED, "got type 3");
        st_buf_free(&b);
        q.inner_type = 5;
        q.bytes_too_many = 1;
        b = quote_end(&q, m);
        expect_refusal(st_dcap_parse((uint8_t *)b.p, b.len, &out, &e), &e, ST_INPUT, "too many");
        st_buf_free(&b);
    }
}

static void test_the_other_kinds_verifier_refuses_a_quote(void **state)
{
    struct maker *m = *state;
    struct quote_make q;
    struct st_appraisal a = {0};
    struct st_err e;
    for (int tdx = 0; tdx < 2; tdx++) {
        quote_start(&q, 4, tdx, false);
        struct st_buf b = quote_end(&q, m);
        struct st_evidence ev = {.kind = tdx ? "sgx" : "tdx", .data = {(uint8_t *)b.p, b.len}};
        assert_string_equal(st_verifier_recognise((uint8_t *)b.p, b.len)->kind, tdx ? "tdx" : "sgx");
        expect_refusal(st_verifier_find(ev.kind)->verify(&ev, &(struct st_verify_env){.time = MADE_AT}, &a, &e), &e,
                       ST_INPUT, "want one of");
        st_buf_free(&b);
    }
}

static void test_every_truncation_and_flip_of_a_made_quote_is_refused(void **state)
{
    struct maker *m = *state;
    struct quote_make q;
    struct st_dcap_quote out;
    struct st_err e;
    quote_start(&q, 3, false, false);
    struct st_buf b = quote_end(&q, m);
    for (size_t len = 0; len < b.len; len++) {
        uint8_t *exact = malloc(len ? len : 1);
        memcpy(exact, b.p, len);
        expect_refusal(st_dcap_parse(exact, len, &out, &e), &e, ST_INPUT, "quote: ");
        free(exact);
    }
    for (size_t at = 0; at < b.len; at++) {
        struct st_evidence ev = {.kind = "sgx", .data = {(uint8_t *)b.p, b.len}};
        struct st_verify_env env = {.time = MADE_AT, .roots = {(const uint8_t *)m->roots.p, m->roots.len}};
        struct st_appraisal a = {0};
        b.p[at] ^= (char)(1 << at % 8);
        int rc = st_verifier_find("sgx")->verify(&ev, &env, &a, &e);
        bool good = rc == 0;
        for (size_t i = 0; i < a.n_check; i++)
            good = good && a.checks[i].result != ST_CHECK_FAIL;
        if (good)
            fail_msg("byte %zu of %zu", at, b.len);
        b.p[at] ^= (char)(1 << at % 8);
        st_appraisal_wipe(&a);
    }
    st_buf_free(&b);
}

static void test_reserved_bytes_that_are_not_zero_fail(void **state)
{
    static const size_t sgx[] = {20, 31, 96, 127, 160, 191, 262, 303, 49, 55}, td[] = {112, 119, 121, 125};
    struct maker *m = *state;
    struct quote_make q;
    for (size_t i = 0; i < sizeof td / sizeof *td; i++) {
        quote_start(&q, 5, true, true);
        q.body[td[i]] |= td[i] == 125 ? 0x01 : 0x02;
        struct st_appraisal a;
        appraise_quote(m, &q, &a);
        expect_fail(&a, "tdx", "reserved", "reserved");
        st_appraisal_wipe(&a);
    }
    for (size_t i = 8; i < 12; i++) {
        quote_start(&q, 4, true, false);
        q.header[i] = 1;
        made_fails(m, &q, "reserved", "reserved");
    }
    make_statements(m, false);
    for (size_t i = 0; i < sizeof sgx / sizeof *sgx; i++) {
        quote_start(&q, 3, false, false);
        q.body[sgx[i]] |= 0x08;
        made_fails(m, &q, "reserved", "reserved");
        quote_start(&q, 3, false, false);
        q.qe[sgx[i]] |= 0x08;
        struct st_appraisal a;
        appraise_quote(m, &q, &a);
        expect_fail(&a, "sgx", "qe_report", "reserved bytes");
        st_appraisal_wipe(&a);
    }
    quote_start(&q, 3, false, false);
    q.header[5] = 1;
    made_fails(m, &q, "reserved", "reserved");
    quote_start(&q, 3, false, false);
    q.body[48] &= 0xfe; /* not initialised */
    made_fails(m, &q, "reserved", "reserved");
}

static void test_every_debug_bit_shows_as_debug(void **state)
{
    struct maker *m = *state;
    struct quote_make q;
    struct st_appraisal a;
    for (int bit = 0; bit < 8; bit++) { /* the whole group "TD under debug" */
        quote_start(&q, 5, true, bit & 1);
        q.body[120] = (uint8_t)(1 << bit);
        appraise_quote(m, &q, &a);
        expect_checks(&a, "tdx", "", ST_CHECK_PASS);
        assert_int_equal(intel_claim(&a, "tdx", "debug")->number, 1);
        assert_int_equal(intel_claim(&a, "tdx", "migratable")->number, 0);
        st_appraisal_wipe(&a);
    }
    quote_start(&q, 4, true, false);
    q.body[123] |= 0x20;
    appraise_quote(m, &q, &a);
    assert_int_equal(intel_claim(&a, "tdx", "debug")->number, 0);
    assert_int_equal(intel_claim(&a, "tdx", "migratable")->number, 1);
    st_appraisal_wipe(&a);
    make_statements(m, false);
    quote_start(&q, 3, false, false);
    q.body[48] |= 2;
    appraise_quote(m, &q, &a);
    expect_checks(&a, "sgx", "", ST_CHECK_PASS);
    assert_int_equal(intel_claim(&a, "sgx", "debug")->number, 1);
    st_appraisal_wipe(&a);
}

static void test_a_quoting_enclave_that_is_no_intels_fails(void **state)
{
    struct maker *m = *state;
    struct quote_make q;
    quote_start(&q, 4, true, false);
    q.header[12] ^= 1;
    made_fails(m, &q, "vendor", "Intel");
    quote_start(&q, 4, true, false);
    q.qe[128] ^= 1;
    made_fails(m, &q, "qe_identity", "another MRSIGNER");
    quote_start(&q, 4, true, false);
    q.qe[256] = 1;
    made_fails(m, &q, "qe_identity", "another ISVPRODID");
    quote_start(&q, 4, true, false);
    q.qe[16] = 1;
    made_fails(m, &q, "qe_identity", "another MISCSELECT");
    quote_start(&q, 4, true, false);
    q.qe[48] = 0x05;
    made_fails(m, &q, "qe_identity", "another attributes");
    quote_start(&q, 4, true, false);
    q.qe[258] = 1;
    made_fails(m, &q, "qe_identity", "no level for isvsvn 1");
    quote_start(&q, 4, true, false);
    q.qe[48] |= 2;
    struct st_appraisal a;
    appraise_quote(m, &q, &a);
    expect_fail(&a, "tdx", "qe_report", "debug enclave");
    st_appraisal_wipe(&a);
}

static void test_the_quoting_enclave_must_bind_key_and_auth_data(void **state)
{
    struct maker *m = *state;
    struct quote_make q;
    quote_start(&q, 4, true, false);
    q.qe_unbound = true;
    made_fails(m, &q, "qe_binding", "attestation key");
    quote_start(&q, 4, true, false);
    q.qe[383] = 1; /* behind the hash */
    made_fails(m, &q, "qe_binding", "attestation key");
    quote_start(&q, 4, true, false);
    struct st_buf b = quote_end(&q, m);
    struct st_dcap_quote at;
    struct st_err e;
    struct st_appraisal a;
    assert_ok(st_dcap_parse((uint8_t *)b.p, b.len, &at, &e), &e);
    b.p[at.auth_data.p - (uint8_t *)b.p] ^= 1;
    struct st_evidence ev = maker_evidence(m, "tdx", &b);
    appraise_ev(m, &ev, MADE_AT, &a);
    expect_checks(&a, "tdx", "qe_binding", ST_CHECK_FAIL);
    st_appraisal_wipe(&a);
    /* Somebody else's key, which signs well but is not bound. */
    b.p[at.auth_data.p - (uint8_t *)b.p] ^= 1;
    att_point(m->other_key, (uint8_t *)b.p + (at.key - (uint8_t *)b.p));
    sign_raw(m->other_key, at.covered.p, at.covered.len, (uint8_t *)b.p + (at.signature - (uint8_t *)b.p));
    appraise_ev(m, &ev, MADE_AT, &a);
    expect_checks(&a, "tdx", "qe_binding", ST_CHECK_FAIL);
    st_appraisal_wipe(&a);
    memset((uint8_t *)b.p + (at.key - (uint8_t *)b.p), 0x77, 64);
    appraise_ev(m, &ev, MADE_AT, &a);
    expect_fail(&a, "tdx", "signature", "no point of P-256");
    st_appraisal_wipe(&a);
    st_buf_free(&b);
}

static void test_only_the_pck_certificates_key_signs_for_the_quoting_enclave(void **state)
{
    struct maker *m = *state;
    EVP_PKEY *own = m->pck_key;
    m->pck_key = m->other_key;
    tdx_fails(m, "qe_report", "not this key's");
    m->pck_key = own;
}

static void test_a_chain_to_another_root_of_the_same_name_fails(void **state)
{
    struct maker *m = *state;
    X509 *mine = m->root;
    m->root = make_cert(&(struct cert){.cn = "Test SGX Root CA", .ca = true}, m->other_key, NULL, m->other_key);
    tdx_fails(m, "chain", "its root is not the pinned one");
    X509_free(m->root);
    m->root = mine;
}

static void test_a_chain_of_wrong_roles_dates_or_form_fails(void **state)
{
    struct maker *m = *state;
    struct st_appraisal a;
    struct quote_make q;
    maker_pck(m, &(struct cert){.cn = "Intel SGX TCB Signing", .platform = &m->platform}, m->ca_key);
    tdx_fails(m, "chain", "no Intel SGX PCK Certificate");
    st_buf_clear(&m->pck_chain);
    maker_pck(m, &(struct cert){.cn = "Intel SGX PCK Certificate", .platform = &m->platform, .to = MADE_AT - 1},
              m->ca_key);
    quote_start(&q, 4, true, false);
    appraise_quote(m, &q, &a);
    expect_fail(&a, "tdx", "chain", "expired");
    st_appraisal_wipe(&a);
    st_buf_clear(&m->pck_chain);
    maker_pck(m, &(struct cert){.cn = "Intel SGX PCK Certificate", .platform = &m->platform, .from = MADE_AT + 1},
              m->ca_key);
    appraise_quote(m, &q, &a);
    expect_fail(&a, "tdx", "chain", "not yet valid");
    st_appraisal_wipe(&a);
    st_buf_clear(&m->pck_chain);
    maker_pck(m, &(struct cert){.cn = "Intel SGX PCK Certificate", .platform = &m->platform}, m->other_key);
    appraise_quote(m, &q, &a);
    expect_fail(&a, "tdx", "chain", "signature");
    st_appraisal_wipe(&a);
    st_buf_clear(&m->pck_chain);
    maker_pck(m, &(struct cert){.cn = "Intel SGX PCK Certificate", .platform = &m->platform}, m->ca_key);
    maker_chain(m);
    st_buf_add(&m->pck_chain, "\0", 1);
    appraise_quote(m, &q, &a); /* one NUL is how Intel's library ends the text */
    expect_checks(&a, "tdx", "", ST_CHECK_PASS);
    st_appraisal_wipe(&a);
    st_buf_add(&m->pck_chain, "\0", 1);
    tdx_fails(m, "chain", "nothing else");
    m->pck_chain.len -= 2;
    st_buf_add_str(&m->pck_chain, "text");
    tdx_fails(m, "chain", "nothing else");
    m->pck_chain.len -= 4;
    add_pem(&m->pck_chain, m->root);
    tdx_fails(m, "chain", "want 3 certificates, got 4");
}

static void test_a_ca_of_another_name_fails(void **state)
{
    struct maker *m = *state;
    struct st_appraisal a;
    struct quote_make q;
    X509_free(m->ca);
    m->ca = make_cert(&(struct cert){.cn = "Intel SGX TCB Signing", .ca = true}, m->ca_key, m->root, m->root_key);
    maker_pck(m, &(struct cert){.cn = "Intel SGX PCK Certificate", .platform = &m->platform}, m->ca_key);
    quote_start(&q, 4, true, false);
    appraise_quote(m, &q, &a);
    expect_fail(&a, "tdx", "chain", "no Intel SGX PCK Platform or Processor CA");
    st_appraisal_wipe(&a);
}

/* The extension as it stands in the certificate. */
static void test_platform_fields_are_read_strictly(void **state)
{
    struct maker *m = *state;
    struct st_buf b = make_extension(&m->platform);
    struct st_pck want, got;
    struct st_err e;
    assert_ok(st_pck_parse((struct st_span){(uint8_t *)b.p, b.len}, &want, &e), &e);
    assert_memory_equal(want.svn, m->platform.svn, 16);
    assert_memory_equal(want.fmspc, m->platform.fmspc, 6);
    assert_int_equal(want.pce_svn, 11);
    for (size_t len = 0; len < b.len; len++) {
        uint8_t *exact = malloc(len ? len : 1);
        memcpy(exact, b.p, len);
        assert_int_equal(st_pck_parse((struct st_span){exact, len}, &got, &e), ST_INPUT);
        free(exact);
    }
    st_buf_add(&b, "\0", 1);
    assert_int_equal(st_pck_parse((struct st_span){(uint8_t *)b.p, b.len}, &got, &e), ST_INPUT);
    st_buf_free(&b);
    m->platform.twice = 4;
    b = make_extension(&m->platform);
    expect_refusal(st_pck_parse((struct st_span){(uint8_t *)b.p, b.len}, &got, &e), &e, ST_INPUT, "twice");
    st_buf_free(&b);
    m->platform.twice = 0;
    for (int field = 2; field <= 4; field++) {
        m->platform.missing = field;
        b = make_extension(&m->platform);
        expect_refusal(st_pck_parse((struct st_span){(uint8_t *)b.p, b.len}, &got, &e), &e, ST_INPUT, "want TCB");
        st_buf_free(&b);
    }
}

static void test_a_pck_certificate_without_platform_fails(void **state)
{
    struct maker *m = *state;
    struct st_appraisal a;
    struct quote_make q;
    maker_pck(m, &(struct cert){.cn = "Intel SGX PCK Certificate"}, m->ca_key);
    quote_start(&q, 4, true, false);
    appraise_quote(m, &q, &a);
    expect_fail(&a, "tdx", "pck", "SGX extension: not there");
    expect_fail(&a, "tdx", "tcb_info", "no PCK certificate");
    assert_int_equal(intel_check(&a, "tdx", "tcb")->result, ST_CHECK_ABSENT);
    st_appraisal_wipe(&a);
}

static void test_revoked_certificates_fail(void **state)
{
    struct maker *m = *state;
    made_crl(&m->ca_crl, m->ca, m->ca_key, m->pck, MADE_AT - DAY, MADE_AT + DAY);
    tdx_fails(m, "crl", "revoked");
    made_crl(&m->ca_crl, m->ca, m->ca_key, m->root, MADE_AT - DAY, MADE_AT + DAY);
    struct st_appraisal a;
    struct quote_make q;
    quote_start(&q, 4, true, false);
    appraise_quote(m, &q, &a); /* another certificate is on the list */
    expect_checks(&a, "tdx", "", ST_CHECK_PASS);
    st_appraisal_wipe(&a);
    made_crl(&m->root_crl, m->root, m->root_key, m->ca, MADE_AT - DAY, MADE_AT + DAY);
    tdx_fails(m, "crl", "revoked");
    made_crl(&m->root_crl, m->root, m->root_key, m->tcb, MADE_AT - DAY, MADE_AT + DAY);
    tdx_fails(m, "crl", "revoked"); /* the signer of TCB info and QE identity */
}

static void test_lists_that_are_old_forged_or_incomplete_fail(void **state)
{
    struct maker *m = *state;
    made_crl(&m->ca_crl, m->ca, m->ca_key, NULL, MADE_AT - 2 * DAY, MADE_AT - DAY);
    tdx_fails(m, "crl", "CRL has expired");
    made_crl(&m->ca_crl, m->ca, m->ca_key, NULL, MADE_AT + DAY, MADE_AT + 2 * DAY);
    tdx_fails(m, "crl", "CRL is not yet valid");
    made_crl(&m->ca_crl, m->ca, m->other_key, NULL, MADE_AT - DAY, MADE_AT + DAY);
    tdx_fails(m, "crl", "CRL signature failure");
    made_crl(&m->ca_crl, m->ca, m->ca_key, NULL, MADE_AT - DAY, MADE_AT + DAY);
    struct quote_make q;
    struct st_appraisal a;
    quote_start(&q, 4, true, false);
    struct st_buf b = quote_end(&q, m);
    struct st_evidence ev = maker_evidence(m, "tdx", &b);
    ev.n_endorsement--; /* the list of the PCK CA */
    appraise_ev(m, &ev, MADE_AT, &a);
    expect_fail(&a, "tdx", "crl", "unable to get certificate CRL");
    st_appraisal_wipe(&a);
    ev.n_endorsement--;
    appraise_ev(m, &ev, MADE_AT, &a);
    assert_int_equal(intel_check(&a, "tdx", "crl")->result, ST_CHECK_ABSENT);
    st_appraisal_wipe(&a);
    st_buf_free(&b);
}

/* The status of the quote q under the statements of m. */
static void status_is(struct maker *m, struct quote_make *q, const char *status, const char *advisories)
{
    struct st_appraisal a;
    const char *kind = q->is_tdx ? "tdx" : "sgx";
    appraise_quote(m, q, &a);
    expect_checks(&a, kind, "", ST_CHECK_PASS);
    assert_string_equal(intel_claim(&a, kind, "tcb_status")->text, status);
    assert_string_equal(intel_claim(&a, kind, "advisories")->text, advisories);
    st_appraisal_wipe(&a);
}

static void renew_pck(struct maker *m)
{
    st_buf_clear(&m->pck_chain);
    maker_pck(m, &(struct cert){.cn = "Intel SGX PCK Certificate", .platform = &m->platform}, m->ca_key);
}

static void test_the_status_is_of_the_first_level_that_is_reached(void **state)
{
    struct maker *m = *state;
    struct quote_make q;
    quote_start(&q, 4, true, false);
    m->platform.svn[0] = 4; /* one component below the first level */
    renew_pck(m);
    status_is(m, &q, "SWHardeningNeeded", "INTEL-SA-00615");
    m->platform.svn[0] = 6;
    m->platform.pce_svn = 10;
    renew_pck(m);
    status_is(m, &q, "ConfigurationNeeded", "INTEL-SA-00615,INTEL-SA-00657");
    m->platform.pce_svn = 11;
    renew_pck(m);
    q.body[2] = 3; /* a component of TDX */
    status_is(m, &q, "SWHardeningNeeded", "INTEL-SA-00615");
    m->platform.pce_svn = 5;
    renew_pck(m);
    made_fails(m, &q, "tcb", "Revoked");
    m->platform.pce_svn = 4;
    renew_pck(m);
    made_fails(m, &q, "tcb", "no level is reached");
}

static void test_an_outdated_module_or_quoting_enclave_makes_the_status_worse(void **state)
{
    struct maker *m = *state;
    struct quote_make q;
    quote_start(&q, 4, true, false);
    q.body[0] = 3; /* the module's SVN */
    status_is(m, &q, "OutOfDate", "INTEL-SA-01036");
    q.body[0] = 1;
    made_fails(m, &q, "module", "no level for isvsvn 1");
    q.body[0] = 4;
    q.qe[258] = 3;
    status_is(m, &q, "OutOfDate", "INTEL-SA-00477");
    m->platform.pce_svn = 10;
    renew_pck(m);
    status_is(m, &q, "OutOfDateConfigurationNeeded", "INTEL-SA-00477,INTEL-SA-00615,INTEL-SA-00657");
    replace(&m->qe_identity, "\"OutOfDate\"", "\"Revoked\"");
    made_fails(m, &q, "tcb", "Revoked");
}

static void test_tdx_modules_are_matched_by_version_and_signer(void **state)
{
    struct maker *m = *state;
    struct quote_make q;
    quote_start(&q, 4, true, false);
    q.body[1] = 2;
    made_fails(m, &q, "module", "none for TDX_02");
    q.body[1] = 0; /* before 1.5: judged with the platform's components, of which the first must be 3 */
    status_is(m, &q, "UpToDate", "");
    q.body[0] = 2;
    made_fails(m, &q, "tcb", "no level is reached");
    q.body[0] = 4;
    q.body[64] = 1; /* MRSIGNERSEAM */
    made_fails(m, &q, "module", "not signed by Intel");
}

static void test_tcb_info_of_version_2_is_read_for_sgx(void **state)
{
    struct maker *m = *state;
    struct quote_make q;
    struct st_buf *b = &m->tcb_info;
    make_statements(m, false);
    st_buf_clear(b);
    st_buf_add_str(b, "{\"version\":2,\"issueDate\":\"2025-06-19T10:16:03Z\",\"nextUpdate\":\"2025-07-19T10:16:03Z\","
                      "\"fmspc\":\"00806F050000\",\"pceId\":\"0000\",\"tcbType\":0,\"tcbEvaluationDataNumber\":5,"
                      "\"tcbLevels\":[{\"tcb\":{");
    for (int i = 1; i <= 16; i++)
        st_buf_addf(b, "\"sgxtcbcomp%02dsvn\":%d,", i, i < 3 ? 6 : 0);
    st_buf_add_str(b, "\"pcesvn\":11},\"tcbDate\":\"2020-11-11T00:00:00Z\",\"tcbStatus\":\"OutOfDate\"}]}");
    quote_start(&q, 3, false, false);
    status_is(m, &q, "OutOfDate", "");
    replace(b, "\"sgxtcbcomp07svn\":0,", "");
    made_fails(m, &q, "tcb", "sgxtcbcomp07svn");
}

static void test_statements_that_are_not_of_this_platform_time_or_signer_fail(void **state)
{
    static const struct {
        const char *from, *to, *check, *says;
        bool tcb_info;
    } wrong[] = {
        {"00806F050000", "00806F050001", "tcb_info", "another TEE, FMSPC", true},
        {"\"pceId\":\"0000\"", "\"pceId\":\"0100\"", "tcb_info", "another TEE, FMSPC", true},
        {"\"id\":\"TDX\"", "\"id\":\"SGX\"", "tcb_info", "another TEE", true},
        {"\"id\":\"TDX\"", "\"id\":\"XXX\"", "tcb_info", "want SGX or TDX", true},
        {"\"version\":3", "\"version\":1", "tcb_info", "version: want 2 or 3", true},
        {"\"tcbType\":0", "\"tcbType\":1", "tcb_info", "tcbType: want 0", true},
        {"\"issueDate\":\"2025-06-19", "\"issueDate\":\"2025-02-30", "tcb_info", "want a time like", true},
        {"\"tcbType\":0,", "", "tcb_info", "tcbType", true},
        {"\"issueDate\":\"2025-06-19", "\"issueDate\":\"2025-06-22", "collateral_dates", "issued later", true},
        {"\"nextUpdate\":\"2025-07-19", "\"nextUpdate\":\"2025-06-20", "collateral_dates", "TCB info: expired", true},
        {"\"nextUpdate\":\"2025-07-19", "\"nextUpdate\":\"2025-06-20", "collateral_dates", "QE identity: expired",
         false},
        {"\"TD_QE\"", "\"QE\"", "qe_identity", "another TEE", false},
        {"\"TD_QE\"", "\"QVE\"", "qe_identity", "want QE or TD_QE", false},
        {"\"version\":2", "\"version\":1", "qe_identity", "version: want 2", false},
        {"\"isvprodid\":2", "\"isvprodid\":65536", "qe_identity", "isvprodid", false},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct maker *m = *state;
        struct quote_make q;
        struct st_appraisal a;
        make_statements(m, true);
        replace(wrong[i].tcb_info ? &m->tcb_info : &m->qe_identity, wrong[i].from, wrong[i].to);
        quote_start(&q, 4, true, false);
        appraise_quote(m, &q, &a);
        expect_fail(&a, "tdx", wrong[i].check, wrong[i].says);
        st_appraisal_wipe(&a);
    }
}

static void test_only_intels_tcb_signer_makes_statements(void **state)
{
    struct maker *m = *state;
    struct st_appraisal a;
    struct quote_make q;
    EVP_PKEY *own = m->tcb_key;
    quote_start(&q, 4, true, false);
    m->tcb_key = m->other_key;
    appraise_quote(m, &q, &a);
    expect_fail(&a, "tdx", "tcb_info", "not this key's");
    expect_fail(&a, "tdx", "qe_identity", "not this key's");
    st_appraisal_wipe(&a);
    /* A platform's own certificate is below the same root, and any platform has one. */
    X509 *signer = m->tcb;
    m->tcb = m->pck;
    m->tcb_key = m->pck_key;
    appraise_quote(m, &q, &a);
    expect_fail(&a, "tdx", "tcb_info", "no certificate of Intel SGX TCB Signing");
    st_appraisal_wipe(&a);
    m->tcb = make_cert(&(struct cert){.cn = "Intel SGX TCB Signing"}, m->other_key, NULL, m->other_key);
    m->tcb_key = m->other_key;
    appraise_quote(m, &q, &a);
    expect_fail(&a, "tdx", "tcb_info", "certificate");
    st_appraisal_wipe(&a);
    X509_free(m->tcb);
    m->tcb = signer;
    m->tcb_key = own;
}

static void test_the_signature_covers_the_bytes_as_received(void **state)
{
    struct maker *m = *state;
    struct quote_make q;
    struct st_appraisal a;
    replace(&m->tcb_info, "\"version\":3", " \"version\" : 3\n"); /* signed so: other bytes, the same object */
    quote_start(&q, 4, true, false);
    status_is(m, &q, "UpToDate", "");
    struct st_buf b = quote_end(&q, m);
    struct st_evidence ev = maker_evidence(m, "tdx", &b);
    replace(&m->tcb_reply, " : 3\n", ":3"); /* the same object, not the bytes that were signed */
    ev.endorsements[0].data = (struct st_span){(uint8_t *)m->tcb_reply.p, m->tcb_reply.len};
    appraise_ev(m, &ev, MADE_AT, &a);
    expect_fail(&a, "tdx", "tcb_info", "not this key's");
    st_appraisal_wipe(&a);
    st_buf_free(&b);
}

static void test_collateral_that_cannot_be_read_fails(void **state)
{
    static const struct {
        const char *text, *says;
        enum st_endorsement_type type;
    } wrong[] = {
        {"{\"tcbInfo\":{},\"signature\":\"00\"}", "want 128 hexadecimal digits", ST_ENDORSEMENT_TCB_INFO},
        {"{\"tcbInfo\":{},\"signature\":null}", "signature", ST_ENDORSEMENT_TCB_INFO},
        {"{\"tcbInfo\":3,\"signature\":\"00\"}", "tcbInfo", ST_ENDORSEMENT_TCB_INFO},
        {"{\"tcbInfo\":{},\"signature\":\"00\",\"more\":1}", "nothing else", ST_ENDORSEMENT_TCB_INFO},
        {"{\"tcbInfo\":{},\"tcbInfo\":{}}", "not valid JSON", ST_ENDORSEMENT_TCB_INFO},
        {"{\"\\u0074cbInfo\":{},\"signature\":\"00\"}", "escapes", ST_ENDORSEMENT_TCB_INFO},
        {"[]", "enclaveIdentity", ST_ENDORSEMENT_QE_IDENTITY},
        {"{}", "pck_crl_issuer_chain", ST_ENDORSEMENT_COLLATERAL},
        {"x", "not valid JSON", ST_ENDORSEMENT_COLLATERAL},
        {"x", "certs", ST_ENDORSEMENT_CERTS},
        {"x", "crl", ST_ENDORSEMENT_CRL},
    };
    struct maker *m = *state;
    struct quote_make q;
    quote_start(&q, 4, true, false);
    struct st_buf b = quote_end(&q, m);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct st_appraisal a;
        struct st_evidence ev = maker_evidence(m, "tdx", &b);
        ev.endorsements[ev.n_endorsement++] =
            (struct st_endorsement){wrong[i].type, {(const uint8_t *)wrong[i].text, strlen(wrong[i].text)}};
        appraise_ev(m, &ev, MADE_AT, &a);
        expect_fail(&a, "tdx", "collateral", wrong[i].says);
        assert_int_equal(intel_check(&a, "tdx", "tcb")->result, ST_CHECK_ABSENT);
        st_appraisal_wipe(&a);
    }
    st_buf_free(&b);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_every_kind_of_quote_with_all_collateral_passes_every_check),
        CASE(test_quotes_that_are_not_read_are_refused_by_field),
        CASE(test_the_other_kinds_verifier_refuses_a_quote),
        CASE(test_every_truncation_and_flip_of_a_made_quote_is_refused),
        CASE(test_reserved_bytes_that_are_not_zero_fail),
        CASE(test_every_debug_bit_shows_as_debug),
        CASE(test_a_quoting_enclave_that_is_no_intels_fails),
        CASE(test_the_quoting_enclave_must_bind_key_and_auth_data),
        CASE(test_only_the_pck_certificates_key_signs_for_the_quoting_enclave),
        CASE(test_a_chain_to_another_root_of_the_same_name_fails),
        CASE(test_a_chain_of_wrong_roles_dates_or_form_fails),
        CASE(test_a_ca_of_another_name_fails),
        CASE(test_platform_fields_are_read_strictly),
        CASE(test_a_pck_certificate_without_platform_fails),
        CASE(test_revoked_certificates_fail),
        CASE(test_lists_that_are_old_forged_or_incomplete_fail),
        CASE(test_the_status_is_of_the_first_level_that_is_reached),
        CASE(test_an_outdated_module_or_quoting_enclave_makes_the_status_worse),
        CASE(test_tdx_modules_are_matched_by_version_and_signer),
        CASE(test_tcb_info_of_version_2_is_read_for_sgx),
        CASE(test_statements_that_are_not_of_this_platform_time_or_signer_fail),
        CASE(test_only_intels_tcb_signer_makes_statements),
        CASE(test_the_signature_covers_the_bytes_as_received),
        CASE(test_collateral_that_cannot_be_read_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
