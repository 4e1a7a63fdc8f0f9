/* A worker's connections from their beginning to their end: clients that leave, stall or are too many, time-outs,
 * drain, the kinds of addresses, hints. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "certificate.h"
#include "mutate.h"
#include "net/shm.h"
#include "worker_child.h"

#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>

static void a_client_that_stops_reading_is_dropped_and_holds_nobody_up(void **state)
{
    static const struct st_worker_multiply m = {ST_WORKER_FIELD, 4, 1, {WIDE}, {0}};
    struct st_buf b = {0};
    uint32_t *rows;
    int small = 4096;
    (void)state;
    start(&(struct st_worker_opts){.send_s = 0.5, .max_pending = 4});
    int deaf = greeted(listening[0]), other = greeted(listening[0]);
    setsockopt(deaf, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    for (uint64_t i = 1; i <= 200; i++) {
        ask(&b, i, &m, i, &rows);
        free(rows);
    }
    put(deaf, b.p, b.len);
    double until = st_now() + 10; /* half a second, one for the length of a reply, one of the clock */
    bool gone = false;
    for (uint64_t i = 1; !gone && st_now() < until; i++) {
        struct pollfd p = {deaf, POLLRDHUP, 0};
        check_product(other, i, &one_a);
        gone = poll(&p, 1, 50) > 0 && p.revents & (POLLRDHUP | POLLHUP | POLLERR);
    }
    assert_true(gone);
    check_product(other, 1, &one_a);
    st_buf_free(&b);
    close(deaf);
    close(other);
    stop();
}

