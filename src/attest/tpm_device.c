#include "attest/tpm_device.h"

#include <stdlib.h>
#include <string.h>

uint16_t st_tpm_device_port(const char *tcti)
{
    if (!tcti || (strncmp(tcti, "swtpm", 5) != 0 && strncmp(tcti, "mssim", 5) != 0))
        return 0;
    const char *port = strstr(tcti, "port=");
    unsigned long n = port ? strtoul(port + 5, NULL, 10) : 2321; /* tpm2-tss's own default */
    return n <= UINT16_MAX ? (uint16_t)n : 0;
}

#ifdef SOTTO_TPM

#include <openssl/crypto.h>
#include <tss2/tss2_mu.h>

struct st_tpm_device {
    struct st_tpm_link link;
    ESYS_TR ak;
    bool ak_made; /* and so has to be dropped */
    uint8_t area[sizeof(TPMT_PUBLIC)];
    size_t area_len;
};

static const TPM2B_SENSITIVE_CREATE no_auth = {0};
static const TPM2B_DATA no_info = {0};
static const TPML_PCR_SELECTION no_pcrs = {0};

static const TPM2B_PUBLIC ak_template = {
    .publicArea = {
        .type = TPM2_ALG_ECC,
        .nameAlg = TPM2_ALG_SHA256,
        .objectAttributes = TPMA_OBJECT_RESTRICTED | TPMA_OBJECT_SIGN_ENCRYPT | TPMA_OBJECT_FIXEDTPM |
                            TPMA_OBJECT_FIXEDPARENT | TPMA_OBJECT_SENSITIVEDATAORIGIN | TPMA_OBJECT_USERWITHAUTH |
                            TPMA_OBJECT_NODA,
        .parameters.eccDetail = {.symmetric.algorithm = TPM2_ALG_NULL,
                                 .scheme = {.scheme = TPM2_ALG_ECDSA, .details.ecdsa.hashAlg = TPM2_ALG_SHA256},
                                 .curveID = TPM2_ECC_NIST_P256,
                                 .kdf.scheme = TPM2_ALG_NULL}}};

/* EK Credential Profile, B.3.3: template L-1. Its policy is PolicySecret(endorsement hierarchy). */
static const TPM2B_PUBLIC ek_template = {
    .publicArea = {
        .type = TPM2_ALG_RSA,
        .nameAlg = TPM2_ALG_SHA256,
        .objectAttributes = TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT | TPMA_OBJECT_SENSITIVEDATAORIGIN |
                            TPMA_OBJECT_ADMINWITHPOLICY | TPMA_OBJECT_RESTRICTED | TPMA_OBJECT_DECRYPT,
        .authPolicy = {.size = 32, .buffer = {0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc,
                                              0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7, 0x6e, 0x06, 0x52,
                                              0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa}},
        .parameters.rsaDetail = {.symmetric = {.algorithm = TPM2_ALG_AES, .keyBits.aes = 128, .mode.aes = TPM2_ALG_CFB},
                                 .scheme.scheme = TPM2_ALG_NULL,
                                 .keyBits = 2048},
        .unique.rsa.size = 256}};
#define EK_CERTIFICATE_INDEX 0x01c00002 /* EK Credential Profile, 2.2.1.4 */
#define EK_CERTIFICATE_MAX 4096

/* ---- opening ---- */

static int keep_area(struct st_tpm_device *d, const TPM2B_PUBLIC *public, struct st_err *e)
{
    TSS2_RC rc = Tss2_MU_TPMT_PUBLIC_Marshal(&public->publicArea, d->area, sizeof d->area, &d->area_len);
    return rc ? st_tpm_fail(rc, "writing the attestation key's public area", e) : 0;
}

static int make_ak(struct st_tpm_device *d, struct st_err *e)
{
    TPM2B_PUBLIC *public = NULL;
    TSS2_RC rc = Esys_CreatePrimary(d->link.esys, ESYS_TR_RH_ENDORSEMENT, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE,
                                    &no_auth, &ak_template, &no_info, &no_pcrs, &d->ak, &public, NULL, NULL, NULL);
    if (rc)
        return st_tpm_fail(rc, "making the attestation key", e);
    d->ak_made = true;
    int bad = keep_area(d, public, e);
    Esys_Free(public);
    return bad;
}

