/* Evidence collected from platforms that are played here: the kernel's configfs-tsm (this program's own mkdir, open and
 * rmdir do what the kernel's do there), Gramine's /dev/attestation, NVIDIA's library. */
#include "expect.h"

#include "attest/binding.h"
#include "attest/collect_tsm.h"
#include "attest/enroll.h"
#include "base/file.h"
#include "collect_make.h"
#include "quote_make.h"

#include "gpu_make.h"
#include "mint.h"
#include "swtpm.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define REPORT_DATA 520 /* in the body of a TDX 1.0 quote; 320 in that of an enclave */
#define MAKE_TIME MADE_AT

/* ---- the kernel ---- */

static struct kernel {
    struct made_dir dir;
    const char *provider;
    const char *privlevel_floor; /* NULL = no such file */
    bool aux;
    unsigned generations[16]; /* what the file says, one reading after the other; then the last one */
    int n_generation, at;
    void (*answer)(struct kernel *k, const uint8_t in[64], struct st_buf *out);
    struct st_buf table; /* of certificates */
    void *arg;
    char entry[160]; /* the directory that was made */
} kernel;

static void in_entry(const char *name, char path[ST_PATH_MAX])
{
    snprintf(path, ST_PATH_MAX, "%s/%s", kernel.entry, name);
}

static void put_bytes(const char *name, const void *p, size_t len)
{
    char path[ST_PATH_MAX];
    in_entry(name, path);
    FILE *f = fopen(path, "w");
    fwrite(p, 1, len, f);
    fclose(f);
}

static void put_text(const char *name, const char *text)
{
    put_bytes(name, text, strlen(text));
}

/* What the kernel makes up when a file is read. */
static void make_up(const char *name)
{
    char text[16], path[ST_PATH_MAX];
    uint8_t in[64];
    struct st_buf out = {0};
    if (strcmp(name, "generation") == 0) {
        int i = kernel.at++ < kernel.n_generation ? kernel.at - 1 : kernel.n_generation - 1;
        snprintf(text, sizeof text, "%u\n", kernel.generations[i]);
        put_text(name, text);
    } else if (strcmp(name, "outblob") == 0) {
        in_entry("inblob", path);
        FILE *f = fopen(path, "r");
        size_t n = fread(in, 1, sizeof in, f);
        fclose(f);
        if (n == sizeof in)
            kernel.answer(&kernel, in, &out);
        put_bytes(name, out.p, out.len);
        st_buf_free(&out);
    } else if (strcmp(name, "auxblob") == 0)
        put_bytes(name, kernel.table.p, kernel.table.len);
}

