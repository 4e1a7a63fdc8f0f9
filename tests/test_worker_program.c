/* The sotto-worker program as its owner meets it: options, exit codes, the ready line, prepare, and products of the
 * demo model. Runs the program beside SOTTO_BIN (default build/bin/sotto). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/hooks.h"
#include "field/fq.h"
#include "model/served.h"
#include "net/worker_frame.h"
#include "text/json.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define MODEL "models/demo"

static char tmp[64], bin[512];
static struct st_buf out, err;

static int set_up(void **state)
{
    const char *sotto = getenv("SOTTO_BIN");
    (void)state;
    snprintf(bin, sizeof bin, "%s-worker", sotto ? sotto : "build/bin/sotto");
    snprintf(tmp, sizeof tmp, "/tmp/sotto_test_program.XXXXXX");
    return mkdtemp(tmp) ? 0 : 1;
}

static int tear_down(void **state)
{
    char command[128];
    (void)state;
    st_buf_free(&out);
    st_buf_free(&err);
    snprintf(command, sizeof command, "rm -r %s", tmp);
    return system(command) == 0 ? 0 : 1;
}

static void slurp(const char *path, struct st_buf *b)
{
    struct st_err e = {0};
    assert_int_equal(st_file_read(path, 64u << 20, b, &e), 0);
    st_buf_add(b, "", 0);
}

/* Runs `ENV sotto-worker ARGS`; @ in args stands for the test's directory. */
static int worker_with(const char *env, const char *args)
{
    char cmd[4096], path[128];
    size_t n =
        (size_t)snprintf(cmd, sizeof cmd, "env -u SOTTO_BIN -u SOTTO_CONFIG XDG_CONFIG_HOME=%s %s %s ", tmp, env, bin);
    for (const char *c = args; *c && n + sizeof tmp < sizeof cmd; c++)
        n += (size_t)snprintf(cmd + n, sizeof cmd - n, *c == '@' ? "%s" : "%.1s", *c == '@' ? tmp : c);
    snprintf(cmd + n, sizeof cmd - n, " >%s/out 2>%s/err", tmp, tmp);
    int status = system(cmd);
    snprintf(path, sizeof path, "%s/out", tmp);
    slurp(path, &out);
    snprintf(path, sizeof path, "%s/err", tmp);
    slurp(path, &err);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int worker(const char *args)
{
    return worker_with("", args);
}

static void assert_error(int rc, int want, const char *says)
{
    if (rc != want || strncmp(err.p, "sotto-worker: ", 14) != 0 || !strstr(err.p, says) || strchr(err.p, '\n')[1])
        fail_msg("want %d '%s', got %d '%s'", want, says, rc, err.p);
}

static void put_file(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", tmp, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void help_manual_completion_and_docs_come_from_its_own_tables(void **state)
{
    struct st_buf committed = {0};
    (void)state;
    assert_int_equal(worker("--help"), 0);
    assert_non_null(strstr(out.p, "Usage: sotto-worker [OPTION...]"));
    assert_int_equal(worker("serve --help"), 0);
    assert_non_null(strstr(out.p, "--listen=ADDRESS"));
    assert_int_equal(worker("--version"), 0);
    assert_int_equal(strncmp(out.p, "sotto-worker ", 13), 0);
    assert_int_equal(worker("help --format man"), 0);
    assert_non_null(strstr(out.p, ".TH sotto-worker"));
    assert_int_equal(worker("help --format bash | bash -n"), 0);
    assert_int_equal(worker("help --format markdown"), 0);
    slurp("docs/worker_commands.md", &committed);
    if (strcmp(out.p, committed.p) != 0)
        fail_msg("docs/worker_commands.md is behind the program; make docs");
    st_buf_free(&committed);
}

static void wrong_input_gets_one_line_and_its_exit_code(void **state)
{
    (void)state;
    assert_error(worker(""), 2, "want --model DIR (see sotto-worker --help)");
    assert_error(worker("frobnicate"), 2, "unknown command 'frobnicate'");
    assert_error(worker("--listen tcp://127.0.0.1:0"), 2, "want --model DIR");
    assert_error(worker("--model " MODEL " --lissten x"), 2, "unknown option '--lissten'");
    assert_error(worker("--model " MODEL " --private-weights"), 2, "--client-policy belong together");
    assert_error(worker("--model " MODEL " --client-policy x"), 2, "--client-policy belong together");
    assert_error(worker("--model " MODEL " --private-weights --client-policy x"), 2, "want --tls-cert");
    assert_error(worker("--model " MODEL " --preparer"), 2, "--preparer: want --evidence");
    assert_error(worker("--model " MODEL " --evidence sim"), 2, "want --tls-cert");
    assert_error(worker("--model " MODEL " --evidence sim --tls-cert c --tls-key k"), 2, "--sim-key");
    assert_error(worker("--model " MODEL " --preparer --evidence snp --hints h"), 2, "hands out no hints");
    assert_error(worker("--model " MODEL " --preparer --evidence snp --device cuda --tls-cert c --tls-key k"), 2,
                 "a device that nothing proves");
    assert_error(worker("--model " MODEL " --evidence cat --tls-cert c --tls-key k"), 7, "'cat' is not collected here");
    put_file("weak", "{\"version\": 1, \"require\": \"any\"}");
    assert_error(worker("--model " MODEL " --private-weights --client-policy @/weak --tls-cert c --tls-key k"), 6,
                 "any program on such a machine would get the weights");
    put_file("weak", "{\"version\": 1, \"require\": \"any\", \"measurements\": {\"tdx.mrtd\": [\"00\"]}}");
    assert_error(worker("--model " MODEL " --private-weights --client-policy @/weak --tls-cert c --tls-key k"), 6,
                 "pin no program");
    put_file("weak", "{\"version\": 1, \"require\": \"any\", \"measurements\": {\"snp.measurement\": [\"00\"]}}");
    assert_error(worker("--model " MODEL " --private-weights --client-policy @/weak --tls-cert c --tls-key k"), 6,
                 "names no engine");
    assert_error(worker("--model " MODEL " --device abacus"), 7, "abacus");
    assert_error(worker("--model @/none"), 4, "none");
    assert_error(worker("--model " MODEL " --listen 127.0.0.1:1"), 2, "127.0.0.1:1");
    assert_error(worker("--model " MODEL " --listen tls://127.0.0.1:0"), 2, "want a certificate");
    assert_error(worker("--model " MODEL " --tls-cert @/c"), 2, "belong together");
    assert_error(worker("--model " MODEL " --metrics nowhere:x"), 2, "nowhere:x");
    assert_error(worker("--model " MODEL " --metrics 9101"), 2, "--metrics: want HOST:PORT, got '9101'");
    assert_error(worker("--model " MODEL " --hints @/none"), 4, "none");
    assert_error(worker("--model " MODEL " --max-row 0"), 2, "--max-row");
    assert_error(worker("prepare"), 2, "want the arguments MODEL");
    assert_error(worker("prepare " MODEL " --out @/h --params lwe-tiny"), 2, "lwe-tiny");
}

static void options_come_from_the_environment_and_from_its_own_config_file(void **state)
{
    (void)state;
    assert_error(worker_with("SOTTO_MODEL=" MODEL, "--private-weights"), 2, "--private-weights");
    assert_int_equal(worker_with("", "help"), 0);
    char path[128];
    snprintf(path, sizeof path, "mkdir %s/sotto", tmp);
    assert_int_equal(system(path), 0);
    put_file("sotto/worker.config", "[serve]\nmodel = " MODEL "\nprivate-weights = yes\n");
    assert_error(worker("serve"), 2, "--private-weights");
    put_file("sotto/worker.config", "[serve]\nmodell = x\n");
    assert_error(worker("serve"), 3, "worker.config:2: unknown key 'modell'");
}

static void prepare_makes_hints_once_and_says_what_they_are(void **state)
{
    struct st_err e;
    json_t *v;
    (void)state;
    if (worker("prepare " MODEL " --out @/h --kit @/kit --json --quiet"))
        fail_msg("%s", err.p);
    assert_int_equal(st_json_parse(out.p, out.len, "prepare", &v, &e), 0);
    assert_string_equal(json_string_value(json_object_get(v, "params")), "lwe-1280-12.8");
    assert_true(json_integer_value(json_object_get(v, "bits_classical")) >= 128);
    assert_true(json_integer_value(json_object_get(v, "hint_bytes")) > 1 << 20);
    json_decref(v);
    assert_error(worker("prepare " MODEL " --out @/h"), 4, "exists already");
    assert_error(worker("prepare " MODEL " --kit @/kit"), 4, "exists already");
    /* The trusted side's part has nothing to serve; hints fit their own model alone. */
    int rc = worker("--model @/kit --quiet");
    assert_true(rc == 3 || rc == 6);
    put_file("junk", "this is no hints file");
    assert_error(worker("--model " MODEL " --hints @/junk --quiet"), 3, "junk");
}

/* The program in the background; its first line, which says that it is ready. */
static pid_t start(const char *const *args, char *line, size_t cap)
{
    int fds[2];
    char *argv[24] = {bin};
    for (int i = 0; args[i]; i++)
        argv[i + 1] = (char *)(uintptr_t)args[i];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        dup2(fds[1], 1);
        execv(bin, argv);
        _exit(127);
    }
    close(fds[1]);
    FILE *f = fdopen(fds[0], "r");
    assert_non_null(f);
    if (!fgets(line, (int)cap, f))
        fail_msg("%s said nothing", bin);
    fclose(f);
    return pid;
}

static void transfer(int fd, void *p, size_t len, bool out_)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = out_ ? send(fd, (char *)p + at, len - at, MSG_NOSIGNAL) : recv(fd, (char *)p + at, len - at, 0);
        if (n <= 0)
            fail_msg("the worker has closed the connection");
        at += (size_t)n;
    }
}

