#include "base/hooks.h"
#include "crypto/digest.h"
#include "protect/covariant/covariant.h"
#include "protect/covariant/manifest.h"
#include "protect/covariant/out_config.h"
#include "protect/covariant/out_gguf.h"
#include "protect/covariant/out_tokenizer.h"
#include "protect/covariant/setup.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define SHARD_BYTES ((uint64_t)4 << 30)
#define MEMORY_BYTES ((uint64_t)2 << 30)

/* Everything of one compilation. */
struct build {
    struct st_cov_setup s;
    struct st_cov_out out;
    struct st_cov_out_tensor *tensors; /* [plan.n_weight] */
    struct st_cov_run *run;
    struct st_progress progress;
};

/* Jobs point to the keys of their layer: those of a layer are done before the next one's are drawn. */
static int transform(struct build *b, struct st_err *e)
{
    const struct st_plan *p = &b->s.model->plan;
    struct st_cov_job j;
    int rc = 0;
    for (int i = 0; !rc && i < p->n_weight; i++) {
        if (i && p->weights[i].layer != p->weights[i - 1].layer)
            rc = st_cov_run_flush(b->run, e);
        if (!rc && st_cov_out_done(&b->out, &b->tensors[i])) {
            st_cov_run_skip(b->run, &b->tensors[i]);
            continue;
        }
        if (!rc)
            rc = st_cov_rules_job(&b->s.rules, i, &j, e);
        j.out = &b->tensors[i];
        if (!rc)
            rc = st_cov_run_add(b->run, &j, e);
    }
    return rc ? rc : st_cov_run_flush(b->run, e);
}

/* Begins the journal, or takes up that of a run that did not end. */
static int bind(struct build *b, struct st_cov_out_tensor **list, const struct st_cov_opts *o, struct st_err *e)
{
    struct st_cov_binding binding;
    int rc = st_cov_key_commit(b->s.key, b->s.digest, "", binding.commitment, e);
    st_hex(b->s.digest, sizeof b->s.digest, binding.source);
    if (!rc)
        rc = st_cov_opts_line(o, b->s.expand, binding.options, sizeof binding.options, e);
    return rc ? rc : st_cov_out_bind(&b->out, &binding, list, b->s.model->plan.n_weight, o->restart, e);
}

/* The directory: weight files and the small ones. */
static int write_hf(struct build *b, struct st_cov_out_tensor **list, json_t *manifest, const char *src,
                    double norm_eps, struct st_err *e)
{
    uint64_t shard = b->s.rules.opts->shard_bytes;
    int rc = st_cov_out_plan(&b->out, list, b->s.model->plan.n_weight, shard ? shard : SHARD_BYTES, e);
    if (!rc)
        rc = st_cov_write_json(&b->out, ST_COV_MANIFEST, json_incref(manifest), e);
    if (!rc)
        rc = st_cov_write_config(&b->out, &b->s.config, norm_eps, src, e);
    if (!rc)
        rc = st_cov_write_tokenizer(&b->out, &b->s.config, e);
    return rc;
}

static int write_gguf(struct build *b, struct st_cov_out_tensor **list, json_t *manifest, double norm_eps,
                      struct st_err *e)
{
    char *text = json_dumps(manifest, JSON_PRESERVE_ORDER);
    int rc = text ? st_cov_out_plan_gguf(&b->out, list, b->s.model->plan.n_weight, &b->s.config, norm_eps, text, e)
                  : st_fail(e, ST_MEMORY, "manifest: out of memory");
    free(text);
    return rc;
}

