/* The pool of pads: single use above all. The scheme here gives the bytes of its stream as pads, so that a pad that
 * comes twice, or a seed that does, is seen as equal bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/hooks.h"
#include "base/locked.h"
#include "protect/masked/pads.h"

#include <dirent.h>
#include <linux/netlink.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define KEY 16 /* bytes of a pad that stand for it: two pads share them with probability 2^-128 */

struct double_scheme {
    const struct st_mask_group *groups;
    atomic_int n_make;
    atomic_int fail;  /* this many calls fail */
    atomic_bool hold; /* make waits while it is set */
};

static int make(void *s, int group, uint32_t n, struct st_stream *random, uint32_t *pads, struct st_err *e)
{
    struct double_scheme *d = s;
    const struct st_mask_group *g = &d->groups[group];
    while (atomic_load(&d->hold))
        usleep(200);
    atomic_fetch_add(&d->n_make, 1);
    st_stream_bytes(random, pads, (size_t)n * (g->d + g->n) * sizeof *pads);
    if (atomic_load(&d->fail) > 0) {
        atomic_fetch_sub(&d->fail, 1);
        return st_fail(e, ST_MEMORY, "model.layers.0.q_proj.weight: no room for a secret");
    }
    return 0;
}

static const struct st_scheme scheme = {.name = "double", .make = make};
static const struct st_mask_group groups[] = {{.d = 8, .n = 24}, {.d = 8, .n = 8}, {.d = 40, .n = 9}};
enum { N_GROUP = 3, WORDS = 32 + 16 + 49 };

static struct st_pads_opts options(struct double_scheme *d)
{
    *d = (struct double_scheme){.groups = groups};
    return (struct st_pads_opts){.scheme = &scheme,
                                 .state = d,
                                 .groups = groups,
                                 .n_group = N_GROUP,
                                 .memory = 64 * WORDS * sizeof(uint32_t),
                                 .batch = 8,
                                 .max_row = 20,
                                 .wait_s = 20};
}

static struct st_pads *start(const struct st_pads_opts *o)
{
    struct st_pads *p = NULL;
    struct st_err e = {0};
    if (st_pads_new(o, &p, &e))
        fail_msg("%s", e.msg);
    return p;
}

static void take(struct st_pads *p, int group, uint32_t n, uint32_t **out)
{
    struct st_err e = {0};
    if (st_pads_take(p, group, n, out, &e))
        fail_msg("%s", e.msg);
}

static struct st_pads_stats stats(struct st_pads *p)
{
    struct st_pads_stats st;
    st_pads_stats(p, &st);
    return st;
}

static void wait_until_full(struct st_pads *p)
{
    struct st_pads_stats st = stats(p);
    for (double end = st_now() + 20; st.ready < st.capacity && st_now() < end; st = stats(p))
        usleep(500);
    assert_int_equal(st.ready, st.capacity);
}

static bool is_zero(const uint32_t *p, size_t n)
{
    uint32_t any = 0;
    for (size_t i = 0; i < n; i++)
        any |= p[i];
    return any == 0;
}

/* Keys of pads that were seen. */
struct seen {
    uint8_t (*keys)[KEY];
    size_t n, cap;
};

static void see(struct seen *s, const uint32_t *pad)
{
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 4096;
        s->keys = realloc(s->keys, s->cap * KEY);
        assert_non_null(s->keys);
    }
    memcpy(s->keys[s->n++], pad, KEY);
}

static int compare(const void *a, const void *b)
{
    return memcmp(a, b, KEY);
}

static size_t repeated(struct seen *s)
{
    size_t n = 0;
    qsort(s->keys, s->n, KEY, compare);
    for (size_t i = 1; i < s->n; i++)
        n += memcmp(s->keys[i - 1], s->keys[i], KEY) == 0;
    return n;
}

