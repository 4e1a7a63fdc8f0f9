/* The client's side of the confidential protection: which nodes it believes, and that nothing of a request leaves
 * before everything is in order, while the far side (conf_make.h) goes wrong at every place in turn. */
#include "expect.h"

#include "conf_rig.h"

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

static void one_node_under_two_names_counts_once(void **state)
{
    (void)state;
    struct rig r;
    struct trip t = {0};
    rig_open(&r, 2);
    struct st_keyring *ring = r.far.node[1].ring;
    struct st_ed25519 *receipt = r.far.node[1].receipt;
    r.far.node[1].ring = r.far.node[0].ring;
    r.far.node[1].receipt = r.far.node[0].receipt;
    far_publish(&r.far);
    far_write_policy(&r.far, 2, "");
    client_open(&r);
    wait_state(&r, "policy");
    ask(&r, &t, WHOLE);
    expect_fault(&t, ST_FAULT_POLICY, "1 of 2 listed nodes are verified, want 2: others are the same node");
    assert_int_equal(r.far.n_request, 0);
    r.far.node[1].ring = ring;
    r.far.node[1].receipt = receipt;
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

static void among_several_gateways_and_issuers_one_must_be_named(void **state)
{
    (void)state;
    static const char *const tags[] = {"region=eu"};
    struct rig r;
    struct trip t = {0};
    rig_open(&r, 1);
    r.far.crowded = true;
    far_publish(&r.far);
    client_open(&r);
    wait_state(&r, "policy");
    ask(&r, &t, WHOLE);
    expect_fault(&t, ST_FAULT_POLICY, "2 gateways: want one, or its name");
    client_close(&r);
    r.o.gateway = "east";
    client_open(&r);
    wait_state(&r, "policy");
    ask(&r, &t, WHOLE);
    expect_fault(&t, ST_FAULT_POLICY, "2 issuers: want one, or its name");
    client_close(&r);
    r.o.issuer_name = "bank";
    client_open(&r);
    wait_state(&r, "ok");
    ask(&r, &t, WHOLE);
    assert_ok(t.err.code, &t.err);
    client_close(&r);
    r.o.gateway = "north";
    client_open(&r);
    wait_state(&r, "policy");
    ask(&r, &t, WHOLE);
    expect_fault(&t, ST_FAULT_POLICY, "no gateway of the name");
    client_close(&r);
    r.o.gateway = "east";
    r.o.tags = tags; /* that no node has */
    r.o.n_tag = 1;
    client_open(&r);
    wait_state(&r, "policy");
    ask(&r, &t, WHOLE);
    expect_fault(&t, ST_FAULT_POLICY, "0 of 0 listed nodes");
    assert_int_equal(r.far.n_request, 1);
    st_buf_free(&t.reply);
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
    int paid = r.far.n_attest;
    for (double until = st_now() + 2.5; st_now() < until;) /* after 1 s, then after 2 s more */
        turn(&r);
    assert_in_range(r.far.n_attest, paid, paid + 2);
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
             "test -s $(basename *.bundle .bundle).checkpoint && "
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
    json_t *policy = json_load_file(r.far.policy, 0, NULL);
    json_object_del(policy, "measurements");
    char *text = json_dumps(policy, 0);
    far_put_file(r.far.policy, text);
    free(text);
    json_decref(policy);
    expect_refusal(st_conf_client_open(&r.o, st_role_base(r.far.role), &r.at, &e), &e, ST_POLICY, "no measurements");
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
        cmocka_unit_test(one_node_under_two_names_counts_once),
        cmocka_unit_test(a_node_that_measures_otherwise_than_before_is_said_to),
        cmocka_unit_test(two_directories_of_one_epoch_are_refused),
        cmocka_unit_test(keys_that_rotate_are_followed),
        cmocka_unit_test(among_several_gateways_and_issuers_one_must_be_named),
        cmocka_unit_test(challenged_nodes_answer_for_the_same_keys),
        cmocka_unit_test(receipts_are_kept_on_wish),
        cmocka_unit_test(policies_to_rely_on_must_say_enough),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    far_forget();
    return rc;
}
