/* sotto-worker --model DIR: serves the model's matrices to trusted sides (service/worker.h). */
#include "base/log.h"
#include "base/mem.h"
#include "base/secret.h"
#include "cli/cli.h"
#include "service/worker.h"
#include "text/json.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LISTEN 16
#define DEFAULT_LISTEN "tcp://127.0.0.1:7790"

struct serve_opts {
    const char *model, *device, *hints, *tls_cert, *tls_key, *metrics;
    const char *listen[MAX_LISTEN];
    int n_listen;
    bool embedding, pairs, private_weights, preparer;
    const char *client_policy;
    struct st_cli_evidence evidence;
    uint32_t max_row, max_conn, max_pending;
    uint64_t max_memory;
    double idle_s, grace_s;
};

enum {
    OPT_MODEL = ST_KEY(1),
    OPT_LISTEN,
    OPT_DEVICE,
    OPT_HINTS,
    OPT_EMBEDDING,
    OPT_PAIRS,
    OPT_TLS_CERT,
    OPT_TLS_KEY,
    OPT_METRICS,
    OPT_MAX_ROW,
    OPT_MAX_CONN,
    OPT_MAX_PENDING,
    OPT_MAX_MEMORY,
    OPT_IDLE,
    OPT_GRACE,
    OPT_PRIVATE_WEIGHTS,
    OPT_CLIENT_POLICY,
    OPT_PREPARER,
    OPT_EVIDENCE,
    OPT_COLLECTOR, /* and so many behind it as there are */
};

static const struct argp_option options[] = {
    {"model", OPT_MODEL, "DIR", 0,
     "The model: a Hugging Face directory, a llama2.c file, or a sealed container, of which it serves what lies "
     "outside",
     0},
    {"listen", OPT_LISTEN, "ADDRESS", 0,
     "tcp://HOST:PORT, unix:PATH or shm:PATH (shared memory, for one machine); may be repeated; "
     "default " DEFAULT_LISTEN,
     0},
    {"device", OPT_DEVICE, "NAME", 0, "cpu (default) or cuda", 0},
    {"hints", OPT_HINTS, "FILE", 0, "Hands out these hints (sotto-worker prepare), which the scheme lwe needs", 0},
    {"embedding", OPT_EMBEDDING, NULL, 0, "Serve the embedding, too, for sides that keep no table of it", 0},
    {"pairs", OPT_PAIRS, NULL, 0,
     "Multiply pairs of matrices of clients, too, which their --attention outside-breakable needs and nothing else; "
     "cpu only, and one product may take seconds",
     0},
    {"tls-cert", OPT_TLS_CERT, "FILE", 0, "Makes tcp:// addresses tls:// ones with this certificate chain (PEM)", 0},
    {"tls-key", OPT_TLS_KEY, "FILE", 0, "Private key of the certificate (PEM)", 0},
    {"metrics", OPT_METRICS, "HOST:PORT", 0, "Answer /health and /metrics there", 0},
    {"max-row", OPT_MAX_ROW, "N", 0, "Rows of one product, all clients together; default 512", 0},
    {"max-conn", OPT_MAX_CONN, "N", 0, "Open connections; default 256", 0},
    {"max-pending", OPT_MAX_PENDING, "N", 0, "Requests of one client at once; further ones are not read; default 8", 0},
    {"max-memory", OPT_MAX_MEMORY, "SIZE", 0, "For requests and replies; default a quarter of what is free", 0},
    {"idle", OPT_IDLE, "SECONDS", 0, "Clients that ask nothing for so long are let go; default 600", 0},
    {"grace", OPT_GRACE, "SECONDS", 0, "SIGTERM lets running requests finish so long; default 30", 0},
    {"private-weights", OPT_PRIVATE_WEIGHTS, NULL, 0,
     "The weights are not for those who ask: no product and no hint before evidence that --client-policy accepts; "
     "wants "
     "TLS",
     1},
    {"client-policy", OPT_CLIENT_POLICY, "FILE", 0,
     "What clients must prove (docs/attestation.md); a policy that does not pin what they run (measurements) and their "
     "kit (engine) is refused",
     1},
    {"evidence", OPT_EVIDENCE, "KINDS", 0,
     "What proves this machine to clients that ask: tdx, snp, sgx, tpm, nvgpu, sim; with commas; wants TLS", 1},
    {"preparer", OPT_PREPARER, NULL, 0,
     "Inside a TEE of the weights' owner: makes what checks and one-time pads of sides without weights need, which the "
     "worker that computes for them must not make; wants --evidence, and --device cpu unless nvgpu is among it; the "
     "model must lie where its host cannot change it (dm-verity, or memory)",
     1},
    ST_EVIDENCE_OPTIONS(OPT_COLLECTOR, 2),
    {0},
};

