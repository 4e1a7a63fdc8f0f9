/* sotto bench sealed: a sealed model within several budgets of decrypted memory, beside the same with all of it
 * decrypted and beside the model that is not sealed; and the speed of decryption beside that of the cipher alone, which
 * is measured between the rounds, since machines have slow spells. */
#include "base/file.h"
#include "base/hooks.h"
#include "base/pool.h"
#include "cli/bench_run.h"
#include "cli/bench_worker.h"
#include "cli/demo.h"
#include "cli/masked.h"
#include "crypto/digest.h"
#include "crypto/ed25519.h"
#include "crypto/passphrase.h"
#include "protect/sealed/writer.h"
#include "text/json.h"

#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_ROUNDS 8
#define CIPHER_S 0.15

struct round {
    uint32_t percent;
    uint64_t memory; /* what the store used */
    struct st_bench_figures speed;
    struct st_sealed_store_stats from, to;
    struct st_masked_figures masked_from, masked_to; /* with a worker */
    double cpu_from, cpu_to;                         /* of this process, all threads */
};

struct bench {
    struct st_cli cli; /* opens the sealed model */
    const struct st_bench_sealed *o;
    const char *plain; /* the same model, not sealed; NULL = none */
    char model[ST_PATH_MAX];
    struct st_bench_beside beside;
    uint32_t prompt;
    struct round rounds[MAX_ROUNDS], worker, *now; /* worker: with --spawn */
    int n_round;
    struct st_open m;
    uint64_t inside;
    double plain_tps, plain_prefill_tps;
    double cipher_gbps; /* sum of n_cipher measurements */
    int n_cipher;
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

/* A copy of the model under keys that nobody keeps. */
static int seal_model(struct bench *b, struct st_err *e)
{
    static const struct st_argon2 cheap = {.passes = 1, .memory_kib = 64, .lanes = 1};
    static const char *const recipient[] = {"passphrase"};
    struct st_secret seed = {0}, passphrase = {0};
    struct st_seal_report report;
    uint8_t random[16];
    char hex[33];
    const char *file = st_bench_file(&b->beside, "model.sealed"), *pass = st_bench_file(&b->beside, "passphrase");
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
        rc = st_file_write(pass, hex, 32, 0600, false, e);
    }
    const struct st_seal_opts o = {.policy = b->o->policy  ? b->o->policy
                                             : b->o->spawn ? "paper"
                                                           : "all-inside",
                                   .recipients = recipient,
                                   .n_recipient = 1,
                                   .seed = &seed,
                                   .passphrase = &passphrase,
                                   .cost = &cheap,
                                   .n_threads = b->cli.n_threads,
                                   .progress = !b->cli.quiet};
    if (!rc)
        rc = st_seal(b->plain, file, &o, &report, e);
    st_secret_wipe(&seed);
    st_secret_wipe(&passphrase);
    b->cli.unlock = (struct st_cli_unlock){.passphrase_file = pass};
    if (!rc)
        st_hex(report.about.publisher, sizeof report.about.publisher, b->publisher);
    b->cli.sealed.publisher = b->publisher;
    snprintf(b->model, sizeof b->model, "%s", file);
    return rc;
}

