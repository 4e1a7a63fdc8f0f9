/* Key files: what is in them, how they are wrapped, and what becomes of wrong, damaged and hostile ones. The TPM is
 * swtpm; without it its tests say so and pass. The program is the one named by SOTTO_BIN. */
#include "base/hooks.h"
#include "crypto/aead.h"
#include "crypto/digest.h"
#include "expect.h"
#include "protect/covariant/key.h"
#include "protect/covariant/noise.h"
#include "swtpm.h"

#include <errno.h>
#include <math.h>
#include <pty.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char work[64]; /* a fresh directory per test */
static const struct st_argon2 cheap = {1, 8, 1};

static int make_work(void **state)
{
    (void)state;
    strcpy(work, "/tmp/sotto-key-XXXXXX");
    return mkdtemp(work) ? 0 : -1;
}

static int drop_work(void **state)
{
    char cmd[96];
    (void)state;
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", work);
    return system(cmd);
}

static const char *in_work(const char *name)
{
    static char path[16][256];
    static int turn;
    turn = (turn + 1) % 16;
    snprintf(path[turn], sizeof path[turn], "%s/%s", work, name);
    return path[turn];
}

static void assert_refused(int rc, int want, const struct st_err *e, const char *word)
{
    if (rc != want || !strstr(e->msg, word))
        fail_msg("want error %d with `%s`, got %d: %s", want, word, rc, e->msg);
}

static struct st_secret secret_of(const char *text)
{
    struct st_secret s;
    struct st_err e;
    assert_ok(st_secret_init(&s, strlen(text), &e), &e);
    memcpy(s.p, text, s.len);
    return s;
}

static void slurp(const char *path, struct st_buf *b)
{
    struct st_err e;
    assert_ok(st_file_read(path, 65536, b, &e), &e);
}

static void put(const char *path, const void *p, size_t len)
{
    struct st_err e;
    assert_ok(st_file_write(path, p, len, 0600, true, &e), &e);
}

/* The last 32 bytes become right again. */
static void resum(uint8_t *p, size_t len)
{
    st_sha256(p, len - 32, p + len - 32);
}

static void assert_same_key(const struct st_cov_key *a, const struct st_cov_key *b, bool same)
{
    assert_int_equal(memcmp(a->seed.p, b->seed.p, 32) == 0, same);
    assert_int_equal(memcmp(a->id, b->id, 16) == 0, same);
}

/* ---- the file ---- */

static void a_key_file_is_private_and_never_overwritten(void **state)
{
    (void)state;
    struct st_err e;
    struct stat sb;
    struct st_cov_key a, b;
    const char *path = in_work("a.key"), *other = in_work("b.key");
    assert_ok(st_cov_key_create(path, NULL, &e), &e);
    assert_int_equal(stat(path, &sb), 0);
    assert_int_equal(sb.st_mode & 07777, 0600);
    assert_int_equal(sb.st_size, 124);
    assert_int_equal(st_cov_key_create(path, NULL, &e), ST_IO);
    assert_ok(st_cov_key_load(path, NULL, &a, &e), &e);
    assert_true(llabs((long long)(a.created - st_unix_time())) < 60);
    assert_ok(st_cov_key_create(other, NULL, &e), &e);
    assert_ok(st_cov_key_load(other, NULL, &b, &e), &e);
    assert_same_key(&a, &b, false);
    st_cov_key_wipe(&a);
    st_cov_key_wipe(&b);
    static const unsigned open_modes[] = {0640, 0604, 0620, 0610, 0666};
    for (size_t i = 0; i < sizeof open_modes / sizeof *open_modes; i++) {
        assert_int_equal(chmod(path, open_modes[i]), 0);
        assert_int_equal(st_cov_key_load(path, NULL, &a, &e), ST_POLICY);
    }
    assert_int_equal(st_cov_key_load(work, NULL, &a, &e), ST_IO);
    assert_int_equal(st_cov_key_load(in_work("absent"), NULL, &a, &e), ST_IO);
}

