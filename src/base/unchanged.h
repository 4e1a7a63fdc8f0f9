/* Files as they were when work on them began, to tell at its end whether somebody wrote to them meanwhile: device,
 * inode, size, and the times of content and of inode, the latter of which nobody can set back. What was written through
 * a shared map before is written out first, since the kernel notes the time of such a write only once until then.
 * Limit: kernels before 6.13 note times in steps of some milliseconds. */
#ifndef ST_BASE_UNCHANGED_H
#define ST_BASE_UNCHANGED_H

#include "base/err.h"

#include <stddef.h>

struct st_unchanged {
    struct st_unchanged_file *at; /* [n] */
    size_t n;
};

/* From {0}. IO: is not there; MEMORY. */
int st_unchanged_add(struct st_unchanged *s, const char *path, struct st_err *e) ST_MUST_CHECK;
/* INPUT names the first file that changed, was replaced or is gone. */
int st_unchanged_check(const struct st_unchanged *s, struct st_err *e) ST_MUST_CHECK;
void st_unchanged_free(struct st_unchanged *s);

#endif
