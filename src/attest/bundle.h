/* What evidence.c, evidence_read.c, endorse.c and collector.c share; no verifier. */
#ifndef ST_ATTEST_BUNDLE_H
#define ST_ATTEST_BUNDLE_H

#include "attest/evidence.h"

/* Copies p[len] into the bundle's memory; *out points there. */
int st_bundle_keep(struct st_bundle *b, const void *p, size_t len, struct st_span *out, struct st_err *e) ST_MUST_CHECK;
/* Appends an endorsement (data kept by the caller) to an item. INPUT: too many. */
int st_bundle_attach(struct st_evidence *ev, enum st_endorsement_type t, struct st_span data, const char *where,
                     struct st_err *e) ST_MUST_CHECK;
/* The types that the bytes may be, as a bit set of 1 << enum st_endorsement_type; 0: none known. */
unsigned st_endorsement_recognise(const uint8_t *p, size_t len);

#endif
