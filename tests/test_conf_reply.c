/* What a client sees of a sealed reply: filler gone, whole events only, wherever the pieces are cut. */
#include "expect.h"

#include "service/conf_reply.h"

static void expect_at_every_cut(enum st_conf_reply_kind kind, const char *in, const char *whole, const char *out)
{
    size_t len = strlen(in);
    for (size_t i = 0; i <= len; i++)
        for (size_t j = i; j <= len; j++) {
            struct st_conf_reply r = {.kind = kind};
            struct st_buf got = {0};
            st_conf_reply_feed(&r, in, i, &got);
            st_conf_reply_feed(&r, in + i, j - i, &got);
            st_conf_reply_feed(&r, in + j, len - j, &got);
            st_buf_add(&got, "", 0);
            if (got.failed || strcmp(got.p, whole) != 0)
                fail_msg("cut at %zu and %zu: '%s', want '%s'", i, j, got.p, whole);
            st_conf_reply_end(&r, &got);
            if (strcmp(got.p, out) != 0)
                fail_msg("cut at %zu and %zu: '%s' in the end, want '%s'", i, j, got.p, out);
            st_conf_reply_wipe(&r);
            st_buf_free(&got);
        }
}

static void events_come_whole_and_without_filler(void **state)
{
    (void)state;
    expect_at_every_cut(ST_CONF_REPLY_EVENTS, "\n\n\ndata: 1\n\n\n\n\ndata: 2\ndata: 3\n\n\ndata: [DONE]\n\n\n\n",
                        "data: 1\n\ndata: 2\ndata: 3\n\ndata: [DONE]\n\n",
                        "data: 1\n\ndata: 2\ndata: 3\n\ndata: [DONE]\n\n");
    expect_at_every_cut(ST_CONF_REPLY_EVENTS, "data: 1\n\n\ndata: brok", "data: 1\n\n", "data: 1\n\ndata: brok");
}

static void events_with_carriage_returns_end_all_the_same(void **state)
{
    (void)state;
    static const char in[] = "data: 1\r\n\r\n\n\n\ndata: 2\r\n\r\n\n", out[] = "data: 1\r\n\r\ndata: 2\r\n\r\n";
    struct st_conf_reply r = {.kind = ST_CONF_REPLY_EVENTS};
    struct st_buf got = {0};
    st_conf_reply_feed(&r, in, sizeof in - 1, &got);
    st_buf_add(&got, "", 0);
    assert_string_equal(got.p, out);
    st_conf_reply_wipe(&r);
    st_buf_free(&got);
}

static void json_loses_line_feeds_only(void **state)
{
    (void)state;
    expect_at_every_cut(ST_CONF_REPLY_JSON, "\n\n{\"a\": \"b\\nc\",\n \"d\": 1}\n\n\n", "{\"a\": \"b\\nc\", \"d\": 1}",
                        "{\"a\": \"b\\nc\", \"d\": 1}");
    expect_at_every_cut(ST_CONF_REPLY_OTHER, "\na\n\n", "\na\n\n", "\na\n\n");
}

static void an_event_without_end_is_passed_on_in_pieces(void **state)
{
    (void)state;
    struct st_conf_reply r = {.kind = ST_CONF_REPLY_EVENTS};
    struct st_buf got = {0};
    char piece[65536];
    memset(piece, 'x', sizeof piece);
    for (size_t n = 0; n < 3 * ST_CONF_MAX_EVENT; n += sizeof piece) {
        st_conf_reply_feed(&r, piece, sizeof piece, &got);
        assert_true(r.event.len <= ST_CONF_MAX_EVENT + sizeof piece);
    }
    assert_true(got.len >= 2 * ST_CONF_MAX_EVENT);
    st_conf_reply_wipe(&r);
    st_buf_free(&got);
}

static void kinds_are_told_by_the_type(void **state)
{
    (void)state;
    assert_int_equal(st_conf_reply_kind("text/event-stream; charset=utf-8"), ST_CONF_REPLY_EVENTS);
    assert_int_equal(st_conf_reply_kind("Application/JSON"), ST_CONF_REPLY_JSON);
    assert_int_equal(st_conf_reply_kind("application/jsonl"), ST_CONF_REPLY_OTHER);
    assert_int_equal(st_conf_reply_kind(""), ST_CONF_REPLY_OTHER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_come_whole_and_without_filler),
        cmocka_unit_test(events_with_carriage_returns_end_all_the_same),
        cmocka_unit_test(json_loses_line_feeds_only),
        cmocka_unit_test(an_event_without_end_is_passed_on_in_pieces),
        cmocka_unit_test(kinds_are_told_by_the_type),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