/* In place of the C library's. */
int open(const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    const mode_t mode = flags & O_CREAT ? (mode_t)va_arg(ap, unsigned) : 0;
    va_end(ap);
    size_t n = strlen(kernel.entry);
    if (n && strncmp(path, kernel.entry, n) == 0 && (flags & O_ACCMODE) == O_RDONLY)
        make_up(path + n + 1);
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int mkdir(const char *path, mode_t mode)
{
    static const char *const files[] = {"generation", "inblob", "outblob", "auxblob"};
    int rc = (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    if (rc || !kernel.provider || strncmp(path, kernel.dir.path, strlen(kernel.dir.path)) != 0)
        return rc;
    snprintf(kernel.entry, sizeof kernel.entry, "%s", path);
    if (*kernel.provider)
        put_text("provider", kernel.provider);
    if (kernel.privlevel_floor) {
        put_text("privlevel_floor", kernel.privlevel_floor);
        put_text("privlevel", "");
    }
    for (int i = 0; i < (kernel.aux ? 4 : 3); i++)
        put_text(files[i], "");
    return 0;
}

int rmdir(const char *path)
{
    DIR *d = strcmp(path, kernel.entry) == 0 ? opendir(path) : NULL;
    for (struct dirent *f; d && (f = readdir(d));) {
        char name[ST_PATH_MAX];
        in_entry(f->d_name, name);
        if (f->d_name[0] != '.')
            unlink(name);
    }
    if (d) {
        closedir(d);
        kernel.entry[0] = '\0';
    }
    return (int)syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
}

static void kernel_open(const char *provider, void (*answer)(struct kernel *, const uint8_t *, struct st_buf *))
{
    kernel = (struct kernel){.dir = made_dir(), .provider = provider, .answer = answer};
}

/* The counter, as it is read from now on. */
static void kernel_counts(int n, const unsigned *generations)
{
    kernel.n_generation = n;
    kernel.at = 0;
    memcpy(kernel.generations, generations, (size_t)n * sizeof *generations);
}
#define COUNTS(...)                                                                                                    \
    kernel_counts((int)(sizeof((unsigned[]){__VA_ARGS__}) / sizeof(unsigned)), (const unsigned[]){__VA_ARGS__})

/* Nothing may be left of what was asked. */
static void kernel_close(void)
{
    kernel.provider = NULL;
    assert_int_equal(syscall(SYS_unlinkat, AT_FDCWD, kernel.dir.path, AT_REMOVEDIR), 0);
    st_buf_free(&kernel.table);
}

static void say_what_was_asked(struct kernel *k, const uint8_t in[64], struct st_buf *out)
{
    (void)k;
    st_buf_add_str(out, "report of ");
    st_buf_add(out, in, 64);
}

static const uint8_t data[64] = {9, 8, 7, 6, 5, 4, 3, 2, 1};

static void a_report_is_asked_for_in_a_directory_that_is_gone_afterwards(void **state)
{
    struct st_buf report = {0}, aux = {0};
    struct st_err e = {0};
    (void)state;
    kernel_open("sev_guest\n", say_what_was_asked);
    kernel.aux = true;
    st_buf_add_str(&kernel.table, "table");
    COUNTS(41, 42);
    assert_ok(st_tsm_report(kernel.dir.path, "sev_guest", data, 32, &report, &aux, &e), &e);
    assert_int_equal(report.len, 10 + 64);
    assert_memory_equal(report.p + 10, data, 32);
    assert_int_equal(report.p[10 + 40], 0); /* padded with zeros */
    assert_int_equal(aux.len, 5);
    kernel_close();
    st_buf_free(&report);
    st_buf_free(&aux);
}

static void a_report_is_asked_for_again_when_somebody_else_wrote(void **state)
{
    struct st_buf report = {0};
    struct st_err e = {0};
    (void)state;
    kernel_open("tdx_guest\n", say_what_was_asked);
    COUNTS(1, 3, 3, 5, 5, 6);
    assert_ok(st_tsm_report(kernel.dir.path, "tdx_guest", data, 64, &report, NULL, &e), &e);
    assert_int_equal(report.len, 10 + 64);
    COUNTS(1, 3, 3, 5, 5, 7, 7, 9, 9, 11);
    expect_refusal(st_tsm_report(kernel.dir.path, "tdx_guest", data, 64, &report, NULL, &e), &e, ST_IO,
                   "somebody else writes");
    kernel_close();
    st_buf_free(&report);
}

static void under_a_paravisor_the_guest_asks_at_its_own_level(void **state)
{
    struct st_buf report = {0};
    struct st_err e = {0};
    (void)state;
    kernel_open("sev_guest\n", say_what_was_asked);
    kernel.privlevel_floor = "2\n";
    COUNTS(10, 12); /* two writes of ours */
    assert_ok(st_tsm_report(kernel.dir.path, "sev_guest", data, 64, &report, NULL, &e), &e);
    kernel.privlevel_floor = "9\n";
    expect_refusal(st_tsm_report(kernel.dir.path, "sev_guest", data, 64, &report, NULL, &e), &e, ST_INPUT, "0..3");
    kernel_close();
    st_buf_free(&report);
}

static void machines_without_or_with_another_tee_are_refused_and_left_clean(void **state)
{
    struct st_collect_opts o = {.tsm = "/nowhere/tsm"};
    struct st_collection *c;
    struct st_buf report = {0};
    struct st_err e = {0};
    (void)state;
    expect_refusal(st_collection_open((const char *[]){"tdx"}, 1, &o, &c, &e), &e, ST_UNSUPPORTED, "/nowhere/tsm");
    kernel_open("arm_cca_guest\n", NULL);
    o.tsm = kernel.dir.path;
    expect_refusal(st_collection_open((const char *[]){"tdx"}, 1, &o, &c, &e), &e, ST_UNSUPPORTED, "arm_cca_guest");
    expect_refusal(st_collection_open((const char *[]){"snp"}, 1, &o, &c, &e), &e, ST_UNSUPPORTED, "arm_cca_guest");
    kernel.provider = "";
    expect_refusal(st_tsm_probe(o.tsm, "tdx_guest", &e), &e, ST_IO, "provider");
    kernel.provider = "tdx_guest";
    /* A counter that does not count what was written: the report may be anybody's. */
    kernel.answer = say_what_was_asked;
    COUNTS(7);
    expect_refusal(st_tsm_report(o.tsm, "tdx_guest", data, 64, &report, NULL, &e), &e, ST_IO, "somebody else");
    kernel_close();
    st_buf_free(&report);
}

/* ---- TDX, all of it ---- */

struct intel {
    struct maker maker;
    struct quote_make quote;
};

static void quote_it(struct kernel *k, const uint8_t in[64], struct st_buf *out)
{
    struct intel *i = k->arg;
    memcpy(i->quote.body + (i->quote.is_tdx ? REPORT_DATA : 320), in, 64);
    *out = quote_end(&i->quote, &i->maker);
}

/* The maker's statements as files of a directory. */
static void write_endorsements(struct intel *i, struct made_dir *d)
{
    struct st_buf any = {0};
    char name[32];
    const struct st_evidence ev = maker_evidence(&i->maker, "tdx", &any);
    for (size_t k = 0; k < ev.n_endorsement; k++) {
        snprintf(name, sizeof name, "file%zu", k);
        made_bytes(d, name, ev.endorsements[k].data.p, ev.endorsements[k].data.len);
    }
}

static void demand(struct st_buf *out, const char *kind, const struct st_buf *roots, const char *more)
{
    st_buf_addf(out, "\"require\": [\"%s\"], \"roots\": {\"%s\": \"", kind, kind);
    add_pem_text(out, roots);
    st_buf_addf(out, "\"}%s", more);
}

static void a_tdx_guests_bundle_is_accepted(void **state)
{
    struct intel i;
    struct made_dir d = made_dir();
    struct st_buf text = {0};
    struct st_collection *c;
    struct st_collect_needs needs;
    struct st_err e = {0};
    (void)state;
    maker_open(&i.maker, true);
    quote_start(&i.quote, 4, true, false);
    write_endorsements(&i, &d);
    kernel_open("tdx_guest\n", quote_it);
    kernel.arg = &i;
    struct st_collect_opts o = {.tsm = kernel.dir.path, .endorsements = d.path};
    assert_ok(st_collection_open((const char *[]){"tdx"}, 1, &o, &c, &e), &e);
    st_collection_needs(c, &needs);
    assert_int_equal(needs.n_write, 1);
    assert_string_equal(needs.write[0], kernel.dir.path);
    assert_int_equal(needs.n_read, 1);
    COUNTS(1, 2);
    struct st_bundle b = collect_from(c);
    demand(&text, "tdx", &i.maker.roots, "");
    expect_judged_at(&b, MAKE_TIME, text.p, true, "");
    b.binding.nonce[5] ^= 1;
    expect_judged_at(&b, MAKE_TIME, text.p, false, "tdx.binding");
    st_bundle_free(&b);
    /* A file that nobody knows is a mistake of the operator's: it is not left out in silence. */
    made_file(&d, "notes.txt", "ask Bob");
    COUNTS(2, 3);
    const struct st_binding keys = made_binding();
    expect_refusal(st_collection_collect(c, &keys, &b, &e), &e, ST_INPUT, "notes.txt");
    st_collection_close(c);
    kernel_close();
    maker_close(&i.maker);
    made_dir_remove(&d);
    st_buf_free(&text);
}

static void write_rtmrs(struct made_dir *d, uint8_t third)
{
    uint8_t value[48] = {0};
    char name[24];
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "rtmr%d:sha384", i);
        value[0] = i == 3 ? third : (uint8_t)i;
        made_bytes(d, name, value, sizeof value);
    }
}

