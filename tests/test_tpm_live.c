/* A TPM that answers (swtpm): its quotes and event logs against this verifier, credentials activated by it. Without
 * swtpm or tpm2-tss the tests say so and pass. */
#include "expect.h"

#include "attest/tpm_credential.h"
#include "evidence_make.h"

#include <openssl/ec.h>
#include <openssl/rsa.h>

#include "log_make.h"
#include "swtpm.h"

#if __has_include(<tss2/tss2_esys.h>)
#include <tss2/tss2_esys.h>
#include <tss2/tss2_mu.h>
#include <tss2/tss2_tctildr.h>

static const struct st_span pinned = {NULL, 0};
static const TPM2B_SENSITIVE_CREATE no_secret = {0};
static const TPM2B_DATA no_data = {0};
static const TPML_PCR_SELECTION no_pcrs = {0};

struct live {
    struct swtpm tpm;
    TSS2_TCTI_CONTEXT *tcti;
    ESYS_CONTEXT *esys;
    ESYS_TR ek, ak;
    struct st_buf ek_area, ak_area;
};

/* Templates: a storage key that decrypts restricted things (an endorsement key without the profile's policy), and a
 * signing key, restricted or not. */
static ESYS_TR create(struct live *t, ESYS_TR hierarchy, bool decrypt, bool restricted, struct st_buf *area)
{
    TPM2B_PUBLIC in = {.publicArea = {.type = TPM2_ALG_RSA, .nameAlg = TPM2_ALG_SHA256}}, *out = NULL;
    TPMT_PUBLIC *p = &in.publicArea;
    ESYS_TR key;
    uint8_t bytes[1024];
    size_t n = 0;
    p->objectAttributes = TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT | TPMA_OBJECT_SENSITIVEDATAORIGIN |
                          TPMA_OBJECT_USERWITHAUTH | (restricted ? TPMA_OBJECT_RESTRICTED : 0) |
                          (decrypt ? TPMA_OBJECT_DECRYPT : TPMA_OBJECT_SIGN_ENCRYPT);
    p->parameters.rsaDetail.keyBits = 2048;
    p->parameters.rsaDetail.symmetric.algorithm = TPM2_ALG_NULL;
    p->parameters.rsaDetail.scheme.scheme = TPM2_ALG_NULL;
    if (decrypt) {
        p->parameters.rsaDetail.symmetric =
            (TPMT_SYM_DEF_OBJECT){.algorithm = TPM2_ALG_AES, .keyBits.aes = 128, .mode.aes = TPM2_ALG_CFB};
    } else {
        p->parameters.rsaDetail.scheme.scheme = TPM2_ALG_RSASSA;
        p->parameters.rsaDetail.scheme.details.rsassa.hashAlg = TPM2_ALG_SHA256;
    }
    assert_int_equal(Esys_CreatePrimary(t->esys, hierarchy, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &no_secret,
                                        &in, &no_data, &no_pcrs, &key, &out, NULL, NULL, NULL),
                     0);
    assert_int_equal(Tss2_MU_TPMT_PUBLIC_Marshal(&out->publicArea, bytes, sizeof bytes, &n), 0);
    st_buf_clear(area);
    st_buf_add(area, bytes, n);
    Esys_Free(out);
    return key;
}

static bool live_open(struct live *t)
{
    *t = (struct live){0};
    if (!swtpm_open(&t->tpm))
        return false;
    assert_int_equal(Tss2_TctiLdr_Initialize(t->tpm.tcti, &t->tcti), 0);
    assert_int_equal(Esys_Initialize(&t->esys, t->tcti, NULL), 0);
    t->ek = create(t, ESYS_TR_RH_ENDORSEMENT, true, true, &t->ek_area);
    t->ak = create(t, ESYS_TR_RH_OWNER, false, true, &t->ak_area);
    return true;
}

static void live_close(struct live *t)
{
    Esys_FlushContext(t->esys, t->ek);
    Esys_FlushContext(t->esys, t->ak);
    Esys_Finalize(&t->esys);
    Tss2_TctiLdr_Finalize(&t->tcti);
    swtpm_close(&t->tpm);
    st_buf_free(&t->ek_area);
    st_buf_free(&t->ak_area);
}