/* Sends b, takes one frame of `type`; its payload is the caller's. */
static struct st_span call(int fd, struct st_buf *b, enum st_worker_type type)
{
    uint8_t head[ST_WORKER_HEAD];
    struct st_worker_head h;
    struct st_err e;
    transfer(fd, b->p, b->len, true);
    st_buf_clear(b);
    transfer(fd, head, sizeof head, false);
    assert_int_equal(st_worker_head_parse(head, 1 << 26, &h, &e), 0);
    assert_int_equal(h.type, type);
    uint8_t *p = malloc(h.len + 1);
    assert_non_null(p);
    transfer(fd, p, h.len, false);
    return (struct st_span){p, h.len};
}

static void check_row(int fd, uint32_t id, const struct st_served_weight *w)
{
    struct st_buf b = {0};
    struct st_worker_product p;
    struct st_rng rng;
    struct st_err e;
    uint32_t *row = malloc((size_t)w->n_in * 4), got;
    st_rng_seed(&rng, id);
    for (uint32_t i = 0; i < w->n_in; i++)
        row[i] = (uint32_t)(st_rng_next(&rng) % ST_FQ);
    st_worker_multiply_add(&b, 1, &(struct st_worker_multiply){ST_WORKER_FIELD, 1, 1, {id}, {0}}, (size_t)w->n_in * 4);
    st_buf_add(&b, row, (size_t)w->n_in * 4);
    struct st_span reply = call(fd, &b, ST_WORKER_PRODUCT);
    assert_int_equal(st_worker_product_parse(reply, &p, &e), 0);
    assert_int_equal(p.values.len, (size_t)w->n_out * 4);
    for (uint32_t j = 0; j < w->n_out; j++) {
        int64_t sum = 0; /* below 2^7 2^32 2^14 */
        for (uint32_t k = 0; k < w->n_in; k++)
            sum += (int64_t)w->w[(size_t)j * w->n_in + k] * row[k];
        memcpy(&got, p.values.p + 4 * (size_t)j, 4);
        assert_int_equal(got, (uint32_t)((sum % (int64_t)ST_FQ + ST_FQ) % ST_FQ));
    }
    free((void *)(uintptr_t)reply.p);
    free(row);
    st_buf_free(&b);
}

