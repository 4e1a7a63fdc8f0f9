/* What the two ends of a worker's connection prove to each other: private weights leave after good evidence alone, made
 * for that connection and that end; a preparer is believed for its evidence and for nothing else. The worker runs in a
 * child process, evidence is simulated. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "certificate.h"
#include "expect.h"
#include "net/accepted.h"
#include "net/link.h"
#include "net/listen.h"
#include "service/preparer.h"
#include "worker_child.h"

#include <pthread.h>
#include <stdatomic.h>

#define SEED "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
#define ROOT "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
#define OTHER_SEED "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"

static char cert[96], key[96], log_file[96];
static struct st_policy *policy; /* one measurement, below our root */
static struct st_collection *good, *unknown_machine, *unknown_root;

/* What is there: policies, and machines that prove themselves. ---------------------------------------------------- */

static const char *in_dir(char out[96], const char *name)
{
    snprintf(out, 96, "%s/%s", dir, name);
    return out;
}

static void save(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static struct st_collection *machine(const char *seed, const char *name, uint8_t measured)
{
    static char files[4][96];
    static int n;
    static const char *const kinds[] = {"sim"};
    struct st_collection *c;
    struct st_err e = {0};
    char *path = files[n++ % 4];
    struct st_collect_opts o = {.sim_key = in_dir(path, name), .sim_measurement = {measured}};
    save(path, seed);
    assert_ok(st_collection_open(kinds, 1, &o, &c, &e), &e);
    return c;
}

static struct st_policy *policy_of(const char *text)
{
    char path[96];
    struct st_policy *p;
    struct st_err e = {0};
    save(in_dir(path, "policy.json"), text);
    assert_ok(st_proof_policy(path, "the weights", &p, &e), &e);
    return p;
}

static int set_up_proofs(void **state)
{
    if (set_up(state))
        return 1;
    in_dir(log_file, "log");
    make_certificate(in_dir(cert, "cert.pem"), in_dir(key, "key.pem"));
    policy = policy_of("{\"version\": 1, \"require\": [\"sim\"], \"sim_root\": \"" ROOT
                       "\", \"max_age_s\": 60, \"measurements\": {\"sim.measurement\": "
                       "[\"0700000000000000000000000000000000000000000000000000000000000000\"]}}");
    good = machine(SEED, "good", 7);
    unknown_machine = machine(SEED, "machine", 8);
    unknown_root = machine(OTHER_SEED, "root", 7);
    return 0;
}

static int tear_down_proofs(void **state)
{
    st_policy_free(policy);
    st_collection_close(good);
    st_collection_close(unknown_machine);
    st_collection_close(unknown_root);
    return tear_down(state);
}

/* The worker, which writes its log to a file. */
static const char *start_tls(struct st_worker_opts o)
{
    static const char *const listen[] = {"tls://127.0.0.1:0"};
    int err = dup(2), log = open(log_file, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    o.tls_cert = cert;
    o.tls_key = key;
    fflush(stderr);
    dup2(log, 2);
    start_on(&o, listen, 1);
    dup2(err, 2);
    close(err);
    close(log);
    if (listening[0][0] == '!')
        fail_msg("%s", listening[0]);
    return listening[0];
}

static const char *start_private(void)
{
    return start_tls((struct st_worker_opts){.proof = {.policy = policy}});
}

static void assert_logged(const char *says)
{
    static char text[1 << 16];
    FILE *f = fopen(log_file, "r");
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    if (!strstr(text, says))
        fail_msg("want '%s' in the worker's log, got '%s'", says, text);
}

/* The trusted side ------------------------------------------------------------------------------------------------- */

static struct st_plan_weight plan_weights[] = {{.name = "a.weight", .n_out = 24, .n_in = 16, .tied_to = -1},
                                               {.name = "b.weight", .n_out = 8, .n_in = 16, .tied_to = -1}};
static struct st_plan_op plan_ops[] = {
    {.op = ST_OP_LINEAR, .weight = 0, .bias = -1, .group = 1, .place = ST_PLACE_UNTRUSTED},
    {.op = ST_OP_LINEAR, .weight = 1, .bias = -1, .group = 1, .place = ST_PLACE_UNTRUSTED}};
static const struct st_plan plan = {.ops = plan_ops, .weights = plan_weights, .n_op = 2, .n_weight = 2};
static const struct st_mask_group group = {.op = 0, .n_op = 2, .d = 16, .n = 32};

static int dial_as(const char *address, struct st_proof_sides proof, bool private, struct st_worker_client **c,
                   struct st_err *e)
{
    const struct st_worker_client_opts o = {.addresses = &address,
                                            .n_address = 1,
                                            .tls_ca = cert,
                                            .digest = digest,
                                            .timeout_s = 10,
                                            .proof = proof,
                                            .private_weights = private};
    *e = (struct st_err){0};
    return st_worker_client_new(&o, c, e);
}

static void refused(const char *address, struct st_proof_sides proof, int code, const char *says)
{
    struct st_worker_client *c;
    struct st_err e;
    expect_refusal(dial_as(address, proof, proof.collection != NULL, &c, &e), &e, code, says);
}

/* One row through both matrices. */
static void must_compute(struct st_worker_client *c)
{
    const struct st_transport *t = st_worker_client_transport(c);
    uint32_t row[16];
    struct st_err e = {0};
    struct st_exchange x = {.plan = &plan, .ops = plan_ops, .n_op = 2, .n_row = 1, .id = 3};
    struct st_exposed rows = {row, sizeof row, ST_EXPOSED_FIELD}, reply;
    for (uint32_t i = 0; i < 16; i++)
        row[i] = ST_FQ - 1 - i;
    assert_ok(t->submit(t->ctx, &x, &rows, &e), &e);
    assert_ok(t->complete(t->ctx, &x, &reply, &e), &e);
    for (uint32_t j = 0; j < 32; j++)
        assert_int_equal(((const uint32_t *)reply.p)[j], j < 24 ? exact(A, j, row) : exact(B, j - 24, row));
}

/* A client that can do everything wrong, over TLS. ------------------------------------------------------------------
 */

static void link_put(struct st_link *l, const struct st_buf *b)
{
    struct st_err e = {0};
    for (size_t at = 0, n; at < b->len; at += n) {
        struct iovec v = {b->p + at, b->len - at};
        assert_ok(st_link_send(l, &v, 1, &n, &e), &e);
        if (!n)
            assert_ok(st_link_wait(l, false, true, st_now() + 10, &e), &e);
    }
}

static bool link_get(struct st_link *l, void *p, size_t len)
{
    struct st_err e = {0};
    for (size_t at = 0, n; at < len; at += n) {
        if (st_link_recv(l, (uint8_t *)p + at, len - at, &n, &e))
            return false;
        if (!n && st_link_wait(l, true, false, st_now() + 10, &e))
            return false;
    }
    return true;
}

/* The next frame; false: the connection has ended. */
static bool link_frame(struct st_link *l, struct st_worker_head *h, struct st_buf *payload)
{
    uint8_t head[ST_WORKER_HEAD];
    struct st_err e;
    st_buf_clear(payload);
    if (!link_get(l, head, sizeof head))
        return false;
    assert_ok(st_worker_head_parse(head, 1 << 24, h, &e), &e);
    void *room = st_buf_room(payload, h->len + 1);
    return link_get(l, room, h->len);
}

static void expect_end(struct st_link *l, int code, const char *says)
{
    struct st_worker_head h;
    struct st_buf payload = {0};
    struct st_worker_failure f;
    struct st_err e;
    uint8_t byte;
    assert_true(link_frame(l, &h, &payload));
    assert_int_equal(h.type, ST_WORKER_FAILURE);
    assert_int_equal(h.id, 0);
    assert_ok(st_worker_failure_parse((struct st_span){(uint8_t *)payload.p, h.len}, &f, &e), &e);
    if (f.code != code || !strstr(f.text, says))
        fail_msg("want %d '%s', got %d '%s'", code, says, f.code, f.text);
    assert_false(link_get(l, &byte, 1));
    st_buf_free(&payload);
}

/* Greets; what is to be proved comes back in *p. */
static struct st_link *greet(const char *address, struct st_proof *p)
{
    struct st_link *l;
    struct st_buf b = {0}, payload = {0};
    struct st_worker_head h;
    struct st_err e = {0};
    *p = (struct st_proof){.role = ST_PROOF_CLIENT};
    memcpy(p->digest, digest, sizeof digest);
    assert_ok(st_link_open(address, cert, st_now() + 10, &l, &e), &e);
    assert_ok(st_link_exporter(l, ST_PROOF_EXPORTER, p->exporter, &e), &e);
    st_worker_hello_add(&b, digest);
    link_put(l, &b);
    assert_true(link_frame(l, &h, &payload));
    assert_int_equal(h.type, ST_WORKER_WELCOME);
    assert_true(link_frame(l, &h, &payload));
    assert_int_equal(h.type, ST_WORKER_CHALLENGE);
    assert_ok(st_worker_challenge_parse((struct st_span){(uint8_t *)payload.p, h.len}, p->nonce, &e), &e);
    st_buf_free(&b);
    st_buf_free(&payload);
    return l;
}

static void put_evidence(struct st_link *l, const char *json, size_t len)
{
    struct st_buf b = {0};
    st_worker_evidence_add(&b, (struct st_span){(const uint8_t *)json, len});
    link_put(l, &b);
    st_buf_free(&b);
}

#define REFUSAL "your evidence was not accepted; the log here says why"

/* Evidence about *p, sent on l, is refused as everything is; the log names the reason. Log lines come once a second. */
static void refused_proof(struct st_link *l, const struct st_proof *p, const char *logged)
{
    struct st_buf json = {0};
    struct st_err e = {0};
    assert_ok(st_proof_make(good, p, &json, &e), &e);
    put_evidence(l, json.p, json.len);
    expect_end(l, ST_VERIFY, REFUSAL);
    assert_logged(logged);
    st_link_close(l);
    st_buf_free(&json);
}

/* Tests ------------------------------------------------------------------------------------------------------------ */

static void private_weights_are_for_those_who_prove_themselves(void **state)
{
    (void)state;
    struct st_worker_client *c;
    struct st_err e;
    const char *address = start_private();
    assert_ok(dial_as(address, (struct st_proof_sides){.collection = good}, true, &c, &e), &e);
    must_compute(c);
    st_worker_client_free(c);
    refused(address, (struct st_proof_sides){0}, ST_POLICY, "serves only sides that prove what they run");
    refused(address, (struct st_proof_sides){.collection = unknown_machine}, ST_VERIFY, REFUSAL);
    assert_logged("client refused: policy.sim.measurement: 08000000");
    stop();
}

static void simulated_evidence_counts_below_the_root_of_the_policy_alone(void **state)
{
    (void)state;
    const char *address = start_private();
    refused(address, (struct st_proof_sides){.collection = unknown_root}, ST_VERIFY, REFUSAL);
    assert_logged("client refused: sim.signature");
    stop();
    struct st_policy *real =
        policy_of("{\"version\": 1, \"require\": [\"snp\"], \"measurements\": {\"snp.measurement\": "
                  "[\"00\"]}}");
    address = start_tls((struct st_worker_opts){.proof = {.policy = real}});
    refused(address, (struct st_proof_sides){.collection = good}, ST_VERIFY, REFUSAL);
    assert_logged("client refused: ");
    stop();
    st_policy_free(real);
}

static void nothing_is_served_before_evidence(void **state)
{
    (void)state;
    const char *address = start_private();
    for (int i = 0; i < 2; i++) {
        struct st_proof p;
        struct st_link *l = greet(address, &p);
        struct st_buf b = {0};
        uint32_t row[16] = {1};
        if (i == 0) {
            st_worker_multiply_add(&b, 5, &one_a, sizeof row);
            st_buf_add(&b, row, sizeof row);
        } else
            st_worker_hint_add(&b, 5, &(struct st_worker_hint){0, 0, 1});
        link_put(l, &b);
        expect_end(l, ST_UNSUPPORTED, "serves only sides that prove what they run");
        st_link_close(l);
        st_buf_free(&b);
    }
    struct st_proof p;
    struct st_link *l = greet(address, &p);
    struct st_buf b = {0};
    st_worker_challenge_add(&b, p.nonce);
    link_put(l, &b); /* a worker that cannot prove itself is not asked to */
    expect_end(l, ST_INPUT, "where EVIDENCE is expected");
    st_link_close(l);
    st_buf_free(&b);
    stop();
}

static void evidence_holds_for_its_challenge_connection_end_and_model_alone(void **state)
{
    (void)state;
    struct st_proof p, first;
    const char *address = start_private();
    struct st_link *l = greet(address, &first);
    st_link_close(l);
    /* That of an earlier connection: its nonce, then its exporter with the new nonce. Each worker logs one a second. */
    l = greet(address, &p);
    refused_proof(l, &first, "client refused: evidence for another challenge");
    stop();
    address = start_private();
    l = greet(address, &p);
    memcpy(p.exporter, first.exporter, sizeof p.exporter);
    refused_proof(l, &p, "client refused: evidence of another connection, or of its other end");
    stop();
    address = start_private();
    l = greet(address, &p);
    p.role = ST_PROOF_WORKER;
    refused_proof(l, &p, "client refused: evidence of another connection, or of its other end");
    stop();
    address = start_private();
    l = greet(address, &p);
    p.digest[0]++;
    refused_proof(l, &p, "client refused: evidence that names another model");
    stop();
}

/* Evidence that a node, or an enclave that asks for a key, made for this very nonce. */
static void evidence_made_for_something_else_is_not_taken(void **state)
{
    (void)state;
    for (int node = 0; node < 2; node++) {
        struct st_proof p;
        struct st_bundle bundle;
        struct st_buf json = {0};
        struct st_err e = {0};
        struct st_link *l = greet(start_private(), &p);
        struct st_binding b = {
            .suite = {0x20, 1, 2}, .hpke_key_len = 32, .nonce_len = 32, .has_model = true, .hpke_key = {9}};
        memcpy(b.nonce, p.nonce, 32);
        memcpy(b.model, digest, 32);
        b.receipt_key[0] = (uint8_t)node;
        assert_ok(st_collection_collect(good, &b, &bundle, &e), &e);
        st_bundle_write(&bundle, &json);
        put_evidence(l, json.p, json.len);
        expect_end(l, ST_VERIFY, REFUSAL);
        assert_logged("client refused: evidence that was made for something else");
        st_link_close(l);
        st_bundle_free(&bundle);
        st_buf_free(&json);
        stop();
    }
}

static void nonsense_in_the_place_of_evidence_is_refused_alike(void **state)
{
    (void)state;
    static const char *const wrong[] = {"{", "{\"version\": 1, \"items\": []}", "SOTTOSIM", "\xff\xfe"};
    const char *address = start_private();
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        struct st_proof p;
        struct st_link *l = greet(address, &p);
        put_evidence(l, wrong[i], strlen(wrong[i]));
        expect_end(l, ST_VERIFY, REFUSAL);
        st_link_close(l);
    }
    struct st_proof p;
    struct st_link *l = greet(address, &p);
    struct st_buf b = {0};
    uint8_t head[ST_WORKER_HEAD];
    st_worker_head_write(head, &(struct st_worker_head){ST_WORKER_EVIDENCE, 0, ST_WORKER_MAX_EVIDENCE + 1});
    st_buf_add(&b, head, sizeof head);
    link_put(l, &b);
    expect_end(l, ST_INPUT, "EVIDENCE: want 1..1048576 bytes, got 1048577");
    st_link_close(l);
    l = greet(address, &p);
    st_buf_clear(&b);
    st_worker_head_write(head, &(struct st_worker_head){ST_WORKER_EVIDENCE, 0, 0});
    st_buf_add(&b, head, sizeof head);
    link_put(l, &b);
    expect_end(l, ST_INPUT, "EVIDENCE: want 1..");
    st_link_close(l);
    st_buf_free(&b);
    stop();
}

/* Four begin their evidence and stop: no more have memory for it, and they are let go within seconds. */
static void whoever_does_not_finish_its_evidence_keeps_nobody_waiting_long(void **state)
{
    (void)state;
    enum { N = 12 };
    struct st_link *l[N];
    struct st_worker_client *c;
    struct st_proof p;
    struct st_buf b = {0};
    struct st_err e;
    uint8_t head[ST_WORKER_HEAD];
    const char *address = start_private();
    st_worker_head_write(head, &(struct st_worker_head){ST_WORKER_EVIDENCE, 0, 1000});
    st_buf_add(&b, head, sizeof head);
    st_buf_add_str(&b, "{");
    for (int i = 0; i < N; i++) {
        l[i] = greet(address, &p);
        if (i < 4)
            link_put(l[i], &b);
    }
    poll(NULL, 0, 100);
    double before = st_now();
    assert_ok(dial_as(address, (struct st_proof_sides){.collection = good}, true, &c, &e), &e);
    assert_true(st_now() > before + 2); /* its turn came when one of the four was let go */
    must_compute(c);
    st_worker_client_free(c);
    for (int i = 0; i < N; i++) {
        if (i < 4)
            expect_end(l[i], ST_IO, "timed out");
        st_link_close(l[i]);
    }
    st_buf_free(&b);
    stop();
}

static void one_address_does_not_take_all_connections_before_it_has_proved_anything(void **state)
{
    (void)state;
    enum { N = 16 };
    struct st_link *l[N], *one_more;
    struct st_worker_client *c;
    struct st_proof p;
    struct st_err e = {0};
    const char *address = start_private();
    for (int i = 0; i < N; i++)
        l[i] = greet(address, &p);
    assert_ok(st_link_open(address, cert, st_now() + 10, &one_more, &e), &e);
    expect_end(one_more, ST_IO, "16 connections from your address have proved nothing yet");
    st_link_close(one_more);
    st_link_close(l[0]);
    poll(NULL, 0, 100);
    assert_ok(dial_as(address, (struct st_proof_sides){.collection = good}, true, &c, &e), &e);
    must_compute(c);
    st_worker_client_free(c);
    for (int i = 1; i < N; i++)
        st_link_close(l[i]);
    stop();
}

static void no_byte_of_evidence_can_be_changed(void **state)
{
    (void)state;
    struct st_proof p = {
        .role = ST_PROOF_CLIENT, .nonce = {1}, .exporter = {2}, .digest = {3}, .asked = st_unix_time()};
    struct st_buf json = {0};
    struct st_err e = {0};
    assert_ok(st_proof_make(good, &p, &json, &e), &e);
    while (json.len && json.p[json.len - 1] != '}') /* what stands behind says nothing */
        json.len--;
    char *copy = malloc(json.len);
    assert_ok(st_proof_judge(policy, &p, (struct st_span){(uint8_t *)json.p, json.len}, &e), &e);
    for (size_t i = 0; i < json.len; i++) {
        memcpy(copy, json.p, json.len);
        copy[i] ^= 1;
        if (st_proof_judge(policy, &p, (struct st_span){(uint8_t *)copy, json.len}, &e) == 0)
            fail_msg("byte %zu of %zu, '%c'", i, json.len, json.p[i]);
        if (i) /* cut short */
            assert_int_not_equal(st_proof_judge(policy, &p, (struct st_span){(uint8_t *)json.p, i}, &e), 0);
    }
    /* An old challenge, by the policy's max_age_s. */
    p.asked -= 120;
    expect_refusal(st_proof_judge(policy, &p, (struct st_span){(uint8_t *)json.p, json.len}, &e), &e, ST_POLICY,
                   "policy.max_age");
    free(copy);
    st_buf_free(&json);
}

static void judged(const struct st_policy *by, struct st_proof p, const uint8_t *kit, enum st_proof_role as, int code,
                   const char *says)
{
    struct st_buf json = {0};
    struct st_err e = {0};
    p.kit = kit;
    p.role = as;
    assert_ok(st_proof_make(good, &p, &json, &e), &e);
    p.kit = NULL; /* whoever judges does not know it */
    int rc = st_proof_judge(by, &p, (struct st_span){(uint8_t *)json.p, json.len}, &e);
    if (code)
        expect_refusal(rc, &e, code, says);
    else
        assert_ok(rc, &e);
    st_buf_free(&json);
}

static void a_client_works_from_a_kit_that_the_policy_names(void **state)
{
    (void)state;
    static const uint8_t kit[32] = {0x1c, 1}, other[32] = {0x1c, 2};
    const struct st_proof p = {.nonce = {1}, .exporter = {2}, .digest = {3}, .asked = st_unix_time()};
    struct st_policy *named =
        policy_of("{\"version\": 1, \"require\": [\"sim\"], \"sim_root\": \"" ROOT
                  "\", \"engine\": [\"1C01000000000000000000000000000000000000000000000000000000000000\"], "
                  "\"measurements\": {\"sim.measurement\": "
                  "[\"0700000000000000000000000000000000000000000000000000000000000000\"]}}");
    judged(named, p, kit, ST_PROOF_CLIENT, 0, "");
    judged(named, p, other, ST_PROOF_CLIENT, ST_POLICY, "policy.engine: 1c02");
    judged(named, p, NULL, ST_PROOF_CLIENT, ST_POLICY, "policy.engine: the bundle states none");
    judged(policy, p, kit, ST_PROOF_CLIENT, 0, "");
    judged(policy, p, kit, ST_PROOF_WORKER, ST_VERIFY, "for something else");
    judged(policy, p, kit, ST_PROOF_PREPARER, ST_VERIFY, "for something else");
    const char *address = start_tls((struct st_worker_opts){.proof = {.policy = named}});
    struct st_worker_client *c;
    struct st_err e;
    refused(address, (struct st_proof_sides){.collection = good, .kit = other}, ST_VERIFY, REFUSAL);
    assert_logged("client refused: policy.engine: 1c02");
    assert_ok(dial_as(address, (struct st_proof_sides){.collection = good, .kit = kit}, true, &c, &e), &e);
    must_compute(c);
    st_worker_client_free(c);
    stop();
    st_policy_free(named);
}

/* Ends TLS in the middle, with the worker's own certificate and key, and hands everything on. */
struct middle {
    const char *to;
    int fd;
    SSL_CTX *tls;
    atomic_bool stop;
};

static void hand_on(const struct middle *m, struct st_accepted *near, struct st_link *far)
{
    uint8_t p[4096];
    struct st_err e;
    while (!m->stop) {
        size_t n = 0, put = 0, some;
        if (st_accepted_read(near, p, sizeof p, &n, &e))
            return;
        for (struct iovec v; put < n; put += some) {
            v = (struct iovec){p + put, n - put};
            if (st_link_send(far, &v, 1, &some, &e))
                return;
        }
        if (st_link_recv(far, p, sizeof p, &n, &e))
            return;
        for (put = 0; put < n; put += some) {
            struct iovec v = {p + put, n - put};
            if (st_accepted_write(near, &v, 1, &some, &e))
                return;
        }
        poll(NULL, 0, 1);
    }
}

static void *stand_between(void *arg)
{
    struct middle *m = arg;
    struct st_accepted *near;
    struct st_link *far;
    struct st_err e;
    int fd;
    while ((fd = accept4(m->fd, NULL, NULL, SOCK_NONBLOCK)) < 0 && !m->stop)
        poll(NULL, 0, 1);
    if (fd < 0 || st_accepted_socket(fd, m->tls, &near, &e))
        return NULL;
    if (st_link_open(m->to, cert, st_now() + 5, &far, &e) == 0) {
        hand_on(m, near, far);
        st_link_close(far);
    }
    st_accepted_free(near);
    return NULL;
}

static void whoever_ends_tls_in_the_middle_gets_nothing(void **state)
{
    (void)state;
    struct st_err e = {0};
    pthread_t thread;
    int port = 0;
    char address[64];
    struct middle m = {.to = start_private()};
    assert_ok(st_net_listen("127.0.0.1", 0, &m.fd, &port, &e), &e);
    assert_ok(st_tls_server(cert, key, &m.tls, &e), &e);
    snprintf(address, sizeof address, "tls://127.0.0.1:%d", port);
    pthread_create(&thread, NULL, stand_between, &m);
    refused(address, (struct st_proof_sides){.collection = good}, ST_VERIFY, REFUSAL);
    m.stop = true;
    pthread_join(thread, NULL);
    assert_logged("client refused: evidence of another connection");
    close(m.fd);
    SSL_CTX_free(m.tls);
    stop();
}

static void a_worker_proves_itself_to_clients_that_ask(void **state)
{
    (void)state;
    struct st_worker_client *c;
    struct st_err e;
    const char *address = start_tls((struct st_worker_opts){.proof = {.collection = good}});
    assert_ok(dial_as(address, (struct st_proof_sides){.policy = policy}, false, &c, &e), &e);
    must_compute(c);
    st_worker_client_free(c);
    assert_ok(dial_as(address, (struct st_proof_sides){0}, false, &c, &e), &e); /* nobody need ask */
    must_compute(c);
    st_worker_client_free(c);
    struct st_policy *other = policy_of("{\"version\": 1, \"require\": [\"sim\"], \"sim_root\": \"" ROOT
                                        "\", \"measurements\": {\"sim.measurement\": [\"11\"]}}");
    refused(address, (struct st_proof_sides){.policy = other}, ST_POLICY, "its evidence: policy.sim.measurement");
    st_policy_free(other);
    /* A client that says that weights are private wants to be asked itself. */
    refused(address, (struct st_proof_sides){.policy = policy, .collection = good}, ST_POLICY,
            "its weights are not private");
    stop();
    address = start_tls((struct st_worker_opts){0});
    refused(address, (struct st_proof_sides){.policy = policy}, ST_POLICY, "does not prove what it runs");
    stop();
    address = start_tls((struct st_worker_opts){.proof = {.policy = policy, .collection = good}});
    assert_ok(dial_as(address, (struct st_proof_sides){.policy = policy, .collection = good}, true, &c, &e), &e);
    must_compute(c);
    st_worker_client_free(c);
    stop();
}

static void a_new_connection_is_proved_anew(void **state)
{
    (void)state;
    struct st_worker_client *c;
    struct st_err e;
    char path[96];
    struct st_collection *mine = machine(SEED, "mine", 7);
    const char *address = start_tls((struct st_worker_opts){.proof = {.policy = policy}, .idle_s = 0.2});
    assert_ok(dial_as(address, (struct st_proof_sides){.collection = mine}, true, &c, &e), &e);
    must_compute(c);
    poll(NULL, 0, 2000); /* let go meanwhile */
    must_compute(c);
    poll(NULL, 0, 2000);
    save(in_dir(path, "mine"), OTHER_SEED); /* this machine is no longer what it was */
    assert_false(st_worker_client_ready(c, 2));
    st_worker_client_free(c);
    st_collection_close(mine);
    stop();
}

/* Of a connection that is never idle. */
static void a_busy_connection_ends_when_this_side_is_not_what_it_was(void **state)
{
    (void)state;
    struct st_worker_client *c;
    struct st_err e;
    char path[96];
    struct st_collection *mine = machine(SEED, "mine", 7);
    const char *address = start_tls((struct st_worker_opts){.proof = {.policy = policy}});
    assert_ok(dial_as(address, (struct st_proof_sides){.collection = mine}, true, &c, &e), &e);
    must_compute(c);
    poll(NULL, 0, 2100);
    must_compute(c);
    save(in_dir(path, "mine"), OTHER_SEED);
    poll(NULL, 0, 2100);
    const struct st_transport *t = st_worker_client_transport(c);
    uint32_t row[16] = {1};
    struct st_exchange x = {.plan = &plan, .ops = plan_ops, .n_op = 2, .n_row = 1, .id = 4};
    struct st_exposed rows = {row, sizeof row, ST_EXPOSED_FIELD};
    expect_refusal(t->submit(t->ctx, &x, &rows, &e), &e, ST_VERIFY, "evidence of this side: ");
    assert_false(st_worker_client_ready(c, 1));
    st_worker_client_free(c);
    st_collection_close(mine);
    stop();
}

/* The preparer ----------------------------------------------------------------------------------------------------- */

static int prepare(const char *address, const struct st_policy *by, struct st_preparer_client **p, struct st_err *e)
{
    const struct st_preparer_opts o = {
        .address = address, .tls_ca = cert, .digest = digest, .plan = &plan, .proof = {.policy = by}, .timeout_s = 10};
    *e = (struct st_err){0};
    return st_preparer_client_new(&o, p, e);
}

static void a_preparer_whose_evidence_does_not_hold_any_more_ends(void **state)
{
    (void)state;
    struct st_preparer_client *c;
    struct st_err e;
    char path[96];
    int status = 0;
    struct st_collection *its = machine(SEED, "its", 7);
    const char *address = start_tls((struct st_worker_opts){.proof = {.collection = its}, .preparer = true});
    assert_ok(prepare(address, policy, &c, &e), &e);
    save(in_dir(path, "its"), OTHER_SEED);
    assert_int_equal(waitpid(child, &status, 0), child);
    child = 0;
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), ST_VERIFY);
    st_preparer_client_free(c);
    st_collection_close(its);
}

