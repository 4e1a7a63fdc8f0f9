/* A sealed MODEL on the command line: it answers as the open one does, and what is wrong with it, with its key or with
 * the options is said in one line, with its exit status. Runs the binary named by SOTTO_BIN (default build/bin/sotto).
 */
#include "container_make.h"
#include "protect/sealed/writer.h"
#include "text/json.h"
#include "tiny.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[64], publisher[65];
static struct st_buf out, err;

static void slurp(const char *name, struct st_buf *b)
{
    char path[ST_PATH_MAX];
    struct st_err e = {0};
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_ok(st_file_read(path, 64u << 20, b, &e), &e);
    st_buf_add(b, "", 0);
}

/* `sotto ARGS` in the directory of the test; "all" and "paper" are sealed there, "plain" is open. */
static int sotto(const char *fmt, ...) ST_PRINTF(1, 2);
static int sotto(const char *fmt, ...)
{
    char args[2048], cmd[4096], here[1024];
    const char *bin = getenv("SOTTO_BIN");
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(args, sizeof args, fmt, ap);
    va_end(ap);
    assert_non_null(getcwd(here, sizeof here));
    snprintf(cmd, sizeof cmd, "cd %s && env -u SOTTO_BIN XDG_CONFIG_HOME=%s/none %s%s%s %s --config= >out 2>err", dir,
             dir, bin && *bin == '/' ? "" : here, bin && *bin == '/' ? "" : "/", bin ? bin : "build/bin/sotto", args);
    int status = system(cmd);
    slurp("out", &out);
    slurp("err", &err);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void refused(int want, int got, const char *says)
{
    if (got != want || !strstr(err.p ? err.p : "", says))
        fail_msg("want %d '%s', got %d: %s", want, says, got, err.p ? err.p : "");
}

static void seal(const char *name, const char *policy, uint64_t version)
{
    struct st_err e = {0};
    struct st_secret seed, passphrase;
    struct st_seal_report report;
    char from[96], to[96];
    const char *const recipients[] = {"passphrase"};
    const struct st_argon2 cheap = {.memory_kib = 64, .passes = 1, .lanes = 1};
    assert_ok(st_secret_init(&seed, ST_ED25519_SEED, &e), &e);
    assert_ok(st_secret_init(&passphrase, 4, &e), &e);
    memcpy(seed.p, "the publisher's seed, thirty-two", 32);
    memcpy(passphrase.p, "open", 4);
    const struct st_seal_opts o = {.policy = policy,
                                   .recipients = recipients,
                                   .n_recipient = 1,
                                   .version = version,
                                   .seed = &seed,
                                   .passphrase = &passphrase,
                                   .cost = &cheap,
                                   .n_threads = 1};
    snprintf(from, sizeof from, "%s/plain", dir);
    snprintf(to, sizeof to, "%s/%s.sealed", dir, name);
    assert_ok(st_seal(from, to, &o, &report, &e), &e);
    st_hex(report.about.publisher, sizeof report.about.publisher, publisher);
    st_secret_wipe(&seed);
    st_secret_wipe(&passphrase);
}

static void put(const char *name, const char *text, mode_t mode)
{
    char path[128];
    tiny_save(dir, name, text, strlen(text));
    snprintf(path, sizeof path, "%s/%s", dir, name);
    assert_int_equal(chmod(path, mode), 0);
}

static int set_up(void **state)
{
    char path[96], line[80];
    (void)state;
    tiny_mkdir(dir);
    snprintf(path, sizeof path, "%s/plain", dir);
    assert_int_equal(mkdir(path, 0700), 0);
    tiny_write(&(struct tiny){.seed = 4, .d_model = 128, .d_ff = 256}, path);
    seal("all", "all-inside", 3);
    seal("paper", "paper", 3);
    put("pass", "open\n", 0600);
    put("wrong", "shut\n", 0600);
    put("loose", "open\n", 0644);
    snprintf(line, sizeof line, "%s\n", publisher);
    put("publisher", line, 0644);
    return 0;
}

static int tear_down(void **state)
{
    char path[96];
    (void)state;
    st_buf_free(&out);
    st_buf_free(&err);
    snprintf(path, sizeof path, "%s/plain", dir);
    tiny_rmdir(path);
    tiny_rmdir(dir);
    return 0;
}

#define ASK "logits %s --ids 5,7,9,11 --threads 1"

static void it_answers_as_the_open_one(void **state)
{
    static const char *const more[] = {"all.sealed", "all.sealed --enclave-memory 200K", "paper.sealed",
                                       "all.sealed --no-sandbox"};
    (void)state;
    assert_int_equal(sotto(ASK, "plain"), 0);
    char *want = strdup(out.p);
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        assert_int_equal(sotto(ASK " --passphrase-file pass", more[i]), 0);
        assert_string_equal(out.p, want);
    }
    free(want);
}

