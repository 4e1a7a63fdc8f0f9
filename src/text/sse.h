/* Server-sent events from bytes (WHATWG HTML, section 9.2): only the data of each event; other fields and comments are
 * read over. Limit: `max` bytes for one line and for one event. */
#ifndef ST_TEXT_SSE_H
#define ST_TEXT_SSE_H

#include "base/buf.h"

struct st_sse {
    size_t max;
    struct st_buf line, data;
    bool has_data, after_cr;
};

void st_sse_init(struct st_sse *s, size_t max);
/* Calls on_event for each complete event, data lines joined by '\n'; a value other than 0 from it ends the feed and is
 * returned. INPUT when a line or an event is too long. */
int st_sse_feed(struct st_sse *s, const void *p, size_t len,
                int (*on_event)(void *arg, const char *data, size_t len, struct st_err *e), void *arg,
                struct st_err *e) ST_MUST_CHECK;
void st_sse_wipe(struct st_sse *s);

#endif
