/* Times the trusted side of masked outsourcing on layers of an 8B model (4096 wide, 14336 in the middle, 8 of 32 heads
 * for keys and values; random weights): how fast pads are made, and what a row costs when pads are ready.
 *
 *   bench_pads [-b BATCH] [-l LAYERS] [-s SECONDS] [-p PARAMS] [-c]
 *
 * pads: for `otp` (the refill of one-time pads, a product of full size) and `lwe`, on one core, processor time:
 * microseconds per row and layer, tokens per second of 32 such layers, and the ratio to otp in the same run.
 * online: microseconds per row and layer of mask, check and unmask, the way out and back, on which a token waits for
 * them; of what is done meanwhile, as the worker computes; and processor time of all with taking pads and giving them
 * back, for exchanges of 1, 8 and 64 rows. LAYERS layers take turns, each with pads and secrets of its own, so
 * that those are not in the first caches by chance. The worker's product is not timed; its matrices have one value in a
 * row, so that forming it leaves the caches as a worker elsewhere would.
 *
 * Hints are random, and pads of the online part need none: the times do not depend on what they are. -c: CSV. */
#include "base/buf.h"
#include "base/hooks.h"
#include "field/fq.h"
#include "protect/masked/groups.h"
#include "protect/masked/masked.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MODEL_LAYERS 32
#define MAX_ROWS 64
#define MAX_LAYERS 64

static const struct {
    enum st_role role;
    uint32_t group, n_in, n_out;
} shapes[] = {
    {ST_ROLE_Q, 1, 4096, 4096},     {ST_ROLE_K, 1, 4096, 1024},     {ST_ROLE_V, 1, 4096, 1024},
    {ST_ROLE_O, 2, 4096, 4096},     {ST_ROLE_GATE, 3, 4096, 14336}, {ST_ROLE_UP, 3, 4096, 14336},
    {ST_ROLE_DOWN, 4, 14336, 4096},
};
enum { N_SHAPE = sizeof shapes / sizeof *shapes, N_GROUP = 4, MAX_OUT = 28672, MAX_IN = 14336, WORDS = 69632 };

struct bench {
    uint32_t batch, layers;
    double seconds;
    bool csv;
    const struct st_lwe_params *params;
    struct st_model model; /* its plan alone */
    struct st_served served;
    struct st_hint_source hints;
    int8_t *w[N_SHAPE];
};

static void die(const struct st_err *e)
{
    fprintf(stderr, "bench_pads: %s\n", e->msg);
    exit(e->code);
}

