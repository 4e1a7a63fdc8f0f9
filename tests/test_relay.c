/* The relay between plain sockets: what passes, what does not, and what happens when either side misbehaves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "expect.h"
#include "service/relay.h"
#include "serving.h"

#include <fcntl.h>

#define TYPE "Content-Type: message/ohttp-chunked-req\r\n"
#define OK_HEAD                                                                                                        \
    "HTTP/1.1 200 OK\r\nContent-Type: message/ohttp-chunked-res\r\nServer: secret\r\nSet-Cookie: a=b\r\n"              \
    "X-Served-By: gateway-7\r\nTransfer-Encoding: chunked\r\n\r\n"

/* A server that one test plays by hand: it only listens. */
struct far {
    int fd, port;
};
static struct far gateway, logs;
static struct st_relay *relay;
static int port;

static void far_open(struct far *f)
{
    struct sockaddr_in a = {.sin_family = AF_INET};
    socklen_t len = sizeof a;
    const struct timeval tv = {10, 0};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    f->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(f->fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    assert_int_equal(bind(f->fd, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(f->fd, 64), 0);
    assert_int_equal(getsockname(f->fd, (struct sockaddr *)&a, &len), 0);
    f->port = ntohs(a.sin_port);
}

/* The next connection, and the whole request on it. */
static int far_take(const struct far *f, struct st_buf *request)
{
    const struct timeval tv = {10, 0};
    char b[65536];
    int fd = accept(f->fd, NULL, NULL);
    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
    for (size_t want = SIZE_MAX; request->len < want;) {
        ssize_t n = recv(fd, b, sizeof b, 0);
        assert_true(n > 0);
        st_buf_add(request, b, (size_t)n);
        const char *end = strstr(request->p, "\r\n\r\n"), *length = strstr(request->p, "Content-Length: ");
        if (end)
            want = (size_t)(end + 4 - request->p) + (length && length < end ? strtoul(length + 16, NULL, 10) : 0);
    }
    return fd;
}

static void begin(const struct st_relay_opts *more)
{
    struct st_err e;
    char g[64], l[64];
    struct st_relay_opts o = more ? *more : (struct st_relay_opts){0};
    snprintf(g, sizeof g, "http://127.0.0.1:%d", gateway.port);
    snprintf(l, sizeof l, "http://127.0.0.1:%d/", logs.port);
    o.gateway = o.gateway ? o.gateway : g;
    o.log = l;
    assert_ok(st_relay_new(&o, &relay, &e), &e);
    assert_ok(st_role_start(st_relay_role(relay), &e), &e);
    port = st_role_port(st_relay_role(relay));
}

static int set_up(void **state)
{
    (void)state;
    /* libcurl must talk to this machine, whatever the environment says. */
    setenv("no_proxy", "*", 1);
    relay = NULL;
    far_open(&gateway);
    far_open(&logs);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    if (relay) {
        st_role_stop(st_relay_role(relay));
        st_relay_free(relay);
    }
    close(gateway.fd);
    close(logs.fd);
    return 0;
}

/* A connection with a request on it whose answer is still to come. */
static int send_request(const char *method, const char *path, const char *fields, const char *body)
{
    struct st_buf q = {0};
    int fd = dial(port);
    st_buf_addf(&q, "%s %s HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n%s", method, path, fields);
    if (body)
        st_buf_addf(&q, "Content-Length: %zu\r\n", strlen(body));
    st_buf_addf(&q, "\r\n%s", body ? body : "");
    assert_true(put(fd, q.p, q.len));
    st_buf_free(&q);
    return fd;
}

static void expect_answer(int fd, const char *begins, const char *ends)
{
    struct st_buf a = {0};
    assert_true(get_all(fd, &a));
    close(fd);
    if (!a.p || strncmp(a.p, begins, strlen(begins)) != 0 || a.len < strlen(ends) ||
        strcmp(a.p + a.len - strlen(ends), ends) != 0)
        fail_msg("want '%s' ... '%s', got '%s'", begins, ends, a.p ? a.p : "");
    st_buf_free(&a);
}

static void expect_refused(const char *method, const char *path, const char *fields, const char *body, int status)
{
    char begins[32];
    snprintf(begins, sizeof begins, "HTTP/1.1 %d ", status);
    expect_answer(send_request(method, path, fields, body), begins, "\r\n\r\n");
}

static void body_and_type_reach_the_gateway_and_nothing_else_does(void **state)
{
    struct st_buf seen = {0}, want = {0};
    (void)state;
    begin(NULL);
    int fd = send_request("POST", "/",
                          TYPE "User-Agent: curious/1\r\nAuthorization: Bearer account\r\nCookie: me\r\n"
                               "X-Forwarded-For: 10.1.2.3\r\nForwarded: for=10.1.2.3\r\nAccept-Language: fr\r\n"
                               "X-Request-Id: 17\r\n",
                          "sealed bytes");
    int far = far_take(&gateway, &seen);
    st_buf_addf(&want,
                "POST / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: */*\r\nContent-Type: message/ohttp-chunked-req\r\n"
                "Content-Length: 12\r\n\r\nsealed bytes",
                gateway.port);
    assert_string_equal(seen.p, want.p);
    assert_true(put(far, OK_HEAD "5\r\nreply\r\n0\r\n\r\n", strlen(OK_HEAD) + 15));
    struct st_buf a = {0};
    assert_true(get_all(fd, &a));
    assert_non_null(strstr(a.p, "\r\nContent-Type: message/ohttp-chunked-res\r\n"));
    assert_non_null(strstr(a.p, "\r\n\r\n5\r\nreply\r\n0\r\n\r\n"));
    assert_null(strstr(a.p, "secret"));
    assert_null(strstr(a.p, "Cookie"));
    assert_null(strstr(a.p, "gateway-7"));
    close(fd);
    close(far);
    st_buf_free(&a);
    st_buf_free(&seen);
    st_buf_free(&want);
}

static void replies_stream_piece_by_piece(void **state)
{
    struct st_buf seen = {0};
    char b[4096];
    size_t n = 0;
    (void)state;
    begin(NULL);
    int fd = send_request("POST", "/", TYPE, "x"), far = far_take(&gateway, &seen);
    assert_true(put(far, OK_HEAD "5\r\nfirst\r\n", strlen(OK_HEAD) + 10));
    /* It is here before the rest is sent. */
    for (b[0] = 0; !strstr(b, "first"); b[n] = 0) {
        ssize_t got = recv(fd, b + n, sizeof b - 1 - n, 0);
        assert_true(got > 0);
        n += (size_t)got;
    }
    assert_true(put(far, "6\r\nsecond\r\n0\r\n\r\n", 16));
    expect_answer(fd, "6\r\nsecond", "0\r\n\r\n");
    close(far);
    st_buf_free(&seen);
}

static void the_log_is_reached_under_its_own_paths(void **state)
{
    static const char *const good[][2] = {{"/log/checkpoint", "GET /checkpoint HTTP/1.1\r\n"},
                                          {"/log/directory?from=12", "GET /directory?from=12 HTTP/1.1\r\n"},
                                          {"/log/tile/0/x001/067.p/5", "GET /tile/0/x001/067.p/5 HTTP/1.1\r\n"}};
    static const char *const wrong[] = {"/log/../secret", "/log//checkpoint", "/log/a%2e%2e", "/log/checkpoint?a%20b",
                                        "/log/@evil",     "/logs/checkpoint", "/log",         "/log/a:b"};
    (void)state;
    begin(NULL);
    for (size_t i = 0; i < 3; i++) {
        struct st_buf seen = {0};
        int fd = send_request("GET", good[i][0], "User-Agent: curious/1\r\n", NULL), far = far_take(&logs, &seen);
        assert_memory_equal(seen.p, good[i][1], strlen(good[i][1]));
        assert_null(strstr(seen.p, "curious"));
        assert_true(put(far, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnote", 42));
        expect_answer(fd, "HTTP/1.1 200 ", "4\r\nnote\r\n0\r\n\r\n");
        close(far);
        st_buf_free(&seen);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        expect_refused("GET", wrong[i], "", NULL, 404);
    expect_refused("POST", "/log/entries", TYPE, "x", 404);
    expect_refused("GET", "/", "", NULL, 404);
}

static void what_is_no_sealed_request_is_refused_alike(void **state)
{
    (void)state;
    begin(NULL);
    expect_refused("POST", "/", "Content-Type: application/json\r\n", "{}", 400);
    expect_refused("POST", "/", "", "x", 400);
    expect_refused("POST", "/", TYPE, "", 400);
    expect_refused("POST", "/?node=7", TYPE, "x", 400);
    expect_refused("POST", "/nodes", TYPE, "x", 404);
    expect_refused("PUT", "/", TYPE, "x", 404);
    expect_refused("POST", "/", TYPE "Content-Length: 99999999\r\n", NULL, 413);
}

static void a_gateway_that_is_away_gives_502_and_a_broken_reply_ends_as_a_cut(void **state)
{
    struct st_buf seen = {0};
    (void)state;
    begin(NULL);
    int fd = send_request("POST", "/", TYPE, "x"), far = far_take(&gateway, &seen);
    const struct linger reset = {1, 0};
    assert_true(put(far, OK_HEAD "5\r\nfirst\r\n", strlen(OK_HEAD) + 10));
    usleep(50 * 1000);
    setsockopt(far, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    close(far);
    expect_answer(fd, "HTTP/1.1 200 ", "5\r\nfirst\r\n"); /* no last chunk */
    close(gateway.fd);
    expect_refused("POST", "/", TYPE, "x", 502);
    far_open(&gateway);
    st_buf_free(&seen);
}

static void an_address_may_only_have_so_many_requests_at_once(void **state)
{
    struct st_buf seen = {0};
    (void)state;
    begin(&(struct st_relay_opts){.max_client = 2});
    int a = send_request("POST", "/", TYPE, "a"), far_a = far_take(&gateway, &seen);
    int b = send_request("POST", "/", TYPE, "b"), far_b = far_take(&gateway, &seen);
    expect_refused("POST", "/", TYPE, "c", 429);
    assert_true(put(far_a, OK_HEAD "0\r\n\r\n", strlen(OK_HEAD) + 5));
    expect_answer(a, "HTTP/1.1 200 ", "\r\n\r\n");
    int c = send_request("POST", "/", TYPE, "c");
    assert_true(put(far_b, OK_HEAD "0\r\n\r\n", strlen(OK_HEAD) + 5));
    expect_answer(b, "HTTP/1.1 200 ", "\r\n\r\n");
    /* It came over one of the two connections that were there: they are nobody's own. */
    struct pollfd p[2] = {{far_a, POLLIN, 0}, {far_b, POLLIN, 0}};
    assert_true(poll(p, 2, 5000) > 0);
    int far_c = p[0].revents & POLLIN ? far_a : far_b;
    assert_true(put(far_c, OK_HEAD "0\r\n\r\n", strlen(OK_HEAD) + 5));
    expect_answer(c, "HTTP/1.1 200 ", "\r\n\r\n");
    close(far_a);
    close(far_b);
    st_buf_free(&seen);
}

static void a_client_that_leaves_ends_the_request_at_the_gateway(void **state)
{
    struct st_buf seen = {0};
    char b[16];
    (void)state;
    begin(NULL);
    int fd = send_request("POST", "/", TYPE, "x"), far = far_take(&gateway, &seen);
    close(fd);
    assert_int_equal(recv(far, b, sizeof b, 0), 0);
    close(far);
    char *m = ask(port, "GET", "/metrics", "", NULL);
    assert_non_null(strstr(m, "sotto_relay_gone_total 1\n"));
    assert_non_null(strstr(m, "sotto_relay_open 0\n"));
    assert_null(strstr(m, "127.0.0.1"));
    free(m);
    st_buf_free(&seen);
}

static void a_client_that_reads_slowly_slows_the_gateway_down(void **state)
{
    static char piece[65536];
    struct st_buf seen = {0};
    size_t sent = 0;
    (void)state;
    begin(NULL);
    int fd = send_request("POST", "/", TYPE, "x"), far = far_take(&gateway, &seen);
    assert_true(put(far, OK_HEAD, strlen(OK_HEAD)));
    memset(piece, 'x', sizeof piece);
    memcpy(piece, "fff2\r\n", 6);
    memcpy(piece + 6 + 0xfff2, "\r\n", 2);
    const size_t len = 6 + 0xfff2 + 2;
    /* Nobody reads: at some point nothing more is taken, long before all of it. */
    for (;;) {
        struct pollfd p = {far, POLLOUT, 0};
        if (poll(&p, 1, 300) == 0)
            break;
        ssize_t n = send(far, piece + sent % len, len - sent % len, MSG_NOSIGNAL | MSG_DONTWAIT);
        assert_true(n > 0);
        sent += (size_t)n;
        assert_true(sent < (size_t)64 << 20);
    }
    /* Somebody reads: the rest comes, whole. */
    char b[65536];
    size_t got = 0, rest = len - sent % len;
    fcntl(far, F_SETFL, O_NONBLOCK);
    size_t left = rest == len ? 0 : rest;
    while (left) {
        ssize_t n = send(far, piece + len - left, left, MSG_NOSIGNAL);
        if (n > 0) {
            left -= (size_t)n;
            sent += (size_t)n;
        }
        ssize_t r = recv(fd, b, sizeof b, MSG_DONTWAIT);
        got += r > 0 ? (size_t)r : 0;
    }
    fcntl(far, F_SETFL, 0);
    assert_true(put(far, "0\r\n\r\n", 5));
    for (ssize_t r; (r = recv(fd, b, sizeof b, 0)) > 0;)
        got += (size_t)r;
    assert_true(got > sent / len * 0xfff2);
    close(fd);
    close(far);
    st_buf_free(&seen);
}

static void a_reply_that_nobody_takes_gives_way_to_others(void **state)
{
    static char piece[65536];
    struct st_buf seen = {0};
    (void)state;
    begin(&(struct st_relay_opts){.listen.max_unsent = 32 << 10});
    int fd = send_request("POST", "/", TYPE, "x"), far = far_take(&gateway, &seen);
    assert_true(put(far, OK_HEAD "4000000\r\n", strlen(OK_HEAD) + 9));
    for (struct pollfd p = {far, POLLOUT, 0}; poll(&p, 1, 300) > 0;)
        assert_true(send(far, piece, sizeof piece, MSG_NOSIGNAL | MSG_DONTWAIT) > 0);
    expect_refused("GET", "/", "", NULL, 404);
    struct pollfd gone = {far, POLLRDHUP, 0};
    assert_int_equal(poll(&gone, 1, 5000), 1); /* the gateway's side of it is over */
    expect_refused("GET", "/", "", NULL, 404);
    close(fd);
    close(far);
    st_buf_free(&seen);
}

static void all_requests_together_may_only_take_so_much_memory(void **state)
{
    static char piece[3 << 20];
    struct st_buf seen = {0};
    char head[256];
    (void)state;
    begin(&(struct st_relay_opts){.max_memory = 5 << 20});
    snprintf(head, sizeof head, "POST / HTTP/1.1\r\nHost: relay\r\n" TYPE "Content-Length: %zu\r\n\r\n", sizeof piece);
    /* One request is nearly here; a second one as long would be too much. */
    int a = dial(port), b = dial(port);
    assert_true(put(a, head, strlen(head)) && put(a, piece, sizeof piece - 1));
    usleep(100 * 1000);
    (void)(put(b, head, strlen(head)) && put(b, piece, sizeof piece - 1));
    expect_answer(b, "HTTP/1.1 503 ", "\r\n\r\n");
    assert_true(put(a, piece, 1));
    int far = far_take(&gateway, &seen);
    assert_true(seen.len > sizeof piece);
    assert_true(put(far, OK_HEAD "0\r\n\r\n", strlen(OK_HEAD) + 5));
    close(a);
    close(far);
    st_buf_free(&seen);
}

static void wrong_options_are_refused_by_name(void **state)
{
    struct st_err e;
    struct st_relay *r;
    (void)state;
    struct st_relay_opts o = {.gateway = "gateway", .log = "http://127.0.0.1:1"};
    expect_refusal(st_relay_new(&o, &r, &e), &e, ST_USAGE, "--gateway: want http(s)://host:port");
    o = (struct st_relay_opts){.gateway = "http://127.0.0.1:1", .log = "http://me:key@log"};
    expect_refusal(st_relay_new(&o, &r, &e), &e, ST_USAGE, "--log: want no password");
    o = (struct st_relay_opts){
        .gateway = "http://127.0.0.1:1", .log = "http://127.0.0.1:1", .ca_bundle = "/does/not/exist"};
    expect_refusal(st_relay_new(&o, &r, &e), &e, ST_IO, "/does/not/exist: cannot open");
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(body_and_type_reach_the_gateway_and_nothing_else_does),
        CASE(replies_stream_piece_by_piece),
        CASE(the_log_is_reached_under_its_own_paths),
        CASE(what_is_no_sealed_request_is_refused_alike),
        CASE(a_gateway_that_is_away_gives_502_and_a_broken_reply_ends_as_a_cut),
        CASE(an_address_may_only_have_so_many_requests_at_once),
        CASE(a_client_that_leaves_ends_the_request_at_the_gateway),
        CASE(a_client_that_reads_slowly_slows_the_gateway_down),
        CASE(a_reply_that_nobody_takes_gives_way_to_others),
        CASE(all_requests_together_may_only_take_so_much_memory),
        CASE(wrong_options_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
