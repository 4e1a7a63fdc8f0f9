/* Shared memory between a client and a worker: the byte stream, its doorbells, and a peer that lies about everything
 * that it can write or pass. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/hooks.h"
#include "net/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define RING ST_SHM_MIN_RING

static void sockets(int fd[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
}

static void both_ends(struct st_shm **worker, struct st_shm **client)
{
    struct st_err e = {0};
    int fd[2];
    sockets(fd);
    assert_int_equal(st_shm_offer(fd[0], RING, worker, &e), 0);
    assert_int_equal(st_shm_take(fd[1], st_now() + 5, client, &e), 0);
}

/* A client's end whose memory and socket are in our hands: the worker's end is played by the test. */
struct fake {
    int fd;
    uint8_t *map;
};

static int sealed(size_t len, int seals)
{
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)len), 0);
    if (seals)
        assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
    return fd;
}

/* Sends bytes with n descriptors; closes those. */
static void pass(int to, const void *bytes, size_t len, const int *fds, int n)
{
    union {
        struct cmsghdr align;
        char p[CMSG_SPACE(4 * sizeof(int))];
    } control = {0};
    struct iovec v = {.iov_base = (void *)(uintptr_t)bytes, .iov_len = len};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
    if (n) {
        m.msg_control = control.p;
        m.msg_controllen = CMSG_SPACE((size_t)n * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN((size_t)n * sizeof(int));
        memcpy(CMSG_DATA(c), fds, (size_t)n * sizeof(int));
    }
    assert_int_equal(sendmsg(to, &m, MSG_NOSIGNAL), len);
    for (int i = 0; i < n; i++)
        close(fds[i]);
}

struct said {
    uint8_t magic[8];
    uint32_t version, ring;
};
static struct said truth(void)
{
    return (struct said){.magic = "STSHMEM", .version = 1, .ring = RING};
}

static struct st_shm *fake_worker(struct fake *f)
{
    struct st_err e = {0};
    struct st_shm *s;
    struct said o = truth();
    int fd[2], memory = sealed(4096 + 2 * RING, F_SEAL_SHRINK | F_SEAL_GROW);
    sockets(fd);
    f->fd = fd[0];
    f->map = mmap(NULL, 4096 + 2 * RING, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    assert_true(f->map != MAP_FAILED);
    pass(fd[0], &o, sizeof o, &memory, 1);
    assert_int_equal(st_shm_take(fd[1], st_now() + 5, &s, &e), 0);
    return s;
}

static void fake_free(struct fake *f)
{
    munmap(f->map, 4096 + 2 * RING);
    close(f->fd);
}

/* Counters stand in the first page, 64 bytes apart: up head, up tail, down head, down tail. */
enum { UP_HEAD, UP_TAIL, DOWN_HEAD, DOWN_TAIL };
static void set(struct fake *f, int which, uint64_t value)
{
    __atomic_store_n((uint64_t *)(void *)(f->map + 64 * which), value, __ATOMIC_SEQ_CST);
}

static void fill(uint8_t *p, size_t n, uint32_t seed)
{
    struct st_rng r;
    st_rng_seed(&r, seed);
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)st_rng_next(&r);
}

static void *echo(void *arg)
{
    struct st_shm *s = arg;
    struct st_err e = {0};
    static uint8_t piece[100000];
    double deadline = st_now() + 20;
    for (;;) {
        size_t n, done = 0, put;
        if (st_shm_wait(s, true, false, deadline, &e) || st_shm_read(s, piece, sizeof piece, &n, &e))
            break;
        if (n == 0 && st_shm_gone(s))
            break;
        for (; done < n; done += put)
            if (st_shm_write(s, piece + done, n - done, &put, &e) ||
                (done + put < n && st_shm_wait(s, false, true, deadline, &e)))
                return NULL;
    }
    return NULL;
}

static void bytes_come_back_as_they_were_sent(void **state)
{
    (void)state;
    struct st_err e = {0};
    struct st_shm *worker, *client;
    pthread_t t;
    both_ends(&worker, &client);
    assert_int_equal(pthread_create(&t, NULL, echo, worker), 0);
    size_t len = 3 << 20, up = 0, down = 0, n;
    uint8_t *sent = malloc(len), *got = malloc(len);
    fill(sent, len, 1);
    double deadline = st_now() + 20;
    while (down < len) {
        assert_int_equal(st_shm_wait(client, true, up < len, deadline, &e), 0);
        size_t some = len - up < 70001 ? len - up : 70001;
        assert_int_equal(st_shm_write(client, sent + up, some, &n, &e), 0);
        up += n;
        assert_int_equal(st_shm_read(client, got + down, len - down, &n, &e), 0);
        down += n;
    }
    assert_memory_equal(sent, got, len);
    st_shm_close(client);
    pthread_join(t, NULL);
    assert_true(st_shm_gone(worker));
    st_shm_close(worker);
    free(sent);
    free(got);
}

static void a_thousand_small_messages_lose_no_doorbell(void **state)
{
    (void)state;
    struct st_err e = {0};
    struct st_shm *worker, *client;
    pthread_t t;
    both_ends(&worker, &client);
    assert_int_equal(pthread_create(&t, NULL, echo, worker), 0);
    for (uint32_t i = 0; i < 1000; i++) {
        uint32_t back = 0;
        size_t n, got = 0;
        if (i % 100 == 0) /* the other end sleeps for sure */
            usleep(2000);
        assert_int_equal(st_shm_write(client, &i, sizeof i, &n, &e), 0);
        assert_int_equal(n, sizeof i);
        while (got < sizeof back) {
            assert_int_equal(st_shm_wait(client, true, false, st_now() + 10, &e), 0);
            assert_int_equal(st_shm_read(client, (uint8_t *)&back + got, sizeof back - got, &n, &e), 0);
            got += n;
        }
        assert_int_equal(back, i);
    }
    st_shm_close(client);
    pthread_join(t, NULL);
    st_shm_close(worker);
}

static void a_full_ring_takes_no_more_until_it_is_read(void **state)
{
    (void)state;
    struct st_err e = {0};
    struct st_shm *worker, *client;
    static uint8_t block[RING + 100];
    size_t n;
    both_ends(&worker, &client);
    assert_int_equal(st_shm_write(client, block, sizeof block, &n, &e), 0);
    assert_int_equal(n, RING);
    assert_int_equal(st_shm_wait(client, false, true, st_now() + 0.05, &e), ST_IO);
    assert_string_equal(e.msg, "timed out");
    assert_int_equal(st_shm_read(worker, block, 10, &n, &e), 0);
    assert_int_equal(n, 10);
    assert_int_equal(st_shm_wait(client, false, true, st_now() + 5, &e), 0);
    assert_int_equal(st_shm_write(client, block, 100, &n, &e), 0);
    assert_int_equal(n, 10);
    st_shm_close(client);
    st_shm_close(worker);
}

static void what_was_written_before_the_end_can_be_read(void **state)
{
    (void)state;
    struct st_err e = {0};
    struct st_shm *worker, *client;
    char text[8] = {0};
    size_t n;
    both_ends(&worker, &client);
    assert_int_equal(st_shm_write(worker, "last", 4, &n, &e), 0);
    st_shm_close(worker);
    assert_int_equal(st_shm_wait(client, true, false, st_now() + 5, &e), 0);
    assert_int_equal(st_shm_read(client, text, sizeof text, &n, &e), 0);
    assert_int_equal(n, 4);
    assert_string_equal(text, "last");
    assert_int_equal(st_shm_wait(client, true, false, st_now() + 5, &e), 0);
    assert_true(st_shm_gone(client));
    st_shm_close(client);
}

static void a_killed_peer_wakes_the_sleeper(void **state)
{
    (void)state;
    struct st_err e = {0};
    struct st_shm *client;
    int fd[2];
    sockets(fd);
    pid_t pid = fork();
    if (pid == 0) {
        struct st_shm *worker;
        close(fd[1]);
        if (st_shm_offer(fd[0], RING, &worker, &e))
            _exit(1);
        for (;;)
            pause();
    }
    close(fd[0]);
    assert_int_equal(st_shm_take(fd[1], st_now() + 5, &client, &e), 0);
    assert_int_equal(st_shm_wait(client, true, false, st_now() + 0.05, &e), ST_IO);
    kill(pid, SIGKILL);
    assert_int_equal(st_shm_wait(client, true, false, st_now() + 5, &e), 0);
    assert_true(st_shm_gone(client));
    st_shm_close(client);
    waitpid(pid, NULL, 0);
}

static void counters_out_of_bounds_end_the_stream(void **state)
{
    (void)state;
    static const struct {
        int which;
        uint64_t first, then; /* set one after the other; the second one is wrong */
        bool writing;
    } lies[] = {
        {DOWN_HEAD, 0, RING + 1, false},       /* more than the ring holds */
        {DOWN_HEAD, 0, UINT64_MAX, false},     /* before the start */
        {DOWN_HEAD, 100, 99, false},           /* goes back behind what was read */
        {DOWN_HEAD, RING, RING - 1, false},    /* takes back what was there */
        {DOWN_HEAD, 0, 1ull << 63, false},     /* far away */
        {UP_TAIL, 0, 1, true},                 /* takes what was not written */
        {UP_TAIL, 0, UINT64_MAX - RING, true}, /* more room than the ring has */
        {UP_TAIL, 0, UINT64_MAX - 1 - RING, true},
    };
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        struct st_err e = {0};
        struct fake f;
        uint8_t p[200];
        size_t n;
        struct st_shm *s = fake_worker(&f);
        set(&f, lies[i].which, lies[i].first);
        assert_int_equal(st_shm_read(s, p, 100, &n, &e), 0);
        assert_true(n <= 100);
        set(&f, lies[i].which, lies[i].then);
        assert_true(st_shm_arm(s, !lies[i].writing, lies[i].writing));
        for (int twice = 0; twice < 2; twice++) {
            int rc = lies[i].writing ? st_shm_write(s, p, 100, &n, &e) : st_shm_read(s, p, 100, &n, &e);
            assert_int_equal(rc, ST_INPUT);
            assert_int_equal(n, 0);
            set(&f, lies[i].which, lies[i].first); /* no way back */
        }
        st_shm_close(s);
        fake_free(&f);
    }
}