/* Extends the TPM as a log says. */
static void extend_log(struct live *t, const struct st_buf *log)
{
    struct st_event_log l;
    struct st_err e = {0};
    assert_ok(st_event_log_parse((const uint8_t *)log->p, log->len, &l, &e), &e);
    for (size_t i = 0; i < l.n; i++) {
        TPML_DIGEST_VALUES d = {.count = 1, .digests = {{.hashAlg = TPM2_ALG_SHA256}}};
        memcpy(d.digests[0].digest.sha256, l.events[i].digests.p + 2 + 20 + 2, 32); /* behind the SHA-1 digest */
        assert_int_equal(
            Esys_PCR_Extend(t->esys, ESYS_TR_PCR0 + l.events[i].pcr, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &d),
            0);
    }
    st_event_log_free(&l);
}

static void quote(struct live *t, uint32_t selected, struct st_buf *message, struct st_buf *signature)
{
    TPM2B_DATA nonce = {.size = 7, .buffer = "a nonce"};
    TPMT_SIG_SCHEME scheme = {.scheme = TPM2_ALG_NULL};
    TPML_PCR_SELECTION pcrs = {
        .count = 1,
        .pcrSelections = {{.hash = TPM2_ALG_SHA256,
                           .sizeofSelect = 3,
                           .pcrSelect = {(uint8_t)selected, (uint8_t)(selected >> 8), (uint8_t)(selected >> 16)}}}};
    TPM2B_ATTEST *attest = NULL;
    TPMT_SIGNATURE *sig = NULL;
    uint8_t bytes[1024];
    size_t n = 0;
    assert_int_equal(
        Esys_Quote(t->esys, t->ak, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &nonce, &scheme, &pcrs, &attest, &sig),
        0);
    assert_int_equal(Tss2_MU_TPMT_SIGNATURE_Marshal(sig, bytes, sizeof bytes, &n), 0);
    st_buf_clear(message);
    st_buf_clear(signature);
    st_buf_add(message, attest->attestationData, attest->size);
    st_buf_add(signature, bytes, n);
    Esys_Free(attest);
    Esys_Free(sig);
}

static void a_tpms_quote_and_log_agree_until_a_pcr_is_extended(void **state)
{
    struct live t, other;
    struct st_buf log = {0}, message = {0}, signature = {0};
    struct st_appraisal a;
    (void)state;
    if (!live_open(&t))
        return;
    log_boot(&log, ST_TPM_SHA256, true);
    extend_log(&t, &log);
    quote(&t, 0x43ff, &message, &signature);
    struct st_evidence ev = {.kind = "tpm", .data = span_of(&message)};
    endorse(&ev, ST_ENDORSEMENT_SIGNATURE, span_of(&signature));
    endorse(&ev, ST_ENDORSEMENT_AK_PUBLIC, span_of(&t.ak_area));
    endorse(&ev, ST_ENDORSEMENT_EVENT_LOG, span_of(&log));
    appraise(&ev, pinned, MADE_AT, &a);
    assert_int_equal(count_bad(&a, NULL), 1);
    assert_check(&a, "tpm.chain", ST_CHECK_ABSENT, "");
    assert_text(&a, "tpm.report_data", "61206e6f6e6365");
    assert_number(&a, "tpm.secure_boot", 1);
    st_appraisal_wipe(&a);

    /* The key of another TPM. */
    assert_true(live_open(&other));
    ev.endorsements[1].data = span_of(&other.ak_area);
    appraise(&ev, pinned, MADE_AT, &a);
    assert_check(&a, "tpm.signature", ST_CHECK_FAIL, "not this key's");
    st_appraisal_wipe(&a);
    ev.endorsements[1].data = span_of(&t.ak_area);
    live_close(&other);

    /* Something is measured that the log does not say. */
    struct st_buf more = {0};
    log_begin(&more, ST_TPM_SHA256);
    log_add(&more, ST_TPM_SHA256, 9, ST_EV_IPL, "another kernel", 14, NULL, 0);
    extend_log(&t, &more);
    quote(&t, 0x43ff, &message, &signature);
    ev.data = span_of(&message);
    ev.endorsements[0].data = span_of(&signature);
    appraise(&ev, pinned, MADE_AT, &a);
    assert_check(&a, "tpm.signature", ST_CHECK_PASS, "");
    assert_check(&a, "tpm.pcr_values", ST_CHECK_FAIL, "not those that the TPM quoted");
    assert_check(&a, "tpm.event_log", ST_CHECK_FAIL, "not what the TPM quoted");
    assert_null(st_appraisal_find_claim(&a, "tpm.secure_boot"));
    st_appraisal_wipe(&a);
    st_buf_free(&more);
    st_buf_free(&log);
    st_buf_free(&message);
    st_buf_free(&signature);
    live_close(&t);
}

