/* The client's side of the confidential protection against a far side that goes wrong at every place in turn
 * (conf_make.h): nothing of a request leaves before everything is in order, nothing that does not verify counts as a
 * reply, and another node is tried before the first byte of an answer, never after. */
#include "expect.h"

#include "conf_make.h"
#include "service/conf_request.h"

struct trip {
    int status;
    char type[64];
    struct st_buf reply;
    bool ended;
    enum st_passage_fault fault;
    struct st_err err;
    void *handle;
};

struct rig {
    struct far far;
    struct st_passage_ref at;
    struct st_conf_client_opts o;
    char relay[64], wallet[160], state[160];
};

static void turn(struct rig *r)
{
    const struct timeval most = {0, 20000};
    event_base_loopexit(st_role_base(r->far.role), &most);
    event_base_loop(st_role_base(r->far.role), EVLOOP_ONCE);
}

static struct st_passage_info look(struct rig *r)
{
    struct st_passage_info info = {0};
    r->at.vt->info(r->at.p, false, &info);
    return info;
}

/* Until the client is ready, or says this word. */
static void wait_state(struct rig *r, const char *word)
{
    double until = st_now() + 8;
    while (st_now() < until) {
        struct st_passage_info i = look(r);
        if (strcmp(i.state, word) == 0 && (strcmp(word, "ok") != 0 || i.ready))
            return;
        turn(r);
    }
    struct st_passage_info i = look(r);
    fail_msg("want state %s, got %s: %s", word, i.state, i.why ? i.why : "");
}

static void client_open(struct rig *r)
{
    struct st_err e;
    assert_ok(st_conf_client_open(&r->o, st_role_base(r->far.role), &r->at, &e), &e);
}

static void rig_open(struct rig *r, size_t n_node)
{
    memset(r, 0, sizeof *r);
    far_open(&r->far, n_node);
    far_publish(&r->far);
    snprintf(r->wallet, sizeof r->wallet, "%s/wallet", r->far.log.dir);
    snprintf(r->state, sizeof r->state, "%s/state", r->far.log.dir);
    snprintf(r->relay, sizeof r->relay, "%s", r->far.url);
    r->o = (struct st_conf_client_opts){.policy = r->far.policy,
                                        .relay = r->relay,
                                        .issuer = r->far.url,
                                        .account_file = r->far.account,
                                        .wallet = r->wallet,
                                        .log_state = r->state,
                                        .stall_s = 20,
                                        .n_retry = 2};
}

static void client_close(struct rig *r)
{
    if (r->at.vt)
        r->at.vt->free(r->at.p);
    r->at = (struct st_passage_ref){0};
}

static void rig_close(struct rig *r)
{
    client_close(r);
    assert_false(r->far.twice);
    far_close(&r->far);
}

static void on_head(void *arg, int status, const char *type)
{
    struct trip *t = arg;
    assert_int_equal(t->status, 0);
    t->status = status;
    snprintf(t->type, sizeof t->type, "%s", type);
}

static void on_data(void *arg, const void *p, size_t len)
{
    struct trip *t = arg;
    assert_true(t->status != 0);
    st_buf_add(&t->reply, p, len);
}

static void on_end(void *arg, enum st_passage_fault fault, const struct st_err *e)
{
    struct trip *t = arg;
    assert_false(t->ended);
    t->ended = true;
    t->fault = fault;
    if (e)
        t->err = *e;
}

static const struct st_passage_events events = {on_head, on_data, on_end};

static void begin(struct rig *r, struct trip *t, const char *body, const char *client)
{
    const struct st_passage_request q = {.path = "/v1/chat/completions",
                                         .body = far_text(body),
                                         .stream = strstr(body, "\"stream\":true") != NULL,
                                         .model = FAR_MODEL,
                                         .max_tokens = 50,
                                         .n = 1,
                                         .client = client};
    st_buf_free(&t->reply);
    *t = (struct trip){0};
    struct st_err e;
    if (r->at.vt->start(r->at.p, &q, &events, t, &t->handle, &t->fault, &e)) {
        t->err = e;
        t->ended = true;
    }
}

