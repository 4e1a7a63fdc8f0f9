/* The worker's arithmetic on the CPU. */
#include "base/buf.h"
#include "base/mem.h"
#include "field/backend.h"
#include "field/product.h"
#include "tensor/compute.h"

#include <stdio.h>
#include <stdlib.h>

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

static const char *cpu_describe(void *b)
{
    const struct cpu *c = b;
    return c->text;
}

const struct st_backend st_backend_cpu = {"cpu", cpu_open, cpu_close, cpu_multiply, cpu_multiply_f32, cpu_describe};
