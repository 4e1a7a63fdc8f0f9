/* Binary HTTP: the examples of RFC 9292, round trips in pieces of every size, every truncation, and hostile messages.
 */
#include "base/hooks.h"
#include "channel/bhttp.h"
#include "mutate.h"
#include "vectors.h"

static const struct st_bhttp_limits limits = {
    .head = 4096, .n_fields = 20, .n_interim = 4, .content = 100000, .padding = 1 << 20};

#define SPAN(s)                                                                                                        \
    (struct st_span)                                                                                                   \
    {                                                                                                                  \
        (const uint8_t *)(s), sizeof(s) - 1                                                                            \
    }
#define NO_FIELDS ((struct st_bhttp_fields){0})

static void assert_span(struct st_span s, const char *want)
{
    assert_int_equal(s.len, strlen(want));
    assert_memory_equal(s.p, want, s.len);
}

static void assert_field(struct st_bhttp_fields f, size_t i, const char *name, const char *value)
{
    assert_true(i < f.n);
    assert_span(f.p[i].name, name);
    assert_span(f.p[i].value, value);
}

/* Reads a whole message in pieces of `step`; content is appended. The caller wipes the reader. */
static int read_in(struct st_bhttp_reader *r, enum st_bhttp_kind kind, const void *p, size_t len, size_t step,
                   struct st_buf *content, struct st_err *e)
{
    int rc = st_bhttp_reader_init(r, kind, &limits, e);
    for (size_t at = 0; !rc && at < len; at += step) {
        size_t n = len - at < step ? len - at : step;
        uint8_t *exact = malloc(n); /* so that a sanitizer sees a read behind it */
        memcpy(exact, (const uint8_t *)p + at, n);
        struct st_span in = {exact, n}, piece;
        while (!rc && in.len && !(rc = st_bhttp_read(r, &in, &piece, e)))
            st_buf_add(content, piece.p, piece.len);
        free(exact);
    }
    return rc ? rc : st_bhttp_read_end(r, e);
}

static void expect_bad(enum st_bhttp_kind kind, const void *p, size_t len, const char *says)
{
    struct st_err e;
    struct st_bhttp_reader r;
    struct st_buf content = {0};
    expect_refusal(read_in(&r, kind, p, len, len ? len : 1, &content, &e), &e, ST_INPUT, says);
    st_bhttp_reader_wipe(&r);
    st_buf_free(&content);
}

#define BAD_REQUEST(bytes, says) expect_bad(ST_BHTTP_REQUEST, bytes, sizeof(bytes) - 1, says)
#define BAD_RESPONSE(bytes, says) expect_bad(ST_BHTTP_RESPONSE, bytes, sizeof(bytes) - 1, says)

/* Section 5.1 of RFC 9292, of known and of indeterminate length (the second with 10 bytes of padding). */
static const char known_request[] = "00034745540568747470730" /* framing, GET, https */
                                    "00a2f68656c6c6f2e747874406c0a757365722d6167656e74346375726c2f372e31362e33206c69626"
                                    "375726c2f372e31362e33204f70656e53"
                                    "534c2f302e392e376c207a6c69622f312e322e3304686f73740f7777772e6578616d706c652e636f6d"
                                    "0f6163636570742d6c616e677561676506"
                                    "656e2c206d690000";
static const char open_request[] = "02034745540568747470730"
                                   "00a2f68656c6c6f2e7478740a757365722d6167656e74346375726c2f372e31362e33206c6962637572"
                                   "6c2f372e31362e33204f70656e53534c"
                                   "2f302e392e376c207a6c69622f312e322e3304686f73740f7777772e6578616d706c652e636f6d0f616"
                                   "3636570742d6c616e677561676506656e"
                                   "2c206d6900000000000000000000000000";
/* Section 5.2: two informational responses, then one of indeterminate length; and one of known length with a trailer.
 */
static const char open_response[] =
    "0340660772756e6e696e670a22736c6565702031352200406704"
    "6c696e6b233c2f7374796c652e6373733e3b2072656c3d7072656c6f61643b2061733d7374796c65046c696e6b243c2f7363726970742e6a73"
    "3e3b2072656c3d7072656c6f61643b2061733d7363726970740040c804646174651d4d6f6e2c203237204a756c20323030392031323a32383a"
    "353320474d540673657276657206417061636865"
    "0d6c6173742d6d6f6469666965641d5765642c203232204a756c20323030392031393a31353a353620474d5404657461671422333461613338"
    "37"
    "2d642d3135363865623030220d6163636570742d72616e6765730562797465730e636f6e74656e742d6c656e67746802353104766172790f41"
    "63"
    "636570742d456e636f64696e670c636f6e74656e742d747970650a746578742f706c61696e003348656c6c6f20576f726c6421204d7920636f"
    "6e"
    "74656e7420696e636c756465732061207472"
    "61696c696e672043524c462e0d0a0000";