static void a_written_counter_may_not_return(void **state)
{
    (void)state;
    struct st_err e = {0};
    struct fake f;
    static uint8_t p[RING];
    size_t n;
    struct st_shm *s = fake_worker(&f);
    assert_int_equal(st_shm_write(s, p, 1000, &n, &e), 0);
    set(&f, UP_TAIL, 1000);
    assert_int_equal(st_shm_write(s, p, 1000, &n, &e), 0);
    set(&f, UP_TAIL, 999);
    assert_int_equal(st_shm_write(s, p, 1, &n, &e), ST_INPUT);
    st_shm_close(s);
    fake_free(&f);
}

/* The peer writes at random into the whole page of counters while this end works. */
static void a_scribbling_peer_causes_an_error_and_no_fault(void **state)
{
    (void)state;
    struct st_rng r;
    st_rng_seed(&r, 7);
    for (int round = 0; round < 300; round++) {
        struct st_err e = {0};
        struct fake f;
        static uint8_t p[2 * RING];
        size_t n;
        struct st_shm *s = fake_worker(&f);
        for (int i = 0; i < 8; i++) {
            uint64_t v = st_rng_next(&r) >> (st_rng_next(&r) % 64);
            set(&f, (int)(st_rng_next(&r) % 8), v);
            if (st_shm_read(s, p, st_rng_next(&r) % sizeof p, &n, &e) ||
                st_shm_write(s, p, st_rng_next(&r) % sizeof p, &n, &e))
                assert_int_equal(e.code, ST_INPUT);
            assert_true(n <= RING);
            st_shm_arm(s, true, true);
        }
        st_shm_close(s);
        fake_free(&f);
    }
}

