/* SQLite files of ours: whose they are, who may read them, and that a commit is whole or not there. */
#include "base/file.h"
#include "expect.h"
#include "service/database.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[64], path[128];

static int make_dir(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/sotto_database_XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof path, "%s/db", dir);
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r '%s'", dir);
    return system(command);
}

static const struct st_db_opts opts = {.what = "a test's database",
                                       .id = 0x53747473,
                                       .version = 1,
                                       .schema = "CREATE TABLE t (a INTEGER PRIMARY KEY, b BLOB) STRICT"};

static void a_file_is_made_for_its_owner_only_and_keeps_its_rows(void **state)
{
    (void)state;
    struct st_err e;
    struct st_db *d;
    struct stat sb;
    sqlite3_stmt *s;
    bool row, found;
    int64_t n;
    assert_ok(st_db_open(path, &opts, &d, &e), &e);
    assert_ok(st_db_run(d, "INSERT INTO t VALUES (?, ?)", ST_DB_ARGS(ST_DB_INT(7), ST_DB_BYTES("\0\1", 2)), &n, &e),
              &e);
    assert_int_equal(n, 1);
    st_db_close(d);
    assert_int_equal(stat(path, &sb), 0);
    assert_int_equal(sb.st_mode & 0777, 0600);
    assert_ok(st_db_open(path, &opts, &d, &e), &e);
    assert_ok(st_db_start(d, "SELECT a, b FROM t", ST_DB_NO_ARGS, &s, &e), &e);
    assert_ok(st_db_next(d, s, &row, &e), &e);
    assert_true(row);
    struct st_span b = st_db_bytes(s, 1);
    assert_int_equal(b.len, 2);
    assert_memory_equal(b.p, "\0\1", 2);
    assert_ok(st_db_next(d, s, &row, &e), &e);
    assert_false(row);
    st_db_done(s);
    assert_ok(st_db_number(d, "SELECT a FROM t WHERE a=?", ST_DB_ARGS(ST_DB_INT(8)), &n, &found, &e), &e);
    assert_false(found);
    st_db_close(d);
}

static void a_transaction_that_fails_leaves_nothing(void **state)
{
    (void)state;
    struct st_err e;
    struct st_db *d;
    int64_t n;
    bool found;
    assert_ok(st_db_open(":memory:", &opts, &d, &e), &e);
    assert_ok(st_db_begin(d, &e), &e);
    assert_ok(st_db_run(d, "INSERT INTO t VALUES (1, NULL)", ST_DB_NO_ARGS, NULL, &e), &e);
    int rc = st_db_run(d, "INSERT INTO t VALUES (1, NULL)", ST_DB_NO_ARGS, NULL, &e);
    expect_refusal(rc, &e, ST_IO, ":memory:");
    expect_refusal(st_db_end(d, rc, &e), &e, ST_IO, ":memory:");
    assert_ok(st_db_number(d, "SELECT count(*) FROM t", ST_DB_NO_ARGS, &n, &found, &e), &e);
    assert_int_equal(n, 0);
    st_db_close(d);
}

static void a_file_that_others_can_read_is_refused(void **state)
{
    (void)state;
    struct st_err e;
    struct st_db *d;
    assert_int_equal(chmod(path, 0640), 0);
    expect_refusal(st_db_open(path, &opts, &d, &e), &e, ST_POLICY, "readable by others");
    assert_int_equal(chmod(path, 0600), 0);
    expect_refusal(st_db_open(dir, &opts, &d, &e), &e, ST_IO, "cannot open");
    expect_refusal(st_db_open("/tmp/no/such/place", &opts, &d, &e), &e, ST_IO, "cannot open");
}

static void files_of_another_kind_or_version_are_refused(void **state)
{
    (void)state;
    struct st_err e;
    struct st_db *d;
    struct st_db_opts other = opts;
    other.id++;
    expect_refusal(st_db_open(path, &other, &d, &e), &e, ST_INPUT, "not a test's database");
    other = opts;
    other.version = 2;
    expect_refusal(st_db_open(path, &other, &d, &e), &e, ST_UNSUPPORTED, "version 1");
    char junk[128];
    snprintf(junk, sizeof junk, "%s/junk", dir);
    assert_ok(st_file_write(junk, "this is certainly no database of anybody's, is it?", 50, 0600, false, &e), &e);
    expect_refusal(st_db_open(junk, &opts, &d, &e), &e, ST_INPUT, "SQLite");
}

static void a_file_that_is_ours_alone_is_opened_once(void **state)
{
    (void)state;
    struct st_err e;
    struct st_db *d, *second;
    struct st_db_opts alone = opts;
    alone.exclusive = true;
    assert_ok(st_db_open(path, &alone, &d, &e), &e);
    expect_refusal(st_db_open(path, &alone, &second, &e), &e, ST_IO, "in use");
    st_db_close(d);
    assert_ok(st_db_open(path, &alone, &d, &e), &e);
    st_db_close(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_is_made_for_its_owner_only_and_keeps_its_rows),
        cmocka_unit_test(a_transaction_that_fails_leaves_nothing),
        cmocka_unit_test(a_file_that_others_can_read_is_refused),
        cmocka_unit_test(files_of_another_kind_or_version_are_refused),
        cmocka_unit_test(a_file_that_is_ours_alone_is_opened_once),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
