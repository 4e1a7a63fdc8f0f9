/* Limits that an audit's rows must keep, for CI of people who deploy:
 *     {"version": 1, "limits": [{"attack": "row-sort", "variant": "tight", "max": 0.05, "min_n": 100}, ...]}
 * attack "*" is any; variant is optional: a row's variant must begin with it, up to its end or a comma. `comment` is
 * allowed anywhere, other fields are refused. A row is over its limit when the lower end of its 95 % interval is above
 * max: what chance could have done does not fail a build. min_n (optional): how many things a row must have counted,
 * for the interval of few is wide, and holds whatever one likes. A limit that no row meets fails too, or a renamed
 * attack would pass for ever; so does one of an attack that failed or lacked memory. Hostile input. */
#ifndef ST_AUDIT_GATE_H
#define ST_AUDIT_GATE_H

#include "audit/audit.h"

#define ST_GATE_MAX 512
struct st_gate_limit {
    char attack[64], variant[112]; /* "" = any */
    double max;
    int64_t min_n; /* 0 = any */
};
struct st_gate {
    struct st_gate_limit limits[ST_GATE_MAX];
    size_t n;
};
/* INPUT names the field. */
int st_gate_parse(const void *p, size_t len, const char *where, struct st_gate *out, struct st_err *e) ST_MUST_CHECK;
/* POLICY names the rows that exceed a limit or counted too little (the first few), or the limit without a row, or the
 * attack that could not be run. What an attack finds nothing to attack in is no reason. */
int st_gate_judge(const struct st_gate *g, const struct st_findings *f, struct st_err *e) ST_MUST_CHECK;

#endif
