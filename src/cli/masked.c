#include "cli/masked.h"
#include "base/hooks.h"
#include "cli/attested.h"
#include "cli/egress.h"
#include "cli/open.h"
#include "engine/record.h"
#include "model/kit.h"

#include <stdlib.h>
#include <string.h>

/* Rows of one exchange: so many are worth a large product; more only make the pool of pads larger. */
#define MAX_ROWS 64
#define PROBE_S 2.0
#define PROBE_TIMEOUT_S 0.5
#define MAX_PAD_MEMORY ((size_t)1 << 30)

struct st_masked_side {
    struct st_cli_masked o; /* what its strings point to is the caller's and outlives this */
    const struct st_model *model;
    struct st_served served;
    uint8_t digest[32];
    struct st_pool *pool;
    struct st_attested attested;
    struct st_worker_client *client;
    struct st_hints *hints;
    struct st_recorder *recorder;
    struct st_egress egress;
    struct st_masked *masked;
    struct st_masked_reference *reference;
    struct st_boundary boundary;
    char scheme[80];
    bool sealed, masks_breakable;
    int n_exchange; /* 0: only of a sealed model, whose matrices all lie inside */
    double probed;  /* when no worker answered last */
};

static int want_masked_options(const struct st_cli_masked *o, struct st_err *e)
{
    if (o->reference && strcmp(o->reference, "masked-int") != 0)
        return st_fail(e, ST_USAGE, "--reference: want masked-int, got '%s'", o->reference);
    if (o->reference && (o->n_worker || o->scheme || o->params || o->hints || o->rank || o->no_integrity || o->record ||
                         o->private_weights || o->worker_policy || o->preparer || o->attention_outside))
        return st_fail(e, ST_USAGE, "--reference: computes here without worker, masks and checks; not with --%s",
                       strcmp(o->first, "reference") ? o->first
                       : o->n_worker                 ? "worker"
                                                     : "scheme, --params, --hints, --rank, --no-integrity, --record, "
                                                       "--private-weights, --worker-policy, --preparer, --attention");
    return 0;
}

/* Options of one scheme with another. */
static int check_scheme(const struct st_cli_masked *o, struct st_err *e)
{
    const struct st_scheme *scheme;
    if (st_scheme_find(o->scheme, &scheme, e))
        return e->code;
    bool lwe = strcmp(scheme->name, "lwe") == 0, remo = strcmp(scheme->name, "remo") == 0;
    if (!lwe && (o->params || o->hints))
        return st_fail(e, ST_USAGE, "%s: belongs to --scheme lwe, got %s", o->params ? "--params" : "--hints",
                       scheme->name);
    if (!remo && o->rank)
        return st_fail(e, ST_USAGE, "--rank: belongs to --scheme remo, got %s", scheme->name);
    if (remo && o->embedding_remote)
        return st_fail(e, ST_USAGE,
                       "--embedding remote: want --scheme lwe or otp; masks of remo do not hide which row "
                       "is fetched");
    const struct st_lwe_params *params;
    return lwe ? st_lwe_params_find(o->params, &params, e) : 0;
}

/* Of a model that is not sealed. */
static int check_protection(const struct st_cli *cli, struct st_err *e)
{
    const char *name = cli->protect;
    if (strcmp(name, "covariant") == 0)
        return st_fail(e, ST_UNSUPPORTED,
                       "--protect covariant: needs an obfuscated checkpoint on a server and "
                       "`sotto proxy`; %s knows none and masked",
                       cli->cmd->name);
    if (strcmp(name, "sealed") == 0)
        return st_fail(e, ST_USAGE, "--protect sealed: the model is not sealed (`sotto seal` makes one that is)");
    if (strcmp(name, "none") != 0 && strcmp(name, "masked") != 0)
        return st_fail(e, ST_UNSUPPORTED, "--protect: '%s' is not supported; supported: none, masked", name);
    return 0;
}

