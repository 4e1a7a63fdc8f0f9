#include "text/sse.h"

#include <string.h>

void st_sse_init(struct st_sse *s, size_t max)
{
    *s = (struct st_sse){.max = max};
}

void st_sse_wipe(struct st_sse *s)
{
    st_buf_wipe(&s->line);
    st_buf_wipe(&s->data);
}

/* One line without its end. */
static int end_line(struct st_sse *s, int (*on_event)(void *arg, const char *data, size_t len, struct st_err *e),
                    void *arg, struct st_err *e)
{
    int rc = 0;
    const char *p = s->line.p;
    size_t len = s->line.len;
    if (len == 0) {
        /* An empty line ends the event. */
        if (s->has_data)
            rc = on_event(arg, s->data.p ? s->data.p : "", s->data.len, e);
        s->has_data = false;
        st_buf_clear(&s->data);
        return rc;
    }
    if (len >= 4 && memcmp(p, "data", 4) == 0 && (len == 4 || p[4] == ':')) {
        size_t skip = len == 4 ? 4 : 5;
        skip += skip < len && p[skip] == ' ';
        if (s->data.len + len > s->max)
            rc = st_fail(e, ST_INPUT, "event stream: an event of more than %zu bytes", s->max);
        else {
            if (s->has_data)
                st_buf_add(&s->data, "\n", 1);
            st_buf_add(&s->data, p + skip, len - skip);
            s->has_data = true;
        }
    }
    st_buf_clear(&s->line);
    return rc;
}

int st_sse_feed(struct st_sse *s, const void *p, size_t len,
                int (*on_event)(void *arg, const char *data, size_t len, struct st_err *e), void *arg, struct st_err *e)
{
    const char *d = p;
    size_t at = 0;
    while (at < len) {
        if (s->after_cr && d[at] == '\n') {
            s->after_cr = false;
            at++;
            continue;
        }
        s->after_cr = false;
        size_t n = 0;
        while (at + n < len && d[at + n] != '\n' && d[at + n] != '\r')
            n++;
        if (n > s->max - s->line.len)
            return st_fail(e, ST_INPUT, "event stream: a line of more than %zu bytes", s->max);
        st_buf_add(&s->line, d + at, n);
        if (s->line.failed || s->data.failed)
            return st_fail(e, ST_MEMORY, "event stream: no memory");
        at += n;
        if (at == len)
            break;
        s->after_cr = d[at++] == '\r';
        int rc = end_line(s, on_event, arg, e);
        if (rc)
            return rc;
    }
    return 0;
}
