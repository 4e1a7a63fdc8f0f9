/* `sotto log` as its operators meet it: keys, a witness and a log as programs, entries, proofs for a policy, a
 * monitor's exit code; and a log that is killed at any moment goes on whole. Runs the binary named by SOTTO_BIN
 * (default build/bin/sotto). */
#include "expect.h"

#include "base/buf.h"
#include "base/file.h"
#include "base/hooks.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define VALUE "aabb000000000000000000000000000000000000000000000000000000000000"

static char dir[] = "/tmp/sotto-log-cli-XXXXXX", bin[4096];
static char vkey[256], wkey[256], wurl[128], lurl[128];
static struct st_buf out;
static pid_t witness, server;

static const char *at(const char *name)
{
    static char path[2][128];
    static int n;
    n = !n;
    snprintf(path[n], sizeof path[n], "%s/%s", dir, name);
    return path[n];
}

static void put(const char *name, const char *text)
{
    struct st_err e;
    assert_ok(st_file_write(at(name), text, strlen(text), 0600, true, &e), &e);
}

/* Runs to its end in the test's folder; output and errors are in `out`. */
static int run(const char *args)
{
    char cmd[8192];
    struct st_err e;
    snprintf(cmd, sizeof cmd, "cd %s && env -u SOTTO_BIN -u SOTTO_SHARED %s log %s --config= >out 2>&1", dir, bin,
             args);
    int status = system(cmd);
    assert_true(WIFEXITED(status));
    assert_ok(st_file_read(at("out"), 1 << 20, &out, &e), &e);
    st_buf_add(&out, "", 0);
    return WEXITSTATUS(status);
}

static void expect(const char *args, int code, const char *says)
{
    int rc = run(args);
    if (rc != code || !strstr(out.p, says))
        fail_msg("log %s: want %d and '%s', got %d\n%s", args, code, says, rc, out.p);
}

static void line_of(char *to, size_t cap)
{
    snprintf(to, cap, "%.*s", (int)strcspn(out.p, "\n"), out.p);
}

/* Starts a server and waits for its banner, from which *url is taken. */
static pid_t start(const char *args, const char *name, char *url)
{
    char cmd[8192];
    unlink(at(name));
    snprintf(cmd, sizeof cmd, "cd %s && exec env -u SOTTO_BIN %s log %s --config= --port 0 --json >%s 2>>errors", dir,
             bin, args, name);
    pid_t pid = fork();
    if (pid == 0) {
        execl("/bin/sh", "sh", "-c", cmd, (char *)NULL);
        _exit(127);
    }
    for (double until = st_now() + 10; st_now() < until; usleep(10000)) {
        char text[1024] = "";
        FILE *f = fopen(at(name), "r");
        const char *line = f ? fgets(text, sizeof text, f) : NULL;
        if (f)
            fclose(f);
        if (line && sscanf(line, "{\"url\":\"%100[^\"]\"", url) == 1)
            return pid;
    }
    fail_msg("log %s does not start", args);
    return -1;
}

static void end(pid_t *pid, int sig)
{
    int status;
    if (*pid <= 0)
        return;
    kill(*pid, sig);
    waitpid(*pid, &status, 0);
    if (sig == SIGTERM)
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    *pid = 0;
}

static void serve(void)
{
    char args[2048];
    snprintf(args, sizeof args, "serve keys.log --key log.key --submitters submitters --every 1 --witness '%s=%s'",
             wurl, wkey);
    server = start(args, "server", lurl);
}

static int setup(void **state)
{
    (void)state;
    char args[2048];
    const char *given = getenv("SOTTO_BIN");
    assert_non_null(realpath(given ? given : "build/bin/sotto", bin));
    assert_non_null(mkdtemp(dir));
    put("submitters", "entries/ci a-key-of-continuous-integration\n");
    put("ci.key", "a-key-of-continuous-integration\n");
    put("other.key", "some-key-that-nobody-knows\n");
    expect("new keys.log --origin log.example/keys --key log.key", 0, "log.example/keys+");
    line_of(vkey, sizeof vkey);
    expect("key --key w.key --name witness.example/w --as-witness", 0, "witness.example/w+");
    line_of(wkey, sizeof wkey);
    snprintf(args, sizeof args, "witness --key w.key --name witness.example/w --state w --log '%s'", vkey);
    witness = start(args, "witness", wurl);
    serve();
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    char cmd[128];
    end(&server, SIGTERM);
    end(&witness, SIGTERM);
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    assert_int_equal(system(cmd), 0);
    st_buf_free(&out);
    return 0;
}

static void keys_are_files_of_their_owner_and_are_never_overwritten(void **state)
{
    (void)state;
    struct stat sb;
    assert_int_equal(stat(at("log.key"), &sb), 0);
    assert_int_equal(sb.st_mode & 0777, 0600);
    expect("key --key log.key --name log.example/keys", 0, vkey);
    expect("key --key log.key --name 'a b'", 3, "name");
    expect("new keys.log --origin log.example/keys --key log.key", 4, "exists already");
    assert_int_equal(chmod(at("log.key"), 0644), 0);
    expect("key --key log.key --name x", 6, "want mode 0600");
    assert_int_equal(chmod(at("log.key"), 0600), 0);
    put("bad.key", "00\n");
    expect("key --key bad.key --name x", 3, "want an Ed25519 seed");
}

