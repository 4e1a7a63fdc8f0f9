/* A node between a client that seals by hand and an engine that does what it is told. */
#include "expect.h"

#include "node_make.h"

#define CHAT "/v1/chat/completions"
#define ASKS "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"a secret\"}],\"stream\":true}"
#define ASKS_WHOLE "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"a secret\"}]}"
#define WHOLE "{\"choices\":[{\"message\":{\"role\":\"assistant\",\"content\":\"an answer\"}}]}"

static struct node_pair p;

static int set_up(void **state)
{
    (void)state;
    pair_make(&p);
    p.engine.whole = WHOLE;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    pair_close(&p);
    return 0;
}

/* ---- replies ---- */

static void a_stream_arrives_bit_for_bit_in_chunks_of_one_size(void **state)
{
    (void)state;
    /* Cut within an event, within its end, several at once, one longer than a chunk. */
    static char longest[3000] = "data: ";
    memset(longest + 6, 'x', sizeof longest - 9);
    memcpy(longest + sizeof longest - 3, "\n\n", 3);
    const char *pieces[] = {
        "data: {\"a\":1}\n\n", "data: {\"b\"", ":\"\\n\"}\n", "\ndata: 3\r\n\r\ndata: 4\n\n: note\n\n", longest,
        "data: [DONE]\n\n"};
    struct sealed_reply r;
    char *want = NULL, *got;
    size_t n = 0;
    p.engine.pieces = pieces;
    p.engine.n_piece = sizeof pieces / sizeof *pieces;
    p.engine.gap_ms = 15;
    node_open(&p);
    struct node_key k = node_key(p.about.port, NONCE_A);
    ask_sealed(p.about.port, &k, CHAT, NULL, ASKS, &r);
    assert_int_equal(r.status, 200);
    assert_int_equal(r.chunk, ST_CONFIDENTIAL_CHUNK);
    /* Without line feeds: filler stands only where the engine's text has some as well. */
    FILE *f = open_memstream(&want, &n);
    for (size_t i = 0; i < p.engine.n_piece; i++)
        for (const char *c = pieces[i]; *c; c++)
            if (*c != '\n')
                fputc(*c, f);
    fclose(f);
    got = r.content.p;
    size_t kept = 0;
    for (size_t i = 0; i < r.content.len; i++)
        if (got[i] != '\n')
            got[kept++] = got[i];
    got[kept] = 0;
    assert_string_equal(got, want);
    free(want);
    st_buf_free(&r.content);
}

static void an_event_leaves_when_it_is_whole_and_not_before(void **state)
{
    (void)state;
    const char *pieces[] = {"data: 1\n\n", "data: ", "2\n\n", "data: [DONE]\n\n"};
    struct st_ohttp x;
    struct st_buf sealed = {0};
    struct answer a;
    p.engine.pieces = pieces;
    p.engine.n_piece = 4;
    p.engine.gap_ms = 120;
    node_open(&p);
    struct node_key k = node_key(p.about.port, NONCE_A);
    seal(&k, CHAT, NULL, ASKS, &x, &sealed);
    double start = st_now();
    post_sealed(p.about.port, &sealed, &a);
    assert_int_equal(a.n_arrival, 4); /* events 1, 2, DONE; the end */
    assert_true(a.arrivals[0].time - start < 0.11);
    assert_true(a.arrivals[1].time - a.arrivals[0].time > 0.2); /* the half event waited for its other half */
    st_ohttp_wipe(&x);
    st_buf_free(&sealed);
    st_buf_free(&a.body);
}