static void no_pad_is_handed_out_twice(void **state)
{
    (void)state;
    enum { ROUNDS = 3000 };
    struct double_scheme d;
    struct st_pads_opts o = options(&d);
    struct st_pads *p = start(&o);
    struct seen seen = {0};
    struct st_rng rng;
    uint32_t *pads[20];
    st_rng_seed(&rng, 1);
    for (int i = 0; i < ROUNDS; i++) {
        int g = (int)(st_rng_next(&rng) % N_GROUP);
        uint32_t n = 1 + (uint32_t)(st_rng_next(&rng) % 20);
        take(p, g, n, pads);
        for (uint32_t k = 0; k < n; k++) {
            assert_false(is_zero(pads[k], groups[g].d + groups[g].n));
            see(&seen, pads[k]);
        }
        st_pads_done(p, g, n, pads, 0);
        assert_null(pads[0]);
        if (i % 500 == 250)
            st_pads_discard(p);
    }
    struct st_pads_stats st = stats(p);
    assert_int_equal(st.taken, seen.n);
    assert_int_equal(st.wiped, seen.n);
    assert_true(st.made >= st.taken + st.discarded);
    assert_true(st.discarded > 0);
    assert_int_equal(repeated(&seen), 0);
    free(seen.keys);
    st_pads_free(p);
}

struct taker {
    struct st_pads *p;
    struct seen seen;
    uint64_t seed;
};

static void *take_many(void *arg)
{
    struct taker *t = arg;
    struct st_rng rng;
    uint32_t *held[2][6];
    struct st_err e = {0};
    st_rng_seed(&rng, t->seed);
    for (int i = 0; i < 800; i++) {
        uint32_t n[2];
        for (int k = 0; k < 2; k++) { /* two exchanges at once */
            n[k] = 1 + (uint32_t)(st_rng_next(&rng) % 6);
            if (st_pads_take(t->p, k, n[k], held[k], &e))
                abort();
            for (uint32_t r = 0; r < n[k]; r++)
                see(&t->seen, held[k][r]);
        }
        for (int k = 1; k >= 0; k--)
            st_pads_done(t->p, k, n[k], held[k], 0);
        if (t->seed == 1 && i % 100 == 99)
            st_pads_discard(t->p);
    }
    return NULL;
}

static void several_takers_and_makers_never_share_a_pad(void **state)
{
    (void)state;
    enum { N = 4 };
    struct double_scheme d;
    struct st_pads_opts o = options(&d);
    struct taker takers[N] = {0};
    struct seen all = {0};
    pthread_t ids[N];
    o.n_threads = 3;
    o.max_row = 30;
    struct st_pads *p = start(&o);
    for (int i = 0; i < N; i++) {
        takers[i] = (struct taker){.p = p, .seed = (uint64_t)i + 1};
        assert_int_equal(pthread_create(&ids[i], NULL, take_many, &takers[i]), 0);
    }
    for (int i = 0; i < N; i++) {
        assert_int_equal(pthread_join(ids[i], NULL), 0);
        for (size_t k = 0; k < takers[i].seen.n; k++)
            see(&all, (const uint32_t *)takers[i].seen.keys[k]);
        free(takers[i].seen.keys);
    }
    struct st_pads_stats st = stats(p);
    assert_int_equal(st.taken, all.n);
    assert_int_equal(st.wiped, all.n);
    assert_int_equal(repeated(&all), 0);
    free(all.keys);
    st_pads_free(p);
}

static void a_pad_is_wiped_once_it_was_used(void **state)
{
    (void)state;
    struct double_scheme d;
    struct st_pads_opts o = options(&d);
    struct st_pads *p = start(&o);
    uint32_t *pads[8], *where[8];
    wait_until_full(p);
    atomic_store(&d.hold, true);
    take(p, 2, 8, pads);
    memcpy(where, pads, sizeof where);
    st_pads_done(p, 2, 7, pads, 0);
    for (int i = 0; i < 7; i++)
        assert_true(is_zero(where[i], 49));
    assert_false(is_zero(where[7], 49));
    assert_int_equal(stats(p).taken - stats(p).wiped, 1);
    memset(pads[7], 0, 30 * sizeof **pads); /* by whoever used it */
    st_pads_done(p, 2, 1, pads + 7, 30);
    assert_true(is_zero(where[7], 49));
    atomic_store(&d.hold, false);
    st_pads_free(p);
}