static int set_limit(struct serve_opts *o, int key, char *arg, struct st_err *e)
{
    switch (key) {
    case OPT_MAX_ROW:
        return st_opt_u32("--max-row", arg, 1, 1u << 16, &o->max_row, e);
    case OPT_MAX_CONN:
        return st_opt_u32("--max-conn", arg, 1, 1u << 16, &o->max_conn, e);
    case OPT_MAX_PENDING:
        return st_opt_u32("--max-pending", arg, 1, 1u << 10, &o->max_pending, e);
    case OPT_MAX_MEMORY:
        return st_opt_size("--max-memory", arg, 1u << 20, &o->max_memory, e);
    case OPT_IDLE:
        return st_opt_real("--idle", arg, 0.1, 1e6, &o->idle_s, e);
    default:
        return st_opt_real("--grace", arg, 0.1, 86400, &o->grace_s, e);
    }
}

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    struct serve_opts *o = opts;
    switch (key) {
    case OPT_MODEL:
        o->model = arg;
        return 0;
    case OPT_LISTEN:
        if (o->n_listen == MAX_LISTEN)
            return st_fail(e, ST_USAGE, "--listen: at most %d", MAX_LISTEN);
        o->listen[o->n_listen++] = arg;
        return 0;
    case OPT_DEVICE:
        o->device = arg;
        return 0;
    case OPT_HINTS:
        o->hints = arg;
        return 0;
    case OPT_EMBEDDING:
        o->embedding = true;
        return 0;
    case OPT_PAIRS:
        o->pairs = true;
        return 0;
    case OPT_TLS_CERT:
        o->tls_cert = arg;
        return 0;
    case OPT_TLS_KEY:
        o->tls_key = arg;
        return 0;
    case OPT_METRICS:
        o->metrics = arg;
        return 0;
    case OPT_PRIVATE_WEIGHTS:
        o->private_weights = true;
        return 0;
    case OPT_CLIENT_POLICY:
        o->client_policy = arg;
        return 0;
    case OPT_PREPARER:
        o->preparer = true;
        return 0;
    case OPT_EVIDENCE:
        return st_evidence_kinds(&o->evidence, arg, e);
    default:
        return key >= OPT_COLLECTOR ? st_evidence_set(&o->evidence, key - OPT_COLLECTOR, arg, e)
                                    : set_limit(o, key, arg, e);
    }
}

/* All that is open while it serves. */
struct serving {
    const struct st_cli *cli;
    const struct serve_opts *o;
    struct st_model *model;
    struct st_served served;
    struct st_hints *hints;
    struct st_policy *policy;
    struct st_collection *collection;
    uint8_t sim_root[32];
    const struct st_backend *backend;
    struct st_backend_weight *weights;
    void *device;
    uint8_t digest[32];
    uint64_t bytes;
    char addresses[MAX_LISTEN + 1][512];
    int n_address;
};

static void digest_text(const uint8_t digest[32], char out[65])
{
    for (int i = 0; i < 32; i++)
        snprintf(out + 2 * i, 3, "%02x", digest[i]);
}

