/* NVIDIA Hopper: an SPDM 1.1 GET_MEASUREMENTS request and its MEASUREMENTS response (DSP0274, 10.11), as NVIDIA's
 * driver hands them out. The GPU's certificate chain comes as endorsement, leaf to NVIDIA's root; reference
 * measurements as RIMs. The signature covers every byte before it.
 *
 * request:   0x11 0xe0, two parameters, the owner's nonce [32], slot
 * response:  0x11 0x60, two parameters, u8 blocks, u24 length, blocks, the GPU's nonce [32], u16 length, opaque data,
 *            signature r || s [96]
 * block:     u8 index, u8 specification (1 = DMTF), u16 size, u8 type, u16 size, value
 * opaque:    {u16 type, u16 size, value}, NVIDIA's types. All little-endian. */
#include "attest/endorsed.h"
#include "attest/rim.h"
#include "attest/roots.h"
#include "crypto/digest.h"

#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define REQUEST 37
#define NONCE_AT 4
#define RESPONSE_HEAD 8
#define SIGNATURE 96
#define HASH 48

enum opaque {
    OPAQUE_DRIVER = 3,
    OPAQUE_VBIOS = 6,
    OPAQUE_NVDEC0 = 11,
    OPAQUE_CHIP_SKU = 15,
    OPAQUE_PROJECT = 17,
    OPAQUE_PROJECT_SKU = 18,
    OPAQUE_FWID = 20,
};
#define NVDEC0_OFF 0x55
#define NVDEC0_INDEX 35 /* its measurement counts only while it is on */

struct report {
    const uint8_t *p;
    size_t len;
    struct st_span values[256]; /* by index from 0, as RIMs count: block index minus 1 */
    char driver[64], vbios[32], chip_sku[32], project[32], project_sku[32];
    struct st_span fwid;
    bool nvdec0_off;
};

static size_t get(const uint8_t *p, size_t n)
{
    size_t v = 0;
    for (size_t i = 0; i < n; i++)
        v |= (size_t)p[i] << 8 * i;
    return v;
}

static bool recognise(const uint8_t *p, size_t len)
{
    return len >= REQUEST + RESPONSE_HEAD && p[0] == 0x11 && p[1] == 0xe0 && p[REQUEST] == 0x11 &&
           p[REQUEST + 1] == 0x60;
}

/* ---- parsing ---- */

static int read_blocks(const uint8_t *p, size_t len, unsigned count, struct report *out, struct st_err *e)
{
    for (unsigned i = 0; i < count; i++) {
        if (len < 7)
            return st_fail(e, ST_INPUT, "nvgpu: measurement block %u is cut off", i + 1);
        unsigned index = p[0];
        size_t size = get(p + 2, 2), value = get(p + 5, 2);
        if (p[1] != 1 || size != value + 3 || size > len - 4 || value == 0)
            return st_fail(e, ST_INPUT, "nvgpu: measurement block %u: want a DMTF measurement inside the record",
                           i + 1);
        if (index == 0 || out->values[index - 1].len)
            return st_fail(e, ST_INPUT, "nvgpu: measurement index %u: 0, or comes twice", index);
        out->values[index - 1] = (struct st_span){p + 7, value};
        p += 4 + size;
        len -= 4 + size;
    }
    return len ? st_fail(e, ST_INPUT, "nvgpu: bytes behind the last measurement block") : 0;
}

/* Text up to its first NUL; what does not fit is no version of anything. */
static int read_text(const char *name, const uint8_t *p, size_t len, char *out, size_t cap, struct st_err *e)
{
    size_t n = strnlen((const char *)p, len);
    if (n == 0 || n >= cap || *out)
        return st_fail(e, ST_INPUT, "nvgpu: %s: want one text of 1..%zu characters", name, cap - 1);
    memcpy(out, p, n);
    return 0;
}

