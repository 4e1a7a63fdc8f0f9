/* The gateway among made-up nodes, issuer and log: what is listed, what is paid, what comes back, what is refused. */
#include "base/log.h"
#include "expect.h"
#include "gateway_world.h"

/* ---- lists and evidence ---- */

static void the_directory_shows_key_price_and_verified_nodes(void **state)
{
    struct rig r;
    (void)state;
    rig_start(&r, 2);
    struct st_directory d = world_row();
    const struct st_directory_gateway *g = &d.gateways[0];
    assert_string_equal(g->name, "eu1");
    assert_int_equal(g->price_request, 1);
    assert_int_equal(g->unit_bytes, 32);
    assert_int_equal(g->n_node, 2);
    assert_string_equal(g->nodes[0].tags[0], "model=demo");
    assert_string_equal(g->nodes[1].tags[1], "place=1");
    assert_memory_not_equal(g->nodes[0].id, g->nodes[1].id, ST_NODE_ID);
    st_directory_wipe(&d);
    rig_stop(&r);
}

static void nodes_are_listed_by_tags_and_bundles_have_the_digest_of_the_directory(void **state)
{
    struct rig r;
    uint8_t digest[32];
    char path[160], hex[65];
    struct st_err e;
    (void)state;
    rig_start(&r, 2);
    struct answer a = ask(&r, &(struct question){"GET", "/nodes", NULL, false, {0}, NULL, 0});
    assert_int_equal(a.status, 200);
    assert_non_null(strstr(a.content.p, "\"up\":true"));
    assert_int_equal(a.raw.len > 4096, true);
    json_t *o = NULL;
    assert_ok(st_json_parse(a.content.p, a.content.len, "nodes", &o, &e), &e);
    assert_int_equal(json_array_size(json_object_get(o, "nodes")), 2);
    json_decref(o);
    answer_wipe(&a);
    a = ask(&r, &(struct question){"GET", "/nodes?tag=model%3Ddemo&tag=place=1", NULL, false, {0}, NULL, 0});
    assert_ok(st_json_parse(a.content.p, a.content.len, "nodes", &o, &e), &e);
    assert_int_equal(json_array_size(json_object_get(o, "nodes")), 1);
    json_decref(o);
    answer_wipe(&a);

    struct st_directory d = world_row();
    a = ask(&r, &(struct question){"GET", node_path(1, ""), NULL, false, {0}, NULL, 0});
    assert_int_equal(a.status, 200);
    st_sha256(a.content.p, a.content.len, digest);
    assert_memory_equal(digest, d.gateways[0].nodes[1].bundle, 32);
    assert_true(a.checkpoint.len > 0);
    answer_wipe(&a);
    st_hex(digest, 32, hex);
    snprintf(path, sizeof path, "%s?bundle=%s", node_path(1, ""), hex);
    a = ask(&r, &(struct question){"GET", path, NULL, false, {0}, NULL, 0});
    assert_int_equal(a.status, 200);
    answer_wipe(&a);
    path[strlen(path) - 1] ^= 1;
    a = ask(&r, &(struct question){"GET", path, NULL, false, {0}, NULL, 0});
    assert_int_equal(a.status, 404);
    answer_wipe(&a);
    st_directory_wipe(&d);
    rig_stop(&r);
}

static void a_node_whose_evidence_is_refused_leaves_the_list_and_comes_back(void **state)
{
    struct rig r;
    char url[96];
    struct st_buf b = {0};
    (void)state;
    rig_start(&r, 1);
    const char *path = node_path(0, "");
    world.mode[0] = NODE_STRANGE;
    wait_health(&r, 503);
    struct st_token t;
    new_token(today(), 8, &t);
    const struct question q = {"POST", path, &t, true, some_request(), NULL, 0};
    struct answer a = ask(&r, &q);
    assert_int_equal(a.status, 404);
    assert_string_equal(a.code, "no_such_node");
    answer_wipe(&a);
    snprintf(url, sizeof url, "%s/status", st_role_url(st_gateway_role(r.g)));
    assert_int_equal(http(url, NULL, NULL, &b), 200);
    assert_non_null(strstr(b.p, "its evidence is refused"));
    st_buf_free(&b);
    world.mode[0] = NODE_ANSWERS;
    wait_health(&r, 200);
    a = ask(&r, &q); /* nothing was spent */
    assert_int_equal(a.status, 200);
    answer_wipe(&a);
    rig_stop(&r);
}

