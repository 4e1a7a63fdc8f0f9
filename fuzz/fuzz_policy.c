/* Any bytes as a policy: refused, or it judges a simulated statement that nobody signed, and finds it bad. */
#include "attest/ev_sim.h"
#include "attest/policy.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t statement[ST_SIM_LEN] = "SOTTOSIM\1";
    struct st_policy *p;
    struct st_err e;
    struct st_verdict v;
    const struct st_bundle b = {.n_item = 1, .items[0] = {.kind = "sim", .data = {statement, ST_SIM_LEN}}};
    if (st_policy_parse(data, size, "fuzz", &p, &e))
        return 0;
    const struct st_judge j = {.policy = p, .bundle = &b, .time = 1, .nonce = {statement, 16}, .nonce_time = 1};
    if (st_policy_judge(&j, &v, &e) == 0) {
        if (v.good || v.code != ST_VERIFY)
            abort();
        st_verdict_wipe(&v);
    }
    st_policy_free(p);
    return 0;
}
