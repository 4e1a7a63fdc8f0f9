/* Tokens and lists of change: what is read, what verifies, and that nothing else does. */
#include "channel/token.h"
#include "crypto/digest.h"
#include "expect.h"

/* Keys of two denominations: making one takes a while. */
static struct st_blind_rsa *one, *eight;

static int make_keys(void **state)
{
    (void)state;
    struct st_err e;
    assert_ok(st_blind_rsa_new(2048, &one, &e), &e);
    assert_ok(st_blind_rsa_new(2048, &eight, &e), &e);
    return 0;
}

static int free_keys(void **state)
{
    (void)state;
    st_blind_rsa_free(one);
    st_blind_rsa_free(eight);
    return 0;
}

static struct st_span span(const void *p, size_t len)
{
    return (struct st_span){p, len};
}

/* A whole purchase. */
static void buy(struct st_blind_rsa *k, uint32_t day, uint32_t units, struct st_token *t)
{
    struct st_err e;
    struct st_token_blank blank;
    uint8_t answer[ST_BLIND_RSA_MAX];
    assert_ok(st_token_begin(k, day, units, &blank, &e), &e);
    assert_ok(st_blind_rsa_sign(k, blank.blinded, blank.len, answer, &e), &e);
    assert_ok(st_token_finish(&blank, k, span(answer, blank.len), t, &e), &e);
}

static void a_token_is_signed_blind_and_verifies(void **state)
{
    (void)state;
    struct st_err e;
    struct st_token t, got;
    struct st_buf b = {0};
    buy(one, 20000, 1, &t);
    assert_ok(st_token_verify(&t, one, &e), &e);
    st_token_write(&t, &b);
    assert_int_equal(b.len, 8 + 12 + 32 + 256);
    assert_ok(st_token_parse(span(b.p, b.len), &got, &e), &e);
    assert_memory_equal(&got, &t, sizeof t);
    /* The form as the header describes it. */
    assert_memory_equal(b.p, "SOTTOTKN\1\0\0\0\x20\x4e\0\0\1\0\0\0", 20);
    assert_memory_equal(b.p + 20, t.random, 32);
    st_buf_free(&b);
}

static void tokens_begun_together_are_as_good_as_alone_and_all_different(void **state)
{
    (void)state;
    struct st_err e;
    struct st_token_blank b[ST_BLIND_RSA_JOBS];
    uint8_t answer[ST_BLIND_RSA_MAX];
    struct st_token t;
    assert_ok(st_token_begin_many(one, 20000, 1, b, ST_BLIND_RSA_JOBS, &e), &e);
    for (size_t i = 0; i < ST_BLIND_RSA_JOBS; i++) {
        for (size_t j = 0; j < i; j++) {
            assert_memory_not_equal(b[i].blinded, b[j].blinded, 256);
            assert_memory_not_equal(b[i].state.inverse, b[j].state.inverse, 256);
            assert_memory_not_equal(b[i].token.random, b[j].token.random, 32);
        }
        assert_ok(st_blind_rsa_sign(one, b[i].blinded, 256, answer, &e), &e);
        assert_ok(st_token_finish(&b[i], one, span(answer, 256), &t, &e), &e);
        assert_ok(st_token_verify(&t, one, &e), &e);
        if (i) /* the answer to another one */
            expect_refusal(st_token_finish(&b[0], one, span(answer, 256), &t, &e), &e, ST_VERIFY, "issuer's answer");
    }
    assert_ok(st_token_begin_many(one, 20000, 1, b, 0, &e), &e);
    expect_refusal(st_token_begin_many(one, 20000, 1, b, ST_BLIND_RSA_JOBS + 1, &e), &e, ST_USAGE, "at most 16");
}

static void a_token_of_another_denomination_or_with_any_bit_changed_does_not_verify(void **state)
{
    (void)state;
    struct st_err e;
    struct st_token t;
    buy(one, 20000, 1, &t);
    expect_refusal(st_token_verify(&t, eight, &e), &e, ST_VERIFY, "has not signed it");
    for (size_t at = 0; at < ST_TOKEN_RANDOM * 8; at++) {
        t.random[at / 8] ^= (uint8_t)(1u << at % 8);
        expect_refusal(st_token_verify(&t, one, &e), &e, ST_VERIFY, "has not signed it");
        t.random[at / 8] ^= (uint8_t)(1u << at % 8);
    }
    for (size_t at = 0; at < t.signature_len; at++) {
        t.signature[at] ^= 0x10;
        expect_refusal(st_token_verify(&t, one, &e), &e, ST_VERIFY, "has not signed it");
        t.signature[at] ^= 0x10;
    }
    t.signature_len--;
    expect_refusal(st_token_verify(&t, one, &e), &e, ST_VERIFY, "has not signed it");
}

