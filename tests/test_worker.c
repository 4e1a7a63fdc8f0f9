/* The worker's end of the protocol: right products, hostile frames, requests that it refuses, batching, order, memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "worker_child.h"

#include <pthread.h>

static void products_are_those_of_64_bit_integers(void **state)
{
    static const struct st_worker_multiply asks[] = {
        {ST_WORKER_FIELD, 1, 1, {A}, {0}},          {ST_WORKER_FIELD, 7, 2, {B, A}, {0}},
        {ST_WORKER_FIELD, 64, 1, {C}, {0}},         {ST_WORKER_FIELD, 2, 1, {EMBED}, {0}},
        {ST_WORKER_FIELD, 3, 3, {WIDE, A, B}, {0}},
    };
    (void)state;
    start(&(struct st_worker_opts){0});
    int fd = greeted(listening[0]);
    for (size_t i = 0; i < sizeof asks / sizeof *asks; i++)
        check_product(fd, i + 1, &asks[i]);
    close(fd);
    stop();
}

static void rows_of_floats_give_scaled_products_and_a_device_without_them_says_so(void **state)
{
    const struct st_worker_multiply m = {ST_WORKER_F32, 2, 1, {C}, {0}};
    float rows[2][40], got[2][5];
    (void)state;
    for (int backend = 0; backend < 2; backend++) {
        struct st_buf b = {0};
        struct reply r = {0};
        start(&(struct st_worker_opts){.backend = backend ? &plain_backend : NULL});
        int fd = greeted(listening[0]);
        for (int i = 0; i < 80; i++)
            rows[i / 40][i % 40] = (float)(i - 30) / 16;
        st_worker_multiply_add(&b, 5, &m, sizeof rows);
        st_buf_add(&b, rows, sizeof rows);
        put(fd, b.p, b.len);
        if (backend)
            expect_failure(fd, 5, ST_UNSUPPORTED, "this device has no floats");
        else {
            assert_true(reply(fd, &r));
            assert_int_equal(r.head.len, 16 + sizeof got);
            memcpy(got, r.payload + 16, sizeof got);
            for (int i = 0; i < 10; i++) {
                double want = 0;
                for (int k = 0; k < 40; k++)
                    want += (double)rows[i / 5][k] * weights[C].w[i % 5 * 40 + k] * 0.5;
                assert_float_equal(got[i / 5][i % 5], want, 1e-2);
            }
        }
        check_product(fd, 6, &one_a);
        st_buf_free(&b);
        free(r.payload);
        close(fd);
        stop();
    }
}

/* A PAIR of residues made from a seed; *rows is the caller's to free. */
static void ask_pair(struct st_buf *b, uint64_t id, const struct st_worker_pair *p, uint64_t seed, uint32_t **rows)
{
    size_t n = (size_t)(p->n_a + p->n_b) * p->n_inner;
    struct st_rng rng;
    st_rng_seed(&rng, seed);
    *rows = malloc(n * sizeof **rows);
    for (size_t i = 0; i < n; i++)
        (*rows)[i] = i % 5 ? (uint32_t)(st_rng_next(&rng) % ST_FQ) : ST_FQ - 1;
    st_worker_pair_add(b, id, p);
    st_buf_add(b, *rows, n * sizeof **rows);
}

