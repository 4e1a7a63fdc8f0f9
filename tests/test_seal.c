/* Sealing: what goes in comes out, nothing else can be read, a run that was killed goes on, and mistakes are named. */
#include "lora_make.h"
#include "seal_make.h"

#include "base/log.h"
#include "crypto/digest.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

/* Large enough to be hit in the middle. */
static const struct tiny slow = {.d_model = 256, .d_ff = 512, .n_layer = 4, .n_vocab = 1000, .dtype = ST_DTYPE_F32};
static const struct tiny small = {.n_layer = 1};

/* ---- what comes out ---- */

static void every_dtype_and_shard_comes_out_as_it_went_in(void **state)
{
    (void)state;
    const struct tiny kinds[] = {
        {.dtype = ST_DTYPE_F32},
        {.dtype = ST_DTYPE_BF16, .n_shard = 3, .header_pad = 1},
        {.dtype = ST_DTYPE_F16, .tied = true},
        {.arch = "Qwen2ForCausalLM", .dtype = ST_DTYPE_BF16},
        {.d_model = 256, .d_ff = 520, .n_vocab = 300, .dtype = ST_DTYPE_F32}, /* several segments, the last one short */
    };
    static const char *const policies[] = {"paper", "adapters", "all-inside"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct seal_rig r;
        seal_rig_open(&r, &kinds[i]);
        r.o.policy = policies[i % 3];
        seal_it(&r, r.dst);
        seal_check(r.dst, "word", r.src);
        assert_false(st_path_exists(r.part));
        assert_int_equal(r.report.n_kept, 0);
        seal_rig_close(&r);
    }
}

static void the_header_says_what_was_asked_for(void **state)
{
    (void)state;
    struct seal_rig r;
    struct seal_opened o;
    struct st_container_about a;
    struct st_err e;
    struct st_buf file = {0};
    const int64_t start = st_unix_time();
    seal_rig_open(&r, &small);
    tiny_save(r.src, "tokenizer_config.json", "{}", 2);
    tiny_save(r.src, "notes.txt", "mine", 4);
    r.o.name = "a \"name\" \xc3\xa9";
    r.o.version = 7;
    r.o.policy = NULL;
    seal_it(&r, r.dst);
    assert_ok(seal_open(r.dst, "word", &o, &e), &e);
    st_container_about(o.c, &a);
    assert_string_equal(a.name, r.o.name);
    assert_string_equal(a.policy, "all-inside");
    assert_int_equal(a.version, 7);
    assert_int_equal(a.kind, ST_CONTAINER_MODEL);
    assert_true(a.created >= start && a.created <= st_unix_time());
    assert_memory_equal(a.id, r.report.about.id, 16);
    assert_memory_equal(a.digest, r.report.about.digest, 32);
    assert_memory_equal(a.publisher, r.report.about.publisher, 32);
    assert_ok(st_container_file(o.c, "tokenizer_config.json", 10, &file, &e), &e);
    assert_memory_equal(file.p, "{}", 2);
    assert_null(st_container_find(o.c, "notes.txt"));
    assert_true(r.report.no_tokenizer);
    assert_int_equal(r.report.n_inside, r.report.n_tensor);
    seal_close(&o);
    st_buf_free(&file);
    seal_rig_close(&r);
}

static void segments_are_whole_rows(void **state)
{
    (void)state;
    struct seal_rig r;
    struct seal_opened o;
    struct st_err e;
    seal_rig_open(&r, &slow);
    seal_it(&r, r.dst);
    assert_ok(seal_open(r.dst, "word", &o, &e), &e);
    for (size_t i = 0; i < st_container_count(o.c); i++) {
        const struct st_container_entry *n = st_container_at(o.c, i);
        assert_true(n->segment_bytes <= ST_CONTAINER_SEGMENT);
        if (!n->is_file)
            assert_int_equal(n->segment_bytes % (n->tensor.bytes / n->tensor.dim[0]), 0);
    }
    seal_close(&o);
    seal_rig_close(&r);
}