static void wrong_command_lines_say_what_they_want(void **state)
{
    (void)state;
    expect("burn", 2, "want new, key, serve, witness, check, add or prove");
    expect("serve", 2, "want one argument");
    expect("serve keys.log", 2, "want --key FILE");
    expect("serve keys.log --key log.key --witness x", 2, "--witness: want a verifier key of a witness");
    expect("witness --key w.key", 2, "want --key FILE, --name NAME, --state DIR and --log VKEY");
    expect("check keys.log", 2, "want --log VKEY once, or --policy FILE");
    expect("add keys.log --key-file ci.key --file submitters", 2, "want the URL of a log that runs");
    expect("prove keys.log", 2, "want --claim and --value");
}

static void an_entry_is_added_checked_and_proved_into_a_policy(void **state)
{
    (void)state;
    char args[2048], policy[2048];
    snprintf(policy, sizeof policy,
             "{\"version\": 1, \"require\": [\"sim\"], \"sim_root\": \"" VALUE "\", \"log\": {\"key\": \"%s\", "
             "\"witnesses\": [\"%s\"], \"quorum\": 1}, \"measurements\": {\"sim.measurement\": [\"" VALUE "\"]}, "
             "\"logged\": [\"sim.measurement\"]}",
             vkey, wkey);
    put("policy", policy);
    snprintf(args, sizeof args, "add %s --key-file ci.key --claim sim.measurement --value " VALUE " --release 'node 1'",
             lurl);
    expect(args, 0, "entry ");
    snprintf(args, sizeof args, "add %s --key-file other.key --file submitters", lurl);
    expect(args, 6, "does not know this key");
    snprintf(args, sizeof args, "check %s --policy policy --state seen", lurl);
    expect(args, 0, "cosigned by 1: nothing found");
    expect("check keys.log --policy policy --json", 0, "\"findings\":[]");
    snprintf(args, sizeof args, "prove %s --policy policy --claim sim.measurement --value " VALUE " --into policy",
             lurl);
    expect(args, 0, "proves sim.measurement");
    expect("check keys.log --policy policy", 0, "nothing found"); /* it is a policy still, and its proof holds */
    snprintf(args, sizeof args, "prove %s --policy policy --claim sim.measurement --value 00", lurl);
    expect(args, 5, "no entry says that sim.measurement has this value");
    snprintf(args, sizeof args, "check keys.log --log '%s' --quorum 1", vkey);
    expect(args, 2, "a quorum among them");
}

static void a_finding_ends_the_monitor_with_its_own_status(void **state)
{
    (void)state;
    char cmd[512], args[2048];
    struct stat sb;
    snprintf(args, sizeof args, "add %s --key-file ci.key --file submitters", lurl);
    expect(args, 0, "entry ");
    snprintf(
        cmd, sizeof cmd,
        "cd %s && rm -rf copy && cp -r keys.log copy && for f in copy/tile/entries/000.p/*; do printf X | dd of=$f "
        "bs=1 seek=6 conv=notrunc 2>/dev/null; done",
        dir);
    assert_int_equal(system(cmd), 0);
    assert_int_equal(stat(at("copy"), &sb), 0);
    snprintf(args, sizeof args, "check copy --log '%s' --witness '%s'", vkey, wkey);
    expect(args, 5, "the entries do not give the signed root");
}

static void a_log_that_cannot_write_ends_and_goes_on_when_it_can(void **state)
{
    (void)state;
    char args[2048];
    int status;
    assert_int_equal(rename(at("keys.log"), at("moved")), 0);
    snprintf(args, sizeof args, "add %s --key-file ci.key --file submitters --wait 0", lurl);
    (void)run(args); /* it may have noticed before, when the tree was cosigned again */
    assert_int_equal(waitpid(server, &status, 0), server);
    server = 0;
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 4);
    char cmd[512];
    snprintf(cmd, sizeof cmd, "cd %s && rm -rf keys.log && mv moved keys.log", dir);
    assert_int_equal(system(cmd), 0);
    serve();
    snprintf(args, sizeof args, "check %s --log '%s' --witness '%s'", lurl, vkey, wkey);
    expect(args, 0, "nothing found");
}

static void a_log_that_is_killed_at_any_moment_goes_on_whole(void **state)
{
    (void)state;
    char args[2048], cmd[512];
    struct st_rng r;
    st_rng_seed(&r, (uint64_t)getpid());
    for (int i = 0; i < 4; i++) {
        /* Something to write, and no care for how far it gets. */
        snprintf(args, sizeof args, "add %s --key-file ci.key --file submitters --wait 0", lurl);
        expect(args, 0, "entry ");
        usleep((useconds_t)(st_rng_next(&r) % 900000));
        end(&server, SIGKILL);
        serve();
    }
    snprintf(args, sizeof args, "add %s --key-file ci.key --file submitters", lurl);
    expect(args, 0, "entry ");
    snprintf(args, sizeof args, "check %s --log '%s' --witness '%s' --state seen", lurl, vkey, wkey);
    expect(args, 0, "nothing found");
    snprintf(cmd, sizeof cmd, "cd %s && grep -l 'another tree' errors", dir);
    assert_int_not_equal(system(cmd), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_are_files_of_their_owner_and_are_never_overwritten),
        cmocka_unit_test(wrong_command_lines_say_what_they_want),
        cmocka_unit_test(an_entry_is_added_checked_and_proved_into_a_policy),
        cmocka_unit_test(a_finding_ends_the_monitor_with_its_own_status),
        cmocka_unit_test(a_log_that_cannot_write_ends_and_goes_on_when_it_can),
        cmocka_unit_test(a_log_that_is_killed_at_any_moment_goes_on_whole),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
