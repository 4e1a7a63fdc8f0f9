/* HPKE, AEAD sequences and Ed25519: the vectors of RFC 9180 and RFC 8032, and what must be refused. */
#include "crypto/ed25519.h"
#include "crypto/hpke.h"
#include "vectors.h"

static const struct st_hpke_suite suites[] = {
    {ST_HPKE_KEM_X25519, ST_HPKE_KDF_SHA256, ST_AEAD_AES_128_GCM},
    {ST_HPKE_KEM_X25519, ST_HPKE_KDF_SHA256, ST_AEAD_AES_256_GCM},
    {ST_HPKE_KEM_X25519, ST_HPKE_KDF_SHA256, ST_AEAD_CHACHA20_POLY1305},
    {ST_HPKE_KEM_P256, ST_HPKE_KDF_SHA256, ST_AEAD_AES_128_GCM},
    {ST_HPKE_KEM_P256, ST_HPKE_KDF_SHA256, ST_AEAD_AES_256_GCM},
    {ST_HPKE_KEM_P256, ST_HPKE_KDF_SHA256, ST_AEAD_CHACHA20_POLY1305},
};
#define N_SUITES (sizeof suites / sizeof *suites)

static struct st_hpke_key *vector_key(const json_t *v, unsigned kem, const char *ikm, const char *sk, const char *pk)
{
    struct st_err e;
    struct st_hpke_key *derived, *imported;
    struct bytes material = bytes_field(v, ikm), secret = bytes_field(v, sk);
    assert_ok(st_hpke_key_derive(kem, material.p, material.len, &derived, &e), &e);
    assert_ok(st_hpke_key_import(kem, secret.p, secret.len, &imported, &e), &e);
    assert_bytes(st_hpke_key_public(derived), st_hpke_public_len(kem), bytes_field(v, pk));
    assert_bytes(st_hpke_key_public(imported), st_hpke_public_len(kem), bytes_field(v, pk));
    st_hpke_key_free(imported);
    return derived;
}

/* Messages up to the vector's highest sequence number, in order; those that the vector has are compared. */
static void run_messages(const json_t *list, struct st_hpke *send, struct st_hpke *receive)
{
    struct st_err e;
    uint8_t sealed[256], opened[256];
    size_t i;
    json_t *m;
    json_array_foreach(list, i, m)
    {
        struct bytes ad = bytes_field(m, "aad"), text = bytes_field(m, "pt"), want = bytes_field(m, "ct");
        unsigned number = vector_number(m, "sequence number");
        while (send->sequence.next < number) {
            assert_ok(st_sequence_seal(&send->sequence, NULL, 0, NULL, 0, sealed, &e), &e);
            assert_ok(st_sequence_open(&receive->sequence, NULL, 0, sealed, 16, opened, &e), &e);
        }
        assert_ok(st_sequence_seal(&send->sequence, ad.p, ad.len, text.p, text.len, sealed, &e), &e);
        assert_bytes(sealed, text.len + 16, want);
        assert_ok(st_sequence_open(&receive->sequence, ad.p, ad.len, sealed, want.len, opened, &e), &e);
        assert_bytes(opened, want.len - 16, text);
    }
}