static void an_rtmr_that_is_extended_ends_the_evidence(void **state)
{
    struct made_dir d = made_dir();
    struct st_collection *c;
    struct st_collect_needs needs;
    struct st_bundle b;
    struct st_err e = {0};
    const struct st_binding keys = made_binding();
    (void)state;
    kernel_open("tdx_guest", say_what_was_asked);
    write_rtmrs(&d, 0);
    const struct st_collect_opts o = {.tsm = kernel.dir.path, .tdx_measurements = d.path};
    assert_ok(st_collection_open((const char *[]){"tdx"}, 1, &o, &c, &e), &e);
    assert_ok(st_collection_unchanged(c, &e), &e);
    st_collection_needs(c, &needs);
    assert_int_equal(needs.n_read, 1);
    write_rtmrs(&d, 1);
    expect_refusal(st_collection_unchanged(c, &e), &e, ST_VERIFY, "RTMR 3");
    expect_refusal(st_collection_collect(c, &keys, &b, &e), &e, ST_VERIFY, "RTMR 3");
    made_dir_remove(&d);
    assert_int_not_equal(st_collection_unchanged(c, &e), 0);
    st_collection_close(c);
    kernel_close();
}

/* ---- SGX under Gramine ---- */

static void an_enclaves_bundle_is_accepted(void **state)
{
    struct intel i;
    struct made_dir d = made_dir(), files = made_dir();
    struct st_buf text = {0};
    uint8_t given[64] = {0};
    struct st_collection *c;
    struct st_bundle b;
    struct st_err e = {0};
    (void)state;
    maker_open(&i.maker, false);
    quote_start(&i.quote, 3, false, false);
    write_endorsements(&i, &files);
    made_file(&d, "attestation_type", "dcap\n");
    const char *user = made_bytes(&d, "user_report_data", given, sizeof given);
    struct st_collect_opts o = {.gramine = d.path, .endorsements = files.path};
    assert_ok(st_collection_open((const char *[]){"sgx"}, 1, &o, &c, &e), &e);
    /* Which report data comes is known beforehand: the quote can lie ready. */
    struct st_bundle will = {.n_item = 1, .has_binding = true, .binding = made_binding(), .items[0].kind = "sgx"};
    uint8_t want[ST_REPORT_DATA];
    assert_ok(st_binding_report_data(&will, 0, want, &e), &e);
    memcpy(i.quote.body + 320, want, sizeof want);
    struct st_buf quote = quote_end(&i.quote, &i.maker);
    made_bytes(&d, "quote", quote.p, quote.len);
    b = collect_from(c);
    FILE *f = fopen(user, "rb");
    assert_int_equal(fread(given, 1, sizeof given, f), sizeof given);
    fclose(f);
    assert_memory_equal(given, want, sizeof want);
    demand(&text, "sgx", &i.maker.roots, "");
    expect_judged_at(&b, MAKE_TIME, text.p, true, "");
    st_bundle_free(&b);
    st_collection_close(c);
    maker_close(&i.maker);
    made_dir_remove(&d);
    made_dir_remove(&files);
    st_buf_free(&quote);
    st_buf_free(&text);
}

