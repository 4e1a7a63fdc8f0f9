/* A worker in a thread that speaks the frames and misbehaves as it is told, over tcp, a Unix socket or shared memory.
 * Include cmocka.h first; one per address. */
#ifndef ST_TESTS_FAKE_WORKER_H
#define ST_TESTS_FAKE_WORKER_H

#include "base/hooks.h"
#include "field/fq.h"
#include "net/listen.h"
#include "net/shm.h"
#include "net/worker_frame.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum greeting {
    GREET,
    GREET_WRONG_DIGEST,
    GREET_WRONG_VERSION,
    GREET_GARBAGE,
    GREET_FAILURE,
    GREET_WITH_PRODUCT,
    GREET_TWICE_THE_SAME,
    GREET_HUGE,
    GREET_CUT, /* `cut` bytes of the truth */
    GREET_SILENCE,
    GREET_HUNG_UP,
    GREET_FEW_ROWS,
    GREET_OTHER_SHAPE,
    GREET_WITHOUT_HINTS,
    GREET_UNKNOWN_HINTS,
};

enum act {
    HONEST,
    GARBAGE,
    SHORT,             /* by one value, consistently */
    LONG,              /* by one value */
    CUT,               /* `cut` bytes of the truth, then the end */
    CUT_AND_WAIT,      /* the same without the end */
    LATE,              /* nothing until the test is over */
    TRICKLE,           /* a byte now and then */
    REORDERED,         /* after the next request's reply */
    REPLAYED,          /* the reply to the request before, again */
    STALE_WITH_OUR_ID, /* its values under our id */
    TWICE,
    ANOTHER_MATRIX,
    OVERSIZED,
    LARGE, /* a length within the limits of frames */
    OTHER_TYPE,
    OTHER_FORMAT,
    OTHER_ROWS,
    OTHER_COUNT,
    OTHER_ID,
    FAILS, /* FAILURE of that request */
    FAILS_ALL,
    FAILURE_TOO_LONG,
    REFUSES, /* FAILURE of all before the rows are in, and hangs up */
    HANGS_UP,
    LAST,          /* honest, and hangs up behind it */
    FLIPPED,       /* one bit of the head or of the numbers behind it */
    OTHER_COLUMNS, /* of hints, this and the next */
    NOT_CANONICAL,
    NOT_A_NUMBER,
};

#define FAKE_M 1280 /* of the default parameter set */

struct fake_pipe { /* a connection */
    int fd;
    struct st_shm *shm;
};

struct fake {
    char address[128];
    char path[100]; /* to be removed */
    bool shm;
    int fd, port;
    pthread_t thread;
    enum greeting greeting;
    const enum act *acts; /* of the requests in turn; the last one stays */
    int n_act;
    atomic_size_t cut;
    struct st_worker_weight *weights;
    uint32_t n_weight, max_row;
    uint8_t digest[32];
    atomic_int n_conn, n_request;
    atomic_bool stop;
    struct st_buf last, held;
};

static inline void fake_die(const char *what)
{
    fprintf(stderr, "fake worker: %s\n", what);
    abort();
}

/* All of it, or false when the client or the test is gone. */
static inline bool fake_move(struct fake *f, struct fake_pipe *p, void *data, size_t len, bool out)
{
    uint8_t *at = data;
    while (len && !f->stop) {
        size_t n = 0;
        struct st_err e = {0};
        if (p->shm) {
            if (out ? st_shm_write(p->shm, at, len, &n, &e) : st_shm_read(p->shm, at, len, &n, &e))
                return false;
            if (n == 0 && st_shm_gone(p->shm))
                return false;
            if (n == 0 && st_shm_wait(p->shm, !out, out, st_now() + 0.005, &e) && strcmp(e.msg, "timed out") != 0)
                return false;
        } else {
            struct pollfd w = {.fd = p->fd, .events = out ? POLLOUT : POLLIN};
            if (poll(&w, 1, 5) <= 0)
                continue;
            ssize_t some = out ? send(p->fd, at, len, MSG_NOSIGNAL | MSG_DONTWAIT) : recv(p->fd, at, len, MSG_DONTWAIT);
            if (some <= 0)
                return false;
            n = (size_t)some;
        }
        at += n;
        len -= n;
    }
    return len == 0;
}

static inline bool fake_put(struct fake *f, struct fake_pipe *p, const void *data, size_t len)
{
    return fake_move(f, p, (void *)(uintptr_t)data, len, true);
}