static void a_node_that_never_ends_its_evidence_does_not_hold_the_others_up(void **state)
{
    struct rig r;
    (void)state;
    rig_opts(&r, 2, ":memory:");
    r.o.attest_s = 0.3;
    rig_open(&r);
    wait_health(&r, 200);
    struct st_directory before = world_row(), after = {0};
    world.mode[0] = NODE_TRICKLES;
    world.mode[1] = NODE_REKEYED;
    for (int i = 0; i < 300; i++) {
        st_directory_wipe(&after);
        after = world_row();
        if (after.gateways[0].n_node == 1)
            break;
        usleep(10 * 1000);
    }
    assert_int_equal(after.gateways[0].n_node, 1);
    assert_memory_equal(after.gateways[0].nodes[0].id, before.gateways[0].nodes[1].id, ST_NODE_ID);
    assert_memory_not_equal(after.gateways[0].nodes[0].bundle, before.gateways[0].nodes[1].bundle, 32);
    st_directory_wipe(&before);
    st_directory_wipe(&after);
    rig_stop(&r);
}

static void new_keys_of_a_node_are_published_and_old_evidence_stays_for_those_who_know_it(void **state)
{
    struct rig r;
    char path[160], hex[65];
    (void)state;
    rig_start(&r, 1);
    struct st_directory before = world_row(), after = {0};
    world.mode[0] = NODE_REKEYED;
    for (int i = 0; i < 300; i++) {
        st_directory_wipe(&after);
        after = world_row();
        if (memcmp(after.gateways[0].nodes[0].bundle, before.gateways[0].nodes[0].bundle, 32) != 0)
            break;
        usleep(10 * 1000);
    }
    assert_memory_not_equal(after.gateways[0].nodes[0].bundle, before.gateways[0].nodes[0].bundle, 32);
    assert_memory_equal(after.gateways[0].nodes[0].id, before.gateways[0].nodes[0].id, ST_NODE_ID);
    for (int i = 0; i < 2; i++) {
        st_hex((i ? &after : &before)->gateways[0].nodes[0].bundle, 32, hex);
        snprintf(path, sizeof path, "%s?bundle=%s", node_path(0, ""), hex);
        struct answer a = ask(&r, &(struct question){"GET", path, NULL, false, {0}, NULL, 0});
        assert_int_equal(a.status, 200);
        answer_wipe(&a);
    }
    st_directory_wipe(&before);
    st_directory_wipe(&after);
    rig_stop(&r);
}

static void a_new_key_of_the_gateway_is_published_while_the_old_one_is_still_taken(void **state)
{
    struct rig r;
    (void)state;
    rig_opts(&r, 1, ":memory:");
    r.o.rotate_s = 1;
    r.o.keep_key_s = 0.5;
    rig_open(&r);
    wait_health(&r, 200);
    struct sealed old, later;
    const struct question q = {"GET", "/nodes", NULL, false, {0}, NULL, 0};
    struct st_directory before = world_row();
    seal(&q, &old);
    seal(&q, &later);
    struct st_buf reply = {0};
    const char *url = st_role_url(st_gateway_role(r.g));
    bool moved = false;
    for (int i = 0; i < 300 && !moved; i++) {
        struct st_directory now = world_row();
        moved = memcmp(now.gateways[0].keys.p, before.gateways[0].keys.p, before.gateways[0].keys.len) != 0;
        st_directory_wipe(&now);
        usleep(10 * 1000);
    }
    assert_true(moved);
    assert_int_equal(http(url, &old.body, "message/ohttp-chunked-req", &reply), 200);
    struct answer a = ask(&r, &q);
    assert_int_equal(a.status, 200);
    answer_wipe(&a);
    usleep(1200 * 1000);
    assert_int_equal(http(url, &later.body, "message/ohttp-chunked-req", &reply), 400);
    sealed_wipe(&old);
    sealed_wipe(&later);
    st_directory_wipe(&before);
    st_buf_free(&reply);
    rig_stop(&r);
}

static void requests_that_cost_nothing_cannot_use_the_gateways_keys_up(void **state)
{
    struct rig r;
    struct st_buf last = {0};
    int n_keys = 0;
    (void)state;
    rig_opts(&r, 1, ":memory:");
    r.o.max_requests = 48;
    rig_open(&r);
    wait_health(&r, 200);
    for (double until = st_now() + 8; n_keys < 3 && st_now() < until;) {
        struct answer a = ask(&r, &(struct question){"GET", "/nodes", NULL, false, {0}, NULL, 0});
        assert_int_equal(a.outer, 200);
        answer_wipe(&a);
        struct st_directory d = world_row();
        struct st_span keys = d.gateways[0].keys;
        if (last.len != keys.len || memcmp(last.p, keys.p, keys.len) != 0) {
            st_buf_clear(&last);
            st_buf_add(&last, keys.p, keys.len);
            n_keys++;
        }
        st_directory_wipe(&d);
        usleep(60 * 1000);
    }
    assert_int_equal(n_keys, 3);
    st_buf_free(&last);
    rig_stop(&r);
}

