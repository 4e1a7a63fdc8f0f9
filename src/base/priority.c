#include "base/priority.h"

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    ANSWER_NS = 100 * 1000, /* the shortest turn that the kernel gives */
    BACKGROUND_NS = 3 * 1000 * 1000,
    BACKGROUND_NICE = 10,
    NICEST = 19,
};

/* The kernel's struct sched_attr in its first version; the C library has none before glibc 2.41. */
struct attr {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

/* False where somebody has chosen another policy for this thread, which stands. */
static bool ordinary(struct attr *a)
{
    return syscall(SYS_sched_getattr, 0, a, sizeof *a, 0) == 0 && a->policy == SCHED_OTHER;
}

static void set(struct attr *a)
{
    a->size = sizeof *a;
    (void)syscall(SYS_sched_setattr, 0, a, 0);
}

void st_priority_answer(void)
{
    struct attr a;
    if (!ordinary(&a))
        return;
    a.runtime = ANSWER_NS;
    set(&a);
}

void st_priority_background(void)
{
    struct attr a;
    if (!ordinary(&a))
        return;
    a.policy = SCHED_BATCH;
    a.nice = a.nice + BACKGROUND_NICE < NICEST ? a.nice + BACKGROUND_NICE : NICEST;
    a.runtime = BACKGROUND_NS;
    set(&a);
}
