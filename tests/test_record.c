/* The recording of the boundary: what is written is what passed, and only whole entries are read back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/file.h"
#include "engine/record.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* A plan of one group and one embedding, enough for the recorder. */
static struct st_plan_weight weights[] = {
    {.name = "q", .role = ST_ROLE_Q, .layer = 3, .expert = -1, .n_out = 6, .n_in = 4},
    {.name = "k", .role = ST_ROLE_K, .layer = 3, .expert = -1, .n_out = 2, .n_in = 4},
    {.name = "embed", .role = ST_ROLE_EMBED, .layer = -1, .expert = -1, .n_out = 10, .n_in = 4},
};
static struct st_plan_op ops[] = {
    {.op = ST_OP_LINEAR, .role = ST_ROLE_Q, .layer = 3, .expert = -1, .in = 0, .out = 1, .weight = 0},
    {.op = ST_OP_LINEAR, .role = ST_ROLE_K, .layer = 3, .expert = -1, .in = 0, .out = 2, .weight = 1},
    {.op = ST_OP_EMBED, .role = ST_ROLE_EMBED, .layer = -1, .expert = -1, .in = -1, .out = 0, .weight = 2},
};
static uint32_t slot_width[] = {4, 6, 2};
static const struct st_plan plan = {
    .ops = ops, .weights = weights, .slot_width = slot_width, .n_op = 3, .n_weight = 3, .n_slot = 3};

/* A far side that answers with what the test says. */
struct far {
    uint32_t reply[64];
    size_t len;
    int n_submit, fail;
};

static int far_submit(void *ctx, const struct st_exchange *x, const struct st_exposed *rows, struct st_err *e)
{
    struct far *f = ctx;
    (void)x;
    (void)rows;
    (void)e;
    f->n_submit++;
    return 0;
}

static int far_complete(void *ctx, const struct st_exchange *x, struct st_exposed *reply, struct st_err *e)
{
    struct far *f = ctx;
    (void)x;
    if (f->fail)
        return st_fail(e, ST_IO, "worker: connection reset");
    *reply = (struct st_exposed){.p = f->reply, .len = f->len, .format = ST_EXPOSED_FIELD};
    return 0;
}

struct set {
    char dir[32], path[64];
    struct far far;
    struct st_transport inner;
    struct st_recorder *r;
};

static int begin(struct set *s, uint64_t max_bytes, struct st_err *e)
{
    s->inner = (struct st_transport){.submit = far_submit, .complete = far_complete, .ctx = &s->far};
    struct st_recorder_opts o = {.path = s->path, .inner = &s->inner, .max_bytes = max_bytes};
    return st_recorder_new(&o, &s->r, e);
}

static void set_up(struct set *s, uint64_t max_bytes)
{
    struct st_err e = {0};
    *s = (struct set){.dir = "/tmp/sotto-record-XXXXXX"};
    assert_non_null(mkdtemp(s->dir));
    snprintf(s->path, sizeof s->path, "%s/recording", s->dir);
    for (uint32_t i = 0; i < 64; i++)
        s->far.reply[i] = 0xb0000000u + i;
    if (begin(s, max_bytes, &e))
        fail_msg("%s", e.msg);
}

static void tear_down(struct set *s)
{
    st_recorder_free(s->r);
    unlink(s->path);
    rmdir(s->dir);
}

static int send_rows(struct set *s, const struct st_exchange *x, const uint32_t *rows, size_t n, struct st_err *e)
{
    const struct st_transport *t = st_recorder_transport(s->r);
    struct st_exposed out = {.p = (void *)rows, .len = n * sizeof *rows, .format = ST_EXPOSED_FIELD};
    return t->submit(t->ctx, x, &out, e);
}

static int receive(struct set *s, const struct st_exchange *x, size_t len, struct st_err *e)
{
    const struct st_transport *t = st_recorder_transport(s->r);
    struct st_exposed in = {0};
    s->far.len = len;
    return t->complete(t->ctx, x, &in, e);
}

static const struct st_exchange group = {.plan = &plan, .ops = ops, .n_op = 2, .n_row = 3, .id = 7};
static const struct st_exchange fetch = {.plan = &plan, .ops = ops + 2, .n_op = 1, .n_row = 1, .id = 8};

