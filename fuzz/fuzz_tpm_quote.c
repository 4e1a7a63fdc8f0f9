/* Any bytes as a TPM quote and what comes with it. The first byte says what the bytes behind the quote are, the second
 * how long the quote is. */
#include "attest/tpm_quote.h"
#include "attest/verifier.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum st_endorsement_type types[] = {
        ST_ENDORSEMENT_CERTS, ST_ENDORSEMENT_CRL,       ST_ENDORSEMENT_SIGNATURE,   ST_ENDORSEMENT_AK_PUBLIC,
        ST_ENDORSEMENT_PCRS,  ST_ENDORSEMENT_EVENT_LOG, ST_ENDORSEMENT_RUNTIME_DATA};
    const struct st_verify_env env = {.time = 1750000000};
    struct st_appraisal a = {0};
    struct st_tpm_key key;
    struct st_err e;
    if (size < 2 || size > 16384)
        return 0;
    enum st_endorsement_type t = types[data[0] % (sizeof types / sizeof *types)];
    size_t n = data[1] < size - 2 ? data[1] : size - 2;
    const struct st_span rest = {data + 2 + n, size - 2 - n};
    struct st_evidence ev = {.kind = "tpm", .data = {data + 2, n}};
    ev.endorsements[0] = (struct st_endorsement){t, rest};
    ev.n_endorsement = 1;
    if (st_verifier_find("tpm")->verify(&ev, &env, &a, &e) == 0) {
        const struct st_check *s = st_appraisal_find_check(&a, "tpm.signature");
        if (a.failed || !s || s->result == ST_CHECK_PASS) /* never both key and signature */
            abort();
    }
    st_appraisal_wipe(&a);
    if (st_tpm_key_parse(rest.p, rest.len, &key, &e) == 0) {
        if (!key.key)
            abort();
        st_tpm_key_free(&key);
    }
    return 0;
}
