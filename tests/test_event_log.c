/* Event logs: real ones of a PC and of clouds, and made ones, edited in every way. */
#include "expect.h"

#include "evidence_make.h"
#include "mutate.h"

#include <openssl/ec.h>
#include <openssl/rsa.h>

#include "log_make.h"

static const unsigned alg = ST_TPM_SHA256;

static void parse(const struct st_buf *b, struct st_event_log *out)
{
    struct st_err e = {0};
    assert_ok(st_event_log_parse((const uint8_t *)b->p, b->len, out, &e), &e);
}

/* Parse, check and replay; claims of the PCRs `quoted`. Returns the first refusal. */
static int run(const struct st_buf *b, uint32_t quoted, struct st_pcrs *pcrs, struct st_appraisal *a, struct st_err *e)
{
    struct st_event_log log;
    uint32_t touched;
    pcrs->alg = pcrs->alg ? pcrs->alg : alg;
    int rc = st_event_log_parse((const uint8_t *)b->p, b->len, &log, e);
    if (rc)
        return rc;
    rc = st_event_log_check(&log, e);
    if (!rc)
        rc = st_event_log_replay(&log, pcrs, &touched, e);
    if (!rc && a)
        st_event_log_claim(&log, pcrs->alg, quoted, a);
    st_event_log_free(&log);
    return rc;
}

static void claims_of(const struct st_buf *b, uint32_t quoted, struct st_appraisal *a)
{
    struct st_pcrs pcrs = {.alg = alg};
    struct st_err e = {0};
    *a = (struct st_appraisal){0};
    assert_ok(run(b, quoted, &pcrs, a, &e), &e);
}

