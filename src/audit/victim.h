/* Processes of an attack on a process: whom it attacks, and who does. As root they become an unprivileged user first,
 * whose number no account and no process has, so that nobody else is the same user, and may leave core files where the
 * system allows it. They end with the process that started them. */
#ifndef ST_AUDIT_VICTIM_H
#define ST_AUDIT_VICTIM_H

#include "base/err.h"

#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>

/* As root: the number of a user that there is not, drawn anew; else 0, which is to stay who one is. UNSUPPORTED: no
 * such number is to be had here. */
int st_victim_user(uid_t *out, struct st_err *e) ST_MUST_CHECK;

struct st_victim {
    pid_t pid; /* 0 = none */
    int out;   /* what it says */
};
/* A child of this process. In the child pid is 0, and `says` what it writes to; only calls that are safe between fork
 * and exec may follow, st_victim_become() first. IO. */
int st_victim_fork(struct st_victim *v, int *says, struct st_err *e) ST_MUST_CHECK;
/* In the child: the user of st_victim_user(), and `dir` to be in; false: it has to end. */
bool st_victim_become(const char *dir, uid_t user);
/* Waits for the first byte that it says. IO: cancelled; UNSUPPORTED: it ended, or said nothing in 30 seconds. */
int st_victim_ready(const struct st_victim *v, const volatile sig_atomic_t *cancel, struct st_err *e) ST_MUST_CHECK;
/* Nothing is found in a process that has ended by itself, which proves nothing: UNSUPPORTED. */
int st_victim_alive(struct st_victim *v, struct st_err *e) ST_MUST_CHECK;
/* By SIGKILL, or another signal; waits for its end. */
void st_victim_end(struct st_victim *v, int sig);

#endif
