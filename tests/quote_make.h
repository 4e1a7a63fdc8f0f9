/* A small maker of DCAP quotes and their collateral below a root of its own, for tests: everything that Intel signs
 * can be made right, or wrong in one place. Include expect.h first. */
#ifndef ST_TESTS_QUOTE_MAKE_H
#define ST_TESTS_QUOTE_MAKE_H

#include "crypto/digest.h"
#include "evidence_make.h"

#include <openssl/core_names.h>
#include <openssl/ec.h>

/* Bytes of text, and of DER: one element, and a pair of name and value of Intel's extension. */
static inline void der(struct st_buf *to, uint8_t tag, const void *p, size_t len)
{
    uint8_t head[4] = {tag, (uint8_t)len};
    size_t n = 2;
    if (len > 255) {
        head[1] = 0x82, head[2] = (uint8_t)(len >> 8), head[3] = (uint8_t)len;
        n = 4;
    } else if (len > 127) {
        head[1] = 0x81, head[2] = (uint8_t)len;
        n = 3;
    }
    st_buf_add(to, head, n);
    st_buf_add(to, p, len);
}
static inline void der_pair(struct st_buf *to, int above, int id, uint8_t tag, const void *p, size_t len)
{
    uint8_t oid[11] = {0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01};
    struct st_buf b = {0};
    size_t n = 9;
    if (above)
        oid[n++] = (uint8_t)above;
    oid[n++] = (uint8_t)id;
    der(&b, 0x06, oid, n);
    der(&b, tag, p, len);
    der(to, 0x30, b.p, b.len);
    st_buf_free(&b);
}
static inline void der_number(struct st_buf *to, int above, int id, unsigned v)
{
    uint8_t p[3] = {0, (uint8_t)(v >> 8), (uint8_t)v};
    size_t from = v > 0x7fff ? 0 : v > 0x7f ? 1 : 2;
    der_pair(to, above, id, 0x02, p + from, 3 - from);
}

/* Makes the SGX extension of a PCK certificate. */
struct platform {
    uint8_t fmspc[6], pce_id[2], svn[16];
    unsigned pce_svn;
    int twice; /* a field that stands there twice */
    int missing;
};
static inline struct st_buf make_extension(const struct platform *x)
{
    struct st_buf tcb = {0}, list = {0}, out = {0};
    uint8_t zeros[16] = {0};
    for (int i = 0; i < 16; i++)
        der_number(&tcb, 2, i + 1, x->svn[i]);
    der_number(&tcb, 2, 17, x->pce_svn);
    der_pair(&tcb, 2, 18, 0x04, x->svn, 16);
    for (int id = 1; id <= 5; id++)
        for (int n = (id != x->missing) + (id == x->twice); n; n--)
            switch (id) {
            case 1:
                der_pair(&list, 0, 1, 0x04, zeros, 16);
                break;
            case 2:
                der_pair(&list, 0, 2, 0x30, tcb.p, tcb.len);
                break;
            case 3:
                der_pair(&list, 0, 3, 0x04, x->pce_id, 2);
                break;
            case 4:
                der_pair(&list, 0, 4, 0x04, x->fmspc, 6);
                break;
            case 5:
                der_pair(&list, 0, 5, 0x0a, zeros, 1);
                break;
            }
    der(&out, 0x30, list.p, list.len);
    st_buf_free(&tcb);
    st_buf_free(&list);
    return out;
}

/* What a certificate says. */
struct cert {
    const char *cn;
    bool ca;
    int64_t from, to;                /* 0: ten days around MADE_AT */
    const struct platform *platform; /* of a PCK certificate */
};
static inline X509 *make_cert(const struct cert *c, EVP_PKEY *key, X509 *issuer, EVP_PKEY *issuer_key)
{
    X509 *x = made_unsigned(&(struct made_cert){.cn = c->cn, .ca = c->ca, .from = c->from, .to = c->to}, key, issuer);
    if (c->platform) {
        struct st_buf b = make_extension(c->platform);
        add_bytes(x, "1.2.840.113741.1.13.1", b.p, b.len);
        st_buf_free(&b);
    }
    return made_sign(x, issuer_key);
}