static void listeners_that_nothing_can_be_bound_to_are_refused(void **state)
{
    (void)state;
    char file[128];
    snprintf(file, sizeof file, "unix:%s/socket", dir);
    const char *const listen[] = {file, "tcp://127.0.0.1:0"};
    for (int i = 0; i < 2; i++) {
        struct st_worker_opts o = {.proof = {.policy = policy}};
        const char *one = listen[i];
        int status;
        start_on(&o, &one, 1);
        if (strncmp(listening[0], "! ", 2) != 0 || !strstr(listening[0], "want tls://"))
            fail_msg("%s", listening[0]);
        waitpid(child, &status, 0);
        child = 0;
    }
}

#define PINS(what) "{\"version\": 1, \"require\": \"any\", \"measurements\": {" what "}}"

static void policies_that_do_not_pin_a_program_give_nothing_away(void **state)
{
    (void)state;
    static const struct {
        const char *policy, *says; /* NULL: it may be relied on */
    } each[] = {
        {"{\"version\": 1, \"require\": \"any\", \"signature_only\": true}", "signature_only"},
        {"{\"version\": 1, \"require\": [\"sim\"], \"sim_root\": \"" ROOT "\"}",
         "names no measurements: any program on such a machine would get the weights"},
        {PINS("\"tdx.mrtd\": [\"00\"]"), "pin no program"},
        {PINS("\"tdx.mrtd\": [\"00\"], \"tdx.rtmr1\": [\"00\"]"), "pin no program"},
        {PINS("\"tpm.pcr.0\": [\"00\"], \"tpm.pcr.7\": [\"00\"]"), "pin no program"},
        {PINS("\"snp.vmpl\": [0]"), "any program on such a machine would get the weights"},
        {PINS("\"snp.measurement\": [\"00\"]"), NULL},
        {PINS("\"sgx.mrenclave\": [\"00\"]"), NULL},
        {PINS("\"tdx.mrtd\": [\"00\"], \"tdx.rtmr1\": [\"00\"], \"tdx.rtmr2\": [\"00\"]"), NULL},
        {PINS("\"tpm.pcr.4\": [\"00\"], \"tpm.pcr.11\": [\"00\"]"), NULL},
    };
    for (size_t i = 0; i < sizeof each / sizeof *each; i++) {
        char path[96];
        struct st_policy *p;
        struct st_err e = {0};
        save(in_dir(path, "weak.json"), each[i].policy);
        int rc = st_proof_policy(path, "the weights", &p, &e);
        if (each[i].says) {
            expect_refusal(rc, &e, ST_POLICY, each[i].says);
            assert_null(p);
            continue;
        }
        assert_ok(rc, &e);
        st_policy_free(p);
        expect_refusal(st_proof_client_policy(path, &p, &e), &e, ST_POLICY, "names no engine");
        assert_null(p);
    }
}

