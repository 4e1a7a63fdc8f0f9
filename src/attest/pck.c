#include "attest/pck.h"

#include <openssl/objects.h>
#include <string.h>

#define TAG_BOOLEAN 0x01
#define TAG_INTEGER 0x02
#define TAG_OCTETS 0x04
#define TAG_OID 0x06
#define TAG_ENUMERATED 0x0a
#define TAG_SEQUENCE 0x30

/* 1.2.840.113741.1.13.1, the prefix of every name in the extension. */
static const uint8_t prefix[] = {0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01};

/* Fields of the extension; 8 and above would be new ones. */
enum field { PPID = 1, TCB, PCE_ID, FMSPC, SGX_TYPE, PLATFORM_INSTANCE, CONFIGURATION, N_FIELD };
#define NEEDED (1u << TCB | 1u << PCE_ID | 1u << FMSPC)
/* Fields of the TCB. */
enum { N_SVN = 16, PCE_SVN = 17, CPU_SVN = 18 };

/* The value of the element at the front of *in, which moves behind it; the tag must be this one. */
static bool next(struct st_span *in, uint8_t tag, struct st_span *value)
{
    if (in->len < 2 || in->p[0] != tag)
        return false;
    size_t head = 2, len = in->p[1];
    if (len >= 0x80) {
        size_t n = len & 0x7f;
        if (n == 0 || n > 2 || in->len < 2 + n || in->p[2] == 0)
            return false;
        len = n == 1 ? in->p[2] : (size_t)in->p[2] << 8 | in->p[3];
        if (n == 1 && len < 0x80)
            return false;
        head += n;
    }
    if (len > in->len - head)
        return false;
    *value = (struct st_span){in->p + head, len};
    in->p += head + len;
    in->len -= head + len;
    return true;
}

/* A pair of name and value: the name must be the prefix and `depth` more numbers below 128, of which the last one is
 * returned, the others are `above`; what is left in *pair is the value. -1 when it is none. */
static int next_pair(struct st_span *in, int above, struct st_span *pair)
{
    struct st_span oid;
    size_t n = sizeof prefix, more = above ? 2 : 1;
    if (!next(in, TAG_SEQUENCE, pair) || !next(pair, TAG_OID, &oid))
        return -1;
    if (oid.len != n + more || memcmp(oid.p, prefix, n) != 0 || (above && oid.p[n] != above) ||
        oid.p[n + more - 1] > 127)
        return -1;
    return oid.p[n + more - 1];
}

/* The only thing in *pair: a value of this tag and, when len is not 0, of this length. */
static bool only(struct st_span *pair, uint8_t tag, size_t len, struct st_span *value)
{
    return next(pair, tag, value) && pair->len == 0 && (len == 0 || value->len == len);
}

/* The only thing in *pair: a number from 0 to max, in its shortest form. */
static bool only_number(struct st_span *pair, uint32_t max, uint32_t *out)
{
    struct st_span v;
    if (!only(pair, TAG_INTEGER, 0, &v) || v.len == 0 || v.len > 3 || v.p[0] > 127)
        return false;
    if (v.len > 1 && v.p[0] == 0 && v.p[1] < 128)
        return false;
    *out = 0;
    for (size_t i = 0; i < v.len; i++)
        *out = *out << 8 | v.p[i];
    return *out <= max;
}

