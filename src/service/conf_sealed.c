#include "service/conf_sealed.h"

#include <string.h>

enum { HEAD = 1024 }; /* bytes that most heads have at most, and that sealing adds to a short message */

static struct st_span span_of(const char *s)
{
    return (struct st_span){(const uint8_t *)s, strlen(s)};
}

int st_sealed_begin(struct st_sealed *s, struct st_spares *spares, const struct st_ohttp_config *key,
                    const struct st_sealed_request *r, uint64_t max_reply, struct st_buf *out, struct st_err *e)
{
    /* Padding up to a bucket's step is what an honest peer adds at most. */
    const struct st_bhttp_limits limits = {.head = ST_SEALED_MAX_HEAD,
                                           .n_fields = ST_SEALED_MAX_FIELDS,
                                           .n_interim = 4,
                                           .content = max_reply,
                                           .padding = (uint64_t)1 << 20};
    const struct st_bhttp_head head = {.method = span_of(r->method),
                                       .scheme = span_of("https"),
                                       .authority = span_of(r->authority),
                                       .path = span_of(r->path),
                                       .fields = r->fields};
    struct st_buf text = {0};
    *s = (struct st_sealed){0};
    st_buf_reserve(&text, st_bhttp_bucket(r->content.len + HEAD));
    int rc = st_bhttp_reader_init(&s->reader, ST_BHTTP_RESPONSE, &limits, e);
    if (!rc)
        rc = st_bhttp_write(&text, ST_BHTTP_REQUEST, &head, r->content, (struct st_bhttp_fields){0}, e);
    if (!rc) {
        st_bhttp_pad(&text, 0, st_bhttp_bucket(text.len));
        rc = text.failed ? st_fail(e, ST_MEMORY, "no memory for the request") : 0;
    }
    st_buf_reserve(out, text.len + HEAD);
    if (!rc)
        rc = st_spares_begin(spares, key, &s->x, out, e);
    if (!rc)
        rc = st_ohttp_seal_all(&s->x, text.p, text.len, out, e);
    if (!rc && out->failed)
        rc = st_fail(e, ST_MEMORY, "no memory for the request");
    st_buf_wipe(&text);
    if (rc)
        st_sealed_wipe(s);
    return rc;
}

/* Text of a chunk as pieces of content. */
static int read_text(struct st_sealed *s, struct st_span text,
                     int (*content)(void *arg, struct st_span piece, struct st_err *e), void *arg, struct st_err *e)
{
    int rc = 0;
    while (!rc && text.len) {
        struct st_span piece;
        rc = st_bhttp_read(&s->reader, &text, &piece, e);
        if (!rc && piece.len)
            rc = content(arg, piece, e);
    }
    return rc;
}

int st_sealed_feed(struct st_sealed *s, const void *p, size_t len,
                   int (*content)(void *arg, struct st_span piece, struct st_err *e), void *arg, struct st_err *e)
{
    struct st_span in = {p, len};
    int rc = 0;
    while (!rc && in.len) {
        struct st_span text;
        rc = st_ohttp_open(&s->x, &in, &text, e);
        if (!rc)
            rc = read_text(s, text, content, arg, e);
    }
    return rc;
}

int st_sealed_end(struct st_sealed *s, int (*content)(void *arg, struct st_span piece, struct st_err *e), void *arg,
                  struct st_err *e)
{
    struct st_span text;
    int rc = st_ohttp_open_end(&s->x, &text, e);
    if (!rc)
        rc = read_text(s, text, content, arg, e);
    return rc ? rc : st_bhttp_read_end(&s->reader, e);
}

unsigned st_sealed_status(const struct st_sealed *s)
{
    const struct st_bhttp_head *h = st_bhttp_head(&s->reader);
    return h ? h->status : 0;
}

void st_sealed_wipe(struct st_sealed *s)
{
    st_ohttp_wipe(&s->x);
    st_bhttp_reader_wipe(&s->reader);
}
