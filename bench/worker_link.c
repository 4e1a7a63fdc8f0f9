/* What an exchange with a worker costs beyond its products, per transport: one row of the 0.5B shape's four exchanges
 * of a layer, time from submit to complete less what the worker says it computed. The worker is a child process with
 * one thread for the device, here a device that computes nothing, so that the rest stands alone. Usage: worker_link
 * [seconds per row]. Prints CSV. */
#include "base/hooks.h"
#include "service/worker.h"
#include "service/worker_client.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define N_WEIGHT 7
static const struct {
    const char *name;
    uint32_t n_out, n_in;
} shapes[N_WEIGHT] = {{"q", 896, 896},     {"k", 128, 896},   {"v", 128, 896},    {"o", 896, 896},
                      {"gate", 4864, 896}, {"up", 4864, 896}, {"down", 896, 4864}};
static const struct {
    const char *name;
    int first, n;
} groups[] = {{"qkv", 0, 3}, {"o", 3, 1}, {"gate_up", 4, 2}, {"down", 6, 1}};

static const uint8_t digest[32] = {1};

static void die(const char *what)
{
    fprintf(stderr, "worker_link: %s\n", what);
    exit(1);
}

static int nothing(void *b, const uint32_t *rows, uint32_t n_row, const struct st_backend_job *jobs, int n_job,
                   struct st_err *e)
{
    (void)b;
    (void)rows;
    (void)e;
    for (int j = 0; j < n_job; j++)
        memset(jobs[j].out, 0, (size_t)n_row * shapes[jobs[j].weight].n_out * 4);
    return 0;
}

static void tell(void *arg, const char *text)
{
    dprintf(*(int *)arg, "%s\n", text);
}

/* The worker; addresses come through the pipe. */
static pid_t start(const char *const *listen, int n, int *from)
{
    int fds[2];
    if (pipe(fds) != 0)
        die("no pipe");
    pid_t pid = fork();
    if (pid != 0) {
        close(fds[1]);
        *from = fds[0];
        return pid;
    }
    static struct st_served_weight weights[N_WEIGHT];
    static const struct st_backend device = {.name = "none", .multiply = nothing};
    for (int i = 0; i < N_WEIGHT; i++) {
        snprintf(weights[i].name, sizeof weights[i].name, "%s", shapes[i].name);
        weights[i].n_out = shapes[i].n_out;
        weights[i].n_in = shapes[i].n_in;
    }
    struct st_served served = {.weights = weights, .n = N_WEIGHT};
    struct st_worker_opts o = {.served = &served,
                               .digest = digest,
                               .backend = &device,
                               .listen = listen,
                               .n_listen = n,
                               .ready = tell,
                               .arg = &fds[1]};
    struct st_err e = {0};
    if (st_worker_run(&o, &e))
        die(e.msg);
    exit(0);
}

static int by_size(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;
    return d < 0 ? -1 : d > 0;
}

static void measure(struct st_worker_client *c, const char *transport, int g, uint32_t n_row, double seconds)
{
    static double times[1 << 20];
    static struct st_plan_weight weights[N_WEIGHT];
    static struct st_plan_op ops[N_WEIGHT];
    const struct st_plan plan = {.ops = ops, .weights = weights, .n_op = N_WEIGHT, .n_weight = N_WEIGHT};
    const struct st_transport *t = st_worker_client_transport(c);
    size_t len = (size_t)n_row * shapes[groups[g].first].n_in * 4, n = 0, down = 0;
    uint32_t *rows = calloc(1, len);
    struct st_worker_client_stats before, after;
    struct st_err e = {0};
    for (int i = 0; i < N_WEIGHT; i++) {
        snprintf(weights[i].name, sizeof weights[i].name, "%s", shapes[i].name);
        weights[i].n_out = shapes[i].n_out;
        weights[i].n_in = shapes[i].n_in;
        ops[i] = (struct st_plan_op){.op = ST_OP_LINEAR, .weight = i};
    }
    st_worker_client_stats(c, &before);
    for (double start = st_now(); n < sizeof times / sizeof *times && st_now() - start < seconds; n++) {
        struct st_exchange x = {
            .plan = &plan, .ops = &ops[groups[g].first], .n_op = groups[g].n, .n_row = n_row, .id = n};
        struct st_exposed out = {rows, len, ST_EXPOSED_FIELD}, reply;
        double at = st_now();
        if (t->submit(t->ctx, &x, &out, &e) || t->complete(t->ctx, &x, &reply, &e))
            die(e.msg);
        times[n] = st_now() - at;
        down = reply.len;
    }
    st_worker_client_stats(c, &after);
    qsort(times, n, sizeof *times, by_size);
    printf("%s,%s,%u,%zu,%zu,%zu,%.1f,%.1f,%.1f\n", transport, groups[g].name, n_row, len, down, n, times[n / 2] * 1e6,
           times[n * 99 / 100] * 1e6, (after.work_s - before.work_s) / (double)n * 1e6);
    fflush(stdout);
    free(rows);
}

int main(int argc, char **argv)
{
    double seconds = argc > 1 ? atof(argv[1]) : 1;
    char dir[] = "/tmp/worker_link_XXXXXX", file[64], shm[64], line[300];
    if (!mkdtemp(dir))
        die("no directory");
    snprintf(file, sizeof file, "unix:%s/socket", dir);
    snprintf(shm, sizeof shm, "shm:%s/shm", dir);
    const char *listen[] = {"tcp://127.0.0.1:0", file, shm};
    static const char *const names[] = {"tcp", "unix", "shm"};
    int from;
    pid_t pid = start(listen, 3, &from);
    FILE *lines = fdopen(from, "r");
    printf("transport,exchange,rows,bytes_up,bytes_down,n,median_us,p99_us,worker_us\n");
    for (int i = 0; i < 3 && fgets(line, sizeof line, lines); i++) {
        line[strcspn(line, "\n")] = 0;
        const char *address = line;
        struct st_worker_client_opts o = {.addresses = &address, .n_address = 1, .digest = digest};
        struct st_worker_client *c;
        struct st_err e = {0};
        if (st_worker_client_new(&o, &c, &e))
            die(e.msg);
        for (int g = 0; g < 4; g++)
            for (uint32_t n_row = 1; n_row <= 64; n_row *= 64)
                measure(c, names[i], g, n_row, seconds);
        st_worker_client_free(c);
    }
    fclose(lines);
    kill(pid, SIGTERM);
    waitpid(pid, NULL, 0);
    rmdir(dir);
    return 0;
}
