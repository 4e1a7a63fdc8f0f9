/* Random damage for tests of parsers: the same seed gives the same damage. */
#ifndef ST_TESTS_MUTATE_H
#define ST_TESTS_MUTATE_H

#include "base/hooks.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static inline size_t mutate_below(struct st_rng *r, size_t n)
{
    return n ? (size_t)(st_rng_next(r) % n) : 0;
}

/* A damaged copy of p[len] in a block of exactly *out_len bytes (at least one), so that a sanitizer sees every read
 * past its end. Half of the damage lands in the first `hot` bytes (a header). Free with free(). */
static inline uint8_t *mutate(struct st_rng *r, const void *p, size_t len, size_t hot, size_t *out_len)
{
    static const char marks[] = "{}[]\",:-.0123456789eE\\/ \n\0\377";
    uint8_t *b = malloc(len + 64);
    memcpy(b, p, len);
    for (size_t n = 1 + mutate_below(r, 3); n; n--) {
        size_t at = mutate_below(r, st_rng_next(r) & 1 && hot < len ? hot : len);
        size_t span = 1 + mutate_below(r, 16);
        switch (mutate_below(r, 6)) {
        case 0: /* one bit */
            if (len)
                b[at] ^= (uint8_t)(1u << mutate_below(r, 8));
            break;
        case 1: /* one byte */
            if (len)
                b[at] = (uint8_t)st_rng_next(r);
            break;
        case 2: /* a byte that means something */
            if (len)
                b[at] = (uint8_t)marks[mutate_below(r, sizeof marks - 1)];
            break;
        case 3: /* remove a span */
            if (span <= len - at) {
                memmove(b + at, b + at + span, len - at - span);
                len -= span;
            }
            break;
        case 4: /* repeat a span: at most 16 bytes more each time, 48 in all */
            if (span <= len - at) {
                memmove(b + at + span, b + at, len - at);
                len += span;
            }
            break;
        default: /* cut */
            if (mutate_below(r, 8) == 0)
                len = at;
        }
    }
    uint8_t *exact = malloc(len ? len : 1);
    memcpy(exact, b, len);
    free(b);
    *out_len = len;
    return exact;
}

#endif