/* Two exchanges, overlapping; the reply of the second has a length that no worker should send. */
static void record_some(struct set *s, uint32_t rows[12])
{
    struct st_err e = {0};
    for (uint32_t i = 0; i < 12; i++)
        rows[i] = 0xa0000000u + i;
    assert_int_equal(send_rows(s, &group, rows, 12, &e), 0);
    assert_int_equal(send_rows(s, &fetch, rows, 10, &e), 0);
    assert_int_equal(receive(s, &fetch, 13, &e), 0);
    assert_int_equal(receive(s, &group, 24 * 4, &e), 0);
}

static void next(struct st_record *r, struct st_record_entry *entry)
{
    struct st_err e = {0};
    if (st_record_next(r, entry, &e))
        fail_msg("%s", e.msg);
}

static void what_passed_is_read_back(void **state)
{
    (void)state;
    struct set s;
    struct st_err e = {0};
    struct st_record *r;
    struct st_record_entry a;
    struct st_recorder_stats st;
    struct stat file;
    uint32_t rows[12];
    set_up(&s, 0);
    record_some(&s, rows);
    st_recorder_stats(s.r, &st);
    assert_int_equal(st.n_entry, 4);
    assert_false(st.full);
    assert_int_equal(stat(s.path, &file), 0);
    assert_int_equal(file.st_mode & 07777, 0600);
    assert_int_equal(st.bytes, file.st_size);

    assert_int_equal(st_record_open(s.path, &r, &e), 0);
    next(r, &a);
    assert_int_equal(a.kind, ST_RECORD_OUT);
    assert_int_equal(a.format, ST_EXPOSED_FIELD);
    assert_int_equal(a.id, 7);
    assert_int_equal(a.layer, 3);
    assert_int_equal(a.expert, -1);
    assert_int_equal(a.n_row, 3);
    assert_int_equal(a.n_in, 4);
    assert_int_equal(a.n_out, 8);
    assert_string_equal(a.roles, "q,k");
    assert_int_equal(a.bytes.len, sizeof rows);
    assert_memory_equal(a.bytes.p, rows, sizeof rows);
    assert_int_equal((uintptr_t)a.bytes.p % 8, 0);
    next(r, &a);
    assert_int_equal(a.kind, ST_RECORD_OUT);
    assert_int_equal(a.id, 8);
    assert_int_equal(a.layer, -1);
    assert_int_equal(a.n_in, 10);
    assert_int_equal(a.n_out, 4);
    assert_string_equal(a.roles, "embed");
    next(r, &a);
    assert_int_equal(a.kind, ST_RECORD_IN);
    assert_int_equal(a.id, 8);
    assert_int_equal(a.bytes.len, 13);
    assert_memory_equal(a.bytes.p, s.far.reply, 13);
    next(r, &a);
    assert_int_equal(a.kind, ST_RECORD_IN);
    assert_int_equal(a.id, 7);
    assert_int_equal(a.bytes.len, 96);
    assert_int_equal((uintptr_t)a.bytes.p % 8, 0);
    for (int i = 0; i < 2; i++) {
        next(r, &a);
        assert_int_equal(a.kind, ST_RECORD_END);
        assert_false(a.torn);
    }
    st_record_close(r);
    tear_down(&s);
}

static void load(const struct set *s, struct st_buf *b)
{
    struct st_err e = {0};
    if (st_file_read(s->path, 1 << 20, b, &e))
        fail_msg("%s", e.msg);
}

static void times_pass_and_a_time_that_falls_is_refused(void **state)
{
    (void)state;
    enum { TIME = ST_RECORD_FILE_HEAD + 48 };
    struct set s;
    struct st_err e = {0};
    struct st_record *r;
    struct st_record_entry a;
    struct st_buf b = {0};
    uint32_t rows[12];
    uint64_t before = 0;
    set_up(&s, 0);
    record_some(&s, rows);
    usleep(20000);
    assert_int_equal(send_rows(&s, &group, rows, 12, &e), 0);
    assert_int_equal(st_record_open(s.path, &r, &e), 0);
    for (int i = 0; i < 5; i++) {
        next(r, &a);
        assert_true(a.time_ns >= before + (i == 4 ? 20000000 : 0));
        before = a.time_ns;
    }
    st_record_close(r);
    load(&s, &b);
    memcpy(b.p + TIME, &(uint64_t){before + 1}, sizeof before); /* of entry 0 */
    assert_int_equal(st_file_write(s.path, b.p, b.len, 0600, true, &e), 0);
    assert_int_equal(st_record_open(s.path, &r, &e), 0);
    next(r, &a);
    assert_int_equal(st_record_next(r, &a, &e), ST_INPUT);
    if (!strstr(e.msg, s.path) || !strstr(e.msg, "entry 1: time"))
        fail_msg("%s", e.msg);
    st_record_close(r);
    st_buf_free(&b);
    tear_down(&s);
}

