/* Apart from what holds private keys: programs without any verify signatures. */
#include "crypto/ed25519.h"

#include <openssl/evp.h>

int st_ed25519_verify(const uint8_t key[ST_ED25519_PUBLIC], const void *msg, size_t len,
                      const uint8_t signature[ST_ED25519_SIGNATURE], struct st_err *e)
{
    int rc = st_fail(e, ST_VERIFY, "ed25519: the signature is not this key's");
    EVP_PKEY *pkey = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, key, ST_ED25519_PUBLIC);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    if (pkey && ctx && EVP_DigestVerifyInit(ctx, NULL, NULL, NULL, pkey) == 1 &&
        EVP_DigestVerify(ctx, signature, ST_ED25519_SIGNATURE, msg, len) == 1)
        rc = 0;
    EVP_MD_CTX_free(ctx);
    EVP_PKEY_free(pkey);
    return rc;
}
