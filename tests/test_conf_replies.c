/* Replies to the client's side of the confidential protection: what does not verify is none; another node is tried
 * before the first byte of an answer, never after; clients that leave or read slowly. */
#include "expect.h"

#include "conf_rig.h"

/* ---- replies ---- */

static void a_reply_that_does_not_verify_is_none(void **state)
{
    (void)state;
    static const struct {
        enum far_wrong wrong;
        const char *body;
        enum st_passage_fault fault;
        const char *says;
        int n_request; /* that reached nodes */
    } rows[] = {
        {FAR_FLIP_OUTER, WHOLE, ST_FAULT_INTEGRITY, "does not open", 1},
        {FAR_FLIP_INNER, WHOLE, ST_FAULT_INTEGRITY, "does not open", 1},
        {FAR_FLIP_INNER, STREAM, ST_FAULT_INTEGRITY, "does not open", 1},
        {FAR_CUT, STREAM, ST_FAULT_INTEGRITY, "does not open", 1},
        {FAR_NO_RECEIPT, WHOLE, ST_FAULT_INTEGRITY, "without a receipt", 1},
        {FAR_NO_RECEIPT, STREAM, ST_FAULT_INTEGRITY, "without a receipt", 1},
        {FAR_RECEIPT_KEY, WHOLE, ST_FAULT_INTEGRITY, "receipt: it is for another key", 1},
        {FAR_RECEIPT_REPLY, STREAM, ST_FAULT_INTEGRITY, "receipt: it is for another reply", 1},
        {FAR_DEPOSIT, STREAM, ST_FAULT_POLICY, "costs more than its token", 1},
        {FAR_402, WHOLE, ST_FAULT_POLICY, "does not take the token: spent", 0},
    };
    struct rig r;
    struct trip t = {0};
    rig_open(&r, 4);
    r.far.n_event = 20;
    client_open(&r);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        r.far.wrong = FAR_RIGHT;
        wait_state(&r, "ok");
        r.far.wrong = rows[i].wrong;
        int before = r.far.n_request;
        uint64_t failures = look(&r).verification_failures;
        ask(&r, &t, rows[i].body);
        expect_fault(&t, rows[i].fault, rows[i].says);
        assert_int_equal(r.far.n_request - before, rows[i].n_request);
        assert_int_equal(look(&r).verification_failures > failures, rows[i].fault == ST_FAULT_INTEGRITY);
        if (t.reply.len && strstr(rows[i].body, "stream")) /* whole events only */
            assert_memory_equal(t.reply.p + t.reply.len - 2, "\n\n", 2);
    }
    st_buf_free(&t.reply);
    rig_close(&r);
}

static void another_node_is_tried_before_the_first_byte(void **state)
{
    (void)state;
    static const enum far_wrong rows[] = {FAR_502, FAR_ENGINE_503};
    struct rig r;
    struct trip t = {0};
    rig_open(&r, 3);
    client_open(&r);
    wait_state(&r, "ok");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint64_t tries = look(&r).retries, seen = r.far.n_seen;
        r.far.wrong = rows[i];
        r.far.wrong_left = 2;
        ask(&r, &t, STREAM);
        assert_ok(t.err.code, &t.err);
        assert_int_equal(t.status, 200);
        assert_int_equal(look(&r).retries - tries, 2);
        assert_int_equal(r.far.n_seen - seen, 3); /* a token for each, and change */
        expect_units(&r, 0);
    }
    r.far.wrong = FAR_502; /* all of them: in the end it says so */
    r.far.wrong_left = -1;
    ask(&r, &t, WHOLE);
    expect_fault(&t, ST_FAULT_NETWORK, "status 502: node");
    int reached[3] = {r.far.node[0].n_request, r.far.node[1].n_request, r.far.node[2].n_request};
    r.far.wrong = FAR_502; /* one that is gone is passed by, with each of the others */
    r.far.wrong_node = 0;
    for (int i = 0; i < 12; i++) {
        ask(&r, &t, WHOLE);
        assert_ok(t.err.code, &t.err);
    }
    assert_int_equal(r.far.node[0].n_request, reached[0]);
    st_buf_free(&t.reply);
    rig_close(&r);
}

static void one_token_is_lost_at_most(void **state)
{
    (void)state;
    struct rig r;
    struct trip t = {0};
    rig_open(&r, 3);
    client_open(&r);
    wait_state(&r, "ok");
    uint64_t tries = look(&r).retries;
    r.far.wrong = FAR_REFUSE_400; /* who knows what became of it */
    r.far.wrong_left = 1;
    int sent = r.far.n_message;
    ask(&r, &t, STREAM);
    expect_fault(&t, ST_FAULT_NETWORK, "its key may have changed");
    assert_int_equal(r.far.n_message, sent + 1);
    assert_int_equal(look(&r).retries, tries);
    ask(&r, &t, STREAM);
    assert_ok(t.err.code, &t.err);
    st_buf_free(&t.reply);
    rig_close(&r);
}

static void after_the_first_byte_nothing_is_tried_again(void **state)
{
    (void)state;
    struct rig r;
    struct trip t = {0};
    rig_open(&r, 3);
    r.far.n_event = 40;
    client_open(&r);
    wait_state(&r, "ok");
    uint64_t tries = look(&r).retries;
    r.far.wrong = FAR_BREAK;
    ask(&r, &t, STREAM);
    expect_fault(&t, ST_FAULT_NETWORK, "relay");
    assert_true(t.reply.len > 0);
    assert_int_equal(r.far.n_request, 1);
    assert_int_equal(look(&r).retries, tries);
    st_buf_free(&t.reply);
    rig_close(&r);
}

