/* A proxy in front of a server that sees enciphered ids only, both over real sockets; and what the proxy says when the
 * other side fails. Then the generator on a real engine. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/hooks.h"
#include "net/http_server.h"
#include "service/gen_engine.h"
#include "service/gen_upstream.h"
#include "serving.h"

#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>

static struct st_tokenizer *tok;
static const struct st_chat_template *chat;
static struct mock far; /* the untrusted side */
static struct st_server *server, *proxy;
static struct st_cov_cipher cipher;
static int port;
static pthread_mutex_t tap_lock = PTHREAD_MUTEX_INITIALIZER;
static struct st_buf egress, ingress; /* under tap_lock */

static void tap(void *arg, bool sent, const void *p, size_t len)
{
    (void)arg;
    pthread_mutex_lock(&tap_lock);
    st_buf_add(sent ? &egress : &ingress, p, len);
    pthread_mutex_unlock(&tap_lock);
}

static void make_cipher(uint32_t n)
{
    struct st_rng rng;
    st_rng_seed(&rng, 7);
    cipher.n_vocab = n;
    cipher.to = calloc(n, sizeof *cipher.to);
    cipher.from = calloc(n, sizeof *cipher.from);
    for (uint32_t i = 0; i < n; i++)
        cipher.to[i] = i;
    for (uint32_t i = n - 1; i > 0; i--) {
        uint32_t j = (uint32_t)(st_rng_next(&rng) % (i + 1)), t = cipher.to[i];
        cipher.to[i] = cipher.to[j];
        cipher.to[j] = t;
    }
    for (uint32_t i = 0; i < n; i++)
        cipher.from[cipher.to[i]] = i;
}

static int open_all(void **state)
{
    (void)state;
    if (open_demo(&tok, &chat))
        return -1;
    make_cipher((uint32_t)st_tokenizer_vocab(tok));
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    st_tokenizer_free(tok);
    free(cipher.to);
    free(cipher.from);
    return 0;
}

static void start_proxy(const char *url, const char *key_file)
{
    struct st_err e;
    static const uint32_t eos[] = {0};
    struct st_gen_upstream_opts up = {.url = url,
                                      .api_key_file = key_file,
                                      .cipher = &cipher,
                                      .scheme = "tight",
                                      .n_ctx = 512,
                                      .eos = eos,
                                      .n_eos = 1,
                                      .connect_s = 2,
                                      .stall_s = 2,
                                      .tap = tap};
    struct st_server_opts o = {.tokenizer = tok, .chat = chat, .source = {st_gen_upstream_open, &up}};
    if (st_server_start(&o, &proxy, &e))
        fail_msg("%s", e.msg);
    port = st_server_port(proxy);
}

static bool wait_ready(void)
{
    for (int i = 0; i < 500; i++) {
        char *a = ask(port, "GET", "/health", NULL, NULL);
        int status = status_of(a);
        free(a);
        if (status == 200)
            return true;
        poll(NULL, 0, 20);
    }
    return false;
}

static void start_pair(void)
{
    struct st_err e;
    struct st_server_opts o = {.source = {mock_open, &far}};
    if (st_server_start(&o, &server, &e))
        fail_msg("%s", e.msg);
    start_proxy(st_server_url(server), NULL);
    assert_true(wait_ready());
}

static int set_up(void **state)
{
    (void)state;
    mock_init(&far);
    far.n_vocab = cipher.n_vocab;
    far.n_ctx = 256;
    server = proxy = NULL;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    st_server_stop(proxy);
    st_server_stop(server);
    st_buf_free(&egress);
    st_buf_free(&ingress);
    return 0;
}

