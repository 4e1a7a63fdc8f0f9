/* What tests of a node share: an engine that does what it is told, a node in front of it with simulated evidence, and a
 * client that seals by hand. Include expect.h first. */
#ifndef ST_TESTS_NODE_MAKE_H
#define ST_TESTS_NODE_MAKE_H

#include "base/hooks.h"
#include "channel/confidential.h"
#include "channel/receipt.h"
#include "channel/reply.h"
#include "crypto/aead.h"
#include "service/node.h"
#include "text/json.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* RFC 8032, test 1. */
#define NODE_SIM_SEED "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"

/* ---- the engine ---- */

/* Set before a request comes. */
struct fake_engine {
    struct st_role *role;
    int port;
    const char *owner, *version, *metrics, *info, *props; /* NULL = 404 */
    const char *const *pieces;                            /* of an event stream, each sent by itself; NULL = `whole` */
    size_t n_piece;
    int gap_ms;
    const char *whole; /* of status `status` */
    int status;
    bool cuts;                          /* breaks off behind the last piece */
    size_t flood;                       /* bytes of events, as fast as they are taken */
    atomic_int n_asked, n_gone, n_open; /* n_open: streams; at 0, and with none to come, the fields may change */
    atomic_size_t n_flooded;
    pthread_mutex_t lock;
    struct st_buf body; /* of the last request, under the lock */
};

struct fake_reply {
    struct fake_engine *f;
    struct st_http_conn *c;
    struct event *timer;
    size_t i;
};

static inline void fake_gone(void *arg)
{
    struct fake_reply *r = arg;
    struct fake_engine *f = r->f;
    event_free(r->timer);
    free(r);
    f->n_gone++;
    f->n_open--;
}

static inline void fake_end(struct fake_reply *r)
{
    struct fake_engine *f = r->f;
    struct st_http_conn *c = r->c;
    event_free(r->timer);
    free(r);
    if (f->cuts)
        st_http_stream_cut(c);
    else
        st_http_stream_end(c);
    f->n_open--;
}

static inline void fake_tick(evutil_socket_t fd, short what, void *arg)
{
    static const char event[] = "data: 0123456789012345678901234567890123456789012345678901234567\n\n";
    struct fake_reply *r = arg;
    struct fake_engine *f = r->f;
    (void)fd;
    (void)what;
    if (f->flood) {
        while (f->n_flooded < f->flood && st_http_unsent(r->c) < 65536) {
            st_http_stream_send(r->c, event, sizeof event - 1);
            f->n_flooded += sizeof event - 1;
        }
        if (f->n_flooded >= f->flood) {
            fake_end(r);
            return;
        }
    } else {
        if (r->i < f->n_piece)
            st_http_stream_send(r->c, f->pieces[r->i], strlen(f->pieces[r->i]));
        if (r->i++ >= f->n_piece) {
            fake_end(r);
            return;
        }
    }
    const struct timeval tv = {f->gap_ms / 1000, f->gap_ms % 1000 * 1000};
    event_add(r->timer, &tv);
}

static inline void fake_post(struct fake_engine *f, struct st_http_conn *c)
{
    struct st_span body = st_http_body(c);
    pthread_mutex_lock(&f->lock);
    st_buf_clear(&f->body);
    st_buf_add(&f->body, body.p, body.len);
    pthread_mutex_unlock(&f->lock);
    f->n_asked++;
    if (!f->pieces && !f->flood) {
        st_http_reply(c, f->status ? f->status : 200, NULL, "application/json", f->whole, strlen(f->whole));
        return;
    }
    struct fake_reply *r = calloc(1, sizeof *r);
    f->n_open++;
    r->f = f;
    r->c = c;
    r->timer = event_new(st_role_base(f->role), -1, 0, fake_tick, r);
    const struct st_http_watch w = {fake_gone, NULL, r};
    st_http_watch(c, &w);
    st_http_stream_begin(c, 200, NULL, "text/event-stream; charset=utf-8");
    fake_tick(-1, 0, r);
}

static inline void fake_request(void *arg, struct st_http_conn *c)
{
    struct fake_engine *f = arg;
    const char *path = st_http_path(c), *text = NULL;
    char models[256];
    snprintf(models, sizeof models, "{\"object\":\"list\",\"data\":[{\"id\":\"m\",\"owned_by\":\"%s\"}]}", f->owner);
    if (strcmp(st_http_method(c), "POST") == 0) {
        fake_post(f, c);
        return;
    }
    if (strcmp(path, "/v1/models") == 0)
        text = models;
    else if (strcmp(path, "/version") == 0)
        text = f->version;
    else if (strcmp(path, "/metrics") == 0)
        text = f->metrics;
    else if (strcmp(path, "/get_server_info") == 0)
        text = f->info;
    else if (strcmp(path, "/props") == 0)
        text = f->props;
    st_http_reply(c, text ? 200 : 404, NULL, "application/json", text ? text : "", text ? strlen(text) : 0);
}

