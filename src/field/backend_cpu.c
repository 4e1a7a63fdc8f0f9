/* The worker's arithmetic on the CPU. */
#include "base/buf.h"
#include "base/mem.h"
#include "field/backend.h"
#include "field/fq.h"
#include "field/product.h"
#include "tensor/compute.h"

#include <stdio.h>
#include <stdlib.h>

/* Multiplications below which one thread is faster than waking the others. */
#define MIN_PARALLEL (1u << 15)

struct cpu {
    const struct st_backend_weight *weights;
    uint32_t n_weight, max_row;
    struct st_compute *compute; /* its threads serve both kinds of product */
    const struct st_limb_kernels *limb;
    struct st_area limbs; /* of the rows of one call */
    struct st_linear_job *linear;
    struct st_mat *mats; /* [n_weight] */
    char text[64];
};

static void cpu_close(void *b)
{
    struct cpu *c = b;
    if (!c)
        return;
    st_compute_free(c->compute);
    st_area_free(&c->limbs);
    free(c->linear);
    free(c->mats);
    free(c);
}

static int allocate(struct cpu *c, uint32_t max_in, struct st_err *e)
{
    int rc = st_area_new(&c->limbs, (size_t)c->max_row * max_in, 4, "limbs of rows", e);
    if (!rc)
        rc = st_alloc(&c->mats, c->n_weight, sizeof *c->mats, "matrices", e);
    if (!rc)
        rc = st_alloc(&c->linear, c->n_weight, sizeof *c->linear, "matrices", e);
    return rc;
}

static int cpu_open(const struct st_backend_opts *o, void **out, struct st_err *e)
{
    struct cpu *c;
    uint32_t max_in = 1;
    *out = NULL;
    int rc = st_alloc(&c, 1, sizeof *c, "backend", e);
    if (rc)
        return rc;
    c->weights = o->weights;
    c->n_weight = o->n_weight;
    c->max_row = o->max_row;
    for (uint32_t i = 0; i < o->n_weight; i++)
        max_in = o->weights[i].n_in > max_in ? o->weights[i].n_in : max_in;
    rc = allocate(c, max_in, e);
    if (!rc)
        rc = st_limb_find(o->isa, &c->limb, e);
    if (!rc)
        rc = st_compute_new(&(struct st_compute_opts){.n_threads = o->n_threads,
                                                      .isa = o->isa,
                                                      .max_row = o->max_row,
                                                      .max_width = max_in,
                                                      .exact_rows = true},
                            &c->compute, e);
    if (rc) {
        cpu_close(c);
        return rc;
    }
    for (uint32_t i = 0; i < o->n_weight; i++)
        c->mats[i] =
            (struct st_mat){o->weights[i].w, o->weights[i].scale, ST_DTYPE_I8, o->weights[i].n_out, o->weights[i].n_in};
    snprintf(c->text, sizeof c->text, "%s, %d threads", st_compute_isa(c->compute), st_compute_threads(c->compute));
    *out = c;
    return 0;
}

static int cpu_multiply(void *b, const uint32_t *rows, uint32_t n_row, const struct st_backend_job *jobs, int n_job,
                        struct st_err *e)
{
    struct cpu *c = b;
    int rc = st_backend_check(c->weights, c->n_weight, c->max_row, n_row, jobs, n_job, e);
    if (rc)
        return rc;
    uint32_t n_in = c->weights[jobs[0].weight].n_in;
    st_limbs_split(rows, n_row, n_in, c->limbs.p);
    for (int first = 0, n; first < n_job; first += n) {
        struct st_field_product p[8];
        for (n = 0; n < 8 && first + n < n_job; n++) {
            const struct st_backend_weight *w = &c->weights[jobs[first + n].weight];
            p[n] = (struct st_field_product){w->w, n_in,    w->n_out, {c->limbs.p, n_row, 4, n_in}, jobs[first + n].out,
                                             1,    w->n_out};
        }
        st_field_products(st_compute_pool(c->compute), c->limb, p, (uint32_t)n);
    }
    return 0;
}

static int cpu_multiply_f32(void *b, const float *rows, uint32_t n_row, const struct st_backend_job *jobs, int n_job,
                            struct st_err *e)
{
    struct cpu *c = b;
    int rc = st_backend_check(c->weights, c->n_weight, c->max_row, n_row, jobs, n_job, e);
    if (rc)
        return rc;
    for (int first = 0, n; first < n_job; first += n) {
        n = n_job - first < (int)c->n_weight ? n_job - first : (int)c->n_weight;
        for (int i = 0; i < n; i++)
            c->linear[i] = (struct st_linear_job){.w = &c->mats[jobs[first + i].weight], .y = jobs[first + i].out};
        st_linear(c->compute, c->linear, n, rows, n_row);
    }
    return 0;
}

/* Products fill 64 bits: their halves are summed apart, 2^32 of them fit. */
static uint32_t dot(const uint32_t *a, const uint32_t *b, uint32_t n)
{
    uint64_t low = 0, high = 0;
    for (uint32_t k = 0; k < n; k++) {
        uint64_t x = (uint64_t)a[k] * b[k];
        low += (uint32_t)x;
        high += x >> 32;
    }
    return st_fq_add(st_fq_reduce(low), st_fq_mul(st_fq_reduce(high), (1u << 20) - 1)); /* 2^32 = 2^20 - 1 mod q */
}

static void pair_part(void *arg, int thread, int n_threads)
{
    const struct st_backend_pair *p = arg;
    size_t lo, hi;
    st_pool_part(p->n_a, 1, thread, n_threads, &lo, &hi);
    for (size_t i = lo; i < hi; i++)
        for (uint32_t j = 0; j < p->n_b; j++)
            p->out[i * p->n_b + j] = dot(p->a + i * p->n_inner, p->b + (size_t)j * p->n_inner, p->n_inner);
}

static void cpu_pair(void *b, const struct st_backend_pair *p)
{
    const struct cpu *c = b;
    struct st_backend_pair work = *p;
    if ((uint64_t)p->n_a * p->n_b * p->n_inner < MIN_PARALLEL)
        pair_part(&work, 0, 1);
    else
        st_pool_run(st_compute_pool(c->compute), pair_part, &work);
}

static const char *cpu_describe(void *b)
{
    const struct cpu *c = b;
    return c->text;
}

const struct st_backend st_backend_cpu = {"cpu",    cpu_open,    cpu_close, cpu_multiply, cpu_multiply_f32,
                                          cpu_pair, cpu_describe};