static double cpu_time(clockid_t of)
{
    struct timespec t;
    clock_gettime(of, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* What OpenSSL decrypts per second of a thread's processor time while all threads do: one segment again and again, in
 * one call, as `openssl speed`. */
struct cipher {
    uint8_t *text; /* a segment for each thread */
    double gbps[1024];
};

static void run_cipher(void *arg, int thread, int n_threads)
{
    static const uint8_t key[32] = {1}, nonce[12] = {2};
    struct cipher *c = arg;
    uint8_t *text = c->text + (size_t)thread * ST_CONTAINER_SEGMENT;
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    uint32_t n = 0;
    int len;
    (void)n_threads;
    bool ok = ctx && EVP_DecryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, nonce) == 1;
    double start = cpu_time(CLOCK_THREAD_CPUTIME_ID), spent = 0;
    for (; ok && spent < CIPHER_S; n++) {
        ok = EVP_DecryptInit_ex(ctx, NULL, NULL, NULL, nonce) == 1 &&
             EVP_DecryptUpdate(ctx, text, &len, text, (int)ST_CONTAINER_SEGMENT) == 1;
        spent = cpu_time(CLOCK_THREAD_CPUTIME_ID) - start;
    }
    EVP_CIPHER_CTX_free(ctx);
    c->gbps[thread % 1024] = ok && spent > 0 ? (double)n * ST_CONTAINER_SEGMENT / spent / 1e9 : 0;
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
    if (!rc) {
        st_pool_run(pool, run_cipher, c);
        for (size_t i = 0; i < n && i < 1024; i++)
            b->cipher_gbps += c->gbps[i] / (double)n;
        b->n_cipher++;
    }
    st_pool_free(pool);
    if (c)
        free(c->text);
    free(c);
    return rc;
}

static void mark(void *arg, bool begin)
{
    struct bench *b = arg;
    struct round *r = b->now;
    st_sealed_store_stats(b->m.sealed.store, begin ? &r->from : &r->to);
    *(begin ? &r->cpu_from : &r->cpu_to) = cpu_time(CLOCK_PROCESS_CPUTIME_ID);
    if (b->m.masked)
        st_masked_figures(b->m.masked, begin ? &r->masked_from : &r->masked_to);
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
    cli.masked = (struct st_cli_masked){0};
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
    struct st_cli cli = b->cli;
    b->now = r;
    if (!cli.masked.n_worker) /* its options wait for the round with the worker */
        cli.masked = (struct st_cli_masked){.allow_unlocked = cli.masked.allow_unlocked};
    cli.sealed.memory = r->percent == 100 ? 0 : b->inside / 100 * r->percent;
    int rc = st_open(&cli, b->model, 0, eo, &b->m, e);
    const char *least = rc == ST_MEMORY ? strstr(e->msg, "at least ") : NULL;
    if (least) {
        cli.sealed.memory = strtoull(least + strlen("at least "), NULL, 10) << 10;
        rc = st_open(&cli, b->model, 0, eo, &b->m, e);
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

/* What lies outside leaves for a worker on this machine; all that lies inside is decrypted. */
static int run_worker(struct bench *b, const struct st_engine_opts *eo, struct st_err *e)
{
    struct round *r = &b->worker;
    *r = (struct round){.percent = 100};
    if (st_bench_hints(&b->beside, &b->cli, b->model, e) ||
        st_bench_worker(&b->beside, &b->cli, b->model, b->cli.n_threads, e))
        return e->code;
    int rc = run_budget(b, r, eo, e);
    if (!rc && !r->masked_to.masked.n_exchange)
        rc = st_fail(e, ST_USAGE, "--spawn: the policy leaves nothing outside for a worker");
    return rc;
}

static double over(double a, double b)
{
    return b > 0 ? a / b : 0;
}

/* Microseconds of a token with the worker: its own, the link's, waiting for masks, and processor time of this side and
 * of making masks. */
struct costs {
    double worker, link, pad_wait, trusted, pad, exchanges;
};

static struct costs costs_of(const struct round *r)
{
    const struct st_masked_figures *a = &r->masked_from, *z = &r->masked_to;
    double us = r->speed.n_decoded ? 1e6 / (double)r->speed.n_decoded : 0;
    double work = z->client.work_s - a->client.work_s, make = z->masked.pads.make_s - a->masked.pads.make_s;
    return (struct costs){.worker = work * us,
                          .link = (z->client.wait_s - a->client.wait_s - work) * us,
                          .pad_wait = (z->masked.pads.wait_s - a->masked.pads.wait_s) * us,
                          .trusted = (r->cpu_to - r->cpu_from - make) * us,
                          .pad = over(z->masked.pads.make_s, (double)z->masked.pads.made) * z->n_exchange * 1e6,
                          .exchanges = (double)(z->masked.n_exchange - a->masked.n_exchange) * us / 1e6};
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

/* Tokens per second of one sequence if nothing else took time; the last: one after the other, which nothing passes. */
struct roofs {
    double trusted, worker, link, pads, in_turn;
};

static struct roofs roofs_of(const struct bench *b)
{
    struct costs c = costs_of(&b->worker);
    double trusted = c.trusted / b->threads;
    return (struct roofs){.trusted = over(1e6, trusted),
                          .worker = over(1e6, c.worker),
                          .link = over(1e6, c.link),
                          .pads = over(1e6, c.pad),
                          .in_turn = over(1e6, trusted + c.worker + c.link)};
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
    if (b->o->spawn) {
        const struct st_bench_figures *w = &b->worker.speed;
        struct costs c = costs_of(&b->worker);
        struct roofs f = roofs_of(b);
        st_buf_addf(&out,
                    ",\"worker_tokens_per_s\":%.2f,\"worker_prefill_tokens_per_s\":%.2f,\"worker_of_all_inside\":%.4f",
                    w->decode_tps, w->prefill_tps, over(w->decode_tps, all->speed.decode_tps));
        if (b->plain)
            st_buf_addf(&out, ",\"worker_of_plain\":%.4f", over(w->decode_tps, b->plain_tps));
        st_buf_addf(&out,
                    ",\"exchanges_per_token\":%.2f,\"worker_us\":%.1f,\"link_us\":%.1f,\"pad_wait_us\":%.1f,"
                    "\"trusted_us\":%.1f",
                    c.exchanges, c.worker, c.link, c.pad_wait, c.trusted);
        st_buf_addf(&out,
                    ",\"pad_us\":%.1f,\"roof_trusted\":%.2f,\"roof_worker\":%.2f,\"roof_link\":%.2f,\"roof_pads\":%.2f,"
                    "\"roof_in_turn\":%.2f",
                    c.pad, f.trusted, f.worker, f.link, f.pads, f.in_turn);
    }
    st_buf_add_str(&out, "}");
    puts(out.p && !out.failed ? out.p : "{}");
    st_buf_free(&out);
}

static void print_text(const struct bench *b)
{
    const struct round *all = &b->rounds[0];
    printf("%s: %.1f MiB inside, %d threads, batch %u, decrypted in %s\n", b->name, (double)b->inside / 0x1p20,
           b->threads, b->o->batch, b->memory);
    if (b->plain)
        printf("  not sealed      decode %9.1f tokens/s   prefill %9.1f tokens/s\n", b->plain_tps,
               b->plain_prefill_tps);
    for (int i = 0; i < b->n_round; i++) {
        const struct round *r = &b->rounds[i];
        printf("  %3u %% %8.1f MiB decode %9.1f tokens/s   prefill %9.1f tokens/s   %.2f of all decrypted", r->percent,
               (double)r->memory / 0x1p20, r->speed.decode_tps, r->speed.prefill_tps,
               over(r->speed.decode_tps, all->speed.decode_tps));
        if (b->plain)
            printf(", %.2f of not sealed", over(r->speed.decode_tps, b->plain_tps));
        putchar('\n');
    }
    if (b->o->spawn) {
        struct costs c = costs_of(&b->worker);
        printf("  with a worker   decode %9.1f tokens/s   prefill %9.1f tokens/s   %.2f of all decrypted\n",
               b->worker.speed.decode_tps, b->worker.speed.prefill_tps,
               over(b->worker.speed.decode_tps, all->speed.decode_tps));
        printf("    a token: %.1f exchanges, worker %.1f us, link %.1f us, waiting for masks %.1f us, this side's "
               "processors %.1f us\n",
               c.exchanges, c.worker, c.link, c.pad_wait, c.trusted);
        struct roofs f = roofs_of(b);
        printf("    roofs: this side %.1f, worker %.1f, link %.1f, masks %.1f tokens/s; one after the other %.1f\n",
               f.trusted, f.worker, f.link, f.pads, f.in_turn);
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
        if (run_budget(b, &b->rounds[i], &eo, e) || measure_cipher(b, e))
            return e->code;
    b->cipher_gbps /= b->n_cipher;
    if (b->o->spawn && run_worker(b, &eo, e))
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
    bool sealed = !rc && st_container_is(path);
    if (!rc && sealed && o->policy)
        rc = st_fail(e, ST_USAGE, "bench sealed: %s is sealed already; --policy is for a model that is not", path);
    if (!rc && (!sealed || o->spawn))
        rc = st_bench_begin(&b.beside, e);
    if (!rc && sealed)
        snprintf(b.model, sizeof b.model, "%s", path);
    else if (!rc) {
        b.plain = path;
        rc = seal_model(&b, e);
    }
    if (!rc)
        rc = measure(&b, e);
    st_open_close(&b.m);
    st_bench_end(&b.beside);
    return rc;
}
