/* Receipts: what verifies, and that nothing else does. */
#include "channel/receipt.h"
#include "vectors.h"

static void make(struct st_receipt *r, uint8_t out[ST_RECEIPT_LEN])
{
    struct st_err e;
    struct st_ed25519 *k;
    static const uint8_t seed[32] = {1};
    *r = (struct st_receipt){.request = {2}, .reply = {3}, .model = {4}, .time = 1760000000};
    assert_ok(st_ed25519_import(seed, &k, &e), &e);
    assert_ok(st_receipt_sign(r, k, out, &e), &e);
    st_ed25519_free(k);
}

static struct st_span span(const uint8_t *p, size_t len)
{
    return (struct st_span){p, len};
}

static void a_receipt_says_what_was_signed(void **state)
{
    (void)state;
    struct st_err e;
    struct st_receipt r, got;
    uint8_t b[ST_RECEIPT_LEN];
    int64_t time;
    make(&r, b);
    assert_ok(st_receipt_verify(span(b, sizeof b), &r, &time, &e), &e);
    assert_int_equal(time, 1760000000);
    assert_ok(st_receipt_parse(span(b, sizeof b), &got, &e), &e);
    assert_memory_equal(&got, &r, sizeof r);
    r.time = 5; /* the caller's time is not part of what is wanted */
    assert_ok(st_receipt_verify(span(b, sizeof b), &r, &time, &e), &e);
    assert_int_equal(time, 1760000000);
}

/* The preimage as the header describes it, put together here by hand. */
static void the_signed_bytes_are_the_documented_ones(void **state)
{
    (void)state;
    struct st_err e;
    struct st_receipt r;
    uint8_t b[ST_RECEIPT_LEN];
    struct st_buf text = {0};
    make(&r, b);
    st_buf_add(&text, "\17\0\0\0sotto receipt 1", 19);
    const uint8_t *const fields[] = {r.key, r.request, r.reply, r.model};
    for (int i = 0; i < 4; i++) {
        st_buf_add(&text, " \0\0\0", 4);
        st_buf_add(&text, fields[i], 32);
    }
    st_buf_add(&text, "\10\0\0\0\0\170\347\150\0\0\0\0", 12);
    assert_ok(st_ed25519_verify(r.key, text.p, text.len, b + ST_RECEIPT_LEN - 64, &e), &e);
    st_buf_free(&text);
}

static void every_flipped_bit_and_every_truncation_is_refused(void **state)
{
    (void)state;
    struct st_err e;
    struct st_receipt r, got;
    uint8_t b[ST_RECEIPT_LEN + 1] = {0};
    int64_t time;
    make(&r, b);
    for (size_t at = 0; at < ST_RECEIPT_LEN * 8; at++) {
        b[at / 8] ^= (uint8_t)(1u << at % 8);
        assert_int_equal(st_receipt_verify(span(b, ST_RECEIPT_LEN), &r, &time, &e), ST_VERIFY);
        assert_int_equal(time, 0);
        b[at / 8] ^= (uint8_t)(1u << at % 8);
    }
    for (size_t len = 0; len <= ST_RECEIPT_LEN + 1; len++)
        if (len != ST_RECEIPT_LEN) {
            expect_refusal(st_receipt_verify(span(b, len), &r, &time, &e), &e, ST_VERIFY, "want");
            expect_refusal(st_receipt_parse(span(b, len), &got, &e), &e, ST_INPUT, "want");
        }
}

static void a_receipt_of_something_else_is_refused_by_what_differs(void **state)
{
    (void)state;
    struct st_err e;
    struct st_receipt r, want;
    uint8_t b[ST_RECEIPT_LEN];
    int64_t time;
    make(&r, b);
    want = r;
    want.request[31] ^= 1;
    expect_refusal(st_receipt_verify(span(b, sizeof b), &want, &time, &e), &e, ST_VERIFY, "another request");
    want = r;
    want.reply[0] ^= 1;
    expect_refusal(st_receipt_verify(span(b, sizeof b), &want, &time, &e), &e, ST_VERIFY, "another reply");
    want = r;
    want.model[9] ^= 1;
    expect_refusal(st_receipt_verify(span(b, sizeof b), &want, &time, &e), &e, ST_VERIFY, "another model");
    want = r;
    want.key[9] ^= 1;
    expect_refusal(st_receipt_verify(span(b, sizeof b), &want, &time, &e), &e, ST_VERIFY, "another key");
    /* A good signature over the same fields by a key that the evidence does not name. */
    struct st_ed25519 *other;
    assert_ok(st_ed25519_new(&other, &e), &e);
    want = r;
    assert_ok(st_receipt_sign(&want, other, b, &e), &e);
    expect_refusal(st_receipt_verify(span(b, sizeof b), &r, &time, &e), &e, ST_VERIFY, "another key");
    st_ed25519_free(other);
    b[8] = 2;
    expect_refusal(st_receipt_parse(span(b, sizeof b), &want, &e), &e, ST_UNSUPPORTED, "version 2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_receipt_says_what_was_signed),
        cmocka_unit_test(the_signed_bytes_are_the_documented_ones),
        cmocka_unit_test(every_flipped_bit_and_every_truncation_is_refused),
        cmocka_unit_test(a_receipt_of_something_else_is_refused_by_what_differs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
