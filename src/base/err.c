#include "base/err.h"

#include <stdio.h>
#include <string.h>

/* Control characters would let what is named forge lines, or talk to the terminal; in UTF-8 also U+0080 to U+009F. */
static void clean(char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            *s = '?';
        else if ((unsigned char)*s == 0xc2 && (unsigned char)s[1] >= 0x80 && (unsigned char)s[1] < 0xa0)
            s[0] = s[1] = '?';
}

int st_fail(struct st_err *e, int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    e->code = code;
    vsnprintf(e->msg, sizeof e->msg, fmt, ap);
    va_end(ap);
    clean(e->msg);
    return code;
}

int st_err_prefix(struct st_err *e, const char *fmt, ...)
{
    char head[256];
    char tail[sizeof e->msg];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(head, sizeof head, fmt, ap);
    va_end(ap);
    memcpy(tail, e->msg, sizeof tail);
    snprintf(e->msg, sizeof e->msg, "%s: %.*s", head, (int)(sizeof e->msg - strlen(head) - 3), tail);
    clean(e->msg);
    return e->code;
}

const char *st_code_word(int code)
{
    switch (code) {
#define X(name, value, word)                                                                                           \
    case value:                                                                                                        \
        return word;
        ST_CODES(X)
#undef X
    }
    return "internal";
}