static int find_ak(struct st_tpm_device *d, const char *handle, struct st_err *e)
{
    char *end;
    TPM2B_PUBLIC *public = NULL;
    unsigned long long h = strtoull(handle, &end, 16);
    if (!*handle || *end || h < TPM2_PERSISTENT_FIRST || h > TPM2_PERSISTENT_LAST)
        return st_fail(e, ST_USAGE, "TPM: attestation key: want a persistent handle as 0x81000003, got '%.20s'",
                       handle);
    TSS2_RC rc = Esys_TR_FromTPMPublic(d->link.esys, (TPM2_HANDLE)h, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &d->ak);
    if (!rc)
        rc = Esys_ReadPublic(d->link.esys, d->ak, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &public, NULL, NULL);
    if (rc)
        return st_tpm_fail(rc, "finding the attestation key", e);
    int bad = keep_area(d, public, e);
    Esys_Free(public);
    return bad;
}

int st_tpm_device_open(const char *tcti, const char *ak, struct st_tpm_device **out, struct st_err *e)
{
    *out = NULL;
    struct st_tpm_device *d = calloc(1, sizeof *d);
    if (!d)
        return st_fail(e, ST_MEMORY, "TPM: no memory");
    d->ak = ESYS_TR_NONE;
    int rc = st_tpm_link_open(tcti, &d->link, e);
    if (!rc)
        rc = ak ? find_ak(d, ak, e) : make_ak(d, e);
    if (rc)
        st_tpm_device_close(d);
    else
        *out = d;
    return rc;
}

void st_tpm_device_close(struct st_tpm_device *d)
{
    if (!d)
        return;
    if (d->ak_made)
        (void)Esys_FlushContext(d->link.esys, d->ak);
    st_tpm_link_close(&d->link);
    free(d);
}

struct st_span st_tpm_device_ak(const struct st_tpm_device *d)
{
    return (struct st_span){d->area, d->area_len};
}

/* ---- the endorsement key ---- */

static int make_ek(struct st_tpm_device *d, ESYS_TR *ek, struct st_buf *area, struct st_err *e)
{
    TPM2B_PUBLIC *public = NULL;
    uint8_t bytes[sizeof(TPMT_PUBLIC)];
    size_t n = 0;
    TSS2_RC rc = Esys_CreatePrimary(d->link.esys, ESYS_TR_RH_ENDORSEMENT, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE,
                                    &no_auth, &ek_template, &no_info, &no_pcrs, ek, &public, NULL, NULL, NULL);
    if (rc)
        return st_tpm_fail(rc, "making the endorsement key", e);
    if (area && !(rc = Tss2_MU_TPMT_PUBLIC_Marshal(&public->publicArea, bytes, sizeof bytes, &n)))
        st_buf_add(area, bytes, n);
    Esys_Free(public);
    if (!rc)
        return 0;
    (void)Esys_FlushContext(d->link.esys, *ek);
    return st_tpm_fail(rc, "writing the endorsement key's public area", e);
}

/* An index that is not there is no error: many TPMs hold no certificate. */
static int read_certificate(struct st_tpm_device *d, struct st_buf *out, struct st_err *e)
{
    ESYS_TR index;
    TPM2B_NV_PUBLIC *info = NULL;
    if (st_tpm_link_handle(&d->link, EK_CERTIFICATE_INDEX) != EK_CERTIFICATE_INDEX)
        return 0;
    TSS2_RC rc =
        Esys_TR_FromTPMPublic(d->link.esys, EK_CERTIFICATE_INDEX, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &index);
    if (rc)
        return st_tpm_fail(rc, "finding the endorsement key's certificate", e);
    rc = Esys_NV_ReadPublic(d->link.esys, index, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &info, NULL);
    size_t size = rc ? 0 : info->nvPublic.dataSize;
    Esys_Free(info);
    for (size_t at = 0; at < size && size <= EK_CERTIFICATE_MAX && !rc;) {
        TPM2B_MAX_NV_BUFFER *part = NULL;
        const UINT16 n = (UINT16)(size - at < 512 ? size - at : 512);
        rc = Esys_NV_Read(d->link.esys, index, index, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, n, (UINT16)at,
                          &part);
        if (!rc)
            st_buf_add(out, part->buffer, part->size);
        Esys_Free(part);
        at += n;
    }
    Esys_TR_Close(d->link.esys, &index);
    return rc ? st_tpm_fail(rc, "reading the endorsement key's certificate", e) : 0;
}

int st_tpm_device_ek(struct st_tpm_device *d, struct st_buf *area, struct st_buf *certificate, struct st_err *e)
{
    ESYS_TR ek;
    int rc = make_ek(d, &ek, area, e);
    if (rc)
        return rc;
    (void)Esys_FlushContext(d->link.esys, ek);
    return read_certificate(d, certificate, e);
}

/* ---- state and quotes ---- */

static const struct st_tpm_pcrs quoted = {ST_TPM_SHA256, (1u << ST_TPM_QUOTED_PCRS) - 1};

