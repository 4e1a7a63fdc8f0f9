/* The monitor of a log: nothing is found in an honest one, and each thing that an honest log never has is found. */
#include "expect.h"
#include "log_world.h"

#include "base/file.h"
#include "service/log_monitor.h"

struct rig {
    struct log_world w;
    struct st_log_store *s;
    struct st_buf note;
    uint64_t n_entry;
    char found[4][400];
    size_t n_found;
    /* damage of one tile on its way */
    int level;
    uint64_t index;
    size_t at;
    bool damage;
};

static void rig_open(struct rig *r)
{
    *r = (struct rig){0};
    log_world_open(&r->w);
    r->s = log_store_new(&r->w, "log");
}

static void rig_close(struct rig *r)
{
    st_log_store_close(r->s);
    st_buf_free(&r->note);
    log_world_close(&r->w);
}

static int fetch(void *arg, const struct st_tile *t, struct st_buf *out, struct st_err *e)
{
    struct rig *r = arg;
    char path[ST_TILE_MAX_PATH], file[160];
    struct st_buf b = {0};
    snprintf(file, sizeof file, "log/%s", st_tile_path(t, path));
    int rc = st_file_read(log_path(&r->w, file), 1 << 20, &b, e);
    if (!rc && r->damage && t->level == r->level && t->index == r->index)
        b.p[r->at] ^= 1;
    if (!rc)
        st_buf_add(out, b.p, b.len);
    st_buf_free(&b);
    return rc;
}

static int on_entry(void *arg, uint64_t index, struct st_span entry, struct st_err *e)
{
    struct rig *r = arg;
    (void)entry;
    (void)e;
    assert_int_equal(index, r->n_entry);
    r->n_entry++;
    return 0;
}

static void on_found(void *arg, const char *line)
{
    struct rig *r = arg;
    if (r->n_found < 4)
        snprintf(r->found[r->n_found], sizeof r->found[0], "%s", line);
    r->n_found++;
}

/* Commits, cosigns, and reads all of it. */
static int monitor(struct rig *r, struct st_span before, struct st_log_monitor_result *out, struct st_err *e)
{
    struct st_log_reply a;
    log_answer(&r->w, r->s, "", 0, st_unix_time(), 2, &a);
    st_buf_free(&r->note);
    r->note = a.note;
    st_buf_free(&a.entry);
    r->n_found = r->n_entry = 0;
    const struct st_log_monitor_opts o = {.keys = &r->w.keys,
                                          .note = {(const uint8_t *)r->note.p, r->note.len},
                                          .before = before,
                                          .now = st_unix_time(),
                                          .fetch = fetch,
                                          .entry = on_entry,
                                          .found = on_found,
                                          .arg = r};
    return st_log_monitor(&o, out, e);
}

static void expect_findings(struct rig *r, size_t n, const char *says)
{
    struct st_err e;
    struct st_log_monitor_result out;
    assert_ok(monitor(r, (struct st_span){0}, &out, &e), &e);
    assert_int_equal(out.findings, r->n_found);
    if (r->n_found != n || (n && !strstr(r->found[0], says)))
        fail_msg("want %zu and '%s', got %zu and '%s'", n, says, r->n_found, r->found[0]);
}

static void an_honest_log_gives_no_finding(void **state)
{
    (void)state;
    struct rig r;
    struct st_err e;
    struct st_log_monitor_result out;
    rig_open(&r);
    for (int i = 0; i < 600; i++)
        log_append(r.s, i % 3 ? "a release" : log_directory(100 + (uint64_t)i, "east"));
    log_append(r.s, log_directory(1000, "east"));
    assert_ok(monitor(&r, (struct st_span){0}, &out, &e), &e);
    assert_int_equal(r.n_found, 0);
    assert_int_equal(r.n_entry, 601);
    assert_int_equal(out.directories, 201);
    assert_int_equal(out.epoch, 1000);
    assert_int_equal(out.checkpoint.checkpoint.size, 601);
    rig_close(&r);
}

static void an_entry_or_a_tile_that_was_changed_is_found(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r);
    for (int i = 0; i < 600; i++)
        log_append(r.s, "a release");
    log_append(r.s, log_directory(1000, "east"));
    r.damage = true;
    r.level = ST_TILE_ENTRIES;
    r.index = 1;
    r.at = 5;
    expect_findings(&r, 3, "tile/0/001: it is not what the entries give"); /* and level 1, and the root */
    r.level = 0;
    r.index = 0;
    expect_findings(&r, 1, "tile/0/000: it is not");
    r.index = 2;
    expect_findings(&r, 1, "tile/0/002.p/89: it is not");
    r.level = 1;
    r.index = 0;
    expect_findings(&r, 1, "tile/1/000.p/2: it is not");
    rig_close(&r);
}

