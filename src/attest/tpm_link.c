#include "attest/tpm_link.h"

#include <string.h>

int st_tpm_absent(struct st_err *e)
{
    return st_fail(e, ST_UNSUPPORTED,
                   "TPM: this build has no TPM support (tpm2-tss was not there, Debian libtss2-dev)");
}

#ifdef SOTTO_TPM

#include <tss2/tss2_mu.h>
#include <tss2/tss2_tctildr.h>

/* TCG, TPM v2.0 Provisioning Guidance, 7.5.1: storage root keys (with `unique` empty). */
#define STORAGE_ATTRIBUTES                                                                                             \
    (TPMA_OBJECT_RESTRICTED | TPMA_OBJECT_DECRYPT | TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT |                   \
     TPMA_OBJECT_SENSITIVEDATAORIGIN | TPMA_OBJECT_USERWITHAUTH | TPMA_OBJECT_NODA)
#define STORAGE_CIPHER                                                                                                 \
    {                                                                                                                  \
        .algorithm = TPM2_ALG_AES, .keyBits.aes = 128, .mode.aes = TPM2_ALG_CFB                                        \
    }
static const TPM2B_PUBLIC templates[] = {
    [ST_TPM_STORAGE_ECC] = {.publicArea = {.type = TPM2_ALG_ECC,
                                           .nameAlg = TPM2_ALG_SHA256,
                                           .objectAttributes = STORAGE_ATTRIBUTES,
                                           .parameters.eccDetail = {.symmetric = STORAGE_CIPHER,
                                                                    .scheme.scheme = TPM2_ALG_NULL,
                                                                    .curveID = TPM2_ECC_NIST_P256,
                                                                    .kdf.scheme = TPM2_ALG_NULL}}},
    [ST_TPM_STORAGE_RSA] = {.publicArea = {.type = TPM2_ALG_RSA,
                                           .nameAlg = TPM2_ALG_SHA256,
                                           .objectAttributes = STORAGE_ATTRIBUTES,
                                           .parameters.rsaDetail = {.symmetric = STORAGE_CIPHER,
                                                                    .scheme.scheme = TPM2_ALG_NULL,
                                                                    .keyBits = 2048}}},
};
int st_tpm_link_open(const char *tcti, struct st_tpm_link *out, struct st_err *e)
{
    *out = (struct st_tpm_link){0};
    if (!tcti)
        tcti = ST_TPM_TCTI_DEFAULT;
    TSS2_RC rc = Tss2_TctiLdr_Initialize(tcti, &out->tcti);
    if (!rc)
        rc = Esys_Initialize(&out->esys, out->tcti, NULL);
    if (!rc)
        return 0;
    st_tpm_link_close(out);
    return st_fail(e, ST_UNSUPPORTED, "TPM: none is reached through '%s': %s", tcti, Tss2_RC_Decode(rc));
}

void st_tpm_link_close(struct st_tpm_link *l)
{
    if (l->esys)
        Esys_Finalize(&l->esys);
    if (l->tcti)
        Tss2_TctiLdr_Finalize(&l->tcti);
}

int st_tpm_fail(TSS2_RC rc, const char *what, struct st_err *e)
{
    return st_fail(e, ST_IO, "TPM: %s: %s", what, Tss2_RC_Decode(rc));
}

int st_tpm_link_storage(struct st_tpm_link *l, enum st_tpm_storage_key key, ESYS_TR *out, uint8_t area[ST_TPM_AREA_MAX],
                        size_t *area_len, struct st_err *e)
{
    const TPM2B_SENSITIVE_CREATE no_auth = {0};
    const TPM2B_DATA no_info = {0};
    const TPML_PCR_SELECTION no_pcrs = {0};
    TPM2B_PUBLIC *public = NULL;
    *area_len = 0;
    TSS2_RC rc = Esys_CreatePrimary(l->esys, ESYS_TR_RH_OWNER, ESYS_TR_PASSWORD, ESYS_TR_NONE, ESYS_TR_NONE, &no_auth,
                                    &templates[key], &no_info, &no_pcrs, out, &public, NULL, NULL, NULL);
    if (rc)
        *out = ESYS_TR_NONE;
    else
        rc = Tss2_MU_TPMT_PUBLIC_Marshal(&public->publicArea, area, ST_TPM_AREA_MAX, area_len);
    Esys_Free(public);
    return rc ? st_tpm_fail(rc, "making the storage key under the owner hierarchy", e) : 0;
}

bool st_tpm_found_fault(TSS2_RC rc)
{
    return !(rc & TSS2_RC_LAYER_MASK) && (rc & TPM2_RC_FMT1 || (rc & TPM2_RC_WARN) != TPM2_RC_WARN);
}

TPML_PCR_SELECTION st_tpm_selection(const struct st_tpm_pcrs *p)
{
    return (TPML_PCR_SELECTION){
        .count = 1,
        .pcrSelections = {{.hash = (TPMI_ALG_HASH)p->bank,
                           .sizeofSelect = 3,
                           .pcrSelect = {(BYTE)p->mask, (BYTE)(p->mask >> 8), (BYTE)(p->mask >> 16)}}}};
}

/* One reading: a TPM gives eight values at most, and says which ones. */
static int read_some(struct st_tpm_link *l, uint32_t *left, struct st_tpm_values *out, struct st_err *e)
{
    const TPML_PCR_SELECTION want = st_tpm_selection(&(struct st_tpm_pcrs){out->pcrs.bank, *left});
    const size_t len = st_tpm_hash_len(out->pcrs.bank);
    TPML_PCR_SELECTION *got = NULL;
    TPML_DIGEST *values = NULL;
    UINT32 counter, n = 0;
    TSS2_RC rc = Esys_PCR_Read(l->esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, &want, &counter, &got, &values);
    if (rc)
        return st_tpm_fail(rc, "reading PCRs", e);
    const uint32_t before = *left;
    const TPMS_PCR_SELECTION *s = &got->pcrSelections[0];
    for (unsigned i = 0; i < ST_TPM_N_PCR && got->count == 1 && s->sizeofSelect >= 3; i++) {
        if (!(*left >> i & 1) || !(s->pcrSelect[i / 8] >> i % 8 & 1) || n >= values->count ||
            values->digests[n].size != len)
            continue;
        memcpy(out->of[i], values->digests[n++].buffer, len);
        *left &= ~(1u << i);
    }
    Esys_Free(got);
    Esys_Free(values);
    return *left == before ? st_fail(e, ST_UNSUPPORTED, "TPM: PCRs: not all of them are in that bank of it") : 0;
}

int st_tpm_link_pcrs(struct st_tpm_link *l, const struct st_tpm_pcrs *p, struct st_tpm_values *out, struct st_err *e)
{
    *out = (struct st_tpm_values){.pcrs = *p};
    for (uint32_t left = p->mask; left;)
        if (read_some(l, &left, out, e))
            return e->code;
    return 0;
}

TPM2_HANDLE st_tpm_link_handle(struct st_tpm_link *l, TPM2_HANDLE from)
{
    TPMS_CAPABILITY_DATA *cap = NULL;
    TPMI_YES_NO more;
    TPM2_HANDLE h = 0;
    if (!Esys_GetCapability(l->esys, ESYS_TR_NONE, ESYS_TR_NONE, ESYS_TR_NONE, TPM2_CAP_HANDLES, from, 1, &more,
                            &cap) &&
        cap->data.handles.count == 1)
        h = cap->data.handles.handle[0];
    Esys_Free(cap);
    return h;
}

#endif
