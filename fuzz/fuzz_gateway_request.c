/* Any bytes as the inner request to a gateway, cut by the first byte: refused with a status and a word, or taken as one
 * of the four requests with everything that it needs; the same however it is cut. */
#include "service/gateway_request.h"

#include <stdlib.h>
#include <string.h>

static void read_in(struct st_gateway_request *r, const uint8_t *p, size_t len, size_t step)
{
    struct st_err e;
    if (st_gateway_request_init(r, &e))
        abort();
    for (size_t at = 0; at < len; at += step)
        st_gateway_request_add(r, (struct st_span){p + at, len - at < step ? len - at : step});
    st_gateway_request_end(r);
}

static void check(const struct st_gateway_request *r)
{
    if (r->wrong) {
        if (r->wrong < 400 || r->wrong > 503 || !r->word || !*r->word)
            abort();
        return;
    }
    if (r->n_tag > ST_NODE_MAX_TAGS || r->change.n > ST_CHANGE_MAX)
        abort();
    for (size_t i = 0; i < r->n_tag; i++)
        if (!r->tags[i][0] || strlen(r->tags[i]) > ST_NODE_MAX_TAG)
            abort();
    if (r->what == ST_GATEWAY_INFER && (r->content.len < 8 || r->reply_nonce < 12 || r->reply_nonce > 32))
        abort();
    if ((r->what == ST_GATEWAY_INFER || r->what == ST_GATEWAY_ATTEST) &&
        (!r->token.units || r->token.units > ST_TOKEN_MAX_UNITS || !r->token.signature_len))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_gateway_request whole, cut;
    if (size < 1)
        return 0;
    read_in(&whole, data + 1, size - 1, size);
    read_in(&cut, data + 1, size - 1, 1u + data[0]);
    check(&whole);
    if (whole.wrong != cut.wrong || whole.what != cut.what || whole.n_tag != cut.n_tag ||
        whole.change.n != cut.change.n || whole.content.len != cut.content.len)
        abort();
    if (whole.content.len && memcmp(whole.content.p, cut.content.p, whole.content.len) != 0)
        abort();
    st_gateway_request_wipe(&whole);
    st_gateway_request_wipe(&cut);
    return 0;
}
