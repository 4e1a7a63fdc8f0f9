/* Memory for keys: locked into RAM, kept out of core dumps and forked children, wiped before it is freed. Never copied
 * by value. Limit: another process with the same user id and ptrace rights can still read it, unless
 * st_secret_process() was called. */
#ifndef ST_BASE_SECRET_H
#define ST_BASE_SECRET_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct st_secret {
    uint8_t *p;
    size_t len;
    size_t mapped;
};

int st_secret_init(struct st_secret *s, size_t len, struct st_err *e) ST_MUST_CHECK;
void st_secret_wipe(struct st_secret *s);

/* For programs that hold keys or conversations: no core dump of this process, and no reading of its memory by other
 * processes of the same user (CAP_SYS_PTRACE still can). Does not outlast exec. */
void st_secret_process(void);
/* The same, and no core for any program that this process starts or becomes either. */
void st_secret_process_for_good(void);

/* Whether a call that locks memory, or keeps it out of dumps or children, has failed with `rc` and errno. Every Linux
 * has these calls: one that does not know them (ENOSYS) is a library OS inside of an enclave (Gramine), whose memory
 * nobody outside reads and which dumps nothing. */
bool st_memory_refused(int rc);

#endif
