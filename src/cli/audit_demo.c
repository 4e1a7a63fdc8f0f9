#include "cli/audit_demo.h"

#include "audit/reseal.h"
#include "base/hooks.h"
#include "cli/audit_running.h"
#include "cli/generate.h"
#include "cli/masked.h"
#include "cli/open.h"
#include "protect/covariant/covariant.h"

#include <string.h>

#define RECORD_DOCS 4 /* documents that are asked through a worker, under each scheme */

#define RUNNING_PROMPTS 8 /* asked through the confidential set-up that runs, so many times each */
#define RUNNING_ROUNDS 4

static void path_in(const struct st_audit_demo *a, const char *name, char out[128])
{
    snprintf(out, 128, "%s/%s", a->d.tmp.path, name);
}

/* ---- covariant ---- */

static const struct pair {
    const char *label; /* NULL: made of the figures */
    enum st_cov_preset preset;
    double alpha_e, alpha_h, noise_all;
    uint32_t homophones;
    bool sweep, thorough;
} pairs[] = {
    {.label = "tight", .preset = ST_COV_PRESET_TIGHT, .sweep = true},
    {.label = "paper", .preset = ST_COV_PRESET_PAPER, .alpha_e = 1, .alpha_h = 0.2},
    {.preset = ST_COV_PRESET_TIGHT, .alpha_e = 0.05, .alpha_h = 0.05, .sweep = true, .thorough = true},
    {.preset = ST_COV_PRESET_TIGHT, .alpha_e = 0.1, .alpha_h = 0.05, .sweep = true},
    {.preset = ST_COV_PRESET_TIGHT, .alpha_e = 0.2, .alpha_h = 0.05, .sweep = true, .thorough = true},
    {.preset = ST_COV_PRESET_TIGHT, .alpha_e = 0.5, .alpha_h = 0.05, .sweep = true},
    {.preset = ST_COV_PRESET_TIGHT, .alpha_e = 1, .alpha_h = 0.05, .sweep = true, .thorough = true},
    {.label = "tight, noise on all 0.05",
     .preset = ST_COV_PRESET_TIGHT,
     .alpha_e = 0.05,
     .alpha_h = 0.05,
     .noise_all = 0.05,
     .thorough = true},
    {.label = "tight, homophones 4", .preset = ST_COV_PRESET_TIGHT, .alpha_e = 0.1, .homophones = 4},
};

/* Not fit for anything but an audit of a public model: whoever knows the seed has the key. */
static int seeded_key(uint64_t seed, struct st_cov_key *key, struct st_err *e)
{
    struct st_rng rng;
    *key = (struct st_cov_key){.created = 0};
    if (st_secret_init(&key->seed, 32, e))
        return e->code;
    st_rng_seed(&rng, seed);
    for (size_t i = 0; i < key->seed.len; i++)
        key->seed.p[i] = (uint8_t)st_rng_next(&rng);
    for (size_t i = 0; i < sizeof key->id; i++)
        key->id[i] = (uint8_t)st_rng_next(&rng);
    return 0;
}

static int obfuscate(struct st_audit_demo *a, const struct pair *p, const char *name, const struct st_cov_key *key,
                     char dst[128], struct st_err *e)
{
    struct st_cov_opts o;
    path_in(a, name, dst);
    st_cov_opts_init(&o, p->preset);
    o.alpha_e = p->alpha_e;
    o.alpha_h = p->alpha_h;
    o.noise_all = p->noise_all;
    o.homophones = p->homophones;
    o.dtype = ST_COV_STORE_F32;
    o.n_threads = a->d.cli->n_threads;
    o.cancel = st_demo_cancel();
    return st_cov_obfuscate(a->d.model, dst, key, &o, e);
}

/* What a server may have kept from before its user took this key. */
static int make_before(struct st_audit_demo *a, const struct pair *p, uint64_t seed, struct st_err *e)
{
    struct st_cov_key key;
    char dst[128];
    int rc = seeded_key(seed ^ 0x6265666f7265U, &key, e);
    if (!rc)
        rc = obfuscate(a, p, "before", &key, dst, e);
    if (!rc)
        rc = st_subject_add_before(a->subject, dst, &key, e);
    st_cov_key_wipe(&key);
    return rc;
}

static int make_pair(struct st_audit_demo *a, const struct pair *p, size_t i, const struct st_cov_key *key,
                     struct st_err *e)
{
    char name[32], dst[128];
    snprintf(name, sizeof name, "pair%zu", i);
    int rc = obfuscate(a, p, name, key, dst, e);
    if (rc == ST_UNSUPPORTED && p->homophones) /* not every model can have them (docs/covariant.md) */
        return st_subject_add_unmade(a->subject, p->label, e->msg, e);
    if (!rc)
        rc = st_subject_add_pair(a->subject, dst, key, p->label, e);
    return rc || !p->sweep ? rc : st_subject_sweep(a->subject, "alpha_e", p->alpha_e, e);
}

