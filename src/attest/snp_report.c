#include "attest/snp_report.h"

#include <string.h>

static uint64_t le(const uint8_t *p, size_t n)
{
    uint64_t v = 0;
    for (size_t i = 0; i < n; i++)
        v |= (uint64_t)p[i] << 8 * i;
    return v;
}

static bool zero(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i])
            return false;
    return true;
}

const char *st_snp_product_name(enum st_snp_product p)
{
    static const char *const names[] = {"unknown", "Milan", "Genoa", "Turin"};
    return names[p];
}

/* Families and models as CPUID tells them: 19h 00-0F is Milan; 19h 10-1F and A0-AF are Genoa, Bergamo and Siena, whose
 * certificates say Genoa; 1Ah 00-1F is Turin. */
static enum st_snp_product product_of(uint8_t family, uint8_t model)
{
    if (family == 0x19 && model <= 0x0f)
        return ST_SNP_MILAN;
    if (family == 0x19 && (model >> 4 == 0x1 || model >> 4 == 0xa))
        return ST_SNP_GENOA;
    return family == 0x1a && model <= 0x1f ? ST_SNP_TURIN : ST_SNP_UNKNOWN;
}

/* Table "TCB_VERSION", which Turin lays out anew. */
static struct st_snp_tcb read_tcb(const uint8_t *p, bool turin)
{
    if (turin)
        return (struct st_snp_tcb){p[0], p[1], p[2], p[3], p[7], zero(p + 4, 3)};
    return (struct st_snp_tcb){0, p[0], p[1], p[6], p[7], zero(p + 2, 4)};
}

static void read_version(const uint8_t *p, uint8_t out[3])
{
    for (int i = 0; i < 3; i++)
        out[i] = p[2 - i];
}

/* The ranges without a meaning, which grew smaller with the versions; bit 17 of the policy is always one. */
static bool reserved_zero(const struct st_snp_report *r)
{
    const uint8_t *p = r->raw;
    size_t cpuid = r->version >= 3 ? 3 : 0, mitigations = r->version >= 5 ? 16 : 0;
    return zero(p + 0x4c, 4) && le(p + 0x48, 4) >> 5 == 0 && (r->policy >> 17 & 1) && r->policy >> 26 == 0 &&
           zero(p + 0x188 + cpuid, 0x18 - cpuid) && p[0x1eb] == 0 && p[0x1ef] == 0 &&
           zero(p + 0x1f8 + mitigations, 0xa8 - mitigations) && zero(p + ST_SNP_SIGNED + 48, 24) &&
           zero(p + ST_SNP_SIGNED + 72 + 48, 24) && zero(p + ST_SNP_SIGNED + 144, 368) && r->current.reserved_zero &&
           r->reported.reserved_zero && r->committed.reserved_zero && r->launch.reserved_zero;
}

int st_snp_report_parse(const uint8_t *p, size_t len, struct st_snp_report *out, struct st_err *e)
{
    if (len != ST_SNP_REPORT)
        return st_fail(e, ST_INPUT, "snp: want a report of %d bytes, got %zu", ST_SNP_REPORT, len);
    struct st_snp_report r = {.raw = p, .version = (uint32_t)le(p, 4)};
    if (r.version < 2 || r.version > 5)
        return st_fail(e, ST_UNSUPPORTED, "snp: version: want 2..5, got %u", r.version);
    r.guest_svn = (uint32_t)le(p + 0x04, 4);
    r.policy = le(p + 0x08, 8);
    r.family_id = p + 0x10;
    r.image_id = p + 0x20;
    r.vmpl = (uint32_t)le(p + 0x30, 4);
    r.signature_algo = (uint32_t)le(p + 0x34, 4);
    r.platform_info = le(p + 0x40, 8);
    r.author_key_en = p[0x48] & 1;
    r.mask_chip_key = p[0x48] >> 1 & 1;
    r.signing_key = p[0x48] >> 2 & 7;
    r.report_data = p + 0x50;
    r.measurement = p + 0x90;
    r.host_data = p + 0xc0;
    r.id_key_digest = p + 0xe0;
    r.author_key_digest = p + 0x110;
    r.report_id = p + 0x140;
    r.report_id_ma = p + 0x160;
    r.chip_id = p + 0x1a0;
    if (r.version >= 3) {
        r.family = p[0x188];
        r.model = p[0x189];
        r.stepping = p[0x18a];
        r.product = product_of(r.family, r.model);
    }
    bool turin = r.product == ST_SNP_TURIN;
    r.current = read_tcb(p + 0x38, turin);
    r.reported = read_tcb(p + 0x180, turin);
    r.committed = read_tcb(p + 0x1e0, turin);
    r.launch = read_tcb(p + 0x1f0, turin);
    read_version(p + 0x1e8, r.current_version);
    read_version(p + 0x1ec, r.committed_version);
    if (r.version >= 5) {
        r.launch_mitigations = le(p + 0x1f8, 8);
        r.current_mitigations = le(p + 0x200, 8);
    }
    for (int i = 0; i < 48; i++) {
        r.r[i] = p[ST_SNP_SIGNED + 47 - i];
        r.s[i] = p[ST_SNP_SIGNED + 72 + 47 - i];
    }
    r.reserved_zero = reserved_zero(&r);
    *out = r;
    return 0;
}
