/* sotto bench engine: speed and memory of one model on this machine, beside the read bandwidth that bounds decoding. */
#include "base/hooks.h"
#include "base/mem.h"
#include "base/pool.h"
#include "cli/open.h"
#include "text/json.h"

#include <stdlib.h>
#include <string.h>

struct bench_opts {
    uint32_t prompt, gen, batch;
};
static const struct bench_opts defaults = {0, 128, 1};

enum { KEY_PROMPT = ST_KEY(0), KEY_GEN, KEY_BATCH };

static const struct argp_option options[] = {
    {"prompt", KEY_PROMPT, "N", 0, "Prompt tokens per request; default 512, or what the context leaves", 0},
    {"gen", KEY_GEN, "N", 0, "Tokens to generate per request; default 128", 0},
    {"batch", KEY_BATCH, "N", 0, "Requests at once; default 1", 0},
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

struct lane {
    uint64_t n;
    double first, end;
    struct st_err err;
    bool done;
};

static bool on_token(void *arg, const struct st_sampled *tok)
{
    struct lane *l = arg;
    (void)tok;
    if (!l->n++)
        l->first = st_now();
    return true;
}

static void on_end(void *arg, enum st_finish finish, int64_t stop_id, const struct st_err *e)
{
    struct lane *l = arg;
    (void)finish;
    (void)stop_id;
    l->end = st_now();
    l->done = true;
    if (e)
        l->err = *e;
}

struct figures {
    double ttft, prefill_tps, decode_tps, step_s;
};

/* One measured run: all prompts are submitted together; decoding is timed from the moment when the last of them has its
 * first token to the end of the first that ends, so that every step in between has `batch` rows. */
static int measure(struct st_open *m, uint32_t n_prompt, uint32_t n_gen, uint32_t batch, struct figures *out,
                   struct st_err *e)
{
    struct lane *lanes = NULL;
    uint32_t *ids = NULL;
    struct st_rng rng;
    int rc;
    st_rng_seed(&rng, 1);
    if ((rc = st_alloc(&lanes, batch, sizeof *lanes, "bench", e)) != 0 ||
        (rc = st_alloc(&ids, n_prompt, sizeof *ids, "bench", e)) != 0)
        goto out;
    memset(lanes, 0, batch * sizeof *lanes);
    double start = st_now();
    for (uint32_t b = 0; b < batch && !rc; b++) {
        for (uint32_t i = 0; i < n_prompt; i++)
            ids[i] = (uint32_t)(st_rng_next(&rng) % m->model->config.n_vocab);
        struct st_request *request;
        const struct st_request_opts req = {.ids = ids,
                                            .n_ids = n_prompt,
                                            .n_predict = n_gen,
                                            .ignore_eos = true,
                                            .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1},
                                            .on_token = on_token,
                                            .on_end = on_end,
                                            .arg = &lanes[b]};
        rc = st_engine_submit(m->engine, &req, &request, e);
    }
    double from = 0, to = 0;
    uint64_t n_from = 0, n_to = 0;
    for (size_t left = 1; left;) {
        left = st_engine_step(m->engine);
        uint64_t n = 0;
        uint32_t n_first = 0, n_done = 0;
        for (uint32_t b = 0; b < batch; b++) {
            n += lanes[b].n;
            n_first += lanes[b].n > 0;
            n_done += lanes[b].done;
        }
        if (n_first == batch && !from) {
            from = st_now();
            n_from = n;
        }
        if (n_done && !to) {
            to = st_now();
            n_to = n;
        }
    }
    for (uint32_t b = 0; b < batch && !rc; b++)
        if ((rc = lanes[b].err.code) != 0)
            *e = lanes[b].err;
    out->ttft = lanes[0].first - start;
    out->prefill_tps = from > start ? (double)n_prompt * batch / (from - start) : 0;
    out->decode_tps = to > from && from > 0 ? (double)(n_to - n_from) / (to - from) : 0;
    out->step_s = out->decode_tps > 0 ? batch / out->decode_tps : 0;
out:
    free(lanes);
    free(ids);
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
                  const struct figures *f, uint64_t rss, double read_gbps, double roof_gbps)
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

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    struct bench_opts *o = opts;
    struct st_open m = {0};
    char path[ST_PATH_MAX];
    struct st_config config;
    struct figures warm, f = {0};
    double roof;
    int rc;
    if (strcmp(cli->args[0], "engine") != 0)
        return st_fail(e, ST_USAGE, "bench: want one of engine, got '%s'", cli->args[0]);
    if ((rc = st_open_model_path(cli->args[1], path, e)) != 0 || (rc = st_open_config(path, &config, e)) != 0)
        return rc;
    if (!o->prompt)
        o->prompt = config.n_ctx >= 512 + o->gen ? 512 : config.n_ctx > o->gen ? config.n_ctx - o->gen : 1;
    const struct st_engine_opts eo = {
        .n_ctx = o->prompt + o->gen, .n_kv = (o->prompt + o->gen + 64) * o->batch, .max_batch = o->batch};
    if ((rc = st_open(cli, cli->args[1], 0, &eo, &m, e)) != 0)
        return rc;
    /* The first run maps the weights' pages; it is not counted. */
    if ((rc = measure(&m, o->prompt < 32 ? o->prompt : 32, 2, 1, &warm, e)) != 0 ||
        (rc = measure(&m, o->prompt, o->gen, o->batch, &f, e)) != 0)
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

const struct st_cmd st_cmd_bench = {
    .name = "bench",
    .summary = "Measure speed and memory",
    .args_doc = "engine MODEL",
    .min_args = 2,
    .max_args = 2,
    .doc = "Measures prefill and decode speed on random tokens, memory, load time, and how much of this machine's read "
           "bandwidth decoding uses.",
    .examples = "  sotto bench engine models/demo --prompt 128 --gen 64\n"
                "  sotto bench engine ~/models/llama-1b --dtype int8 --batch 8 --json",
    .shared = ST_CLI_MODEL | ST_CLI_THREADS | ST_CLI_JSON,
    .options = options,
    .opts_size = sizeof(struct bench_opts),
    .defaults = &defaults,
    .set = set,
    .run = run,
};
