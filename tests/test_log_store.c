/* The log on disk: it grows, proofs made from its files hold, and a crash at any file leaves the last signed tree. */
#include "attest/tlog.h"
#include "base/file.h"
#include "expect.h"
#include "mutate.h"
#include "service/log_store.h"

#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define ORIGIN "log.example/sotto"

static char root[64], dir[128];
static struct st_ed25519 *key;

static int remove_one(const char *path, const struct stat *sb, int type, struct FTW *f)
{
    (void)sb, (void)type, (void)f;
    return remove(path);
}

static int setup(void **state)
{
    (void)state;
    struct st_err e;
    static const uint8_t seed[32] = {4};
    strcpy(root, "/tmp/sotto-log-XXXXXX");
    if (!mkdtemp(root))
        return -1;
    snprintf(dir, sizeof dir, "%s/log", root);
    assert_ok(st_ed25519_import(seed, &key, &e), &e);
    assert_ok(st_log_store_create(dir, ORIGIN, key, &e), &e);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    st_ed25519_free(key);
    return nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static struct st_log_store *reopen(void)
{
    struct st_err e;
    struct st_log_store *s;
    assert_ok(st_log_store_open(dir, ORIGIN, key, &s, &e), &e);
    return s;
}

static bool there(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return st_path_exists(path);
}

static int entry(uint64_t i, char out[32])
{
    return snprintf(out, 32, "entry %llu", (unsigned long long)i);
}

static void grow(struct st_log_store *s, uint64_t to)
{
    struct st_err e;
    char text[32];
    uint64_t index;
    for (uint64_t i = st_log_store_size(s); i < to; i++) {
        int len = entry(i, text);
        assert_ok(st_log_store_append(s, text, (size_t)len, &index, &e), &e);
        assert_int_equal(index, i);
    }
    assert_ok(st_log_store_commit(s, &e), &e);
    assert_int_equal(st_log_store_size(s), to);
}

static struct st_tlog_keys keys(void)
{
    struct st_err e;
    struct st_tlog_keys k = {.origin = ORIGIN};
    uint8_t public[32];
    st_ed25519_public(key, public);
    assert_ok(st_note_key_make(ORIGIN, ST_NOTE_ED25519, public, &k.log, &e), &e);
    return k;
}

/* A client follows the log by what it signs and by proofs from its files. */
static void follow(struct st_tlog *t, struct st_log_store *s)
{
    struct st_err e;
    struct st_merkle_proof p;
    struct st_merkle_source source = st_log_store_source(s);
    struct st_span note = st_log_store_signed(s);
    uint64_t size = st_log_store_size(s);
    char text[32];
    assert_ok(st_merkle_prove_consistency(&source, t->last.checkpoint.size, size, &p, &e), &e);
    assert_ok(st_tlog_update(t, note.p, note.len, &p, 0, &e), &e);
    for (uint64_t i = 0; i < size; i += 1 + size / 7) {
        int len = entry(i, text);
        assert_ok(st_merkle_prove_inclusion(&source, i, size, &p, &e), &e);
        assert_ok(st_tlog_includes(t, (struct st_span){(const uint8_t *)text, (size_t)len}, i, &p, &e), &e);
    }
}

static void a_client_follows_the_log_as_it_grows(void **state)
{
    (void)state;
    struct st_err e;
    struct st_tlog t;
    struct st_tlog_keys k = keys();
    struct st_log_store *s = reopen();
    static const uint64_t sizes[] = {0, 1, 2, 5, 255, 256, 257, 600, 601, 1024, 1500};
    assert_ok(st_tlog_init(&t, &k, &e), &e);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        grow(s, sizes[i]);
        follow(&t, s);
        if (i % 2) {
            st_log_store_close(s);
            s = reopen();
            assert_int_equal(st_log_store_size(s), sizes[i]);
        }
    }
    /* Full tiles have taken the place of partial ones. */
    assert_true(there("tile/0/000"));
    assert_true(there("tile/entries/004"));
    assert_false(there("tile/0/000.p"));
    assert_false(there("tile/entries/000.p"));
    assert_true(there("tile/0/005.p/220"));
    assert_true(there("tile/entries/005.p/220"));
    assert_true(there("tile/1/000.p/5"));
    st_log_store_close(s);
    st_tlog_wipe(&t);
}

