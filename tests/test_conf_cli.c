/* The commands of the client's side against a made far side: what options are wanted, and the refusal drill. */
#include "expect.h"

#include "base/file.h"
#include "conf_make.h"

#include <sys/wait.h>

static struct far far;
static struct st_buf out;

static int setup(void **state)
{
    struct st_err e;
    (void)state;
    far_open(&far, 2);
    far_publish(&far);
    assert_ok(st_role_start(far.role, &e), &e);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    st_role_stop(far.role);
    far_close(&far);
    far_forget();
    st_buf_free(&out);
    return 0;
}

/* Runs `sotto ARGS`; what it says, on both streams, goes to `out`. Returns the exit status. */
static int sotto(const char *fmt, ...) ST_PRINTF(1, 2);
static int sotto(const char *fmt, ...)
{
    char args[1024], cmd[2048], path[128];
    const char *bin = getenv("SOTTO_BIN");
    struct st_err e;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(args, sizeof args, fmt, ap);
    va_end(ap);
    snprintf(path, sizeof path, "%s/out", far.log.dir);
    snprintf(cmd, sizeof cmd, "env -u SOTTO_BIN XDG_CONFIG_HOME=%s/none timeout 20 %s %s >%s 2>&1", far.log.dir,
             bin ? bin : "build/bin/sotto", args, path);
    int status = system(cmd);
    assert_ok(st_file_read(path, 1 << 20, &out, &e), &e);
    st_buf_add(&out, "", 0);
    return WEXITSTATUS(status);
}

static void expect(int got, int want, const char *says)
{
    if (got != want || !strstr(out.p, says))
        fail_msg("want %d '%s', got %d: %s", want, says, got, out.p);
}

static void the_proxy_says_which_option_is_missing_or_not_for_it(void **state)
{
    (void)state;
    expect(sotto("proxy --protect confidential"), 2, "missing: --policy");
    expect(sotto("proxy --protect confidential --policy p --relay http://x --issuer http://x"), 2, "--account-file");
    expect(sotto("proxy --protect confidential --policy p --key k"), 2, "for the other protections");
    expect(sotto("proxy --protect confidential models/demo"), 2, "for --protect masked");
    expect(sotto("proxy --relay http://x"), 2, "--relay: only with --protect confidential");
    expect(sotto("proxy --protect masked models/demo --worker unix:/x --policy p"), 2,
           "--policy: only with --protect confidential");
    expect(sotto("proxy --protect confidential --policy %s/none --relay http://x --issuer http://x --account-file a "
                 "--state %s/state",
                 far.log.dir, far.log.dir),
           4, "none");
    expect(sotto("proxy --protect confidential --tag model"), 2, "NAME=VALUE");
    expect(sotto("doctor --network --json"), 0, "");
}

static void a_drill_shows_every_refusal(void **state)
{
    (void)state;
    far_write_policy(&far, 1, ", \"max_age_s\": 3600");
    expect(sotto("drill --policy %s --relay %s --json", far.policy, far.url), 0, "\"right\":true");
    struct st_err e;
    json_t *v, *r, *rows;
    size_t i;
    assert_ok(st_json_parse(out.p, out.len, "drill", &v, &e), &e);
    rows = json_object_get(v, "rows");
    assert_int_equal(json_array_size(rows), 9);
    json_array_foreach(rows, i, r)
    {
        assert_true(json_is_true(json_object_get(r, "right")));
        assert_int_equal(json_is_true(json_object_get(r, "refused")), i != 0);
        assert_int_equal(json_string_length(json_object_get(r, "why")) > 0, i != 0);
    }
    json_decref(v);
    expect(sotto("drill --policy %s --relay %s", far.policy, far.url), 0, "accepted the node as it is");
    assert_int_equal(far.n_request, 0);
    assert_int_equal(far.n_seen, 0); /* nothing is paid */
}

static void a_drill_of_a_node_that_is_not_good_says_so(void **state)
{
    (void)state;
    far_write_policy(&far, 1, ", \"minimum\": {\"sim.svn\": 9}");
    expect(sotto("drill --policy %s --relay %s", far.policy, far.url), 5, "policy.minimum.sim.svn");
    expect(sotto("drill --policy %s", far.policy), 2, "missing: --relay");
    expect(sotto("drill --policy %s --relay http://127.0.0.1:1", far.policy), 4, "");
    far_put_file(far.policy, "{\"version\": 1, \"require\": [\"tdx\"]}");
    expect(sotto("drill --policy %s --relay %s", far.policy, far.url), 6, "names a log");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_proxy_says_which_option_is_missing_or_not_for_it),
        cmocka_unit_test(a_drill_shows_every_refusal),
        cmocka_unit_test(a_drill_of_a_node_that_is_not_good_says_so),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
