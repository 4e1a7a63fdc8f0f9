#include "base/sandbox.h"
#include "base/secret.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <sched.h>
#include <seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif

/* ---- Landlock ---- */

/* Of newer kernels than the header's (Linux, Documentation/userspace-api/landlock.rst). */
#define FS_OF_ABI_1 ((uint64_t)(1 << 13) - 1)
#define FS_REFER ((uint64_t)1 << 13)     /* ABI 2 */
#define FS_TRUNCATE ((uint64_t)1 << 14)  /* ABI 3 */
#define FS_IOCTL_DEV ((uint64_t)1 << 15) /* ABI 5 */
#define NET_BIND_TCP ((uint64_t)1)       /* ABI 4 */
#define NET_CONNECT_TCP ((uint64_t)2)
#define RULE_NET_PORT 2
#define SCOPE_ABSTRACT_UNIX ((uint64_t)1) /* ABI 6 */
#define SCOPE_SIGNAL ((uint64_t)2)
#define FS_READ (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define FS_NEVER (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_BLOCK)
#define FS_OF_A_FILE                                                                                                   \
    (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_EXECUTE | FS_TRUNCATE |         \
     FS_IOCTL_DEV)

struct ruleset_attr {
    uint64_t fs, net, scoped;
};
struct port_attr {
    uint64_t access, port;
};

/* What this kernel can hold. */
static struct ruleset_attr handled(int abi)
{
    struct ruleset_attr a = {.fs = FS_OF_ABI_1};
    a.fs |= abi >= 2 ? FS_REFER : 0;
    a.fs |= abi >= 3 ? FS_TRUNCATE : 0;
    a.fs |= abi >= 5 ? FS_IOCTL_DEV : 0;
    a.net = abi >= 4 ? NET_BIND_TCP | NET_CONNECT_TCP : 0;
    a.scoped = abi >= 6 ? SCOPE_ABSTRACT_UNIX | SCOPE_SIGNAL : 0;
    return a;
}

static int allow_path(int rules, const char *path, uint64_t access, struct st_err *e)
{
    struct stat sb;
    int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &sb) != 0) {
        int err = errno;
        if (fd >= 0)
            close(fd);
        return st_fail(e, ST_IO, "sandbox: %s: %s", path, strerror(err));
    }
    if (!S_ISDIR(sb.st_mode))
        access &= FS_OF_A_FILE;
    const struct landlock_path_beneath_attr rule = {.allowed_access = access, .parent_fd = fd};
    long rc = syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0);
    int err = errno;
    close(fd);
    return rc ? st_fail(e, ST_IO, "sandbox: %s: Landlock: %s", path, strerror(err)) : 0;
}

static int allow_port(int rules, uint16_t port, uint64_t access, struct st_err *e)
{
    const struct port_attr rule = {access, port};
    if (syscall(SYS_landlock_add_rule, rules, RULE_NET_PORT, &rule, 0))
        return st_fail(e, ST_IO, "sandbox: port %u: Landlock: %s", port, strerror(errno));
    return 0;
}

static int add_rules(int rules, const struct st_sandbox *s, const struct ruleset_attr *h, struct st_err *e)
{
    for (size_t i = 0; i < s->n_read; i++)
        if (allow_path(rules, s->read[i], FS_READ, e))
            return e->code;
    for (size_t i = 0; i < s->n_write; i++)
        if (allow_path(rules, s->write[i], h->fs & ~(uint64_t)FS_NEVER, e))
            return e->code;
    for (size_t i = 0; i < s->n_port && h->net; i++)
        if (allow_port(rules, s->ports[i], NET_CONNECT_TCP, e))
            return e->code;
    for (size_t i = 0; i < s->n_listen && h->net; i++)
        if (allow_port(rules, s->listen[i], NET_BIND_TCP, e))
            return e->code;
    return 0;
}

#define ENDING_MS 200

