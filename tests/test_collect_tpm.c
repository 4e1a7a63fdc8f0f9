/* Evidence collected from a TPM that answers (swtpm): enrolled, quoted, judged; and everything that must not pass.
 * Without swtpm or tpm2-tss the tests say so and pass. */
#include "expect.h"

#include "attest/enroll.h"
#include "base/sandbox.h"
#include "collect_make.h"
#include "crypto/x509.h"
#include "evidence_make.h"

#include "log_make.h"
#include "swtpm.h"

#if __has_include(<tss2/tss2_esys.h>)
#include <tss2/tss2_esys.h>
#include <tss2/tss2_tctildr.h>

/* A TPM, the authority that certified its key, and the files that a node is given. */
struct machine {
    struct swtpm tpm;
    struct made_dir files;
    struct st_collect_opts o;
    struct st_enroll_ca ca;
};

static struct st_enroll_trust trust_in(const uint8_t digest[32])
{
    return (struct st_enroll_trust){.digest = digest};
}

/* Request, grant and acceptance; the certificate as a file. */
static const char *enroll(struct machine *m, const char *tcti)
{
    struct st_tpm_device *d;
    struct st_buf request = {0}, grant = {0}, pem = {0};
    uint8_t ek[32];
    struct st_err e = {0};
    assert_ok(st_tpm_device_open(tcti, NULL, &d, &e), &e);
    assert_ok(st_enroll_request(d, &request, &e), &e);
    assert_ok(st_enroll_ek_digest(request.p, request.len, ek, &e), &e);
    const struct st_enroll_trust t = trust_in(ek);
    assert_ok(st_enroll_grant(&m->ca, request.p, request.len, &t, st_unix_time(), 30, &grant, &e), &e);
    assert_ok(st_enroll_accept(d, grant.p, grant.len, &pem, &e), &e);
    st_tpm_device_close(d);
    const char *path = made_bytes(&m->files, "ak.pem", pem.p, pem.len);
    st_buf_free(&request);
    st_buf_free(&grant);
    st_buf_free(&pem);
    return path;
}

/* Extends as a log says, or one PCR by one event. */
static void extend(const char *tcti, const struct st_buf *log)
{
    TSS2_TCTI_CONTEXT *ctx;
    ESYS_CONTEXT *esys;
    struct st_event_log l;
    struct st_err e = {0};
    assert_int_equal(Tss2_TctiLdr_Initialize(tcti, &ctx), 0);
    assert_int_equal(Esys_Initialize(&esys, ctx, NULL), 0);
    assert_ok(st_event_log_parse((const uint8_t *)log->p, log->len, &l, &e), &e);
    for (size_t i = 0; i < l.n; i++) {
        TPML_DIGEST_VALUES d = {.count = 1, .digests = {{.hashAlg = TPM2_ALG_SHA256}}};
        memcpy(d.digests[0].digest.sha256, l.events[i].digests.p + 2 + 20 + 2, 32); /* behind the SHA-1 digest */
        assert_int_equal(
            Esys_PCR_Extend(esys, ESYS_TR_PCR0 + l.events[i].pcr, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &d), 0);
    }
    st_event_log_free(&l);
    Esys_Finalize(&esys);
    Tss2_TctiLdr_Finalize(&ctx);
}

static bool machine_open(struct machine *m)
{
    struct st_buf log = {0};
    struct st_err e = {0};
    char dir[80];
    *m = (struct machine){0};
    if (!swtpm_open(&m->tpm))
        return false;
    m->files = made_dir();
    snprintf(dir, sizeof dir, "%s/ca", m->files.path);
    assert_ok(st_enroll_ca_open(dir, true, &m->ca, &e), &e);
    log_boot(&log, ST_TPM_SHA256, true);
    extend(m->tpm.tcti, &log);
    m->o = (struct st_collect_opts){.tcti = m->tpm.tcti};
    m->o.tpm_certs = enroll(m, m->tpm.tcti);
    m->o.event_log = made_bytes(&m->files, "log", log.p, log.len);
    st_buf_free(&log);
    return true;
}