static int take_scales(void *arg, const struct st_hint_columns *c, struct st_err *e)
{
    (void)e;
    for (uint32_t j = 0; j < c->n; j++) {
        const int8_t *w = weights[B].w + (size_t)(c->first + j) * 16;
        assert_true(c->scale[j] == weights[B].scale[c->first + j]);
        assert_true(c->norm[j] == st_served_norm(st_served_square(w, 16)));
    }
    *(uint32_t *)arg += c->n;
    return 0;
}

static void a_preparer_multiplies_both_ways_and_tells_scales(void **state)
{
    (void)state;
    enum { N = 70 }; /* more rows than it takes at a time */
    struct st_preparer_client *c;
    struct st_err e;
    struct st_rng r;
    uint32_t n = 0, *pads = malloc(N * (16 + 32) * sizeof *pads), s[2 * 32], ws[2 * 16];
    const char *address =
        start_tls((struct st_worker_opts){.proof = {.collection = good}, .preparer = true, .max_row = 32});
    assert_ok(prepare(address, policy, &c, &e), &e);
    const struct st_preparer *p = st_preparer_client(c);
    st_rng_seed(&r, 5);
    for (uint32_t i = 0; i < N; i++)
        for (uint32_t k = 0; k < 16; k++)
            pads[i * 48 + k] = (uint32_t)(st_rng_next(&r) % ST_FQ);
    assert_ok(p->fill(p->ctx, &group, N, pads, &e), &e);
    for (uint32_t i = 0; i < N; i++)
        for (uint32_t j = 0; j < 32; j++)
            assert_int_equal(pads[i * 48 + 16 + j],
                             j < 24 ? exact(A, j, pads + i * 48) : exact(B, j - 24, pads + i * 48));
    for (uint32_t i = 0; i < 2 * 32; i++)
        s[i] = i % 5 ? (uint32_t)(st_rng_next(&r) % ST_FQ) : ST_FQ - 1;
    assert_ok(p->combine(p->ctx, &group, s, 2, ws, &e), &e);
    for (uint32_t v = 0; v < 2; v++)
        for (uint32_t k = 0; k < 16; k++) {
            uint32_t sum = 0;
            for (uint32_t j = 0; j < 32; j++) {
                int8_t w = j < 24 ? weights[A].w[j * 16 + k] : weights[B].w[(j - 24) * 16 + k];
                sum = st_fq_add(sum, st_fq_mul(st_fq_from(w), s[v * 32 + j]));
            }
            assert_int_equal(ws[v * 16 + k], sum);
        }
    assert_ok(p->scales->read(p->scales->ctx, "b.weight", 8, 16, take_scales, &n, &e), &e);
    assert_int_equal(n, 8);
    st_preparer_client_free(c);
    stop();
    free(pads);
}