static void ids_leave_enciphered_and_come_back_in_clear(void **state)
{
    (void)state;
    start_pair();
    char *a = ask(port, "POST", "/v1/completions", NULL,
                  "{\"prompt\":[300,301,302],\"max_tokens\":6,\"return_token_ids\":true,\"logit_bias\":{\"310\":-5},"
                  "\"stop_token_ids\":[311],\"seed\":4,\"logprobs\":2,\"return_tokens_as_token_ids\":true}");
    json_t *v = json_of(a);
    assert_int_equal(status_of(a), 200);
    assert_non_null(strstr(a, "Sotto-Protection: covariant\r\n"));
    assert_non_null(strstr(a, "Sotto-Scheme: tight\r\n"));
    const json_t *c = json_array_get(json_object_get(v, "choices"), 0);
    for (size_t i = 0; i < 6; i++)
        assert_int_equal(json_integer_value(json_array_get(json_object_get(c, "token_ids"), i)), 300 + i % 3);
    const json_t *names = json_object_get(json_object_get(c, "logprobs"), "tokens");
    assert_string_equal(json_string_value(json_array_get(names, 1)), "token_id:301");
    const json_t *top = json_array_get(json_object_get(json_object_get(c, "logprobs"), "top_logprobs"), 1);
    assert_true(json_object_size(top) >= 2);
    assert_non_null(json_object_get(top, "token_id:301"));
    json_decref(v);
    free(a);
    /* What left: exactly these ids under the cipher, and the parameters. */
    char want[512];
    snprintf(want, sizeof want,
             "{\"model\":\"mock\",\"prompt\":[%u,%u,%u],\"max_tokens\":6,\"stream\":true,\"temperature\":1,\"top_p\":1,"
             "\"seed\":4,"
             "\"logprobs\":2,\"logit_bias\":{\"%u\":-5},\"return_token_ids\":true,\"return_tokens_as_token_ids\":true,"
             "\"min_p\":0,\"repetition_penalty\":1,\"top_k\":0,\"stop_token_ids\":[%u]}",
             cipher.to[300], cipher.to[301], cipher.to[302], cipher.to[310], cipher.to[311]);
    pthread_mutex_lock(&tap_lock);
    assert_string_equal(egress.p, want);
    assert_non_null(strstr(ingress.p, "data: [DONE]"));
    pthread_mutex_unlock(&tap_lock);
}

static void texts_stay_here(void **state)
{
    (void)state;
    start_pair();
    static const char secret[] = "The secret word was umbrella";
    char body[256];
    snprintf(body, sizeof body,
             "{\"prompt\":\"%s\",\"max_tokens\":40,\"stream\":true,\"add_special_tokens\":false,\"stop\":[\"umb\"]}",
             secret);
    char *a = ask(port, "POST", "/v1/completions", NULL, body);
    assert_int_equal(status_of(a), 200);
    assert_non_null(strstr(a, "data: [DONE]"));
    assert_non_null(strstr(a, "\"finish_reason\":\"stop\""));
    free(a);
    pthread_mutex_lock(&tap_lock);
    assert_null(strstr(egress.p, "umbrella"));
    assert_null(strstr(egress.p, "umb"));
    assert_null(strstr(egress.p, "stop\""));
    pthread_mutex_unlock(&tap_lock);
    /* The stop string ended the work over there too. */
    assert_true(wait_for(&far.n_live, 0));
}

static void long_prompts_are_refused_with_the_upstreams_length(void **state)
{
    (void)state;
    start_pair();
    char *a = ask(port, "POST", "/v1/completions", NULL, "{\"prompt\":[300],\"max_tokens\":256}");
    assert_non_null(strstr(a, "context of 256"));
    assert_error(a, 400, "context_length_exceeded");
}

static void a_leaving_client_frees_the_upstream(void **state)
{
    (void)state;
    start_pair();
    far.tick_us = 20000;
    int fd = dial(port);
    static const char q[] = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                            "Content-Length: 33\r\n\r\n{\"prompt\":[300],\"max_tokens\":200}";
    assert_true(put(fd, q, sizeof q - 1));
    assert_true(wait_for(&far.n_live, 1));
    close(fd);
    assert_true(wait_for(&far.n_live, 0));
    assert_int_equal(far.n_cancelled, 1);
}

static void a_full_upstream_is_a_429(void **state)
{
    (void)state;
    far.max_live = 1;
    start_pair();
    far.tick_us = 5000;
    assert_error(ask(port, "POST", "/v1/completions", NULL, "{\"prompt\":[300],\"n\":2,\"max_tokens\":30}"), 429,
                 "queue_full");
    assert_true(wait_for(&far.n_live, 0));
}

static void failures_of_the_upstream_are_told(void **state)
{
    (void)state;
    far.fail_after = 0;
    start_pair();
    assert_error(ask(port, "POST", "/v1/completions", NULL, "{\"prompt\":[300]}"), 502, "network");
    far.fail_after = 3;
    char *a =
        ask(port, "POST", "/v1/completions", NULL, "{\"prompt\":[300],\"stream\":true,\"return_token_ids\":true}");
    assert_int_equal(status_of(a), 200);
    assert_non_null(strstr(a, "\"code\":\"network\""));
    free(a);
    st_server_stop(server);
    server = NULL;
    assert_error(ask(port, "POST", "/v1/completions", NULL, "{\"prompt\":[300]}"), 502, "network");
}