static void machine_close(struct machine *m)
{
    st_enroll_ca_free(&m->ca);
    made_dir_remove(&m->files);
    swtpm_close(&m->tpm);
}

/* The client's policy: the owner's authority, and further demands. */
static void expect_machine(const struct machine *m, const struct st_bundle *b, const char *demands, bool good,
                           const char *wrong)
{
    struct st_buf text = {0}, pem = {0};
    add_pem(&pem, m->ca.cert);
    st_buf_add_str(&text, "\"revocation\": \"if_present\", \"roots\": {\"tpm\": \"");
    add_pem_text(&text, &pem);
    st_buf_addf(&text, "\"}, %s", demands);
    expect_judged(b, text.p, good, wrong);
    st_buf_free(&text);
    st_buf_free(&pem);
}

#define TPM "\"require\": [\"tpm\"]"
static const char *const tpm[] = {"tpm"};

static void what_an_enrolled_tpm_quotes_is_accepted(void **state)
{
    struct machine m;
    (void)state;
    if (!machine_open(&m))
        return;
    struct st_bundle b = collect_now(&m.o, tpm, 1);
    expect_machine(&m, &b, TPM ", \"max_age_s\": 60", true, "");
    expect_machine(&m, &b, TPM ", \"measurements\": {\"tpm.secure_boot\": [true]}", true, "");
    expect_machine(&m, &b, TPM ", \"measurements\": {\"tpm.pcr.8\": [\"00\"]}", false, "policy.tpm.pcr.8");
    /* Without the owner's root, another authority's word is none. */
    expect_judged(&b, TPM ", \"revocation\": \"if_present\"", false, "tpm.chain");
    b.binding.receipt_key[3] ^= 1;
    expect_machine(&m, &b, TPM, false, "tpm.binding");
    st_bundle_free(&b);
    machine_close(&m);
}

static void a_log_that_says_something_else_is_refused(void **state)
{
    struct machine m;
    struct st_buf log = {0};
    (void)state;
    if (!machine_open(&m))
        return;
    log_boot(&log, ST_TPM_SHA256, false);
    m.o.event_log = made_bytes(&m.files, "other", log.p, log.len);
    struct st_bundle b = collect_now(&m.o, tpm, 1);
    expect_machine(&m, &b, TPM, false, "tpm.event_log");
    st_bundle_free(&b);
    st_buf_free(&log);
    machine_close(&m);
}

static void a_pcr_that_is_extended_ends_the_evidence(void **state)
{
    struct machine m;
    struct st_collection *c;
    struct st_bundle b;
    struct st_buf log = {0};
    const struct st_binding keys = made_binding();
    struct st_err e = {0};
    (void)state;
    if (!machine_open(&m))
        return;
    assert_ok(st_collection_open(tpm, 1, &m.o, &c, &e), &e);
    b = collect_from(c);
    expect_machine(&m, &b, TPM, true, "");
    st_bundle_free(&b);
    assert_ok(st_collection_unchanged(c, &e), &e);
    log_begin(&log, ST_TPM_SHA256);
    log_add(&log, ST_TPM_SHA256, 9, ST_EV_IPL, "another kernel", 14, NULL, 0);
    extend(m.tpm.tcti, &log);
    expect_refusal(st_collection_unchanged(c, &e), &e, ST_VERIFY, "PCR 9");
    expect_refusal(st_collection_collect(c, &keys, &b, &e), &e, ST_VERIFY, "PCR 9");
    st_collection_close(c);
    /* Whoever starts anew gets evidence, but not of this log. */
    b = collect_now(&m.o, tpm, 1);
    expect_machine(&m, &b, TPM, false, "tpm.event_log");
    st_bundle_free(&b);
    st_buf_free(&log);
    machine_close(&m);
}

static void the_key_of_another_tpm_is_refused(void **state)
{
    struct machine m;
    struct swtpm other;
    (void)state;
    if (!machine_open(&m))
        return;
    assert_true(swtpm_open(&other));
    /* This machine's certificate with that TPM's quote. */
    m.o.tcti = other.tcti;
    struct st_bundle b = collect_now(&m.o, tpm, 1);
    expect_machine(&m, &b, TPM, false, "tpm.signature");
    st_bundle_free(&b);
    swtpm_close(&other);
    machine_close(&m);
}

