/* What `sotto proxy` adds to a request: the same client asks an upstream that answers at once, directly and through the
 * proxy, in turns, over connections that stay open.
 *
 *     cmake --build build --target proxy_overhead && build/bin/proxy_overhead [SOTTO [FILE.csv]]
 *
 * ttft      from a chat request's body sent to the first token received; long: a prompt of 400 tokens
 * burst     480 tokens as fast as they go: the whole time over their number
 * paced     a token every millisecond: how much later each one arrives
 * cpu       the proxy's processor time per token of a burst
 * Added: proxied minus direct, medians. */
#include "base/hooks.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { TOKENS = 480, ROUNDS = 60, PACE_US = 1000, PACED_ROUNDS = 3 };

static atomic_int pace_us;
static double sent_at[TOKENS]; /* by the upstream, of the last request */

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int listen_any(int *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, len) || listen(fd, 64))
        die("listen");
    getsockname(fd, (struct sockaddr *)&a, &len);
    *port = ntohs(a.sin_port);
    return fd;
}

static int dial(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    a.sin_port = htons((uint16_t)port);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a))
        die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static void put(int fd, const char *p, size_t len)
{
    while (len) {
        ssize_t n = send(fd, p, len, MSG_NOSIGNAL);
        if (n <= 0)
            return;
        p += n;
        len -= (size_t)n;
    }
}

/* ---- the upstream ---- */

static void chunk(int fd, const char *text)
{
    char b[256];
    put(fd, b, (size_t)snprintf(b, sizeof b, "%zx\r\n%s\r\n", strlen(text), text));
}

static void answer(int fd, size_t n_tok)
{
    static const char head[] =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    double next = st_now();
    put(fd, head, sizeof head - 1);
    for (size_t i = 0; i < n_tok; i++) {
        if (pace_us) {
            next += pace_us * 1e-6;
            double left = next - st_now();
            if (left > 0)
                usleep((useconds_t)(left * 1e6));
        }
        sent_at[i] = st_now();
        chunk(fd, i + 1 < n_tok
                      ? "data: {\"choices\":[{\"index\":0,\"text\":\"\",\"token_ids\":[345],\"logprobs\":null,"
                        "\"finish_reason\":null}]}\n\n"
                      : "data: {\"choices\":[{\"index\":0,\"text\":\"\",\"token_ids\":[345],\"logprobs\":null,"
                        "\"finish_reason\":\"length\"}]}\n\n");
    }
    chunk(fd, "data: [DONE]\n\n");
    put(fd, "0\r\n\r\n", 5);
}

static void *serve(void *arg)
{
    static const char models[] = "{\"data\":[{\"id\":\"m\",\"owned_by\":\"vllm\",\"max_model_len\":512}]}";
    static _Thread_local char b[1 << 16];
    int fd = (int)(intptr_t)arg, one = 1;
    size_t len = 0;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    for (;;) {
        ssize_t n = recv(fd, b + len, sizeof b - 1 - len, 0);
        if (n <= 0)
            break;
        b[len += (size_t)n] = 0;
        const char *end = strstr(b, "\r\n\r\n"), *body = strcasestr(b, "\r\ncontent-length:");
        if (!end || (body && body < end && strlen(end + 4) < (size_t)atoi(body + 17)))
            continue;
        const char *want = strstr(end, "\"max_tokens\":");
        if (want)
            answer(fd, (size_t)atoi(want + 13));
        else {
            char head[256];
            put(fd, head,
                (size_t)snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n%s",
                                 sizeof models - 1, models));
        }
        len = 0;
    }
    close(fd);
    return NULL;
}

static void *accept_all(void *arg)
{
    for (;;) {
        pthread_t t;
        int fd = accept((int)(intptr_t)arg, NULL, NULL);
        if (fd >= 0 && pthread_create(&t, NULL, serve, (void *)(intptr_t)fd) == 0)
            pthread_detach(t);
    }
    return NULL;
}

/* ---- the client ---- */