static void a_whole_reply_comes_as_it_is_with_filler_behind(void **state)
{
    (void)state;
    struct sealed_reply r;
    node_open(&p);
    struct node_key k = node_key(p.about.port, NONCE_A);
    ask_sealed(p.about.port, &k, CHAT, NULL, ASKS_WHOLE, &r);
    assert_int_equal(r.status, 200);
    assert_true(begins_with(&r, WHOLE));
    assert_true(only_filler_behind(&r, strlen(WHOLE)));
    st_buf_free(&r.content);
    p.engine.status = 404;
    p.engine.whole = "{\"error\":{\"message\":\"no such model\"}}";
    ask_sealed(p.about.port, &k, CHAT, NULL, ASKS_WHOLE, &r);
    assert_int_equal(r.status, 404);
    assert_true(begins_with(&r, p.engine.whole));
    st_buf_free(&r.content);
}

static void what_the_engine_gets_is_what_was_checked(void **state)
{
    (void)state;
    struct sealed_reply r;
    node_open(&p);
    struct node_key k = node_key(p.about.port, NONCE_A);
    ask_sealed(p.about.port, &k, CHAT, NULL, ASKS_WHOLE, &r);
    json_t *body = fake_body(&p.engine);
    assert_int_equal(json_object_size(body), 2);
    assert_string_equal(json_string_value(json_object_get(body, "model")), "m");
    json_decref(body);
    st_buf_free(&r.content);
}

static void a_receipt_is_for_this_request_and_this_reply(void **state)
{
    (void)state;
    struct sealed_reply r;
    struct st_err e;
    p.o.model = "models/demo";
    node_open(&p);
    struct node_key k = node_key(p.about.port, NONCE_A), other = k;
    assert_memory_equal(k.model, p.about.model_digest, 32);
    ask_sealed(p.about.port, &k, CHAT, NULL, ASKS_WHOLE, &r);
    expect_refusal(check_receipt(&k, ASKS, &r, &e), &e, ST_VERIFY, "another request");
    other.model[5] ^= 1;
    expect_refusal(check_receipt(&other, ASKS_WHOLE, &r, &e), &e, ST_VERIFY, "another model");
    other = k;
    other.receipt[0] ^= 1;
    expect_refusal(check_receipt(&other, ASKS_WHOLE, &r, &e), &e, ST_VERIFY, "another key");
    r.content.p[r.content.len - 1] ^= 1; /* filler counts */
    expect_refusal(check_receipt(&k, ASKS_WHOLE, &r, &e), &e, ST_VERIFY, "another reply");
    st_buf_free(&r.content);
}

static void a_cadence_keeps_sizes_and_times_whatever_is_said(void **state)
{
    (void)state;
    enum { TICK_MS = 30 };
    static char longest[1500] = "data: ";
    memset(longest + 6, 'y', sizeof longest - 9);
    memcpy(longest + sizeof longest - 3, "\n\n", 3);
    const char *bursts[] = {longest, longest, "data: 2\n\n"}, *drops[] = {"data: 1\n\n", "data: [DONE]\n\n"};
    p.o.cadence_s = TICK_MS / 1e3;
    node_open(&p);
    struct node_key k = node_key(p.about.port, NONCE_A);
    for (int i = 0; i < 2; i++) {
        struct st_ohttp x;
        struct st_buf sealed = {0};
        struct answer a;
        struct sealed_reply r;
        struct st_err e;
        p.engine.pieces = i ? drops : bursts;
        p.engine.n_piece = i ? 2 : 3;
        p.engine.gap_ms = i ? 200 : 5;
        seal(&k, CHAT, NULL, ASKS, &x, &sealed);
        post_sealed(p.about.port, &sealed, &a);
        open_reply(&x, &a, &r);
        assert_int_equal(r.status, 200);
        assert_true(r.one_size);
        assert_ok(check_receipt(&k, ASKS, &r, &e), &e);
        assert_int_equal(a.n_arrival, r.n_chunk); /* each by itself */
        assert_true(r.n_chunk >= 7);
        for (size_t j = 1; j < a.n_arrival; j++) {
            /* The final one's length is written in one byte. */
            assert_int_equal(a.arrivals[j].len, 2 + ST_CONFIDENTIAL_CHUNK + 16 - (j + 1 == a.n_arrival));
            /* On the whole as the clock says; single ones may be late on a busy machine. */
            assert_true(a.arrivals[j].time - a.arrivals[0].time > 0.001 * TICK_MS * ((double)j - 1));
        }
        if (i)
            assert_true(a.n_arrival >= 200 / TICK_MS); /* filler while the engine was silent */
        st_ohttp_wipe(&x);
        st_buf_free(&sealed);
        st_buf_free(&a.body);
        st_buf_free(&r.content);
    }
}

