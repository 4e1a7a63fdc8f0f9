/* The worker protocol's frames, both ends: what is written is read back, and nothing else is read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "net/worker_frame.h"

#include <stdlib.h>
#include <string.h>

static const uint8_t digest[32] = {1, 2, 3, [31] = 32};

/* A payload in memory of exactly its size, so that the sanitizer sees a read behind it. */
struct exact {
    uint8_t *p;
    size_t len;
};

static struct st_span exact(struct exact *x, const void *p, size_t len)
{
    free(x->p);
    x->p = malloc(len ? len : 1);
    assert_non_null(x->p);
    memcpy(x->p, p, len);
    x->len = len;
    return (struct st_span){x->p, len};
}

/* Each parser behind one face; the results are compared where it matters. */
static int parse(enum st_worker_type type, struct st_span p, struct st_err *e)
{
    uint8_t any[32];
    struct st_worker_welcome w;
    struct st_worker_multiply m;
    struct st_worker_pair pair;
    struct st_worker_product r;
    struct st_worker_hint h;
    struct st_worker_failure f;
    struct st_span records;
    int rc;
    switch (type) {
    case ST_WORKER_HELLO:
        return st_worker_hello_parse(p, any, e);
    case ST_WORKER_WELCOME:
        rc = st_worker_welcome_parse(p, &w, e);
        if (rc)
            assert_null(w.weights);
        else
            free(w.weights);
        return rc;
    case ST_WORKER_MULTIPLY:
        return st_worker_multiply_parse(p, &m, e);
    case ST_WORKER_PAIR:
        return st_worker_pair_parse(p, &pair, e);
    case ST_WORKER_PRODUCT:
        return st_worker_product_parse(p, &r, e);
    case ST_WORKER_HINT:
        return st_worker_hint_parse(p, &h, e);
    case ST_WORKER_COLUMNS:
        return st_worker_columns_parse(p, 2, &h, &records, e);
    case ST_WORKER_CHALLENGE:
        return st_worker_challenge_parse(p, any, e);
    case ST_WORKER_EVIDENCE:
        return st_worker_evidence_parse(p, e);
    case ST_WORKER_ADMITTED:
        return st_worker_admitted_parse(p, e);
    default:
        return st_worker_failure_parse(p, &f, e);
    }
}

static struct st_worker_weight weights[2] = {{"model.layers.0.mlp.up_proj.weight", 24, 8, false},
                                             {"model.embed_tokens.weight^T", 8, 70000, true}};

/* One valid frame of each type with its rows or values behind it. */
static void frame(enum st_worker_type type, struct st_buf *b)
{
    const uint32_t values[6] = {1, 2, 3, 4, 5, 6};
    const struct st_worker_hint h = {7, 3, 1};
    st_buf_clear(b);
    switch (type) {
    case ST_WORKER_HELLO:
        st_worker_hello_add(b, digest);
        break;
    case ST_WORKER_WELCOME: {
        struct st_worker_welcome w = {.max_row = 512, .max_payload = 1 << 20, .params = "lwe-1280-12.8", .n = 2};
        memcpy(w.digest, digest, 32);
        w.weights = weights;
        st_worker_welcome_add(b, &w);
        break;
    }
    case ST_WORKER_MULTIPLY:
        st_worker_multiply_add(b, 9, &(struct st_worker_multiply){ST_WORKER_F32, 2, 3, {5, 6, 7}, {0}}, sizeof values);
        st_buf_add(b, values, sizeof values);
        break;
    case ST_WORKER_PAIR:
        st_worker_pair_add(b, 9, &(struct st_worker_pair){1, 2, 2, {0}});
        st_buf_add(b, values, sizeof values);
        break;
    case ST_WORKER_PRODUCT:
        st_worker_product_add(b, 9, &(struct st_worker_product){ST_WORKER_FIELD, 3, 2, 77, {0}}, sizeof values);
        st_buf_add(b, values, sizeof values);
        break;
    case ST_WORKER_HINT:
        st_worker_hint_add(b, 9, &h);
        break;
    case ST_WORKER_COLUMNS:
        st_worker_columns_add(b, 9, &h, 16);
        st_buf_add(b, values, 16);
        break;
    case ST_WORKER_CHALLENGE:
        st_worker_challenge_add(b, digest);
        break;
    case ST_WORKER_EVIDENCE:
        st_worker_evidence_add(b, (struct st_span){(const uint8_t *)"{}", 2});
        break;
    case ST_WORKER_ADMITTED:
        st_worker_admitted_add(b);
        break;
    default:
        st_worker_failure_add(b, 9, ST_POLICY, "no\nway");
        break;
    }
    assert_false(b->failed);
}

