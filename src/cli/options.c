/* Option parsing for all commands, on argp. argp prints the help and walks the words; unknown options and missing
 * values are found before it runs, so that every error is one line that names the option. */
#include "base/mem.h"
#include "cli/cli.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    KEY_CONFIG = ST_KEY(900),
    KEY_JSON,
    KEY_THREADS,
    KEY_CPU,
    KEY_TOKENIZER,
    KEY_DTYPE,
    KEY_KV_DTYPE,
    KEY_CTX,
    KEY_DETERMINISTIC,
    KEY_HARDEN,
    KEY_ADAPTER,
    KEY_CHAT_TEMPLATE,
    KEY_TEMP,
    KEY_TOP_K,
    KEY_TOP_P,
    KEY_MIN_P,
    KEY_REPETITION_PENALTY,
    KEY_SEED,
    KEY_HOST,
    KEY_PORT,
    KEY_API_KEY_FILE,
    KEY_TLS_CERT,
    KEY_TLS_KEY,
    KEY_ALLOW_HOST,
    KEY_MAX_BODY,
    KEY_MAX_CONN,
    KEY_MAX_CLIENT,
    KEY_GRACE,
    KEY_PASSPHRASE_FILE,
    KEY_PASSPHRASE,
    KEY_TCTI,
    KEY_PROTECT,
    KEY_WORKER,
    KEY_WORKER_CA,
    KEY_WORKER_TIMEOUT,
    KEY_SCHEME,
    KEY_PARAMS,
    KEY_HINTS,
    KEY_RANK,
    KEY_NO_INTEGRITY,
    KEY_OFFLOAD,
    KEY_EMBEDDING,
    KEY_EXPERTS,
    KEY_ATTENTION,
    KEY_PAD_MEMORY,
    KEY_PAD_THREADS,
    KEY_ALLOW_UNLOCKED,
    KEY_RECORD,
    KEY_SHOW_EGRESS,
    KEY_PRIVATE_WEIGHTS,
    KEY_WORKER_POLICY,
    KEY_PREPARER,
    KEY_PREPARER_POLICY,
    KEY_REFERENCE,
    KEY_PUBLISHER,
    KEY_ENCLAVE_MEMORY,
    KEY_HPKE_KEY,
    KEY_RELEASE,
    KEY_RELEASE_CA,
    KEY_EVIDENCE,
    KEY_ENDORSEMENTS,
    KEY_TPM_AK,
    KEY_TPM_CERTS,
    KEY_SIM_KEY,
    KEY_SIM_MEASUREMENT,
    KEY_MIN_VERSION,
    KEY_NO_SANDBOX,
};