/* ---- refusals ---- */

static struct answer refused(const void *body, size_t len, const char *type)
{
    struct answer a;
    read_answer(send_request(p.about.port, "/", type, body, len), &a);
    char *date = strstr(a.head, "Date: ");
    if (date)
        memset(date, 'D', 35);
    return a;
}

static void whatever_does_not_open_gets_one_and_the_same_refusal(void **state)
{
    (void)state;
    const char *sealed_type = "message/ohttp-chunked-req";
    struct st_ohttp x;
    struct st_buf good = {0}, bad = {0};
    struct answer a;
    node_open(&p);
    struct node_key k = node_key(p.about.port, NONCE_A), stranger = k;
    seal(&k, CHAT, NULL, ASKS_WHOLE, &x, &good);
    st_ohttp_wipe(&x);
    const struct answer first = refused("nonsense", 8, sealed_type);
    assert_int_equal(first.status, 400);
    assert_int_equal(first.body.len, 0);
    /* Flipped anywhere: head, encapsulated key, length, text, tag, end. */
    const size_t places[] = {0, 1, 6, 7, 20, 38, 39, 40, 41, 100, good.len / 2, good.len - 17, good.len - 1};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        st_buf_clear(&bad);
        st_buf_add(&bad, good.p, good.len);
        bad.p[places[i]] ^= 1;
        a = refused(bad.p, bad.len, sealed_type);
        assert_string_equal(a.head, first.head);
        assert_int_equal(a.body.len, 0);
    }
    const size_t cuts[] = {0, 6, 39, 40, good.len / 2, good.len - 1};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++)
        assert_string_equal(refused(good.p, cuts[i], sealed_type).head, first.head);
    assert_string_equal(refused(good.p, good.len, "message/ohttp-req").head, first.head);
    assert_string_equal(refused(good.p, good.len, "application/json").head, first.head);
    st_buf_add(&good, "x", 1);
    assert_string_equal(refused(good.p, good.len, sealed_type).head, first.head);
    /* For another key. */
    stranger.config.public[3] ^= 1;
    st_buf_clear(&bad);
    seal(&stranger, CHAT, NULL, ASKS_WHOLE, &x, &bad);
    st_ohttp_wipe(&x);
    assert_string_equal(refused(bad.p, bad.len, sealed_type).head, first.head);
    /* Twice. */
    st_buf_clear(&bad);
    seal(&k, CHAT, NULL, ASKS_WHOLE, &x, &bad);
    st_ohttp_wipe(&x);
    a = refused(bad.p, bad.len, sealed_type);
    assert_int_equal(a.status, 200);
    st_buf_free(&a.body);
    assert_string_equal(refused(bad.p, bad.len, sealed_type).head, first.head);
    assert_int_equal(p.engine.n_asked, 1);
    st_buf_free(&good);
    st_buf_free(&bad);
}