static void every_frame_is_read_back_as_written(void **state)
{
    (void)state;
    struct st_err e;
    struct st_buf b = {0};
    struct st_span p;
#define BODY(type) (frame(type, &b), (struct st_span){(const uint8_t *)b.p + ST_WORKER_HEAD, b.len - ST_WORKER_HEAD})
    uint8_t got[32];
    p = BODY(ST_WORKER_HELLO);
    assert_int_equal(st_worker_hello_parse(p, got, &e), 0);
    assert_memory_equal(got, digest, 32);

    struct st_worker_welcome w;
    p = BODY(ST_WORKER_WELCOME);
    assert_int_equal(st_worker_welcome_parse(p, &w, &e), 0);
    assert_memory_equal(w.digest, digest, 32);
    assert_int_equal(w.max_row, 512);
    assert_int_equal(w.max_payload, 1 << 20);
    assert_string_equal(w.params, "lwe-1280-12.8");
    assert_int_equal(w.n, 2);
    for (int i = 0; i < 2; i++) {
        assert_string_equal(w.weights[i].name, weights[i].name);
        assert_int_equal(w.weights[i].n_out, weights[i].n_out);
        assert_int_equal(w.weights[i].n_in, weights[i].n_in);
        assert_int_equal(w.weights[i].expert, weights[i].expert);
    }
    free(w.weights);

    struct st_worker_multiply m;
    p = BODY(ST_WORKER_MULTIPLY);
    assert_int_equal(st_worker_multiply_parse(p, &m, &e), 0);
    assert_int_equal(m.format, ST_WORKER_F32);
    assert_int_equal(m.n_row, 2);
    assert_int_equal(m.n_weight, 3);
    assert_int_equal(m.weights[2], 7);
    assert_int_equal(m.rows.len, 24);
    assert_ptr_equal(m.rows.p + m.rows.len, p.p + p.len);

    struct st_worker_pair pair;
    p = BODY(ST_WORKER_PAIR);
    assert_int_equal(st_worker_pair_parse(p, &pair, &e), 0);
    assert_int_equal(pair.n_a, 1);
    assert_int_equal(pair.n_b, 2);
    assert_int_equal(pair.n_inner, 2);
    assert_int_equal(pair.rows.len, 24);
    assert_ptr_equal(pair.rows.p + pair.rows.len, p.p + p.len);

    struct st_worker_product r;
    p = BODY(ST_WORKER_PRODUCT);
    assert_int_equal(st_worker_product_parse(p, &r, &e), 0);
    assert_int_equal(r.n_row, 3);
    assert_int_equal(r.n_weight, 2);
    assert_int_equal(r.work_us, 77);
    assert_int_equal(r.values.len, 24);

    struct st_worker_hint h;
    struct st_span records;
    p = BODY(ST_WORKER_HINT);
    assert_int_equal(st_worker_hint_parse(p, &h, &e), 0);
    assert_int_equal(h.weight, 7);
    assert_int_equal(h.first, 3);
    assert_int_equal(h.n, 1);
    p = BODY(ST_WORKER_COLUMNS);
    assert_int_equal(st_worker_columns_parse(p, 2, &h, &records, &e), 0);
    assert_int_equal(records.len, 16);

    struct st_worker_failure f;
    p = BODY(ST_WORKER_FAILURE);
    assert_int_equal(st_worker_failure_parse(p, &f, &e), 0);
    assert_int_equal(f.code, ST_POLICY);
    assert_string_equal(f.text, "no?way");

    uint8_t nonce[ST_WORKER_NONCE];
    p = BODY(ST_WORKER_CHALLENGE);
    assert_int_equal(st_worker_challenge_parse(p, nonce, &e), 0);
    assert_memory_equal(nonce, digest, sizeof nonce);
    st_buf_free(&b);
}

static void a_head_says_type_id_and_the_length_that_follows(void **state)
{
    (void)state;
    struct st_err e;
    struct st_buf b = {0};
    struct st_worker_head h;
    for (int t = ST_WORKER_HELLO; t < ST_WORKER_TYPES; t++) {
        frame((enum st_worker_type)t, &b);
        assert_int_equal(st_worker_head_parse((const uint8_t *)b.p, b.len, &h, &e), 0);
        assert_int_equal(h.type, t);
        assert_int_equal(h.id, t >= ST_WORKER_MULTIPLY && t <= ST_WORKER_PAIR ? 9 : 0);
        assert_int_equal(h.len, b.len - ST_WORKER_HEAD);
    }
    st_buf_free(&b);
}

