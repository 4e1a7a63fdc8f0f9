/* The server over real sockets: routes, errors, keys, limits, clients that leave, read slowly, or send rubbish. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/hooks.h"
#include "certificate.h"
#include "serving.h"

#include <curl/curl.h>
#include <signal.h>
#include <sys/stat.h>

static struct st_tokenizer *tok;
static const struct st_chat_template *chat;
static struct mock mock;
static struct st_server *server;
static int port;

static int open_tokenizer(void **state)
{
    (void)state;
    return open_demo(&tok, &chat);
}

static int close_tokenizer(void **state)
{
    (void)state;
    st_tokenizer_free(tok);
    return 0;
}

static void start(const struct st_server_opts *more)
{
    struct st_err e;
    struct st_server_opts o = more ? *more : (struct st_server_opts){.tokenizer = tok, .chat = chat};
    o.source = (struct st_gen_source){mock_open, &mock};
    if (st_server_start(&o, &server, &e))
        fail_msg("%s", e.msg);
    port = st_server_port(server);
}

static int set_up(void **state)
{
    (void)state;
    mock_init(&mock);
    mock.n_vocab = (uint32_t)st_tokenizer_vocab(tok);
    server = NULL;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    st_server_stop(server);
    return 0;
}

#define CHAT "/v1/chat/completions"
#define TEXT "/v1/completions"
#define HI "\"messages\":[{\"role\":\"user\",\"content\":\"Once upon a time\"}]"

static void models_health_and_metrics_are_served(void **state)
{
    (void)state;
    start(NULL);
    char *a = ask(port, "GET", "/v1/models", NULL, NULL);
    json_t *v = json_of(a);
    const json_t *m = json_array_get(json_object_get(v, "data"), 0);
    assert_string_equal(json_string_value(json_object_get(m, "id")), "mock");
    assert_non_null(strstr(a, "Sotto-Protection: none\r\n"));
    assert_non_null(strstr(a, "Sotto-Scheme: none\r\n"));
    assert_non_null(strstr(a, "Sotto-Verified: no\r\n"));
    assert_null(strstr(a, "Server:"));
    assert_null(strstr(a, "Access-Control"));
    json_decref(v);
    free(a);
    a = ask(port, "GET", "/v1/models/mock", NULL, NULL);
    assert_int_equal(status_of(a), 200);
    free(a);
    assert_error(ask(port, "GET", "/v1/models/other", NULL, NULL), 404, "model_not_found");
    a = ask(port, "GET", "/health", NULL, NULL);
    assert_int_equal(status_of(a), 200);
    assert_non_null(strstr(a, "\"ready\":true"));
    free(a);
    mock.ready = false;
    a = ask(port, "GET", "/health", NULL, NULL);
    assert_int_equal(status_of(a), 503);
    free(a);
    assert_error(ask(port, "POST", TEXT, NULL, "{\"prompt\":[1]}"), 503, "not_ready");
    mock.ready = true;
    free(ask(port, "POST", TEXT, NULL, "{\"prompt\":[5,6],\"max_tokens\":3}"));
    a = ask(port, "GET", "/metrics", NULL, NULL);
    assert_non_null(strstr(a, "sotto_requests_total{route=\"/v1/completions\",status=\"2xx\"} 1\n"));
    assert_non_null(strstr(a, "sotto_tokens_total{kind=\"prompt\"} 2\n"));
    assert_non_null(strstr(a, "sotto_tokens_total{kind=\"reply\"} 3\n"));
    assert_non_null(strstr(a, "sotto_request_duration_seconds_count{route=\"/v1/completions\"} 2\n"));
    assert_non_null(strstr(a, "sotto_time_to_first_token_seconds_count 1\n"));
    assert_non_null(strstr(a, "sotto_protection_state{protection=\"none\""));
    assert_non_null(strstr(a, "sotto_verification_failures_total 0\n"));
    free(a);
}

static void a_protection_without_workers_is_not_ready_but_says_itself_why(void **state)
{
    (void)state;
    mock.ready = false;
    mock.watched = true;
    mock.watch = (struct st_gen_watch){.pads_ready = 7,
                                       .pads_made = 20,
                                       .pads_taken = 13,
                                       .pad_waits = 2,
                                       .pad_wait_s = 0.25,
                                       .exchanges = 11,
                                       .rejects = 1,
                                       .bytes_up = 4096,
                                       .quarantined = 1};
    mock.fail_after = 0;
    mock.fail_code = ST_VERIFY;
    start(NULL);
    char *a = ask(port, "GET", "/health", NULL, NULL);
    assert_int_equal(status_of(a), 503);
    assert_non_null(strstr(a, "\"status\":\"no worker\""));
    assert_non_null(strstr(a, "\"workers_quarantined\":1"));
    free(a);
    assert_error(ask(port, "POST", TEXT, NULL, "{\"prompt\":[1]}"), 502, "integrity");
    mock.fail_after = 2;
    a = ask(port, "POST", TEXT, NULL, "{\"prompt\":[5,6],\"stream\":true,\"return_token_ids\":true}");
    assert_int_equal(status_of(a), 200);
    assert_non_null(strstr(a, "\"token_ids\":[6]"));
    assert_non_null(strstr(a, "\"code\":\"integrity\""));
    assert_null(strstr(a, "[DONE]"));
    free(a);
    a = ask(port, "GET", "/metrics", NULL, NULL);
    assert_non_null(strstr(a, "sotto_verification_failures_total 2\n"));
    assert_non_null(strstr(a, "sotto_pads_ready 7\n"));
    assert_non_null(strstr(a, "sotto_pads_taken_total 13\n"));
    assert_non_null(strstr(a, "sotto_pad_wait_seconds_total 0.250000\n"));
    assert_non_null(strstr(a, "sotto_worker_bytes_total{direction=\"up\"} 4096\n"));
    assert_non_null(strstr(a, "sotto_workers_quarantined 1\n"));
    free(a);
}

static void errors_have_the_api_shape(void **state)
{
    (void)state;
    start(NULL);
    mock.n_ctx = 20;
    assert_error(ask(port, "GET", "/nothing", NULL, NULL), 404, "not_found");
    assert_error(ask(port, "POST", "/v1/embeddings", NULL, "{}"), 404, "unsupported");
    assert_error(ask(port, "POST", "/v1/responses", NULL, "{}"), 404, "unsupported");
    assert_error(ask(port, "GET", "/v1/responses/abc", NULL, NULL), 404, "unsupported");
    assert_error(ask(port, "GET", CHAT, NULL, NULL), 405, "method_not_allowed");
    assert_error(ask(port, "DELETE", "/v1/models", NULL, NULL), 405, "method_not_allowed");
    assert_error(ask(port, "POST", CHAT, "Content-Length: two\r\n", NULL), 400, "bad_request");
    assert_error(ask(port, "POST", CHAT, "Content-Type: text/plain\r\n", NULL), 415, "content_type");
    assert_error(ask(port, "POST", CHAT, NULL, "{"), 400, "invalid_json");
    assert_error(ask(port, "POST", CHAT, NULL, "{" HI ",\"model\":\"x\"}"), 404, "model_not_found");
    assert_error(ask(port, "POST", CHAT, NULL, "{" HI ",\"tools\":[{}]}"), 400, "unsupported");
    assert_error(ask(port, "POST", TEXT, NULL, "{\"prompt\":[999999]}"), 400, "invalid_value");
    assert_error(ask(port, "POST", TEXT, NULL, "{\"prompt\":[1],\"logit_bias\":{\"999999\":1}}"), 400, "invalid_value");
    assert_error(ask(port, "POST", TEXT, NULL, "{\"prompt\":[1],\"stop_token_ids\":[999999]}"), 400, "invalid_value");
    assert_error(ask(port, "POST", TEXT, NULL, "{\"prompt\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}"), 400,
                 "context_length_exceeded");
    char *a = ask(port, "POST", TEXT, NULL, "{\"prompt\":[1,2,3],\"max_tokens\":18}");
    assert_non_null(strstr(a, "3 prompt tokens and 18 reply tokens do not fit the context of 20"));
    assert_error(a, 400, "context_length_exceeded");
    a = ask(port, "OPTIONS", CHAT, NULL, NULL);
    assert_int_equal(status_of(a), 204);
    assert_non_null(strstr(a, "Allow: POST, OPTIONS\r\n"));
    free(a);
    a = ask(port, "HEAD", "/health", NULL, NULL);
    assert_int_equal(status_of(a), 200);
    assert_string_equal(body_of(a), "");
    free(a);
}

static void a_server_without_tokenizer_takes_ids_only(void **state)
{
    (void)state;
    struct st_server_opts o = {0};
    start(&o);
    assert_error(ask(port, "POST", CHAT, NULL, "{" HI "}"), 400, "unsupported");
    assert_error(ask(port, "POST", TEXT, NULL, "{\"prompt\":\"text\"}"), 400, "unsupported");
    assert_error(ask(port, "POST", TEXT, NULL, "{\"prompt\":[1],\"stop\":\"x\"}"), 400, "unsupported");
    char *a =
        ask(port, "POST", TEXT, NULL, "{\"prompt\":[7,8],\"max_tokens\":3,\"return_token_ids\":true,\"logprobs\":1}");
    json_t *v = json_of(a);
    const json_t *c = json_array_get(json_object_get(v, "choices"), 0);
    assert_string_equal(json_string_value(json_object_get(c, "text")), "");
    assert_int_equal(json_array_size(json_object_get(c, "token_ids")), 3);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(c, "token_ids"), 2)), 7);
    assert_int_equal(json_array_size(json_object_get(c, "prompt_token_ids")), 2);
    const json_t *names = json_object_get(json_object_get(c, "logprobs"), "tokens");
    assert_string_equal(json_string_value(json_array_get(names, 0)), "token_id:7");
    json_decref(v);
    free(a);
}

/* Sets the made-up reply to the ids of a text. */
static void say(struct st_ids *ids, const char *text)
{
    struct st_err e;
    struct st_encode_opts o = {0};
    if (st_tokenizer_encode(tok, text, strlen(text), &o, ids, &e))
        fail_msg("%s", e.msg);
    mock.script = ids->p;
    mock.n_script = ids->len;
}