static const char known_response[] =
    "0140c8001d5468697320636f6e74656e7420636f6e7461696e732043524c462e0d0a0d07747261696c"
    "65720474657874";

static void the_requests_of_rfc_9292_are_read_however_they_are_cut(void **state)
{
    (void)state;
    const char *const both[] = {known_request, open_request};
    for (int i = 0; i < 2; i++) {
        struct bytes b = bytes_hex(both[i]);
        for (size_t step = 1; step <= b.len; step++) {
            struct st_err e;
            struct st_bhttp_reader r;
            struct st_buf content = {0};
            struct st_span host;
            assert_ok(read_in(&r, ST_BHTTP_REQUEST, b.p, b.len, step, &content, &e), &e);
            const struct st_bhttp_head *h = st_bhttp_head(&r);
            assert_non_null(h);
            assert_span(h->method, "GET");
            assert_span(h->scheme, "https");
            assert_span(h->authority, "");
            assert_span(h->path, "/hello.txt");
            assert_int_equal(h->fields.n, 3);
            assert_field(h->fields, 0, "user-agent", "curl/7.16.3 libcurl/7.16.3 OpenSSL/0.9.7l zlib/1.2.3");
            assert_field(h->fields, 2, "accept-language", "en, mi");
            assert_true(st_bhttp_find(h->fields, "host", &host));
            assert_span(host, "www.example.com");
            assert_false(st_bhttp_find(h->fields, "hos", &host));
            assert_int_equal(content.len, 0);
            assert_int_equal(st_bhttp_trailers(&r).n, 0);
            st_bhttp_reader_wipe(&r);
            st_buf_free(&content);
        }
    }
}

static void the_responses_of_rfc_9292_are_read_however_they_are_cut(void **state)
{
    (void)state;
    struct bytes a = bytes_hex(open_response), b = bytes_hex(known_response);
    for (size_t step = 1; step <= a.len; step++) {
        struct st_err e;
        struct st_bhttp_reader r;
        struct st_buf content = {0};
        assert_ok(read_in(&r, ST_BHTTP_RESPONSE, a.p, a.len, step, &content, &e), &e);
        assert_int_equal(st_bhttp_head(&r)->status, 200);
        assert_int_equal(st_bhttp_head(&r)->fields.n, 8);
        assert_field(st_bhttp_head(&r)->fields, 7, "content-type", "text/plain");
        assert_string_equal(content.p, "Hello World! My content includes a trailing CRLF.\r\n");
        st_bhttp_reader_wipe(&r);
        st_buf_free(&content);
        assert_ok(read_in(&r, ST_BHTTP_RESPONSE, b.p, b.len, step, &content, &e), &e);
        assert_string_equal(content.p, "This content contains CRLF.\r\n");
        assert_int_equal(st_bhttp_trailers(&r).n, 1);
        assert_field(st_bhttp_trailers(&r), 0, "trailer", "text");
        st_bhttp_reader_wipe(&r);
        st_buf_free(&content);
    }
}

static void the_examples_are_written_as_rfc_9292_has_them(void **state)
{
    (void)state;
    struct st_err e;
    const struct st_bhttp_field fields[] = {
        {SPAN("user-agent"), SPAN("curl/7.16.3 libcurl/7.16.3 OpenSSL/0.9.7l zlib/1.2.3")},
        {SPAN("host"), SPAN("www.example.com")},
        {SPAN("accept-language"), SPAN("en, mi")}};
    const struct st_bhttp_field trailer = {SPAN("trailer"), SPAN("text")};
    struct st_bhttp_head h = {
        .method = SPAN("GET"), .scheme = SPAN("https"), .path = SPAN("/hello.txt"), .fields = {fields, 3}};
    struct st_buf b = {0};
    assert_ok(st_bhttp_write(&b, ST_BHTTP_REQUEST, &h, (struct st_span){0}, NO_FIELDS, &e), &e);
    assert_bytes(b.p, b.len, bytes_hex(known_request));
    st_buf_clear(&b);
    assert_ok(st_bhttp_begin(&b, ST_BHTTP_REQUEST, &h, &e), &e);
    assert_ok(st_bhttp_end(&b, NO_FIELDS, &e), &e);
    st_bhttp_pad(&b, 0, b.len + 10);
    assert_bytes(b.p, b.len, bytes_hex(open_request));
    st_buf_clear(&b);
    struct st_bhttp_head response = {.status = 200};
    assert_ok(st_bhttp_write(&b, ST_BHTTP_RESPONSE, &response, SPAN("This content contains CRLF.\r\n"),
                             (struct st_bhttp_fields){&trailer, 1}, &e),
              &e);
    assert_bytes(b.p, b.len, bytes_hex(known_response));
    st_buf_free(&b);
}