static void all_groups_are_filled_evenly_and_making_pauses_when_they_are_full(void **state)
{
    (void)state;
    struct double_scheme d;
    struct st_pads_opts o = options(&d);
    struct st_pads *p = start(&o);
    struct st_pads_stats st = stats(p);
    assert_int_equal(st.capacity, 64 * N_GROUP);
    assert_true(st.bytes >= 64 * WORDS * sizeof(uint32_t));
    wait_until_full(p);
    assert_int_equal(atomic_load(&d.n_make), 8 * N_GROUP);
    usleep(20000);
    assert_int_equal(atomic_load(&d.n_make), 8 * N_GROUP);
    assert_int_equal(stats(p).made, 64 * N_GROUP);
    /* A group is made again a batch at a time, not a pad. */
    uint32_t *pads[8];
    take(p, 0, 7, pads);
    st_pads_done(p, 0, 7, pads, 0);
    usleep(20000);
    assert_int_equal(stats(p).ready, 64 * N_GROUP - 7);
    take(p, 0, 1, pads);
    st_pads_done(p, 0, 1, pads, 0);
    wait_until_full(p);
    assert_int_equal(atomic_load(&d.n_make), 8 * N_GROUP + 1);
    st_pads_free(p);
}

static void a_dry_pool_waits_and_counts_it_then_gives_up(void **state)
{
    (void)state;
    struct double_scheme d;
    struct st_pads_opts o = options(&d);
    struct st_err e = {0};
    uint32_t *pads[20];
    o.wait_s = 0.05;
    atomic_store(&d.hold, true);
    struct st_pads *p = start(&o);
    assert_int_equal(st_pads_take(p, 1, 20, pads, &e), ST_IO);
    assert_non_null(strstr(e.msg, "20 were not ready within"));
    struct st_pads_stats st = stats(p);
    assert_int_equal(st.n_wait, 1);
    assert_true(st.wait_s >= 0.05);
    assert_int_equal(st.taken, 0);
    atomic_store(&d.hold, false);
    wait_until_full(p);
    take(p, 1, 20, pads);
    st_pads_done(p, 1, 20, pads, 0);
    assert_int_equal(stats(p).n_wait, 1);
    /* More than it can ever hold, or of a group that is not there. */
    assert_int_equal(st_pads_take(p, 1, 65, pads, &e), ST_INTERNAL);
    assert_int_equal(st_pads_take(p, N_GROUP, 1, pads, &e), ST_INTERNAL);
    assert_int_equal(st_pads_take(p, -1, 1, pads, &e), ST_INTERNAL);
    st_pads_free(p);
}

static void an_error_of_the_scheme_reaches_the_taker_and_the_next_one_is_served(void **state)
{
    (void)state;
    struct double_scheme d;
    struct st_pads_opts o = options(&d);
    struct st_err e = {0};
    uint32_t *pads[4];
    o.n_group = 1;
    atomic_store(&d.fail, 1);
    struct st_pads *p = start(&o);
    assert_int_equal(st_pads_take(p, 0, 4, pads, &e), ST_MEMORY);
    assert_string_equal(e.msg, "model.layers.0.q_proj.weight: no room for a secret");
    take(p, 0, 4, pads);
    assert_false(is_zero(pads[0], 32));
    st_pads_done(p, 0, 4, pads, 0);
    st_pads_free(p);
}

static void a_pool_holds_what_one_exchange_may_take_or_says_how_much_that_is(void **state)
{
    (void)state;
    struct double_scheme d;
    struct st_pads_opts o = options(&d);
    struct st_pads *p;
    struct st_err e = {0};
    uint32_t *pads[64], *one;
    o.max_row = 65;
    assert_int_equal(st_pads_new(&o, &p, &e), ST_MEMORY);
    assert_null(p);
    assert_non_null(strstr(e.msg, "65 of every exchange need"));
    assert_non_null(strstr(e.msg, "KiB"));
    /* As many as there is room for: also when one of a batch is gone, all the rows of the next exchange come. */
    for (o.max_row = 1; o.max_row <= 64; o.max_row += 7) {
        p = start(&o);
        take(p, 2, 1, &one);
        st_pads_done(p, 2, 1, &one, 0);
        take(p, 2, o.max_row, pads);
        st_pads_done(p, 2, o.max_row, pads, 0);
        st_pads_free(p);
    }
}

