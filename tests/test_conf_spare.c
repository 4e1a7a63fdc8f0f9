/* Exchanges begun ahead of need: each opens like any other, once, and for its own key. */
#include "expect.h"
#include "service/conf_spare.h"

#include <string.h>

static struct event_base *base;

static int set_up(void **state)
{
    (void)state;
    base = event_base_new();
    return base ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    event_base_free(base);
    return 0;
}

static struct st_keyring *new_ring(void)
{
    static const struct st_keyring_opts o = {
        .kem = ST_HPKE_KEM_X25519, .aeads = {ST_AEAD_AES_128_GCM}, .n_aeads = 1, .max_requests = 1024};
    struct st_err e;
    struct st_keyring *r;
    assert_ok(st_keyring_new(&o, &r, &e), &e);
    return r;
}

static struct st_spares *new_spares(void)
{
    struct st_err e;
    struct st_spares *s;
    assert_ok(st_spares_new(base, &s, &e), &e);
    return s;
}

/* A request and its reply, there and back; a ring takes no encapsulated key twice. */
static void exchange(struct st_spares *s, struct st_keyring *ring)
{
    struct st_err e;
    struct st_ohttp client, server;
    struct st_buf sealed = {0}, reply = {0};
    struct st_span text;
    assert_ok(st_spares_begin(s, st_keyring_current(ring), &client, &sealed, &e), &e);
    assert_ok(st_ohttp_seal_all(&client, "question", 8, &sealed, &e), &e);
    st_ohttp_server(&server, ST_OHTTP_CHUNKED, ring, 0);
    struct st_span in = {(uint8_t *)sealed.p, sealed.len};
    assert_ok(st_ohttp_open(&server, &in, &text, &e), &e);
    assert_ok(st_ohttp_open_end(&server, &text, &e), &e);
    assert_int_equal(text.len, 8);
    assert_memory_equal(text.p, "question", 8);
    assert_ok(st_ohttp_reply(&server, &reply, &e), &e);
    assert_ok(st_ohttp_seal_all(&server, "answer", 6, &reply, &e), &e);
    in = (struct st_span){(uint8_t *)reply.p, reply.len};
    assert_ok(st_ohttp_open(&client, &in, &text, &e), &e);
    assert_ok(st_ohttp_open_end(&client, &text, &e), &e);
    assert_int_equal(text.len, 6);
    assert_memory_equal(text.p, "answer", 6);
    st_ohttp_wipe(&client);
    st_ohttp_wipe(&server);
    st_buf_free(&sealed);
    st_buf_free(&reply);
}

/* What is to be made soon is made. */
static void turn(void)
{
    event_base_dispatch(base);
}

static void what_was_begun_ahead_opens_once_like_any_other(void **state)
{
    (void)state;
    struct st_spares *s = new_spares();
    struct st_keyring *ring = new_ring();
    exchange(s, ring);
    assert_int_equal(st_spares_used(s), 0);
    turn();
    exchange(s, ring);
    assert_int_equal(st_spares_used(s), 1);
    exchange(s, ring); /* the next one is not made yet */
    assert_int_equal(st_spares_used(s), 1);
    turn();
    exchange(s, ring);
    assert_int_equal(st_spares_used(s), 2);
    st_keyring_free(ring);
    st_spares_free(s);
}

static void another_key_is_never_served_with_what_was_begun_for_one(void **state)
{
    (void)state;
    struct st_err e;
    struct st_spares *s = new_spares();
    struct st_keyring *a = new_ring(), *b = new_ring();
    exchange(s, a);
    exchange(s, b);
    turn();
    exchange(s, b);
    exchange(s, a);
    assert_int_equal(st_spares_used(s), 2);
    turn();
    assert_ok(st_keyring_rotate(a, &e), &e);
    exchange(s, a);
    assert_int_equal(st_spares_used(s), 2);
    st_keyring_free(a);
    st_keyring_free(b);
    st_spares_free(s);
}

static void keys_that_nobody_asks_for_any_more_make_way(void **state)
{
    (void)state;
    struct st_err e;
    struct st_spares *s = new_spares();
    struct st_keyring *ring = new_ring();
    for (int i = 0; i < 100; i++) {
        exchange(s, ring);
        turn();
        exchange(s, ring);
        assert_ok(st_keyring_rotate(ring, &e), &e);
    }
    assert_int_equal(st_spares_used(s), 100);
    st_keyring_free(ring);
    st_spares_free(s);
}

static void a_key_that_is_none_is_refused_each_time(void **state)
{
    (void)state;
    struct st_err e;
    struct st_spares *s = new_spares();
    struct st_ohttp x;
    struct st_buf out = {0};
    const struct st_ohttp_config zero = {
        .id = 1, .kem = ST_HPKE_KEM_X25519, .suites = {{ST_HPKE_KDF_SHA256, ST_AEAD_AES_128_GCM}}, .n_suites = 1};
    for (int i = 0; i < 3; i++) {
        expect_refusal(st_spares_begin(s, &zero, &x, &out, &e), &e, ST_INPUT, "public key");
        turn();
    }
    st_buf_free(&out);
    st_spares_free(s);
}

static void without_spares_an_exchange_is_begun_when_it_is_needed(void **state)
{
    (void)state;
    struct st_keyring *ring = new_ring();
    exchange(NULL, ring);
    st_keyring_free(ring);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_begun_ahead_opens_once_like_any_other),
        cmocka_unit_test(another_key_is_never_served_with_what_was_begun_for_one),
        cmocka_unit_test(keys_that_nobody_asks_for_any_more_make_way),
        cmocka_unit_test(a_key_that_is_none_is_refused_each_time),
        cmocka_unit_test(without_spares_an_exchange_is_begun_when_it_is_needed),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