static void a_llama2c_file_brings_its_header_and_tokenizer(void **state)
{
    (void)state;
    const char *shared = getenv("SOTTO_SHARED");
    char src[256], tokenizer[256];
    struct seal_rig r;
    struct seal_opened o;
    struct st_config config;
    struct st_ckpt *ckpt;
    struct st_buf file = {0};
    struct st_err e;
    snprintf(src, sizeof src, "%s/data/models/stories260K.bin", shared ? shared : "../shared");
    snprintf(tokenizer, sizeof tokenizer, "%s/data/models/tok512.bin", shared ? shared : "../shared");
    if (!st_path_exists(src)) {
        print_message("skipped: no %s (SOTTO_SHARED)\n", src);
        skip();
    }
    seal_rig_open(&r, NULL);
    assert_ok(st_seal(src, r.dst, &r.o, &r.report, &e), &e);
    assert_ok(seal_open(r.dst, "word", &o, &e), &e);
    assert_ok(st_ckpt_open_llama2c(src, &ckpt, &config, &e), &e);
    assert_int_equal(seal_compare(&o, ckpt), st_ckpt_count(ckpt));
    assert_ok(st_container_file(o.c, ST_CONTAINER_LLAMA2C, 100, &file, &e), &e);
    assert_int_equal(file.len, 28);
    assert_ok(st_container_file(o.c, "tokenizer.bin", 1 << 20, &file, &e), &e);
    assert_true(file.len > 1000);
    seal_close(&o);
    st_ckpt_close(ckpt);
    /* One that is named counts instead of its own. */
    unlink(r.dst);
    r.o.tokenizer = tokenizer;
    assert_ok(st_seal(src, r.dst, &r.o, &r.report, &e), &e);
    st_buf_free(&file);
    seal_rig_close(&r);
}

static void an_adapter_is_sealed_whole(void **state)
{
    (void)state;
    struct seal_rig r;
    struct seal_opened o;
    struct st_container_about a;
    struct st_ckpt *ckpt;
    struct st_err e;
    char weights[160];
    const struct lora l = {.dtype = ST_DTYPE_F32};
    seal_rig_open(&r, NULL);
    lora_write(&l, &small, r.src);
    expect_refusal(st_seal(r.src, r.dst, &r.o, &r.report, &e), &e, ST_USAGE, "is sealed whole");
    r.o.policy = NULL;
    seal_it(&r, r.dst);
    snprintf(weights, sizeof weights, "%s/adapter_model.safetensors", r.src);
    assert_ok(st_ckpt_open(weights, &ckpt, &e), &e);
    assert_ok(seal_open(r.dst, "word", &o, &e), &e);
    st_container_about(o.c, &a);
    assert_int_equal(a.kind, ST_CONTAINER_ADAPTER);
    assert_int_equal(seal_compare(&o, ckpt), st_ckpt_count(ckpt));
    for (size_t i = 0; i < st_container_count(o.c); i++)
        if (!st_container_at(o.c, i)->is_file)
            assert_int_equal(st_container_at(o.c, i)->place, ST_CONTAINER_INSIDE);
    seal_close(&o);
    st_ckpt_close(ckpt);
    seal_rig_close(&r);
}

/* Its names are not looked at before they are read back. */
static void what_no_reader_takes_is_not_left_behind(void **state)
{
    (void)state;
    static const char header[] = "{\".x.lora_A.weight\":{\"dtype\":\"F32\",\"shape\":[1,4],\"data_offsets\":[0,16]}}";
    struct seal_rig r;
    struct st_err e;
    struct st_buf b = {0};
    const uint64_t len = sizeof header - 1;
    const struct lora l = {.dtype = ST_DTYPE_F32};
    seal_rig_open(&r, NULL);
    lora_write(&l, &small, r.src);
    st_buf_add(&b, &len, 8);
    st_buf_add(&b, header, sizeof header - 1);
    st_buf_add(&b, "sixteen bytes of", 16);
    tiny_save(r.src, "adapter_model.safetensors", b.p, b.len);
    r.o.policy = NULL;
    expect_refusal(st_seal(r.src, r.dst, &r.o, &r.report, &e), &e, ST_VERIFY, ".x.lora_A.weight: name");
    assert_false(st_path_exists(r.dst));
    assert_false(st_path_exists(r.part));
    st_buf_free(&b);
    seal_rig_close(&r);
}

/* ---- what cannot be read ---- */

static bool holds(const struct st_buf *b, const void *p, size_t len)
{
    return memmem(b->p, b->len, p, len) != NULL;
}

