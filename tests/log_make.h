/* Event logs and TPM quotes made for tests. Include expect.h first. */
#ifndef ST_TESTS_LOG_MAKE_H
#define ST_TESTS_LOG_MAKE_H

#include "attest/event_log.h"
#include "attest/tpm_quote.h"
#include "evidence_make.h"

#include <openssl/ec.h>
#include <openssl/rsa.h>

static inline void put_le(struct st_buf *b, uint64_t v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        st_buf_add(b, (uint8_t[]){(uint8_t)(v >> 8 * i)}, 1);
}

static inline void put_be(struct st_buf *b, uint64_t v, size_t n)
{
    for (size_t i = n; i--;)
        st_buf_add(b, (uint8_t[]){(uint8_t)(v >> 8 * i)}, 1);
}

static inline void put_sized(struct st_buf *b, const void *p, size_t len)
{
    put_be(b, len, 2);
    st_buf_add(b, p, len);
}

static inline void hash(unsigned alg, const void *p, size_t len, uint8_t out[64])
{
    EVP_Digest(p, len, out, NULL, EVP_get_digestbyname(st_tpm_hash_name(alg)), NULL);
}

/* A log of two banks, SHA-1 and another. */
static inline void log_begin(struct st_buf *b, unsigned alg)
{
    static const uint8_t zeros[20];
    put_le(b, 0, 4);
    put_le(b, ST_EV_NO_ACTION, 4);
    st_buf_add(b, zeros, 20);
    put_le(b, 37, 4);
    st_buf_add(b, "Spec ID Event03", 16);
    put_le(b, 0, 4);
    put_le(b, 0x02000200, 4);
    put_le(b, 2, 4);
    put_le(b, ST_TPM_SHA1, 2);
    put_le(b, 20, 2);
    put_le(b, alg, 2);
    put_le(b, st_tpm_hash_len(alg), 2);
    put_le(b, 0, 1);
}

/* An event whose digests are those of `measured`, and whose data is something else, or the same (NULL). */
static inline void log_add(struct st_buf *b, unsigned alg, uint32_t pcr, uint32_t type, const void *measured,
                           size_t measured_len, const void *data, size_t len)
{
    uint8_t d[64];
    put_le(b, pcr, 4);
    put_le(b, type, 4);
    put_le(b, 2, 4);
    for (int i = 0; i < 2; i++) {
        unsigned a = i ? alg : ST_TPM_SHA1;
        put_le(b, a, 2);
        hash(a, measured, measured_len, d);
        st_buf_add(b, d, st_tpm_hash_len(a));
    }
    put_le(b, data ? len : measured_len, 4);
    st_buf_add(b, data ? data : measured, data ? len : measured_len);
}

static inline void log_variable(struct st_buf *b, unsigned alg, uint32_t type, bool db, const char *name,
                                const void *contents, size_t len)
{
    static const uint8_t global[16] = {0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11,
                                       0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c};
    static const uint8_t images[16] = {0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45,
                                       0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f};
    struct st_buf v = {0};
    st_buf_add(&v, db ? images : global, 16);
    put_le(&v, strlen(name), 8);
    put_le(&v, len, 8);
    for (const char *c = name; *c; c++)
        put_le(&v, (uint8_t)*c, 2);
    st_buf_add(&v, contents, len);
    log_add(b, alg, 7, type, v.p, v.len, NULL, 0);
    st_buf_free(&v);
}

static inline void log_grub(struct st_buf *b, unsigned alg, const char *prefix, const char *text)
{
    char data[256];
    int n = snprintf(data, sizeof data, "%s%s", prefix, text);
    log_add(b, alg, 8, ST_EV_IPL, text, strlen(text), data, (size_t)n + 1);
}

#define CMDLINE "root=/dev/dm-0 ro roothash=00ff11ee dm-mod.create=\"v,,,ro,0 9 verity root_hexdigest=abcd\""

/* A boot as a PC tells it. */
static inline void log_boot(struct st_buf *b, unsigned alg, bool secure)
{
    log_begin(b, alg);
    log_add(b, alg, 0, ST_EV_S_CRTM_VERSION, "1.0", 3, NULL, 0);
    log_add(b, alg, 0, 0x80000008, "the firmware", 12, "where it lies", 13);
    log_variable(b, alg, ST_EV_EFI_VARIABLE_DRIVER_CONFIG, false, "SecureBoot", secure ? "\1" : "\0", 1);
    log_variable(b, alg, ST_EV_EFI_VARIABLE_DRIVER_CONFIG, false, "PK", "a platform key", 14);
    log_variable(b, alg, ST_EV_EFI_VARIABLE_DRIVER_CONFIG, true, "dbx", "", 0);
    for (uint32_t i = 0; i < 8; i++)
        log_add(b, alg, i, ST_EV_SEPARATOR, "\0\0\0", 4, NULL, 0);
    log_add(b, alg, 4, 0x80000003, "the boot loader", 15, "a device path", 13);
    log_grub(b, alg, "grub_cmd: ", "linux /vmlinuz");
    log_grub(b, alg, "kernel_cmdline: ", CMDLINE);
    log_add(b, alg, 9, ST_EV_IPL, "the kernel", 10, "/vmlinuz", 9);
}

