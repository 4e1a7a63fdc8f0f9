/* sotto bench masked: decoding through a worker, and where the time of a token goes. The plain int8 engine runs beside
 * it on the same CPUs of this side. */
#include "base/hooks.h"
#include "cli/bench_run.h"
#include "cli/bench_worker.h"
#include "cli/masked.h"
#include "model/container.h"
#include "model/kit.h"
#include "text/json.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MAX_CLIENTS 16
#define MAX_ROUNDS 16
#define FILL_S 60   /* longest wait for full pads */
#define STILL_S 0.4 /* no new pad for so long: the pool is full */

/* All counters at one moment. */
struct moment {
    struct st_masked_figures f;
    double cpu_s; /* of this process, all threads */
};

struct round {
    uint32_t clients;
    struct st_bench_figures speed;
    struct moment from, to;
};

struct bench {
    struct st_cli cli; /* with --protect masked and, if spawned, the worker's address */
    const struct st_bench_masked *o;
    struct st_bench_beside beside;
    cpu_set_t before;
    int cpu_here, cpu_worker; /* with --pin */
    struct st_open m;
    struct round rounds[MAX_ROUNDS];
    struct round *now;
    int n_round;
    double plain_tps, fill_s;
};

static void take(const struct bench *b, struct moment *out)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    out->cpu_s = (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
    st_masked_figures(b->m.masked, &out->f);
}

static void mark(void *arg, bool begin)
{
    struct bench *b = arg;
    take(b, begin ? &b->now->from : &b->now->to);
}

static int read_clients(struct bench *b, struct st_err *e)
{
    const char *p = b->o->clients ? b->o->clients : "1,2,4,8,16";
    while (*p) {
        char *end;
        unsigned long v = strtoul(p, &end, 10);
        if (end == p || v < 1 || v > MAX_CLIENTS || (*end && *end != ',') || (*end && !end[1]) ||
            b->n_round == MAX_ROUNDS)
            return st_fail(e, ST_USAGE, "--clients: want numbers in 1..%d separated by commas, like 1,2,4",
                           MAX_CLIENTS);
        b->rounds[b->n_round++].clients = (uint32_t)v;
        p = end + (*end == ',');
    }
    return b->n_round ? 0 : st_fail(e, ST_USAGE, "--clients: want at least one number");
}

static int pin_to(int cpu, struct st_err *e)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return sched_setaffinity(0, sizeof set, &set) == 0 ? 0 : st_fail(e, ST_IO, "--pin: cannot bind to CPU %d", cpu);
}

/* The first two CPUs that this process may use. */
static int choose_cpus(struct bench *b, struct st_err *e)
{
    int found[2], n = 0;
    if (sched_getaffinity(0, sizeof b->before, &b->before) != 0)
        return st_fail(e, ST_IO, "--pin: cannot read which CPUs this process may use");
    for (int i = 0; i < CPU_SETSIZE && n < 2; i++)
        if (CPU_ISSET(i, &b->before))
            found[n++] = i;
    if (n < 2)
        return st_fail(e, ST_IO, "--pin: want two CPUs, this process may use %d", n);
    b->cpu_here = found[0];
    b->cpu_worker = found[1];
    b->cli.n_threads = 1;
    return 0;
}

static int spawn(struct bench *b, struct st_err *e)
{
    char model[ST_PATH_MAX];
    if (st_open_model_path(b->cli.args[1], model, e) || st_bench_begin(&b->beside, e) ||
        st_bench_hints(&b->beside, &b->cli, model, e) || (b->o->pin && pin_to(b->cpu_worker, e)) ||
        st_bench_worker(&b->beside, &b->cli, model, b->o->pin ? 1 : b->cli.n_threads, e))
        return e->code;
    return 0;
}

/* The int8 engine without a protection. A kit has no weights for it. */
static int run_plain(struct bench *b, const struct st_engine_opts *eo, const struct st_bench_run *r, struct st_err *e)
{
    struct st_cli cli = b->cli;
    struct st_open plain;
    struct st_bench_figures warm, f;
    char path[ST_PATH_MAX];
    cli.protect = NULL;
    cli.masked = (struct st_cli_masked){0};
    cli.dtype = ST_CLI_DTYPE_INT8;
    if (st_open_model_path(cli.args[1], path, e))
        return e->code;
    if (st_kit_is(path))
        return 0;
    const struct st_bench_run first = {.prompt = 1, .gen = 4, .batch = 1};
    if (st_open(&cli, path, 0, eo, &plain, e))
        return e->code;
    int rc = st_bench_run(&plain, &first, &warm, e);
    if (!rc)
        rc = st_bench_run(&plain, r, &f, e);
    if (!rc)
        b->plain_tps = f.decode_tps;
    st_open_close(&plain);
    return rc;
}

