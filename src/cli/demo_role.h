/* One program of a demo that serves: a child process on loopback, on a port chosen by the system, which says on its
 * first line where it listens. */
#ifndef ST_CLI_DEMO_ROLE_H
#define ST_CLI_DEMO_ROLE_H

#include "cli/child.h"

struct st_demo_role {
    const char *name; /* for messages */
    struct st_child child;
    char url[128];
    int port;
};

/* Starts `program` (as st_child_start()) with args (NULL-ended) and --port --json --quiet --config= behind them; does
 * not wait. port: 0 = chosen by the system. Kept until st_demo_role_stop(). IO. */
int st_demo_role_start(struct st_demo_role *r, const char *name, const char *program, const char *const *args, int port,
                       struct st_err *e) ST_MUST_CHECK;
/* Waits for the line, which fills url and port. IO: it ended, or said nothing for `seconds`; INPUT: no such line. */
int st_demo_role_ready(struct st_demo_role *r, double seconds, struct st_err *e) ST_MUST_CHECK;
void st_demo_role_stop(struct st_demo_role *r);
/* A command of this program that ends by itself; its first line. IO: it failed. */
int st_demo_command(const char *const *args, char *line, size_t cap, struct st_err *e) ST_MUST_CHECK;

#endif
