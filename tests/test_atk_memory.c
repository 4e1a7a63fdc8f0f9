/* Memory of the process that serves a sealed model: another process of the same user finds nothing in it, and all of it
 * in one that forbids nothing. Starts the binary named by SOTTO_BIN (default build/bin/sotto). */
#include "sealed_stage.h"

#include "audit/scan.h"

#include <unistd.h>

static void a_piece_in_a_file_is_found_across_its_chunks(void **state)
{
    (void)state;
    static struct st_scan_patterns s;
    static uint8_t bytes[(1 << 20) + 64];
    struct st_scan_result r;
    char dir[64], path[80];
    uint8_t p[ST_SCAN_LEN];
    for (size_t i = 0; i < sizeof p; i++)
        p[i] = (uint8_t)(7 * i + 3);
    assert_true(st_scan_add(&s, p));
    tiny_mkdir(dir);
    snprintf(path, sizeof path, "%s/core", dir);
    tiny_save(dir, "core", bytes, sizeof bytes);
    assert_int_equal(st_scan_file(path, &s, &r), 0);
    assert_int_equal(r.n_open, 0);
    memcpy(bytes + (1 << 20) - 10, p, sizeof p); /* the chunk ends in it */
    tiny_save(dir, "core", bytes, sizeof bytes);
    assert_int_equal(st_scan_file(path, &s, &r), 0);
    assert_int_equal(r.n_open, 1);
    assert_int_equal(st_scan_file("/nonexistent", &s, &r), -1);
    tiny_rmdir(dir);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#elif defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define SANITIZED false
#endif

static void a_process_of_the_same_user_finds_nothing(void **state)
{
    (void)state;
    const char *given = getenv("SOTTO_BIN");
    struct sealed_stage s;
    struct st_err e = {0};
    if (SANITIZED) {
        print_message("skipped: a sanitizer maps terabytes, and keeps what was freed\n");
        skip();
    }
    char dir[64];
    tiny_mkdir(dir);
    sealed_set_up(&s, "models/demo", "all-inside");
    s.audit.program = given ? given : "build/bin/sotto";
    s.audit.dir = dir;
    int rc = st_atk_memory.run(&s.audit, &s.rows, &e);
    for (size_t i = 0; i < s.rows.n; i++) {
        const struct st_row *r = &s.rows.at[i];
        print_message("  %s: %.3f, unprotected %.3f\n", r->variant, r->score, r->unprotected);
        assert_true(r->score == 0 && r->unprotected > 0.99);
    }
    size_t n = s.rows.n;
    sealed_tear_down(&s);
    assert_int_equal(rmdir(dir), 0); /* nothing is left in it */
    if (rc == ST_UNSUPPORTED && strstr(e.msg, "to every process")) {
        print_message("skipped: %s\n", e.msg);
        skip();
    }
    assert_ok(rc, &e);
    assert_true(n >= 1);
}

static void unless_it_was_asked_for_it_is_not_run(void **state)
{
    (void)state;
    struct sealed_stage s;
    struct st_err e;
    sealed_set_up(&s, NULL, "all-inside");
    expect_refusal(st_atk_memory.run(&s.audit, &s.rows, &e), &e, ST_UNSUPPORTED, "where --attacks names it");
    s.audit.program = "/nonexistent/sotto";
    s.audit.dir = "/nonexistent";
    expect_refusal(st_atk_memory.run(&s.audit, &s.rows, &e), &e, ST_IO, "/nonexistent/sotto");
    assert_int_equal(s.rows.n, 0);
    sealed_tear_down(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_piece_in_a_file_is_found_across_its_chunks),
        cmocka_unit_test(a_process_of_the_same_user_finds_nothing),
        cmocka_unit_test(unless_it_was_asked_for_it_is_not_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