/* ---- paid requests ---- */

static void a_paid_request_reaches_its_node_whole_and_every_chunk_comes_back_as_one(void **state)
{
    struct rig r;
    struct st_buf want = {0};
    (void)state;
    rig_start(&r, 1);
    struct answer a = pay(&r, 64, true);
    sealed_form(3, &want);
    assert_int_equal(a.outer, 200);
    assert_int_equal(a.status, 200);
    assert_string_equal(a.type.p, "message/ohttp-chunked-res");
    assert_int_equal(a.content.len, want.len);
    assert_memory_equal(a.content.p, want.p, want.len);
    assert_int_equal(a.n_chunk, 4); /* three, and the trailer's */
    assert_int_equal(a.final_len, 4096);
    /* 16 + 33 + 33 + 33 = 115 bytes: 1 + 4 units. */
    assert_string_equal(a.charged, "5");
    assert_int_equal(a.change, 59);
    assert_string_equal(a.error, "");
    pthread_mutex_lock(&world.lock);
    assert_int_equal(world.last_body.len, some_request().len);
    assert_memory_equal(world.last_body.p, some_request().p, some_request().len);
    pthread_mutex_unlock(&world.lock);
    answer_wipe(&a);
    st_buf_free(&want);
    rig_stop(&r);
}

static void a_token_is_taken_once(void **state)
{
    struct rig r;
    struct st_token t;
    (void)state;
    rig_start(&r, 1);
    new_token(today(), 8, &t);
    const struct question q = {"POST", node_path(0, ""), &t, false, some_request(), NULL, 0};
    struct answer a = ask(&r, &q);
    assert_int_equal(a.status, 200);
    assert_string_equal(a.charged, "5");
    assert_int_equal(a.change, 0);
    answer_wipe(&a);
    a = ask(&r, &q);
    assert_int_equal(a.status, 402);
    assert_string_equal(a.code, "token_spent");
    answer_wipe(&a);
    assert_int_equal(world.n_asked[0], 1);
    rig_stop(&r);
}

static void tokens_that_are_not_good_are_refused_and_never_reach_a_node(void **state)
{
    static const char *const says[] = {"token_bad", "token_bad", "token_bad", "token_bad", "token_small"};
    struct rig r;
    (void)state;
    rig_start(&r, 1);
    for (int i = 0; i < 5; i++) {
        struct st_token t;
        new_token(i == 1 ? today() - 2 : i == 2 ? today() + 1 : today(), i == 4 ? 1 : 8, &t);
        if (i == 0)
            t.signature[17] ^= 1;
        struct answer a =
            ask(&r, &(struct question){"POST", node_path(0, ""), i == 3 ? NULL : &t, false, some_request(), NULL, 0});
        assert_int_equal(a.status, 402);
        assert_string_equal(a.code, says[i]);
        answer_wipe(&a);
    }
    assert_int_equal(world.n_asked[0], 0);
    rig_stop(&r);
}

static void yesterdays_token_is_still_good(void **state)
{
    struct rig r;
    struct st_token t;
    (void)state;
    rig_start(&r, 1);
    new_token(today() - 1, 8, &t);
    struct answer a = ask(&r, &(struct question){"POST", node_path(0, ""), &t, true, some_request(), NULL, 0});
    assert_int_equal(a.status, 200);
    assert_int_equal(a.change, 3);
    answer_wipe(&a);
    rig_stop(&r);
}

/* Hands the gateway's part in once more, so that the log makes a new directory. */
static void next_directory(void)
{
    char url[128];
    struct st_buf part = {0}, reply = {0};
    pthread_mutex_lock(&world.lock);
    st_buf_add(&part, world.part[0].p, world.part[0].len);
    pthread_mutex_unlock(&world.lock);
    snprintf(url, sizeof url, "%s/parts/gateway/eu1", st_role_url(world.role));
    assert_int_equal(http(url, &part, "application/json", &reply), 200);
    st_buf_free(&part);
    st_buf_free(&reply);
}

