/* A GPU's report made for a test: request, response with one measurement, opaque data, signature. Include expect.h
 * first.
 */
#ifndef ST_TESTS_GPU_MAKE_H
#define ST_TESTS_GPU_MAKE_H

#include "base/buf.h"

#include <openssl/bn.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <string.h>

static inline void gpu_report(EVP_PKEY *key, const uint8_t nonce[32], struct st_buf *b)
{
    uint8_t measurement[48];
    st_buf_clear(b);
    st_buf_add(b, "\x11\xe0\x01\xff", 4);
    st_buf_add(b, nonce, 32);
    st_buf_add(b, "\0\x11\x60\0\0\x01\x37\0\0", 9); /* slot; response with one block of 55 bytes */
    st_buf_add(b, "\1\1\x33\0\1\x30\0", 7);
    memset(measurement, 0x77, sizeof measurement);
    st_buf_add(b, measurement, sizeof measurement);
    st_buf_add(b, nonce, 32); /* the GPU's own nonce: any */
    st_buf_add(b,
               "\x0e\0\3\0\x0a\0"
               "550.90.07",
               16); /* opaque data: the driver's version */
    uint8_t der[128], raw[96];
    size_t len = sizeof der;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    assert_int_equal(EVP_DigestSignInit(ctx, NULL, EVP_sha384(), NULL, key), 1);
    assert_int_equal(EVP_DigestSign(ctx, der, &len, (const uint8_t *)b->p, b->len), 1);
    EVP_MD_CTX_free(ctx);
    const uint8_t *at = der;
    ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &at, (long)len);
    BN_bn2binpad(ECDSA_SIG_get0_r(sig), raw, 48);
    BN_bn2binpad(ECDSA_SIG_get0_s(sig), raw + 48, 48);
    ECDSA_SIG_free(sig);
    st_buf_add(b, raw, sizeof raw);
}

#endif