static void enclaves_without_attestation_are_refused(void **state)
{
    struct made_dir d = made_dir();
    struct st_collect_opts o = {.gramine = d.path};
    struct st_collection *c;
    struct st_err e = {0};
    (void)state;
    expect_refusal(st_collection_open((const char *[]){"sgx"}, 1, &o, &c, &e), &e, ST_UNSUPPORTED, "no Gramine");
    made_file(&d, "attestation_type", "none");
    expect_refusal(st_collection_open((const char *[]){"sgx"}, 1, &o, &c, &e), &e, ST_UNSUPPORTED, "want dcap");
    made_dir_remove(&d);
}

/* ---- certificates of SNP's host ---- */

static int count(void *ctx, const uint8_t *cert, size_t n, struct st_err *e)
{
    (void)e;
    ((size_t *)ctx)[0]++;
    ((size_t *)ctx)[1] += n ? cert[0] : 0;
    return 0;
}

static void put_row(struct st_buf *b, uint8_t guid, uint32_t offset, uint32_t n)
{
    uint8_t row[24] = {guid};
    for (int i = 0; i < 4; i++) {
        row[16 + i] = (uint8_t)(offset >> 8 * i);
        row[20 + i] = (uint8_t)(n >> 8 * i);
    }
    st_buf_add(b, row, sizeof row);
}