static void check_pair(int fd, uint64_t id, const struct st_worker_pair *p)
{
    struct st_buf b = {0};
    struct reply r = {0};
    struct st_worker_product got;
    struct st_err e;
    uint32_t *rows, value;
    ask_pair(&b, id, p, id, &rows);
    put(fd, b.p, b.len);
    assert_true(reply(fd, &r));
    assert_int_equal(r.head.type, ST_WORKER_PRODUCT);
    assert_int_equal(r.head.id, id);
    assert_int_equal(st_worker_product_parse((struct st_span){r.payload, (size_t)r.head.len}, &got, &e), 0);
    assert_int_equal(got.n_row, p->n_a);
    assert_int_equal(got.n_weight, 1);
    assert_int_equal(got.values.len, 4 * p->n_a * p->n_b);
    for (uint32_t i = 0; i < p->n_a; i++)
        for (uint32_t j = 0; j < p->n_b; j++) {
            uint64_t sum = 0;
            for (uint32_t k = 0; k < p->n_inner; k++)
                sum += (uint64_t)rows[i * p->n_inner + k] * rows[(p->n_a + j) * p->n_inner + k] % ST_FQ;
            memcpy(&value, got.values.p + 4 * ((size_t)i * p->n_b + j), 4);
            assert_int_equal(value, sum % ST_FQ);
        }
    free(rows);
    free(r.payload);
    st_buf_free(&b);
}

static void pairs_of_matrices_are_multiplied_exactly_and_one_after_the_other(void **state)
{
    static const struct st_worker_pair asks[] = {
        {1, 1, 1, {0}}, {2, 3, 4, {0}}, {70, 30, 64, {0}}, {1, 2048, 2, {0}}, {3, 2, 1024, {0}}};
    (void)state;
    start(&(struct st_worker_opts){.max_row = 16, .pairs = true}); /* which is no limit of pairs */
    int fd = greeted(listening[0]);
    for (size_t i = 0; i < sizeof asks / sizeof *asks; i++)
        check_pair(fd, i + 1, &asks[i]);
    /* A value that is none is refused alone. */
    struct st_buf b = {0};
    uint32_t *rows, none = ST_FQ;
    ask_pair(&b, 9, &asks[1], 3, &rows);
    memcpy(b.p + b.len - 4, &none, 4);
    put(fd, b.p, b.len);
    expect_failure(fd, 9, ST_INPUT, "PAIR rows: a value is no residue");
    check_product(fd, 10, &one_a);
    free(rows);
    st_buf_free(&b);
    close(fd);
    stop();
}

static void pairs_that_nobody_opened_the_worker_for_and_shapes_that_are_none_are_refused_by_name(void **state)
{
    static const struct st_worker_pair p = {2, 3, 4, {0}};
    struct st_buf b = {0};
    uint32_t *rows;
    (void)state;
    start(&(struct st_worker_opts){0});
    int fd = greeted(listening[0]);
    ask_pair(&b, 7, &p, 1, &rows);
    put(fd, b.p, b.len);
    expect_failure(fd, 7, ST_UNSUPPORTED, "PAIR: this worker was started without --pairs");
    check_product(fd, 8, &one_a);
    b.p[ST_WORKER_HEAD] = 3; /* rows of the first matrix */
    put(fd, b.p, b.len);
    expect_failure(fd, 0, ST_INPUT, "PAIR: want 96 bytes of rows, got 80");
    assert_true(ended(fd));
    close(fd);
    stop();
    free(rows);
    st_buf_free(&b);
}

static void a_device_without_pairs_is_not_opened_for_them(void **state)
{
    static const char *const any[] = {"tcp://127.0.0.1:0"};
    int status;
    (void)state;
    start_on(&(struct st_worker_opts){.backend = &plain_backend, .pairs = true}, any, 1);
    assert_string_equal(listening[0], "! --pairs: the plain backend does not multiply two matrices of a client's");
    assert_int_equal(waitpid(child, &status, 0), child);
    child = 0;
    assert_int_equal(WEXITSTATUS(status), ST_UNSUPPORTED);
}

