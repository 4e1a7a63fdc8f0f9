/* What a relay sees of one exchange, read from the bytes that passed: the request's size, and of a reply in chunks
 * (RFC 9112 section 7.1) each chunk with the time at which its last byte came. */
#ifndef ST_AUDIT_TRAFFIC_READ_H
#define ST_AUDIT_TRAFFIC_READ_H

#include "audit/traffic.h"
#include "base/buf.h"

struct st_traffic_mark {
    size_t end; /* bytes that had come */
    double time;
};
struct st_traffic_heard {
    struct st_span up, down;             /* one request and its reply, whole */
    const struct st_traffic_mark *marks; /* [n] of down, rising */
    size_t n_mark;
    double start; /* when the request left */
};
/* overhead: bytes that a wire adds to request and chunk (a TLS record). Fills up and pieces of *out, which the caller
 * frees. INPUT: not one reply in chunks, or cut short; MEMORY. */
int st_traffic_read(const struct st_traffic_heard *h, uint32_t overhead, struct st_traffic_request *out,
                    struct st_err *e) ST_MUST_CHECK;

#endif