int st_masked_wanted(const struct st_cli *cli, bool sealed, bool *out, struct st_err *e)
{
    const struct st_cli_masked *o = &cli->masked;
    const char *other = o->first         ? o->first
                        : o->show_egress ? "show-egress"
                                         : NULL; /* an option without its protection */
    *out = false;
    if (sealed && cli->protect && strcmp(cli->protect, "sealed") != 0)
        return st_fail(e, ST_USAGE, "--protect %s: the model is sealed; want sealed or nothing", cli->protect);
    if (!sealed && cli->protect && check_protection(cli, e))
        return e->code;
    if (!sealed && (!cli->protect || strcmp(cli->protect, "none") == 0))
        return other ? st_fail(e, ST_USAGE, "--%s: only with --protect masked", other) : 0;
    if (want_masked_options(o, e))
        return e->code;
    if (!o->reference && !o->n_worker) {
        if (!sealed)
            return st_fail(e, ST_USAGE, "--protect masked: want --worker ADDRESS (or --reference masked-int)");
        return other ? st_fail(e, ST_USAGE, "--%s: only with --worker", other) : 0;
    }
    if (sealed && o->embedding_remote)
        return st_fail(e, ST_USAGE, "--embedding remote: the table of a sealed model is looked up inside");
    if (!o->reference && (check_scheme(o, e) || st_attested_check(cli, sealed, e)))
        return e->code;
    *out = true;
    return 0;
}

int st_masked_model_opts(const struct st_cli *cli, const char *path, bool sealed, struct st_model_opts *o,
                         struct st_err *e)
{
    if (cli->dtype != ST_CLI_DTYPE_KEEP && cli->dtype != ST_CLI_DTYPE_INT8)
        return st_fail(e, ST_USAGE, "--dtype: masked layers are int8; want int8 or nothing");
    o->dtype = ST_LOAD_INT8;
    o->fold_norms = !sealed;
    o->no_linear = !sealed && st_kit_is(path);
    return 0;
}

/* Bytes of the pads that one row takes on its way through the whole plan. */
static uint64_t pad_bytes(const struct st_plan *p)
{
    uint64_t words = 0;
    uint32_t group = 0;
    for (int i = 0; i < p->n_op; i++) {
        const struct st_plan_op *op = &p->ops[i];
        const struct st_plan_weight *w = op->weight >= 0 ? &p->weights[op->weight] : NULL;
        if (op->place == ST_PLACE_UNTRUSTED && w && op->op == ST_OP_EMBED)
            words += (uint64_t)w->n_out + w->n_in;
        else if (op->place == ST_PLACE_UNTRUSTED && w)
            words += w->n_out + (op->group && op->group == group ? 0 : w->n_in);
        group = op->group;
    }
    return words * sizeof(uint32_t);
}

/* Half of the pads' memory for the rows of one exchange, so that a step of decoding finds pads while more are made. */
static void size_rows(struct st_masked_side *s, struct st_pads_opts *pads, const struct st_engine_opts *eo)
{
    uint64_t memory = s->o.pad_memory, row = pad_bytes(&s->model->plan);
    if (!memory) {
        memory = st_mem_available() / 8;
        memory = memory > MAX_PAD_MEMORY ? MAX_PAD_MEMORY : memory;
    }
    uint64_t rows = row ? memory / 2 / row : MAX_ROWS;
    s->boundary.max_row = rows > MAX_ROWS ? MAX_ROWS : rows ? (uint32_t)rows : 1;
    uint32_t worker = st_worker_client_max_row(s->client);
    if (s->boundary.max_row > worker)
        s->boundary.max_row = worker;
    if (eo->max_row && s->boundary.max_row > eo->max_row)
        s->boundary.max_row = eo->max_row;
    pads->memory = (size_t)memory;
    pads->max_row = s->boundary.max_row;
}