static void a_log_says_secure_boot_and_command_line(void **state)
{
    struct st_buf b = {0};
    struct st_appraisal a;
    (void)state;
    log_boot(&b, alg, true);
    claims_of(&b, 0x43ff, &a);
    assert_number(&a, "tpm.secure_boot", 1);
    assert_text(&a, "tpm.kernel_cmdline_unsigned", CMDLINE);
    assert_text(&a, "tpm.verity.roothash_unsigned", "00ff11ee");
    assert_text(&a, "tpm.verity.root_hexdigest_unsigned", "abcd");
    assert_null(st_appraisal_find_claim(&a, "tpm.verity.usrhash_unsigned"));
    assert_non_null(st_appraisal_find_claim(&a, "tpm.efi_pk"));
    assert_text(&a, "tpm.efi_dbx", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    st_appraisal_wipe(&a);
    claims_of(&b, 0x00007f, &a); /* neither PCR 7 nor 8 is quoted: nothing is known */
    assert_int_equal(a.n_claim, 0);
    st_appraisal_wipe(&a);
    st_buf_clear(&b);
    log_boot(&b, alg, false);
    claims_of(&b, 0x43ff, &a);
    assert_number(&a, "tpm.secure_boot", 0);
    st_appraisal_wipe(&a);
    st_buf_free(&b);
}

static void what_software_adds_later_takes_no_claim_over(void **state)
{
    struct st_buf b = {0};
    struct st_appraisal a;
    (void)state;
    log_boot(&b, alg, false);
    log_variable(&b, alg, ST_EV_EFI_VARIABLE_DRIVER_CONFIG, false, "SecureBoot", "\1", 1);
    log_grub(&b, alg, "kernel_cmdline: ", "roothash=another");
    claims_of(&b, 0x43ff, &a);
    assert_number(&a, "tpm.secure_boot", 0); /* what stands behind the separator is not the firmware's */
    assert_null(st_appraisal_find_claim(&a, "tpm.kernel_cmdline_unsigned"));
    assert_null(st_appraisal_find_claim(&a, "tpm.verity.roothash_unsigned"));
    st_appraisal_wipe(&a);
    /* Nor when the log calls the separator and the firmware's own statement something else. */
    struct st_event_log log;
    parse(&b, &log);
    for (size_t i = 0; i < log.n; i++)
        if (log.events[i].pcr == 7 && (log.events[i].type == ST_EV_SEPARATOR || i == 2))
            log.events[i].type = 0x0000000c;
    a = (struct st_appraisal){0};
    st_event_log_claim(&log, alg, 0x43ff, &a);
    assert_null(st_appraisal_find_claim(&a, "tpm.secure_boot"));
    assert_non_null(st_appraisal_find_claim(&a, "tpm.efi_pk"));
    st_appraisal_wipe(&a);
    st_event_log_free(&log);
    st_buf_free(&b);
}

static void a_stub_says_the_command_line_in_utf16(void **state)
{
    static const char line[] = "usrhash=1234 quiet";
    uint8_t wide[2 * sizeof line] = {0};
    struct st_buf b = {0};
    struct st_appraisal a;
    (void)state;
    for (size_t i = 0; i < sizeof line; i++)
        wide[2 * i] = (uint8_t)line[i];
    log_begin(&b, alg);
    log_add(&b, alg, 12, ST_EV_IPL, wide, sizeof wide, NULL, 0);
    log_add(&b, alg, 12, ST_EV_IPL, "an initrd", 9, "name", 5);
    claims_of(&b, 0x10ff, &a);
    assert_text(&a, "tpm.kernel_cmdline_unsigned", line);
    assert_text(&a, "tpm.verity.usrhash_unsigned", "1234");
    st_appraisal_wipe(&a);
    st_buf_free(&b);
}

static void replace_text(struct st_buf *b, const char *from, const char *to)
{
    char *at = memmem(b->p, b->len, from, strlen(from));
    assert_non_null(at);
    assert_int_equal(strlen(from), strlen(to));
    memcpy(at, to, strlen(to));
}

static void gap_n2_an_event_whose_digest_is_not_that_of_its_data_is_refused(void **state)
{
    static const uint8_t secure[] = {'B', 0, 'o', 0, 'o', 0, 't', 0, 0};
    struct st_buf b = {0};
    struct st_pcrs pcrs = {0};
    struct st_err e = {0};
    (void)state;
    log_boot(&b, alg, true);
    replace_text(&b, "roothash=00ff", "roothash=beef");
    expect_refusal(run(&b, 0x43ff, &pcrs, NULL, &e), &e, ST_VERIFY, "PCR 8, type 0000000d");
    st_buf_clear(&b);
    log_boot(&b, alg, false);
    char *flag = memmem(b.p, b.len, secure, sizeof secure);
    assert_non_null(flag);
    flag[8] = 1;
    expect_refusal(run(&b, 0x43ff, &pcrs, NULL, &e), &e, ST_VERIFY, "PCR 7, type 80000001");
    /* Under another name it is a remark, from which nothing is read. */
    struct st_appraisal a;
    st_buf_clear(&b);
    log_boot(&b, alg, true);
    replace_text(&b, "kernel_cmdline: ", "kernel_cmdlinX: ");
    claims_of(&b, 0x43ff, &a);
    assert_null(st_appraisal_find_claim(&a, "tpm.kernel_cmdline_unsigned"));
    st_appraisal_wipe(&a);
    st_buf_free(&b);
}

static void a_changed_or_missing_event_changes_its_pcr(void **state)
{
    struct st_buf b = {0}, less = {0};
    struct st_pcrs whole, part;
    (void)state;
    log_boot(&b, alg, true);
    pcrs_of(&b, alg, 0xffffff, &whole);
    st_buf_add(&less, b.p, b.len);
    log_add(&b, alg, 12, ST_EV_IPL, "model", 5, NULL, 0);
    pcrs_of(&b, alg, 0xffffff, &part);
    assert_memory_not_equal(whole.value[12], part.value[12], 32);
    assert_memory_equal(whole.value[8], part.value[8], 32);
    less.len -= 12 + 2 * 2 + 20 + 32 + 4 + 9; /* the last event, of PCR 9 */
    pcrs_of(&less, alg, 0xffffff, &part);
    assert_memory_not_equal(whole.value[9], part.value[9], 32);
    st_buf_free(&b);
    st_buf_free(&less);
}

static void pcr_0_begins_with_the_startup_locality_and_17_with_ones(void **state)
{
    static const char data[17] = "StartupLocality\0\3";
    uint8_t want[32] = {[31] = 3}, ones[32];
    struct st_buf b = {0};
    struct st_pcrs p;
    (void)state;
    memset(ones, 0xff, sizeof ones);
    log_begin(&b, alg);
    log_add(&b, alg, 0, ST_EV_NO_ACTION, "", 0, data, sizeof data);
    pcrs_of(&b, alg, 0xffffff, &p);
    assert_memory_equal(p.value[0], want, 32);
    assert_memory_equal(p.value[17], ones, 32);
    memset(want, 0, sizeof want);
    assert_memory_equal(p.value[1], want, 32);
    st_buf_free(&b);
}

/* The bytes outside what the quote covers: in the head the PCR (0 or 1), platform, version and word size; the types of
 * events; and of those whose digest is of something else, the digest in a bank that is not quoted, and the data, which
 * is a remark; and the words in front of GRUB's texts. */
static bool says_nothing(const struct st_event_log *log, const uint8_t *p, size_t at)
{
    if (at == 0 || (at >= 48 && at < 56))
        return true;
    for (size_t i = 0; i < log->n; i++) {
        const struct st_event *ev = &log->events[i];
        size_t digests = (size_t)(ev->digests.p - p), data = (size_t)(ev->data.p - p);
        bool remark = ev->type == 0x80000003 || ev->type == 0x80000008 || ev->type == ST_EV_IPL;
        bool grub = ev->type == ST_EV_IPL && ev->pcr == 8;
        const uint8_t *colon = grub ? memchr(ev->data.p, ':', ev->data.len) : NULL;
        if (at >= digests - 8 && at < digests - 4)
            return true;
        if (remark && !grub && ((at >= digests + 2 && at < digests + 22) || (at >= data && at < data + ev->data.len)))
            return true;
        if (colon && at >= data && at <= (size_t)(colon - p) + 1)
            return true;
    }
    return false;
}

/* The log is evidence of a quote: whatever is changed either shows there, or lies in bytes that say nothing. */
static void every_flipped_byte_shows_or_says_nothing(void **state)
{
    struct tpm t;
    struct st_appraisal whole;
    struct st_event_log log;
    struct st_buf copy = {0};
    size_t n_free = 0;
    (void)state;
    EVP_PKEY *key = EVP_EC_gen("P-256");
    tpm_open(&t, key, ST_TPM_ECDSA, alg, alg);
    const struct st_span none = {NULL, 0};
    st_buf_add(&copy, t.log.p, t.log.len);
    parse(&copy, &log);
    appraise(&t.ev, none, MADE_AT, &whole);
    assert_check(&whole, "tpm.event_log", ST_CHECK_PASS, "");
    for (size_t i = 0; i < t.log.len; i++) {
        struct st_appraisal a;
        t.log.p[i] ^= (char)(1u << i % 8);
        appraise(&t.ev, none, MADE_AT, &a);
        const struct st_check *c = st_appraisal_find_check(&a, "tpm.event_log");
        if (c && c->result == ST_CHECK_PASS) {
            if (!says_nothing(&log, (const uint8_t *)copy.p, i))
                fail_msg("byte %zu can be changed", i);
            n_free++;
            if (a.n_claim > whole.n_claim)
                fail_msg("byte %zu: a new claim", i);
            for (size_t k = 0; k < a.n_claim; k++) {
                const struct st_claim *was = st_appraisal_find_claim(&whole, a.claims[k].name);
                if (!was || was->number != a.claims[k].number ||
                    (was->text && strcmp(was->text, a.claims[k].text) != 0))
                    fail_msg("byte %zu changes the claim %s", i, a.claims[k].name);
            }
        }
        st_appraisal_wipe(&a);
        t.log.p[i] ^= (char)(1u << i % 8);
    }
    assert_true(n_free > 100);
    st_event_log_free(&log);
    st_buf_free(&copy);
    st_appraisal_wipe(&whole);
    EVP_PKEY_free(key);
    tpm_close(&t);
}

static void every_truncation_of_a_log_shows(void **state)
{
    struct tpm t;
    struct st_appraisal a;
    const struct st_span none = {NULL, 0};
    EVP_PKEY *key = EVP_EC_gen("P-256");
    (void)state;
    tpm_open(&t, key, ST_TPM_ECDSA, alg, alg);
    for (size_t n = 0; n < t.log.len; n++) {
        t.ev.endorsements[2].data.len = n;
        appraise(&t.ev, none, MADE_AT, &a);
        assert_check(&a, "tpm.event_log", ST_CHECK_FAIL, "");
        st_appraisal_wipe(&a);
    }
    EVP_PKEY_free(key);
    tpm_close(&t);
}

static void malformed_logs_are_refused_by_name(void **state)
{
    struct st_buf b = {0};
    struct st_event_log log;
    struct st_err e = {0};
    const struct {
        size_t at;
        uint8_t v;
        const char *says;
    } wrong[] = {{0, 2, "Spec ID Event03"},
                 {4, 4, "Spec ID Event03"},
                 {8, 1, "first event has a digest"},
                 {56, 9, "1..8 banks"},
                 {56, 0, "1..8 banks"},
                 {62, 21, "bank 0"},
                 {64, 4, "bank 1"},
                 {68, 1, "first event"},
                 {69, 24, "event 0"},
                 {77, 3, "event 0: want a digest"},
                 {77, 0, "event 0: want a digest"},
                 {103, 4, "event 0: want a digest"}};
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        st_buf_clear(&b);
        log_boot(&b, alg, true);
        b.p[wrong[i].at] = (char)wrong[i].v;
        expect_refusal(st_event_log_parse((const uint8_t *)b.p, b.len, &log, &e), &e, ST_INPUT, wrong[i].says);
    }
    st_buf_free(&b);
}

