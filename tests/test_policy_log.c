/* Policies that name a log: measurements count only with a proof that everybody can see them. */
#include "expect.h"
#include "log_world.h"

#include "attest/ev_sim.h"
#include "attest/log_proof.h"
#include "attest/policy.h"
#include "attest/statement.h"
#include "crypto/digest.h"

#define NOW 1750000000
#define MEASUREMENT "aabb000000000000000000000000000000000000000000000000000000000000"
#define OTHER "ccbb000000000000000000000000000000000000000000000000000000000000"

struct rig {
    struct log_world w;
    struct st_log_store *s;
    struct st_ed25519 *root;
    char root_hex[65];
    uint8_t statement[ST_SIM_LEN];
    struct st_bundle bundle;
};

static void rig_open(struct rig *r)
{
    static const struct st_sim sim = {.svn = 3, .time = NOW - 100, .measurement = {0xaa, 0xbb}};
    struct st_err e;
    uint8_t public[32];
    *r = (struct rig){0};
    log_world_open(&r->w);
    r->s = log_store_new(&r->w, "log");
    assert_ok(st_ed25519_new(&r->root, &e), &e);
    st_ed25519_public(r->root, public);
    st_hex(public, sizeof public, r->root_hex);
    assert_ok(st_sim_collect(r->root, &sim, r->statement, &e), &e);
    r->bundle =
        (struct st_bundle){.n_item = 1, .items[0] = {.kind = "sim", .data = {r->statement, sizeof r->statement}}};
}

static void rig_close(struct rig *r)
{
    st_log_store_close(r->s);
    st_ed25519_free(r->root);
    log_world_close(&r->w);
}

/* Logs the statement that a claim has a value, and appends the proof as JSON. */
static void prove(struct rig *r, const char *claim, const char *value, int n_witness, struct st_buf *out)
{
    struct st_statement s = {.release = "sotto-node 1.0"};
    struct st_log_reply a;
    struct st_buf text = {0};
    snprintf(s.claim, sizeof s.claim, "%s", claim);
    snprintf(s.value, sizeof s.value, "%s", value);
    st_statement_write(&s, &text);
    log_append(r->s, text.p);
    log_answer(&r->w, r->s, text.p, 0, NOW, n_witness, &a);
    const struct st_log_proof p = {.entry = a.entry, .index = a.index, .hashes = a.inclusion, .checkpoint = a.note.p};
    st_log_proof_write(&p, out);
    st_log_reply_wipe(&a);
    st_buf_free(&text);
}

static void policy_text(const struct rig *r, const char *measurements, const char *logged, const char *proofs,
                        struct st_buf *out)
{
    st_buf_clear(out);
    st_buf_addf(
        out,
        "{\"version\": 1, \"require\": [\"sim\"], \"sim_root\": \"%s\", \"min_nodes\": 3, \"log\": {\"origin\": "
        "\"" LOG_ORIGIN "\", \"comment\": \"ours\", \"key\": \"",
        r->root_hex);
    st_note_key_write(&r->w.keys.log, out);
    st_buf_add_str(out, "\", \"witnesses\": [\"");
    st_note_key_write(&r->w.keys.witnesses[0], out);
    st_buf_add_str(out, "\", \"");
    st_note_key_write(&r->w.keys.witnesses[1], out);
    st_buf_addf(out, "\"], \"quorum\": 2}, \"measurements\": {%s}, \"logged\": [%s], \"proofs\": [%s]}", measurements,
                logged, proofs);
}

/* The verdict's code under such a policy. */
static void expect(const struct rig *r, const char *measurements, const char *proofs, int code, const char *says)
{
    struct st_err e;
    struct st_policy *p;
    struct st_verdict v;
    struct st_buf text = {0};
    policy_text(r, measurements, "\"sim.measurement\"", proofs, &text);
    assert_ok(st_policy_parse(text.p, text.len, "policy", &p, &e), &e);
    const struct st_judge j = {.policy = p, .bundle = &r->bundle, .time = NOW};
    assert_ok(st_policy_judge(&j, &v, &e), &e);
    assert_int_equal(v.code, code);
    const struct st_check *c = st_appraisal_find_check(&v.found, "policy.logged.sim.measurement");
    if (says) {
        assert_non_null(c);
        assert_int_equal(c->result, code ? ST_CHECK_FAIL : ST_CHECK_PASS);
        assert_non_null(strstr(c->detail, says));
    }
    st_verdict_wipe(&v);
    st_policy_free(p);
    st_buf_free(&text);
}