/* Six slow products of one client stand there when another asks for one. */
static void clients_have_their_turn_one_after_the_other(void **state)
{
    struct st_buf b = {0};
    struct reply r = {0};
    uint32_t row[16] = {1};
    (void)state;
    slow_ms = 100;
    start(&(struct st_worker_opts){.backend = &plain_backend, .max_row = 1});
    int many = greeted(listening[0]), one = greeted(listening[0]);
    for (uint64_t id = 1; id <= 6; id++) {
        st_worker_multiply_add(&b, id, &one_a, sizeof row);
        st_buf_add(&b, row, sizeof row);
    }
    put(many, b.p, b.len);
    assert_true(reply(many, &r)); /* the others are in the queue */
    check_product(one, 1, &one_a);
    struct pollfd more = {.fd = many, .events = POLLIN};
    for (int i = 0; i < 2; i++)
        assert_true(reply(many, &r));
    assert_int_equal(r.head.id, 3);
    assert_int_equal(poll(&more, 1, 0), 0);
    for (int i = 0; i < 3; i++)
        assert_true(reply(many, &r));
    assert_int_equal(r.head.id, 6);
    free(r.payload);
    st_buf_free(&b);
    close(many);
    close(one);
    stop();
}

static void frames_that_are_none_end_their_connection_by_name(void **state)
{
    static const struct {
        bool greeting; /* before HELLO */
        int at;        /* byte of the frame */
        uint8_t value;
        int code;
        const char *says;
    } table[] = {
        {true, 0, 'G', ST_INPUT, "not a frame of the worker protocol"},
        {true, 8, 2, ST_UNSUPPORTED, "worker protocol version 2; this side has 1"},
        {true, 12, 3, ST_INPUT, "where HELLO is expected"},
        {true, 12, 99, ST_INPUT, "frame of unknown type 99"},
        {true, 24, 35, ST_INPUT, "HELLO"},
        {true, 24, 200, ST_INPUT, "oversized frame: 200 bytes"},
        {true, 28, 1, ST_INPUT, "oversized frame: 4294967332 bytes"},
        {true, 32, 8, ST_VERIFY, "another model: asked for 08070700"},
        {true, 64, 1, ST_INPUT, "HELLO reserved"},
        {false, 0, 'G', ST_INPUT, "not a frame of the worker protocol"},
        {false, 12, 1, ST_INPUT, "where MULTIPLY, PAIR or HINT is expected"},
        {false, 12, 4, ST_INPUT, "where MULTIPLY, PAIR or HINT is expected"},
        {false, 16, 0, ST_INPUT, "frame id"},
        {false, 27, 64, ST_INPUT, "oversized frame"},
        {false, 24, 11, ST_INPUT, "MULTIPLY"},
        {false, 24, 16, ST_INPUT, "MULTIPLY rows"},
        {false, 32, 3, ST_INPUT, "MULTIPLY format"},
        {false, 36, 0, ST_INPUT, "MULTIPLY rows: want 1.."},
        {false, 36, 3, ST_INPUT, "MULTIPLY rows: want 3 rows"},
        {false, 40, 0, ST_INPUT, "MULTIPLY number of weights"},
        {false, 40, 17, ST_INPUT, "MULTIPLY number of weights"},
        {false, 46, 255, ST_INPUT, "MULTIPLY weight"},
    };
    (void)state;
    start(&(struct st_worker_opts){.backend = &plain_backend});
    int other = greeted(listening[0]);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct st_buf b = {0};
        uint32_t *rows = NULL;
        int fd = table[i].greeting ? dial(listening[0]) : greeted(listening[0]);
        if (table[i].greeting)
            st_worker_hello_add(&b, digest);
        else
            ask(&b, 1, &one_a, 1, &rows);
        b.p[table[i].at] = (char)table[i].value;
        put(fd, b.p, b.len);
        expect_failure(fd, 0, table[i].code, table[i].says);
        assert_true(ended(fd));
        close(fd);
        st_buf_free(&b);
        free(rows);
    }
    check_product(other, 9, &one_a);
    close(other);
    stop();
}