struct timing {
    double ttft, whole;  /* seconds; whole: to the last token */
    double late[TOKENS]; /* arrival minus sending */
};

/* One request. token: what every token's event holds. */
static void ask(int fd, const char *body, const char *token, size_t n_tok, struct timing *t)
{
    static char b[1 << 21], head[256];
    size_t len = 0, at = 0, seen = 0;
    double start, first = 0, last = 0;
    put(fd, head,
        (size_t)snprintf(head, sizeof head,
                         "POST /v1/%s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                         "Content-Length: %zu\r\n\r\n",
                         strstr(body, "messages") ? "chat/completions" : "completions", strlen(body)));
    start = st_now();
    put(fd, body, strlen(body));
    while (!memmem(b + (len > 64 ? len - 64 : 0), len > 64 ? 64 : len, "\r\n0\r\n\r\n", 7)) {
        ssize_t n = recv(fd, b + len, sizeof b - 1 - len, 0);
        if (n <= 0)
            die("the reply ended");
        double now = st_now();
        len += (size_t)n;
        for (const char *p; (p = memmem(b + at, len - at, token, strlen(token))) != NULL; seen++) {
            if (!seen)
                first = now;
            last = now;
            t->late[seen] = now - sent_at[seen];
            at = (size_t)(p - b) + strlen(token);
        }
    }
    if (seen != n_tok) {
        fprintf(stderr, "%zu tokens of %zu:\n%.*s\n", seen, n_tok, 600, b);
        exit(1);
    }
    t->ttft = first - start;
    t->whole = last - start;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, size_t n)
{
    qsort(v, n, sizeof *v, by_value);
    return v[n / 2];
}

struct pair {
    int direct, proxied; /* sockets */
    char ids[8192], chat[8192];
};

/* A prompt of n words on both ways; ids: what the proxy would send, roughly. */
static void set_prompt(struct pair *p, size_t n_word, size_t n_tok)
{
    size_t at = (size_t)snprintf(p->ids, sizeof p->ids, "{\"prompt\":[7");
    for (size_t i = 0; i < n_word; i++)
        at += (size_t)snprintf(p->ids + at, sizeof p->ids - at, ",%zu", 300 + i);
    snprintf(p->ids + at, sizeof p->ids - at, "],\"max_tokens\":%zu,\"stream\":true}", n_tok);
    at = (size_t)snprintf(p->chat, sizeof p->chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"Once");
    for (size_t i = 0; i < n_word; i++)
        at += (size_t)snprintf(p->chat + at, sizeof p->chat - at, " %s", i % 2 ? "the" : "day");
    snprintf(p->chat + at, sizeof p->chat - at,
             "\"}],\"max_tokens\":%zu,\"stream\":true,\"temperature\":0,\"ignore_eos\":true}", n_tok);
}

static void round_trip(const struct pair *p, size_t n_tok, struct timing *direct, struct timing *proxied)
{
    ask(p->direct, p->ids, "\"token_ids\":[345]", n_tok, direct);
    ask(p->proxied, p->chat, "\"delta\":{\"content\":\"", n_tok, proxied);
}

static double cpu_of(pid_t pid)
{
    clockid_t clock;
    struct timespec t;
    if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &t))
        die("processor time");
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void report(FILE *csv, const char *name, double direct, double proxied, double target)
{
    double added = proxied - direct;
    const char *verdict = target <= 0 ? "" : added < target ? "  within" : "  MISSED";
    printf("%-10s direct %8.1f us   proxied %8.1f us   added %8.1f us%s\n", name, direct * 1e6, proxied * 1e6,
           added * 1e6, verdict);
    if (csv)
        fprintf(csv, "%s,%.2f,%.2f,%.2f,%.0f\n", name, direct * 1e6, proxied * 1e6, added * 1e6, target * 1e6);
}

