/* Waiting for one descriptor, until a deadline. */
#ifndef ST_NET_WAIT_H
#define ST_NET_WAIT_H

#include "base/err.h"

/* events: of poll(2). Errors and ends of a connection wake, too: the next call on it says so. deadline: seconds of
 * st_now(). IO `timed out`. */
int st_net_wait(int fd, short events, double deadline, struct st_err *e) ST_MUST_CHECK;

#endif
