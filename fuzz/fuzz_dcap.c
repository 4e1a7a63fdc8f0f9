/* Any bytes as an Intel quote, and as the SGX extension of a PCK certificate: refused, or every span lies inside the
 * bytes and the verifiers end with checks of which one fails (no fuzzer signs below Intel's root). */
#include "attest/dcap.h"
#include "attest/pck.h"
#include "attest/verifier.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void inside(const uint8_t *data, size_t size, const uint8_t *p, size_t len)
{
    if (p < data || len > size || (size_t)(p - data) > size - len)
        abort();
}

static void check_spans(const uint8_t *data, size_t size, const struct st_dcap_quote *q)
{
    inside(data, size, q->covered.p, q->covered.len);
    inside(data, size, q->signature, 64);
    inside(data, size, q->key, 64);
    inside(data, size, q->qe_raw, ST_DCAP_REPORT);
    inside(data, size, q->qe_signature, 64);
    inside(data, size, q->auth_data.p, q->auth_data.len);
    inside(data, size, q->pck_chain.p, q->pck_chain.len);
    inside(data, size, q->qe.report_data, 64);
    if (q->is_tdx)
        inside(data, size, q->td.tee_tcb_svn, q->td.mrservicetd ? 648 : 584);
    else
        inside(data, size, q->sgx.cpu_svn, ST_DCAP_REPORT);
    if (q->padding >= size)
        abort();
}

static void verify(const char *kind, const uint8_t *data, size_t size)
{
    struct st_evidence ev = {.kind = kind, .data = {data, size}};
    struct st_appraisal a = {0};
    struct st_err e;
    int rc = st_verifier_find(kind)->verify(&ev, &(struct st_verify_env){.time = 1750500000}, &a, &e);
    bool good = rc == 0 && !a.failed;
    for (size_t i = 0; i < a.n_check; i++)
        good = good && a.checks[i].result == ST_CHECK_PASS;
    if (good)
        abort();
    st_appraisal_wipe(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_dcap_quote q;
    struct st_pck pck;
    struct st_err e;
    (void)!st_pck_parse((struct st_span){data, size}, &pck, &e);
    const struct st_verifier *v = st_verifier_recognise(data, size);
    int rc = st_dcap_parse(data, size, &q, &e);
    if (rc)
        return 0;
    check_spans(data, size, &q);
    if (!v && q.header_reserved_zero)
        abort();
    verify("tdx", data, size);
    verify("sgx", data, size);
    return 0;
}
