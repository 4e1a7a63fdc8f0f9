/* Any bytes as Intel collateral: the first says as what. Refused, or read; and statements are parsed and matched with a
 * platform as if Intel had signed them, since no fuzzer does. */
#include "attest/intel_collateral.h"
#include "attest/intel_tcb.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void match_tcb_info(struct st_span json)
{
    static const uint8_t td_bytes[648] = {4, 1, 5};
    const struct st_td_report td = {
        .tee_tcb_svn = td_bytes, .mrsignerseam = td_bytes + 64, .seamattributes = td_bytes + 112};
    const struct st_pck pck = {.svn = {5, 5, 5, 5}, .pce_svn = 11};
    struct st_tcb_info t;
    struct st_tcb_found found = {0};
    struct st_err e;
    if (st_tcb_info_parse(json, &t, &e))
        return;
    (void)!st_tcb_info_module(&t, &td, &found, &e);
    (void)!st_tcb_info_level(&t, &pck, t.is_tdx ? &td : NULL, &found, &e);
    if (found.status >= ST_TCB_STATUS_COUNT || !st_tcb_status_word(found.status))
        abort();
    st_tcb_found_free(&found);
    st_tcb_info_free(&t);
}

static void match_qe_identity(struct st_span json)
{
    static const uint8_t bytes[ST_DCAP_REPORT];
    const struct st_sgx_report qe = {
        .miscselect = bytes, .attributes = bytes, .mrsigner = bytes, .isv_prod_id = 2, .isv_svn = 4};
    struct st_qe_identity q;
    struct st_tcb_found found = {0};
    struct st_err e;
    if (st_qe_identity_parse(json, &q, &e))
        return;
    (void)!st_qe_identity_match(&q, &qe, &found, &e);
    st_tcb_found_free(&found);
    st_qe_identity_free(&q);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum st_endorsement_type types[] = {ST_ENDORSEMENT_COLLATERAL, ST_ENDORSEMENT_TCB_INFO,
                                                     ST_ENDORSEMENT_QE_IDENTITY, ST_ENDORSEMENT_CERTS,
                                                     ST_ENDORSEMENT_CRL};
    struct st_intel_collateral c;
    struct st_err e;
    if (size == 0)
        return 0;
    struct st_evidence ev = {.kind = "tdx", .n_endorsement = 1};
    ev.endorsements[0] = (struct st_endorsement){types[data[0] % 5], {data + 1, size - 1}};
    match_tcb_info((struct st_span){data + 1, size - 1});
    match_qe_identity((struct st_span){data + 1, size - 1});
    if (st_intel_collateral_read(&ev, &c, &e))
        return 0;
    for (size_t i = 0; i < c.tcb_info.n; i++)
        match_tcb_info(c.tcb_info.list[i].json);
    for (size_t i = 0; i < c.qe_identity.n; i++)
        match_qe_identity(c.qe_identity.list[i].json);
    st_intel_collateral_free(&c);
    return 0;
}
