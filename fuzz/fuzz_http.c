/* Any bytes as a connection's input: the parser must not depend on how they are cut, and the server must end the
 * connection once the client has. The first byte says where to cut. */
#include "net/http_parse.h"
#include "net/http_server.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct event_base *base;
static struct st_http_server *server;

static void answer(void *arg, struct st_http_conn *c)
{
    const char *why;
    int bad = st_http_bad(c, &why);
    (void)arg;
    if (bad && !why)
        abort();
    if (!bad && st_http_body(c).len % 2) {
        st_http_stream_begin(c, 200, NULL, "text/plain");
        st_http_stream_send(c, st_http_path(c), strlen(st_http_path(c)));
        st_http_stream_end(c);
    } else
        st_http_reply(c, bad ? bad : 200, NULL, "text/plain", "x", 1);
}

static void open_server(void)
{
    struct st_err e;
    struct st_http_server_opts o = {.max_head = 2048,
                                    .max_body = 1024,
                                    .max_conn = 4,
                                    .idle_s = 1000,
                                    .receive_s = 1000,
                                    .send_s = 1000,
                                    .request = answer};
    base = event_base_new();
    if (!base || st_http_server_new(base, &o, &server, &e))
        abort();
}

/* One request, in pieces of `step`. */
static void parse(const uint8_t *p, size_t len, size_t step, struct st_http_parser *out, size_t *used)
{
    st_http_parser_init(out, 2048, 1024);
    *used = 0;
    while (*used < len && out->state != ST_HTTP_DONE && out->state != ST_HTTP_BAD) {
        size_t n = len - *used < step ? len - *used : step;
        *used += st_http_parser_feed(out, p + *used, n);
    }
}

static void compare(const uint8_t *p, size_t len, size_t step)
{
    struct st_http_parser a, b;
    size_t used_a, used_b;
    parse(p, len, len ? len : 1, &a, &used_a);
    parse(p, len, step, &b, &used_b);
    bool a_done = a.state == ST_HTTP_DONE, b_done = b.state == ST_HTTP_DONE;
    if (a_done != b_done || (a.state == ST_HTTP_BAD) != (b.state == ST_HTTP_BAD))
        abort();
    if (a_done && (used_a != used_b || a.body.len != b.body.len || strcmp(a.path, b.path) != 0 ||
                   (a.body.len && memcmp(a.body.p, b.body.p, a.body.len) != 0)))
        abort();
    st_http_parser_wipe(&a);
    st_http_parser_wipe(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int fds[2];
    if (size < 1 || size > 8192)
        return 0;
    compare(data + 1, size - 1, 1 + data[0]);
    if (!base)
        open_server();
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) != 0)
        abort();
    st_http_server_adopt(server, fds[0], "fuzz");
    if (send(fds[1], data + 1, size - 1, MSG_NOSIGNAL) != (ssize_t)(size - 1))
        abort();
    shutdown(fds[1], SHUT_WR);
    for (int i = 0; st_http_server_conns(server); i++) {
        if (i > 100000)
            abort();
        event_base_loop(base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
    }
    close(fds[1]);
    return 0;
}