static void what_is_inside_is_not_in_the_file(void **state)
{
    (void)state;
    struct seal_rig r;
    struct st_ckpt *ckpt;
    struct st_buf file = {0};
    struct st_err e;
    size_t n_open = 0, n_shut = 0;
    seal_rig_open(&r, &small);
    seal_it(&r, r.dst);
    assert_ok(st_file_read(r.dst, 1 << 26, &file, &e), &e);
    assert_ok(st_ckpt_open(r.src, &ckpt, &e), &e);
    for (size_t i = 0; i < st_ckpt_count(ckpt); i++) {
        const struct st_tensor *t = st_ckpt_at(ckpt, i);
        bool open = strstr(t->name, "o_proj") || strstr(t->name, "lm_head");
        for (size_t at = 0; at + 32 <= t->bytes; at += 1 + t->bytes / 20) {
            assert_int_equal(holds(&file, (const uint8_t *)t->data + at, 32), open);
            ++*(open ? &n_open : &n_shut);
        }
    }
    assert_true(n_open > 30 && n_shut > 100);
    assert_false(holds(&file, r.seed.p, 32));
    st_ckpt_close(ckpt);
    st_buf_free(&file);
    seal_rig_close(&r);
}

static int by_bytes(const void *a, const void *b)
{
    return memcmp(a, b, 12);
}

/* Every nonce of both containers once; another id, another key. */
static void no_nonce_serves_twice(void **state)
{
    (void)state;
    static uint8_t nonce[4096][12];
    size_t n = 0;
    struct seal_rig r;
    struct seal_opened o[2];
    struct st_err e;
    char second[160];
    seal_rig_open(&r, &slow);
    snprintf(second, sizeof second, "%s/second.sealed", r.dir);
    seal_it(&r, r.dst);
    seal_it(&r, second);
    for (int f = 0; f < 2; f++) {
        assert_ok(seal_open(f ? second : r.dst, "word", &o[f], &e), &e);
        for (size_t i = 0; i < st_container_count(o[f].c); i++) {
            const struct st_container_entry *x = st_container_at(o[f].c, i);
            for (uint32_t k = 0; x->place == ST_CONTAINER_INSIDE && k < x->n_segment; k++)
                memcpy(nonce[n++], st_container_segment(o[f].c, x, k).p, 12);
        }
    }
    assert_true(n > 100);
    qsort(nonce, n, 12, by_bytes);
    for (size_t i = 1; i < n; i++)
        assert_int_not_equal(memcmp(nonce[i - 1], nonce[i], 12), 0);
    assert_memory_not_equal(o[0].key.p, o[1].key.p, 32);
    seal_close(&o[0]);
    seal_close(&o[1]);
    seal_rig_close(&r);
}

/* ---- runs that are stopped ---- */

/* Secrets do not pass a fork: a child makes its own. */
static pid_t start(const struct seal_rig *r, rlim_t bytes)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct st_secret seed = seal_seed(3), word = seal_secret("word", 4);
        struct seal_rig mine = *r;
        struct st_err e;
        st_log_set_level(ST_LOG_ERROR);
        mine.o.seed = &seed;
        mine.o.passphrase = &word;
        mine.o.recipients = mine.recipients;
        mine.o.n_threads = 1;
        if (bytes) {
            signal(SIGXFSZ, SIG_IGN);
            setrlimit(RLIMIT_FSIZE, &(struct rlimit){bytes, bytes});
        }
        _exit(st_seal(mine.src, mine.dst, &mine.o, &mine.report, &e));
    }
    return pid;
}