static void foreign_versions_types_and_sizes_are_refused_by_name(void **state)
{
    (void)state;
    struct st_err e;
    struct st_buf b = {0};
    struct st_worker_head h;
    frame(ST_WORKER_HINT, &b);
    uint8_t p[ST_WORKER_HEAD];
#define HEAD(at, value) (memcpy(p, b.p, sizeof p), p[at] = (value), st_worker_head_parse(p, 100, &h, &e))
    for (int i = 0; i < 8; i++)
        assert_int_equal(HEAD(i, 'x'), ST_INPUT);
    assert_string_equal(e.msg, "not a frame of the worker protocol");
    assert_int_equal(HEAD(8, 2), ST_UNSUPPORTED);
    assert_string_equal(e.msg, "worker protocol version 2; this side has 1");
    assert_int_equal(HEAD(12, 0), ST_INPUT);
    assert_int_equal(HEAD(12, ST_WORKER_ADMITTED), 0);
    assert_int_equal(HEAD(12, ST_WORKER_TYPES), ST_INPUT);
    assert_string_equal(e.msg, "frame of unknown type 12");
    assert_int_equal(HEAD(24, 100), 0);
    assert_int_equal(HEAD(24, 101), ST_INPUT);
    assert_string_equal(e.msg, "oversized frame: 101 bytes, at most 100");
    assert_int_equal(HEAD(31, 255), ST_INPUT);
    st_buf_free(&b);
}

static void every_payload_cut_short_or_too_long_is_refused(void **state)
{
    (void)state;
    struct st_err e;
    struct st_buf b = {0};
    struct exact x = {0};
    for (int t = ST_WORKER_HELLO; t < ST_WORKER_TYPES; t++) {
        frame((enum st_worker_type)t, &b);
        const char *p = b.p + ST_WORKER_HEAD;
        size_t len = b.len - ST_WORKER_HEAD;
        if (t == ST_WORKER_EVIDENCE) /* what is in it is read elsewhere */
            continue;
        assert_int_equal(parse((enum st_worker_type)t, exact(&x, p, len), &e), 0);
        for (size_t cut = 0; cut < len; cut++) {
            /* Rows and values have no length of their own: a whole row less is another valid payload. */
            bool rows = (t == ST_WORKER_MULTIPLY && cut == 24 + 16) || (t == ST_WORKER_MULTIPLY && cut == 24 + 8) ||
                        (t == ST_WORKER_PRODUCT && cut == 16 + 12);
            int rc = parse((enum st_worker_type)t, exact(&x, p, cut), &e);
            assert_int_equal(rc, rows ? 0 : ST_INPUT);
        }
        st_buf_add(&b, "", 1);
        assert_int_equal(parse((enum st_worker_type)t, exact(&x, b.p + ST_WORKER_HEAD, len + 1), &e), ST_INPUT);
    }
    free(x.p);
    st_buf_free(&b);
}

/* All 32-bit words of a payload set to the values that lengths and counts go wrong with: no crash, no read outside, no
 * code but 0 and INPUT. */
static void hostile_numbers_at_any_place_are_read_within_the_frame(void **state)
{
    (void)state;
    static const uint32_t bad[] = {0, 1, 16, 17, 255, 256, 65536, 1u << 20, INT32_MAX, 1u << 31, UINT32_MAX};
    struct st_err e;
    struct st_buf b = {0};
    struct exact x = {0};
    for (int t = ST_WORKER_HELLO; t < ST_WORKER_TYPES; t++)
        for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
            frame((enum st_worker_type)t, &b);
            size_t len = b.len - ST_WORKER_HEAD;
            for (size_t at = 0; at + 4 <= len; at++) {
                struct st_span p = exact(&x, b.p + ST_WORKER_HEAD, len);
                memcpy(x.p + at, &bad[i], 4);
                int rc = parse((enum st_worker_type)t, p, &e);
                assert_true(rc == 0 || rc == ST_INPUT);
            }
        }
    free(x.p);
    st_buf_free(&b);
}

