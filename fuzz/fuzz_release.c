/* Any bytes as a request to a key release service: refused, or it says the same when it is written and read again. And
 * as what such a service answers: no key comes out of it. */
#include "service/release_message.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void as_request(struct st_span text)
{
    struct st_release_request a, b;
    struct st_buf again = {0};
    struct st_err e;
    int rc = st_release_request_parse(text, &a, &e);
    if (rc) {
        if (a.body || a.evidence.memory || (rc != ST_INPUT && rc != ST_UNSUPPORTED))
            abort();
        return;
    }
    if (st_release_request_write(&a, &again, &e) ||
        st_release_request_parse((struct st_span){(const uint8_t *)again.p, again.len}, &b, &e))
        abort();
    if (memcmp(a.what.id, b.what.id, sizeof a.what.id) != 0 || a.what.version != b.what.version ||
        memcmp(a.what.digest, b.what.digest, sizeof a.what.digest) != 0 || !json_equal(a.wrap, b.wrap) != !a.wrap ||
        a.evidence.n_item != b.evidence.n_item || a.evidence.has_binding != b.evidence.has_binding)
        abort();
    st_buf_free(&again);
    st_release_request_free(&a);
    st_release_request_free(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct st_hpke_key *key;
    const struct st_span text = {data, size};
    const struct st_release_for what = {.version = 1};
    uint8_t nonce[ST_RELEASE_NONCE] = {0};
    struct st_secret out;
    struct st_err e;
    if (!key && st_hpke_key_new(st_release_suite.kem, &key, &e))
        abort();
    as_request(text);
    if (st_release_open(key, nonce, &what, text, &out, &e) == 0 || out.p)
        abort();
    (void)!st_release_challenge_parse(text, nonce, &e);
    return 0;
}
