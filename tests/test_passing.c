/* Requests that pass through the endpoint to somebody else, over real sockets: what is sent of them, what comes back,
 * and how failures look before and in the middle of a reply. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/hooks.h"
#include "serving.h"

/* A passage that does what the test says, on the server's thread. */
struct st_passage {
    struct event_base *base;
    struct event *tick;
    const struct st_passage_events *ev;
    void *arg; /* of the request in progress; one at a time */
    bool running, paused;
    int n_sent;
};

static struct {
    const char *type;
    int status;
    atomic_int n_piece, fail_at; /* fail_at: after so many pieces, -1 = never; -2 = at the start */
    enum st_passage_fault fault;
    int code;
    size_t piece;
    atomic_int n_cancelled, n_paused, n_started, delivered;
    atomic_bool ready;
    char body[4096], model[64], client[80];
    bool stream;
    int64_t max_tokens;
} play;

static void tick(evutil_socket_t fd, short what, void *arg)
{
    struct st_passage *p = arg;
    const struct timeval soon = {0, 200};
    struct st_err e;
    (void)fd;
    (void)what;
    if (!p->running || p->paused)
        return;
    if (p->n_sent == 0)
        p->ev->head(p->arg, play.status, play.type);
    bool failed = play.fail_at == p->n_sent;
    if (failed || p->n_sent == play.n_piece) {
        p->running = false;
        st_fail(&e, play.code, "made-up failure");
        p->ev->end(p->arg, play.fault, failed ? &e : NULL);
        return;
    }
    p->n_sent++;
    play.delivered++;
    char *text = malloc(play.piece);
    memset(text, 'x', play.piece);
    memcpy(text, "data: ", 6);
    memcpy(text + play.piece - 2, "\n\n", 2);
    p->ev->data(p->arg, text, play.piece);
    free(text);
    event_add(p->tick, &soon);
}

static int play_start(struct st_passage *p, const struct st_passage_request *r, const struct st_passage_events *ev,
                      void *arg, void **handle, enum st_passage_fault *fault, struct st_err *e)
{
    const struct timeval now = {0, 0};
    *fault = play.fault;
    play.n_started++;
    snprintf(play.body, sizeof play.body, "%.*s", (int)r->body.len, (const char *)r->body.p);
    snprintf(play.model, sizeof play.model, "%s", r->model);
    snprintf(play.client, sizeof play.client, "%s", r->client);
    play.stream = r->stream;
    play.max_tokens = r->max_tokens;
    if (play.fail_at == -2)
        return st_fail(e, play.code, "made-up failure");
    p->ev = ev;
    p->arg = arg;
    p->running = true;
    p->paused = false;
    p->n_sent = 0;
    *handle = p;
    event_add(p->tick, &now);
    return 0;
}

static void play_cancel(struct st_passage *p, void *handle)
{
    (void)handle;
    p->running = false;
    play.n_cancelled++;
}

static void play_pause(struct st_passage *p, void *handle, bool stop)
{
    const struct timeval now = {0, 0};
    (void)handle;
    p->paused = stop;
    play.n_paused += stop;
    if (!stop)
        event_add(p->tick, &now);
}

static void play_info(struct st_passage *p, bool detail, struct st_passage_info *out)
{
    static const char *const models[] = {"demo", "other"};
    *out = (struct st_passage_info){.ready = play.ready,
                                    .state = play.ready ? "ok" : "stale",
                                    .why = play.ready ? NULL : "a \"reason\"",
                                    .models = models,
                                    .n_model = 2,
                                    .scheme = "tdx+nvgpu",
                                    .verified = play.ready ? "evidence" : "no",
                                    .n_running = p->running,
                                    .verification_failures = 7,
                                    .retries = 3,
                                    .receipts = 2,
                                    .units = 100};
    if (detail)
        out->detail = json_pack("{s:[{s:s, s:s, s:s, s:s, s:[{s:s, s:s, s:s}]}]}", "nodes", "id", "00ff", "state",
                                "refused", "code", "policy", "why", "a \033[31mreason", "checks", "name", "sim.debug",
                                "result", "fail", "detail", "on");
}

static void play_free(struct st_passage *p)
{
    event_free(p->tick);
    free(p);
}

static int play_open(const void *opts, struct event_base *base, struct st_passage_ref *out, struct st_err *e)
{
    static const struct st_passage_type type = {play_start, play_cancel, play_pause, play_info, play_free};
    struct st_passage *p = calloc(1, sizeof *p);
    (void)opts;
    (void)e;
    p->base = base;
    p->tick = event_new(base, -1, 0, tick, p);
    *out = (struct st_passage_ref){&type, p};
    return 0;
}

static struct st_server *server;
static int port;

static void start(uint32_t max_client)
{
    struct st_err e;
    const struct st_server_opts o = {.passage = {play_open, NULL}, .limits.max_client = max_client};
    if (st_server_start(&o, &server, &e))
        fail_msg("%s", e.msg);
    port = st_server_port(server);
}