static void a_truncated_lengthened_or_changed_key_file_is_refused(void **state)
{
    (void)state;
    struct st_err e;
    struct st_cov_key k;
    struct st_buf file = {0};
    struct st_secret word = secret_of("correct horse");
    const struct st_cov_lock locks[] = {{0}, {.wrap = ST_COV_WRAP_PASSPHRASE, .passphrase = &word, .cost = cheap}};
    for (int n = 0; n < 2; n++) {
        const char *path = in_work(n ? "b.key" : "a.key");
        assert_ok(st_cov_key_create(path, &locks[n], &e), &e);
        slurp(path, &file);
        uint8_t *p = (uint8_t *)file.p;
        for (size_t len = 0; len < file.len; len++)
            assert_int_equal(st_cov_key_open(p, len, "key", &locks[n], &k, &e), ST_INPUT);
        for (size_t i = 0; i < file.len; i++)
            for (int bit = 0; bit < 8; bit++) {
                p[i] ^= (uint8_t)(1 << bit);
                int rc = st_cov_key_open(p, file.len, "key", &locks[n], &k, &e);
                /* Version 3 is version 1 by one bit, whose length differs. */
                assert_true(rc == ST_INPUT || (i >= 8 && i < 12 && rc == ST_UNSUPPORTED));
                p[i] ^= (uint8_t)(1 << bit);
            }
        assert_ok(st_cov_key_open(p, file.len, "key", &locks[n], &k, &e), &e);
        st_cov_key_wipe(&k);
        st_buf_add(&file, "", 1);
        assert_int_equal(st_cov_key_open((uint8_t *)file.p, file.len, "key", &locks[n], &k, &e), ST_INPUT);
    }
    st_buf_wipe(&file);
    st_secret_wipe(&word);
}

static void files_of_version_1_still_load(void **state)
{
    (void)state;
    struct st_err e;
    struct st_cov_key k;
    struct st_cov_key_info info;
    char old[ST_PATH_MAX];
    uint8_t p[120] = "SOTTOKEY\1";
    p[12] = 0xab;
    p[48] = 7;
    for (int i = 0; i < 32; i++)
        p[56 + i] = (uint8_t)i;
    resum(p, sizeof p);
    const char *path = in_work("v1.key");
    put(path, p, sizeof p);
    assert_ok(st_cov_key_load(path, NULL, &k, &e), &e);
    assert_memory_equal(k.seed.p, p + 56, 32);
    assert_int_equal(k.id[0], 0xab);
    assert_int_equal(k.created, 7);
    st_cov_key_wipe(&k);
    assert_ok(st_cov_key_show(path, &info, &e), &e);
    assert_int_equal(info.version, 1);
    assert_int_equal(info.wrap, ST_COV_WRAP_NONE);
    assert_ok(st_cov_key_rotate(path, NULL, old, &e), &e);
    assert_ok(st_cov_key_show(path, &info, &e), &e);
    assert_int_equal(info.version, 2);
    p[28] = 1; /* version 1 knew no wraps */
    resum(p, sizeof p);
    assert_refused(st_cov_key_open(p, sizeof p, "key", NULL, &k, &e), ST_UNSUPPORTED, &e, "wrap");
}