static void faults_inside_are_told_inside(void **state)
{
    (void)state;
    static const struct {
        const char *path, *salt, *json, *param, *code;
        int status;
    } rows[] = {
        {"/v1/embeddings", NULL, ASKS, NULL, "not_found", 404},
        {CHAT, "xyz", ASKS, "cache-salt", "invalid_value", 400},
        {CHAT, NULL, "{", NULL, "invalid_json", 400},
        {CHAT, NULL, "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"}],\"cache_salt\":\"mine\"}", "cache_salt",
         "unknown_field", 400},
    };
    struct sealed_reply r;
    struct st_err e;
    node_open(&p);
    struct node_key k = node_key(p.about.port, NONCE_A);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        json_t *v;
        ask_sealed(p.about.port, &k, rows[i].path, rows[i].salt, rows[i].json, &r);
        assert_int_equal(r.status, rows[i].status);
        assert_ok(st_json_parse(r.content.p, r.content.len, "error", &v, &e), &e);
        const json_t *error = json_object_get(v, "error");
        assert_string_equal(json_string_value(json_object_get(error, "code")), rows[i].code);
        if (rows[i].param)
            assert_string_equal(json_string_value(json_object_get(error, "param")), rows[i].param);
        json_decref(v);
        st_buf_free(&r.content);
    }
    assert_int_equal(p.engine.n_asked, 0);
    assert_int_equal(metric(p.about.port, "faulty_total"), 4);
}

static void other_paths_and_methods_are_refused(void **state)
{
    (void)state;
    struct answer a;
    node_open(&p);
    const char *paths[] = {"/v1/chat/completions", "/attest/x", "/nodes"};
    for (int i = 0; i < 3; i++) {
        read_answer(send_request(p.about.port, paths[i], "application/json", "{}", 2), &a);
        assert_int_equal(a.status, 404);
        assert_int_equal(a.body.len, 0);
    }
}

/* ---- evidence and keys ---- */

static void evidence_binds_the_keys_to_the_nonce(void **state)
{
    (void)state;
    struct st_bundle a, b;
    struct answer bad;
    node_open(&p);
    node_bundle(p.about.port, NONCE_A, &a);
    node_bundle(p.about.port, NONCE_B, &b);
    assert_int_equal(a.binding.nonce_len, 32);
    assert_int_equal(a.binding.nonce[0], 0xaa);
    assert_memory_equal(a.binding.hpke_key, b.binding.hpke_key, 32);
    assert_string_equal(a.items[0].kind, "sim");
    st_bundle_free(&a);
    st_bundle_free(&b);
    /* The same question again is answered from memory. */
    int n = metric(p.about.port, "bundles_total");
    node_bundle(p.about.port, NONCE_A, &a);
    st_bundle_free(&a);
    assert_int_equal(metric(p.about.port, "bundles_total"), n);
    static const char *const none[] = {"",
                                       "[]",
                                       "{}",
                                       "{\"nonce\":\"aa\"}",
                                       "{\"nonce\":7}",
                                       "{\"nonce\":\"" NONCE_A "\",\"x\":1}",
                                       "{\"nonce\":\"" NONCE_A "a\"}"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        read_answer(send_request(p.about.port, "/attest", "application/json", none[i], strlen(none[i])), &bad);
        assert_int_equal(bad.status, 400);
        assert_int_equal(bad.body.len, 0);
    }
}

static void keys_rotate_and_the_pair_before_has_its_grace(void **state)
{
    (void)state;
    struct st_ohttp x;
    struct st_buf late = {0};
    struct sealed_reply r;
    struct answer a;
    p.o.rotate_s = 2;
    p.o.key_grace_s = 1;
    node_open(&p);
    const int port = p.about.port;
    struct node_key old = node_key(port, NONCE_A), fresh;
    assert_true(wait_metric(port, "rotations_total", 1));
    ask_sealed(port, &old, CHAT, NULL, ASKS_WHOLE, &r); /* with the old pair's receipt */
    st_buf_free(&r.content);
    fresh = node_key(port, NONCE_A);
    assert_memory_not_equal(fresh.config.public, old.config.public, 32);
    assert_memory_not_equal(fresh.receipt, old.receipt, 32);
    ask_sealed(port, &fresh, CHAT, NULL, ASKS_WHOLE, &r);
    st_buf_free(&r.content);
    poll(NULL, 0, 2100); /* checked each second */
    seal(&old, CHAT, NULL, ASKS_WHOLE, &x, &late);
    post_sealed(port, &late, &a);
    assert_int_equal(a.status, 400);
    st_ohttp_wipe(&x);
    st_buf_free(&late);
}

