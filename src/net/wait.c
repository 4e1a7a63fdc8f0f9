#include "net/wait.h"

#include "base/hooks.h"

#include <poll.h>
#include <time.h>

int st_net_wait(int fd, short events, double deadline, struct st_err *e)
{
    struct pollfd p = {.fd = fd, .events = events};
    for (;;) {
        double left = deadline - st_now();
        if (left < 0)
            left = 0;
        if (left > 3600) /* what a timespec holds without a thought */
            left = 3600;
        struct timespec t = {.tv_sec = (time_t)left, .tv_nsec = (long)((left - (double)(time_t)left) * 1e9)};
        if (ppoll(&p, 1, &t, NULL) > 0)
            return 0;
        if (st_now() >= deadline)
            return st_fail(e, ST_IO, "timed out");
    }
}
