/* Any bytes as a key file: refused, or a key. Once more with a right checksum, so that what lies behind it is reached.
 */
#include "crypto/digest.h"
#include "protect/covariant/key.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void parse(const uint8_t *p, size_t len, bool summed)
{
    struct st_err e = {0};
    struct st_cov_key k;
    static const uint8_t digest[32];
    char hex[65];
    int rc = st_cov_key_parse(p, len, "fuzz", &k, &e);
    if (rc && rc != ST_INPUT && rc != ST_UNSUPPORTED)
        abort();
    if (summed && rc == ST_INPUT && memcmp(p, "SOTTOKEY", 8) == 0)
        abort(); /* only version and kdf can be wrong here, and both are UNSUPPORTED */
    if (!rc && st_cov_key_commit(&k, digest, hex, &e))
        abort();
    st_cov_key_wipe(&k);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    parse(data, size, false);
    if (size == ST_COV_KEY_FILE_LEN) {
        uint8_t copy[ST_COV_KEY_FILE_LEN];
        memcpy(copy, data, size);
        st_sha256(copy, size - 32, copy + size - 32);
        parse(copy, size, true);
    }
    return 0;
}
