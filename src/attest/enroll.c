#include "attest/enroll.h"
#include "attest/tpm_credential.h"
#include "base/file.h"
#include "base/hooks.h"
#include "crypto/aead.h"
#include "crypto/digest.h"
#include "crypto/x509.h"
#include "text/base64.h"
#include "text/json.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <sys/stat.h>

#define DAY 86400
static const char label[] = "sotto enroll certificate v1";

/* ---- certificates ---- */

static int add_extension(X509 *x, int nid, const char *value)
{
    X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, NULL, nid, value);
    int ok = ext && X509_add_ext(x, ext, -1) == 1;
    X509_EXTENSION_free(ext);
    return ok;
}

static int set_serial(X509 *x)
{
    uint8_t bytes[16];
    struct st_err e;
    if (st_random(bytes, sizeof bytes, &e))
        return 0;
    bytes[0] = (uint8_t)((bytes[0] & 0x3f) | 0x40); /* positive, and of one length (RFC 5280, 4.1.2.2) */
    BIGNUM *n = BN_bin2bn(bytes, sizeof bytes, NULL);
    int ok = n && BN_to_ASN1_INTEGER(n, X509_get_serialNumber(x));
    BN_free(n);
    return ok;
}

static int set_name(X509 *x, EVP_PKEY *key, const char *what)
{
    uint8_t digest[32];
    char hex[17], cn[64];
    struct st_err e;
    if (st_key_digest(key, digest, &e))
        return 0;
    st_hex(digest, 8, hex);
    snprintf(cn, sizeof cn, "%s %s", what, hex);
    return X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC, (const unsigned char *)cn, -1, -1,
                                      0) == 1;
}

/* issuer NULL: signed by itself. A clock that runs behind the authority's by an hour is no reason to refuse. */
static X509 *make_certificate(EVP_PKEY *key, const struct st_enroll_ca *issuer, int64_t now, unsigned days)
{
    X509 *x = X509_new();
    int ok = x && X509_set_version(x, X509_VERSION_3) && set_serial(x) && X509_set_pubkey(x, key) &&
             ASN1_TIME_set(X509_getm_notBefore(x), (time_t)(now - 3600)) &&
             ASN1_TIME_set(X509_getm_notAfter(x), (time_t)(now + (int64_t)days * DAY)) &&
             set_name(x, key, issuer ? "TPM attestation key" : "Sotto attestation authority") &&
             X509_set_issuer_name(x, X509_get_subject_name(issuer ? issuer->cert : x));
    if (ok && issuer)
        ok = add_extension(x, NID_basic_constraints, "critical,CA:FALSE") &&
             add_extension(x, NID_key_usage, "critical,digitalSignature") &&
             add_extension(x, NID_ext_key_usage, "2.23.133.8.3"); /* tcg-kp-AIKCertificate */
    else if (ok)
        ok = add_extension(x, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
             add_extension(x, NID_key_usage, "critical,keyCertSign,cRLSign");
    if (ok && X509_sign(x, issuer ? issuer->key : key, EVP_sha384()) > 0)
        return x;
    X509_free(x);
    return NULL;
}

static int write_pem(struct st_buf *out, X509 *x, EVP_PKEY *key)
{
    BIO *bio = BIO_new(BIO_s_secmem());
    char *p = NULL;
    int ok =
        bio && (x ? PEM_write_bio_X509(bio, x) : PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL)) == 1;
    long n = ok ? BIO_get_mem_data(bio, &p) : 0;
    if (n > 0)
        st_buf_add(out, p, (size_t)n);
    BIO_free(bio);
    return ok && n > 0 && !out->failed;
}

/* ---- the authority ---- */

static int crypto_failed(const char *what, struct st_err *e)
{
    ERR_clear_error();
    return st_fail(e, ST_INTERNAL, "%s: OpenSSL cannot", what);
}

static int make_ca(const char *dir, const char *key_path, const char *cert_path, struct st_err *e)
{
    struct st_enroll_ca ca = {.key = EVP_EC_gen("P-384")};
    struct st_buf key = {0}, cert = {0};
    int rc = mkdir(dir, 0700) == 0 || errno == EEXIST
                 ? 0
                 : st_fail(e, ST_IO, "%s: cannot be made: %s", dir, strerror(errno));
    if (!rc && (!ca.key || !(ca.cert = make_certificate(ca.key, NULL, st_unix_time(), 3650)) ||
                !write_pem(&cert, ca.cert, NULL) || !write_pem(&key, NULL, ca.key)))
        rc = crypto_failed("making a certificate authority", e);
    if (!rc)
        rc = st_file_write(key_path, key.p, key.len, 0600, false, e);
    if (!rc)
        rc = st_file_write(cert_path, cert.p, cert.len, 0644, false, e);
    st_buf_wipe(&key);
    st_buf_free(&cert);
    st_enroll_ca_free(&ca);
    return rc;
}