static void room_behind_the_last_event_is_no_event(void **state)
{
    struct st_buf b = {0};
    struct st_event_log log;
    (void)state;
    for (int fill = 0; fill < 2; fill++) {
        st_buf_clear(&b);
        log_boot(&b, alg, true);
        for (int i = 0; i < 1000; i++)
            st_buf_add(&b, fill ? "\377" : "\0", 1);
        parse(&b, &log);
        assert_int_equal(log.n, 17);
        st_event_log_free(&log);
    }
    st_buf_free(&b);
}

static void damaged_logs_never_crash(void **state)
{
    struct st_buf b = {0};
    struct st_rng r;
    (void)state;
    log_boot(&b, alg, true);
    st_rng_seed(&r, 3);
    for (int i = 0; i < 5000; i++) {
        struct st_pcrs pcrs = {0};
        struct st_appraisal a = {0};
        struct st_err e;
        struct st_buf bad = {0};
        size_t len;
        uint8_t *p = mutate(&r, b.p, b.len, 200, &len);
        bad.p = (char *)p;
        bad.len = len;
        if (run(&bad, 0xffffff, &pcrs, &a, &e) == 0)
            assert_false(a.failed);
        st_appraisal_wipe(&a);
        free(p);
    }
    st_buf_free(&b);
}