/* Pads are made in idle time: the measurement begins when that is over. */
static void wait_for_pads(struct bench *b)
{
    const struct timespec tick = {0, 20 * 1000 * 1000};
    struct st_masked_figures f;
    double start = st_now(), grown = start;
    size_t ready = 0;
    while (st_now() - grown < STILL_S && st_now() - start < FILL_S) {
        st_masked_figures(b->m.masked, &f);
        if (f.masked.pads.ready > ready) {
            ready = f.masked.pads.ready;
            grown = st_now();
        }
        nanosleep(&tick, NULL);
    }
    if (!b->fill_s)
        b->fill_s = grown - start;
}

struct costs { /* microseconds per token */
    double total, trusted, mask, meanwhile, check, unmask, rest, worker, link, pad, pad_wait;
    double exchanges, up, down;
};

static void costs_of(const struct round *r, struct costs *c)
{
    const struct st_masked_figures *a = &r->from.f, *z = &r->to.f;
    double n = r->speed.n_decoded ? (double)r->speed.n_decoded : 1, us = 1e6 / n;
    double made = z->masked.pads.made ? (double)z->masked.pads.made : 1;
    *c = (struct costs){.total = r->speed.decode_tps > 0 ? 1e6 / r->speed.decode_tps : 0,
                        .trusted = (r->to.cpu_s - r->from.cpu_s - (z->masked.pads.make_s - a->masked.pads.make_s)) * us,
                        .mask = (z->masked.mask_s - a->masked.mask_s) * us,
                        .meanwhile = (z->masked.meanwhile_s - a->masked.meanwhile_s) * us,
                        .check = (z->masked.check_s - a->masked.check_s) * us,
                        .unmask = (z->masked.unmask_s - a->masked.unmask_s) * us,
                        .worker = (z->client.work_s - a->client.work_s) * us,
                        .link = (z->client.wait_s - a->client.wait_s - (z->client.work_s - a->client.work_s)) * us,
                        .pad = z->masked.pads.make_s / made * z->n_exchange * 1e6,
                        .pad_wait = (z->masked.pads.wait_s - a->masked.pads.wait_s) * us,
                        .exchanges = (double)(z->masked.n_exchange - a->masked.n_exchange) / n,
                        .up = (double)(z->client.bytes_up - a->client.bytes_up) / n,
                        .down = (double)(z->client.bytes_down - a->client.bytes_down) / n};
    c->rest = c->trusted - c->mask - c->meanwhile - c->check - c->unmask;
}

static void print_json(const struct bench *b, const struct costs *c)
{
    struct st_buf out = {0};
    const struct round *r = &b->rounds[0];
    st_buf_add_str(&out, "{\"model\":");
    st_json_quote(&out, b->m.model->name, strlen(b->m.model->name));
    st_open_put_protection(&b->m, &out);
    st_buf_addf(&out,
                ",\"clients\":%u,\"tokens_per_s\":%.2f,\"plain_tokens_per_s\":%.2f,\"ratio\":%.4f,"
                "\"exchanges_per_token\":%.2f,\"bytes_up_per_token\":%.0f,\"bytes_down_per_token\":%.0f",
                r->clients, r->speed.decode_tps, b->plain_tps,
                b->plain_tps > 0 ? r->speed.decode_tps / b->plain_tps : 0, c->exchanges, c->up, c->down);
    st_buf_addf(&out,
                ",\"token_us\":%.1f,\"trusted_us\":%.1f,\"mask_us\":%.1f,\"meanwhile_us\":%.1f,\"check_us\":%.1f,"
                "\"unmask_us\":%.1f,"
                "\"rest_us\":%.1f,\"worker_us\":%.1f,\"link_us\":%.1f,\"pad_us\":%.1f,\"pad_wait_us\":%.1f",
                c->total, c->trusted, c->mask, c->meanwhile, c->check, c->unmask, c->rest, c->worker, c->link, c->pad,
                c->pad_wait);
    st_buf_addf(&out, ",\"pads_capacity\":%zu,\"pad_bytes\":%zu,\"pad_fill_s\":%.2f,\"pinned\":%s,\"threads\":%d",
                r->to.f.masked.pads.capacity, r->to.f.masked.pads.bytes, b->fill_s, b->o->pin ? "true" : "false",
                st_engine_threads(b->m.engine));
    for (int i = 0; i < b->n_round; i++)
        st_buf_addf(&out, ",\"clients_%u_tokens_per_s\":%.2f", b->rounds[i].clients, b->rounds[i].speed.decode_tps);
    st_buf_add_str(&out, "}");
    puts(out.p && !out.failed ? out.p : "{}");
    st_buf_free(&out);
}