static void a_logged_measurement_counts_with_its_proof_only(void **state)
{
    (void)state;
    struct rig r;
    struct st_buf good = {0}, other = {0}, claim = {0}, both = {0};
    rig_open(&r);
    log_append(r.s, "an entry before");
    prove(&r, "sim.measurement", MEASUREMENT, 2, &good);
    prove(&r, "sim.measurement", OTHER, 2, &other);
    prove(&r, "sim.other", MEASUREMENT, 2, &claim);
    st_buf_addf(&both, "%s, %s", other.p, good.p);
    expect(&r, "\"sim.measurement\": [\"" MEASUREMENT "\"]", good.p, 0, "in the log: sotto-node 1.0");
    expect(&r, "\"sim.measurement\": [\"" MEASUREMENT "\"]", both.p, 0, "in the log");
    expect(&r, "\"sim.measurement\": [\"" MEASUREMENT "\"]", "", ST_POLICY, "no proof");
    expect(&r, "\"sim.measurement\": [\"" MEASUREMENT "\"]", other.p, ST_POLICY, "no proof");
    expect(&r, "\"sim.measurement\": [\"" MEASUREMENT "\"]", claim.p, ST_POLICY, "no proof");
    expect(&r, "\"sim.measurement\": [\"" OTHER "\"]", good.p, ST_POLICY, NULL); /* logged, but not allowed */
    st_buf_free(&good);
    st_buf_free(&other);
    st_buf_free(&claim);
    st_buf_free(&both);
    rig_close(&r);
}

static void every_missing_proof_is_a_line_of_the_verdict(void **state)
{
    (void)state;
    struct rig r;
    struct st_err e;
    struct st_policy *p;
    struct st_verdict v;
    struct st_buf text = {0};
    rig_open(&r);
    policy_text(&r, "\"sim.measurement\": [\"" MEASUREMENT "\"], \"sim.svn\": [3]", "\"sim.measurement\", \"sim.svn\"",
                "", &text);
    assert_ok(st_policy_parse(text.p, text.len, "policy", &p, &e), &e);
    const struct st_judge j = {.policy = p, .bundle = &r.bundle, .time = NOW};
    assert_ok(st_policy_judge(&j, &v, &e), &e);
    assert_int_equal(st_appraisal_find_check(&v.found, "policy.logged.sim.measurement")->result, ST_CHECK_FAIL);
    assert_int_equal(st_appraisal_find_check(&v.found, "policy.logged.sim.svn")->result, ST_CHECK_FAIL);
    st_verdict_wipe(&v);
    st_policy_free(p);
    st_buf_free(&text);
    rig_close(&r);
}

static void refuse(struct rig *r, const char *logged, const char *proofs, int code, const char *says)
{
    struct st_err e;
    struct st_policy *p;
    struct st_buf text = {0};
    policy_text(r, "\"sim.measurement\": [\"" MEASUREMENT "\"]", logged, proofs, &text);
    expect_refusal(st_policy_parse(text.p, text.len, "policy", &p, &e), &e, code, says);
    st_buf_free(&text);
}

static void replace(struct st_buf *b, const char *from, const char *to)
{
    struct st_buf out = {0};
    const char *at = strstr(b->p, from);
    assert_non_null(at);
    st_buf_add(&out, b->p, (size_t)(at - b->p));
    st_buf_add_str(&out, to);
    st_buf_add_str(&out, at + strlen(from));
    st_buf_free(b);
    *b = out;
}

static void a_proof_that_does_not_hold_refuses_the_policy(void **state)
{
    (void)state;
    struct rig r;
    struct st_buf b = {0};
    rig_open(&r);
    log_append(r.s, "an entry before");
    prove(&r, "sim.measurement", MEASUREMENT, 1, &b);
    refuse(&r, "\"sim.measurement\"", b.p, ST_VERIFY, "policy: proofs[0]: checkpoint: cosigned by 1 of 2");
    st_buf_clear(&b);
    prove(&r, "sim.measurement", MEASUREMENT, 2, &b);
    replace(&b, "\"index\":2", "\"index\":1");
    refuse(&r, "\"sim.measurement\"", b.p, ST_VERIFY, "proofs[0]");
    replace(&b, "\"index\":1", "\"index\":-1");
    refuse(&r, "\"sim.measurement\"", b.p, ST_INPUT, "proofs[0]: index: want");
    replace(&b, "\"index\":-1", "\"index\":2,\"more\":1");
    refuse(&r, "\"sim.measurement\"", b.p, ST_INPUT, "proofs[0]: unknown field 'more'");
    replace(&b, ",\"more\":1", "");
    replace(&b, "\"hashes\":[", "\"hashes\":[7,");
    refuse(&r, "\"sim.measurement\"", b.p, ST_INPUT, "proofs[0]: hashes: want");
    replace(&b, "\"hashes\":[7,", "\"hashes\":[");
    refuse(&r, "\"sim.svn\"", b.p, ST_INPUT, "logged: want a list of claims that measurements names");
    refuse(&r, "", b.p, ST_INPUT, "logged: want");
    replace(&b, "witness.example/b", "witness.example/a");
    refuse(&r, "\"sim.measurement\"", b.p, ST_VERIFY, "proofs[0]: checkpoint");
    st_buf_clear(&b);
    log_append(r.s, "no statement");
    struct st_log_reply a;
    log_answer(&r.w, r.s, "no statement", 0, NOW, 2, &a);
    const struct st_log_proof p = {.entry = a.entry, .index = a.index, .hashes = a.inclusion, .checkpoint = a.note.p};
    st_log_proof_write(&p, &b);
    refuse(&r, "\"sim.measurement\"", b.p, ST_INPUT, "proofs[0]: not valid JSON");
    st_log_reply_wipe(&a);
    st_buf_free(&b);
    rig_close(&r);
}

