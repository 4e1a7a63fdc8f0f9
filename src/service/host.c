#include "service/host.h"
#include "base/secret.h"

#include <errno.h>
#include <linux/landlock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#define PATH 512

static bool there(const char *root, const char *path)
{
    char full[PATH];
    snprintf(full, sizeof full, "%s%s", root, path);
    return access(full, F_OK) == 0;
}

/* First line of a small file; empty when there is none. */
static void first_line(const char *root, const char *path, char *out, int cap)
{
    char full[PATH];
    snprintf(full, sizeof full, "%s%s", root, path);
    FILE *f = fopen(full, "re");
    if (!f || !fgets(out, cap, f))
        *out = 0;
    out[strcspn(out, "\n")] = 0;
    if (f)
        fclose(f);
}

/* Intel TDX Module, CPUID leaf 0x21: "IntelTDX    " in EBX, EDX, ECX of a guest. */
static bool processor_says_tdx(void)
{
#if defined(__x86_64__)
    unsigned a, b, c, d;
    char name[13] = "";
    if (__get_cpuid_count(0x21, 0, &a, &b, &c, &d)) {
        memcpy(name, &b, 4);
        memcpy(name + 4, &d, 4);
        memcpy(name + 8, &c, 4);
    }
    return strcmp(name, "IntelTDX    ") == 0;
#else
    return false;
#endif
}

static void look_for_tee(const char *root, struct st_host *h)
{
    bool tsm = there(root, "/sys/kernel/config/tsm/report"), tdx = there(root, "/dev/tdx_guest"),
         snp = there(root, "/dev/sev-guest");
    if (there(root, "/dev/attestation/attestation_type")) {
        char type[16];
        first_line(root, "/dev/attestation/attestation_type", type, sizeof type);
        h->tee = ST_TEE_SGX;
        h->evidence = strcmp(type, "dcap") == 0;
    } else if (tdx || (!*root && processor_says_tdx())) {
        h->tee = ST_TEE_TDX;
        h->evidence = tsm || tdx;
    } else if (snp) {
        h->tee = ST_TEE_SNP;
        h->evidence = true;
    }
}

static bool has_secretmem(void)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    int fd = (int)syscall(SYS_memfd_secret, 0);
    void *p =
        fd < 0 || ftruncate(fd, (off_t)page) ? MAP_FAILED : mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    if (p == MAP_FAILED)
        return false;
    munmap(p, page);
    return true;
}

/* CAP_IPC_LOCK (14): the limit does not hold. */
static bool locks_without_limit(const char *root)
{
    char path[PATH], line[256];
    unsigned long long caps = 0;
    snprintf(path, sizeof path, "%s/proc/self/status", root);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "CapEff: %llx", &caps) == 1)
            break;
    if (f)
        fclose(f);
    return caps >> 14 & 1;
}

/* The table has one line of headings, then a line for each area in use. */
static int count_swaps(const char *root)
{
    char path[PATH], line[256];
    int n = -1;
    snprintf(path, sizeof path, "%s/proc/swaps", root);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        n++;
    if (f)
        fclose(f);
    return n;
}

static void look_at_process(const char *root, struct st_host *h)
{
    char line[32];
    struct rlimit limit = {0};
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0)
        h->memlock =
            limit.rlim_cur == RLIM_INFINITY || locks_without_limit(root) ? UINT64_MAX : (uint64_t)limit.rlim_cur;
    if (getrlimit(RLIMIT_CORE, &limit) == 0)
        h->core = limit.rlim_cur == RLIM_INFINITY ? UINT64_MAX : (uint64_t)limit.rlim_cur;
    h->dumpable = prctl(PR_GET_DUMPABLE) == 1;
    h->secretmem = has_secretmem();
    first_line(root, "/proc/sys/kernel/yama/ptrace_scope", line, sizeof line);
    h->ptrace_scope = *line ? atoi(line) : -1;
}

void st_host_look(const char *root, struct st_host *out)
{
    *out = (struct st_host){0};
    look_for_tee(root, out);
    look_at_process(root, out);
    out->swaps = count_swaps(root);
    out->seccomp = there(root, "/proc/sys/kernel/seccomp/actions_avail");
    long abi = syscall(SYS_landlock_create_ruleset, NULL, (size_t)0, LANDLOCK_CREATE_RULESET_VERSION);
    out->landlock = abi > 0 ? (int)abi : 0;
    out->tpm = there(root, "/dev/tpmrm0") || there(root, "/dev/tpm0");
}

const char *st_tee_name(enum st_tee t)
{
    static const char *const names[] = {"none", "SGX under Gramine", "a SEV-SNP guest", "a TDX guest"};
    return names[t];
}

const char *st_host_case(const struct st_host *h)
{
    switch (h->tee) {
    case ST_TEE_SGX:
        return "this machine says that it is SGX under Gramine: then weights are kept from its owner too, as far as "
               "whoever released the key has verified its evidence";
    case ST_TEE_SNP:
        return "this machine says that it is a SEV-SNP guest: then weights are kept from the owner of its host too, as "
               "far as whoever released the key has verified its evidence";
    case ST_TEE_TDX:
        return "this machine says that it is a TDX guest: then weights are kept from the owner of its host too, as far "
               "as whoever released the key has verified its evidence";
    default:
        return "outside a trusted execution environment: weights are kept from other users and other processes of this "
               "machine, not from its owner (root)";
    }
}

void st_host_json(const struct st_host *h, struct st_buf *b)
{
    static const char *const words[] = {"none", "sgx", "snp", "tdx"};
    st_buf_addf(b, "{\"tee\":\"%s\",\"evidence\":%s,\"keeps_from_owner\":%s,\"memfd_secret\":%s,\"memlock\":",
                words[h->tee], h->evidence ? "true" : "false", h->tee == ST_TEE_NONE ? "false" : "\"as attested\"",
                h->secretmem ? "true" : "false");
    st_buf_addf(b, h->memlock == UINT64_MAX ? "null" : "%llu", (unsigned long long)h->memlock);
    st_buf_addf(b, ",\"swap\":%s,\"core\":%s,\"dumpable\":%s,\"ptrace_scope\":%d", h->swaps > 0 ? "true" : "false",
                h->core ? "true" : "false", h->dumpable ? "true" : "false", h->ptrace_scope);
    st_buf_addf(b, ",\"seccomp\":%s,\"landlock\":%d,\"tpm\":%s}", h->seccomp ? "true" : "false", h->landlock,
                h->tpm ? "true" : "false");
}

/* Who traced this process before it could forbid that goes on tracing it, and reads all of it. */
static int refuse_tracer(struct st_err *e)
{
    char line[256];
    long tracer = 0;
    FILE *f = fopen("/proc/self/status", "re");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "TracerPid: %ld", &tracer) == 1)
            break;
    if (f)
        fclose(f);
    return tracer
               ? st_fail(e, ST_POLICY, "this process is traced by process %ld, which would read what is sealed", tracer)
               : 0;
}

int st_host_harden(struct st_err *e)
{
    st_secret_process_for_good();
    (void)prctl(PR_SET_PTRACER, 0, 0, 0, 0); /* nobody, where Yama asks; unknown elsewhere */
    int dumpable = prctl(PR_GET_DUMPABLE);
    if (dumpable < 0 && errno == ENOSYS) /* not Linux, but a library OS inside of an enclave: it has none of this */
        return 0;
    if (dumpable != 0)
        return st_fail(e, ST_IO, "this process can be read by others: PR_SET_DUMPABLE: %s", strerror(errno));
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return st_fail(e, ST_IO, "no new privileges: %s", strerror(errno));
    return refuse_tracer(e);
}