static int read_ca(const char *key_path, const char *cert_path, struct st_enroll_ca *out, struct st_err *e)
{
    struct st_buf text = {0};
    struct st_certs certs = {0};
    int rc = st_file_read(cert_path, ST_ENROLL_MAX, &text, e);
    if (!rc)
        rc = st_certs_add(&certs, text.p, text.len, cert_path, e);
    if (!rc && certs.n != 1)
        rc = st_fail(e, ST_INPUT, "%s: want one certificate, got %zu", cert_path, certs.n);
    if (!rc)
        rc = st_file_read(key_path, ST_ENROLL_MAX, &text, e);
    BIO *bio = rc ? NULL : BIO_new_mem_buf(text.p, (int)text.len);
    if (bio)
        out->key = PEM_read_bio_PrivateKey(bio, NULL, NULL, (void *)(uintptr_t) "");
    BIO_free(bio);
    if (!rc && (!out->key || X509_check_private_key(certs.p[0], out->key) != 1))
        rc = st_fail(e, ST_INPUT, "%s: want the private key of %s as PEM", key_path, cert_path);
    if (!rc) {
        out->cert = certs.p[0];
        certs.n = 0;
    }
    ERR_clear_error();
    st_certs_free(&certs);
    st_buf_wipe(&text);
    return rc;
}

int st_enroll_ca_open(const char *dir, bool make, struct st_enroll_ca *out, struct st_err *e)
{
    char key[ST_PATH_MAX], cert[ST_PATH_MAX];
    *out = (struct st_enroll_ca){0};
    if (st_path_join(key, sizeof key, dir, "ca.key", e) || st_path_join(cert, sizeof cert, dir, "ca.pem", e))
        return e->code;
    if (make && !st_path_exists(key) && !st_path_exists(cert) && make_ca(dir, key, cert, e))
        return e->code;
    if (read_ca(key, cert, out, e))
        st_enroll_ca_free(out);
    return out->cert ? 0 : e->code;
}

void st_enroll_ca_free(struct st_enroll_ca *ca)
{
    X509_free(ca->cert);
    EVP_PKEY_free(ca->key);
    *ca = (struct st_enroll_ca){0};
}

/* ---- request ---- */

static void add_field(struct st_buf *out, const char *name, const void *p, size_t len)
{
    st_buf_addf(out, ", \"%s\": \"", name);
    st_base64_encode(p, len, out);
    st_buf_add_str(out, "\"");
}

int st_enroll_request(struct st_tpm_device *d, struct st_buf *out, struct st_err *e)
{
    struct st_buf ek = {0}, cert = {0};
    const struct st_span ak = st_tpm_device_ak(d);
    int rc = st_tpm_device_ek(d, &ek, &cert, e);
    if (!rc) {
        st_buf_add_str(out, "{\"version\": 1");
        add_field(out, "ek", ek.p, ek.len);
        add_field(out, "ak", ak.p, ak.len);
        if (cert.len)
            add_field(out, "ek_certificate", cert.p, cert.len);
        st_buf_add_str(out, "}\n");
        rc = ek.failed || cert.failed || out->failed ? st_fail(e, ST_MEMORY, "enrolment: no memory") : 0;
    }
    st_buf_free(&ek);
    st_buf_free(&cert);
    return rc;
}

struct request {
    struct st_tpm_key ek, ak;
    struct st_buf ek_certificate;
};

static void request_free(struct request *r)
{
    st_tpm_key_free(&r->ek);
    st_tpm_key_free(&r->ak);
    st_buf_free(&r->ek_certificate);
}

static int check_version(const json_t *o, const char *where, struct st_err *e)
{
    int64_t version = 0;
    if (st_json_need(o, where, "version", e) || st_json_int(o, where, "version", 0, INT32_MAX, &version, e))
        return e->code;
    return version == 1 ? 0 : st_fail(e, ST_UNSUPPORTED, "%s: version: want 1, got %d", where, (int)version);
}