static void a_slow_reader_loses_the_memory_that_others_wait_for(void **state)
{
    /* At the slowest rate that is allowed while nobody waits, the first reply would take 100 seconds. */
    static const struct st_worker_multiply most = {ST_WORKER_FIELD, 400, 1, {WIDE}, {0}};
    static const struct st_worker_multiply half = {ST_WORKER_FIELD, 200, 1, {WIDE}, {0}};
    struct pollfd answered;
    struct st_buf b = {0};
    uint32_t *rows;
    int small = 4096;
    (void)state;
    start(&(struct st_worker_opts){.send_s = 0.5, .max_memory = 8 << 20});
    int deaf = greeted(listening[0]), other = greeted(listening[0]);
    setsockopt(deaf, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    ask(&b, 1, &most, 1, &rows);
    put(deaf, b.p, b.len);
    free(rows);
    answered = (struct pollfd){deaf, POLLIN, 0};
    assert_int_equal(poll(&answered, 1, 10000), 1);
    st_buf_clear(&b);
    ask(&b, 2, &half, 2, &rows);
    put(other, b.p, b.len);
    free(rows);
    answered = (struct pollfd){other, POLLIN, 0};
    assert_int_equal(poll(&answered, 1, 20000), 1);
    st_buf_free(&b);
    close(deaf);
    close(other);
    stop();
}

static void a_client_that_leaves_at_any_point_harms_nobody(void **state)
{
    struct st_buf b = {0};
    uint32_t *rows;
    (void)state;
    slow_ms = 3;
    start(&(struct st_worker_opts){.backend = &plain_backend});
    int other = greeted(listening[0]);
    st_worker_hello_add(&b, digest);
    ask(&b, 1, &(struct st_worker_multiply){ST_WORKER_FIELD, 2, 1, {A}, {0}}, 1, &rows);
    for (size_t cut = 0; cut <= b.len; cut++) {
        int fd = dial(listening[0]);
        struct linger reset = {1, 0};
        if (cut % 2)
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        put(fd, b.p, cut);
        close(fd);
        if (cut % 16 == 0)
            check_product(other, cut + 1, &one_a);
    }
    free(rows);
    st_buf_free(&b);
    close(other);
    stop();
}

/* Whatever comes back, it comes in whole frames or the connection ends, and others are served. */
static void damaged_streams_leave_the_worker_whole(void **state)
{
    struct st_buf b = {0};
    struct reply r = {0};
    struct st_rng rng;
    uint32_t *rows;
    (void)state;
    st_rng_seed(&rng, 5);
    start(&(struct st_worker_opts){.backend = &plain_backend, .max_memory = 1, .max_conn = 8});
    int other = greeted(listening[0]);
    st_worker_hello_add(&b, digest);
    size_t hot = b.len;
    for (uint64_t i = 1; i <= 3; i++) {
        ask(&b, i, &(struct st_worker_multiply){ST_WORKER_FIELD, 2, 2, {A, B}, {0}}, i, &rows);
        free(rows);
    }
    st_worker_hint_add(&b, 4, &(struct st_worker_hint){A, 0, 1});
    for (uint64_t i = 1; i <= 300; i++) {
        size_t len, from = i % 2 ? 0 : hot; /* half of them greet properly first */
        uint8_t *p = mutate(&rng, b.p + from, b.len - from, 2 * ST_WORKER_HEAD, &len);
        int fd = from ? greeted(listening[0]) : dial(listening[0]);
        put(fd, p, len);
        shutdown(fd, SHUT_WR);
        while (reply(fd, &r))
            ;
        close(fd);
        free(p);
        if (i % 16 == 0)
            check_product(other, i, &one_a);
    }
    free(r.payload);
    st_buf_free(&b);
    close(other);
    stop();
}

static void silence_and_half_a_frame_run_out_of_time(void **state)
{
    struct st_buf b = {0};
    uint32_t *rows;
    (void)state;
    start(&(struct st_worker_opts){.backend = &plain_backend, .idle_s = 0.3, .receive_s = 0.3});
    int idle = greeted(listening[0]), half = greeted(listening[0]);
    ask(&b, 1, &one_a, 1, &rows);
    put(half, b.p, b.len - 4);
    expect_failure(half, 0, ST_IO, "timed out: a frame has not arrived whole");
    assert_true(ended(half));
    assert_true(ended(idle));
    free(rows);
    st_buf_free(&b);
    close(half);
    close(idle);
    stop();
}

static void connections_over_the_limit_are_told_and_silent_ones_give_way(void **state)
{
    (void)state;
    start(&(struct st_worker_opts){.backend = &plain_backend, .max_conn = 3});
    int silent = dial(listening[0]), a = greeted(listening[0]), b = greeted(listening[0]);
    int c = greeted(listening[0]); /* in the place of the silent one */
    assert_true(ended(silent));
    int over = dial(listening[0]);
    expect_failure(over, 0, ST_IO, "this worker has its 3 connections");
    assert_true(ended(over));
    check_product(a, 1, &one_a);
    close(a);
    poll(NULL, 0, 50);
    int next = greeted(listening[0]);
    check_product(next, 1, &one_a);
    close(silent);
    close(over);
    close(next);
    close(b);
    close(c);
    stop();
}

static void drain_finishes_what_runs_and_takes_nothing_new(void **state)
{
    struct st_buf b = {0};
    struct reply r = {0};
    uint32_t *first, *second;
    (void)state;
    slow_ms = 300;
    start(&(struct st_worker_opts){.backend = &plain_backend});
    int fd = greeted(listening[0]), idle = greeted(listening[0]);
    ask(&b, 1, &one_a, 1, &first);
    ask(&b, 2, &(struct st_worker_multiply){ST_WORKER_FIELD, 1, 1, {C}, {0}}, 2, &second);
    put(fd, b.p, b.len);
    poll(NULL, 0, 100);
    kill(child, SIGTERM);
    assert_true(ended(idle));
    assert_int_equal(dial(listening[0]), -1);
    assert_true(reply(fd, &r));
    expect_product(&r, 1, &one_a, first);
    assert_true(reply(fd, &r));
    expect_product(&r, 2, &(struct st_worker_multiply){ST_WORKER_FIELD, 1, 1, {C}, {0}}, second);
    assert_true(ended(fd));
    close(fd);
    close(idle);
    free(first);
    free(second);
    free(r.payload);
    st_buf_free(&b);
    finish();
}

static void drain_does_not_wait_for_ever(void **state)
{
    struct st_buf b = {0};
    uint32_t *rows;
    (void)state;
    slow_ms = 200;
    start(&(struct st_worker_opts){.backend = &plain_backend, .grace_s = 0.2});
    int fd = greeted(listening[0]);
    for (uint64_t i = 1; i <= 8; i++) {
        ask(&b, i, &(struct st_worker_multiply){ST_WORKER_FIELD, 1, 1, {i % 3}, {0}}, i, &rows);
        free(rows);
    }
    put(fd, b.p, b.len);
    poll(NULL, 0, 50);
    double start_s = st_now();
    stop();
    assert_true(st_now() - start_s < 10);
    close(fd);
    st_buf_free(&b);
}

static void a_unix_socket_is_private_replaced_when_stale_and_removed(void **state)
{
    char path[80], address[96];
    const char *listen[] = {address};
    struct stat st;
    (void)state;
    snprintf(path, sizeof path, "%s/worker.sock", dir);
    snprintf(address, sizeof address, "unix:%s", path);
    start_on(&(struct st_worker_opts){.backend = &plain_backend}, listen, 1);
    assert_string_equal(listening[0], address);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    int fd = greeted(address);
    check_product(fd, 1, &one_a);

    pid_t running = child; /* a second one on the same path */
    start_on(&(struct st_worker_opts){.backend = &plain_backend}, listen, 1);
    assert_non_null(strstr(listening[0], "address already in use"));
    waitpid(child, NULL, 0);
    check_product(fd, 2, &one_a);
    close(fd);

    kill(running, SIGKILL);
    waitpid(running, NULL, 0);
    assert_int_equal(stat(path, &st), 0);
    start_on(&(struct st_worker_opts){.backend = &plain_backend}, listen, 1);
    fd = greeted(address);
    check_product(fd, 3, &one_a);
    close(fd);
    stop();
    assert_int_equal(stat(path, &st), -1);

    FILE *f = fopen(path, "w"); /* somebody's file stays */
    fclose(f);
    start_on(&(struct st_worker_opts){.backend = &plain_backend}, listen, 1);
    assert_non_null(strstr(listening[0], "there is a file that is no socket"));
    waitpid(child, NULL, 0);
    child = 0;
    assert_int_equal(stat(path, &st), 0);
}

static void addresses_that_cannot_be_had_are_named(void **state)
{
    static const struct {
        const char *address, *says;
    } table[] = {{"127.0.0.1:7790", "127.0.0.1:7790"},
                 {"tls://127.0.0.1:0", "want a certificate"},
                 {"tcp://no-such-host.invalid:1", "no-such-host.invalid"},
                 {"unix:/no/such/directory/x", "unix:/no/such/directory/x"}};
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        start_on(&(struct st_worker_opts){.backend = &plain_backend}, &table[i].address, 1);
        if (listening[0][0] != '!' || !strstr(listening[0], table[i].says))
            fail_msg("%s: '%s'", table[i].address, listening[0]);
        waitpid(child, NULL, 0);
        child = 0;
    }
}

