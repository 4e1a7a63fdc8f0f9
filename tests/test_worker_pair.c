/* A real worker and the trusted side's client together, over every transport: products with the processor's backend,
 * hints from a file, a drain and a restart between exchanges. The worker runs in a child process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/hooks.h"
#include "certificate.h"
#include "expect.h"
#include "field/fq.h"
#include "service/worker.h"
#include "service/worker_client.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const uint8_t digest[32] = {5, 4, 3};

/* The model: q, k of one group; another one; the embedding of a vocabulary longer than one limb product, as the worker
 * has it and as the plan names it. */
#define VOCAB 66000u
enum { Q, K, WIDE, EMBED, N_WEIGHT };
static struct st_served_weight weights[N_WEIGHT] = {
    {.name = "q.weight", .n_out = 24, .n_in = 40, .expert = -1},
    {.name = "k.weight", .n_out = 8, .n_in = 40, .expert = -1},
    {.name = "wide.weight", .n_out = 3000, .n_in = 40, .expert = -1},
    {.name = "embed.weight^T", .n_out = 6, .n_in = VOCAB, .expert = -1},
};
static struct st_plan_weight plan_weights[N_WEIGHT] = {
    {.name = "q.weight", .n_out = 24, .n_in = 40},
    {.name = "k.weight", .n_out = 8, .n_in = 40},
    {.name = "wide.weight", .n_out = 3000, .n_in = 40},
    {.name = "embed.weight", .role = ST_ROLE_EMBED, .n_out = VOCAB, .n_in = 6},
};
static struct st_plan_op plan_ops[N_WEIGHT] = {{.op = ST_OP_LINEAR, .weight = Q, .bias = -1, .group = 1},
                                               {.op = ST_OP_LINEAR, .weight = K, .bias = -1, .group = 1},
                                               {.op = ST_OP_LINEAR, .weight = WIDE, .bias = -1},
                                               {.op = ST_OP_EMBED, .weight = EMBED, .bias = -1}};
static const struct st_plan plan = {.ops = plan_ops, .weights = plan_weights, .n_op = N_WEIGHT, .n_weight = N_WEIGHT};

static char dir[] = "/tmp/test_worker_pair_XXXXXX", cert[64], key[64], hints_path[64];
static char listening[4][300];
static pid_t child;

static int make_model(void **state)
{
    struct st_rng r;
    (void)state;
    st_rng_seed(&r, 11);
    for (int i = 0; i < N_WEIGHT; i++) {
        size_t n = (size_t)weights[i].n_out * weights[i].n_in;
        int8_t *w = malloc(n);
        float *scale = malloc(weights[i].n_out * sizeof *scale);
        for (size_t k = 0; k < n; k++)
            w[k] = (int8_t)((int)(st_rng_next(&r) % 255) - 127);
        for (uint32_t k = 0; k < weights[i].n_out; k++)
            scale[k] = 0.25f;
        weights[i].w = w;
        weights[i].scale = scale;
    }
    if (!mkdtemp(dir))
        return 1;
    snprintf(cert, sizeof cert, "%s/cert.pem", dir);
    snprintf(key, sizeof key, "%s/key.pem", dir);
    snprintf(hints_path, sizeof hints_path, "%s/model.hints", dir);
    make_certificate(cert, key);
    return 0;
}