static void print_text(const struct bench *b, const struct costs *c)
{
    struct st_masked_words w;
    const struct round *r = &b->rounds[0];
    st_masked_words(b->m.masked, &w);
    printf("%s, %s, replies checked: %s\n", b->m.model->name, w.scheme, w.verified);
    printf("  decode   %9.1f tokens/s with %u at once; plain int8 here %.1f (ratio %.2f)\n", r->speed.decode_tps,
           r->clients, b->plain_tps, b->plain_tps > 0 ? r->speed.decode_tps / b->plain_tps : 0);
    printf("  token    %9.1f us: worker %.1f, link %.1f, this side's processor %.1f, waiting for pads %.1f\n", c->total,
           c->worker, c->link, c->trusted, c->pad_wait);
    printf(
        "  trusted  %9.1f us: masks %.1f, while the worker computes %.1f, checks %.1f, unmasking %.1f, the rest %.1f\n",
        c->trusted, c->mask, c->meanwhile, c->check, c->unmask, c->rest);
    printf("  pads     %9.1f us of processor time per token, made in idle time (%zu pads in %.1f s)\n", c->pad,
           r->to.f.masked.pads.capacity, b->fill_s);
    printf("  link     %9.1f exchanges, %.0f bytes up, %.0f bytes down per token\n", c->exchanges, c->up, c->down);
    for (int i = 1; i < b->n_round; i++)
        printf("  %2u at once %7.1f tokens/s\n", b->rounds[i].clients, b->rounds[i].speed.decode_tps);
}

static int measure(struct bench *b, struct st_err *e)
{
    const struct st_bench_masked *o = b->o;
    uint32_t prompt = o->prompt ? o->prompt : 16, most = 0;
    struct st_bench_figures warm;
    struct costs c;
    for (int i = 0; i < b->n_round; i++)
        most = b->rounds[i].clients > most ? b->rounds[i].clients : most;
    const struct st_engine_opts eo = {
        .n_ctx = prompt + o->gen, .n_kv = (prompt + o->gen + 64) * most, .max_batch = most};
    const struct st_bench_run plain = {.prompt = prompt, .gen = o->gen, .batch = 1};
    if (run_plain(b, &eo, &plain, e) || st_open(&b->cli, b->cli.args[1], 0, &eo, &b->m, e))
        return e->code;
    const struct st_bench_run first = {.prompt = 1, .gen = 4, .batch = 1};
    if (st_bench_run(&b->m, &first, &warm, e))
        return e->code;
    for (int i = 0; i < b->n_round; i++) {
        b->now = &b->rounds[i];
        const struct st_bench_run r = {
            .prompt = prompt, .gen = o->gen, .batch = b->now->clients, .mark = mark, .arg = b};
        wait_for_pads(b);
        if (st_bench_run(&b->m, &r, &b->now->speed, e))
            return e->code;
    }
    costs_of(&b->rounds[0], &c);
    if (b->cli.json)
        print_json(b, &c);
    else
        print_text(b, &c);
    return 0;
}

static void clean_up(struct bench *b)
{
    st_open_close(&b->m);
    st_bench_end(&b->beside);
}

int st_bench_masked(const struct st_cli *cli, const struct st_bench_masked *o, struct st_err *e)
{
    struct bench b = {.cli = *cli, .o = o};
    b.cli.protect = "masked";
    b.cli.masked.offload_all = true; /* what is measured is the way through the worker */
    int rc = read_clients(&b, e);
    if (!rc && st_container_is(cli->args[1]))
        rc = st_fail(e, ST_USAGE, "bench masked: %s is sealed; `bench sealed --spawn` measures it with a worker",
                     cli->args[1]);
    if (!rc && !o->spawn && !cli->masked.n_worker)
        rc = st_fail(e, ST_USAGE, "bench masked: want --worker ADDRESS or --spawn");
    if (!rc && cli->masked.reference)
        rc = st_fail(e, ST_USAGE, "bench masked: --reference has no worker to measure");
    if (!rc && o->pin)
        rc = choose_cpus(&b, e);
    if (!rc && o->spawn)
        rc = spawn(&b, e);
    if (!rc && o->pin)
        rc = pin_to(b.cpu_here, e);
    if (!rc)
        rc = measure(&b, e);
    clean_up(&b);
    if (o->pin)
        sched_setaffinity(0, sizeof b.before, &b.before);
    return rc;
}