static void tls_serves_the_same_products(void **state)
{
    char cert[80], key[80];
    struct st_buf b = {0};
    uint32_t *rows;
    static const struct st_worker_multiply m = {ST_WORKER_FIELD, 20, 2, {A, WIDE}, {0}};
    const char *listen[] = {"tcp://127.0.0.1:0"};
    struct reply r = {0};
    uint8_t head[ST_WORKER_HEAD];
    struct st_err e;
    (void)state;
    snprintf(cert, sizeof cert, "%s/cert.pem", dir);
    snprintf(key, sizeof key, "%s/key.pem", dir);
    make_certificate(cert, key);
    start_on(&(struct st_worker_opts){.tls_cert = cert, .tls_key = key}, listen, 1);
    assert_int_equal(strncmp(listening[0], "tls://127.0.0.1:", 16), 0);
    int fd = dial(listening[0]);
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    SSL_CTX_load_verify_locations(ctx, cert, NULL);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER, NULL);
    SSL *ssl = SSL_new(ctx);
    SSL_set_fd(ssl, fd);
    assert_int_equal(SSL_connect(ssl), 1);
    st_worker_hello_add(&b, digest);
    ask(&b, 3, &m, 1, &rows);
    assert_int_equal(SSL_write(ssl, b.p, (int)b.len), b.len);
    for (int i = 0; i < 2; i++) {
        size_t n;
        assert_int_equal(SSL_read_ex(ssl, head, sizeof head, &n), 1);
        assert_int_equal(n, sizeof head);
        assert_int_equal(st_worker_head_parse(head, 1 << 20, &r.head, &e), 0);
        r.payload = realloc(r.payload, r.head.len);
        for (size_t at = 0; at < r.head.len; at += n)
            assert_int_equal(SSL_read_ex(ssl, r.payload + at, r.head.len - at, &n), 1);
    }
    expect_product(&r, 3, &m, rows);
    int plain = dial(listening[0]); /* a client without TLS is no client */
    put(plain, b.p, b.len);
    char any[16];
    while (recv(plain, any, sizeof any, 0) > 0)
        ;
    close(plain);
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    close(fd);
    free(rows);
    free(r.payload);
    st_buf_free(&b);
    stop();
}

/* A client that only changes its keys, with all of it made beforehand, and how much of it the worker has taken. */
struct flood {
    int fd;
    char *p;
    long len;
    atomic_long sent;
};

