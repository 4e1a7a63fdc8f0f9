/* Blind RSA: the vectors of RFC 9474, the whole protocol with fresh keys, and what must be refused. */
#include "crypto/blind_rsa.h"
#include "vectors.h"

#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/param_build.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>

static BIGNUM *number(struct bytes b)
{
    return BN_bin2bn(b.p, (int)b.len, NULL);
}

/* A key of OpenSSL's from n, e and (unless d is NULL) its private parts. */
static EVP_PKEY *make_key(BIGNUM *n, BIGNUM *exponent, BIGNUM *d, BIGNUM *p, BIGNUM *q)
{
    EVP_PKEY *pkey = NULL;
    EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "RSA", NULL);
    OSSL_PARAM_BLD *b = OSSL_PARAM_BLD_new();
    BN_CTX *bn = BN_CTX_new();
    BIGNUM *dp = BN_new(), *dq = BN_new(), *qi = BN_new(), *t = BN_new();
    OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_N, n);
    OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_E, exponent);
    if (d) {
        BN_sub(t, p, BN_value_one());
        BN_mod(dp, d, t, bn);
        BN_sub(t, q, BN_value_one());
        BN_mod(dq, d, t, bn);
        BN_mod_inverse(qi, q, p, bn);
        OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_D, d);
        OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_FACTOR1, p);
        OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_FACTOR2, q);
        OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_EXPONENT1, dp);
        OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_EXPONENT2, dq);
        OSSL_PARAM_BLD_push_BN(b, OSSL_PKEY_PARAM_RSA_COEFFICIENT1, qi);
    }
    OSSL_PARAM *params = OSSL_PARAM_BLD_to_param(b);
    assert_int_equal(EVP_PKEY_fromdata_init(ctx), 1);
    assert_int_equal(EVP_PKEY_fromdata(ctx, &pkey, d ? EVP_PKEY_KEYPAIR : EVP_PKEY_PUBLIC_KEY, params), 1);
    OSSL_PARAM_free(params);
    OSSL_PARAM_BLD_free(b);
    EVP_PKEY_CTX_free(ctx);
    BN_CTX_free(bn);
    BN_free(dp);
    BN_free(dq);
    BN_free(qi);
    BN_free(t);
    return pkey;
}

/* The DER form of a key, taken over. */
static struct bytes public_der(EVP_PKEY *pkey)
{
    struct bytes b = {.len = 0};
    uint8_t *p = b.p;
    b.len = (size_t)i2d_PUBKEY(pkey, &p);
    EVP_PKEY_free(pkey);
    return b;
}

static struct st_blind_rsa *vector_key(const json_t *v)
{
    struct st_err e;
    struct st_blind_rsa *k;
    uint8_t der[ST_BLIND_RSA_DER_MAX], *p = der;
    BIGNUM *n = number(bytes_field(v, "n")), *exponent = number(bytes_field(v, "e"));
    BIGNUM *d = number(bytes_field(v, "d")), *f = number(bytes_field(v, "p")), *g = number(bytes_field(v, "q"));
    EVP_PKEY *pkey = make_key(n, exponent, d, f, g);
    PKCS8_PRIV_KEY_INFO *info = EVP_PKEY2PKCS8(pkey);
    int len = i2d_PKCS8_PRIV_KEY_INFO(info, &p);
    PKCS8_PRIV_KEY_INFO_free(info);
    EVP_PKEY_free(pkey);
    assert_ok(st_blind_rsa_parse_private(der, (size_t)len, &k, &e), &e);
    for (int cut = 0; cut < len; cut += 7) {
        struct st_blind_rsa *none;
        expect_refusal(st_blind_rsa_parse_private(der, (size_t)cut, &none, &e), &e, ST_INPUT, "private key");
    }
    BN_free(n);
    BN_free(exponent);
    BN_free(d);
    BN_free(f);
    BN_free(g);
    return k;
}

