/* Any bytes as a node's sealed reply, cut by the first byte: the pieces together are the beginning of the bytes, each a
 * chunk, and the same however they come. */
#include "channel/chunks.h"
#include "service/gateway_split.h"

#include <stdlib.h>
#include <string.h>

/* Appends the pieces to out and their lengths to cuts; 0 when the reply is whole. */
static int split(const uint8_t *p, size_t len, size_t step, struct st_buf *out, struct st_buf *cuts)
{
    struct st_gateway_split s;
    struct st_span piece;
    struct st_err e;
    int rc = 0;
    st_gateway_split_init(&s, 16);
    for (size_t at = 0; !rc && at < len; at += step) {
        struct st_span in = {p + at, len - at < step ? len - at : step};
        while (!rc && in.len) {
            rc = st_gateway_split_next(&s, &in, &piece, &e);
            if (rc || !piece.len)
                continue;
            if (piece.len > 16 + ST_VARINT_MAX + ST_CHUNK_TEXT_MAX + ST_SEQUENCE_TAG)
                abort();
            st_buf_add(out, piece.p, piece.len);
            st_buf_addf(cuts, "%zu ", piece.len);
        }
    }
    if (!rc)
        rc = st_gateway_split_end(&s, &piece, &e);
    if (!rc)
        st_buf_add(out, piece.p, piece.len);
    if (rc && rc != ST_INPUT)
        abort();
    st_gateway_split_wipe(&s);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_buf a = {0}, b = {0}, cuts_a = {0}, cuts_b = {0};
    if (size < 1)
        return 0;
    size_t len = size - 1;
    int whole = split(data + 1, len, size, &a, &cuts_a), cut = split(data + 1, len, 1u + data[0], &b, &cuts_b);
    if (whole != cut || a.len != b.len || cuts_a.len != cuts_b.len || a.len > len ||
        (a.len && (memcmp(a.p, data + 1, a.len) != 0 || memcmp(a.p, b.p, a.len) != 0)) ||
        (cuts_a.len && memcmp(cuts_a.p, cuts_b.p, cuts_a.len) != 0))
        abort();
    if (!whole && a.len != len)
        abort();
    st_buf_free(&a);
    st_buf_free(&b);
    st_buf_free(&cuts_a);
    st_buf_free(&cuts_b);
    return 0;
}
