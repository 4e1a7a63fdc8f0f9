/* Clients and surroundings that mean harm: floods, bodies without a key, names that only look allowed, core dumps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/secret.h"
#include "net/http_parse.h"
#include "service/gen_upstream.h"
#include "service/openai.h"
#include "serving.h"

#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

static struct mock mock;
static struct st_server *server;
static int port;

static int set_up(void **state)
{
    (void)state;
    mock_init(&mock);
    server = NULL;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    st_server_stop(server);
    return 0;
}

static void start(struct st_server_opts o)
{
    struct st_err e;
    o.source = (struct st_gen_source){mock_open, &mock};
    if (st_server_start(&o, &server, &e))
        fail_msg("%s", e.msg);
    port = st_server_port(server);
}

static void a_client_without_a_key_is_answered_before_its_body(void **state)
{
    (void)state;
    static const char head[] = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                               "Expect: 100-continue\r\nContent-Length: 200000\r\n\r\n";
    static const char chunked[] = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer no\r\n"
                                  "Transfer-Encoding: chunked\r\n\r\n30d40\r\n{";
    static const char *const requests[] = {head, chunked};
    char path[] = "/tmp/sotto-keys-XXXXXX";
    int file = mkstemp(path);
    assert_true(file >= 0 && write(file, "secret\n", 7) == 7);
    close(file);
    start((struct st_server_opts){.api_key_file = path});
    unlink(path);
    for (int i = 0; i < 2; i++) {
        struct st_buf a = {0};
        int fd = dial(port);
        put(fd, requests[i], strlen(requests[i]));
        assert_true(get_all(fd, &a)); /* the server ends the connection: nothing is waited for */
        assert_int_equal(status_of(a.p), 401);
        assert_non_null(strstr(a.p, "Connection: close\r\n"));
        close(fd);
        st_buf_free(&a);
    }
}

static void a_host_that_only_begins_like_an_allowed_one_is_turned_away(void **state)
{
    (void)state;
    static const char *const hosts[] = {"localhost:80@evil.example",
                                        "[::1].evil.example",
                                        "[::1]evil",
                                        "127.0.0.1:8x",
                                        "localhost.evil.example",
                                        ":80",
                                        "[::1"};
    const char *allowed[] = {"::2"}; /* brackets forgotten: must not match a Host without a name */
    start((struct st_server_opts){.allowed_hosts = allowed, .n_allowed_host = 1});
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
        struct st_buf q = {0}, a = {0};
        int fd = dial(port);
        st_buf_addf(&q, "GET /v1/models HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", hosts[i]);
        put(fd, q.p, q.len);
        assert_true(get_all(fd, &a));
        if (status_of(a.p) != 403)
            fail_msg("%s: %s", hosts[i], a.p);
        close(fd);
        st_buf_free(&q);
        st_buf_free(&a);
    }
}

