/* Bytes. `struct st_span` borrows, `struct st_buf` owns and grows. A buffer remembers an allocation failure
 * in `failed`, so that a chain of appends is checked once at the end. */
#ifndef ST_BASE_BUF_H
#define ST_BASE_BUF_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct st_span {
    const uint8_t *p;
    size_t len;
};

struct st_buf {
    char *p; /* always NUL-terminated once anything was appended */
    size_t len;
    size_t cap;
    bool failed;
};

void st_buf_add(struct st_buf *b, const void *p, size_t len);
void st_buf_add_str(struct st_buf *b, const char *s);
/* Adds len bytes that the caller writes before anything else is added; NULL (and `failed`) without memory. */
void *st_buf_room(struct st_buf *b, size_t len);
/* Makes room for so many bytes more, so that the buffer need not grow step by step. */
void st_buf_reserve(struct st_buf *b, size_t more);
void st_buf_addf(struct st_buf *b, const char *fmt, ...) ST_PRINTF(2, 3);
/* Decimal digits; for long lists of ids, where addf's two passes would show. */
void st_buf_add_u32(struct st_buf *b, uint32_t v);
/* One word of a command line, quoted where a shell needs it. */
void st_buf_add_word(struct st_buf *b, const char *word);
/* Drops the first n bytes (n <= len). */
void st_buf_drop(struct st_buf *b, size_t n);
/* Empties without freeing. */
void st_buf_clear(struct st_buf *b);
/* Frees; the buffer is usable again afterwards. */
void st_buf_free(struct st_buf *b);
/* Overwrites the bytes, then frees. */
void st_buf_wipe(struct st_buf *b);

/* Multiplications and additions of sizes from outside. Return false on overflow. */
static inline bool st_mul_size(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool st_add_size(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

/* calloc with overflow check, rounded up to 64-byte alignment; MEMORY error names `what`. Free with free(). */
int st_alloc(void *out, size_t n, size_t size, const char *what, struct st_err *e) ST_MUST_CHECK;

#endif