static int set_up(void **state)
{
    (void)state;
    memset(&play, 0, sizeof play);
    play.type = "text/event-stream";
    play.status = 200;
    play.n_piece = 3;
    play.fail_at = -1;
    play.piece = 40;
    play.ready = true;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    st_server_stop(server);
    server = NULL;
    return 0;
}

#define MESSAGES "\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]"
#define CHAT "/v1/chat/completions"

/* Frees the answer. */
static void expect_text(char *answer, int status, const char *holds)
{
    if (status_of(answer) != status || !strstr(answer, holds))
        fail_msg("want %d with '%s', got: %s", status, holds, answer);
    free(answer);
}

static void what_is_sent_is_what_the_table_says(void **state)
{
    (void)state;
    start(0);
    play.type = "application/json";
    play.n_piece = 1;
    char *a = ask(port, "POST", CHAT, NULL,
                  "{" MESSAGES ",\"user\":\"me\",\"metadata\":{\"a\":\"b\"},\"store\":false,\"tools\":[{\"type\":"
                  "\"function\"}],\"max_tokens\":9,\"seed\":null}");
    assert_non_null(strstr(a, "Sotto-Protection: confidential\r\nSotto-Scheme: tdx+nvgpu\r\nSotto-Verified: evidence"));
    assert_non_null(strstr(a, "Content-Type: application/json\r\n"));
    expect_text(a, 200, "data: xxxx");
    assert_non_null(strstr(play.body, "\"model\":\"demo\""));
    assert_non_null(strstr(play.body, "\"tools\""));
    assert_null(strstr(play.body, "user\":\"me"));
    assert_null(strstr(play.body, "metadata"));
    assert_null(strstr(play.body, "store"));
    assert_null(strstr(play.body, "seed"));
    assert_false(play.stream);
    assert_int_equal(play.max_tokens, 9);
    assert_string_equal(play.model, "demo");
    assert_string_equal(play.client, "127.0.0.1");
    expect_text(ask(port, "POST", CHAT, NULL, "{" MESSAGES ",\"model\":\"other\"}"), 200, "data:");
    assert_string_equal(play.model, "other");
    int n = play.n_started;
    assert_error(ask(port, "POST", CHAT, NULL, "{" MESSAGES ",\"model\":\"third\"}"), 404, "model_not_found");
    assert_error(ask(port, "POST", CHAT, NULL, "{" MESSAGES ",\"frobnicate\":1}"), 400, "unknown_field");
    assert_error(ask(port, "POST", CHAT, NULL, "{" MESSAGES ",\"web_search_options\":{}}"), 400, "unsupported");
    assert_int_equal(play.n_started, n);
}

static void a_stream_passes_as_it_comes(void **state)
{
    (void)state;
    start(0);
    char *a = ask(port, "POST", CHAT, NULL, "{" MESSAGES ",\"stream\":true}");
    assert_non_null(strstr(a, "Content-Type: text/event-stream; charset=utf-8\r\n"));
    expect_text(a, 200, "data: xxxx");
    play.n_piece = 0;
    expect_text(ask(port, "POST", CHAT, NULL, "{" MESSAGES ",\"stream\":true}"), 200, "text/event-stream");
    play.status = 400; /* the engine's own refusal, whole */
    play.type = "application/json";
    play.n_piece = 1;
    expect_text(ask(port, "POST", CHAT, NULL, "{" MESSAGES ",\"stream\":true}"), 400, "Content-Type: application/json");
    play.type = "text/html; charset=utf-7";
    expect_text(ask(port, "POST", CHAT, NULL, "{" MESSAGES "}"), 400, "Content-Type: text/plain");
}

static void failures_have_stable_words_before_and_in_a_reply(void **state)
{
    (void)state;
    static const char *const words[] = {"network", "stale", "measurement_changed", "integrity", "policy"};
    start(0);
    for (int f = 0; f < 5; f++) {
        play.fault = (enum st_passage_fault)f;
        play.code = f == ST_FAULT_NETWORK ? ST_IO : f == ST_FAULT_POLICY ? ST_POLICY : ST_VERIFY;
        for (int at = -2; at <= 2; at++) {
            if (at == -1)
                continue;
            play.fail_at = at;
            bool early = at <= 0;
            assert_error(ask(port, "POST", CHAT, NULL, "{" MESSAGES "}"), 502, words[f]);
            char *a = ask(port, "POST", CHAT, NULL, "{" MESSAGES ",\"stream\":true}");
            char event[64];
            snprintf(event, sizeof event, "\"code\":\"%s\"", words[f]);
            assert_non_null(strstr(a, event));
            assert_int_equal(status_of(a), early ? 502 : 200);
            if (!early) {
                assert_non_null(strstr(a, "data: {\"error\":"));
                assert_null(strstr(a, "[DONE]"));
            }
            free(a);
        }
    }
    play.code = ST_INPUT; /* what the passage cannot carry */
    play.fail_at = -2;
    assert_error(ask(port, "POST", CHAT, NULL, "{" MESSAGES "}"), 400, "invalid_value");
    play.code = ST_MEMORY;
    assert_error(ask(port, "POST", CHAT, NULL, "{" MESSAGES "}"), 503, "memory");
}

