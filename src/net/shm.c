#include "net/shm.h"

#include "base/buf.h"
#include "base/hooks.h"
#include "net/wait.h"

#include <errno.h>
#include <fcntl.h>
#include <immintrin.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Published after so many bytes of a long copy, so that the peer can begin with them. */
#define PIECE (128u << 10)
/* A reply of a small product comes within this time; a longer spin would take the core from who makes pads. */
#define SPIN_S 20e-6
#define CONTROL 4096
#define ALIGNED _Alignas(64)

enum { SLEEPS_READ = 1, SLEEPS_WRITE = 2 };

/* The first page of the memory. Counters are bytes since the start; each has one writer. */
struct ring {
    ALIGNED _Atomic uint64_t head; /* by who writes into the ring */
    ALIGNED _Atomic uint64_t tail; /* by who reads from it */
};
struct control {
    struct ring up, down;
    ALIGNED _Atomic uint32_t worker_sleeps;
    ALIGNED _Atomic uint32_t client_sleeps;
};
_Static_assert(sizeof(struct control) <= CONTROL, "control page");

/* What goes over the socket with the memory. */
struct offer {
    uint8_t magic[8];
    uint32_t version, ring;
};
static const uint8_t magic[8] = "STSHMEM";
#define VERSION 1u

struct lane {
    _Atomic uint64_t *mine, *theirs;
    uint8_t *data;
    uint64_t at;   /* our counter; what stands in memory is a copy for the peer */
    uint64_t seen; /* the peer's at the last look: it may only go up from there */
};

struct st_shm {
    int fd;
    bool gone, broken;
    void *map;
    size_t map_len;
    uint32_t ring;
    _Atomic uint32_t *we_sleep, *peer_sleeps;
    struct lane in, out;
};

static bool ring_fits(uint32_t ring)
{
    return ring >= ST_SHM_MIN_RING && ring <= ST_SHM_MAX_RING && (ring & (ring - 1)) == 0;
}

static size_t length(uint32_t ring)
{
    return CONTROL + 2 * (size_t)ring;
}

/* Maps memory and takes it to pieces; closes it. */
static int attach(struct st_shm *s, int memory, uint32_t ring, bool worker, struct st_err *e)
{
    s->ring = ring;
    s->map_len = length(ring);
    void *map = mmap(NULL, s->map_len, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    int err = errno;
    close(memory);
    if (map == MAP_FAILED)
        return st_fail(e, ST_MEMORY, "shared memory of %zu bytes: %s", s->map_len, strerror(err));
    s->map = map;
    struct control *c = map;
    uint8_t *up = (uint8_t *)map + CONTROL, *down = up + ring;
    if (worker) {
        s->in = (struct lane){.mine = &c->up.tail, .theirs = &c->up.head, .data = up};
        s->out = (struct lane){.mine = &c->down.head, .theirs = &c->down.tail, .data = down};
        s->we_sleep = &c->worker_sleeps;
        s->peer_sleeps = &c->client_sleeps;
    } else {
        s->in = (struct lane){.mine = &c->down.tail, .theirs = &c->down.head, .data = down};
        s->out = (struct lane){.mine = &c->up.head, .theirs = &c->up.tail, .data = up};
        s->we_sleep = &c->client_sleeps;
        s->peer_sleeps = &c->worker_sleeps;
    }
    return 0;
}

static int open_end(int fd, struct st_shm **out, struct st_err *e)
{
    *out = NULL;
    if (st_alloc(out, 1, sizeof **out, "shared memory", e)) {
        close(fd);
        return e->code;
    }
    (*out)->fd = fd;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return st_fail(e, ST_IO, "shared memory: %s", strerror(errno));
    return 0;
}

static int make(uint32_t ring, int *memory, struct st_err *e)
{
    int fd = memfd_create("sotto", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0 || ftruncate(fd, (off_t)length(ring)) != 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        int err = errno;
        if (fd >= 0)
            close(fd);
        return st_fail(e, ST_MEMORY, "shared memory of %zu bytes: %s", length(ring), strerror(err));
    }
    *memory = fd;
    return 0;
}

union passed {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int))];
};

static int send_offer(int fd, int memory, uint32_t ring, struct st_err *e)
{
    struct offer o = {.version = VERSION, .ring = ring};
    union passed control = {0};
    memcpy(o.magic, magic, sizeof magic);
    struct iovec v = {.iov_base = &o, .iov_len = sizeof o};
    struct msghdr m = {
        .msg_iov = &v, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof memory);
    memcpy(CMSG_DATA(c), &memory, sizeof memory);
    ssize_t n = sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n != (ssize_t)sizeof o)
        return st_fail(e, ST_IO, "shared memory: cannot offer it: %s", n < 0 ? strerror(errno) : "short message");
    return 0;
}