/* Groups from 7 on put them after the command's own options in the help. */
static const struct {
    unsigned shared; /* 0 = every command */
    struct argp_option o;
} shared_options[] = {
    {ST_CLI_MASKED,
     {"protect", KEY_PROTECT, "NAME", 0,
      "none or masked, in sotto proxy also covariant or confidential; sealed follows from the model", 7}},
    {ST_CLI_MASKED,
     {"worker", KEY_WORKER, "ADDRESS", 0,
      "masked: who computes the linear layers: tcp://, tls://HOST:PORT, unix:PATH or shm:PATH; may be repeated", 7}},
    {ST_CLI_MASKED, {"worker-ca", KEY_WORKER_CA, "FILE", 0, "Certificates that a tls:// worker is checked against", 7}},
    {ST_CLI_MASKED,
     {"worker-timeout", KEY_WORKER_TIMEOUT, "SECONDS", 0, "For connecting, and for each exchange; default 30", 7}},
    {ST_CLI_MASKED,
     {"scheme", KEY_SCHEME, "NAME", 0,
      "How rows are masked: lwe (default) or otp, which no attack of ours reads; or remo, for comparison: a worker "
      "projects its masks away and reads everything. Lengths show under all of them (docs/leakage.md)",
      7}},
    {ST_CLI_MASKED, {"params", KEY_PARAMS, "NAME", 0, "Parameter set of lwe; default: that of the hints", 7}},
    {ST_CLI_MASKED,
     {"hints", KEY_HINTS, "FILE", 0, "Hints of lwe (sotto-worker prepare); default: from the worker", 7}},
    {ST_CLI_MASKED, {"rank", KEY_RANK, "M", 0, "Rank of the masks of remo; default half the width of a row", 7}},
    {ST_CLI_MASKED,
     {"no-integrity", KEY_NO_INTEGRITY, NULL, 0, "Do not check what the worker returns; every output says so", 7}},
    {ST_CLI_MASKED,
     {"offload", KEY_OFFLOAD, "WHAT", 0,
      "auto (default): layers whose weights are here stay here from so many rows on as was measured to be quicker, "
      "with "
      "--deterministic none; all: none does; ROWS: from so many rows on",
      7}},
    {ST_CLI_MASKED,
     {"embedding", KEY_EMBEDDING, "WHERE", 0, "Rows of the embedding: local (default), or remote, fetched masked", 7}},
    {ST_CLI_MASKED,
     {"experts", KEY_EXPERTS, "WHERE", 0, "Routed experts: local (default), or all: every one sees every row", 7}},
    {ST_CLI_MASKED,
     {"attention", KEY_ATTENTION, "WHERE", 0,
      "Attention products: inside (default), or outside-breakable, for comparison: a worker computes them in a packing "
      "that does not hide them, and reads prompts and replies (docs/masked.md)",
      7}},
    {ST_CLI_MASKED,
     {"pad-memory", KEY_PAD_MEMORY, "BYTES", 0, "For pads made ahead; default 1/8 of what is free, at most 1G", 7}},
    {ST_CLI_MASKED, {"pad-threads", KEY_PAD_THREADS, "N", 0, "That make pads; default 1", 7}},
    {ST_CLI_MASKED | ST_CLI_SEALED,
     {"allow-unlocked", KEY_ALLOW_UNLOCKED, NULL, 0,
      "Keep decrypted weights, and pads where the system swaps, in memory that is not locked", 7}},
    {ST_CLI_MASKED, {"record", KEY_RECORD, "FILE", 0, "Write what passes to and from the worker to FILE", 7}},
    {ST_CLI_MASKED,
     {"show-egress", KEY_SHOW_EGRESS, NULL, 0, "Print samples of what leaves this machine on standard error", 7}},
    {ST_CLI_MASKED,
     {"private-weights", KEY_PRIVATE_WEIGHTS, NULL, 0,
      "With a kit: the worker's weights are private, and it asks for --evidence of what this side runs", 7}},
    {ST_CLI_MASKED,
     {"worker-policy", KEY_WORKER_POLICY, "FILE", 0, "A tls:// worker must prove what it runs by this policy", 7}},
    {ST_CLI_MASKED,
     {"preparer", KEY_PREPARER, "ADDRESS", 0,
      "With a kit: an attested holder of the weights (sotto-worker --preparer), tls://HOST:PORT, makes what checks and "
      "one-time pads need of them",
      7}},
    {ST_CLI_MASKED,
     {"preparer-policy", KEY_PREPARER_POLICY, "FILE", 0, "The preparer must prove what it runs by this policy", 7}},
    {ST_CLI_MASKED,
     {"reference", KEY_REFERENCE, "NAME", 0, "masked-int: instead of a worker, the exact integers of one, here", 7}},
    {ST_CLI_LISTEN, {"host", KEY_HOST, "ADDRESS", 0, "Listen there; default 127.0.0.1. Others need --api-key-file", 9}},
    {ST_CLI_PORT, {"host", KEY_HOST, "ADDRESS", 0, "Listen there; default 127.0.0.1", 9}},
    {ST_CLI_LISTEN | ST_CLI_PORT, {"port", KEY_PORT, "P", 0, "Port; 0 = chosen by the system", 9}},
    {ST_CLI_LISTEN, {"api-key-file", KEY_API_KEY_FILE, "FILE", 0, "Accept only these keys, one per line", 9}},
    {ST_CLI_LISTEN | ST_CLI_PORT,
     {"tls-cert", KEY_TLS_CERT, "FILE", 0, "Serve TLS with this certificate chain (PEM)", 9}},
    {ST_CLI_LISTEN | ST_CLI_PORT, {"tls-key", KEY_TLS_KEY, "FILE", 0, "Private key of the certificate (PEM)", 9}},
    {ST_CLI_LISTEN, {"allow-host", KEY_ALLOW_HOST, "NAME", 0, "Accept this Host header too; may be repeated", 9}},
    {ST_CLI_LISTEN,
     {"max-body", KEY_MAX_BODY, "BYTES", 0, "Longest request; default 256 KiB and 64 bytes per token of the context",
      9}},
    {ST_CLI_LISTEN | ST_CLI_PORT, {"max-conn", KEY_MAX_CONN, "N", 0, "Open connections; default 4096", 9}},
    {ST_CLI_LISTEN, {"max-client", KEY_MAX_CLIENT, "N", 0, "Requests of one client at once; default no limit", 9}},
    {ST_CLI_LISTEN | ST_CLI_PORT,
     {"grace", KEY_GRACE, "SECONDS", 0, "SIGTERM lets running requests finish so long; default 30", 9}},
    {ST_CLI_UNLOCK,
     {"passphrase-file", KEY_PASSPHRASE_FILE, "FILE", 0,
      "For a key or a sealed model with a passphrase: read it from this 0600 file", 8}},
    {ST_CLI_UNLOCK,
     {"passphrase", KEY_PASSPHRASE, NULL, 0,
      "For a key or a sealed model with a passphrase: ask for it on the terminal", 8}},
    {ST_CLI_UNLOCK,
     {"tcti", KEY_TCTI, "CONF", 0, "How to reach the TPM; default: TSS2_TCTI, else device:/dev/tpmrm0", 8}},
    {ST_CLI_SEALED,
     {"publisher", KEY_PUBLISHER, "KEY", 0,
      "A sealed model is taken from this publisher only: 64 hexadecimal digits, or a file of them", 8}},
    {ST_CLI_SEALED,
     {"min-version", KEY_MIN_VERSION, "N", 0, "Refuse a sealed model of an older version of its owner's", 8}},
    {ST_CLI_SEALED, {"hpke-key", KEY_HPKE_KEY, "FILE", 0, "Private key that a sealed model was sealed for", 8}},
    {ST_CLI_SEALED,
     {"release", KEY_RELEASE, "URL", 0, "Ask this release service of the owner for the key of a sealed model", 8}},
    {ST_CLI_SEALED, {"release-ca", KEY_RELEASE_CA, "FILE", 0, "Check its TLS against these certificates (PEM)", 8}},
    {ST_CLI_SEALED,
     {"evidence", KEY_EVIDENCE, "KINDS", 0,
      "--release, --private-weights: what proves this machine: tdx, snp, sgx, tpm, nvgpu, sim; with commas", 8}},
    {ST_CLI_SEALED,
     {"endorsements", KEY_ENDORSEMENTS, "DIR", 0,
      "--evidence: certificates, revocation lists, reference values that go along", 8}},
    {ST_CLI_SEALED,
     {"tpm-ak", KEY_TPM_AK, "HANDLE", 0,
      "--evidence tpm: attestation key, as in 0x81000003; default: one that the TPM makes, always the same", 8}},
    {ST_CLI_SEALED, {"tpm-certs", KEY_TPM_CERTS, "FILE", 0, "--evidence tpm: certificates of that key (PEM)", 8}},
    {ST_CLI_SEALED,
     {"sim-key", KEY_SIM_KEY, "FILE", 0, "--evidence sim: seed of who signs, 64 hexadecimal digits; proves nothing",
      8}},
    {ST_CLI_SEALED,
     {"sim-measurement", KEY_SIM_MEASUREMENT, "HEX", 0, "--evidence sim: what is stated as measured, 64 digits", 8}},
    {ST_CLI_SEALED,
     {"enclave-memory", KEY_ENCLAVE_MEMORY, "BYTES", 0,
      "Decrypted weights take so much at most, as in 256M; the rest is decrypted as it is used. Default: all stay", 8}},
    {ST_CLI_SEALED,
     {"no-sandbox", KEY_NO_SANDBOX, NULL, 0, "With a sealed model: keep all system calls and files, for debugging", 8}},
    {ST_CLI_TOKENIZER,
     {"tokenizer", KEY_TOKENIZER, "FILE", 0, "Tokenizer file or directory; default: the model's own", 10}},
    {ST_CLI_ENGINE, {"dtype", KEY_DTYPE, "TYPE", 0, "Weights in memory: keep (default), f32, bf16 or int8", 10}},
    {ST_CLI_ENGINE,
     {"kv-dtype", KEY_KV_DTYPE, "TYPE", 0, "Key/value cache: f32 or bf16; default: f32 for f32 models, else bf16", 10}},
    {ST_CLI_ENGINE, {"ctx", KEY_CTX, "N", 0, "Longest sequence in tokens; default: the model's, at most 4096", 10}},
    {ST_CLI_ENGINE,
     {"deterministic", KEY_DETERMINISTIC, NULL, 0, "Results do not depend on the other requests of a batch", 10}},
    {ST_CLI_ENGINE,
     {"harden", KEY_HARDEN, "WHAT", 0,
      "Make logits worth less to whoever copies the model: topk=K,round=BITS,noise=SIGMA; default: as they are, which "
      "gives the last layer away (docs/leakage.md)",
      10}},
    {ST_CLI_ADAPTER,
     {"adapter", KEY_ADAPTER, "[NAME=]PATH", 0,
      "LoRA adapter: a directory of peft, or a sealed one; with sotto serve may be repeated, chosen by the request's "
      "model",
      10}},
    {ST_CLI_CHAT,
     {"chat-template", KEY_CHAT_TEMPLATE, "NAME", 0,
      "llama-2, llama-3, chatml, mistral or plain; default: from the checkpoint", 10}},
    {ST_CLI_SAMPLE, {"temp", KEY_TEMP, "T", 0, "Temperature; 0 = always the most likely token", 11}},
    {ST_CLI_SAMPLE, {"top-k", KEY_TOP_K, "N", 0, "Keep the N most likely tokens; 0 = off (default)", 11}},
    {ST_CLI_SAMPLE, {"top-p", KEY_TOP_P, "P", 0, "Keep the smallest set of probability P; 1 = off (default)", 11}},
    {ST_CLI_SAMPLE, {"min-p", KEY_MIN_P, "P", 0, "Drop tokens below P times the largest; 0 = off (default)", 11}},
    {ST_CLI_SAMPLE,
     {"repetition-penalty", KEY_REPETITION_PENALTY, "R", 0, "Divide the logits of tokens seen before; 1 = off", 11}},
    {ST_CLI_SAMPLE, {"seed", KEY_SEED, "N", 0, "Seed of the random draws; default: a fresh one", 11}},
    {ST_CLI_THREADS, {"threads", KEY_THREADS, "N", 0, "Threads; default: all CPUs of this process", 12}},
    {ST_CLI_THREADS, {"cpu", KEY_CPU, "ISA", 0, "Force kernels: ref, avx2, avx512; default: the best of this CPU", 12}},
    {ST_CLI_JSON, {"json", KEY_JSON, NULL, 0, "Print one JSON object", 12}},
    {0, {"quiet", 'q', NULL, 0, "Print errors only", 12}},
    {0, {"verbose", 'v', NULL, 0, "Print more about what happens", 12}},
    {0, {"config", KEY_CONFIG, "FILE", 0, "Read this config file only; empty: none", 12}},
};
#define N_SHARED (sizeof shared_options / sizeof *shared_options)

