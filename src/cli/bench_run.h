/* One measured run of an engine on random tokens: what the benches of engine and protections share. */
#ifndef ST_CLI_BENCH_RUN_H
#define ST_CLI_BENCH_RUN_H

#include "cli/open.h"

struct st_bench_run {
    uint32_t prompt, gen, batch; /* tokens of each request, requests at once */
    /* Called when the measured part of decoding begins and when it ends; may be NULL. */
    void (*mark)(void *arg, bool begin);
    void *arg;
};

struct st_bench_figures {
    double ttft, prefill_tps, decode_tps, step_s;
    uint64_t n_decoded; /* tokens between the marks */
};

/* All prompts are submitted together; decoding is timed from the moment when the last of them has its first token to
 * the end of the first that ends, so that every step in between has `batch` rows. */
int st_bench_run(struct st_open *m, const struct st_bench_run *r, struct st_bench_figures *out,
                 struct st_err *e) ST_MUST_CHECK;

/* `sotto bench masked`. */
struct st_bench_masked {
    uint32_t prompt, gen;
    const char *clients; /* "1,2,4" */
    bool spawn, pin;
};
int st_bench_masked(const struct st_cli *cli, const struct st_bench_masked *o, struct st_err *e) ST_MUST_CHECK;

/* `sotto bench sealed`. */
struct st_bench_sealed {
    uint32_t prompt, gen, batch;
    const char *budgets; /* "50,25,10": percentages of what lies inside; NULL = these */
    const char *policy;  /* how a model is sealed; NULL = all-inside, with a worker paper */
    bool spawn;          /* also with a worker for what lies outside */
};
int st_bench_sealed(const struct st_cli *cli, const struct st_bench_sealed *o, struct st_err *e) ST_MUST_CHECK;

#endif