int st_shm_offer(int fd, uint32_t ring, struct st_shm **out, struct st_err *e)
{
    struct st_shm *s;
    int memory = -1;
    if (ring == 0)
        ring = ST_SHM_RING;
    if (open_end(fd, &s, e))
        goto fail;
    if (!ring_fits(ring)) {
        st_fail(e, ST_USAGE, "shared memory: ring of %u bytes, want a power of two from %u to %u", ring,
                ST_SHM_MIN_RING, ST_SHM_MAX_RING);
        goto fail;
    }
    if (make(ring, &memory, e))
        goto fail;
    if (send_offer(fd, memory, ring, e)) {
        close(memory);
        goto fail;
    }
    if (attach(s, memory, ring, true, e))
        goto fail;
    *out = s;
    return 0;
fail:
    st_shm_close(s);
    return e->code;
}

/* The memory must be what cannot fault later: sealed, of the length that was said, and of the ordinary kind (a hole
 * punched into huge pages could not be filled again). */
static int check_memory(int memory, uint32_t ring, struct st_err *e)
{
    struct stat st;
    struct statfs fs;
    int want = F_SEAL_SHRINK | F_SEAL_GROW;
    int seals = fcntl(memory, F_GET_SEALS);
    if (seals < 0 || (seals & want) != want)
        return st_fail(e, ST_INPUT, "shared memory: want it sealed against shrinking and growing");
    if (fstatfs(memory, &fs) != 0 || (unsigned long)fs.f_type != TMPFS_MAGIC)
        return st_fail(e, ST_INPUT, "shared memory: want ordinary memory");
    if (fstat(memory, &st) != 0 || !S_ISREG(st.st_mode) || st.st_size < 0 || (uint64_t)st.st_size != length(ring))
        return st_fail(e, ST_INPUT, "shared memory: %lld bytes, want %zu", (long long)st.st_size, length(ring));
    return 0;
}

/* The one descriptor that came with a message, or -1; what came beside it is closed. */
static int passed_fd(struct msghdr *m)
{
    int fd, n = 0, first = -1;
    struct cmsghdr *c = CMSG_FIRSTHDR(m);
    if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
        return -1;
    for (size_t at = CMSG_LEN(0); at + sizeof fd <= c->cmsg_len; at += sizeof fd) {
        memcpy(&fd, (uint8_t *)c + at, sizeof fd);
        if (n++ == 0)
            first = fd;
        else
            close(fd);
    }
    if (n > 1)
        close(first);
    return n == 1 ? first : -1;
}

static int receive_offer(int fd, struct offer *o, int *memory, struct st_err *e)
{
    union passed control = {0};
    struct iovec v = {.iov_base = o, .iov_len = sizeof *o};
    struct msghdr m = {
        .msg_iov = &v, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n == 0)
        return st_fail(e, ST_IO, "shared memory: closed before it was offered");
    if (n < 0)
        return st_fail(e, ST_IO, "shared memory: %s", strerror(errno));
    *memory = passed_fd(&m);
    if (n != (ssize_t)sizeof *o || (m.msg_flags & MSG_CTRUNC) || *memory < 0 ||
        memcmp(o->magic, magic, sizeof magic) != 0)
        return st_fail(e, ST_INPUT, "shared memory: what listens there offers none");
    if (o->version != VERSION)
        return st_fail(e, ST_UNSUPPORTED, "shared memory: version %u; this side has %u", o->version, VERSION);
    if (!ring_fits(o->ring))
        return st_fail(e, ST_INPUT, "shared memory: ring of %u bytes, want a power of two from %u to %u", o->ring,
                       ST_SHM_MIN_RING, ST_SHM_MAX_RING);
    return 0;
}

int st_shm_take(int fd, double deadline, struct st_shm **out, struct st_err *e)
{
    struct st_shm *s;
    struct offer o = {0};
    int memory = -1;
    if (open_end(fd, &s, e))
        goto fail;
    if (st_net_wait(fd, POLLIN, deadline, e))
        goto fail;
    if (receive_offer(fd, &o, &memory, e) || check_memory(memory, o.ring, e)) {
        if (memory >= 0)
            close(memory);
        goto fail;
    }
    if (attach(s, memory, o.ring, false, e))
        goto fail;
    *out = s;
    return 0;
fail:
    st_shm_close(s);
    return e->code;
}

