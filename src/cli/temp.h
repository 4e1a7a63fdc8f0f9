/* Directories that demos, benches and audits have while they run, in TMPDIR or /tmp. Each is locked by the process it
 * belongs to, and its children; one that nobody locks was left by a run that was killed, and the next run removes it.
 */
#ifndef ST_CLI_TEMP_H
#define ST_CLI_TEMP_H

#include "base/err.h"

struct st_temp {
    char path[64]; /* "" = there is none */
    int lock;
};

/* PREFIX-XXXXXX, after what is left of earlier runs with that prefix. IO. */
int st_temp_make(const char *prefix, struct st_temp *out, struct st_err *e) ST_MUST_CHECK;
/* With what is in it. Nothing when there is none. */
void st_temp_remove(struct st_temp *t);

#endif
