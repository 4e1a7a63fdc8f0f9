/* Addresses of workers: tcp://HOST:PORT, tls://HOST:PORT, unix:PATH, shm:PATH. HOST is a name, an IPv4 address or an
 * IPv6 address in brackets; PORT may be left out. */
#ifndef ST_NET_ADDRESS_H
#define ST_NET_ADDRESS_H

#include "base/err.h"

#include <sys/socket.h>
#include <sys/un.h>

enum st_address_kind { ST_ADDRESS_TCP, ST_ADDRESS_TLS, ST_ADDRESS_UNIX, ST_ADDRESS_SHM };

struct st_address {
    enum st_address_kind kind;
    char host[256]; /* tcp, tls; without brackets */
    int port;
    struct sockaddr_un path; /* unix, shm */
};
/* Port 0 is allowed: a listener lets the system choose. USAGE names the address and what is wrong with it. */
int st_address_parse(const char *text, int default_port, struct st_address *out, struct st_err *e) ST_MUST_CHECK;

#endif
