#include "service/conf_evidence.h"
#include "crypto/aead.h"
#include "crypto/digest.h"
#include "text/base64.h"

#include <string.h>

int st_conf_bundle_read(struct st_span bytes, struct st_bundle *out, struct st_err *e)
{
    int rc = st_bundle_parse(bytes.p ? bytes.p : (const uint8_t *)"", bytes.len, "evidence", out, e);
    const struct st_binding *b = &out->binding;
    if (rc)
        return rc;
    if (!out->has_binding || b->nonce_len != 32)
        rc = st_fail(e, ST_VERIFY, "evidence: binding: want keys and a nonce of 32 bytes");
    else if (b->suite.kem != ST_HPKE_KEM_X25519 || b->suite.kdf != ST_HPKE_KDF_SHA256 ||
             b->suite.aead != ST_AEAD_AES_128_GCM || b->hpke_key_len != st_hpke_public_len(b->suite.kem))
        rc = st_fail(e, ST_VERIFY, "evidence: binding: want X25519, HKDF-SHA256 and AES-128-GCM");
    if (rc)
        st_bundle_free(out);
    return rc;
}

/* The note whose digest is the nonce: believed for its signatures alone. */
static int read_note(struct st_span text, const struct st_policy *policy, int64_t now, struct st_conf_evidence *out,
                     struct st_err *e)
{
    struct st_buf note = {0};
    struct st_witnessed w;
    int rc = st_base64_decode((const char *)text.p, text.len, &note)
                 ? st_checkpoint_open(note.p, note.len, st_policy_log(policy), now, &w, e)
                 : st_fail(e, ST_VERIFY, "evidence: comes without the checkpoint that its nonce is made from");
    if (!rc && memcmp(w.digest, out->bundle.binding.nonce, 32) != 0)
        rc = st_fail(e, ST_VERIFY, "evidence: its nonce is not the digest of the checkpoint that comes with it");
    if (!rc) {
        memcpy(out->nonce, w.digest, 32);
        out->nonce_time = w.time;
    }
    st_buf_free(&note);
    return rc;
}

int st_conf_evidence_open(struct st_span bytes, const uint8_t listed[32], struct st_span note,
                          const struct st_policy *policy, int64_t now, struct st_conf_evidence *out, struct st_err *e)
{
    *out = (struct st_conf_evidence){0};
    st_sha256(bytes.p ? bytes.p : (const uint8_t *)"", bytes.len, out->digest);
    if (memcmp(out->digest, listed, 32) != 0)
        return st_fail(e, ST_VERIFY, "the gateway gives other evidence than the directory names");
    int rc = st_conf_bundle_read(bytes, &out->bundle, e);
    if (rc)
        return rc;
    rc = read_note(note, policy, now, out, e);
    if (rc)
        st_bundle_free(&out->bundle);
    return rc;
}