static bool has_shared(const struct st_cmd *cmd, size_t i)
{
    return !shared_options[i].shared || (cmd->shared & shared_options[i].shared);
}

void st_cli_options(const struct st_cmd *cmd, struct st_opt_list *out)
{
    const int cap = (int)(sizeof out->p / sizeof *out->p);
    out->n = 0;
    for (const struct argp_option *o = cmd->options; o && (o->name || o->key) && out->n < cap; o++)
        out->p[out->n++] = o;
    for (size_t i = 0; i < N_SHARED && out->n < cap; i++)
        if (has_shared(cmd, i))
            out->p[out->n++] = &shared_options[i].o;
}

static const char *shared_name(int key)
{
    for (size_t i = 0; i < N_SHARED; i++)
        if (shared_options[i].o.key == key)
            return shared_options[i].o.name;
    return "";
}

int st_opt_int(const char *name, const char *arg, int64_t min, int64_t max, int64_t *out, struct st_err *e)
{
    char *end;
    errno = 0;
    long long v = strtoll(arg, &end, 10);
    if (end == arg || *end || errno || v < min || v > max)
        return st_fail(e, ST_USAGE, "%s: want a whole number in %lld..%lld, got '%s'", name, (long long)min,
                       (long long)max, arg);
    *out = v;
    return 0;
}