static void what_leaves_gives_the_integers_of_a_worker(void **state)
{
    (void)state;
    assert_int_equal(sotto(ASK " --passphrase-file pass --reference masked-int --json", "paper.sealed"), 0);
    assert_non_null(strstr(out.p, "\"protection\":\"sealed\""));
}

static void a_publisher_is_pinned_or_said_not_to_be(void **state)
{
    char other[65];
    (void)state;
    assert_int_equal(sotto(ASK " --passphrase-file pass --json", "all.sealed"), 0);
    assert_non_null(strstr(err.p, "publisher: not pinned"));
    assert_non_null(strstr(err.p, publisher));
    assert_non_null(strstr(out.p, "\"verified\":\"no\""));
    const char *const right[] = {publisher, "publisher"};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(sotto(ASK " --passphrase-file pass --json --publisher %s", "all.sealed", right[i]), 0);
        assert_null(strstr(err.p ? err.p : "", "not pinned"));
        assert_non_null(strstr(out.p, "\"verified\":\"publisher\""));
    }
    strcpy(other, publisher);
    other[10] = other[10] == 'a' ? 'b' : 'a';
    refused(5, sotto(ASK " --passphrase-file pass --publisher %s", "all.sealed", other), "is not --publisher");
    refused(3, sotto(ASK " --passphrase-file pass --publisher pass", "all.sealed"), "64 hexadecimal digits");
    refused(4, sotto(ASK " --passphrase-file pass --publisher nowhere", "all.sealed"), "nowhere");
}

static void an_older_version_than_wanted_is_refused(void **state)
{
    (void)state;
    assert_int_equal(sotto(ASK " --passphrase-file pass --min-version 3", "all.sealed"), 0);
    refused(6, sotto(ASK " --passphrase-file pass --min-version 4", "all.sealed"), "is version 3");
}

static void without_its_key_it_stays_shut(void **state)
{
    (void)state;
    refused(5, sotto(ASK " --passphrase-file wrong", "all.sealed"), "all.sealed");
    refused(2, sotto(ASK, "all.sealed"), "--passphrase-file");
    refused(6, sotto(ASK " --passphrase-file loose", "all.sealed"), "0600");
}

static void a_budget_that_is_too_small_says_the_least_that_works(void **state)
{
    (void)state;
    refused(8, sotto(ASK " --passphrase-file pass --enclave-memory 10K", "all.sealed"), "want at least");
}

static void options_of_sealed_models_are_for_those(void **state)
{
    static const char *const options[] = {"--enclave-memory 1G", "--publisher x", "--no-sandbox", "--min-version 1"};
    (void)state;
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        refused(2, sotto(ASK " %s", "plain", options[i]), "only with a sealed model");
    refused(2, sotto(ASK " --allow-unlocked", "plain"), "only with");
}