/* ---- real ones ---- */

static void starts_with(const uint8_t *p, const char *hex)
{
    for (size_t i = 0; hex[2 * i]; i++) {
        char two[3];
        snprintf(two, sizeof two, "%02x", p[i]);
        if (memcmp(two, hex + 2 * i, 2) != 0)
            fail_msg("want %s, byte %zu is %s", hex, i, two);
    }
}

static void the_log_of_a_td_gives_the_registers_of_its_quote(void **state)
{
    struct st_buf log = {0}, quote = {0};
    struct st_pcrs pcrs = {.alg = ST_TPM_SHA384};
    struct st_err e = {0};
    (void)state;
    if (!shared_file("eventlog/cos113_ccel.bin", &log) || !shared_file("tdx/cos113_v4.dat", &quote))
        return;
    assert_ok(run(&log, 0, &pcrs, NULL, &e), &e);
    for (int i = 0; i < 3; i++) /* RTMR 0 to 2 are 1 to 3 here; behind header [48] and 328 bytes of the body */
        assert_memory_equal(pcrs.value[i + 1], quote.p + 48 + 328 + 48 * i, 48);
    st_buf_free(&log);
    st_buf_free(&quote);
}

static void the_log_of_a_pc_replays(void **state)
{
    struct st_buf text = {0}, log = {0};
    struct st_pcrs pcrs = {.alg = alg};
    struct st_appraisal a = {0};
    struct st_err e = {0};
    char *data;
    (void)state;
    if (!shared_file("eventlog/binary_measurements_pc_client.b64", &text))
        return;
    /* Base64 in lines, which the decoder for PEM reads. */
    BIO *bio = BIO_push(BIO_new(BIO_f_base64()), BIO_new_mem_buf(text.p, (int)text.len));
    data = malloc(text.len);
    int n = BIO_read(bio, data, (int)text.len);
    assert_int_equal(n, 17831);
    st_buf_add(&log, data, (size_t)n);
    assert_ok(run(&log, 0xffffff, &pcrs, &a, &e), &e);
    starts_with(pcrs.value[0], "0dc05ae01841aed6033708db097e7158");
    starts_with(pcrs.value[7], "7134c4a1895dcf8e94d7dd41929c96e2");
    assert_number(&a, "tpm.secure_boot", 0);
    st_appraisal_wipe(&a);
    free(data);
    BIO_free_all(bio);
    st_buf_free(&text);
    st_buf_free(&log);
}