/* ECDSA P-256 with SHA-256 as r || s. */
static inline void sign_raw(EVP_PKEY *key, const void *p, size_t len, uint8_t out[64])
{
    unsigned char sig[128];
    const unsigned char *at = sig;
    size_t n = sizeof sig;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    assert_int_equal(EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, key), 1);
    assert_int_equal(EVP_DigestSign(ctx, sig, &n, p, len), 1);
    ECDSA_SIG *s = d2i_ECDSA_SIG(NULL, &at, (long)n);
    BN_bn2binpad(ECDSA_SIG_get0_r(s), out, 32);
    BN_bn2binpad(ECDSA_SIG_get0_s(s), out + 32, 32);
    ECDSA_SIG_free(s);
    EVP_MD_CTX_free(ctx);
}

/* Keys, certificates and texts; whatever a test changes before it asks for a quote or for evidence is used. */
struct maker {
    EVP_PKEY *root_key, *ca_key, *pck_key, *tcb_key, *att_key, *other_key;
    X509 *root, *ca, *pck, *tcb;
    struct platform platform;
    struct st_buf pck_chain; /* PEM, as it goes into quotes */
    struct st_buf roots;     /* PEM, trusted */
    struct st_buf root_crl, ca_crl;
    struct st_buf tcb_info, qe_identity; /* the inner objects */
    struct st_buf tcb_reply, qe_reply, issuers;
};

static inline void make_names(struct maker *m)
{
    m->root = make_cert(&(struct cert){.cn = "Test SGX Root CA", .ca = true}, m->root_key, NULL, m->root_key);
    m->ca = make_cert(&(struct cert){.cn = "Intel SGX PCK Platform CA", .ca = true}, m->ca_key, m->root, m->root_key);
    m->pck = make_cert(&(struct cert){.cn = "Intel SGX PCK Certificate", .platform = &m->platform}, m->pck_key, m->ca,
                       m->ca_key);
    m->tcb = make_cert(&(struct cert){.cn = "Intel SGX TCB Signing"}, m->tcb_key, m->root, m->root_key);
}

/* Puts `to` where `from` stands in a text, once. */
static inline void replace(struct st_buf *b, const char *from, const char *to)
{
    char *at = strstr(b->p, from);
    struct st_buf out = {0};
    if (!at)
        fail_msg("%s is not in the text", from);
    st_buf_add(&out, b->p, (size_t)(at - b->p));
    st_buf_add_str(&out, to);
    st_buf_add_str(&out, at + strlen(from));
    st_buf_free(b);
    *b = out;
}

#define ZEROS16 "00000000000000000000000000000000"
#define ZEROS48 ZEROS16 ZEROS16 ZEROS16
#define MODULE                                                                                                         \
    "\"mrsigner\":\"" ZEROS48 "\",\"attributes\":\"0000000000000000\",\"attributesMask\":\"FFFFFFFFFFFFFFFF\""

static inline void components(struct st_buf *b, const char *name, unsigned first, unsigned second, unsigned third)
{
    st_buf_addf(b, "\"%s\":[{\"svn\":%u},{\"svn\":%u},{\"svn\":%u}", name, first, second, third);
    for (int i = 3; i < 16; i++)
        st_buf_add_str(b, ",{\"svn\":0}");
    st_buf_add_str(b, "]");
}
static inline void level(struct st_buf *b, bool tdx, unsigned svn, unsigned pce_svn, const char *status,
                         const char *advisories)
{
    st_buf_add_str(b, "{\"tcb\":{");
    components(b, "sgxtcbcomponents", svn, svn, 0);
    st_buf_addf(b, ",\"pcesvn\":%u", pce_svn);
    if (tdx) {
        st_buf_add_str(b, ",");
        components(b, "tdxtcbcomponents", 3, 0, svn);
    }
    st_buf_addf(b, "},\"tcbDate\":\"2024-0%u-13T00:00:00Z\",\"tcbStatus\":\"%s\",\"advisoryIDs\":[%s]}", svn, status,
                advisories);
}