static int read_table(const struct st_buf *b, size_t found[2], struct st_err *e)
{
    found[0] = found[1] = 0;
    return st_snp_cert_table((const uint8_t *)b->p, b->len, count, found, e);
}

static void a_hosts_table_of_certificates_is_read_within_its_bounds(void **state)
{
    struct st_buf b = {0};
    struct st_err e = {0};
    size_t found[2];
    (void)state;
    assert_ok(read_table(&b, found, &e), &e); /* nothing at all is no error */
    put_row(&b, 1, 72, 2);
    put_row(&b, 2, 74, 1);
    put_row(&b, 0, 0, 0);
    st_buf_add(&b, "\x10\x11\x20", 3);
    assert_ok(read_table(&b, found, &e), &e);
    assert_int_equal(found[0], 2);
    assert_int_equal(found[1], 0x30);
    for (size_t n = 1; n < b.len; n++) {
        struct st_buf cut = {.p = b.p, .len = n};
        (void)!read_table(&cut, found, &e); /* under a sanitizer: no byte behind the end is read */
    }
    st_buf_clear(&b);
    put_row(&b, 1, 20, 5);
    expect_refusal(read_table(&b, found, &e), &e, ST_INPUT, "row 0");
    st_buf_clear(&b);
    put_row(&b, 1, 0xffffffff, 0xffffffff);
    expect_refusal(read_table(&b, found, &e), &e, ST_INPUT, "row 0");
    st_buf_clear(&b);
    for (int i = 0; i < 20; i++)
        put_row(&b, 1, 0, 1);
    expect_refusal(read_table(&b, found, &e), &e, ST_INPUT, "16 rows");
    st_buf_clear(&b);
    put_row(&b, 1, 0, 1);
    expect_refusal(read_table(&b, found, &e), &e, ST_INPUT, "no end");
    st_buf_free(&b);
}

static void an_snp_report_comes_with_what_the_host_hands_over(void **state)
{
    struct mint ca = mint_new((struct mint_spec){.name = "ASK"});
    unsigned char *der_cert = NULL;
    struct st_collection *c;
    struct st_bundle b;
    struct st_err e = {0};
    const struct st_binding keys = made_binding();
    (void)state;
    int n = i2d_X509(ca.cert, &der_cert);
    kernel_open("sev_guest\n", say_what_was_asked);
    kernel.aux = true;
    put_row(&kernel.table, 1, 72, (uint32_t)n);
    put_row(&kernel.table, 2, 72, 3); /* three bytes of it are no certificate: left out */
    put_row(&kernel.table, 0, 0, 0);
    st_buf_add(&kernel.table, der_cert, (size_t)n);
    assert_ok(st_collection_open((const char *[]){"snp"}, 1, &(struct st_collect_opts){.tsm = kernel.dir.path}, &c, &e),
              &e);
    COUNTS(1, 2);
    assert_ok(st_collection_collect(c, &keys, &b, &e), &e);
    assert_int_equal(b.items[0].n_endorsement, 1);
    assert_int_equal(b.items[0].endorsements[0].type, ST_ENDORSEMENT_CERTS);
    assert_int_equal(b.items[0].endorsements[0].data.len, n);
    st_bundle_free(&b);
    st_collection_close(c);
    kernel_close();
    OPENSSL_free(der_cert);
    mint_free(&ca);
}

