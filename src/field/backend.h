/* What a worker computes with: exact products of masked rows and int8 weights modulo q, and f32 products for the `remo`
 * scheme, on one device. A backend is one file that exports one const struct, and a row in backends.def. It holds no
 * secret and knows no protection: rows come masked. One thread calls it. */
#ifndef ST_FIELD_BACKEND_H
#define ST_FIELD_BACKEND_H

#include "base/pool.h"

#include <stddef.h>
#include <stdint.h>

struct st_backend_weight {
    const int8_t *w;    /* [n_out][n_in], borrowed until close */
    const float *scale; /* [n_out] */
    uint32_t n_out, n_in;
};

struct st_backend_opts {
    const struct st_backend_weight *weights;
    uint32_t n_weight;
    uint32_t max_row; /* of one product */
    int n_threads;    /* 0 = all */
    const char *isa;  /* NULL = best */
};

struct st_backend_job { /* one matrix on the rows of a call */
    uint32_t weight;
    void *out; /* [n_row][n_out] u32 canonical residues, or f32 (scaled: u W) */
};

struct st_backend_pair {
    const uint32_t *a, *b;
    uint32_t n_a, n_b, n_inner;
    uint32_t *out;
};

struct st_backend {
    const char *name; /* "cpu", "cuda" */
    /* UNSUPPORTED: no such device here, names what is missing. MEMORY: says how much the device has. */
    int (*open)(const struct st_backend_opts *o, void **out, struct st_err *e);
    void (*close)(void *b);
    /* rows [n_row][n_in], canonical residues (checked by the caller); jobs on the same rows. n_row <= max_row. */
    int (*multiply)(void *b, const uint32_t *rows, uint32_t n_row, const struct st_backend_job *jobs, int n_job,
                    struct st_err *e);
    /* The same in f32: no quantisation of the rows. */
    int (*multiply_f32)(void *b, const float *rows, uint32_t n_row, const struct st_backend_job *jobs, int n_job,
                        struct st_err *e);
    /* out [n_a][n_b] = a b^T mod q, a [n_a][n_inner], b [n_b][n_inner] canonical residues (checked by the caller):
     * nothing of the model is in it. NULL: this device does not do that. */
    void (*pair)(void *b, const struct st_backend_pair *p);
    /* One line for logs: "AVX-512 VNNI, 2 threads". */
    const char *(*describe)(void *b);
};

/* UNSUPPORTED lists the names that this program has. */
int st_backend_find(const char *name, const struct st_backend **out, struct st_err *e) ST_MUST_CHECK;

/* For backends: INTERNAL when a call does not fit what was opened. What comes over the wire is checked before; this
 * keeps a mistake from becoming a wrong read. */
int st_backend_check(const struct st_backend_weight *weights, uint32_t n_weight, uint32_t max_row, uint32_t n_row,
                     const struct st_backend_job *jobs, int n_job, struct st_err *e) ST_MUST_CHECK;

#endif