static void rotation_keeps_the_old_key_and_the_wrap(void **state)
{
    (void)state;
    struct st_err e;
    struct stat sb;
    struct st_secret word = secret_of("pass"), wrong = secret_of("Pass");
    const struct st_cov_lock locks[] = {{0}, {.wrap = ST_COV_WRAP_PASSPHRASE, .passphrase = &word, .cost = cheap}};
    const struct st_cov_lock bad = {.passphrase = &wrong};
    struct st_cov_key before, after, kept;
    struct st_cov_key_info info;
    struct st_buf file = {0};
    char old[ST_PATH_MAX], id[33];
    for (int n = 0; n < 2; n++) {
        const char *path = in_work(n ? "b.key" : "a.key");
        assert_ok(st_cov_key_create(path, &locks[n], &e), &e);
        assert_ok(st_cov_key_load(path, &locks[n], &before, &e), &e);
        slurp(path, &file);
        if (n)
            assert_refused(st_cov_key_rotate(path, &bad, old, &e), ST_VERIFY, &e, "wrong passphrase");
        if (n) { /* a rotation that ended after its first half */
            st_hex(before.id, 16, id);
            snprintf(old, sizeof old, "%s.%s", path, id);
            put(old, file.p, file.len);
        }
        assert_ok(st_cov_key_rotate(path, &locks[n], old, &e), &e);
        assert_ok(st_cov_key_load(path, &locks[n], &after, &e), &e);
        assert_ok(st_cov_key_load(old, &locks[n], &kept, &e), &e);
        assert_same_key(&before, &after, false);
        assert_same_key(&before, &kept, true);
        st_hex(before.id, 16, id);
        assert_string_equal(old + strlen(path) + 1, id);
        assert_int_equal(stat(old, &sb), 0);
        assert_int_equal(sb.st_mode & 07777, 0600);
        assert_ok(st_cov_key_show(path, &info, &e), &e);
        assert_int_equal(info.wrap, locks[n].wrap);
        assert_int_equal(info.cost.memory_kib, locks[n].cost.memory_kib);
        st_cov_key_wipe(&before);
        st_cov_key_wipe(&after);
        st_cov_key_wipe(&kept);
    }
    /* Somebody's other file of that name is not touched, and nothing changes. */
    const char *path = in_work("a.key");
    assert_ok(st_cov_key_show(path, &info, &e), &e);
    st_hex(info.id, 16, id);
    snprintf(old, sizeof old, "%s.%s", path, id);
    put(old, "mine", 4);
    slurp(path, &file);
    assert_refused(st_cov_key_rotate(path, NULL, old, &e), ST_IO, &e, "another file");
    struct st_buf now = {0};
    slurp(path, &now);
    assert_int_equal(now.len, file.len);
    assert_memory_equal(now.p, file.p, now.len);
    st_buf_wipe(&now);
    st_buf_wipe(&file);
    st_secret_wipe(&word);
    st_secret_wipe(&wrong);
}

/* ---- passphrase ---- */

static void gcm_agrees_with_nist(void **state)
{
    (void)state;
    /* SP 800-38D's submitted test case 16: AES-256, 60 bytes of text, 20 of associated data. */
    static const uint8_t key[32] = {0xfe, 0xff, 0xe9, 0x92, 0x86, 0x65, 0x73, 0x1c, 0x6d, 0x6a, 0x8f,
                                    0x94, 0x67, 0x30, 0x83, 0x08, 0xfe, 0xff, 0xe9, 0x92, 0x86, 0x65,
                                    0x73, 0x1c, 0x6d, 0x6a, 0x8f, 0x94, 0x67, 0x30, 0x83, 0x08};
    static const uint8_t nonce[12] = {0xca, 0xfe, 0xba, 0xbe, 0xfa, 0xce, 0xdb, 0xad, 0xde, 0xca, 0xf8, 0x88};
    static const uint8_t text[60] = {0xd9, 0x31, 0x32, 0x25, 0xf8, 0x84, 0x06, 0xe5, 0xa5, 0x59, 0x09, 0xc5,
                                     0xaf, 0xf5, 0x26, 0x9a, 0x86, 0xa7, 0xa9, 0x53, 0x15, 0x34, 0xf7, 0xda,
                                     0x2e, 0x4c, 0x30, 0x3d, 0x8a, 0x31, 0x8a, 0x72, 0x1c, 0x3c, 0x0c, 0x95,
                                     0x95, 0x68, 0x09, 0x53, 0x2f, 0xcf, 0x0e, 0x24, 0x49, 0xa6, 0xb5, 0x25,
                                     0xb1, 0x6a, 0xed, 0xf5, 0xaa, 0x0d, 0xe6, 0x57, 0xba, 0x63, 0x7b, 0x39};
    static const uint8_t ad[20] = {0xfe, 0xed, 0xfa, 0xce, 0xde, 0xad, 0xbe, 0xef, 0xfe, 0xed,
                                   0xfa, 0xce, 0xde, 0xad, 0xbe, 0xef, 0xab, 0xad, 0xda, 0xd2};
    static const uint8_t tag[16] = {0x76, 0xfc, 0x6e, 0xce, 0x0f, 0x4e, 0x17, 0x68,
                                    0xcd, 0xdf, 0x88, 0x53, 0xbb, 0x2d, 0x55, 0x1b};
    static const uint8_t first[4] = {0x52, 0x2d, 0xc1, 0xf0}, zero[60];
    uint8_t sealed[76], back[60];
    struct st_err e;
    assert_ok(st_aead_seal(key, nonce, ad, sizeof ad, text, sizeof text, sealed, &e), &e);
    assert_memory_equal(sealed, first, sizeof first);
    assert_memory_equal(sealed + 60, tag, sizeof tag);
    assert_ok(st_aead_open(key, nonce, ad, sizeof ad, sealed, sizeof sealed, back, &e), &e);
    assert_memory_equal(back, text, sizeof back);
    for (size_t i = 0; i < sizeof sealed; i++) {
        sealed[i] ^= 1;
        assert_int_equal(st_aead_open(key, nonce, ad, sizeof ad, sealed, sizeof sealed, back, &e), ST_VERIFY);
        assert_memory_equal(back, zero, sizeof back);
        sealed[i] ^= 1;
    }
}

