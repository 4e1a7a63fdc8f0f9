/* What `sotto audit demo` looks at: from one model it makes, in a private temporary directory, an obfuscated checkpoint
 * of each preset and some with noise, a recording of a worker's view under each scheme of masks, a sealed file,
 * and traffic of the confidential path.
 * Keys come from the seed, so that the same seed gives the same checkpoints; masks are from the system's randomness
 * and nothing else, by design, so that recordings differ from run to run. Nothing of it stays. */
#ifndef ST_CLI_AUDIT_DEMO_H
#define ST_CLI_AUDIT_DEMO_H

#include "audit/target.h"
#include "audit/traffic.h"
#include "cli/demo.h"

#define ST_AUDIT_DEMO_ASKED 12
struct st_running;
struct st_audit_demo {
    struct st_demo d;
    struct st_running *running;                    /* a set-up of the confidential path; NULL = none */
    struct st_subject *subject;                    /* of all that was made; borrowed by the audit until end */
    struct st_traffic *traffic;                    /* of the confidential path, simulated in process */
    struct st_asked asked[3][ST_AUDIT_DEMO_ASKED]; /* with replies, under each scheme of masks */
};
struct st_audit_demo_opts {
    const char *model, *text, *prior; /* NULL = the demo model; texts of audit/text.h */
    uint64_t seed;
    bool thorough;  /* a longer series of noise */
    bool running;   /* traffic of a set-up that runs too: takes seconds, and the other programs */
    unsigned kinds; /* of st_target_kind: what the chosen attacks need, nothing else is made */
};
/* Errors of the parts. After an error, too, call end. */
int st_audit_demo_begin(struct st_audit_demo *a, const struct st_cli *cli, const struct st_audit_demo_opts *o,
                        struct st_err *e) ST_MUST_CHECK;
void st_audit_demo_end(struct st_audit_demo *a);

#endif