static void the_log_of_a_cloud_machine_replays_in_three_banks(void **state)
{
    static const unsigned bank[] = {ST_TPM_SHA256, ST_TPM_SHA384};
    static const char *const want[] = {"d265f43867c6934d4d2e23b8d68e5e21", "7438198aad76467d5f112729f2c792be"};
    struct st_buf text = {0}, log = {0};
    (void)state;
    if (!shared_file("eventlog/gce_tcg_eventlog.txt", &text))
        return;
    pem_block(&text, "test_tcg_event_log", &log);
    for (int i = 0; i < 2; i++) {
        struct st_pcrs pcrs = {.alg = bank[i]};
        struct st_appraisal a = {0};
        struct st_err e = {0};
        assert_ok(run(&log, 0xffffff, &pcrs, &a, &e), &e);
        starts_with(pcrs.value[8], want[i]);
        assert_number(&a, "tpm.secure_boot", 1);
        const struct st_claim *c = st_appraisal_find_claim(&a, "tpm.kernel_cmdline_unsigned");
        assert_true(c && strstr(c->text, "root="));
        st_appraisal_wipe(&a);
    }
    st_buf_free(&text);
    st_buf_free(&log);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_log_says_secure_boot_and_command_line),
        cmocka_unit_test(what_software_adds_later_takes_no_claim_over),
        cmocka_unit_test(a_stub_says_the_command_line_in_utf16),
        cmocka_unit_test(gap_n2_an_event_whose_digest_is_not_that_of_its_data_is_refused),
        cmocka_unit_test(a_changed_or_missing_event_changes_its_pcr),
        cmocka_unit_test(pcr_0_begins_with_the_startup_locality_and_17_with_ones),
        cmocka_unit_test(every_flipped_byte_shows_or_says_nothing),
        cmocka_unit_test(every_truncation_of_a_log_shows),
        cmocka_unit_test(malformed_logs_are_refused_by_name),
        cmocka_unit_test(room_behind_the_last_event_is_no_event),
        cmocka_unit_test(damaged_logs_never_crash),
        cmocka_unit_test(the_log_of_a_td_gives_the_registers_of_its_quote),
        cmocka_unit_test(the_log_of_a_pc_replays),
        cmocka_unit_test(the_log_of_a_cloud_machine_replays_in_three_banks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
