/* The program sotto-node: its help, its errors, and a life in its sandbox. */
#include "expect.h"

#include "base/file.h"
#include "node_make.h"
#include "swtpm.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#if __has_include(<tss2/tss2_esys.h>)
#include <tss2/tss2_esys.h>
#include <tss2/tss2_tctildr.h>
#define HAS_TSS 1
#endif

/* A sanitizer keeps freed blocks as they are, on purpose. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define KEEPS_FREED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define KEEPS_FREED 1
#endif
#endif

#define CHAT "/v1/chat/completions"
#define ASKS "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"a secret\"}],\"stream\":true}"

static struct node_pair p;
static char program[4096]; /* "" = not built */
static struct st_buf out;

static int set_up(void **state)
{
    (void)state;
    pair_make(&p);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    pair_close(&p);
    return 0;
}

/* Runs it with these words; what it prints, errors too, is in `out`. Returns its status. */
static int node(const char *words)
{
    char line[8192];
    snprintf(line, sizeof line, "%s %s --config= 2>&1", program, words);
    FILE *f = popen(line, "r");
    assert_non_null(f);
    st_buf_clear(&out);
    for (int c; (c = fgetc(f)) != EOF;)
        st_buf_add(&out, &(char){(char)c}, 1);
    st_buf_add(&out, "", 1);
    int status = pclose(f);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void need_program(void)
{
    if (!*program) {
        print_message("no sotto-node beside SOTTO_BIN: skipped\n");
        skip();
    }
}

static void it_explains_itself_and_its_list_of_commands_is_current(void **state)
{
    (void)state;
    need_program();
    struct st_err e;
    struct st_buf committed = {0};
    assert_int_equal(node("serve --help"), 0);
    assert_non_null(strstr(out.p, "--upstream"));
    assert_int_equal(node("help --format man"), 0);
    assert_non_null(strstr(out.p, ".TH sotto-node"));
    assert_int_equal(node("help --format markdown"), 0);
    assert_ok(st_file_read("docs/node_commands.md", 1 << 20, &committed, &e), &e);
    if (strcmp(out.p, committed.p) != 0)
        fail_msg("docs/node_commands.md is behind the program; make docs");
    st_buf_free(&committed);
}

static void wrong_input_gets_one_line_and_its_exit_code(void **state)
{
    (void)state;
    need_program();
    char here[64];
    snprintf(here, sizeof here, "--upstream http://127.0.0.1:%d", p.engine.port);
    const struct {
        const char *words;
        int code;
        const char *says;
    } rows[] = {{"", ST_USAGE, "want --upstream and --evidence"},
                {"--upstream unix:/x", ST_USAGE, "missing: --evidence"},
                {"--upstream http://192.0.2.7:1 --evidence sim --sim-key KEY", ST_POLICY, "--upstream: 192.0.2.7"},
                {"HERE --evidence moon", ST_UNSUPPORTED, "moon"},
                {"HERE --evidence sim,sim --sim-key KEY", ST_USAGE, "twice"},
                {"HERE --evidence sim", ST_USAGE, "--sim-key FILE"},
                {"HERE --evidence sim --sim-key /none", ST_IO, "/none"},
#ifdef HAS_TSS
                {"HERE --evidence tpm --tpm swtpm:host=127.0.0.1,port=1", ST_UNSUPPORTED, "TPM: none is reached"},
#endif
                {"HERE --evidence tdx --tsm /none", ST_UNSUPPORTED, "tdx"},
                {"HERE --evidence sim --sim-key KEY --chunk 100", ST_USAGE, "--chunk"},
                {"HERE --evidence sim --sim-key KEY --model /none", ST_IO, "/none"},
                {"HERE --evidence sim --sim-key KEY --sim-measurement xx", ST_USAGE, "--sim-measurement"},
                {"HERE --evidence sim --sim-key KEY --port 0 --tls-cert /c", ST_USAGE, "want both"},
                {"--upstream unix:/none --evidence sim --sim-key KEY --engine-wait 0.2", ST_IO, "no engine within"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char words[512];
        const char *rest = strncmp(rows[i].words, "HERE", 4) == 0 ? rows[i].words + 4 : rows[i].words;
        const char *key = strstr(rest, "KEY");
        snprintf(words, sizeof words, "%s%.*s%s%s", rest == rows[i].words ? "" : here,
                 (int)(key ? key - rest : (int)strlen(rest)), rest, key ? p.sim_key : "", key ? key + 3 : "");
        const int rc = node(words);
        if (rc != rows[i].code || !strstr(out.p, rows[i].says) || strchr(out.p, '\n') != strrchr(out.p, '\n'))
            fail_msg("%s: want %d '%s', got %d: %s", words, rows[i].code, rows[i].says, rc, out.p);
    }
}

static size_t entries(const char *dir)
{
    size_t n = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *x; (x = readdir(d));)
        n += strcmp(x->d_name, ".") != 0 && strcmp(x->d_name, "..") != 0;
    closedir(d);
    return n;
}

/* In its sandbox, in an empty directory that is its home as well. more: words, NULL-ended. */
static pid_t run_words(const char *dir, const char *const *more, int *port)
{
    char line[2048];
    struct st_err e;
    json_t *v;
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fds[1], STDOUT_FILENO);
        if (chdir(dir) != 0 || !freopen("/dev/null", "w", stderr))
            _exit(99);
        setenv("HOME", dir, 1);
        setenv("TMPDIR", dir, 1);
        const char *words[16] = {program, "--config=", "--port", "0", "--json"};
        for (int i = 0; more[i] && i < 10; i++)
            words[5 + i] = more[i];
        execv(program, (char *const *)words);
        _exit(99);
    }
    close(fds[1]);
    size_t n = 0;
    while (n + 1 < sizeof line && read(fds[0], line + n, 1) == 1 && line[n] != '\n')
        n++;
    close(fds[0]);
    assert_ok(st_json_parse(line, n, "first line", &v, &e), &e);
    *port = (int)json_integer_value(json_object_get(v, "port"));
    json_decref(v);
    return pid;
}