static inline void fake_start(struct fake_engine *f, int port)
{
    struct st_err e;
    const struct st_role_opts o = {.port = port, .max_body = 8 << 20, .request = fake_request, .arg = f};
    pthread_mutex_init(&f->lock, NULL);
    assert_ok(st_role_new(&f->role, &e), &e);
    assert_ok(st_role_listen(f->role, &o, &e), &e);
    assert_ok(st_role_start(f->role, &e), &e);
    f->port = st_role_port(f->role);
}

static inline void fake_stop(struct fake_engine *f)
{
    st_role_stop(f->role);
    st_role_free(f->role);
    st_buf_free(&f->body);
    f->role = NULL;
}

/* A field of the last body that the engine got; owned by the caller. */
static inline json_t *fake_body(struct fake_engine *f)
{
    struct st_err e;
    json_t *v;
    pthread_mutex_lock(&f->lock);
    assert_ok(st_json_parse(f->body.p, f->body.len, "body", &v, &e), &e);
    pthread_mutex_unlock(&f->lock);
    return v;
}

/* ---- the node ---- */

struct node_pair {
    struct fake_engine engine;
    struct st_node *node;
    struct st_node_opts o;
    struct st_node_about about;
    char upstream[64], sim_key[64];
    const char *kinds[1];
};

static inline void write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

/* Everything but the node itself; options may be changed before node_open(). */
static inline void pair_make(struct node_pair *p)
{
    *p = (struct node_pair){.engine.owner = "sotto", .kinds = {"sim"}};
    fake_start(&p->engine, 0);
    snprintf(p->upstream, sizeof p->upstream, "http://127.0.0.1:%d", p->engine.port);
    snprintf(p->sim_key, sizeof p->sim_key, "/tmp/sotto_node_XXXXXX");
    int fd = mkstemp(p->sim_key);
    assert_true(fd >= 0);
    close(fd);
    write_text(p->sim_key, NODE_SIM_SEED "\n");
    p->o = (struct st_node_opts){
        .upstream = p->upstream, .kinds = p->kinds, .n_kind = 1, .collect.sim_key = p->sim_key, .engine_wait_s = 5};
}

static inline void node_open(struct node_pair *p)
{
    struct st_err e;
    assert_ok(st_node_new(&p->o, &p->node, &e), &e);
    st_node_about(p->node, &p->about);
    assert_ok(st_node_start(p->node, &e), &e);
}

static inline void pair_close(struct node_pair *p)
{
    struct st_err e;
    if (p->node && st_node_stop(p->node, &e))
        print_message("%s\n", e.msg);
    st_node_free(p->node);
    fake_stop(&p->engine);
    unlink(p->sim_key);
}

/* ---- plain HTTP ---- */

static inline int dial(int port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    const struct timeval tv = {10, 0};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    return fd;
}

#define MAX_ARRIVALS 512
struct answer {
    int status;
    char head[1024];
    struct st_buf body; /* without the framing of HTTP */
    bool cut;           /* ended before its end */
    size_t n_arrival;
    struct {
        double time;
        size_t len;
    } arrivals[MAX_ARRIVALS]; /* HTTP chunks, as they came */
};

static inline int send_request(int port, const char *path, const char *type, const void *body, size_t len)
{
    char head[512];
    int fd = dial(port);
    int n = snprintf(head, sizeof head,
                     "POST %s HTTP/1.1\r\nHost: node\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: "
                     "close\r\n\r\n",
                     path, type, len);
    assert_int_equal(send(fd, head, (size_t)n, MSG_NOSIGNAL), n);
    for (size_t at = 0; at < len;) {
        ssize_t sent = send(fd, (const char *)body + at, len - at, MSG_NOSIGNAL);
        assert_true(sent > 0);
        at += (size_t)sent;
    }
    return fd;
}

/* Takes whole HTTP chunks off raw; true when the last one was there. */
static inline bool take_chunks(struct st_buf *raw, struct answer *a)
{
    for (;;) {
        char *line = raw->len ? memmem(raw->p, raw->len, "\r\n", 2) : NULL;
        if (!line)
            return false;
        size_t head = (size_t)(line - raw->p) + 2, n = strtoul(raw->p, NULL, 16);
        if (raw->len < head + n + 2)
            return false;
        st_buf_add(&a->body, raw->p + head, n);
        if (n && a->n_arrival < MAX_ARRIVALS) {
            a->arrivals[a->n_arrival].time = st_now();
            a->arrivals[a->n_arrival++].len = n;
        }
        st_buf_drop(raw, head + n + 2);
        if (!n)
            return true;
    }
}

