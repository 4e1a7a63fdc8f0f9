/* Memory of a process that serves a sealed model, read by another process of the same user. The source is sealed again
 * under a passphrase of the attack's own, in the audit's directory; `sotto serve` opens it in a process of its own; and
 * 1,000 pieces of 32 bytes of the weights inside are looked for. The passphrase is in no file: it lies in memory,
 * behind a descriptor, so that what a killed audit leaves on the disk is a file that nobody can open. As root, all
 * processes become a user that there is not (audit/victim.h) first: against root nothing is promised. /proc/PID/mem
 * every mapping, as it is ptrace         the same, attached core           the process is made to abort, with no limit
 * on the size of a core file The unprotected score is that of a process that holds the same bytes and forbids nothing.
 * Where the system forbids even that, a score would say nothing about us, and there is none. Source: ours;
 * docs/host.md. */
#include "audit/attack.h"
#include "audit/reseal.h"
#include "audit/scan.h"
#include "audit/sealed_view.h"
#include "audit/victim.h"
#include "base/buf.h"
#include "base/file.h"
#include "base/hooks.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PIECES 1000
#define LARGEST ((uint64_t)1 << 30) /* matrices of a model that is sealed again without `thorough` */

enum way { MEM, PTRACE, CORE, N_WAY };
static const char *const names[] = {"/proc/PID/mem", "ptrace", "core"};

struct stage {
    const struct st_audit *a;
    char dir[128], sealed[144];
    int program, word; /* descriptors; word: of the passphrase, in memory */
    uid_t user;        /* of st_victim_user() */
    struct st_scan_patterns patterns;
};

/* ---- what is looked for ---- */

static bool is_mixed(const uint8_t *p)
{
    bool seen[256] = {false};
    int n = 0;
    for (int i = 0; i < ST_SCAN_LEN; i++) {
        n += !seen[p[i]];
        seen[p[i]] = true;
    }
    return n > ST_SCAN_LEN / 2;
}

/* A piece of a matrix inside, as it is stored; false where there is none. */
static bool pick_piece(const struct st_target *t, struct st_rng *rng, uint8_t out[ST_SCAN_LEN])
{
    const struct st_plan *p = &t->base->plan;
    int i = (int)(st_rng_next(rng) % (uint64_t)p->n_weight);
    const struct st_container_entry *n = st_container_find(t->container, p->weights[i].name);
    const struct st_mat *m = &t->base->mats[i];
    size_t values = (size_t)p->weights[i].n_out * p->weights[i].n_in;
    if (p->weights[i].n_in == 1 || p->weights[i].tied_to >= 0 || !n || n->place != ST_CONTAINER_INSIDE ||
        n->tensor.dtype > ST_DTYPE_BF16 || !m->data || m->dtype > ST_DTYPE_BF16)
        return false;
    size_t len = ST_SCAN_LEN / st_dtype_size(n->tensor.dtype);
    if (values < len)
        return false;
    const uint8_t *from = (const uint8_t *)m->data + st_rng_next(rng) % (values - len + 1) * st_dtype_size(m->dtype);
    st_convert(m->dtype, from, n->tensor.dtype, out, len);
    return is_mixed(out);
}

static int pick_pieces(struct stage *s, struct st_err *e)
{
    struct st_rng rng;
    uint8_t p[ST_SCAN_LEN];
    st_rng_seed(&rng, s->a->seed);
    for (int tries = 0; s->patterns.n < PIECES && tries < 100 * PIECES; tries++)
        if (pick_piece(s->a->target, &rng, p))
            (void)st_scan_add(&s->patterns, p);
    return s->patterns.n == PIECES ? 0 : st_fail(e, ST_UNSUPPORTED, "no matrix lies inside");
}

/* ---- processes ---- */

