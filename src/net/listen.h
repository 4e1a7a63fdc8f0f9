/* Listening sockets and addresses, for the servers of this folder. */
#ifndef ST_NET_LISTEN_H
#define ST_NET_LISTEN_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

/* Binds host (name, IPv4, IPv6 with or without brackets) and listens; *fd is owned, non-blocking. *bound is the port.
 * USAGE: host is unknown; IO: `host:port: address already in use`. */
int st_net_listen(const char *host, int port, int *fd, int *bound, struct st_err *e) ST_MUST_CHECK;
/* True when every address of host is a loopback one. */
bool st_net_is_loopback(const char *host);
/* "127.0.0.1", "[::1]", or "local" for anything else. */
void st_net_name(const struct sockaddr *a, socklen_t len, char *out, size_t cap);
/* What one party is likely to have to itself: an IPv4 address, the first 64 bits of an IPv6 one; 0 for anything else.
 */
uint64_t st_net_source(const struct sockaddr *a, socklen_t len);
/* No delay, keep-alive. */
void st_net_tune(int fd);

#endif
