/* `sotto issuer` and `sotto wallet` as a user meets them: exit codes, one line on errors, text and JSON. Runs the
 * binary named by SOTTO_BIN (default build/bin/sotto). */
#include "expect.h"

#include "base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[] = "/tmp/sotto-issuer-XXXXXX";
static struct st_buf out, err;

static void slurp(const char *name, struct st_buf *b)
{
    char path[128];
    struct st_err e;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_ok(st_file_read(path, 1 << 20, b, &e), &e);
    st_buf_add(b, "", 0);
}

/* Runs in the test's folder. */
static void expect(const char *args, int code, const char *says)
{
    char cmd[8192], bin[4096];
    const char *given = getenv("SOTTO_BIN");
    assert_non_null(realpath(given ? given : "build/bin/sotto", bin));
    snprintf(cmd, sizeof cmd, "cd %s && env -u SOTTO_BIN -u SOTTO_SHARED %s %s --config= >out 2>err", dir, bin, args);
    int status = system(cmd);
    assert_true(WIFEXITED(status));
    slurp("out", &out);
    slurp("err", &err);
    if (WEXITSTATUS(status) != code || (!strstr(out.p, says) && !strstr(err.p, says)))
        fail_msg("%s: want %d and '%s', got %d\n%s%s", args, code, says, WEXITSTATUS(status), out.p, err.p);
    const char *nl = strchr(err.p, '\n');
    if (code && (!nl || nl[1])) /* one line */
        fail_msg("%s: %s", args, err.p);
}

static int set_up(void **state)
{
    (void)state;
    return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    char cmd[128];
    st_buf_free(&out);
    st_buf_free(&err);
    snprintf(cmd, sizeof cmd, "rm -r %s", dir);
    return system(cmd);
}

static void accounts_are_added_changed_listed_and_removed(void **state)
{
    (void)state;
    char path[128];
    struct stat sb;
    expect("issuer account add alice --db i.db --units 100 --daily 5 -q", 0, "\n");
    assert_int_equal(out.len, 65); /* the key alone, for a file */
    expect("issuer account add bob --db i.db", 0, "shown this once");
    expect("issuer account add alice --db i.db", 3, "account alice: is there already");
    expect("issuer account set alice --db i.db --units 7", 0, "");
    expect("issuer account set carol --db i.db --units 7", 3, "account carol: there is none");
    expect("issuer account list --db i.db --json", 0,
           "{\"accounts\":[{\"name\":\"alice\",\"units\":7,\"daily\":5,\"used_today\":0},"
           "{\"name\":\"bob\",\"units\":0,\"daily\":0,\"used_today\":0}]}");
    expect("issuer account remove bob --db i.db", 0, "");
    expect("issuer account remove bob --db i.db", 3, "account bob: there is none");
    expect("issuer account list --db i.db", 0, "7 units, 0 of 5 used today");
    snprintf(path, sizeof path, "%s/i.db", dir);
    assert_int_equal(stat(path, &sb), 0);
    assert_int_equal(sb.st_mode & 0777, 0600);
}

static void gateways_have_names_of_their_own(void **state)
{
    (void)state;
    expect("issuer gateway add alice --db i.db --json", 0, "\"key\":\"");
    expect("issuer gateway list --db i.db --json", 0, "{\"gateways\":[{\"name\":\"alice\"}]}");
    expect("issuer gateway remove alice --db i.db", 0, "");
    expect("issuer gateway list --db i.db", 0, "no gateways");
    expect("issuer account list --db i.db", 0, "alice");
}

static void what_is_wrong_is_one_line_and_a_code(void **state)
{
    (void)state;
    expect("issuer", 2, "");
    expect("issuer account list", 2, "--db FILE");
    expect("issuer nonsense --db i.db", 2, "want `serve`");
    expect("issuer account add --db i.db", 2, "issuer account: want `list`");
    expect("issuer account add a/b --db i.db", 2, "want a name");
    expect("issuer gateway add g --db i.db --units 5", 2, "issuer gateway: want");
    expect("issuer account add a --db i.db --units -1", 2, "--units");
    expect("issuer serve --db i.db --log http://127.0.0.1:1", 2, "--log-key-file");
    expect("issuer serve --db i.db --host 0.0.0.0 --port 0", 6, "--tls-cert");
    expect("issuer keys --db /no/such/place", 4, "/no/such/place");
    expect("issuer account list --db out", 6, "readable by others");
}

static void a_wallet_is_shown_and_refused_by_name(void **state)
{
    (void)state;
    expect("wallet show none", 4, "there is no wallet");
    expect("wallet show i.db", 3, "not a wallet");
    expect("wallet look i.db", 2, "want `show FILE`");
    expect("wallet buy w.db --units 5", 2, "missing: --policy");
    expect("wallet buy w.db --units 5 --policy none --log http://127.0.0.1:1 --issuer http://127.0.0.1:1 "
           "--account-file none",
           4, "none");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accounts_are_added_changed_listed_and_removed),
        cmocka_unit_test(gateways_have_names_of_their_own),
        cmocka_unit_test(what_is_wrong_is_one_line_and_a_code),
        cmocka_unit_test(a_wallet_is_shown_and_refused_by_name),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