static void a_forked_child_gets_no_pad(void **state)
{
    (void)state;
    struct double_scheme d;
    struct st_pads_opts o = options(&d);
    struct st_pads *p = start(&o);
    uint32_t *pads[2];
    int status;
    wait_until_full(p);
    take(p, 0, 1, pads);
    pid_t child = fork();
    if (child == 0) {
        struct st_err e = {0};
        bool ok = is_zero(pads[0], 32); /* what the parent holds is not here either */
        ok = ok && st_pads_take(p, 0, 1, pads + 1, &e) == ST_INTERNAL && strstr(e.msg, "fork");
        ok = ok && stats(p).ready == 0;
        st_pads_discard(p);
        st_pads_done(p, 0, 1, pads, 0);
        st_pads_free(p);
        _exit(ok ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_false(is_zero(pads[0], 32));
    st_pads_done(p, 0, 1, pads, 0);
    take(p, 0, 1, pads);
    st_pads_done(p, 0, 1, pads, 0);
    st_pads_free(p);
}

/* A run of the program: as many pads as fit into the pipe. */
static void run_once(struct seen *seen)
{
    enum { N = 64 };
    int ends[2], status;
    uint32_t *pads[N];
    uint8_t key[KEY];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        struct double_scheme d;
        struct st_pads_opts o = options(&d);
        struct st_pads *p = start(&o);
        struct st_err e = {0};
        if (st_pads_take(p, 0, N, pads, &e))
            _exit(1);
        for (int i = 0; i < N; i++)
            if (write(ends[1], pads[i], KEY) != KEY)
                _exit(1);
        kill(getpid(), SIGKILL);
    }
    close(ends[1]);
    while (read(ends[0], key, KEY) == KEY)
        see(seen, (const uint32_t *)key);
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
}

static void a_program_that_crashed_starts_with_fresh_pads(void **state)
{
    (void)state;
    struct seen seen = {0};
    for (int i = 0; i < 4; i++)
        run_once(&seen);
    assert_int_equal(seen.n, 4 * 64);
    assert_int_equal(repeated(&seen), 0);
    free(seen.keys);
}

static unsigned long long io_count(const char *field)
{
    char line[128], name[32];
    unsigned long long n = 0;
    FILE *f = fopen("/proc/self/io", "r");
    if (!f)
        return 0;
    while (fgets(line, sizeof line, f))
        if (sscanf(line, "%31[^:]: %llu", name, &n) == 2 && strcmp(name, field) == 0)
            break;
    fclose(f);
    return n;
}

/* Descriptors that are open for writing, and shared maps that are. */
static int n_writable(void)
{
    char line[512], path[300];
    int n = 0;
    const struct dirent *entry;
    DIR *dir = opendir("/proc/self/fdinfo");
    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL) {
        unsigned flags = 0;
        snprintf(path, sizeof path, "/proc/self/fdinfo/%s", entry->d_name);
        FILE *f = entry->d_name[0] == '.' ? NULL : fopen(path, "r");
        while (f && fgets(line, sizeof line, f))
            if (sscanf(line, "flags: %o", &flags) == 1)
                n += (flags & 3) != 0 ? 1 : 0;
        if (f)
            fclose(f);
    }
    closedir(dir);
    FILE *maps = fopen("/proc/self/maps", "r");
    assert_non_null(maps);
    while (fgets(line, sizeof line, maps)) {
        const char *mode = strchr(line, ' ');
        n += mode && mode[2] == 'w' && mode[4] == 's';
    }
    fclose(maps);
    return n;
}

static void nothing_is_written_to_any_file(void **state)
{
    (void)state;
    struct double_scheme d;
    struct st_pads_opts o = options(&d);
    uint32_t *pads[20];
    /* The watch of the kernel's uevents is a socket, opened for both directions like every socket. */
    struct st_vmgen kernel;
    st_vmgen_open(&kernel);
    o.vmgen = &kernel;
    int writable = n_writable();
    unsigned long long calls = io_count("syscw"), bytes = io_count("wchar");
    struct st_pads *p = start(&o);
    for (int i = 0; i < 300; i++) {
        take(p, i % N_GROUP, 20, pads);
        st_pads_done(p, i % N_GROUP, 20, pads, 0);
    }
    assert_int_equal(n_writable(), writable);
    st_pads_discard(p);
    st_pads_free(p);
    assert_int_equal(io_count("syscw"), calls);
    assert_int_equal(io_count("wchar"), bytes);
    st_vmgen_close(&kernel);
}

/* A source of the kernel's messages. */
struct messages {
    const char *next;
    size_t len;
    bool from_kernel, lost;
};