static void a_policy_names_its_log_and_how_many_nodes(void **state)
{
    (void)state;
    struct rig r;
    struct st_err e;
    struct st_policy *p;
    struct st_buf b = {0}, text = {0};
    rig_open(&r);
    prove(&r, "sim.measurement", MEASUREMENT, 2, &b);
    policy_text(&r, "\"sim.measurement\": [\"" MEASUREMENT "\"]", "\"sim.measurement\"", b.p, &text);
    assert_ok(st_policy_parse(text.p, text.len, "policy", &p, &e), &e);
    assert_string_equal(st_policy_log(p)->origin, LOG_ORIGIN);
    assert_memory_equal(&st_policy_log(p)->witnesses[1], &r.w.keys.witnesses[1], sizeof(struct st_note_key));
    assert_int_equal(st_policy_log(p)->quorum, 2);
    assert_int_equal(st_policy_min_nodes(p), 3);
    st_policy_free(p);

    static const struct {
        const char *from, *to, *says;
    } bad[] = {
        {"\"min_nodes\": 3", "\"min_nodes\": 0", "min_nodes: want an integer in 1..256"},
        {"\"quorum\": 2", "\"quorum\": 3", "log: a quorum that there are not witnesses for"},
        {", \"quorum\": 2", "", "log: quorum: missing"},
        {"\"key\": \"log", "\"key\": \"lag", "log: key: want"},
        {"\"comment\": \"ours\"", "\"url\": \"x\"", "log: unknown field 'url'"},
        {"\"origin\": \"" LOG_ORIGIN "\"", "\"origin\": \"\"", "log: origin: want"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        policy_text(&r, "\"sim.measurement\": [\"" MEASUREMENT "\"]", "\"sim.measurement\"", b.p, &text);
        replace(&text, bad[i].from, bad[i].to);
        expect_refusal(st_policy_parse(text.p, text.len, "policy", &p, &e), &e, ST_INPUT, bad[i].says);
    }
    static const char plain[] = "{\"version\": 1, \"require\": [\"sim\"]}";
    assert_ok(st_policy_parse(plain, strlen(plain), "policy", &p, &e), &e);
    assert_null(st_policy_log(p));
    assert_int_equal(st_policy_min_nodes(p), 1);
    st_policy_free(p);
    static const char alone[] = "{\"version\": 1, \"require\": [\"sim\"], \"proofs\": []}";
    expect_refusal(st_policy_parse(alone, strlen(alone), "policy", &p, &e), &e, ST_INPUT,
                   "proofs: want log and logged");
    st_buf_free(&b);
    st_buf_free(&text);
    rig_close(&r);
}

static void statements_are_read_strictly(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
        int code;
    } bad[] = {
        {"{\"version\":2,\"kind\":\"measurement\"}", "version: want 1", ST_UNSUPPORTED},
        {"{\"version\":1,\"kind\":\"directory\"}", "kind: want", ST_INPUT},
        {"{\"version\":1,\"kind\":\"measurement\",\"claim\":\"\",\"value\":\"0\",\"release\":\"r\"}", "claim: want 1",
         ST_INPUT},
        {"{\"version\":1,\"kind\":\"measurement\",\"claim\":\"c\",\"value\":7,\"release\":\"r\"}",
         "value: want a string", ST_INPUT},
        {"{\"version\":1,\"kind\":\"measurement\",\"claim\":\"c\",\"value\":\"0\"}", "release: missing", ST_INPUT},
        {"{\"version\":1,\"kind\":\"measurement\",\"x\":1}", "unknown field", ST_INPUT},
        {"[]", "want an object", ST_INPUT},
    };
    struct st_err e;
    struct st_statement s;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_refusal(st_statement_parse(bad[i].text, strlen(bad[i].text), "s", &s, &e), &e, bad[i].code, bad[i].says);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_logged_measurement_counts_with_its_proof_only),
        cmocka_unit_test(every_missing_proof_is_a_line_of_the_verdict),
        cmocka_unit_test(a_proof_that_does_not_hold_refuses_the_policy),
        cmocka_unit_test(a_policy_names_its_log_and_how_many_nodes),
        cmocka_unit_test(statements_are_read_strictly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
