/* What results of the library's functions are expected to be: success, or a refusal that says what it must. */
#ifndef ST_TESTS_EXPECT_H
#define ST_TESTS_EXPECT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/err.h"

#include <string.h>

static inline void assert_ok(int rc, const struct st_err *e)
{
    if (rc)
        fail_msg("error %d: %s", rc, e->msg);
}

static inline void expect_refusal(int rc, const struct st_err *e, int code, const char *says)
{
    if (rc != code || !strstr(e->msg, says))
        fail_msg("want %d '%s', got %d '%s'", code, says, rc, e->msg);
}

#endif
