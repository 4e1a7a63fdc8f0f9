#include "cli/bench_run.h"
#include "base/buf.h"
#include "base/hooks.h"

#include <stdlib.h>
#include <string.h>

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

int st_bench_run(struct st_open *m, const struct st_bench_run *r, struct st_bench_figures *out, struct st_err *e)
{
    uint32_t n_prompt = r->prompt, batch = r->batch;
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
                                            .n_predict = r->gen,
                                            .ignore_eos = true,
                                            .adapter = m->adapter,
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
            if (r->mark)
                r->mark(r->arg, true);
            from = st_now();
            n_from = n;
        }
        if (n_done && !to) {
            to = st_now();
            n_to = n;
            if (r->mark)
                r->mark(r->arg, false);
        }
    }
    for (uint32_t b = 0; b < batch && !rc; b++)
        if ((rc = lanes[b].err.code) != 0)
            *e = lanes[b].err;
    out->ttft = lanes[0].first - start;
    out->prefill_tps = from > start ? (double)n_prompt * batch / (from - start) : 0;
    out->decode_tps = to > from && from > 0 ? (double)(n_to - n_from) / (to - from) : 0;
    out->n_decoded = n_to - n_from;
    out->step_s = out->decode_tps > 0 ? batch / out->decode_tps : 0;
out:
    free(lanes);
    free(ids);
    return rc;
}