static pid_t run_program(const char *dir, int *port)
{
    const char *const words[] = {"--upstream", p.upstream, "--evidence", "sim", "--sim-key", p.sim_key, NULL};
    return run_words(dir, words, port);
}

static int wait_status(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void it_serves_writes_nothing_and_ends_on_sigterm(void **state)
{
    (void)state;
    need_program();
    char dir[] = "/tmp/sotto_node_home_XXXXXX";
    struct sealed_reply r;
    int port;
    assert_non_null(mkdtemp(dir));
    const char *pieces[] = {"data: 1\n\n", "data: [DONE]\n\n"};
    p.engine.pieces = pieces;
    p.engine.n_piece = 2;
    pid_t pid = run_program(dir, &port);
    struct node_key k = node_key(port, NONCE_A);
    for (int i = 0; i < 3; i++) {
        ask_sealed(port, &k, CHAT, NULL, ASKS, &r);
        assert_int_equal(r.status, 200);
        st_buf_free(&r.content);
    }
    kill(pid, SIGTERM);
    assert_int_equal(wait_status(pid), 0);
    assert_int_equal(entries(dir), 0);
    rmdir(dir);
}

static void sigterm_lets_a_reply_finish(void **state)
{
    (void)state;
    need_program();
    char dir[] = "/tmp/sotto_node_home_XXXXXX";
    const char *pieces[] = {"data: 1\n\n", "data: 2\n\n", "data: 3\n\n"};
    struct st_ohttp x;
    struct st_buf sealed = {0};
    struct sealed_reply r;
    struct answer a;
    int port;
    p.engine.pieces = pieces;
    p.engine.n_piece = 3;
    p.engine.gap_ms = 200;
    assert_non_null(mkdtemp(dir));
    pid_t pid = run_program(dir, &port);
    struct node_key k = node_key(port, NONCE_A);
    seal(&k, CHAT, NULL, ASKS, &x, &sealed);
    int fd = send_request(port, "/", "message/ohttp-chunked-req", sealed.p, sealed.len);
    assert_true(wait_metric(port, "requests_running", 1));
    kill(pid, SIGTERM);
    read_answer(fd, &a);
    open_reply(&x, &a, &r);
    assert_int_equal(r.status, 200);
    assert_non_null(strstr(r.content.p, "data: 3\n\n"));
    assert_int_equal(wait_status(pid), 0);
    st_ohttp_wipe(&x);
    st_buf_free(&sealed);
    st_buf_free(&a.body);
    st_buf_free(&r.content);
    rmdir(dir);
}

/* What was asked is nowhere in its memory a moment after the reply: neither in live nor in freed blocks. */
static void nothing_of_a_request_stays_in_memory(void **state)
{
    (void)state;
#ifdef KEEPS_FREED
    print_message("built with a sanitizer, which keeps freed memory: skipped\n");
    skip();
#endif
    need_program();
    static const char mark[] = "xyzzy-plugh-4711";
    char dir[] = "/tmp/sotto_node_home_XXXXXX", json[256], path[64], line[512];
    struct sealed_reply r;
    int port, found = 0;
    size_t looked = 0;
    assert_non_null(mkdtemp(dir));
    const char *pieces[] = {"data: xyzzy-plugh-4711 is what you said\n\n", "data: [DONE]\n\n"};
    p.engine.pieces = pieces;
    p.engine.n_piece = 2;
    snprintf(json, sizeof json, "{\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}],\"stream\":true}", mark);
    pid_t pid = run_program(dir, &port);
    struct node_key k = node_key(port, NONCE_A);
    for (int i = 0; i < 5; i++) {
        ask_sealed(port, &k, CHAT, NULL, json, &r);
        assert_non_null(strstr(r.content.p, mark));
        st_buf_free(&r.content);
    }
    snprintf(path, sizeof path, "/proc/%d/mem", (int)pid);
    int mem = open(path, O_RDONLY | O_CLOEXEC);
    snprintf(path, sizeof path, "/proc/%d/maps", (int)pid);
    FILE *maps = fopen(path, "r");
    while (mem >= 0 && maps && fgets(line, sizeof line, maps)) {
        unsigned long from, to;
        char mode[8];
        if (sscanf(line, "%lx-%lx %7s", &from, &to, mode) != 3 || mode[1] != 'w' || to - from > 256ul << 20 ||
            strstr(line, "[stack]"))
            continue;
        char *b = malloc(to - from);
        ssize_t n = pread(mem, b, to - from, (off_t)from);
        looked += n > 0 ? (size_t)n : 0;
        found += n > 0 && memmem(b, (size_t)n, mark, sizeof mark - 1) != NULL;
        free(b);
    }
    if (maps)
        fclose(maps);
    if (mem >= 0)
        close(mem);
    kill(pid, SIGTERM);
    assert_int_equal(wait_status(pid), 0);
    rmdir(dir);
    if (!looked) {
        print_message("its memory cannot be read by this user: skipped\n");
        skip();
    }
    assert_int_equal(found, 0);
}

static void it_ends_with_status_5_when_evidence_does_not_hold(void **state)
{
    (void)state;
    need_program();
    char dir[] = "/tmp/sotto_node_home_XXXXXX";
    int port;
    assert_non_null(mkdtemp(dir));
    pid_t pid = run_program(dir, &port);
    unlink(p.sim_key);
    assert_int_equal(wait_status(pid), ST_VERIFY);
    rmdir(dir);
}

/* A stream of bytes from a Unix socket to the engine's port and back, one connection after the other. */
static int carry_listen = -1;

static void *carry(void *arg)
{
    char b[65536];
    (void)arg;
    for (int near; (near = accept(carry_listen, NULL, NULL)) >= 0;) {
        int far = dial(p.engine.port);
        struct pollfd f[] = {{near, POLLIN, 0}, {far, POLLIN, 0}};
        for (bool open = true; open && poll(f, 2, -1) > 0;)
            for (int i = 0; open && i < 2; i++)
                if (f[i].revents) {
                    ssize_t n = recv(f[i].fd, b, sizeof b, 0);
                    open = n > 0 && send(f[1 - i].fd, b, (size_t)n, MSG_NOSIGNAL) == n;
                }
        close(near);
        close(far);
    }
    return NULL;
}

static void an_engine_at_a_unix_socket_is_reached(void **state)
{
    (void)state;
    need_program();
    char dir[] = "/tmp/sotto_node_home_XXXXXX", upstream[128];
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct sealed_reply r;
    pthread_t thread;
    int port;
    assert_non_null(mkdtemp(dir));
    snprintf(a.sun_path, sizeof a.sun_path, "%s.engine", p.sim_key);
    snprintf(upstream, sizeof upstream, "unix:%s", a.sun_path);
    carry_listen = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(carry_listen, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(carry_listen, 16), 0);
    assert_int_equal(pthread_create(&thread, NULL, carry, NULL), 0);
    p.engine.whole = "{}";
    const char *const words[] = {"--upstream", upstream, "--evidence", "sim", "--sim-key", p.sim_key, NULL};
    pid_t pid = run_words(dir, words, &port);
    struct node_key k = node_key(port, NONCE_A);
    ask_sealed(port, &k, CHAT, NULL, ASKS, &r);
    assert_int_equal(r.status, 200);
    st_buf_free(&r.content);
    kill(pid, SIGTERM);
    assert_int_equal(wait_status(pid), 0);
    shutdown(carry_listen, SHUT_RDWR);
    pthread_join(thread, NULL);
    close(carry_listen);
    unlink(a.sun_path);
    rmdir(dir);
}

#ifdef HAS_TSS
static void extend_pcr(const char *tcti)
{
    TSS2_TCTI_CONTEXT *ctx;
    ESYS_CONTEXT *esys;
    const TPML_DIGEST_VALUES d = {.count = 1, .digests = {{.hashAlg = TPM2_ALG_SHA256}}};
    assert_int_equal(Tss2_TctiLdr_Initialize(tcti, &ctx), 0);
    assert_int_equal(Esys_Initialize(&esys, ctx, NULL), 0);
    assert_int_equal(Esys_PCR_Extend(esys, ESYS_TR_PCR7, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &d), 0);
    Esys_Finalize(&esys);
    Tss2_TctiLdr_Finalize(&ctx);
}

static void a_pcr_that_is_extended_kills_its_keys_in_the_middle_of_a_reply(void **state)
{
    (void)state;
    need_program();
    char dir[] = "/tmp/sotto_node_home_XXXXXX";
    const char *pieces[] = {"data: 1\n\n", "data: 2\n\n"};
    struct swtpm t;
    struct st_ohttp x;
    struct st_buf sealed = {0};
    struct sealed_reply r;
    struct answer a;
    int port;
    if (!swtpm_open(&t))
        skip();
    p.engine.pieces = pieces;
    p.engine.n_piece = 2;
    p.engine.gap_ms = 8000;
    assert_non_null(mkdtemp(dir));
    const char *const words[] = {"--upstream", p.upstream, "--evidence", "tpm", "--tpm", t.tcti, NULL};
    pid_t pid = run_words(dir, words, &port);
    struct node_key k = node_key(port, NONCE_A);
    seal(&k, CHAT, NULL, ASKS, &x, &sealed);
    int fd = send_request(port, "/", "message/ohttp-chunked-req", sealed.p, sealed.len);
    assert_true(wait_metric(port, "requests_running", 1));
    extend_pcr(t.tcti);
    read_answer(fd, &a);
    open_reply(&x, &a, &r);
    assert_int_equal(r.status, 0); /* cut */
    assert_int_equal(wait_status(pid), ST_VERIFY);
    st_ohttp_wipe(&x);
    st_buf_free(&sealed);
    st_buf_free(&a.body);
    st_buf_free(&r.content);
    swtpm_close(&t);
    rmdir(dir);
}
#endif

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(it_explains_itself_and_its_list_of_commands_is_current),
        TEST(wrong_input_gets_one_line_and_its_exit_code),
        TEST(it_serves_writes_nothing_and_ends_on_sigterm),
        TEST(sigterm_lets_a_reply_finish),
        TEST(nothing_of_a_request_stays_in_memory),
        TEST(it_ends_with_status_5_when_evidence_does_not_hold),
        TEST(an_engine_at_a_unix_socket_is_reached),
#ifdef HAS_TSS
        TEST(a_pcr_that_is_extended_kills_its_keys_in_the_middle_of_a_reply),
#endif
    };
    const char *sotto = getenv("SOTTO_BIN");
    snprintf(program, sizeof program, "%s-node", sotto ? sotto : "");
    if (access(program, X_OK) != 0)
        *program = 0;
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    st_buf_free(&out);
    return rc;
}
