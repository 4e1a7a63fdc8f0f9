/* Parameter sets of the LWE masks, and their public basis B in Z_q^{m x d}: mask = c B + e with small secret c and e.
 * Nothing here is secret; secrets live in protect/masked. Used by both sides: the owner of the weights makes hints
 * H = B W with it (model/hints.h), the trusted side makes masks.
 *
 * B is expanded by each side itself from XOF(label, parameter set, model digest), never received: a basis chosen by
 * somebody could hide a trapdoor. One B serves all matrices of a model; a matrix with d inputs uses its first d
 * columns. A `module` set is built from negacyclic blocks of degree 256 (Module-LWE, an assumption of its own); a dense
 * one is plain LWE. Rows of the table (lwe_params.def) state the classical and quantum core-SVP estimates of
 * scripts/lwe_estimate.py; a set under 128 classical bits is refused by st_lwe_params_find().
 * Source: SimplePIR, eprint 2022/949, with the weights in the place of the database. */
#ifndef ST_FIELD_LWE_H
#define ST_FIELD_LWE_H

#include "field/ntt.h"
#include "field/product.h"

#include <stdbool.h>

#define ST_LWE_DIGEST 32
#define ST_LWE_MAX_M 2048

struct st_lwe_params {
    const char *name; /* "lwe-1280-12.8", the default and first row */
    uint32_t m;       /* coefficients of a secret; a multiple of 256 when module */
    double sigma;     /* of c and e */
    bool module;
    int bits_classical, bits_quantum; /* core-SVP */
    const char *note;                 /* what outputs add, or "" */
};
/* NULL = the default. USAGE lists the names; POLICY names a set that is too weak. */
int st_lwe_params_find(const char *name, const struct st_lwe_params **out, struct st_err *e) ST_MUST_CHECK;
/* The i-th row, NULL behind the last. */
const struct st_lwe_params *st_lwe_params_at(int i);

struct st_lwe_basis {
    const struct st_lwe_params *params;
    uint32_t d; /* columns */
    /* module: st_ntt_factor() forms of the (m / 256) * ceil(d / 256) blocks, [block of columns][block of rows][256].
     * dense: byte planes of the columns for st_field_product(), as `limbs` says ([d] vectors of len m). */
    uint32_t *blocks;
    struct st_limbs limbs;
    void *memory;
};
/* MEMORY says how much. digest: of the model. */
int st_lwe_basis_init(struct st_lwe_basis *b, const struct st_lwe_params *p, const uint8_t digest[ST_LWE_DIGEST],
                      uint32_t d, struct st_err *e) ST_MUST_CHECK;
void st_lwe_basis_free(struct st_lwe_basis *b);
/* One column of B, [m] residues: for hints, and for tests. */
void st_lwe_basis_column(const struct st_lwe_basis *b, uint32_t column, uint32_t *out);
/* out [n][d] = c B for n secrets c [n][m]; d <= b->d. pool NULL: on this thread. Constant time in c. */
int st_lwe_basis_apply(const struct st_lwe_basis *b, struct st_pool *pool, st_limb_dot_fn *dot, const int8_t *c,
                       uint32_t n, uint32_t d, uint32_t *out, struct st_err *e) ST_MUST_CHECK;
/* out [m] = B x for one x [d] of residues: the right side of the check of hints, H s = B (W s). */
int st_lwe_basis_times(const struct st_lwe_basis *b, const uint32_t *x, uint32_t d, uint32_t *out,
                       struct st_err *e) ST_MUST_CHECK;

#endif