/* The PCRs after a log, of which only `has` are kept. */
static inline void pcrs_of(const struct st_buf *log, unsigned alg, uint32_t has, struct st_pcrs *out)
{
    struct st_event_log l;
    struct st_err e = {0};
    uint32_t touched;
    *out = (struct st_pcrs){.alg = alg};
    assert_ok(st_event_log_parse((const uint8_t *)log->p, log->len, &l, &e), &e);
    assert_ok(st_event_log_replay(&l, out, &touched, &e), &e);
    out->has = has;
    st_event_log_free(&l);
}

static inline void pcrs_json(const struct st_pcrs *p, struct st_buf *out)
{
    st_buf_clear(out);
    st_buf_addf(out, "{\"pcrs\": {\"%s\": {", st_pcr_bank_name(p->alg));
    for (int i = 0, n = 0; i < ST_PCR_COUNT; i++) {
        if (!(p->has >> i & 1))
            continue;
        st_buf_addf(out, "%s\"%d\": \"", n++ ? ", " : "", i);
        for (size_t k = 0; k < st_tpm_hash_len(p->alg); k++)
            st_buf_addf(out, "%02x", p->value[i][k]);
        st_buf_add_str(out, "\"");
    }
    st_buf_add_str(out, "}}}");
}

/* ---- quotes ---- */

struct tpm {
    EVP_PKEY *key;
    unsigned scheme, hash /* of the signature */, bank;
    uint32_t selected;
    unsigned more_banks;
    const char *nonce;
    struct st_pcrs pcrs;
    /* out */
    struct st_buf quote, signature, values, log;
    struct st_evidence ev;
};

static inline void sign_tpm(struct tpm *t)
{
    unsigned char sig[512];
    const unsigned char *at = sig;
    size_t n = sizeof sig;
    EVP_PKEY_CTX *p;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    assert_int_equal(EVP_DigestSignInit(ctx, &p, EVP_get_digestbyname(st_tpm_hash_name(t->hash)), NULL, t->key), 1);
    if (t->scheme == ST_TPM_RSAPSS)
        assert_int_equal(EVP_PKEY_CTX_set_rsa_padding(p, RSA_PKCS1_PSS_PADDING), 1);
    assert_int_equal(EVP_DigestSign(ctx, sig, &n, (const uint8_t *)t->quote.p, t->quote.len), 1);
    EVP_MD_CTX_free(ctx);
    st_buf_clear(&t->signature);
    put_be(&t->signature, t->scheme, 2);
    put_be(&t->signature, t->hash, 2);
    if (t->scheme != ST_TPM_ECDSA) {
        put_sized(&t->signature, sig, n);
        return;
    }
    ECDSA_SIG *s = d2i_ECDSA_SIG(NULL, &at, (long)n);
    for (int i = 0; i < 2; i++) {
        uint8_t v[64];
        int len = BN_bn2bin(i ? ECDSA_SIG_get0_s(s) : ECDSA_SIG_get0_r(s), v);
        put_sized(&t->signature, v, (size_t)len);
    }
    ECDSA_SIG_free(s);
}

/* Quote, signature and evidence with both; the values of exactly pcrs.has go with it. */
static inline void quote_build(struct tpm *t)
{
    uint8_t all[ST_PCR_COUNT * 64], digest[64];
    size_t n = 0, len = st_tpm_hash_len(t->bank);
    struct st_buf *b = &t->quote;
    st_buf_clear(b);
    put_be(b, 0xff544347, 4);
    put_be(b, 0x8018, 2);
    put_sized(b, "\0\13signer", 8);
    put_sized(b, t->nonce, strlen(t->nonce));
    put_be(b, 123456, 8);
    put_be(b, 5, 4);
    put_be(b, 1, 4);
    put_be(b, 1, 1);
    put_be(b, 0x2020, 8);
    put_be(b, 1 + t->more_banks, 4);
    for (unsigned i = 0; i <= t->more_banks; i++) {
        put_be(b, i ? ST_TPM_SHA1 : t->bank, 2);
        put_be(b, 3, 1);
        put_le(b, t->selected, 3);
    }
    for (int i = 0; i < ST_PCR_COUNT; i++)
        if (t->selected >> i & 1) {
            memcpy(all + n, t->pcrs.value[i], len);
            n += len;
        }
    hash(t->hash, all, n, digest);
    put_sized(b, digest, st_tpm_hash_len(t->hash));
    sign_tpm(t);
    pcrs_json(&t->pcrs, &t->values);
    t->ev = (struct st_evidence){.kind = "tpm", .data = span_of(b)};
    endorse(&t->ev, ST_ENDORSEMENT_SIGNATURE, span_of(&t->signature));
    endorse(&t->ev, ST_ENDORSEMENT_PCRS, span_of(&t->values));
    endorse(&t->ev, ST_ENDORSEMENT_EVENT_LOG, span_of(&t->log));
}

/* After a boot, with all PCRs of it quoted; key is kept. */
static inline void tpm_open(struct tpm *t, EVP_PKEY *key, unsigned scheme, unsigned alg, unsigned bank)
{
    *t = (struct tpm){.key = key, .scheme = scheme, .hash = alg, .bank = bank, .selected = 0x43ff, .nonce = "a nonce"};
    log_boot(&t->log, bank, true);
    pcrs_of(&t->log, bank, t->selected, &t->pcrs);
    quote_build(t);
}

static inline void tpm_close(struct tpm *t)
{
    st_buf_free(&t->quote);
    st_buf_free(&t->signature);
    st_buf_free(&t->values);
    st_buf_free(&t->log);
}

#endif