static void finish(struct rig *r, struct trip *t)
{
    double until = st_now() + 10;
    while (!t->ended && st_now() < until)
        turn(r);
    assert_true(t->ended);
}

#define WHOLE "{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}"
#define STREAM "{\"model\":\"demo\",\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}]}"

static void ask(struct rig *r, struct trip *t, const char *body)
{
    begin(r, t, body, "me");
    finish(r, t);
}

static void expect_fault(const struct trip *t, enum st_passage_fault fault, const char *says)
{
    if (!t->err.code || t->fault != fault || !strstr(t->err.msg, says))
        fail_msg("want %s '%s', got %s %d '%s'", st_passage_fault_word(fault), says, st_passage_fault_word(t->fault),
                 t->err.code, t->err.msg);
}

/* Every unit that was bought is in the wallet or was charged; `lost` were paid for nothing. */
static void expect_units(struct rig *r, uint64_t lost)
{
    for (double until = st_now() + 5; st_now() < until; turn(r))
        if (look(r).units == r->far.issued - r->far.charged - lost)
            return;
    fail_msg("%d units: %d bought, %d charged, %d lost", (int)look(r).units, (int)r->far.issued, (int)r->far.charged,
             (int)lost);
}

/* ---- in order ---- */

static void a_request_comes_back_clean_and_paid(void **state)
{
    (void)state;
    struct rig r;
    struct trip t = {0};
    rig_open(&r, 1);
    client_open(&r);
    wait_state(&r, "ok");
    ask(&r, &t, WHOLE);
    assert_ok(t.err.code, &t.err);
    assert_int_equal(t.status, 200);
    assert_string_equal(t.type, "application/json");
    assert_string_equal(t.reply.p, "{\"answer\":42}"); /* no filler */
    assert_string_equal(r.far.body, WHOLE);
    assert_int_equal(strlen(r.far.salt), 64);
    expect_units(&r, 0);
    ask(&r, &t, STREAM);
    assert_ok(t.err.code, &t.err);
    assert_string_equal(t.type, "text/event-stream");
    assert_string_equal(t.reply.p,
                        "data: {\"k\":0,\"text\":\"xxxxxxxxxxxxxxxxxxxx\"}\n\ndata: {\"k\":1,\"text\":"
                        "\"xxxxxxxxxxxxxxxxxxxx\"}\n\ndata: {\"k\":2,\"text\":\"xxxxxxxxxxxxxxxxxxxx\"}\n\ndata: "
                        "[DONE]\n\n");
    expect_units(&r, 0);
    struct st_passage_info i = look(&r);
    assert_int_equal(i.receipts, 2);
    assert_int_equal(i.verification_failures, 0);
    assert_string_equal(i.scheme, "sim");
    assert_string_equal(i.verified, "evidence");
    assert_int_equal(i.n_model, 1);
    assert_string_equal(i.models[0], FAR_MODEL);
    st_buf_free(&t.reply);
    rig_close(&r);
}

static void salts_of_prefix_caches_follow_conversations_and_nobody_else(void **state)
{
    (void)state;
    struct rig r;
    struct trip t = {0};
    char first[80];
    rig_open(&r, 1);
    client_open(&r);
    wait_state(&r, "ok");
    ask(&r, &t, WHOLE);
    snprintf(first, sizeof first, "%s", r.far.salt);
    ask(&r, &t,
        "{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"},{\"role\":\"assistant\","
        "\"content\":\"hi\"},{\"role\":\"user\",\"content\":\"more\"}]}");
    assert_string_equal(r.far.salt, first);
    begin(&r, &t, WHOLE, "you");
    finish(&r, &t);
    assert_string_not_equal(r.far.salt, first);
    ask(&r, &t, "{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":\"other\"}]}");
    assert_string_not_equal(r.far.salt, first);
    client_close(&r); /* another process, another secret */
    client_open(&r);
    wait_state(&r, "ok");
    ask(&r, &t, WHOLE);
    assert_string_not_equal(r.far.salt, first);
    st_buf_free(&t.reply);
    rig_close(&r);
}

