/* `sotto attest receipt` as a user meets it: a receipt that a node signed, against the evidence of that node. Runs the
 * binary named by SOTTO_BIN (default build/bin/sotto). */
#include "expect.h"

#include "base/file.h"
#include "channel/receipt.h"
#include "collect_make.h"
#include "crypto/digest.h"
#include "text/json.h"

#include <sys/wait.h>

static struct made_dir dir;
static struct st_buf out;

/* Runs in the test's folder; returns the exit status. */
static int attest(const char *args)
{
    char cmd[8192], bin[4096];
    struct st_err e;
    const char *given = getenv("SOTTO_BIN");
    assert_non_null(realpath(given ? given : "build/bin/sotto", bin));
    snprintf(cmd, sizeof cmd, "cd %s && env -u SOTTO_BIN -u SOTTO_SHARED %s attest receipt %s --config= >out 2>&1",
             dir.path, bin, args);
    int status = system(cmd);
    assert_true(WIFEXITED(status));
    snprintf(cmd, sizeof cmd, "%s/out", dir.path);
    assert_ok(st_file_read(cmd, 1 << 20, &out, &e), &e);
    st_buf_add(&out, "", 0);
    return WEXITSTATUS(status);
}

static void expect(const char *args, int code, const char *says)
{
    int rc = attest(args);
    if (rc != code || !strstr(out.p, says))
        fail_msg("%s: want %d and '%s', got %d\n%s", args, code, says, rc, out.p);
}

static void put_receipt(const char *name, const struct st_ed25519 *k, const char *reply, const uint8_t model[32],
                        bool as_bytes)
{
    struct st_receipt r = {.time = st_unix_time()};
    struct st_err e;
    uint8_t bytes[ST_RECEIPT_LEN];
    char hex[2 * ST_RECEIPT_LEN + 1];
    st_sha256("request", 7, r.request);
    st_sha256(reply, strlen(reply), r.reply);
    memcpy(r.model, model, 32);
    assert_ok(st_receipt_sign(&r, k, bytes, &e), &e);
    st_hex(bytes, sizeof bytes, hex);
    made_bytes(&dir, name, as_bytes ? (const void *)bytes : hex, as_bytes ? sizeof bytes : strlen(hex));
}

/* A node of kind sim with a receipt key, its evidence, and receipts of several kinds. */
static int setup(void **state)
{
    static const char *const kinds[] = {"sim"};
    struct st_err e;
    struct st_ed25519 *k, *other;
    struct st_collection *c;
    struct st_bundle b;
    struct st_buf text = {0};
    (void)state;
    dir = made_dir();
    const struct st_collect_opts o = {.sim_key = made_file(&dir, "seed", SIM_SEED)};
    struct st_binding keys = made_binding();
    assert_ok(st_ed25519_new(&k, &e), &e);
    assert_ok(st_ed25519_new(&other, &e), &e);
    st_ed25519_public(k, keys.receipt_key);
    assert_ok(st_collection_open(kinds, 1, &o, &c, &e), &e);
    assert_ok(st_collection_collect(c, &keys, &b, &e), &e);
    st_bundle_write(&b, &text);
    made_bytes(&dir, "bundle", text.p, text.len);
    made_file(&dir, "policy", "{\"version\": 1, \"require\": [\"sim\"], \"sim_root\": \"" SIM_ROOT "\"}");
    made_file(&dir, "strict",
              "{\"version\": 1, \"require\": [\"sim\"], \"sim_root\": \"" SIM_ROOT
              "\", \"minimum\": {\"sim.svn\": 99}}");
    made_file(&dir, "request", "request");
    made_file(&dir, "reply", "reply");
    put_receipt("good", k, "reply", keys.model, false);
    put_receipt("good.bin", k, "reply", keys.model, true);
    put_receipt("other.key", other, "reply", keys.model, false);
    put_receipt("other.model", k, "reply", keys.engine, false);
    st_bundle_free(&b);
    st_collection_close(c);
    st_ed25519_free(k);
    st_ed25519_free(other);
    st_buf_free(&text);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    made_dir_remove(&dir);
    st_buf_free(&out);
    return 0;
}

#define BY " --evidence bundle --policy policy"

static void a_receipt_of_the_node_passes(void **state)
{
    (void)state;
    expect("good" BY, 0, "receipt.signature");
    expect("good" BY " --request request --reply reply", 0, "verdict: pass");
    expect("good.bin" BY " --request request --reply reply", 0, "verdict: pass");
}

static void other_contents_keys_and_models_do_not(void **state)
{
    (void)state;
    expect("good" BY " --request reply", 5, "receipt.request");
    expect("good" BY " --reply request", 5, "receipt.reply");
    expect("other.key" BY, 5, "receipt.key");
    expect("other.model" BY, 5, "receipt.model");
    expect("good --evidence bundle --policy strict", 6, "policy.minimum.sim.svn");
    /* Long before the evidence was made. */
    expect("good" BY " --time 2020-01-01T00:00:00Z", 5, "sim.time");
}

static void every_flipped_digit_is_noticed(void **state)
{
    struct st_err e;
    struct st_buf hex = {0};
    char path[128];
    (void)state;
    snprintf(path, sizeof path, "%s/good", dir.path);
    assert_ok(st_file_read(path, 1024, &hex, &e), &e);
    snprintf(path, sizeof path, "%s/flipped", dir.path);
    for (size_t i = 0; i < hex.len; i += 37) {
        char was = hex.p[i];
        hex.p[i] = was == '0' ? '1' : '0';
        assert_ok(st_file_write(path, hex.p, hex.len, 0600, true, &e), &e);
        int rc = attest("flipped" BY " --request request --reply reply");
        /* In magic and version it is no receipt of this version at all. */
        if (rc != ST_VERIFY && (i >= 24 || (rc != ST_INPUT && rc != ST_UNSUPPORTED)))
            fail_msg("digit %zu: got %d\n%s", i, rc, out.p);
        hex.p[i] = was;
    }
    st_buf_free(&hex);
}

static void bad_input_is_named(void **state)
{
    (void)state;
    expect("good --policy policy", 2, "want --evidence");
    expect("good --evidence bundle", 2, "attest receipt: want --policy");
    expect("request" BY, 3, "request: want a receipt");
    expect("none" BY, 4, "none: ");
    expect("good" BY " --reply none", 4, "none: ");
    expect("good" BY " --checkpoint request", 2, "the policy names no log");
    expect("good --evidence request --policy policy", 5, "request");
}

static void the_verdict_holds_what_the_receipt_says(void **state)
{
    struct st_err e;
    json_t *o;
    (void)state;
    assert_int_equal(attest("good --json" BY), 0);
    assert_ok(st_json_parse(out.p, out.len, "verdict", &o, &e), &e);
    const json_t *claims = json_object_get(o, "claims");
    assert_string_equal(json_string_value(json_object_get(o, "verdict")), "pass");
    assert_non_null(json_string_value(json_object_get(claims, "receipt.time")));
    assert_non_null(json_string_value(json_object_get(claims, "receipt.reply_hash")));
    json_decref(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_receipt_of_the_node_passes),
        cmocka_unit_test(other_contents_keys_and_models_do_not),
        cmocka_unit_test(every_flipped_digit_is_noticed),
        cmocka_unit_test(bad_input_is_named),
        cmocka_unit_test(the_verdict_holds_what_the_receipt_says),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