/* ---- NVIDIA's library ---- */

/* A library of the same names, whose answers are given by this program. */
static const char library[] =
    "#include <string.h>\n"
    "int gpus = 1, fails; char chain[0x1400]; unsigned chain_len;\n"
    "int (*make_report)(const unsigned char *nonce, unsigned char *out);\n"
    "struct cert { unsigned a, b; unsigned char c[0x1000], d[0x1400]; };\n"
    "struct report { unsigned cec, size, cec_size; unsigned char nonce[32], bytes[0x2000], more[0x1000]; };\n"
    "int nvmlInit_v2(void) { return fails == 1; }\n"
    "int nvmlShutdown(void) { return 0; }\n"
    "const char *nvmlErrorString(int rc) { return rc == 3 ? \"Not Supported\" : \"Unknown\"; }\n"
    "int nvmlDeviceGetCount_v2(unsigned *n) { *n = gpus; return 0; }\n"
    "int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) { *d = &gpus; return i != 0; }\n"
    "int nvmlDeviceGetConfComputeGpuCertificate(void *d, struct cert *c)\n"
    "{ if (d != &gpus || fails == 3) return 3; c->b = chain_len; memcpy(c->d, chain, sizeof chain); return 0; }\n"
    "int nvmlDeviceGetConfComputeGpuAttestationReport(void *d, struct report *r)\n"
    "{ if (d != &gpus || fails == 4) return 3; r->size = make_report(r->nonce, r->bytes); return 0; }\n";

static struct mint gpu_root, gpu;

static int make_report(const unsigned char *nonce, unsigned char *out)
{
    struct st_buf b = {0};
    gpu_report(gpu.key, nonce, &b);
    memcpy(out, b.p, b.len);
    int n = (int)b.len;
    st_buf_free(&b);
    return n;
}

struct nvml {
    struct made_dir dir;
    char path[96];
    void *h;
    int *gpus, *fails;
    unsigned *chain_len;
};

/* False, with a line that says so, where nothing can be compiled. */
static bool nvml_open(struct nvml *v)
{
    char command[256];
    struct st_buf pem = {0};
    v->dir = made_dir();
    snprintf(v->path, sizeof v->path, "%s/libnvml.so", v->dir.path);
    snprintf(command, sizeof command, "cc -shared -fPIC -o %s %s 2>/dev/null", v->path,
             made_file(&v->dir, "nvml.c", library));
    if (system(command) != 0) {
        print_message("skips: no compiler for a library in place of NVIDIA's\n");
        made_dir_remove(&v->dir);
        return false;
    }
    v->h = dlopen(v->path, RTLD_NOW);
    assert_non_null(v->h);
    int64_t now = st_unix_time();
    const struct mint_spec root = {.name = "GPU Root", .from = now - 3600, .to = now + 3600};
    gpu_root = mint_new(root);
    gpu = mint_new(
        (struct mint_spec){.name = "GPU", .issuer = &gpu_root, .not_ca = true, .from = now - 3600, .to = now + 3600});
    v->gpus = dlsym(v->h, "gpus");
    v->fails = dlsym(v->h, "fails");
    v->chain_len = dlsym(v->h, "chain_len");
    int (**maker)(const unsigned char *, unsigned char *) = dlsym(v->h, "make_report");
    *maker = make_report;
    add_pem(&pem, gpu.cert);
    memcpy(dlsym(v->h, "chain"), pem.p, pem.len);
    *v->chain_len = (unsigned)pem.len;
    st_buf_free(&pem);
    return true;
}

