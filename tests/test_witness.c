/* A witness: which checkpoints it cosigns, which it refuses and how, and that it remembers over a restart. The request
 * of C2SP tlog-witness is read as its specification shows it. */
#include "expect.h"
#include "log_world.h"
#include "mutate.h"
#include "service/witness.h"
#include "service/witness_request.h"

#include <sys/stat.h>
#include <unistd.h>

#define NOW 1760000000

/* "Example request body" of C2SP tlog-witness. */
#define DASH "\xe2\x80\x94 "
static const char example[] =
    "old 20852014\nPlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\njrJZDmY8Y7SyJE0MWLpLozkIVMSMZcD5kvuKxPC3swk=\n"
    "5+pKlUdi2LeF/BcMHBn+Ku6yhPGNCswZZD1X/6QgPd8=\n/6WVhPs2CwSsb5rYBH5cjHV/wSmA79abXAwhXw3Kj/0=\n\n"
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n" DASH
    "example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n" DASH
    "example.com/behind-the-sofa "
    "opLqBQsREYCgu6xQkYQwJr9fo45a62DN9EdmHXnZdXNqlcVGlCum2Wks+49/V6267UEjw6QUXTS5Rovnzv++qbSzm9Q=\n";

struct rig {
    struct log_world w;
    struct st_log_store *s;
    struct st_witness *witness;
    struct st_buf answer;
};

static struct st_witness_opts opts(const struct rig *r, struct st_tlog_keys *log)
{
    static char dir[128]; /* kept as long as the witness */
    snprintf(dir, sizeof dir, "%s", log_path(&r->w, "witness"));
    *log = (struct st_tlog_keys){.origin = LOG_ORIGIN, .log = r->w.keys.log};
    return (struct st_witness_opts){
        .name = log_witness_name[0], .key = r->w.witness[0], .state = dir, .logs = log, .n_log = 1};
}

static void witness_open(struct rig *r)
{
    struct st_err e;
    struct st_tlog_keys log;
    st_witness_free(r->witness);
    const struct st_witness_opts o = opts(r, &log);
    assert_ok(st_witness_new(&o, &r->witness, &e), &e);
}

static void rig_open(struct rig *r)
{
    *r = (struct rig){0};
    log_world_open(&r->w);
    r->s = log_store_new(&r->w, "log");
    witness_open(r);
}

static void rig_close(struct rig *r)
{
    st_witness_free(r->witness);
    st_log_store_close(r->s);
    st_buf_free(&r->answer);
    log_world_close(&r->w);
}

/* The request for the tree of store s as it is committed. */
static void request(struct st_log_store *s, uint64_t old, struct st_buf *body)
{
    struct st_err e;
    struct st_witness_request q = {.old = old, .note = st_log_store_signed(s)};
    struct st_merkle_source source = st_log_store_source(s);
    if (old && old <= st_log_store_size(s))
        assert_ok(st_merkle_prove_consistency(&source, old, st_log_store_size(s), &q.proof, &e), &e);
    st_buf_clear(body);
    st_witness_request_write(&q, body);
}

static int add_body(struct rig *r, const struct st_buf *body)
{
    st_buf_clear(&r->answer);
    return st_witness_add(r->witness, (struct st_span){(const uint8_t *)body->p, body->len}, NOW, &r->answer);
}

static int add(struct rig *r, struct st_log_store *s, uint64_t old)
{
    struct st_buf body = {0};
    request(s, old, &body);
    int status = add_body(r, &body);
    st_buf_free(&body);
    return status;
}

static void grow(struct st_log_store *s, int n, const char *what)
{
    struct st_err e;
    for (int i = 0; i < n; i++)
        log_append(s, what);
    assert_ok(st_log_store_commit(s, &e), &e);
}

static void the_example_of_the_specification_is_read_and_written_back(void **state)
{
    (void)state;
    struct rig r;
    struct st_err e;
    struct st_witness_request q;
    struct st_buf out = {0};
    const struct st_span body = {(const uint8_t *)example, strlen(example)};
    assert_ok(st_witness_request_parse(body, &q, &e), &e);
    assert_int_equal(q.old, 20852014);
    assert_int_equal(q.proof.n, 4);
    assert_int_equal(q.proof.hashes[0].b[0], 0x3e);
    st_witness_request_write(&q, &out);
    assert_string_equal(out.p, example);
    rig_open(&r);
    assert_int_equal(st_witness_add(r.witness, body, NOW, &r.answer), 404); /* a log that it does not know */
    assert_int_equal(r.answer.len, 0);
    rig_close(&r);
    st_buf_free(&out);
}

