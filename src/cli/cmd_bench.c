/* sotto bench engine: speed and memory of one model on this machine, beside the read bandwidth that bounds decoding.
 * sotto bench masked: bench_masked.c. sotto bench sealed: bench_sealed.c. */
#include "base/hooks.h"
#include "base/mem.h"
#include "base/pool.h"
#include "cli/bench_run.h"
#include "text/json.h"

#include <stdlib.h>
#include <string.h>

struct bench_opts {
    uint32_t prompt, gen, batch;
    const char *clients, *budgets, *policy;
    bool spawn, pin;
};
static const struct bench_opts defaults = {.gen = 128, .batch = 1};

enum { KEY_PROMPT = ST_KEY(0), KEY_GEN, KEY_BATCH, KEY_CLIENTS, KEY_SPAWN, KEY_PIN, KEY_BUDGETS, KEY_POLICY };

static const struct argp_option options[] = {
    {"prompt", KEY_PROMPT, "N", 0, "Prompt tokens per request; default 512, or what the context leaves", 0},
    {"gen", KEY_GEN, "N", 0, "Tokens to generate per request; default 128", 0},
    {"batch", KEY_BATCH, "N", 0, "engine, sealed: requests at once; default 1", 0},
    {"clients", KEY_CLIENTS, "LIST", 0, "masked: measure with so many requests at once; default 1,2,4,8,16", 0},
    {"spawn", KEY_SPAWN, NULL, 0,
     "masked: start a worker on this machine instead of --worker; sealed: measure with one as well", 0},
    {"pin", KEY_PIN, NULL, 0, "masked: one CPU for this side and the plain engine, another for the worker", 0},
    {"budgets", KEY_BUDGETS, "LIST", 0,
     "sealed: measure with so many percent of what lies inside as memory; default 50,25,10, and always 100", 0},
    {"policy", KEY_POLICY, "NAME", 0,
     "sealed: how the model is sealed, as for sotto seal; default all-inside, with --spawn paper", 0},
    {0},
};

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    struct bench_opts *o = opts;
    switch (key) {
    case KEY_PROMPT:
        return st_opt_u32("--prompt", arg, 1, 1u << 20, &o->prompt, e);
    case KEY_GEN:
        return st_opt_u32("--gen", arg, 2, 1u << 20, &o->gen, e);
    case KEY_CLIENTS:
        o->clients = arg;
        return 0;
    case KEY_POLICY:
        o->policy = arg;
        return 0;
    case KEY_BUDGETS:
        o->budgets = arg;
        return 0;
    case KEY_SPAWN:
        o->spawn = true;
        return 0;
    case KEY_PIN:
        o->pin = true;
        return 0;
    default:
        return st_opt_u32("--batch", arg, 1, 1024, &o->batch, e);
    }
}

struct roof {
    const uint64_t *p;
    size_t n; /* values, a multiple of 8 */
    uint64_t sums[1024];
};

static void read_part(void *arg, int thread, int n_threads)
{
    struct roof *r = arg;
    size_t lo, hi;
    uint64_t s[8] = {0};
    st_pool_part(r->n, 8, thread, n_threads, &lo, &hi);
    for (size_t i = lo; i + 8 <= hi; i += 8)
        for (int k = 0; k < 8; k++)
            s[k] += r->p[i + k];
    for (int k = 1; k < 8; k++)
        s[0] += s[k];
    r->sums[thread % 1024] = s[0];
}

/* Best of five passes over 512 MiB: what all threads together can read from memory, in GB/s. */
static int measure_roof(int n_threads, double *gbps, struct st_err *e)
{
    const size_t bytes = (size_t)512 << 20;
    struct st_pool *pool;
    struct roof r = {.n = bytes / 8};
    uint64_t *p = NULL;
    *gbps = 0;
    if (st_pool_new(n_threads, &pool, e))
        return e->code;
    int rc = st_alloc(&p, r.n, sizeof *p, "the bandwidth test", e);
    if (!rc) {
        memset(p, 1, bytes);
        r.p = p;
        for (int i = 0; i < 5; i++) {
            double start = st_now();
            st_pool_run(pool, read_part, &r);
            double v = (double)bytes / (st_now() - start) / 1e9;
            *gbps = v > *gbps ? v : *gbps;
        }
    }
    free(p);
    st_pool_free(pool);
    return rc;
}