static ssize_t read_message(void *ctx, void *buf, size_t cap, bool *from_kernel)
{
    struct messages *m = ctx;
    size_t n = m->len;
    if (m->lost) {
        m->lost = false;
        return -1;
    }
    if (!n)
        return 0;
    assert_true(n <= cap);
    memcpy(buf, m->next, n);
    *from_kernel = m->from_kernel;
    m->len = 0;
    return (ssize_t)n;
}

static const char uevent[] = "change@/devices/platform/VMGENCTR:00\0ACTION=change\0NEW_VMGENID=1\0SEQNUM=1234";
static const char reseeded[] = "5,1234,567890,-;random: crng reseeded due to virtual machine fork\n";

static void a_new_generation_is_recognised(void **state)
{
    (void)state;
    static const char other[] = "change@/devices/x\0ACTION=change\0OLD_NEW_VMGENID=1\0SEQNUM=1";
    static const char synthetic[] = "change@/devices/x\0ACTION=change\0SYNTH_ARG_NEW_VMGENID=1\0";
    static const char talk[] = "6,1,2,-;usb: crng reseeded due to virtual machine fork\n";
    struct messages m = {0};
    struct st_vmgen_source s = {read_message, &m};
    struct st_vmgen v;
    st_vmgen_open_source(&v, &s);
    assert_false(st_vmgen_changed(&v));
    const struct {
        const char *p;
        size_t len;
        bool from_kernel, lost, want;
    } cases[] = {
        {uevent, sizeof uevent, true, false, true},
        {uevent, sizeof uevent, false, false, false},
        {reseeded, sizeof reseeded - 1, true, false, true},
        {reseeded, sizeof reseeded - 1, false, false, false},
        {other, sizeof other, true, false, false},
        {synthetic, sizeof synthetic, true, false, false},
        {talk, sizeof talk - 1, true, false, false},
        {"NEW_VMGENID=", 12, true, false, true},
        {"NEW_VMGENID", 11, true, false, false},
        {"\0\0\0", 3, true, false, false},
        {NULL, 0, false, true, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        m = (struct messages){cases[i].p, cases[i].len, cases[i].from_kernel, cases[i].lost};
        assert_int_equal(st_vmgen_changed(&v), cases[i].want);
        assert_false(st_vmgen_changed(&v));
    }
    st_vmgen_close(&v);
}

static void a_new_generation_discards_every_pad(void **state)
{
    (void)state;
    struct double_scheme d;
    struct st_pads_opts o = options(&d);
    struct messages m = {0};
    struct st_vmgen_source s = {read_message, &m};
    struct st_vmgen v;
    struct seen seen = {0};
    uint32_t *pads[8];
    st_vmgen_open_source(&v, &s);
    o.vmgen = &v;
    struct st_pads *p = start(&o);
    wait_until_full(p);
    take(p, 0, 8, pads);
    /* The rest of that group lies behind the pad: what a second machine from the same snapshot would hold too. */
    for (int i = 1; i < 7; i++)
        for (int k = 0; k < 8; k++)
            see(&seen, pads[0] + 32 * (8 * i + k));
    st_pads_done(p, 0, 8, pads, 0);
    wait_until_full(p);
    m = (struct messages){uevent, sizeof uevent, true, false};
    take(p, 0, 8, pads);
    for (int i = 0; i < 8; i++)
        see(&seen, pads[i]);
    st_pads_done(p, 0, 8, pads, 0);
    struct st_pads_stats st = stats(p);
    assert_int_equal(st.n_generation, 1);
    assert_int_equal(st.discarded, 64 * N_GROUP);
    assert_string_equal(st.generation, "watched");
    assert_int_equal(repeated(&seen), 0);
    free(seen.keys);
    st_pads_free(p);
}

static void pads_begun_before_a_discard_are_not_handed_out(void **state)
{
    (void)state;
    struct double_scheme d;
    struct st_pads_opts o = options(&d);
    uint32_t *pads[8];
    o.n_group = 1;
    atomic_store(&d.hold, true);
    struct st_pads *p = start(&o);
    usleep(10000); /* the maker has its seed */
    st_pads_discard(p);
    atomic_store(&d.hold, false);
    take(p, 0, 8, pads);
    st_pads_done(p, 0, 8, pads, 0);
    wait_until_full(p);
    struct st_pads_stats st = stats(p);
    assert_int_equal(st.made, st.taken + st.discarded + st.ready);
    assert_true(st.discarded == 8 || st.discarded == 0); /* 0: the maker had not begun */
    st_pads_free(p);
}

static void messages_of_programs_are_not_the_kernels(void **state)
{
    (void)state;
    struct st_vmgen v;
    struct sockaddr_nl to = {.nl_family = AF_NETLINK, .nl_groups = 1};
    st_vmgen_open(&v);
    assert_non_null(st_vmgen_describe(&v));
    (void)st_vmgen_changed(&v);
    int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT);
    assert_true(fd >= 0);
    /* Only root may; for others there is nothing to test. */
    if (sendto(fd, uevent, sizeof uevent, 0, (struct sockaddr *)&to, sizeof to) == sizeof uevent)
        assert_false(st_vmgen_changed(&v));
    close(fd);
    st_vmgen_close(&v);
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* In a child that may lock nothing: its exit status is 0 when the area is made, else the code. */
static int area_without_right(const char *swaps, bool allow_unlocked, char *message)
{
    int status, *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(shared, MAP_FAILED);
    pid_t child = fork();
    if (child == 0) {
        struct st_err e = {0};
        struct st_locked a;
        struct st_locked_opts o = {.what = "pads", .swaps = swaps, .allow_unlocked = allow_unlocked};
        setrlimit(RLIMIT_MEMLOCK, &(struct rlimit){4096, 4096});
        if (geteuid() == 0 && (setgid(65534) || setuid(65534)))
            _exit(99);
        int rc = st_locked_new(&a, 1 << 20, &o, &e);
        strcpy((char *)shared, e.msg);
        if (!rc && (a.locked || st_locked_all()))
            rc = 98;
        if (rc && rc != 98 && !st_locked_all())
            rc = 97;
        if (!rc)
            a.p[(1 << 20) - 1] = 1;
        st_locked_free(&a);
        _exit(rc);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    strcpy(message, (char *)shared);
    munmap(shared, 4096);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void memory_that_cannot_be_locked_is_refused_where_the_system_swaps(void **state)
{
    (void)state;
    static const char headings[] = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
    char with[] = "/tmp/sotto-swaps-XXXXXX", text[sizeof headings + 64], message[512];
    int fd = mkstemp(with);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(chmod(with, 0644), 0);
    snprintf(text, sizeof text, "%s/dev/zram0 partition\t8388604\t0\t100\n", headings);
    write_file(with, text);
    assert_int_equal(area_without_right(with, false, message), ST_POLICY);
    assert_non_null(strstr(message, "1.0 MiB"));
    assert_non_null(strstr(message, "4.0 KiB"));
    assert_non_null(strstr(message, "--allow-unlocked"));
    assert_int_equal(area_without_right(with, true, message), 0);
    write_file(with, headings);
    assert_int_equal(area_without_right(with, false, message), 0);
    /* A table that says nothing hides nothing for us. */
    write_file(with, "");
    assert_int_equal(area_without_right(with, false, message), ST_POLICY);
    unlink(with);
    assert_int_equal(area_without_right(with, false, message), ST_POLICY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_pad_is_handed_out_twice),
        cmocka_unit_test(several_takers_and_makers_never_share_a_pad),
        cmocka_unit_test(a_pad_is_wiped_once_it_was_used),
        cmocka_unit_test(all_groups_are_filled_evenly_and_making_pauses_when_they_are_full),
        cmocka_unit_test(a_dry_pool_waits_and_counts_it_then_gives_up),
        cmocka_unit_test(an_error_of_the_scheme_reaches_the_taker_and_the_next_one_is_served),
        cmocka_unit_test(a_pool_holds_what_one_exchange_may_take_or_says_how_much_that_is),
        cmocka_unit_test(a_forked_child_gets_no_pad),
        cmocka_unit_test(a_program_that_crashed_starts_with_fresh_pads),
        cmocka_unit_test(nothing_is_written_to_any_file),
        cmocka_unit_test(a_new_generation_is_recognised),
        cmocka_unit_test(a_new_generation_discards_every_pad),
        cmocka_unit_test(pads_begun_before_a_discard_are_not_handed_out),
        cmocka_unit_test(messages_of_programs_are_not_the_kernels),
        cmocka_unit_test(memory_that_cannot_be_locked_is_refused_where_the_system_swaps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