/* Levels 5 (UpToDate), 3 (SWHardeningNeeded), 2 (ConfigurationNeeded) and 1 (Revoked). */
static inline void make_statements(struct maker *m, bool tdx)
{
    static const char dates[] = "\"issueDate\":\"2025-06-19T10:16:03Z\",\"nextUpdate\":\"2025-07-19T10:16:03Z\","
                                "\"tcbEvaluationDataNumber\":17";
    struct st_buf *b = &m->tcb_info;
    st_buf_clear(b);
    st_buf_addf(b, "{\"id\":\"%s\",\"version\":3,%s,\"fmspc\":\"00806F050000\",\"pceId\":\"0000\",\"tcbType\":0,",
                tdx ? "TDX" : "SGX", dates);
    if (tdx)
        st_buf_add_str(b, "\"tdxModule\":{" MODULE "},\"tdxModuleIdentities\":[{\"id\":\"TDX_01\"," MODULE
                          ",\"tcbLevels\":[{\"tcb\":{\"isvsvn\":4},\"tcbDate\":\"2024-03-13T00:00:00Z\",\"tcbStatus\":"
                          "\"UpToDate\"},{\"tcb\":{\"isvsvn\":2},\"tcbDate\":\"2023-08-09T00:00:00Z\",\"tcbStatus\":"
                          "\"OutOfDate\",\"advisoryIDs\":[\"INTEL-SA-01036\"]}]}],");
    st_buf_add_str(b, "\"tcbLevels\":[");
    level(b, tdx, 5, 11, "UpToDate", "");
    st_buf_add_str(b, ",");
    level(b, tdx, 3, 11, "SWHardeningNeeded", "\"INTEL-SA-00615\"");
    st_buf_add_str(b, ",");
    level(b, tdx, 2, 10, "ConfigurationNeeded", "\"INTEL-SA-00615\",\"INTEL-SA-00657\"");
    st_buf_add_str(b, ",");
    level(b, tdx, 1, 5, "Revoked", "");
    st_buf_add_str(b, "]}");
    b = &m->qe_identity;
    st_buf_clear(b);
    st_buf_addf(b,
                "{\"id\":\"%s\",\"version\":2,%s,\"miscselect\":\"00000000\",\"miscselectMask\":\"FFFFFFFF\",\"attribu"
                "tes\":\"11000000000000000000000000000000\",\"attributesMask\":\"FBFFFFFFFFFFFFFF0000000000000000\",",
                tdx ? "TD_QE" : "QE", dates);
    st_buf_add_str(b,
                   "\"mrsigner\":\"DC9E2A7C6F948F17474E34A7FC43ED030F7C1563F1BABDDF6340C82E0E54A8C5\",\"isvprodid\":2,"
                   "\"tcbLevels\":[{\"tcb\":{\"isvsvn\":4},\"tcbDate\":\"2024-03-13T00:00:00Z\",\"tcbStatus\":\"UpToDa"
                   "te\"},{\"tcb\":{\"isvsvn\":2},\"tcbDate\":\"2023-08-09T00:00:00Z\",\"tcbStatus\":\"OutOfDate\",\"ad"
                   "visoryIDs\":[\"INTEL-SA-00477\"]}]}");
}

/* Everything right, for one TEE; make_statements() again for the other. */
static inline void maker_open(struct maker *m, bool tdx)
{
    *m = (struct maker){0};
    EVP_PKEY **keys[] = {&m->root_key, &m->ca_key, &m->pck_key, &m->tcb_key, &m->att_key, &m->other_key};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        *keys[i] = EVP_EC_gen("P-256");
    m->platform = (struct platform){.fmspc = {0x00, 0x80, 0x6f, 0x05, 0x00, 0x00}, .svn = {6, 6, 0x82}, .pce_svn = 11};
    make_names(m);
    made_crl(&m->root_crl, m->root, m->root_key, NULL, MADE_AT - DAY, MADE_AT + DAY);
    made_crl(&m->ca_crl, m->ca, m->ca_key, NULL, MADE_AT - DAY, MADE_AT + DAY);
    add_pem(&m->roots, m->root);
    make_statements(m, tdx);
}

