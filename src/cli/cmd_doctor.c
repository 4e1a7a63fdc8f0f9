/* sotto doctor: what this machine offers, and what would go wrong. Changes nothing and contacts nobody but the workers
 * that are named. */
#include "base/mem.h"
#include "base/secret.h"
#include "cli/cli.h"
#include "service/host.h"
#include "service/worker_client.h"
#include "tensor/compute.h"
#include "text/json.h"

#include <arpa/inet.h>
#include <cblas.h>
#include <curl/curl.h>
#include <event2/event.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utf8proc.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

struct doctor_opts {
    bool network;
    const char *workers[ST_CLI_MAX_WORKERS], *worker_ca;
    int n_worker;
};

enum { KEY_NETWORK = ST_KEY(0), KEY_WORKER, KEY_WORKER_CA };

static const struct argp_option options[] = {
    {"network", KEY_NETWORK, NULL, 0, "List every host that sotto may contact", 0},
    {"worker", KEY_WORKER, "ADDRESS", 0, "Ask this worker of masked layers what it has; may be repeated", 0},
    {"worker-ca", KEY_WORKER_CA, "FILE", 0, "Certificates that a tls:// worker is checked against", 0},
    {0},
};

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    struct doctor_opts *o = opts;
    switch (key) {
    case KEY_WORKER:
        if (o->n_worker == ST_CLI_MAX_WORKERS)
            return st_fail(e, ST_USAGE, "--worker: at most %d", ST_CLI_MAX_WORKERS);
        o->workers[o->n_worker++] = arg;
        return 0;
    case KEY_WORKER_CA:
        o->worker_ca = arg;
        return 0;
    default:
        o->network = true;
        return 0;
    }
}

enum verdict { GOOD, WARN, BAD };

struct report {
    bool json;
    json_t *checks;
    int n_bad;
};