int st_tpm_device_state(struct st_tpm_device *d, struct st_tpm_state *out, struct st_err *e)
{
    TPMS_TIME_INFO *time = NULL;
    struct st_tpm_values values;
    if (st_tpm_link_pcrs(&d->link, &quoted, &values, e))
        return e->code;
    for (int i = 0; i < ST_TPM_QUOTED_PCRS; i++)
        memcpy(out->pcrs[i], values.of[i], sizeof out->pcrs[i]);
    TSS2_RC rc = Esys_ReadClock(d->link.esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &time);
    if (rc)
        return st_tpm_fail(rc, "reading its clock", e);
    out->reset_count = time->clockInfo.resetCount;
    out->restart_count = time->clockInfo.restartCount;
    Esys_Free(time);
    return 0;
}

/* The digest of PCRs inside of a quote. */
static int digest_of(const TPM2B_ATTEST *quote, uint8_t digest[32], struct st_err *e)
{
    TPMS_ATTEST a;
    size_t at = 0;
    TSS2_RC rc = Tss2_MU_TPMS_ATTEST_Unmarshal(quote->attestationData, quote->size, &at, &a);
    if (rc || a.type != TPM2_ST_ATTEST_QUOTE || a.attested.quote.pcrDigest.size != 32)
        return st_fail(e, ST_UNSUPPORTED,
                       "TPM: quote: want one with a SHA-256 digest of PCRs; the attestation key "
                       "signs with another hash");
    memcpy(digest, a.attested.quote.pcrDigest.buffer, 32);
    return 0;
}

int st_tpm_device_quote(struct st_tpm_device *d, const uint8_t *data, size_t len, struct st_buf *attest,
                        struct st_buf *signature, uint8_t digest[32], struct st_err *e)
{
    TPM2B_DATA nonce = {.size = (UINT16)len};
    const TPMT_SIG_SCHEME keys_own = {.scheme = TPM2_ALG_NULL};
    const TPML_PCR_SELECTION pcrs = st_tpm_selection(&quoted);
    TPM2B_ATTEST *quote = NULL;
    TPMT_SIGNATURE *sig = NULL;
    uint8_t bytes[sizeof(TPMT_SIGNATURE)];
    size_t n = 0;
    if (len == 0 || len > 32)
        return st_fail(e, ST_INTERNAL, "TPM: quote: want 1..32 bytes of qualifying data, got %zu", len);
    memcpy(nonce.buffer, data, len);
    TSS2_RC rc = Esys_Quote(d->link.esys, d->ak, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &nonce, &keys_own, &pcrs,
                            &quote, &sig);
    if (!rc)
        rc = Tss2_MU_TPMT_SIGNATURE_Marshal(sig, bytes, sizeof bytes, &n);
    int bad = rc ? st_tpm_fail(rc, "quoting", e) : digest_of(quote, digest, e);
    if (!bad) {
        st_buf_add(attest, quote->attestationData, quote->size);
        st_buf_add(signature, bytes, n);
    }
    Esys_Free(quote);
    Esys_Free(sig);
    return bad;
}

int st_tpm_device_certify(struct st_tpm_device *d, enum st_tpm_storage_key key, struct st_buf *attest,
                          struct st_buf *signature, struct st_err *e)
{
    const TPMT_SIG_SCHEME keys_own = {.scheme = TPM2_ALG_NULL};
    ESYS_TR storage = ESYS_TR_NONE;
    TPM2B_ATTEST *statement = NULL;
    TPMT_SIGNATURE *sig = NULL;
    uint8_t area[ST_TPM_AREA_MAX], bytes[sizeof(TPMT_SIGNATURE)];
    size_t area_len, n = 0;
    int bad = st_tpm_link_storage(&d->link, key, &storage, area, &area_len, e);
    if (!bad) {
        TSS2_RC rc = Esys_Certify(d->link.esys, storage, d->ak, ESYS_TR_PASSWORD, ESYS_TR_PASSWORD, ESYS_TR_NONE,
                                  &no_info, &keys_own, &statement, &sig);
        if (!rc)
            rc = Tss2_MU_TPMT_SIGNATURE_Marshal(sig, bytes, sizeof bytes, &n);
        bad = rc ? st_tpm_fail(rc, "certifying the storage key", e) : 0;
    }
    if (storage != ESYS_TR_NONE)
        (void)Esys_FlushContext(d->link.esys, storage);
    if (!bad) {
        st_buf_add(attest, statement->attestationData, statement->size);
        st_buf_add(signature, bytes, n);
    }
    Esys_Free(statement);
    Esys_Free(sig);
    return bad;
}

/* ---- credentials ---- */