int st_opt_u32(const char *name, const char *arg, uint32_t min, uint32_t max, uint32_t *out, struct st_err *e)
{
    int64_t v = 0;
    if (st_opt_int(name, arg, min, max, &v, e))
        return e->code;
    *out = (uint32_t)v;
    return 0;
}

int st_opt_real(const char *name, const char *arg, double min, double max, double *out, struct st_err *e)
{
    char *end;
    double v = strtod(arg, &end);
    if (end == arg || *end || !isfinite(v) || v < min || v > max)
        return st_fail(e, ST_USAGE, "%s: want a number in %g..%g, got '%s'", name, min, max, arg);
    *out = v;
    return 0;
}

int st_opt_size(const char *name, const char *arg, uint64_t min, uint64_t *out, struct st_err *e)
{
    static const char units[] = "KMGT";
    char *end;
    errno = 0;
    unsigned long long v = strtoull(arg, &end, 10);
    const char *unit = *end ? strchr(units, toupper((unsigned char)*end)) : NULL;
    int shift = unit ? 10 * (int)(unit - units + 1) : 0;
    if (!isdigit((unsigned char)*arg) || errno || (*end && (!unit || end[1])) || v > UINT64_MAX >> shift ||
        (uint64_t)v << shift < min) {
        char text[ST_MEM_TEXT];
        return st_fail(e, ST_USAGE, "%s: want a size of at least %s, as in 512M or 2G, got '%s'", name,
                       st_mem_text(min, text), arg);
    }
    *out = (uint64_t)v << shift;
    return 0;
}

int st_opt_choice(const char *name, const char *arg, const char *const *choices, int *out, struct st_err *e)
{
    struct st_buf known = {0};
    for (int i = 0; choices[i]; i++) {
        if (strcmp(choices[i], arg) == 0) {
            st_buf_free(&known);
            *out = i;
            return 0;
        }
        st_buf_addf(&known, "%s%s", i ? ", " : "", choices[i]);
    }
    st_fail(e, ST_USAGE, "%s: want one of %s, got '%s'", name, known.p ? known.p : "", arg);
    st_buf_free(&known);
    return e->code;
}

static int set_real(const char *name, const char *arg, double min, double max, float *out, struct st_err *e)
{
    double v = 0;
    if (st_opt_real(name, arg, min, max, &v, e))
        return e->code;
    *out = (float)v;
    return 0;
}

