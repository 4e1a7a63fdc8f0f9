#include "text/passthrough.h"
#include "text/utf8.h"

#include <stdbool.h>

#define FIRST 0x4e00u
#define SECOND 0xac00u
#define N_SECOND 512u
#define N_FIRST (ST_PASSTHROUGH_MAX_ID / N_SECOND)
#define CHAR_LEN 3 /* UTF-8 bytes of every character above */

void st_passthrough_word(uint32_t id, char out[ST_PASSTHROUGH_LEN])
{
    st_utf8_put(FIRST + id / N_SECOND, (uint8_t *)out);
    st_utf8_put(SECOND + id % N_SECOND, (uint8_t *)out + CHAR_LEN);
}

/* Whether len < CHAR_LEN bytes begin some character of lo .. lo + n - 1. Blocks of 64 share the first two bytes, and
 * both ranges consist of whole blocks. */
static bool begins(const uint8_t *p, size_t len, uint32_t lo, uint32_t n)
{
    for (uint32_t cp = lo; cp < lo + n; cp += 64) {
        uint8_t c[4];
        st_utf8_put(cp, c);
        if (c[0] == p[0] && (len < 2 || c[1] == p[1]))
            return true;
    }
    return false;
}

/* One character of lo .. lo + n - 1: 1 and its place, 0 when cut, -1 when another. */
static int next_char(const uint8_t *p, size_t len, uint32_t lo, uint32_t n, uint32_t *at)
{
    uint32_t cp;
    if (len == 0)
        return 0;
    if (len < CHAR_LEN)
        return begins(p, len, lo, n) ? 0 : -1;
    if (st_utf8_next(p, len, &cp) != CHAR_LEN || cp < lo || cp >= lo + n)
        return -1;
    *at = cp - lo;
    return 1;
}

int st_passthrough_next(const char *p, size_t len, uint32_t *id)
{
    const uint8_t *c = (const uint8_t *)p;
    uint32_t first, second;
    int got = next_char(c, len, FIRST, N_FIRST, &first);
    if (got == 1)
        got = next_char(c + CHAR_LEN, len - CHAR_LEN, SECOND, N_SECOND, &second);
    if (got != 1)
        return got;
    *id = first * N_SECOND + second;
    return ST_PASSTHROUGH_LEN;
}
