/* sotto bench sealed: a sealed model within several budgets of decrypted memory, beside the same with all of it
 * decrypted and beside the model that is not sealed; and the speed of decryption beside that of the cipher alone. */
#include "base/file.h"
#include "base/hooks.h"
#include "base/pool.h"
#include "cli/bench_run.h"
#include "cli/demo.h"
#include "crypto/aead.h"
#include "crypto/digest.h"
#include "crypto/ed25519.h"
#include "crypto/passphrase.h"
#include "protect/sealed/writer.h"
#include "text/json.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MAX_ROUNDS 8
#define CIPHER_S 0.3

struct round {
    uint32_t percent;
    uint64_t memory; /* what the store used */
    struct st_bench_figures speed;
    struct st_sealed_store_stats from, to;
};

struct bench {
    struct st_cli cli; /* opens the sealed model */
    const struct st_bench_sealed *o;
    const char *plain; /* the same model, not sealed; NULL = none */
    char model[ST_PATH_MAX], tmp[64], file[96], passphrase[96];
    uint32_t prompt;
    struct round rounds[MAX_ROUNDS], *now;
    int n_round;
    struct st_open m;
    uint64_t inside;
    double plain_tps, plain_prefill_tps, cipher_gbps;
    char publisher[65], name[128];
    int threads;
    char memory[16];
};

/* Always with 100, which the others are compared with, first. */
static int read_budgets(struct bench *b, struct st_err *e)
{
    const char *p = b->o->budgets ? b->o->budgets : "50,25,10";
    b->rounds[b->n_round++].percent = 100;
    while (*p) {
        char *end;
        unsigned long v = strtoul(p, &end, 10);
        if (end == p || v < 1 || v > 100 || (*end && *end != ',') || (*end && !end[1]) || b->n_round == MAX_ROUNDS)
            return st_fail(e, ST_USAGE,
                           "--budgets: want up to %d percentages in 1..100 separated by commas, like 50,10",
                           MAX_ROUNDS - 1);
        if (v != 100)
            b->rounds[b->n_round++].percent = (uint32_t)v;
        p = end + (*end == ',');
    }
    return 0;
}

static void remove_files(const struct bench *b)
{
    if (*b->file)
        unlink(b->file);
    if (*b->passphrase)
        unlink(b->passphrase);
    if (*b->tmp)
        rmdir(b->tmp);
}

static const struct bench *volatile sealed_here;

/* Ctrl-C must not leave the files behind. Calls only what a signal handler may call. */
static void on_signal(int sig)
{
    if (sealed_here)
        remove_files(sealed_here);
    raise(sig);
}

/* A copy of the model with everything inside, under keys that nobody keeps. */
static int seal_model(struct bench *b, struct st_err *e)
{
    static const struct st_argon2 cheap = {.passes = 1, .memory_kib = 64, .lanes = 1};
    static const char *const recipient[] = {"passphrase"};
    const char *base = getenv("TMPDIR");
    struct st_secret seed = {0}, passphrase = {0};
    struct st_seal_report report;
    uint8_t random[16];
    char hex[33];
    snprintf(b->tmp, sizeof b->tmp, "%s/sotto-bench-XXXXXX", base && *base && strlen(base) < 40 ? base : "/tmp");
    if (!mkdtemp(b->tmp)) {
        *b->tmp = 0;
        return st_fail(e, ST_IO, "cannot make a temporary directory (TMPDIR)");
    }
    const struct sigaction sa = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    sealed_here = b;
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    snprintf(b->file, sizeof b->file, "%s/model.sealed", b->tmp);
    snprintf(b->passphrase, sizeof b->passphrase, "%s/passphrase", b->tmp);
    int rc = st_random(random, sizeof random, e);
    if (!rc)
        rc = st_secret_init(&seed, ST_ED25519_SEED, e);
    if (!rc)
        rc = st_secret_init(&passphrase, 32, e);
    if (!rc)
        rc = st_random(seed.p, seed.len, e);
    if (!rc) {
        st_hex(random, sizeof random, hex);
        memcpy(passphrase.p, hex, 32);
        rc = st_file_write(b->passphrase, hex, 32, 0600, false, e);
    }
    const struct st_seal_opts o = {.policy = "all-inside",
                                   .recipients = recipient,
                                   .n_recipient = 1,
                                   .seed = &seed,
                                   .passphrase = &passphrase,
                                   .cost = &cheap,
                                   .n_threads = b->cli.n_threads,
                                   .progress = !b->cli.quiet};
    if (!rc)
        rc = st_seal(b->plain, b->file, &o, &report, e);
    st_secret_wipe(&seed);
    st_secret_wipe(&passphrase);
    b->cli.unlock = (struct st_cli_unlock){.passphrase_file = b->passphrase};
    if (!rc)
        st_hex(report.about.publisher, sizeof report.about.publisher, b->publisher);
    b->cli.sealed.publisher = b->publisher;
    snprintf(b->model, sizeof b->model, "%s", b->file);
    return rc;
}