static void run_vector(const json_t *v, bool prefixed)
{
    struct st_err e;
    struct st_blind_rsa *k = vector_key(v);
    struct st_blind_rsa_state s;
    struct bytes msg = bytes_field(v, "msg"), prepared = {.len = 0};
    struct bytes salt = bytes_field(v, "salt"), inverse = bytes_field(v, "inv");
    uint8_t blinded[ST_BLIND_RSA_MAX], answer[ST_BLIND_RSA_MAX], signature[ST_BLIND_RSA_MAX];
    size_t len = st_blind_rsa_len(k);
    if (prefixed)
        prepared = bytes_field(v, "msg_prefix");
    memcpy(prepared.p + prepared.len, msg.p, msg.len);
    prepared.len += msg.len;
    assert_int_equal(salt.len, ST_BLIND_RSA_SALT);
    memcpy(s.inverse, inverse.p, len);
    assert_ok(st_blind_rsa_blind_from(k, prepared.p, prepared.len, salt.p, &s, blinded, &e), &e);
    assert_bytes(blinded, len, bytes_field(v, "blinded_msg"));
    assert_ok(st_blind_rsa_sign(k, blinded, len, answer, &e), &e);
    assert_bytes(answer, len, bytes_field(v, "blind_sig"));
    assert_ok(st_blind_rsa_finalize(k, prepared.p, prepared.len, &s, answer, len, signature, &e), &e);
    assert_bytes(signature, len, bytes_field(v, "sig"));
    st_blind_rsa_free(k);
}

static void blind_rsa_gives_the_vectors_of_rfc_9474(void **state)
{
    (void)state;
    json_t *own = vectors_own("rfc9474.json"), *shared = vectors_shared("rfc9474_rsabssa.json"), *v;
    size_t i;
    run_vector(own, true);
    json_array_foreach(shared, i, v) if (*json_string_value(json_object_get(v, "salt"))) /* not the zero-salt variant */
        run_vector(v, false);
    json_decref(own);
    json_decref(shared);
}

/* One 2048-bit key for all tests: making one takes a while. */
static struct st_blind_rsa *issuer, *client;

static int make_keys(void **state)
{
    (void)state;
    struct st_err e;
    uint8_t der[ST_BLIND_RSA_DER_MAX];
    size_t len;
    assert_ok(st_blind_rsa_new(2048, &issuer, &e), &e);
    assert_ok(st_blind_rsa_write_public(issuer, der, &len, &e), &e);
    assert_ok(st_blind_rsa_parse_public(der, len, &client, &e), &e);
    return 0;
}

static int free_keys(void **state)
{
    (void)state;
    st_blind_rsa_free(issuer);
    st_blind_rsa_free(client);
    return 0;
}

#define MSG "a token"
#define LEN 256

struct run {
    uint8_t prepared[ST_BLIND_RSA_PREFIX + sizeof MSG], blinded[LEN], answer[LEN], signature[LEN];
    struct st_blind_rsa_state s;
};

static void run_to_answer(struct run *r)
{
    struct st_err e;
    assert_ok(st_blind_rsa_prepare(MSG, sizeof MSG, r->prepared, &e), &e);
    assert_ok(st_blind_rsa_blind(client, r->prepared, sizeof r->prepared, r->blinded, &r->s, &e), &e);
    assert_ok(st_blind_rsa_sign(issuer, r->blinded, LEN, r->answer, &e), &e);
}

static int finish(struct run *r, struct st_err *e)
{
    return st_blind_rsa_finalize(client, r->prepared, sizeof r->prepared, &r->s, r->answer, LEN, r->signature, e);
}

static void a_token_is_signed_blind_and_verifies(void **state)
{
    (void)state;
    struct st_err e;
    struct run a, b;
    run_to_answer(&a);
    assert_ok(finish(&a, &e), &e);
    assert_ok(st_blind_rsa_verify(client, a.prepared, sizeof a.prepared, a.signature, LEN, &e), &e);
    run_to_answer(&b);
    assert_ok(finish(&b, &e), &e);
    assert_memory_not_equal(a.prepared, b.prepared, ST_BLIND_RSA_PREFIX);
    assert_memory_not_equal(a.blinded, b.blinded, LEN);
    assert_memory_not_equal(a.signature, a.answer, LEN);
    assert_memory_not_equal(a.signature, b.signature, LEN);
    /* What the issuer saw is no signature of anything: the blinded form does not verify. */
    expect_refusal(st_blind_rsa_verify(client, a.prepared, sizeof a.prepared, a.answer, LEN, &e), &e, ST_VERIFY,
                   "signature");
    st_blind_rsa_state_wipe(&a.s);
    static const uint8_t zeros[LEN];
    assert_memory_equal(a.s.inverse, zeros, LEN);
}

