/* Notices that this virtual machine was started from a snapshot: whoever starts one snapshot twice would see the same
 * pads used twice. The hypervisor changes the machine's generation id, and the kernel tells: all kernels since 5.18 by
 * a line of the kernel log ("crng reseeded due to virtual machine fork"), some by a uevent (NEW_VMGENID; mainline took
 * it back in 6.9). The log is read here, or uevents where it cannot be read, without blocking; lines and messages that
 * a program sent are told apart and ignored, lost ones count as a change.
 *
 * Limits: a hypervisor without such a device, or one that does not want to, tells nobody; st_vmgen_describe() says
 * what is watched. Between the start and the kernel's line there is a moment in which nobody knows.
 * Not thread-safe. Source: drivers/virt/vmgenid.c, drivers/char/random.c and Documentation/ABI/testing/dev-kmsg of
 * Linux. */
#ifndef ST_PROTECT_MASKED_VMGEN_H
#define ST_PROTECT_MASKED_VMGEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define ST_VMGEN_SOURCES 2

/* Where messages come from; tests supply their own. */
struct st_vmgen_source {
    /* Copies the next message; its length, 0 = none waits, -1 = some were lost. Does not block. */
    ssize_t (*read)(void *ctx, void *buf, size_t cap, bool *from_kernel);
    void *ctx;
};

struct st_vmgen {
    struct st_vmgen_source sources[ST_VMGEN_SOURCES];
    int n_source;
    int log, uevent; /* of the kernel, or -1 */
    const char *text;
};

/* Watches the kernel; *v must stay where it is until close. Never fails: where nothing can be watched,
 * st_vmgen_describe() says why. */
void st_vmgen_open(struct st_vmgen *v);
void st_vmgen_open_source(struct st_vmgen *v, const struct st_vmgen_source *s);
void st_vmgen_close(struct st_vmgen *v);
/* True when the generation has changed, or may have, since the last call. One system call when nothing has. */
bool st_vmgen_changed(struct st_vmgen *v);
/* "watched", or "not watched: ..."; static. */
const char *st_vmgen_describe(const struct st_vmgen *v);

#endif