static void nodes_are_picked_all_alike(void **state)
{
    (void)state;
    struct rig r;
    int count[FAR_NODES] = {0};
    double chi = 0;
    rig_open(&r, FAR_NODES);
    far_write_policy(&r.far, FAR_NODES, "");
    client_open(&r);
    wait_state(&r, "ok");
    for (int i = 0; i < 8000; i++) {
        struct st_conf_pick pick;
        enum st_passage_fault fault;
        struct st_err e;
        assert_ok(st_conf_nodes_pick(r.at.p->nodes, FAR_MODEL, NULL, 0, &pick, &fault, &e), &e);
        count[pick.id[0] - 1]++;
    }
    for (int i = 0; i < FAR_NODES; i++)
        chi += (count[i] - 2000.0) * (count[i] - 2000.0) / 2000.0;
    assert_true(chi < 24); /* 3 degrees of freedom: beyond by chance once in 40000 runs */
    rig_close(&r);
}

/* ---- nothing leaves ---- */

static void without_verified_evidence_not_a_byte_leaves(void **state)
{
    (void)state;
    static const struct {
        enum far_wrong wrong;
        const char *word;
        enum st_passage_fault fault;
        const char *says;
    } rows[] = {
        {FAR_OTHER_BUNDLE, "integrity", ST_FAULT_INTEGRITY, "other evidence than the directory names"},
        {FAR_OTHER_KEY, "integrity", ST_FAULT_INTEGRITY, "sim.binding"},
        {FAR_NO_NOTE, "integrity", ST_FAULT_INTEGRITY, "without the checkpoint"},
        {FAR_OTHER_NOTE, "integrity", ST_FAULT_INTEGRITY, "its nonce is not the digest"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct rig r;
        struct trip t = {0};
        rig_open(&r, 2);
        r.far.wrong = rows[i].wrong;
        far_publish(&r.far);
        client_open(&r);
        wait_state(&r, rows[i].word);
        int sent = r.far.n_message;
        ask(&r, &t, WHOLE);
        expect_fault(&t, rows[i].fault, rows[i].says);
        assert_int_equal(r.far.n_message, sent);
        assert_int_equal(r.far.n_request + (int)r.far.n_seen, 0);
        assert_true(look(&r).verification_failures > 0);
        rig_close(&r);
    }
}

static void what_the_log_does_not_show_is_not_used(void **state)
{
    (void)state;
    struct rig r;
    struct trip t = {0};
    rig_open(&r, 1);
    r.far.bad_log = true;
    client_open(&r);
    wait_state(&r, "integrity");
    ask(&r, &t, WHOLE);
    expect_fault(&t, ST_FAULT_INTEGRITY, "");
    assert_int_equal(r.far.n_message, 0); /* not even evidence is asked for */
    rig_close(&r);
}

static void an_old_checkpoint_is_stale(void **state)
{
    (void)state;
    struct rig r;
    struct trip t = {0};
    rig_open(&r, 1);
    far_write_policy(&r.far, 1, ", \"max_age_s\": 100");
    client_open(&r);
    wait_state(&r, "ok");
    client_close(&r);
    r.far.log_age = 200;
    unlink(r.state);
    client_open(&r);
    wait_state(&r, "stale");
    ask(&r, &t, WHOLE);
    expect_fault(&t, ST_FAULT_STALE, "at most 100 s");
    assert_int_equal(r.far.n_request, 0);
    rig_close(&r);
}

static void old_evidence_is_stale_though_the_log_is_fresh(void **state)
{
    (void)state;
    struct rig r;
    struct trip t = {0};
    rig_open(&r, 1);
    r.far.log_age = 200; /* of the note that the evidence is made with */
    far_publish(&r.far);
    r.far.log_age = 0;
    far_write_policy(&r.far, 1, ", \"max_age_s\": 100");
    client_open(&r);
    wait_state(&r, "stale");
    ask(&r, &t, WHOLE);
    expect_fault(&t, ST_FAULT_STALE, "policy.max_age_s");
    assert_int_equal(r.far.n_request, 0);
    rig_close(&r);
}

static void fewer_nodes_than_the_policy_wants_are_none(void **state)
{
    (void)state;
    struct rig r;
    struct trip t = {0};
    rig_open(&r, 2);
    far_write_policy(&r.far, 3, "");
    client_open(&r);
    wait_state(&r, "policy");
    ask(&r, &t, WHOLE);
    expect_fault(&t, ST_FAULT_POLICY, "2 of 2 listed nodes are verified, want 3");
    assert_int_equal(r.far.n_request, 0);
    rig_close(&r);
}

static void a_node_that_measures_otherwise_than_before_is_said_to(void **state)
{
    (void)state;
    struct rig r;
    struct trip t = {0};
    rig_open(&r, 1);
    client_open(&r);
    wait_state(&r, "ok");
    uint8_t good[32];
    memcpy(good, r.far.node[0].measurement, 32);
    memset(r.far.node[0].measurement, 0x66, 32);
    far_publish(&r.far);
    wait_state(&r, "measurement_changed");
    ask(&r, &t, WHOLE);
    expect_fault(&t, ST_FAULT_MEASUREMENT, "policy.sim.measurement");
    assert_int_equal(r.far.n_request, 0);
    memcpy(r.far.node[0].measurement, good, 32);
    far_publish(&r.far);
    wait_state(&r, "ok");
    client_close(&r);
    memset(r.far.node[0].measurement, 0x66, 32); /* one that was never good is simply refused */
    far_publish(&r.far);
    client_open(&r);
    wait_state(&r, "policy");
    rig_close(&r);
}

static void two_directories_of_one_epoch_are_refused(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r, 1);
    client_open(&r);
    wait_state(&r, "ok");
    r.far.epoch--; /* another one of the same */
    far_publish(&r.far);
    wait_state(&r, "integrity");
    rig_close(&r);
}