static void a_signature_with_any_byte_changed_is_refused(void **state)
{
    (void)state;
    struct st_err e;
    struct run r;
    run_to_answer(&r);
    assert_ok(finish(&r, &e), &e);
    for (size_t at = 0; at < LEN; at++) {
        r.signature[at] ^= 0x10;
        expect_refusal(st_blind_rsa_verify(client, r.prepared, sizeof r.prepared, r.signature, LEN, &e), &e, ST_VERIFY,
                       "signature");
        r.signature[at] ^= 0x10;
    }
    for (size_t at = 0; at < sizeof r.prepared; at++) {
        r.prepared[at] ^= 1;
        expect_refusal(st_blind_rsa_verify(client, r.prepared, sizeof r.prepared, r.signature, LEN, &e), &e, ST_VERIFY,
                       "signature");
        r.prepared[at] ^= 1;
    }
    for (size_t len = 0; len < LEN; len++)
        expect_refusal(st_blind_rsa_verify(client, r.prepared, sizeof r.prepared, r.signature, len, &e), &e, ST_VERIFY,
                       "signature");
}

static void an_issuer_that_answers_wrongly_is_found_out(void **state)
{
    (void)state;
    struct st_err e;
    struct run r;
    static const uint8_t zeros[LEN];
    run_to_answer(&r);
    for (size_t at = 0; at < LEN; at += 5) {
        r.answer[at] ^= 1;
        expect_refusal(finish(&r, &e), &e, ST_VERIFY, "signature");
        assert_memory_equal(r.signature, zeros, LEN);
        r.answer[at] ^= 1;
    }
    expect_refusal(
        st_blind_rsa_finalize(client, r.prepared, sizeof r.prepared, &r.s, r.answer, LEN - 1, r.signature, &e), &e,
        ST_VERIFY, "256 bytes");
    memset(r.answer, 0, LEN);
    expect_refusal(finish(&r, &e), &e, ST_VERIFY, "signature");
}

static void an_issuer_refuses_values_that_are_no_blinded_message(void **state)
{
    (void)state;
    struct st_err e;
    uint8_t blinded[LEN], out[LEN];
    memset(blinded, 0xff, LEN); /* above the modulus */
    assert_false(st_blind_rsa_fits(issuer, blinded, LEN));
    expect_refusal(st_blind_rsa_sign(issuer, blinded, LEN, out, &e), &e, ST_INPUT, "below the modulus");
    expect_refusal(st_blind_rsa_sign(issuer, blinded, LEN - 1, out, &e), &e, ST_INPUT, "256 bytes");
    expect_refusal(st_blind_rsa_sign(issuer, blinded, 0, out, &e), &e, ST_INPUT, "256 bytes");
    blinded[0] = 0;
    assert_true(st_blind_rsa_fits(client, blinded, LEN));
    assert_false(st_blind_rsa_fits(client, blinded, LEN - 1));
    expect_refusal(st_blind_rsa_sign(client, blinded, LEN, out, &e), &e, ST_USAGE, "no private part");
    size_t len;
    uint8_t der[ST_BLIND_RSA_DER_MAX];
    expect_refusal(st_blind_rsa_write_private(client, der, &len, &e), &e, ST_USAGE, "no private part");
}

static void a_blinding_factor_without_inverse_is_refused(void **state)
{
    (void)state;
    struct st_err e;
    struct st_blind_rsa_state s = {{0}};
    uint8_t salt[ST_BLIND_RSA_SALT] = {0}, blinded[LEN];
    expect_refusal(st_blind_rsa_blind_from(client, "x", 1, salt, &s, blinded, &e), &e, ST_INPUT, "inverse");
    memset(s.inverse, 0xff, LEN);
    expect_refusal(st_blind_rsa_blind_from(client, "x", 1, salt, &s, blinded, &e), &e, ST_INPUT, "below the modulus");
}