static double thread_time(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* What a thread decrypts per second of processor time while all do: one segment again and again, as `openssl speed`. */
struct cipher {
    uint8_t *text, *sealed; /* a segment for each thread */
    double gbps[1024];
    struct st_err err;
};

static void run_cipher(void *arg, int thread, int n_threads)
{
    static const uint8_t key[32] = {1}, nonce[12] = {2};
    const size_t len = ST_CONTAINER_SEGMENT, sealed_len = len + ST_AEAD_TAG_LEN;
    struct cipher *c = arg;
    uint8_t *text = c->text + (size_t)thread * len, *sealed = c->sealed + (size_t)thread * sealed_len;
    struct st_err e = {0};
    uint32_t n = 0;
    (void)n_threads;
    int rc = st_aead_seal(key, nonce, NULL, 0, text, len, sealed, &e);
    double start = thread_time(), spent = 0;
    for (; !rc && spent < CIPHER_S; n++) {
        rc = st_aead_open(key, nonce, NULL, 0, sealed, sealed_len, text, &e);
        spent = thread_time() - start;
    }
    if (rc && thread == 0)
        c->err = e;
    c->gbps[thread % 1024] = spent > 0 ? (double)n * (double)len / spent / 1e9 : 0;
}

static int measure_cipher(struct bench *b, struct st_err *e)
{
    struct cipher *c = NULL;
    struct st_pool *pool;
    if (st_pool_new(b->cli.n_threads, &pool, e))
        return e->code;
    size_t n = (size_t)st_pool_size(pool);
    int rc = st_alloc(&c, 1, sizeof *c, "the cipher", e);
    if (!rc)
        rc = st_alloc(&c->text, n, ST_CONTAINER_SEGMENT, "the cipher", e);
    if (!rc)
        rc = st_alloc(&c->sealed, n, ST_CONTAINER_SEGMENT + ST_AEAD_TAG_LEN, "the cipher", e);
    if (!rc) {
        st_pool_run(pool, run_cipher, c);
        rc = c->err.code;
        *e = rc ? c->err : *e;
        for (size_t i = 0; i < n && i < 1024; i++)
            b->cipher_gbps += c->gbps[i] / (double)n;
    }
    st_pool_free(pool);
    if (c) {
        free(c->text);
        free(c->sealed);
    }
    free(c);
    return rc;
}

static void mark(void *arg, bool begin)
{
    struct bench *b = arg;
    st_sealed_store_stats(b->m.sealed.store, begin ? &b->now->from : &b->now->to);
}

/* The first run of an engine is not counted. */
static int run_twice(struct bench *b, struct st_open *m, void (*fn)(void *, bool), struct st_bench_figures *out,
                     struct st_err *e)
{
    const struct st_bench_run first = {.prompt = 1, .gen = 4, .batch = 1};
    const struct st_bench_run counted = {
        .prompt = b->prompt, .gen = b->o->gen, .batch = b->o->batch, .mark = fn, .arg = b};
    struct st_bench_figures warm;
    return st_bench_run(m, &first, &warm, e) || st_bench_run(m, &counted, out, e) ? e->code : 0;
}

static int run_plain(struct bench *b, const struct st_engine_opts *eo, struct st_err *e)
{
    struct st_cli cli = b->cli;
    struct st_open plain;
    struct st_bench_figures f;
    cli.unlock = (struct st_cli_unlock){0};
    cli.sealed = (struct st_cli_sealed){0};
    if (st_open(&cli, b->plain, 0, eo, &plain, e))
        return e->code;
    int rc = run_twice(b, &plain, NULL, &f, e);
    b->plain_tps = f.decode_tps;
    b->plain_prefill_tps = f.prefill_tps;
    st_open_close(&plain);
    return rc;
}

/* A budget below what works becomes the least that does. */
static int run_budget(struct bench *b, struct round *r, const struct st_engine_opts *eo, struct st_err *e)
{
    b->now = r;
    b->cli.sealed.memory = r->percent == 100 ? 0 : b->inside / 100 * r->percent;
    int rc = st_open(&b->cli, b->model, 0, eo, &b->m, e);
    const char *least = rc == ST_MEMORY ? strstr(e->msg, "at least ") : NULL;
    if (least) {
        b->cli.sealed.memory = strtoull(least + strlen("at least "), NULL, 10) << 10;
        rc = st_open(&b->cli, b->model, 0, eo, &b->m, e);
    }
    if (rc)
        return rc;
    rc = run_twice(b, &b->m, mark, &r->speed, e);
    b->threads = st_engine_threads(b->m.engine);
    snprintf(b->name, sizeof b->name, "%s", b->m.model->name);
    st_open_close(&b->m);
    r->memory = r->to.resident + r->to.ring;
    b->inside = r->percent == 100 ? r->to.bytes : b->inside;
    snprintf(b->memory, sizeof b->memory, "%s", r->to.memory);
    return rc;
}

/* GB per second of processor time that the store's threads decrypted; 0 when there was nothing to do. */
static double decrypt_gbps(const struct bench *b)
{
    double bytes = 0, spent = 0;
    for (int i = 0; i < b->n_round; i++) {
        bytes += (double)(b->rounds[i].to.n_byte - b->rounds[i].from.n_byte);
        spent += b->rounds[i].to.decrypt_s - b->rounds[i].from.decrypt_s;
    }
    return spent > 0 ? bytes / spent / 1e9 : 0;
}

static double over(double a, double b)
{
    return b > 0 ? a / b : 0;
}

static void print_json(const struct bench *b)
{
    struct st_buf out = {0};
    const struct round *all = &b->rounds[0];
    st_buf_add_str(&out, "{\"model\":");
    st_json_quote(&out, b->name, strlen(b->name));
    st_buf_addf(&out,
                ",\"threads\":%d,\"batch\":%u,\"prompt\":%u,\"gen\":%u,\"inside_bytes\":%llu,\"memory\":\"%s\","
                "\"aes_gbps\":%.3f,\"decrypt_gbps\":%.3f,\"decrypt_ratio\":%.4f",
                b->threads, b->o->batch, b->prompt, b->o->gen, (unsigned long long)b->inside, b->memory, b->cipher_gbps,
                decrypt_gbps(b), over(decrypt_gbps(b), b->cipher_gbps));
    if (b->plain)
        st_buf_addf(&out, ",\"plain_tokens_per_s\":%.2f,\"plain_prefill_tokens_per_s\":%.2f", b->plain_tps,
                    b->plain_prefill_tps);
    for (int i = 0; i < b->n_round; i++) {
        const struct round *r = &b->rounds[i];
        uint32_t n = r->percent;
        st_buf_addf(&out,
                    ",\"budget_%u_bytes\":%llu,\"budget_%u_tokens_per_s\":%.2f,\"budget_%u_prefill_tokens_per_s\":%.2f,"
                    "\"budget_%u_of_all_inside\":%.4f,\"budget_%u_waited\":%.4f",
                    n, (unsigned long long)r->memory, n, r->speed.decode_tps, n, r->speed.prefill_tps, n,
                    over(r->speed.decode_tps, all->speed.decode_tps), n,
                    over((r->to.wait_s - r->from.wait_s) * r->speed.decode_tps, (double)r->speed.n_decoded));
        if (b->plain)
            st_buf_addf(&out, ",\"budget_%u_of_plain\":%.4f", n, over(r->speed.decode_tps, b->plain_tps));
    }
    st_buf_add_str(&out, "}");
    puts(out.p && !out.failed ? out.p : "{}");
    st_buf_free(&out);
}

static void print_text(const struct bench *b)
{
    printf("%s: %.1f MiB inside, %d threads, batch %u, decrypted in %s\n", b->name, (double)b->inside / 0x1p20,
           b->threads, b->o->batch, b->memory);
    if (b->plain)
        printf("  not sealed      decode %9.1f tokens/s   prefill %9.1f tokens/s\n", b->plain_tps,
               b->plain_prefill_tps);
    for (int i = 0; i < b->n_round; i++) {
        const struct round *r = &b->rounds[i];
        printf("  %3u %% %8.1f MiB decode %9.1f tokens/s   prefill %9.1f tokens/s   %.2f of all decrypted", r->percent,
               (double)r->memory / 0x1p20, r->speed.decode_tps, r->speed.prefill_tps,
               over(r->speed.decode_tps, b->rounds[0].speed.decode_tps));
        if (b->plain)
            printf(", %.2f of not sealed", over(r->speed.decode_tps, b->plain_tps));
        putchar('\n');
    }
    printf("  decryption %9.2f GB/s per thread, the cipher alone %.2f GB/s (%.0f %%)\n", decrypt_gbps(b),
           b->cipher_gbps, 100 * over(decrypt_gbps(b), b->cipher_gbps));
}

static int measure(struct bench *b, struct st_err *e)
{
    const struct st_engine_opts eo = {
        .n_ctx = b->prompt + b->o->gen, .n_kv = (b->prompt + b->o->gen + 64) * b->o->batch, .max_batch = b->o->batch};
    if ((b->plain && run_plain(b, &eo, e)) || measure_cipher(b, e))
        return e->code;
    for (int i = 0; i < b->n_round; i++)
        if (run_budget(b, &b->rounds[i], &eo, e))
            return e->code;
    if (b->cli.json)
        print_json(b);
    else
        print_text(b);
    return 0;
}

int st_bench_sealed(const struct st_cli *cli, const struct st_bench_sealed *o, struct st_err *e)
{
    struct bench b = {.cli = *cli, .o = o, .prompt = o->prompt ? o->prompt : 64};
    char path[ST_PATH_MAX];
    if (cli->sealed.memory)
        return st_fail(e, ST_USAGE, "bench sealed: want --budgets instead of --enclave-memory");
    int rc = read_budgets(&b, e);
    if (!rc && cli->dtype != ST_CLI_DTYPE_KEEP)
        rc = st_fail(e, ST_USAGE, "bench sealed: what lies inside is computed with as it is stored; no --dtype");
    if (!rc)
        rc = cli->n_args > 1 ? st_open_model_path(cli->args[1], path, e) : st_demo_model(NULL, path, e);
    if (!rc && st_container_is(path))
        snprintf(b.model, sizeof b.model, "%s", path);
    else if (!rc) {
        b.plain = path;
        rc = seal_model(&b, e);
    }
    if (!rc)
        rc = measure(&b, e);
    st_open_close(&b.m);
    sealed_here = NULL;
    remove_files(&b);
    return rc;
}
