/* A proxy in front of an upstream that misbehaves on the wire: closes early, is not there yet, sends nothing that
 * counts, or without end. Raw sockets, so that every byte and every pause is ours. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/hooks.h"
#include "service/gen_upstream.h"
#include "serving.h"

#include <pthread.h>
#include <signal.h>

#define HEAD "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
#define TOKEN "data: {\"choices\":[{\"index\":0,\"text\":\"\",\"token_ids\":[1],\"finish_reason\":null}]}\n\n"
#define END "data: {\"choices\":[{\"index\":0,\"text\":\"\",\"token_ids\":[2],\"finish_reason\":\"length\"}]}\n\n"
#define SAY(fd, text) put(fd, text, sizeof(text) - 1)
#define ASK "{\"prompt\":[5,6],\"max_tokens\":4,\"return_token_ids\":true}"

enum act {
    CLOSE_AT_ONCE,
    UNAVAILABLE,
    CLOSE_AFTER_HEAD,
    CLOSE_AFTER_TOKEN,
    COMMENTS,
    LONG_LINE,
    LONG_HEAD,
    ENDLESS,
    NO_HTTP,
    LINGER,
    WHOLE
};

/* The upstream: one connection after another. */
static struct {
    int fd, port;
    pthread_t thread;
    const enum act *acts; /* of the POSTs in turn; the last one stays */
    size_t n_act;
    atomic_int n_post;
    atomic_bool stop;
    struct st_buf bodies[8];
    atomic_int n_hung_up; /* COMMENTS, LINGER: the proxy closed first */
} far;

static uint32_t ids[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
static const struct st_cov_cipher cipher = {.n_vocab = 16, .to = ids, .from = ids};
static struct st_server *proxy;
static int port;

/* Sends the same bytes until the other side has had enough. Small pauses, or none. */
static void pour(int fd, const char *bytes, int pause_ms)
{
    while (!far.stop && put(fd, bytes, strlen(bytes)))
        if (pause_ms)
            poll(NULL, 0, pause_ms);
    far.n_hung_up++;
}

static void behave(int fd, enum act act)
{
    static char junk[65536 + 1];
    memset(junk, 'x', sizeof junk - 1);
    switch (act) {
    case CLOSE_AT_ONCE:
        break;
    case UNAVAILABLE:
        SAY(fd, "HTTP/1.1 503 Later\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        break;
    case CLOSE_AFTER_HEAD:
        SAY(fd, HEAD);
        break;
    case CLOSE_AFTER_TOKEN:
        SAY(fd, HEAD TOKEN);
        break;
    case COMMENTS:
        SAY(fd, HEAD);
        pour(fd, ": ping\n\n", 20);
        break;
    case LONG_LINE:
        SAY(fd, HEAD "data: ");
        pour(fd, junk, 0);
        break;
    case LONG_HEAD:
        SAY(fd, "HTTP/1.1 200 OK\r\nX: ");
        pour(fd, junk, 0);
        break;
    case ENDLESS:
        SAY(fd, HEAD);
        pour(fd,
             ":\n\n:\n\n:\n\n:\n\n:\n\n:\n\n:\n\n:\n\n:\n\n:\n\n:\n\n:\n\n:\n\n:\n\n:\n\n:\n\n:\n\n:\n\n:\n\n:\n\n:"
             "\n\n:\n\n",
             0);
        break;
    case NO_HTTP:
        SAY(fd, "SSH-2.0-EVIL\r\n");
        break;
    case LINGER:
        SAY(fd, HEAD TOKEN END);
        pour(fd, ": ping\n\n", 20);
        break;
    case WHOLE:
        SAY(fd, HEAD TOKEN END "data: [DONE]\n\n");
        break;
    }
}

/* One request, head and body. False when the connection ended before. */
static bool read_request(int fd, struct st_buf *b)
{
    char piece[4096];
    size_t want = 0;
    while (!want || b->len < want) {
        ssize_t n = recv(fd, piece, sizeof piece, 0);
        if (n <= 0)
            return false;
        st_buf_add(b, piece, (size_t)n);
        const char *end = strstr(b->p, "\r\n\r\n"), *len = strcasestr(b->p, "\r\ncontent-length:");
        if (end)
            want = (size_t)(end - b->p) + 4 + (len && len < end ? (size_t)atoi(len + 17) : 0);
    }
    return true;
}

static void *far_main(void *arg)
{
    static const char models[] = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
                                 "{\"data\":[{\"id\":\"m\",\"owned_by\":\"x\",\"max_model_len\":64}]}";
    for (;;) {
        int fd = accept(far.fd, NULL, NULL);
        struct st_buf b = {0};
        if (fd < 0)
            return arg;
        if (read_request(fd, &b)) {
            if (strncmp(b.p, "POST", 4) == 0) {
                size_t turn = (size_t)far.n_post;
                if (turn < 8)
                    st_buf_add_str(&far.bodies[turn], strstr(b.p, "\r\n\r\n"));
                far.n_post++;
                behave(fd, far.acts[turn < far.n_act ? turn : far.n_act - 1]);
            } else
                put(fd, models, sizeof models - 1);
        }
        st_buf_free(&b);
        close(fd);
    }
}

static void start(const enum act *acts, size_t n, uint32_t n_retry)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    char url[64];
    struct st_err e;
    far.acts = acts;
    far.n_act = n;
    far.n_post = far.n_hung_up = 0;
    far.stop = false;
    far.fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(far.fd, (struct sockaddr *)&a, len), 0);
    assert_int_equal(listen(far.fd, 16), 0);
    getsockname(far.fd, (struct sockaddr *)&a, &len);
    pthread_create(&far.thread, NULL, far_main, NULL);
    snprintf(url, sizeof url, "http://127.0.0.1:%d", ntohs(a.sin_port));
    struct st_gen_upstream_opts up = {.url = url,
                                      .cipher = &cipher,
                                      .scheme = "tight",
                                      .n_ctx = 64,
                                      .connect_s = 2,
                                      .stall_s = 1,
                                      .n_retry = n_retry};
    struct st_server_opts o = {.source = {st_gen_upstream_open, &up}};
    if (st_server_start(&o, &proxy, &e))
        fail_msg("%s", e.msg);
    port = st_server_port(proxy);
    for (int i = 0; i < 500; i++) {
        char *answer = ask(port, "GET", "/health", NULL, NULL);
        int status = status_of(answer);
        free(answer);
        if (status == 200)
            return;
        poll(NULL, 0, 10);
    }
    fail_msg("the upstream was not found");
}

