/* The worker's end of the protocol over real sockets: right products, hostile and broken clients, limits, drain. The
 * worker runs in a child process of each test; it must end with status 0, so a sanitizer's report fails the test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/hooks.h"
#include "certificate.h"
#include "field/fq.h"
#include "net/address.h"
#include "net/shm.h"
#include "net/worker_frame.h"
#include "service/worker.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const uint8_t digest[32] = {7, 7, 7, [31] = 9};

/* The model: five matrices, one of them longer than one limb product. -------------------------------------------- */

#define LONG 66000u
static const struct {
    const char *name;
    uint32_t n_out, n_in;
} shapes[] = {{"a.weight", 24, 16}, {"b.weight", 8, 16}, {"c.weight", 5, 40}, {"embed^T", 3, LONG}, {"wide", 4096, 16}};
enum { A, B, C, EMBED, WIDE, N_WEIGHT };

static struct st_served_weight weights[N_WEIGHT];
static struct st_served served = {.weights = weights, .n = N_WEIGHT};

static int make_model(void **state)
{
    struct st_rng rng;
    (void)state;
    st_rng_seed(&rng, 1);
    for (int i = 0; i < N_WEIGHT; i++) {
        size_t n = (size_t)shapes[i].n_out * shapes[i].n_in;
        int8_t *w = malloc(n);
        float *scale = malloc(shapes[i].n_out * sizeof *scale);
        for (size_t k = 0; k < n; k++)
            w[k] = (int8_t)((int)(st_rng_next(&rng) % 255) - 127);
        for (uint32_t k = 0; k < shapes[i].n_out; k++)
            scale[k] = 0.5f;
        weights[i] = (struct st_served_weight){
            .expert = -1, .n_out = shapes[i].n_out, .n_in = shapes[i].n_in, .w = w, .scale = scale};
        snprintf(weights[i].name, sizeof weights[i].name, "%s", shapes[i].name);
    }
    return 0;
}

static int free_model(void **state)
{
    (void)state;
    for (int i = 0; i < N_WEIGHT; i++) {
        free((void *)(uintptr_t)weights[i].w);
        free((void *)(uintptr_t)weights[i].scale);
    }
    return 0;
}

static uint32_t exact(int weight, uint32_t column, const uint32_t *row)
{
    const struct st_served_weight *w = &weights[weight];
    uint32_t sum = 0;
    for (uint32_t k = 0; k < w->n_in; k++)
        sum = st_fq_add(sum, st_fq_from((int64_t)w->w[(size_t)column * w->n_in + k] * (int64_t)row[k]));
    return sum;
}

/* A device that takes its time, so that requests meet in the queue. ------------------------------------------------ */

static int slow_ms;

static int plain_multiply(void *b, const uint32_t *rows, uint32_t n_row, const struct st_backend_job *jobs, int n_job,
                          struct st_err *e)
{
    (void)b;
    (void)e;
    if (slow_ms)
        poll(NULL, 0, slow_ms);
    for (int j = 0; j < n_job; j++)
        for (uint32_t r = 0; r < n_row; r++)
            for (uint32_t k = 0; k < weights[jobs[j].weight].n_out; k++)
                ((uint32_t *)jobs[j].out)[(size_t)r * weights[jobs[j].weight].n_out + k] =
                    exact((int)jobs[j].weight, k, rows + (size_t)r * weights[jobs[j].weight].n_in);
    return 0;
}

static int broken_multiply(void *b, const float *rows, uint32_t n_row, const struct st_backend_job *jobs, int n_job,
                           struct st_err *e)
{
    (void)b;
    (void)rows;
    (void)n_row;
    (void)jobs;
    (void)n_job;
    return st_fail(e, ST_UNSUPPORTED, "this device has no floats");
}

static const struct st_backend plain_backend = {
    .name = "plain", .multiply = plain_multiply, .multiply_f32 = broken_multiply};

/* The worker in a child ---------------------------------------------------------------------------------------------
 */

static char dir[64], listening[4][256];
static int n_listening;
static pid_t child;

static void tell(void *arg, const char *text)
{
    dprintf(*(int *)arg, "%s\n", text);
}

static int serve(struct st_worker_opts *o, int fd)
{
    struct st_err e = {0};
    const char *isa = getenv("SOTTO_CPU");
    struct st_backend_weight of[N_WEIGHT];
    bool real = !o->backend;
    o->served = &served;
    o->digest = digest;
    o->ready = tell;
    o->arg = &fd;
    for (int i = 0; i < N_WEIGHT; i++)
        of[i] = (struct st_backend_weight){weights[i].w, weights[i].scale, weights[i].n_out, weights[i].n_in};
    int rc = 0;
    if (real && (rc = st_backend_find("cpu", &o->backend, &e)) == 0)
        rc = o->backend->open(&(struct st_backend_opts){of, N_WEIGHT, 512, 1, isa}, &o->device, &e);
    if (!rc)
        rc = st_worker_run(o, &e);
    if (real && o->device)
        o->backend->close(o->device);
    if (rc)
        dprintf(fd, "! %s\n", e.msg);
    close(fd);
    return rc;
}