static void what_a_spent_token_is_remembered_by_depends_on_all_but_its_signature(void **state)
{
    (void)state;
    struct st_token t = {.day = 20000, .units = 8, .random = {1, 2, 3}, .signature = {4}, .signature_len = 256}, u = t;
    uint8_t a[32], b[32], want[32];
    struct st_buf text = {0};
    st_token_digest(&t, a);
    u.signature[9] = 1;
    u.signature_len = 512;
    st_token_digest(&u, b);
    assert_memory_equal(a, b, 32);
    u = t;
    u.random[31] ^= 1;
    st_token_digest(&u, b);
    assert_memory_not_equal(a, b, 32);
    u = t;
    u.day++;
    st_token_digest(&u, b);
    assert_memory_not_equal(a, b, 32);
    u = t;
    u.units = 1;
    st_token_digest(&u, b);
    assert_memory_not_equal(a, b, 32);
    st_buf_add(&text, "\x13\0\0\0sotto spent token 1 \0\0\0", 27);
    st_buf_add(&text, t.random, 32);
    st_buf_add(&text, "\4\0\0\0\x20\x4e\0\0\4\0\0\0\10\0\0\0", 16);
    st_sha256(text.p, text.len, want);
    assert_memory_equal(a, want, 32);
    st_buf_free(&text);
}

static void every_truncation_and_every_wrong_head_of_a_token_is_refused(void **state)
{
    (void)state;
    struct st_err e;
    struct st_token t = {.day = 1, .units = 512, .signature_len = 256}, got;
    struct st_buf b = {0};
    st_token_write(&t, &b);
    uint8_t bytes[ST_TOKEN_MAX + 1] = {0};
    memcpy(bytes, b.p, b.len);
    for (size_t len = 0; len <= sizeof bytes; len++)
        if (len != 52 + 256 && len != 52 + 384 && len != 52 + 512)
            expect_refusal(st_token_parse(span(bytes, len), &got, &e), &e, ST_INPUT, "want");
    for (size_t at = 0; at < 8; at++) {
        bytes[at] ^= 1;
        expect_refusal(st_token_parse(span(bytes, b.len), &got, &e), &e, ST_INPUT, "SOTTOTKN");
        bytes[at] ^= 1;
    }
    bytes[8] = 2;
    expect_refusal(st_token_parse(span(bytes, b.len), &got, &e), &e, ST_UNSUPPORTED, "version 2");
    bytes[8] = 1;
    memcpy(bytes + 16, "\0\0\0\0", 4);
    expect_refusal(st_token_parse(span(bytes, b.len), &got, &e), &e, ST_INPUT, "units");
    memcpy(bytes + 16, "\1\20\0\0", 4);
    expect_refusal(st_token_parse(span(bytes, b.len), &got, &e), &e, ST_INPUT, "units");
    st_buf_free(&b);
}

static void an_issuer_that_signs_with_another_key_is_found_out(void **state)
{
    (void)state;
    struct st_err e;
    struct st_token_blank blank;
    struct st_token t;
    static const struct st_token none;
    uint8_t answer[ST_BLIND_RSA_MAX];
    assert_ok(st_token_begin(one, 1, 1, &blank, &e), &e);
    /* A key of the same size signs it, if the number is below its modulus: no signature of the right one. */
    if (st_blind_rsa_sign(eight, blank.blinded, blank.len, answer, &e) != 0)
        memset(answer, 1, sizeof answer);
    expect_refusal(st_token_finish(&blank, one, span(answer, blank.len), &t, &e), &e, ST_VERIFY, "issuer's answer");
    assert_memory_equal(&t, &none, sizeof t);
    expect_refusal(st_token_finish(&blank, one, span(answer, 255), &t, &e), &e, ST_VERIFY, "256 bytes");
    expect_refusal(st_token_begin(one, 1, 0, &blank, &e), &e, ST_USAGE, "units");
}

/* Every amount from nothing to all of it can be given back. */
static void planned_change_can_give_back_every_part_of_a_token(void **state)
{
    (void)state;
    struct st_change_ask a;
    uint16_t place[ST_CHANGE_MAX];
    static const size_t n[ST_TOKEN_N_UNITS] = {1, 8, 15, 22};
    for (size_t d = 0; d < ST_TOKEN_N_UNITS; d++) {
        uint32_t all = st_token_units[d];
        st_change_plan(all, 77, &a);
        assert_int_equal(a.n, n[d]);
        for (uint32_t units = 1; units <= all; units++) {
            uint32_t sum = 0, seen = 0;
            size_t picked = st_change_pick(&a, units, place);
            for (size_t i = 0; i < picked; i++) {
                assert_true(place[i] < a.n && !(seen >> place[i] & 1));
                seen |= 1u << place[i];
                sum += a.of[place[i]].units;
                assert_int_equal(a.of[place[i]].day, 77);
            }
            assert_int_equal(sum, units);
        }
        assert_int_equal(st_change_pick(&a, 0, place), 0);
        assert_int_equal(st_change_pick(&a, all + 1, place), 0);
    }
    st_change_plan(7, 77, &a);
    assert_int_equal(a.n, 0);
}