static void not_a_byte_of_a_whole_reply_comes_before_its_receipt(void **state)
{
    (void)state;
    start(0);
    play.fail_at = 3;
    play.fault = ST_FAULT_INTEGRITY;
    play.code = ST_VERIFY;
    play.type = "application/json";
    char *a = ask(port, "POST", CHAT, NULL, "{" MESSAGES "}");
    assert_null(strstr(a, "xxxx"));
    assert_error(a, 502, "integrity");
}

static void health_models_status_and_figures_say_what_the_passage_says(void **state)
{
    (void)state;
    start(0);
    expect_text(ask(port, "GET", "/health", NULL, NULL), 200, "\"status\":\"ok\"");
    expect_text(ask(port, "GET", "/v1/models", NULL, NULL), 200, "\"id\":\"other\"");
    expect_text(ask(port, "GET", "/v1/models/other", NULL, NULL), 200, "{\"id\":\"other\"");
    assert_error(ask(port, "GET", "/v1/models/third", NULL, NULL), 404, "model_not_found");
    expect_text(ask(port, "GET", "/sotto/status", NULL, NULL), 200, "\"detail\":{\"nodes\":[{");
    play.ready = false;
    expect_text(ask(port, "GET", "/health", NULL, NULL), 503, "\"status\":\"stale\"");
    json_t *v;
    char *a = ask(port, "GET", "/sotto/status", NULL, NULL);
    v = json_of(a);
    assert_string_equal(json_string_value(json_object_get(v, "why")), "a \"reason\"");
    assert_string_equal(json_string_value(json_object_get(v, "state")), "stale");
    assert_false(json_is_true(json_object_get(v, "ready")));
    json_decref(v);
    free(a);
    a = ask(port, "GET", "/metrics", NULL, NULL);
    assert_non_null(strstr(a, "\nsotto_verification_failures_total 7\n"));
    assert_non_null(strstr(a, "\nsotto_receipts_total 2\n"));
    assert_non_null(strstr(a, "\nsotto_retries_total 3\n"));
    assert_non_null(strstr(a, "\nsotto_units 100\n"));
    assert_non_null(
        strstr(a, "sotto_protection_state{protection=\"confidential\",scheme=\"tdx+nvgpu\",verified=\"no\"} 0"));
    free(a);
}

static void the_status_command_shows_every_node_and_check(void **state)
{
    (void)state;
    char cmd[512], text[4096] = "";
    const char *bin = getenv("SOTTO_BIN");
    start(0);
    play.ready = false;
    snprintf(cmd, sizeof cmd, "env -u SOTTO_BIN XDG_CONFIG_HOME=/nonexistent %s status --url http://127.0.0.1:%d 2>&1",
             bin ? bin : "build/bin/sotto", port);
    FILE *p = popen(cmd, "r");
    assert_non_null(p);
    assert_true(fread(text, 1, sizeof text - 1, p) > 0);
    assert_int_equal(pclose(p), 0);
    if (!strstr(text, "not ready: \"stale\"") || !strstr(text, "missing:    a \"reason\"") ||
        !strstr(text, "00ff refused") || !strstr(text, "policy: a ?[31mreason") || !strstr(text, "FAIL   sim.debug on"))
        fail_msg("%s", text);
}

static int open_stream(void)
{
    struct st_buf q = {0};
    const char *body = "{" MESSAGES ",\"stream\":true}";
    int fd = dial(port);
    st_buf_addf(&q,
                "POST " CHAT " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
                "\r\n%s",
                strlen(body), body);
    assert_true(put(fd, q.p, q.len));
    st_buf_free(&q);
    return fd;
}

static void a_client_that_leaves_or_reads_slowly_is_passed_on(void **state)
{
    (void)state;
    start(1);
    play.n_piece = 2000;
    play.piece = 20000;
    int fd = open_stream();
    for (int i = 0; i < 5000 && play.n_paused == 0; i++)
        poll(NULL, 0, 1);
    assert_int_equal(play.n_paused, 1);
    int held = play.delivered;
    assert_error(ask(port, "POST", CHAT, NULL, "{" MESSAGES "}"), 429, "too_many_requests");
    poll(NULL, 0, 50);
    assert_int_equal(play.delivered, held);
    char b[65536];
    for (int n = 0; n < 40 << 20 && play.delivered < held + 20;) {
        ssize_t got = recv(fd, b, sizeof b, 0);
        assert_true(got > 0);
        n += (int)got;
    }
    assert_true(play.delivered > held);
    close(fd);
    assert_true(wait_for(&play.n_cancelled, 1));
    play.n_piece = 1;
    expect_text(ask(port, "POST", CHAT, NULL, "{" MESSAGES "}"), 200, "data:"); /* its place is free again */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_sent_is_what_the_table_says, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_stream_passes_as_it_comes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(failures_have_stable_words_before_and_in_a_reply, set_up, tear_down),
        cmocka_unit_test_setup_teardown(not_a_byte_of_a_whole_reply_comes_before_its_receipt, set_up, tear_down),
        cmocka_unit_test_setup_teardown(health_models_status_and_figures_say_what_the_passage_says, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_status_command_shows_every_node_and_check, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_client_that_leaves_or_reads_slowly_is_passed_on, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