/* Reads lines until all `want` addresses are there, or the child says why not. */
static void read_addresses(int fd, int want)
{
    static char text[2048];
    size_t len = 0;
    n_listening = 0;
    while (n_listening < want) {
        ssize_t n = read(fd, text + len, sizeof text - 1 - len);
        if (n <= 0)
            break;
        len += (size_t)n;
        text[len] = 0;
        n_listening = 0;
        for (char *at = text, *end; (end = strchr(at, '\n')) && n_listening < 4; at = end + 1)
            snprintf(listening[n_listening++], sizeof listening[0], "%.*s", (int)(end - at), at);
    }
    close(fd);
}

static void start_on(struct st_worker_opts *o, const char *const *listen, int n_listen)
{
    int fds[2];
    o->listen = listen;
    o->n_listen = n_listen;
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    fflush(NULL);
    child = fork();
    assert_true(child >= 0);
    if (!child) {
        close(fds[0]);
        exit(serve(o, fds[1]));
    }
    close(fds[1]);
    read_addresses(fds[0], n_listen + (o->metrics != NULL));
    if (n_listening < 1)
        fail_msg("the worker said nothing");
}

static void start(struct st_worker_opts *o)
{
    static const char *const any[] = {"tcp://127.0.0.1:0"};
    start_on(o, any, 1);
    assert_int_equal(strncmp(listening[n_listening - 1], "tcp://127.0.0.1:", 16), 0);
}

static void finish(void)
{
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    child = 0;
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void stop(void)
{
    kill(child, SIGTERM);
    finish();
}

static int set_up(void **state)
{
    (void)state;
    slow_ms = 0;
    snprintf(dir, sizeof dir, "/tmp/sotto_test_worker.XXXXXX");
    return mkdtemp(dir) ? 0 : 1;
}

static int tear_down(void **state)
{
    char command[128];
    (void)state;
    if (child) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        child = 0;
    }
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command) == 0 ? 0 : 1;
}

/* A client that can do everything wrong -----------------------------------------------------------------------------
 */

static int dial(const char *address)
{
    struct st_address a;
    struct st_err e;
    assert_int_equal(st_address_parse(address, 0, &a, &e), 0);
    bool file = a.kind == ST_ADDRESS_UNIX || a.kind == ST_ADDRESS_SHM;
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)a.port)};
    inet_pton(AF_INET, "127.0.0.1", &in.sin_addr);
    int fd = socket(file ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval ten = {10, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &ten, sizeof ten);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &ten, sizeof ten);
    int rc =
        file ? connect(fd, (struct sockaddr *)&a.path, sizeof a.path) : connect(fd, (struct sockaddr *)&in, sizeof in);
    if (rc) {
        close(fd);
        return -1;
    }
    return fd;
}

static void put(int fd, const void *p, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = send(fd, (const char *)p + at, len - at, MSG_NOSIGNAL);
        if (n <= 0)
            fail_msg("cannot send: %s", strerror(errno));
        at += (size_t)n;
    }
}

static bool get(int fd, void *p, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = recv(fd, (char *)p + at, len - at, 0);
        if (n <= 0)
            return false;
        at += (size_t)n;
    }
    return true;
}

struct reply {
    struct st_worker_head head;
    uint8_t *payload;
};

/* False: the connection has ended. */
static bool reply(int fd, struct reply *r)
{
    uint8_t head[ST_WORKER_HEAD];
    struct st_err e;
    free(r->payload);
    r->payload = NULL;
    if (!get(fd, head, sizeof head))
        return false;
    if (st_worker_head_parse(head, ST_WORKER_MAX_PAYLOAD, &r->head, &e))
        fail_msg("%s", e.msg);
    r->payload = malloc(r->head.len + 1);
    assert_non_null(r->payload);
    return get(fd, r->payload, r->head.len);
}

static bool ended(int fd)
{
    char c;
    return recv(fd, &c, 1, 0) <= 0 && errno != EAGAIN;
}

static void expect_failure(int fd, uint64_t id, int code, const char *says)
{
    struct reply r = {0};
    struct st_worker_failure f;
    struct st_err e;
    assert_true(reply(fd, &r));
    assert_int_equal(r.head.type, ST_WORKER_FAILURE);
    assert_int_equal(r.head.id, id);
    assert_int_equal(st_worker_failure_parse((struct st_span){r.payload, r.head.len}, &f, &e), 0);
    if (f.code != code || !strstr(f.text, says))
        fail_msg("want %d '%s', got %d '%s'", code, says, f.code, f.text);
    free(r.payload);
}

static int greeted(const char *address)
{
    int fd = dial(address);
    struct st_buf b = {0};
    struct reply r = {0};
    struct st_worker_welcome w;
    struct st_err e;
    assert_true(fd >= 0);
    st_worker_hello_add(&b, digest);
    put(fd, b.p, b.len);
    assert_true(reply(fd, &r));
    assert_int_equal(r.head.type, ST_WORKER_WELCOME);
    assert_int_equal(st_worker_welcome_parse((struct st_span){r.payload, r.head.len}, &w, &e), 0);
    assert_memory_equal(w.digest, digest, 32);
    assert_int_equal(w.n, N_WEIGHT);
    assert_string_equal(w.weights[EMBED].name, "embed^T");
    assert_int_equal(w.weights[EMBED].n_in, LONG);
    free(w.weights);
    free(r.payload);
    st_buf_free(&b);
    return fd;
}