static void it_serves_every_matrix_of_the_model_with_norms_folded_and_the_embedding(void **state)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    char listen[128], line[2048];
    const struct st_model_opts how = {.dtype = ST_LOAD_INT8, .fold_norms = true, .n_threads = 1};
    const char *const args[] = {"--model", MODEL,    "--listen", listen,      "--embedding", "--threads",
                                "1",       "--json", "--quiet",  "--config=", NULL};
    struct st_model *m;
    struct st_served s;
    struct st_err e;
    struct st_worker_welcome w;
    struct st_buf b = {0};
    uint8_t digest[32];
    json_t *ready;
    (void)state;
    snprintf(a.sun_path, sizeof a.sun_path, "%s/s", tmp);
    snprintf(listen, sizeof listen, "unix:%s", a.sun_path);
    if (st_model_open(MODEL, &how, &m, &e) || st_served_init(&s, m, true, &e) ||
        st_model_digest(MODEL, false, digest, &e))
        fail_msg("%s", e.msg);
    pid_t pid = start(args, line, sizeof line);
    assert_int_equal(st_json_parse(line, strlen(line), "ready", &ready, &e), 0);
    assert_string_equal(json_string_value(json_array_get(json_object_get(ready, "listening"), 0)), listen);
    assert_int_equal(json_integer_value(json_object_get(ready, "weights")), s.n);
    assert_true(json_is_null(json_object_get(ready, "metrics")));
    json_decref(ready);

    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    st_worker_hello_add(&b, digest);
    struct st_span welcome = call(fd, &b, ST_WORKER_WELCOME);
    assert_int_equal(st_worker_welcome_parse(welcome, &w, &e), 0);
    assert_memory_equal(w.digest, digest, 32);
    assert_string_equal(w.params, "");
    assert_int_equal(w.n, s.n);
    for (uint32_t i = 0; i < w.n; i++) {
        assert_string_equal(w.weights[i].name, s.weights[i].name);
        assert_int_equal(w.weights[i].n_out, s.weights[i].n_out);
        assert_int_equal(w.weights[i].n_in, s.weights[i].n_in);
        check_row(fd, i, &s.weights[i]);
    }
    assert_non_null(strstr(w.weights[w.n - 1].name, "^T"));

    int status;
    kill(pid, SIGTERM);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_int_not_equal(access(a.sun_path, F_OK), 0);
    close(fd);
    free(w.weights);
    free((void *)(uintptr_t)welcome.p);
    st_buf_free(&b);
    st_served_free(&s);
    st_model_close(m);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(help_manual_completion_and_docs_come_from_its_own_tables),
        CASE(wrong_input_gets_one_line_and_its_exit_code),
        CASE(options_come_from_the_environment_and_from_its_own_config_file),
        CASE(prepare_makes_hints_once_and_says_what_they_are),
        CASE(it_serves_every_matrix_of_the_model_with_norms_folded_and_the_embedding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
