/* Base64 (RFC 4648, section 4): the padded form without line breaks, and its canonical text only. */
#ifndef ST_TEXT_BASE64_H
#define ST_TEXT_BASE64_H

#include "base/buf.h"

/* Appends the bytes of s[len] to out; false when it is not base64 (the empty text is none). */
bool st_base64_decode(const char *s, size_t len, struct st_buf *out) ST_MUST_CHECK;
/* Appends the text of p[len]. */
void st_base64_encode(const void *p, size_t len, struct st_buf *out);

#endif
