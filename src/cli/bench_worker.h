/* What a bench has beside itself for a while: a temporary directory, files in it, and a worker on this machine that
 * shares memory with it. Ctrl-C does not leave the files behind (hints and sealed models are large), and the worker
 * dies with this process. One bench at a time. */
#ifndef ST_CLI_BENCH_WORKER_H
#define ST_CLI_BENCH_WORKER_H

#include "cli/child.h"
#include "cli/cli.h"
#include "cli/temp.h"

#define ST_BENCH_FILES 4

struct st_bench_beside {
    struct st_temp tmp;
    char files[ST_BENCH_FILES][96];
    int n_file;
    char address[104];
    const char *hints; /* for the worker; NULL = none */
    struct st_child worker;
};

/* Makes the directory in TMPDIR or /tmp. IO. */
int st_bench_begin(struct st_bench_beside *b, struct st_err *e) ST_MUST_CHECK;
/* Ends the worker, removes the files. Nothing when it did not begin. */
void st_bench_end(struct st_bench_beside *b);
/* The path of a file in the directory, to be removed with it; lives as long as *b. At most ST_BENCH_FILES. */
const char *st_bench_file(struct st_bench_beside *b, const char *name);
/* Hints of `model` for the worker, if the scheme of *cli wants some: the user's, or new ones. */
int st_bench_hints(struct st_bench_beside *b, const struct st_cli *cli, const char *model,
                   struct st_err *e) ST_MUST_CHECK;
/* A worker for `model`, and *cli with its address; n_threads 0 = all. USAGE: the user named one already. */
int st_bench_worker(struct st_bench_beside *b, struct st_cli *cli, const char *model, int n_threads,
                    struct st_err *e) ST_MUST_CHECK;

#endif