/* Of a request without content or trailers, all that follows the control data may be missing, part by part. */
static void every_truncation_is_refused_but_those_that_mean_the_same(void **state)
{
    (void)state;
    struct bytes request = bytes_hex(known_request), open = bytes_hex(open_request);
    struct bytes response = bytes_hex(open_response), known = bytes_hex(known_response);
    const struct {
        enum st_bhttp_kind kind;
        const struct bytes *b;
        size_t same[16]; /* lengths at which a message is complete, 0 ends */
    } all[] = {
        /* After the control data: the header section may be missing as well (RFC 9458's own example). */
        {ST_BHTTP_REQUEST, &request, {23, request.len - 2, request.len - 1}},
        {ST_BHTTP_REQUEST,
         &open,
         {23, open.len - 12, open.len - 11, open.len - 10, open.len - 9, open.len - 8, open.len - 7, open.len - 6,
          open.len - 5, open.len - 4, open.len - 3, open.len - 2, open.len - 1}},
        {ST_BHTTP_RESPONSE, &response, {response.len - 1}},
        {ST_BHTTP_RESPONSE, &known, {3, 4, known.len - 13 - 1}},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        for (size_t len = 0; len < all[i].b->len; len++) {
            struct st_err e;
            struct st_bhttp_reader r;
            struct st_buf content = {0};
            bool same = false;
            for (size_t j = 0; all[i].same[j]; j++)
                same |= all[i].same[j] == len;
            /* The status and the end of the headers of the informational responses and the head of the final one. */
            int rc = read_in(&r, all[i].kind, all[i].b->p, len, len ? len : 1, &content, &e);
            if (i == 2 && rc == 0 && st_bhttp_head(&r)->fields.n == 0 && len < 200)
                same = true; /* right behind "200", before its header section */
            if (i == 2 && rc == 0 && content.len == 0 && st_bhttp_head(&r)->fields.n == 8)
                same = true; /* right behind the header section */
            if (same)
                assert_ok(rc, &e);
            else
                expect_refusal(rc, &e, ST_INPUT, "cut short");
            st_bhttp_reader_wipe(&r);
            st_buf_free(&content);
        }
}

static void a_stream_of_pieces_and_filler_comes_back_as_its_content(void **state)
{
    (void)state;
    struct st_err e;
    const struct st_bhttp_field type = {SPAN("content-type"), SPAN("text/event-stream")};
    const struct st_bhttp_field trailer = {SPAN("sotto-receipt"), SPAN("00")};
    struct st_bhttp_head h = {.status = 200, .fields = {&type, 1}};
    for (size_t total = 2; total < 20000; total += total < 200 ? 1 : 977) {
        struct st_buf b = {0}, content = {0};
        struct st_bhttp_reader r;
        assert_ok(st_bhttp_begin(&b, ST_BHTTP_RESPONSE, &h, &e), &e);
        st_bhttp_add_content(&b, "data: x\n\n", 9);
        st_bhttp_add_content(&b, NULL, 0);
        size_t before = b.len;
        st_bhttp_add_filler(&b, total);
        assert_int_equal(b.len - before, total);
        assert_ok(st_bhttp_end(&b, (struct st_bhttp_fields){&trailer, 1}, &e), &e);
        st_bhttp_pad(&b, 0, st_bhttp_bucket(b.len));
        assert_int_equal(b.len, st_bhttp_bucket(b.len));
        assert_ok(read_in(&r, ST_BHTTP_RESPONSE, b.p, b.len, 1000, &content, &e), &e);
        assert_memory_equal(content.p, "data: x\n\n\n", 10);
        assert_int_equal(strspn(content.p + 9, "\n"), content.len - 9);
        assert_field(st_bhttp_trailers(&r), 0, "sotto-receipt", "00");
        st_bhttp_reader_wipe(&r);
        st_buf_free(&b);
        st_buf_free(&content);
    }
}

static void lengths_fall_into_buckets(void **state)
{
    (void)state;
    static const size_t at[][2] = {{0, 4096},
                                   {1, 4096},
                                   {4096, 4096},
                                   {4097, 8192},
                                   {100000, 131072},
                                   {1 << 20, 1 << 20},
                                   {(1 << 20) + 1, 2 << 20},
                                   {(3 << 20) - 1, 3 << 20}};
    for (size_t i = 0; i < sizeof at / sizeof *at; i++)
        assert_int_equal(st_bhttp_bucket(at[i][0]), at[i][1]);
    assert_true(st_bhttp_bucket(SIZE_MAX) == SIZE_MAX);
}

static void messages_with_a_wrong_part_are_refused_by_its_name(void **state)
{
    (void)state;
    BAD_REQUEST("\4", "framing");
    BAD_REQUEST("\1", "framing");
    BAD_RESPONSE("\0", "framing");
    BAD_RESPONSE("\300\0\0\0\0\0\0\4", "framing"); /* 4 in eight bytes */
    BAD_REQUEST("\0\0\5https\0\1/", "method");
    BAD_REQUEST("\0\3G T\5https\0\1/", "method");
    BAD_REQUEST("\0\3GET\0\0\1/", "scheme");
    BAD_REQUEST("\0\3GET\5HTTPS\0\1/", "scheme");
    BAD_REQUEST("\0\3GET\5https\3a@b\1/", "authority");
    BAD_REQUEST("\0\3GET\5https\3a\r\n\1/", "authority");
    BAD_REQUEST("\0\3GET\5https\0\0", "path");
    BAD_REQUEST("\0\3GET\5https\0\1x", "path");
    BAD_REQUEST("\0\3GET\5https\0\3/ x", "path");
    BAD_REQUEST("\0\3GET\5https\0\3/\0x", "path");
    BAD_RESPONSE("\1\100\143", "status");         /* 99 */
    BAD_RESPONSE("\1\102\130", "status");         /* 600 */
    BAD_RESPONSE("\1\100\310\2\1A\0", "section"); /* a section that ends inside its field */
    BAD_RESPONSE("\1\100\310\3\1A\0", "name");
    BAD_RESPONSE("\1\100\310\3\1 \0", "name");
    BAD_RESPONSE("\1\100\310\11\7:status\0", "name");
    BAD_RESPONSE("\1\100\310\2\0\0", "at least one byte");
    BAD_RESPONSE("\1\100\310\4\1a\1\n", "value");
    BAD_RESPONSE("\1\100\310\4\1a\1\0", "value");
    BAD_RESPONSE("\1\100\310\4\1a\1 ", "value");
    BAD_RESPONSE("\1\100\310\4\1a\2bc", "section");
    BAD_RESPONSE("\1\100\310\5\1a\1bcde", "section"); /* one byte is left for a name */
    BAD_RESPONSE("\3\100\310\1a\1b\2:x\0\0\0\0", "name");
    BAD_RESPONSE("\1\100\310\0\0\0\0\1", "padding");
    BAD_RESPONSE("\3\100\310\0\0\0\1", "padding");
    BAD_RESPONSE("\3\100\310\0\1x", "cut short"); /* content without its end */
}

static void hostile_lengths_are_refused_before_anything_is_stored(void **state)
{
    (void)state;
    BAD_REQUEST("\0\377\377\377\377\377\377\377\377", "bytes of head");
    BAD_REQUEST("\0\120\1", "bytes of head"); /* 4097 */
    BAD_RESPONSE("\1\100\310\377\377\377\377\377\377\377\377", "bytes of head");
    BAD_RESPONSE("\3\100\310\377\377\377\377\377\377\377\377", "bytes of head");
    BAD_RESPONSE("\3\100\310\1a\377\377\377\377\377\377\377\377", "bytes of head");
    BAD_RESPONSE("\1\100\310\0\377\377\377\377\377\377\377\377", "bytes of content");
    BAD_RESPONSE("\3\100\310\0\200\1\206\241", "bytes of content"); /* 100001 */
    BAD_RESPONSE("\3\100\310\0\1x\200\1\206\240", "bytes of content");
    struct st_buf b = {0};
    st_buf_add(&b, "\3\100\310", 3);
    for (int i = 0; i < 21; i++)
        st_buf_add(&b, "\1a\0", 3);
    expect_bad(ST_BHTTP_RESPONSE, b.p, b.len, "at most 20 fields");
    st_buf_clear(&b);
    st_buf_add(&b, "\3", 1);
    for (int i = 0; i < 5; i++)
        st_buf_add(&b, "\100\144\0", 3); /* 100 */
    expect_bad(ST_BHTTP_RESPONSE, b.p, b.len, "at most 4 informational");
    st_buf_clear(&b);
    st_buf_add(&b, "\1\100\310\0\0\0", 6);
    st_bhttp_pad(&b, 0, 6 + limits.padding + 1);
    expect_bad(ST_BHTTP_RESPONSE, b.p, b.len, "bytes of padding");
    st_buf_free(&b);
}

static void a_writer_refuses_what_a_reader_would(void **state)
{
    (void)state;
    struct st_err e;
    struct st_buf b = {0};
    struct st_bhttp_field f = {SPAN("Upper"), SPAN("x")};
    struct st_bhttp_head h = {.status = 200, .fields = {&f, 1}};
    expect_refusal(st_bhttp_begin(&b, ST_BHTTP_RESPONSE, &h, &e), &e, ST_INPUT, "name");
    f = (struct st_bhttp_field){SPAN("a"), SPAN("x\r\ninjected: y")};
    expect_refusal(st_bhttp_write(&b, ST_BHTTP_RESPONSE, &h, (struct st_span){0}, NO_FIELDS, &e), &e, ST_INPUT,
                   "value");
    expect_refusal(st_bhttp_end(&b, h.fields, &e), &e, ST_INPUT, "value");
    h = (struct st_bhttp_head){.status = 100};
    expect_refusal(st_bhttp_begin(&b, ST_BHTTP_RESPONSE, &h, &e), &e, ST_INPUT, "status");
    h = (struct st_bhttp_head){.method = SPAN("GET"), .scheme = SPAN("https"), .path = SPAN("no")};
    expect_refusal(st_bhttp_begin(&b, ST_BHTTP_REQUEST, &h, &e), &e, ST_INPUT, "path");
    st_buf_free(&b);
}

static void random_damage_never_depends_on_how_it_is_cut(void **state)
{
    (void)state;
    struct st_rng rng;
    const char *const all[] = {known_request, open_request, open_response, known_response};
    st_rng_seed(&rng, 5);
    for (int i = 0; i < 40000; i++) {
        struct bytes b = bytes_hex(all[i % 4]);
        enum st_bhttp_kind kind = i % 4 < 2 ? ST_BHTTP_REQUEST : ST_BHTTP_RESPONSE;
        size_t len;
        uint8_t *p = mutate(&rng, b.p, b.len, 40, &len);
        struct st_bhttp_reader whole, cut;
        struct st_buf a = {0}, c = {0};
        struct st_err e, f;
        int rc = read_in(&whole, kind, p, len, len ? len : 1, &a, &e);
        int again = read_in(&cut, kind, p, len, 1 + mutate_below(&rng, 9), &c, &f);
        assert_int_equal(rc, again);
        if (!rc) {
            assert_int_equal(a.len, c.len);
            assert_int_equal(st_bhttp_head(&whole)->fields.n, st_bhttp_head(&cut)->fields.n);
        }
        st_bhttp_reader_wipe(&whole);
        st_bhttp_reader_wipe(&cut);
        st_buf_free(&a);
        st_buf_free(&c);
        free(p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_requests_of_rfc_9292_are_read_however_they_are_cut),
        cmocka_unit_test(the_responses_of_rfc_9292_are_read_however_they_are_cut),
        cmocka_unit_test(the_examples_are_written_as_rfc_9292_has_them),
        cmocka_unit_test(every_truncation_is_refused_but_those_that_mean_the_same),
        cmocka_unit_test(a_stream_of_pieces_and_filler_comes_back_as_its_content),
        cmocka_unit_test(lengths_fall_into_buckets),
        cmocka_unit_test(messages_with_a_wrong_part_are_refused_by_its_name),
        cmocka_unit_test(hostile_lengths_are_refused_before_anything_is_stored),
        cmocka_unit_test(a_writer_refuses_what_a_reader_would),
        cmocka_unit_test(random_damage_never_depends_on_how_it_is_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
