/* A node's sealed reply on its way out, in chunks of one size (channel/reply.h). As produced: each server-sent event
 * leaves when it is whole. On a cadence: one chunk per tick from the reply's beginning to its end, of filler where
 * there is nothing to say, so that who watches the wire sees neither when tokens come nor how many; what is produced
 * faster waits here. Before its first byte, and at its last, time still tells.
 * Everything is signed for at the end: the hash takes all content, filler too. Event thread. */
#ifndef ST_SERVICE_NODE_STREAM_H
#define ST_SERVICE_NODE_STREAM_H

#include "channel/receipt.h"
#include "channel/reply.h"
#include "crypto/digest.h"
#include "net/http_server.h"

#define ST_NODE_CHUNK_MIN 256

struct st_node_stream_opts {
    struct event_base *base;
    struct st_ohttp *x;        /* kept, as conn, until it ended or was wiped */
    struct st_http_conn *conn; /* whose reply this is */
    size_t chunk;              /* ST_NODE_CHUNK_MIN to ST_CHUNK_TEXT_MAX */
    double cadence_s;          /* 0 = as produced */
    /* The last byte was handed to the connection, which is not this stream's any more; may free the stream. */
    void (*ended)(void *arg);
    void (*room)(void *arg); /* on a cadence: less waits than before */
    void *arg;
};

struct st_node_stream {
    struct st_node_stream_opts o;
    struct st_reply reply;
    struct st_digest hash;
    struct st_buf sealed;  /* chunks that have not left yet */
    struct st_buf partial; /* of an event that is not whole yet */
    struct event *tick;
    size_t nonce_len; /* of the reply, before the first of sealed; 0 when it has left */
    bool begun, ending;
};

int st_node_stream_begin(struct st_node_stream *s, const struct st_node_stream_opts *o, int status, const char *type,
                         struct st_err *e) ST_MUST_CHECK;
/* Bytes of an event stream, cut anywhere. IO: an event longer than ST_NODE_EVENT_MAX. */
#define ST_NODE_EVENT_MAX ((size_t)8 << 20)
int st_node_stream_events(struct st_node_stream *s, const void *p, size_t len, struct st_err *e) ST_MUST_CHECK;
/* One event, or a whole value, that stands for itself; what is left of a cut event is dropped. */
int st_node_stream_whole(struct st_node_stream *s, const void *p, size_t len, struct st_err *e) ST_MUST_CHECK;
/* The end, with the receipt of r (reply and time are filled in) signed by k. `ended` comes now, or at the last tick. */
int st_node_stream_end(struct st_node_stream *s, struct st_receipt *r, const struct st_ed25519 *k,
                       struct st_err *e) ST_MUST_CHECK;
/* Bytes that wait to leave. */
size_t st_node_stream_waiting(const struct st_node_stream *s);
/* A zeroed one may be wiped. Does not touch the connection. */
void st_node_stream_wipe(struct st_node_stream *s);

#endif