static void who_is_not_what_a_preparer_must_be_is_sent_nothing(void **state)
{
    (void)state;
    struct st_preparer_client *c;
    struct st_err e;
    const char *address = start_tls((struct st_worker_opts){.proof = {.collection = good}});
    expect_refusal(prepare(address, policy, &c, &e), &e, ST_INPUT, "is no preparer");
    stop();
    address = start_tls((struct st_worker_opts){.proof = {.collection = unknown_machine}, .preparer = true});
    expect_refusal(prepare(address, policy, &c, &e), &e, ST_POLICY, "its evidence: policy.sim.measurement");
    stop();
    address = start_tls((struct st_worker_opts){.proof = {.collection = unknown_root}, .preparer = true});
    expect_refusal(prepare(address, policy, &c, &e), &e, ST_VERIFY, "its evidence: sim.signature");
    expect_refusal(prepare("tcp://127.0.0.1:1", policy, &c, &e), &e, ST_USAGE, "want tls://");
    stop();
}

/* Its columns are made for the reply: so few at a time that no crowd of small questions takes its memory. */
static void a_preparer_tells_few_columns_at_a_time(void **state)
{
    (void)state;
    struct st_link *l;
    struct st_buf b = {0}, payload = {0};
    struct st_worker_head h;
    struct st_err e = {0};
    const char *address = start_tls((struct st_worker_opts){.proof = {.collection = good}, .preparer = true});
    assert_ok(st_link_open(address, cert, st_now() + 10, &l, &e), &e);
    st_worker_hello_add(&b, digest);
    st_worker_hint_add(&b, 5, &(struct st_worker_hint){WIDE, 0, ST_WORKER_SCALES});
    st_worker_hint_add(&b, 6, &(struct st_worker_hint){WIDE, 0, ST_WORKER_SCALES + 1});
    link_put(l, &b);
    assert_true(link_frame(l, &h, &payload) && h.type == ST_WORKER_WELCOME);
    assert_true(link_frame(l, &h, &payload) && h.type == ST_WORKER_COLUMNS && h.id == 5);
    assert_true(link_frame(l, &h, &payload) && h.type == ST_WORKER_FAILURE && h.id == 6);
    assert_non_null(memmem(payload.p, h.len, "want at most 4096", 17));
    st_link_close(l);
    st_buf_free(&b);
    st_buf_free(&payload);
    stop();
}

