/* A child process, for demos and benches: `sotto ARGS...` or a program beside it, its standard output in a pipe. The
 * child gets an environment without SOTTO_ variables, reads no config file, and dies with its parent. */
#ifndef ST_CLI_CHILD_H
#define ST_CLI_CHILD_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct st_child {
    pid_t pid; /* 0 = none */
    int out;   /* reading end of its standard output */
};

/* program: NULL = this one, a name beside it, or a path (with a slash). args: NULL-ended, without the program's name.
 * IO.
 */
int st_child_start(const char *program, const char *const *args, struct st_child *out, struct st_err *e) ST_MUST_CHECK;
/* First line of its output into line[cap] without the newline. IO when it ends or says nothing for `seconds`. */
int st_child_line(struct st_child *c, double seconds, char *line, size_t cap, struct st_err *e) ST_MUST_CHECK;
/* Waits for its end, at most `seconds`. IO when it does not come, or with another status than 0. */
int st_child_wait(struct st_child *c, double seconds, struct st_err *e) ST_MUST_CHECK;
/* SIGTERM, then SIGKILL after two seconds; waits for it. */
void st_child_stop(struct st_child *c);
/* Where PATH has a program; false when nowhere. */
bool st_child_on_path(const char *name, char *out, size_t cap);
/* Directory of the running program. */
int st_child_program_dir(char *out, size_t cap, struct st_err *e) ST_MUST_CHECK;

#endif
