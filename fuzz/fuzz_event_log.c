/* Any bytes as an event log: what is read can be checked, replayed and asked for claims. */
#include "attest/event_log.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_event_log log;
    struct st_err e;
    if (size > 65536 || st_event_log_parse(data, size, &log, &e))
        return 0;
    int good = st_event_log_check(&log, &e) == 0;
    for (unsigned alg = ST_TPM_SHA256; alg <= ST_TPM_SHA512; alg++) {
        struct st_pcrs pcrs = {.alg = alg};
        struct st_appraisal a = {0};
        uint32_t touched;
        if (st_event_log_replay(&log, &pcrs, &touched, &e) == 0 && touched >> ST_PCR_COUNT)
            abort();
        if (good)
            st_event_log_claim(&log, alg, 0xffffff, &a);
        if (a.failed)
            abort();
        st_appraisal_wipe(&a);
    }
    st_event_log_free(&log);
    return 0;
}