static unsigned count_threads(void)
{
    unsigned n = 0;
    DIR *d = opendir("/proc/self/task");
    for (struct dirent *t; d && (t = readdir(d));)
        n += t->d_name[0] != '.';
    if (d)
        closedir(d);
    return n;
}

/* A thread that was joined is still listed for a moment: it is waited for. */
static unsigned threads_left(void)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    unsigned n = count_threads();
    for (int i = 0; n > 1 && i < ENDING_MS; i++) {
        (void)nanosleep(&pause, NULL);
        n = count_threads();
    }
    return n;
}

static int hold_files(const struct st_sandbox *s, struct st_sandbox_state *out, struct st_err *e)
{
    int abi = (int)syscall(SYS_landlock_create_ruleset, NULL, (size_t)0, LANDLOCK_CREATE_RULESET_VERSION);
    unsigned threads = threads_left();
    if (abi < 1 || threads != 1) {
        if (abi < 1)
            snprintf(out->landlock, sizeof out->landlock, "off: not in this kernel (%s)", strerror(errno));
        else
            snprintf(out->landlock, sizeof out->landlock, "off: %u threads run already, it would hold one", threads);
        return 0;
    }
    const struct ruleset_attr h = handled(abi);
    /* A kernel takes a shorter struct than its own, and a longer one when the rest is zeros. */
    int rules = (int)syscall(SYS_landlock_create_ruleset, &h, sizeof h, 0);
    if (rules < 0)
        return st_fail(e, ST_IO, "sandbox: Landlock: %s", strerror(errno));
    int rc = add_rules(rules, s, &h, e);
    if (!rc && syscall(SYS_landlock_restrict_self, rules, 0))
        rc = st_fail(e, ST_IO, "sandbox: Landlock: %s", strerror(errno));
    close(rules);
    if (rc)
        return rc;
    out->files = true;
    out->ports = h.net != 0;
    snprintf(out->landlock, sizeof out->landlock, "ABI %d", abi);
    return 0;
}

/* ---- seccomp ---- */

/* Two filters, of which the kernel follows the stricter: the outer one ends the process at a call that is in no list
 * here, the inner one says EPERM to all that it does not allow. Calls go by name, for numbers differ between machines;
 * a name that this machine or libseccomp does not know is passed over. */
static const char *const allowed[] = {
    /* reading and writing what is open */
    "read", "write", "readv", "writev", "pread64", "pwrite64", "lseek", "close", "close_range", "dup", "dup2", "dup3",
    "fcntl", "fstat", "fstatfs", "getdents64",
    /* looking at names */
    "stat", "lstat", "newfstatat", "statx", "access", "faccessat", "faccessat2", "readlink", "readlinkat",
    /* sockets */
    "accept", "accept4", "connect", "shutdown", "recvfrom", "recvmsg", "recvmmsg", "sendto", "sendmsg", "sendmmsg",
    "getsockname", "getpeername", "getsockopt", "setsockopt", "socketpair",
    /* waiting */
    "poll", "ppoll", "select", "pselect6", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait",
    "epoll_pwait2", "eventfd2", "timerfd_create", "timerfd_settime", "timerfd_gettime", "signalfd4", "pipe", "pipe2",
    "futex", "futex_waitv", "nanosleep", "clock_nanosleep", "sched_yield", "restart_syscall",
    /* memory */
    "brk", "munmap", "mremap", "madvise", "mlock", "mlock2", "munlock", "membarrier",
    /* time, randomness, who and where */
    "clock_gettime", "clock_getres", "gettimeofday", "time", "getrandom", "getpid", "gettid", "getppid", "getuid",
    "geteuid", "getgid", "getegid", "uname", "sysinfo", "getrlimit", "getrusage", "times", "getcpu",
    "sched_getaffinity", "sched_getparam", "sched_getscheduler",
    /* threads, signals, the end */
    "set_robust_list", "get_robust_list", "rseq", "set_tid_address", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn",
    "rt_sigtimedwait", "rt_sigpending", "rt_sigsuspend", "sigaltstack", "exit", "exit_group",
    /* the end of a child that was started before */
    "wait4", "waitid"};