static void a_passphrase_opens_its_key_and_nothing_else_does(void **state)
{
    (void)state;
    struct st_err e;
    struct st_cov_key a, b;
    struct st_cov_key_info info;
    struct st_buf file = {0};
    struct st_secret right = secret_of("correct horse"), wrong = secret_of("correct horsf");
    const struct st_cov_lock lock = {.wrap = ST_COV_WRAP_PASSPHRASE, .passphrase = &right, .cost = cheap},
                             bad = {.passphrase = &wrong};
    const char *path = in_work("a.key"), *plain = in_work("b.key");
    assert_ok(st_cov_key_create(path, &lock, &e), &e);
    assert_ok(st_cov_key_load(path, &lock, &a, &e), &e);
    assert_ok(st_cov_key_load(path, &lock, &b, &e), &e);
    assert_same_key(&a, &b, true);
    slurp(path, &file);
    assert_null(memmem(file.p, file.len, a.seed.p, 32));
    assert_null(memmem(file.p, file.len, a.seed.p, 8));
    st_cov_key_wipe(&b);
    assert_refused(st_cov_key_load(path, &bad, &b, &e), ST_VERIFY, &e, "wrong passphrase");
    assert_null(b.seed.p);
    assert_refused(st_cov_key_load(path, NULL, &b, &e), ST_USAGE, &e, "passphrase");
    assert_ok(st_cov_key_show(path, &info, &e), &e);
    assert_int_equal(info.wrap, ST_COV_WRAP_PASSPHRASE);
    assert_memory_equal(info.id, a.id, 16);
    /* An open key in the place of a wrapped one is noticed. */
    assert_ok(st_cov_key_create(plain, NULL, &e), &e);
    assert_refused(st_cov_key_load(plain, &lock, &b, &e), ST_USAGE, &e, "not wrapped");
    st_cov_key_wipe(&a);
    st_secret_wipe(&right);
    st_secret_wipe(&wrong);
    st_buf_wipe(&file);
}

static void a_wrapped_key_with_any_byte_changed_does_not_open_even_with_a_right_checksum(void **state)
{
    (void)state;
    struct st_err e;
    struct st_cov_key k;
    struct st_buf file = {0};
    struct st_secret word = secret_of("correct horse");
    const struct st_cov_lock lock = {.wrap = ST_COV_WRAP_PASSPHRASE, .passphrase = &word, .cost = cheap};
    const char *path = in_work("a.key");
    assert_ok(st_cov_key_create(path, &lock, &e), &e);
    slurp(path, &file);
    uint8_t *p = (uint8_t *)file.p;
    for (size_t i = 8; i < file.len - 32; i++)
        for (int bit = 0; bit < 2; bit++) {
            p[i] ^= (uint8_t)(1 << bit);
            resum(p, file.len);
            int rc = st_cov_key_open(p, file.len, "key", &lock, &k, &e);
            assert_true(rc == ST_INPUT || rc == ST_UNSUPPORTED || rc == ST_VERIFY || rc == ST_USAGE);
            if (rc == ST_USAGE) /* only a changed wrap: none */
                assert_true(i == 28);
            assert_null(k.seed.p);
            p[i] ^= (uint8_t)(1 << bit);
        }
    st_buf_wipe(&file);
    st_secret_wipe(&word);
}