static void run_vector(const json_t *v)
{
    struct st_err e;
    struct st_hpke send, receive;
    struct st_hpke_suite suite = {(uint16_t)vector_number(v, "kem_id"), (uint16_t)vector_number(v, "kdf_id"),
                                  (uint16_t)vector_number(v, "aead_id")};
    struct bytes info = bytes_field(v, "info");
    uint8_t enc[ST_HPKE_PUBLIC_MAX];
    size_t len = st_hpke_public_len(suite.kem), i;
    struct st_hpke_key *ephemeral = vector_key(v, suite.kem, "ikmE", "skEm", "pkEm");
    struct st_hpke_key *key = vector_key(v, suite.kem, "ikmR", "skRm", "pkRm");
    json_t *x;
    assert_ok(st_hpke_send_from(&send, suite, ephemeral, st_hpke_key_public(key), len, info.p, info.len, enc, &e), &e);
    assert_bytes(enc, len, bytes_field(v, "enc"));
    assert_ok(st_hpke_receive(&receive, suite, key, enc, len, info.p, info.len, &e), &e);
    run_messages(json_object_get(v, "encryptions"), &send, &receive);
    json_array_foreach(json_object_get(v, "exports"), i, x)
    {
        struct bytes context = bytes_field(x, "exporter_context");
        uint8_t a[64], b[64];
        assert_ok(st_hpke_export(&send, context.p, context.len, a, vector_number(x, "L"), &e), &e);
        assert_ok(st_hpke_export(&receive, context.p, context.len, b, vector_number(x, "L"), &e), &e);
        assert_bytes(a, vector_number(x, "L"), bytes_field(x, "exported_value"));
        assert_memory_equal(a, b, vector_number(x, "L"));
    }
    st_hpke_wipe(&send);
    st_hpke_wipe(&receive);
    st_hpke_key_free(ephemeral);
    st_hpke_key_free(key);
}

static void hpke_gives_the_vectors_of_rfc_9180(void **state)
{
    (void)state;
    size_t i;
    json_t *v, *own = vectors_own("rfc9180.json"), *shared = vectors_shared("rfc9180_base.json");
    json_array_foreach(own, i, v) run_vector(v);
    int n = 0;
    json_array_foreach(shared, i, v)
    {
        struct st_err e;
        struct st_hpke_suite s = {(uint16_t)vector_number(v, "kem_id"), (uint16_t)vector_number(v, "kdf_id"),
                                  (uint16_t)vector_number(v, "aead_id")};
        if (st_hpke_suite_check(s, &e) == ST_UNSUPPORTED) /* P-521, SHA-512, export only */
            continue;
        run_vector(v);
        n++;
    }
    assert_true(!shared || n == 4);
    json_decref(own);
    json_decref(shared);
}

/* A fresh pair of contexts; the caller frees the key. */
static struct st_hpke_key *pair(struct st_hpke_suite s, struct st_hpke *send, struct st_hpke *receive)
{
    struct st_err e;
    struct st_hpke_key *k;
    uint8_t enc[ST_HPKE_PUBLIC_MAX];
    size_t len = st_hpke_public_len(s.kem);
    assert_ok(st_hpke_key_new(s.kem, &k, &e), &e);
    assert_ok(st_hpke_send(send, s, st_hpke_key_public(k), len, "info", 4, enc, &e), &e);
    assert_ok(st_hpke_receive(receive, s, k, enc, len, "info", 4, &e), &e);
    return k;
}

static void every_suite_goes_there_and_back_in_place_and_empty(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SUITES; i++) {
        struct st_err e;
        struct st_hpke send, receive;
        uint8_t b[5 + 16] = "hello";
        struct st_hpke_key *k = pair(suites[i], &send, &receive);
        assert_int_equal(st_hpke_key_kem(k), suites[i].kem);
        assert_ok(st_sequence_seal(&send.sequence, "ad", 2, b, 5, b, &e), &e);
        assert_ok(st_sequence_open(&receive.sequence, "ad", 2, b, sizeof b, b, &e), &e);
        assert_memory_equal(b, "hello", 5);
        assert_ok(st_sequence_seal(&send.sequence, NULL, 0, NULL, 0, b, &e), &e);
        assert_ok(st_sequence_open(&receive.sequence, NULL, 0, b, 16, b, &e), &e);
        st_hpke_wipe(&send);
        st_hpke_wipe(&receive);
        st_hpke_key_free(k);
    }
}

