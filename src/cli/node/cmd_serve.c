/* sotto-node --upstream URL --evidence KINDS [-- COMMAND ...] (service/node.h). */
#include "base/log.h"
#include "cli/evidence.h"
#include "cli/role.h"
#include "crypto/digest.h"
#include "service/node.h"
#include "text/json.h"

#include <stdlib.h>
#include <string.h>

#define MAX_COMMAND 512 /* words */

struct node_opts {
    struct st_node_opts o;
    struct st_cli_evidence evidence;
    bool no_sandbox, has_sim;
    uint8_t sim_root[32];
};

enum {
    OPT_UPSTREAM = ST_KEY(1),
    OPT_MODEL,
    OPT_EVIDENCE,
    OPT_ROTATE,
    OPT_KEY_GRACE,
    OPT_CHUNK,
    OPT_CADENCE,
    OPT_MAX_REQUESTS,
    OPT_ENGINE_WAIT,
    OPT_NO_SANDBOX,
    OPT_COLLECTOR, /* and so many behind it as there are */
};

static const struct argp_option options[] = {
    {"upstream", OPT_UPSTREAM, "ADDRESS", 0, "The engine: unix:PATH, or http://127.0.0.1:PORT", 0},
    {"model", OPT_MODEL, "PATH", 0, "Read this model (a directory or a file) and state its digest", 0},
    {"evidence", OPT_EVIDENCE, "KINDS", 0, "What proves this machine: tdx, snp, sgx, tpm, nvgpu, sim; with commas", 0},
    {"rotate", OPT_ROTATE, "SECONDS", 0, "Life of a pair of keys; default 3600", 1},
    {"key-grace", OPT_KEY_GRACE, "SECONDS", 0, "How long the pair before still opens requests; default 600", 1},
    {"max-requests", OPT_MAX_REQUESTS, "N", 0, "Requests of one pair, all remembered; default 1048576", 1},
    {"chunk", OPT_CHUNK, "BYTES", 0, "Size of every piece of a reply; default 512", 1},
    {"cadence", OPT_CADENCE, "MS", 0,
     "One piece every MS milliseconds, filled up; default: as produced, when their times tell which of several known "
     "prompts it was (docs/leakage.md)",
     1},
    {"engine-wait", OPT_ENGINE_WAIT, "SECONDS", 0, "At the start, for the engine to answer; default 600", 1},
    {"no-sandbox", OPT_NO_SANDBOX, NULL, 0, "Keep all system calls and files (base/sandbox.h)", 1},
    ST_EVIDENCE_OPTIONS(OPT_COLLECTOR, 2),
    {0},
};

static int set_size(const char *name, char *arg, uint32_t min, uint32_t max, size_t *out, struct st_err *e)
{
    uint32_t v = 0;
    int rc = st_opt_u32(name, arg, min, max, &v, e);
    *out = v;
    return rc;
}

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    struct node_opts *o = opts;
    int rc = 0;
    switch (key) {
    case OPT_UPSTREAM:
        o->o.upstream = arg;
        return 0;
    case OPT_MODEL:
        o->o.model = arg;
        return 0;
    case OPT_EVIDENCE:
        return st_evidence_kinds(&o->evidence, arg, e);
    case OPT_ROTATE:
        return st_opt_real("--rotate", arg, 1, 86400, &o->o.rotate_s, e);
    case OPT_KEY_GRACE:
        return st_opt_real("--key-grace", arg, 1, 86400, &o->o.key_grace_s, e);
    case OPT_MAX_REQUESTS:
        return set_size("--max-requests", arg, 1, 1u << 24, &o->o.max_requests, e);
    case OPT_CHUNK:
        return set_size("--chunk", arg, 256, 16384, &o->o.chunk, e);
    case OPT_CADENCE:
        rc = st_opt_real("--cadence", arg, 1, 10000, &o->o.cadence_s, e);
        o->o.cadence_s /= 1000;
        return rc;
    case OPT_ENGINE_WAIT:
        return st_opt_real("--engine-wait", arg, 0.1, 86400, &o->o.engine_wait_s, e);
    case OPT_NO_SANDBOX:
        o->no_sandbox = true;
        return 0;
    default:
        return st_evidence_set(&o->evidence, key - OPT_COLLECTOR, arg, e);
    }
}

static void put_digest(struct st_buf *b, const char *name, const uint8_t *digest)
{
    char hex[65] = "";
    if (digest)
        st_hex(digest, 32, hex);
    st_buf_addf(b, digest ? ",\"%s\":\"%s\"" : ",\"%s\":null", name, hex);
}

