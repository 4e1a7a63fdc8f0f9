/* A seed sealed to this machine's TPM 2.0 (TCG TPM 2.0 Library, part 3: CreatePrimary, Create, Load, PolicyPCR,
 * Unseal), through tpm2-tss's ESAPI. Nothing is stored in the TPM: the primary key comes out the same each time,
 * because its template is fixed and the owner hierarchy's seed is the TPM's own. It salts every session, so a listener
 * on the bus learns neither session key nor seed. tpm2-tss copies the seed through buffers of its own, which it does
 * not wipe. */
#include "crypto/digest.h"
#include "protect/covariant/key_wrap.h"

#include <string.h>

enum { AT_BANK = 0, AT_MASK = 4, AT_PUBLIC = 8 };
#define N_PCR 24
#define SHA1 0x0004
#define SHA256 0x000b
#define SHA384 0x000c

static bool pcrs_ok(const struct st_cov_pcrs *p)
{
    if (!p->bank)
        return !p->mask;
    return (p->bank == SHA1 || p->bank == SHA256 || p->bank == SHA384) && p->mask && p->mask >> N_PCR == 0;
}

/* A TPM2B: a big-endian length and so many bytes. Returns where it ends, or 0. */
static size_t skip_sized(const uint8_t *p, size_t at, size_t len)
{
    if (at + 2 > len)
        return 0;
    size_t n = (size_t)p[at] << 8 | p[at + 1];
    return n && n <= len - at - 2 ? at + 2 + n : 0;
}

static int tpm_read(const uint8_t *blob, size_t len, const char *where, struct st_cov_key_info *info, struct st_err *e)
{
    size_t end = skip_sized(blob, AT_PUBLIC, len);
    if (!end || skip_sized(blob, end, len) != len)
        return st_fail(e, ST_INPUT, "%s: wrapped seed: want PCRs and a public and a private part", where);
    info->pcrs = (struct st_cov_pcrs){(uint32_t)st_get_le(blob + AT_BANK, 4), (uint32_t)st_get_le(blob + AT_MASK, 4)};
    if (!pcrs_ok(&info->pcrs))
        return st_fail(e, ST_INPUT, "%s: PCRs: want a known bank and some of PCR 0..%d, got bank %u, mask %x", where,
                       N_PCR - 1, info->pcrs.bank, info->pcrs.mask);
    return 0;
}

#ifdef SOTTO_TPM

#include <openssl/crypto.h>
#include <tss2/tss2_esys.h>
#include <tss2/tss2_mu.h>
#include <tss2/tss2_rc.h>
#include <tss2/tss2_tctildr.h>

#define SEALED_LEN (ST_COV_KEY_SEED + 32)

/* A connection: every handle that is not NONE is flushed at the end. */
struct tpm {
    TSS2_TCTI_CONTEXT *tcti;
    ESYS_CONTEXT *esys;
    ESYS_TR primary, session, policy, object;
};

static const TPM2B_PUBLIC primary_template = {
    .publicArea = {
        .type = TPM2_ALG_ECC,
        .nameAlg = TPM2_ALG_SHA256,
        .objectAttributes = TPMA_OBJECT_RESTRICTED | TPMA_OBJECT_DECRYPT | TPMA_OBJECT_FIXEDTPM |
                            TPMA_OBJECT_FIXEDPARENT | TPMA_OBJECT_SENSITIVEDATAORIGIN | TPMA_OBJECT_USERWITHAUTH |
                            TPMA_OBJECT_NODA,
        .parameters.eccDetail = {.symmetric = {.algorithm = TPM2_ALG_AES, .keyBits.aes = 128, .mode.aes = TPM2_ALG_CFB},
                                 .scheme.scheme = TPM2_ALG_NULL,
                                 .curveID = TPM2_ECC_NIST_P256,
                                 .kdf.scheme = TPM2_ALG_NULL}}};

static int tpm_fail(TSS2_RC rc, const char *what, struct st_err *e)
{
    return st_fail(e, ST_IO, "TPM: %s: %s", what, Tss2_RC_Decode(rc));
}