static int set_listen(struct st_cli_listen *l, int key, char *arg, struct st_err *e)
{
    int64_t v = 0;
    switch (key) {
    case KEY_HOST:
        l->host = arg;
        return 0;
    case KEY_PORT:
        if (st_opt_int("--port", arg, 0, 65535, &v, e))
            return e->code;
        l->port = (int)v;
        return 0;
    case KEY_API_KEY_FILE:
        l->api_key_file = arg;
        return 0;
    case KEY_TLS_CERT:
        l->tls_cert = arg;
        return 0;
    case KEY_TLS_KEY:
        l->tls_key = arg;
        return 0;
    case KEY_ALLOW_HOST:
        if (l->n_host == ST_CLI_MAX_HOSTS)
            return st_fail(e, ST_USAGE, "--allow-host: at most %d", ST_CLI_MAX_HOSTS);
        l->hosts[l->n_host++] = arg;
        return 0;
    case KEY_MAX_BODY:
        return st_opt_u32("--max-body", arg, 1024, 1u << 30, &l->max_body, e);
    case KEY_MAX_CONN:
        return st_opt_u32("--max-conn", arg, 1, 1u << 20, &l->max_conn, e);
    case KEY_MAX_CLIENT:
        return st_opt_u32("--max-client", arg, 0, 1u << 20, &l->max_client, e);
    default:
        return st_opt_real("--grace", arg, 0.1, 86400, &l->grace_s, e);
    }
}

static int set_model(struct st_cli *c, int key, char *arg, struct st_err *e)
{
    static const char *const dtypes[] = {"keep", "f32", "bf16", "int8", NULL};
    static const char *const kv_dtypes[] = {"f32", "bf16", NULL};
    int i = 0;
    switch (key) {
    case KEY_TOKENIZER:
        c->tokenizer = arg;
        return 0;
    case KEY_DTYPE:
        if (st_opt_choice("--dtype", arg, dtypes, &i, e))
            return e->code;
        c->dtype = (enum st_cli_dtype)i;
        return 0;
    case KEY_KV_DTYPE:
        if (st_opt_choice("--kv-dtype", arg, kv_dtypes, &i, e))
            return e->code;
        c->kv_dtype = i ? ST_DTYPE_BF16 : ST_DTYPE_F32;
        return 0;
    case KEY_CTX:
        return st_opt_u32("--ctx", arg, 1, 1u << 24, &c->n_ctx, e);
    case KEY_DETERMINISTIC:
        c->deterministic = true;
        return 0;
    case KEY_HARDEN:
        c->harden = arg;
        return 0;
    case KEY_ADAPTER:
        if (c->n_adapter == ST_CLI_MAX_ADAPTERS)
            return st_fail(e, ST_USAGE, "--adapter: at most %d", ST_CLI_MAX_ADAPTERS);
        c->adapters[c->n_adapter++] = arg;
        return 0;
    default:
        c->chat_template = arg;
        return 0;
    }
}

static int set_offload(struct st_cli_masked *m, const char *arg, struct st_err *e)
{
    m->offload_all = strcmp(arg, "all") == 0;
    m->keep_rows = 0;
    if (m->offload_all || strcmp(arg, "auto") == 0)
        return 0;
    if (st_opt_u32("--offload", arg, 1, 1u << 30, &m->keep_rows, e))
        return st_fail(e, ST_USAGE, "--offload: want auto, all or a number of rows in 1..%u, got '%s'", 1u << 30, arg);
    return 0;
}

static int set_masked_switch(struct st_cli_masked *m, int key, char *arg, struct st_err *e)
{
    static const char *const embedding[] = {"local", "remote", NULL}, *const experts[] = {"local", "all", NULL},
                             *const attention[] = {"inside", "outside-breakable", NULL};
    int i = 0, rc = 0;
    switch (key) {
    case KEY_NO_INTEGRITY:
        m->no_integrity = true;
        return 0;
    case KEY_PRIVATE_WEIGHTS:
        m->private_weights = true;
        return 0;
    case KEY_OFFLOAD:
        return set_offload(m, arg, e);
    case KEY_EMBEDDING:
        rc = st_opt_choice("--embedding", arg, embedding, &i, e);
        m->embedding_remote = i;
        return rc;
    case KEY_ATTENTION:
        rc = st_opt_choice("--attention", arg, attention, &i, e);
        m->attention_outside = i;
        return rc;
    default:
        rc = st_opt_choice("--experts", arg, experts, &i, e);
        m->experts_all = i;
        return rc;
    }
}