static void fields_out_of_range_are_named(void **state)
{
    (void)state;
    static const struct {
        enum st_worker_type type;
        size_t at;
        uint32_t value;
        const char *says;
    } table[] = {
        {ST_WORKER_HELLO, 32, 1, "HELLO reserved"},
        {ST_WORKER_WELCOME, 32, 0, "WELCOME max rows"},
        {ST_WORKER_WELCOME, 44, 1, "WELCOME max payload"}, /* the upper half of the number */
        {ST_WORKER_WELCOME, 48, 64, "WELCOME parameter set"},
        {ST_WORKER_WELCOME, 52, 0x2d65770a, "WELCOME parameter set: has a character that is no printable ASCII"},
        {ST_WORKER_WELCOME, 65, 0, "WELCOME number of weights"},
        {ST_WORKER_WELCOME, 65, 1u << 20, "WELCOME number of weights: 1048576 in"},
        {ST_WORKER_WELCOME, 65, UINT32_MAX, "WELCOME number of weights"},
        {ST_WORKER_WELCOME, 69, 0, "WELCOME weight name: is empty"},
        {ST_WORKER_WELCOME, 69, 160, "WELCOME weight name"},
        {ST_WORKER_WELCOME, 106, 0, "WELCOME n_out"},
        {ST_WORKER_WELCOME, 110, 1u << 31, "WELCOME n_in"},
        {ST_WORKER_WELCOME, 114, 2, "WELCOME is expert"},
        {ST_WORKER_MULTIPLY, 0, 3, "MULTIPLY format"},
        {ST_WORKER_MULTIPLY, 4, 0, "MULTIPLY rows"},
        {ST_WORKER_MULTIPLY, 4, 5, "MULTIPLY rows: want 5 rows"},
        {ST_WORKER_MULTIPLY, 8, 0, "MULTIPLY number of weights"},
        {ST_WORKER_MULTIPLY, 8, 17, "MULTIPLY number of weights"},
        {ST_WORKER_MULTIPLY, 12, 1u << 20, "MULTIPLY weight"},
        {ST_WORKER_PAIR, 0, 0, "PAIR rows of the first matrix"},
        {ST_WORKER_PAIR, 0, 2049, "PAIR rows of the first matrix: want 1..2048"},
        {ST_WORKER_PAIR, 4, 2049, "PAIR rows of the second matrix: want 1..2048"},
        {ST_WORKER_PAIR, 8, 1025, "PAIR values of a row: want 1..1024"},
        {ST_WORKER_PAIR, 8, 3, "PAIR: want 36 bytes of rows, got 24"},
        {ST_WORKER_PRODUCT, 4, 4, "PRODUCT values"},
        {ST_WORKER_PRODUCT, 8, 0, "PRODUCT number of weights"},
        {ST_WORKER_HINT, 8, 0, "HINT columns"},
        {ST_WORKER_COLUMNS, 8, 2, "COLUMNS: want 32 bytes for 2 columns, got 16"},
        {ST_WORKER_COLUMNS, 8, INT32_MAX, "COLUMNS: want"},
        {ST_WORKER_FAILURE, 0, 0, "FAILURE code"},
        {ST_WORKER_FAILURE, 0, 9, "FAILURE code"},
        {ST_WORKER_FAILURE, 4, 256, "FAILURE text"},
    };
    struct st_err e;
    struct st_buf b = {0};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        frame(table[i].type, &b);
        uint8_t *p = (uint8_t *)b.p + ST_WORKER_HEAD;
        memcpy(p + table[i].at, &table[i].value, 4);
        assert_int_equal(parse(table[i].type, (struct st_span){p, b.len - ST_WORKER_HEAD}, &e), ST_INPUT);
        if (strncmp(e.msg, table[i].says, strlen(table[i].says)) != 0)
            fail_msg("row %zu: '%s'", i, e.msg);
    }
    st_buf_free(&b);
}

static void evidence_has_a_length_within_its_limit(void **state)
{
    (void)state;
    struct st_err e;
    uint8_t *p = calloc(1, ST_WORKER_MAX_EVIDENCE + 1);
    assert_non_null(p);
    assert_int_equal(st_worker_evidence_parse((struct st_span){p, 0}, &e), ST_INPUT);
    assert_int_equal(st_worker_evidence_parse((struct st_span){p, 1}, &e), 0);
    assert_int_equal(st_worker_evidence_parse((struct st_span){p, ST_WORKER_MAX_EVIDENCE}, &e), 0);
    assert_int_equal(st_worker_evidence_parse((struct st_span){p, ST_WORKER_MAX_EVIDENCE + 1}, &e), ST_INPUT);
    assert_string_equal(e.msg, "EVIDENCE: want 1..1048576 bytes, got 1048577");
    free(p);
}

static void failure_texts_and_codes_are_kept_within_their_limits(void **state)
{
    (void)state;
    struct st_err e;
    struct st_buf b = {0};
    struct st_worker_failure f;
    char text[600];
    memset(text, 'a', sizeof text - 1);
    text[sizeof text - 1] = 0;
    st_worker_failure_add(&b, 1, 99, text);
    assert_int_equal(st_worker_failure_parse(
                         (struct st_span){(const uint8_t *)b.p + ST_WORKER_HEAD, b.len - ST_WORKER_HEAD}, &f, &e),
                     0);
    assert_int_equal(f.code, ST_INTERNAL);
    assert_int_equal(strlen(f.text), 255);
    st_buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_frame_is_read_back_as_written),
        cmocka_unit_test(a_head_says_type_id_and_the_length_that_follows),
        cmocka_unit_test(foreign_versions_types_and_sizes_are_refused_by_name),
        cmocka_unit_test(every_payload_cut_short_or_too_long_is_refused),
        cmocka_unit_test(hostile_numbers_at_any_place_are_read_within_the_frame),
        cmocka_unit_test(fields_out_of_range_are_named),
        cmocka_unit_test(evidence_has_a_length_within_its_limit),
        cmocka_unit_test(failure_texts_and_codes_are_kept_within_their_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