static void an_absent_upstream_is_waited_for(void **state)
{
    (void)state;
    start_proxy("http://127.0.0.1:1/v1/", NULL);
    char *a = ask(port, "GET", "/health", NULL, NULL);
    assert_int_equal(status_of(a), 503);
    assert_non_null(strstr(a, "\"status\":\"starting\""));
    free(a);
    assert_error(ask(port, "POST", "/v1/completions", NULL, "{\"prompt\":[300]}"), 503, "not_ready");
}

/* ---- an upstream that lies ---- */

static struct event_base *liar_base;
static struct st_http_server *liar;
static const char *lie;
static int lie_status;

static void lie_now(void *arg, struct st_http_conn *c)
{
    static const char models[] = "{\"data\":[{\"id\":\"m\"}]}";
    (void)arg;
    if (strcmp(st_http_method(c), "GET") == 0)
        st_http_reply(c, 200, NULL, "application/json", models, strlen(models));
    else
        st_http_reply(c, lie_status, NULL, "text/event-stream", lie, strlen(lie));
}

static void *liar_main(void *arg)
{
    event_base_loop(liar_base, EVLOOP_NO_EXIT_ON_EMPTY);
    return arg;
}

static void liar_quit(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    event_base_loopbreak(arg);
}

static void lying_upstreams_are_caught(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int upstream_status, status;
        const char *code;
    } rows[] = {
        {"data: {\"choices\":[{\"token_ids\":[99999]}]}\n\n", 200, 502, "integrity"},
        {"data: {\"choices\":[{\"token_ids\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}]}\n\n", 200, 502, "integrity"},
        {"data: {\"choices\":[{\"text\":\"EVIL\"}]}\n\n", 200, 400, "unsupported"},
        {"data: nonsense\n\n", 200, 502, "integrity"},
        {"", 200, 502, "network"},
        {"<html>EVIL</html>", 200, 502, "network"},
        {"{\"error\":{\"message\":\"EVIL\",\"code\":\"context_length_exceeded\"}}", 400, 400, "invalid_value"},
        {"{\"error\":{\"message\":\"EVIL\",\"code\":\"E V I L\"}}", 500, 502, "network"},
        {"{\"error\":\"EVIL\"}", 401, 502, "network"},
        {"EVIL", 404, 502, "network"},
        {"EVIL", 429, 429, "queue_full"},
        {"data: {\"error\":{\"message\":\"EVIL\",\"code\":\"oops\"}}\n\n", 200, 502, "network"},
    };
    struct st_err e;
    char url[64];
    int pipes[2];
    pthread_t t;
    liar_base = event_base_new();
    struct st_http_server_opts o = {.host = "127.0.0.1",
                                    .max_head = 8192,
                                    .max_body = 1 << 20,
                                    .max_conn = 100,
                                    .idle_s = 60,
                                    .receive_s = 60,
                                    .send_s = 60,
                                    .request = lie_now};
    assert_int_equal(st_http_server_new(liar_base, &o, &liar, &e), 0);
    assert_int_equal(pipe(pipes), 0);
    struct event *quit = event_new(liar_base, pipes[0], EV_READ, liar_quit, liar_base);
    event_add(quit, NULL);
    pthread_create(&t, NULL, liar_main, NULL);
    snprintf(url, sizeof url, "http://127.0.0.1:%d", st_http_server_port(liar));
    start_proxy(url, NULL);
    assert_true(wait_ready());
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        lie = rows[i].text;
        lie_status = rows[i].upstream_status;
        char *a = ask(port, "POST", "/v1/completions", NULL, "{\"prompt\":[300]}");
        assert_null(strstr(a, "EVIL"));
        assert_error(a, rows[i].status, rows[i].code);
    }
    assert_int_equal(write(pipes[1], "q", 1), 1);
    pthread_join(t, NULL);
    event_free(quit);
    st_http_server_free(liar);
    event_base_free(liar_base);
    close(pipes[0]);
    close(pipes[1]);
}