/* Key/value bytes that one decoding step reads, half-way through the reply. */
static double kv_read(const struct st_open *m, enum st_dtype kv, const struct bench_opts *o)
{
    const struct st_config *c = &m->model->config;
    double per_token = (double)c->n_layer * c->n_kv_head * (c->head_dim + c->v_head_dim) * (double)st_dtype_size(kv);
    double seen = o->prompt + o->gen / 2.0;
    if (c->sliding_window && seen > c->sliding_window)
        seen = c->sliding_window;
    return per_token * seen * o->batch;
}

static void print(const struct st_cli *cli, const struct st_open *m, const struct bench_opts *o,
                  const struct st_bench_figures *f, uint64_t rss, double read_gbps, double roof_gbps)
{
    struct st_engine_stats s;
    struct st_buf name = {0};
    st_engine_stats(m->engine, &s);
    st_json_quote(&name, m->model->name, strlen(m->model->name));
    if (cli->json)
        printf("{\"model\":%s,\"prefill_tps\":%.2f,\"decode_tps\":%.2f,\"ttft_ms\":%.3f,\"rss_bytes\":%llu,"
               "\"weight_bytes\":%llu,\"matrix_bytes\":%llu,\"kv_bytes\":%llu,\"read_gbps\":%.2f,\"roof_gbps\":%.2f,"
               "\"load_ms\":%.2f,\"isa\":"
               "\"%s\","
               "\"threads\":%d,\"batch\":%u,\"prompt\":%u,\"gen\":%u}\n",
               name.p ? name.p : "null", f->prefill_tps, f->decode_tps, f->ttft * 1e3, (unsigned long long)rss,
               (unsigned long long)m->model->weight_bytes, (unsigned long long)m->model->matrix_bytes,
               (unsigned long long)s.kv_bytes, read_gbps, roof_gbps, m->load_s * 1e3, st_engine_isa(m->engine),
               st_engine_threads(m->engine), o->batch, o->prompt, o->gen);
    else
        printf("%s: %d threads, %s, batch %u\n"
               "  prefill %10.1f tokens/s  (%u tokens, first token after %.1f ms)\n"
               "  decode  %10.1f tokens/s  (reads %.1f GB/s of %.1f GB/s that this memory gives: %.0f %%)\n"
               "  load    %10.1f ms\n"
               "  memory  %10.1f MiB  (weights %.1f MiB, cache %.1f MiB)\n",
               m->model->name, st_engine_threads(m->engine), st_engine_isa(m->engine), o->batch, f->prefill_tps,
               o->prompt, f->ttft * 1e3, f->decode_tps, read_gbps, roof_gbps,
               roof_gbps > 0 ? 100 * read_gbps / roof_gbps : 0, m->load_s * 1e3, (double)rss / 0x1p20,
               (double)m->model->matrix_bytes / 0x1p20, (double)s.kv_bytes / 0x1p20);
    st_buf_free(&name);
}

static int run_engine(const struct st_cli *cli, struct bench_opts *o, struct st_err *e)
{
    struct st_open m = {0};
    char path[ST_PATH_MAX];
    struct st_config config;
    struct st_bench_figures warm, f = {0};
    double roof;
    int rc;
    if (o->clients || o->spawn || o->pin)
        return st_fail(e, ST_USAGE, "bench engine: --clients, --spawn and --pin are for bench masked");
    if (o->budgets || o->policy)
        return st_fail(e, ST_USAGE, "bench engine: --budgets and --policy are for bench sealed");
    if ((rc = st_open_model_path(cli->args[1], path, e)) != 0 || (rc = st_open_config(path, &config, e)) != 0)
        return rc;
    if (!o->prompt)
        o->prompt = config.n_ctx >= 512 + o->gen ? 512 : config.n_ctx > o->gen ? config.n_ctx - o->gen : 1;
    const struct st_engine_opts eo = {
        .n_ctx = o->prompt + o->gen, .n_kv = (o->prompt + o->gen + 64) * o->batch, .max_batch = o->batch};
    if ((rc = st_open(cli, cli->args[1], 0, &eo, &m, e)) != 0)
        return rc;
    /* The first run maps the weights' pages; it is not counted. */
    const struct st_bench_run first = {.prompt = o->prompt < 32 ? o->prompt : 32, .gen = 2, .batch = 1};
    const struct st_bench_run counted = {.prompt = o->prompt, .gen = o->gen, .batch = o->batch};
    if ((rc = st_bench_run(&m, &first, &warm, e)) != 0 || (rc = st_bench_run(&m, &counted, &f, e)) != 0)
        goto out;
    uint64_t rss = st_mem_peak();
    bool is_f32 = m.model->config.dtype == ST_DTYPE_F32 || cli->dtype == ST_CLI_DTYPE_F32;
    enum st_dtype kv = cli->kv_dtype >= 0 ? (enum st_dtype)cli->kv_dtype : is_f32 ? ST_DTYPE_F32 : ST_DTYPE_BF16;
    double read =
        f.step_s > 0 ? ((double)st_model_read_bytes(m.model, o->batch) + kv_read(&m, kv, o)) / f.step_s / 1e9 : 0;
    if ((rc = measure_roof(st_engine_threads(m.engine), &roof, e)) != 0)
        goto out;
    print(cli, &m, o, &f, rss, read, roof);
out:
    st_open_close(&m);
    return rc;
}