/* Everything that leaves must be served there; found now, not in the middle of a request. */
static int check_worker(const struct st_masked_side *s, struct st_err *e)
{
    const struct st_plan *p = &s->model->plan;
    for (int i = 0; i < p->n_op; i++) {
        const struct st_plan_op *op = &p->ops[i];
        if (op->place != ST_PLACE_UNTRUSTED || op->op == ST_OP_ATTEND)
            continue;
        const struct st_plan_weight *w = &p->weights[op->weight];
        bool fetch = op->op == ST_OP_EMBED;
        char name[ST_PLAN_NAME + 2];
        snprintf(name, sizeof name, fetch ? "%s^T" : "%s", w->name);
        if (!st_worker_client_has(s->client, name, fetch ? w->n_in : w->n_out, fetch ? w->n_out : w->n_in))
            return st_fail(e, ST_INPUT, "worker %s: does not serve %s%s", s->o.workers[0], w->name,
                           fetch ? " for --embedding remote (sotto-worker --embedding)" : "");
    }
    if (s->o.attention_outside && !st_worker_client_pairs(s->client))
        return st_fail(e, ST_INPUT,
                       "worker %s: multiplies no pairs of matrices (sotto-worker --pairs), which --attention "
                       "outside-breakable needs",
                       s->o.workers[0]);
    return 0;
}

/* Who computes: the worker's end, with what watches and records in front of it. */
static int open_transport(struct st_masked_side *s, struct st_err *e)
{
    const struct st_cli_masked *o = &s->o;
    const struct st_worker_client_opts co = {
        .addresses = o->workers,
        .n_address = o->n_worker,
        .tls_ca = o->worker_ca,
        .digest = s->digest,
        .timeout_s = o->timeout_s,
        .proof = {s->attested.worker_policy, s->attested.collection, s->attested.kit},
        .private_weights = o->private_weights};
    if (st_worker_client_new(&co, &s->client, e) || check_worker(s, e))
        return e->code;
    s->boundary.transport = st_worker_client_transport(s->client);
    if (o->record) {
        const struct st_recorder_opts ro = {.path = o->record, .inner = s->boundary.transport};
        if (st_recorder_new(&ro, &s->recorder, e))
            return e->code;
        s->boundary.transport = st_recorder_transport(s->recorder);
    }
    if (o->show_egress) {
        st_egress_init(&s->egress, s->boundary.transport);
        s->boundary.transport = &s->egress.outer;
    }
    return 0;
}

static int open_hints(struct st_masked_side *s, const struct st_hint_source **out, struct st_err *e)
{
    if (!s->o.hints)
        return st_worker_client_hints(s->client, out, e);
    if (st_hints_open(s->o.hints, &s->hints, e))
        return e->code;
    *out = st_hints_source(s->hints);
    return 0;
}

static void quarantine(void *ctx)
{
    struct st_masked_side *s = ctx;
    st_worker_client_quarantine(s->client);
}

