#include "base/buf.h"
#include "base/hooks.h"
#include "engine/engine.h"
#include "protect/covariant/verify.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PROBES 4
#define PROBE_LEN 32
#define PROBE_SEED 0x50726f6265ull

/* The plain model's logits on every probe, then the comparison. */
struct probe {
    const struct st_cov_cipher *cipher;
    uint32_t n_vocab, n_ids;
    uint32_t plain[PROBE_LEN];
    float *logits; /* [n_ids, n_vocab] of the probe under way */
    bool compare;
    double max_err;
    size_t n_seen;
    struct st_err err;
};

static void on_logits(void *arg, size_t pos, const float *row)
{
    struct probe *p = arg;
    float *plain = p->logits + pos * p->n_vocab;
    p->n_seen++;
    if (!p->compare) {
        memcpy(plain, row, p->n_vocab * sizeof *row);
        return;
    }
    double top = 0, diff = 0;
    for (uint32_t i = 0; i < p->n_vocab; i++) {
        double d = fabs((double)plain[i] - (double)row[p->cipher->to[i]]);
        top = fmax(top, fabs((double)plain[i]));
        diff = isnan(d) ? INFINITY : fmax(diff, d);
    }
    /* Infinite logits agree with nothing: inf / inf would be NaN, which fmax() reads over. */
    p->max_err = fmax(p->max_err, top > 0 && isfinite(diff) ? diff / top : diff);
}

static void on_end(void *arg, enum st_finish finish, int64_t stop_id, const struct st_err *e)
{
    struct probe *p = arg;
    (void)stop_id;
    if (finish == ST_FINISH_ERROR && e)
        p->err = *e;
}

static int run_probe(struct st_engine *en, struct probe *p, struct st_err *e)
{
    uint32_t ids[PROBE_LEN];
    for (uint32_t i = 0; i < p->n_ids; i++)
        ids[i] = p->compare ? p->cipher->to[p->plain[i]] : p->plain[i];
    struct st_request_opts o = {.ids = ids,
                                .n_ids = p->n_ids,
                                .n_predict = 1,
                                .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1},
                                .ignore_eos = true,
                                .on_end = on_end,
                                .on_prompt_logits = on_logits,
                                .arg = p};
    struct st_request *r;
    p->n_seen = 0;
    int rc = st_engine_submit(en, &o, &r, e);
    if (rc)
        return rc;
    while (st_engine_step(en) > 0)
        ;
    if (p->err.code) {
        *e = p->err;
        return e->code;
    }
    return p->n_seen == p->n_ids
               ? 0
               : st_fail(e, ST_INTERNAL, "verify: the engine gave %zu of %u logits", p->n_seen, p->n_ids);
}

static int open_engine(const struct st_model *m, const struct st_cov_opts *o, uint32_t n_ctx, struct st_engine **en,
                       struct st_err *e)
{
    struct st_engine_opts opts = {.n_threads = o->n_threads,
                                  .isa = o->isa,
                                  .kv_dtype = ST_DTYPE_F32,
                                  .n_ctx = n_ctx,
                                  .n_kv = n_ctx,
                                  .max_batch = 1,
                                  .max_row = PROBE_LEN,
                                  /* Activations of a bf16 model stay f32: the comparison is of weights. */
                                  .deterministic = true};
    return st_engine_new(m, &opts, en, e);
}

int st_cov_compare_logits(const struct st_model *plain, const struct st_model *wide, const struct st_cov_cipher *cipher,
                          const struct st_cov_opts *o, double *max_rel_err, struct st_err *e)
{
    struct st_engine *a = NULL, *b = NULL;
    struct st_rng rng;
    uint32_t ctx = plain->config.n_ctx < PROBE_LEN + 1 ? plain->config.n_ctx : PROBE_LEN + 1;
    struct probe p = {.cipher = cipher, .n_vocab = plain->config.n_vocab, .n_ids = ctx > 1 ? ctx - 1 : 1};
    int rc = st_alloc(&p.logits, (size_t)p.n_ids * p.n_vocab, sizeof *p.logits, "probe logits", e);
    if (!rc)
        rc = open_engine(plain, o, ctx, &a, e);
    if (!rc)
        rc = open_engine(wide, o, ctx, &b, e);
    st_rng_seed(&rng, PROBE_SEED);
    for (int i = 0; !rc && i < PROBES; i++) {
        for (uint32_t j = 0; j < p.n_ids; j++)
            p.plain[j] = (uint32_t)(st_rng_next(&rng) % p.n_vocab);
        p.compare = false;
        rc = run_probe(a, &p, e);
        p.compare = true;
        if (!rc)
            rc = run_probe(b, &p, e);
        if (!rc && o->cancel && *o->cancel)
            rc = st_fail(e, ST_IO, "cancelled");
    }
    *max_rel_err = p.max_err;
    if (a)
        st_engine_free(a);
    if (b)
        st_engine_free(b);
    free(p.logits);
    return rc;
}
