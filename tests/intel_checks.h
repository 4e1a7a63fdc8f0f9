/* What a test expects of the checks and claims of Intel evidence. Include expect.h first. */
#ifndef ST_TESTS_INTEL_CHECKS_H
#define ST_TESTS_INTEL_CHECKS_H

#include "attest/appraisal.h"

#include <stdio.h>
#include <string.h>

static inline const struct st_check *intel_check(const struct st_appraisal *a, const char *kind, const char *name)
{
    char full[64];
    snprintf(full, sizeof full, "%s.%s", kind, name);
    const struct st_check *c = st_appraisal_find_check(a, full);
    if (!c)
        fail_msg("no check %s", full);
    return c;
}

static inline const struct st_claim *intel_claim(const struct st_appraisal *a, const char *kind, const char *name)
{
    char full[64];
    snprintf(full, sizeof full, "%s.%s", kind, name);
    const struct st_claim *c = st_appraisal_find_claim(a, full);
    if (!c)
        fail_msg("no claim %s", full);
    return c;
}

/* The checks named (separated by blanks) have this result, all others pass. */
static inline void expect_checks(const struct st_appraisal *a, const char *kind, const char *names,
                                 enum st_check_result result)
{
    char list[256];
    size_t skip = strlen(kind) + 1;
    snprintf(list, sizeof list, " %s ", names);
    for (size_t i = 0; i < a->n_check; i++) {
        char one[80];
        const struct st_check *c = &a->checks[i];
        snprintf(one, sizeof one, " %s ", c->name + skip);
        enum st_check_result want = strstr(list, one) ? result : ST_CHECK_PASS;
        if (strncmp(c->name, kind, skip - 1) != 0 || c->result != want)
            fail_msg("%s: want %d, got %d (%s)", c->name, (int)want, (int)c->result, c->detail);
    }
}

static inline void expect_fail(const struct st_appraisal *a, const char *kind, const char *name, const char *says)
{
    const struct st_check *c = intel_check(a, kind, name);
    if (c->result != ST_CHECK_FAIL || !strstr(c->detail, says))
        fail_msg("%s: want a failure that says '%s', got %d (%s)", c->name, says, (int)c->result, c->detail);
}

#endif