static void a_pair_that_has_taken_nearly_all_its_requests_is_replaced(void **state)
{
    (void)state;
    struct sealed_reply r;
    p.o.max_requests = 4;
    node_open(&p);
    struct node_key k = node_key(p.about.port, NONCE_A);
    for (int i = 0; i < 4; i++) {
        ask_sealed(p.about.port, &k, CHAT, NULL, ASKS_WHOLE, &r);
        st_buf_free(&r.content);
    }
    assert_true(wait_metric(p.about.port, "rotations_total", 1));
    k = node_key(p.about.port, NONCE_A);
    ask_sealed(p.about.port, &k, CHAT, NULL, ASKS_WHOLE, &r);
    st_buf_free(&r.content);
}

static void keys_die_the_moment_evidence_does_not_hold(void **state)
{
    (void)state;
    const char *pieces[] = {"data: 1\n\n", "data: 2\n\n", "data: 3\n\n"};
    struct st_ohttp x;
    struct st_buf sealed = {0};
    struct answer a;
    struct sealed_reply r;
    struct st_err e;
    p.engine.pieces = pieces;
    p.engine.n_piece = 3;
    p.engine.gap_ms = 5000;
    node_open(&p);
    struct node_key k = node_key(p.about.port, NONCE_A);
    seal(&k, CHAT, NULL, ASKS, &x, &sealed);
    int fd = send_request(p.about.port, "/", "message/ohttp-chunked-req", sealed.p, sealed.len);
    assert_true(wait_metric(p.about.port, "requests_running", 1));
    write_text(p.sim_key, "0000000000000000000000000000000000000000000000000000000000000001\n");
    double start = st_now();
    read_answer(fd, &a); /* ends now, although the engine still talks */
    assert_true(st_now() - start < 3);
    open_reply(&x, &a, &r);
    assert_int_equal(r.status, 0); /* a cut is no whole reply */
    expect_refusal(st_node_stop(p.node, &e), &e, ST_VERIFY, "keys are gone");
    assert_true(strstr(e.msg, "sim") != NULL);
    st_ohttp_wipe(&x);
    st_buf_free(&sealed);
    st_buf_free(&a.body);
    st_buf_free(&r.content);
}

/* ---- ends that come early ---- */

static void an_engine_that_breaks_off_is_an_error_inside(void **state)
{
    (void)state;
    const char *pieces[] = {"data: 1\n\n", "data: {\"half\""};
    struct sealed_reply r;
    p.engine.pieces = pieces;
    p.engine.n_piece = 2;
    p.engine.gap_ms = 10;
    p.engine.cuts = true;
    node_open(&p);
    struct node_key k = node_key(p.about.port, NONCE_A);
    ask_sealed(p.about.port, &k, CHAT, NULL, ASKS, &r);
    assert_int_equal(r.status, 200);
    assert_true(begins_with(&r, "data: 1\n\n"));
    assert_null(strstr(r.content.p, "half"));
    const char *error = strstr(r.content.p, "data: {\"error\":");
    assert_non_null(error);
    assert_non_null(strstr(error, "\"code\":\"engine\"}}\n\n"));
    st_buf_free(&r.content);
}

static void an_engine_that_is_gone_is_an_error_inside_until_it_is_back(void **state)
{
    (void)state;
    struct sealed_reply r;
    node_open(&p);
    struct node_key k = node_key(p.about.port, NONCE_A);
    const int engine_port = p.engine.port;
    fake_stop(&p.engine);
    for (int i = 0; i < 2; i++) { /* found out, then known */
        ask_sealed(p.about.port, &k, CHAT, NULL, ASKS_WHOLE, &r);
        assert_int_equal(r.status, i ? 503 : 502);
        assert_non_null(strstr(r.content.p, "\"code\":\"engine\""));
        st_buf_free(&r.content);
    }
    fake_start(&p.engine, engine_port);
    assert_true(wait_metric(p.about.port, "engine_ready", 1));
    ask_sealed(p.about.port, &k, CHAT, NULL, ASKS_WHOLE, &r);
    assert_int_equal(r.status, 200);
    st_buf_free(&r.content);
}

