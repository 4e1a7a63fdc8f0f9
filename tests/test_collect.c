/* Evidence as a node collects it: bundles around its keys that a policy accepts, and machines that do not answer as
 * they should. Platforms are played by files, a thread and a library; a TPM that answers is in test_collect_tpm.c. */
#include "expect.h"

#include "attest/collector.h"
#include "attest/policy.h"
#include "attest/verifier.h"
#include "base/file.h"
#include "collect_make.h"

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- simulated evidence ---- */

static void a_simulated_bundle_is_read_back_and_accepted(void **state)
{
    struct made_dir d = made_dir();
    struct st_collect_opts o = {.sim_key = made_file(&d, "sim.key", SIM_SEED "\n"), .sim_measurement = {0xab}};
    struct st_bundle b = collect_now(&o, (const char *[]){"sim"}, 1);
    (void)state;
    expect_judged(&b,
                  "\"require\": [\"sim\"], \"sim_root\": \"" SIM_ROOT "\", \"measurements\": {\"sim.measurement\": "
                  "[\"ab00000000000000000000000000000000000000000000000000000000000000\"]}",
                  true, "");
    b.binding.hpke_key[0] ^= 1;
    expect_judged(&b, "\"require\": [\"sim\"], \"sim_root\": \"" SIM_ROOT "\"", false, "sim.binding");
    st_bundle_free(&b);
    made_dir_remove(&d);
}

static void kinds_that_are_no_kinds_or_come_twice_or_cannot_carry_are_refused(void **state)
{
    struct made_dir d = made_dir();
    struct st_collect_opts o = {.sim_key = made_file(&d, "sim.key", SIM_SEED)};
    struct st_collection *c;
    struct st_err e = {0};
    (void)state;
    expect_refusal(st_collection_open((const char *[]){"abacus"}, 1, &o, &c, &e), &e, ST_UNSUPPORTED, "'abacus'");
    expect_refusal(st_collection_open((const char *[]){"sim", "sim"}, 2, &o, &c, &e), &e, ST_USAGE, "twice");
    expect_refusal(st_collection_open(NULL, 0, &o, &c, &e), &e, ST_USAGE, "1..8");
    o.sim_key = NULL;
    expect_refusal(st_collection_open((const char *[]){"sim"}, 1, &o, &c, &e), &e, ST_UNSUPPORTED, "signing key");
    o.sim_key = made_file(&d, "short.key", "0011");
    expect_refusal(st_collection_open((const char *[]){"sim"}, 1, &o, &c, &e), &e, ST_INPUT, "64 hexadecimal");
    made_dir_remove(&d);
}

static void a_simulated_machine_has_changed_when_its_key_file_has(void **state)
{
    struct made_dir d = made_dir();
    struct st_collect_opts o = {.sim_key = made_file(&d, "sim.key", SIM_SEED)};
    struct st_collection *c;
    struct st_err e = {0};
    (void)state;
    assert_ok(st_collection_open((const char *[]){"sim"}, 1, &o, &c, &e), &e);
    assert_ok(st_collection_unchanged(c, &e), &e);
    made_file(&d, "sim.key", SIM_SEED "\n");
    expect_refusal(st_collection_unchanged(c, &e), &e, ST_VERIFY, "sim.key");
    unlink(o.sim_key);
    expect_refusal(st_collection_unchanged(c, &e), &e, ST_VERIFY, "sim.key");
    st_collection_close(c);
    made_dir_remove(&d);
}

struct watch {
    struct st_collection *c;
    bool stop; /* atomic */
    int failures;
};

static void *keep_watching(void *arg)
{
    struct watch *w = arg;
    struct st_err e;
    while (!__atomic_load_n(&w->stop, __ATOMIC_RELAXED))
        w->failures += st_collection_unchanged(w->c, &e) != 0;
    return NULL;
}

static void one_thread_watches_while_another_collects(void **state)
{
    struct made_dir d = made_dir();
    struct st_collect_opts o = {.sim_key = made_file(&d, "sim.key", SIM_SEED)};
    struct watch w = {0};
    pthread_t t;
    struct st_err e = {0};
    (void)state;
    assert_ok(st_collection_open((const char *[]){"sim"}, 1, &o, &w.c, &e), &e);
    assert_int_equal(pthread_create(&t, NULL, keep_watching, &w), 0);
    for (int i = 0; i < 50; i++) {
        struct st_bundle b = collect_from(w.c);
        st_bundle_free(&b);
    }
    __atomic_store_n(&w.stop, true, __ATOMIC_RELAXED);
    pthread_join(t, NULL);
    assert_int_equal(w.failures, 0);
    st_collection_close(w.c);
    made_dir_remove(&d);
}

/* What a collector takes from the directory of endorsements, its verifier must have a use for: else nobody could read
 * the bundle. */
static void every_collector_has_a_verifier_that_uses_what_it_gives(void **state)
{
    (void)state;
    for (int i = 0; st_collector_at(i); i++) {
        const struct st_collector *c = st_collector_at(i);
        const struct st_verifier *v = st_verifier_find(c->kind);
        assert_non_null(v);
        assert_int_equal(c->endorsements & ~v->endorsements, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_simulated_bundle_is_read_back_and_accepted),
        cmocka_unit_test(kinds_that_are_no_kinds_or_come_twice_or_cannot_carry_are_refused),
        cmocka_unit_test(a_simulated_machine_has_changed_when_its_key_file_has),
        cmocka_unit_test(one_thread_watches_while_another_collects),
        cmocka_unit_test(every_collector_has_a_verifier_that_uses_what_it_gives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