/* Everything but the weights. */
static int write_head(struct build *b, struct st_cov_out_tensor **list, const char *src, struct st_err *e)
{
    struct st_cov_manifest m = {.made = *b->s.rules.opts};
    m.made.expand = b->s.expand;
    int rc = 0;
    if (m.made.homophones)
        rc = st_cov_frequent_seal(&b->s.frequent, b->s.digest, b->s.key, m.frequent, e);
    if (!rc)
        rc = st_cov_manifest_commit(&m, b->s.key, b->s.digest, e);
    if (rc)
        return rc;
    json_t *manifest = st_cov_manifest_json(&m);
    if (!manifest)
        rc = st_fail(e, ST_MEMORY, "manifest: out of memory");
    else if (m.made.format == ST_COV_FORMAT_GGUF)
        rc = write_gguf(b, list, manifest, b->s.norm_eps, e);
    else
        rc = write_hf(b, list, manifest, src, b->s.norm_eps, e);
    json_decref(manifest);
    return rc;
}

static int lay_out(struct build *b, const struct st_cov_opts *o, const char *src, struct st_err *e)
{
    int n = b->s.model->plan.n_weight;
    struct st_cov_out_tensor **list = NULL;
    int rc = st_alloc(&b->tensors, (size_t)n, sizeof *b->tensors, "tensor list", e);
    if (!rc)
        rc = st_alloc(&list, (size_t)n, sizeof *list, "tensor list", e);
    for (int i = 0; !rc && i < n; i++) {
        rc = st_cov_rules_describe(&b->s.rules, i, &b->tensors[i], e);
        b->tensors[i].weight = &b->s.model->plan.weights[i];
        list[i] = &b->tensors[i];
    }
    if (!rc && o->format == ST_COV_FORMAT_GGUF)
        rc = st_cov_gguf_types(b->tensors, n, &b->s.config, o->dtype, e);
    if (!rc)
        rc = bind(b, list, o, e);
    if (!rc)
        rc = write_head(b, list, src, e);
    free(list);
    return rc;
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compile(struct build *b, const struct st_cov_opts *o, struct st_err *e)
{
    uint64_t total = 0;
    const struct st_cov_run_opts run = {.model = b->s.model,
                                        .key = b->s.key,
                                        .digest = b->s.digest,
                                        .out = &b->out,
                                        .n_threads = o->n_threads,
                                        .memory = o->memory_bytes ? o->memory_bytes : MEMORY_BYTES,
                                        .progress = &b->progress,
                                        .cancel = o->cancel};
    for (int i = 0; i < b->s.model->plan.n_weight; i++)
        total += b->tensors[i].bytes;
    st_progress_start(&b->progress, "obfuscate", "B", total);
    b->progress.on = b->progress.on && o->progress;
    double start = st_now(), cpu = cpu_seconds();
    int rc = st_cov_run_new(&run, &b->run, e);
    if (!rc)
        rc = transform(b, e);
    st_progress_end(&b->progress);
    if (!rc && o->report)
        *o->report = (struct st_cov_report){.flop = st_cov_run_flop(b->run),
                                            .seconds = st_now() - start,
                                            .cpu_seconds = cpu_seconds() - cpu,
                                            .key_bytes = st_cov_frame_bytes(&b->s.frame)};
    return rc;
}

static void wipe(struct build *b)
{
    st_cov_run_free(b->run);
    st_cov_out_close(&b->out);
    if (b->tensors)
        st_cov_gguf_free(b->tensors, b->s.model->plan.n_weight);
    free(b->tensors);
    st_cov_setup_close(&b->s);
}

int st_cov_obfuscate(const char *src, const char *dst, const struct st_cov_key *key, const struct st_cov_opts *o,
                     struct st_err *e)
{
    struct build b = {0};
    int rc = st_cov_opts_check(o, e);
    if (!rc)
        rc = st_cov_out_open(&b.out, dst, e);
    if (!rc)
        rc = st_cov_setup_open(&b.s, src, key, o, NULL, e);
    b.s.rules.warns = true;
    if (!rc)
        rc = lay_out(&b, o, src, e);
    if (!rc)
        rc = compile(&b, o, e);
    if (!rc)
        rc = st_cov_out_publish(&b.out, e);
    if (rc)
        st_stage_keep(&b.out.stage, b.out.journal.n_found + b.out.journal.n_noted, e);
    wipe(&b);
    return rc;
}