static void chats_are_answered_whole(void **state)
{
    (void)state;
    struct st_ids ids = {0};
    say(&ids, "The cat sat on the mat. \"Hi\" she said.");
    start(NULL);
    char *a = ask(port, "POST", CHAT, NULL, "{" HI ",\"n\":2,\"logprobs\":true,\"top_logprobs\":2}");
    json_t *v = json_of(a);
    assert_int_equal(status_of(a), 200);
    const json_t *choices = json_object_get(v, "choices");
    assert_int_equal(json_array_size(choices), 2);
    const json_t *c = json_array_get(choices, 1);
    const char *text = json_string_value(json_object_get(json_object_get(c, "message"), "content"));
    assert_string_equal(text, "The cat sat on the mat. \"Hi\" she said.");
    assert_string_equal(json_string_value(json_object_get(c, "finish_reason")), "stop");
    const json_t *log = json_object_get(json_object_get(c, "logprobs"), "content");
    assert_int_equal(json_array_size(log), ids.len);
    assert_int_equal(json_array_size(json_object_get(json_array_get(log, 0), "top_logprobs")), 2);
    assert_true(json_is_array(json_object_get(json_array_get(log, 0), "bytes")));
    const json_t *usage = json_object_get(v, "usage");
    assert_int_equal(json_integer_value(json_object_get(usage, "completion_tokens")), 2 * ids.len);
    json_decref(v);
    free(a);
    st_ids_free(&ids);
}