/* `sotto serve`, with the sealed model open. */
static int start_server(const struct stage *s, struct st_victim *v, struct st_err *e)
{
    const char *const argv[] = {"sotto",  "serve",   s->sealed,   "--passphrase-file", "/dev/fd/0", "--port", "0",
                                "--json", "--quiet", "--config=", "--threads",         "1",         NULL};
    const char *const env[] = {"PATH=/usr/bin:/bin", "LC_ALL=C", NULL};
    int says;
    if (st_victim_fork(v, &says, e))
        return e->code;
    if (v->pid == 0) {
        /* Between fork and exec only calls that are safe there. */
        if (dup2(s->word, STDIN_FILENO) >= 0 && dup2(says, STDOUT_FILENO) >= 0 && st_victim_become(s->dir, s->user))
            fexecve(s->program, (char *const *)argv, (char *const *)env);
        _exit(ST_IO);
    }
    return st_victim_ready(v, s->a->cancel, e);
}

/* A pipe with the pieces in it, which holds more than they are; -1: there is none. */
static int fill_pipe(const struct stage *s, int fds[2])
{
    uint8_t plain[PIECES * ST_SCAN_LEN];
    for (size_t i = 0; i < sizeof plain; i++)
        plain[i] = s->patterns.p[i / ST_SCAN_LEN][i % ST_SCAN_LEN] ^ ST_SCAN_XOR;
    bool bad = pipe2(fds, O_CLOEXEC) != 0;
    if (!bad && write(fds[1], plain, sizeof plain) != (ssize_t)sizeof plain) {
        close(fds[0]);
        close(fds[1]);
        bad = true;
    }
    OPENSSL_cleanse(plain, sizeof plain);
    return bad ? -1 : 0;
}

/* A process that holds what is looked for, and forbids nothing: dd, which hands one block on and waits for more with
 * that block in its buffer. A program of its own, for a copy of this process would show what an audit knows. `feed`
 * keeps it waiting. */
static int start_open(const struct stage *s, struct st_victim *v, int *feed, struct st_err *e)
{
    char block[24];
    const char *const argv[] = {"dd", block, NULL}, *const env[] = {"PATH=/usr/bin:/bin", "LC_ALL=C", NULL};
    int says, fds[2];
    snprintf(block, sizeof block, "bs=%d", PIECES * ST_SCAN_LEN);
    if (fill_pipe(s, fds))
        return st_fail(e, ST_IO, "no pipe to a child process: %s", strerror(errno));
    int rc = st_victim_fork(v, &says, e);
    if (!rc && v->pid == 0) {
        if (dup2(fds[0], STDIN_FILENO) >= 0 && dup2(says, STDOUT_FILENO) >= 0 && st_victim_become(s->dir, s->user))
            execve("/bin/dd", (char *const *)argv, (char *const *)env);
        _exit(ST_IO);
    }
    close(fds[0]);
    *feed = fds[1];
    return rc ? rc : st_victim_ready(v, s->a->cancel, e);
}

/* ---- ways to its memory ---- */

static bool attach(pid_t pid)
{
    return ptrace(PTRACE_ATTACH, pid, NULL, NULL) == 0 && waitpid(pid, NULL, 0) == pid;
}

/* In a process of its own, as the same user: pieces found, through a pipe. */
static int look(struct stage *s, enum way way, pid_t pid, size_t *found, struct st_err *e)
{
    struct st_victim attacker;
    struct st_scan_result r;
    int says;
    size_t n = 0;
    if (st_victim_fork(&attacker, &says, e))
        return e->code;
    if (attacker.pid == 0) {
        if (!st_victim_become(s->dir, s->user))
            _exit(ST_IO);
        bool ok = way != PTRACE || attach(pid);
        if (ok && st_scan_process(pid, &s->patterns, &r) == 0)
            for (size_t i = 0; i < s->patterns.n; i++)
                n += s->patterns.open[i] || s->patterns.apart[i];
        if (ok && way == PTRACE)
            ptrace(PTRACE_DETACH, pid, NULL, NULL);
        _exit(write(says, &n, sizeof n) == sizeof n ? 0 : ST_IO);
    }
    ssize_t got;
    while ((got = read(attacker.out, &n, sizeof n)) < 0 && errno == EINTR)
        ;
    st_victim_end(&attacker, SIGKILL);
    *found = n;
    return got == sizeof n ? 0 : st_fail(e, ST_IO, "an attacking process ended without a result");
}