/* What the TPM says against the sealed seed itself (part 2, section 6.6: format one, or no warning) is VERIFY. */
static int tpm_refused(TSS2_RC rc, const char *what, struct st_err *e)
{
    if (rc & TSS2_RC_LAYER_MASK || (!(rc & TPM2_RC_FMT1) && (rc & TPM2_RC_WARN) == TPM2_RC_WARN))
        return tpm_fail(rc, what, e);
    if (rc & TPM2_RC_FMT1 && (rc & 0xbf) == TPM2_RC_POLICY_FAIL)
        return st_fail(e, ST_VERIFY, "TPM: %s: refused: the PCRs do not have the values they had when it was sealed",
                       what);
    return st_fail(e, ST_VERIFY, "TPM: %s: refused: it was sealed by another TPM, or changed", what);
}

static void disconnect(struct tpm *t)
{
    ESYS_TR *const handles[] = {&t->object, &t->policy, &t->session, &t->primary};
    for (size_t i = 0; t->esys && i < sizeof handles / sizeof *handles; i++)
        if (*handles[i] != ESYS_TR_NONE)
            (void)Esys_FlushContext(t->esys, *handles[i]);
    if (t->esys)
        Esys_Finalize(&t->esys);
    if (t->tcti)
        Tss2_TctiLdr_Finalize(&t->tcti);
}

/* A session whose parameters are encrypted, and whose key only this TPM and we can know. */
static int start_session(struct tpm *t, TPM2_SE type, ESYS_TR *session, struct st_err *e)
{
    const TPMT_SYM_DEF sym = {.algorithm = TPM2_ALG_AES, .keyBits.aes = 128, .mode.aes = TPM2_ALG_CFB};
    const TPMA_SESSION flags = TPMA_SESSION_DECRYPT | TPMA_SESSION_ENCRYPT | TPMA_SESSION_CONTINUESESSION;
    TSS2_RC rc = Esys_StartAuthSession(t->esys, t->primary, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE,
                                       NULL, type, &sym, TPM2_ALG_SHA256, session);
    if (!rc && type != TPM2_SE_TRIAL)
        rc = Esys_TRSess_SetAttributes(t->esys, *session, flags, 0xff);
    return rc ? tpm_fail(rc, "starting a session", e) : 0;
}

static int connect_tpm(struct tpm *t, const char *tcti, struct st_err *e)
{
    const TPM2B_SENSITIVE_CREATE no_auth = {0};
    const TPM2B_DATA no_info = {0};
    const TPML_PCR_SELECTION no_pcrs = {0};
    *t = (struct tpm){.primary = ESYS_TR_NONE, .session = ESYS_TR_NONE, .policy = ESYS_TR_NONE, .object = ESYS_TR_NONE};
    if (!tcti)
        tcti = ST_COV_TCTI_DEFAULT;
    TSS2_RC rc = Tss2_TctiLdr_Initialize(tcti, &t->tcti);
    if (!rc)
        rc = Esys_Initialize(&t->esys, t->tcti, NULL);
    if (rc)
        return st_fail(e, ST_IO, "TPM: none is reached through '%s': %s", tcti, Tss2_RC_Decode(rc));
    rc = Esys_CreatePrimary(t->esys, ESYS_TR_RH_OWNER, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &no_auth,
                            &primary_template, &no_info, &no_pcrs, &t->primary, NULL, NULL, NULL, NULL);
    if (rc)
        return tpm_fail(rc, "making the primary key under the owner hierarchy", e);
    return start_session(t, TPM2_SE_HMAC, &t->session, e);
}

static TPML_PCR_SELECTION selection(const struct st_cov_pcrs *p)
{
    return (TPML_PCR_SELECTION){
        .count = 1,
        .pcrSelections = {{.hash = (TPMI_ALG_HASH)p->bank,
                           .sizeofSelect = 3,
                           .pcrSelect = {(BYTE)p->mask, (BYTE)(p->mask >> 8), (BYTE)(p->mask >> 16)}}}};
}

/* PolicyPCR passes over PCRs that the TPM does not have: a policy of none of them would hold always. */
static int check_pcrs(struct tpm *t, const struct st_cov_pcrs *p, struct st_err *e)
{
    TPMS_CAPABILITY_DATA *cap = NULL;
    TPMI_YES_NO more;
    uint32_t have = 0;
    TSS2_RC rc =
        Esys_GetCapability(t->esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, TPM2_CAP_PCRS, 0, 1, &more, &cap);
    if (rc)
        return tpm_fail(rc, "listing its PCRs", e);
    for (UINT32 i = 0; i < cap->data.assignedPCR.count; i++) {
        const TPMS_PCR_SELECTION *s = &cap->data.assignedPCR.pcrSelections[i];
        for (int b = 0; s->hash == p->bank && b < s->sizeofSelect && b < 3; b++)
            have |= (uint32_t)s->pcrSelect[b] << (8 * b);
    }
    Esys_Free(cap);
    return p->mask & ~have ? st_fail(e, ST_UNSUPPORTED, "TPM: it has not all of these PCRs in that bank") : 0;
}

