/* Any bytes as a token, as a list of change asked for and as change: refused, or written back as the same bytes; what a
 * list offers is picked within its bounds. The first byte says which. */
#include "channel/token.h"

#include <stdlib.h>
#include <string.h>

static void expect_same(struct st_buf *b, struct st_span bytes)
{
    if (b->failed || b->len != bytes.len || memcmp(b->p, bytes.p, bytes.len) != 0)
        abort();
    st_buf_free(b);
}

static void pick(const struct st_change_ask *a, uint32_t units)
{
    uint16_t place[ST_CHANGE_MAX];
    uint64_t sum = 0;
    size_t n = st_change_pick(a, units, place);
    for (size_t i = 0; i < n; i++) {
        if (place[i] >= a->n)
            abort();
        sum += a->of[place[i]].units;
    }
    if (n && sum != units)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_err e;
    struct st_buf b = {0};
    struct st_token t;
    struct st_change_ask ask;
    struct st_change_answer answer;
    if (!size)
        return 0;
    struct st_span bytes = {data + 1, size - 1};
    int rc;
    switch (data[0] % 3) {
    case 0:
        rc = st_token_parse(bytes, &t, &e);
        if (!rc) {
            st_token_write(&t, &b);
            expect_same(&b, bytes);
        }
        break;
    case 1:
        rc = st_change_ask_parse(bytes, &ask, &e);
        if (!rc) {
            st_change_ask_write(&ask, &b);
            expect_same(&b, bytes);
            pick(&ask, 1);
            pick(&ask, 448);
            pick(&ask, ST_TOKEN_MAX_UNITS);
        }
        break;
    default:
        rc = st_change_answer_parse(bytes, &answer, &e);
        if (!rc) {
            st_change_answer_write(&answer, &b);
            expect_same(&b, bytes);
        }
    }
    if (rc && rc != ST_INPUT && rc != ST_UNSUPPORTED)
        abort();
    return 0;
}