static int wait_for(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static size_t finished(const struct seal_rig *r)
{
    char path[160];
    struct st_buf b = {0};
    struct st_err e;
    size_t n = 0;
    snprintf(path, sizeof path, "%s/journal", r->part);
    if (st_path_exists(path) && st_file_read(path, 1 << 20, &b, &e) == 0)
        for (char *at = b.p; at && (at = strstr(at, "\ntensor ")); at++)
            n++;
    st_buf_free(&b);
    return n;
}

static void nap(long us)
{
    nanosleep(&(struct timespec){0, us * 1000}, NULL);
}

/* Leaves a staging directory with some entries finished, and not all. */
static size_t stop_midway(const struct seal_rig *r)
{
    for (int tries = 0; tries < 50; tries++) {
        pid_t pid = start(r, 0);
        size_t n = 0;
        for (int i = 0; i < 20000 && (n = finished(r)) < 5; i++)
            nap(50);
        kill(pid, SIGKILL);
        (void)wait_for(pid);
        n = finished(r);
        if (!st_path_exists(r->dst) && n >= 5)
            return n;
        unlink(r->dst);
    }
    fail_msg("never stopped in the middle");
    return 0;
}

static void runs_that_are_killed_at_any_point_lead_to_a_whole_container(void **state)
{
    (void)state;
    struct seal_rig r;
    int killed = 0, midway = 0;
    srand(1);
    for (int round = 0; round < 3; round++) {
        seal_rig_open(&r, &slow);
        for (int i = 0; i < 12 && !st_path_exists(r.dst); i++) {
            pid_t pid = start(&r, 0);
            nap(rand() % 25000);
            kill(pid, SIGKILL);
            killed += WIFSIGNALED(wait_for(pid));
            midway += !st_path_exists(r.dst) && finished(&r) > 0;
        }
        bool there = st_path_exists(r.dst);
        if (!there)
            assert_int_equal(wait_for(start(&r, 0)), 0);
        seal_check(r.dst, "word", r.src);
        assert_true(there || !st_path_exists(r.part)); /* a run killed right after its last rename leaves the rest */
        seal_rig_close(&r);
    }
    print_message("%d runs were killed, %d times a journal was left\n", killed, midway);
    assert_true(killed > 3);
}

static void read_result(const struct seal_rig *r, struct st_buf *b)
{
    char path[160];
    struct st_err e;
    snprintf(path, sizeof path, "%s/result", r->part);
    assert_ok(st_file_read(path, 1 << 26, b, &e), &e);
}

static void finished_entries_stay_and_others_get_fresh_nonces(void **state)
{
    (void)state;
    struct seal_rig r;
    struct seal_opened o;
    struct st_buf before = {0}, after = {0};
    struct st_err e;
    size_t same = 0, other = 0;
    seal_rig_open(&r, &slow);
    size_t n = stop_midway(&r);
    read_result(&r, &before);
    seal_it(&r, r.dst);
    assert_true(r.report.n_kept >= n);
    assert_ok(st_file_read(r.dst, 1 << 26, &after, &e), &e);
    assert_int_equal(before.len, after.len);
    assert_ok(seal_open(r.dst, "word", &o, &e), &e);
    size_t at = after.len;
    for (size_t i = st_container_count(o.c); i-- > 0;) {
        const struct st_container_entry *x = st_container_at(o.c, i);
        size_t len = 0;
        for (uint32_t k = 0; k < x->n_segment; k++)
            len += st_container_segment(o.c, x, k).len;
        at -= len;
        bool kept = memcmp(before.p + at, after.p + at, len) == 0;
        same += kept;
        if (!kept && x->place == ST_CONTAINER_INSIDE) {
            other++;
            assert_memory_not_equal(before.p + at, after.p + at, 12);
        }
    }
    assert_true(same >= r.report.n_kept && other > 0);
    seal_close(&o);
    seal_check(r.dst, "word", r.src);
    st_buf_free(&before);
    st_buf_free(&after);
    seal_rig_close(&r);
}

static void what_was_damaged_meanwhile_is_done_again(void **state)
{
    (void)state;
    struct seal_rig r;
    char path[160];
    seal_rig_open(&r, &slow);
    size_t n = stop_midway(&r);
    snprintf(path, sizeof path, "%s/result", r.part);
    int fd = open(path, O_RDWR);
    char junk[64];
    memset(junk, 0x5a, sizeof junk);
    for (off_t at = 0; at < lseek(fd, 0, SEEK_END); at += 65536)
        assert_int_equal(pwrite(fd, junk, sizeof junk, at), sizeof junk);
    close(fd);
    seal_it(&r, r.dst);
    assert_true(r.report.n_kept < n);
    seal_check(r.dst, "word", r.src);
    seal_rig_close(&r);
}

struct meddler {
    const struct seal_rig *r;
    char file[160];
    atomic_bool stop;
};

/* Writes the last byte of the weights again and again as soon as the sealing has begun. */
static void *meddle(void *arg)
{
    struct meddler *m = arg;
    while (!atomic_load(&m->stop)) {
        int fd = st_path_exists(m->r->part) ? open(m->file, O_RDWR) : -1;
        struct stat sb;
        char last;
        if (fd >= 0 && fstat(fd, &sb) == 0 && pread(fd, &last, 1, sb.st_size - 1) == 1)
            (void)!pwrite(fd, &last, 1, sb.st_size - 1);
        if (fd >= 0)
            close(fd);
        nap(2000);
    }
    return NULL;
}

static void a_source_that_changes_meanwhile_is_refused_and_nothing_stays(void **state)
{
    (void)state;
    static const struct st_argon2 long_enough = {.passes = 3, .memory_kib = 64 << 10, .lanes = 1};
    struct seal_rig r;
    struct meddler m = {.r = &r};
    struct st_err e = {0};
    pthread_t thread;
    seal_rig_open(&r, &slow);
    r.o.cost = &long_enough;
    snprintf(m.file, sizeof m.file, "%s/model.safetensors", r.src);
    assert_int_equal(pthread_create(&thread, NULL, meddle, &m), 0);
    int rc = st_seal(r.src, r.dst, &r.o, &r.report, &e);
    atomic_store(&m.stop, true);
    pthread_join(thread, NULL);
    expect_refusal(rc, &e, ST_INPUT, "src/model.safetensors: was changed while it was read");
    assert_false(st_path_exists(r.part));
    assert_false(st_path_exists(r.dst));
    r.o.cost = &seal_cheap;
    seal_it(&r, r.dst);
    seal_check(r.dst, "word", r.src);
    seal_rig_close(&r);
}

static void a_change_shows_even_when_its_time_was_set_back(void **state)
{
    (void)state;
    struct seal_rig r;
    struct st_unchanged source = {0};
    struct st_err e;
    struct stat sb;
    char path[160], other[160];
    seal_rig_open(&r, NULL);
    snprintf(path, sizeof path, "%s/config.json", r.src);
    snprintf(other, sizeof other, "%s/other", r.src);
    for (int i = 0; i < 3; i++) {
        tiny_save(r.src, "config.json", "abc", 3);
        tiny_save(r.src, "other", "abc", 3);
        assert_ok(st_unchanged_add(&source, path, &e), &e);
        assert_ok(st_unchanged_check(&source, &e), &e);
        assert_int_equal(stat(path, &sb), 0);
        nap(20000);
        if (i == 0)
            tiny_save(r.src, "config.json", "abd", 3);
        else
            assert_int_equal(i == 1 ? rename(other, path) : unlink(path), 0);
        if (i < 2)
            assert_int_equal(utimensat(AT_FDCWD, path, (struct timespec[2]){sb.st_atim, sb.st_mtim}, 0), 0);
        expect_refusal(st_unchanged_check(&source, &e), &e, ST_INPUT, "config.json: was changed");
        st_unchanged_free(&source);
    }
    expect_refusal(st_unchanged_add(&source, path, &e), &e, ST_IO, "config.json");
    expect_refusal(st_unchanged_add(&source, r.src, &e), &e, ST_IO, "not a regular file");
    st_unchanged_free(&source);
    seal_rig_close(&r);
}

static void another_sealing_is_named_and_refused_until_restart(void **state)
{
    (void)state;
    struct seal_rig r;
    struct st_err e;
    char other[160];
    struct tiny changed = slow;
    struct st_secret seed = seal_seed(4);
    changed.seed = 5;
    seal_rig_open(&r, &slow);
    snprintf(other, sizeof other, "%s/other", r.dir);
    assert_int_equal(mkdir(other, 0700), 0);
    tiny_write(&changed, other);
    size_t n = stop_midway(&r);
    struct st_seal_opts o[7];
    const char *const two[] = {"passphrase", "passphrase"};
    for (int i = 0; i < 7; i++)
        o[i] = r.o;
    o[1].seed = &seed;
    o[2].version = 2;
    o[3].name = "else";
    o[4].policy = "adapters";
    o[5].recipients = two;
    o[5].n_recipient = 2;
    tiny_save(r.dir, "tokenizer.json", "{}", 2);
    char tokenizer[160];
    snprintf(tokenizer, sizeof tokenizer, "%s/tokenizer.json", r.dir);
    o[6].tokenizer = tokenizer;
    static const char *const says[] = {
        "another source",   "another publisher's key",      "another --version", "another --name", "another --policy",
        "other recipients", "other files or another layout"};
    for (int i = 0; i < 7; i++) {
        expect_refusal(st_seal(i ? r.src : other, r.dst, &o[i], &r.report, &e), &e, ST_USAGE, "--restart");
        if (!strstr(e.msg, says[i]))
            fail_msg("row %d: %s", i, e.msg);
        assert_int_equal(finished(&r), n);
    }
    o[2].restart = true;
    assert_ok(st_seal(r.src, r.dst, &o[2], &r.report, &e), &e);
    assert_int_equal(r.report.n_kept, 0);
    seal_check(r.dst, "word", r.src);
    st_secret_wipe(&seed);
    seal_rig_close(&r);
}

static void a_journal_of_anybody_is_read_as_hostile(void **state)
{
    (void)state;
    static const char *const begun[] = {"",
                                        "00 1 4096",
                                        "00112233445566778899aabbccddeeff",
                                        "00112233445566778899aabbccddeeff 1 4294967295",
                                        "00112233445566778899aabbccddeeff -1 4096",
                                        "00112233445566778899aabbccddeefg 1 4096",
                                        "00112233445566778899aabbccddeeff 1 4096 x"};
    struct seal_rig r;
    struct st_buf good = {0};
    struct st_err e;
    char path[160];
    seal_rig_open(&r, &slow);
    (void)stop_midway(&r);
    snprintf(path, sizeof path, "%s/journal", r.part);
    assert_ok(st_file_read(path, 1 << 20, &good, &e), &e);
    char *at = strstr(good.p, "\nbegun ");
    assert_non_null(at);
    for (size_t i = 0; i < sizeof begun / sizeof *begun; i++) {
        struct st_buf b = {0};
        st_buf_add(&b, good.p, (size_t)(at + 7 - good.p));
        st_buf_add_str(&b, begun[i]);
        st_buf_add_str(&b, "\n");
        assert_ok(st_file_write(path, b.p, b.len, 0600, true, &e), &e);
        expect_refusal(st_seal(r.src, r.dst, &r.o, &r.report, &e), &e, ST_INPUT, "--restart");
        st_buf_free(&b);
    }
    st_buf_free(&good);
    seal_rig_close(&r);
}

/* ---- what is refused ---- */

static void a_full_disk_is_said_before_anything_is_sealed(void **state)
{
    (void)state;
    struct seal_rig r;
    seal_rig_open(&r, &slow);
    int status = wait_for(start(&r, 1 << 20));
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), ST_IO);
    assert_false(st_path_exists(r.dst));
    assert_false(st_path_exists(r.part));
    seal_rig_close(&r);
}

