#include "attest/binding.h"
#include "crypto/digest.h"

#include <openssl/evp.h>
#include <string.h>

static const char label_gpu[] = "sotto node gpu nonce v1", label_report[] = "sotto node report data v1";

/* A hash of length-prefixed fields. */
struct preimage {
    EVP_MD_CTX *ctx;
    bool ok;
};

static void add(struct preimage *h, const void *p, size_t len)
{
    const uint8_t n[4] = {(uint8_t)len, (uint8_t)(len >> 8), (uint8_t)(len >> 16), (uint8_t)(len >> 24)};
    h->ok = h->ok && EVP_DigestUpdate(h->ctx, n, sizeof n) == 1 && (!len || EVP_DigestUpdate(h->ctx, p, len) == 1);
}

static void begin(struct preimage *h, const EVP_MD *md, const char *label, const struct st_binding *b)
{
    const uint16_t ids[3] = {b->suite.kem, b->suite.kdf, b->suite.aead};
    uint8_t suite[6];
    for (int i = 0; i < 3; i++) {
        suite[2 * i] = (uint8_t)(ids[i] >> 8);
        suite[2 * i + 1] = (uint8_t)ids[i];
    }
    h->ctx = EVP_MD_CTX_new();
    h->ok = h->ctx && EVP_DigestInit_ex(h->ctx, md, NULL) == 1;
    add(h, label, strlen(label));
    add(h, suite, sizeof suite);
    add(h, b->hpke_key, b->hpke_key_len);
    add(h, b->receipt_key, sizeof b->receipt_key);
    add(h, b->nonce, b->nonce_len);
}

static int end(struct preimage *h, uint8_t *out, struct st_err *e)
{
    bool ok = h->ok && EVP_DigestFinal_ex(h->ctx, out, NULL) == 1;
    EVP_MD_CTX_free(h->ctx);
    return ok ? 0 : st_fail(e, ST_INTERNAL, "binding: OpenSSL cannot hash");
}

int st_binding_gpu_nonce(const struct st_binding *b, uint8_t out[ST_GPU_NONCE], struct st_err *e)
{
    struct preimage h;
    begin(&h, EVP_sha256(), label_gpu, b);
    return end(&h, out, e);
}

/* Runtime data, as an endorsement or inside of Azure's own wrapping of report and runtime data. */
static bool platform_fills(const struct st_evidence *ev)
{
    size_t at = 0;
    if (strcmp(ev->kind, "tpm") == 0)
        return false;
    return st_evidence_next(ev, ST_ENDORSEMENT_RUNTIME_DATA, &at) != NULL ||
           (ev->data.len >= 4 && memcmp(ev->data.p, "HCLA", 4) == 0);
}

int st_binding_carrier(const struct st_bundle *b)
{
    static const char *const order[] = {"tdx", "snp", "sgx", "tpm", "sim"};
    for (size_t k = 0; k < sizeof order / sizeof *order; k++)
        for (size_t i = 0; i < b->n_item; i++)
            if (strcmp(b->items[i].kind, order[k]) == 0 && !platform_fills(&b->items[i]))
                return (int)i;
    return -1;
}

int st_binding_report_data(const struct st_bundle *b, int carrier, uint8_t out[ST_REPORT_DATA], struct st_err *e)
{
    struct preimage h;
    int rc = 0;
    begin(&h, EVP_sha512(), label_report, &b->binding);
    for (size_t i = 0; i < b->n_item && !rc; i++) {
        uint8_t digest[32];
        if ((int)i == carrier)
            continue;
        rc = st_evidence_digest(&b->items[i], digest, e);
        add(&h, digest, sizeof digest);
    }
    add(&h, b->binding.engine, b->binding.has_engine ? sizeof b->binding.engine : 0);
    add(&h, b->binding.model, b->binding.has_model ? sizeof b->binding.model : 0);
    return end(&h, out, e) ? e->code : rc;
}

int st_binding_expected(const struct st_bundle *b, size_t item, uint8_t out[ST_REPORT_DATA], size_t *len,
                        struct st_err *e)
{
    const struct st_evidence *ev = &b->items[item];
    int carrier = st_binding_carrier(b);
    *len = 0;
    if (carrier < 0)
        return st_fail(e, ST_INPUT, "binding: no item here can carry it (tdx, snp, sgx, tpm or sim)");
    if (platform_fills(ev))
        return 0;
    if ((int)item != carrier) {
        *len = ST_GPU_NONCE;
        return st_binding_gpu_nonce(&b->binding, out, e);
    }
    if (st_binding_report_data(b, carrier, out, e))
        return e->code;
    *len = ST_REPORT_DATA;
    if (strcmp(ev->kind, "tpm") == 0) {
        uint8_t digest[32];
        st_sha256(out, ST_REPORT_DATA, digest);
        memcpy(out, digest, sizeof digest);
        *len = sizeof digest;
    }
    return 0;
}