/* Binds a trial or policy session to today's values. */
static int bind_pcrs(struct tpm *t, TPM2_SE type, const struct st_cov_pcrs *p, struct st_err *e)
{
    const TPM2B_DIGEST as_they_are = {0};
    const TPML_PCR_SELECTION pcrs = selection(p);
    int rc = check_pcrs(t, p, e);
    if (!rc)
        rc = start_session(t, type, &t->policy, e);
    if (rc)
        return rc;
    TSS2_RC bad = Esys_PolicyPCR(t->esys, t->policy, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &as_they_are, &pcrs);
    return bad ? tpm_fail(bad, "reading PCRs", e) : 0;
}

/* The digest of a policy "these PCRs as they are now". */
static int policy_of(struct tpm *t, const struct st_cov_pcrs *p, TPM2B_DIGEST *out, struct st_err *e)
{
    TPM2B_DIGEST *digest = NULL;
    int rc = bind_pcrs(t, TPM2_SE_TRIAL, p, e);
    if (rc)
        return rc;
    TSS2_RC bad = Esys_PolicyGetDigest(t->esys, t->policy, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &digest);
    if (bad)
        return tpm_fail(bad, "reading a policy", e);
    *out = *digest;
    Esys_Free(digest);
    return 0;
}

/* Ties the seed to what stands before it in the file. */
static void head_hash(const uint8_t *head, const uint8_t *blob, uint8_t out[32])
{
    uint8_t in[ST_COV_KEY_HEAD + AT_PUBLIC];
    memcpy(in, head, ST_COV_KEY_HEAD);
    memcpy(in + ST_COV_KEY_HEAD, blob, AT_PUBLIC);
    st_sha256(in, sizeof in, out);
}

static int seal(struct tpm *t, const TPM2B_SENSITIVE_CREATE *data, const struct st_cov_pcrs *p, uint8_t *blob,
                size_t *len, struct st_err *e)
{
    const TPM2B_DATA no_info = {0};
    const TPML_PCR_SELECTION no_pcrs = {0};
    TPM2B_PUBLIC template = {
        .publicArea = {.type = TPM2_ALG_KEYEDHASH,
                       .nameAlg = TPM2_ALG_SHA256,
                       .objectAttributes = TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT | TPMA_OBJECT_NODA,
                       .parameters.keyedHashDetail.scheme.scheme = TPM2_ALG_NULL}};
    TPM2B_PRIVATE *private = NULL;
    TPM2B_PUBLIC *public = NULL;
    size_t at = AT_PUBLIC;
    int rc = 0;
    if (p->bank)
        rc = policy_of(t, p, &template.publicArea.authPolicy, e);
    else
        template.publicArea.objectAttributes |= TPMA_OBJECT_USERWITHAUTH;
    if (rc)
        return rc;
    TSS2_RC bad = Esys_Create(t->esys, t->primary, t->session, ESYS_TR_NONE, ESYS_TR_NONE, data, &template, &no_info,
                              &no_pcrs, &private, &public, NULL, NULL, NULL);
    if (!bad)
        bad = Tss2_MU_TPM2B_PUBLIC_Marshal(public, blob, ST_COV_KEY_BLOB_MAX, &at);
    if (!bad)
        bad = Tss2_MU_TPM2B_PRIVATE_Marshal(private, blob, ST_COV_KEY_BLOB_MAX, &at);
    Esys_Free(private);
    Esys_Free(public);
    *len = at;
    return bad ? tpm_fail(bad, "sealing the seed", e) : 0;
}