static int free_model(void **state)
{
    char command[100];
    (void)state;
    for (int i = 0; i < N_WEIGHT; i++) {
        free((void *)(uintptr_t)weights[i].w);
        free((void *)(uintptr_t)weights[i].scale);
    }
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

/* The worker ------------------------------------------------------------------------------------------------------- */

static void tell(void *arg, const char *text)
{
    dprintf(*(int *)arg, "%s\n", text);
}

static int serve(struct st_worker_opts *o, uint32_t n_weight, bool with_hints, int fd)
{
    struct st_served served = {.weights = weights, .n = n_weight};
    struct st_backend_weight of[N_WEIGHT];
    struct st_hints *hints = NULL;
    struct st_err e = {0};
    for (uint32_t i = 0; i < n_weight; i++)
        of[i] = (struct st_backend_weight){weights[i].w, weights[i].scale, weights[i].n_out, weights[i].n_in};
    o->served = &served;
    o->digest = digest;
    o->ready = tell;
    o->arg = &fd;
    int rc = st_backend_find("cpu", &o->backend, &e);
    if (!rc)
        rc = o->backend->open(
            &(struct st_backend_opts){.weights = of, .n_weight = n_weight, .max_row = 512, .n_threads = 1}, &o->device,
            &e);
    if (!rc && with_hints)
        rc = st_hints_open(hints_path, &hints, &e);
    o->hints = hints;
    if (!rc)
        rc = st_worker_run(o, &e);
    if (rc)
        dprintf(fd, "! %s\n", e.msg);
    if (o->device)
        o->backend->close(o->device);
    st_hints_close(hints);
    close(fd);
    return rc;
}

static void start(struct st_worker_opts o, const char *const *listen, int n, uint32_t n_weight, bool with_hints)
{
    int fds[2], n_line = 0;
    o.listen = listen;
    o.n_listen = n;
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    fflush(NULL);
    child = fork();
    assert_true(child >= 0);
    if (!child) {
        close(fds[0]);
        exit(serve(&o, n_weight, with_hints, fds[1]));
    }
    close(fds[1]);
    FILE *lines = fdopen(fds[0], "r");
    while (n_line < n && fgets(listening[n_line], sizeof listening[0], lines)) {
        listening[n_line][strcspn(listening[n_line], "\n")] = 0;
        if (listening[n_line][0] == '!')
            fail_msg("%s", listening[n_line]);
        n_line++;
    }
    fclose(lines);
    assert_int_equal(n_line, n);
}

static void stop(int signal_number)
{
    int status = -1;
    kill(child, signal_number);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(signal_number == SIGKILL || (WIFEXITED(status) && WEXITSTATUS(status) == 0));
    child = 0;
}

static int kill_child(void **state)
{
    (void)state;
    if (child) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        child = 0;
    }
    return 0;
}

/* The client ------------------------------------------------------------------------------------------------------- */

static struct st_worker_client *dial(const char *address)
{
    struct st_worker_client *c;
    struct st_err e = {0};
    struct st_worker_client_opts o = {
        .addresses = &address, .n_address = 1, .tls_ca = cert, .digest = digest, .timeout_s = 20};
    assert_ok(st_worker_client_new(&o, &c, &e), &e);
    return c;
}

struct trip {
    struct st_exchange x;
    uint32_t *rows, n_in;
    struct st_exposed exposed, reply;
    struct st_err e;
};

static void trip_init(struct trip *t, int op, int n_op, uint32_t n_row, uint64_t id)
{
    struct st_rng r;
    st_rng_seed(&r, id);
    *t = (struct trip){.n_in = weights[op].n_in,
                       .x = {.plan = &plan, .ops = &plan_ops[op], .n_op = n_op, .n_row = n_row, .id = id}};
    size_t n = (size_t)n_row * t->n_in;
    t->rows = malloc(n * 4);
    for (size_t i = 0; i < n; i++)
        t->rows[i] = (uint32_t)(st_rng_next(&r) % ST_FQ);
    t->exposed = (struct st_exposed){.p = t->rows, .len = n * 4, .format = ST_EXPOSED_FIELD};
}

static int trip_run(struct st_worker_client *c, struct trip *t)
{
    const struct st_transport *w = st_worker_client_transport(c);
    if (w->submit(w->ctx, &t->x, &t->exposed, &t->e))
        return t->e.code;
    return w->complete(w->ctx, &t->x, &t->reply, &t->e);
}

static void trip_check(const struct trip *t)
{
    const uint32_t *y = t->reply.p;
    for (int i = 0; i < t->x.n_op; i++) {
        const struct st_served_weight *w = &weights[t->x.ops[i].weight];
        for (uint32_t r = 0; r < t->x.n_row; r++)
            for (uint32_t j = 0; j < w->n_out; j++, y++) {
                uint32_t sum = 0;
                for (uint32_t k = 0; k < w->n_in; k++)
                    sum = st_fq_add(
                        sum, st_fq_mul(t->rows[(size_t)r * w->n_in + k], st_fq_from(w->w[(size_t)j * w->n_in + k])));
                if (*y != sum)
                    fail_msg("%s: row %u, column %u", w->name, r, j);
            }
    }
    assert_int_equal((const uint8_t *)y - (const uint8_t *)t->reply.p, t->reply.len);
}

