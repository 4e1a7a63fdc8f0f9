/* SHA-256, HKDF-SHA256 and the secret random streams, against the published vectors and an independent ChaCha20. */
#include "base/file.h"
#include "crypto/digest.h"
#include "crypto/hkdf.h"
#include "crypto/stream.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static void from_hex(const char *hex, uint8_t *out)
{
    for (size_t i = 0; hex[2 * i]; i++) {
        unsigned v;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &v), 1);
        out[i] = (uint8_t)v;
    }
}

static void assert_hex(const uint8_t *p, size_t len, const char *hex)
{
    char got[512];
    assert_true(2 * len < sizeof got);
    st_hex(p, len, got);
    assert_string_equal(got, hex);
}

static void sha256_gives_the_fips_180_vectors(void **state)
{
    (void)state;
    uint8_t h[32];
    st_sha256("abc", 3, h);
    assert_hex(h, 32, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    st_sha256("", 0, h);
    assert_hex(h, 32, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    st_sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56, h);
    assert_hex(h, 32, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
}

/* RFC 5869 appendix A.1 to A.3 (the SHA-256 cases). */
static void hkdf_gives_the_rfc_5869_vectors(void **state)
{
    (void)state;
    struct st_err e;
    uint8_t ikm[80], salt[80], info[80], okm[82];
    memset(ikm, 0x0b, 22);
    from_hex("000102030405060708090a0b0c", salt);
    from_hex("f0f1f2f3f4f5f6f7f8f9", info);
    assert_int_equal(st_hkdf_sha256(ikm, 22, salt, 13, info, 10, okm, 42, &e), 0);
    assert_hex(okm, 42, "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865");
    for (int i = 0; i < 80; i++) {
        ikm[i] = (uint8_t)i;
        salt[i] = (uint8_t)(0x60 + i);
        info[i] = (uint8_t)(0xb0 + i);
    }
    assert_int_equal(st_hkdf_sha256(ikm, 80, salt, 80, info, 80, okm, 82, &e), 0);
    assert_hex(okm, 82,
               "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
               "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87");
    memset(ikm, 0x0b, 22);
    assert_int_equal(st_hkdf_sha256(ikm, 22, NULL, 0, NULL, 0, okm, 42, &e), 0);
    assert_hex(okm, 42, "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8");
}

#define QUARTER(a, b, c, d)                                                                                            \
    (a += b, d ^= a, d = d << 16 | d >> 16, c += d, b ^= c, b = b << 12 | b >> 20, a += b, d ^= a,                     \
     d = d << 8 | d >> 24, c += d, b ^= c, b = b << 7 | b >> 25)

/* One block of RFC 8439 section 2.3. */
static void chacha20_block(const uint8_t key[32], uint32_t counter, const uint8_t nonce[12], uint8_t out[64])
{
    uint32_t s[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574}, x[16];
    memcpy(s + 4, key, 32);
    s[12] = counter;
    memcpy(s + 13, nonce, 12);
    memcpy(x, s, sizeof x);
    for (int i = 0; i < 10; i++) {
        QUARTER(x[0], x[4], x[8], x[12]);
        QUARTER(x[1], x[5], x[9], x[13]);
        QUARTER(x[2], x[6], x[10], x[14]);
        QUARTER(x[3], x[7], x[11], x[15]);
        QUARTER(x[0], x[5], x[10], x[15]);
        QUARTER(x[1], x[6], x[11], x[12]);
        QUARTER(x[2], x[7], x[8], x[13]);
        QUARTER(x[3], x[4], x[9], x[14]);
    }
    for (int i = 0; i < 16; i++)
        x[i] += s[i];
    memcpy(out, x, 64);
}

static void a_stream_is_chacha20_under_the_hkdf_key(void **state)
{
    (void)state;
    struct st_err e;
    uint8_t key[32], nonce[12] = {0}, block[64];
    for (int i = 0; i < 32; i++)
        key[i] = (uint8_t)i;
    from_hex("000000090000004a00000000", nonce); /* RFC 8439 section 2.3.2 */
    chacha20_block(key, 1, nonce, block);
    assert_hex(block, 64,
               "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4ed2826446079faa0914c2d705d98b02a2"
               "b5129cd1de164eb9cbd083e8a2503c4e");

    uint8_t seed[32] = {7}, info[4 + 3 + 4 + 5] = {3, 0, 0, 0, 'c', 't', 'x', 5, 0, 0, 0, 'l', 'a', 'b', 'e', 'l'};
    assert_int_equal(st_hkdf_sha256(seed, 32, (const uint8_t *)"sotto stream 1", 14, info, sizeof info, key, 32, &e),
                     0);
    struct st_stream *s;
    assert_int_equal(st_stream_new(seed, 32, (const uint8_t *)"ctx", 3, "label", &s, &e), 0);
    memset(nonce, 0, sizeof nonce);
    for (uint32_t i = 0; i < 300; i++) { /* past several refills */
        uint8_t got[64];
        st_stream_bytes(s, got, 1);
        st_stream_bytes(s, got + 1, 63);
        chacha20_block(key, i, nonce, block);
        assert_memory_equal(got, block, 64);
    }
    st_stream_free(s);
}

static struct st_stream *stream(const char *context, const char *label)
{
    static const uint8_t seed[32] = {1, 2, 3};
    struct st_err e;
    struct st_stream *s;
    assert_int_equal(st_stream_new(seed, 32, (const uint8_t *)context, strlen(context), label, &s, &e), 0);
    return s;
}

static void another_label_or_context_gives_another_stream(void **state)
{
    (void)state;
    static const char *const at[][2] = {{"a", "b"}, {"a", "c"}, {"b", "b"}, {"ab", ""}, {"", "ab"}};
    uint64_t first[5];
    for (int i = 0; i < 5; i++) {
        struct st_stream *s = stream(at[i][0], at[i][1]), *again = stream(at[i][0], at[i][1]);
        first[i] = st_stream_u64(s);
        assert_true(first[i] == st_stream_u64(again));
        st_stream_free(s);
        st_stream_free(again);
        for (int j = 0; j < i; j++)
            assert_true(first[i] != first[j]);
    }
}

static void below_is_uniform_and_in_range(void **state)
{
    (void)state;
    struct st_stream *s = stream("x", "below");
    enum { N = 7, DRAWS = 70000 };
    int count[N] = {0};
    for (int i = 0; i < DRAWS; i++) {
        uint64_t v = st_stream_below(s, N);
        assert_true(v < N);
        count[v]++;
    }
    double chi2 = 0;
    for (int i = 0; i < N; i++)
        chi2 += pow(count[i] - DRAWS / N, 2) / (DRAWS / N);
    assert_true(chi2 < 22.5); /* 6 degrees of freedom, p = 0.001 */
    for (int i = 0; i < 100; i++)
        assert_true(st_stream_below(s, 1) == 0);
    for (int i = 0; i < 1000; i++) /* the range where half of all draws are rejected */
        assert_true(st_stream_below(s, (1ull << 63) + 1) <= 1ull << 63);
    st_stream_free(s);
}

static void units_and_normals_have_their_moments(void **state)
{
    (void)state;
    struct st_stream *s = stream("x", "moments");
    enum { N = 200000 };
    double sum = 0, sq = 0, fourth = 0, unit = 0;
    for (int i = 0; i < N; i++) {
        double v = st_stream_normal(s), u = st_stream_unit(s);
        assert_true(u >= 0 && u < 1);
        unit += u;
        sum += v;
        sq += v * v;
        fourth += v * v * v * v;
    }
    assert_true(fabs(unit / N - 0.5) < 0.004);
    assert_true(fabs(sum / N) < 0.012);
    assert_true(fabs(sq / N - 1) < 0.02);
    assert_true(fabs(fourth / N - 3) < 0.15);
    st_stream_free(s);
}

static void permutations_hold_every_index_once_and_all_are_equally_likely(void **state)
{
    (void)state;
    struct st_stream *s = stream("x", "permutation");
    enum { BIG = 5000, DRAWS = 24000 };
    static uint32_t p[BIG];
    static bool seen[BIG];
    st_stream_permutation(s, p, BIG);
    int fixed = 0;
    for (uint32_t i = 0; i < BIG; i++) {
        assert_true(p[i] < BIG && !seen[p[i]]);
        seen[p[i]] = true;
        fixed += p[i] == i;
    }
    assert_true(fixed < 10);
    int count[256] = {0};
    for (int i = 0; i < DRAWS; i++) {
        uint32_t q[4];
        st_stream_permutation(s, q, 4);
        count[q[0] << 6 | q[1] << 4 | q[2] << 2 | q[3]]++;
    }
    double chi2 = 0;
    int kinds = 0;
    for (int i = 0; i < 256; i++)
        if (count[i]) {
            kinds++;
            chi2 += pow(count[i] - DRAWS / 24, 2) / (DRAWS / 24);
        }
    assert_int_equal(kinds, 24);
    assert_true(chi2 < 49.7); /* 23 degrees of freedom, p = 0.001 */
    st_stream_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sha256_gives_the_fips_180_vectors),
        cmocka_unit_test(hkdf_gives_the_rfc_5869_vectors),
        cmocka_unit_test(a_stream_is_chacha20_under_the_hkdf_key),
        cmocka_unit_test(another_label_or_context_gives_another_stream),
        cmocka_unit_test(below_is_uniform_and_in_range),
        cmocka_unit_test(units_and_normals_have_their_moments),
        cmocka_unit_test(permutations_hold_every_index_once_and_all_are_equally_likely),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