static void a_growing_log_is_cosigned_and_the_same_tree_again(void **state)
{
    (void)state;
    struct rig r;
    struct st_err e;
    struct st_buf whole = {0};
    struct st_witnessed w;
    rig_open(&r);
    assert_int_equal(add(&r, r.s, 0), 200); /* the empty tree */
    assert_int_equal(add(&r, r.s, 0), 200);
    grow(r.s, 3, "a");
    assert_int_equal(add(&r, r.s, 0), 200);
    assert_int_equal(add(&r, r.s, 3), 200);
    grow(r.s, 300, "b");
    assert_int_equal(add(&r, r.s, 3), 200);
    const struct st_span own = st_log_store_signed(r.s);
    st_buf_add(&whole, own.p, own.len);
    st_buf_add(&whole, r.answer.p, r.answer.len);
    r.w.keys.n_witness = r.w.keys.quorum = 1;
    assert_ok(st_checkpoint_open(whole.p, whole.len, &r.w.keys, NOW, &w, &e), &e);
    assert_int_equal(w.time, NOW);
    st_buf_free(&whole);
    rig_close(&r);
}

static void a_wrong_old_size_is_a_conflict_that_names_the_right_one(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r);
    grow(r.s, 5, "a");
    assert_int_equal(add(&r, r.s, 2), 409);
    assert_string_equal(r.answer.p, "0\n");
    assert_int_equal(add(&r, r.s, 0), 200);
    grow(r.s, 2, "b");
    assert_int_equal(add(&r, r.s, 0), 409);
    assert_string_equal(r.answer.p, "5\n");
    assert_int_equal(add(&r, r.s, 6), 409);
    assert_int_equal(add(&r, r.s, 8), 400); /* larger than the tree */
    assert_int_equal(add(&r, r.s, 5), 200);
    witness_open(&r); /* after a restart, too */
    assert_int_equal(add(&r, r.s, 5), 409);
    assert_string_equal(r.answer.p, "7\n");
    rig_close(&r);
}

static void a_fork_is_never_cosigned(void **state)
{
    (void)state;
    struct rig r;
    rig_open(&r);
    struct st_log_store *other = log_store_new(&r.w, "other");
    grow(r.s, 5, "a");
    grow(other, 5, "b");
    assert_int_equal(add(&r, r.s, 0), 200);
    assert_int_equal(add(&r, other, 5), 409); /* one size, two trees */
    assert_string_equal(r.answer.p, "5\n");
    grow(other, 3, "c");
    assert_int_equal(add(&r, other, 5), 422); /* a proof of another history */
    assert_int_equal(r.answer.len, 0);
    assert_int_equal(add(&r, other, 0), 409);
    witness_open(&r);
    assert_int_equal(add(&r, other, 5), 422);
    grow(r.s, 1, "a");
    assert_int_equal(add(&r, r.s, 5), 200);
    st_log_store_close(other);
    rig_close(&r);
}

static void a_proof_where_none_belongs_is_refused(void **state)
{
    (void)state;
    struct rig r;
    struct st_buf body = {0};
    rig_open(&r);
    grow(r.s, 2, "a");
    struct st_witness_request q = {.old = 0, .proof = {.n = 1}, .note = st_log_store_signed(r.s)};
    st_witness_request_write(&q, &body);
    assert_int_equal(add_body(&r, &body), 422);
    assert_int_equal(add(&r, r.s, 0), 200);
    q.old = 2;
    st_buf_clear(&body);
    st_witness_request_write(&q, &body);
    assert_int_equal(add_body(&r, &body), 422);
    st_buf_free(&body);
    rig_close(&r);
}