/* A request of random rows; *rows is the caller's. */
static void ask(struct st_buf *b, uint64_t id, const struct st_worker_multiply *m, uint64_t seed, uint32_t **rows)
{
    size_t n = (size_t)m->n_row * weights[m->weights[0]].n_in;
    struct st_rng rng;
    st_rng_seed(&rng, seed);
    *rows = malloc(n * 4);
    for (size_t i = 0; i < n; i++)
        (*rows)[i] = i % 7 == 0 ? ST_FQ - 1 : (uint32_t)(st_rng_next(&rng) % ST_FQ);
    st_worker_multiply_add(b, id, m, n * 4);
    st_buf_add(b, *rows, n * 4);
}

static void expect_product(const struct reply *r, uint64_t id, const struct st_worker_multiply *m, const uint32_t *rows)
{
    struct st_worker_product p;
    struct st_err e;
    if (r->head.type == ST_WORKER_FAILURE)
        fail_msg("FAILURE %.*s", (int)r->head.len - 8, r->payload + 8);
    assert_int_equal(r->head.type, ST_WORKER_PRODUCT);
    assert_int_equal(r->head.id, id);
    assert_int_equal(st_worker_product_parse((struct st_span){r->payload, r->head.len}, &p, &e), 0);
    assert_int_equal(p.n_row, m->n_row);
    assert_int_equal(p.n_weight, m->n_weight);
    const uint8_t *at = p.values.p;
    for (uint32_t i = 0; i < m->n_weight; i++)
        for (uint32_t row = 0; row < m->n_row; row++)
            for (uint32_t k = 0; k < weights[m->weights[i]].n_out; k++, at += 4) {
                uint32_t got;
                memcpy(&got, at, 4);
                if (got != exact((int)m->weights[i], k, rows + (size_t)row * weights[m->weights[i]].n_in))
                    fail_msg("matrix %u row %u column %u", m->weights[i], row, k);
            }
    assert_ptr_equal(at, p.values.p + p.values.len);
}

static void check_product(int fd, uint64_t id, const struct st_worker_multiply *m)
{
    struct st_buf b = {0};
    struct reply r = {0};
    uint32_t *rows;
    ask(&b, id, m, id, &rows);
    put(fd, b.p, b.len);
    assert_true(reply(fd, &r));
    expect_product(&r, id, m, rows);
    st_buf_free(&b);
    free(r.payload);
    free(rows);
}

static const struct st_worker_multiply one_a = {ST_WORKER_FIELD, 1, 1, {A}, {0}};

/* Tests ---------------------------------------------------------------------------------------------------------- */

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
        {false, 12, 1, ST_INPUT, "where MULTIPLY or HINT is expected"},
        {false, 12, 4, ST_INPUT, "where MULTIPLY or HINT is expected"},
        {false, 16, 0, ST_INPUT, "frame id"},
        {false, 27, 64, ST_INPUT, "oversized frame"},
        {false, 24, 11, ST_INPUT, "MULTIPLY"},
        {false, 24, 16, ST_INPUT, "MULTIPLY rows"},
        {false, 32, 2, ST_INPUT, "MULTIPLY format"},
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
        {{ST_WORKER_FIELD, 32, 2, {WIDE, A}, {0}}, 16, "a reply of 527360 bytes is too long"},
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
        CASE(products_are_those_of_64_bit_integers),
        CASE(rows_of_floats_give_scaled_products_and_a_device_without_them_says_so),
        CASE(frames_that_are_none_end_their_connection_by_name),
        CASE(requests_that_cannot_be_served_fail_alone),
        CASE(values_that_are_no_residues_never_reach_the_device),
        CASE(frames_may_come_in_any_pieces),
        CASE(waiting_requests_for_the_same_matrices_are_computed_together),
        CASE(one_clients_requests_keep_their_order_and_more_than_its_share_waits),
        CASE(sixteen_clients_at_once_get_their_own_products),
        CASE(requests_that_wait_for_memory_are_all_served),
        CASE(a_client_that_stops_reading_is_dropped_and_holds_nobody_up),
        CASE(a_client_that_leaves_at_any_point_harms_nobody),
        CASE(silence_and_half_a_frame_run_out_of_time),
        CASE(connections_over_the_limit_are_told_and_silent_ones_give_way),
        CASE(drain_finishes_what_runs_and_takes_nothing_new),
        CASE(drain_does_not_wait_for_ever),
        CASE(a_unix_socket_is_private_replaced_when_stale_and_removed),
        CASE(addresses_that_cannot_be_had_are_named),
        CASE(tls_serves_the_same_products),
        CASE(shared_memory_serves_the_same_products),
        CASE(a_worker_without_hints_says_so),
    };
    return cmocka_run_group_tests(tests, make_model, free_model);
}