static int run_sealed(const struct st_cli *cli, const struct bench_opts *o, struct st_err *e)
{
    const struct st_bench_sealed so = {.prompt = o->prompt,
                                       .gen = o->gen,
                                       .batch = o->batch,
                                       .budgets = o->budgets,
                                       .policy = o->policy,
                                       .spawn = o->spawn};
    if (o->clients || o->pin)
        return st_fail(e, ST_USAGE, "bench sealed: --clients and --pin are for bench masked");
    return st_bench_sealed(cli, &so, e);
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    struct bench_opts *o = opts;
    if (strcmp(cli->args[0], "sealed") == 0)
        return run_sealed(cli, o, e);
    if (cli->n_args < 2)
        return st_fail(e, ST_USAGE, "bench %s: want MODEL", cli->args[0]);
    if (strcmp(cli->args[0], "engine") == 0)
        return run_engine(cli, o, e);
    if (strcmp(cli->args[0], "masked") != 0)
        return st_fail(e, ST_USAGE, "bench: want one of engine, masked, sealed, got '%s'", cli->args[0]);
    const struct st_bench_masked mo = {
        .prompt = o->prompt, .gen = o->gen, .clients = o->clients, .spawn = o->spawn, .pin = o->pin};
    if (o->batch != 1)
        return st_fail(e, ST_USAGE, "bench masked: want --clients instead of --batch");
    if (o->budgets || o->policy)
        return st_fail(e, ST_USAGE, "bench masked: --budgets and --policy are for bench sealed");
    return st_bench_masked(cli, &mo, e);
}

const struct st_cmd st_cmd_bench = {
    .name = "bench",
    .summary = "Measure speed and memory",
    .args_doc = "engine|masked|sealed [MODEL]",
    .min_args = 1,
    .max_args = 2,
    .doc = "engine: measures prefill and decode speed on random tokens, memory, load time, and how much of this "
           "machine's "
           "read bandwidth decoding uses. masked: decodes through a worker and says where the time of a token goes: "
           "this side (masks, checks, the rest), worker, link, pads; beside the plain int8 engine. sealed: decodes "
           "within several budgets of "
           "decrypted memory, beside all of it decrypted and the model that is not sealed; MODEL is sealed for that "
           "into a "
           "temporary file (TMPDIR), the demo model if none is named, or a sealed file as it is.",
    .examples = "  sotto bench engine models/demo --prompt 128 --gen 64\n"
                "  sotto bench engine ~/models/llama-1b --dtype int8 --batch 8 --json\n"
                "  sotto bench masked models/demo --spawn --pin\n"
                "  sotto bench masked ~/models/llama-1b --worker tcp://gpu.example:7790 --json\n"
                "  sotto bench sealed --spawn\n"
                "  sotto bench sealed ~/models/llama-1b --budgets 50,25,10,5 --json",
    .shared =
        ST_CLI_MODEL | ST_CLI_THREADS | ST_CLI_JSON | ST_CLI_MASKED | ST_CLI_SEALED | ST_CLI_UNLOCK | ST_CLI_ADAPTER,
    .options = options,
    .opts_size = sizeof(struct bench_opts),
    .defaults = &defaults,
    .set = set,
    .run = run,
};
