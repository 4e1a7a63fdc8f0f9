#include "attest/dcap.h"

#include <string.h>

#define KEY_P256 2
#define TEE_SGX 0
#define TEE_TDX 0x81
#define CERTIFICATION_PCK_CHAIN 5
#define CERTIFICATION_QE_REPORT 6
enum body_type { BODY_SGX = 1, BODY_TD10 = 2, BODY_TD15 = 3 };
#define TD10_LEN 584
#define TD15_LEN 648

/* Flags of an enclave that mean something: INIT, DEBUG, MODE64BIT, PROVISIONKEY, EINITTOKENKEY, CET, KSS, AEXNOTIFY. */
#define SGX_FLAGS UINT64_C(0x4f7)
/* Attributes of a TD: bits 0 to 7 are the group "TD under debug"; the others known are ICSSD, LASS, SEPT_VE_DISABLE,
 * MIGRATABLE, PKS, KL, TPA and PERFMON. */
#define TD_DEBUG UINT64_C(0xff)
#define TD_MIGRATABLE (UINT64_C(1) << 29)
#define TD_ATTRIBUTES (TD_DEBUG | UINT64_C(1) << 16 | UINT64_C(0x1f) << 27 | UINT64_C(3) << 62)

const uint8_t st_dcap_vendor_intel[16] = {0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9,
                                          0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07};

static uint16_t u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t u32(const uint8_t *p)
{
    return u16(p) | (uint32_t)u16(p + 2) << 16;
}

static uint64_t u64(const uint8_t *p)
{
    return u32(p) | (uint64_t)u32(p + 4) << 32;
}

static bool zero(const uint8_t *p, size_t len)
{
    uint8_t any = 0;
    for (size_t i = 0; i < len; i++)
        any |= p[i];
    return any == 0;
}

/* What is left of the bytes. */
struct reader {
    const uint8_t *p;
    size_t left;
};

/* The next len bytes. */
static int take(struct reader *r, size_t len, const char *what, const uint8_t **out, struct st_err *e)
{
    if (len > r->left)
        return st_fail(e, ST_INPUT, "quote: %s: want %zu bytes, got %zu", what, len, r->left);
    *out = r->p;
    r->p += len;
    r->left -= len;
    return 0;
}

/* A length of `width` bytes and that many bytes, at most max. */
static int take_sized(struct reader *r, size_t width, size_t max, const char *what, struct st_span *out,
                      struct st_err *e)
{
    const uint8_t *p = NULL;
    int rc = take(r, width, what, &p, e);
    if (rc)
        return rc;
    out->len = width == 2 ? u16(p) : u32(p);
    if (out->len > max)
        return st_fail(e, ST_INPUT, "quote: %s: want at most %zu bytes, got %zu", what, max, out->len);
    return take(r, out->len, what, &out->p, e);
}

/* Certification data of one type. */
static int take_certification(struct reader *r, unsigned want, size_t max, const char *what, struct st_span *out,
                              struct st_err *e)
{
    const uint8_t *p = NULL;
    int rc = take(r, 2, what, &p, e);
    if (rc)
        return rc;
    if (u16(p) != want)
        return st_fail(e, ST_UNSUPPORTED, "quote: %s: want certification data of type %u, got type %u", what, want,
                       u16(p));
    return take_sized(r, 4, max, what, out, e);
}

static void read_sgx(const uint8_t *p, struct st_sgx_report *out)
{
    uint64_t flags = u64(p + 48);
    *out = (struct st_sgx_report){.cpu_svn = p,
                                  .miscselect = p + 16,
                                  .attributes = p + 48,
                                  .mrenclave = p + 64,
                                  .mrsigner = p + 128,
                                  .ext_prod_id = p + 32,
                                  .family_id = p + 304,
                                  .config_id = p + 192,
                                  .report_data = p + 320,
                                  .isv_prod_id = u16(p + 256),
                                  .isv_svn = u16(p + 258),
                                  .config_svn = u16(p + 260),
                                  .init = flags & 1,
                                  .debug = flags & 2};
    out->reserved_zero =
        zero(p + 20, 12) && zero(p + 96, 32) && zero(p + 160, 32) && zero(p + 262, 42) && (flags & ~SGX_FLAGS) == 0;
}

static void read_td(const uint8_t *p, size_t len, struct st_td_report *out)
{
    uint64_t attributes = u64(p + 120);
    *out = (struct st_td_report){.tee_tcb_svn = p,
                                 .mrseam = p + 16,
                                 .mrsignerseam = p + 64,
                                 .seamattributes = p + 112,
                                 .td_attributes = p + 120,
                                 .xfam = p + 128,
                                 .mrtd = p + 136,
                                 .mrconfigid = p + 184,
                                 .mrowner = p + 232,
                                 .mrownerconfig = p + 280,
                                 .report_data = p + 520,
                                 .debug = attributes & TD_DEBUG,
                                 .migratable = attributes & TD_MIGRATABLE};
    for (size_t i = 0; i < 4; i++)
        out->rtmr[i] = p + 328 + 48 * i;
    if (len == TD15_LEN) {
        out->tee_tcb_svn2 = p + 584;
        out->mrservicetd = p + 600;
    }
    out->reserved_zero = zero(out->seamattributes, 8) && (attributes & ~TD_ATTRIBUTES) == 0;
}