static void a_file_that_asks_for_too_much_work_is_refused_at_once(void **state)
{
    (void)state;
    struct st_err e;
    struct st_cov_key k;
    struct st_buf file = {0};
    struct st_secret word = secret_of("x");
    struct st_cov_lock lock = {.wrap = ST_COV_WRAP_PASSPHRASE, .passphrase = &word, .cost = cheap};
    static const struct st_argon2 bad[] = {
        {0, 8, 1},
        {17, 8, 1},
        {1, (1u << 20) + 1, 1},
        {1, UINT32_MAX, 1},
        {1, 0, 1},
        {1, 7, 1},
        {UINT32_MAX, 8, 1},
        {1, 8, 0},
        {1, 8, 17},
        {1, 1024, UINT32_MAX},
        {1, 127, 16},
        {1, 100u << 20, 4},
    };
    const char *path = in_work("a.key");
    assert_ok(st_cov_key_create(path, &lock, &e), &e);
    slurp(path, &file);
    uint8_t *p = (uint8_t *)file.p;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        memcpy(p + 60, &bad[i], sizeof bad[i]);
        resum(p, file.len);
        double start = st_now();
        assert_refused(st_cov_key_open(p, file.len, "key", &lock, &k, &e), ST_INPUT, &e, "Argon2id");
        assert_true(st_now() - start < 1);
        if (bad[i].passes) {
            lock.cost = bad[i];
            assert_int_equal(st_cov_key_create(in_work("b.key"), &lock, &e), ST_USAGE);
        }
    }
    word.len = 0;
    lock.cost = cheap;
    assert_refused(st_cov_key_create(in_work("b.key"), &lock, &e), ST_USAGE, &e, "passphrase");
    assert_int_equal(access(in_work("b.key"), F_OK), -1);
    st_buf_wipe(&file);
    st_secret_wipe(&word);
}

/* ---- what keys are for ---- */

static void two_rotations_at_once_are_not_both_told_that_they_succeeded(void **state)
{
    (void)state;
    struct st_err e;
    struct st_buf before = {0}, after = {0};
    char old[ST_PATH_MAX];
    const char *path = in_work("busy.key");
    assert_ok(st_cov_key_create(path, NULL, &e), &e);
    slurp(path, &before);
    int fd = open(path, O_RDONLY);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_refused(st_cov_key_rotate(path, NULL, old, &e), ST_IO, &e, "another rotation");
    slurp(path, &after);
    assert_int_equal(before.len, after.len);
    assert_memory_equal(before.p, after.p, before.len);
    close(fd);
    assert_ok(st_cov_key_rotate(path, NULL, old, &e), &e);
    st_buf_free(&before);
    st_buf_free(&after);
}

static void a_rotated_key_shares_no_row_of_noise_with_the_old_one(void **state)
{
    (void)state;
    enum { ROWS = 64, D = 48 };
    static float noise[2][ROWS][D];
    struct st_err e;
    const char *path = in_work("a.key");
    char old[ST_PATH_MAX];
    uint8_t digest[32] = {1};
    assert_ok(st_cov_key_create(path, NULL, &e), &e);
    for (int n = 0; n < 2; n++) {
        struct st_cov_key k;
        struct st_stream *s;
        assert_ok(st_cov_key_load(path, NULL, &k, &e), &e);
        assert_ok(st_cov_noise_open(&k, digest, "noise", "lm_head.weight", &s, &e), &e);
        for (uint64_t row = 0; row < ROWS; row++)
            st_cov_noise_row(s, row, noise[n][row], D);
        st_stream_free(s);
        st_cov_key_wipe(&k);
        assert_ok(st_cov_key_rotate(path, NULL, old, &e), &e);
    }
    for (int a = 0; a < ROWS; a++)
        for (int b = 0; b < ROWS; b++) {
            double dot = 0, na = 0, nb = 0;
            for (int j = 0; j < D; j++) {
                double x = (double)noise[0][a][j], y = (double)noise[1][b][j];
                dot += x * y;
                na += x * x;
                nb += y * y;
            }
            assert_true(fabs(dot) < 0.9 * sqrt(na * nb)); /* neither equal nor scaled */
        }
}

