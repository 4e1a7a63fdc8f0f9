/* What a client sees of a sealed reply: without the line feeds that fill chunks up, and of a stream whole events only,
 * so that one that breaks off can still be followed by an error. */
#ifndef ST_SERVICE_CONF_REPLY_H
#define ST_SERVICE_CONF_REPLY_H

#include "base/buf.h"

#define ST_CONF_MAX_EVENT ((size_t)4 << 20) /* a longer one is passed on in pieces */

enum st_conf_reply_kind {
    ST_CONF_REPLY_EVENTS, /* text/event-stream */
    ST_CONF_REPLY_JSON,   /* line feeds mean nothing in it */
    ST_CONF_REPLY_OTHER,  /* passed on as it is */
};
struct st_conf_reply {
    enum st_conf_reply_kind kind;
    unsigned feeds;      /* at the end of event */
    struct st_buf event; /* that is not complete yet */
};

enum st_conf_reply_kind st_conf_reply_kind(const char *type);
/* Appends to *out what the client gets of p [len]. */
void st_conf_reply_feed(struct st_conf_reply *r, const void *p, size_t len, struct st_buf *out);
/* The reply is complete: what is left. */
void st_conf_reply_end(struct st_conf_reply *r, struct st_buf *out);
void st_conf_reply_wipe(struct st_conf_reply *r);

#endif