static void every_flipped_bit_and_every_truncation_of_a_message_is_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SUITES; i++) {
        struct st_err e;
        struct st_hpke send, receive;
        uint8_t sealed[7 + 16], out[7];
        struct st_hpke_key *k = pair(suites[i], &send, &receive);
        assert_ok(st_sequence_seal(&send.sequence, "ad", 2, "message", 7, sealed, &e), &e);
        for (size_t at = 0; at < sizeof sealed * 8; at++) {
            sealed[at / 8] ^= (uint8_t)(1u << at % 8);
            expect_refusal(st_sequence_open(&receive.sequence, "ad", 2, sealed, sizeof sealed, out, &e), &e, ST_VERIFY,
                           "changed");
            sealed[at / 8] ^= (uint8_t)(1u << at % 8);
        }
        for (size_t len = 0; len < sizeof sealed; len++)
            expect_refusal(st_sequence_open(&receive.sequence, "ad", 2, sealed, len, out, &e), &e, ST_VERIFY,
                           "changed");
        expect_refusal(st_sequence_open(&receive.sequence, "at", 2, sealed, sizeof sealed, out, &e), &e, ST_VERIFY,
                       "changed");
        static const uint8_t zeros[7];
        assert_memory_equal(out, zeros, 7);
        assert_ok(st_sequence_open(&receive.sequence, "ad", 2, sealed, sizeof sealed, out, &e), &e);
        expect_refusal(st_sequence_open(&receive.sequence, "ad", 2, sealed, sizeof sealed, out, &e), &e, ST_VERIFY,
                       "changed"); /* the same message again */
        st_hpke_wipe(&send);
        st_hpke_wipe(&receive);
        st_hpke_key_free(k);
    }
}

static void an_encapsulated_key_with_any_byte_changed_opens_nothing(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SUITES; i++) {
        struct st_err e;
        struct st_hpke send, receive;
        struct st_hpke_key *k;
        uint8_t enc[ST_HPKE_PUBLIC_MAX], sealed[20], out[4];
        size_t len = st_hpke_public_len(suites[i].kem);
        assert_ok(st_hpke_key_new(suites[i].kem, &k, &e), &e);
        assert_ok(st_hpke_send(&send, suites[i], st_hpke_key_public(k), len, NULL, 0, enc, &e), &e);
        assert_ok(st_sequence_seal(&send.sequence, NULL, 0, "text", 4, sealed, &e), &e);
        for (size_t at = 0; at < len; at++) {
            /* 0x80: the bit of X25519 that does not change the point, only the transcript. */
            enc[at] ^= 0x80;
            int rc = st_hpke_receive(&receive, suites[i], k, enc, len, NULL, 0, &e);
            if (!rc)
                rc = st_sequence_open(&receive.sequence, NULL, 0, sealed, sizeof sealed, out, &e);
            assert_int_equal(rc, ST_VERIFY);
            st_hpke_wipe(&receive);
            enc[at] ^= 0x80;
        }
        for (size_t short_len = 0; short_len < len; short_len++)
            expect_refusal(st_hpke_receive(&receive, suites[i], k, enc, short_len, NULL, 0, &e), &e, ST_VERIFY,
                           "encapsulated key");
        st_hpke_wipe(&send);
        st_hpke_key_free(k);
    }
}

