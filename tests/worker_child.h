/* A worker in a child process, and a client that can do everything wrong, for tests of the worker's end. The child must
 * end with status 0, so a sanitizer's report in it fails the test. Include cmocka.h first. */
#ifndef ST_TESTS_WORKER_CHILD_H
#define ST_TESTS_WORKER_CHILD_H

#include "base/hooks.h"
#include "field/fq.h"
#include "net/address.h"
#include "net/worker_frame.h"
#include "service/worker.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
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
} shapes[] = {{"a.weight", 24, 16}, {"b.weight", 8, 16}, {"c.weight", 5, 40}, {"embed^T", 3, LONG}, {"wide", 4100, 16}};
enum { A, B, C, EMBED, WIDE, N_WEIGHT };

static struct st_served_weight weights[N_WEIGHT];
static struct st_served served = {.weights = weights, .n = N_WEIGHT};

static inline int make_model(void **state)
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

static inline int free_model(void **state)
{
    (void)state;
    for (int i = 0; i < N_WEIGHT; i++) {
        free((void *)(uintptr_t)weights[i].w);
        free((void *)(uintptr_t)weights[i].scale);
    }
    return 0;
}

static inline uint32_t exact(int weight, uint32_t column, const uint32_t *row)
{
    const struct st_served_weight *w = &weights[weight];
    uint32_t sum = 0;
    for (uint32_t k = 0; k < w->n_in; k++)
        sum = st_fq_add(sum, st_fq_from((int64_t)w->w[(size_t)column * w->n_in + k] * (int64_t)row[k]));
    return sum;
}

/* A device that takes its time, so that requests meet in the queue. ------------------------------------------------ */

static int slow_ms;

static inline int plain_multiply(void *b, const uint32_t *rows, uint32_t n_row, const struct st_backend_job *jobs,
                                 int n_job, struct st_err *e)
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

static inline int broken_multiply(void *b, const float *rows, uint32_t n_row, const struct st_backend_job *jobs,
                                  int n_job, struct st_err *e)
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

static inline void tell(void *arg, const char *text)
{
    dprintf(*(int *)arg, "%s\n", text);
}

static inline int serve(struct st_worker_opts *o, int fd)
{
    struct st_err e = {0};
    const char *isa = getenv("SOTTO_CPU");
    struct st_backend_weight of[N_WEIGHT];
    bool real = !o->backend;
    signal(SIGPIPE, SIG_IGN);
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
static inline void read_addresses(int fd, int want)
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

static inline void start_on(struct st_worker_opts *o, const char *const *listen, int n_listen)
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

static inline void start(struct st_worker_opts *o)
{
    static const char *const any[] = {"tcp://127.0.0.1:0"};
    start_on(o, any, 1);
    assert_int_equal(strncmp(listening[n_listening - 1], "tcp://127.0.0.1:", 16), 0);
}

static inline void finish(void)
{
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    child = 0;
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

static inline void stop(void)
{
    kill(child, SIGTERM);
    finish();
}

static inline int set_up(void **state)
{
    (void)state;
    slow_ms = 0;
    snprintf(dir, sizeof dir, "/tmp/sotto_test_worker.XXXXXX");
    return mkdtemp(dir) ? 0 : 1;
}

static inline int tear_down(void **state)
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

static inline int dial(const char *address)
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

static inline void put(int fd, const void *p, size_t len)
{
    for (size_t at = 0; at < len;) {
        ssize_t n = send(fd, (const char *)p + at, len - at, MSG_NOSIGNAL);
        if (n <= 0)
            fail_msg("cannot send: %s", strerror(errno));
        at += (size_t)n;
    }
}

static inline bool get(int fd, void *p, size_t len)
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
static inline bool reply(int fd, struct reply *r)
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

static inline bool ended(int fd)
{
    char c;
    return recv(fd, &c, 1, 0) <= 0 && errno != EAGAIN;
}

static inline void expect_failure(int fd, uint64_t id, int code, const char *says)
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

static inline int greeted(const char *address)
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
static inline void ask(struct st_buf *b, uint64_t id, const struct st_worker_multiply *m, uint64_t seed,
                       uint32_t **rows)
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

static inline void expect_product(const struct reply *r, uint64_t id, const struct st_worker_multiply *m,
                                  const uint32_t *rows)
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

static inline void check_product(int fd, uint64_t id, const struct st_worker_multiply *m)
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

#endif