static int read_key(const json_t *o, const char *where, const char *name, struct st_tpm_key *out, struct st_err *e)
{
    struct st_buf area = {0};
    int rc = st_json_base64(o, where, name, &area, e);
    if (!rc && st_tpm_key_parse((const uint8_t *)area.p, area.len, out, e))
        rc = st_err_prefix(e, "%s: %s", where, name);
    if (!rc && !out->has_name)
        rc = st_fail(e, ST_INPUT, "%s: %s: want the key as its TPM writes it (TPMT_PUBLIC)", where, name);
    st_buf_free(&area);
    return rc;
}

static int request_parse(const void *p, size_t len, struct request *out, struct st_err *e)
{
    static const char where[] = "request", *const fields[] = {"version", "ek", "ak", "ek_certificate", NULL};
    json_t *o = NULL;
    *out = (struct request){0};
    if (len > ST_ENROLL_MAX)
        return st_fail(e, ST_INPUT, "%s: want at most %zu bytes, got %zu", where, ST_ENROLL_MAX, len);
    int rc = st_json_parse(p, len, where, &o, e);
    if (!rc)
        rc = st_json_only(o, where, fields, e) || check_version(o, where, e) || read_key(o, where, "ek", &out->ek, e) ||
                     read_key(o, where, "ak", &out->ak, e)
                 ? e->code
                 : 0;
    if (!rc && json_object_get(o, "ek_certificate"))
        rc = st_json_base64(o, where, "ek_certificate", &out->ek_certificate, e);
    json_decref(o);
    if (rc)
        request_free(out);
    return rc;
}

int st_enroll_ek_digest(const void *request, size_t len, uint8_t out[32], struct st_err *e)
{
    struct request r;
    if (request_parse(request, len, &r, e))
        return e->code;
    int rc = st_key_digest(r.ek.key, out, e);
    request_free(&r);
    return rc;
}

/* ---- grant ---- */

static int maker_vouches(const struct request *r, struct st_span roots, int64_t now, struct st_err *e)
{
    struct st_certs given = {0}, trusted = {0};
    int rc = r->ek_certificate.len
                 ? st_certs_add(&given, r->ek_certificate.p, r->ek_certificate.len, "ek_certificate", e)
                 : st_fail(e, ST_VERIFY, "request: the TPM holds no certificate of its maker");
    if (!rc)
        rc = st_certs_add(&trusted, roots.p, roots.len, "roots of TPM makers", e);
    X509 *leaf = rc ? NULL : given.p[0];
    if (!rc && EVP_PKEY_eq(X509_get0_pubkey(leaf), r->ek.key) != 1)
        rc = st_fail(e, ST_VERIFY, "request: ek_certificate: it is not for this endorsement key");
    if (!rc)
        rc = st_x509_verify(&(struct st_x509_verify){.leaf = leaf, .chain = &given, .roots = &trusted, .time = now}, e);
    st_certs_free(&given);
    st_certs_free(&trusted);
    return rc;
}

static int believe(const struct request *r, const struct st_enroll_trust *t, int64_t now, struct st_err *e)
{
    uint8_t digest[32];
    char hex[65];
    if (st_key_digest(r->ek.key, digest, e))
        return e->code;
    if (t->digest && memcmp(digest, t->digest, sizeof digest) == 0)
        return 0;
    if (t->roots.len)
        return maker_vouches(r, t->roots, now, e);
    st_hex(digest, sizeof digest, hex);
    return st_fail(e, ST_VERIFY, "request: endorsement key %s: it is not one that was named, and no maker's roots were",
                   hex);
}

static int check_ek(const struct st_tpm_key *ek, struct st_err *e)
{
    const uint32_t want = ST_TPMA_FIXED_TPM | ST_TPMA_FIXED_PARENT | ST_TPMA_RESTRICTED | ST_TPMA_DECRYPT;
    return (ek->attributes & want) == want && !(ek->attributes & ST_TPMA_SIGN)
               ? 0
               : st_fail(e, ST_VERIFY, "request: ek: not a restricted decryption key of a TPM");
}

