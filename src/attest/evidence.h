/* Evidence as it comes from a node or lies in a file: a bundle of items, or one raw quote or report. Hostile input.
 *
 * Bundle, JSON: {"version": 1, "items": [{"kind": "tdx", "evidence": BASE64, "endorsements": [{"type": "collateral",
 * "data": BASE64}, ...]}, ...], "binding": {"kem": 32, "kdf": 1, "aead": 1, "hpke_key": HEX, "receipt_key":
 * HEX, "nonce": HEX, "engine": HEX, "model": HEX}}; binding is optional, its engine and model too; unknown fields,
 * unknown kinds and a kind that comes twice are refused; "comment" is allowed anywhere. A raw file is recognised by
 * content (DCAP quote, SEV-SNP report, TPMS_ATTEST, SPDM report as bytes, hexadecimal digits or one PEM block) and
 * becomes a bundle of one item. Endorsements are what others say about the maker of the evidence: certificates,
 * revocation lists, reference values; they may also come as files of their own. */
#ifndef ST_ATTEST_EVIDENCE_H
#define ST_ATTEST_EVIDENCE_H

#include "base/buf.h"
#include "crypto/hpke.h"

#define ST_EVIDENCE_MAX_ITEMS 8
#define ST_EVIDENCE_MAX_ENDORSEMENTS 32         /* of one item */
#define ST_EVIDENCE_MAX_BYTES ((size_t)4 << 20) /* of a bundle, or of one file */

/* Types of endorsements, recognised by content when they come as files. */
#define ST_ENDORSEMENTS(X)                                                                                             \
    X(CERTS, "certs")               /* PEM or DER certificates, leaf first or in any order */                          \
    X(CRL, "crl")                   /* DER or PEM */                                                                   \
    X(COLLATERAL, "collateral")     /* Intel: JSON as dcap-qvl writes it */                                            \
    X(TCB_INFO, "tcb_info")         /* Intel: {"tcbInfo": .., "signature": ..} */                                      \
    X(QE_IDENTITY, "qe_identity")   /* Intel: {"enclaveIdentity": .., "signature": ..} */                              \
    X(EVENT_LOG, "event_log")       /* TCG2 crypto-agile event log */                                                  \
    X(SIGNATURE, "signature")       /* TPMT_SIGNATURE or raw, of a TPM quote */                                        \
    X(AK_PUBLIC, "ak_public")       /* TPM2B_PUBLIC, TPMT_PUBLIC or SubjectPublicKeyInfo */                            \
    X(PCRS, "pcrs")                 /* {"pcrs": {"sha256": {"0": HEX, ..}}}, of a TPM quote */                         \
    X(RIM, "rim")                   /* NVIDIA: swidtag XML */                                                          \
    X(RUNTIME_DATA, "runtime_data") /* Azure: HCL runtime data (JSON) that a report binds */
enum st_endorsement_type {
#define X(id, name) ST_ENDORSEMENT_##id,
    ST_ENDORSEMENTS(X)
#undef X
        ST_ENDORSEMENT_COUNT
};
const char *st_endorsement_name(enum st_endorsement_type t);

struct st_endorsement {
    enum st_endorsement_type type;
    struct st_span data; /* owned by the bundle */
};
struct st_evidence {
    const char *kind; /* of the verifier: "tdx", "sgx", "snp", "tpm", "nvgpu", "sim" */
    struct st_span data;
    struct st_endorsement endorsements[ST_EVIDENCE_MAX_ENDORSEMENTS];
    size_t n_endorsement;
};

/* What a node says about itself and binds to its evidence (attest/binding.h). */
#define ST_BINDING_MAX_NONCE 64
struct st_binding {
    struct st_hpke_suite suite;
    uint8_t hpke_key[ST_HPKE_PUBLIC_MAX], receipt_key[32] /* Ed25519 */, nonce[ST_BINDING_MAX_NONCE];
    size_t hpke_key_len, nonce_len;
    uint8_t engine[32], model[32]; /* digests of the engine's command and of the model; zeros where not stated */
    bool has_engine, has_model;
};

struct st_bundle {
    struct st_evidence items[ST_EVIDENCE_MAX_ITEMS];
    size_t n_item;
    bool has_binding;
    struct st_binding binding;
    void *memory; /* what the spans point into */
};

/* A bundle or a raw item. INPUT names `where` and the field; UNSUPPORTED: not recognised, lists what is. */
int st_bundle_parse(const void *p, size_t len, const char *where, struct st_bundle *out,
                    struct st_err *e) ST_MUST_CHECK;
void st_bundle_free(struct st_bundle *b);
/* Appends the bundle as JSON, which st_bundle_parse() reads. */
void st_bundle_write(const struct st_bundle *b, struct st_buf *out);
/* Adds a file of endorsements, recognised by content, to every item that can use it. Copied. INPUT: not recognised, or
 * nothing here uses it. */
int st_bundle_endorse(struct st_bundle *b, const void *p, size_t len, const char *where,
                      struct st_err *e) ST_MUST_CHECK;
/* SHA-256 of one item as it enters the composite binding: kind and data, each with its length as u32 before it. */
int st_evidence_digest(const struct st_evidence *ev, uint8_t out[32], struct st_err *e) ST_MUST_CHECK;
/* The next endorsement of this type at or behind *at, which moves on; NULL when there is none. Start with 0. */
const struct st_endorsement *st_evidence_next(const struct st_evidence *e, enum st_endorsement_type t, size_t *at);

#endif