/* A preparer serves workers' clients, too, but a worker no secrets: rows over outputs are for a preparer. */
static void secrets_of_checks_are_for_preparers(void **state)
{
    (void)state;
    struct st_worker_client *c;
    struct st_err e;
    uint32_t s[32] = {1}, ws[16];
    struct st_exchange x = {.plan = &plan, .ops = plan_ops, .n_op = 2, .n_row = 1};
    const char *address = start_tls((struct st_worker_opts){.proof = {.collection = good}});
    assert_ok(dial_as(address, (struct st_proof_sides){.policy = policy}, false, &c, &e), &e);
    expect_refusal(st_worker_client_product(c, &x, ST_WORKER_OUTPUTS, s, 32, ws, 16, &e), &e, ST_INPUT,
                   "rows over outputs are for a preparer");
    must_compute(c);
    st_worker_client_free(c);
    stop();
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up_proofs, tear_down_proofs)
    const struct CMUnitTest tests[] = {
        CASE(private_weights_are_for_those_who_prove_themselves),
        CASE(simulated_evidence_counts_below_the_root_of_the_policy_alone),
        CASE(nothing_is_served_before_evidence),
        CASE(evidence_holds_for_its_challenge_connection_end_and_model_alone),
        CASE(evidence_made_for_something_else_is_not_taken),
        CASE(nonsense_in_the_place_of_evidence_is_refused_alike),
        CASE(whoever_does_not_finish_its_evidence_keeps_nobody_waiting_long),
        CASE(one_address_does_not_take_all_connections_before_it_has_proved_anything),
        CASE(no_byte_of_evidence_can_be_changed),
        CASE(whoever_ends_tls_in_the_middle_gets_nothing),
        CASE(a_worker_proves_itself_to_clients_that_ask),
        CASE(a_new_connection_is_proved_anew),
        CASE(a_busy_connection_ends_when_this_side_is_not_what_it_was),
        CASE(a_client_works_from_a_kit_that_the_policy_names),
        CASE(a_preparer_whose_evidence_does_not_hold_any_more_ends),
        CASE(listeners_that_nothing_can_be_bound_to_are_refused),
        CASE(policies_that_do_not_pin_a_program_give_nothing_away),
        CASE(a_preparer_multiplies_both_ways_and_tells_scales),
        CASE(who_is_not_what_a_preparer_must_be_is_sent_nothing),
        CASE(a_preparer_tells_few_columns_at_a_time),
        CASE(secrets_of_checks_are_for_preparers),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, make_model, free_model);
}