/* Joins the texts of a stream's events; counts them; returns the number of [DONE]. */
static int stream_text(const char *answer, struct st_buf *text, int *n_event, struct st_buf *finish)
{
    struct st_err e;
    int n_done = 0;
    *n_event = 0;
    for (const char *p = strstr(answer, "data: "); p; p = strstr(p + 1, "data: ")) {
        const char *end = strstr(p, "\n\n");
        assert_non_null(end);
        if (strncmp(p, "data: [DONE]", 12) == 0) {
            n_done++;
            continue;
        }
        json_t *v;
        if (st_json_parse(p + 6, (size_t)(end - p - 6), "event", &v, &e))
            fail_msg("%s: %.*s", e.msg, (int)(end - p), p);
        const json_t *c = json_array_get(json_object_get(v, "choices"), 0);
        const json_t *t = json_object_get(c, "text") ? json_object_get(c, "text")
                                                     : json_object_get(json_object_get(c, "delta"), "content");
        st_buf_add(text, json_string_value(t) ? json_string_value(t) : "", json_string_length(t));
        const char *f = json_string_value(json_object_get(c, "finish_reason"));
        if (f)
            st_buf_add_str(finish, f);
        (*n_event)++;
        json_decref(v);
    }
    return n_done;
}

static void streams_carry_the_same_text(void **state)
{
    (void)state;
    struct st_ids ids = {0};
    say(&ids, "The cat sat on the mat.");
    start(NULL);
    struct st_buf text = {0}, finish = {0};
    int n;
    char *a = ask(port, "POST", CHAT, NULL, "{" HI ",\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
    assert_non_null(strstr(a, "Content-Type: text/event-stream"));
    assert_non_null(strstr(a, "\"delta\":{\"role\":\"assistant\",\"content\":\"\"}"));
    assert_int_equal(stream_text(a, &text, &n, &finish), 1);
    assert_string_equal(text.p, "The cat sat on the mat.");
    assert_string_equal(finish.p, "stop");
    assert_non_null(strstr(a, "\"choices\":[],\"usage\":{\"prompt_tokens\":"));
    free(a);
    st_buf_clear(&text);
    st_buf_clear(&finish);
    a = ask(port, "POST", TEXT, NULL, "{\"prompt\":\"x\",\"stream\":true,\"max_tokens\":2,\"logprobs\":1}");
    assert_int_equal(stream_text(a, &text, &n, &finish), 1);
    assert_string_equal(finish.p, "length");
    free(a);
    st_buf_free(&text);
    st_buf_free(&finish);
    st_ids_free(&ids);
}

static void stop_strings_end_the_reply_and_the_work(void **state)
{
    (void)state;
    struct st_ids ids = {0};
    say(&ids, "The cat sat on the mat and then it slept for a long long time.");
    start(NULL);
    mock.tick_us = 1000;
    char *a = ask(port, "POST", CHAT, NULL, "{" HI ",\"stop\":[\"zz\",\"at on th\"]}");
    assert_non_null(strstr(a, "\"content\":\"The cat s\""));
    assert_non_null(strstr(a, "\"finish_reason\":\"stop\""));
    free(a);
    assert_true(wait_for(&mock.n_cancelled, 1));
    struct st_buf text = {0}, finish = {0};
    int n;
    a = ask(port, "POST", TEXT, NULL, "{\"prompt\":\"x\",\"max_tokens\":50,\"stream\":true,\"stop\":\"at and\"}");
    assert_int_equal(stream_text(a, &text, &n, &finish), 1);
    assert_string_equal(text.p, "The cat sat on the m");
    free(a);
    assert_true(wait_for(&mock.n_live, 0));
    st_buf_free(&text);
    st_buf_free(&finish);
    st_ids_free(&ids);
}

static void failures_have_a_status_first_and_an_event_later(void **state)
{
    (void)state;
    start(NULL);
    mock.fail_after = 0;
    assert_error(ask(port, "POST", TEXT, NULL, "{\"prompt\":[5],\"stream\":true}"), 502, "network");
    mock.fail_code = ST_VERIFY;
    assert_error(ask(port, "POST", TEXT, NULL, "{\"prompt\":[5],\"n\":3}"), 502, "integrity");
    mock.fail_after = 2;
    char *a = ask(port, "POST", TEXT, NULL, "{\"prompt\":[300],\"stream\":true,\"return_token_ids\":true}");
    assert_int_equal(status_of(a), 200);
    assert_non_null(strstr(a, "\"token_ids\":[300]"));
    assert_non_null(strstr(a, "data: {\"error\":{\"message\":\"made-up failure\""));
    assert_non_null(strstr(a, "\"code\":\"integrity\""));
    assert_null(strstr(a, "[DONE]"));
    assert_non_null(strstr(a, "\r\n0\r\n\r\n"));
    free(a);
    a = ask(port, "GET", "/metrics", NULL, NULL);
    assert_non_null(strstr(a, "sotto_verification_failures_total 2\n"));
    free(a);
    assert_true(wait_for(&mock.n_live, 0));
}

static char *temp_file(const char *text, mode_t mode)
{
    static char path[64];
    snprintf(path, sizeof path, "/tmp/sotto_server_XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    fchmod(fd, mode);
    close(fd);
    return path;
}

static void keys_are_asked_for_where_there_are_keys(void **state)
{
    (void)state;
    char *path = temp_file("one\ntwo\n", 0600);
    struct st_server_opts o = {.tokenizer = tok, .chat = chat, .api_key_file = path};
    start(&o);
    unlink(path);
    assert_error(ask(port, "POST", TEXT, NULL, "{\"prompt\":[1]}"), 401, "invalid_api_key");
    assert_error(ask(port, "POST", TEXT, "Authorization: Bearer three\r\n", "{\"prompt\":[1]}"), 401,
                 "invalid_api_key");
    assert_error(ask(port, "GET", "/v1/models", NULL, NULL), 401, "invalid_api_key");
    assert_error(ask(port, "GET", "/metrics", NULL, NULL), 401, "invalid_api_key");
    char *a = ask(port, "POST", TEXT, "Authorization: Bearer two\r\n", "{\"prompt\":[1]}");
    assert_int_equal(status_of(a), 200);
    free(a);
    a = ask(port, "GET", "/health", NULL, NULL);
    assert_int_equal(status_of(a), 200);
    free(a);
}

static void bad_set_ups_are_refused_at_start(void **state)
{
    (void)state;
    struct st_err e;
    struct st_server *s;
    struct st_server_opts o = {.host = "0.0.0.0", .source = {mock_open, &mock}};
    assert_int_equal(st_server_start(&o, &s, &e), ST_POLICY);
    o.host = "no such host";
    assert_int_equal(st_server_start(&o, &s, &e), ST_POLICY);
    o.host = "127.0.0.1";
    o.api_key_file = "/nonexistent/keys";
    assert_int_equal(st_server_start(&o, &s, &e), ST_IO);
    o.api_key_file = NULL;
    o.tls_cert = "/nonexistent/cert";
    assert_int_equal(st_server_start(&o, &s, &e), ST_USAGE);
    o.tls_key = "/nonexistent/key";
    assert_int_equal(st_server_start(&o, &s, &e), ST_IO);
    o.tls_cert = o.tls_key = "CMakeLists.txt";
    assert_int_equal(st_server_start(&o, &s, &e), ST_INPUT);
    o.tls_cert = o.tls_key = NULL;
    start(NULL);
    o.port = port;
    assert_int_equal(st_server_start(&o, &s, &e), ST_IO);
    assert_non_null(strstr(e.msg, ": address already in use"));
}

static void foreign_hosts_are_turned_away(void **state)
{
    (void)state;
    const char *const allowed[] = {"my.example"};
    struct st_server_opts o = {.tokenizer = tok, .chat = chat, .allowed_hosts = allowed, .n_allowed_host = 1};
    start(&o);
    static const struct {
        const char *host;
        int status;
    } rows[] = {{"localhost", 200},   {"LOCALHOST:1", 200},   {"127.0.0.1:9", 200},  {"[::1]:9", 200},
                {"my.example", 200},  {"my.example:80", 200}, {"evil.example", 403}, {"localhost.evil", 403},
                {"127.0.0.1.x", 403}, {"[::1", 403},          {"[::2]", 403},        {"xmy.example", 403}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct st_buf q = {0}, a = {0};
        int fd = dial(port);
        st_buf_addf(&q, "GET /health HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", rows[i].host);
        put(fd, q.p, q.len);
        assert_true(get_all(fd, &a));
        if (status_of(a.p) != rows[i].status)
            fail_msg("Host: %s: want %d, got %s", rows[i].host, rows[i].status, a.p);
        close(fd);
        st_buf_free(&q);
        st_buf_free(&a);
    }
}

static void limits_are_kept(void **state)
{
    (void)state;
    struct st_server_opts o = {
        .tokenizer = tok, .chat = chat, .limits = {.max_body = 1000, .max_header = 600, .max_client = 3}};
    start(&o);
    char big[1200];
    memset(big, ' ', sizeof big);
    big[sizeof big - 1] = 0;
    assert_error(ask(port, "POST", TEXT, NULL, big), 413, "body_too_large");
    char field[700];
    memset(field, 'a', sizeof field);
    memcpy(field, "X: ", 3);
    memcpy(field + sizeof field - 3, "\r\n", 3);
    assert_error(ask(port, "GET", "/health", field, NULL), 431, "bad_request");
    assert_error(ask(port, "POST", TEXT, NULL, "{\"prompt\":[1],\"n\":4}"), 429, "too_many_requests");
    mock.max_live = 1;
    mock.tick_us = 1000;
    char *a = ask(port, "POST", TEXT, NULL, "{\"prompt\":[1],\"n\":2}");
    assert_non_null(strstr(a, "Retry-After: 1\r\n"));
    assert_error(a, 429, "queue_full");
    assert_true(wait_for(&mock.n_live, 0));
    /* Every place was given back. */
    mock.max_live = 0;
    a = ask(port, "POST", TEXT, NULL, "{\"prompt\":[1],\"n\":3,\"max_tokens\":1}");
    assert_int_equal(status_of(a), 200);
    free(a);
}

static int open_stream(const char *path, const char *body)
{
    int fd = dial(port);
    struct st_buf q = {0};
    st_buf_addf(
        &q, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
        path, strlen(body), body);
    assert_true(put(fd, q.p, q.len));
    st_buf_free(&q);
    return fd;
}

static void a_client_that_leaves_frees_its_place(void **state)
{
    (void)state;
    start(NULL);
    mock.tick_us = 500;
    char some[256];
    for (int streaming = 0; streaming < 2; streaming++) {
        int fd = open_stream(TEXT, streaming ? "{\"prompt\":[300],\"max_tokens\":90000,\"n\":2,\"stream\":true}"
                                             : "{\"prompt\":[300],\"max_tokens\":90000,\"n\":2}");
        assert_true(wait_for(&mock.n_live, 2));
        if (streaming)
            assert_true(recv(fd, some, sizeof some, 0) > 0);
        close(fd);
        assert_true(wait_for(&mock.n_live, 0));
    }
    assert_int_equal(mock.n_cancelled, 4);
}

static void a_slow_reader_blocks_nobody_and_loses_nothing(void **state)
{
    (void)state;
    start(NULL);
    mock.per_tick = 500;
    int fd = open_stream(TEXT, "{\"prompt\":[300,301],\"max_tokens\":60000,\"stream\":true,\"return_token_ids\":true}");
    /* The generator is through long before the client has read anything; others are served meanwhile. */
    assert_true(wait_for(&mock.n_started, 1));
    assert_true(wait_for(&mock.n_live, 0));
    char *b = ask(port, "POST", TEXT, NULL, "{\"prompt\":[300],\"max_tokens\":5}");
    assert_int_equal(status_of(b), 200);
    free(b);
    struct st_buf a = {0};
    char piece[65536];
    for (ssize_t n; (n = recv(fd, piece, sizeof piece, 0)) > 0;) {
        st_buf_add(&a, piece, (size_t)n);
        if (a.len > 32 && strstr(a.p + a.len - 32, "\r\n0\r\n\r\n"))
            break;
    }
    close(fd);
    /* By hand: under a sanitizer each strstr would look at all of the 15 MB. */
    static const char key[] = "\"token_ids\":[30";
    size_t count = 0;
    for (const char *p = a.p; p + sizeof key < a.p + a.len; p++)
        count += *p == '"' && memcmp(p, key, sizeof key - 1) == 0;
    assert_int_equal(count, 60000);
    assert_non_null(strstr(a.p + a.len - 100, "data: [DONE]"));
    st_buf_free(&a);
}

static void pipelined_requests_are_answered_in_order(void **state)
{
    (void)state;
    start(NULL);
    struct st_buf q = {0}, a = {0};
    int fd = dial(port);
    for (int i = 1; i <= 20; i++) {
        char body[128];
        snprintf(body, sizeof body, "{\"prompt\":[%d],\"max_tokens\":%d,\"return_token_ids\":true%s}", 300 + i,
                 1 + i % 3, i % 2 ? ",\"stream\":true" : "");
        st_buf_addf(&q,
                    "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n%s"
                    "Content-Length: %zu\r\n\r\n%s",
                    i == 20 ? "Connection: close\r\n" : "", strlen(body), body);
    }
    assert_true(put(fd, q.p, q.len));
    assert_true(get_all(fd, &a));
    close(fd);
    const char *p = a.p;
    for (int i = 1; i <= 20; i++) {
        char want[64];
        snprintf(want, sizeof want, "\"prompt_token_ids\":[%d]", 300 + i);
        p = strstr(p, want);
        assert_non_null(p);
    }
    st_buf_free(&q);
    st_buf_free(&a);
}

static void chunked_bodies_and_expectations_are_understood(void **state)
{
    (void)state;
    start(NULL);
    static const char head[] =
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nExpect: 100-continue\r\n"
        "Content-Type: application/json; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n";
    static const char body[] = "5\r\n{\"pro\r\n7\r\nmpt\":[1\r\n2\r\n]}\r\n0\r\n\r\n";
    struct st_buf a = {0};
    char some[64] = "";
    int fd = dial(port);
    put(fd, head, sizeof head - 1);
    assert_true(recv(fd, some, sizeof some - 1, 0) > 0);
    assert_non_null(strstr(some, "HTTP/1.1 100 Continue\r\n\r\n"));
    put(fd, body, sizeof body - 1);
    assert_true(get_all(fd, &a));
    assert_int_equal(status_of(a.p), 200);
    close(fd);
    st_buf_free(&a);
}

/* Sends bytes, ends its side, and expects an answer with status 4xx, 501, 505, 2xx or none: never silence, never a
 * crash. */
static int rubbish(const char *p, size_t len)
{
    struct st_buf a = {0};
    int fd = dial(port);
    put(fd, p, len);
    shutdown(fd, SHUT_WR);
    if (!get_all(fd, &a))
        fail_msg("no end after %zu bytes", len);
    close(fd);
    int status = a.len ? status_of(a.p) : 0;
    st_buf_free(&a);
    return status;
}

static const char sample[] =
    "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    "66\r\n\r\n{\"prompt\":[1,2],\"stop\":[\"a\"],\"logit_bias\":{\"5\":1},\"max_tokens\":3 }";

static void every_truncated_request_ends(void **state)
{
    (void)state;
    start(NULL);
    for (size_t len = 0; len < sizeof sample - 1; len++) {
        int status = rubbish(sample, len);
        if (status != 0 && (status < 400 || status >= 500))
            fail_msg("status %d after %zu bytes", status, len);
    }
    char *a = ask(port, "GET", "/health", NULL, NULL);
    assert_int_equal(status_of(a), 200);
    free(a);
    assert_true(wait_for(&mock.n_live, 0));
}

static void ten_thousand_mutated_requests_end(void **state)
{
    (void)state;
    start(NULL);
    struct st_rng rng;
    st_rng_seed(&rng, 1);
    for (int i = 0; i < 10000; i++) {
        char b[sizeof sample + 8];
        size_t len = sizeof sample - 1;
        memcpy(b, sample, len);
        for (uint64_t n = 1 + st_rng_next(&rng) % 4; n > 0; n--) {
            size_t at = st_rng_next(&rng) % len;
            switch (st_rng_next(&rng) % 4) {
            case 0:
                b[at] = (char)st_rng_next(&rng);
                break;
            case 1:
                b[at] ^= (char)(1 << st_rng_next(&rng) % 8);
                break;
            case 2:
                memmove(b + at, b + at + 1, len - at - 1);
                len--;
                break;
            default:
                b[at] = "\r\n:{}[]\",0 \t"[st_rng_next(&rng) % 12];
            }
        }
        int status = rubbish(b, len);
        if (status >= 500 && status != 501 && status != 505)
            fail_msg("status %d for mutation %d", status, i);
    }
    char *a = ask(port, "GET", "/health", NULL, NULL);
    assert_int_equal(status_of(a), 200);
    free(a);
    assert_true(wait_for(&mock.n_live, 0));
}

static size_t keep(char *p, size_t size, size_t n, void *arg)
{
    st_buf_add(arg, p, size * n);
    return size * n;
}

static void tls_is_spoken_with_certificate_files(void **state)
{
    (void)state;
    char cert[64], key[64], url[64];
    snprintf(cert, sizeof cert, "/tmp/sotto_cert_%d.pem", (int)getpid());
    snprintf(key, sizeof key, "/tmp/sotto_key_%d.pem", (int)getpid());
    make_certificate(cert, key);
    struct st_server_opts o = {.tokenizer = tok, .chat = chat, .tls_cert = cert, .tls_key = key};
    start(&o);
    snprintf(url, sizeof url, "https://127.0.0.1:%d/v1/completions", port);
    assert_true(strncmp(st_server_url(server), "https://", 8) == 0);
    CURL *h = curl_easy_init();
    struct st_buf a = {0};
    struct curl_slist *fields = curl_slist_append(NULL, "Content-Type: application/json");
    curl_easy_setopt(h, CURLOPT_URL, url);
    curl_easy_setopt(h, CURLOPT_CAINFO, cert);
    curl_easy_setopt(h, CURLOPT_NOPROXY, "*");
    curl_easy_setopt(h, CURLOPT_HTTPHEADER, fields);
    curl_easy_setopt(h, CURLOPT_POSTFIELDS,
                     "{\"prompt\":[300],\"max_tokens\":4000,\"stream\":true,\"return_token_ids\":true}");
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, keep);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, &a);
    for (int i = 0; i < 2; i++) {
        st_buf_clear(&a);
        assert_int_equal(curl_easy_perform(h), CURLE_OK);
        assert_non_null(strstr(a.p, "data: [DONE]"));
    }
    curl_easy_cleanup(h);
    curl_slist_free_all(fields);
    st_buf_free(&a);
    /* Plain HTTP on the TLS port gets no answer in clear. */
    assert_int_equal(rubbish(sample, sizeof sample - 1), 0);
    unlink(cert);
    unlink(key);
}

static void many_streams_at_once_all_end(void **state)
{
    (void)state;
    enum { N = 400 }; /* within the usual soft limit of 1024 descriptors, both ends in this process */
    static int fds[N];
    start(NULL);
    mock.tick_us = 1000;
    for (int i = 0; i < N; i++)
        fds[i] = open_stream(CHAT, "{" HI ",\"stream\":true,\"max_tokens\":20}");
    for (int i = 0; i < N; i++) {
        struct st_buf a = {0};
        char b[4096];
        while (!a.p || !strstr(a.p, "0\r\n\r\n")) {
            ssize_t n = recv(fds[i], b, sizeof b, 0);
            assert_true(n > 0);
            st_buf_add(&a, b, (size_t)n);
        }
        assert_non_null(strstr(a.p, "data: [DONE]"));
        close(fds[i]);
        st_buf_free(&a);
    }
    assert_true(wait_for(&mock.n_live, 0));
}

static void stopping_in_the_middle_is_clean(void **state)
{
    (void)state;
    start(NULL);
    mock.tick_us = 100;
    int fd = open_stream(TEXT, "{\"prompt\":[300],\"max_tokens\":90000,\"stream\":true,\"n\":8}");
    assert_true(wait_for(&mock.n_live, 8));
    st_server_stop(server);
    server = NULL;
    assert_int_equal(mock.n_live, 0);
    struct st_buf a = {0};
    assert_true(get_all(fd, &a));
    close(fd);
    st_buf_free(&a);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(models_health_and_metrics_are_served),
        T(a_protection_without_workers_is_not_ready_but_says_itself_why),
        T(errors_have_the_api_shape),
        T(a_server_without_tokenizer_takes_ids_only),
        T(chats_are_answered_whole),
        T(streams_carry_the_same_text),
        T(stop_strings_end_the_reply_and_the_work),
        T(failures_have_a_status_first_and_an_event_later),
        T(keys_are_asked_for_where_there_are_keys),
        T(bad_set_ups_are_refused_at_start),
        T(foreign_hosts_are_turned_away),
        T(limits_are_kept),
        T(a_client_that_leaves_frees_its_place),
        T(a_slow_reader_blocks_nobody_and_loses_nothing),
        T(pipelined_requests_are_answered_in_order),
        T(chunked_bodies_and_expectations_are_understood),
        T(every_truncated_request_ends),
        T(ten_thousand_mutated_requests_end),
        T(tls_is_spoken_with_certificate_files),
        T(many_streams_at_once_all_end),
        T(stopping_in_the_middle_is_clean),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
