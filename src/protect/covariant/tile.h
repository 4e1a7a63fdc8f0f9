/* The work of one job, cut into pieces of fixed shape that threads take one by one; transform.c hands them out. */
#ifndef ST_PROTECT_COVARIANT_TILE_H
#define ST_PROTECT_COVARIANT_TILE_H

#include "protect/covariant/transform.h"

#include <stdatomic.h>

/* Rows of Q^T per piece of folding, and rows of the result per product of a writing tensor. */
#define ST_COV_FOLD 256u
#define ST_COV_ROWS 1024u

/* A job in the window; of a writing tensor, some rows of its result. */
struct st_cov_part {
    struct st_cov_job job;
    uint32_t tile, n_tile; /* vectors per tile, tiles */
    uint32_t n_fold;       /* pieces of folding, 0 unless it reads */
    float *reader;         /* Q^T [len, wide] of this tensor; NULL unless it reads */
    float *mix;            /* the job's mix in f32 */
    size_t n_mix;
    uint32_t *visit;      /* [n / unit] new units in the order of the source; NULL = as they are. Not for columns */
    double noise;         /* standard deviation of what is added, 0 = nothing */
    uint32_t row0, n_row; /* rows of the result that are gathered; WRITES_COLUMNS: those of this part */
    uint8_t *panel;       /* ... and their bytes */
    bool last;            /* the last part of its tensor */
    atomic_uint left;     /* tiles that are not done; the last one writes the panel */
    uint8_t (*sums)[32];  /* last: the hashes of the finished tensor's pieces */
    uint32_t n_sum;
};

/* Working memory of one thread: plain weights and key products. */
struct st_cov_scratch {
    float *a, *b, *c; /* [n] */
    uint8_t *raw;     /* [4 n] */
    size_t n;
    struct st_err err;
};

/* Vectors per tile: about 256 or 512, whole units, and where possible a multiple of 32 (blocks of quantised formats).
 */
uint32_t st_cov_tile_vectors(const struct st_cov_job *j);
/* Values of working memory that a thread needs for the job. */
size_t st_cov_tile_scratch(const struct st_cov_job *j);
/* Whether the rows end up apart: where there is room for all of them, they are gathered and written in one piece. */
bool st_cov_part_gathers(const struct st_cov_job *j);
/* Bytes that a part which gathers n_row rows keeps in memory while it is in the window: key products, panel, mapped
 * source. */
uint64_t st_cov_part_bytes(const struct st_cov_job *j, uint32_t n_row);
/* Floating-point operations of the products of a part: what y = w Q^T (or w P) and the mixes need, folding included. */
double st_cov_part_flop(const struct st_cov_part *p);

/* p->job, noise, row0, n_row, last, n_sum are set. MEMORY. Wipe also after an error. */
int st_cov_part_init(struct st_cov_part *p, struct st_err *e) ST_MUST_CHECK;
void st_cov_part_wipe(struct st_cov_part *p);

int st_cov_scratch_init(struct st_cov_scratch *s, size_t n, struct st_err *e) ST_MUST_CHECK;
void st_cov_scratch_wipe(struct st_cov_scratch *s);

/* One piece each; errors are left in s->err. */
void st_cov_part_fold(const struct st_cov_run_opts *o, struct st_cov_part *p, uint32_t piece, struct st_cov_scratch *s);
void st_cov_part_tile(const struct st_cov_run_opts *o, struct st_cov_part *p, uint32_t tile, struct st_cov_scratch *s);

#endif
