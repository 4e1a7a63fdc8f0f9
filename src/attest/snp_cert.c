#include "attest/snp_cert.h"

#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>

#define OID "1.3.6.1.4.1.3704.1."

/* The contents of an extension; VERIFY when it is not there, or twice. */
static int extension(X509 *x, const char *oid, struct st_span *out, struct st_err *e)
{
    ASN1_OBJECT *o = OBJ_txt2obj(oid, 1);
    if (!o)
        return st_fail(e, ST_MEMORY, "snp: out of memory");
    int at = X509_get_ext_by_OBJ(x, o, -1), again = at < 0 ? -1 : X509_get_ext_by_OBJ(x, o, at);
    ASN1_OBJECT_free(o);
    if (at < 0 || again >= 0)
        return st_fail(e, ST_VERIFY, "certificate: extension %s %s", oid, at < 0 ? "is missing" : "comes twice");
    const ASN1_OCTET_STRING *v = X509_EXTENSION_get_data(X509_get_ext(x, at));
    *out = (struct st_span){ASN1_STRING_get0_data(v), (size_t)ASN1_STRING_length(v)};
    return 0;
}

/* A DER INTEGER of 0..255. */
static int number(X509 *x, const char *oid, uint8_t *out, struct st_err *e)
{
    struct st_span v = {0};
    if (extension(x, oid, &v, e))
        return e->code;
    bool one = v.len == 3 && v.p[0] == 2 && v.p[1] == 1 && v.p[2] < 0x80;
    bool two = v.len == 4 && v.p[0] == 2 && v.p[1] == 2 && v.p[2] == 0 && v.p[3] >= 0x80;
    if (!one && !two)
        return st_fail(e, ST_VERIFY, "certificate: extension %s: want a number of 0..255", oid);
    *out = v.p[v.len - 1];
    return 0;
}

/* A DER IA5String. */
static int text(X509 *x, const char *oid, char *out, size_t cap, struct st_err *e)
{
    struct st_span v = {0};
    if (extension(x, oid, &v, e))
        return e->code;
    if (v.len < 3 || v.p[0] != 0x16 || v.p[1] != v.len - 2 || v.len - 2 >= cap || memchr(v.p + 2, 0, v.len - 2))
        return st_fail(e, ST_VERIFY, "certificate: extension %s: want a text of 1..%zu letters", oid, cap - 1);
    memcpy(out, v.p + 2, v.len - 2);
    out[v.len - 2] = 0;
    return 0;
}

/* The bytes themselves, or a DER OCTET STRING of them: both are in use. */
static int chip_id(X509 *x, size_t len, uint8_t out[ST_SNP_CHIP_ID], struct st_err *e)
{
    struct st_span v = {0};
    if (extension(x, OID "4", &v, e))
        return e->code;
    if (v.len == len + 2 && v.p[0] == 4 && v.p[1] == len)
        v = (struct st_span){v.p + 2, len};
    if (v.len != len)
        return st_fail(e, ST_VERIFY, "certificate: chip id: want %zu bytes, got %zu", len, v.len);
    memset(out, 0, ST_SNP_CHIP_ID);
    memcpy(out, v.p, len);
    return 0;
}

static bool common_name_is(const X509_NAME *n, const char *want)
{
    char cn[64] = "";
    int len = X509_NAME_get_text_by_NID((X509_NAME *)(uintptr_t)n, NID_commonName, cn, sizeof cn);
    return len == (int)strlen(want) && strcmp(cn, want) == 0;
}

/* Below one root of AMD's stand keys of several roles; names tell them apart. */
static int read_role(X509 *x, struct st_snp_cert *out, struct st_err *e)
{
    const X509_NAME *subject = X509_get_subject_name(x), *issuer = X509_get_issuer_name(x);
    out->key = common_name_is(subject, "SEV-VLEK") ? ST_SNP_VLEK : ST_SNP_VCEK;
    if (out->key == ST_SNP_VCEK && !common_name_is(subject, "SEV-VCEK"))
        return st_fail(e, ST_VERIFY, "certificate: want one for SEV-VCEK or SEV-VLEK");
    for (int p = ST_SNP_MILAN; p <= ST_SNP_TURIN; p++) {
        char want[32];
        snprintf(want, sizeof want, "SEV-%s%s", out->key == ST_SNP_VLEK ? "VLEK-" : "",
                 st_snp_product_name((enum st_snp_product)p));
        if (common_name_is(issuer, want))
            out->product = (enum st_snp_product)p;
    }
    return out->product ? 0 : st_fail(e, ST_VERIFY, "certificate: its issuer is none of AMD's for this kind of key");
}

/* "Milan-B0" (VCEK) or "Milan" (VLEK) */
static int check_product(X509 *x, const struct st_snp_cert *out, struct st_err *e)
{
    char name[32];
    const char *want = st_snp_product_name(out->product);
    size_t n = strlen(want);
    if (text(x, OID "2", name, sizeof name, e))
        return e->code;
    if (strncmp(name, want, n) != 0 || (name[n] && name[n] != '-'))
        return st_fail(e, ST_VERIFY, "certificate: product %s, but its issuer is of %s", name, want);
    return 0;
}

int st_snp_cert_read(X509 *x, struct st_snp_cert *out, struct st_err *e)
{
    struct st_snp_cert c = {.tcb.reserved_zero = true};
    uint8_t version = 0;
    if (read_role(x, &c, e) || check_product(x, &c, e))
        return e->code;
    bool turin = c.product == ST_SNP_TURIN;
    if (number(x, OID "1", &version, e) || number(x, OID "3.1", &c.tcb.bootloader, e) ||
        number(x, OID "3.2", &c.tcb.tee, e) || number(x, OID "3.3", &c.tcb.snp, e) ||
        number(x, OID "3.8", &c.tcb.microcode, e) || (turin && number(x, OID "3.9", &c.tcb.fmc, e)))
        return e->code;
    if (version > 1 || (version == 1) != turin)
        return st_fail(e, ST_VERIFY, "certificate: structure version %u is not that of %s", version,
                       st_snp_product_name(c.product));
    if (c.key == ST_SNP_VLEK ? text(x, OID "5", c.csp_id, sizeof c.csp_id, e)
                             : chip_id(x, turin ? 8 : ST_SNP_CHIP_ID, c.chip_id, e))
        return e->code;
    c.has_chip_id = c.key == ST_SNP_VCEK;
    *out = c;
    return 0;
}
