/* What a stopped obfuscation leaves, and that the next run goes on from it. */
#include "cov_make.h"

#include "base/file.h"
#include "base/hooks.h"
#include "base/log.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

/* Large enough to be hit in the middle; several shards. */
static const struct tiny slow = {.label = "slow",
                                 .d = 256,
                                 .layers = 4,
                                 .heads = 8,
                                 .kv = 4,
                                 .dh = 32,
                                 .ff = 512,
                                 .vocab = 2000,
                                 .dtype = ST_DTYPE_BF16};
#define SHARD_BYTES ((uint64_t)2 << 20)

static struct st_cov_opts opts(void)
{
    return (struct st_cov_opts){.n_threads = 2, .shard_bytes = SHARD_BYTES};
}

/* The run in a process of its own, which may be killed. */
static pid_t start(const char *src, const char *dst)
{
    struct st_cov_opts o = opts();
    struct st_err e;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct st_cov_key key = key_of(3); /* made here: secrets do not pass a fork */
        st_log_set_level(ST_LOG_ERROR);
        _exit(st_cov_obfuscate(src, dst, &key, &o, &e));
    }
    return pid;
}

static int wait_for(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void assert_same_dirs(const char *a, const char *b)
{
    DIR *dir = opendir(a);
    assert_non_null(dir);
    assert_int_equal(count_entries(a), count_entries(b));
    for (struct dirent *d; (d = readdir(dir));) {
        struct st_buf x = {0}, y = {0};
        struct st_err e;
        char path[2][512];
        if (d->d_name[0] == '.')
            continue;
        snprintf(path[0], sizeof path[0], "%s/%s", a, d->d_name);
        snprintf(path[1], sizeof path[1], "%s/%s", b, d->d_name);
        assert_ok(st_file_read(path[0], 64 << 20, &x, &e), &e);
        assert_ok(st_file_read(path[1], 64 << 20, &y, &e), &e);
        if (x.len != y.len || memcmp(x.p, y.p, x.len) != 0)
            fail_msg("%s differs", d->d_name);
        st_buf_free(&x);
        st_buf_free(&y);
    }
    closedir(dir);
}

static size_t journal_lines(const char *dst)
{
    struct st_buf b = {0};
    struct st_err e;
    char path[512];
    size_t n = 0;
    snprintf(path, sizeof path, "%s.partial/journal", dst);
    if (!st_path_exists(path) || st_file_read(path, 1 << 20, &b, &e))
        return 0;
    for (size_t i = 0; i < b.len; i++)
        n += b.p[i] == '\n';
    st_buf_free(&b);
    return n > 5 ? n - 5 : 0;
}

static void after_kill_9_at_random_moments_the_bytes_are_those_of_one_run(void **state)
{
    (void)state;
    char src[256], whole[256], dst[256];
    snprintf(src, sizeof src, "%s", write_tiny(&slow));
    snprintf(whole, sizeof whole, "%s", in_work("whole"));
    snprintf(dst, sizeof dst, "%s", in_work("resumed"));
    double begin = now();
    assert_int_equal(wait_for(start(src, whole)), 0);
    double took = now() - begin;
    int killed = 0, midway = 0;
    srandom(11);
    for (int i = 0; i < 20; i++) {
        pid_t pid = start(src, dst);
        usleep((useconds_t)(1e6 * took * 0.35 * (double)random() / RAND_MAX));
        kill(pid, SIGKILL);
        killed += WIFSIGNALED(wait_for(pid));
        midway += journal_lines(dst) > 0;
        if (st_path_is_dir(dst)) {
            assert_same_dirs(whole, dst);
            char cmd[300];
            snprintf(cmd, sizeof cmd, "rm -rf '%s'", dst);
            assert_int_equal(system(cmd), 0);
        }
    }
    print_message("%d of 20 runs were killed, %d times a journal was left\n", killed, midway);
    assert_true(killed > 5);
    assert_int_equal(wait_for(start(src, dst)), 0);
    assert_same_dirs(whole, dst);
    assert_int_equal(count_entries(work), 3); /* no staging directory is left */
}

/* ---- a run that stops itself after some tensors ---- */

static volatile sig_atomic_t cancelled;
static char watched[512];

/* Cancels once the journal has `arg` tensors. */
static void *watch(void *arg)
{
    for (int i = 0; i < 20000 && journal_lines(watched) < (size_t)(uintptr_t)arg; i++)
        usleep(500);
    cancelled = 1;
    return NULL;
}

static void stop_midway(const char *src, const char *dst, const struct st_cov_key *key, struct st_err *e)
{
    struct st_cov_opts o = opts();
    pthread_t thread;
    cancelled = 0;
    snprintf(watched, sizeof watched, "%s", dst);
    o.cancel = &cancelled;
    assert_int_equal(pthread_create(&thread, NULL, watch, (void *)(uintptr_t)4), 0);
    assert_int_equal(st_cov_obfuscate(src, dst, key, &o, e), ST_IO);
    pthread_join(thread, NULL);
    assert_true(journal_lines(dst) >= 4);
}

static void a_cancelled_run_says_that_the_same_command_goes_on_and_it_does(void **state)
{
    (void)state;
    struct st_cov_key key = key_of(3);
    struct st_cov_opts o = opts();
    struct st_err e;
    char src[256], dst[256], whole[256];
    snprintf(src, sizeof src, "%s", write_tiny(&slow));
    snprintf(dst, sizeof dst, "%s", in_work("dst"));
    snprintf(whole, sizeof whole, "%s", in_work("whole"));
    stop_midway(src, dst, &key, &e);
    assert_non_null(strstr(e.msg, "cancelled"));
    assert_non_null(strstr(e.msg, "the same command goes on from there"));
    assert_false(st_path_exists(dst));
    assert_ok(st_cov_obfuscate(src, dst, &key, &o, &e), &e);
    assert_ok(st_cov_obfuscate(src, whole, &key, &o, &e), &e);
    assert_same_dirs(whole, dst);
    assert_int_equal(count_entries(work), 3);
    st_cov_key_wipe(&key);
}

static void a_tensor_damaged_in_between_is_made_again(void **state)
{
    (void)state;
    struct st_cov_key key = key_of(3);
    struct st_cov_opts o = opts();
    struct st_err e;
    char src[256], dst[256], whole[256], path[512];
    snprintf(src, sizeof src, "%s", write_tiny(&slow));
    snprintf(dst, sizeof dst, "%s", in_work("dst"));
    snprintf(whole, sizeof whole, "%s", in_work("whole"));
    assert_ok(st_cov_obfuscate(src, whole, &key, &o, &e), &e);
    stop_midway(src, dst, &key, &e);
    /* every shard: some of them finished, some not */
    snprintf(path, sizeof path, "%s.partial/result", dst);
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (struct dirent *d; (d = readdir(dir));) {
        if (!strstr(d->d_name, ".safetensors") || strstr(d->d_name, ".json"))
            continue;
        int fd = openat(dirfd(dir), d->d_name, O_RDWR);
        char junk[4096];
        memset(junk, 0x5a, sizeof junk);
        for (off_t at = 0; at < lseek(fd, 0, SEEK_END); at += 65536)
            assert_int_equal(pwrite(fd, junk, 512, at), 512);
        close(fd);
    }
    closedir(dir);
    assert_ok(st_cov_obfuscate(src, dst, &key, &o, &e), &e);
    assert_same_dirs(whole, dst);
    st_cov_key_wipe(&key);
}

static void other_inputs_are_named_and_refused_until_restart(void **state)
{
    (void)state;
    struct st_cov_key key = key_of(3), other_key = key_of(4);
    struct st_err e;
    char src[256], other[256], dst[256];
    struct tiny model = slow;
    model.label = "other";
    model.eps = 0.02;
    snprintf(src, sizeof src, "%s", write_tiny(&slow));
    snprintf(other, sizeof other, "%s", write_tiny(&model));
    snprintf(dst, sizeof dst, "%s", in_work("dst"));
    stop_midway(src, dst, &key, &e);
    size_t lines = journal_lines(dst);
    struct st_cov_opts o = opts();
    const struct {
        const char *src;
        const struct st_cov_key *key;
        uint32_t h;
        enum st_cov_store dtype;
        const char *names;
    } rows[] = {{other, &key, 0, ST_COV_STORE_KEEP, "another source model"},
                {src, &other_key, 0, ST_COV_STORE_KEEP, "with another key"},
                {src, &key, 64, ST_COV_STORE_KEEP, "this run has h=64"},
                {src, &key, 0, ST_COV_STORE_F32, "begun with dtype=keep, this run has dtype=f32"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        o = opts();
        o.expand = rows[i].h;
        o.dtype = rows[i].dtype;
        assert_int_equal(st_cov_obfuscate(rows[i].src, dst, rows[i].key, &o, &e), ST_USAGE);
        if (!strstr(e.msg, rows[i].names) || !strstr(e.msg, "--restart"))
            fail_msg("row %zu: %s", i, e.msg);
        assert_int_equal(journal_lines(dst), lines);
    }
    o = opts();
    assert_int_equal(st_cov_obfuscate(in_work("absent"), dst, &key, &o, &e), ST_IO);
    assert_int_equal(journal_lines(dst), lines);
    o.restart = true;
    assert_ok(st_cov_obfuscate(other, dst, &key, &o, &e), &e);
    assert_false(st_path_exists(in_work("dst.partial")));
    st_cov_key_wipe(&key);
    st_cov_key_wipe(&other_key);
}

static void a_damaged_journal_is_refused_and_a_torn_last_line_is_not(void **state)
{
    (void)state;
    struct st_cov_key key = key_of(3);
    struct st_cov_opts o = opts();
    struct st_err e;
    struct st_buf good = {0};
    char src[256], dst[256], path[512];
    snprintf(src, sizeof src, "%s", write_tiny(&slow));
    snprintf(dst, sizeof dst, "%s", in_work("dst"));
    snprintf(path, sizeof path, "%s.partial/journal", dst);
    stop_midway(src, dst, &key, &e);
    assert_ok(st_file_read(path, 1 << 20, &good, &e), &e);
    static const char *const bad[] = {"", "x\n", "sotto covariant journal 2\n", "sotto covariant journal 1\nsource \n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_ok(st_file_write(path, bad[i], strlen(bad[i]), 0644, true, &e), &e);
        int rc = st_cov_obfuscate(src, dst, &key, &o, &e);
        assert_true(rc == ST_INPUT || rc == ST_USAGE);
        assert_non_null(strstr(e.msg, "--restart"));
    }
    for (int i = 0; i < 3; i++) {
        static const char *const tail[] = {"tensor 00 x\n", "tensor\n", "tensor 0"};
        struct st_buf b = {0};
        st_buf_add(&b, good.p, good.len);
        st_buf_add_str(&b, tail[i]);
        assert_ok(st_file_write(path, b.p, b.len, 0644, true, &e), &e);
        int rc = st_cov_obfuscate(src, dst, &key, &o, &e);
        if (rc != (i < 2 ? ST_INPUT : 0))
            fail_msg("tail %d: %d %s", i, rc, e.msg);
        st_buf_free(&b);
    }
    st_buf_free(&good);
    st_cov_key_wipe(&key);
}

/* In a process of its own whose files may not grow beyond `bytes`. */
static int run_with_little_room(const char *src, const char *dst, rlim_t bytes)
{
    struct st_cov_opts o = opts();
    struct st_err e;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct st_cov_key key = key_of(3);
        st_log_set_level(ST_LOG_ERROR);
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){bytes, bytes});
        int rc = st_cov_obfuscate(src, dst, &key, &o, &e);
        /* At the start; or, when space was reserved before, in the middle. */
        _exit(rc == ST_IO && !strstr(e.msg, "cannot reserve") && !strstr(e.msg, "goes on from there") ? 99 : rc);
    }
    int status = wait_for(pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void a_full_disk_shows_before_the_first_tensor_and_loses_nothing(void **state)
{
    (void)state;
    struct st_cov_key key = key_of(3);
    struct st_cov_opts o = opts();
    struct st_err e;
    char src[256], dst[256];
    snprintf(src, sizeof src, "%s", write_tiny(&slow));
    snprintf(dst, sizeof dst, "%s", in_work("dst"));
    assert_int_equal(run_with_little_room(src, dst, 1 << 20), ST_IO);
    assert_int_equal(count_entries(work), 1);
    stop_midway(src, dst, &key, &e);
    size_t lines = journal_lines(dst);
    assert_int_equal(run_with_little_room(src, dst, 1 << 20), ST_IO);
    assert_false(st_path_exists(dst));
    assert_true(journal_lines(dst) >= lines);
    assert_ok(st_cov_obfuscate(src, dst, &key, &o, &e), &e);
    st_cov_key_wipe(&key);
}

static void two_runs_do_not_share_a_staging_directory(void **state)
{
    (void)state;
    struct st_cov_out a, b;
    struct st_err e;
    const char *dst = in_work("dst");
    assert_ok(st_cov_out_open(&a, dst, &e), &e);
    assert_int_equal(st_cov_out_open(&b, dst, &e), ST_IO);
    assert_non_null(strstr(e.msg, "another run"));
    st_cov_out_close(&b);
    st_cov_out_close(&a);
    assert_false(st_path_exists(in_work("dst.partial")));
    assert_ok(st_cov_out_open(&b, dst, &e), &e);
    st_cov_out_close(&b);
}

static void what_is_not_ours_stays_as_it_is(void **state)
{
    (void)state;
    struct st_cov_out o;
    struct st_err e;
    const char *dst = in_work("dst"), *stage = in_work("dst.partial"), *file = in_work("dst.partial/thesis.txt");
    assert_int_equal(mkdir(stage, 0700), 0);
    assert_ok(st_file_write(file, "x", 1, 0600, false, &e), &e);
    assert_int_equal(st_cov_out_open(&o, dst, &e), ST_IO);
    st_cov_out_close(&o);
    assert_true(st_path_exists(file));
    assert_int_equal(unlink(file), 0);
    assert_int_equal(rmdir(stage), 0);
    assert_ok(st_file_write(stage, "x", 1, 0600, false, &e), &e);
    assert_int_equal(st_cov_out_open(&o, dst, &e), ST_IO);
    st_cov_out_close(&o);
    assert_int_equal(unlink(stage), 0);
    assert_int_equal(symlink("/tmp", stage), 0);
    assert_int_equal(st_cov_out_open(&o, dst, &e), ST_IO);
    st_cov_out_close(&o);
    assert_ok(st_file_write(dst, "x", 1, 0600, false, &e), &e);
    assert_int_equal(st_cov_out_open(&o, dst, &e), ST_IO);
    assert_non_null(strstr(e.msg, "exists already"));
}

/* The journal names the source, and a result could be changed before it is moved. */
static void a_staging_directory_is_its_users_alone(void **state)
{
    (void)state;
    struct st_cov_key key = key_of(3);
    struct st_cov_out o;
    struct st_err e;
    struct stat sb;
    char src[256], dst[256], stage[280], path[300];
    snprintf(src, sizeof src, "%s", write_tiny(&slow));
    snprintf(dst, sizeof dst, "%s", in_work("dst"));
    snprintf(stage, sizeof stage, "%s.partial", dst);
    stop_midway(src, dst, &key, &e);
    assert_int_equal(stat(stage, &sb), 0);
    assert_int_equal(sb.st_mode & 07777, 0700);
    snprintf(path, sizeof path, "%s/journal", stage);
    assert_int_equal(stat(path, &sb), 0);
    assert_int_equal(sb.st_mode & 0777, 0600);
    st_cov_key_wipe(&key);
    /* Somebody waits under the name with a directory that he can still write to. */
    snprintf(dst, sizeof dst, "%s", in_work("other"));
    snprintf(stage, sizeof stage, "%s.partial", dst);
    assert_int_equal(mkdir(stage, 0700), 0);
    assert_int_equal(chmod(stage, 0777), 0);
    assert_int_equal(st_cov_out_open(&o, dst, &e), ST_IO);
    assert_non_null(strstr(e.msg, "others may write to it"));
    st_cov_out_close(&o);
    assert_int_equal(chmod(stage, 0700), 0);
    if (geteuid() == 0) {
        assert_int_equal(chown(stage, 1, (gid_t)-1), 0);
        assert_int_equal(st_cov_out_open(&o, dst, &e), ST_IO);
        st_cov_out_close(&o);
    }
    assert_int_equal(rmdir(stage), 0);
}

static void a_link_in_the_place_of_the_result_is_not_followed(void **state)
{
    (void)state;
    struct st_cov_key key = key_of(3);
    struct st_cov_opts o = opts();
    struct st_err e;
    char src[256], dst[256], path[300], elsewhere[256], thesis[300];
    snprintf(src, sizeof src, "%s", write_tiny(&slow));
    snprintf(dst, sizeof dst, "%s", in_work("dst"));
    snprintf(elsewhere, sizeof elsewhere, "%s", in_work("elsewhere"));
    snprintf(thesis, sizeof thesis, "%s/thesis.txt", elsewhere);
    stop_midway(src, dst, &key, &e);
    snprintf(path, sizeof path, "%s.partial/result", dst);
    assert_int_equal(rename(path, elsewhere), 0);
    assert_ok(st_file_write(thesis, "x", 1, 0600, false, &e), &e);
    assert_int_equal(symlink(elsewhere, path), 0);
    assert_int_equal(st_cov_obfuscate(src, dst, &key, &o, &e), ST_IO);
    assert_true(st_path_exists(thesis));
    assert_false(st_path_exists(dst));
    st_cov_key_wipe(&key);
}

int main(void)
{
#define ROW(f) cmocka_unit_test_setup_teardown(f, make_work, drop_work)
    const struct CMUnitTest tests[] = {
        ROW(after_kill_9_at_random_moments_the_bytes_are_those_of_one_run),
        ROW(a_cancelled_run_says_that_the_same_command_goes_on_and_it_does),
        ROW(a_tensor_damaged_in_between_is_made_again),
        ROW(other_inputs_are_named_and_refused_until_restart),
        ROW(a_damaged_journal_is_refused_and_a_torn_last_line_is_not),
        ROW(a_full_disk_shows_before_the_first_tensor_and_loses_nothing),
        ROW(two_runs_do_not_share_a_staging_directory),
        ROW(what_is_not_ours_stays_as_it_is),
        ROW(a_staging_directory_is_its_users_alone),
        ROW(a_link_in_the_place_of_the_result_is_not_followed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