static void what_was_not_committed_is_forgotten(void **state)
{
    (void)state;
    struct st_err e;
    struct st_tlog t;
    struct st_tlog_keys k = keys();
    struct st_log_store *s = reopen();
    uint64_t index;
    assert_ok(st_tlog_init(&t, &k, &e), &e);
    grow(s, 250);
    follow(&t, s);
    for (int i = 0; i < 300; i++) /* a full tile and bundle among them */
        assert_ok(st_log_store_append(s, "lost", 4, &index, &e), &e);
    assert_true(there("tile/0/000"));
    st_log_store_close(s);
    s = reopen();
    assert_int_equal(st_log_store_size(s), 250);
    follow(&t, s);
    grow(s, 256);
    follow(&t, s);
    grow(s, 700);
    follow(&t, s);
    st_log_store_close(s);
    st_tlog_wipe(&t);
}

/* A directory stands where a file must go: the same as a full disk at that moment. */
static void a_file_that_cannot_be_written_leaves_the_signed_tree(void **state)
{
    (void)state;
    struct st_err e;
    struct st_tlog t;
    struct st_tlog_keys k = keys();
    static const char *const names[] = {"tile/entries/001.p/44", "tile/0/001.p/44", "tile/1/000.p/1", "tile/0/000",
                                        "tile/entries/000"};
    uint64_t index = 0;
    assert_ok(st_tlog_init(&t, &k, &e), &e);
    struct st_log_store *s = reopen();
    grow(s, 200);
    follow(&t, s);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[256], up[256], blocker[300], text[32];
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        for (int levels = 2; levels > 0; levels--) { /* the directories above, from the outside */
            snprintf(up, sizeof up, "%s", path);
            for (int j = 0; j < levels; j++)
                *strrchr(up, '/') = 0;
            mkdir(up, 0755);
        }
        snprintf(blocker, sizeof blocker, "%s/x", path);
        remove(path); /* of the round before, never committed */
        assert_int_equal(mkdir(path, 0755), 0);
        assert_int_equal(mkdir(blocker, 0755), 0);
        int rc = 0;
        for (uint64_t n = 200; n < 300 && !rc; n++) {
            int len = entry(n, text);
            rc = st_log_store_append(s, text, (size_t)len, &index, &e);
        }
        if (!rc)
            rc = st_log_store_commit(s, &e);
        expect_refusal(rc, &e, ST_IO, names[i]);
        expect_refusal(st_log_store_append(s, "x", 1, &index, &e), &e, ST_IO, "open it again");
        expect_refusal(st_log_store_commit(s, &e), &e, ST_IO, "open it again");
        st_log_store_close(s);
        assert_int_equal(rmdir(blocker), 0);
        assert_int_equal(rmdir(path), 0);
        s = reopen();
        assert_int_equal(st_log_store_size(s), 200);
        follow(&t, s);
    }
    grow(s, 300);
    follow(&t, s);
    st_log_store_close(s);
    st_tlog_wipe(&t);
}

static void killed_at_any_moment_it_goes_on_from_what_it_signed(void **state)
{
    (void)state;
    struct st_err e;
    struct st_tlog t;
    struct st_rng r;
    struct st_tlog_keys k = keys();
    assert_ok(st_tlog_init(&t, &k, &e), &e);
    st_rng_seed(&r, 6);
    for (int i = 0; i < 25; i++) {
        pid_t child = fork();
        if (child == 0) {
            struct st_log_store *s = reopen();
            for (;;)
                grow(s, st_log_store_size(s) + 1 + mutate_below(&r, 90));
        }
        assert_true(child > 0);
        usleep((useconds_t)(1000 + mutate_below(&r, 25000)));
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        struct st_log_store *s = reopen();
        follow(&t, s);
        st_log_store_close(s);
    }
    st_tlog_wipe(&t);
}