/* Who can replace the file could otherwise have an open model answer in its name. */
static void an_open_model_in_its_place_is_not_taken_for_it(void **state)
{
    char path[96];
    (void)state;
    refused(2, sotto(ASK " --passphrase-file pass", "plain"), "--passphrase-file: only with a sealed model");
    refused(2, sotto(ASK " --tcti device:/dev/tpmrm0", "plain"), "--tcti: only with a sealed model");
    snprintf(path, sizeof path, "%s/put.sealed", dir);
    assert_int_equal(symlink("plain", path), 0);
    refused(4, sotto(ASK, "put.sealed"), "put.sealed: not a regular file");
    refused(4, sotto(ASK " --adapter put.sealed", "plain"), "put.sealed: not a regular file");
    assert_int_equal(unlink(path), 0);
}

static void a_changed_container_is_refused_by_the_name_of_what_was_changed(void **state)
{
    char path[96];
    struct st_buf file = {0};
    struct st_err e = {0};
    (void)state;
    snprintf(path, sizeof path, "%s/all.sealed", dir);
    assert_ok(st_file_read(path, 64u << 20, &file, &e), &e);
    file.p[file.len - 100] ^= 1; /* the last matrix */
    tiny_save(dir, "bad.sealed", file.p, file.len);
    refused(5, sotto(ASK " --passphrase-file pass", "bad.sealed"), "lm_head");
    tiny_save(dir, "bad.sealed", file.p, file.len / 2);
    refused(5, sotto(ASK " --passphrase-file pass", "bad.sealed"), "bad.sealed");
    st_buf_free(&file);
}

static void sealed_for_a_tpm_only_it_is_not_opened_where_none_is(void **state)
{
    static const char config[] = "{}";
    struct made_entry file = {.name = "config.json", .data = config, .bytes = 2, .segment_bytes = 16};
    struct made m = {.version = 1, .entries = &file, .n = 1, .recipients = "[{\"kind\":\"tpm\"}]"};
    struct st_buf bytes = {0};
    (void)state;
    if (access("/dev/tpmrm0", F_OK) == 0 || getenv("TSS2_TCTI")) {
        print_message("skipped: this machine has a TPM\n");
        return;
    }
    made_container(&m, &bytes);
    tiny_save(dir, "tpm.sealed", bytes.p, bytes.len);
    refused(7, sotto(ASK, "tpm.sealed"), "none is at device:/dev/tpmrm0");
    refused(7, sotto(ASK " --passphrase-file pass", "tpm.sealed"), "none is at device:/dev/tpmrm0");
    st_secret_wipe(&m.content_key);
    st_buf_free(&bytes);
}

static void a_publishers_key_comes_with_the_file_that_pins_it(void **state)
{
    (void)state;
    assert_int_equal(sotto("seal key new.key"), 0);
    assert_int_equal(sotto("seal plain new.sealed --sign-key new.key --passphrase-file pass"), 0);
    assert_int_equal(sotto(ASK " --passphrase-file pass --publisher new.key.pub", "new.sealed"), 0);
    refused(5, sotto(ASK " --passphrase-file pass --publisher new.key.pub", "all.sealed"), "is not --publisher");
    refused(4, sotto("seal key new.key"), "exists already");
    put("half.key.pub", "somebody's\n", 0644);
    refused(4, sotto("seal key half.key"), "half.key.pub: exists already");
}

