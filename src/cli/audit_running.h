/* Traffic of a confidential set-up that runs: every role in a process of its own (cli/demo_parties.h), the same prompts
 * asked through proxy, relay, gateway and node, and of the engine directly. What passed before the relay and before the
 * engine is what attacks on sizes and times look at; keys, tokens and picks are not in it.
 *
 * Starting the roles is mostly waiting for each other, so it goes on beside other work, on a thread of its own. Nothing
 * is asked before st_audit_running_record(), during which the caller lets nothing else compute: times are recorded. */
#ifndef ST_CLI_AUDIT_RUNNING_H
#define ST_CLI_AUDIT_RUNNING_H

#include "cli/demo.h"

struct st_running;
/* Begins to start all of it, in the demo's directory; d is kept until end. What goes wrong is said by record. MEMORY.
 */
int st_audit_running_begin(const struct st_demo *d, struct st_running **out, struct st_err *e) ST_MUST_CHECK;

struct st_audit_asked {
    const struct st_texts_ids *text; /* of each document one half is a prompt; replies of different lengths */
    const struct st_tokenizer *tokenizer;
    size_t n_prompt, n_round;
};
struct st_traffic_asked;
/* Waits until all is ready, asks, and ends it. *out is the caller's to keep in a struct st_traffic, after an error too.
 * IO names the role; INPUT: no two documents, or what passed is no exchange. Once. */
int st_audit_running_record(struct st_running *r, const struct st_audit_asked *o, struct st_traffic_asked *out,
                            struct st_err *e) ST_MUST_CHECK;
/* Ends what still runs; NULL is fine. */
void st_audit_running_end(struct st_running *r);

#endif