static void a_key_of_the_issuers_that_is_new_makes_the_gateway_look_at_the_log(void **state)
{
    struct rig r;
    (void)state;
    rig_opts(&r, 1, ":memory:");
    r.o.refresh_s = 60;
    world.hidden_units = 64;
    rig_open(&r);
    wait_health(&r, 200);
    struct answer a = pay(&r, 64, true);
    assert_int_equal(a.status, 402);
    assert_string_equal(a.code, "token_bad");
    answer_wipe(&a);
    world.hidden_units = 0;
    next_directory();
    usleep(1100 * 1000); /* it has just looked */
    a = pay(&r, 64, true);
    assert_int_equal(a.status, 200);
    assert_int_equal(a.change, 59);
    answer_wipe(&a);
    rig_stop(&r);
}

static void a_reply_that_costs_more_than_its_token_is_cut_between_chunks(void **state)
{
    struct rig r;
    struct st_buf want = {0};
    (void)state;
    rig_start(&r, 1);
    world.n_chunks = 100;
    struct answer a = pay(&r, 8, true);
    assert_int_equal(a.status, 200);
    assert_string_equal(a.error, "deposit");
    assert_string_equal(a.charged, "8");
    assert_int_equal(a.change, 0);
    /* 7 units are 224 bytes: nonce and six chunks of 33. */
    sealed_form(100, &want);
    assert_int_equal(a.content.len, 16 + 6 * 33);
    assert_memory_equal(a.content.p, want.p, a.content.len);
    answer_wipe(&a);
    st_buf_free(&want);
    rig_stop(&r);
}

static void a_node_that_is_gone_costs_nothing_and_one_that_refuses_the_price_of_a_request(void **state)
{
    struct rig r;
    (void)state;
    rig_opts(&r, 1, ":memory:");
    r.o.refresh_s = 30;
    rig_open(&r);
    wait_health(&r, 200);
    world.mode[0] = NODE_REFUSES;
    struct answer a = pay(&r, 64, true);
    assert_int_equal(a.status, 502);
    assert_string_equal(a.code, "node_refused");
    assert_string_equal(a.charged, "1"); /* what no node can read is work all the same */
    assert_int_equal(a.change, 63);
    answer_wipe(&a);
    world.mode[0] = NODE_BABBLES;
    a = pay(&r, 64, true);
    assert_int_equal(a.status, 502);
    assert_int_equal(a.change, 64);
    answer_wipe(&a);
    rig_stop(&r);

    /* A port that nobody listens on any more. */
    rig_opts(&r, 1, ":memory:");
    r.o.refresh_s = 30;
    struct st_role *proxy_for_node;
    struct st_err e;
    assert_ok(st_role_new(&proxy_for_node, &e), &e);
    const struct st_role_opts o = {.request = world_request, .arg = &world};
    assert_ok(st_role_listen(proxy_for_node, &o, &e), &e);
    assert_ok(st_role_start(proxy_for_node, &e), &e);
    snprintf(r.nodes[0], sizeof r.nodes[0], "%s/n0", st_role_url(proxy_for_node));
    rig_open(&r);
    wait_health(&r, 200);
    st_role_stop(proxy_for_node);
    st_role_free(proxy_for_node);
    a = pay(&r, 8, true);
    assert_int_equal(a.status, 502);
    assert_string_equal(a.code, "node_unreachable");
    assert_int_equal(a.change, 8);
    answer_wipe(&a);
    rig_stop(&r);
}

static void a_node_that_breaks_off_is_told_in_the_trailer_and_what_came_is_charged(void **state)
{
    struct rig r;
    (void)state;
    rig_start(&r, 1);
    world.mode[0] = NODE_CUTS;
    world.n_chunks = 4;
    struct answer a = pay(&r, 64, true);
    assert_int_equal(a.status, 200);
    assert_string_equal(a.error, "node");
    assert_int_equal(a.content.len, 16 + 2 * 33);
    assert_string_equal(a.charged, "4");
    assert_int_equal(a.change, 60);
    answer_wipe(&a);
    rig_stop(&r);
}

static void without_the_issuer_the_reply_comes_all_the_same(void **state)
{
    struct rig r;
    char url[96];
    struct st_buf b = {0};
    (void)state;
    rig_start(&r, 1);
    world.issuer_down = 1;
    struct answer a = pay(&r, 64, true);
    assert_int_equal(a.status, 200);
    assert_string_equal(a.charged, "5");
    assert_int_equal(a.change, 0);
    assert_string_equal(a.error, "");
    answer_wipe(&a);
    snprintf(url, sizeof url, "%s/metrics", st_role_url(st_gateway_role(r.g)));
    assert_int_equal(http(url, NULL, NULL, &b), 200);
    assert_non_null(strstr(b.p, "sotto_gateway_change_failures_total 1\n"));
    assert_null(strstr(b.p, "127.0.0.1"));
    st_buf_free(&b);
    rig_stop(&r);
}