/* Core files go where this says; those that lie elsewhere are somebody else's to read. */
static bool cores_lie_here(void)
{
    char pattern[128] = "|";
    FILE *f = fopen("/proc/sys/kernel/core_pattern", "re");
    if (f) {
        if (!fgets(pattern, sizeof pattern, f))
            *pattern = '|';
        fclose(f);
    }
    return *pattern != '|' && *pattern != '/';
}

/* The victim ends. Any file that was not there before is its core. */
static int abort_and_look(struct stage *s, struct st_victim *v, size_t *found, struct st_err *e)
{
    char path[ST_PATH_MAX];
    struct st_scan_result r;
    struct dirent *d;
    *found = 0;
    st_victim_end(v, SIGABRT);
    DIR *dir = opendir(s->dir);
    if (!dir)
        return st_fail(e, ST_IO, "%s: %s", s->dir, strerror(errno));
    while ((d = readdir(dir)) != NULL) {
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0 || strcmp(d->d_name, "m.sealed") == 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", s->dir, d->d_name);
        if (st_scan_file(path, &s->patterns, &r) == 0 && r.n_open > *found)
            *found = r.n_open;
        unlink(path);
    }
    closedir(dir);
    return 0;
}

/* Pieces that each way finds in one victim; SIZE_MAX: not tried. */
static int try_ways(struct stage *s, struct st_victim *v, size_t found[N_WAY], struct st_err *e)
{
    int rc = look(s, MEM, v->pid, &found[MEM], e);
    if (!rc)
        rc = look(s, PTRACE, v->pid, &found[PTRACE], e);
    if (!rc)
        rc = st_victim_alive(v, e);
    found[CORE] = SIZE_MAX;
    if (!rc && cores_lie_here())
        rc = abort_and_look(s, v, &found[CORE], e);
    return rc;
}

/* ---- the stage ---- */

/* As root: to the user that all processes become, who may pass through what lies above, and not look into it. */
static int give_to_user(const struct stage *s, struct st_err *e)
{
    if (!s->user)
        return 0;
    if (chown(s->dir, s->user, s->user) || chown(s->sealed, s->user, s->user) || fchown(s->word, s->user, s->user))
        return st_fail(e, ST_IO, "%s: %s", s->dir, strerror(errno));
    return chmod(s->a->dir, 0711) ? st_fail(e, ST_IO, "%s: %s", s->a->dir, strerror(errno)) : 0;
}

static int seal(struct stage *s, struct st_err *e)
{
    struct st_container_about about;
    st_container_about(s->a->target->container, &about);
    const char *policy = about.policy && strcmp(about.policy, "paper") == 0 ? "paper" : "all-inside";
    s->word = memfd_create("word", MFD_CLOEXEC);
    if (s->word < 0 || fchmod(s->word, 0600))
        return st_fail(e, ST_IO, "no file in memory: %s", strerror(errno));
    int rc = st_reseal(s->a->target->base->path, s->sealed, policy, st_pool_size(s->a->pool), s->word, e);
    return rc ? rc : give_to_user(s, e);
}

static int make_dir(struct stage *s, struct st_err *e)
{
    if (snprintf(s->dir, sizeof s->dir, "%s/memory-XXXXXX", s->a->dir) >= (int)sizeof s->dir || !mkdtemp(s->dir)) {
        *s->dir = 0;
        return st_fail(e, ST_IO, "%s: no directory can be made in it", s->a->dir);
    }
    snprintf(s->sealed, sizeof s->sealed, "%s/m.sealed", s->dir);
    return 0;
}