static int read_field(unsigned type, const uint8_t *p, size_t len, struct report *out, struct st_err *e)
{
    switch (type) {
    case OPAQUE_DRIVER:
        return read_text("driver", p, len, out->driver, sizeof out->driver, e);
    case OPAQUE_VBIOS:
        if (len != 8 || *out->vbios)
            return st_fail(e, ST_INPUT, "nvgpu: vbios: want 8 bytes, once");
        snprintf(out->vbios, sizeof out->vbios, "%02X.%02X.%02X.%02X.%02X", p[3], p[2], p[1], p[0], p[4]);
        return 0;
    case OPAQUE_NVDEC0:
        out->nvdec0_off = len == 1 && p[0] == NVDEC0_OFF;
        return 0;
    case OPAQUE_CHIP_SKU:
        return read_text("chip sku", p, len, out->chip_sku, sizeof out->chip_sku, e);
    case OPAQUE_PROJECT:
        return read_text("project", p, len, out->project, sizeof out->project, e);
    case OPAQUE_PROJECT_SKU:
        return read_text("project sku", p, len, out->project_sku, sizeof out->project_sku, e);
    case OPAQUE_FWID:
        if (len != HASH || out->fwid.len)
            return st_fail(e, ST_INPUT, "nvgpu: fwid: want %d bytes, once", HASH);
        out->fwid = (struct st_span){p, len};
        return 0;
    default:
        return 0;
    }
}

static int read_opaque(const uint8_t *p, size_t len, struct report *out, struct st_err *e)
{
    while (len) {
        size_t size = len < 4 ? SIZE_MAX : get(p + 2, 2);
        if (len < 4 || size > len - 4)
            return st_fail(e, ST_INPUT, "nvgpu: opaque data is cut off");
        if (read_field((unsigned)get(p, 2), p + 4, size, out, e))
            return e->code;
        p += 4 + size;
        len -= 4 + size;
    }
    return 0;
}

static int parse(const uint8_t *p, size_t len, struct report *out, struct st_err *e)
{
    *out = (struct report){.p = p, .len = len};
    if (!recognise(p, len))
        return st_fail(e, ST_INPUT, "nvgpu: want an SPDM 1.1 GET_MEASUREMENTS request and its response");
    const uint8_t *at = p + REQUEST + RESPONSE_HEAD;
    size_t left = len - REQUEST - RESPONSE_HEAD, record = get(at - 3, 3);
    if (record > left || left - record < 32 + 2)
        return st_fail(e, ST_INPUT, "nvgpu: measurement record of %zu bytes does not fit", record);
    if (read_blocks(at, record, at[-4], out, e))
        return e->code;
    at += record + 32;
    left -= record + 32;
    size_t opaque = get(at, 2);
    if (left - 2 < SIGNATURE || opaque != left - 2 - SIGNATURE)
        return st_fail(e, ST_INPUT, "nvgpu: opaque data of %zu bytes and the signature are not what is left", opaque);
    return read_opaque(at + 2, opaque, out, e);
}

/* ---- checks ---- */

struct endorsed {
    struct st_certs chain, device_roots, rim_roots;
    struct st_crls crls;
};

static int gather(const struct st_evidence *ev, const struct st_verify_env *env, struct endorsed *out, struct st_err *e)
{
    if (st_endorsed_certs(ev, &out->chain, e) || st_endorsed_crls(ev, &out->crls, e))
        return st_err_prefix(e, "nvgpu");
    return st_roots_add(env, ST_ROOT_NVIDIA_DEVICE, &out->device_roots, e) ||
                   st_roots_add(env, ST_ROOT_NVIDIA_RIM, &out->rim_roots, e)
               ? e->code
               : 0;
}

static void check_signature(const struct report *r, X509 *leaf, struct st_appraisal *out)
{
    struct st_err why;
    const uint8_t *sig = r->p + r->len - SIGNATURE;
    struct st_check *c = st_appraisal_check(out, "nvgpu.signature", "ECDSA P-384 by the GPU's key");
    if (!leaf)
        st_check_detail(c, "no certificate of the GPU was given");
    else if (st_ecdsa_verify(X509_get0_pubkey(leaf), r->p, r->len - SIGNATURE, sig, sig + SIGNATURE / 2, SIGNATURE / 2,
                             &why))
        st_check_detail(c, "%s", why.msg);
    else
        c->result = ST_CHECK_PASS;
}

