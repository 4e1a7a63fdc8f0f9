/* What Intel writes into a PCK certificate beside its key: the extension 1.2.840.113741.1.13.1, which names the kind of
 * platform and its patch level. Read strictly from DER: definite, minimal lengths, no byte left over, no field twice.
 * Source: Intel SGX PCK Certificate and Certificate Revocation List Profile Specification, section 1.3.5. */
#ifndef ST_ATTEST_PCK_H
#define ST_ATTEST_PCK_H

#include "base/buf.h"

#include <openssl/x509.h>

struct st_pck {
    uint8_t fmspc[6], pce_id[2];
    uint8_t svn[16]; /* of the SGX TCB components */
    uint16_t pce_svn;
};
/* INPUT names the field. */
int st_pck_read(X509 *cert, struct st_pck *out, struct st_err *e) ST_MUST_CHECK;
/* The extension's content by itself. */
int st_pck_parse(struct st_span der, struct st_pck *out, struct st_err *e) ST_MUST_CHECK;

#endif