static void a_far_side_that_says_nothing_is_given_up(void **state)
{
    (void)state;
    struct rig r;
    struct trip t = {0};
    rig_open(&r, 1);
    r.o.stall_s = 1;
    r.o.n_retry = 0;
    client_open(&r);
    wait_state(&r, "ok");
    r.far.wrong = FAR_SILENT;
    ask(&r, &t, WHOLE);
    expect_fault(&t, ST_FAULT_NETWORK, "relay");
    r.far.wrong = FAR_NOT_SEALED;
    ask(&r, &t, WHOLE);
    expect_fault(&t, ST_FAULT_NETWORK, "no sealed message");
    rig_close(&r);
}

static void a_token_that_did_not_leave_is_not_lost(void **state)
{
    (void)state;
    struct rig r;
    struct trip t = {0};
    rig_open(&r, 1);
    client_open(&r);
    wait_state(&r, "ok");
    free(r.at.p->way.relay);
    r.at.p->way.relay = strdup("http://127.0.0.1:1"); /* nobody there */
    ask(&r, &t, WHOLE);
    expect_fault(&t, ST_FAULT_NETWORK, "relay");
    expect_units(&r, 0);
    assert_int_equal(r.far.n_request, 0);
    rig_close(&r);
}

static void change_that_is_no_signature_costs_money_but_no_reply(void **state)
{
    (void)state;
    struct rig r;
    struct trip t = {0};
    rig_open(&r, 1);
    client_open(&r);
    wait_state(&r, "ok");
    r.far.wrong = FAR_BAD_CHANGE;
    ask(&r, &t, WHOLE);
    assert_ok(t.err.code, &t.err);
    assert_true(r.far.spent > r.far.charged);
    st_buf_free(&t.reply);
    rig_close(&r);
}

/* ---- clients ---- */

static void a_client_that_leaves_ends_the_exchange(void **state)
{
    (void)state;
    struct rig r;
    struct trip t = {0};
    rig_open(&r, 1);
    client_open(&r);
    wait_state(&r, "ok");
    r.far.n_event = 200;
    r.far.step = 600;
    begin(&r, &t, STREAM, "me");
    for (double until = st_now() + 8; t.reply.len == 0 && st_now() < until;)
        turn(&r);
    assert_true(t.reply.len > 0);
    assert_false(t.ended);
    r.at.vt->cancel(r.at.p, t.handle);
    for (double until = st_now() + 8; r.far.n_gone == 0 && st_now() < until;)
        turn(&r);
    assert_int_equal(r.far.n_gone, 1);
    assert_false(t.ended);
    assert_int_equal(look(&r).n_running, 0);
    st_buf_free(&t.reply);
    rig_close(&r);
}

static void a_slow_client_stops_the_stream(void **state)
{
    (void)state;
    struct rig r;
    struct trip t = {0};
    rig_open(&r, 1);
    client_open(&r);
    wait_state(&r, "ok");
    r.far.n_event = 4000; /* more than sockets hold */
    r.far.event_len = 2000;
    r.far.step = 1 << 20;
    begin(&r, &t, STREAM, "me");
    for (double until = st_now() + 8; t.reply.len == 0 && st_now() < until;)
        turn(&r);
    r.at.vt->pause(r.at.p, t.handle, true);
    for (int i = 0; i < 3; i++)
        turn(&r);
    size_t held = t.reply.len;
    for (int i = 0; i < 10; i++)
        turn(&r);
    assert_int_equal(t.reply.len, held);
    assert_false(t.ended);
    r.at.vt->pause(r.at.p, t.handle, false);
    finish(&r, &t);
    assert_ok(t.err.code, &t.err);
    assert_true(t.reply.len > 4000 * 2000);
    st_buf_free(&t.reply);
    rig_close(&r);
}

static void a_body_that_does_not_fit_is_refused_here(void **state)
{
    (void)state;
    struct rig r;
    struct trip t = {0};
    struct st_buf body = {0};
    rig_open(&r, 1);
    client_open(&r);
    wait_state(&r, "ok");
    int sent = r.far.n_message;
    st_buf_add_str(&body, "{\"messages\":[],\"x\":\"");
    while (body.len < ST_CONF_MAX_BODY)
        st_buf_add_str(&body, "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy");
    st_buf_add_str(&body, "\"}");
    ask(&r, &t, body.p);
    expect_refusal(t.err.code, &t.err, ST_INPUT, "can be sealed");
    assert_int_equal(r.far.n_message, sent);
    st_buf_free(&body);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_reply_that_does_not_verify_is_none),
        cmocka_unit_test(another_node_is_tried_before_the_first_byte),
        cmocka_unit_test(one_token_is_lost_at_most),
        cmocka_unit_test(after_the_first_byte_nothing_is_tried_again),
        cmocka_unit_test(a_far_side_that_says_nothing_is_given_up),
        cmocka_unit_test(a_token_that_did_not_leave_is_not_lost),
        cmocka_unit_test(change_that_is_no_signature_costs_money_but_no_reply),
        cmocka_unit_test(a_client_that_leaves_ends_the_exchange),
        cmocka_unit_test(a_slow_client_stops_the_stream),
        cmocka_unit_test(a_body_that_does_not_fit_is_refused_here),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    far_forget();
    return rc;
}
