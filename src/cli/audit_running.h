/* Traffic of a confidential set-up that runs: every role in a process of its own (cli/demo_parties.h), the same prompts
 * asked through proxy, relay, gateway and node, and of the engine directly. What passed before the relay and before the
 * engine is what attacks on sizes and times look at; keys, tokens and picks are not in it. */
#ifndef ST_CLI_AUDIT_RUNNING_H
#define ST_CLI_AUDIT_RUNNING_H

#include "cli/demo.h"

struct st_audit_running {
    const struct st_demo *d;         /* model, directory */
    const struct st_texts_ids *text; /* of each document one half is a prompt; replies of different lengths */
    const struct st_tokenizer *tokenizer;
    size_t n_prompt, n_round;
};
struct st_traffic_asked;
/* Starts all of it, asks, ends it. *out is the caller's to keep in a struct st_traffic, after an error too. IO names
 * the role; INPUT: no two documents, or what passed is no exchange. */
int st_audit_running(const struct st_audit_running *r, struct st_traffic_asked *out, struct st_err *e) ST_MUST_CHECK;

#endif