static void measure_ttft(struct pair *p, size_t n_word, const char *name, FILE *csv)
{
    static struct timing a, b;
    double d[4 * ROUNDS], x[4 * ROUNDS];
    set_prompt(p, n_word, 1);
    for (int i = -5; i < 4 * ROUNDS; i++) {
        round_trip(p, 1, &a, &b);
        if (i >= 0) {
            d[i] = a.ttft;
            x[i] = b.ttft;
        }
    }
    report(csv, name, median(d, 4 * ROUNDS), median(x, 4 * ROUNDS), 1e-3);
}

static void measure_burst(struct pair *p, pid_t pid, FILE *csv)
{
    static struct timing a, b;
    double d[ROUNDS], x[ROUNDS], cpu = cpu_of(pid);
    set_prompt(p, 8, TOKENS);
    for (int i = 0; i < ROUNDS; i++) {
        round_trip(p, TOKENS, &a, &b);
        d[i] = a.whole / TOKENS;
        x[i] = b.whole / TOKENS;
    }
    cpu = (cpu_of(pid) - cpu) / (ROUNDS * TOKENS);
    report(csv, "burst", median(d, ROUNDS), median(x, ROUNDS), 20e-6);
    report(csv, "cpu", 0, cpu, 20e-6);
}

static void measure_paced(struct pair *p, FILE *csv)
{
    static struct timing a, b;
    static double d[PACED_ROUNDS * TOKENS], x[PACED_ROUNDS * TOKENS];
    pace_us = PACE_US;
    set_prompt(p, 8, TOKENS);
    for (int i = 0; i < PACED_ROUNDS; i++) {
        round_trip(p, TOKENS, &a, &b);
        memcpy(d + i * TOKENS, a.late, sizeof a.late);
        memcpy(x + i * TOKENS, b.late, sizeof b.late);
    }
    /* The first token carries the whole request. */
    report(csv, "paced", median(d, PACED_ROUNDS * TOKENS), median(x, PACED_ROUNDS * TOKENS), 0);
}

static pid_t start_proxy(const char *sotto, int upstream, int port)
{
    char key[64], up[64], own[16], cmd[256];
    snprintf(key, sizeof key, "/tmp/proxy_overhead.%d.key", (int)getpid());
    snprintf(up, sizeof up, "http://127.0.0.1:%d", upstream);
    snprintf(own, sizeof own, "%d", port);
    snprintf(cmd, sizeof cmd, "%s key new %s -q >/dev/null", sotto, key);
    if (system(cmd))
        die("sotto key new");
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execl(sotto, sotto, "proxy", "--config=", "-q", "--key", key, "--tokenizer", "models/demo", "--upstream", up,
              "--port", own, (char *)NULL);
        _exit(127);
    }
    for (int i = 0; i < 500; i++) { /* until it listens and has found the upstream */
        char cmdline[128];
        snprintf(cmdline, sizeof cmdline, "curl -sf -o /dev/null http://127.0.0.1:%d/health", port);
        if (system(cmdline) == 0) {
            unlink(key);
            return pid;
        }
        poll(NULL, 0, 20);
    }
    unlink(key);
    kill(pid, SIGKILL);
    fprintf(stderr, "the proxy did not start\n");
    exit(1);
}

int main(int argc, char **argv)
{
    static struct pair p;
    pthread_t t;
    int upstream, port;
    int fd = listen_any(&upstream), unused = listen_any(&port);
    close(unused);
    unsetenv("http_proxy");
    signal(SIGPIPE, SIG_IGN);
    pthread_create(&t, NULL, accept_all, (void *)(intptr_t)fd);
    pid_t pid = start_proxy(argc > 1 ? argv[1] : "build/bin/sotto", upstream, port);
    FILE *csv = argc > 2 ? fopen(argv[2], "w") : NULL;
    if (csv)
        fprintf(csv, "what,direct_us,proxied_us,added_us,target_us\n");
    p.direct = dial(upstream);
    p.proxied = dial(port);
    measure_ttft(&p, 8, "ttft", csv);
    measure_ttft(&p, 400, "ttft long", csv);
    measure_burst(&p, pid, csv);
    measure_paced(&p, csv);
    if (csv)
        fclose(csv);
    kill(pid, SIGTERM);
    waitpid(pid, NULL, 0);
    return 0;
}
