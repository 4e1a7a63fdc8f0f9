/* The nine gaps of a verifier (atk_gaps.c), as questions to ours. */
#ifndef ST_AUDIT_ATK_GAPS_H
#define ST_AUDIT_ATK_GAPS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ST_GAPS 9
struct st_gap_found {
    unsigned n, accepted, weak; /* ways tried; accepted; accepted by a verifier without the checks that close them */
    const char *first;          /* way that was accepted; NULL = none */
    char held[220];             /* way that even the weak verifier refused, and why; "" = none */
};
/* Gap number 1..9. INTERNAL: the right evidence is refused, so that a refusal says nothing. */
int st_gap_try(unsigned gap, struct st_gap_found *out, struct st_err *e) ST_MUST_CHECK;

#endif
