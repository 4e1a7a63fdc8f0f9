/* What a cadence costs and what it hides: a node in this process before an engine whose tokens come after gaps of 10 or
 * 50 ms, drawn at random; the client watches when sealed pieces come and opens none of them.
 *
 *     node_cadence [ROUNDS] > bench/results/cadence.csv
 *
 * Columns: cadence in ms (0: as produced); first_ms: to the first piece, median; stream_ms: from it to the last;
 * pieces, bytes: of a reply; score: share of the gaps between tokens that a watcher tells short from long (i-th gap
 * between pieces against i-th gap between tokens, threshold 30 ms; by chance 0.5), unprotected the same for the
 * engine's own stream. 48 tokens; the engine's first one comes after 50 ms. */
#include "attest/evidence.h"
#include "base/hooks.h"
#include "channel/bhttp.h"
#include "channel/ohttp.h"
#include "crypto/sequence.h"
#include "service/node.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TOKENS = 48, MAX_PIECES = 4096, SHORT_MS = 10, LONG_MS = 50, FIRST_MS = 50 };
#define SEED "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60\n" /* RFC 8032, test 1 */
#define ASKS "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"}],\"stream\":true}"

static void die(const char *what)
{
    fprintf(stderr, "node_cadence: %s\n", what);
    exit(1);
}

static void need(int rc, const struct st_err *e)
{
    if (rc)
        die(e->msg);
}

/* ---- the engine ---- */

static struct {
    struct st_role *role;
    struct event *timer;
    struct st_http_conn *c;
    struct st_rng rng;
    int n;
    bool is_long[TOKENS]; /* the gap before token i */
} engine;

static void next_in(int ms)
{
    const struct timeval tv = {0, ms * 1000};
    event_add(engine.timer, &tv);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    static const char token[] = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"}}]}\n\n";
    (void)fd;
    (void)what;
    (void)arg;
    st_http_stream_send(engine.c, token, sizeof token - 1);
    if (++engine.n == TOKENS) {
        st_http_stream_end(engine.c);
        return;
    }
    engine.is_long[engine.n] = st_rng_next(&engine.rng) >> 63;
    next_in(engine.is_long[engine.n] ? LONG_MS : SHORT_MS);
}

static void on_request(void *arg, struct st_http_conn *c)
{
    static const char models[] = "{\"data\":[{\"id\":\"m\",\"owned_by\":\"sotto\"}]}";
    (void)arg;
    if (strcmp(st_http_method(c), "POST") != 0) {
        st_http_reply(c, 200, NULL, "application/json", models, sizeof models - 1);
        return;
    }
    engine.c = c;
    engine.n = 0;
    st_http_stream_begin(c, 200, NULL, "text/event-stream");
    next_in(FIRST_MS);
}

static int engine_start(void)
{
    const struct st_role_opts o = {.request = on_request};
    struct st_err e;
    need(st_role_new(&engine.role, &e), &e);
    engine.timer = event_new(st_role_base(engine.role), -1, 0, on_tick, NULL);
    st_rng_seed(&engine.rng, 1);
    need(st_role_listen(engine.role, &o, &e), &e);
    need(st_role_start(engine.role, &e), &e);
    return st_role_port(engine.role);
}

/* ---- the watcher ---- */

static int post(int port, const char *path, const char *type, const void *body, size_t len)
{
    char head[256];
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int n =
        snprintf(head, sizeof head,
                 "POST %s HTTP/1.1\r\nHost: n\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n",
                 path, type, len);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0 || send(fd, head, (size_t)n, 0) != n ||
        send(fd, body, len, 0) != (ssize_t)len)
        die("cannot ask");
    return fd;
}

struct seen {
    double at[MAX_PIECES];
    size_t n, bytes;
};

/* Each read is a piece (they are at least a tick apart, or sent as one) but the head of the reply by itself. */
static void watch(int fd, struct seen *s)
{
    char b[65536];
    *s = (struct seen){0};
    for (ssize_t n; (n = recv(fd, b, sizeof b, 0)) > 0; s->bytes += (size_t)n)
        if (s->n < MAX_PIECES && (s->bytes || memcmp(b + n - 4, "\r\n\r\n", 4) != 0))
            s->at[s->n++] = st_now();
    close(fd);
}

static double score(const struct seen *s)
{
    double good = 0;
    for (size_t i = 1; i < TOKENS; i++) /* where there is no piece a watcher guesses */
        good += i < s->n ? (s->at[i] - s->at[i - 1] > 0.030) == engine.is_long[i] : 0.5;
    return good / (TOKENS - 1);
}

/* ---- sealing ---- */