static int make_pairs(struct st_audit_demo *a, const struct st_audit_demo_opts *o, struct st_err *e)
{
    struct st_cov_key key;
    int rc = st_demo_next(&a->d, "obfuscating the model under each preset, and with noise", e);
    if (rc || (rc = seeded_key(o->seed, &key, e)) != 0)
        return rc;
    for (size_t i = 0; !rc && i < sizeof pairs / sizeof *pairs; i++)
        if (!pairs[i].thorough || o->thorough) {
            rc = make_pair(a, &pairs[i], i, &key, e);
            if (!rc && i == 0)
                rc = make_before(a, &pairs[i], o->seed, e);
        }
    st_cov_key_wipe(&key);
    return rc;
}

/* ---- masked ---- */

/* The first tokens of document d; comes back: how many tokens of a reply there were. */
static int ask_one(struct st_open *m, const struct st_texts_ids *t, size_t d, struct st_asked *want, struct st_err *e)
{
    size_t lo = d ? t->ends[d - 1] : 0, len = t->ends[d] - lo;
    want->prompt = len < want->prompt ? len : want->prompt;
    struct st_run r = {.req = {.ids = t->ids + lo,
                               .n_ids = want->prompt,
                               .n_predict = (uint32_t)want->reply,
                               .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1}},
                       .interrupt = st_demo_cancel()};
    int rc = st_run(m->engine, &r, e);
    want->reply = r.ids.len + (r.finish == ST_FINISH_STOP); /* the stop id is a token too */
    st_run_wipe(&r);
    return !rc && st_demo_interrupted() ? st_fail(e, ST_IO, "cancelled") : rc;
}

/* Each document one prompt; of the reply one token, which is never fed back: the rows are the text's and no others.
 * Behind them beginnings of documents with replies, which are there for their lengths and times. */
static int ask(struct st_open *m, const struct st_texts_ids *t, struct st_asked asked[ST_AUDIT_DEMO_ASKED],
               uint64_t seed, struct st_err *e)
{
    struct st_rng rng;
    int rc = 0;
    st_rng_seed(&rng, seed);
    for (size_t d = 0; !rc && d < RECORD_DOCS && d < t->n; d++) {
        struct st_asked whole = {.prompt = SIZE_MAX, .reply = 1};
        rc = ask_one(m, t, d, &whole, e);
    }
    for (size_t i = 0; !rc && i < ST_AUDIT_DEMO_ASKED; i++) {
        asked[i] = (struct st_asked){.prompt = 2 + st_rng_next(&rng) % 60, .reply = 1 + st_rng_next(&rng) % 24};
        rc = ask_one(m, t, i % t->n, &asked[i], e);
    }
    return rc;
}

static int record(struct st_audit_demo *a, const char *scheme, const char *address, struct st_asked *asked,
                  struct st_err *e)
{
    struct st_cli cli = *a->d.cli;
    const struct st_engine_opts eo = {.max_batch = 1};
    struct st_open m = {0};
    char name[32], path[128];
    snprintf(name, sizeof name, "record-%s", scheme);
    path_in(a, name, path);
    cli.protect = "masked";
    cli.kv_dtype = ST_DTYPE_F32;
    cli.deterministic = true;
    cli.quiet = true;
    cli.masked = (struct st_cli_masked){.workers = {address},
                                        .n_worker = 1,
                                        .scheme = scheme,
                                        .record = path,
                                        .pad_memory = ST_DEMO_PADS,
                                        .no_integrity = strcmp(scheme, "remo") == 0, /* floats: nothing to check */
                                        .offload_all = true,
                                        .allow_unlocked = true};
    int rc = st_open(&cli, a->d.model, ST_OPEN_TOKENIZER | ST_OPEN_WEAK, &eo, &m, e);
    if (rc)
        return rc;
    const struct st_target *plain = st_subject_plain(a->subject);
    rc = ask(&m, &plain->text, asked, plain->seed, e);
    st_open_close(&m);
    if (!rc)
        rc = st_subject_add_recording(a->subject, path, scheme, RECORD_DOCS, scheme, e);
    return rc ? rc : st_subject_add_asked(a->subject, asked, ST_AUDIT_DEMO_ASKED, e);
}