static void fill_ask(struct st_change_ask *a, const uint8_t bytes[ST_BLIND_RSA_MAX])
{
    st_change_plan(512, 20000, a);
    for (size_t i = 0; i < a->n; i++)
        a->of[i].blinded = span(bytes, i % 2 ? 256 : 384);
}

static void lists_of_change_are_read_as_they_were_written(void **state)
{
    (void)state;
    struct st_err e;
    static const uint8_t bytes[ST_BLIND_RSA_MAX] = {9, 8, 7};
    struct st_change_ask a, got;
    struct st_change_answer r = {.n = 3}, back;
    struct st_buf b = {0}, c = {0};
    fill_ask(&a, bytes);
    st_change_ask_write(&a, &b);
    assert_ok(st_change_ask_parse(span(b.p, b.len), &got, &e), &e);
    assert_int_equal(got.n, a.n);
    for (size_t i = 0; i < a.n; i++) {
        assert_int_equal(got.of[i].units, a.of[i].units);
        assert_int_equal(got.of[i].day, 20000);
        assert_int_equal(got.of[i].blinded.len, a.of[i].blinded.len);
        assert_memory_equal(got.of[i].blinded.p, bytes, got.of[i].blinded.len);
    }
    for (size_t i = 0; i < r.n; i++) {
        r.of[i].place = (uint16_t)(20 - i);
        r.of[i].signature = span(bytes, 512);
    }
    st_change_answer_write(&r, &c);
    assert_ok(st_change_answer_parse(span(c.p, c.len), &back, &e), &e);
    assert_int_equal(back.n, 3);
    for (size_t i = 0; i < r.n; i++)
        assert_int_equal(back.of[i].place, 20 - i);
    for (size_t len = 0; len < b.len; len++)
        expect_refusal(st_change_ask_parse(span(b.p, len), &got, &e), &e, ST_INPUT, "change asked for");
    for (size_t len = 0; len < c.len; len++)
        expect_refusal(st_change_answer_parse(span(c.p, len), &back, &e), &e, ST_INPUT, "change");
    st_buf_add(&b, "", 1);
    st_buf_add(&c, "", 1);
    expect_refusal(st_change_ask_parse(span(b.p, b.len), &got, &e), &e, ST_INPUT, "behind its end");
    expect_refusal(st_change_answer_parse(span(c.p, c.len), &back, &e), &e, ST_INPUT, "behind its end");
    st_buf_free(&b);
    st_buf_free(&c);
}

static void lists_of_change_with_too_many_or_with_a_place_twice_are_refused(void **state)
{
    (void)state;
    struct st_err e;
    struct st_change_ask a;
    struct st_change_answer r;
    uint8_t bytes[2 + 2 * (2 + 2 + 256)] = {2};
    expect_refusal(st_change_ask_parse(span("\31\0", 2), &a, &e), &e, ST_INPUT, "at most 24");
    expect_refusal(st_change_answer_parse(span("\31\0", 2), &r, &e), &e, ST_INPUT, "at most 24");
    assert_ok(st_change_ask_parse(span("\0\0", 2), &a, &e), &e);
    assert_ok(st_change_answer_parse(span("\0\0", 2), &r, &e), &e);
    bytes[5] = bytes[2 + 260 + 3] = 1; /* lengths of 256 */
    expect_refusal(st_change_answer_parse(span(bytes, sizeof bytes), &r, &e), &e, ST_INPUT, "1: want a place");
    assert_int_equal(r.n, 0);
    bytes[2] = 1;
    assert_ok(st_change_answer_parse(span(bytes, sizeof bytes), &r, &e), &e);
    bytes[2] = ST_CHANGE_MAX;
    expect_refusal(st_change_answer_parse(span(bytes, sizeof bytes), &r, &e), &e, ST_INPUT, "0: want a place");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_token_is_signed_blind_and_verifies),
        cmocka_unit_test(tokens_begun_together_are_as_good_as_alone_and_all_different),
        cmocka_unit_test(a_token_of_another_denomination_or_with_any_bit_changed_does_not_verify),
        cmocka_unit_test(what_a_spent_token_is_remembered_by_depends_on_all_but_its_signature),
        cmocka_unit_test(every_truncation_and_every_wrong_head_of_a_token_is_refused),
        cmocka_unit_test(an_issuer_that_signs_with_another_key_is_found_out),
        cmocka_unit_test(planned_change_can_give_back_every_part_of_a_token),
        cmocka_unit_test(lists_of_change_are_read_as_they_were_written),
        cmocka_unit_test(lists_of_change_with_too_many_or_with_a_place_twice_are_refused),
    };
    return cmocka_run_group_tests(tests, make_keys, free_keys);
}