/* Only with paths to write to; which ones, Landlock knows. */
static const char *const writing[] = {"mkdir", "mkdirat", "rmdir", "unlink", "unlinkat", "ftruncate"};

/* Allowed for some arguments (conditions()). */
static const char *const by_argument[] = {"open",     "openat", "openat2", "socket", "ioctl",  "mmap",
                                          "mprotect", "prctl",  "clone",   "clone3", "tgkill", "prlimit64"};

/* What a library may try and can be told no. */
static const char *const refused[] = {"execve",
                                      "execveat",
                                      "ptrace",
                                      "process_vm_readv",
                                      "fork",
                                      "vfork",
                                      "process_vm_writev",
                                      "bind",
                                      "listen",
                                      "creat",
                                      "rename",
                                      "renameat",
                                      "renameat2",
                                      "link",
                                      "linkat",
                                      "symlink",
                                      "symlinkat",
                                      "mknod",
                                      "mknodat",
                                      "truncate",
                                      "chmod",
                                      "fchmod",
                                      "fchmodat",
                                      "chown",
                                      "fchown",
                                      "fchownat",
                                      "lchown",
                                      "utimensat",
                                      "kill",
                                      "tkill",
                                      "sched_setaffinity",
                                      "sched_setscheduler",
                                      "sched_getattr",
                                      "sched_setattr",
                                      "setpriority",
                                      "memfd_create",
                                      "memfd_secret",
                                      "inotify_init1",
                                      "fadvise64",
                                      "flock",
                                      "mlockall",
                                      "setrlimit",
                                      "statfs",
                                      "getcwd",
                                      "fsync",
                                      "fdatasync",
                                      "landlock_create_ruleset",
                                      "seccomp"};

#define COUNT(a) (sizeof(a) / sizeof *(a))

struct filter {
    scmp_filter_ctx ctx;
    const char *failed; /* the first name whose rule was not taken */
};

static void add(struct filter *f, uint32_t action, const char *name, unsigned n, const struct scmp_arg_cmp *args)
{
    int number = seccomp_syscall_resolve_name(name);
    if (number == __NR_SCMP_ERROR || f->failed)
        return;
    int rc = seccomp_rule_add_array(f->ctx, action, number, n, args);
    /* -EDOM: this machine has no such call; -EACCES: the rule says what the filter does anyway. */
    if (rc && rc != -EDOM && rc != -EACCES)
        f->failed = name;
}

static void add_all(struct filter *f, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        add(f, SCMP_ACT_ALLOW, names[i], 0, NULL);
}

/* One argument: the bits of `mask` are `value`. */
static void add_if(struct filter *f, const char *name, unsigned arg, uint64_t mask, uint64_t value)
{
    const struct scmp_arg_cmp cmp = {arg, SCMP_CMP_MASKED_EQ, mask, value};
    add(f, SCMP_ACT_ALLOW, name, 1, &cmp);
}

static void add_socket(struct filter *f, int family)
{
    const uint64_t type = 0xffffffff & ~(uint64_t)(SOCK_CLOEXEC | SOCK_NONBLOCK);
    const struct scmp_arg_cmp cmp[] = {{0, SCMP_CMP_MASKED_EQ, 0xffffffff, (uint64_t)family},
                                       {1, SCMP_CMP_MASKED_EQ, type, SOCK_STREAM}};
    add(f, SCMP_ACT_ALLOW, "socket", 2, cmp);
}

