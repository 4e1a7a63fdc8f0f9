#include "service/node_stream.h"
#include "base/hooks.h"

#include <string.h>

enum { UNSENT_MAX = 256 << 10 };

/* ---- what leaves when ---- */

static void leave(struct st_node_stream *s, size_t len)
{
    st_http_stream_send(s->o.conn, s->sealed.p, len);
    st_buf_drop(&s->sealed, len);
}

/* Bytes of the first chunk that waits: a length and so many bytes, or a zero and all the rest; before the first of a
 * reply stands its nonce. */
static size_t first_chunk(const struct st_node_stream *s)
{
    const uint8_t *p = (const uint8_t *)s->sealed.p + s->nonce_len;
    const uint64_t len = st_varint_get(p);
    return len ? s->nonce_len + st_varint_len(*p) + (size_t)len : s->sealed.len;
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
    struct st_node_stream *s = arg;
    struct st_err e;
    (void)fd;
    (void)what;
    if (st_http_unsent(s->o.conn) > UNSENT_MAX) /* it reads slower than the cadence */
        return;
    if (s->sealed.len == s->nonce_len && st_reply_tick(&s->reply, &s->sealed, &e)) {
        event_del(s->tick);
        st_http_stream_cut(s->o.conn);
        s->o.ended(s->o.arg);
        return;
    }
    leave(s, first_chunk(s));
    s->nonce_len = 0;
    if (s->ending && s->sealed.len == 0) {
        event_del(s->tick);
        st_http_stream_end(s->o.conn);
        s->o.ended(s->o.arg);
    } else
        s->o.room(s->o.arg);
}

/* As produced: all that is sealed leaves. */
static void pass_on(struct st_node_stream *s)
{
    if (s->o.cadence_s > 0 || s->sealed.len == 0)
        return;
    leave(s, s->sealed.len);
}

static int start_ticks(struct st_node_stream *s, struct st_err *e)
{
    const double t = s->o.cadence_s;
    const struct timeval tv = {(time_t)t, (suseconds_t)((t - (double)(time_t)t) * 1e6)};
    s->tick = event_new(s->o.base, -1, EV_PERSIST, on_tick, s);
    return s->tick && event_add(s->tick, &tv) == 0 ? 0 : st_fail(e, ST_MEMORY, "timer: no memory");
}

/* ---- the reply ---- */

int st_node_stream_begin(struct st_node_stream *s, const struct st_node_stream_opts *o, int status, const char *type,
                         struct st_err *e)
{
    const struct st_bhttp_field field = {{(const uint8_t *)"content-type", 12}, {(const uint8_t *)type, strlen(type)}};
    const struct st_bhttp_head head = {.status = (unsigned)status, .fields = {&field, 1}};
    *s = (struct st_node_stream){.o = *o};
    int rc = st_digest_init(&s->hash, e);
    if (!rc)
        rc = st_reply_begin(&s->reply, o->x, o->chunk, &head, &s->sealed, e);
    if (!rc && o->cadence_s > 0)
        rc = start_ticks(s, e);
    if (rc)
        return rc;
    s->nonce_len = s->sealed.len; /* the head fills no chunk of ST_NODE_CHUNK_MIN bytes */
    s->reply.hash = &s->hash;
    s->begun = true;
    st_http_stream_begin(o->conn, 200, "Cache-Control: no-store\r\n", st_ohttp_reply_type(ST_OHTTP_CHUNKED));
    return 0;
}

static int add(struct st_node_stream *s, const void *p, size_t len, struct st_err *e)
{
    int rc = st_reply_content(&s->reply, p, len, &s->sealed, e);
    if (!rc && s->o.cadence_s <= 0)
        rc = st_reply_flush(&s->reply, &s->sealed, e);
    if (!rc && s->sealed.failed)
        rc = st_fail(e, ST_MEMORY, "reply: no memory");
    if (!rc)
        pass_on(s);
    return rc;
}

/* Where the last whole event ends: behind an empty line. Bytes before `from` hold no end. */
static size_t last_end(const struct st_buf *b, size_t from)
{
    for (size_t i = b->len; i > from; i--)
        if (b->p[i - 1] == '\n' &&
            ((i >= 2 && b->p[i - 2] == '\n') || (i >= 3 && b->p[i - 2] == '\r' && b->p[i - 3] == '\n')))
            return i;
    return 0;
}

int st_node_stream_events(struct st_node_stream *s, const void *p, size_t len, struct st_err *e)
{
    const size_t had = s->partial.len;
    st_buf_add(&s->partial, p, len);
    if (s->partial.failed)
        return st_fail(e, ST_MEMORY, "reply: no memory");
    const size_t end = last_end(&s->partial, had);
    if (end) {
        int rc = add(s, s->partial.p, end, e);
        st_buf_drop(&s->partial, end);
        return rc;
    }
    return s->partial.len <= ST_NODE_EVENT_MAX ? 0 : st_fail(e, ST_IO, "the engine sends an event without end");
}

int st_node_stream_whole(struct st_node_stream *s, const void *p, size_t len, struct st_err *e)
{
    st_buf_clear(&s->partial);
    return add(s, p, len, e);
}

int st_node_stream_end(struct st_node_stream *s, struct st_receipt *r, const struct st_ed25519 *k, struct st_err *e)
{
    uint8_t bytes[ST_RECEIPT_LEN];
    char hex[2 * ST_RECEIPT_LEN + 1];
    const struct st_bhttp_field field = {{(const uint8_t *)ST_RECEIPT_FIELD, strlen(ST_RECEIPT_FIELD)},
                                         {(const uint8_t *)hex, 2 * ST_RECEIPT_LEN}};
    int rc = s->partial.len ? add(s, s->partial.p, s->partial.len, e) : 0;
    st_buf_clear(&s->partial);
    s->reply.hash = NULL;
    st_digest_end(&s->hash, r->reply);
    r->time = st_unix_time();
    if (!rc)
        rc = st_receipt_sign(r, k, bytes, e);
    if (rc)
        return rc;
    st_hex(bytes, sizeof bytes, hex);
    if (st_reply_end(&s->reply, (struct st_bhttp_fields){&field, 1}, &s->sealed, e))
        return e->code;
    if (s->sealed.failed)
        return st_fail(e, ST_MEMORY, "reply: no memory");
    s->ending = true;
    if (s->o.cadence_s > 0)
        return 0;
    pass_on(s);
    st_http_stream_end(s->o.conn);
    s->o.ended(s->o.arg);
    return 0;
}

size_t st_node_stream_waiting(const struct st_node_stream *s)
{
    return s->sealed.len + (s->begun ? st_http_unsent(s->o.conn) : 0);
}

void st_node_stream_wipe(struct st_node_stream *s)
{
    if (s->tick)
        event_free(s->tick);
    st_reply_wipe(&s->reply);
    st_digest_wipe(&s->hash);
    st_buf_free(&s->sealed);
    st_buf_wipe(&s->partial);
    *s = (struct st_node_stream){0};
}
