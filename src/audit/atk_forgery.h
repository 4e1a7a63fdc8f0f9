/* Wrong answers of a worker against two ways to check it. Arithmetic of atk_forgery.c on plain arrays. */
#ifndef ST_AUDIT_ATK_FORGERY_H
#define ST_AUDIT_ATK_FORGERY_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How a worker cheats Freivalds' check: one value of one row; rows answered for one another, all right somewhere;
 * nothing computed; a cheaper model (weights to 4 bits). The last is no attack but a control: it has seen the secret.
 */
enum st_forgery {
    ST_FORGERY_VALUE,
    ST_FORGERY_ROWS,
    ST_FORGERY_ZERO,
    ST_FORGERY_CHEAP,
    ST_FORGERY_KNOWING,
    ST_FORGERY_COUNT,
};
const char *st_forgery_name(enum st_forgery f); /* "one value" */

/* n_batch batches of ST_FORGERY_ROWS_IN rows, uniform residues, through w [n_out][n_in]; how many wrong replies the
 * check of field/freivalds.h accepts. Its secret is drawn anew after each refusal, as the protocol does. MEMORY. */
#define ST_FORGERY_ROWS_IN 4
int st_forgery_try(const int8_t *w, uint32_t n_out, uint32_t n_in, enum st_forgery f, size_t n_batch, uint64_t seed,
                   uint64_t *accepted, struct st_err *e) ST_MUST_CHECK;

/* Fixed fingerprints (SOTER, TSQP): among the rows of each batch, all scaled by secret numbers and in secret order,
 * stand combinations of ST_FINGERPRINTS fixed rows whose products are known: a wrong reply to one of them is noticed.
 */
#define ST_FINGERPRINTS 8
struct st_fingerprinted {
    const double *rows; /* [n][d] what the rows of batches are drawn from, no two alike; n at least 3 d / 4 */
    size_t n, d;        /* d at least 4 ST_FINGERPRINTS */
    size_t n_batch;
    uint64_t seed;
};
/* Batches in which every row that the worker took for no fingerprint was answered wrongly, and nothing was noticed.
 * looks: it has sent inputs of its own through two sets of batches, all different; the spans of what it saw meet in
 * the fingerprints. Else it takes as many rows for fingerprints as there are, by chance. MEMORY. */
int st_fingerprints_try(const struct st_fingerprinted *f, bool looks, uint64_t *accepted,
                        struct st_err *e) ST_MUST_CHECK;

#endif
