/* Certificates and revocation lists among the endorsements of evidence. */
#ifndef ST_ATTEST_ENDORSED_H
#define ST_ATTEST_ENDORSED_H

#include "attest/evidence.h"
#include "crypto/x509.h"

/* All of them, behind those that are in out; none is fine. INPUT: one cannot be read. */
int st_endorsed_certs(const struct st_evidence *ev, struct st_certs *out, struct st_err *e) ST_MUST_CHECK;
int st_endorsed_crls(const struct st_evidence *ev, struct st_crls *out, struct st_err *e) ST_MUST_CHECK;

#endif
