/* The policy as it was read: for policy_parse.c and policy_log.c, which fill it, and policy_judge.c. */
#ifndef ST_ATTEST_POLICY_PRIV_H
#define ST_ATTEST_POLICY_PRIV_H

#include "attest/policy.h"
#include "attest/statement.h"
#include "text/json.h"

struct st_policy {
    json_t *json; /* owned; the lists below are borrowed from it, NULL when absent, and checked */
    const json_t *require;
    bool require_any;
    const json_t *allow, *measurements, *tcb, *minimum, *snp_policy, *model, *engine, *optional, *roots;
    bool image, debug, gpu, signature_only, revocation_if_present;
    int64_t max_age_s; /* -1: not asked */
    uint8_t sim_root[32];
    bool has_sim_root;
    uint8_t digest[32]; /* SHA-256 of its bytes */
    struct st_tlog_keys log;
    bool has_log;
    const json_t *logged;            /* borrowed, as the lists above */
    struct st_statement *statements; /* owned: what the proofs prove */
    size_t n_statement;
    unsigned min_nodes;
};

/* Fills the last six. INPUT; VERIFY for a proof that does not hold. */
int st_policy_read_log(struct st_policy *p, const char *where, struct st_err *e) ST_MUST_CHECK;
bool st_policy_must_be_logged(const struct st_policy *p, const char *claim);
/* The proved statement that a claim has this value (hex: in any case); NULL = there is none. */
const struct st_statement *st_policy_find_statement(const struct st_policy *p, const char *claim, const char *value,
                                                    bool hex);

#endif