static double thread_seconds(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static void *take(size_t n, size_t size)
{
    void *p;
    struct st_err e;
    if (st_alloc(&p, n, size, "bench", &e))
        die(&e);
    return p;
}

static void print(const struct bench *b, const char *what, const char *scheme, uint32_t rows, const char *unit,
                  double value)
{
    printf(b->csv ? "%s,%s,%u,%s,%.3f\n" : "%-8s %-22s %3u rows  %-30s %10.2f\n", what, scheme, rows, unit, value);
    fflush(stdout);
}

/* Layers of the plan, served in the order of the plan, with names in ascending order. */
static void make_model(struct bench *b)
{
    uint32_t n = b->layers * N_SHAPE;
    struct st_plan *p = &b->model.plan;
    float *scale = take(MAX_OUT, sizeof *scale);
    for (size_t i = 0; i < MAX_OUT; i++)
        scale[i] = 1e-3f;
    for (int k = 0; k < N_SHAPE; k++)
        b->w[k] = take((size_t)shapes[k].n_in * shapes[k].n_out, 1);
    b->served = (struct st_served){
        .weights = take(n, sizeof *b->served.weights), .n = n, .by_name = take(n, sizeof *b->served.by_name)};
    int slot = st_plan_slot(p, 1);
    for (uint32_t i = 0; i < n; i++) {
        int layer = (int)(i / N_SHAPE), k = (int)(i % N_SHAPE);
        int weight = st_plan_weight(p, shapes[k].role, layer, shapes[k].n_out, shapes[k].n_in, "%06u", i);
        struct st_plan_op *op = st_plan_add(p, ST_OP_LINEAR, shapes[k].role, layer);
        op->in = op->out = slot;
        op->weight = weight;
        op->place = ST_PLACE_UNTRUSTED;
        op->group = (uint32_t)layer * N_GROUP + shapes[k].group;
        b->served.weights[i] = (struct st_served_weight){.weight = weight,
                                                         .role = shapes[k].role,
                                                         .expert = -1,
                                                         .n_out = shapes[k].n_out,
                                                         .n_in = shapes[k].n_in,
                                                         .w = b->w[k],
                                                         .scale = scale};
        snprintf(b->served.weights[i].name, sizeof b->served.weights[i].name, "%06u", i);
        b->served.by_name[i] = i;
    }
    if (p->failed) {
        fprintf(stderr, "bench_pads: cannot set up the plan\n");
        exit(ST_INTERNAL);
    }
}

static void fill_weights(struct bench *b)
{
    struct st_rng rng;
    st_rng_seed(&rng, 1);
    for (int k = 0; k < N_SHAPE; k++)
        for (size_t i = 0, n = (size_t)shapes[k].n_in * shapes[k].n_out; i < n; i += 8)
            memcpy(b->w[k] + i, &(uint64_t){st_rng_next(&rng)}, 8);
}

/* The one place of a row of the online part that is not zero, and its value. */
static uint32_t place(uint32_t row, uint32_t n_in)
{
    return (uint32_t)((uint64_t)row * 40503 % n_in);
}

#define VALUE 77

static void thin_weights(struct bench *b)
{
    for (int k = 0; k < N_SHAPE; k++) {
        memset(b->w[k], 0, (size_t)shapes[k].n_in * shapes[k].n_out);
        for (uint32_t j = 0; j < shapes[k].n_out; j++)
            b->w[k][(size_t)j * shapes[k].n_in + place(j, shapes[k].n_in)] = VALUE;
    }
}

/* Random residues for hints, the same piece of columns again and again. */
enum { PIECE = 64 };

static int read_hints(void *ctx, const char *name, uint32_t n_out, uint32_t n_in,
                      int (*sink)(void *arg, const struct st_hint_columns *c, struct st_err *e), void *arg,
                      struct st_err *e)
{
    const struct bench *b = ctx;
    struct st_rng rng;
    uint32_t m = b->params->m, *h = take((size_t)PIECE * m, sizeof *h);
    float scale[PIECE], norm[PIECE];
    (void)name;
    st_rng_seed(&rng, n_in);
    for (size_t i = 0; i < (size_t)PIECE * m; i++)
        h[i] = st_fq_reduce(st_rng_next(&rng));
    for (int i = 0; i < PIECE; i++) {
        scale[i] = 1e-3f;
        norm[i] = 1;
    }
    int rc = 0;
    for (uint32_t at = 0; at < n_out && !rc; at += PIECE)
        rc = sink(arg,
                  &(struct st_hint_columns){.first = at,
                                            .n = n_out - at < PIECE ? n_out - at : PIECE,
                                            .m = m,
                                            .scale = scale,
                                            .norm = norm,
                                            .h = h},
                  e);
    free(h);
    return rc;
}

static const uint8_t digest[ST_LWE_DIGEST];

static struct st_scheme_opts scheme_opts(struct bench *b)
{
    return (struct st_scheme_opts){
        .served = &b->served, .digest = digest, .plan = &b->model.plan, .params = b->params, .hints = &b->hints};
}

/* Microseconds per row of all groups of one layer. */
static double time_pads(struct bench *b, const char *name)
{
    const struct st_scheme *scheme;
    struct st_mask_groups groups;
    struct st_scheme_opts o = scheme_opts(b);
    struct st_stream *random;
    struct st_err e = {0};
    void *state;
    uint8_t seed[32];
    double us = 0;
    if (st_scheme_find(name, &scheme, &e) || st_mask_groups_init(&groups, &b->model.plan, &b->served, NULL, &e) ||
        st_random(seed, sizeof seed, &e) || st_stream_new(seed, sizeof seed, NULL, 0, "bench", &random, &e))
        die(&e);
    o.groups = groups.g;
    o.n_group = N_GROUP; /* of the first layer */
    if (scheme->open(&o, &state, &e))
        die(&e);
    uint32_t *pads = take((size_t)b->batch * (4096 + MAX_OUT), sizeof *pads);
    for (int g = 0; g < N_GROUP; g++) {
        double best = 1e9;
        for (double end = st_now() + b->seconds; st_now() < end || best == 1e9;) {
            double start = thread_seconds();
            if (scheme->make(state, g, b->batch, random, pads, &e))
                die(&e);
            double used = thread_seconds() - start;
            best = used < best ? used : best;
        }
        us += best * 1e6 / b->batch;
    }
    free(pads);
    scheme->close(state);
    st_mask_groups_free(&groups);
    st_stream_free(random);
    return us;
}

static void bench_pads(struct bench *b)
{
    double otp = 0;
    for (int i = 0; i < 2; i++) {
        const char *name = i ? b->params->name : "otp";
        double us = time_pads(b, i ? "lwe" : "otp");
        otp = i ? otp : us;
        print(b, "pads", name, b->batch, "us/layer/row", us);
        print(b, "pads", name, b->batch, "tokens/s/core", 1e6 / (us * MODEL_LAYERS));
        print(b, "pads", name, b->batch, "times otp", otp / us);
    }
}

/* The worker's part: v = u W^T, one matrix behind the other. */
static void work(const struct bench *b, const struct st_exchange *x, const uint32_t *u, uint32_t *v)
{
    for (int k = 0; k < x->n_op; k++) {
        const struct st_served_weight *w = &b->served.weights[x->ops[k].weight];
        for (uint32_t r = 0; r < x->n_row; r++)
            for (uint32_t j = 0; j < w->n_out; j++)
                *v++ = st_fq_mul(u[(size_t)r * w->n_in + place(j, w->n_in)], VALUE);
    }
}

/* Pads that hide as well as any, and do not fit the weights. */
static const char *random_strength(const void *s)
{
    (void)s;
    return "random";
}

static int random_open(const struct st_scheme_opts *o, void **out, struct st_err *e)
{
    (void)e;
    *out = o->groups;
    return 0;
}

static void random_close(void *s)
{
    (void)s;
}

static double random_slack(const void *s, int group)
{
    (void)s;
    (void)group;
    return 0;
}

static int random_make(void *s, int group, uint32_t n, struct st_stream *random, uint32_t *pads, struct st_err *e)
{
    const struct st_mask_group *g = (const struct st_mask_group *)s + group;
    size_t words = (size_t)n * (g->d + g->n);
    (void)e;
    st_stream_bytes(random, pads, words * sizeof *pads);
    for (size_t i = 0; i < words; i++)
        pads[i] = st_fq_reduce(pads[i]);
    return 0;
}

static size_t random_bytes(const void *s)
{
    (void)s;
    return 0;
}

static const struct st_scheme random_scheme = {.name = "random",
                                               .domain = ST_MASK_FIELD,
                                               .strength = random_strength,
                                               .open = random_open,
                                               .close = random_close,
                                               .slack = random_slack,
                                               .make = random_make,
                                               .bytes = random_bytes};

/* Until no batch can be made: in every group less than one is missing. */
static void wait_for_pads(struct st_masked *m, const struct bench *b)
{
    struct st_masked_stats st;
    size_t missing = (size_t)b->layers * N_GROUP * (MAX_ROWS - 1);
    for (st_masked_stats(m, &st); st.pads.ready + missing < st.pads.capacity; st_masked_stats(m, &st))
        usleep(1000);
}

struct buffers {
    float *in, *out;
    uint32_t *v;
};

/* Processor seconds of the two halves of one exchange. */
static double exchange(struct bench *b, struct st_masked *m, const struct buffers *f, const struct st_exchange *x)
{
    const struct st_protection_hooks *h = st_masked_hooks(m);
    const struct st_served_weight *w = &b->served.weights[x->ops[0].weight];
    struct st_trusted in = {.p = f->in, .n_row = x->n_row, .width = w->n_in}, outs[ST_MAX_GROUP];
    struct st_exposed rows, reply = {.p = f->v, .format = ST_EXPOSED_FIELD};
    struct st_err e = {0};
    float *out = f->out;
    for (int k = 0; k < x->n_op; k++) {
        outs[k] = (struct st_trusted){.p = out, .n_row = x->n_row, .width = w[k].n_out};
        out += (size_t)x->n_row * w[k].n_out;
        reply.len += (size_t)x->n_row * w[k].n_out * sizeof(uint32_t);
    }
    double t0 = thread_seconds();
    if (h->enter(h->ctx, x, &in, &rows, &e))
        die(&e);
    h->meanwhile(h->ctx, x);
    double t1 = thread_seconds();
    work(b, x, rows.p, f->v);
    double t2 = thread_seconds();
    if (h->leave(h->ctx, x, &reply, outs, &e))
        die(&e);
    return thread_seconds() - t2 + t1 - t0;
}

static void bench_online(struct bench *b)
{
    static const uint32_t sizes[] = {1, 8, 64};
    struct st_masked_opts o = {.scheme = &random_scheme,
                               .scheme_opts = scheme_opts(b),
                               .offload = ST_MASKED_OFFLOAD_ALL,
                               .pads = {.n_threads = 1, .batch = MAX_ROWS, .max_row = MAX_ROWS}};
    struct buffers f = {.in = take((size_t)MAX_ROWS * MAX_IN, sizeof(float)),
                        .out = take((size_t)MAX_ROWS * MAX_OUT, sizeof(float)),
                        .v = take((size_t)MAX_ROWS * MAX_OUT, sizeof(uint32_t))};
    struct st_masked *m;
    struct st_err e = {0};
    struct st_rng rng;
    uint64_t id = 0;
    st_rng_seed(&rng, 2);
    for (size_t i = 0; i < (size_t)MAX_ROWS * MAX_IN; i++)
        f.in[i] = (float)st_rng_unit(&rng) - 0.5f;
    o.pads.memory = (size_t)b->layers * 2 * MAX_ROWS * WORDS * sizeof(uint32_t);
    thin_weights(b);
    if (st_masked_new(&b->model, &o, &m, &e))
        die(&e);
    for (int s = 0; s < 3; s++) {
        struct st_masked_stats before, after;
        double used = 0, end = st_now() + 4 * b->seconds;
        uint64_t rows = 0;
        st_masked_stats(m, &before);
        do
            for (int i = 0; i < b->model.plan.n_op;) {
                struct st_exchange x = {.plan = &b->model.plan, .n_row = sizes[s], .id = id++};
                x.ops = &b->model.plan.ops[i];
                while (i + x.n_op < b->model.plan.n_op && x.ops[x.n_op].group == x.ops->group)
                    x.n_op++;
                wait_for_pads(m, b);
                used += exchange(b, m, &f, &x);
                i += x.n_op;
            }
        while (rows += b->layers * sizes[s], st_now() < end);
        st_masked_stats(m, &after);
        double mask = after.mask_s - before.mask_s, check = after.check_s - before.check_s;
        double unmask = after.unmask_s - before.unmask_s, per_row = 1e6 / (double)rows;
        double meanwhile = after.meanwhile_s - before.meanwhile_s;
        print(b, "online", "any", sizes[s], "mask us/layer/row", mask * per_row);
        print(b, "online", "any", sizes[s], "check us/layer/row", check * per_row);
        print(b, "online", "any", sizes[s], "unmask us/layer/row", unmask * per_row);
        print(b, "online", "any", sizes[s], "way out and back us/layer/row", (mask + check + unmask) * per_row);
        print(b, "online", "any", sizes[s], "meanwhile us/layer/row", meanwhile * per_row);
        print(b, "online", "any", sizes[s], "all us/layer/row", used * per_row);
    }
    st_masked_free(m);
    free(f.in);
    free(f.out);
    free(f.v);
}

int main(int argc, char **argv)
{
    struct bench b = {.batch = 64, .layers = 8, .seconds = 1};
    struct st_err e = {0};
    const char *params = NULL;
    for (int o; (o = getopt(argc, argv, "b:l:s:p:c")) >= 0;)
        if (o == 'b')
            b.batch = (uint32_t)strtoul(optarg, NULL, 10);
        else if (o == 'l')
            b.layers = (uint32_t)strtoul(optarg, NULL, 10);
        else if (o == 's')
            b.seconds = strtod(optarg, NULL);
        else if (o == 'p')
            params = optarg;
        else if (o == 'c')
            b.csv = true;
        else
            b.batch = 0;
    if (!b.batch || b.batch > 4096 || !b.layers || b.layers > MAX_LAYERS || optind != argc) {
        fprintf(stderr, "usage: bench_pads [-b BATCH] [-l LAYERS] [-s SECONDS] [-p PARAMS] [-c]\n");
        return ST_USAGE;
    }
    if (st_lwe_params_find(params, &b.params, &e))
        die(&e);
    b.hints = (struct st_hint_source){.digest = digest, .params = b.params->name, .read = read_hints, .ctx = &b};
    make_model(&b);
    if (b.csv)
        printf("what,scheme,rows,unit,value\n");
    fill_weights(&b);
    bench_pads(&b);
    bench_online(&b);
    return 0;
}