static void a_client_that_leaves_ends_the_engines_work(void **state)
{
    (void)state;
    const char *pieces[] = {"data: 1\n\n", "data: 2\n\n", "data: 3\n\n"};
    struct st_ohttp x;
    struct st_buf sealed = {0};
    p.engine.pieces = pieces;
    p.engine.n_piece = 3;
    p.engine.gap_ms = 3000;
    node_open(&p);
    struct node_key k = node_key(p.about.port, NONCE_A);
    seal(&k, CHAT, NULL, ASKS, &x, &sealed);
    int fd = send_request(p.about.port, "/", "message/ohttp-chunked-req", sealed.p, sealed.len);
    assert_true(wait_metric(p.about.port, "requests_running", 1));
    for (int i = 0; i < 100 && p.engine.n_asked == 0; i++)
        poll(NULL, 0, 10);
    close(fd);
    assert_true(wait_metric(p.about.port, "gone_total", 1));
    for (int i = 0; i < 100 && p.engine.n_gone == 0; i++)
        poll(NULL, 0, 10);
    assert_int_equal(p.engine.n_gone, 1);
    assert_int_equal(metric(p.about.port, "requests_running"), 0);
    st_ohttp_wipe(&x);
    st_buf_free(&sealed);
}

static void a_client_that_reads_slowly_slows_the_engine(void **state)
{
    (void)state;
    enum { FLOOD = 24 << 20 };
    struct st_ohttp x;
    struct st_buf sealed = {0};
    struct answer a;
    struct sealed_reply r;
    struct st_err e;
    p.engine.flood = FLOOD;
    p.o.chunk = 16384;
    node_open(&p);
    struct node_key k = node_key(p.about.port, NONCE_A);
    seal(&k, CHAT, NULL, ASKS, &x, &sealed);
    int fd = send_request(p.about.port, "/", "message/ohttp-chunked-req", sealed.p, sealed.len);
    poll(NULL, 0, 400);
    assert_true(p.engine.n_flooded < FLOOD); /* sockets' and node's buffers are full */
    size_t stood = p.engine.n_flooded;
    poll(NULL, 0, 200);
    assert_int_equal(p.engine.n_flooded, stood);
    read_answer(fd, &a);
    open_reply(&x, &a, &r);
    assert_int_equal(r.status, 200);
    assert_true(r.one_size);
    assert_true(r.content.len >= FLOOD);
    assert_ok(check_receipt(&k, ASKS, &r, &e), &e);
    st_ohttp_wipe(&x);
    st_buf_free(&sealed);
    st_buf_free(&a.body);
    st_buf_free(&r.content);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_stream_arrives_bit_for_bit_in_chunks_of_one_size),
        TEST(an_event_leaves_when_it_is_whole_and_not_before),
        TEST(a_whole_reply_comes_as_it_is_with_filler_behind),
        TEST(what_the_engine_gets_is_what_was_checked),
        TEST(a_receipt_is_for_this_request_and_this_reply),
        TEST(a_cadence_keeps_sizes_and_times_whatever_is_said),
        TEST(whatever_does_not_open_gets_one_and_the_same_refusal),
        TEST(faults_inside_are_told_inside),
        TEST(other_paths_and_methods_are_refused),
        TEST(evidence_binds_the_keys_to_the_nonce),
        TEST(keys_rotate_and_the_pair_before_has_its_grace),
        TEST(a_pair_that_has_taken_nearly_all_its_requests_is_replaced),
        TEST(keys_die_the_moment_evidence_does_not_hold),
        TEST(an_engine_that_breaks_off_is_an_error_inside),
        TEST(an_engine_that_is_gone_is_an_error_inside_until_it_is_back),
        TEST(a_client_that_leaves_ends_the_engines_work),
        TEST(a_client_that_reads_slowly_slows_the_engine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