static void public_keys_that_are_none_are_refused(void **state)
{
    (void)state;
    struct st_err e;
    struct st_hpke h;
    uint8_t enc[ST_HPKE_PUBLIC_MAX];
    /* Points of small order of curve25519: 0, 1, one of order 8, p - 1, p, p + 1. */
    static const char *const small[] = {"0000000000000000000000000000000000000000000000000000000000000000",
                                        "0100000000000000000000000000000000000000000000000000000000000000",
                                        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
                                        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
                                        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
                                        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"};
    for (size_t i = 0; i < sizeof small / sizeof *small; i++) {
        struct bytes pk = bytes_hex(small[i]);
        expect_refusal(st_hpke_send(&h, suites[0], pk.p, 32, NULL, 0, enc, &e), &e, ST_INPUT, "X25519");
    }
    struct st_hpke_key *k;
    uint8_t pk[ST_HPKE_PUBLIC_MAX];
    assert_ok(st_hpke_key_new(ST_HPKE_KEM_P256, &k, &e), &e);
    memcpy(pk, st_hpke_key_public(k), 65);
    st_hpke_key_free(k);
    for (size_t at = 0; at < 65; at++) { /* off the curve, or another form than the uncompressed one */
        pk[at] ^= 1;
        expect_refusal(st_hpke_send(&h, suites[3], pk, 65, NULL, 0, enc, &e), &e, ST_INPUT, "P-256");
        pk[at] ^= 1;
    }
    pk[0] = 2 + (pk[64] & 1); /* the compressed form of the same point */
    expect_refusal(st_hpke_send(&h, suites[3], pk, 33, NULL, 0, enc, &e), &e, ST_INPUT, "65 bytes");
    memset(pk, 0, sizeof pk); /* the point at infinity is one zero byte */
    expect_refusal(st_hpke_send(&h, suites[3], pk, 65, NULL, 0, enc, &e), &e, ST_INPUT, "P-256");
    expect_refusal(st_hpke_send(&h, suites[3], pk, 1, NULL, 0, enc, &e), &e, ST_INPUT, "P-256");
}

static void private_keys_out_of_range_are_refused(void **state)
{
    (void)state;
    struct st_err e;
    struct st_hpke_key *k;
    static const char order[] = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    struct bytes sk = bytes_hex(order);
    expect_refusal(st_hpke_key_import(ST_HPKE_KEM_P256, sk.p, 32, &k, &e), &e, ST_INPUT, "scalar");
    sk.p[31]--;
    assert_ok(st_hpke_key_import(ST_HPKE_KEM_P256, sk.p, 32, &k, &e), &e);
    st_hpke_key_free(k);
    memset(sk.p, 0, 32);
    expect_refusal(st_hpke_key_import(ST_HPKE_KEM_P256, sk.p, 32, &k, &e), &e, ST_INPUT, "scalar");
    expect_refusal(st_hpke_key_import(ST_HPKE_KEM_P256, sk.p, 31, &k, &e), &e, ST_INPUT, "32 bytes");
    expect_refusal(st_hpke_key_import(0x0021, sk.p, 32, &k, &e), &e, ST_UNSUPPORTED, "kem 0x0021");
    expect_refusal(st_hpke_key_derive(ST_HPKE_KEM_P256, sk.p, 31, &k, &e), &e, ST_INPUT, "key material");
}

static void a_suite_is_refused_by_the_part_that_is_not_ours(void **state)
{
    (void)state;
    struct st_err e;
    struct st_hpke_suite s = {0x0012, 1, 1};
    expect_refusal(st_hpke_suite_check(s, &e), &e, ST_UNSUPPORTED, "kem 0x0012");
    s = (struct st_hpke_suite){0x0020, 3, 1};
    expect_refusal(st_hpke_suite_check(s, &e), &e, ST_UNSUPPORTED, "kdf 0x0003");
    s = (struct st_hpke_suite){0x0020, 1, 0xffff};
    expect_refusal(st_hpke_suite_check(s, &e), &e, ST_UNSUPPORTED, "aead 0xffff");
    struct st_hpke h;
    struct st_hpke_key *k;
    uint8_t enc[ST_HPKE_PUBLIC_MAX] = {0};
    assert_ok(st_hpke_key_new(ST_HPKE_KEM_X25519, &k, &e), &e);
    expect_refusal(st_hpke_receive(&h, suites[3], k, enc, 65, NULL, 0, &e), &e, ST_USAGE, "another kem");
    expect_refusal(st_hpke_receive(&h, suites[0], k, enc, 32, NULL, ST_HPKE_TEXT_MAX + 1, &e), &e, ST_USAGE, "info");
    st_hpke_key_free(k);
}

static void a_sequence_ends_at_its_limit(void **state)
{
    (void)state;
    struct st_err e;
    struct st_hpke send, receive;
    uint8_t b[16];
    struct st_hpke_key *k = pair(suites[0], &send, &receive);
    send.sequence.next = receive.sequence.next = ST_SEQUENCE_LIMIT - 1;
    assert_ok(st_sequence_seal(&send.sequence, NULL, 0, NULL, 0, b, &e), &e);
    assert_ok(st_sequence_open(&receive.sequence, NULL, 0, b, 16, b, &e), &e);
    expect_refusal(st_sequence_seal(&send.sequence, NULL, 0, NULL, 0, b, &e), &e, ST_POLICY, "limit");
    expect_refusal(st_sequence_open(&receive.sequence, NULL, 0, b, 16, b, &e), &e, ST_VERIFY, "changed");
    st_hpke_wipe(&send);
    st_hpke_wipe(&receive);
    st_hpke_key_free(k);
}

/* RFC 8032 section 7.1, TEST 1 to 3. */
static void ed25519_gives_the_vectors_of_rfc_8032(void **state)
{
    (void)state;
    static const char *const v[][4] = {
        {"9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
         "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
         "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bb"
         "e"
         "24655141438e7a100b"},
        {"4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
         "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
         "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302"
         "a"
         "eeb00d291612bb0c00"},
        {"c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
         "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
         "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed"
         "2"
         "8dc027beceea1ec40a"},
    };
    for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
        struct st_err e;
        struct st_ed25519 *k;
        struct bytes seed = bytes_hex(v[i][0]), key = bytes_hex(v[i][1]), msg = bytes_hex(v[i][2]);
        struct bytes want = bytes_hex(v[i][3]);
        uint8_t public[32], signature[64];
        assert_ok(st_ed25519_import(seed.p, &k, &e), &e);
        st_ed25519_public(k, public);
        assert_bytes(public, 32, key);
        assert_ok(st_ed25519_sign(k, msg.p, msg.len, signature, &e), &e);
        assert_bytes(signature, 64, want);
        assert_ok(st_ed25519_verify(key.p, msg.p, msg.len, want.p, &e), &e);
        for (size_t at = 0; at < 64; at++) {
            want.p[at] ^= 1;
            expect_refusal(st_ed25519_verify(key.p, msg.p, msg.len, want.p, &e), &e, ST_VERIFY, "signature");
            want.p[at] ^= 1;
        }
        st_ed25519_free(k);
    }
}

