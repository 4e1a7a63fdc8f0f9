/* What a log entry says about a release: that evidence of it has this value of a claim.
 *
 *   {"version": 1, "kind": "measurement", "claim": "tdx.mrtd", "value": HEX, "release": TEXT}
 *
 * That it stands in the log proves only that everybody can see it; whether the release is good is for those who look.
 * Hostile input. */
#ifndef ST_ATTEST_STATEMENT_H
#define ST_ATTEST_STATEMENT_H

#include "base/buf.h"

#define ST_STATEMENT_MAX_CLAIM 60
#define ST_STATEMENT_MAX_VALUE 128
#define ST_STATEMENT_MAX_RELEASE 200

struct st_statement {
    char claim[ST_STATEMENT_MAX_CLAIM + 1];
    char value[ST_STATEMENT_MAX_VALUE + 1]; /* hexadecimal, or other text */
    char release[ST_STATEMENT_MAX_RELEASE + 1];
};
/* INPUT, UNSUPPORTED for another version, MEMORY. */
int st_statement_parse(const void *p, size_t len, const char *where, struct st_statement *out,
                       struct st_err *e) ST_MUST_CHECK;
void st_statement_write(const struct st_statement *s, struct st_buf *out);

#endif