static void directories_that_should_not_be_are_found(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r);
    log_append(r.s, log_directory(100, "east"));
    log_append(r.s, log_directory(100, "west"));
    expect_findings(&r, 1, "entry 1: a second directory of epoch 100");
    log_append(r.s, log_directory(99, "west"));
    expect_findings(&r, 2, "entry 1: a second");
    assert_string_equal(r.found[1], "entry 2: a directory of epoch 99 behind one of 100");
    rig_close(&r);
    rig_open(&r);
    log_append(r.s, log_directory((uint64_t)st_unix_time() / 60 + 100, "east"));
    expect_findings(&r, 1, "entry 0: a directory from the future");
    rig_close(&r);
    rig_open(&r);
    log_append(r.s, log_directory(100, "east"));
    log_append(r.s, "a release");
    expect_findings(&r, 1, "entry 1: the last one is no directory");
    rig_close(&r);
}

static const char *with_issuer(uint64_t epoch, const char *key)
{
    static char text[512];
    snprintf(text, sizeof text,
             "{\"version\":1,\"kind\":\"directory\",\"epoch\":%llu,\"time\":%llu,\"every\":60,\"gateways\":[],"
             "\"issuers\":[{\"name\":\"bank\",\"keys\":[{\"day\":7,\"units\":8,\"key\":\"%s\"}]}]}",
             (unsigned long long)epoch, (unsigned long long)epoch * 60, key);
    return text;
}

static void an_issuers_key_that_became_another_one_is_found(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r);
    log_append(r.s, with_issuer(100, "MIIB"));
    log_append(r.s, with_issuer(101, "MIIB"));
    expect_findings(&r, 0, "");
    log_append(r.s, with_issuer(102, "MIIC"));
    expect_findings(&r, 1, "entry 2: issuer bank: its key of day 7 for 8 units became another one");
    log_append(r.s, with_issuer(103, "MIIC"));
    expect_findings(&r, 1, "entry 2: issuer bank: its key of day 7 for 8 units became another one");
    log_append(r.s, with_issuer(104, "MIIB"));
    expect_findings(&r, 2, "entry 2: issuer bank: its key of day 7 for 8 units became another one");
    rig_close(&r);
}

static void a_tree_that_is_not_the_one_seen_before_is_found(void **state)
{
    (void)state;
    struct rig r;
    struct st_err e;
    struct st_log_monitor_result out;
    struct st_log_reply a;
    rig_open(&r);
    struct st_log_store *other = log_store_new(&r.w, "other");
    log_append(other, "x");
    log_append(other, "y");
    log_append(other, "z");
    log_answer(&r.w, other, "", 0, st_unix_time(), 2, &a);
    const struct st_span before = {(const uint8_t *)a.note.p, a.note.len};
    log_append(r.s, log_directory(100, "east"));
    assert_ok(monitor(&r, before, &out, &e), &e);
    assert_int_equal(out.findings, 1);
    assert_string_equal(r.found[0], "rollback: 1 entries, there were 3");
    for (uint64_t i = 0; i < 5; i++)
        log_append(r.s, log_directory(101 + i, "east"));
    assert_ok(monitor(&r, before, &out, &e), &e);
    assert_int_equal(out.findings, 1);
    assert_string_equal(r.found[0], "fork: the first 3 entries are not those of the checkpoint seen before");
    st_log_reply_wipe(&a);
    log_answer(&r.w, r.s, "", 0, st_unix_time(), 2, &a);
    log_append(r.s, log_directory(200, "east"));
    assert_ok(monitor(&r, (struct st_span){(const uint8_t *)a.note.p, a.note.len}, &out, &e), &e);
    assert_int_equal(out.findings, 0);
    st_log_reply_wipe(&a);
    st_log_store_close(other);
    rig_close(&r);
}

static void a_checkpoint_without_its_witnesses_is_not_read(void **state)
{
    (void)state;
    struct rig r;
    struct st_err e;
    struct st_log_monitor_result out;
    rig_open(&r);
    log_append(r.s, log_directory(100, "east"));
    r.w.keys.witnesses[0] = log_key_of(r.w.log, "witness.example/c", ST_NOTE_COSIGNATURE);
    r.w.keys.witnesses[0].key[0] ^= 1;
    expect_refusal(monitor(&r, (struct st_span){0}, &out, &e), &e, ST_VERIFY, "cosigned by 1 of 2");
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_honest_log_gives_no_finding),
        cmocka_unit_test(an_entry_or_a_tile_that_was_changed_is_found),
        cmocka_unit_test(directories_that_should_not_be_are_found),
        cmocka_unit_test(an_issuers_key_that_became_another_one_is_found),
        cmocka_unit_test(a_tree_that_is_not_the_one_seen_before_is_found),
        cmocka_unit_test(a_checkpoint_without_its_witnesses_is_not_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
