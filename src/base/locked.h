/* One large area for secrets that are made and used in bulk: locked into RAM, left out of core dumps, and emptied by
 * the kernel in a forked child. Zeroed at first; pages come into being, and are locked, when they are first written.
 * (base/secret.h is for keys: small, and refused outright where it cannot be locked.)
 * With `secretmem` it is memory of memfd_secret(2) where the kernel and the limit on locked memory allow it, which the
 * kernel itself does not map and which neither ptrace nor /proc/PID/mem reads; a forked child does not have it at all.
 *
 * Where the limit on locked memory forbids it, the area is still allowed on a system without swap, since nothing can
 * be written out there; not with `secretmem`, then it takes allow_unlocked. Limit: hibernation and the host of a
 * virtual machine that is not confidential see it; and the kernel may move a locked page (compaction, and with `huge`
 * the making of large pages), freeing the old one unwiped: a copy then lies in free memory until it is used again. */
#ifndef ST_BASE_LOCKED_H
#define ST_BASE_LOCKED_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct st_locked {
    uint8_t *p; /* page-aligned; all zeros in a forked child */
    size_t len;
    bool locked;
    bool secretmem; /* of memfd_secret; then it is locked too */
};

struct st_locked_opts {
    const char *what;    /* "pads", for messages */
    const char *swaps;   /* table of swap areas; NULL = /proc/swaps */
    bool allow_unlocked; /* even where it would be refused: the system swaps, or secretmem */
    bool secretmem;      /* try memfd_secret first; and what can be locked in no way is refused without swap, too */
    bool huge; /* in pages of 2 MiB where the system has them: for areas read in long pieces, most of it used */
};

/* MEMORY; UNSUPPORTED: the kernel cannot empty it in a forked child; POLICY: cannot be locked while the system swaps,
 * names the limit. */
int st_locked_new(struct st_locked *a, size_t len, const struct st_locked_opts *o, struct st_err *e) ST_MUST_CHECK;
/* Whether every area that this process made so far could be locked. */
bool st_locked_all(void);
/* Overwrites it, then unmaps it. */
void st_locked_free(struct st_locked *a);

#endif