/* A session that may use the endorsement key. */
static int endorsement_session(struct st_tpm_device *d, ESYS_TR *session, struct st_err *e)
{
    const TPMT_SYM_DEF none = {.algorithm = TPM2_ALG_NULL};
    TSS2_RC rc = Esys_StartAuthSession(d->link.esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                                       ESYS_TR_NONE, NULL, TPM2_SE_POLICY, &none, TPM2_ALG_SHA256, session);
    if (rc)
        return st_tpm_fail(rc, "starting a session", e);
    rc = Esys_PolicySecret(d->link.esys, ESYS_TR_RH_ENDORSEMENT, *session, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE,
                           NULL, NULL, NULL, 0, NULL, NULL);
    if (!rc)
        return 0;
    (void)Esys_FlushContext(d->link.esys, *session);
    return st_tpm_fail(rc, "leave to use the endorsement key", e);
}

/* What the TPM says against the credential (Part 2, section 6.6: format one) is VERIFY; so is what libtpms says of a
 * seed that does not decrypt, as all commands before it went well. */
static int refused(TSS2_RC rc, struct st_err *e)
{
    if (!(rc & TSS2_RC_LAYER_MASK) && (rc & TPM2_RC_FMT1 || rc == TPM2_RC_FAILURE))
        return st_fail(e, ST_VERIFY,
                       "TPM: credential: it was made for another TPM or another attestation key, or "
                       "changed");
    return st_tpm_fail(rc, "opening the credential", e);
}

int st_tpm_device_activate(struct st_tpm_device *d, struct st_span blob, struct st_span seed, uint8_t *secret,
                           size_t *len, struct st_err *e)
{
    TPM2B_ID_OBJECT id = {.size = (UINT16)blob.len};
    TPM2B_ENCRYPTED_SECRET enc = {.size = (UINT16)seed.len};
    TPM2B_DIGEST *opened = NULL;
    ESYS_TR ek, session;
    if (blob.len > sizeof id.credential || seed.len > sizeof enc.secret)
        return st_fail(e, ST_INPUT, "TPM: credential: %zu and %zu bytes are more than a TPM takes", blob.len, seed.len);
    memcpy(id.credential, blob.p, blob.len);
    memcpy(enc.secret, seed.p, seed.len);
    if (make_ek(d, &ek, NULL, e))
        return e->code;
    int rc = endorsement_session(d, &session, e);
    if (!rc) {
        TSS2_RC bad = Esys_ActivateCredential(d->link.esys, d->ak, ek, ESYS_TR_PASSWORD, session, ESYS_TR_NONE, &id,
                                              &enc, &opened);
        (void)Esys_FlushContext(d->link.esys, session); /* ESAPI lets sessions live on */
        rc = bad ? refused(bad, e) : 0;
    }
    (void)Esys_FlushContext(d->link.esys, ek);
    if (!rc && opened->size > *len)
        rc = st_fail(e, ST_INPUT, "TPM: credential: holds %u bytes, want at most %zu", opened->size, *len);
    if (!rc) {
        memcpy(secret, opened->buffer, opened->size);
        *len = opened->size;
    }
    if (opened)
        OPENSSL_cleanse(opened, sizeof *opened);
    Esys_Free(opened);
    return rc;
}

#else

int st_tpm_device_open(const char *tcti, const char *ak, struct st_tpm_device **out, struct st_err *e)
{
    (void)tcti, (void)ak, (void)out;
    return st_tpm_absent(e);
}

void st_tpm_device_close(struct st_tpm_device *d)
{
    (void)d;
}

struct st_span st_tpm_device_ak(const struct st_tpm_device *d)
{
    (void)d;
    return (struct st_span){0};
}

int st_tpm_device_ek(struct st_tpm_device *d, struct st_buf *area, struct st_buf *certificate, struct st_err *e)
{
    (void)d, (void)area, (void)certificate;
    return st_tpm_absent(e);
}

int st_tpm_device_state(struct st_tpm_device *d, struct st_tpm_state *out, struct st_err *e)
{
    (void)d, (void)out;
    return st_tpm_absent(e);
}

int st_tpm_device_quote(struct st_tpm_device *d, const uint8_t *data, size_t len, struct st_buf *attest,
                        struct st_buf *signature, uint8_t digest[32], struct st_err *e)
{
    (void)d, (void)data, (void)len, (void)attest, (void)signature, (void)digest;
    return st_tpm_absent(e);
}

int st_tpm_device_certify(struct st_tpm_device *d, enum st_tpm_storage_key key, struct st_buf *attest,
                          struct st_buf *signature, struct st_err *e)
{
    (void)d, (void)key, (void)attest, (void)signature;
    return st_tpm_absent(e);
}

int st_tpm_device_activate(struct st_tpm_device *d, struct st_span blob, struct st_span seed, uint8_t *secret,
                           size_t *len, struct st_err *e)
{
    (void)d, (void)blob, (void)seed, (void)secret, (void)len;
    return st_tpm_absent(e);
}

#endif