static void damaged_files_are_found_when_it_is_opened(void **state)
{
    (void)state;
    struct st_err e;
    struct st_log_store *s = reopen();
    static const char *const names[] = {"signed", "tile/0/001.p/44", "tile/1/000.p/1", "tile/entries/001.p/44"};
    grow(s, 300);
    st_log_store_close(s);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[256];
        struct st_buf b = {0};
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        assert_ok(st_file_read(path, 1 << 20, &b, &e), &e);
        b.p[b.len / 2] ^= 1;
        assert_ok(st_file_write(path, b.p, b.len, 0644, true, &e), &e);
        int rc = st_log_store_open(dir, ORIGIN, key, &s, &e);
        assert_true(rc == ST_VERIFY || rc == ST_INPUT);
        b.p[b.len / 2] ^= 1;
        assert_ok(st_file_write(path, b.p, b.len / 2, 0644, true, &e), &e);
        rc = st_log_store_open(dir, ORIGIN, key, &s, &e);
        assert_true(rc == ST_VERIFY || rc == ST_INPUT);
        assert_int_equal(remove(path), 0);
        assert_int_equal(st_log_store_open(dir, ORIGIN, key, &s, &e), ST_IO);
        assert_ok(st_file_write(path, b.p, b.len, 0644, true, &e), &e);
        st_log_store_close(reopen());
        st_buf_free(&b);
    }
}

static void one_log_one_key_one_process(void **state)
{
    (void)state;
    struct st_err e;
    struct st_ed25519 *other;
    struct st_log_store *s = reopen(), *again;
    uint64_t index;
    static const uint8_t large[ST_TILE_MAX_ENTRY + 1];
    expect_refusal(st_log_store_open(dir, ORIGIN, key, &again, &e), &e, ST_IO, "another process");
    expect_refusal(st_log_store_create(dir, ORIGIN, key, &e), &e, ST_IO, "exists already");
    expect_refusal(st_log_store_append(s, large, sizeof large, &index, &e), &e, ST_INPUT, "at most 65535");
    assert_ok(st_log_store_append(s, large, ST_TILE_MAX_ENTRY, &index, &e), &e);
    assert_ok(st_log_store_commit(s, &e), &e);
    st_log_store_close(s);
    assert_ok(st_ed25519_new(&other, &e), &e);
    expect_refusal(st_log_store_open(dir, ORIGIN, other, &s, &e), &e, ST_VERIFY, "signed");
    expect_refusal(st_log_store_open(dir, "log.example/other", key, &s, &e), &e, ST_VERIFY, "signed");
    st_ed25519_free(other);
}

static void only_the_tree_signed_last_is_published(void **state)
{
    (void)state;
    struct st_err e;
    struct st_log_store *s = reopen();
    struct st_buf note = {0}, read = {0};
    struct st_note n;
    char path[256];
    grow(s, 3);
    struct st_span last = st_log_store_signed(s);
    st_buf_add(&note, last.p, last.len);
    assert_ok(st_note_parse(note.p, note.len, &n, &e), &e);
    struct st_buf cosigned = {0};
    st_buf_add(&cosigned, note.p, note.len);
    assert_ok(st_cosignature_sign(n.text, "witness.example/a", key, 5, &cosigned, &e), &e);
    assert_ok(st_log_store_publish(s, cosigned.p, cosigned.len, &e), &e);
    snprintf(path, sizeof path, "%s/checkpoint", dir);
    assert_ok(st_file_read(path, 1 << 20, &read, &e), &e);
    assert_string_equal(read.p, cosigned.p);
    grow(s, 4);
    expect_refusal(st_log_store_publish(s, cosigned.p, cosigned.len, &e), &e, ST_VERIFY, "signed last");
    expect_refusal(st_log_store_publish(s, n.text.p, n.text.len, &e), &e, ST_INPUT, "note");
    st_note_wipe(&n);
    st_buf_free(&note);
    st_buf_free(&cosigned);
    st_buf_free(&read);
    st_log_store_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_client_follows_the_log_as_it_grows, setup, teardown),
        cmocka_unit_test_setup_teardown(what_was_not_committed_is_forgotten, setup, teardown),
        cmocka_unit_test_setup_teardown(a_file_that_cannot_be_written_leaves_the_signed_tree, setup, teardown),
        cmocka_unit_test_setup_teardown(killed_at_any_moment_it_goes_on_from_what_it_signed, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged_files_are_found_when_it_is_opened, setup, teardown),
        cmocka_unit_test_setup_teardown(one_log_one_key_one_process, setup, teardown),
        cmocka_unit_test_setup_teardown(only_the_tree_signed_last_is_published, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
