/* What AMD writes into the certificate of a key that signs SEV-SNP reports: of one chip (VCEK) or of a cloud (VLEK).
 * Source: AMD, Versioned Chip Endorsement Key Certificate and KDS Interface Specification (57230), tables of
 * certificate extensions below the object identifier 1.3.6.1.4.1.3704.1. */
#ifndef ST_ATTEST_SNP_CERT_H
#define ST_ATTEST_SNP_CERT_H

#include "attest/snp_report.h"

#include <openssl/x509.h>

struct st_snp_cert {
    enum st_snp_key key;
    enum st_snp_product product;
    struct st_snp_tcb tcb;
    bool has_chip_id;
    uint8_t chip_id[ST_SNP_CHIP_ID]; /* Turin: 8 bytes, then zeros */
    char csp_id[64];                 /* of the cloud; VLEK only, else empty */
};
/* Names of the certificate and of its issuer, and the extensions; none may be missing, damaged or there twice. VERIFY.
 * Whether anybody vouches for the certificate is st_x509_verify()'s business. */
int st_snp_cert_read(X509 *x, struct st_snp_cert *out, struct st_err *e) ST_MUST_CHECK;

#endif
