/* Fetches from a running set-up what a refusal drill tampers with: the log's checkpoint and directory, and the evidence
 * of one listed node, through relay and gateway as a client does; nothing is paid, no request is sent. Blocks. */
#ifndef ST_SERVICE_CONF_DRILL_H
#define ST_SERVICE_CONF_DRILL_H

#include "attest/policy.h"

struct st_conf_drill_opts {
    const char *relay, *log; /* URLs; log NULL = through the relay */
    const char *gateway;     /* its name in the directory; NULL = the only one */
    const char *ca_bundle;   /* NULL = the system's */
    double timeout_s;        /* of all of it */
};
struct st_conf_drill {
    struct st_buf checkpoint;     /* the log's newest, signed */
    uint8_t node[16], listed[32]; /* id; digest of its evidence as the directory names it */
    struct st_buf evidence, note; /* note: in base64, as it came */
};
/* USAGE, IO; VERIFY, INPUT: the log's word does not hold; POLICY: no such gateway, or no node. */
int st_conf_drill_fetch(const struct st_conf_drill_opts *o, const struct st_policy *policy, struct st_conf_drill *out,
                        struct st_err *e) ST_MUST_CHECK;
void st_conf_drill_free(struct st_conf_drill *d);

#endif
