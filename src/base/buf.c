#include "base/buf.h"

#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Makes room for `more` bytes and the final NUL. */
static bool reserve(struct st_buf *b, size_t more)
{
    size_t need;
    if (b->failed || !st_add_size(b->len, more, &need) || !st_add_size(need, 1, &need)) {
        b->failed = true;
        return false;
    }
    if (need <= b->cap)
        return true;
    size_t cap = b->cap ? b->cap : 64;
    while (cap < need)
        cap = cap > SIZE_MAX / 2 ? need : cap * 2;
    char *p = realloc(b->p, cap);
    if (!p) {
        b->failed = true;
        return false;
    }
    b->p = p;
    b->cap = cap;
    return true;
}

void st_buf_add(struct st_buf *b, const void *p, size_t len)
{
    if (!reserve(b, len))
        return;
    if (len)
        memcpy(b->p + b->len, p, len);
    b->len += len;
    b->p[b->len] = 0;
}

void st_buf_reserve(struct st_buf *b, size_t more)
{
    (void)reserve(b, more);
}

void *st_buf_room(struct st_buf *b, size_t len)
{
    if (!reserve(b, len))
        return NULL;
    char *p = b->p + b->len;
    b->len += len;
    b->p[b->len] = 0;
    return p;
}

void st_buf_add_str(struct st_buf *b, const char *s)
{
    st_buf_add(b, s, strlen(s));
}

void st_buf_add_u32(struct st_buf *b, uint32_t v)
{
    char digits[10];
    size_t n = sizeof digits;
    do
        digits[--n] = (char)('0' + v % 10);
    while (v /= 10);
    st_buf_add(b, digits + n, sizeof digits - n);
}

void st_buf_addf(struct st_buf *b, const char *fmt, ...)
{
    enum { LIKELY = 128 };
    va_list ap;
    va_start(ap, fmt);
    va_list again;
    va_copy(again, ap);
    if (reserve(b, LIKELY)) { /* what fits is written in one pass */
        size_t room = b->cap - b->len;
        int n = vsnprintf(b->p + b->len, room, fmt, ap);
        if (n >= 0 && (size_t)n >= room && reserve(b, (size_t)n))
            n = vsnprintf(b->p + b->len, (size_t)n + 1, fmt, again);
        if (n < 0)
            b->failed = true;
        if (!b->failed)
            b->len += (size_t)n;
        b->p[b->len] = 0;
    }
    va_end(ap);
    va_end(again);
}

void st_buf_add_word(struct st_buf *b, const char *word)
{
    bool plain =
        *word && !word[strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:=@%,+-")];
    st_buf_add_str(b, plain ? "" : "'");
    for (const char *c = word; *c; c++)
        if (*c == '\'')
            st_buf_add_str(b, "'\\''");
        else
            st_buf_add(b, c, 1);
    st_buf_add_str(b, plain ? "" : "'");
}

void st_buf_drop(struct st_buf *b, size_t n)
{
    if (!b->p || n == 0)
        return;
    memmove(b->p, b->p + n, b->len - n);
    b->len -= n;
    b->p[b->len] = 0;
}

void st_buf_clear(struct st_buf *b)
{
    b->len = 0;
    b->failed = false;
    if (b->p)
        b->p[0] = 0;
}

void st_buf_free(struct st_buf *b)
{
    free(b->p);
    *b = (struct st_buf){0};
}

void st_buf_wipe(struct st_buf *b)
{
    if (b->p)
        OPENSSL_cleanse(b->p, b->cap);
    st_buf_free(b);
}

int st_alloc(void *out, size_t n, size_t size, const char *what, struct st_err *e)
{
    size_t bytes;
    if (!st_mul_size(n, size, &bytes) || bytes > SIZE_MAX - 64)
        return st_fail(e, ST_MEMORY, "%s: %zu x %zu bytes do not fit in memory", what, n, size);
    size_t padded = (bytes + 63) & ~(size_t)63;
    void *p = aligned_alloc(64, padded ? padded : 64);
    if (!p)
        return st_fail(e, ST_MEMORY, "%s: needs %zu bytes of memory, which the system refuses", what, bytes);
    memset(p, 0, padded ? padded : 64);
    *(void **)out = p;
    return 0;
}