static void nvml_close(struct nvml *v)
{
    dlclose(v->h);
    mint_free(&gpu);
    mint_free(&gpu_root);
    made_dir_remove(&v->dir);
}

#define WITH_SIM                                                                                                       \
    "\"require\": [\"sim\", \"nvgpu\"], \"sim_root\": \"" SIM_ROOT "\", \"gpu\": true, \"optional\": ["                \
    "\"nvgpu.revocation\", \"nvgpu.rim.driver\", \"nvgpu.rim.vbios\"], \"revocation\": \"if_present\", "               \
    "\"roots\": {\"nvgpu\": \""

static void a_gpu_is_asked_with_the_nonce_that_the_carrier_covers(void **state)
{
    struct nvml v;
    struct st_buf text = {0}, root = {0};
    (void)state;
    if (!nvml_open(&v))
        return;
    struct st_collect_opts o = {.nvml = v.path, .sim_key = made_file(&v.dir, "sim.key", SIM_SEED)};
    struct st_bundle b = collect_now(&o, (const char *[]){"nvgpu", "sim"}, 2);
    add_pem(&root, gpu_root.cert);
    st_buf_add_str(&text, WITH_SIM);
    add_pem_text(&text, &root);
    st_buf_add_str(&text, "\"}");
    expect_judged(&b, text.p, true, "");
    /* Another report of the same GPU for the same nonce is not the one that was signed for. */
    struct st_bundle again = collect_now(&o, (const char *[]){"nvgpu", "sim"}, 2);
    struct st_bundle mixed = b;
    mixed.items[0] = again.items[0];
    expect_judged(&mixed, text.p, false, "sim.binding");
    st_bundle_free(&again);
    st_bundle_free(&b);
    st_buf_free(&text);
    st_buf_free(&root);
    nvml_close(&v);
}

/* A machine with a TPM and a GPU: the TPM carries, the GPU follows. */
static void a_tpm_covers_the_report_of_the_gpu_beside_it(void **state)
{
    struct nvml v;
    struct swtpm tpm;
    struct st_tpm_device *d;
    struct st_enroll_ca ca;
    struct st_buf request = {0}, grant = {0}, pem = {0}, text = {0};
    uint8_t ek[32];
    struct st_err e = {0};
    (void)state;
    if (!swtpm_open(&tpm))
        return;
    if (!nvml_open(&v)) {
        swtpm_close(&tpm);
        return;
    }
    kernel.provider = NULL; /* directories are made by the real one again */
    assert_ok(st_enroll_ca_open(v.dir.path, true, &ca, &e), &e);
    assert_ok(st_tpm_device_open(tpm.tcti, NULL, &d, &e), &e);
    assert_ok(st_enroll_request(d, &request, &e), &e);
    assert_ok(st_enroll_ek_digest(request.p, request.len, ek, &e), &e);
    const struct st_enroll_trust t = {.digest = ek};
    assert_ok(st_enroll_grant(&ca, request.p, request.len, &t, st_unix_time(), 30, &grant, &e), &e);
    assert_ok(st_enroll_accept(d, grant.p, grant.len, &pem, &e), &e);
    st_tpm_device_close(d);
    const struct st_collect_opts o = {
        .nvml = v.path, .tcti = tpm.tcti, .tpm_certs = made_bytes(&v.dir, "ak.pem", pem.p, pem.len)};
    struct st_bundle b = collect_now(&o, (const char *[]){"tpm", "nvgpu"}, 2);
    st_buf_add_str(&text,
                   "\"require\": [\"tpm\", \"nvgpu\"], \"gpu\": true, \"revocation\": \"if_present\", \"optional\": "
                   "[\"nvgpu.rim.driver\", \"nvgpu.rim.vbios\", \"tpm.event_log\"], \"roots\": {\"tpm\": \"");
    st_buf_clear(&pem);
    add_pem(&pem, ca.cert);
    add_pem_text(&text, &pem);
    st_buf_add_str(&text, "\", \"nvgpu\": \"");
    st_buf_clear(&pem);
    add_pem(&pem, gpu_root.cert);
    add_pem_text(&text, &pem);
    st_buf_add_str(&text, "\"}");
    expect_judged(&b, text.p, true, "");
    struct st_bundle other = b;
    other.n_item = 1;
    expect_judged(&other, text.p, false, "tpm.binding");
    st_bundle_free(&b);
    st_enroll_ca_free(&ca);
    st_buf_free(&request);
    st_buf_free(&grant);
    st_buf_free(&pem);
    st_buf_free(&text);
    nvml_close(&v);
    swtpm_close(&tpm);
}