static void a_challenge_brings_fresh_evidence_for_the_same_keys(void **state)
{
    struct rig r;
    struct st_token t;
    struct st_bundle b;
    struct st_err e;
    static const char nonce[] = "{\"nonce\":\"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\"}";
    (void)state;
    rig_opts(&r, 1, ":memory:");
    r.o.refresh_s = 30;
    r.o.unit_bytes = 1024;
    rig_open(&r);
    wait_health(&r, 200);
    for (int i = 0; i < 3; i++) {
        new_token(today(), 64, &t);
        world.mode[0] = i == 1 ? NODE_REKEYED : NODE_ANSWERS;
        struct answer a = ask(&r, &(struct question){"POST", node_path(0, "/attest"), &t, true,
                                                     i == 2 ? Z("{\"nonce\":\"00\"}") : Z(nonce), NULL, 0});
        assert_int_equal(a.status, i == 0 ? 200 : i == 1 ? 502 : 400);
        if (i == 0) {
            assert_ok(st_bundle_parse(a.content.p, a.content.len, "bundle", &b, &e), &e);
            assert_int_equal(b.binding.nonce[31], 31);
            st_bundle_free(&b);
            assert_true(a.change > 0 && a.change < 64);
        } else if (i == 1)
            assert_int_equal(a.change, 64);
        answer_wipe(&a);
    }
    rig_stop(&r);
}

/* ---- what is refused ---- */

static void whatever_does_not_open_gets_one_and_the_same_reply(void **state)
{
    struct rig r;
    struct sealed s;
    struct st_buf reply = {0};
    (void)state;
    rig_start(&r, 1);
    const char *url = st_role_url(st_gateway_role(r.g));
    seal(&(struct question){"GET", "/nodes", NULL, false, {0}, NULL, 0}, &s);
    for (size_t i = 0; i < 48; i++) {
        s.body.p[i] ^= 1;
        assert_int_equal(http(url, &s.body, "message/ohttp-chunked-req", &reply), 400);
        assert_int_equal(reply.len, 0);
        s.body.p[i] ^= 1;
    }
    for (size_t len = 1; len < s.body.len; len += 97) {
        struct st_buf cut = {.p = s.body.p, .len = len};
        assert_int_equal(http(url, &cut, "message/ohttp-chunked-req", &reply), 400);
        assert_int_equal(reply.len, 0);
    }
    assert_int_equal(http(url, &s.body, "message/ohttp-req", &reply), 400);
    assert_int_equal(reply.len, 0);
    assert_int_equal(http(url, &s.body, "message/ohttp-chunked-req", &reply), 200);
    st_buf_clear(&reply);
    assert_int_equal(http(url, &s.body, "message/ohttp-chunked-req", &reply), 400); /* again */
    assert_int_equal(reply.len, 0);
    sealed_wipe(&s);
    st_buf_free(&reply);
    rig_stop(&r);
}

static void what_opens_and_is_no_request_is_told_so_inside(void **state)
{
    struct rig r;
    struct st_token t;
    (void)state;
    rig_start(&r, 1);
    new_token(today(), 8, &t);
    const struct {
        struct question q;
        unsigned status;
    } table[] = {
        {{"GET", "/nodes", NULL, false, {0}, "gateway2", 0}, 404},
        {{"GET", "/", NULL, false, {0}, NULL, 0}, 404},
        {{"PUT", "/nodes", NULL, false, {0}, NULL, 0}, 404},
        {{"POST", "/nodes", NULL, false, {0}, NULL, 0}, 404},
        {{"GET", "/nodes?tag", NULL, false, {0}, NULL, 0}, 404},
        {{"GET", "/nodes?tag=a%2", NULL, false, {0}, NULL, 0}, 404},
        {{"GET", "/nodes/00", NULL, false, {0}, NULL, 0}, 404},
        {{"GET", "/nodes/00112233445566778899aabbccddeeff", NULL, false, {0}, NULL, 0}, 404},
        {{"POST", "/nodes/00112233445566778899aabbccddeeff", &t, false, some_request(), NULL, 0}, 404},
        {{"POST", node_path(0, "?a=b"), &t, false, some_request(), NULL, 0}, 404},
        {{"POST", node_path(0, "/other"), &t, false, some_request(), NULL, 0}, 404},
        {{"POST", node_path(0, ""), &t, false, Z("short"), NULL, 0}, 400},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        struct answer a = ask(&r, &table[i].q);
        assert_int_equal(a.outer, 200);
        assert_int_equal(a.status, table[i].status);
        assert_true(a.code[0] != 0);
        answer_wipe(&a);
    }
    assert_int_equal(world.n_asked[0], 0);
    rig_stop(&r);
}

