/* Limits that an audit's rows must keep, for CI of people who deploy:
 *     {"version": 1, "limits": [{"attack": "row-sort", "variant": "tight", "max": 0.05}, ...]}
 * attack "*" is any; variant is optional: a row's variant must begin with it, up to its end or a comma. `comment` is
 * allowed anywhere, other fields are refused. A row is over its limit when the lower end of its 95 % interval is above
 * max: what chance could have done does not fail a build. A limit that no row meets fails too, or a renamed attack
 * would pass for ever. Hostile input. */
#ifndef ST_AUDIT_GATE_H
#define ST_AUDIT_GATE_H

#include "audit/rows.h"

#define ST_GATE_MAX 512
struct st_gate_limit {
    char attack[64], variant[112]; /* "" = any */
    double max;
};
struct st_gate {
    struct st_gate_limit limits[ST_GATE_MAX];
    size_t n;
};
/* INPUT names the field. */
int st_gate_parse(const void *p, size_t len, const char *where, struct st_gate *out, struct st_err *e) ST_MUST_CHECK;
/* POLICY names the rows that exceed a limit (the first few), or the limit without a row. */
int st_gate_judge(const struct st_gate *g, const struct st_rows *rows, struct st_err *e) ST_MUST_CHECK;

#endif