static void print_json(const struct serving *s)
{
    struct st_buf b = {0};
    char digest[65];
    digest_text(s->digest, digest);
    st_buf_add_str(&b, "{\"model\":");
    st_json_quote(&b, s->model->name, strlen(s->model->name));
    st_buf_addf(&b, ",\"digest\":\"%s\",\"device\":\"%s\",\"about_device\":", digest, s->backend->name);
    const char *about = s->backend->describe(s->device);
    st_json_quote(&b, about, strlen(about));
    st_buf_addf(&b, ",\"weights\":%" PRIu32 ",\"weight_bytes\":%" PRIu64 ",\"hints\":", s->served.n, s->bytes);
    const char *params = s->hints ? st_hints_source(s->hints)->params : "";
    st_json_quote(&b, params, strlen(params));
    st_buf_addf(&b, ",\"private_weights\":%s,\"preparer\":%s,\"listening\":[", s->policy ? "true" : "false",
                s->o->preparer ? "true" : "false");
    const int first = s->o->metrics ? 1 : 0; /* the metrics' own address */
    for (int i = first; i < s->n_address; i++) {
        st_buf_add_str(&b, i > first ? "," : "");
        st_json_quote(&b, s->addresses[i], strlen(s->addresses[i]));
    }
    st_buf_add_str(&b, "],\"metrics\":");
    if (first)
        st_json_quote(&b, s->addresses[0], strlen(s->addresses[0]));
    else
        st_buf_add_str(&b, "null");
    st_buf_add_str(&b, "}");
    puts(b.failed ? "{}" : b.p);
    st_buf_free(&b);
}

static void print_proofs(const struct serving *s)
{
    char hex[65];
    if (s->policy)
        printf("  clients: prove what they run, by %s; else nothing of the weights leaves\n", s->o->client_policy);
    if (!s->collection)
        return;
    printf("  evidence:");
    for (size_t i = 0; i < s->o->evidence.n_kind; i++)
        printf(" %s", s->o->evidence.kinds[i]);
    puts("");
    if (st_evidence_has(&s->o->evidence, "sim")) {
        digest_text(s->sim_root, hex);
        printf("  sim_root: %s (simulated evidence proves nothing)\n", hex);
    }
}

static void print_banner(const struct serving *s)
{
    char size[ST_MEM_TEXT];
    printf("sotto-worker: %s on %s (%s), %" PRIu32 " matrices, %s\n", s->model->name, s->backend->name,
           s->backend->describe(s->device), s->served.n, st_mem_text(s->bytes, size));
    for (int i = 0; i < s->n_address; i++)
        printf("  %s %s\n", i == 0 && s->o->metrics ? "metrics on  " : "listening on", s->addresses[i]);
    print_proofs(s);
    if (s->o->preparer) {
        puts("  sees: secrets of the sides that it prepares for: masks of one-time pads, and what replies are checked "
             "with.\n"
             "  They believe its evidence; whoever looks into this process can read their rows and forge replies.");
        return;
    }
    printf("  hints: %s\n", s->hints ? st_hints_source(s->hints)->params : "none (the scheme lwe needs them: --hints)");
    puts("  sees: masked rows, how many and when, and which matrices they go to. It has no prompt, reply or key, and "
         "no\n"
         "  code that unmasks (rows of the scheme remo are breakable). What it returns, the other side checks.");
}

/* Called for each address; the metrics' comes first. The line that says `ready` comes when all are there. */
static void on_ready(void *arg, const char *listening)
{
    struct serving *s = arg;
    snprintf(s->addresses[s->n_address++], sizeof s->addresses[0], "%s", listening);
    if (s->n_address < (s->o->n_listen ? s->o->n_listen : 1) + (s->o->metrics != NULL))
        return;
    if (s->cli->json)
        print_json(s);
    else if (!s->cli->quiet)
        print_banner(s);
    fflush(stdout);
}