static void options_that_cannot_work_are_refused_by_name(void **state)
{
    struct rig r;
    struct st_err e;
    (void)state;
    rig_opts(&r, 1, ":memory:");
    struct st_gateway_opts good = r.o;
    r.o.name = "a name";
    expect_refusal(st_gateway_new(&r.o, &r.g, &e), &e, ST_USAGE, "--name");
    r.o = good;
    r.o.log = "http://192.0.2.1:7795";
    expect_refusal(st_gateway_new(&r.o, &r.g, &e), &e, ST_POLICY, "--log: beyond loopback");
    r.o = good;
    r.o.policy = made_file(&world.files, "lax.json", "{\"version\":1,\"require\":\"any\",\"signature_only\":true}");
    expect_refusal(st_gateway_new(&r.o, &r.g, &e), &e, ST_POLICY, "signature_only");
    r.o.policy = made_file(&world.files, "nolog.json", "{\"version\":1,\"require\":\"any\"}");
    expect_refusal(st_gateway_new(&r.o, &r.g, &e), &e, ST_POLICY, "log: want");
    r.o = good;
    const char *const twins[] = {"http://127.0.0.1:1", "http://127.0.0.1:1/ x=y"};
    r.o.nodes = twins;
    r.o.n_node = 2;
    expect_refusal(st_gateway_new(&r.o, &r.g, &e), &e, ST_USAGE, "is there twice");
    r.o = good;
    r.o.spent.where = "postgresql://a:secret@localhost/b";
    expect_refusal(st_gateway_new(&r.o, &r.g, &e), &e, ST_USAGE, "password");
    assert_null(strstr(e.msg, "secret"));
}

static int open_world(void **state)
{
    (void)state;
    curl_global_init(CURL_GLOBAL_DEFAULT);
    st_log_set_level(ST_LOG_ERROR);
    world_open();
    return 0;
}

static int close_world(void **state)
{
    (void)state;
    world_close();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_directory_shows_key_price_and_verified_nodes),
        cmocka_unit_test(nodes_are_listed_by_tags_and_bundles_have_the_digest_of_the_directory),
        cmocka_unit_test(a_node_whose_evidence_is_refused_leaves_the_list_and_comes_back),
        cmocka_unit_test(a_node_that_never_ends_its_evidence_does_not_hold_the_others_up),
        cmocka_unit_test(new_keys_of_a_node_are_published_and_old_evidence_stays_for_those_who_know_it),
        cmocka_unit_test(a_new_key_of_the_gateway_is_published_while_the_old_one_is_still_taken),
        cmocka_unit_test(requests_that_cost_nothing_cannot_use_the_gateways_keys_up),
        cmocka_unit_test(a_paid_request_reaches_its_node_whole_and_every_chunk_comes_back_as_one),
        cmocka_unit_test(a_token_is_taken_once),
        cmocka_unit_test(tokens_that_are_not_good_are_refused_and_never_reach_a_node),
        cmocka_unit_test(yesterdays_token_is_still_good),
        cmocka_unit_test(a_key_of_the_issuers_that_is_new_makes_the_gateway_look_at_the_log),
        cmocka_unit_test(a_reply_that_costs_more_than_its_token_is_cut_between_chunks),
        cmocka_unit_test(a_node_that_is_gone_costs_nothing_and_one_that_refuses_the_price_of_a_request),
        cmocka_unit_test(a_node_that_breaks_off_is_told_in_the_trailer_and_what_came_is_charged),
        cmocka_unit_test(without_the_issuer_the_reply_comes_all_the_same),
        cmocka_unit_test(a_challenge_brings_fresh_evidence_for_the_same_keys),
        cmocka_unit_test(whatever_does_not_open_gets_one_and_the_same_reply),
        cmocka_unit_test(what_opens_and_is_no_request_is_told_so_inside),
        cmocka_unit_test(options_that_cannot_work_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, open_world, close_world);
}
