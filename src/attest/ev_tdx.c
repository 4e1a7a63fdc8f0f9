/* Intel TDX: quotes v4 and v5 of a trust domain (TD). Checks and common claims: ev_intel.h. */
#include "attest/ev_intel.h"

static bool recognise(const uint8_t *p, size_t len)
{
    return st_dcap_looks_like(p, len, true);
}

static void claim_body(const struct st_td_report *td, struct st_appraisal *out)
{
    static const char *const rtmr[4] = {"tdx.rtmr0", "tdx.rtmr1", "tdx.rtmr2", "tdx.rtmr3"};
    st_appraisal_hex(out, "tdx.mrtd", td->mrtd, 48);
    for (size_t i = 0; i < 4; i++)
        st_appraisal_hex(out, rtmr[i], td->rtmr[i], 48);
    st_appraisal_hex(out, "tdx.report_data", td->report_data, 64);
    st_appraisal_bool(out, "tdx.debug", td->debug);
    st_appraisal_bool(out, "tdx.migratable", td->migratable);
    st_appraisal_hex(out, "tdx.td_attributes", td->td_attributes, 8);
    st_appraisal_hex(out, "tdx.xfam", td->xfam, 8);
    st_appraisal_hex(out, "tdx.mrconfigid", td->mrconfigid, 48);
    st_appraisal_hex(out, "tdx.mrowner", td->mrowner, 48);
    st_appraisal_hex(out, "tdx.mrownerconfig", td->mrownerconfig, 48);
    st_appraisal_hex(out, "tdx.mrseam", td->mrseam, 48);
    st_appraisal_hex(out, "tdx.mrsignerseam", td->mrsignerseam, 48);
    st_appraisal_hex(out, "tdx.tee_tcb_svn", td->tee_tcb_svn, 16);
    if (td->tee_tcb_svn2) {
        st_appraisal_hex(out, "tdx.tee_tcb_svn2", td->tee_tcb_svn2, 16);
        st_appraisal_hex(out, "tdx.mrservicetd", td->mrservicetd, 48);
    }
}

static int verify(const struct st_evidence *ev, const struct st_verify_env *env, struct st_appraisal *out,
                  struct st_err *e)
{
    struct st_dcap_quote q;
    int rc = st_dcap_parse(ev->data.p, ev->data.len, &q, e);
    if (rc)
        return rc;
    if (!q.is_tdx)
        return st_fail(e, ST_INPUT, "quote: want one of a TD, got one of an enclave");
    rc = st_intel_appraise(ev, &q, env, out, e);
    if (rc == 0)
        claim_body(&q.td, out);
    return rc;
}

const struct st_verifier st_verifier_tdx = {
    .kind = "tdx", .recognise = recognise, .endorsements = ST_INTEL_ENDORSEMENTS, .verify = verify};