static void two_new_keys_differ(void **state)
{
    (void)state;
    struct st_err e;
    struct st_hpke_key *a, *b;
    struct st_ed25519 *c, *d;
    uint8_t p[32], q[32];
    assert_ok(st_hpke_key_new(ST_HPKE_KEM_X25519, &a, &e), &e);
    assert_ok(st_hpke_key_new(ST_HPKE_KEM_X25519, &b, &e), &e);
    assert_memory_not_equal(st_hpke_key_public(a), st_hpke_key_public(b), 32);
    assert_ok(st_ed25519_new(&c, &e), &e);
    assert_ok(st_ed25519_new(&d, &e), &e);
    st_ed25519_public(c, p);
    st_ed25519_public(d, q);
    assert_memory_not_equal(p, q, 32);
    st_hpke_key_free(a);
    st_hpke_key_free(b);
    st_ed25519_free(c);
    st_ed25519_free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hpke_gives_the_vectors_of_rfc_9180),
        cmocka_unit_test(every_suite_goes_there_and_back_in_place_and_empty),
        cmocka_unit_test(every_flipped_bit_and_every_truncation_of_a_message_is_refused),
        cmocka_unit_test(an_encapsulated_key_with_any_byte_changed_opens_nothing),
        cmocka_unit_test(public_keys_that_are_none_are_refused),
        cmocka_unit_test(private_keys_out_of_range_are_refused),
        cmocka_unit_test(a_suite_is_refused_by_the_part_that_is_not_ours),
        cmocka_unit_test(a_sequence_ends_at_its_limit),
        cmocka_unit_test(ed25519_gives_the_vectors_of_rfc_8032),
        cmocka_unit_test(two_new_keys_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
