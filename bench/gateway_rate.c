/* What a request costs a gateway: `build/bin/gateway_rate [PROGRAM]` starts `sotto gateway` (PROGRAM, or beside this
 * one) among the made-up node, issuer and log of tests/gateway_world.h, sends sealed and paid requests over 64
 * connections, and reads the processor time of the gateway's process: requests per second and core are requests by that
 * time, all threads together. Then the same with change of seven tokens each, then 2,000 open streams, then a chunk of
 * a long reply. Prints one JSON object. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The made world speaks cmocka; here a failure ends the program. */
#define fail_msg(...) (fprintf(stderr, __VA_ARGS__), fputc('\n', stderr), exit(1))
#define assert_true(x) ((x) ? (void)0 : (void)fail_msg("%s:%d: %s", __FILE__, __LINE__, #x))
#define assert_non_null(x) assert_true((x) != NULL)
#define assert_int_equal(a, b) assert_true((a) == (b))
#define assert_string_equal(a, b) assert_true(strcmp((a), (b)) == 0)
#define assert_ok(rc, e) ((rc) ? (void)fail_msg("%s", (e)->msg) : (void)0)
#define print_message printf

#include "../tests/gateway_world.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

#define CONNECTIONS 64
#define STREAMS 2000

/* ---- the gateway's process ---- */

struct program {
    pid_t pid;
    int port;
    clockid_t clock;
};

static struct program start_gateway(const char *program, const char *price, const char *unit, const char *spent)
{
    struct program p;
    int out[2];
    char line[512] = "", node[128];
    const char *at;
    snprintf(node, sizeof node, "%s/n0", st_role_url(world.role));
    assert_int_equal(pipe(out), 0);
    p.pid = fork();
    if (p.pid == 0) {
        dup2(out[1], 1);
        execl(program, "sotto", "gateway", "--name", "eu1", "--node", node, "--policy", world.policy, "--log",
              st_role_url(world.role), "--log-key-file", world.log_key, "--issuer", st_role_url(world.role),
              "--issuer-key-file", world.issuer_key, "--price-request", price, "--unit-bytes", unit, "--spent", spent,
              "--port", "0", "--json", "--refresh", "30", "--quiet", (char *)NULL);
        _exit(127);
    }
    close(out[1]);
    assert_true(read(out[0], line, sizeof line - 1) > 0);
    close(out[0]);
    at = strstr(line, "\"port\":");
    assert_non_null(at);
    p.port = atoi(at + 7);
    assert_int_equal(clock_getcpuclockid(p.pid, &p.clock), 0);
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%d/health", p.port);
    for (int i = 0; i < 1000; i++) {
        struct st_buf b = {0};
        long status = http(url, NULL, NULL, &b);
        st_buf_free(&b);
        if (status == 200)
            return p;
        usleep(20 * 1000);
    }
    fail_msg("the gateway did not come up");
    return p;
}

static double cpu(const struct program *p)
{
    struct timespec t;
    assert_int_equal(clock_gettime(p->clock, &t), 0);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static long resident(const struct program *p)
{
    char path[64], line[128];
    long kib = 0;
    snprintf(path, sizeof path, "/proc/%d/status", (int)p->pid);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "VmRSS:", 6) == 0)
            kib = atol(line + 6);
    if (f)
        fclose(f);
    return kib;
}

static void stop_gateway(const struct program *p)
{
    int status;
    kill(p->pid, SIGTERM);
    waitpid(p->pid, &status, 0);
}

/* ---- requests ---- */

struct request {
    struct st_buf bytes; /* HTTP */
};

static void make_request(uint32_t units, bool change, struct request *out)
{
    static const uint8_t body[3000] = {7, 0, 32, 0, 1, 0, 1};
    struct st_token t;
    struct sealed s;
    new_token(today(), units, &t);
    seal(&(struct question){"POST", node_path(0, ""), &t, change, {body, sizeof body}, NULL, 0}, &s);
    st_buf_addf(&out->bytes,
                "POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: message/ohttp-chunked-req\r\nContent-Length: %zu"
                "\r\n\r\n",
                s.body.len);
    st_buf_add(&out->bytes, s.body.p, s.body.len);
    sealed_wipe(&s);
}

