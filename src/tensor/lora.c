#include "tensor/lora.h"
#include "tensor/compute_priv.h"

#include <string.h>

#define ROWS 16 /* of one pass over a tile: their outputs stay in the first cache */

void st_lora_pack(enum st_dtype dtype, const void *b, uint32_t n_out, uint32_t rank, float scale, float *row, float *to)
{
    const size_t row_bytes = rank * st_dtype_size(dtype);
    memset(to, 0, st_lora_packed(n_out, rank) * sizeof *to);
    for (uint32_t o = 0; o < n_out; o++) {
        float *tile = to + (size_t)(o / ST_LORA_TILE) * ST_LORA_TILE * rank + o % ST_LORA_TILE;
        st_convert(dtype, (const uint8_t *)b + o * row_bytes, ST_DTYPE_F32, row, rank);
        for (uint32_t k = 0; k < rank; k++)
            tile[(size_t)k * ST_LORA_TILE] = scale * row[k];
    }
}

struct step {
    const struct st_compute *c;
    const struct st_lora_job *jobs;
    int n_job;
    uint32_t n_row;
    size_t n_tile; /* of all jobs in a row */
};

static size_t tiles(const struct st_lora_job *j)
{
    return ((size_t)j->n_out + ST_LORA_TILE - 1) / ST_LORA_TILE;
}

/* One tile of one job for all rows. */
static void add_tile(const struct step *s, const struct st_lora_job *j, size_t tile)
{
    _Alignas(64) float sum[ROWS * ST_LORA_TILE];
    const uint32_t rank = j->a->n_out;
    const float *b = j->b + tile * ST_LORA_TILE * rank;
    size_t at = tile * ST_LORA_TILE, left = j->n_out - at, n = left < ST_LORA_TILE ? left : ST_LORA_TILE;
    for (uint32_t row = 0, n_row; row < s->n_row; row += n_row) {
        float *y = j->y + (size_t)row * j->n_out + at;
        n_row = s->n_row - row < ROWS ? s->n_row - row : ROWS;
        memset(sum, 0, n_row * ST_LORA_TILE * sizeof *sum);
        for (uint32_t r = 0; r < n_row; r++)
            memcpy(sum + r * ST_LORA_TILE, y + (size_t)r * j->n_out, n * sizeof *sum);
        s->c->k.weigh(j->z + (size_t)row * rank, rank, n_row, b, rank, ST_LORA_TILE, sum);
        for (uint32_t r = 0; r < n_row; r++)
            memcpy(y + (size_t)r * j->n_out, sum + r * ST_LORA_TILE, n * sizeof *sum);
    }
}

static void add_part(void *arg, int t, int n_threads)
{
    const struct step *s = arg;
    size_t lo, hi, first = 0;
    st_pool_part(s->n_tile, 1, t, n_threads, &lo, &hi);
    for (int j = 0; j < s->n_job && first < hi; j++) {
        size_t n = tiles(&s->jobs[j]);
        for (size_t i = lo > first ? lo - first : 0; i < n && first + i < hi; i++)
            add_tile(s, &s->jobs[j], i);
        first += n;
    }
}

void st_lora(struct st_compute *c, const struct st_lora_job *jobs, int n_job, const float *x, uint32_t n_row)
{
    struct st_linear_job down[ST_LORA_JOBS];
    struct step s = {.c = c, .jobs = jobs, .n_job = n_job, .n_row = n_row};
    size_t cost = 0;
    for (int j = 0; j < n_job; j++) {
        down[j] = (struct st_linear_job){.w = jobs[j].a, .y = jobs[j].z};
        s.n_tile += tiles(&jobs[j]);
        cost += st_lora_packed(jobs[j].n_out, jobs[j].a->n_out);
    }
    st_linear(c, down, n_job, x, n_row);
    st_spread(c, cost * ((n_row + ROWS - 1) / ROWS), add_part, &s);
}
