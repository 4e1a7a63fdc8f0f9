/* Any bytes as an SEV-SNP report, with or without Azure's wrapper, and as the certificates and lists beside it: nothing
 * of it may pass, for there is no key that signed it. The first byte says how much is the report. */
#include "attest/runtime_data.h"
#include "attest/snp_report.h"
#include "attest/verifier.h"

#include <stdlib.h>
#include <string.h>

static void verify(const uint8_t *p, size_t len, const uint8_t *more, size_t more_len, enum st_endorsement_type t)
{
    const struct st_verify_env env = {.time = 1750000000};
    struct st_evidence ev = {.kind = "snp", .data = {p, len}};
    struct st_appraisal a = {0};
    struct st_err e;
    ev.endorsements[0] = (struct st_endorsement){t, {more, more_len}};
    ev.n_endorsement = more_len ? 1 : 0;
    if (st_verifier_find("snp")->verify(&ev, &env, &a, &e) == 0) {
        const struct st_check *s = st_appraisal_find_check(&a, "snp.signature");
        const struct st_check *c = st_appraisal_find_check(&a, "snp.chain");
        if (a.failed || !s || !c || (s->result == ST_CHECK_PASS && c->result == ST_CHECK_PASS))
            abort();
    }
    st_appraisal_wipe(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum st_endorsement_type types[] = {ST_ENDORSEMENT_CERTS, ST_ENDORSEMENT_CRL,
                                                     ST_ENDORSEMENT_RUNTIME_DATA};
    uint8_t report[ST_SNP_REPORT] = {2};
    struct st_runtime_data d;
    struct st_err e;
    if (size < 1 || size > 16384)
        return 0;
    enum st_endorsement_type t = types[data[0] % 3];
    data++;
    size--;
    verify(data, size, NULL, 0, t);
    memcpy(report, data, size < sizeof report ? size : sizeof report);
    verify(report, sizeof report, data, size, t);
    if (st_runtime_data_parse(data, size, &d, &e) == 0)
        st_runtime_data_free(&d);
    return 0;
}