static void drivers_that_are_missing_or_fail_are_refused_by_name(void **state)
{
    struct nvml v;
    struct st_collect_opts o = {.nvml = "/nowhere/libnvidia-ml.so"};
    struct st_collection *c;
    struct st_bundle b;
    struct st_err e = {0};
    const char *const kinds[] = {"nvgpu", "sim"};
    const struct st_binding keys = made_binding();
    (void)state;
    expect_refusal(st_collection_open(kinds, 2, &o, &c, &e), &e, ST_UNSUPPORTED, "/nowhere/libnvidia-ml.so");
    o.nvml = "libm.so.6";
    expect_refusal(st_collection_open(kinds, 2, &o, &c, &e), &e, ST_UNSUPPORTED, "nvmlInit_v2");
    if (!nvml_open(&v))
        return;
    o = (struct st_collect_opts){.nvml = v.path, .sim_key = made_file(&v.dir, "sim.key", SIM_SEED)};
    expect_refusal(st_collection_open(kinds, 1, &o, &c, &e), &e, ST_USAGE, "nothing here can carry");
    *v.fails = 1;
    expect_refusal(st_collection_open(kinds, 2, &o, &c, &e), &e, ST_UNSUPPORTED, "does not start");
    *v.fails = 3;
    expect_refusal(st_collection_open(kinds, 2, &o, &c, &e), &e, ST_UNSUPPORTED, "Not Supported");
    *v.fails = 0;
    *v.gpus = 8;
    expect_refusal(st_collection_open(kinds, 2, &o, &c, &e), &e, ST_UNSUPPORTED, "got 8");
    *v.gpus = 1;
    unsigned was = *v.chain_len;
    *v.chain_len = 0x1401;
    expect_refusal(st_collection_open(kinds, 2, &o, &c, &e), &e, ST_INPUT, "5121");
    *v.chain_len = was;
    assert_ok(st_collection_open(kinds, 2, &o, &c, &e), &e);
    *v.fails = 4;
    expect_refusal(st_collection_collect(c, &keys, &b, &e), &e, ST_IO, "its report");
    st_collection_close(c);
    nvml_close(&v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_report_is_asked_for_in_a_directory_that_is_gone_afterwards),
        cmocka_unit_test(a_report_is_asked_for_again_when_somebody_else_wrote),
        cmocka_unit_test(under_a_paravisor_the_guest_asks_at_its_own_level),
        cmocka_unit_test(machines_without_or_with_another_tee_are_refused_and_left_clean),
        cmocka_unit_test(a_tdx_guests_bundle_is_accepted),
        cmocka_unit_test(an_rtmr_that_is_extended_ends_the_evidence),
        cmocka_unit_test(an_enclaves_bundle_is_accepted),
        cmocka_unit_test(enclaves_without_attestation_are_refused),
        cmocka_unit_test(a_hosts_table_of_certificates_is_read_within_its_bounds),
        cmocka_unit_test(an_snp_report_comes_with_what_the_host_hands_over),
        cmocka_unit_test(a_gpu_is_asked_with_the_nonce_that_the_carrier_covers),
        cmocka_unit_test(a_tpm_covers_the_report_of_the_gpu_beside_it),
        cmocka_unit_test(drivers_that_are_missing_or_fail_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