static int seal(const struct request *r, const struct st_buf *pem, struct st_buf *out, struct st_err *e)
{
    static const uint8_t nonce[ST_AEAD_NONCE_LEN]; /* the key serves once */
    struct st_tpm_protected c;
    uint8_t secret[ST_TPM_CREDENTIAL_SECRET];
    struct st_buf sealed = {0};
    int rc = st_random(secret, sizeof secret, e);
    if (!rc)
        rc = st_tpm_credential_make(r->ek.key, &r->ak, secret, &c, e);
    uint8_t *room = rc ? NULL : st_buf_room(&sealed, pem->len + ST_AEAD_TAG_LEN);
    if (!rc && !room)
        rc = st_fail(e, ST_MEMORY, "enrolment: no memory");
    if (!rc)
        rc = st_aead_seal(secret, nonce, label, sizeof label, pem->p, pem->len, room, e);
    if (!rc) {
        st_buf_add_str(out, "{\"version\": 1");
        add_field(out, "credential", c.blob, c.blob_len);
        add_field(out, "seed", c.seed, c.seed_len);
        add_field(out, "certificate", sealed.p, sealed.len);
        st_buf_add_str(out, "}\n");
        rc = out->failed ? st_fail(e, ST_MEMORY, "enrolment: no memory") : 0;
    }
    explicit_bzero(secret, sizeof secret);
    st_buf_free(&sealed);
    return rc;
}

int st_enroll_grant(const struct st_enroll_ca *ca, const void *request, size_t len, const struct st_enroll_trust *t,
                    int64_t now, unsigned days, struct st_buf *out, struct st_err *e)
{
    struct request r;
    struct st_buf pem = {0};
    if (request_parse(request, len, &r, e))
        return e->code;
    X509 *cert = NULL;
    int rc = believe(&r, t, now, e);
    if (!rc)
        rc = check_ek(&r.ek, e);
    if (!rc && st_tpm_key_check_signing(&r.ak, e))
        rc = st_err_prefix(e, "request: ak");
    if (!rc && (!(cert = make_certificate(r.ak.key, ca, now, days)) || !write_pem(&pem, cert, NULL)))
        rc = crypto_failed("certifying an attestation key", e);
    if (!rc)
        rc = seal(&r, &pem, out, e);
    X509_free(cert);
    st_buf_free(&pem);
    request_free(&r);
    return rc;
}

/* ---- accept ---- */

static int open_sealed(const uint8_t *secret, size_t secret_len, const struct st_buf *sealed, struct st_buf *pem,
                       struct st_err *e)
{
    static const uint8_t nonce[ST_AEAD_NONCE_LEN];
    if (secret_len != ST_AEAD_KEY_LEN || sealed->len <= ST_AEAD_TAG_LEN)
        return st_fail(e, ST_INPUT, "grant: credential: want a secret of %d bytes, got %zu", ST_AEAD_KEY_LEN,
                       secret_len);
    uint8_t *room = st_buf_room(pem, sealed->len - ST_AEAD_TAG_LEN);
    if (!room)
        return st_fail(e, ST_MEMORY, "enrolment: no memory");
    if (st_aead_open(secret, nonce, label, sizeof label, (const uint8_t *)sealed->p, sealed->len, room, e))
        return st_err_prefix(e, "grant: certificate");
    return 0;
}

int st_enroll_accept(struct st_tpm_device *d, const void *grant, size_t len, struct st_buf *pem, struct st_err *e)
{
    static const char where[] = "grant", *const fields[] = {"version", "credential", "seed", "certificate", NULL};
    struct st_buf blob = {0}, seed = {0}, sealed = {0};
    uint8_t secret[ST_TPM_SECRET_MAX];
    size_t secret_len = sizeof secret;
    json_t *o = NULL;
    if (len > ST_ENROLL_MAX)
        return st_fail(e, ST_INPUT, "%s: want at most %zu bytes, got %zu", where, ST_ENROLL_MAX, len);
    int rc = st_json_parse(grant, len, where, &o, e);
    if (!rc)
        rc = st_json_only(o, where, fields, e) || check_version(o, where, e) ||
                     st_json_base64(o, where, "credential", &blob, e) || st_json_base64(o, where, "seed", &seed, e) ||
                     st_json_base64(o, where, "certificate", &sealed, e)
                 ? e->code
                 : 0;
    if (!rc)
        rc = st_tpm_device_activate(d, (struct st_span){(const uint8_t *)blob.p, blob.len},
                                    (struct st_span){(const uint8_t *)seed.p, seed.len}, secret, &secret_len, e);
    if (!rc)
        rc = open_sealed(secret, secret_len, &sealed, pem, e);
    explicit_bzero(secret, sizeof secret);
    json_decref(o);
    st_buf_free(&blob);
    st_buf_free(&seed);
    st_buf_free(&sealed);
    return rc;
}