static void a_failed_exchange_leaves_only_what_went_out(void **state)
{
    (void)state;
    struct set s;
    struct st_err e = {0};
    struct st_record *r;
    struct st_record_entry a;
    uint32_t rows[12] = {1};
    set_up(&s, 0);
    s.far.fail = 1;
    assert_int_equal(send_rows(&s, &group, rows, 12, &e), 0);
    assert_int_equal(receive(&s, &group, 96, &e), ST_IO);
    assert_string_equal(e.msg, "worker: connection reset");
    assert_int_equal(st_record_open(s.path, &r, &e), 0);
    next(r, &a);
    assert_int_equal(a.kind, ST_RECORD_OUT);
    next(r, &a);
    assert_int_equal(a.kind, ST_RECORD_END);
    st_record_close(r);
    /* Rows that are not the exchange's do not leave. */
    assert_int_equal(send_rows(&s, &group, rows, 11, &e), ST_INTERNAL);
    assert_int_equal(s.far.n_submit, 1);
    tear_down(&s);
}

static void a_file_that_is_there_is_never_written_over(void **state)
{
    (void)state;
    struct set s;
    struct st_err e = {0};
    uint32_t rows[12];
    set_up(&s, 0);
    record_some(&s, rows);
    struct st_recorder *first = s.r;
    assert_int_equal(begin(&s, 0, &e), ST_IO);
    assert_null(s.r);
    assert_non_null(strstr(e.msg, s.path));
    s.r = first;
    tear_down(&s);
    set_up(&s, 0);
    unlink(s.path);
    assert_int_equal(symlink("/dev/null", s.path), 0);
    first = s.r;
    assert_int_equal(begin(&s, 0, &e), ST_IO);
    s.r = first;
    tear_down(&s);
}

static void a_full_recording_says_so_and_exchanges_go_on(void **state)
{
    (void)state;
    struct set s;
    struct st_err e = {0};
    struct st_record *r;
    struct st_record_entry a;
    struct st_recorder_stats st;
    struct stat file;
    uint32_t rows[12] = {1};
    enum { ENTRY = ST_RECORD_HEAD + 48, ROOM = ST_RECORD_FILE_HEAD + 2 * ENTRY + ST_RECORD_HEAD };
    set_up(&s, ROOM);
    for (int i = 0; i < 5; i++)
        assert_int_equal(send_rows(&s, &group, rows, 12, &e), 0);
    assert_int_equal(receive(&s, &group, 96, &e), 0);
    assert_int_equal(s.far.n_submit, 5);
    st_recorder_stats(s.r, &st);
    assert_true(st.full);
    assert_int_equal(stat(s.path, &file), 0);
    assert_int_equal(file.st_size, ROOM);
    assert_int_equal(st_record_open(s.path, &r, &e), 0);
    next(r, &a);
    next(r, &a);
    assert_int_equal(a.kind, ST_RECORD_OUT);
    next(r, &a);
    assert_int_equal(a.kind, ST_RECORD_FULL);
    next(r, &a);
    assert_int_equal(a.kind, ST_RECORD_END);
    st_record_close(r);
    tear_down(&s);
}

static void what_cannot_be_written_down_does_not_leave(void **state)
{
    (void)state;
    struct set s;
    int status;
    set_up(&s, 0);
    pid_t child = fork();
    if (child == 0) {
        struct st_err e = {0};
        uint32_t rows[12] = {1};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){100, 100}); /* as a disk that is full */
        bool ok = send_rows(&s, &group, rows, 12, &e) == ST_IO && strstr(e.msg, s.path) && s.far.n_submit == 0;
        _exit(ok ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    tear_down(&s);
}

/* Entries of a file in memory; -1 when it is refused. */
static int count(const void *p, size_t len, bool *torn)
{
    struct st_err e = {0};
    struct st_record_entry a = {0};
    struct st_span file = {p, len};
    size_t at = ST_RECORD_FILE_HEAD;
    int n = 0;
    if (st_record_check_head(file, "x", &e))
        return -1;
    for (;; n++) {
        if (st_record_parse(file, &at, "x", (uint64_t)n, &a, &e))
            return -1;
        if (a.kind == ST_RECORD_END)
            break;
    }
    *torn = a.torn;
    return n;
}