static void *ring_bells(void *arg)
{
    struct fake *f = arg;
    while (send(f->fd, "bells", 5, MSG_NOSIGNAL) > 0)
        usleep(100);
    return NULL;
}

static void doorbells_without_bytes_do_not_put_the_deadline_off(void **state)
{
    (void)state;
    struct st_err e = {0};
    struct fake f;
    pthread_t t;
    struct st_shm *s = fake_worker(&f);
    assert_int_equal(pthread_create(&t, NULL, ring_bells, &f), 0);
    double start = st_now();
    assert_int_equal(st_shm_wait(s, true, false, start + 0.2, &e), ST_IO);
    assert_true(st_now() - start < 2);
    st_shm_close(s);
    pthread_join(t, NULL);
    fake_free(&f);
}

static int n_open(void)
{
    int n = 0;
    for (int i = 0; i < 256; i++)
        n += fcntl(i, F_GETFD) >= 0;
    return n;
}

static void wrong_offers_are_refused_and_leave_nothing_open(void **state)
{
    (void)state;
    const int good = F_SEAL_SHRINK | F_SEAL_GROW;
    static const size_t len = 4096 + 2 * RING;
    struct {
        const char *what;
        struct said o;
        size_t say;
        int n_fd;
        size_t len;
        int seals, code;
    } cases[] = {
        {"no memory", truth(), 16, 0, len, good, ST_INPUT},
        {"two memories", truth(), 16, 2, len, good, ST_INPUT},
        {"four memories", truth(), 16, 4, len, good, ST_INPUT},
        {"not sealed", truth(), 16, 1, len, 0, ST_INPUT},
        {"may shrink", truth(), 16, 1, len, F_SEAL_GROW, ST_INPUT},
        {"too short", truth(), 16, 1, len - 1, good, ST_INPUT},
        {"empty", truth(), 16, 1, 0, good, ST_INPUT},
        {"too long", truth(), 16, 1, len + 4096, good, ST_INPUT},
        {"half an offer", truth(), 9, 1, len, good, ST_INPUT},
        {"another magic", truth(), 16, 1, len, good, ST_INPUT},
        {"another version", truth(), 16, 1, len, good, ST_UNSUPPORTED},
        {"ring of 0", truth(), 16, 1, len, good, ST_INPUT},
        {"ring of no power of two", truth(), 16, 1, len, good, ST_INPUT},
        {"ring too large", truth(), 16, 1, len, good, ST_INPUT},
    };
    cases[9].o.magic[0] = 'X';
    cases[10].o.version = 2;
    cases[11].o.ring = 0;
    cases[12].o.ring = RING + 1;
    cases[13].o.ring = 1u << 31;
    int before = n_open();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct st_err e = {0};
        struct st_shm *s;
        int fd[2], memories[4];
        sockets(fd);
        for (int k = 0; k < cases[i].n_fd; k++)
            memories[k] = sealed(cases[i].len, cases[i].seals);
        pass(fd[0], &cases[i].o, cases[i].say, memories, cases[i].n_fd);
        int rc = st_shm_take(fd[1], st_now() + 5, &s, &e);
        if (rc != cases[i].code)
            fail_msg("%s: %d %s", cases[i].what, rc, e.msg);
        close(fd[0]);
        assert_int_equal(n_open(), before);
    }
}