/* ---- TPM ---- */

static bool has_tpm(int rc, const struct st_err *e)
{
    if (rc == ST_UNSUPPORTED && strstr(e->msg, "this build")) {
        print_message("skips: %s\n", e->msg);
        return false;
    }
    assert_ok(rc, e);
    return true;
}

static void a_key_sealed_to_a_tpm_opens_on_that_tpm_only(void **state)
{
    (void)state;
    struct st_err e;
    struct swtpm t, other;
    struct st_cov_key a, b;
    struct st_cov_key_info info;
    struct st_buf file = {0};
    char old[ST_PATH_MAX];
    const char *path = in_work("a.key");
    if (!swtpm_open(&t))
        return;
    const struct st_cov_lock lock = {.wrap = ST_COV_WRAP_TPM, .tcti = t.tcti};
    if (!has_tpm(st_cov_key_create(path, &lock, &e), &e)) {
        swtpm_close(&t);
        return;
    }
    assert_ok(st_cov_key_load(path, &lock, &a, &e), &e);
    assert_ok(st_cov_key_load(path, &lock, &b, &e), &e);
    assert_same_key(&a, &b, true);
    st_cov_key_wipe(&b);
    slurp(path, &file);
    assert_null(memmem(file.p, file.len, a.seed.p, 32));
    assert_ok(st_cov_key_show(path, &info, &e), &e);
    assert_int_equal(info.wrap, ST_COV_WRAP_TPM);
    assert_int_equal(info.pcrs.bank, 0);
    /* The head belongs to the seed; the object belongs to the TPM. */
    uint8_t *p = (uint8_t *)file.p;
    for (size_t i = 12; i < file.len - 32; i += i < 72 ? 1 : 23) {
        if (i >= 28 && i < 32) /* which wrap it is */
            continue;
        p[i] ^= 1;
        resum(p, file.len);
        int rc = st_cov_key_open(p, file.len, "key", &lock, &b, &e);
        assert_true(rc == ST_INPUT || rc == ST_VERIFY);
        assert_null(b.seed.p);
        p[i] ^= 1;
    }
    assert_ok(st_cov_key_rotate(path, &lock, old, &e), &e);
    assert_ok(st_cov_key_load(path, &lock, &b, &e), &e);
    assert_same_key(&a, &b, false);
    st_cov_key_wipe(&a);
    st_cov_key_wipe(&b);
    assert_true(swtpm_open(&other));
    const struct st_cov_lock elsewhere = {.tcti = other.tcti};
    assert_refused(st_cov_key_load(path, &elsewhere, &b, &e), ST_VERIFY, &e, "another TPM");
    swtpm_close(&t);
    assert_refused(st_cov_key_load(path, &lock, &b, &e), ST_UNSUPPORTED, &e, "none is reached");
    swtpm_close(&other);
    st_buf_wipe(&file);
}