/* The matrices of the fake: weight [i][j] of matrix w. */
static inline int fake_weight(uint32_t w, uint32_t i, uint32_t j)
{
    return (int)((w * 31 + i * 7 + j * 3) % 255) - 127;
}

static inline void fake_multiply(const struct st_worker_weight *w, uint32_t id, bool f32, const uint8_t *rows,
                                 uint32_t n_row, struct st_buf *out)
{
    for (uint32_t r = 0; r < n_row; r++)
        for (uint32_t i = 0; i < w->n_out; i++) {
            uint32_t sum = 0, u;
            float fsum = 0, fu;
            for (uint32_t j = 0; j < w->n_in; j++) {
                const uint8_t *at = rows + 4 * ((size_t)r * w->n_in + j);
                memcpy(&u, at, 4);
                memcpy(&fu, at, 4);
                if (f32)
                    fsum += fu * (float)fake_weight(id, i, j);
                else
                    sum = st_fq_add(sum, st_fq_mul(u, st_fq_from(fake_weight(id, i, j))));
            }
            st_buf_add(out, f32 ? (void *)&fsum : (void *)&sum, 4);
        }
}

static inline uint32_t fake_hint(uint32_t w, uint32_t column, uint32_t i)
{
    return (w * 1000003u + column * 4099u + i * 17u) % ST_FQ;
}

static inline void fake_columns(const struct st_worker_hint *h, enum act act, struct st_buf *out)
{
    for (uint32_t c = h->first; c < h->first + h->n; c++) {
        float scale = 0.5f + (float)c, norm = 1.0f + (float)c;
        if (act == NOT_A_NUMBER)
            norm = 0.0f / 0.0f;
        st_buf_add(out, &scale, 4);
        st_buf_add(out, &norm, 4);
        for (uint32_t i = 0; i < FAKE_M; i++) {
            uint32_t v = act == NOT_CANONICAL && i == FAKE_M - 1 ? ST_FQ : fake_hint(h->weight, c, i);
            st_buf_add(out, &v, 4);
        }
    }
}

static inline void fake_welcome(const struct fake *f, struct st_buf *out)
{
    struct st_worker_welcome w = {.max_row = f->greeting == GREET_FEW_ROWS ? 1 : f->max_row,
                                  .max_payload = 1 << 28,
                                  .n = f->n_weight,
                                  .weights = f->weights};
    struct st_worker_weight own[16];
    memcpy(w.digest, f->digest, 32);
    memcpy(own, f->weights, f->n_weight * sizeof *own);
    snprintf(w.params, sizeof w.params, "%s",
             f->greeting == GREET_WITHOUT_HINTS   ? ""
             : f->greeting == GREET_UNKNOWN_HINTS ? "lwe-1"
                                                  : "lwe-1280-12.8");
    if (f->greeting == GREET_WRONG_DIGEST)
        w.digest[31] ^= 1;
    if (f->greeting == GREET_TWICE_THE_SAME)
        memcpy(own[1].name, own[0].name, sizeof own[1].name);
    if (f->greeting == GREET_OTHER_SHAPE)
        own[0].n_out++;
    w.weights = own;
    st_worker_welcome_add(out, &w);
}

static inline bool fake_greet(struct fake *f, struct fake_pipe *p)
{
    struct st_buf b = {0};
    struct st_worker_product none = {.n_row = 1, .n_weight = 1};
    struct st_rng r;
    uint64_t word;
    fake_welcome(f, &b);
    switch (f->greeting) {
    case GREET_WRONG_VERSION:
        b.p[8] = 2;
        break;
    case GREET_GARBAGE:
        st_rng_seed(&r, 3);
        for (size_t i = 0; i + 8 <= b.len; i += 8) {
            word = st_rng_next(&r);
            memcpy(b.p + i, &word, 8);
        }
        break;
    case GREET_FAILURE:
        st_buf_clear(&b);
        st_worker_failure_add(&b, 0, ST_VERIFY, "no\nsuch \x1b[31mmodel");
        break;
    case GREET_WITH_PRODUCT:
        st_buf_clear(&b);
        st_worker_product_add(&b, 1, &none, 4);
        st_buf_add(&b, "abcd", 4);
        break;
    case GREET_HUGE:
        word = 1ull << 62;
        memcpy(b.p + 24, &word, 8);
        break;
    default:
        break;
    }
    size_t len = f->greeting == GREET_CUT ? f->cut : b.len;
    bool ok = f->greeting != GREET_HUNG_UP;
    if (f->greeting == GREET_SILENCE)
        while (!f->stop)
            usleep(5000);
    else if (ok)
        ok = fake_put(f, p, b.p, len) && f->greeting != GREET_CUT;
    st_buf_free(&b);
    return ok;
}