static void requests_that_cannot_be_served_fail_alone(void **state)
{
    static const struct {
        struct st_worker_multiply m;
        uint32_t n_in;
        const char *says;
    } table[] = {
        {{ST_WORKER_FIELD, 1, 1, {N_WEIGHT}, {0}}, 16, "MULTIPLY weight: want 0..4, got 5"},
        {{ST_WORKER_FIELD, 1, 1, {A}, {0}}, 15, "MULTIPLY rows: a.weight has 16 inputs, got rows of 15"},
        {{ST_WORKER_FIELD, 2, 1, {A}, {0}}, 17, "MULTIPLY rows: a.weight has 16 inputs, got rows of 17"},
        {{ST_WORKER_FIELD, 1, 2, {A, A}, {0}}, 16, "MULTIPLY weight: 0 stands there twice"},
        {{ST_WORKER_FIELD, 1, 2, {A, C}, {0}}, 16, "MULTIPLY weights: want one n_in, got 16 and 40"},
        {{ST_WORKER_FIELD, 33, 1, {A}, {0}}, 16, "MULTIPLY rows: want at most 32, got 33"},
        {{ST_WORKER_FIELD, 32, 2, {WIDE, A}, {0}}, 16, "a reply of 527872 bytes is too long"},
    };
    (void)state;
    /* The least memory that the longest row needs: 264000 bytes of it, and as much of a reply. */
    start(&(struct st_worker_opts){.backend = &plain_backend, .max_row = 32, .max_memory = 1});
    int fd = greeted(listening[0]);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const struct st_worker_multiply *m = &table[i].m;
        size_t len = (size_t)m->n_row * table[i].n_in * 4;
        struct st_buf b = {0};
        uint8_t *zeros = calloc(1, len);
        st_worker_multiply_add(&b, 100 + i, m, len);
        st_buf_add(&b, zeros, len);
        put(fd, b.p, b.len);
        expect_failure(fd, 100 + i, ST_INPUT, table[i].says);
        check_product(fd, 200 + i, &one_a);
        st_buf_free(&b);
        free(zeros);
    }
    close(fd);
    stop();
}

static void values_that_are_no_residues_never_reach_the_device(void **state)
{
    (void)state;
    start(&(struct st_worker_opts){.backend = &plain_backend});
    int fd = greeted(listening[0]);
    for (uint32_t at = 0; at < 16; at += 15) {
        struct st_buf b = {0};
        uint32_t *rows, bad = ST_FQ;
        ask(&b, 1, &one_a, 1, &rows);
        memcpy(b.p + ST_WORKER_HEAD + 16 + 4 * (size_t)at, &bad, 4);
        put(fd, b.p, b.len);
        expect_failure(fd, 1, ST_INPUT, "a value is no residue");
        st_buf_free(&b);
        free(rows);
    }
    check_product(fd, 2, &one_a);
    close(fd);
    stop();
}

static void frames_may_come_in_any_pieces(void **state)
{
    static const struct st_worker_multiply asks[] = {
        {ST_WORKER_FIELD, 3, 2, {A, B}, {0}}, {ST_WORKER_FIELD, 1, 1, {C}, {0}}, {ST_WORKER_FIELD, 1, 1, {EMBED}, {0}}};
    struct st_buf b = {0};
    struct reply r = {0};
    uint32_t *rows[3];
    (void)state;
    start(&(struct st_worker_opts){.backend = &plain_backend});
    for (uint64_t i = 0; i < 3; i++)
        ask(&b, i + 1, &asks[i], i, &rows[i]);
    for (size_t piece = 1; piece < 1000000; piece = piece * 50 + 3) {
        int fd = greeted(listening[0]);
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, 1 /* TCP_NODELAY */, &one, sizeof one);
        size_t small = piece == 1 ? 400 : b.len; /* byte by byte the first two only */
        for (size_t at = 0; at < b.len; at += at < small ? piece : 4096) {
            size_t step = at < small ? piece : 4096;
            put(fd, b.p + at, step < b.len - at ? step : b.len - at);
        }
        for (uint64_t i = 0; i < 3; i++) {
            assert_true(reply(fd, &r));
            expect_product(&r, i + 1, &asks[i], rows[i]);
        }
        close(fd);
    }
    for (int i = 0; i < 3; i++)
        free(rows[i]);
    free(r.payload);
    st_buf_free(&b);
    stop();
}