static void nothing_is_overwritten_and_no_place_is_made_up(void **state)
{
    (void)state;
    struct seal_rig r;
    struct st_err e;
    char path[200];
    seal_rig_open(&r, &small);
    tiny_save(r.dir, "m.sealed", "mine", 4);
    expect_refusal(st_seal(r.src, r.dst, &r.o, &r.report, &e), &e, ST_IO, "exists already");
    unlink(r.dst);
    snprintf(path, sizeof path, "%s/absent/m.sealed", r.dir);
    expect_refusal(st_seal(r.src, path, &r.o, &r.report, &e), &e, ST_IO, "cannot create");
    if (geteuid() != 0) {
        assert_int_equal(chmod(r.dir, 0500), 0);
        expect_refusal(st_seal(r.src, r.dst, &r.o, &r.report, &e), &e, ST_IO, "cannot create");
        assert_int_equal(chmod(r.dir, 0700), 0);
    }
    snprintf(path, sizeof path, "/proc/m.sealed");
    expect_refusal(st_seal(r.src, path, &r.o, &r.report, &e), &e, ST_IO, "cannot create");
    seal_rig_close(&r);
}

static void options_that_make_no_sense_are_refused(void **state)
{
    (void)state;
    static const char *const names[] = {"", "a\nb", "\xff", "x\x7f", "x\xc2\x9b"};
    struct seal_rig r;
    struct st_err e;
    char absent[160];
    const char *const unknown[] = {"pigeon:x"};
    seal_rig_open(&r, &small);
    snprintf(absent, sizeof absent, "%s/absent", r.dir);
    struct st_seal_opts o = r.o;
    o.n_recipient = 0;
    expect_refusal(st_seal(r.src, r.dst, &o, &r.report, &e), &e, ST_USAGE, "no recipient");
    o = r.o;
    o.recipients = unknown;
    expect_refusal(st_seal(r.src, r.dst, &o, &r.report, &e), &e, ST_USAGE, "want one of passphrase");
    o = r.o;
    o.version = UINT64_MAX;
    expect_refusal(st_seal(r.src, r.dst, &o, &r.report, &e), &e, ST_USAGE, "version");
    o = r.o;
    o.policy = "papre";
    expect_refusal(st_seal(r.src, r.dst, &o, &r.report, &e), &e, ST_USAGE, "policy 'papre'");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        o = r.o;
        o.name = names[i];
        expect_refusal(st_seal(r.src, r.dst, &o, &r.report, &e), &e, ST_USAGE, "name");
    }
    expect_refusal(st_seal(absent, r.dst, &r.o, &r.report, &e), &e, ST_IO, "absent");
    o = r.o;
    o.tokenizer = absent;
    expect_refusal(st_seal(r.src, r.dst, &o, &r.report, &e), &e, ST_IO, "absent");
    assert_false(st_path_exists(r.part));
    seal_it(&r, r.dst);
    expect_refusal(st_seal(r.dst, absent, &r.o, &r.report, &e), &e, ST_USAGE, "sealed already");
    seal_rig_close(&r);
}

