/* Times column-first matching (audit/columns.h) on a made pair, and says what it recovered: random gates, an embedding
 * with clusters and a spectrum, rows and columns in another order, noise.
 *
 *   columns_first [-v VOCABULARY] [-d WIDTH] [-f COLUMNS] [-l LAYERS] [-a ALPHA] [-t THREADS] [-s SEED] [-u]
 *
 * One line of CSV: what was asked, share of rows and of columns recovered, seconds, processor seconds, peak memory
 * of the whole program (the pair counts). Default: 32000 x 2048, 4 layers of 5632, alpha .5, two threads; -u: columns
 * scaled, as ups and downs are. */
#include "audit/columns.h"
#include "audit/match.h"
#include "base/mem.h"
#include "pair_make.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

static double processor(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static void progress(void *arg, double part)
{
    const double *from = arg;
    fprintf(stderr, "%5.1f s  %3.0f %%\n", st_now() - *from, 100 * part);
}

int main(int argc, char **argv)
{
    size_t n = 32000, d = 2048, f = 5632;
    uint32_t n_layer = 4;
    int threads = 2;
    bool scaled = false;
    double alpha = .5;
    uint64_t seed = 1;
    for (int c; (c = getopt(argc, argv, "v:d:f:l:a:t:s:u")) != -1;) {
        switch (c) {
        case 'v':
            n = strtoul(optarg, NULL, 10);
            break;
        case 'd':
            d = strtoul(optarg, NULL, 10);
            break;
        case 'f':
            f = strtoul(optarg, NULL, 10);
            break;
        case 'l':
            n_layer = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'a':
            alpha = strtod(optarg, NULL);
            break;
        case 't':
            threads = (int)strtol(optarg, NULL, 10);
            break;
        case 's':
            seed = strtoul(optarg, NULL, 10);
            break;
        case 'u':
            scaled = true;
            break;
        default:
            return 2;
        }
    }
    struct pair p = make_pair(seed, n, d, f, n_layer, scaled, alpha);
    struct st_pool *pool = pool_of(threads);
    uint32_t *guess = calloc(n, sizeof *guess);
    struct st_columns_found found;
    struct st_err e;
    double from = st_now(), cpu = processor(), columns = 0;
    struct st_columns_opts o = {.rows = alpha, .seed = seed, .progress = progress, .arg = &from};
    if (!guess || st_columns_first(pool, &p.base, &p.seen, &o, &found, &e) ||
        st_match_points(pool, &found.guess, &found.rows, false, guess, &e)) {
        fprintf(stderr, "columns_first: %s\n", guess ? e.msg : "no memory");
        return 1;
    }
    from = st_now() - from;
    cpu = processor() - cpu;
    for (uint32_t l = 0; l < n_layer; l++)
        columns += hits(found.columns[l].column, p.column[l], f) / n_layer;
    printf("vocabulary,width,columns,layers,scaled,alpha_e,threads,seed,rows,columns_found,seconds,cpu_seconds,peak_"
           "mib\n");
    printf("%zu,%zu,%zu,%u,%d,%g,%d,%lu,%.4f,%.4f,%.1f,%.1f,%zu\n", n, d, f, n_layer, scaled, alpha, threads,
           (unsigned long)seed, hits(guess, p.truth, n), columns, from, cpu, st_mem_peak() >> 20);
    st_columns_found_free(&found);
    free(guess);
    free_pair(&p);
    st_pool_free(pool);
    return 0;
}