static void gap_n9_evidence_of_another_boot_is_refused(void **state)
{
    struct machine m;
    struct st_collection *c;
    struct st_buf log = {0};
    struct st_err e = {0};
    (void)state;
    if (!machine_open(&m))
        return;
    struct st_bundle before = collect_now(&m.o, tpm, 1);
    swtpm_restart(&m.tpm);
    log_boot(&log, ST_TPM_SHA256, true);
    extend(m.tpm.tcti, &log);
    struct st_bundle after = collect_now(&m.o, tpm, 1);
    /* The same key, and both good by themselves: but the counter tells them apart, and no part of one fits the other.
     */
    expect_machine(&m, &after, TPM, true, "");
    struct st_appraisal a, z;
    appraise(&before.items[0], (struct st_span){NULL, 0}, st_unix_time(), &a);
    appraise(&after.items[0], (struct st_span){NULL, 0}, st_unix_time(), &z);
    assert_int_not_equal(st_appraisal_find_claim(&a, "tpm.reset_count")->number,
                         st_appraisal_find_claim(&z, "tpm.reset_count")->number);
    st_appraisal_wipe(&a);
    st_appraisal_wipe(&z);
    struct st_bundle mixed = after;
    mixed.binding.hpke_key[0] ^= 1; /* the node's keys of this boot, evidence of the one before */
    mixed.items[0] = before.items[0];
    expect_machine(&m, &mixed, TPM, false, "tpm.binding");
    /* A program that lived on while its TPM started anew. */
    assert_ok(st_collection_open(tpm, 1, &m.o, &c, &e), &e);
    swtpm_reset(&m.tpm);
    assert_int_not_equal(st_collection_unchanged(c, &e), 0);
    st_collection_close(c);
    st_bundle_free(&before);
    st_bundle_free(&after);
    st_buf_free(&log);
    machine_close(&m);
}

static void a_tpm_carries_for_a_machine_and_follows_another_carrier(void **state)
{
    struct machine m;
    (void)state;
    if (!machine_open(&m))
        return;
    m.o.sim_key = made_file(&m.files, "sim.key", SIM_SEED);
    struct st_bundle b = collect_now(&m.o, (const char *[]){"sim", "tpm"}, 2);
    expect_machine(&m, &b, "\"require\": [\"tpm\", \"sim\"], \"sim_root\": \"" SIM_ROOT "\"", true, "");
    /* Without one of its parts it is no longer what was signed. */
    b.items[0] = b.items[1];
    b.n_item = 1;
    expect_machine(&m, &b, TPM, false, "tpm.binding");
    st_bundle_free(&b);
    machine_close(&m);
}

static void a_grant_opens_on_its_tpm_only_and_only_for_believed_keys(void **state)
{
    struct machine m;
    struct swtpm other;
    struct st_tpm_device *d;
    struct st_buf request = {0}, grant = {0}, pem = {0};
    uint8_t ek[32];
    struct st_err e = {0};
    (void)state;
    if (!machine_open(&m))
        return;
    assert_true(swtpm_open(&other));
    assert_ok(st_tpm_device_open(m.tpm.tcti, NULL, &d, &e), &e);
    assert_ok(st_enroll_request(d, &request, &e), &e);
    st_tpm_device_close(d);
    assert_ok(st_enroll_ek_digest(request.p, request.len, ek, &e), &e);
    struct st_enroll_trust t = trust_in(ek);
    assert_ok(st_enroll_grant(&m.ca, request.p, request.len, &t, st_unix_time(), 30, &grant, &e), &e);
    assert_ok(st_tpm_device_open(other.tcti, NULL, &d, &e), &e);
    expect_refusal(st_enroll_accept(d, grant.p, grant.len, &pem, &e), &e, ST_VERIFY, "another TPM");
    st_tpm_device_close(d);
    ek[0] ^= 1;
    expect_refusal(st_enroll_grant(&m.ca, request.p, request.len, &t, st_unix_time(), 30, &grant, &e), &e, ST_VERIFY,
                   "not one that was named");
    t = (struct st_enroll_trust){.roots = {(const uint8_t *)"x", 1}};
    expect_refusal(st_enroll_grant(&m.ca, request.p, request.len, &t, st_unix_time(), 30, &grant, &e), &e, ST_VERIFY,
                   "no certificate of its maker");
    st_buf_free(&request);
    st_buf_free(&grant);
    st_buf_free(&pem);
    swtpm_close(&other);
    machine_close(&m);
}