static void silent_connections_do_not_keep_others_out(void **state)
{
    (void)state;
    enum { MAX = 8 };
    static const char stream[] = "{\"prompt\":[1],\"stream\":true,\"max_tokens\":200}";
    int silent[3 * MAX];
    struct st_buf q = {0}, a = {0};
    mock.tick_us = 2000;
    start((struct st_server_opts){.limits = {.max_conn = MAX}});
    int running = dial(port);
    st_buf_addf(&q,
                "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                strlen(stream), stream);
    put(running, q.p, q.len);
    assert_true(wait_for(&mock.n_live, 1));
    for (int i = 0; i < 3 * MAX; i++) {
        silent[i] = dial(port);
        put(silent[i], "POST /v1/completions HTTP/1.1\r\n", i % 2 ? 31 : 0); /* some begin a request */
    }
    char *health = ask(port, "GET", "/health", NULL, NULL);
    assert_int_equal(status_of(health), 200);
    free(health);
    /* What runs is not given up for them. */
    assert_true(get_all(running, &a));
    assert_non_null(strstr(a.p, "data: [DONE]"));
    close(running);
    for (int i = 0; i < 3 * MAX; i++)
        close(silent[i]);
    st_buf_free(&q);
    st_buf_free(&a);
}

static void a_carriage_return_inside_a_chunk_size_line_is_refused(void **state)
{
    (void)state;
    static const char request[] =
        "POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a\rb\r\nA\r\n0\r\n\r\n";
    struct st_http_parser p;
    st_http_parser_init(&p, 4096, 4096);
    st_http_parser_feed(&p, request, sizeof request - 1);
    assert_int_equal(p.state, ST_HTTP_BAD);
    assert_int_equal(p.status, 400);
    st_http_parser_wipe(&p);
}

static void a_running_request_keeps_nothing_of_its_body_but_stop_strings(void **state)
{
    (void)state;
    static const char body[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"secret\"}]}],"
        "\"stop\":[\"END\",\"FIN\"],\"user\":\"somebody\",\"max_tokens\":7}";
    struct st_oai_request r;
    struct st_oai_error err;
    struct st_buf left = {0};
    assert_int_equal(st_oai_parse(ST_OAI_CHAT, body, sizeof body - 1, &r, &err), 0);
    st_oai_request_trim(&r);
    assert_int_equal(r.n_stop, 2);
    assert_string_equal(r.stop[0], "END");
    assert_string_equal(r.stop[1], "FIN");
    assert_int_equal(r.max_tokens, 7);
    assert_null(r.msgs);
    assert_null(r.joined.p);
    st_json_dump(r.body, &left);
    assert_string_equal(left.p, "[\"END\",\"FIN\"]");
    st_buf_free(&left);
    st_oai_request_wipe(&r);
}

static void a_password_in_the_upstream_address_is_refused_unseen(void **state)
{
    (void)state;
    static const char *const urls[] = {"http://me:hunter2@gpu.example:8000", "https://hunter2@gpu.example/v1"};
    uint32_t map[2] = {1, 0};
    struct st_cov_cipher cipher = {.n_vocab = 2, .to = map, .from = map};
    struct event_base *base = event_base_new();
    for (int i = 0; i < 2; i++) {
        struct st_gen_ref g;
        struct st_err e;
        const struct st_gen_upstream_opts o = {.url = urls[i], .cipher = &cipher};
        assert_int_equal(st_gen_upstream_open(&o, base, &g, &e), ST_USAGE);
        assert_null(strstr(e.msg, "hunter2"));
    }
    event_base_free(base);
}

static void a_process_with_secrets_leaves_no_core(void **state)
{
    (void)state;
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        struct rlimit core = {1, 1};
        st_secret_process();
        _exit(prctl(PR_GET_DUMPABLE) == 0 && getrlimit(RLIMIT_CORE, &core) == 0 && core.rlim_cur == 0 ? 0 : 1);
    }
    assert_true(pid > 0 && waitpid(pid, &status, 0) == pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* What `sotto status --url` sends first to a port here, when the environment names this base URL and a key. */
static char *status_request(const char *base)
{
    char url[64], head[4096] = "";
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    const char *program = getenv("SOTTO_BIN");
    int status, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(fd, 4) == 0);
    getsockname(fd, (struct sockaddr *)&a, &len);
    snprintf(url, sizeof url, "http://127.0.0.1:%d", ntohs(a.sin_port));
    pid_t pid = fork();
    if (pid == 0) {
        setenv("OPENAI_API_KEY", "hunter2", 1);
        setenv("OPENAI_BASE_URL", base ? base : url, 1);
        if (!freopen("/dev/null", "w", stderr))
            _exit(98);
        execl(program ? program : "build/bin/sotto", "sotto", "status", "--config=", "--url", url, (char *)NULL);
        _exit(99);
    }
    int c = accept(fd, NULL, NULL);
    for (size_t n = 0; c >= 0 && n + 1 < sizeof head && !strstr(head, "\r\n\r\n");) {
        ssize_t got = recv(c, head + n, sizeof head - 1 - n, 0);
        if (got <= 0)
            break;
        n += (size_t)got;
        head[n] = 0;
    }
    close(c);
    close(fd);
    assert_true(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) != 99);
    assert_non_null(strstr(head, "GET /health"));
    return strdup(head);
}

static void status_sends_a_key_to_its_own_endpoint_only(void **state)
{
    (void)state;
    static const char *const others[] = {"https://api.openai.com/v1", "http://127.0.0.1", "http://127.0.0.1:1/v1", ""};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        char *head = status_request(others[i]);
        assert_null(strstr(head, "hunter2"));
        free(head);
    }
    char *head = status_request(NULL);
    assert_non_null(strstr(head, "Authorization: Bearer hunter2\r\n"));
    free(head);
}

/* A tokenizer whose section `where` replaces "a" by 100,000 of them, three times over. */
static char *growing_tokenizer(const char *where, const char *list)
{
    struct st_buf b = {0};
    char *path = strdup("/tmp/sotto-grow-XXXXXX");
    char many[100001];
    memset(many, 'a', sizeof many - 1);
    many[sizeof many - 1] = 0;
    st_buf_addf(
        &b, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},\"%s\":{\"type\":\"Sequence\",\"%s\":[",
        where, list);
    for (int i = 0; i < 3; i++)
        st_buf_addf(&b, "%s{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"%s\"}", i ? "," : "",
                    many);
    st_buf_add_str(&b, "]}}");
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, b.p, b.len) == (ssize_t)b.len);
    close(fd);
    st_buf_free(&b);
    return path;
}

static void a_tokenizer_that_makes_texts_grow_without_end_is_refused(void **state)
{
    (void)state;
    struct st_tokenizer *t;
    struct st_ids ids = {0};
    struct st_err e;
    const struct st_encode_opts o = {0};
    char *path = growing_tokenizer("normalizer", "normalizers");
    if (st_tokenizer_open(path, &t, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(st_tokenizer_encode(t, "aaaa", 4, &o, &ids, &e), ST_INPUT);
    assert_int_equal(ids.len, 0);
    st_ids_free(&ids);
    st_tokenizer_free(t);
    unlink(path);
    free(path);
    path = growing_tokenizer("decoder", "decoders");
    assert_int_equal(st_tokenizer_open(path, &t, &e), ST_INPUT);
    unlink(path);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_client_without_a_key_is_answered_before_its_body, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_host_that_only_begins_like_an_allowed_one_is_turned_away, set_up, tear_down),
        cmocka_unit_test_setup_teardown(silent_connections_do_not_keep_others_out, set_up, tear_down),
        cmocka_unit_test(a_carriage_return_inside_a_chunk_size_line_is_refused),
        cmocka_unit_test(a_running_request_keeps_nothing_of_its_body_but_stop_strings),
        cmocka_unit_test(a_password_in_the_upstream_address_is_refused_unseen),
        cmocka_unit_test(a_tokenizer_that_makes_texts_grow_without_end_is_refused),
        cmocka_unit_test(status_sends_a_key_to_its_own_endpoint_only),
        cmocka_unit_test(a_process_with_secrets_leaves_no_core),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