static void a_key_sealed_to_pcrs_opens_until_one_of_them_changes(void **state)
{
    (void)state;
    struct st_err e;
    struct swtpm t;
    struct st_cov_key k;
    struct st_cov_key_info info;
    const char *path = in_work("a.key");
    if (!swtpm_open(&t))
        return;
    struct st_cov_lock lock = {.wrap = ST_COV_WRAP_TPM, .tcti = t.tcti, .pcrs = {0xb, 1 << 7 | 1 << 11}};
    if (!has_tpm(st_cov_key_create(path, &lock, &e), &e)) {
        swtpm_close(&t);
        return;
    }
    assert_ok(st_cov_key_show(path, &info, &e), &e);
    assert_int_equal(info.pcrs.bank, 0xb);
    assert_int_equal(info.pcrs.mask, 1 << 7 | 1 << 11);
    swtpm_extend(&t, 10);
    assert_ok(st_cov_key_load(path, &lock, &k, &e), &e);
    st_cov_key_wipe(&k);
    swtpm_extend(&t, 11);
    assert_refused(st_cov_key_load(path, &lock, &k, &e), ST_VERIFY, &e, "PCRs");
    assert_null(k.seed.p);
    /* Without its PCRs in the file the object still asks for them. */
    struct st_buf file = {0};
    slurp(path, &file);
    memset(file.p + 60, 0, 8);
    resum((uint8_t *)file.p, file.len);
    assert_int_equal(st_cov_key_open((uint8_t *)file.p, file.len, "key", &lock, &k, &e), ST_VERIFY);
    assert_null(k.seed.p);
    lock.pcrs = (struct st_tpm_pcrs){0x4, 1 << 7}; /* swtpm has no sha1 bank */
    int rc = st_cov_key_create(in_work("b.key"), &lock, &e);
    assert_true(rc == 0 || rc == ST_UNSUPPORTED);
    lock.pcrs = (struct st_tpm_pcrs){0xb, 1 << 24};
    assert_int_equal(st_cov_key_create(in_work("c.key"), &lock, &e), ST_USAGE);
    swtpm_close(&t);
    st_buf_wipe(&file);
}

/* ---- the program ---- */