static void flood_make(struct flood *f, SSL *ssl, int n)
{
    BIO *out = BIO_new(BIO_s_mem());
    BIO_up_ref(out);
    SSL_set0_wbio(ssl, out);
    for (int i = 0; i < n; i++) {
        assert_int_equal(SSL_key_update(ssl, SSL_KEY_UPDATE_NOT_REQUESTED), 1);
        assert_int_equal(SSL_do_handshake(ssl), 1);
    }
    char *from;
    f->len = BIO_get_mem_data(out, &from);
    f->p = malloc((size_t)f->len);
    memcpy(f->p, from, (size_t)f->len);
    BIO_free(out);
}

static void *flood_send(void *arg)
{
    struct flood *f = arg;
    while (f->sent < f->len) {
        long left = f->len - f->sent;
        ssize_t n = send(f->fd, f->p + f->sent, left < 4096 ? (size_t)left : 4096, MSG_NOSIGNAL);
        if (n <= 0)
            break;
        f->sent += n;
    }
    return NULL;
}

static void a_client_that_changes_its_keys_without_end_holds_nobody_up(void **state)
{
    char cert[80], key[80], file[96];
    const char *listen[] = {"tcp://127.0.0.1:0", file};
    struct flood f = {.sent = 0};
    pthread_t thread;
    (void)state;
    snprintf(cert, sizeof cert, "%s/cert.pem", dir);
    snprintf(key, sizeof key, "%s/key.pem", dir);
    snprintf(file, sizeof file, "unix:%s/other", dir);
    make_certificate(cert, key);
    start_on(&(struct st_worker_opts){.tls_cert = cert, .tls_key = key}, listen, 2);
    f.fd = dial(listening[0]);
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    SSL *ssl = SSL_new(ctx);
    SSL_set_fd(ssl, f.fd);
    assert_int_equal(SSL_connect(ssl), 1);
    flood_make(&f, ssl, 100000);
    int other = greeted(listening[1]), few = 64 << 10;
    setsockopt(f.fd, SOL_SOCKET, SO_SNDBUF, &few, sizeof few);
    assert_int_equal(pthread_create(&thread, NULL, flood_send, &f), 0);
    for (double until = st_now() + 10; f.sent < f.len / 8 && st_now() < until;)
        poll(NULL, 0, 1);
    check_product(other, 1, &one_a);
    assert_true(f.sent < f.len); /* answered in the middle of it */
    shutdown(f.fd, SHUT_RDWR);
    pthread_join(thread, NULL);
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    close(f.fd);
    close(other);
    free(f.p);
    stop();
}

static void shm_put(struct st_shm *s, const void *p, size_t len)
{
    struct st_err e;
    for (size_t at = 0, n; at < len; at += n) {
        if (st_shm_write(s, (const uint8_t *)p + at, len - at, &n, &e) ||
            (!n && st_shm_wait(s, false, true, st_now() + 10, &e)))
            fail_msg("%s", e.msg);
    }
}

static void shm_get(struct st_shm *s, void *p, size_t len)
{
    struct st_err e;
    for (size_t at = 0, n; at < len; at += n) {
        if (st_shm_read(s, (uint8_t *)p + at, len - at, &n, &e) ||
            (!n && st_shm_wait(s, true, false, st_now() + 10, &e)))
            fail_msg("%s", e.msg);
        assert_true(n || !st_shm_gone(s));
    }
}

static void shared_memory_serves_the_same_products(void **state)
{
    static const struct st_worker_multiply asks[] = {{ST_WORKER_FIELD, 1, 1, {A}, {0}},
                                                     {ST_WORKER_FIELD, 400, 1, {WIDE}, {0}},
                                                     {ST_WORKER_FIELD, 2, 1, {EMBED}, {0}}};
    char address[96];
    const char *listen[] = {address};
    struct st_buf b = {0};
    struct reply r = {0};
    struct st_shm *s;
    struct st_err e;
    uint8_t head[ST_WORKER_HEAD];
    (void)state;
    snprintf(address, sizeof address, "shm:%s/worker.shm", dir);
    start_on(&(struct st_worker_opts){0}, listen, 1);
    assert_string_equal(listening[0], address);
    close(dial(address)); /* one that does not stay */
    assert_int_equal(st_shm_take(dial(address), st_now() + 10, &s, &e), 0);
    st_worker_hello_add(&b, digest);
    shm_put(s, b.p, b.len);
    for (uint64_t i = 0; i <= 3; i++) { /* WELCOME, then the products; a reply longer than the ring is among them */
        uint32_t *rows = NULL;
        shm_get(s, head, sizeof head);
        assert_int_equal(st_worker_head_parse(head, 1 << 28, &r.head, &e), 0);
        r.payload = realloc(r.payload, r.head.len);
        shm_get(s, r.payload, r.head.len);
        if (i > 0) {
            st_buf_clear(&b);
            ask(&b, i, &asks[i - 1], i, &rows);
            expect_product(&r, i, &asks[i - 1], rows);
            free(rows);
        }
        if (i < 3) {
            st_buf_clear(&b);
            ask(&b, i + 1, &asks[i], i + 1, &rows);
            shm_put(s, b.p, b.len);
            free(rows);
        }
    }
    st_shm_close(s);
    free(r.payload);
    st_buf_free(&b);
    stop();
}