static int open_model(struct serving *s, struct st_err *e)
{
    struct st_model_opts how = st_served_model_opts(s->o->model);
    how.n_threads = s->cli->n_threads;
    how.progress = !s->cli->quiet;
    if (st_model_digest(s->o->model, !s->cli->quiet, s->digest, e) || st_model_open(s->o->model, &how, &s->model, e) ||
        st_served_init(&s->served, s->model, s->o->embedding, e))
        return e->code;
    if (!s->served.n)
        return st_fail(e, ST_INPUT, "%s: nothing of it lies outside: there is no matrix to serve", s->o->model);
    if (!s->o->hints)
        return 0;
    if (st_hints_open(s->o->hints, &s->hints, e))
        return e->code;
    if (memcmp(st_hints_source(s->hints)->digest, s->digest, sizeof s->digest) != 0)
        return st_fail(e, ST_VERIFY, "%s: hints of another model than %s", s->o->hints, s->o->model);
    return 0;
}

static int check_proofs(const struct serve_opts *o, struct st_err *e)
{
    if (!o->private_weights != !o->client_policy)
        return st_fail(e, ST_USAGE, "--private-weights and --client-policy belong together");
    if (o->preparer && !o->evidence.n_kind)
        return st_fail(e, ST_USAGE, "--preparer: want --evidence KINDS, which prove what it runs");
    if (o->preparer && o->hints)
        return st_fail(e, ST_USAGE, "--preparer: hands out no hints; those are for the worker that computes");
    if (o->preparer && o->device && strcmp(o->device, "cpu") != 0 && !st_evidence_has(&o->evidence, "nvgpu"))
        return st_fail(e, ST_USAGE,
                       "--preparer --device %s: secrets would go to a device that nothing proves: want cpu, or nvgpu "
                       "among --evidence KINDS",
                       o->device);
    if (o->preparer && o->pairs)
        return st_fail(e, ST_USAGE, "--preparer: multiplies no pairs; --pairs is for the worker that computes");
    if ((o->private_weights || o->evidence.n_kind) && !o->tls_cert)
        return st_fail(e, ST_USAGE, "%s: what is proved is bound to a TLS connection: want --tls-cert and --tls-key",
                       o->private_weights ? "--private-weights" : "--evidence");
    if (st_evidence_has(&o->evidence, "sim") && !o->evidence.collect.sim_key)
        return st_fail(e, ST_USAGE, "--evidence sim wants --sim-key FILE");
    return 0;
}

static int open_proofs(struct serving *s, struct st_err *e)
{
    const struct serve_opts *o = s->o;
    const char *sim_key = st_evidence_has(&o->evidence, "sim") ? o->evidence.collect.sim_key : NULL;
    if (o->client_policy && st_proof_client_policy(o->client_policy, &s->policy, e))
        return e->code;
    if (o->evidence.n_kind) {
        /* tpm2-tss writes to standard error by itself; the one line of an error is ours. */
        setenv("TSS2_LOG", "all+NONE", 0);
        if (st_collection_open(o->evidence.kinds, o->evidence.n_kind, &o->evidence.collect, &s->collection, e))
            return e->code;
    }
    if (o->preparer)
        st_secret_process();
    return sim_key ? st_collect_sim_root(sim_key, s->sim_root, e) : 0;
}

