/* `sotto audit` on the command line: what is wrong is said in one line with its exit status; a demo audit gives rows, a
 * report and a judged gate. Runs the binary named by SOTTO_BIN (default build/bin/sotto). */
#include "cov_make.h"
#include "record_bytes.h"
#include "text/json.h"

#include <sys/stat.h>
#include <sys/wait.h>

#define DEMO "models/demo"

static struct st_buf out, err;

static void slurp(const char *name, struct st_buf *b)
{
    struct st_err e = {0};
    assert_ok(st_file_read(in_work(name), 64u << 20, b, &e), &e);
    st_buf_add(b, "", 0);
}

static int sotto(const char *fmt, ...) ST_PRINTF(1, 2);
static int sotto(const char *fmt, ...)
{
    char args[2048], cmd[4096];
    const char *bin = getenv("SOTTO_BIN");
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(args, sizeof args, fmt, ap);
    va_end(ap);
    snprintf(cmd, sizeof cmd, "env -u SOTTO_BIN XDG_CONFIG_HOME=%s/none TMPDIR=%s %s %s --config= >%s/out 2>%s/err",
             work, work, bin ? bin : "build/bin/sotto", args, work, work);
    int status = system(cmd);
    slurp("out", &out);
    slurp("err", &err);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void put(const char *name, const char *text)
{
    struct st_err e = {0};
    assert_ok(st_file_write(in_work(name), text, strlen(text), 0644, true, &e), &e);
}

static void refused(int want, int got, const char *says)
{
    if (got != want || !strstr(err.p ? err.p : "", says))
        fail_msg("want %d '%s', got %d: %s", want, says, got, err.p ? err.p : "");
}

static void mistakes_have_their_exit_status(void **state)
{
    (void)state;
    put("text", "Once upon a time there was a dog.\n");
    put("bad.json", "{\"version\": 1}");
    refused(2, sotto("audit"), "want demo, or BASE");
    refused(2, sotto("audit " DEMO), "want demo, or BASE");
    refused(2, sotto("audit demo --attacks none-such"), "'none-such' is none");
    refused(2, sotto("audit demo --adversary nobody"), "'nobody' is none");
    refused(2, sotto("audit demo --key k"), "--key does not go with demo");
    refused(2, sotto("audit " DEMO " x --model y"), "--model");
    refused(2, sotto("audit demo --html /dev/null"), "--html: /dev/null: want a plain file");
    refused(2, sotto("audit demo --markdown %s", work), "want a plain file");
    assert_int_equal(mkdir(in_work("r.md.series.svg"), 0700), 0);
    refused(2, sotto("audit demo --markdown %s/r.md", work), "r.md.series.svg: want a plain file");
    assert_int_equal(rmdir(in_work("r.md.series.svg")), 0);
    refused(3, sotto("audit demo --gate %s/bad.json", work), "limits");
    refused(3, sotto("audit " DEMO " %s/text --text %s/text --prior %s/text", work, work, work), "want an obfuscated");
    refused(4, sotto("audit " DEMO " %s/absent --text %s/text --prior %s/text", work, work, work), "no such file");
    refused(4, sotto("audit demo --text %s/absent", work), "absent");
}

static void a_demo_audit_gives_rows_a_report_and_a_judged_gate(void **state)
{
    struct st_err e = {0};
    json_t *o;
    struct st_buf page = {0};
    (void)state;
    put("text", "Once upon a time there was a little dog.\n\nThe cat sat by the tree and sang all day.\n");
    put("gate.json",
        "{\"version\": 1, \"limits\": [{\"attack\": \"null-space\", \"variant\": \"remo\", \"max\": 0.01}]}");
    refused(6,
            sotto("audit demo --attacks null-space --adversary worker --text %s/text --prior %s/text --json --html "
                  "%s/r.html --markdown %s/r.md --gate %s/gate.json --quiet",
                  work, work, work, work, work),
            "over the limit: null-space (remo");
    assert_ok(st_json_parse(out.p, out.len, "audit", &o, &e), &e);
    const json_t *rows = json_object_get(o, "rows");
    assert_true(json_array_size(rows) >= 3);
    assert_string_equal(json_string_value(json_object_get(json_array_get(rows, 0), "attack")), "null-space");
    json_decref(o);
    assert_ok(st_file_read(in_work("r.html"), 1u << 24, &page, &e), &e);
    assert_non_null(strstr(page.p, "</html>"));
    assert_non_null(strstr(page.p, "<code>sotto audit demo --adversary worker --text"));
    assert_true(st_path_exists(in_work("r.md")) && st_path_exists(in_work("r.md.svg")));
    st_buf_free(&page);
    /* Nothing of the demo stays. */
    DIR *d = opendir(work);
    assert_non_null(d);
    for (struct dirent *f; (f = readdir(d));)
        assert_null(strstr(f->d_name, "sotto-demo"));
    closedir(d);
}

/* Rows of zeros, but for one that is no number: an attack that reads it fails, those that count rows do not. */
static void an_attack_that_fails_is_said_behind_the_rows_of_the_others(void **state)
{
    static const uint32_t nan = 0x7fc00000;
    struct st_err e = {0};
    struct st_buf b = {0};
    json_t *o;
    (void)state;
    put("text", "Once upon a time there was a dog.\n\nThe cat sat by the tree.\n");
    put_file_head(&b);
    for (int l = 0; l < 6; l++) {
        put_entry(&b, (uint64_t)l, l, "q,k,v", 40, 192);
        if (l == 0)
            memcpy(b.p + b.len - sizeof nan * 40 * 192, &nan, sizeof nan);
    }
    assert_false(b.failed);
    assert_ok(st_file_write(in_work("seen"), b.p, b.len, 0600, true, &e), &e);
    st_buf_free(&b);
    refused(3,
            sotto("audit " DEMO " %s/seen --text %s/text --prior %s/text --attacks pad-reuse,row-counts --json --quiet",
                  work, work, work),
            "pad-reuse: recording");
    assert_ok(st_json_parse(out.p, out.len, "audit", &o, &e), &e);
    const json_t *lost = json_array_get(json_object_get(o, "not_run"), 0);
    assert_string_equal(json_string_value(json_object_get(lost, "attack")), "pad-reuse");
    assert_string_equal(json_string_value(json_object_get(lost, "code")), "input");
    assert_true(json_array_size(json_object_get(o, "rows")) >= 1);
    json_decref(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(mistakes_have_their_exit_status, make_work, drop_work),
        cmocka_unit_test_setup_teardown(an_attack_that_fails_is_said_behind_the_rows_of_the_others, make_work,
                                        drop_work),
        cmocka_unit_test_setup_teardown(a_demo_audit_gives_rows_a_report_and_a_judged_gate, make_work, drop_work),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    st_buf_free(&out);
    st_buf_free(&err);
    return rc;
}