static void check_chain(const struct endorsed *d, X509 *leaf, int64_t time, struct st_appraisal *out)
{
    struct st_err why;
    struct st_x509_verify v = {
        .leaf = leaf, .chain = &d->chain, .roots = &d->device_roots, .time = time, .until = &out->until};
    char name[160] = "";
    if (leaf)
        st_x509_name(leaf, name, sizeof name);
    struct st_check *c = st_appraisal_check(out, "nvgpu.chain", "%s, to NVIDIA's root", name);
    if (!leaf)
        st_check_detail(c, "no certificate of the GPU was given, or several");
    else if (st_x509_verify(&v, &why))
        st_check_detail(c, "%s", why.msg);
    else
        c->result = ST_CHECK_PASS;
    c = st_appraisal_check(out, "nvgpu.revocation", "no list was given");
    c->area = ST_AREA_REVOCATION;
    c->result = ST_CHECK_ABSENT;
    if (!leaf || !d->crls.n)
        return;
    c->result = ST_CHECK_FAIL;
    v.crls = &d->crls;
    st_check_detail(c, "no certificate that the lists speak of is revoked");
    if (st_x509_verify(&v, &why))
        st_check_detail(c, "%s", why.msg);
    else
        c->result = ST_CHECK_PASS;
}

/* The firmware's digest in the leaf's TcbInfo (TCG DICE, OID 2.23.133.5.4.1): the last value in it. */
static struct st_span fwid_of(X509 *leaf)
{
    ASN1_OBJECT *oid = OBJ_txt2obj("2.23.133.5.4.1", 1);
    int at = oid && leaf ? X509_get_ext_by_OBJ(leaf, oid, -1) : -1;
    ASN1_OBJECT_free(oid);
    const ASN1_OCTET_STRING *v = at >= 0 ? X509_EXTENSION_get_data(X509_get_ext(leaf, at)) : NULL;
    int len = v ? ASN1_STRING_length(v) : 0;
    if (len < HASH + 2)
        return (struct st_span){0};
    const uint8_t *last = ASN1_STRING_get0_data(v) + len - HASH;
    return last[-2] == 0x04 && last[-1] == HASH ? (struct st_span){last, HASH} : (struct st_span){0};
}

static void check_fwid(const struct report *r, X509 *leaf, struct st_appraisal *out)
{
    struct st_span own = fwid_of(leaf);
    if (own.len)
        st_appraisal_hex(out, "nvgpu.fwid", own.p, own.len);
    if (!r->fwid.len)
        return;
    struct st_check *c = st_appraisal_check(out, "nvgpu.fwid", "the certificate is of the firmware that runs");
    if (own.len && memcmp(own.p, r->fwid.p, HASH) == 0)
        c->result = ST_CHECK_PASS;
    else
        st_check_detail(c, "the certificate is of other firmware than the report names");
}

/* ---- reference measurements ---- */

static bool matches(const struct report *r, const struct st_rim *rim, unsigned index)
{
    const struct st_span v = r->values[index];
    for (size_t i = 0; i < rim->n_value; i++)
        if (rim->values[i].index == index && v.len == ST_RIM_HASH && memcmp(rim->values[i].hash, v.p, v.len) == 0)
            return true;
    return false;
}

static void compare(const struct report *r, const struct st_rim *rim, struct st_check *c)
{
    char list[160] = "";
    bool seen[ST_RIM_MAX_INDEX] = {0};
    size_t n_seen = 0, n_wrong = 0;
    for (size_t i = 0; i < rim->n_value; i++) {
        unsigned index = rim->values[i].index;
        if (seen[index] || (index == NVDEC0_INDEX && r->nvdec0_off))
            continue;
        seen[index] = true;
        n_seen++;
        if (matches(r, rim, index))
            continue;
        size_t at = strlen(list);
        snprintf(list + at, sizeof list - at, "%s%u", n_wrong++ ? ", " : "", index);
    }
    if (n_wrong)
        st_check_detail(c, "%s: %zu of %zu measurements differ: %s", rim->version, n_wrong, n_seen, list);
    else if (n_seen) {
        st_check_detail(c, "%s: %zu measurements are as published", rim->version, n_seen);
        c->result = ST_CHECK_PASS;
    }
}