static int set_masked(struct st_cli *c, int key, char *arg, struct st_err *e)
{
    struct st_cli_masked *m = &c->masked;
    const char **text = NULL;
    if (key == KEY_PROTECT) {
        c->protect = arg;
        return 0;
    }
    if (key == KEY_SHOW_EGRESS || key == KEY_ALLOW_UNLOCKED) { /* other protections have them too */
        *(key == KEY_SHOW_EGRESS ? &m->show_egress : &m->allow_unlocked) = true;
        return 0;
    }
    if (!m->first)
        m->first = shared_name(key);
    switch (key) {
    case KEY_WORKER:
        if (m->n_worker == ST_CLI_MAX_WORKERS)
            return st_fail(e, ST_USAGE, "--worker: at most %d", ST_CLI_MAX_WORKERS);
        m->workers[m->n_worker++] = arg;
        return 0;
    case KEY_WORKER_TIMEOUT:
        return st_opt_real("--worker-timeout", arg, 0.1, 86400, &m->timeout_s, e);
    case KEY_RANK:
        return st_opt_u32("--rank", arg, 1, 1u << 20, &m->rank, e);
    case KEY_PAD_MEMORY:
        return st_opt_size("--pad-memory", arg, 1u << 16, &m->pad_memory, e);
    case KEY_PAD_THREADS:
        return st_opt_u32("--pad-threads", arg, 1, 1024, &m->pad_threads, e);
    case KEY_WORKER_CA:
        text = &m->worker_ca;
        break;
    case KEY_SCHEME:
        text = &m->scheme;
        break;
    case KEY_PARAMS:
        text = &m->params;
        break;
    case KEY_HINTS:
        text = &m->hints;
        break;
    case KEY_RECORD:
        text = &m->record;
        break;
    case KEY_WORKER_POLICY:
        text = &m->worker_policy;
        break;
    case KEY_PREPARER:
        text = &m->preparer;
        break;
    case KEY_PREPARER_POLICY:
        text = &m->preparer_policy;
        break;
    case KEY_REFERENCE:
        text = &m->reference;
        break;
    default:
        return set_masked_switch(m, key, arg, e);
    }
    *text = arg;
    return 0;
}

static int set_release(struct st_cli_sealed *s, int key, char *arg, struct st_err *e)
{
    const char **text = NULL;
    switch (key) {
    case KEY_EVIDENCE:
        return st_evidence_kinds(&s->evidence, arg, e);
    case KEY_SIM_MEASUREMENT:
        return st_evidence_sim_measurement(&s->evidence, arg, e);
    case KEY_RELEASE:
        text = &s->release;
        break;
    case KEY_RELEASE_CA:
        text = &s->release_ca;
        break;
    case KEY_ENDORSEMENTS:
        text = &s->evidence.collect.endorsements;
        break;
    case KEY_TPM_AK:
        text = &s->evidence.collect.tpm_ak;
        break;
    case KEY_TPM_CERTS:
        text = &s->evidence.collect.tpm_certs;
        break;
    default:
        text = &s->evidence.collect.sim_key;
        break;
    }
    *text = arg;
    return 0;
}

static int set_sealed(struct st_cli_sealed *s, int key, char *arg, struct st_err *e)
{
    int64_t v = 0;
    const bool evidence = key >= KEY_EVIDENCE && key <= KEY_SIM_MEASUREMENT;
    const char **first = evidence ? &s->first_evidence : &s->first;
    if (!*first)
        *first = shared_name(key);
    switch (key) {
    case KEY_PUBLISHER:
        s->publisher = arg;
        return 0;
    case KEY_ENCLAVE_MEMORY:
        return st_opt_size("--enclave-memory", arg, 1, &s->memory, e);
    case KEY_HPKE_KEY:
        s->hpke_key = arg;
        return 0;
    case KEY_MIN_VERSION:
        if (st_opt_int("--min-version", arg, 0, INT64_MAX, &v, e))
            return e->code;
        s->min_version = (uint64_t)v;
        return 0;
    case KEY_NO_SANDBOX:
        s->no_sandbox = true;
        return 0;
    default:
        return set_release(s, key, arg, e);
    }
}

static int set_shared(struct st_cli *c, int key, char *arg, struct st_err *e)
{
    int64_t v = 0;
    switch (key) {
    case 'q':
        c->quiet = true;
        return 0;
    case 'v':
        c->verbose = true;
        return 0;
    case KEY_CONFIG: /* read before */
        return 0;
    case KEY_JSON:
        c->json = true;
        return 0;
    case KEY_THREADS:
        if (st_opt_int("--threads", arg, 0, 1024, &v, e))
            return e->code;
        c->n_threads = (int)v;
        return 0;
    case KEY_CPU:
        c->isa = arg;
        return 0;
    case KEY_TEMP:
        c->temp_given = true;
        return set_real("--temp", arg, 0, 100, &c->temp, e);
    case KEY_TOP_K:
        return st_opt_u32("--top-k", arg, 0, UINT32_MAX, &c->top_k, e);
    case KEY_TOP_P:
        return set_real("--top-p", arg, 0, 1, &c->top_p, e);
    case KEY_MIN_P:
        return set_real("--min-p", arg, 0, 1, &c->min_p, e);
    case KEY_REPETITION_PENALTY:
        return set_real("--repetition-penalty", arg, 0.01, 100, &c->repetition_penalty, e);
    case KEY_SEED:
        if (st_opt_int("--seed", arg, 0, INT64_MAX, &v, e))
            return e->code;
        c->seed = (uint64_t)v;
        c->seed_given = true;
        return 0;
    case KEY_PASSPHRASE_FILE:
        c->unlock.passphrase_file = arg;
        return 0;
    case KEY_PASSPHRASE:
        c->unlock.passphrase = true;
        return 0;
    case KEY_TCTI:
        c->unlock.tcti = arg;
        return 0;
    default:
        if (key >= KEY_PUBLISHER)
            return set_sealed(&c->sealed, key, arg, e);
        if (key >= KEY_PROTECT)
            return set_masked(c, key, arg, e);
        return key >= KEY_HOST ? set_listen(&c->listen, key, arg, e) : set_model(c, key, arg, e);
    }
}

