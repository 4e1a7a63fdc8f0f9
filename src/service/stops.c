#include "service/stops.h"

#include <string.h>

void st_stops_init(struct st_stops *s, const char *const *strings, int n)
{
    *s = (struct st_stops){.strings = strings, .n = n};
}

/* Length of the longest end of text[len] that is a beginning of stop (but not all of it). */
static size_t partial(const char *text, size_t len, const char *stop)
{
    size_t n = strlen(stop) - 1;
    for (n = n < len ? n : len; n > 0; n--)
        if (memcmp(text + len - n, stop, n) == 0)
            return n;
    return 0;
}

bool st_stops_push(struct st_stops *s, const char *p, size_t len, struct st_buf *out)
{
    if (s->hit)
        return true;
    if (s->n == 0) {
        st_buf_add(out, p, len);
        return false;
    }
    st_buf_add(&s->held, p, len);
    if (s->held.failed || s->held.len == 0)
        return false;
    const char *first = NULL;
    size_t keep = 0;
    for (int i = 0; i < s->n; i++) {
        const char *at = memmem(s->held.p, s->held.len, s->strings[i], strlen(s->strings[i]));
        if (at && (!first || at < first))
            first = at;
        size_t n = partial(s->held.p, s->held.len, s->strings[i]);
        keep = n > keep ? n : keep;
    }
    if (first) {
        st_buf_add(out, s->held.p, (size_t)(first - s->held.p));
        s->hit = true;
        return true;
    }
    size_t certain = s->held.len - keep;
    st_buf_add(out, s->held.p, certain);
    st_buf_drop(&s->held, certain);
    return false;
}

void st_stops_end(struct st_stops *s, struct st_buf *out)
{
    if (!s->hit && s->held.len)
        st_buf_add(out, s->held.p, s->held.len);
    st_buf_clear(&s->held);
}

void st_stops_wipe(struct st_stops *s)
{
    st_buf_wipe(&s->held);
}
