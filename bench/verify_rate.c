/* What verifying evidence costs: per kind, one bundle as JSON as a node sends it. Cold: parse it, hash it, judge it;
 * first: the same when nothing of this kind was seen before in this process.
 * Warm: hash its bytes and find the verdict in the cache; and find it by a digest that is known already. Real samples
 * of the shared data (SOTTO_SHARED) where they are there, and evidence made here: a TDX quote with all its collateral,
 * a TPM quote with event log. Usage: verify_rate [seconds per row]. Prints CSV. */
#include "expect.h"

#include "attest/runtime_data.h"
#include "attest/verdict_cache.h"
#include "base/hooks.h"
#include "log_make.h"
#include "quote_make.h"

#define COLD_MS 10.0
#define WARM_US 50.0

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One kind's bundle, and who believes it when. */
struct row {
    const char *name;
    struct st_buf json;
    struct st_policy *policy;
    int64_t time;
};

static const struct st_verdict *judge_cold(const struct row *r, struct st_verdict_cache *cache, struct st_bundle *b)
{
    struct st_err e;
    uint8_t digest[32];
    const struct st_verdict *v;
    assert_ok(st_bundle_parse(r->json.p, r->json.len, r->name, b, &e), &e);
    st_sha256(r->json.p, r->json.len, digest);
    const struct st_judge j = {.policy = r->policy, .bundle = b, .time = r->time};
    assert_ok(st_verdict_cache_judge(cache, digest, &j, &v, &e), &e);
    return v;
}

#define MAX_ROUNDS 20000
/* The median of as many rounds as there is time for, at least `least`. */
static double cold_ms(const struct row *r, double seconds, size_t least)
{
    static double took[MAX_ROUNDS];
    size_t n = 0;
    for (double start = st_now(); n < MAX_ROUNDS && (n < least || st_now() < start + seconds); n++) {
        struct st_verdict_cache *cache;
        struct st_bundle b;
        struct st_err e;
        assert_ok(st_verdict_cache_new(1, 600, &cache, &e), &e);
        double at = st_now();
        const struct st_verdict *v = judge_cold(r, cache, &b);
        took[n] = st_now() - at;
        for (size_t i = 0; i < v->found.n_check && !v->good; i++)
            if (!st_policy_tolerates(r->policy, &v->found.checks[i]))
                fail_msg("%s: %s: %s", r->name, v->found.checks[i].name, v->found.checks[i].detail);
        st_bundle_free(&b);
        st_verdict_cache_free(cache);
    }
    qsort(took, n, sizeof *took, by_value);
    return took[n / 2] * 1e3;
}

/* Of one that was judged before, among 255 others; with the hash of its bytes, or without. */
static double warm_us(const struct row *r, bool hash, double seconds)
{
    struct st_verdict_cache *cache;
    struct st_bundle b;
    struct st_err e;
    uint8_t digest[32];
    const struct st_verdict *v;
    size_t n = 0;
    assert_ok(st_verdict_cache_new(256, 600, &cache, &e), &e);
    judge_cold(r, cache, &b);
    struct st_judge j = {.policy = r->policy, .bundle = &b, .time = r->time};
    for (int i = 0; i < 255; i++) {
        memset(digest, i, sizeof digest);
        assert_ok(st_verdict_cache_judge(cache, digest, &j, &v, &e), &e);
    }
    st_sha256(r->json.p, r->json.len, digest);
    j.bundle = NULL;
    double start = st_now();
    while (st_now() < start + seconds)
        for (int i = 0; i < 100; i++, n++) {
            if (hash)
                st_sha256(r->json.p, r->json.len, digest);
            assert_non_null(st_verdict_cache_find(cache, digest, &j));
        }
    double took = st_now() - start;
    st_bundle_free(&b);
    st_verdict_cache_free(cache);
    return took / (double)n * 1e6;
}

static void measure(const char *name, const struct st_bundle *b, const char *policy, int64_t time, double seconds)
{
    struct row r = {.name = name, .time = time};
    struct st_err e;
    st_bundle_write(b, &r.json);
    assert_ok(st_policy_parse(policy, strlen(policy), "policy", &r.policy, &e), &e);
    double first = cold_ms(&r, 0, 1), cold = cold_ms(&r, seconds, 5), warm = warm_us(&r, true, seconds / 4),
           found = warm_us(&r, false, seconds / 4);
    printf("%s,%zu,%.3f,%.3f,%.2f,%.3f,%s\n", name, r.json.len, first, cold, warm, found,
           cold < COLD_MS && warm < WARM_US ? "yes" : "no");
    fflush(stdout);
    st_policy_free(r.policy);
    st_buf_free(&r.json);
}

/* ---- real samples ---- */

#define JUNE_2025 INT64_C(1750500000)
#define NOV_2023 INT64_C(1700000000)
#define LAX "{\"version\": 1, \"require\": \"any\", \"signature_only\": true}"