static void exchange(struct st_worker_client *c, int op, int n_op, uint32_t n_row)
{
    static uint64_t id;
    struct trip t;
    trip_init(&t, op, n_op, n_row, id++);
    if (trip_run(c, &t))
        fail_msg("%s", t.e.msg);
    trip_check(&t);
    free(t.rows);
}

static void products_are_exact_over_every_transport(void **state)
{
    (void)state;
    char file[100], shm[100];
    snprintf(file, sizeof file, "unix:%s/socket", dir);
    snprintf(shm, sizeof shm, "shm:%s/shm", dir);
    const char *const plain[] = {"tcp://127.0.0.1:0", file, shm}, *const tls[] = {"tcp://127.0.0.1:0"};
    for (int k = 0; k < 4; k++) {
        struct st_worker_opts o = {0};
        if (k == 3) {
            o.tls_cert = cert;
            o.tls_key = key;
        }
        if (k == 0 || k == 3)
            start(o, k ? tls : plain, k ? 1 : 3, N_WEIGHT, false);
        struct st_worker_client *c = dial(listening[k % 3]);
        exchange(c, Q, 2, 1);
        exchange(c, Q, 2, 64);
        exchange(c, WIDE, 1, 500); /* 6 MB come back: more than a ring or a socket holds */
        exchange(c, EMBED, 1, 2);
        struct trip t[5];
        const struct st_transport *w = st_worker_client_transport(c);
        for (int i = 0; i < 5; i++) {
            trip_init(&t[i], i % 2 ? WIDE : Q, i % 2 ? 1 : 2, 100, 1000 + (uint64_t)i);
            assert_ok(w->submit(w->ctx, &t[i].x, &t[i].exposed, &t[i].e), &t[i].e);
        }
        for (int i = 4; i >= 0; i--) {
            assert_ok(w->complete(w->ctx, &t[i].x, &t[i].reply, &t[i].e), &t[i].e);
            trip_check(&t[i]);
            free(t[i].rows);
        }
        struct st_worker_client_stats s;
        st_worker_client_stats(c, &s);
        assert_int_equal(s.n_exchange, 9);
        assert_int_equal(s.n_failed, 0);
        assert_string_equal(s.address, listening[k % 3]);
        assert_true(s.work_s <= s.wait_s);
        st_worker_client_free(c);
        if (k >= 2)
            stop(SIGTERM);
    }
}

/* What the file says, and what the worker hands on, put together by column. */
struct all {
    float *scale, *norm;
    uint32_t *h, next;
};

static int collect(void *arg, const struct st_hint_columns *c, struct st_err *e)
{
    struct all *a = arg;
    (void)e;
    assert_int_equal(c->first, a->next);
    memcpy(a->scale + c->first, c->scale, c->n * sizeof *c->scale);
    memcpy(a->norm + c->first, c->norm, c->n * sizeof *c->norm);
    memcpy(a->h + (size_t)c->first * c->m, c->h, (size_t)c->n * c->m * sizeof *c->h);
    a->next += c->n;
    return 0;
}

static void all_hints(const struct st_hint_source *s, int weight, uint32_t m, struct all *a)
{
    struct st_err e = {0};
    const struct st_served_weight *w = &weights[weight];
    *a = (struct all){.scale = calloc(w->n_out, 4), .norm = calloc(w->n_out, 4), .h = calloc(w->n_out, 4 * m)};
    assert_ok(s->read(s->ctx, w->name, w->n_out, w->n_in, collect, a, &e), &e);
    assert_int_equal(a->next, w->n_out);
}