/* The whole honest reply to a request. */
static inline void fake_reply(struct fake *f, const struct st_worker_head *h, struct st_span payload, enum act act,
                              struct st_buf *out)
{
    struct st_err e = {0};
    struct st_buf values = {0};
    struct st_worker_multiply m;
    struct st_worker_hint hint;
    if (h->type == ST_WORKER_HINT) {
        if (st_worker_hint_parse(payload, &hint, &e))
            fake_die(e.msg);
        if (act == OTHER_COLUMNS)
            hint.first++;
        fake_columns(&hint, act, &values);
        st_worker_columns_add(out, h->id, &hint, values.len);
    } else {
        if (st_worker_multiply_parse(payload, &m, &e))
            fake_die(e.msg);
        for (uint32_t i = 0; i < m.n_weight; i++) {
            const struct st_worker_weight *w = &f->weights[m.weights[i]];
            fake_multiply(w, act == ANOTHER_MATRIX ? m.weights[i] + 100 : m.weights[i], m.format == ST_WORKER_F32,
                          m.rows.p, m.n_row, &values);
        }
        struct st_worker_product r = {m.format, m.n_row, m.n_weight, 5, {0}};
        if (act == OTHER_FORMAT)
            r.format = r.format == ST_WORKER_F32 ? ST_WORKER_FIELD : ST_WORKER_F32;
        if (act == OTHER_ROWS)
            r.n_row++;
        if (act == OTHER_COUNT)
            r.n_weight++;
        if (act == SHORT)
            values.len -= 4;
        if (act == LONG)
            st_buf_add(&values, "more", 4);
        st_worker_product_add(out, act == OTHER_ID ? h->id + 1000 : h->id, &r, values.len);
    }
    st_buf_add(out, values.p, values.len);
    st_buf_free(&values);
}

/* Does what it is told with one request; false ends the connection. */
static inline bool fake_act(struct fake *f, struct fake_pipe *p, enum act act, const struct st_worker_head *h,
                            struct st_span payload)
{
    struct st_buf b = {0};
    struct st_rng r;
    bool ok = true;
    uint64_t word;
    size_t len;
    fake_reply(f, h, payload, act, &b);
    st_rng_seed(&r, h->id);
    if (act == GARBAGE)
        for (size_t i = 0; i + 8 <= b.len; i += 8) {
            word = st_rng_next(&r);
            memcpy(b.p + i, &word, 8);
        }
    word = act == OVERSIZED ? 1ull << 40 : 1ull << 29;
    if (act == OVERSIZED || act == LARGE)
        memcpy(b.p + 24, &word, 8);
    if (act == OTHER_TYPE)
        b.p[12] = ST_WORKER_WELCOME;
    if (act == FAILS || act == FAILS_ALL || act == FAILURE_TOO_LONG)
        st_buf_clear(&b);
    if (act == FAILS || act == FAILS_ALL)
        st_worker_failure_add(&b, act == FAILS ? h->id : 0, ST_MEMORY,
                              "no\x07 memory\xc2\x9b"
                              "1A");
    if (act == FAILURE_TOO_LONG) {
        uint8_t head[ST_WORKER_HEAD];
        st_worker_head_write(head, &(struct st_worker_head){ST_WORKER_FAILURE, h->id, 100000});
        st_buf_add(&b, head, sizeof head);
    }
    if (act == STALE_WITH_OUR_ID && f->last.len == b.len)
        memcpy(b.p + ST_WORKER_HEAD, f->last.p + ST_WORKER_HEAD, b.len - ST_WORKER_HEAD);
    if (act == FLIPPED)
        b.p[st_rng_next(&r) % (ST_WORKER_HEAD + 16)] ^= (char)(1 << st_rng_next(&r) % 8);
    len = b.len;
    switch (act) {
    case CUT:
    case CUT_AND_WAIT:
        ok = fake_put(f, p, b.p, f->cut < len ? f->cut : len) && act == CUT_AND_WAIT;
        break;
    case LATE:
        break;
    case TRICKLE:
        for (size_t i = 0; i < len && ok; i++) {
            ok = fake_put(f, p, b.p + i, 1);
            usleep(20000);
        }
        break;
    case REORDERED:
        st_buf_add(&f->held, b.p, b.len);
        break;
    case REPLAYED:
        ok = fake_put(f, p, f->last.p, f->last.len);
        break;
    case TWICE:
        ok = fake_put(f, p, b.p, len) && fake_put(f, p, b.p, len);
        break;
    case HANGS_UP:
        ok = false;
        break;
    default:
        ok = fake_put(f, p, b.p, len);
        if (ok && f->held.len) {
            ok = fake_put(f, p, f->held.p, f->held.len);
            st_buf_clear(&f->held);
        }
    }
    st_buf_clear(&f->last);
    st_buf_add(&f->last, b.p, b.len);
    st_buf_free(&b);
    return ok && act != FAILS_ALL && act != LAST;
}