/* Of a demo that was killed; that of one that still runs is locked, and one that others may write to is not ours. */
static void what_a_killed_demo_left_is_removed_by_the_next(void **state)
{
    static const char *const names[] = {"", "/sotto-demo-abcdef", "/sotto-demo-mnopqr", "/sotto-demo-ghijkl",
                                        "/elsewhere"};
    char path[5][160], inside[180];
    (void)state;
    for (int i = 0; i < 5; i++) {
        snprintf(path[i], sizeof path[i], "%s/killed%s", dir, names[i]);
        assert_int_equal(mkdir(path[i], 0700), 0);
    }
    assert_int_equal(chmod(path[3], 0770), 0);
    assert_int_equal(chmod(path[1], 0711), 0); /* others may pass */
    put("killed/sotto-demo-abcdef/key", "a key\n", 0400);
    put("killed/elsewhere/kept", "not ours\n", 0600);
    snprintf(inside, sizeof inside, "%s/link", path[1]);
    assert_int_equal(symlink(path[4], inside), 0);
    snprintf(inside, sizeof inside, "%s/below", path[1]);
    assert_int_equal(mkdir(inside, 0700), 0);
    put("killed/sotto-demo-abcdef/below/file", "\n", 0600);
    int lock = open(path[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(flock(lock, LOCK_EX | LOCK_NB), 0);
    assert_int_equal(setenv("TMPDIR", "killed", 1), 0);
    int rc = sotto("demo --protect sealed -q");
    unsetenv("TMPDIR");
    refused(0, rc, "");
    assert_int_not_equal(access(path[1], F_OK), 0);
    assert_int_equal(access(path[2], F_OK), 0);
    assert_int_equal(access(path[3], F_OK), 0);
    snprintf(inside, sizeof inside, "%s/kept", path[4]);
    assert_int_equal(access(inside, F_OK), 0);
    close(lock);
}

static void a_policy_is_printed_as_a_file_to_start_from(void **state)
{
    char text[2048];
    (void)state;
    assert_int_equal(sotto("seal policy --json"), 0);
    assert_string_equal(out.p, "{\"policies\": [\"paper\", \"adapters\", \"all-inside\"]}\n");
    assert_int_equal(sotto("seal policy paper"), 0);
    assert_null(strstr(out.p, "lora")); /* no policy says where adapters lie */
    snprintf(text, sizeof text, "%s", out.p);
    assert_int_equal(sotto("seal policy paper --json"), 0);
    json_t *o = json_loads(out.p, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(o, "policy")), "paper");
    assert_string_equal(json_string_value(json_object_get(o, "text")), text);
    json_decref(o);
    refused(2, sotto("seal policy papre"), "want paper, adapters or all-inside");
}

static void what_is_no_model_is_called_by_its_name(void **state)
{
    (void)state;
    put("adapter_config.json", "{}", 0644);
    refused(3, sotto(ASK, "."), "is a LoRA adapter, not a model");
    refused(3, sotto(ASK, "plain/model.safetensors"), "want the directory that has it");
    refused(3, sotto(ASK " --adapter plain", "plain"), "plain: no adapter_config.json");
    refused(2, sotto("bench masked all.sealed --spawn"), "bench sealed --spawn");
    assert_int_equal(sotto("key new my.key"), 0);
    refused(3, sotto("obfuscate all.sealed dst --key my.key"), "all.sealed: is sealed; want the model itself");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_answers_as_the_open_one),
        cmocka_unit_test(what_leaves_gives_the_integers_of_a_worker),
        cmocka_unit_test(a_publisher_is_pinned_or_said_not_to_be),
        cmocka_unit_test(an_older_version_than_wanted_is_refused),
        cmocka_unit_test(without_its_key_it_stays_shut),
        cmocka_unit_test(a_budget_that_is_too_small_says_the_least_that_works),
        cmocka_unit_test(options_of_sealed_models_are_for_those),
        cmocka_unit_test(an_open_model_in_its_place_is_not_taken_for_it),
        cmocka_unit_test(a_changed_container_is_refused_by_the_name_of_what_was_changed),
        cmocka_unit_test(sealed_for_a_tpm_only_it_is_not_opened_where_none_is),
        cmocka_unit_test(a_publishers_key_comes_with_the_file_that_pins_it),
        cmocka_unit_test(what_a_killed_demo_left_is_removed_by_the_next),
        cmocka_unit_test(a_policy_is_printed_as_a_file_to_start_from),
        cmocka_unit_test(what_is_no_model_is_called_by_its_name),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
