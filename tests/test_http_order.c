/* What leaves when: replies that a role passes on (st_http_gather, st_http_pass) and calls that start, beside other
 * connections that the event loop has to look at. The other ends are plain sockets. */
#include "expect.h"

#include "net/http_client.h"
#include "net/http_server.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { N = 3 };

static struct {
    struct event_base *base;
    struct st_http_server *server;
    struct st_http_conn *conn[N]; /* with a reply that has begun */
    int client[N];
    size_t n;
} world;

static void begin(void *arg, struct st_http_conn *c)
{
    (void)arg;
    st_http_stream_begin(c, 200, NULL, "text/plain");
    world.conn[world.n++] = c;
}

static void turn_loop(void)
{
    for (int i = 0; i < 20; i++)
        event_base_loop(world.base, EVLOOP_NONBLOCK);
}

/* What has arrived at a plain socket, as text. */
static const char *received(int fd)
{
    static char text[4096];
    ssize_t n = recv(fd, text, sizeof text - 1, MSG_DONTWAIT);
    text[n > 0 ? n : 0] = 0;
    return text;
}

static void connect_client(size_t i)
{
    static const char get[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair), 0);
    world.client[i] = pair[0];
    st_http_server_adopt(world.server, pair[1], "local");
    assert_int_equal(write(pair[0], get, sizeof get - 1), sizeof get - 1);
    turn_loop();
    assert_int_equal(world.n, i + 1);
    assert_non_null(strstr(received(pair[0]), "200 OK"));
}

static int open_world(void **state)
{
    const struct st_http_server_opts o = {.max_head = 4096,
                                          .max_body = 4096,
                                          .max_conn = 8,
                                          .idle_s = 60,
                                          .receive_s = 60,
                                          .send_s = 60,
                                          .request = begin};
    struct st_err e;
    (void)state;
    memset(&world, 0, sizeof world);
    world.base = event_base_new();
    assert_int_equal(event_base_priority_init(world.base, ST_HTTP_N_PRIORITY), 0);
    assert_ok(st_http_server_new(world.base, &o, &world.server, &e), &e);
    for (size_t i = 0; i < N; i++)
        connect_client(i);
    return 0;
}

static int close_world(void **state)
{
    (void)state;
    st_http_server_free(world.server);
    for (size_t i = 0; i < N; i++)
        close(world.client[i]);
    turn_loop(); /* what is left of connections that had something to say */
    event_base_free(world.base);
    return 0;
}

static void pieces_that_come_together_leave_together_and_at_once(void **state)
{
    (void)state;
    st_http_gather();
    st_http_stream_send(world.conn[0], "first", 5);
    st_http_stream_send(world.conn[1], "other", 5);
    st_http_stream_send(world.conn[0], "second", 6);
    assert_string_equal(received(world.client[0]), "");
    st_http_pass();
    assert_string_equal(received(world.client[0]), "5\r\nfirst\r\n6\r\nsecond\r\n");
    assert_string_equal(received(world.client[1]), "5\r\nother\r\n");
    assert_string_equal(received(world.client[2]), "");
}

static void only_the_outermost_pass_sends(void **state)
{
    (void)state;
    st_http_gather();
    st_http_gather();
    st_http_stream_send(world.conn[0], "inner", 5);
    st_http_pass();
    assert_string_equal(received(world.client[0]), "");
    st_http_stream_end(world.conn[0]);
    st_http_pass();
    assert_string_equal(received(world.client[0]), "5\r\ninner\r\n0\r\n\r\n");
}

static void without_gathering_a_reply_leaves_with_the_event_loop(void **state)
{
    (void)state;
    st_http_stream_send(world.conn[0], "late", 4);
    assert_string_equal(received(world.client[0]), "");
    turn_loop();
    assert_string_equal(received(world.client[0]), "4\r\nlate\r\n");
}

/* Replies that are cut end their connections in the middle of pass(), and one that has gone must not be passed on. */
static void connections_that_end_meanwhile_are_not_passed_on(void **state)
{
    (void)state;
    st_http_gather();
    for (size_t i = 0; i < N; i++)
        st_http_stream_send(world.conn[i], "x", 1);
    st_http_stream_cut(world.conn[1]);
    st_http_server_free(world.server);
    world.server = NULL;
    st_http_pass();
    for (size_t i = 0; i < N; i++)
        assert_string_equal(received(world.client[i]), "");
}

static void a_cut_reply_leaves_with_what_was_sent(void **state)
{
    (void)state;
    st_http_gather();
    st_http_stream_send(world.conn[0], "half", 4);
    st_http_stream_cut(world.conn[0]);
    st_http_stream_send(world.conn[2], "whole", 5);
    st_http_pass();
    assert_string_equal(received(world.client[0]), "4\r\nhalf\r\n");
    assert_string_equal(received(world.client[2]), "5\r\nwhole\r\n");
}