static void a_recording_cut_anywhere_gives_its_whole_entries(void **state)
{
    (void)state;
    static const size_t lens[] = {48, 40, 16, 96};
    struct set s;
    struct st_buf b = {0};
    uint32_t rows[12];
    set_up(&s, 0);
    record_some(&s, rows);
    load(&s, &b);
    size_t end = ST_RECORD_FILE_HEAD;
    int whole = 0;
    for (size_t len = 0; len <= b.len; len++) {
        bool torn = false;
        void *copy = malloc(len ? len : 1); /* so that a sanitizer sees what is read behind it */
        assert_non_null(copy);
        memcpy(copy, b.p, len);
        if (whole < 4 && len == end + ST_RECORD_HEAD + lens[whole])
            end += ST_RECORD_HEAD + lens[whole++];
        assert_int_equal(count(copy, len, &torn), len < ST_RECORD_FILE_HEAD ? -1 : whole);
        assert_int_equal(torn, len >= ST_RECORD_FILE_HEAD && len != end);
        free(copy);
    }
    assert_int_equal(whole, 4);
    st_buf_free(&b);
    tear_down(&s);
}

static void every_wrong_field_is_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        size_t at;
        uint8_t value;
        int code;
        const char *names;
    } cases[] = {
        {0, 'X', ST_INPUT, "not a recording"},  {8, 1, ST_UNSUPPORTED, "version 1"}, {12, 1, ST_INPUT, "reserved"},
        {16, 0, ST_INPUT, "entry 0: bad kind"}, {16, 4, ST_INPUT, "bad kind"},       {20, 2, ST_INPUT, "bad format"},
        {35, 0xff, ST_INPUT, "bad layer"},      {36, 0xfe, ST_INPUT, "bad expert"},  {40, 4, ST_INPUT, "bad len"},
        {44, 5, ST_INPUT, "bad len"},           {52, 1, ST_INPUT, "bad reserved"},   {56, 47, ST_INPUT, "bad len"},
        {61, 1, ST_INPUT, "bad len"},           {72, 'Q', ST_INPUT, "bad roles"},    {72, 0, ST_INPUT, "bad roles"},
        {271, 'q', ST_INPUT, "bad roles"},
    };
    struct set s;
    struct st_buf b = {0};
    uint32_t rows[12];
    set_up(&s, 0);
    record_some(&s, rows);
    load(&s, &b);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct st_err e = {0};
        struct st_record_entry a;
        size_t at = ST_RECORD_FILE_HEAD;
        struct st_span file = {(uint8_t *)b.p, b.len};
        char kept = b.p[cases[i].at];
        b.p[cases[i].at] = (char)cases[i].value;
        int rc = st_record_check_head(file, "file", &e);
        if (!rc)
            rc = st_record_parse(file, &at, "file", 0, &a, &e);
        assert_int_equal(rc, cases[i].code);
        if (!strstr(e.msg, cases[i].names))
            fail_msg("case %zu: %s", i, e.msg);
        b.p[cases[i].at] = kept;
    }
    /* The padding of the third entry, and bytes behind a last one. */
    bool torn;
    size_t third = ST_RECORD_FILE_HEAD + 2 * ST_RECORD_HEAD + 48 + 40;
    b.p[third + ST_RECORD_HEAD + 14] = 1;
    assert_int_equal(count(b.p, b.len, &torn), -1);
    b.p[third + ST_RECORD_HEAD + 14] = 0;
    assert_int_equal(count(b.p, b.len, &torn), 4);
    b.p[third] = ST_RECORD_FULL;
    assert_int_equal(count(b.p, b.len, &torn), -1);
    b.p[third + 40] = 0;
    assert_int_equal(count(b.p, b.len, &torn), -1);
    st_buf_free(&b);
    tear_down(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_passed_is_read_back),
        cmocka_unit_test(times_pass_and_a_time_that_falls_is_refused),
        cmocka_unit_test(a_failed_exchange_leaves_only_what_went_out),
        cmocka_unit_test(a_file_that_is_there_is_never_written_over),
        cmocka_unit_test(a_full_recording_says_so_and_exchanges_go_on),
        cmocka_unit_test(what_cannot_be_written_down_does_not_leave),
        cmocka_unit_test(a_recording_cut_anywhere_gives_its_whole_entries),
        cmocka_unit_test(every_wrong_field_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