static void keys_that_rotate_are_followed(void **state)
{
    (void)state;
    struct rig r;
    struct trip t = {0};
    struct st_err e;
    rig_open(&r, 2);
    client_open(&r);
    wait_state(&r, "ok");
    for (size_t i = 0; i < 2; i++)
        assert_ok(st_keyring_rotate(r.far.node[i].ring, &e), &e);
    far_publish(&r.far);
    ask(&r, &t, WHOLE); /* with the keys before: they are still known there */
    assert_ok(t.err.code, &t.err);
    int n = r.far.n_bundle;
    for (double until = st_now() + 8; r.far.n_bundle < n + 2 && st_now() < until;)
        turn(&r);
    for (int i = 0; i < 5; i++)
        turn(&r);
    for (size_t i = 0; i < 2; i++)
        st_keyring_forget(r.far.node[i].ring);
    ask(&r, &t, WHOLE);
    assert_ok(t.err.code, &t.err);
    st_buf_free(&t.reply);
    rig_close(&r);
}

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
    static const enum far_wrong rows[] = {FAR_502, FAR_ENGINE_503, FAR_REFUSE_400};
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
        if (rows[i] != FAR_REFUSE_400) {
            assert_int_equal(r.far.n_seen - seen, 3); /* a token for each, and change */
            expect_units(&r, 0);
        }
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

/* ---- challenges, receipts, policies ---- */

static void challenged_nodes_answer_for_the_same_keys(void **state)
{
    (void)state;
    struct rig r;
    struct trip t = {0};
    rig_open(&r, 2);
    r.o.challenge = true;
    client_open(&r);
    wait_state(&r, "ok");
    for (double until = st_now() + 8; r.far.n_attest < 2 && st_now() < until;)
        turn(&r);
    ask(&r, &t, WHOLE);
    assert_ok(t.err.code, &t.err);
    client_close(&r);
    r.far.wrong = FAR_CHALLENGE_KEY;
    client_open(&r);
    wait_state(&r, "integrity");
    ask(&r, &t, WHOLE);
    expect_fault(&t, ST_FAULT_INTEGRITY, "challenged");
    assert_int_equal(r.far.n_request, 1);
    st_buf_free(&t.reply);
    rig_close(&r);
}