static void expect_key_refused(struct bytes der, const char *says)
{
    struct st_err e;
    struct st_blind_rsa *k;
    expect_refusal(st_blind_rsa_parse_public(der.p, der.len, &k, &e), &e, ST_INPUT, says);
    assert_null(k);
}

static void keys_of_another_size_exponent_or_type_are_refused(void **state)
{
    (void)state;
    struct st_err e;
    struct st_blind_rsa *k;
    expect_refusal(st_blind_rsa_new(1024, &k, &e), &e, ST_USAGE, "1024");
    json_t *v = vectors_own("rfc9474.json");
    BIGNUM *n = number(bytes_field(v, "n")), *three = BN_new(), *good = BN_new(), *small = BN_new();
    BN_set_word(three, 3);
    BN_set_word(good, 65537);
    expect_key_refused(public_der(make_key(n, three, NULL, NULL, NULL)), "exponent");
    BN_rshift(small, n, 2048 + 8); /* 2040 bits */
    BN_set_bit(small, 0);
    expect_key_refused(public_der(make_key(small, good, NULL, NULL, NULL)), "2048");
    BN_clear_bit(n, 0);
    expect_key_refused(public_der(make_key(n, good, NULL, NULL, NULL)), "odd");
    EVP_PKEY *ec = EVP_EC_gen("P-256");
    expect_key_refused(public_der(ec), "RSA");
    BN_free(n);
    BN_free(three);
    BN_free(good);
    BN_free(small);
    json_decref(v);
}

static void a_key_goes_to_der_and_back_and_every_truncation_is_refused(void **state)
{
    (void)state;
    struct st_err e;
    struct st_blind_rsa *k;
    struct run r;
    uint8_t der[ST_BLIND_RSA_DER_MAX], again[ST_BLIND_RSA_DER_MAX];
    size_t len, again_len;
    assert_ok(st_blind_rsa_write_private(issuer, der, &len, &e), &e);
    assert_ok(st_blind_rsa_parse_private(der, len, &k, &e), &e);
    run_to_answer(&r);
    assert_ok(st_blind_rsa_sign(k, r.blinded, LEN, r.answer, &e), &e);
    assert_ok(finish(&r, &e), &e);
    st_blind_rsa_free(k);
    assert_ok(st_blind_rsa_write_public(client, der, &len, &e), &e);
    for (size_t cut = 0; cut < len; cut++)
        expect_refusal(st_blind_rsa_parse_public(der, cut, &k, &e), &e, ST_INPUT, "public key");
    der[len] = 0;
    expect_refusal(st_blind_rsa_parse_public(der, len + 1, &k, &e), &e, ST_INPUT, "public key");
    for (size_t at = 0; at < len; at++) { /* refused, or a key that is written as it was read */
        der[at] ^= 1;
        if (st_blind_rsa_parse_public(der, len, &k, &e) == 0) {
            assert_ok(st_blind_rsa_write_public(k, again, &again_len, &e), &e);
            assert_int_equal(again_len, len);
            st_blind_rsa_free(k);
        }
        der[at] ^= 1;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blind_rsa_gives_the_vectors_of_rfc_9474),
        cmocka_unit_test(a_token_is_signed_blind_and_verifies),
        cmocka_unit_test(a_signature_with_any_byte_changed_is_refused),
        cmocka_unit_test(an_issuer_that_answers_wrongly_is_found_out),
        cmocka_unit_test(an_issuer_refuses_values_that_are_no_blinded_message),
        cmocka_unit_test(a_blinding_factor_without_inverse_is_refused),
        cmocka_unit_test(keys_of_another_size_exponent_or_type_are_refused),
        cmocka_unit_test(a_key_goes_to_der_and_back_and_every_truncation_is_refused),
    };
    return cmocka_run_group_tests(tests, make_keys, free_keys);
}