/* Runs `sotto ARGS` on a terminal of its own, types `typed`, and gives what the terminal showed. */
static int on_terminal(const char *args, const char *typed, char *shown, size_t cap)
{
    const char *bin = getenv("SOTTO_BIN");
    char cmd[1024];
    int fd, status;
    size_t n = 0, sent = 0, len = strlen(typed);
    snprintf(cmd, sizeof cmd, "exec %s %s --config=", bin ? bin : "build/bin/sotto", args);
    pid_t pid = forkpty(&fd, NULL, NULL, NULL);
    assert_true(pid >= 0);
    if (pid == 0) {
        execl("/bin/sh", "sh", "-c", cmd, (char *)NULL);
        _exit(127);
    }
    /* One line after each prompt: what is typed before the echo is off would show. */
    for (ssize_t got; n + 1 < cap && (got = read(fd, shown + n, cap - n - 1)) > 0;) {
        n += (size_t)got;
        shown[n] = 0;
        if (sent < len && n >= 2 && strcmp(shown + n - 2, ": ") == 0) {
            size_t line = strcspn(typed + sent, "\n") + 1;
            line = sent + line > len ? len - sent : line;
            assert_int_equal(write(fd, typed + sent, line), line);
            sent += line;
        }
    }
    shown[n] = 0;
    close(fd);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void a_passphrase_is_asked_for_without_echo(void **state)
{
    (void)state;
    char args[512], shown[4096];
    const char *path = in_work("a.key");
    snprintf(args, sizeof args, "key new %s --passphrase", path);
    assert_int_equal(on_terminal(args, "open sesame\nopen sesami\n", shown, sizeof shown), 5);
    assert_non_null(strstr(shown, "not the same"));
    assert_int_equal(on_terminal(args, "open\003\n", shown, sizeof shown), 4);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(on_terminal(args, "open sesame\nopen sesame\n", shown, sizeof shown), 0);
    assert_null(strstr(shown, "sesam"));
    assert_non_null(strstr(shown, "Argon2id"));
    snprintf(args, sizeof args, "key rotate %s --passphrase", path); /* opens it first */
    assert_int_equal(on_terminal(args, "open sesame\n", shown, sizeof shown), 0);
    assert_non_null(strstr(shown, "obfuscate"));
}

/* `sotto ARGS 2>&1` with its exit status. */
static int run(const char *args, char *shown, size_t cap)
{
    const char *bin = getenv("SOTTO_BIN");
    char cmd[2048];
    snprintf(cmd, sizeof cmd, "%s %s --config= 2>&1", bin ? bin : "build/bin/sotto", args);
    FILE *f = popen(cmd, "r");
    assert_non_null(f);
    size_t n = fread(shown, 1, cap - 1, f);
    shown[n] = 0;
    return WEXITSTATUS(pclose(f));
}

static void every_command_with_a_key_takes_its_passphrase(void **state)
{
    (void)state;
    struct st_err e;
    char args[1200], shown[8192];
    struct st_secret word = secret_of("open sesame");
    const struct st_cov_lock lock = {.wrap = ST_COV_WRAP_PASSPHRASE, .passphrase = &word, .cost = cheap};
    const char *key = in_work("a.key"), *file = in_work("pass"), *wrong = in_work("wrong");
    assert_ok(st_cov_key_create(key, &lock, &e), &e);
    put(file, "open sesame\n", 12);
    put(wrong, "open sesamE\n", 12);
    static const struct {
        const char *command, *with; /* with: NULL, or which passphrase file */
        int rc;
        const char *says;
    } rows[] = {
        {"obfuscate models/demo %s/dst --key", NULL, 2, "--passphrase-file"},
        {"obfuscate models/demo %s/dst --key", "wrong", 5, "wrong passphrase"},
        {"proxy --tokenizer models/demo --upstream http://127.0.0.1:9 --port 0 --key", NULL, 2, "--passphrase-file"},
        {"proxy --tokenizer models/demo --upstream http://127.0.0.1:9 --port 0 --key", "wrong", 5, "wrong passphrase"},
        {"key rotate", "wrong", 5, "wrong passphrase"},
        {"key rotate", "pass", 0, "obfuscate"},
        {"key rotate", "absent", 4, "absent"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char command[512];
        snprintf(command, sizeof command, "%s", rows[i].command);
        char *at = strstr(command, "%s");
        if (at) {
            char rest[256];
            snprintf(rest, sizeof rest, "%s", at + 2);
            snprintf(at, sizeof command - (size_t)(at - command), "%s%s", work, rest);
        }
        snprintf(args, sizeof args, "%s %s%s%s", command, key, rows[i].with ? " --passphrase-file " : "",
                 rows[i].with ? in_work(rows[i].with) : "");
        int rc = run(args, shown, sizeof shown);
        if (rc != rows[i].rc || !strstr(shown, rows[i].says))
            fail_msg("%s: exit %d: %s", args, rc, shown);
        assert_null(strstr(shown, "sesam"));
    }
    assert_int_equal(chmod(file, 0644), 0);
    snprintf(args, sizeof args, "key new %s --passphrase-file %s", in_work("b.key"), file);
    assert_int_equal(run(args, shown, sizeof shown), 6);
    put(file, "", 0);
    assert_int_equal(run(args, shown, sizeof shown), 2);
    put(file, "two\nlines\n", 10);
    assert_int_equal(run(args, shown, sizeof shown), 3);
    assert_int_equal(access(in_work("b.key"), F_OK), -1);
    put(file, "open sesame\r\n", 13);
    snprintf(args, sizeof args, "key rotate %s --passphrase-file %s", key, file);
    assert_int_equal(run(args, shown, sizeof shown), 0);
    st_secret_wipe(&word);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, make_work, drop_work)
    const struct CMUnitTest tests[] = {
        T(a_key_file_is_private_and_never_overwritten),
        T(a_truncated_lengthened_or_changed_key_file_is_refused),
        T(files_of_version_1_still_load),
        T(rotation_keeps_the_old_key_and_the_wrap),
        cmocka_unit_test(gcm_agrees_with_nist),
        T(a_passphrase_opens_its_key_and_nothing_else_does),
        T(a_wrapped_key_with_any_byte_changed_does_not_open_even_with_a_right_checksum),
        T(a_file_that_asks_for_too_much_work_is_refused_at_once),
        T(two_rotations_at_once_are_not_both_told_that_they_succeeded),
        T(a_rotated_key_shares_no_row_of_noise_with_the_old_one),
        T(a_key_sealed_to_a_tpm_opens_on_that_tpm_only),
        T(a_key_sealed_to_pcrs_opens_until_one_of_them_changes),
        T(a_passphrase_is_asked_for_without_echo),
        T(every_command_with_a_key_takes_its_passphrase),
    };
#undef T
    setenv("TSS2_LOG", "all+NONE", 1); /* refusals are expected here */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
