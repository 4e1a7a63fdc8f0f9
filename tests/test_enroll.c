/* `sotto enroll` as an operator meets it, with a TPM in software: on one machine and across two, endorsement keys
 * believed by digest and by their maker's certificate. Runs the binary named by SOTTO_BIN (default build/bin/sotto). */
#include "expect.h"

#include "attest/enroll.h"
#include "attest/tpm_key.h"
#include "base/file.h"
#include "base/hooks.h"
#include "collect_make.h"
#include "crypto/x509.h"
#include "evidence_make.h"
#include "text/json.h"

#include "swtpm.h"

#include <sys/stat.h>

static struct swtpm tpm;
static struct made_dir dir;

/* Runs in the test's folder with this TPM; what it printed goes to `said`. */
static int enroll(const char *args, bool with_tpm, struct st_buf *said)
{
    char cmd[8192], bin[4096], path[128];
    struct st_err e;
    const char *given = getenv("SOTTO_BIN");
    assert_non_null(realpath(given ? given : "build/bin/sotto", bin));
    snprintf(cmd, sizeof cmd,
             "cd %s && env -u SOTTO_BIN -u SOTTO_SHARED TSS2_LOG=all+none %s enroll %s %s%s --config= >out 2>&1",
             dir.path, bin, args, with_tpm ? "--tcti " : "", with_tpm ? tpm.tcti : "");
    int status = system(cmd);
    assert_true(WIFEXITED(status));
    snprintf(path, sizeof path, "%s/out", dir.path);
    assert_ok(st_file_read(path, 1 << 20, said, &e), &e);
    st_buf_add(said, "", 1);
    return WEXITSTATUS(status);
}

static void expect(const char *args, bool with_tpm, int code, const char *says)
{
    struct st_buf said = {0};
    int rc = enroll(args, with_tpm, &said);
    if (rc != code || !strstr(said.p, says))
        fail_msg("%s: want %d and '%s', got %d\n%s", args, code, says, rc, said.p);
    st_buf_free(&said);
}

static bool is_there(const char *name, unsigned mode)
{
    char path[128];
    struct stat sb;
    snprintf(path, sizeof path, "%s/%s", dir.path, name);
    return stat(path, &sb) == 0 && (sb.st_mode & 0777) == mode;
}

static void one_machine_certifies_its_own_key(void **state)
{
    (void)state;
    expect("here ak.pem --ca ca --days 30", true, 0, "ca/ca.pem");
    assert_true(is_there("ca/ca.key", 0600));
    assert_true(is_there("ca/ca.pem", 0644));
    assert_true(is_there("ak.pem", 0644));
    /* Again, by the same authority. */
    expect("here again.pem --ca ca --json", true, 0, "\"ca\": \"ca/ca.pem\"");
    expect("here ak.pem", true, 2, "want --ca DIR");
    expect("here ak.pem --ca ca --tcti device:/dev/no-such-tpm", false, 7, "/dev/no-such-tpm");
    made_file(&dir, "ca/ca.key", "no key");
    expect("here ak.pem --ca ca", true, 3, "ca.key");
}

static void two_machines_exchange_a_request_and_a_grant(void **state)
{
    struct st_buf said = {0};
    char args[256];
    json_t *o;
    struct st_err e;
    (void)state;
    assert_int_equal(enroll("request r --json", true, &said), 0);
    assert_ok(st_json_parse(said.p, strlen(said.p), "said", &o, &e), &e);
    snprintf(args, sizeof args, "grant r g --ca ca2 --ek %s", json_string_value(json_object_get(o, "ek")));
    json_decref(o);
    expect("grant r g --ca ca2", false, 5, "no maker's roots were");
    expect(args, false, 0, "wrote:           g");
    expect("accept g ak2.pem", true, 0, "ak2.pem");
    assert_true(is_there("ak2.pem", 0644));
    expect("accept r ak3.pem", true, 3, "r: grant");
    expect("accept g", true, 2, "want `here CERT`");
    expect("bury r", false, 2, "want `here CERT`");
    expect("request r --ca ca2", true, 2, "--ca goes with");
    expect("request r --ek 00", true, 2, "64 hexadecimal");
    st_buf_free(&said);
}

#if __has_include(<tss2/tss2_esys.h>)
#include <tss2/tss2_esys.h>
#include <tss2/tss2_tctildr.h>

