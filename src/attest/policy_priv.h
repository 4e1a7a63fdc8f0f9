/* The policy as it was read: for policy_parse.c, which fills it, and policy_judge.c. */
#ifndef ST_ATTEST_POLICY_PRIV_H
#define ST_ATTEST_POLICY_PRIV_H

#include "attest/policy.h"
#include "text/json.h"

struct st_policy {
    json_t *json; /* owned; the lists below are borrowed from it, NULL when absent, and checked */
    const json_t *require;
    bool require_any;
    const json_t *allow, *measurements, *tcb, *minimum, *snp_policy, *model, *optional, *roots;
    bool image, debug, gpu, signature_only, revocation_if_present;
    int64_t max_age_s; /* -1: not asked */
    uint8_t sim_root[32];
    bool has_sim_root;
    uint8_t digest[32]; /* SHA-256 of its bytes */
};

#endif
