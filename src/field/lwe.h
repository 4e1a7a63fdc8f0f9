/* Parameter sets of the LWE masks, and their public basis B in Z_q^{m x d}: mask = c B + e with small secret c and e.
 * Nothing here is secret; secrets live in protect/masked. Used by both sides: the owner of the weights makes hints
 * H = B W with it (model/hints.h), the trusted side makes masks.
 *
 * B is expanded by each side itself from XOF(label, parameter set, model digest), never received: a basis chosen by
 * somebody could hide a trapdoor. One B serves all matrices of a model; a matrix with d inputs uses its first d
 * columns. A `module` set is built from negacyclic blocks of degree 256 (Module-LWE, an assumption of its own); a dense
 * one is plain LWE. Rows of the table (lwe_params.def) state the classical and quantum core-SVP estimates of
 * scripts/lwe_estimate.py; a set under 128 classical bits is refused by st_lwe_params_find(). Not modelled there:
 * hybrid attacks, and that all masks share one B; the default has a margin for it.
 *
 * XOF: SHAKE128 over the u32-length-prefixed fields label, name of the set, model digest, number (of the column, or of
 * the block of 256 columns when module), attempt; little-endian words of it that are below q, in order, are the
 * residues of the column, or the m / 256 polynomials of the block; words that are left over are dropped.
 * Source: SimplePIR, eprint 2022/949, with the weights in the place of the database. */
#ifndef ST_FIELD_LWE_H
#define ST_FIELD_LWE_H

#include "field/ntt.h"
#include "field/product.h"

#include <stdbool.h>

#define ST_LWE_DIGEST 32
#define ST_LWE_MAX_M 2048
#define ST_LWE_NAME 32 /* bytes of a name, with its end */

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
/* The i-th set that may be used, NULL behind the last. */
const struct st_lwe_params *st_lwe_params_at(int i);

struct st_lwe_basis {
    const struct st_lwe_params *params;
    uint32_t d; /* columns */
    bool for_hints;
    /* module: st_ntt_factor() forms of the (m / 256) * ceil(d / 256) blocks, [block of columns][block of rows][256]. */
    uint32_t *blocks;
    struct st_ntt ntt;
    /* dense: byte planes for st_field_product(). For masks the columns, [d] vectors of m; for hints the rows, cut into
     * pieces of ST_LWE_PIECE columns, [piece][m] vectors of ST_LWE_PIECE, the last piece filled up with zeros. */
    struct st_limbs limbs;
    void *memory;
};
#define ST_LWE_PIECE 2048u
/* For masks. MEMORY says how much. digest: of the model. */
int st_lwe_basis_init(struct st_lwe_basis *b, const struct st_lwe_params *p, const uint8_t digest[ST_LWE_DIGEST],
                      uint32_t d, struct st_err *e) ST_MUST_CHECK;
/* The same basis for whoever makes hints: st_lwe_basis_hints() instead of st_lwe_basis_apply(). */
int st_lwe_basis_init_hints(struct st_lwe_basis *b, const struct st_lwe_params *p, const uint8_t digest[ST_LWE_DIGEST],
                            uint32_t d, struct st_err *e) ST_MUST_CHECK;
void st_lwe_basis_free(struct st_lwe_basis *b);
/* One column of B, [m] residues: for tests. */
void st_lwe_basis_column(const struct st_lwe_basis *b, uint32_t column, uint32_t *out);
/* out [n][d] = c B for n secrets c [n][m]; d <= b->d. Best with n a multiple of 16. pool NULL: on this thread. limb: of
 * a dense set. Constant time in c; scratch that depends on c is wiped. Takes up to 160 KiB of stack. */
void st_lwe_basis_apply(const struct st_lwe_basis *b, struct st_pool *pool, const struct st_limb_kernels *limb,
                        const int8_t *c, uint32_t n, uint32_t d, uint32_t *out);
/* out [m] = B x for one x [d] of residues, d <= 2^24, with a basis for masks: the right side of the check of hints, H s
 * = B (W s). Constant time in x, and scratch is wiped: W s is a secret. */
void st_lwe_basis_times(const struct st_lwe_basis *b, const uint32_t *x, uint32_t d, uint32_t *out);
/* Hints of n <= ST_LWE_HINTS outputs: out [n][m] = B w_j for int8 weights w [n][d], on this thread. Takes up to 220 KiB
 * of stack. */
#define ST_LWE_HINTS ST_NTT_LANES
void st_lwe_basis_hints(const struct st_lwe_basis *b, const struct st_limb_kernels *limb, const int8_t *w, uint32_t n,
                        uint32_t d, uint32_t *out);

#endif