static struct st_ohttp_config node_key(int port)
{
    static const char ask[] = "{\"nonce\":\"0000000000000000000000000000000000000000000000000000000000000000\"}";
    struct st_ohttp_config c = {.kem = ST_HPKE_KEM_X25519, .n_suites = 1};
    struct st_buf all = {0};
    struct st_bundle b;
    struct st_err e;
    char piece[4096];
    int fd = post(port, "/attest", "application/json", ask, sizeof ask - 1);
    for (ssize_t n; (n = recv(fd, piece, sizeof piece, 0)) > 0;)
        st_buf_add(&all, piece, (size_t)n);
    close(fd);
    const char *body = all.p ? strstr(all.p, "\r\n\r\n") : NULL;
    if (!body)
        die("no bundle");
    need(st_bundle_parse(body + 4, all.len - (size_t)(body + 4 - all.p), "bundle", &b, &e), &e);
    memcpy(c.public, b.binding.hpke_key, 32);
    c.id = c.public[0];
    c.suites[0].kdf = ST_HPKE_KDF_SHA256;
    c.suites[0].aead = ST_AEAD_AES_128_GCM;
    st_bundle_free(&b);
    st_buf_free(&all);
    return c;
}

static void seal(const struct st_ohttp_config *c, struct st_buf *out)
{
#define SPAN(s)                                                                                                        \
    {                                                                                                                  \
        (const uint8_t *)(s), sizeof(s) - 1                                                                            \
    }
    static const struct st_bhttp_field type = {SPAN("content-type"), SPAN("application/json")};
    static const struct st_bhttp_head head = {.method = SPAN("POST"),
                                              .scheme = SPAN("https"),
                                              .authority = SPAN("node"),
                                              .path = SPAN("/v1/chat/completions"),
                                              .fields = {&type, 1}};
    static const struct st_span content = SPAN(ASKS);
    struct st_buf text = {0};
    struct st_ohttp x;
    struct st_err e;
    need(st_bhttp_write(&text, ST_BHTTP_REQUEST, &head, content, (struct st_bhttp_fields){0}, &e), &e);
    need(st_ohttp_client(&x, ST_OHTTP_CHUNKED, c, 0, out, &e), &e);
    need(st_ohttp_seal_all(&x, text.p, text.len, out, &e), &e);
    st_ohttp_wipe(&x);
    st_buf_free(&text);
}

/* ---- rounds ---- */

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, size_t n)
{
    qsort(v, n, sizeof *v, by_value);
    return v[n / 2];
}

static void measure(int engine_port, const char *sim_key, int cadence_ms, int rounds)
{
    static const char *const kinds[] = {"sim"};
    double first[64], stream[64], right = 0, plain = 0;
    char upstream[64];
    struct st_node *n;
    struct st_node_about about;
    struct st_err e;
    static struct seen s;
    snprintf(upstream, sizeof upstream, "http://127.0.0.1:%d", engine_port);
    const struct st_node_opts o = {
        .upstream = upstream, .kinds = kinds, .n_kind = 1, .collect.sim_key = sim_key, .cadence_s = cadence_ms / 1e3};
    need(st_node_new(&o, &n, &e), &e);
    st_node_about(n, &about);
    need(st_node_start(n, &e), &e);
    const struct st_ohttp_config key = node_key(about.port);
    for (int i = 0; i < rounds; i++) {
        struct st_buf sealed = {0};
        seal(&key, &sealed);
        const double start = st_now();
        watch(post(about.port, "/", "message/ohttp-chunked-req", sealed.p, sealed.len), &s);
        if (s.n < 2)
            die("no reply");
        first[i] = 1e3 * (s.at[0] - start);
        stream[i] = 1e3 * (s.at[s.n - 1] - s.at[0]);
        right += score(&s) / rounds;
        st_buf_free(&sealed);
        static struct seen direct;
        watch(post(engine_port, "/v1/chat/completions", "application/json", ASKS, sizeof ASKS - 1), &direct);
        plain += score(&direct) / rounds;
    }
    printf("%d,%.1f,%.0f,%zu,%zu,%.2f,0.50,%.2f\n", cadence_ms, median(first, (size_t)rounds),
           median(stream, (size_t)rounds), s.n, s.bytes, right, plain);
    fflush(stdout);
    need(st_node_stop(n, &e), &e);
    st_node_free(n);
}

int main(int argc, char **argv)
{
    static const int cadences[] = {0, 10, 20, 40, 80};
    char sim_key[] = "/tmp/sotto_cadence_XXXXXX";
    const int rounds = argc > 1 ? atoi(argv[1]) : 9;
    int fd = mkstemp(sim_key);
    if (rounds < 1 || rounds > 64 || fd < 0 || write(fd, SEED, sizeof SEED - 1) != sizeof SEED - 1)
        die("want ROUNDS in 1..64");
    close(fd);
    const int port = engine_start();
    puts("cadence_ms,first_ms,stream_ms,pieces,bytes,score,chance,unprotected");
    for (size_t i = 0; i < sizeof cadences / sizeof *cadences; i++)
        measure(port, sim_key, cadences[i], rounds);
    st_role_stop(engine.role);
    event_free(engine.timer);
    st_role_free(engine.role);
    unlink(sim_key);
    return 0;
}
