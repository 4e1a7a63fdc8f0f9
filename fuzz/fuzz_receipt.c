/* Any bytes as a receipt: refused, or what was read is written back as the same bytes but for the signature; and none
 * verifies. */
#include "channel/receipt.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t seed[32] = {7}; /* no receipt of the corpus is signed by it */
    struct st_err e;
    struct st_receipt r, want;
    struct st_ed25519 *k;
    uint8_t b[ST_RECEIPT_LEN];
    int64_t time;
    struct st_span bytes = {data, size};
    int rc = st_receipt_parse(bytes, &r, &e);
    if (rc && rc != ST_INPUT && rc != ST_UNSUPPORTED)
        abort();
    want = r;
    if (st_ed25519_import(seed, &k, &e) || st_receipt_sign(&want, k, b, &e))
        abort();
    if (!rc && (size != ST_RECEIPT_LEN || memcmp(b, data, 12) != 0 ||
                memcmp(b + 44, data + 44, ST_RECEIPT_LEN - 64 - 44) != 0))
        abort();
    if (st_receipt_verify(bytes, &want, &time, &e) != ST_VERIFY)
        abort(); /* the fuzzer cannot sign */
    st_ed25519_free(k);
    return 0;
}