/* What the argp callbacks share during one parse. */
struct parse {
    const struct st_cmd *cmd;
    struct st_cli *cli;
    void *opts;
    struct st_err *e;
};

static error_t parse_own(int key, char *arg, struct argp_state *state)
{
    struct parse *p = state->input;
    if (key >= 0x1000000 || !p->cmd->set) /* argp's own keys */
        return ARGP_ERR_UNKNOWN;
    return p->cmd->set(p->opts, key, arg, p->e) ? EINVAL : 0;
}

static error_t parse_shared(int key, char *arg, struct argp_state *state)
{
    struct parse *p = state->input;
    if (key >= 0x1000000)
        return ARGP_ERR_UNKNOWN;
    return set_shared(p->cli, key, arg, p->e) ? EINVAL : 0;
}

static error_t parse_root(int key, char *arg, struct argp_state *state)
{
    struct parse *p = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = p;
        state->child_inputs[1] = p;
        state->err_stream = NULL; /* argp prints no errors: st_cli_parse does */
        return 0;
    case ARGP_KEY_ARG:
        if (p->cli->n_args == p->cmd->max_args) {
            st_fail(p->e, ST_USAGE, "%s: unexpected argument '%s' (see %s %s --help)", p->cmd->name, arg,
                    st_program.name, p->cmd->name);
            return EINVAL;
        }
        p->cli->args[p->cli->n_args++] = arg;
        return 0;
    case ARGP_KEY_END:
        if (p->cli->n_args < p->cmd->min_args) {
            st_fail(p->e, ST_USAGE, "%s: want the arguments %s (see %s %s --help)", p->cmd->name, p->cmd->args_doc,
                    st_program.name, p->cmd->name);
            return EINVAL;
        }
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option *find_long(const struct st_opt_list *l, const char *name, size_t len)
{
    for (int i = 0; i < l->n; i++)
        if (strlen(l->p[i]->name) == len && memcmp(l->p[i]->name, name, len) == 0)
            return l->p[i];
    return NULL;
}

static const struct argp_option *find_short(const struct st_opt_list *l, char c)
{
    for (int i = 0; i < l->n; i++)
        if (l->p[i]->key == c)
            return l->p[i];
    return NULL;
}

/* Checks one word of argv; sets *takes_next when its value is the next word, *option when it is --config. */
static int check_word(const struct st_cmd *cmd, const struct st_opt_list *l, const char *w, bool *takes_next,
                      const struct argp_option **option, struct st_err *e)
{
    *takes_next = false;
    *option = NULL;
    if (w[0] != '-' || !w[1])
        return 0;
    if (w[1] == '-') {
        size_t len = strcspn(w + 2, "=");
        bool has_value = w[2 + len] == '=';
        if (!has_value && (!strcmp(w, "--help") || !strcmp(w, "--usage") || !strcmp(w, "--version")))
            return 0;
        const struct argp_option *o = find_long(l, w + 2, len);
        if (!o)
            return st_fail(e, ST_USAGE, "%s: unknown option '--%.*s' (see %s %s --help)", cmd->name, (int)len, w + 2,
                           st_program.name, cmd->name);
        if (has_value && !o->arg)
            return st_fail(e, ST_USAGE, "%s: option '--%s' takes no value", cmd->name, o->name);
        *takes_next = o->arg && !has_value;
        *option = o;
        return 0;
    }
    for (const char *c = w + 1; *c; c++) {
        if (*c == '?' || *c == 'V')
            continue;
        const struct argp_option *o = find_short(l, *c);
        if (!o)
            return st_fail(e, ST_USAGE, "%s: unknown option '-%c' (see %s %s --help)", cmd->name, *c, st_program.name,
                           cmd->name);
        if (o->arg) {
            *takes_next = !c[1];
            return 0;
        }
    }
    return 0;
}

/* Refuses unknown options and missing values; rewrites -h; finds --config. */
static int check_words(const struct st_cmd *cmd, const struct st_opt_list *l, int argc, char **argv,
                       const char **config, struct st_err *e)
{
    static char help[] = "--help";
    for (int i = 1; i < argc; i++) {
        bool takes_next;
        const struct argp_option *o;
        if (!strcmp(argv[i], "--"))
            return 0;
        if (!strcmp(argv[i], "-h"))
            argv[i] = help;
        if (check_word(cmd, l, argv[i], &takes_next, &o, e))
            return e->code;
        if (takes_next && i + 1 == argc)
            return st_fail(e, ST_USAGE, "%s: option '%s' needs a value", cmd->name, argv[i]);
        if (o && o->key == KEY_CONFIG)
            *config = takes_next ? argv[i + 1] : strchr(argv[i], '=') + 1;
        i += takes_next;
    }
    return 0;
}

int st_words_add(struct st_words *w, char *word, struct st_err *e)
{
    if (w->n + 1 >= w->cap) {
        int cap = w->cap ? 2 * w->cap : 32;
        char **p = realloc(w->p, (size_t)cap * sizeof *p);
        if (!p)
            return st_fail(e, ST_MEMORY, "no memory for options");
        w->p = p;
        w->cap = cap;
    }
    w->p[w->n++] = word;
    w->p[w->n] = NULL;
    return 0;
}

int st_words_setting(struct st_words *w, const struct argp_option *o, const char *value, const char *where,
                     struct st_err *e)
{
    static const char *const yes[] = {"1", "true", "yes", "on"}, *const no[] = {"", "0", "false", "no", "off"};
    char *word = NULL;
    if (o->arg) {
        if (asprintf(&word, "--%s=%s", o->name, value) < 0)
            return st_fail(e, ST_MEMORY, "no memory for options");
        return st_words_add(w, word, e);
    }
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        if (!strcasecmp(value, no[i]))
            return 0;
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) {
        if (strcasecmp(value, yes[i]))
            continue;
        if (asprintf(&word, "--%s", o->name) < 0)
            return st_fail(e, ST_MEMORY, "no memory for options");
        return st_words_add(w, word, e);
    }
    return st_fail(e, ST_USAGE, "%s: want yes or no", where);
}