static TSS2_RC activate(struct live *t, const struct st_tpm_protected *c, TPM2B_DIGEST **out)
{
    TPM2B_ID_OBJECT blob = {.size = (UINT16)c->blob_len};
    TPM2B_ENCRYPTED_SECRET seed = {.size = (UINT16)c->seed_len};
    memcpy(blob.credential, c->blob, c->blob_len);
    memcpy(seed.secret, c->seed, c->seed_len);
    return Esys_ActivateCredential(t->esys, t->ak, t->ek, ESYS_TR_PASSWORD, ESYS_TR_PASSWORD, ESYS_TR_NONE, &blob,
                                   &seed, out);
}

static void a_credential_opens_on_the_tpm_that_holds_the_key_only(void **state)
{
    struct live t, other;
    struct st_tpm_key ek, ak, ak_other;
    struct st_tpm_protected c;
    struct st_err e = {0};
    TPM2B_DIGEST *out = NULL;
    TPM2B_NAME *name = NULL;
    uint8_t secret[ST_TPM_CREDENTIAL_SECRET];
    (void)state;
    if (!live_open(&t))
        return;
    assert_true(live_open(&other));
    memset(secret, 0x42, sizeof secret);
    assert_ok(st_tpm_key_parse((uint8_t *)t.ek_area.p, t.ek_area.len, &ek, &e), &e);
    assert_ok(st_tpm_key_parse((uint8_t *)t.ak_area.p, t.ak_area.len, &ak, &e), &e);
    assert_ok(st_tpm_key_parse((uint8_t *)other.ak_area.p, other.ak_area.len, &ak_other, &e), &e);
    assert_int_equal(Esys_TR_GetName(t.esys, t.ak, &name), 0);
    assert_int_equal(name->size, ak.name_len);
    assert_memory_equal(name->name, ak.name, ak.name_len);
    Esys_Free(name);

    assert_ok(st_tpm_credential_make(ek.key, &ak, secret, &c, &e), &e);
    assert_int_equal(activate(&t, &c, &out), 0);
    assert_int_equal(out->size, sizeof secret);
    assert_memory_equal(out->buffer, secret, sizeof secret);
    Esys_Free(out);
    out = NULL;
    assert_int_not_equal(activate(&other, &c, &out), 0); /* not its endorsement key */
    c.blob[40] ^= 1;
    assert_int_not_equal(activate(&t, &c, &out), 0);
    assert_ok(st_tpm_credential_make(ek.key, &ak_other, secret, &c, &e), &e);
    assert_int_not_equal(activate(&t, &c, &out), 0); /* for a key that this TPM does not hold */
    ak.has_name = false;
    expect_refusal(st_tpm_credential_make(ek.key, &ak, secret, &c, &e), &e, ST_INPUT, "TPMT_PUBLIC");
    st_tpm_key_free(&ek);
    st_tpm_key_free(&ak);
    st_tpm_key_free(&ak_other);
    live_close(&t);
    live_close(&other);
}

int main(void)
{
    setenv("TSS2_LOG", "all+none", 1); /* refusals are expected */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tpms_quote_and_log_agree_until_a_pcr_is_extended),
        cmocka_unit_test(a_credential_opens_on_the_tpm_that_holds_the_key_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

#else

int main(void)
{
    puts("skips: this build has no tpm2-tss");
    return 0;
}

#endif
