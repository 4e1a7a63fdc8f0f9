#include "service/conf_reply.h"

#include <string.h>
#include <strings.h>

static bool is_type(const char *type, const char *want)
{
    size_t n = strlen(want);
    return strncasecmp(type, want, n) == 0 && (!type[n] || strchr("; \t", type[n]));
}

enum st_conf_reply_kind st_conf_reply_kind(const char *type)
{
    return is_type(type, "text/event-stream")  ? ST_CONF_REPLY_EVENTS
           : is_type(type, "application/json") ? ST_CONF_REPLY_JSON
                                               : ST_CONF_REPLY_OTHER;
}

/* Everything but line feeds, run by run. */
static void feed_json(const char *p, size_t len, struct st_buf *out)
{
    while (len) {
        const char *feed = memchr(p, '\n', len);
        size_t n = feed ? (size_t)(feed - p) : len;
        st_buf_add(out, p, n);
        n += feed != NULL;
        p += n;
        len -= n;
    }
}

static void pass_event(struct st_conf_reply *r, struct st_buf *out)
{
    st_buf_add(out, r->event.p, r->event.len);
    st_buf_clear(&r->event);
    r->feeds = 0;
}

static size_t span_cr(const char *p, size_t len)
{
    size_t n = 0;
    while (n < len && p[n] == '\r')
        n++;
    return n;
}

/* Line by line: an event ends with an empty one, and line feeds before one are filler. */
static void feed_events(struct st_conf_reply *r, const char *p, size_t len, struct st_buf *out)
{
    while (len) {
        if (!r->event.len && *p == '\n') { /* most of a chunk is such filler */
            p++;
            len--;
            continue;
        }
        const char *feed = memchr(p, '\n', len);
        size_t n = feed ? (size_t)(feed - p) : len;
        bool empty = span_cr(p, n) == n;
        if (!empty)
            r->feeds = 0;
        n += feed != NULL;
        if (r->event.len || !empty) {
            st_buf_add(&r->event, p, n);
            r->feeds += feed != NULL;
            if (r->feeds == 2 || r->event.len >= ST_CONF_MAX_EVENT)
                pass_event(r, out);
        }
        p += n;
        len -= n;
    }
    if (r->event.failed)
        out->failed = true;
}

void st_conf_reply_feed(struct st_conf_reply *r, const void *p, size_t len, struct st_buf *out)
{
    if (r->kind == ST_CONF_REPLY_EVENTS)
        feed_events(r, p, len, out);
    else if (r->kind == ST_CONF_REPLY_JSON)
        feed_json(p, len, out);
    else
        st_buf_add(out, p, len);
}

void st_conf_reply_end(struct st_conf_reply *r, struct st_buf *out)
{
    pass_event(r, out);
}

void st_conf_reply_wipe(struct st_conf_reply *r)
{
    st_buf_wipe(&r->event);
    *r = (struct st_conf_reply){.kind = r->kind};
}