static int open_masks(const struct st_cli *cli, struct st_masked_side *s, struct st_engine_opts *eo, struct st_err *e)
{
    const struct st_cli_masked *o = &s->o;
    bool no_weights = st_kit_is(s->model->path);
    struct st_masked_opts mo = {.scheme_opts = {.served = &s->served,
                                                .digest = s->digest,
                                                .plan = &s->model->plan,
                                                .check_hints = !no_weights || s->attested.preparer,
                                                .preparer = st_preparer_client(s->attested.preparer),
                                                .rank = o->rank,
                                                .transport = s->boundary.transport,
                                                .pool = s->pool,
                                                .progress = !cli->quiet},
                                .no_integrity = o->no_integrity,
                                .offload = o->offload_all || (cli->deterministic && !o->keep_rows)
                                               ? ST_MASKED_OFFLOAD_ALL
                                               : ST_MASKED_OFFLOAD_AUTO,
                                .keep_rows = o->keep_rows,
                                .n_threads = cli->n_threads,
                                .pads = {.n_threads = (int)o->pad_threads, .allow_unlocked = o->allow_unlocked},
                                .quarantine = quarantine,
                                .quarantine_ctx = s};
    if (st_scheme_find(o->scheme, &mo.scheme, e))
        return e->code;
    bool lwe = strcmp(mo.scheme->name, "lwe") == 0;
    if (lwe && open_hints(s, &mo.scheme_opts.hints, e))
        return e->code;
    /* Without --params the set of the hints, if it is one that is strong enough. */
    const char *params = lwe && !o->params ? mo.scheme_opts.hints->params : o->params;
    if (lwe && st_lwe_params_find(params, &mo.scheme_opts.params, e))
        return e->code;
    size_rows(s, &mo.pads, eo);
    s->masks_breakable = strcmp(mo.scheme->name, "remo") == 0;
    snprintf(s->scheme, sizeof s->scheme, "%s%s%s", lwe ? mo.scheme_opts.params->name : mo.scheme->name,
             s->masks_breakable ? " (breakable)" : "", o->attention_outside ? ", attention outside (breakable)" : "");
    if (st_masked_new(s->model, &mo, &s->masked, e))
        return e->code;
    s->boundary.hooks = st_masked_hooks(s->masked);
    return 0;
}

static int open_reference(struct st_masked_side *s, struct st_err *e)
{
    if (st_masked_reference_new(s->model, &s->served, &s->reference, e))
        return e->code;
    s->boundary.hooks = st_masked_reference_hooks(s->reference);
    s->boundary.transport = st_masked_reference_transport(s->reference);
    snprintf(s->scheme, sizeof s->scheme, "masked-int");
    return 0;
}

static int open_parts(const struct st_cli *cli, const char *path, struct st_masked_side *s, struct st_engine_opts *eo,
                      struct st_err *e)
{
    const struct st_cli_masked *o = &s->o;
    s->n_exchange = st_plan_exchanges(&s->model->plan);
    if (s->sealed && !s->n_exchange) {
        snprintf(s->scheme, sizeof s->scheme, "none");
        return o->attention_outside ? st_fail(e, ST_USAGE,
                                              "--attention outside-breakable: every matrix of the model lies inside, "
                                              "so that it has no use for a worker; seal it with a policy that leaves "
                                              "some outside")
                                    : 0;
    }
    if (st_pool_new(cli->n_threads, &s->pool, e) || st_served_init(&s->served, s->model, o->embedding_remote, e) ||
        st_model_digest(path, !cli->quiet, s->digest, e))
        return e->code;
    if (o->reference
            ? open_reference(s, e)
            : st_attested_open(cli, path, &s->attested, e) || open_transport(s, e) ||
                  st_attested_prepare(&s->attested, cli, s->digest, &s->model->plan, e) || open_masks(cli, s, eo, e))
        return e->code;
    eo->boundary = &s->boundary;
    return 0;
}

int st_masked_open(const struct st_cli *cli, const char *path, bool sealed, struct st_model *model,
                   struct st_engine_opts *eo, struct st_masked_side **out, struct st_err *e)
{
    const struct st_cli_masked *o = &cli->masked;
    const struct st_masked_place place = {.embedding = o->embedding_remote,
                                          .experts = o->experts_all ? ST_MASKED_EXPERTS_ALL : ST_MASKED_EXPERTS_LOCAL,
                                          .no_weights = st_kit_is(path),
                                          .attention = o->attention_outside};
    struct st_masked_side *s;
    if ((!sealed && st_masked_place(&model->plan, &place, e)) || st_alloc(&s, 1, sizeof *s, "masked side", e))
        return e->code;
    *s = (struct st_masked_side){.o = *o, .model = model, .sealed = sealed};
    if (open_parts(cli, path, s, eo, e)) {
        st_masked_close(s);
        return e->code;
    }
    *out = s;
    return 0;
}

