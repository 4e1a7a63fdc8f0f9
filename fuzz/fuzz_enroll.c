/* Any bytes as a request for a certificate: nothing is granted to an endorsement key that nobody vouched for. */
#include "attest/enroll.h"

#include <openssl/ec.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t nobody[32] = {1};
    static struct st_enroll_ca ca;
    const struct st_enroll_trust t = {.digest = nobody};
    struct st_buf out = {0};
    struct st_err e;
    uint8_t ek[32];
    if (!ca.key)
        ca.key = EVP_EC_gen("P-256");
    (void)!st_enroll_ek_digest(data, size, ek, &e);
    if (st_enroll_grant(&ca, data, size, &t, 1750000000, 30, &out, &e) == 0 || out.len)
        abort();
    st_buf_free(&out);
    return 0;
}
