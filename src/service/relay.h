/* The relay: stands between a client and a gateway, so that the gateway does not see the client's address. It passes on
 * the body and the content type of POST / to one gateway, GET /log/... to one log, and nothing else in either
 * direction: no further header, no address, no connection of a client's own (connections to the gateway are shared).
 *
 * It sees its clients' addresses, and sizes and times of sealed messages. It keeps an address as long as a request of
 * it runs, to bound how many run at once (an IPv6 client counts by its /64); it writes nothing down, and its log and
 * metrics only count. Whoever runs the gateway as well, or watches both sides, can put sizes and times together.
 *
 * Requests are taken whole before they are passed on; replies stream, and a client that reads slowly slows the
 * gateway's reply down. A gateway that cannot be reached gives 502; a reply that breaks ends as a cut. One thread. */
#ifndef ST_SERVICE_RELAY_H
#define ST_SERVICE_RELAY_H

#include "service/role.h"

struct st_relay;

struct st_relay_opts {
    struct st_role_opts listen; /* where; limits of bodies, handlers and arg are the relay's own */
    const char *gateway, *log;  /* base URLs */
    const char *ca_bundle;      /* PEM; NULL = the system's */
    uint32_t max_client;        /* requests of one address at once; 0 = 256 */
    size_t max_memory;          /* of requests on their way; 0 = 256 MiB */
    double connect_s, stall_s;  /* to the gateway; no byte of a reply for so long ends it; 0 = 10, 300 */
};

/* Opens the port. Strings of *o are kept until st_relay_free(). Errors: st_http_base(), st_role_listen(). */
int st_relay_new(const struct st_relay_opts *o, struct st_relay **out, struct st_err *e) ST_MUST_CHECK;
struct st_role *st_relay_role(struct st_relay *r); /* to run it */
void st_relay_free(struct st_relay *r);

#endif
