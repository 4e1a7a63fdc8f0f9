#include "cli/hold.h"
#include "net/address.h"
#include "net/worker_frame.h"

#include <cblas.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What glibc, OpenSSL and ours read while a command starts: the resolver, certificates, the processor, memory, the
 * virtual machine's generation (protect/masked/vmgen.h). */
static const char *const of_the_system[] = {
    "/etc/hosts",    "/etc/host.conf", "/etc/nsswitch.conf",  "/etc/resolv.conf",
    "/etc/gai.conf", "/etc/ssl",       "/etc/localtime",      "/usr/lib",
    "/lib",          "/lib64",         "/usr/share/zoneinfo", "/proc/self",
    "/proc/meminfo", "/proc/swaps",    "/proc/cpuinfo",       "/sys/devices/system",
    "/sys/bus",      "/sys/fs/cgroup", "/sys/kernel/mm",      "/dev/null",
    "/dev/urandom",  "/dev/kmsg"};

#define COUNT(a) (sizeof(a) / sizeof *(a))
#define MAX_PATHS 128

/* OpenBLAS starts its threads when it is loaded, where Landlock would not hold them. Nothing here asks it for more than
 * one. Not every build of it has them. */
extern int blas_thread_shutdown_(void) __attribute__((weak));

static void end_threads_of_libraries(void)
{
    openblas_set_num_threads(1);
    if (blas_thread_shutdown_)
        blas_thread_shutdown_();
}

int st_hold_begin(struct st_hold *h, struct st_err *e)
{
    *h = (struct st_hold){0};
    if (st_host_harden(e))
        return e->code;
    st_host_look("", &h->host);
    end_threads_of_libraries();
    return 0;
}

struct paths {
    const char *p[MAX_PATHS];
    size_t n;
};

/* What is not there now cannot be named, and is not read later either. */
static void add(struct paths *l, const char *path)
{
    if (path && l->n < MAX_PATHS && access(path, F_OK) == 0)
        l->p[l->n++] = path;
}

static void add_options(struct paths *l, const struct st_cli *cli)
{
    add(l, cli->tokenizer);
    add(l, cli->masked.hints);
    add(l, cli->masked.worker_ca);
    add(l, cli->masked.worker_policy);
    add(l, cli->listen.api_key_file);
    add(l, cli->listen.tls_cert);
    add(l, cli->listen.tls_key);
}

/* Files of a snapshot in the cache of Hugging Face's tools are links to its blobs. */
static const char *blobs_of(const char *path, char out[ST_PATH_MAX])
{
    const char *snapshots = strstr(path, "/snapshots/");
    snprintf(out, ST_PATH_MAX, "%.*s/blobs", snapshots ? (int)(snapshots - path) : 0, path);
    return snapshots ? out : NULL;
}

/* The directory that --record writes to: its file is not there yet. */
static const char *directory_of(const char *path, char out[ST_PATH_MAX])
{
    const char *slash = strrchr(path, '/');
    snprintf(out, ST_PATH_MAX, "%.*s", slash == path ? 1 : slash ? (int)(slash - path) : 1, slash ? path : ".");
    return out;
}

static int worker_ports(struct st_hold *h, const struct st_cli_masked *m, struct st_err *e)
{
    for (int i = 0; i < m->n_worker; i++) {
        struct st_address a;
        if (st_address_parse(m->workers[i], ST_WORKER_PORT, &a, e))
            return e->code;
        if (a.kind == ST_ADDRESS_TCP || a.kind == ST_ADDRESS_TLS)
            h->ports[h->n_port++] = (uint16_t)a.port;
        else
            h->unix_sockets = true;
    }
    return 0;
}

int st_hold_files(struct st_hold *h, const struct st_cli *cli, const char *const *paths, size_t n, struct st_err *e)
{
    struct paths read = {0};
    char record[ST_PATH_MAX], blobs[ST_PATH_MAX];
    const char *write[1];
    const uint16_t port = (uint16_t)(cli->listen.port > 0 ? cli->listen.port : 0);
    h->refused = cli->sealed.no_sandbox;
    if (h->refused || h->host.tee == ST_TEE_SGX) /* a library OS has neither; its manifest names the files */
        return 0;
    if (worker_ports(h, &cli->masked, e))
        return e->code;
    if (n + COUNT(of_the_system) + 8 > MAX_PATHS)
        return st_fail(e, ST_USAGE, "sandbox: too many files are named");
    for (size_t i = 0; i < n; i++)
        add(&read, paths[i]);
    if (n)
        add(&read, blobs_of(paths[0], blobs));
    add_options(&read, cli);
    for (size_t i = 0; i < COUNT(of_the_system); i++)
        add(&read, of_the_system[i]);
    if (cli->masked.record)
        write[0] = directory_of(cli->masked.record, record);
    const struct st_sandbox s = {.read = read.p,
                                 .n_read = read.n,
                                 .write = write,
                                 .n_write = cli->masked.record != NULL,
                                 .ports = h->ports,
                                 .n_port = h->n_port,
                                 .listen = &port,
                                 .n_listen = cli->listen.port >= 0};
    if (st_sandbox_files(&s, &h->state, e))
        return e->code;
    h->files = true;
    return 0;
}

int st_hold_calls(struct st_hold *h, struct st_err *e)
{
    if (!h->files || h->calls)
        return 0;
    const struct st_sandbox s = {
        .ports = h->ports, .n_port = h->n_port, .unix_sockets = h->unix_sockets, .no_files = !h->n_port};
    if (st_sandbox_calls(&s, &h->state, e))
        return e->code;
    h->calls = true;
    return 0;
}

void st_hold_text(const struct st_hold *h, char out[128])
{
    if (h->host.tee == ST_TEE_SGX && !h->refused)
        snprintf(out, 128, "the enclave's: its manifest names the files");
    else if (!h->files)
        snprintf(out, 128, "off (%s)", h->refused ? "--no-sandbox" : "not for this command");
    else
        snprintf(out, 128, "seccomp %s, Landlock %s", h->state.syscalls ? "on" : "off", h->state.landlock);
}

const char *st_hold_warning(const struct st_hold *h)
{
    if (h->refused)
        return "--no-sandbox: whoever takes this process over has its files, programs and network too";
    return h->files && h->host.landlock && !h->state.files
               ? "Landlock is off: whoever takes this process over before it serves has its files and network too"
               : NULL;
}
