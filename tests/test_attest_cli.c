/* `sotto attest` as a user meets it: exit codes, the verdict as text and as JSON, evidence from files. Runs the binary
 * named by SOTTO_BIN (default build/bin/sotto). */
#include "expect.h"

#include "attest/ev_sim.h"
#include "attest/policy.h"
#include "base/file.h"
#include "crypto/digest.h"
#include "text/json.h"

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[] = "/tmp/sotto-attest-XXXXXX";
static struct st_ed25519 *root;
static struct st_buf out, err;

static void put(const char *name, const void *p, size_t len)
{
    char path[128];
    struct st_err e;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_ok(st_file_write(path, p, len, 0600, true, &e), &e);
}

static void slurp(const char *name, struct st_buf *b)
{
    char path[128];
    struct st_err e;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_ok(st_file_read(path, 1 << 20, b, &e), &e);
    st_buf_add(b, "", 0);
}

/* Runs in the test's folder; returns the exit status. */
static int attest(const char *args)
{
    char cmd[8192], bin[4096];
    const char *given = getenv("SOTTO_BIN");
    assert_non_null(realpath(given ? given : "build/bin/sotto", bin));
    snprintf(cmd, sizeof cmd, "cd %s && env -u SOTTO_BIN -u SOTTO_SHARED %s attest %s --config= >out 2>err", dir, bin,
             args);
    int status = system(cmd);
    assert_true(WIFEXITED(status));
    slurp("out", &out);
    slurp("err", &err);
    return WEXITSTATUS(status);
}

static void expect(const char *args, int code, const char *says)
{
    int rc = attest(args);
    if (rc != code || (!strstr(out.p, says) && !strstr(err.p, says)))
        fail_msg("%s: want %d and '%s', got %d\n%s%s", args, code, says, rc, out.p, err.p);
}

static int setup(void **state)
{
    (void)state;
    struct st_err e;
    const struct st_sim s = {.svn = 3, .time = 1750000000, .measurement = {0xaa}, .report_data = {0xab, 0xcd}};
    uint8_t bytes[ST_SIM_LEN], public[32];
    char hex[2 * ST_SIM_LEN + 1], policy[512];
    assert_non_null(mkdtemp(dir));
    assert_ok(st_ed25519_new(&root, &e), &e);
    assert_ok(st_sim_collect(root, &s, bytes, &e), &e);
    put("sim", bytes, sizeof bytes);
    st_hex(bytes, sizeof bytes, hex);
    put("sim.hex", hex, strlen(hex));
    put("cut", bytes, 100);
    bytes[40] ^= 1;
    put("flipped", bytes, sizeof bytes);
    st_ed25519_public(root, public);
    st_hex(public, 32, hex);
    snprintf(policy, sizeof policy, "{\"version\": 1, \"require\": [\"sim\"], \"sim_root\": \"%s\"}", hex);
    put("good", policy, strlen(policy));
    snprintf(policy, sizeof policy,
             "{\"version\": 1, \"require\": [\"sim\"], \"sim_root\": \"%s\", \"minimum\": {\"sim.svn\": 4}}", hex);
    put("newer", policy, strlen(policy));
    static const char any[] = "{\"version\": 1, \"require\": \"any\", \"signature_only\": true}",
                      bad[] = "{\"version\": 1}";
    put("any", any, strlen(any));
    put("bad", bad, strlen(bad));
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    char cmd[64];
    snprintf(cmd, sizeof cmd, "rm -r %s", dir);
    st_ed25519_free(root);
    st_buf_free(&out);
    st_buf_free(&err);
    return system(cmd);
}