static void what_the_log_has_not_signed_is_forbidden(void **state)
{
    (void)state;
    struct rig r;
    struct st_err e;
    struct st_ed25519 *own;
    struct st_log_store *s;
    rig_open(&r);
    assert_ok(st_ed25519_new(&own, &e), &e);
    assert_ok(st_log_store_create(log_path(&r.w, "stranger"), LOG_ORIGIN, own, &e), &e);
    assert_ok(st_log_store_open(log_path(&r.w, "stranger"), LOG_ORIGIN, own, &s, &e), &e);
    assert_int_equal(add(&r, s, 0), 403);
    st_log_store_close(s);
    assert_ok(st_log_store_create(log_path(&r.w, "unknown"), "log.example/unknown", own, &e), &e);
    assert_ok(st_log_store_open(log_path(&r.w, "unknown"), "log.example/unknown", own, &s, &e), &e);
    assert_int_equal(add(&r, s, 0), 404);
    st_log_store_close(s);
    st_ed25519_free(own);
    rig_close(&r);
}

static void nothing_is_cosigned_that_cannot_be_remembered(void **state)
{
    (void)state;
    struct rig r;
    struct st_err e;
    rig_open(&r);
    grow(r.s, 2, "a");
    assert_int_equal(rename(log_path(&r.w, "witness"), log_path(&r.w, "gone")), 0);
    assert_int_equal(add(&r, r.s, 0), 500);
    assert_int_equal(r.answer.len, 0);
    assert_int_equal(add(&r, r.s, 2), 500); /* the same tree again: still not on disk */
    assert_int_equal(rename(log_path(&r.w, "gone"), log_path(&r.w, "witness")), 0);
    assert_int_equal(add(&r, r.s, 2), 200);
    witness_open(&r);
    assert_int_equal(add(&r, r.s, 2), 200);

    struct st_tlog_keys log;
    struct st_witness *second;
    const struct st_witness_opts o = opts(&r, &log);
    expect_refusal(st_witness_new(&o, &second, &e), &e, ST_IO, "another witness has this state open");
    rig_close(&r);
}

static void a_state_of_another_log_is_refused(void **state)
{
    (void)state;
    struct rig r;
    struct st_err e;
    struct st_tlog_keys log;
    rig_open(&r);
    grow(r.s, 2, "a");
    assert_int_equal(add(&r, r.s, 0), 200);
    st_witness_free(r.witness);
    r.witness = NULL;
    struct st_witness_opts o = opts(&r, &log);
    log.log = log_key_of(r.w.witness[1], LOG_ORIGIN, ST_NOTE_ED25519);
    expect_refusal(st_witness_new(&o, &r.witness, &e), &e, ST_VERIFY, "/witness/");
    rig_close(&r);
}

static void damaged_requests_get_no_cosignature(void **state)
{
    (void)state;
    struct rig r;
    struct st_rng rng;
    struct st_buf body = {0};
    rig_open(&r);
    grow(r.s, 5, "a");
    assert_int_equal(add(&r, r.s, 0), 200);
    grow(r.s, 4, "b");
    request(r.s, 5, &body);
    st_rng_seed(&rng, 9);
    for (int i = 0; i < 2000; i++) {
        size_t len;
        uint8_t *p = mutate(&rng, body.p, body.len, 0, &len);
        bool same = len == body.len && memcmp(p, body.p, len) == 0;
        st_buf_clear(&r.answer);
        if (!same && st_witness_add(r.witness, (struct st_span){p, len}, NOW, &r.answer) == 200)
            fail_msg("damaged request %d was cosigned", i);
        free(p);
    }
    assert_int_equal(add_body(&r, &body), 200);
    st_buf_free(&body);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_example_of_the_specification_is_read_and_written_back),
        cmocka_unit_test(a_growing_log_is_cosigned_and_the_same_tree_again),
        cmocka_unit_test(a_wrong_old_size_is_a_conflict_that_names_the_right_one),
        cmocka_unit_test(a_fork_is_never_cosigned),
        cmocka_unit_test(a_proof_where_none_belongs_is_refused),
        cmocka_unit_test(what_the_log_has_not_signed_is_forbidden),
        cmocka_unit_test(nothing_is_cosigned_that_cannot_be_remembered),
        cmocka_unit_test(a_state_of_another_log_is_refused),
        cmocka_unit_test(damaged_requests_get_no_cosignature),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
