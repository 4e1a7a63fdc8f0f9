/* A forwarder on loopback that keeps what passes: it stands between two programs of a demo and shows what the second
 * one received. Everything of all connections in the order in which it came, up to ST_CAPTURE_MAX bytes each way; what
 * is longer is forwarded and counted only. TCP, on a thread of its own. */
#ifndef ST_CLI_CAPTURE_H
#define ST_CLI_CAPTURE_H

#include "audit/traffic_read.h"

#define ST_CAPTURE_MAX ((size_t)4 << 20)

struct st_capture;
struct st_captured {
    struct st_buf up, down;        /* towards the target, and back */
    struct st_buf marks;           /* of struct st_traffic_mark: when what is in `down` came */
    uint64_t up_bytes, down_bytes; /* all that passed */
};

/* Listens on 127.0.0.1, on a port chosen by the system, and passes everything on to port `to` there. IO, MEMORY. */
int st_capture_start(int to, struct st_capture **out, struct st_err *e) ST_MUST_CHECK;
int st_capture_port(const struct st_capture *c);
/* What came since the start or the last call. Wiped and freed by the caller. */
void st_capture_take(struct st_capture *c, struct st_captured *out);
void st_captured_wipe(struct st_captured *k);
/* Ends the connections; NULL is fine. */
void st_capture_stop(struct st_capture *c);

#endif
