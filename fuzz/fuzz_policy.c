/* Any bytes as a policy: refused, or it judges a simulated statement that nobody signed, and finds it bad. The same
 * bytes as a proof and as what a log entry states: refused, or written again and read back. */
#include "attest/ev_sim.h"
#include "attest/log_proof.h"
#include "attest/policy.h"
#include "attest/statement.h"

#include <stdlib.h>
#include <string.h>

static void logged(const uint8_t *data, size_t size)
{
    struct st_err e;
    struct st_statement s, again;
    struct st_log_proof p;
    struct st_buf b = {0};
    json_t *o;
    if (st_statement_parse(data, size, "fuzz", &s, &e) == 0) {
        st_statement_write(&s, &b);
        if (st_statement_parse(b.p, b.len, "fuzz", &again, &e) || strcmp(s.claim, again.claim) != 0 ||
            strcmp(s.value, again.value) != 0 || strcmp(s.release, again.release) != 0)
            abort();
    }
    if (st_json_parse(data, size, "fuzz", &o, &e) == 0) {
        static const struct st_tlog_keys nobody = {.origin = "fuzz", .log = {.name = "fuzz", .type = ST_NOTE_ED25519}};
        if (st_log_proof_read(o, "fuzz", &p, &e) == 0 && st_log_proof_verify(&p, &nobody, &e) == 0)
            abort();
        st_log_proof_wipe(&p);
        json_decref(o);
    }
    st_buf_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t statement[ST_SIM_LEN] = "SOTTOSIM\1";
    struct st_policy *p;
    struct st_err e;
    struct st_verdict v;
    const struct st_bundle b = {.n_item = 1, .items[0] = {.kind = "sim", .data = {statement, ST_SIM_LEN}}};
    logged(data, size);
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