static int stop(void **state)
{
    (void)state;
    far.stop = true;
    st_server_stop(proxy);
    proxy = NULL;
    shutdown(far.fd, SHUT_RDWR);
    pthread_join(far.thread, NULL);
    close(far.fd);
    for (int i = 0; i < 8; i++)
        st_buf_free(&far.bodies[i]);
    return 0;
}

static char *complete(void)
{
    return ask(port, "POST", "/v1/completions", NULL, ASK);
}

static void a_failure_before_the_first_token_is_tried_again_with_the_same_bytes(void **state)
{
    (void)state;
    static const enum act acts[] = {CLOSE_AT_ONCE, UNAVAILABLE, CLOSE_AFTER_HEAD, WHOLE};
    start(acts, 4, 3);
    char *a = complete();
    assert_int_equal(status_of(a), 200);
    assert_non_null(strstr(a, "\"token_ids\":[1,2]"));
    free(a);
    assert_int_equal(far.n_post, 4);
    for (int i = 1; i < 4; i++)
        assert_string_equal(far.bodies[i].p, far.bodies[0].p);
}

static void tries_end(void **state)
{
    (void)state;
    static const enum act closed[] = {CLOSE_AT_ONCE};
    start(closed, 1, 2);
    assert_error(complete(), 502, "network");
    assert_int_equal(far.n_post, 3);
}

static void a_busy_upstream_is_busy_after_the_last_try(void **state)
{
    (void)state;
    static const enum act busy[] = {UNAVAILABLE};
    start(busy, 1, 1);
    assert_error(complete(), 429, "queue_full");
    assert_int_equal(far.n_post, 2);
}

static void nothing_is_tried_again_after_the_first_token(void **state)
{
    (void)state;
    static const enum act acts[] = {CLOSE_AFTER_TOKEN, WHOLE};
    start(acts, 2, 3);
    assert_error(complete(), 502, "network");
    assert_int_equal(far.n_post, 1);
}

static void bytes_without_tokens_are_no_life(void **state)
{
    (void)state;
    static const enum act acts[] = {COMMENTS};
    start(acts, 1, 3);
    double t0 = st_now();
    char *a = complete();
    assert_non_null(strstr(a, "no token for 1 s"));
    assert_error(a, 502, "network");
    assert_true(st_now() - t0 < 5);
    assert_int_equal(far.n_post, 1);
    assert_true(wait_for(&far.n_hung_up, 1));
}

static void lines_and_replies_without_end_are_cut(void **state)
{
    (void)state;
    static const enum act acts[] = {LONG_LINE, ENDLESS};
    start(acts, 2, 0);
    assert_error(complete(), 502, "integrity");
    assert_error(complete(), 502, "integrity");
    assert_true(wait_for(&far.n_hung_up, 2));
}

static void heads_without_end_and_other_protocols_are_no_reply(void **state)
{
    (void)state;
    static const enum act acts[] = {LONG_HEAD, NO_HTTP};
    start(acts, 2, 0);
    assert_error(complete(), 502, "network");
    char *a = complete();
    assert_null(strstr(a, "EVIL"));
    assert_error(a, 502, "network");
}

static void a_whole_reply_does_not_wait_for_the_upstream_to_close(void **state)
{
    (void)state;
    static const enum act acts[] = {LINGER};
    start(acts, 1, 0);
    char *a = complete();
    assert_non_null(strstr(a, "\"token_ids\":[1,2]"));
    assert_non_null(strstr(a, "\"finish_reason\":\"length\""));
    free(a);
    assert_true(wait_for(&far.n_hung_up, 1));
}

int main(void)
{
#define T(f) cmocka_unit_test_teardown(f, stop)
    const struct CMUnitTest tests[] = {
        T(a_failure_before_the_first_token_is_tried_again_with_the_same_bytes),
        T(tries_end),
        T(a_busy_upstream_is_busy_after_the_last_try),
        T(nothing_is_tried_again_after_the_first_token),
        T(bytes_without_tokens_are_no_life),
        T(lines_and_replies_without_end_are_cut),
        T(heads_without_end_and_other_protocols_are_no_reply),
        T(a_whole_reply_does_not_wait_for_the_upstream_to_close),
    };
    signal(SIGPIPE, SIG_IGN);
    setenv("NO_PROXY", "*", 1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
