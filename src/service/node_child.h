/* The engine as a child of its node: named by a digest before it starts, and dead when the node is.
 *
 * Digest: SHA-256 over u32-length-prefixed (little-endian) fields: the SHA-256 of the executable file, then every word
 * of the command. For a script that is the script, not what interprets it: only a measured image holds that still.
 * What the engine prints goes to standard error until the node serves, then nowhere: it may hold prompts. */
#ifndef ST_SERVICE_NODE_CHILD_H
#define ST_SERVICE_NODE_CHILD_H

#include "base/err.h"

#include <event2/event.h>
#include <stdint.h>

struct st_node_child;
/* command: NULL-ended; its first word is looked up in PATH. Starts it. IO names the file. ended: it is no more; may be
 * called from the event loop only. */
int st_node_child_start(struct event_base *base, char *const *command,
                        void (*ended)(void *arg, const struct st_err *why), void *arg, struct st_node_child **out,
                        struct st_err *e) ST_MUST_CHECK;
void st_node_child_digest(const struct st_node_child *c, uint8_t out[32]);
/* From now on what it prints is read over. */
void st_node_child_hush(struct st_node_child *c);
/* SIGTERM, SIGKILL after five seconds, and waits for its end; in a sandbox that forbids signals it is killed when this
 * process ends. NULL is fine. */
void st_node_child_free(struct st_node_child *c);

#endif