static void hints_come_as_they_stand_in_the_file(void **state)
{
    char path[96];
    const struct st_lwe_params *p;
    struct st_worker_hint h = {A, 20, 4}, got;
    struct st_hints *hints = NULL;
    struct st_span records;
    struct st_err e;
    struct st_buf b = {0};
    struct reply r = {0};
    const void *want;
    size_t want_len;
    (void)state;
    snprintf(path, sizeof path, "%s/hints", dir);
    assert_int_equal(st_lwe_params_find(NULL, &p, &e), 0);
    const struct st_served small = {.weights = weights, .n = B + 1};
    if (st_hints_write(path, &(struct st_hints_make){.served = &small, .params = p, .digest = digest, .n_threads = 1},
                       &e) ||
        st_hints_open(path, &hints, &e))
        fail_msg("%s", e.msg);
    start(&(struct st_worker_opts){.backend = &plain_backend, .hints = hints});
    int fd = greeted(listening[0]);
    st_worker_hint_add(&b, 4, &h);
    put(fd, b.p, b.len);
    assert_true(reply(fd, &r));
    assert_int_equal(r.head.type, ST_WORKER_COLUMNS);
    assert_int_equal(r.head.id, 4);
    assert_int_equal(st_worker_columns_parse((struct st_span){r.payload, r.head.len}, p->m, &got, &records, &e), 0);
    assert_int_equal(st_hints_columns(hints, "a.weight", 20, 4, &want, &want_len, &e), 0);
    assert_int_equal(records.len, want_len);
    assert_memory_equal(records.p, want, want_len);

    static const struct {
        struct st_worker_hint h;
        const char *says;
    } wrong[] = {{{N_WEIGHT, 0, 1}, "HINT weight: want 0..4, got 5"},
                 {{A, 20, 5}, "HINT columns: a.weight has 24, got 5 from 20 on"},
                 {{A, INT32_MAX, INT32_MAX}, "a.weight"},
                 {{WIDE, 0, 1}, "wide: this worker has no hints of it"}}; /* and nothing of the file's path */
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        st_buf_clear(&b);
        st_worker_hint_add(&b, 10 + i, &wrong[i].h);
        put(fd, b.p, b.len);
        expect_failure(fd, 10 + i, ST_INPUT, wrong[i].says);
    }
    check_product(fd, 5, &one_a);
    free(r.payload);
    st_buf_free(&b);
    close(fd);
    stop();
    st_hints_close(hints);
}

static void a_worker_without_hints_says_so(void **state)
{
    struct st_buf b = {0};
    (void)state;
    start(&(struct st_worker_opts){.backend = &plain_backend});
    int fd = greeted(listening[0]);
    st_worker_hint_add(&b, 4, &(struct st_worker_hint){A, 0, 1});
    put(fd, b.p, b.len);
    expect_failure(fd, 4, ST_INPUT, "missing hints: this worker was started without --hints");
    check_product(fd, 5, &one_a);
    st_buf_free(&b);
    close(fd);
    stop();
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(a_client_that_stops_reading_is_dropped_and_holds_nobody_up),
        CASE(a_slow_reader_loses_the_memory_that_others_wait_for),
        CASE(a_client_that_leaves_at_any_point_harms_nobody),
        CASE(damaged_streams_leave_the_worker_whole),
        CASE(silence_and_half_a_frame_run_out_of_time),
        CASE(connections_over_the_limit_are_told_and_silent_ones_give_way),
        CASE(drain_finishes_what_runs_and_takes_nothing_new),
        CASE(drain_does_not_wait_for_ever),
        CASE(a_unix_socket_is_private_replaced_when_stale_and_removed),
        CASE(addresses_that_cannot_be_had_are_named),
        CASE(tls_serves_the_same_products),
        CASE(a_client_that_changes_its_keys_without_end_holds_nobody_up),
        CASE(shared_memory_serves_the_same_products),
        CASE(hints_come_as_they_stand_in_the_file),
        CASE(a_worker_without_hints_says_so),
    };
    return cmocka_run_group_tests(tests, make_model, free_model);
}
