/* What SGX and TDX quotes have in common: every signature from the pinned root down to the quote, revocation, and the
 * platform's status in Intel's collateral. ev_sgx.c and ev_tdx.c add the claims of their own bodies.
 *
 * Checks, each KIND.NAME: vendor, reserved, chain, pck, qe_report, qe_binding, signature, crl, collateral, tcb_info,
 * qe_identity, collateral_dates, module (tdx), tcb. ABSENT: no list (crl); no statement (the others from collateral
 * on). Claims: KIND.quote_version, .qe_isv_svn, .fmspc, .pce_svn, .padding_unsigned; with collateral .tcb_status,
 * .tcb_date, .tcb_evaluation, .advisories. */
#ifndef ST_ATTEST_EV_INTEL_H
#define ST_ATTEST_EV_INTEL_H

#include "attest/dcap.h"
#include "attest/verifier.h"

/* What Intel evidence can use. */
#define ST_INTEL_ENDORSEMENTS                                                                                          \
    (1u << ST_ENDORSEMENT_CERTS | 1u << ST_ENDORSEMENT_CRL | 1u << ST_ENDORSEMENT_COLLATERAL |                         \
     1u << ST_ENDORSEMENT_TCB_INFO | 1u << ST_ENDORSEMENT_QE_IDENTITY)

/* q: the parsed quote of ev, of the kind that ev says. */
int st_intel_appraise(const struct st_evidence *ev, const struct st_dcap_quote *q, const struct st_verify_env *env,
                      struct st_appraisal *out, struct st_err *e) ST_MUST_CHECK;

/* "KIND.NAME" as the name of a claim; borrowed until the next call of the same thread. */
const char *st_intel_name(const struct st_evidence *ev, const char *name);

#endif
