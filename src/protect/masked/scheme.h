/* A masking scheme: how the pads of one exchange group are made. What leaves the trusted side is a row plus a mask;
 * what comes back is unmasked by subtracting the mask times the weights, prepared beforehand. A scheme is one file that
 * exports one const struct, and a row in schemes.def. All schemes share everything else: quantisation and its bound
 * (rows.h), the pool of pads (pads.h), the check of replies, single use (masked.c).
 *
 * A pad of a group is d + n words of 4 bytes: mask [d], then unmask [n] = mask W for the group's matrices one behind
 * the other. In domain FIELD words are canonical residues and the sums are exact; in domain F32 they are floats. */
#ifndef ST_PROTECT_MASKED_SCHEME_H
#define ST_PROTECT_MASKED_SCHEME_H

#include "base/locked.h"
#include "crypto/stream.h"
#include "engine/boundary.h"
#include "field/freivalds.h"
#include "model/hints.h"

enum st_mask_domain { ST_MASK_FIELD, ST_MASK_F32 };

/* One exchange group of the plan. */
struct st_mask_group {
    int op, n_op;             /* ops [op, op + n_op) of the plan */
    uint32_t d;               /* values of a row */
    uint32_t n;               /* outputs of all its matrices */
    int served[ST_MAX_GROUP]; /* indices into st_served */
    double norm;              /* max over all columns of ||W_j||_2, at least 1 */
    float *scale;             /* [n] of all columns */
};

/* Who makes, for a side without weights, what only a holder of weights can: an attested preparer
 * (service/preparer.h). It is trusted with what it is sent. May be called from several threads. */
struct st_preparer {
    /* n pads [d + n] of a group hold their masks: puts the products with the weights behind them. */
    int (*fill)(void *ctx, const struct st_mask_group *g, uint32_t n, uint32_t *pads, struct st_err *e);
    /* s [n_vec][n] over the outputs of a group -> ws [n_vec][d] = sum of W^T s, canonical. */
    int (*combine)(void *ctx, const struct st_mask_group *g, const uint32_t *s, uint32_t n_vec, uint32_t *ws,
                   struct st_err *e);
    const struct st_hint_source *scales; /* of columns, with their norms; m = 0 */
    void *ctx;
};

struct st_scheme_opts {
    const struct st_served *served; /* w is NULL where this side has no weights */
    /* Where this side has neither weights nor a preparer, norm and scale are empty and open() fills them in (lwe: from
     * the hints; f32: not used). */
    struct st_mask_group *groups;
    int n_group;
    const struct st_preparer *preparer; /* where this side has no weights; NULL = none */
    const struct st_freivalds *checks;  /* [n_group] of the integrity check; NULL without weights and preparer */
    const uint8_t *digest;              /* [32] of the model */
    const struct st_plan *plan;
    const struct st_lwe_params *params;   /* lwe */
    const struct st_hint_source *hints;   /* lwe */
    bool check_hints;                     /* lwe: H s = B (W s); needs checks */
    uint32_t rank;                        /* remo: m; 0 = half of d */
    double mask_scale;                    /* remo: deviation of masks over that of rows; 0 = 100 */
    const struct st_transport *transport; /* remo asks the worker for M_pub W through it; else NULL */
    uint32_t max_row;                     /* remo: rows of M_pub in one exchange; 0 = 32 (masked.c: as of pads) */
    struct st_pool *pool;                 /* for set-up, by its thread; NULL = this thread */
    bool progress;
};

struct st_scheme {
    const char *name; /* "lwe" */
    enum st_mask_domain domain;
    /* What every output says about its strength, its name first: "lwe-1280-12.8: hidden under Module-LWE (140 bits
     * classical)", "remo-32: breakable: ...". */
    const char *(*strength)(const void *s);
    /* UNSUPPORTED, POLICY (for otp no weights here, and no preparer), MEMORY (says how much), VERIFY (hints do not
     * belong to the weights; names the layer). */
    int (*open)(const struct st_scheme_opts *o, void **out, struct st_err *e);
    void (*close)(void *s);
    /* Part of q/2 that masks take from the range of a group, in units of ||X||_2 (rows.h): 0 for exact pads. */
    double (*slack)(const void *s, int group);
    /* n pads of one group into pads [n][d + n]. Called from the threads of the pool, several at once; secrets that do
     * not end up in the pads are wiped before it returns. dot may use one thread only. */
    int (*make)(void *s, int group, uint32_t n, struct st_stream *random, uint32_t *pads, struct st_err *e);
    /* Bytes of hints or weights kept for it. */
    size_t (*bytes)(const void *s);
};

/* For scratch memory of make(): the pool of pads has already refused where secrets could be written to a swap area. */
extern const struct st_locked_opts st_scheme_scratch;

/* NULL = lwe. USAGE lists the names. */
int st_scheme_find(const char *name, const struct st_scheme **out, struct st_err *e) ST_MUST_CHECK;

#endif