static void bad_set_ups_are_refused_at_start(void **state)
{
    (void)state;
    struct st_err e;
    struct st_server *s;
    struct st_gen_upstream_opts up = {.url = "ftp://x", .cipher = &cipher};
    struct st_server_opts o = {.tokenizer = tok, .chat = chat, .source = {st_gen_upstream_open, &up}};
    assert_int_equal(st_server_start(&o, &s, &e), ST_USAGE);
    up.url = "http://x y";
    assert_int_equal(st_server_start(&o, &s, &e), ST_USAGE);
    up.url = "https://x";
    up.ca_bundle = "/nonexistent.pem";
    assert_int_equal(st_server_start(&o, &s, &e), ST_IO);
    up.ca_bundle = NULL;
    up.api_key_file = "/nonexistent.key";
    assert_int_equal(st_server_start(&o, &s, &e), ST_IO);
}

/* ---- the engine behind the server ---- */

static void the_engine_answers_many_at_once_alike(void **state)
{
    (void)state;
    enum { N = 24 };
    struct st_err e;
    struct st_model *m;
    struct st_engine *en = NULL;
    static const char body[] =
        "{\"prompt\":\"Once upon a time\",\"max_tokens\":12,\"temperature\":0,\"return_token_ids\":true}";
    int fds[N];
    char *first = NULL;
    if (st_model_open("models/demo", &(struct st_model_opts){.n_threads = 1}, &m, &e) ||
        st_engine_new(m, &(struct st_engine_opts){.n_threads = 1, .deterministic = true}, &en, &e))
        fail_msg("%s", e.msg);
    struct st_gen_engine_opts g = {.engine = en, .model = m, .max_live = N};
    struct st_server_opts o = {.tokenizer = tok, .chat = chat, .source = {st_gen_engine_open, &g}};
    if (st_server_start(&o, &server, &e))
        fail_msg("%s", e.msg);
    port = st_server_port(server);
    struct st_buf q = {0};
    st_buf_addf(
        &q,
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
        "Content-Length: %zu\r\n\r\n%s",
        sizeof body - 1, body);
    for (int i = 0; i < N; i++) {
        fds[i] = dial(port);
        put(fds[i], q.p, q.len);
    }
    for (int i = 0; i < N; i++) {
        struct st_buf a = {0};
        assert_true(get_all(fds[i], &a));
        close(fds[i]);
        assert_int_equal(status_of(a.p), 200);
        json_t *v = json_of(a.p);
        struct st_buf ids = {0};
        st_json_dump(json_array_get(json_object_get(v, "choices"), 0), &ids);
        if (first)
            assert_string_equal(ids.p, first);
        else
            first = strdup(ids.p);
        assert_int_equal(json_integer_value(json_object_get(json_object_get(v, "usage"), "completion_tokens")), 12);
        json_decref(v);
        st_buf_free(&ids);
        st_buf_free(&a);
    }
    /* Clients that leave while they wait or run, and a stop in the middle. */
    for (int i = 0; i < 20; i++) {
        int fd = dial(port);
        put(fd, q.p, q.len);
        close(fd);
    }
    char *last =
        ask(port, "POST", "/v1/chat/completions", NULL,
            "{\"messages\":[{\"role\":\"user\",\"content\":\"Once\"}],\"max_tokens\":5,\"n\":3,\"logprobs\":true}");
    assert_int_equal(status_of(last), 200);
    free(last);
    int fd = dial(port);
    put(fd, q.p, q.len);
    poll(NULL, 0, 2);
    st_server_stop(server);
    server = NULL;
    close(fd);
    struct st_engine_stats st;
    st_engine_stats(en, &st);
    assert_int_equal(st.n_running + st.n_waiting, 0);
    st_engine_free(en);
    st_model_close(m);
    st_buf_free(&q);
    free(first);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(ids_leave_enciphered_and_come_back_in_clear),
        T(texts_stay_here),
        T(long_prompts_are_refused_with_the_upstreams_length),
        T(a_leaving_client_frees_the_upstream),
        T(a_full_upstream_is_a_429),
        T(failures_of_the_upstream_are_told),
        T(an_absent_upstream_is_waited_for),
        T(lying_upstreams_are_caught),
        T(bad_set_ups_are_refused_at_start),
        T(the_engine_answers_many_at_once_alike),
    };
    signal(SIGPIPE, SIG_IGN);
    /* Proxies of the machine that runs the tests have no part in them. */
    setenv("NO_PROXY", "*", 1);
    return cmocka_run_group_tests(tests, open_all, close_all);
}