static void row(struct report *r, const char *check, enum verdict v, const char *fmt, ...) ST_PRINTF(4, 5);
static void row(struct report *r, const char *check, enum verdict v, const char *fmt, ...)
{
    static const char *const words[] = {"ok", "warn", "fail"};
    char detail[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(detail, sizeof detail, fmt, ap);
    va_end(ap);
    r->n_bad += v == BAD;
    if (r->json)
        json_array_append_new(r->checks,
                              json_pack("{s:s, s:s, s:s}", "check", check, "status", words[v], "detail", detail));
    else
        printf("%-5s %-12s %s\n", words[v], check, detail);
}

static void check_cpu(struct report *r, const struct st_cli *cli)
{
    struct st_buf has = {0};
    struct st_compute *c;
    struct st_err e = {0};
    __builtin_cpu_init();
#define FEATURE(name)                                                                                                  \
    if (__builtin_cpu_supports(name))                                                                                  \
    st_buf_addf(&has, "%s%s", has.len ? " " : "", name)
    FEATURE("avx2");
    FEATURE("fma");
    FEATURE("avx512f");
    FEATURE("avx512bw");
    FEATURE("avx512vnni");
    FEATURE("avx512bf16");
#undef FEATURE
    row(r, "cpu", has.len ? GOOD : WARN, "%s",
        has.len ? has.p : "neither AVX2 nor AVX-512: the plain kernels are slow");
    st_buf_free(&has);
    const struct st_compute_opts o = {.n_threads = cli->n_threads, .isa = cli->isa, .max_row = 1, .max_width = 64};
    if (st_compute_new(&o, &c, &e)) {
        row(r, "kernels", BAD, "%s", e.msg);
        return;
    }
    row(r, "kernels", GOOD, "%s on %d threads", st_compute_isa(c), st_compute_threads(c));
    st_compute_free(c);
}

/* First line of a small file of /proc or /sys; empty when there is none. */
static void first_line(const char *path, char *out, size_t cap)
{
    FILE *f = fopen(path, "r");
    if (!f || !fgets(out, (int)cap, f))
        *out = 0;
    out[strcspn(out, "\n")] = 0;
    if (f)
        fclose(f);
}

/* Pads of masked layers (--protect masked) want as much locked memory as they take, or a system without swap. */
static void check_pads(struct report *r, rlim_t limit, bool swaps)
{
    const size_t most = (size_t)1 << 30; /* the largest default of --pad-memory */
    char want[ST_MEM_TEXT], have[ST_MEM_TEXT];
    if (limit == RLIM_INFINITY || limit >= most)
        row(r, "pads", GOOD, "masked layers: pads can be locked in memory");
    else if (!swaps)
        row(r, "pads", GOOD, "masked layers: only %s can be locked, but nothing is swapped",
            st_mem_text((size_t)limit, have));
    else
        row(r, "pads", WARN,
            "masked layers: up to %s of pads are to be locked, the limit is %s (ulimit -l) and swap is on: they would "
            "be "
            "refused",
            st_mem_text(most, want), st_mem_text((size_t)limit, have));
}

static void check_worker(struct report *r, const char *address, const char *ca)
{
    static const uint8_t any[32];
    const struct st_worker_client_opts o = {
        .addresses = &address, .n_address = 1, .tls_ca = ca, .digest = any, .timeout_s = 5};
    struct st_worker_client *c;
    const struct st_hint_source *hints;
    struct st_err e = {0};
    if (st_worker_client_new(&o, &c, &e)) {
        /* POLICY: it is there, and would serve who proves what it runs. */
        row(r, "worker", e.code == ST_POLICY ? WARN : BAD, "%s", e.msg + (strncmp(e.msg, "worker ", 7) == 0 ? 7 : 0));
        return;
    }
    if (st_worker_client_hints(c, &hints, &e))
        row(r, "worker", WARN, "%.200s: answers; %s", address, e.msg);
    else
        row(r, "worker", GOOD, "%.200s: answers; hints of %s; %u rows at a time", address, hints->params,
            st_worker_client_max_row(c));
    st_worker_client_free(c);
}

static void check_memory(struct report *r, const struct st_host *h)
{
    char text[ST_MEM_TEXT], line[128];
    struct rlimit lim = {0};
    struct st_secret s;
    struct st_err e = {0};
    size_t free_bytes = st_mem_available();
    row(r, "memory", free_bytes < ((size_t)1 << 30) ? WARN : GOOD, "%s available", st_mem_text(free_bytes, text));
    getrlimit(RLIMIT_MEMLOCK, &lim);
    if (st_secret_init(&s, 4096, &e)) {
        row(r, "memlock", BAD, "keys cannot be locked into memory: %s", e.msg);
    } else {
        st_secret_wipe(&s);
        if (lim.rlim_cur == RLIM_INFINITY)
            row(r, "memlock", GOOD, "no limit");
        else
            row(r, "memlock", GOOD, "limit %s (ulimit -l)", st_mem_text((size_t)lim.rlim_cur, text));
    }
    first_line("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof line);
    row(r, "huge pages", strstr(line, "[never]") ? WARN : GOOD, "%s",
        !*line                    ? "not known"
        : strstr(line, "[never]") ? "off: large models run slower"
                                  : line);
    check_pads(r, lim.rlim_cur, h->swaps > 0);
    row(r, "swap", h->swaps > 0 ? WARN : GOOD, "%s",
        h->swaps > 0 ? "on: what a prompt leaves in memory may reach the disk" : "off");
    getrlimit(RLIMIT_NOFILE, &lim);
    row(r, "open files", lim.rlim_max < 4096 ? WARN : GOOD, "up to %llu (ulimit -Hn)",
        (unsigned long long)lim.rlim_max);
}

/* Decrypted weights count against the limit on locked memory: the default of most systems, 8 MiB, holds no model. */
static void check_secretmem(struct report *r, const struct st_host *h)
{
    const uint64_t small = (uint64_t)256 << 20;
    char text[ST_MEM_TEXT];
    if (!h->secretmem)
        row(r, "secret mem", WARN,
            "no memfd_secret (kernel 5.14, secretmem.enable=1, room in ulimit -l): decrypted weights lie in locked "
            "memory");
    else if (h->memlock < small)
        row(r, "secret mem", WARN,
            "memfd_secret, but only %s of decrypted weights can lie there (ulimit -l): want a model's size, or "
            "--enclave-memory",
            st_mem_text((size_t)h->memlock, text));
    else
        row(r, "secret mem", GOOD, "memfd_secret: decrypted weights can lie where the kernel itself does not map them");
}

/* What keeps decrypted weights and keys from others (docs/host.md). */
static void check_host(struct report *r, const struct st_host *h)
{
    static const char *const scopes[] = {"0: any process of the same user may trace others", "1: only children",
                                         "2: only administrators", "3: nobody"};
    bool scoped = h->ptrace_scope >= 0 && h->ptrace_scope <= 3;
    check_secretmem(r, h);
    row(r, "core", h->core ? WARN : GOOD, "%s",
        h->core ? "this process may leave a core file" : "off for this process: it leaves no core file");
    row(r, "dumpable", h->dumpable ? WARN : GOOD, "%s",
        h->dumpable ? "other processes of this user can read this one"
                    : "off for this process: others of this user cannot read it");
    row(r, "ptrace", h->ptrace_scope > 0 ? GOOD : WARN, "%s",
        scoped ? scopes[h->ptrace_scope]
               : "no Yama: any process of the same user may trace others that do not forbid it");
    row(r, "seccomp", h->seccomp ? GOOD : WARN, "%s", h->seccomp ? "there" : "not in this kernel: no sandbox");
    if (h->landlock)
        row(r, "landlock", h->landlock >= 4 ? GOOD : WARN, "ABI %d%s", h->landlock,
            h->landlock >= 4 ? "" : ": holds files, but no TCP ports (Linux 6.7)");
    else
        row(r, "landlock", WARN, "not in this kernel: a process that is taken over can read files");
    row(r, "tpm", GOOD, "%s", h->tpm ? "there" : "none: models cannot be sealed to this machine's TPM");
    row(r, "tee", h->tee == ST_TEE_NONE ? WARN : GOOD, "%s", st_host_case(h));
}

static void check_port(struct report *r, int port, const char *who)
{
    char check[32];
    const int one = 1;
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(check, sizeof check, "port %d", port);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    bool is_free = fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof a) == 0;
    row(r, check, is_free ? GOOD : WARN, "%s (%s)", is_free ? "free" : "in use", who);
    if (fd >= 0)
        close(fd);
}

/* From 7788 on (docs/cli.md, Ports). */
enum { FIRST_PORT = 7788 };
static const char *const ports[] = {"sotto proxy",       "sotto serve",  "sotto-worker", "sotto-node",
                                    "sotto gateway",     "sotto relay",  "sotto issuer", "sotto log serve",
                                    "sotto log witness", "sotto release"};

static void check_config(struct report *r)
{
    const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    char user[ST_PATH_MAX];
    struct stat sb;
    if (xdg && *xdg)
        snprintf(user, sizeof user, "%s/sotto/config", xdg);
    else
        snprintf(user, sizeof user, "%s/.config/sotto/config", home ? home : "");
    const char *const paths[] = {"/etc/sotto/config", user};
    for (int i = 0; i < 2; i++) {
        if (stat(paths[i], &sb) != 0)
            row(r, "config", GOOD, "%.400s: none", paths[i]);
        else if (sb.st_mode & 022)
            row(r, "config", WARN, "%.400s: others may write to it (mode %03o)", paths[i], sb.st_mode & 0777u);
        else
            row(r, "config", access(paths[i], R_OK) ? BAD : GOOD, "%.400s", paths[i]);
    }
}

static void check_libraries(struct report *r)
{
    char pcre[64] = "";
    const char *core = getenv("OPENBLAS_CORETYPE");
    pcre2_config(PCRE2_CONFIG_VERSION, pcre);
    row(r, "libraries", GOOD, "OpenSSL %s; libevent %s; libcurl %s; jansson %s; PCRE2 %s; utf8proc %s; %.40s",
        OpenSSL_version(OPENSSL_VERSION_STRING), event_get_version(), curl_version_info(CURLVERSION_NOW)->version,
        jansson_version_str(), pcre, utf8proc_version(), openblas_get_config());
    if (core && *core)
        row(r, "openblas", WARN, "OPENBLAS_CORETYPE=%.40s is set and may slow it down", core);
}

/* What one option of a command is set to outside the command line: by the environment, or else by the config file. */
static int list_setting(const struct st_cmd *cmd, const char *option, const char *variable, const char *why,
                        json_t *hosts, struct st_err *e)
{
    struct st_words w = {0};
    size_t len = strlen(option);
    const char *set = getenv(variable);
    if (set && *set)
        json_array_append_new(hosts, json_pack("{s:s, s:s+}", "host", set, "why", why, cmd->name));
    if (st_cli_config(cmd, getenv("SOTTO_CONFIG"), &w, e))
        return e->code;
    for (int i = 0; i < w.n; i++) {
        if (!(set && *set) && !strncmp(w.p[i], option, len))
            json_array_append_new(hosts, json_pack("{s:s, s:s+}", "host", w.p[i] + len, "why", why, cmd->name));
        free(w.p[i]);
    }
    free(w.p);
    return 0;
}

/* The proxy asks its upstream, masked layers go to workers; so the list is those as configured, and a web proxy from
 * the environment. */
static int list_network(const struct st_cli *cli, json_t *hosts, struct st_err *e)
{
    static const char *const asked[][3] = {{"--upstream=", "SOTTO_UPSTREAM", "upstream of sotto "},
                                           {"--relay=", "SOTTO_RELAY", "relay of sotto "},
                                           {"--log=", "SOTTO_LOG", "log of sotto "},
                                           {"--issuer=", "SOTTO_ISSUER", "issuer of sotto "}};
    static const char *const proxies[] = {"HTTPS_PROXY", "https_proxy", "http_proxy", "ALL_PROXY", "all_proxy"};
    for (const struct st_cmd *const *c = st_commands; *c; c++) {
        for (size_t i = 0; i < sizeof asked / sizeof *asked && !strcmp((*c)->name, "proxy"); i++)
            if (list_setting(*c, asked[i][0], asked[i][1], asked[i][2], hosts, e))
                return e->code;
        if (((*c)->shared & ST_CLI_MASKED) &&
            list_setting(*c, "--worker=", "SOTTO_WORKER", "worker of sotto ", hosts, e))
            return e->code;
    }
    for (size_t i = 0; i < sizeof proxies / sizeof *proxies; i++) {
        const char *v = getenv(proxies[i]);
        if (v && *v) /* may hold a password: the name is enough */
            json_array_append_new(hosts,
                                  json_pack("{s:s, s:s}", "host", proxies[i], "why", "web proxy of the environment"));
    }
    if (cli->json)
        return 0;
    size_t i;
    const json_t *h;
    puts("\nHosts that sotto may contact:");
    json_array_foreach(hosts, i, h) printf("  %s  (%s)\n", json_string_value(json_object_get(h, "host")),
                                           json_string_value(json_object_get(h, "why")));
    puts(
        "  what you name: --upstream, --relay, --log, --issuer (sotto proxy, wallet, drill), --worker (masked layers), "
        "--url (sotto status),\n"
        "  --gateway, --node, --log, --issuer, --witness, --spent postgresql://... (relay, gateway, issuer, log), the "
        "URL "
        "of sotto log; nothing else");
    return 0;
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    const struct doctor_opts *o = opts;
    struct report r = {.json = cli->json, .checks = json_array()};
    json_t *hosts = json_array();
    check_cpu(&r, cli);
    struct st_host host;
    st_host_look("", &host);
    check_memory(&r, &host);
    check_host(&r, &host);
    for (size_t i = 0; i < sizeof ports / sizeof *ports; i++)
        check_port(&r, FIRST_PORT + (int)i, ports[i]);
    check_config(&r);
    check_libraries(&r);
    for (int i = 0; i < o->n_worker; i++)
        check_worker(&r, o->workers[i], o->worker_ca);
    int rc = o->network ? list_network(cli, hosts, e) : 0;
    if (!rc && cli->json) {
        json_t *all = json_pack("{s:b, s:O}", "ok", !r.n_bad, "checks", r.checks);
        struct st_buf b = {0};
        if (o->network)
            json_object_set(all, "network", hosts);
        st_json_dump(all, &b);
        puts(b.p ? b.p : "{}");
        st_buf_free(&b);
        json_decref(all);
    }
    json_decref(r.checks);
    json_decref(hosts);
    if (!rc && r.n_bad)
        rc = st_fail(e, ST_POLICY, "doctor: %d of the checks failed", r.n_bad);
    return rc;
}

const struct st_cmd st_cmd_doctor = {
    .name = "doctor",
    .summary = "Check this machine: CPU, memory, limits, protection of memory, ports, libraries",
    .doc =
        "Shows what this machine offers and what would go wrong. Changes nothing and contacts nobody but the workers "
        "named with --worker. --network lists every host that sotto may contact.",
    .examples = "  sotto doctor\n  sotto doctor --network --json\n  sotto doctor --worker tcp://gpu.example:7790",
    .shared = ST_CLI_JSON | ST_CLI_THREADS,
    .options = options,
    .opts_size = sizeof(struct doctor_opts),
    .set = set,
    .run = run,
};