static int open_device(struct serving *s, struct st_err *e)
{
    if (st_backend_find(s->o->device ? s->o->device : "cpu", &s->backend, e) ||
        st_alloc(&s->weights, s->served.n, sizeof *s->weights, "the list of matrices", e))
        return e->code;
    for (uint32_t i = 0; i < s->served.n; i++) {
        const struct st_served_weight *w = &s->served.weights[i];
        if (!w->w)
            return st_fail(e, ST_INPUT, "%s: has no matrices to serve (it is the trusted side's part of a model)",
                           s->o->model);
        s->weights[i] = (struct st_backend_weight){w->w, w->scale, w->n_out, w->n_in};
        s->bytes += (uint64_t)w->n_out * (w->n_in + sizeof *w->scale);
    }
    const struct st_backend_opts o = {.weights = s->weights,
                                      .n_weight = s->served.n,
                                      .max_row = s->o->max_row ? s->o->max_row : 512,
                                      .n_threads = s->cli->n_threads,
                                      .isa = s->cli->isa};
    return s->backend->open(&o, &s->device, e);
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    static const char *const standard[] = {DEFAULT_LISTEN};
    const struct serve_opts *o = opts;
    struct serving s = {.cli = cli, .o = o};
    if (!o->model)
        return st_fail(e, ST_USAGE, "serve: want --model DIR (see sotto-worker --help)");
    if (check_proofs(o, e))
        return e->code;
    int rc = open_proofs(&s, e);
    if (!rc)
        rc = open_model(&s, e);
    if (!rc)
        rc = open_device(&s, e);
    if (!rc) {
        const struct st_worker_opts w = {.served = &s.served,
                                         .digest = s.digest,
                                         .hints = s.hints,
                                         .backend = s.backend,
                                         .device = s.device,
                                         .listen = o->n_listen ? o->listen : standard,
                                         .n_listen = o->n_listen ? o->n_listen : 1,
                                         .tls_cert = o->tls_cert,
                                         .tls_key = o->tls_key,
                                         .proof = {s.policy, s.collection, NULL},
                                         .preparer = o->preparer,
                                         .pairs = o->pairs,
                                         .metrics = o->metrics,
                                         .max_row = o->max_row,
                                         .max_conn = o->max_conn,
                                         .max_pending = o->max_pending,
                                         .max_memory = o->max_memory,
                                         .idle_s = o->idle_s,
                                         .grace_s = o->grace_s,
                                         .ready = on_ready,
                                         .arg = &s};
        rc = st_worker_run(&w, e);
    }
    if (s.device)
        s.backend->close(s.device);
    free(s.weights);
    st_collection_close(s.collection);
    st_policy_free(s.policy);
    st_hints_close(s.hints);
    st_served_free(&s.served);
    st_model_close(s.model);
    return rc;
}

const struct st_cmd st_cmd_worker_serve = {
    .name = "serve",
    .summary = "Serve the linear layers of a model; what it is without a command",
    .doc =
        "Serves the linear layers of a model to trusted sides (`sotto serve --protect masked`), which keep everything "
        "else: prompts, cache, sampling, replies. Rows come masked; several clients' rows for the same matrices are "
        "computed together. Listens on 127.0.0.1 unless told; beyond that use --tls-cert. SIGTERM lets running "
        "requests finish. With --private-weights clients must prove what they run before they get hints and products, "
        "from which weights follow. With --preparer it is another thing: a machine that sides without weights trust by "
        "its evidence, beside the worker that computes for them (docs/masked.md).",
    .examples = "  sotto-worker --model models/demo\n"
                "  sotto-worker prepare models/demo --out demo.hints\n"
                "  sotto-worker --model models/demo --hints demo.hints \\\n"
                "      --listen unix:/run/sotto/worker\n"
                "  sotto-worker --model M --hints M.hints --listen tcp://0.0.0.0:7790 \\\n"
                "      --tls-cert c.pem --tls-key k.pem\n"
                "  sotto-worker --model M --hints M.hints --listen tls://0.0.0.0:7790 \\\n"
                "      --tls-cert c.pem --tls-key k.pem \\\n"
                "      --private-weights --client-policy trusted-side.json\n"
                "  sotto-worker --model M --preparer --evidence snp \\\n"
                "      --listen tls://0.0.0.0:7790 --tls-cert c.pem --tls-key k.pem",
    .shared = ST_CLI_JSON | ST_CLI_THREADS,
    .options = options,
    .opts_size = sizeof(struct serve_opts),
    .set = set,
    .run = run,
};