void st_shm_close(struct st_shm *s)
{
    if (!s)
        return;
    if (s->map)
        munmap(s->map, s->map_len);
    close(s->fd);
    free(s);
}

int st_shm_fd(const struct st_shm *s)
{
    return s->fd;
}

bool st_shm_gone(const struct st_shm *s)
{
    return s->gone;
}

void st_shm_wake(struct st_shm *s)
{
    char bells[64];
    ssize_t n = recv(s->fd, bells, sizeof bells, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        s->gone = true;
}

/* Bytes that can be read, or room to write. A counter of the peer that is out of bounds ends the stream for good. */
static size_t available(struct st_shm *s)
{
    uint64_t now = atomic_load_explicit(s->in.theirs, memory_order_acquire);
    uint64_t n = now - s->in.at;
    if (n > s->ring || n < s->in.seen - s->in.at)
        s->broken = true;
    if (s->broken)
        return 0;
    s->in.seen = now;
    return (size_t)n;
}

static size_t room(struct st_shm *s)
{
    uint64_t now = atomic_load_explicit(s->out.theirs, memory_order_acquire);
    uint64_t used = s->out.at - now;
    if (used > s->out.at - s->out.seen)
        s->broken = true;
    if (s->broken)
        return 0;
    s->out.seen = now;
    return s->ring - (size_t)used;
}

/* After our counter moved: the fence pairs with the one of st_shm_arm(), so that either the peer sees the counter or we
 * see that it sleeps. A full socket means that doorbells wait there already. */
static void publish(struct st_shm *s, struct lane *l, uint32_t whom)
{
    atomic_store_explicit(l->mine, l->at, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);
    if (!(atomic_load_explicit(s->peer_sleeps, memory_order_relaxed) & whom))
        return;
    atomic_store_explicit(s->peer_sleeps, 0, memory_order_relaxed);
    if (send(s->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN && errno != EINTR)
        s->gone = true;
}

static int broken(struct st_err *e)
{
    return st_fail(e, ST_INPUT, "shared memory: counters of the other side are out of bounds");
}

int st_shm_read(struct st_shm *s, void *p, size_t len, size_t *n, struct st_err *e)
{
    *n = 0;
    while (*n < len) {
        size_t can = available(s), at = (size_t)(s->in.at & (s->ring - 1));
        if (s->broken)
            return broken(e);
        if (can > len - *n)
            can = len - *n;
        if (can > PIECE)
            can = PIECE;
        if (can > s->ring - at)
            can = s->ring - at;
        if (can == 0)
            break;
        memcpy((uint8_t *)p + *n, s->in.data + at, can);
        s->in.at += can;
        *n += can;
        publish(s, &s->in, SLEEPS_WRITE);
    }
    return 0;
}

int st_shm_write(struct st_shm *s, const void *p, size_t len, size_t *n, struct st_err *e)
{
    *n = 0;
    while (*n < len) {
        size_t can = room(s), at = (size_t)(s->out.at & (s->ring - 1));
        if (s->broken)
            return broken(e);
        if (can > len - *n)
            can = len - *n;
        if (can > PIECE)
            can = PIECE;
        if (can > s->ring - at)
            can = s->ring - at;
        if (can == 0)
            break;
        memcpy(s->out.data + at, (const uint8_t *)p + *n, can);
        s->out.at += can;
        *n += can;
        publish(s, &s->out, SLEEPS_READ);
    }
    return 0;
}

static bool ready(struct st_shm *s, bool reading, bool writing)
{
    bool yes = (reading && available(s) > 0) || (writing && room(s) > 0);
    return yes || s->gone || s->broken;
}

bool st_shm_arm(struct st_shm *s, bool reading, bool writing)
{
    uint32_t bits = (reading ? SLEEPS_READ : 0) | (writing ? SLEEPS_WRITE : 0);
    atomic_store_explicit(s->we_sleep, bits, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
    if (!ready(s, reading, writing))
        return false;
    atomic_store_explicit(s->we_sleep, 0, memory_order_relaxed);
    return true;
}

int st_shm_wait(struct st_shm *s, bool reading, bool writing, double deadline, struct st_err *e)
{
    for (double until = st_now() + SPIN_S;;) {
        if (ready(s, reading, writing))
            return 0;
        if (st_now() >= until)
            break;
        _mm_pause();
    }
    while (!st_shm_arm(s, reading, writing)) {
        /* Doorbells without anything behind them do not put the deadline off. */
        if (st_net_wait(s->fd, POLLIN, deadline, e))
            return e->code;
        if (st_now() >= deadline)
            return st_fail(e, ST_IO, "timed out");
        st_shm_wake(s);
    }
    return 0;
}