/* Puts a certificate where makers put theirs. */
static void store(const void *p, size_t len)
{
    TSS2_TCTI_CONTEXT *ctx;
    ESYS_CONTEXT *esys;
    ESYS_TR index;
    const TPM2B_AUTH no_auth = {0};
    TPM2B_NV_PUBLIC info = {.nvPublic = {.nvIndex = 0x01c00002,
                                         .nameAlg = TPM2_ALG_SHA256,
                                         .attributes = TPMA_NV_AUTHREAD | TPMA_NV_AUTHWRITE | TPMA_NV_NO_DA,
                                         .dataSize = (UINT16)len}};
    assert_int_equal(Tss2_TctiLdr_Initialize(tpm.tcti, &ctx), 0);
    assert_int_equal(Esys_Initialize(&esys, ctx, NULL), 0);
    assert_int_equal(Esys_NV_DefineSpace(esys, ESYS_TR_RH_OWNER, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &no_auth,
                                         &info, &index),
                     0);
    for (size_t at = 0; at < len;) {
        TPM2B_MAX_NV_BUFFER part = {.size = (UINT16)(len - at < 512 ? len - at : 512)};
        memcpy(part.buffer, (const uint8_t *)p + at, part.size);
        assert_int_equal(
            Esys_NV_Write(esys, index, index, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &part, (UINT16)at), 0);
        at += part.size;
    }
    Esys_Finalize(&esys);
    Tss2_TctiLdr_Finalize(&ctx);
}

static void a_maker_vouches_for_the_endorsement_keys_it_certified(void **state)
{
    struct st_tpm_device *d;
    struct st_tpm_key ek;
    struct st_buf area = {0}, none = {0}, root = {0}, der = {0};
    struct st_err e = {0};
    EVP_PKEY *maker_key = EVP_EC_gen("P-256"), *other_key = EVP_EC_gen("P-256");
    const int64_t now = st_unix_time();
    unsigned char *p = NULL;
    (void)state;
    assert_ok(st_tpm_device_open(tpm.tcti, NULL, &d, &e), &e);
    assert_ok(st_tpm_device_ek(d, &area, &none, &e), &e);
    assert_int_equal(none.len, 0);
    st_tpm_device_close(d);
    assert_ok(st_tpm_key_parse((const uint8_t *)area.p, area.len, &ek, &e), &e);
    const struct made_cert ca = {.cn = "TPM maker", .ca = true, .from = now - DAY, .to = now + DAY},
                           leaf = {
                               .cn = "EK", .key_usage = "critical,keyEncipherment", .from = now - DAY, .to = now + DAY};
    X509 *maker = made_sign(made_unsigned(&ca, maker_key, NULL), maker_key);
    X509 *other = made_sign(made_unsigned(&ca, other_key, NULL), other_key);
    X509 *cert = made_sign(made_unsigned(&leaf, ek.key, maker), maker_key);
    int n = i2d_X509(cert, &p);
    st_buf_add(&der, p, (size_t)n);
    for (int i = 0; i < 700; i++) /* indexes are larger than what is in them */
        st_buf_add(&der, "\xff", 1);
    expect("request before", true, 0, "wrote");
    store(der.p, der.len);
    add_pem(&root, maker);
    made_bytes(&dir, "maker.pem", root.p, root.len);
    st_buf_clear(&root);
    add_pem(&root, other);
    made_bytes(&dir, "other.pem", root.p, root.len);
    expect("request after", true, 0, "wrote");
    expect("grant before g --ca ca3 --ek-roots maker.pem", false, 5, "no certificate of its maker");
    expect("grant after g --ca ca3 --ek-roots other.pem", false, 5, "after: ");
    expect("grant after g --ca ca3 --ek-roots maker.pem", false, 0, "wrote");
    expect("accept g ak4.pem", true, 0, "wrote");
    OPENSSL_free(p);
    X509_free(maker);
    X509_free(other);
    X509_free(cert);
    EVP_PKEY_free(maker_key);
    EVP_PKEY_free(other_key);
    st_tpm_key_free(&ek);
    st_buf_free(&area);
    st_buf_free(&root);
    st_buf_free(&der);
}

int main(void)
{
    setenv("TSS2_LOG", "all+none", 1); /* refusals are expected */
    if (!swtpm_open(&tpm))
        return 0;
    dir = made_dir();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_machine_certifies_its_own_key),
        cmocka_unit_test(two_machines_exchange_a_request_and_a_grant),
        cmocka_unit_test(a_maker_vouches_for_the_endorsement_keys_it_certified),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    swtpm_close(&tpm);
    made_dir_remove(&dir);
    return rc;
}

#else

int main(void)
{
    (void)one_machine_certifies_its_own_key;
    (void)two_machines_exchange_a_request_and_a_grant;
    puts("skips: this build has no tpm2-tss");
    return 0;
}

#endif