/* A raw file and its endorsements (NULL-terminated). */
static bool sample(struct st_bundle *b, const char *const *files)
{
    struct st_buf bytes = {0};
    struct st_err e;
    bool here = shared_file(files[0], &bytes);
    if (here)
        assert_ok(st_bundle_parse(bytes.p, bytes.len, files[0], b, &e), &e);
    for (size_t i = 1; files[i] && here; i++) {
        here = shared_file(files[i], &bytes);
        if (here)
            assert_ok(st_bundle_endorse(b, bytes.p, bytes.len, files[i], &e), &e);
    }
    st_buf_free(&bytes);
    return here;
}

static void measure_samples(double seconds)
{
    static const struct {
        const char *name, *files[4], *policy;
        int64_t time;
    } rows[] = {
        {"TDX with collateral",
         {"tdx/dcapqvl_v4.dat", "collateral/dcapqvl_tdx.json"},
         "{\"version\": 1, \"require\": [\"tdx\"]}",
         JUNE_2025},
        {"SGX with collateral", {"sgx/dcapqvl_v3.dat", "collateral/dcapqvl_sgx.json"}, LAX, JUNE_2025},
        {"SNP without list", {"snp/milan_v2_report.bin", "snp/milan_vcek.der"}, LAX, JUNE_2025},
        {"NVIDIA with one RIM",
         {"nvidia/gonvtrust_report.txt", "nvidia/gonvtrust_chain.txt", "nvidia/1010_0200_882_96005E0001_PROD.swidtag"},
         LAX,
         NOV_2023},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct st_bundle b = {0};
        if (sample(&b, rows[i].files))
            measure(rows[i].name, &b, rows[i].policy, rows[i].time, seconds);
        st_bundle_free(&b);
    }
}

/* AMD's chain and revocation list come as text with more in it. */
static void measure_snp(double seconds)
{
    struct st_buf text = {0}, list = {0};
    struct st_bundle b = {0};
    struct st_err e;
    if (sample(&b,
               (const char *const[]){"snp/milan_v2_report.bin", "snp/milan_vcek.der", "snp/milan_ark_ask.pem", NULL}) &&
        shared_file("snp/sev_certificates.txt", &text)) {
        pem_block(&text, "test_amd_milan_crl.pem", &list);
        assert_ok(st_bundle_endorse(&b, list.p, list.len, "list", &e), &e);
        measure("SNP with list", &b, "{\"version\": 1, \"require\": [\"snp\"], \"debug\": true}", JUNE_2025, seconds);
    }
    st_buf_free(&text);
    st_buf_free(&list);
    st_bundle_free(&b);
}

/* ---- made here ---- */

static void measure_made(const char *name, const char *kind, const struct st_evidence *ev, const struct st_buf *roots,
                         double seconds)
{
    struct st_bundle b = {.n_item = 1, .items[0] = *ev};
    struct st_buf policy = {0};
    st_buf_addf(&policy,
                "{\"version\": 1, \"require\": [\"%s\"], \"revocation\": \"if_present\", \"roots\": {\"%s\": \"", kind,
                kind);
    for (const char *p = roots->p; *p; p++)
        st_buf_add_str(&policy, *p == '\n' ? "\\n" : (char[]){*p, 0});
    st_buf_add_str(&policy, "\"}}");
    measure(name, &b, policy.p, MADE_AT, seconds);
    st_buf_free(&policy);
}

static void measure_made_tdx(double seconds)
{
    struct maker m;
    struct quote_make q;
    maker_open(&m, true);
    quote_start(&q, 4, true, false);
    struct st_buf quote = quote_end(&q, &m);
    const struct st_evidence ev = maker_evidence(&m, "tdx", &quote);
    measure_made("TDX with collateral, made here", "tdx", &ev, &m.roots, seconds);
    st_buf_free(&quote);
    maker_close(&m);
}

static void measure_made_tpm(double seconds)
{
    EVP_PKEY *root_key = EVP_RSA_gen(4096), *key = EVP_RSA_gen(2048);
    X509 *root = made_ca("TPM root", root_key, NULL, root_key);
    X509 *cert =
        made_sign(made_unsigned(&(struct made_cert){.cn = "AK", .key_usage = "digitalSignature"}, key, root), root_key);
    struct st_buf roots = {0}, pem = {0};
    struct tpm t;
    add_pem(&roots, root);
    add_pem(&pem, cert);
    tpm_open(&t, key, ST_TPM_RSASSA, ST_TPM_SHA256, ST_TPM_SHA256);
    endorse(&t.ev, ST_ENDORSEMENT_CERTS, span_of(&pem));
    measure_made("TPM with event log, made here", "tpm", &t.ev, &roots, seconds);
    tpm_close(&t);
    st_buf_free(&roots);
    st_buf_free(&pem);
    X509_free(root);
    X509_free(cert);
    EVP_PKEY_free(root_key);
    EVP_PKEY_free(key);
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 2;
    printf("evidence,bytes,first ms,cold ms,warm us,warm us by digest,cold under 10 ms and warm under 50 us\n");
    measure_samples(seconds);
    measure_snp(seconds);
    measure_made_tdx(seconds);
    measure_made_tpm(seconds);
    return 0;
}