/* What it needs is what it says: in a process of its own, for a sandbox cannot be left. */
static int collect_in_a_sandbox(const struct st_collect_opts *o)
{
    const struct st_binding keys = made_binding();
    struct st_collection *c;
    struct st_collect_needs n;
    struct st_sandbox_state state;
    struct st_bundle b;
    struct st_err e = {0};
    if (st_collection_open((const char *[]){"tpm", "sim"}, 2, o, &c, &e))
        return 1;
    st_collection_needs(c, &n);
    const struct st_sandbox s = {.read = n.read,
                                 .n_read = n.n_read,
                                 .write = n.write,
                                 .n_write = n.n_write,
                                 .ports = &n.port,
                                 .n_port = n.port != 0,
                                 .nvidia = n.nvidia};
    if (st_sandbox_enter(&s, &state, &e) || st_collection_collect(c, &keys, &b, &e) || st_collection_unchanged(c, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        return 2;
    }
    return b.n_item == 2 && b.items[0].n_endorsement == 6 ? 0 : 3;
}

static void a_process_in_a_sandbox_goes_on_collecting(void **state)
{
    struct machine m;
    struct st_buf crl = {0};
    char dir[80];
    int status;
    (void)state;
    if (!machine_open(&m))
        return;
    m.o.sim_key = made_file(&m.files, "sim.key", SIM_SEED);
    snprintf(dir, sizeof dir, "%s/endorsements", m.files.path);
    assert_int_equal(mkdir(dir, 0700), 0);
    made_crl(&crl, m.ca.cert, m.ca.key, NULL, MADE_AT, MADE_AT + DAY);
    made_bytes(&m.files, "endorsements/crl", crl.p, crl.len);
    m.o.endorsements = dir;
    pid_t pid = fork();
    if (pid == 0)
        _exit(collect_in_a_sandbox(&m.o));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    st_buf_free(&crl);
    machine_close(&m);
}

static void a_machine_without_a_tpm_says_so(void **state)
{
    const struct st_collect_opts o = {.tcti = "device:/dev/no-such-tpm"}, h = {.tcti = o.tcti, .tpm_ak = "81000003"};
    struct st_collection *c;
    struct st_err e = {0};
    (void)state;
    expect_refusal(st_collection_open(tpm, 1, &o, &c, &e), &e, ST_UNSUPPORTED, "/dev/no-such-tpm");
    expect_refusal(st_collection_open(tpm, 1, &h, &c, &e), &e, ST_UNSUPPORTED, "/dev/no-such-tpm");
}

int main(void)
{
    setenv("TSS2_LOG", "all+none", 1); /* refusals are expected */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_an_enrolled_tpm_quotes_is_accepted),
        cmocka_unit_test(a_log_that_says_something_else_is_refused),
        cmocka_unit_test(a_pcr_that_is_extended_ends_the_evidence),
        cmocka_unit_test(the_key_of_another_tpm_is_refused),
        cmocka_unit_test(gap_n9_evidence_of_another_boot_is_refused),
        cmocka_unit_test(a_tpm_carries_for_a_machine_and_follows_another_carrier),
        cmocka_unit_test(a_grant_opens_on_its_tpm_only_and_only_for_believed_keys),
        cmocka_unit_test(a_process_in_a_sandbox_goes_on_collecting),
        cmocka_unit_test(a_machine_without_a_tpm_says_so),
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