static inline void maker_close(struct maker *m)
{
    EVP_PKEY *keys[] = {m->root_key, m->ca_key, m->pck_key, m->tcb_key, m->att_key, m->other_key};
    X509 *certs[] = {m->root, m->ca, m->pck, m->tcb};
    struct st_buf *texts[] = {&m->pck_chain,   &m->roots,     &m->root_crl, &m->ca_crl, &m->tcb_info,
                              &m->qe_identity, &m->tcb_reply, &m->qe_reply, &m->issuers};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        EVP_PKEY_free(keys[i]);
    for (size_t i = 0; i < sizeof certs / sizeof *certs; i++)
        X509_free(certs[i]);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        st_buf_free(texts[i]);
}

/* A new PCK certificate in the place of the old one. */
static inline void maker_pck(struct maker *m, const struct cert *c, EVP_PKEY *issuer_key)
{
    X509_free(m->pck);
    m->pck = make_cert(c, m->pck_key, m->ca, issuer_key);
}

/* One quote. The parts that tests change before everything is signed. */
struct quote_make {
    unsigned version;
    bool is_tdx, td15;
    uint8_t header[48], body[648], qe[384], auth[32];
    size_t body_len;
    bool qe_unbound;       /* the QE's report data is left as it is */
    unsigned inner_type;   /* of certification data; 0 = 5 */
    size_t bytes_too_many; /* behind the PCK chain, inside the signature data */
};

static inline void put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)v, p[1] = (uint8_t)(v >> 8);
}
static inline void add32(struct st_buf *b, size_t v)
{
    uint8_t p[4] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)};
    st_buf_add(b, p, 4);
}
static inline void add16(struct st_buf *b, unsigned v)
{
    uint8_t p[2] = {(uint8_t)v, (uint8_t)(v >> 8)};
    st_buf_add(b, p, 2);
}

/* version 3 (SGX), 4, or 5. */
static inline void quote_start(struct quote_make *q, unsigned version, bool is_tdx, bool td15)
{
    static const uint8_t vendor[16] = {0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9,
                                       0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07};
    static const char signer[] = "dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5";
    struct st_err e;
    *q = (struct quote_make){.version = version, .is_tdx = is_tdx, .td15 = td15};
    put16(q->header, version);
    put16(q->header + 2, 2);
    put16(q->header + 4, is_tdx ? 0x81 : 0);
    memcpy(q->header + 12, vendor, 16);
    q->body_len = is_tdx ? td15 ? 648 : 584 : 384;
    for (size_t i = 0; i < 48; i++) /* measurements */
        for (size_t at = is_tdx ? 136 : 64; is_tdx && at < 520; at += 48)
            q->body[at + i] = (uint8_t)(at + i);
    memset(q->body + (is_tdx ? 520 : 320), 0x5a, 64); /* report data */
    if (is_tdx) {
        q->body[0] = 4, q->body[1] = 1, q->body[2] = 5; /* module 1.5, SVN 4; platform */
        q->body[123] = 0x10;                            /* SEPT_VE_DISABLE */
    } else {
        memset(q->body + 64, 0x11, 32);
        memset(q->body + 128, 0x22, 32);
        q->body[48] = 0x05; /* INIT, MODE64BIT */
    }
    q->qe[48] = 0x15; /* with PROVISIONKEY */
    assert_ok(st_unhex(signer, 64, q->qe + 128, 32, "signer", &e), &e);
    put16(q->qe + 256, 2);
    put16(q->qe + 258, 4);
}

