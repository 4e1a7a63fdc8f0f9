#include "cli/bench_worker.h"
#include "protect/masked/masked.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SHM "shm:"

/* Calls only what a signal handler may call. */
static void remove_files(const struct st_bench_beside *b)
{
    for (int i = 0; i < b->n_file; i++)
        unlink(b->files[i]);
    rmdir(b->tmp.path);
}

static const struct st_bench_beside *volatile begun;

static void on_signal(int sig)
{
    if (begun)
        remove_files(begun);
    raise(sig);
}

int st_bench_begin(struct st_bench_beside *b, struct st_err *e)
{
    if (st_temp_make("sotto-bench", &b->tmp, e))
        return e->code;
    const struct sigaction sa = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    begun = b;
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    return 0;
}

void st_bench_end(struct st_bench_beside *b)
{
    st_child_stop(&b->worker);
    begun = NULL;
    st_temp_remove(&b->tmp);
}

const char *st_bench_file(struct st_bench_beside *b, const char *name)
{
    char path[sizeof b->files[0]], *file = b->files[b->n_file];
    strcpy(path, b->tmp.path);
    snprintf(path + strlen(path), sizeof path - strlen(path), "/%s", name);
    strcpy(file, path);
    b->n_file++; /* behind the path: a signal may come in between */
    return file;
}

int st_bench_hints(struct st_bench_beside *b, const struct st_cli *cli, const char *model, struct st_err *e)
{
    const struct st_scheme *scheme;
    const char *params = cli->masked.params;
    if (st_scheme_find(cli->masked.scheme, &scheme, e))
        return e->code;
    if (strcmp(scheme->name, "lwe") != 0)
        return 0;
    b->hints = cli->masked.hints;
    if (b->hints)
        return 0;
    b->hints = st_bench_file(b, "hints");
    const char *const args[] = {"prepare", model, "--out", b->hints, "--quiet", "--config=", params ? "--params" : NULL,
                                params,    NULL};
    return st_child_start("sotto-worker", args, &b->worker, e) || st_child_wait(&b->worker, 3600, e) ? e->code : 0;
}

int st_bench_worker(struct st_bench_beside *b, struct st_cli *cli, const char *model, int n_threads, struct st_err *e)
{
    char threads[16], line[1024], address[sizeof b->address];
    if (cli->masked.n_worker)
        return st_fail(e, ST_USAGE, "bench: want one of --worker and --spawn");
    strcpy(address, SHM);
    strcat(address, st_bench_file(b, "worker"));
    memcpy(b->address, address, sizeof b->address);
    snprintf(threads, sizeof threads, "%d", n_threads);
    const char *const args[] = {"--model", model,     "--listen",  b->address, "--threads",
                                threads,   "--quiet", "--config=", "--json",   b->hints ? "--hints" : NULL,
                                b->hints,  NULL};
    if (st_child_start("sotto-worker", args, &b->worker, e) || st_child_line(&b->worker, 600, line, sizeof line, e))
        return e->code;
    cli->masked.workers[0] = b->address;
    cli->masked.n_worker = 1;
    return 0;
}