/* All 16 component SVNs, PCESVN and CPUSVN, each once. */
static int read_tcb(struct st_span *pair, struct st_pck *out, struct st_err *e)
{
    struct st_span list, one, v;
    uint32_t seen = 0, n;
    if (!only(pair, TAG_SEQUENCE, 0, &list))
        return st_fail(e, ST_INPUT, "PCK certificate: TCB: want a sequence");
    while (list.len) {
        int id = next_pair(&list, TCB, &one);
        if (id < 1 || id > CPU_SVN || seen & 1u << id)
            return st_fail(e, ST_INPUT, "PCK certificate: TCB: damaged, or a field twice or unknown");
        seen |= 1u << id;
        bool ok = id == CPU_SVN ? only(&one, TAG_OCTETS, 16, &v) : only_number(&one, id == PCE_SVN ? 0xffff : 0xff, &n);
        if (!ok)
            return st_fail(e, ST_INPUT, "PCK certificate: TCB field %d: wrong type or range", id);
        if (id == PCE_SVN)
            out->pce_svn = (uint16_t)n;
        else if (id <= N_SVN)
            out->svn[id - 1] = (uint8_t)n;
    }
    if (seen != (1u << (CPU_SVN + 1)) - 2)
        return st_fail(e, ST_INPUT, "PCK certificate: TCB: want 18 fields");
    return 0;
}

/* One field; those that nothing here is decided by must have their type all the same. */
static int read_field(int id, struct st_span *pair, struct st_pck *out, struct st_err *e)
{
    struct st_span v = {0};
    bool ok = true;
    switch (id) {
    case TCB:
        return read_tcb(pair, out, e);
    case PPID:
    case PLATFORM_INSTANCE:
        ok = only(pair, TAG_OCTETS, 16, &v);
        break;
    case PCE_ID:
        ok = only(pair, TAG_OCTETS, sizeof out->pce_id, &v);
        if (ok)
            memcpy(out->pce_id, v.p, v.len);
        break;
    case FMSPC:
        ok = only(pair, TAG_OCTETS, sizeof out->fmspc, &v);
        if (ok)
            memcpy(out->fmspc, v.p, v.len);
        break;
    case SGX_TYPE:
        ok = only(pair, TAG_ENUMERATED, 1, &v);
        break;
    case CONFIGURATION:
        ok = only(pair, TAG_SEQUENCE, 0, &v);
        for (struct st_span flag, yes; ok && v.len;)
            ok = next_pair(&v, CONFIGURATION, &flag) > 0 && only(&flag, TAG_BOOLEAN, 1, &yes);
        break;
    default:
        ok = false;
    }
    if (!ok)
        return st_fail(e, ST_INPUT, "PCK certificate: extension field %d: unknown, or wrong type or length", id);
    return 0;
}

int st_pck_parse(struct st_span der, struct st_pck *out, struct st_err *e)
{
    struct st_span list, pair;
    unsigned seen = 0;
    *out = (struct st_pck){0};
    if (!only(&der, TAG_SEQUENCE, 0, &list))
        return st_fail(e, ST_INPUT, "PCK certificate: extension: want one sequence");
    while (list.len) {
        int id = next_pair(&list, 0, &pair);
        if (id < 1 || id >= N_FIELD || seen & 1u << id)
            return st_fail(e, ST_INPUT, "PCK certificate: extension: damaged, or a field twice or unknown");
        seen |= 1u << id;
        int rc = read_field(id, &pair, out, e);
        if (rc)
            return rc;
    }
    if ((seen & NEEDED) != NEEDED)
        return st_fail(e, ST_INPUT, "PCK certificate: extension: want TCB, PCE-ID and FMSPC");
    return 0;
}

int st_pck_read(X509 *cert, struct st_pck *out, struct st_err *e)
{
    const ASN1_OCTET_STRING *found = NULL;
    for (int i = 0; i < X509_get_ext_count(cert); i++) {
        X509_EXTENSION *x = X509_get_ext(cert, i);
        const ASN1_OBJECT *oid = X509_EXTENSION_get_object(x);
        if (OBJ_length(oid) != sizeof prefix || memcmp(OBJ_get0_data(oid), prefix, sizeof prefix) != 0)
            continue;
        if (found)
            return st_fail(e, ST_INPUT, "PCK certificate: SGX extension: there twice");
        found = X509_EXTENSION_get_data(x);
    }
    if (!found)
        return st_fail(e, ST_INPUT, "PCK certificate: SGX extension: not there");
    return st_pck_parse((struct st_span){ASN1_STRING_get0_data(found), (size_t)ASN1_STRING_length(found)}, out, e);
}