static void hints_of_the_wire_are_those_of_the_file(void **state)
{
    (void)state;
    struct st_served served = {.weights = weights, .n = 3};
    struct st_err e = {0};
    struct st_hints *file;
    const struct st_hint_source *wire;
    const struct st_lwe_params *params;
    char unix_path[100], shm[100];
    assert_ok(st_lwe_params_find(NULL, &params, &e), &e);
    struct st_hints_make make = {.served = &served, .params = params, .digest = digest, .n_threads = 1};
    assert_ok(st_hints_write(hints_path, &make, &e), &e);
    assert_ok(st_hints_open(hints_path, &file, &e), &e);
    snprintf(unix_path, sizeof unix_path, "unix:%s/socket", dir);
    snprintf(shm, sizeof shm, "shm:%s/shm", dir);
    start((struct st_worker_opts){0}, (const char *const[]){unix_path, shm}, 2, 3, true);
    for (int k = 0; k < 2; k++) {
        struct st_worker_client *c = dial(listening[k]);
        assert_ok(st_worker_client_hints(c, &wire, &e), &e);
        assert_string_equal(wire->params, params->name);
        for (int i = 0; i < 3; i++) {
            struct all a, b;
            all_hints(st_hints_source(file), i, params->m, &a);
            all_hints(wire, i, params->m, &b);
            assert_memory_equal(a.scale, b.scale, weights[i].n_out * 4);
            assert_memory_equal(a.norm, b.norm, weights[i].n_out * 4);
            assert_memory_equal(a.h, b.h, (size_t)weights[i].n_out * params->m * 4);
            struct all *both[] = {&a, &b};
            for (int s = 0; s < 2; s++) {
                free(both[s]->scale);
                free(both[s]->norm);
                free(both[s]->h);
            }
        }
        exchange(c, Q, 2, 3);
        st_worker_client_free(c);
    }
    st_hints_close(file);
    stop(SIGTERM);
}

static void what_a_worker_lacks_is_said(void **state)
{
    (void)state;
    struct st_err e = {0};
    struct st_worker_client *c;
    const struct st_hint_source *hints;
    uint8_t other[32] = {9};
    start((struct st_worker_opts){.max_row = 16}, (const char *const[]){"tcp://127.0.0.1:0"}, 1, 3, false);
    const char *address = listening[0];
    struct st_worker_client_opts o = {.addresses = &address, .n_address = 1, .digest = other, .timeout_s = 20};
    expect_refusal(st_worker_client_new(&o, &c, &e), &e, ST_VERIFY, "another model");
    c = dial(address);
    expect_refusal(st_worker_client_hints(c, &hints, &e), &e, ST_INPUT, "missing hints");
    assert_false(st_worker_client_has(c, "embed.weight^T", 6, VOCAB));
    assert_true(st_worker_client_has(c, "q.weight", 24, 40));
    assert_int_equal(st_worker_client_max_row(c), 16);
    struct trip t;
    trip_init(&t, Q, 2, 17, 0);
    expect_refusal(trip_run(c, &t), &t.e, ST_INPUT, "takes 16 rows at a time, want 17");
    t.x.n_row = 16;
    t.exposed.len = 16 * 40 * 4;
    t.rows[7] = ST_FQ;
    expect_refusal(trip_run(c, &t), &t.e, ST_INPUT, "it says: MULTIPLY rows: a value is no residue");
    free(t.rows);
    exchange(c, Q, 2, 16); /* on the same connection */
    st_worker_client_free(c);
    stop(SIGTERM);
}

static void a_worker_that_was_killed_or_drained_is_found_again(void **state)
{
    (void)state;
    static const char *const kinds[] = {"unix", "shm"};
    for (int k = 0; k < 4; k++) {
        char address[100];
        const char *listen = address;
        struct st_err e;
        snprintf(address, sizeof address, "%s:%s/again", kinds[k % 2], dir);
        start((struct st_worker_opts){0}, &listen, 1, 3, false);
        struct st_worker_client *c = dial(address);
        exchange(c, Q, 2, 2);
        stop(k < 2 ? SIGTERM : SIGKILL);
        struct trip t;
        trip_init(&t, Q, 2, 1, 0);
        assert_int_equal(trip_run(c, &t), ST_IO);
        e = t.e;
        assert_non_null(strstr(e.msg, address));
        start((struct st_worker_opts){0}, &listen, 1, 3, false);
        exchange(c, Q, 2, 2);
        st_worker_client_free(c);
        stop(SIGTERM);
        free(t.rows);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(products_are_exact_over_every_transport, kill_child),
        cmocka_unit_test_teardown(hints_of_the_wire_are_those_of_the_file, kill_child),
        cmocka_unit_test_teardown(what_a_worker_lacks_is_said, kill_child),
        cmocka_unit_test_teardown(a_worker_that_was_killed_or_drained_is_found_again, kill_child),
    };
    return cmocka_run_group_tests(tests, make_model, free_model);
}