static inline void att_point(EVP_PKEY *key, uint8_t xy[64])
{
    uint8_t point[65];
    size_t n;
    assert_int_equal(EVP_PKEY_get_octet_string_param(key, OSSL_PKEY_PARAM_PUB_KEY, point, sizeof point, &n), 1);
    assert_int_equal(n, 65);
    memcpy(xy, point + 1, 64);
}

static inline void maker_chain(struct maker *m)
{
    if (m->pck_chain.len)
        return;
    add_pem(&m->pck_chain, m->pck);
    add_pem(&m->pck_chain, m->ca);
    add_pem(&m->pck_chain, m->root);
}

/* Signs and puts together. Free with st_buf_free. */
static inline struct st_buf quote_end(struct quote_make *q, struct maker *m)
{
    struct st_buf out = {0}, data = {0}, qe = {0};
    uint8_t sig[64], key[64], bound[96];
    st_buf_add(&out, q->header, 48);
    if (q->version == 5) {
        add16(&out, !q->is_tdx ? 1 : q->td15 ? 3 : 2);
        add32(&out, q->body_len);
    }
    st_buf_add(&out, q->body, q->body_len);
    sign_raw(m->att_key, out.p, out.len, sig);
    att_point(m->att_key, key);
    memcpy(bound, key, 64);
    memcpy(bound + 64, q->auth, 32);
    if (!q->qe_unbound)
        st_sha256(bound, 96, q->qe + 320);
    st_buf_add(&data, sig, 64);
    st_buf_add(&data, key, 64);
    sign_raw(m->pck_key, q->qe, 384, sig);
    maker_chain(m);
    st_buf_add(&qe, q->qe, 384);
    st_buf_add(&qe, sig, 64);
    add16(&qe, 32);
    st_buf_add(&qe, q->auth, 32);
    add16(&qe, q->inner_type ? q->inner_type : 5);
    add32(&qe, m->pck_chain.len);
    st_buf_add(&qe, m->pck_chain.p, m->pck_chain.len);
    for (size_t i = 0; i < q->bytes_too_many; i++)
        st_buf_add(&qe, "", 1);
    if (q->version > 3) {
        add16(&data, 6);
        add32(&data, qe.len);
    }
    st_buf_add(&data, qe.p, qe.len);
    add32(&out, data.len);
    st_buf_add(&out, data.p, data.len);
    st_buf_free(&data);
    st_buf_free(&qe);
    return out;
}

static inline void make_reply(struct st_buf *out, const char *key, const struct st_buf *json, EVP_PKEY *signer)
{
    uint8_t sig[64];
    char hex[129];
    sign_raw(signer, json->p, json->len, sig);
    st_hex(sig, 64, hex);
    st_buf_clear(out);
    st_buf_addf(out, "{\"%s\":%s,\"signature\":\"%s\"}", key, json->p, hex);
}

/* The quote with all its collateral, signed by m->tcb_key. Borrows. */
static inline struct st_evidence maker_evidence(struct maker *m, const char *kind, const struct st_buf *quote)
{
    struct st_evidence ev = {.kind = kind, .data = {(const uint8_t *)quote->p, quote->len}};
    make_reply(&m->tcb_reply, "tcbInfo", &m->tcb_info, m->tcb_key);
    make_reply(&m->qe_reply, "enclaveIdentity", &m->qe_identity, m->tcb_key);
    st_buf_clear(&m->issuers);
    add_pem(&m->issuers, m->tcb);
    endorse(&ev, ST_ENDORSEMENT_TCB_INFO, span_of(&m->tcb_reply));
    endorse(&ev, ST_ENDORSEMENT_QE_IDENTITY, span_of(&m->qe_reply));
    endorse(&ev, ST_ENDORSEMENT_CERTS, span_of(&m->issuers));
    endorse(&ev, ST_ENDORSEMENT_CRL, span_of(&m->root_crl));
    endorse(&ev, ST_ENDORSEMENT_CRL, span_of(&m->ca_crl));
    return ev;
}

#endif