static int tpm_wrap(const uint8_t *head, const struct st_cov_lock *lock, const struct st_secret *seed, uint8_t *blob,
                    size_t *len, struct st_err *e)
{
    struct st_secret room = {0};
    struct tpm t;
    if (!pcrs_ok(&lock->pcrs))
        return st_fail(e, ST_USAGE, "PCRs: want sha1, sha256 or sha384 and some of PCR 0..%d", N_PCR - 1);
    int rc = st_secret_init(&room, sizeof(TPM2B_SENSITIVE_CREATE), e);
    if (rc)
        return rc;
    TPM2B_SENSITIVE_CREATE *in = (void *)room.p;
    st_put_le(blob + AT_BANK, lock->pcrs.bank, 4);
    st_put_le(blob + AT_MASK, lock->pcrs.mask, 4);
    in->sensitive.data.size = SEALED_LEN;
    memcpy(in->sensitive.data.buffer, seed->p, ST_COV_KEY_SEED);
    head_hash(head, blob, in->sensitive.data.buffer + ST_COV_KEY_SEED);
    rc = connect_tpm(&t, lock->tcti, e);
    if (!rc)
        rc = seal(&t, in, &lock->pcrs, blob, len, e);
    disconnect(&t);
    st_secret_wipe(&room);
    return rc;
}

static int unseal(struct tpm *t, const TPM2B_PUBLIC *public, const TPM2B_PRIVATE *private, const struct st_cov_pcrs *p,
                  TPM2B_SENSITIVE_DATA **out, struct st_err *e)
{
    TSS2_RC bad = Esys_Load(t->esys, t->primary, t->session, ESYS_TR_NONE, ESYS_TR_NONE, private, public, &t->object);
    if (bad)
        return tpm_refused(bad, "loading the sealed seed", e);
    int rc = p->bank ? bind_pcrs(t, TPM2_SE_POLICY, p, e) : 0;
    if (rc)
        return rc;
    bad = Esys_Unseal(t->esys, t->object, p->bank ? t->policy : t->session, ESYS_TR_NONE, ESYS_TR_NONE, out);
    return bad ? tpm_refused(bad, "unsealing the seed", e) : 0;
}

static int tpm_unwrap(const uint8_t *head, const struct st_cov_key_info *info, const uint8_t *blob, size_t len,
                      const char *where, const struct st_cov_lock *lock, struct st_secret *seed, struct st_err *e)
{
    TPM2B_PUBLIC public = {0};
    TPM2B_PRIVATE private = {0};
    TPM2B_SENSITIVE_DATA *data = NULL;
    struct tpm t;
    uint8_t want[32];
    size_t at = AT_PUBLIC;
    if (Tss2_MU_TPM2B_PUBLIC_Unmarshal(blob, len, &at, &public) ||
        Tss2_MU_TPM2B_PRIVATE_Unmarshal(blob, len, &at, &private) || at != len)
        return st_fail(e, ST_INPUT, "%s: wrapped seed: not an object of a TPM", where);
    int rc = connect_tpm(&t, lock->tcti, e);
    if (!rc)
        rc = unseal(&t, &public, &private, &info->pcrs, &data, e);
    if (rc) {
        st_err_prefix(e, "%s", where);
        goto out;
    }
    head_hash(head, blob, want);
    if (data->size == SEALED_LEN && CRYPTO_memcmp(data->buffer + ST_COV_KEY_SEED, want, sizeof want) == 0)
        memcpy(seed->p, data->buffer, ST_COV_KEY_SEED);
    else
        rc = st_fail(e, ST_VERIFY, "%s: the TPM's seed belongs to another file, or this one was changed", where);
    OPENSSL_cleanse(data, sizeof *data);
out:
    Esys_Free(data);
    disconnect(&t);
    return rc;
}

#else

static int refuse(struct st_err *e)
{
    return st_fail(e, ST_UNSUPPORTED,
                   "TPM: this build has no TPM support (tpm2-tss was not there, Debian libtss2-dev)");
}

static int tpm_wrap(const uint8_t *head, const struct st_cov_lock *lock, const struct st_secret *seed, uint8_t *blob,
                    size_t *len, struct st_err *e)
{
    (void)head;
    (void)lock;
    (void)seed;
    (void)blob;
    (void)len;
    return refuse(e);
}

static int tpm_unwrap(const uint8_t *head, const struct st_cov_key_info *info, const uint8_t *blob, size_t len,
                      const char *where, const struct st_cov_lock *lock, struct st_secret *seed, struct st_err *e)
{
    (void)head;
    (void)info;
    (void)blob;
    (void)len;
    (void)where;
    (void)lock;
    (void)seed;
    return refuse(e);
}

#endif

const struct st_cov_wrap_kind st_cov_wrap_tpm = {tpm_read, tpm_wrap, tpm_unwrap};
