/* The attestation report of AMD SEV-SNP, versions 2 to 5: bytes to fields. Nothing is verified here.
 * Source: AMD, SEV Secure Nested Paging Firmware ABI Specification (56860), table "ATTESTATION_REPORT Structure". All
 * numbers are little-endian. */
#ifndef ST_ATTEST_SNP_REPORT_H
#define ST_ATTEST_SNP_REPORT_H

#include "base/buf.h"

#define ST_SNP_REPORT 1184
#define ST_SNP_SIGNED 0x2a0 /* what the signature covers */
#define ST_SNP_CHIP_ID 64

/* Lines of processors; roots, certificates and the layout of TCB versions go by them. */
enum st_snp_product { ST_SNP_UNKNOWN, ST_SNP_MILAN, ST_SNP_GENOA, ST_SNP_TURIN };
const char *st_snp_product_name(enum st_snp_product p);

/* Security versions of the parts of a platform. */
struct st_snp_tcb {
    uint8_t fmc /* Turin only */, bootloader, tee, snp, microcode;
    bool reserved_zero;
};
enum st_snp_key { ST_SNP_VCEK = 0, ST_SNP_VLEK = 1, ST_SNP_UNSIGNED = 7 };

/* Spans of fixed length, given beside them, into the report. */
struct st_snp_report {
    const uint8_t *raw; /* [ST_SNP_REPORT] */
    uint32_t version, guest_svn, vmpl, signature_algo;
    uint64_t policy, platform_info;
    bool author_key_en, mask_chip_key;
    unsigned signing_key;
    const uint8_t *family_id /* 16 */, *image_id /* 16 */, *report_data /* 64 */, *measurement /* 48 */;
    const uint8_t *host_data /* 32 */, *id_key_digest /* 48 */, *author_key_digest /* 48 */;
    const uint8_t *report_id /* 32 */, *report_id_ma /* 32 */, *chip_id /* 64 */;
    enum st_snp_product product; /* by family and model; UNKNOWN in version 2, which has none */
    uint8_t family, model, stepping;
    struct st_snp_tcb current, reported, committed, launch;
    uint8_t current_version[3], committed_version[3]; /* of the firmware: major, minor, build */
    uint64_t launch_mitigations, current_mitigations; /* from version 5 on */
    uint8_t r[48], s[48];                             /* of the signature, big-endian */
    bool reserved_zero;                               /* every bit without a meaning is what it has to be */
};
/* Keeps pointers into p. INPUT: wrong length. UNSUPPORTED: a version that is not known. */
int st_snp_report_parse(const uint8_t *p, size_t len, struct st_snp_report *out, struct st_err *e) ST_MUST_CHECK;

#endif