static void a_file_is_no_shared_memory(void **state)
{
    (void)state;
    struct st_err e = {0};
    struct said o = truth();
    struct st_shm *s;
    char path[] = "/tmp/test_shm_XXXXXX";
    int fd[2], file = mkstemp(path), pipes[2];
    sockets(fd);
    assert_int_equal(ftruncate(file, 4096 + 2 * RING), 0);
    unlink(path);
    pass(fd[0], &o, sizeof o, &file, 1);
    assert_int_equal(st_shm_take(fd[1], st_now() + 5, &s, &e), ST_INPUT);
    close(fd[0]);
    sockets(fd);
    assert_int_equal(pipe(pipes), 0);
    close(pipes[1]);
    pass(fd[0], &o, sizeof o, pipes, 1);
    assert_int_equal(st_shm_take(fd[1], st_now() + 5, &s, &e), ST_INPUT);
    close(fd[0]);
}

static void a_silent_worker_is_waited_for_until_the_deadline(void **state)
{
    (void)state;
    struct st_err e = {0};
    struct st_shm *s;
    int fd[2];
    sockets(fd);
    double start = st_now();
    assert_int_equal(st_shm_take(fd[1], start + 0.1, &s, &e), ST_IO);
    assert_true(st_now() - start < 2);
    close(fd[0]);
    sockets(fd);
    close(fd[0]);
    assert_int_equal(st_shm_take(fd[1], st_now() + 5, &s, &e), ST_IO);
}

int main(void)
{
    signal(SIGPIPE, SIG_DFL); /* no call here may raise it */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_come_back_as_they_were_sent),
        cmocka_unit_test(a_thousand_small_messages_lose_no_doorbell),
        cmocka_unit_test(a_full_ring_takes_no_more_until_it_is_read),
        cmocka_unit_test(what_was_written_before_the_end_can_be_read),
        cmocka_unit_test(a_killed_peer_wakes_the_sleeper),
        cmocka_unit_test(counters_out_of_bounds_end_the_stream),
        cmocka_unit_test(a_written_counter_may_not_return),
        cmocka_unit_test(a_scribbling_peer_causes_an_error_and_no_fault),
        cmocka_unit_test(doorbells_without_bytes_do_not_put_the_deadline_off),
        cmocka_unit_test(wrong_offers_are_refused_and_leave_nothing_open),
        cmocka_unit_test(a_file_is_no_shared_memory),
        cmocka_unit_test(a_silent_worker_is_waited_for_until_the_deadline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
