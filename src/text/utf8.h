/* UTF-8, strict: no overlong forms, no surrogates, nothing above U+10FFFF. */
#ifndef ST_TEXT_UTF8_H
#define ST_TEXT_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decodes one code point at p[len]; returns its length in bytes, 0 if invalid or cut. */
size_t st_utf8_next(const uint8_t *p, size_t len, uint32_t *cp);
/* Writes cp to out[4]; returns the length. */
size_t st_utf8_put(uint32_t cp, uint8_t *out);
bool st_utf8_valid(const void *p, size_t len);
/* Length of the longest prefix that does not end inside a character. Bytes that can never become valid count
 * as complete, so that a stream never stalls; only a possible beginning of a character is held back. */
size_t st_utf8_complete(const void *p, size_t len);

#endif