static inline void read_answer(int fd, struct answer *a)
{
    struct st_buf raw = {0};
    char b[65536], *end = NULL;
    ssize_t n = 1;
    bool chunked = false, done = false;
    *a = (struct answer){0};
    while (!done && (n = recv(fd, b, sizeof b, 0)) > 0) {
        st_buf_add(&raw, b, (size_t)n);
        if (!end && (end = memmem(raw.p, raw.len, "\r\n\r\n", 4))) {
            size_t len = (size_t)(end - raw.p) + 4;
            assert_true(len < sizeof a->head);
            memcpy(a->head, raw.p, len);
            a->status = atoi(a->head + 9);
            chunked = strstr(a->head, "Transfer-Encoding: chunked") != NULL;
            st_buf_drop(&raw, len);
        }
        if (end && chunked)
            done = take_chunks(&raw, a);
    }
    assert_true(done || n == 0 || errno == ECONNRESET);
    a->cut = chunked && !done;
    if (!chunked && raw.len)
        st_buf_add(&a->body, raw.p, raw.len);
    st_buf_free(&raw);
    close(fd);
}

/* A counter of /metrics. */
static inline int metric(int port, const char *name)
{
    struct answer a;
    char key[96];
    int fd = dial(port);
    const char *q = "GET /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n";
    assert_int_equal(send(fd, q, strlen(q), MSG_NOSIGNAL), strlen(q));
    read_answer(fd, &a);
    snprintf(key, sizeof key, "\nsotto_node_%s ", name);
    st_buf_add(&a.body, "", 1);
    const char *at = strstr(a.body.p, key);
    assert_non_null(at);
    int v = atoi(at + strlen(key));
    st_buf_free(&a.body);
    return v;
}

static inline bool wait_metric(int port, const char *name, int want)
{
    for (int i = 0; i < 300; i++) {
        if (metric(port, name) == want)
            return true;
        poll(NULL, 0, 10);
    }
    return false;
}

/* ---- the sealed client ---- */

static inline void node_bundle(int port, const char *nonce, struct st_bundle *out)
{
    struct answer a;
    char body[128];
    struct st_err e;
    snprintf(body, sizeof body, "{\"nonce\":\"%s\"}", nonce);
    read_answer(send_request(port, ST_NODE_PATH_ATTEST, "application/json", body, strlen(body)), &a);
    assert_int_equal(a.status, 200);
    assert_ok(st_bundle_parse(a.body.p, a.body.len, "bundle", out, &e), &e);
    st_buf_free(&a.body);
}

#define NONCE_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define NONCE_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

/* What a client needs of a node's evidence. */
struct node_key {
    struct st_ohttp_config config;
    uint8_t receipt[32], model[32];
};

static inline struct node_key node_key(int port, const char *nonce)
{
    struct st_bundle b;
    struct node_key k = {0};
    node_bundle(port, nonce, &b);
    assert_true(b.has_binding);
    k.config.id = b.binding.hpke_key[0];
    k.config.kem = (uint16_t)b.binding.suite.kem;
    memcpy(k.config.public, b.binding.hpke_key, 32);
    k.config.suites[0].kdf = (uint16_t)b.binding.suite.kdf;
    k.config.suites[0].aead = (uint16_t)b.binding.suite.aead;
    k.config.n_suites = 1;
    memcpy(k.receipt, b.binding.receipt_key, 32);
    memcpy(k.model, b.binding.model, 32);
    st_bundle_free(&b);
    return k;
}

static inline struct st_span span_of(const char *s)
{
    return (struct st_span){(const uint8_t *)s, strlen(s)};
}

/* json sealed for k. salt NULL: none. */
static inline void seal(const struct node_key *k, const char *path, const char *salt, const char *json,
                        struct st_ohttp *x, struct st_buf *out)
{
    const struct st_bhttp_field f[] = {{span_of("content-type"), span_of("application/json")},
                                       {span_of(ST_NODE_FIELD_SALT), span_of(salt ? salt : "")}};
    const struct st_bhttp_head head = {.method = span_of("POST"),
                                       .scheme = span_of("https"),
                                       .authority = span_of("node"),
                                       .path = span_of(path),
                                       .fields = {f, salt ? 2 : 1}};
    struct st_buf text = {0};
    struct st_err e;
    assert_ok(st_bhttp_write(&text, ST_BHTTP_REQUEST, &head, span_of(json), (struct st_bhttp_fields){0}, &e), &e);
    st_bhttp_pad(&text, 0, st_bhttp_bucket(text.len));
    assert_ok(st_ohttp_client(x, ST_OHTTP_CHUNKED, &k->config, 0, out, &e), &e);
    assert_ok(st_ohttp_seal_all(x, text.p, text.len, out, &e), &e);
    st_buf_free(&text);
}