/* A page of /metrics; the caller frees. */
static char *metrics(const char *path)
{
    char address[300], ask_for[128];
    struct st_buf b = {0};
    char part[4096];
    ssize_t n;
    snprintf(address, sizeof address, "tcp%.250s", listening[0] + 4);
    *strrchr(address, '/') = 0;
    int fd = dial(address);
    snprintf(ask_for, sizeof ask_for, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path);
    put(fd, ask_for, strlen(ask_for));
    while ((n = recv(fd, part, sizeof part, 0)) > 0)
        st_buf_add(&b, part, (size_t)n);
    close(fd);
    return b.p;
}

static unsigned long metric(const char *page, const char *name)
{
    char line[128];
    snprintf(line, sizeof line, "\n%s ", name);
    const char *at = strstr(page, line);
    if (!at)
        fail_msg("no %s", name);
    return strtoul(at + strlen(line), NULL, 10);
}

static void waiting_requests_for_the_same_matrices_are_computed_together(void **state)
{
    static const struct st_worker_multiply ab = {ST_WORKER_FIELD, 2, 2, {A, B}, {0}};
    enum { N = 12 };
    struct reply r = {0};
    uint32_t *rows[N];
    int fds[N];
    (void)state;
    slow_ms = 100;
    start(&(struct st_worker_opts){.backend = &plain_backend, .metrics = "127.0.0.1:0"});
    for (int i = 0; i < N; i++)
        fds[i] = greeted(listening[1]);
    for (int i = 0; i < N; i++) {
        struct st_buf b = {0};
        ask(&b, 1, &ab, (uint64_t)i, &rows[i]);
        put(fds[i], b.p, b.len);
        st_buf_free(&b);
    }
    for (int i = 0; i < N; i++) {
        assert_true(reply(fds[i], &r));
        expect_product(&r, 1, &ab, rows[i]);
        free(rows[i]);
        close(fds[i]);
    }
    free(r.payload);
    char *page = metrics("/metrics");
    assert_int_equal(metric(page, "sotto_worker_requests_total"), N);
    assert_int_equal(metric(page, "sotto_worker_rows_total"), 2 * N);
    assert_int_equal(metric(page, "sotto_worker_batch_rows_sum"), 2 * N);
    assert_in_range(metric(page, "sotto_worker_batch_rows_count"), 1, N / 2);
    assert_int_equal(metric(page, "sotto_worker_failures_total"), 0);
    free(page);
    page = metrics("/health");
    assert_non_null(strstr(page, "200 OK"));
    free(page);
    page = metrics("/secrets");
    assert_non_null(strstr(page, "404 Not Found"));
    free(page);
    stop();
}

static void one_clients_requests_keep_their_order_and_more_than_its_share_waits(void **state)
{
    static const struct st_worker_multiply kinds[] = {
        {ST_WORKER_FIELD, 1, 1, {A}, {0}}, {ST_WORKER_FIELD, 1, 1, {B}, {0}}, {ST_WORKER_FIELD, 1, 1, {C}, {0}}};
    enum { N = 30 };
    struct st_buf b = {0};
    struct reply r = {0};
    uint32_t *rows[N];
    (void)state;
    slow_ms = 5;
    start(&(struct st_worker_opts){.backend = &plain_backend, .max_pending = 3});
    int fd = greeted(listening[0]);
    for (uint64_t i = 0; i < N; i++)
        ask(&b, i + 1, &kinds[i * i % 3], i, &rows[i]);
    put(fd, b.p, b.len);
    for (uint64_t i = 0; i < N; i++) {
        assert_true(reply(fd, &r));
        expect_product(&r, i + 1, &kinds[i * i % 3], rows[i]);
        free(rows[i]);
    }
    free(r.payload);
    st_buf_free(&b);
    close(fd);
    stop();
}

