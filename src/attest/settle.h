/* How verifiers put the outcome of a step into a check. */
#ifndef ST_ATTEST_SETTLE_H
#define ST_ATTEST_SETTLE_H

#include "attest/appraisal.h"

/* A check that passes when rc is 0 and else says what e does; `good` is what it says when it passes. */
static inline void st_settle(struct st_appraisal *a, const char *name, enum st_check_area area, const char *good,
                             int rc, const struct st_err *e)
{
    struct st_check *c = st_appraisal_check(a, name, "%s", rc ? e->msg : good);
    c->area = area;
    if (rc == 0)
        c->result = ST_CHECK_PASS;
}

static inline void st_settle_absent(struct st_appraisal *a, const char *name, enum st_check_area area, const char *why)
{
    struct st_check *c = st_appraisal_check(a, name, "%s", why);
    c->area = area;
    c->result = ST_CHECK_ABSENT;
}

#endif
