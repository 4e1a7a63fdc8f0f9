/* Intel SGX: quotes v3, v4 and v5 of an enclave. Checks and common claims: ev_intel.h. */
#include "attest/ev_intel.h"

static bool recognise(const uint8_t *p, size_t len)
{
    return st_dcap_looks_like(p, len, false);
}

static void claim_body(const struct st_sgx_report *r, struct st_appraisal *out)
{
    st_appraisal_hex(out, "sgx.mrenclave", r->mrenclave, 32);
    st_appraisal_hex(out, "sgx.mrsigner", r->mrsigner, 32);
    st_appraisal_number(out, "sgx.isv_prod_id", r->isv_prod_id);
    st_appraisal_number(out, "sgx.isv_svn", r->isv_svn);
    st_appraisal_hex(out, "sgx.report_data", r->report_data, 64);
    st_appraisal_bool(out, "sgx.debug", r->debug);
    st_appraisal_hex(out, "sgx.attributes", r->attributes, 16);
    st_appraisal_hex(out, "sgx.miscselect", r->miscselect, 4);
    st_appraisal_hex(out, "sgx.isv_ext_prod_id", r->ext_prod_id, 16);
    st_appraisal_hex(out, "sgx.isv_family_id", r->family_id, 16);
    st_appraisal_hex(out, "sgx.config_id", r->config_id, 64);
    st_appraisal_number(out, "sgx.config_svn", r->config_svn);
    st_appraisal_hex(out, "sgx.cpu_svn", r->cpu_svn, 16);
}

static int verify(const struct st_evidence *ev, const struct st_verify_env *env, struct st_appraisal *out,
                  struct st_err *e)
{
    struct st_dcap_quote q;
    int rc = st_dcap_parse(ev->data.p, ev->data.len, &q, e);
    if (rc)
        return rc;
    if (q.is_tdx)
        return st_fail(e, ST_INPUT, "quote: want one of an enclave, got one of a TD");
    rc = st_intel_appraise(ev, &q, env, out, e);
    if (rc == 0)
        claim_body(&q.sgx, out);
    return rc;
}

const struct st_verifier st_verifier_sgx = {
    .kind = "sgx", .recognise = recognise, .endorsements = ST_INTEL_ENDORSEMENTS, .verify = verify};
