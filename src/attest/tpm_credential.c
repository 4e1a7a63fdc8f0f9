#include "attest/tpm_credential.h"

#include <openssl/crypto.h>
#include <string.h>

int st_tpm_credential_make(EVP_PKEY *ek, const struct st_tpm_key *ak, const uint8_t secret[ST_TPM_CREDENTIAL_SECRET],
                           struct st_tpm_protected *out, struct st_err *e)
{
    uint8_t text[2 + ST_TPM_CREDENTIAL_SECRET] = {0, ST_TPM_CREDENTIAL_SECRET};
    if (!ak->has_name)
        return st_fail(e, ST_INPUT, "credential: want the attestation key as TPMT_PUBLIC, which has a name");
    memcpy(text + 2, secret, ST_TPM_CREDENTIAL_SECRET);
    int rc = st_tpm_protect(ek, ST_TPM_CREDENTIAL, (struct st_span){ak->name, ak->name_len},
                            (struct st_span){text, sizeof text}, out, e);
    OPENSSL_cleanse(text, sizeof text);
    return rc ? st_err_prefix(e, "credential") : 0;
}