static void receipts_are_kept_on_wish(void **state)
{
    (void)state;
    struct rig r;
    struct trip t = {0};
    char dir[160], cmd[512];
    rig_open(&r, 1);
    snprintf(dir, sizeof dir, "%s/receipts", r.far.log.dir);
    r.o.receipts = dir;
    client_open(&r);
    wait_state(&r, "ok");
    ask(&r, &t, WHOLE);
    ask(&r, &t, STREAM);
    assert_ok(t.err.code, &t.err);
    snprintf(cmd, sizeof cmd,
             "cd %s && test $(ls *.receipt | wc -l) = 2 && test $(ls *.bundle | wc -l) = 1 && "
             "test $(cat *.receipt | wc -c) = %d && grep -q hello *.request && grep -q answer *.reply",
             dir, 4 * ST_RECEIPT_LEN);
    assert_int_equal(system(cmd), 0);
    st_buf_free(&t.reply);
    rig_close(&r);
}

static void policies_to_rely_on_must_say_enough(void **state)
{
    (void)state;
    struct rig r;
    struct st_err e;
    rig_open(&r, 1);
    far_put_file(r.far.policy, "{\"version\": 1, \"require\": \"any\", \"signature_only\": true}");
    expect_refusal(st_conf_client_open(&r.o, st_role_base(r.far.role), &r.at, &e), &e, ST_POLICY, "signature_only");
    far_put_file(r.far.policy, "{\"version\": 1, \"require\": [\"tdx\"]}");
    expect_refusal(st_conf_client_open(&r.o, st_role_base(r.far.role), &r.at, &e), &e, ST_POLICY, "names no log");
    far_write_policy(&r.far, 1, "");
    r.o.relay = "ftp://x";
    expect_refusal(st_conf_client_open(&r.o, st_role_base(r.far.role), &r.at, &e), &e, ST_USAGE, "--relay");
    r.at = (struct st_passage_ref){0};
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_comes_back_clean_and_paid),
        cmocka_unit_test(salts_of_prefix_caches_follow_conversations_and_nobody_else),
        cmocka_unit_test(nodes_are_picked_all_alike),
        cmocka_unit_test(without_verified_evidence_not_a_byte_leaves),
        cmocka_unit_test(what_the_log_does_not_show_is_not_used),
        cmocka_unit_test(an_old_checkpoint_is_stale),
        cmocka_unit_test(old_evidence_is_stale_though_the_log_is_fresh),
        cmocka_unit_test(fewer_nodes_than_the_policy_wants_are_none),
        cmocka_unit_test(a_node_that_measures_otherwise_than_before_is_said_to),
        cmocka_unit_test(two_directories_of_one_epoch_are_refused),
        cmocka_unit_test(keys_that_rotate_are_followed),
        cmocka_unit_test(a_reply_that_does_not_verify_is_none),
        cmocka_unit_test(another_node_is_tried_before_the_first_byte),
        cmocka_unit_test(after_the_first_byte_nothing_is_tried_again),
        cmocka_unit_test(a_far_side_that_says_nothing_is_given_up),
        cmocka_unit_test(a_token_that_did_not_leave_is_not_lost),
        cmocka_unit_test(change_that_is_no_signature_costs_money_but_no_reply),
        cmocka_unit_test(a_client_that_leaves_ends_the_exchange),
        cmocka_unit_test(a_slow_client_stops_the_stream),
        cmocka_unit_test(a_body_that_does_not_fit_is_refused_here),
        cmocka_unit_test(challenged_nodes_answer_for_the_same_keys),
        cmocka_unit_test(receipts_are_kept_on_wish),
        cmocka_unit_test(policies_to_rely_on_must_say_enough),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    far_forget();
    return rc;
}