void st_masked_close(struct st_masked_side *s)
{
    if (!s)
        return;
    if (s->masked)
        st_masked_free(s->masked);
    if (s->reference)
        st_masked_reference_free(s->reference);
    if (s->hints)
        st_hints_close(s->hints);
    if (s->recorder)
        st_recorder_free(s->recorder);
    if (s->client)
        st_worker_client_free(s->client);
    st_attested_close(&s->attested);
    st_served_free(&s->served);
    if (s->pool)
        st_pool_free(s->pool);
    free(s);
}

void st_masked_words(const struct st_masked_side *s, struct st_masked_words *out)
{
    *out = (struct st_masked_words){
        .protection = s->sealed ? "sealed" : "masked", .scheme = s->scheme, .verified = "integrity"};
    if (!s->n_exchange) {
        out->verified = "no";
        out->strength = "every matrix lies inside: the worker is not asked for anything";
        return;
    }
    if (s->reference) {
        out->protection = s->sealed ? "sealed" : "none";
        out->verified = "none";
        out->strength = "the exact integers of a worker, computed here: for comparing";
        return;
    }
    if (s->o.no_integrity)
        out->verified = "none";
    out->strength = st_masked_describe(s->masked);
    if (s->o.attention_outside)
        out->warning = s->o.no_integrity ? "--attention outside-breakable: a worker can read prompts and replies; and "
                                           "--no-integrity: what it returns is not checked"
                                         : "--attention outside-breakable: a worker can read prompts and replies "
                                           "(docs/masked.md)";
    else if (s->o.no_integrity)
        out->warning = s->masks_breakable
                           ? "remo is breakable: a worker can remove its masks; and --no-integrity: what the "
                             "worker returns is not checked"
                           : "--no-integrity: what the worker returns is not checked";
    else if (s->masks_breakable)
        out->warning = "remo is breakable: a worker can remove its masks (docs/masked.md)";
}

const char *st_masked_choice(const struct st_masked_side *s)
{
    if (!s->n_exchange)
        return "worker: 0 exchanges per token: every matrix of the model lies inside, nothing leaves";
    return s->masked ? st_masked_plan_text(s->masked) : "";
}

void st_masked_figures(const struct st_masked_side *s, struct st_masked_figures *out)
{
    *out = (struct st_masked_figures){.n_exchange = s->n_exchange};
    if (s->masked)
        st_masked_stats(s->masked, &out->masked);
    if (s->client)
        st_worker_client_stats(s->client, &out->client);
}

/* Whether anybody is left to compute. One that does not answer is asked again, but not all the time: whoever waits for
 * the engine waits for this too. */
static bool ready(struct st_masked_side *s)
{
    if (!s->client)
        return true;
    if (s->probed && st_now() - s->probed < PROBE_S)
        return false;
    bool there = st_worker_client_ready(s->client, PROBE_TIMEOUT_S);
    s->probed = there ? 0 : st_now();
    return there;
}

void st_masked_watch(void *ctx, struct st_gen_watch *out)
{
    struct st_masked_side *s = ctx;
    struct st_masked_figures f;
    st_masked_figures(s, &f);
    *out = (struct st_gen_watch){.ready = ready(s),
                                 .pads_ready = f.masked.pads.ready,
                                 .pads_capacity = f.masked.pads.capacity,
                                 .pads_made = f.masked.pads.made,
                                 .pads_taken = f.masked.pads.taken,
                                 .pad_waits = f.masked.pads.n_wait,
                                 .pad_wait_s = f.masked.pads.wait_s,
                                 .exchanges = f.masked.n_exchange + f.masked.n_pair,
                                 .failed = f.client.n_failed,
                                 .rejects = f.masked.n_reject,
                                 .kept = f.masked.n_kept,
                                 .bytes_up = f.client.bytes_up,
                                 .bytes_down = f.client.bytes_down,
                                 .quarantined = f.client.n_quarantined};
}
