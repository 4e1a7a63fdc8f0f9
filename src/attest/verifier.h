/* Verifies one kind of evidence: one file ev_KIND.c that exports one const struct, and a row in verifiers.def. Pure
 * functions of bytes, roots and a time: no file, no clock, no network. */
#ifndef ST_ATTEST_VERIFIER_H
#define ST_ATTEST_VERIFIER_H

#include "attest/appraisal.h"
#include "attest/evidence.h"

struct st_verify_env {
    int64_t time; /* seconds since 1970 at which everything must be valid */
    /* Root certificates (PEM) in place of the pinned ones, for tests and for `sim`; len 0 = the pinned ones. */
    struct st_span roots;
};

struct st_verifier {
    const char *kind;
    /* True when raw bytes look like this kind; cheap, never reads past len. */
    bool (*recognise)(const uint8_t *p, size_t len);
    /* Which endorsements it can use, as a bit set of 1 << enum st_endorsement_type. */
    unsigned endorsements;
    /* Fills checks and claims. Returns an error (INPUT: malformed, names the field) only when the evidence cannot be
     * read at all; everything else is a check that fails. */
    int (*verify)(const struct st_evidence *ev, const struct st_verify_env *env, struct st_appraisal *out,
                  struct st_err *e);
};

/* NULL when there is none. */
const struct st_verifier *st_verifier_find(const char *kind);
const struct st_verifier *st_verifier_recognise(const uint8_t *p, size_t len);
const struct st_verifier *st_verifier_at(int i); /* NULL behind the last */

#endif