static void a_model_that_would_not_run_is_not_sealed(void **state)
{
    (void)state;
    struct seal_rig r;
    struct st_err e;
    const struct tiny wide = {.d_model = 64, .d_ff = 300000, .n_layer = 1, .dtype = ST_DTYPE_F32};
    seal_rig_open(&r, &small);
    struct tiny other = small;
    struct st_buf b = {0};
    other.n_layer = 2; /* of which the file has one */
    tiny_config(&other, &b);
    tiny_save(r.src, "config.json", b.p, b.len);
    expect_refusal(st_seal(r.src, r.dst, &r.o, &r.report, &e), &e, ST_INPUT, "missing");
    st_buf_free(&b);
    seal_rig_close(&r);
    seal_rig_open(&r, &wide);
    expect_refusal(st_seal(r.src, r.dst, &r.o, &r.report, &e), &e, ST_UNSUPPORTED, "down_proj.weight: rows of 1200000");
    assert_false(st_path_exists(r.part));
    seal_rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_dtype_and_shard_comes_out_as_it_went_in),
        cmocka_unit_test(the_header_says_what_was_asked_for),
        cmocka_unit_test(segments_are_whole_rows),
        cmocka_unit_test(a_llama2c_file_brings_its_header_and_tokenizer),
        cmocka_unit_test(an_adapter_is_sealed_whole),
        cmocka_unit_test(what_no_reader_takes_is_not_left_behind),
        cmocka_unit_test(what_is_inside_is_not_in_the_file),
        cmocka_unit_test(no_nonce_serves_twice),
        cmocka_unit_test(runs_that_are_killed_at_any_point_lead_to_a_whole_container),
        cmocka_unit_test(finished_entries_stay_and_others_get_fresh_nonces),
        cmocka_unit_test(what_was_damaged_meanwhile_is_done_again),
        cmocka_unit_test(a_source_that_changes_meanwhile_is_refused_and_nothing_stays),
        cmocka_unit_test(a_change_shows_even_when_its_time_was_set_back),
        cmocka_unit_test(another_sealing_is_named_and_refused_until_restart),
        cmocka_unit_test(a_journal_of_anybody_is_read_as_hostile),
        cmocka_unit_test(a_full_disk_is_said_before_anything_is_sealed),
        cmocka_unit_test(nothing_is_overwritten_and_no_place_is_made_up),
        cmocka_unit_test(options_that_make_no_sense_are_refused),
        cmocka_unit_test(a_model_that_would_not_run_is_not_sealed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