static void print_json(const struct node_opts *o, const struct st_node_about *a)
{
    struct st_buf b = {0};
    st_buf_addf(&b, "{\"url\":\"%s\",\"port\":%d,\"engine\":\"%s\",\"cache\":\"%s\"", a->url, a->port, a->engine,
                a->cache);
    put_digest(&b, "model_digest", a->model_digest);
    put_digest(&b, "engine_digest", a->engine_digest);
    st_buf_add_str(&b, ",\"evidence\":[");
    for (size_t i = 0; i < o->o.n_kind; i++)
        st_buf_addf(&b, "%s\"%s\"", i ? "," : "", o->evidence.kinds[i]);
    st_buf_addf(&b, "],\"sandbox\":\"%s\"", a->sandbox);
    if (o->has_sim)
        put_digest(&b, "sim_root", o->sim_root);
    st_buf_add_str(&b, "}");
    puts(b.failed ? "{}" : b.p);
    st_buf_free(&b);
}

static void print_banner(const struct node_opts *o, const struct st_node_about *a)
{
    char hex[65];
    printf("sotto-node: %s\n  engine: %s at %s; %s\n  evidence:", a->url, a->engine, o->o.upstream, a->cache);
    for (size_t i = 0; i < o->o.n_kind; i++)
        printf(" %s", o->evidence.kinds[i]);
    if (o->has_sim) {
        st_hex(o->sim_root, sizeof o->sim_root, hex);
        printf("\n  sim_root:      %s (simulated evidence proves nothing)", hex);
    }
    if (a->model_digest) {
        st_hex(a->model_digest, 32, hex);
        printf("\n  model digest:  %s", hex);
    } else
        printf("\n  model digest:  not stated (--model)");
    if (a->engine_digest) {
        st_hex(a->engine_digest, 32, hex);
        printf("\n  engine digest: %s", hex);
    } else
        printf("\n  engine digest: not stated: the engine was not started here (-- COMMAND)");
    printf("\n  sandbox: %s\n", *a->sandbox ? a->sandbox : "off (--no-sandbox)");
    puts("  sees: prompts and replies, in memory; no address, no account. Nothing is written; counters only are kept.");
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    struct node_opts *o = opts;
    struct st_node_about about;
    struct st_node *n;
    if (!o->o.upstream || !o->evidence.n_kind)
        return st_fail(e, ST_USAGE, "serve: want --upstream and --evidence (missing: %s)",
                       o->o.upstream ? "--evidence" : "--upstream");
    st_role_cli(cli, 7791, &o->o.listen);
    o->o.kinds = o->evidence.kinds;
    o->o.n_kind = o->evidence.n_kind;
    o->o.collect = o->evidence.collect;
    o->o.command = cli->n_args ? cli->args : NULL;
    o->o.progress = !cli->quiet;
    o->o.sandbox = !o->no_sandbox;
    o->has_sim = st_evidence_has(&o->evidence, "sim");
    if (o->has_sim && !o->o.collect.sim_key)
        return st_fail(e, ST_USAGE, "serve: --evidence sim wants --sim-key FILE");
    if (o->has_sim && st_collect_sim_root(o->o.collect.sim_key, o->sim_root, e))
        return e->code;
    /* tpm2-tss writes to standard error by itself; the one line of an error is ours. */
    setenv("TSS2_LOG", "all+NONE", 0);
    if (st_node_new(&o->o, &n, e))
        return e->code;
    st_node_about(n, &about);
    if (cli->json)
        print_json(o, &about);
    else if (!cli->quiet)
        print_banner(o, &about);
    fflush(stdout);
    int rc = st_node_run(n, e);
    st_node_free(n);
    return rc;
}

const struct st_cmd st_cmd_node_serve = {
    .name = "serve",
    .summary = "Serve sealed requests from the engine beside it; what it is without a command",
    .args_doc = "[-- COMMAND ARGUMENT...]",
    .max_args = MAX_COMMAND,
    .doc =
        "Runs inside of a trusted execution environment beside an OpenAI-compatible engine (vLLM, SGLang, llama.cpp, "
        "sotto serve). Makes keys in memory, proves them by evidence of the machine, opens requests that are sealed "
        "for them, hands the engine the fields that it knows, and seals the reply in pieces of one size, with a "
        "receipt. An engine whose prefix cache could tell clients about each other is refused. With -- COMMAND it "
        "starts the engine itself and states its digest. Only the gateway needs to reach the port; nothing that "
        "passes there can be read without a node's key. Keys die with the process, and at once when the evidence "
        "does not hold any more (status 5).",
    .examples = "  sotto-node --upstream http://127.0.0.1:8000 --model /models/llama \\\n"
                "      --evidence tdx,nvgpu --host 0.0.0.0\n"
                "  sotto-node --upstream http://127.0.0.1:8000 --model /models/llama \\\n"
                "      --evidence snp -- vllm serve /models/llama --port 8000\n"
                "  sotto-node --upstream http://127.0.0.1:7789 --evidence sim \\\n"
                "      --sim-key sim.key --cadence 40",
    .shared = ST_CLI_JSON | ST_CLI_PORT,
    .options = options,
    .opts_size = sizeof(struct node_opts),
    .set = set,
    .run = run,
};