struct client {
    int fd;
    size_t sent;
    const struct request *r;
    char tail[8];
    size_t got;
    bool begun;
};

static void connect_client(struct client *c, int port, int ep, unsigned index)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(c->fd, (struct sockaddr *)&a, sizeof a), 0);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event ev = {.events = EPOLLIN, .data.u32 = index};
    assert_int_equal(epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &ev), 0);
}

static void put(struct client *c, const struct request *r)
{
    c->r = r;
    c->got = 0;
    c->begun = false;
    for (c->sent = 0; c->sent < r->bytes.len;) {
        ssize_t n = send(c->fd, r->bytes.p + c->sent, r->bytes.len - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            continue;
        assert_true(n > 0);
        c->sent += (size_t)n;
    }
}

/* True when the reply has ended, as a streamed one does. */
static bool took(struct client *c)
{
    char b[65536];
    ssize_t n;
    while ((n = recv(c->fd, b, sizeof b, 0)) > 0) {
        if (!c->begun && (n < 12 || memcmp(b, "HTTP/1.1 200", 12) != 0 || !memmem(b, (size_t)n, "chunked", 7)))
            fail_msg("not the reply of a node: %.12s", b);
        c->begun = true;
        size_t keep = (size_t)n < 7 ? (size_t)n : 7;
        memmove(c->tail, c->tail + keep, 7 - keep);
        memcpy(c->tail + 7 - keep, b + n - keep, keep);
        c->got += (size_t)n;
    }
    assert_true(n < 0 && errno == EAGAIN);
    return memcmp(c->tail, "\r\n0\r\n\r\n", 7) == 0;
}

/* Sends all n; returns the seconds it took. */
static double run_all(const struct program *p, const struct request *r, size_t n, unsigned width)
{
    struct client *c = calloc(width, sizeof *c);
    struct epoll_event ev[256];
    int ep = epoll_create1(EPOLL_CLOEXEC);
    size_t next = 0, done = 0;
    for (unsigned i = 0; i < width; i++)
        connect_client(&c[i], p->port, ep, i);
    double start = st_now();
    for (unsigned i = 0; i < width && next < n; i++)
        put(&c[i], &r[next++]);
    while (done < n) {
        int k = epoll_wait(ep, ev, 256, 10000);
        assert_true(k > 0);
        for (int i = 0; i < k; i++) {
            struct client *x = &c[ev[i].data.u32];
            if (!took(x))
                continue;
            memset(x->tail, 0, sizeof x->tail);
            done++;
            if (next < n)
                put(x, &r[next++]);
        }
    }
    double took_s = st_now() - start;
    for (unsigned i = 0; i < width; i++)
        close(c[i].fd);
    close(ep);
    free(c);
    return took_s;
}

static struct request *make_all(size_t n, uint32_t units, bool change)
{
    struct request *r = calloc(n, sizeof *r);
    for (size_t i = 0; i < n; i++)
        make_request(units, change, &r[i]);
    return r;
}

static void free_all(struct request *r, size_t n)
{
    for (size_t i = 0; i < n; i++)
        st_buf_free(&r[i].bytes);
    free(r);
}

struct figure {
    double wall, cpu;
};

static struct figure measure(const struct program *p, size_t n, uint32_t units, bool change)
{
    struct request *r = make_all(n, units, change);
    double before = cpu(p);
    struct figure f = {run_all(p, r, n, CONNECTIONS), 0};
    f.cpu = cpu(p) - before;
    free_all(r, n);
    return f;
}

/* Processor time of taking up one HPKE message, as a measure of the machine and of what else runs on it. */
static double agreement_us(void)
{
    struct st_hpke_key *k;
    struct st_hpke h;
    struct st_err e;
    const struct st_hpke_suite suite = {ST_HPKE_KEM_X25519, ST_HPKE_KDF_SHA256, ST_AEAD_AES_128_GCM};
    uint8_t enc[ST_HPKE_PUBLIC_MAX];
    struct timespec a, b;
    enum { N = 2000 };
    assert_ok(st_hpke_key_new(ST_HPKE_KEM_X25519, &k, &e), &e);
    assert_ok(st_hpke_send(&h, suite, st_hpke_key_public(k), 32, "", 0, enc, &e), &e);
    st_hpke_wipe(&h);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
    for (int i = 0; i < N; i++) {
        assert_ok(st_hpke_receive(&h, suite, k, enc, 32, "", 0, &e), &e);
        st_hpke_wipe(&h);
    }
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
    st_hpke_key_free(k);
    return ((double)(b.tv_sec - a.tv_sec) * 1e6 + (double)(b.tv_nsec - a.tv_nsec) / 1e3) / N;
}

/* 2,000 requests wait at the node together; then all are answered. */
static long open_streams(const struct program *p, double *seconds)
{
    struct request *r = make_all(STREAMS, 1, false);
    struct client *c = calloc(STREAMS, sizeof *c);
    int ep = epoll_create1(EPOLL_CLOEXEC);
    long before = resident(p);
    world.mode[0] = NODE_WAITS;
    world.n_asked[0] = 0;
    for (unsigned i = 0; i < STREAMS; i++) {
        connect_client(&c[i], p->port, ep, i);
        put(&c[i], &r[i]);
    }
    while (world.n_asked[0] < STREAMS)
        usleep(1000);
    long during = resident(p);
    double start = st_now();
    world.mode[0] = NODE_ANSWERS;
    struct epoll_event ev[256];
    for (size_t done = 0; done < STREAMS;) {
        int k = epoll_wait(ep, ev, 256, 10000);
        assert_true(k > 0);
        for (int i = 0; i < k; i++)
            done += took(&c[ev[i].data.u32]);
    }
    *seconds = st_now() - start;
    for (unsigned i = 0; i < STREAMS; i++)
        close(c[i].fd);
    close(ep);
    free(c);
    free_all(r, STREAMS);
    return during - before;
}

int main(int argc, char **argv)
{
    char beside[512], spent[128];
    const char *program = argc > 1 ? argv[1] : beside;
    const char *slash = strrchr(argv[0], '/');
    snprintf(beside, sizeof beside, "%.*ssotto", slash ? (int)(slash + 1 - argv[0]) : 0, argv[0]);
    struct rlimit rl;
    getrlimit(RLIMIT_NOFILE, &rl);
    rl.rlim_cur = rl.rlim_max;
    setrlimit(RLIMIT_NOFILE, &rl);
    curl_global_init(CURL_GLOBAL_DEFAULT);
    world_open();
    snprintf(spent, sizeof spent, "%s/spent.db", world.files.path);

    struct program p = start_gateway(program, "0", "1G", spent);
    measure(&p, 200, 1, false);
    const size_t n = 4000, n_change = 300, n_long = 200, chunks = 400;
    struct figure plain = measure(&p, n, 1, false), change = measure(&p, n_change, 8, true);
    world.n_chunks = (int)chunks;
    struct figure longer = measure(&p, n_long, 1, false);
    world.n_chunks = 3;
    double agreement = agreement_us(), answered;
    long kib = open_streams(&p, &answered);
    stop_gateway(&p);
    double per = plain.cpu / (double)n;
    printf("{\"requests_per_s_core\":%.0f,\"cpu_us_per_request\":%.1f,\"requests_per_s\":%.0f,"
           "\"cpu_us_per_request_with_change\":%.1f,\"cpu_us_per_chunk\":%.2f,\"streams\":%d,"
           "\"kib_per_stream\":%.1f,\"streams_answered_s\":%.2f,\"hpke_open_us\":%.1f}\n",
           1 / per, per * 1e6, (double)n / plain.wall, change.cpu / (double)n_change * 1e6,
           (longer.cpu / (double)n_long - per) / (double)(chunks - 3) * 1e6, STREAMS, (double)kib / STREAMS, answered,
           agreement);
    world_close();
    return 0;
}