/* Header [48] of a version and kind that is read here. */
static int read_header(const uint8_t *h, struct st_dcap_quote *q, struct st_err *e)
{
    q->version = u16(h);
    if (q->version < 3 || q->version > 5)
        return st_fail(e, ST_UNSUPPORTED, "quote: version: want 3, 4 or 5, got %u", q->version);
    if (u16(h + 2) != KEY_P256)
        return st_fail(e, ST_UNSUPPORTED, "quote: attestation key type: want 2 (ECDSA P-256), got %u", u16(h + 2));
    q->vendor = h + 12;
    if (q->version == 3) { /* these bytes name the TEE only from version 4 on; the two behind them are SVNs here */
        q->header_reserved_zero = zero(h + 4, 4);
        return 0;
    }
    uint32_t tee = u32(h + 4);
    if (tee != TEE_SGX && tee != TEE_TDX)
        return st_fail(e, ST_UNSUPPORTED, "quote: TEE type: want 0 (SGX) or 0x81 (TDX), got 0x%x", tee);
    q->is_tdx = tee == TEE_TDX;
    q->header_reserved_zero = zero(h + 8, 4);
    return 0;
}

/* Type and length of a v5 body. */
static int read_body_type(struct reader *r, bool is_tdx, size_t *len, struct st_err *e)
{
    const uint8_t *p = NULL;
    int rc = take(r, 6, "body type", &p, e);
    if (rc)
        return rc;
    unsigned type = u16(p);
    if (is_tdx ? type != BODY_TD10 && type != BODY_TD15 : type != BODY_SGX)
        return st_fail(e, ST_INPUT, "quote: body type: want %s, got %u", is_tdx ? "2 or 3 (TDX)" : "1 (SGX)", type);
    *len = type == BODY_SGX ? ST_DCAP_REPORT : type == BODY_TD10 ? TD10_LEN : TD15_LEN;
    if (u32(p + 2) != *len)
        return st_fail(e, ST_INPUT, "quote: body of type %u: want %zu bytes, got %u", type, *len, u32(p + 2));
    return 0;
}

/* QE report, its signature, auth data and PCK chain: all that is in r, to the byte. */
static int read_qe(struct reader *r, struct st_dcap_quote *q, struct st_err *e)
{
    int rc = take(r, ST_DCAP_REPORT, "QE report", &q->qe_raw, e);
    if (rc == 0)
        rc = take(r, 64, "QE report's signature", &q->qe_signature, e);
    if (rc == 0)
        rc = take_sized(r, 2, UINT16_MAX, "auth data", &q->auth_data, e);
    if (rc == 0)
        rc = take_certification(r, CERTIFICATION_PCK_CHAIN, ST_DCAP_MAX_CERTS, "PCK chain", &q->pck_chain, e);
    if (rc == 0 && r->left)
        rc = st_fail(e, ST_INPUT, "quote: PCK chain: %zu bytes too many behind it", r->left);
    if (rc == 0)
        read_sgx(q->qe_raw, &q->qe);
    return rc;
}

static int read_signature_data(struct st_span data, struct st_dcap_quote *q, struct st_err *e)
{
    struct reader r = {data.p, data.len};
    struct st_span inner = {0};
    int rc = take(&r, 64, "signature", &q->signature, e);
    if (rc == 0)
        rc = take(&r, 64, "attestation key", &q->key, e);
    if (rc || q->version == 3)
        return rc ? rc : read_qe(&r, q, e);
    rc = take_certification(&r, CERTIFICATION_QE_REPORT, data.len, "QE report", &inner, e);
    if (rc)
        return rc;
    if (r.left)
        return st_fail(e, ST_INPUT, "quote: signature data: %zu bytes too many", r.left);
    return read_qe(&(struct reader){inner.p, inner.len}, q, e);
}

bool st_dcap_looks_like(const uint8_t *p, size_t len, bool tdx)
{
    if (len < ST_DCAP_HEADER + ST_DCAP_REPORT || u16(p) < 3 || u16(p) > 5 || u16(p + 2) != KEY_P256)
        return false;
    return u32(p + 4) == (tdx ? TEE_TDX : TEE_SGX) && !(tdx && u16(p) == 3);
}

int st_dcap_parse(const uint8_t *p, size_t len, struct st_dcap_quote *out, struct st_err *e)
{
    struct st_dcap_quote q = {0};
    struct reader r = {p, len};
    struct st_span signature_data = {0};
    const uint8_t *header = NULL, *body = NULL;
    int rc = take(&r, ST_DCAP_HEADER, "header", &header, e);
    if (rc == 0)
        rc = read_header(header, &q, e);
    size_t body_len = q.is_tdx ? TD10_LEN : ST_DCAP_REPORT;
    if (rc == 0 && q.version == 5)
        rc = read_body_type(&r, q.is_tdx, &body_len, e);
    if (rc == 0)
        rc = take(&r, body_len, "body", &body, e);
    if (rc)
        return rc;
    q.covered = (struct st_span){p, len - r.left};
    if (q.is_tdx)
        read_td(body, body_len, &q.td);
    else
        read_sgx(body, &q.sgx);
    rc = take_sized(&r, 4, len, "signature data", &signature_data, e);
    if (rc == 0)
        rc = read_signature_data(signature_data, &q, e);
    if (rc)
        return rc;
    q.padding = r.left;
    *out = q;
    return 0;
}
