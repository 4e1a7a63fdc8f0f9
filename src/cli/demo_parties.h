/* The parties of the confidential demo, each in a process of its own on loopback; the files between them (keys,
 * accounts, policies) lie in the demo's directory. Forwarders stand before relay and node, so that what these receive
 * can be shown. */
#ifndef ST_CLI_DEMO_PARTIES_H
#define ST_CLI_DEMO_PARTIES_H

#include "cli/capture.h"
#include "cli/demo.h"
#include "cli/demo_role.h"
#include "cli/demo_tpm.h"

struct st_demo_parties {
    const struct st_demo *d;
    struct st_demo_role log, witness, issuer, engine, node, gateway, relay, proxy;
    struct st_capture *to_relay, *to_node;
    struct st_demo_tpm tpm;
    struct st_child enroll; /* makes the certificate of its key */
    bool has_tpm;           /* else evidence is simulated, because: */
    char no_tpm[200];
    struct st_buf log_policy; /* the field "log" of policies */
};

/* In this order. Each waits until what the next needs serves. Errors name the party. End with st_demo_parties_end(). */
int st_demo_parties_public(struct st_demo_parties *p, const struct st_demo *d, struct st_err *e) ST_MUST_CHECK;
int st_demo_parties_provider(struct st_demo_parties *p, struct st_err *e) ST_MUST_CHECK;
int st_demo_parties_client(struct st_demo_parties *p, struct st_err *e) ST_MUST_CHECK;
/* The receipt that the proxy kept, against the evidence that it kept, by `sotto attest receipt`. */
bool st_demo_parties_receipt(const struct st_demo_parties *p);
/* The node's machine loads something else and starts its node again. */
int st_demo_parties_tamper(struct st_demo_parties *p, struct st_err *e) ST_MUST_CHECK;
/* The node is started again, with one piece of a reply every so many milliseconds ("5"). */
int st_demo_parties_cadence(struct st_demo_parties *p, const char *ms, struct st_err *e) ST_MUST_CHECK;
void st_demo_parties_end(struct st_demo_parties *p);

#endif