static void conditions(struct filter *f, const struct st_sandbox *s)
{
    const uint64_t creates = O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY), low = 0xffffffff;
    const uint64_t never = s->n_write ? O_TMPFILE & ~O_DIRECTORY : O_ACCMODE | creates;
    const uint64_t spaces = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET |
                            CLONE_NEWCGROUP | CLONE_PTRACE | CLONE_UNTRACED;
    if (!s->no_files) {
        add_if(f, "open", 1, never, 0);
        add_if(f, "openat", 2, never, 0);
    }
    if (s->unix_sockets)
        add_socket(f, AF_UNIX);
    if (s->n_port) {
        add_socket(f, AF_INET);
        add_socket(f, AF_INET6);
    }
    add_if(f, "ioctl", 1, low, FIONREAD);
    add_if(f, "ioctl", 1, low, FIONBIO);
    if (s->nvidia)
        add_if(f, "ioctl", 1, 0xff00, 'F' << 8); /* the driver's magic number (nv-ioctl-numbers.h) */
    add_if(f, "mmap", 2, PROT_EXEC, 0);
    add_if(f, "mprotect", 2, PROT_EXEC, 0);
    add_if(f, "prctl", 0, low, PR_SET_NAME);
    add_if(f, "prctl", 0, low, PR_SET_VMA);
    add_if(f, "clone", 0, CLONE_THREAD | spaces, CLONE_THREAD);
    add_if(f, "tgkill", 0, low, (uint64_t)getpid());
    add_if(f, "prlimit64", 2, ~(uint64_t)0, 0); /* reads limits, sets none */
    /* What they are asked to do lies in memory, where no filter sees it; callers fall back. */
    add(f, SCMP_ACT_ERRNO(ENOSYS), "openat2", 0, NULL);
    add(f, SCMP_ACT_ERRNO(ENOSYS), "clone3", 0, NULL);
}

static int load(struct filter *f, struct st_err *e)
{
    int rc = f->failed ? -EINVAL : 0;
    /* All threads; a call of another architecture ends the process. */
    rc = rc ? rc : seccomp_attr_set(f->ctx, SCMP_FLTATR_CTL_TSYNC, 1);
    rc = rc ? rc : seccomp_attr_set(f->ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    (void)seccomp_attr_set(f->ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2); /* a tree; libseccomp before 2.5 has lists only */
    rc = rc ? rc : seccomp_load(f->ctx);
    return rc ? st_fail(e, ST_IO, "sandbox: seccomp: %s%s%s", f->failed ? f->failed : "", f->failed ? ": " : "",
                        strerror(-rc))
              : 0;
}

static int hold_calls(const struct st_sandbox *s, struct st_err *e)
{
    struct filter outer = {.ctx = seccomp_init(SCMP_ACT_KILL_PROCESS)},
                  inner = {.ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM))};
    int rc = outer.ctx && inner.ctx ? 0 : st_fail(e, ST_MEMORY, "sandbox: no memory");
    if (!rc) {
        add_all(&outer, allowed, COUNT(allowed));
        add_all(&outer, writing, COUNT(writing));
        add_all(&outer, by_argument, COUNT(by_argument));
        add_all(&outer, refused, COUNT(refused));
        add_all(&inner, allowed, COUNT(allowed));
        if (s->n_write)
            add_all(&inner, writing, COUNT(writing));
        conditions(&inner, s);
        rc = load(&outer, e) || load(&inner, e) ? e->code : 0;
    }
    seccomp_release(outer.ctx);
    seccomp_release(inner.ctx);
    return rc;
}

#ifdef SANITIZED
static const bool free_of_all = true;
#else
static const bool free_of_all = false;
#endif

int st_sandbox_files(const struct st_sandbox *s, struct st_sandbox_state *out, struct st_err *e)
{
    *out = (struct st_sandbox_state){.landlock = "off: built with a sanitizer"};
    st_secret_process_for_good();
    if (free_of_all)
        return 0;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return st_fail(e, ST_IO, "sandbox: no new privileges: %s", strerror(errno));
    return hold_files(s, out, e);
}

int st_sandbox_calls(const struct st_sandbox *s, struct st_sandbox_state *state, struct st_err *e)
{
    if (free_of_all)
        return 0;
    if (hold_calls(s, e))
        return e->code;
    state->syscalls = true;
    return 0;
}

int st_sandbox_enter(const struct st_sandbox *s, struct st_sandbox_state *out, struct st_err *e)
{
    return st_sandbox_files(s, out, e) ? e->code : st_sandbox_calls(s, out, e);
}