static void stage_free(struct stage *s)
{
    if (*s->dir) {
        unlink(s->sealed);
        rmdir(s->dir);
    }
    if (s->program >= 0)
        close(s->program);
    if (s->word >= 0)
        close(s->word);
    free(s);
}

/* A way that fails on a process which forbids nothing says nothing about ours. */
static bool counts(const size_t server[N_WAY], const size_t open[N_WAY], int way)
{
    return server[way] != SIZE_MAX && open[way] != SIZE_MAX && open[way] >= PIECES / 2;
}

static int add(const size_t server[N_WAY], const size_t open[N_WAY], struct st_rows *rows, struct st_err *e)
{
    size_t n_row = 0, n_left = 0;
    char left[100] = "";
    e->code = 0;
    for (int i = 0; i < N_WAY; i++)
        if (!counts(server, open, i))
            snprintf(left + strlen(left), sizeof left - strlen(left), "%s%s",
                     n_left++ ? ", " : " Not to be had here: ", names[i]);
    for (int i = 0; i < N_WAY && !e->code; i++) {
        struct st_row row = {.chance = 0};
        if (!counts(server, open, i))
            continue;
        st_row_share(&row, server[i], PIECES);
        row.unprotected = (double)open[i] / PIECES;
        snprintf(row.variant, sizeof row.variant, "%s", names[i]);
        snprintf(row.note, sizeof row.note, "As another process of the same, unprivileged user.%s%s", left,
                 n_left ? "." : "");
        n_row += !st_rows_add(rows, &row, e);
    }
    if (!n_row && !e->code)
        return st_fail(e, ST_UNSUPPORTED, "this system forbids the attacks to every process: they would say nothing");
    return e->code;
}

static int attack(struct stage *s, struct st_rows *rows, struct st_err *e)
{
    size_t found[2][N_WAY] = {{0}};
    struct st_victim v = {0};
    int feed = -1, rc = pick_pieces(s, e);
    if (!rc)
        rc = st_victim_user(&s->user, e);
    if (!rc)
        rc = make_dir(s, e);
    if (!rc)
        rc = seal(s, e);
    if (!rc)
        rc = start_open(s, &v, &feed, e);
    if (!rc)
        rc = try_ways(s, &v, found[0], e);
    st_victim_end(&v, SIGKILL);
    if (feed >= 0)
        close(feed);
    if (!rc)
        rc = start_server(s, &v, e);
    if (!rc)
        rc = try_ways(s, &v, found[1], e);
    st_victim_end(&v, SIGKILL);
    return rc ? rc : add(found[1], found[0], rows, e);
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    struct stage *s;
    if (!a->target->container || !a->target->base)
        return st_fail(e, ST_UNSUPPORTED, "needs a sealed model and its source");
    if (!a->program || !a->dir)
        return st_fail(e, ST_UNSUPPORTED,
                       "seals the source again and starts a process that opens it: in a demo, or where --attacks names "
                       "it");
    if (!a->thorough && a->target->base->matrix_bytes > LARGEST)
        return st_fail(e, ST_UNSUPPORTED, "a model of this size is sealed again with --thorough only");
    if (st_alloc(&s, 1, sizeof *s, "a scan", e))
        return e->code;
    s->a = a;
    s->word = -1;
    s->program = open(a->program, O_RDONLY | O_CLOEXEC);
    int rc = s->program >= 0 ? attack(s, rows, e) : st_fail(e, ST_IO, "%s: %s", a->program, strerror(errno));
    stage_free(s);
    return rc;
}

const struct st_attack st_atk_memory = {.name = "process-memory",
                                        .title = "Memory of the process that serves a sealed model",
                                        .metric = "share of 1,000 pieces of the weights found",
                                        .source = "ours",
                                        .adversary = ST_ADVERSARY_USER,
                                        .needs = ST_TARGET_SEALED,
                                        .run = run};