/* One RIM for the driver and one for the VBIOS, told apart by their version. */
static int check_rims(const struct st_evidence *ev, const struct report *r, const struct endorsed *d, int64_t time,
                      struct st_appraisal *out, struct st_err *e)
{
    static const char *const names[] = {"nvgpu.rim.driver", "nvgpu.rim.vbios"};
    const char *versions[] = {r->driver, r->vbios};
    bool given[2] = {false, false};
    struct st_err why;
    size_t at = 0;
    struct st_rim *rim = malloc(sizeof *rim);
    if (!rim)
        return st_fail(e, ST_MEMORY, "nvgpu: out of memory");
    for (const struct st_endorsement *n; (n = st_evidence_next(ev, ST_ENDORSEMENT_RIM, &at));) {
        int rc = st_rim_read(n->data.p, n->data.len, &d->rim_roots, time, rim, &why);
        int which = !rc && strcmp(rim->version, r->driver) == 0      ? 0
                    : !rc && strcasecmp(rim->version, r->vbios) == 0 ? 1
                                                                     : -1;
        struct st_check *c = st_appraisal_check(out, which < 0 ? "nvgpu.rim" : names[which], "no measurement counts");
        c->area = ST_AREA_STATUS;
        if (!rc)
            st_x509_limit(&out->until, rim->until);
        if (rc)
            st_check_detail(c, "%s", why.msg);
        else if (which < 0)
            st_check_detail(c, "is of version %s, but the report says driver %s, VBIOS %s", rim->version, r->driver,
                            r->vbios);
        else
            compare(r, rim, c);
        if (which >= 0)
            given[which] = true;
    }
    free(rim);
    for (int i = 0; i < 2; i++)
        if (!given[i]) {
            struct st_check *c = st_appraisal_check(out, names[i], "no RIM of version %s was given", versions[i]);
            c->area = ST_AREA_STATUS;
            c->result = ST_CHECK_ABSENT;
        }
    return 0;
}

/* ---- claims ---- */

static void text(struct st_appraisal *out, const char *name, const char *value)
{
    if (*value)
        st_appraisal_text(out, name, value);
}

static void claims(const struct report *r, X509 *leaf, struct st_appraisal *out)
{
    uint8_t fingerprint[32];
    unsigned len = 0;
    st_appraisal_hex(out, "nvgpu.report_data", r->p + NONCE_AT, 32);
    text(out, "nvgpu.driver", r->driver);
    text(out, "nvgpu.vbios", r->vbios);
    text(out, "nvgpu.chip_sku", r->chip_sku);
    text(out, "nvgpu.project", r->project);
    text(out, "nvgpu.project_sku", r->project_sku);
    st_appraisal_bool(out, "nvgpu.nvdec0", !r->nvdec0_off);
    if (leaf && X509_digest(leaf, EVP_sha256(), fingerprint, &len) == 1)
        st_appraisal_hex(out, "nvgpu.certificate", fingerprint, sizeof fingerprint);
    for (int i = 0; i < 256; i++) {
        char name[32];
        snprintf(name, sizeof name, "nvgpu.measurement.%d", i);
        if (r->values[i].len)
            st_appraisal_hex(out, name, r->values[i].p, r->values[i].len);
    }
}

static int verify(const struct st_evidence *ev, const struct st_verify_env *env, struct st_appraisal *out,
                  struct st_err *e)
{
    struct report r;
    struct endorsed d = {0};
    int rc = parse(ev->data.p, ev->data.len, &r, e);
    if (!rc)
        rc = gather(ev, env, &d, e);
    if (!rc) {
        X509 *leaf = st_certs_leaf(&d.chain);
        check_signature(&r, leaf, out);
        check_chain(&d, leaf, env->time, out);
        check_fwid(&r, leaf, out);
        claims(&r, leaf, out);
        rc = check_rims(ev, &r, &d, env->time, out, e);
    }
    st_certs_free(&d.chain);
    st_certs_free(&d.device_roots);
    st_certs_free(&d.rim_roots);
    st_crls_free(&d.crls);
    return rc;
}

const struct st_verifier st_verifier_nvgpu = {
    .kind = "nvgpu",
    .recognise = recognise,
    .endorsements = 1u << ST_ENDORSEMENT_CERTS | 1u << ST_ENDORSEMENT_CRL | 1u << ST_ENDORSEMENT_RIM,
    .verify = verify,
};