static void exit_codes_say_what_is_wrong(void **state)
{
    (void)state;
#define AT " --time 2025-07-01T00:00:00Z"
    expect("verify sim --policy good" AT, 0, "verdict: pass");
    expect("verify sim.hex --policy good" AT, 0, "verdict: pass");
    expect("verify sim --policy good --nonce abcd" AT, 0, "policy.nonce.sim");
    expect("verify flipped --policy good" AT, 5, "sim.signature: ");
    expect("verify cut --policy good" AT, 5, "sim.format: ");
    expect("verify good --policy good" AT, 5, "unknown field 'require'");
    expect("verify sim --policy good --time 2025-06-15T15:06:39Z", 5, "sim.time");
    expect("verify sim --policy good --time 2025-06-15T17:06:40.5+02:00", 0, "2025-06-15T15:06:40Z");
    expect("verify sim --policy newer" AT, 6, "policy.minimum.sim.svn: 3, want at least 4");
    expect("verify sim --policy any" AT, 5, "sim.signature");
    expect("verify sim --policy good --nonce abce" AT, 6, "policy.nonce.sim: ");
    expect("verify sim --policy bad" AT, 3, "require: missing");
    expect("verify sim --policy none" AT, 4, "none: ");
    expect("verify none --policy good" AT, 4, "none: ");
    expect("verify sim --policy good --endorsements none" AT, 4, "none: ");
    expect("verify sim --policy good --endorsements good" AT, 5, "good: want certificates");
    expect("verify sim" AT, 2, "want --policy");
    expect("verify sim --policy good --time yesterday", 2, "--time: want RFC 3339");
    expect("verify sim --policy good --time 2025-13-01T00:00:00Z", 2, "--time: want RFC 3339");
    expect("verify sim --policy good --nonce xyz" AT, 2, "--nonce: want");
    expect("show sim --policy good", 2, "verifies nothing");
    expect("judge sim", 2, "want `verify FILE`");
    expect("show cut", 3, "sim: want 192 bytes");
    expect("show good", 3, "unknown field");
    expect("show none", 4, "none: ");
}

static void the_verdict_is_one_json_object(void **state)
{
    (void)state;
    static const char *const runs[][3] = {{"verify sim --json --policy good" AT, "pass", "ok"},
                                          {"verify flipped --json --policy good" AT, "fail", "verify"},
                                          {"verify sim --json --policy newer" AT, "fail", "policy"},
                                          {"verify bad --json --policy good" AT, "fail", "verify"}};
    static const int codes[] = {0, 5, 6, 5};
    for (size_t i = 0; i < 4; i++) {
        json_t *o;
        struct st_err e;
        assert_int_equal(attest(runs[i][0]), codes[i]);
        assert_ok(st_json_parse(out.p, out.len, "verdict", &o, &e), &e);
        assert_string_equal(json_string_value(json_object_get(o, "verdict")), runs[i][1]);
        assert_string_equal(json_string_value(json_object_get(o, "code")), runs[i][2]);
        const json_t *checks = json_object_get(o, "checks");
        assert_true(json_array_size(checks) > 0);
        for (size_t k = 0; k < json_array_size(checks); k++) {
            const json_t *c = json_array_get(checks, k);
            assert_true(json_is_string(json_object_get(c, "name")) && json_is_string(json_object_get(c, "result")) &&
                        json_is_boolean(json_object_get(c, "required")) &&
                        json_is_string(json_object_get(c, "detail")));
        }
        json_decref(o);
    }
}

static void show_prints_every_claim(void **state)
{
    (void)state;
    expect("show sim", 0, "sim.measurement              aa00");
    expect("show sim", 0, "nothing of it is verified");
    assert_int_equal(attest("show sim --json"), 0);
    json_t *o;
    struct st_err e;
    assert_ok(st_json_parse(out.p, out.len, "show", &o, &e), &e);
    const json_t *item = json_array_get(json_object_get(o, "items"), 0), *claims = json_object_get(item, "claims");
    assert_string_equal(json_string_value(json_object_get(item, "kind")), "sim");
    assert_int_equal(json_integer_value(json_object_get(claims, "sim.svn")), 3);
    assert_string_equal(json_string_value(json_object_get(claims, "sim.time")), "2025-06-15T15:06:40Z");
    json_decref(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exit_codes_say_what_is_wrong),
        cmocka_unit_test(the_verdict_is_one_json_object),
        cmocka_unit_test(show_prints_every_claim),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