static inline void fake_serve(struct fake *f, struct fake_pipe *p)
{
    uint8_t head[ST_WORKER_HEAD], hello[36];
    struct st_worker_head h;
    struct st_err e = {0};
    if (f->greeting != GREET_HUNG_UP &&
        (!fake_move(f, p, head, sizeof head, false) || !fake_move(f, p, hello, sizeof hello, false)))
        return;
    bool ok = fake_greet(f, p);
    while (ok && fake_move(f, p, head, sizeof head, false)) {
        if (st_worker_head_parse(head, ST_WORKER_MAX_PAYLOAD, &h, &e))
            fake_die(e.msg);
        int i = f->n_request++;
        enum act act = f->acts[i < f->n_act ? i : f->n_act - 1];
        if (act == REFUSES) {
            struct st_buf b = {0};
            st_worker_failure_add(&b, 0, ST_IO, "not now");
            fake_put(f, p, b.p, b.len);
            st_buf_free(&b);
            return;
        }
        uint8_t *payload = malloc(h.len);
        ok = fake_move(f, p, payload, h.len, false);
        if (ok)
            ok = fake_act(f, p, act, &h, (struct st_span){payload, h.len});
        free(payload);
    }
}

static inline void *fake_run(void *arg)
{
    struct fake *f = arg;
    while (!f->stop) {
        struct pollfd w = {.fd = f->fd, .events = POLLIN};
        if (poll(&w, 1, 5) <= 0)
            continue;
        struct fake_pipe p = {.fd = accept(f->fd, NULL, NULL)};
        struct st_err e = {0};
        if (p.fd < 0)
            continue;
        if (f->shm && st_shm_offer(p.fd, ST_SHM_MIN_RING, &p.shm, &e))
            continue;
        f->n_conn++;
        fake_serve(f, &p);
        st_buf_clear(&f->held);
        if (p.shm)
            st_shm_close(p.shm);
        else
            close(p.fd);
    }
    return NULL;
}

static inline int fake_listen_unix(const char *path)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    unlink(path);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || listen(fd, 8) != 0)
        fake_die("cannot listen");
    return fd;
}

/* Fills the address and listens; kind "tcp", "unix" or "shm". Everything else of f is the caller's. */
static inline void fake_open(struct fake *f, const char *kind)
{
    static int n;
    struct st_err e = {0};
    if (strcmp(kind, "tcp") == 0) {
        if (st_net_listen("127.0.0.1", 0, &f->fd, &f->port, &e))
            fake_die(e.msg);
        snprintf(f->address, sizeof f->address, "tcp://127.0.0.1:%d", f->port);
        return;
    }
    f->shm = strcmp(kind, "shm") == 0;
    snprintf(f->path, sizeof f->path, "/tmp/fake_worker_%d_%d", (int)getpid(), n++);
    f->fd = fake_listen_unix(f->path);
    snprintf(f->address, sizeof f->address, "%s:%s", kind, f->path);
}

static inline void fake_start(struct fake *f)
{
    if (pthread_create(&f->thread, NULL, fake_run, f) != 0)
        fake_die("no thread");
}

static inline void fake_stop(struct fake *f)
{
    f->stop = true;
    pthread_join(f->thread, NULL);
    close(f->fd);
    if (f->path[0])
        unlink(f->path);
    st_buf_free(&f->last);
    st_buf_free(&f->held);
}

#endif