static void env_name(const char *option, char *out, size_t cap)
{
    size_t n = (size_t)snprintf(out, cap, "SOTTO_%s", option);
    for (size_t i = 0; i < n && i + 1 < cap; i++)
        out[i] = out[i] == '-' ? '_' : (char)toupper((unsigned char)out[i]);
}

static int add_environment(const struct st_opt_list *l, struct st_words *w, struct st_err *e)
{
    for (int i = 0; i < l->n; i++) {
        char name[64];
        env_name(l->p[i]->name, name, sizeof name);
        const char *v = getenv(name);
        /* An empty variable counts as unset, as in most programs. */
        if (v && *v && l->p[i]->key != KEY_CONFIG && st_words_setting(w, l->p[i], v, name, e))
            return e->code;
    }
    return 0;
}

static int all_words(const struct st_cmd *cmd, int argc, char **argv, struct st_words *w, struct st_err *e)
{
    static char program[64];
    struct st_opt_list l;
    const char *config = getenv("SOTTO_CONFIG");
    st_cli_options(cmd, &l);
    if (check_words(cmd, &l, argc, argv, &config, e))
        return e->code;
    snprintf(program, sizeof program, "%s %s", st_program.name, cmd->name);
    if (st_words_add(w, program, e) || st_cli_config(cmd, config, w, e) || add_environment(&l, w, e))
        return e->code;
    for (int i = 1; i < argc; i++)
        if (st_words_add(w, argv[i], e))
            return e->code;
    return 0;
}

/* argp's text: what the command does, then after \v the examples below the options. */
static char *doc_text(const struct st_cmd *cmd)
{
    char *doc = NULL;
    int n = asprintf(
        &doc,
        "%s\vExamples:\n%s\n\nEvery option is also an environment variable (SOTTO_<OPTION>, in capitals, - as _) "
        "and a line `option = value` under [%s] in the config file.",
        cmd->doc, cmd->examples ? cmd->examples : "", cmd->name);
    return n < 0 ? NULL : doc;
}

int st_cli_parse(const struct st_cmd *cmd, int argc, char **argv, struct st_cli *cli, void *opts, struct st_err *e)
{
    struct argp_option shared[N_SHARED + 1] = {0};
    static struct st_words w; /* kept to the end: values point into its words */
    int n = 0;
    *cli = (struct st_cli){.cmd = cmd, .kv_dtype = -1, .top_p = 1, .repetition_penalty = 1, .listen.port = -1};
    if (cmd->defaults)
        memcpy(opts, cmd->defaults, cmd->opts_size);
    for (size_t i = 0; i < N_SHARED; i++)
        if (has_shared(cmd, i))
            shared[n++] = shared_options[i].o;
    char *doc = doc_text(cmd);
    cli->args = calloc((size_t)cmd->max_args + 1, sizeof *cli->args);
    if (!doc || !cli->args) {
        st_fail(e, ST_MEMORY, "no memory for options");
        goto out;
    }
    if (all_words(cmd, argc, argv, &w, e))
        goto out;
    const struct argp own_argp = {.options = cmd->options, .parser = parse_own};
    const struct argp shared_argp = {.options = shared, .parser = parse_shared};
    const struct argp_child children[] = {{&own_argp, 0, NULL, 0}, {&shared_argp, 0, NULL, 0}, {0}};
    const struct argp root = {.parser = parse_root, .args_doc = cmd->args_doc, .doc = doc, .children = children};
    struct parse p = {cmd, cli, opts, e};
    e->code = 0;
    if (argp_parse(&root, w.n, w.p, 0, NULL, &p) && !e->code)
        st_fail(e, ST_USAGE, "%s: cannot read the command line (see %s %s --help)", cmd->name, st_program.name,
                cmd->name);
out:
    free(doc);
    return e->code;
}