static int make_recordings(struct st_audit_demo *a, struct st_err *e)
{
    static const char *const schemes[] = {"remo", "otp", "lwe"};
    char hints[128], address[128], socket[128];
    double prepare_s;
    path_in(a, "hints", hints);
    path_in(a, "worker", socket);
    snprintf(address, sizeof address, "unix:%.120s", socket);
    int rc = st_demo_next(&a->d, "hints for masks; recording what a worker sees under each scheme", e);
    if (!rc)
        rc = st_demo_worker(&a->d, hints, address, &prepare_s, e);
    for (size_t i = 0; !rc && i < sizeof schemes / sizeof *schemes; i++)
        rc = record(a, schemes[i], address, a->asked[i], e);
    st_child_stop(&a->d.child);
    return rc;
}

/* ---- sealed ---- */

static int make_sealed(struct st_audit_demo *a, const char *policy, struct st_err *e)
{
    char name[40], label[40], path[128];
    snprintf(name, sizeof name, "%.24s.sealed", policy);
    snprintf(label, sizeof label, "sealed %.24s", policy);
    path_in(a, name, path);
    int rc = st_reseal(a->d.model, path, policy, a->d.cli->n_threads, -1, e);
    return rc ? rc : st_subject_add_sealed(a->subject, path, label, e);
}

/* ---- confidential ---- */

static int make_traffic(struct st_audit_demo *a, const struct st_audit_demo_opts *o, struct st_err *e)
{
    const struct st_target *plain = st_subject_plain(a->subject);
    const struct st_traffic_opts to = {
        .text = &plain->text, .tokenizer = plain->tokenizer, .seed = o->seed, .cancel = st_demo_cancel()};
    int rc = st_demo_next(&a->d, "sealing requests and replies, selling and spending tokens", e);
    if (!rc)
        rc = st_traffic_make(&to, &a->traffic, e);
    if (!rc && a->running)
        rc = st_demo_next(&a->d, "asking through every party of the confidential path; recording before its relay", e);
    const struct st_audit_asked ao = {.text = &plain->text,
                                      .tokenizer = plain->tokenizer,
                                      .n_prompt = RUNNING_PROMPTS,
                                      .n_round = o->thorough ? 4 * RUNNING_ROUNDS : RUNNING_ROUNDS};
    if (!rc && a->running)
        rc = st_audit_running_record(a->running, &ao, &a->traffic->ran, e);
    return rc ? rc : st_subject_add_traffic(a->subject, a->traffic, "confidential", e);
}

/* ---- all ---- */

/* What is about time comes last, when nothing else computes and what ran has ended. */
static int make_views(struct st_audit_demo *a, const struct st_audit_demo_opts *o, struct st_err *e)
{
    int rc = 0;
    if (o->kinds & ST_TARGET_PAIR)
        rc = make_pairs(a, o, e);
    if (!rc && o->kinds & ST_TARGET_SEALED) {
        rc = st_demo_next(&a->d, "sealing the model under each policy", e);
        if (!rc)
            rc = make_sealed(a, "paper", e);
        if (!rc)
            rc = make_sealed(a, "all-inside", e);
    }
    if (!rc && o->kinds & ST_TARGET_TRAFFIC)
        rc = make_traffic(a, o, e);
    if (!rc && o->kinds & ST_TARGET_RECORD)
        rc = make_recordings(a, e);
    return rc;
}

int st_audit_demo_begin(struct st_audit_demo *a, const struct st_cli *cli, const struct st_audit_demo_opts *o,
                        struct st_err *e)
{
    char tokenizer[ST_PATH_MAX];
    *a = (struct st_audit_demo){.d = {.cli = cli, .protect = "audit", .model_arg = o->model}};
    int rc = st_demo_begin(&a->d, e);
    if (!rc)
        rc = st_open_tokenizer_path(a->d.model, cli->tokenizer, tokenizer, e);
    if (!rc && o->running)
        rc = st_audit_running_begin(&a->d, &a->running, e);
    if (!rc && !(o->text && o->prior))
        rc = st_demo_next(&a->d, "asking the model for texts of its own", e);
    const struct st_subject_opts so = {.base = a->d.model,
                                       .tokenizer = tokenizer,
                                       .text = o->text,
                                       .prior = o->prior,
                                       .seed = o->seed,
                                       .n_threads = cli->n_threads,
                                       .cancel = st_demo_cancel()};
    if (!rc)
        rc = st_subject_open(&so, &a->subject, e);
    return rc ? rc : make_views(a, o, e);
}

void st_audit_demo_end(struct st_audit_demo *a)
{
    st_audit_running_end(a->running);
    st_subject_close(a->subject);
    st_traffic_free(a->traffic);
    st_demo_end(&a->d);
}
