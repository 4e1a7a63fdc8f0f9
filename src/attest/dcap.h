/* Intel DCAP quotes, version 3 (SGX), 4 and 5 (SGX, TDX 1.0, TDX 1.5): bytes to spans. Hostile input; nothing is
 * copied, every pointer lies in the bytes parsed and lives as long as they. All integers are little-endian.
 *
 *   header [48] | v5: body type u16, body length u32 | body | length u32 | signature data | padding
 *   signature data, v3:  signature [64] | key [64] | QE report [384] | QE signature [64] | auth data | PCK chain
 *                   v4+: signature [64] | key [64] | type 6 u16, length u32 { QE report .. PCK chain as in v3 }
 *   auth data: length u16, bytes. PCK chain: type 5 u16, length u32, PEM text: PCK certificate, its CA, the root.
 *
 * The key (P-256, x || y) signs header, body type and body; the quoting enclave's (QE's) report binds SHA-256 of key
 * and auth data; the PCK certificate's key signs that report. Lengths must add up to the byte; what follows the
 * signature data is padding that no signature covers. Quotes that name their PCK certificate instead of carrying it
 * (certification data 1 to 4, 7) are UNSUPPORTED.
 * Source: Intel SGX ECDSA quote library API and Intel TDX DCAP quoting library API, appendix A of each. */
#ifndef ST_ATTEST_DCAP_H
#define ST_ATTEST_DCAP_H

#include "base/buf.h"

#define ST_DCAP_MAX_CERTS ((size_t)64 << 10)
#define ST_DCAP_HEADER 48
#define ST_DCAP_REPORT 384 /* bytes of an enclave's report */

/* What an enclave's report says; pointers into its 384 bytes. */
struct st_sgx_report {
    const uint8_t *cpu_svn;     /* [16] */
    const uint8_t *miscselect;  /* [4] */
    const uint8_t *attributes;  /* [16]: flags, XFRM */
    const uint8_t *mrenclave;   /* [32] */
    const uint8_t *mrsigner;    /* [32] */
    const uint8_t *ext_prod_id; /* [16] */
    const uint8_t *family_id;   /* [16] */
    const uint8_t *config_id;   /* [64] */
    const uint8_t *report_data; /* [64] */
    uint16_t isv_prod_id, isv_svn, config_svn;
    bool init, debug;   /* flags 0 and 1 */
    bool reserved_zero; /* reserved bytes and flags are zero, as the format demands */
};

/* What a trust domain's report says; pointers into its 584 (1.0) or 648 (1.5) bytes. */
struct st_td_report {
    const uint8_t *tee_tcb_svn;    /* [16] */
    const uint8_t *mrseam;         /* [48] */
    const uint8_t *mrsignerseam;   /* [48] */
    const uint8_t *seamattributes; /* [8] */
    const uint8_t *td_attributes;  /* [8] */
    const uint8_t *xfam;           /* [8] */
    const uint8_t *mrtd;           /* [48] */
    const uint8_t *mrconfigid;     /* [48] */
    const uint8_t *mrowner;        /* [48] */
    const uint8_t *mrownerconfig;  /* [48] */
    const uint8_t *rtmr[4];        /* [48] each */
    const uint8_t *report_data;    /* [64] */
    const uint8_t *tee_tcb_svn2;   /* [16], TDX 1.5; NULL before */
    const uint8_t *mrservicetd;    /* [48], TDX 1.5; NULL before */
    bool debug;                    /* any bit of the group "TD under debug": the TD may not be trusted */
    bool migratable;
    bool reserved_zero; /* reserved attributes and the SEAM module's attributes are zero */
};

struct st_dcap_quote {
    unsigned version;
    bool is_tdx;
    bool header_reserved_zero;
    struct st_span covered; /* what the signature covers: header, body type, body */
    const uint8_t *vendor;  /* [16] */
    struct st_sgx_report sgx;
    struct st_td_report td;
    const uint8_t *signature; /* [64] r || s, over covered, by key */
    const uint8_t *key;       /* [64] x || y, P-256 */
    const uint8_t *qe_raw;    /* [384] */
    struct st_sgx_report qe;
    const uint8_t *qe_signature; /* [64], over qe_raw, by the PCK certificate's key */
    struct st_span auth_data;
    struct st_span pck_chain; /* PEM text */
    size_t padding;           /* bytes behind the signature data */
};

extern const uint8_t st_dcap_vendor_intel[16];

/* Version, key type and TEE type are ones that this file reads, and the TEE is TDX, or SGX. */
bool st_dcap_looks_like(const uint8_t *p, size_t len, bool tdx);
/* INPUT names the field and what was expected; UNSUPPORTED: another version, key type or certification data. */
int st_dcap_parse(const uint8_t *p, size_t len, struct st_dcap_quote *out, struct st_err *e) ST_MUST_CHECK;

#endif