struct sealed_reply {
    int status; /* 0: it did not open */
    struct st_buf content;
    char receipt[2 * ST_RECEIPT_LEN + 1];
    size_t n_chunk, chunk; /* how many, and their size when it is one size */
    bool one_size;
};

/* status stays 0 unless all of it opens and is whole. */
static inline void open_reply(struct st_ohttp *x, const struct answer *a, struct sealed_reply *r)
{
    const struct st_bhttp_limits limits = {.head = 4096, .n_fields = 8, .content = 1u << 30, .padding = 1u << 20};
    struct st_bhttp_reader reader;
    struct st_span in = {(const uint8_t *)a->body.p, a->body.len}, text, piece, receipt;
    struct st_err e;
    bool ended = false;
    *r = (struct sealed_reply){.one_size = true};
    assert_ok(st_bhttp_reader_init(&reader, ST_BHTTP_RESPONSE, &limits, &e), &e);
    for (int rc = 0; !rc && !ended;) {
        ended = in.len == 0;
        rc = ended ? st_ohttp_open_end(x, &text, &e) : st_ohttp_open(x, &in, &text, &e);
        if (rc)
            goto out;
        if (text.len) {
            r->one_size = r->one_size && (r->n_chunk == 0 || r->chunk == text.len);
            r->chunk = text.len;
            r->n_chunk++;
        }
        while (!rc && text.len) {
            rc = st_bhttp_read(&reader, &text, &piece, &e);
            if (!rc)
                st_buf_add(&r->content, piece.p, piece.len);
        }
        assert_ok(rc, &e);
    }
    assert_ok(st_bhttp_read_end(&reader, &e), &e);
    st_buf_add(&r->content, "", 1);
    r->content.len--;
    r->status = (int)st_bhttp_head(&reader)->status;
    assert_true(st_bhttp_find(st_bhttp_trailers(&reader), ST_RECEIPT_FIELD, &receipt));
    assert_int_equal(receipt.len, 2 * ST_RECEIPT_LEN);
    memcpy(r->receipt, receipt.p, receipt.len);
out:
    st_bhttp_reader_wipe(&reader);
}

/* The receipt is the node's, over exactly this. */
static inline int check_receipt(const struct node_key *k, const char *json, const struct sealed_reply *r,
                                struct st_err *e)
{
    struct st_receipt want = {0};
    uint8_t bytes[ST_RECEIPT_LEN];
    int64_t time;
    memcpy(want.key, k->receipt, 32);
    memcpy(want.model, k->model, 32);
    st_sha256(json, strlen(json), want.request);
    st_sha256(r->content.p, r->content.len, want.reply);
    if (st_unhex(r->receipt, 2 * ST_RECEIPT_LEN, bytes, sizeof bytes, "receipt", e))
        return e->code;
    return st_receipt_verify((struct st_span){bytes, sizeof bytes}, &want, &time, e);
}

static inline void post_sealed(int port, const struct st_buf *sealed, struct answer *a)
{
    read_answer(send_request(port, ST_NODE_PATH_INFER, "message/ohttp-chunked-req", sealed->p, sealed->len), a);
}

/* One whole exchange; the receipt must be good. r->content is the caller's. */
static inline void ask_sealed(int port, const struct node_key *k, const char *path, const char *salt, const char *json,
                              struct sealed_reply *r)
{
    struct st_ohttp x;
    struct st_buf sealed = {0};
    struct answer a;
    struct st_err e;
    seal(k, path, salt, json, &x, &sealed);
    post_sealed(port, &sealed, &a);
    if (a.status != 200 || a.cut)
        fail_msg("status %d%s", a.status, a.cut ? ", cut" : "");
    open_reply(&x, &a, r);
    assert_true(r->status);
    assert_true(r->one_size);
    assert_ok(check_receipt(k, json, r, &e), &e);
    st_ohttp_wipe(&x);
    st_buf_free(&sealed);
    st_buf_free(&a.body);
}

/* Text without the line feeds that fill chunks up: for values and events that hold none beside their ends. */
static inline bool begins_with(const struct sealed_reply *r, const char *text)
{
    return r->content.len >= strlen(text) && memcmp(r->content.p, text, strlen(text)) == 0;
}

static inline bool only_filler_behind(const struct sealed_reply *r, size_t at)
{
    return strspn(r->content.p + at, "\n") == r->content.len - at;
}

#endif
