/* A demo that is held in one terminal, audited from another by the command that it names; and what an audit refuses of
 * it: another key, a recording cut short, a text that was not asked. Runs the binary named by SOTTO_BIN (default
 * build/bin/sotto), whose worker lies beside it. */
#include "cov_make.h"
#include "text/json.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEMO "models/demo"

static struct st_buf err;

static const char *program(void)
{
    const char *bin = getenv("SOTTO_BIN");
    return bin ? bin : "build/bin/sotto";
}

/* Of `sotto ARGS`, where args may begin with "sotto". */
static int sotto(const char *args)
{
    struct st_err e = {0};
    char cmd[8192];
    snprintf(cmd, sizeof cmd,
             "env -u SOTTO_BIN XDG_CONFIG_HOME=%s/none TMPDIR=%s %s %s --quiet --config= >%s/out 2>%s/err", work, work,
             program(), strncmp(args, "sotto ", 6) ? args : args + 6, work, work);
    int status = system(cmd);
    assert_ok(st_file_read(in_work("err"), 1u << 20, &err, &e), &e);
    st_buf_add(&err, "", 0);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void expect(int want, int got, const char *says)
{
    if (got != want || !strstr(err.p ? err.p : "", says))
        fail_msg("want %d '%s', got %d: %s", want, says, got, err.p ? err.p : "");
}

struct held {
    pid_t pid;
    json_t *said;      /* what the demo printed */
    const char *audit; /* the command that it named */
};

static void hold(const char *protect, struct held *h)
{
    struct st_err e = {0};
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    h->pid = fork();
    if (!h->pid) {
        dup2(ends[1], STDOUT_FILENO);
        close(ends[0]);
        close(ends[1]);
        setenv("TMPDIR", work, 1);
        unsetenv("SOTTO_BIN");
        execl(program(), "sotto", "demo", "--protect", protect, "--hold", "--json", "--quiet", "--config=", "-n", "4",
              "--prompt", "Tim's dog had a red ball", (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    FILE *f = fdopen(ends[0], "r");
    char *line = NULL;
    size_t cap = 0;
    ssize_t n = getline(&line, &cap, f);
    assert_true(n > 0);
    assert_ok(st_json_parse(line, (size_t)n, "demo", &h->said, &e), &e);
    h->audit = json_string_value(json_object_get(h->said, "audit"));
    assert_non_null(h->audit);
    free(line);
    fclose(f);
}

/* A signal ends it as it ends on its own, and nothing of it stays. */
static void end(struct held *h)
{
    int status;
    kill(h->pid, SIGINT);
    assert_int_equal(waitpid(h->pid, &status, 0), h->pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    json_decref(h->said);
    DIR *d = opendir(work);
    assert_non_null(d);
    for (struct dirent *f; (f = readdir(d));)
        assert_null(strstr(f->d_name, "sotto-demo"));
    closedir(d);
}

/* The command of the demo with `more` behind it, on a short text. */
static int audit(const struct held *h, const char *more)
{
    char args[4096];
    struct st_err e = {0};
    static const char text[] =
        "Once upon a time there was a little dog.\n\nThe cat sat by the tree and sang all day.\n";
    assert_ok(st_file_write(in_work("text"), text, sizeof text - 1, 0644, true, &e), &e);
    snprintf(args, sizeof args, "%s --prior %s/text --json %s", h->audit, work, more);
    return sotto(args);
}

static size_t n_row(void)
{
    struct st_err e = {0};
    struct st_buf b = {0};
    json_t *o;
    assert_ok(st_file_read(in_work("out"), 1u << 24, &b, &e), &e);
    assert_ok(st_json_parse(b.p, b.len, "audit", &o, &e), &e);
    size_t n = json_array_size(json_object_get(o, "rows"));
    json_decref(o);
    st_buf_free(&b);
    return n;
}

static void a_held_covariant_demo_is_audited_by_the_command_that_it_names(void **state)
{
    char more[512];
    struct held h;
    (void)state;
    hold("covariant", &h);
    snprintf(more, sizeof more, "--attacks gate-ia --text %s/text", work);
    expect(0, audit(&h, more), "");
    assert_true(n_row() > 0);
    snprintf(more, sizeof more, "key new %s/other", work);
    expect(0, sotto(more), "");
    snprintf(more, sizeof more, "--attacks gate-ia --text %s/text --key %s/other", work, work);
    expect(3, audit(&h, more), "was not made from");
    end(&h);
}

/* The recording that the demo's command names, less `cut` bytes of its end. */
static void copy_cut(const struct held *h, size_t cut, char path[512])
{
    struct st_err e = {0};
    struct st_buf b = {0};
    const char *from = strstr(h->audit, work), *name = from ? strstr(from, "/record") : NULL;
    assert_non_null(name);
    snprintf(path, 512, "%.*s", (int)(name + strlen("/record") - from), from);
    assert_ok(st_file_read(path, 1u << 28, &b, &e), &e);
    assert_true(b.len > cut);
    snprintf(path, 512, "%s/cut", work);
    assert_ok(st_file_write(path, b.p, b.len - cut, 0600, true, &e), &e);
    st_buf_free(&b);
}

static void a_held_masked_demo_is_audited_by_its_recording_and_no_other_text(void **state)
{
    char more[512], path[512], args[2048];
    struct held h;
    (void)state;
    hold("masked", &h);
    expect(0, audit(&h, "--attacks null-space,pad-reuse"), "");
    assert_true(n_row() > 1);
    snprintf(more, sizeof more, "--attacks pad-reuse --text %s/long", work);
    struct st_err e = {0};
    struct st_buf text = {0};
    for (int i = 0; i < 20; i++)
        st_buf_add_str(&text, "The dog and the cat sat by the tree.\n\n");
    assert_ok(st_file_write(in_work("long"), text.p, text.len, 0644, true, &e), &e);
    st_buf_free(&text);
    expect(3, audit(&h, more), "rows left for layer 0, but the text has");
    copy_cut(&h, 100, path);
    snprintf(args, sizeof args, "audit " DEMO " %s --scheme otp --text %s/text --prior %s/text", path, work, work);
    expect(3, sotto(args), "cut short: entry");
    end(&h);
}

static void a_held_sealed_demo_is_audited_by_its_file(void **state)
{
    char more[512];
    struct held h;
    (void)state;
    hold("sealed", &h);
    snprintf(more, sizeof more, "--attacks sealed-weights --text %s/text", work);
    expect(0, audit(&h, more), "");
    assert_true(n_row() > 0);
    end(&h);
}

static void a_confidential_demo_is_not_held(void **state)
{
    (void)state;
    expect(7, sotto("demo --protect confidential --hold"), "--hold");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_held_covariant_demo_is_audited_by_the_command_that_it_names, make_work,
                                        drop_work),
        cmocka_unit_test_setup_teardown(a_held_masked_demo_is_audited_by_its_recording_and_no_other_text, make_work,
                                        drop_work),
        cmocka_unit_test_setup_teardown(a_held_sealed_demo_is_audited_by_its_file, make_work, drop_work),
        cmocka_unit_test_setup_teardown(a_confidential_demo_is_not_held, make_work, drop_work),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    st_buf_free(&err);
    return rc;
}
