/* Reference measurements of NVIDIA GPUs: a signed SWID tag in XML (ISO/IEC 19770-2, TCG RIM information model), one for
 * the driver and one for the VBIOS. Hostile input: read by libxml2 without network, entities or document types; only
 * the one form of XML signature is accepted that NVIDIA writes (enveloped over the whole document, canonical XML 1.1,
 * SHA-384, ECDSA P-384), so that what is read is what was signed. The last good ones are remembered, by the digest of
 * all their bytes and of the roots, until a date in their certificates passes; safe to call from several threads. */
#ifndef ST_ATTEST_RIM_H
#define ST_ATTEST_RIM_H

#include "crypto/x509.h"

#define ST_RIM_MAX_BYTES ((size_t)1 << 20)
#define ST_RIM_HASH 48
#define ST_RIM_MAX_INDEX 256
#define ST_RIM_MAX_VALUES 1024 /* of all measurements */

struct st_rim_value {
    uint8_t index; /* of the measurement, from 0: block index of the report minus 1 */
    uint8_t hash[ST_RIM_HASH];
};
struct st_rim {
    char version[64];                              /* of the driver ("550.90.07") or of the VBIOS ("96.00.9F.00.01") */
    struct st_rim_value values[ST_RIM_MAX_VALUES]; /* active ones; several of one index are alternatives */
    size_t n_value;
    int64_t until; /* what st_x509_verify() says of its certificates */
};
/* INPUT: malformed. VERIFY: the signature, or the chain of its certificate to `roots` at `time`. */
int st_rim_read(const void *p, size_t len, const struct st_certs *roots, int64_t time, struct st_rim *out,
                struct st_err *e) ST_MUST_CHECK;

#endif
