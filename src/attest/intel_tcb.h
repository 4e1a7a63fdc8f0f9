/* Intel's statements on platforms: TCB info (which patch levels of one kind of platform are good; version 2 for SGX, 3
 * for SGX and TDX) and the identity of the quoting enclave (QE; version 2). JSON text that Intel signed; whether it did
 * is st_intel_statement_verify()'s business (intel_collateral.h), and nothing here counts without it.
 *
 * Levels stand in descending order; the first whose every number is reached is the platform's. The status of TDX
 * module and QE then makes it worse, never better. Not done: "TD relaunch advised", which calls an outdated TD better
 * than OutOfDate when the module under it was updated since; here it stays OutOfDate.
 * Source: Intel PCS API version 4 (get TCB info, get QE identity) and its verification algorithms. */
#ifndef ST_ATTEST_INTEL_TCB_H
#define ST_ATTEST_INTEL_TCB_H

#include "attest/dcap.h"
#include "attest/pck.h"

#include <jansson.h>

/* From best to worst; the words are Intel's. */
#define ST_TCB_STATUSES(X)                                                                                             \
    X(UP_TO_DATE, "UpToDate")                                                                                          \
    X(SW_HARDENING, "SWHardeningNeeded")                                                                               \
    X(CONFIGURATION, "ConfigurationNeeded")                                                                            \
    X(CONFIGURATION_AND_SW_HARDENING, "ConfigurationAndSWHardeningNeeded")                                             \
    X(OUT_OF_DATE, "OutOfDate")                                                                                        \
    X(OUT_OF_DATE_CONFIGURATION, "OutOfDateConfigurationNeeded")                                                       \
    X(REVOKED, "Revoked")
enum st_tcb_status {
#define X(id, word) ST_TCB_##id,
    ST_TCB_STATUSES(X)
#undef X
        ST_TCB_STATUS_COUNT
};
const char *st_tcb_status_word(enum st_tcb_status s);

/* What levels say about a platform. Start with zeros. */
struct st_tcb_found {
    enum st_tcb_status status; /* the worst */
    int64_t date;              /* the oldest; 0 = none yet */
    struct st_buf advisories;  /* "INTEL-SA-00615,INTEL-SA-00657" */
};
void st_tcb_found_free(struct st_tcb_found *f);

struct st_tcb_info {
    bool is_tdx;
    unsigned version;
    int64_t issued, next_update; /* seconds since 1970 */
    uint8_t fmspc[6], pce_id[2];
    uint32_t evaluation; /* tcbEvaluationDataNumber: rises with every round of patches */
    json_t *json;        /* owned */
};
int st_tcb_info_parse(struct st_span json, struct st_tcb_info *out, struct st_err *e) ST_MUST_CHECK;
void st_tcb_info_free(struct st_tcb_info *t);
/* VERIFY: the TDX module is not the one described. Adds its level to found. */
int st_tcb_info_module(const struct st_tcb_info *t, const struct st_td_report *td, struct st_tcb_found *found,
                       struct st_err *e) ST_MUST_CHECK;
/* VERIFY: no level fits. td is NULL for SGX. Adds the level to found. */
int st_tcb_info_level(const struct st_tcb_info *t, const struct st_pck *pck, const struct st_td_report *td,
                      struct st_tcb_found *found, struct st_err *e) ST_MUST_CHECK;

struct st_qe_identity {
    bool is_tdx;
    int64_t issued, next_update;
    uint8_t miscselect[4], miscselect_mask[4], attributes[16], attributes_mask[16], mrsigner[32];
    uint16_t isv_prod_id;
    uint32_t evaluation;
    json_t *json; /* owned */
};
int st_qe_identity_parse(struct st_span json, struct st_qe_identity *out, struct st_err *e) ST_MUST_CHECK;
void st_qe_identity_free(struct st_qe_identity *q);
/* VERIFY names the field that differs, or says that no level fits. Adds the level to found. */
int st_qe_identity_match(const struct st_qe_identity *q, const struct st_sgx_report *qe, struct st_tcb_found *found,
                         struct st_err *e) ST_MUST_CHECK;

#endif