/* ---- calls ---- */

static struct {
    struct st_http_client *http;
    struct event *first, *second;
    char url[64];
    int listener, peer;
    int n_end;
    int looks_at;   /* the second event: what has come there ... */
    char seen[256]; /* ... is kept */
} calls;

static int on_data(void *arg, int status, const void *p, size_t len, struct st_err *e)
{
    (void)arg, (void)status, (void)p, (void)len, (void)e;
    st_http_stream_send(world.conn[0], "passed on", 9);
    return 0;
}

static void on_end(void *arg, int status, const struct st_err *e)
{
    (void)arg;
    calls.n_end += status == 200 && !e;
}

static void start_call(void)
{
    struct st_http_call *call;
    struct st_err e;
    const struct st_http_call_opts o = {
        .url = calls.url, .direct = true, .stall_s = 10, .max_reply = 1000, .data = on_data, .end = on_end};
    assert_ok(st_http_call_start(calls.http, &o, &call, &e), &e);
}

static void on_first(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what, (void)arg;
    start_call();
}

static void on_second(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what, (void)arg;
    snprintf(calls.seen, sizeof calls.seen, "%.250s", received(calls.looks_at));
}

static void answer(void)
{
    static const char ok[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    assert_int_equal(write(calls.peer, ok, sizeof ok - 1), sizeof ok - 1);
}

static int open_calls(void **state)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    struct st_err e;
    if (open_world(state))
        return -1;
    memset(&calls, 0, sizeof calls);
    calls.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(calls.listener, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(calls.listener, 4), 0);
    assert_int_equal(getsockname(calls.listener, (struct sockaddr *)&a, &len), 0);
    snprintf(calls.url, sizeof calls.url, "http://127.0.0.1:%d/", ntohs(a.sin_port));
    assert_ok(
        st_http_client_new(world.base, &(struct st_http_client_opts){.connect_s = 10, .max_idle = 4}, &calls.http, &e),
        &e);
    /* The first makes the connection that the next one uses. */
    start_call();
    turn_loop();
    calls.peer = accept(calls.listener, NULL, NULL);
    assert_true(calls.peer >= 0);
    turn_loop();
    assert_non_null(strstr(received(calls.peer), "GET / "));
    answer();
    turn_loop();
    assert_int_equal(calls.n_end, 1);
    assert_string_equal(received(world.client[0]), "9\r\npassed on\r\n");
    calls.first = event_new(world.base, -1, 0, on_first, NULL);
    calls.second = event_new(world.base, -1, 0, on_second, NULL);
    return 0;
}

static int close_calls(void **state)
{
    event_free(calls.first);
    event_free(calls.second);
    st_http_client_free(calls.http);
    close(calls.peer);
    close(calls.listener);
    return close_world(state);
}

static void a_call_that_starts_is_sent_before_other_events(void **state)
{
    (void)state;
    calls.looks_at = calls.peer;
    event_active(calls.first, EV_TIMEOUT, 0);
    event_active(calls.second, EV_TIMEOUT, 0);
    turn_loop();
    assert_non_null(strstr(calls.seen, "GET / "));
}

/* The answer is looked at first and its socket's callback passes it on; an event that it wakes comes afterwards. */
static int wake_second(void *arg, int status, const void *p, size_t len, struct st_err *e)
{
    event_active(calls.second, EV_TIMEOUT, 0);
    return on_data(arg, status, p, len, e);
}

static void what_an_answer_brings_has_left_before_the_next_event(void **state)
{
    struct st_http_call *call;
    struct st_err e;
    (void)state;
    const struct st_http_call_opts o = {
        .url = calls.url, .direct = true, .stall_s = 10, .max_reply = 1000, .data = wake_second, .end = on_end};
    assert_ok(st_http_call_start(calls.http, &o, &call, &e), &e);
    turn_loop();
    assert_non_null(strstr(received(calls.peer), "GET / "));
    answer();
    calls.looks_at = world.client[0];
    turn_loop();
    assert_string_equal(calls.seen, "9\r\npassed on\r\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(pieces_that_come_together_leave_together_and_at_once, open_world, close_world),
        cmocka_unit_test_setup_teardown(only_the_outermost_pass_sends, open_world, close_world),
        cmocka_unit_test_setup_teardown(without_gathering_a_reply_leaves_with_the_event_loop, open_world, close_world),
        cmocka_unit_test_setup_teardown(connections_that_end_meanwhile_are_not_passed_on, open_world, close_world),
        cmocka_unit_test_setup_teardown(a_cut_reply_leaves_with_what_was_sent, open_world, close_world),
        cmocka_unit_test_setup_teardown(a_call_that_starts_is_sent_before_other_events, open_calls, close_calls),
        cmocka_unit_test_setup_teardown(what_an_answer_brings_has_left_before_the_next_event, open_calls, close_calls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