static void *one_client(void *arg)
{
    const uint64_t seed = (uint64_t)(uintptr_t)arg;
    int fd = greeted(listening[0]);
    for (uint64_t i = 0; i < 20; i++) {
        struct st_worker_multiply m = {ST_WORKER_FIELD, (uint32_t)(1 + (seed + i) % 5), 1, {(seed + i) % 3}, {0}};
        struct st_buf b = {0};
        struct reply r = {0};
        uint32_t *rows;
        if (i % 4 == 0) {
            m.n_weight = 2;
            m.weights[0] = A;
            m.weights[1] = B;
        }
        ask(&b, i + 1, &m, seed * 100 + i, &rows);
        put(fd, b.p, b.len);
        assert_true(reply(fd, &r));
        expect_product(&r, i + 1, &m, rows);
        st_buf_free(&b);
        free(r.payload);
        free(rows);
    }
    close(fd);
    return NULL;
}

/* With memory for hardly more than one request as with plenty. */
static void sixteen_clients_at_once_get_their_own_products(void **state)
{
    (void)state;
    for (int scarce = 0; scarce < 2; scarce++) {
        pthread_t threads[16];
        start(&(struct st_worker_opts){.max_memory = scarce ? 1 : 0});
        for (uintptr_t i = 0; i < 16; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, one_client, (void *)i), 0);
        for (int i = 0; i < 16; i++)
            pthread_join(threads[i], NULL);
        stop();
    }
}

static void requests_that_wait_for_memory_are_all_served(void **state)
{
    /* Each takes the half of all memory. */
    static const struct st_worker_multiply m = {ST_WORKER_FIELD, 1, 1, {EMBED}, {0}};
    enum { N = 6 };
    struct reply r = {0};
    uint32_t *rows[N];
    int fds[N];
    (void)state;
    slow_ms = 20;
    start(&(struct st_worker_opts){.backend = &plain_backend, .max_memory = 1});
    for (int i = 0; i < N; i++) {
        struct st_buf b = {0};
        fds[i] = greeted(listening[0]);
        ask(&b, 1, &m, (uint64_t)i, &rows[i]);
        put(fds[i], b.p, b.len);
        st_buf_free(&b);
    }
    close(fds[N / 2]); /* one of those that wait leaves */
    for (int i = 0; i < N; i++) {
        if (i != N / 2) {
            assert_true(reply(fds[i], &r));
            expect_product(&r, 1, &m, rows[i]);
            close(fds[i]);
        }
        free(rows[i]);
    }
    free(r.payload);
    stop();
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        CASE(products_are_those_of_64_bit_integers),
        CASE(rows_of_floats_give_scaled_products_and_a_device_without_them_says_so),
        CASE(pairs_of_matrices_are_multiplied_exactly_and_one_after_the_other),
        CASE(pairs_that_nobody_opened_the_worker_for_and_shapes_that_are_none_are_refused_by_name),
        CASE(a_device_without_pairs_is_not_opened_for_them),
        CASE(clients_have_their_turn_one_after_the_other),
        CASE(frames_that_are_none_end_their_connection_by_name),
        CASE(requests_that_cannot_be_served_fail_alone),
        CASE(values_that_are_no_residues_never_reach_the_device),
        CASE(frames_may_come_in_any_pieces),
        CASE(waiting_requests_for_the_same_matrices_are_computed_together),
        CASE(one_clients_requests_keep_their_order_and_more_than_its_share_waits),
        CASE(sixteen_clients_at_once_get_their_own_products),
        CASE(requests_that_wait_for_memory_are_all_served),
    };
    return cmocka_run_group_tests(tests, make_model, free_model);
}
