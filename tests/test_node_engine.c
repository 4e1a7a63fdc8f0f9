/* Which engines a node takes, what keeps their clients apart, and an engine that is the node's own child. */
#include "expect.h"

#include "base/file.h"
#include "crypto/digest.h"
#include "node_make.h"

#include <poll.h>
#include <signal.h>

#define CHAT "/v1/chat/completions"
#define ASKS "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"a secret\"}]}"
#define SALT "00112233445566778899aabbccddeeff"
#define CACHE_LINE "# HELP x\nvllm:cache_config_info{block_size=\"16\",enable_prefix_caching=\"%s\",x=\"y\"} 1.0\n"

static struct node_pair p;

static int set_up(void **state)
{
    (void)state;
    pair_make(&p);
    p.engine.whole = "{}";
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    pair_close(&p);
    return 0;
}

/* The engine's field of a request with this salt, as JSON text; owned by the caller. */
static char *sent(const char *salt, const char *field)
{
    struct sealed_reply r;
    struct node_key k = node_key(p.about.port, NONCE_A);
    ask_sealed(p.about.port, &k, CHAT, salt, ASKS, &r);
    assert_int_equal(r.status, 200);
    st_buf_free(&r.content);
    json_t *body = fake_body(&p.engine);
    const json_t *v = json_object_get(body, field);
    char *text = v ? json_dumps(v, JSON_ENCODE_ANY) : strdup("none");
    json_decref(body);
    return text;
}

static void expect_sent(const char *salt, const char *field, const char *want)
{
    char *text = sent(salt, field);
    assert_string_equal(text, want);
    free(text);
}

static void expect_refused(int code, const char *says)
{
    struct st_err e;
    struct st_node *n;
    expect_refusal(st_node_new(&p.o, &n, &e), &e, code, says);
}

static void vllm_gets_the_clients_salt_or_a_random_one(void **state)
{
    (void)state;
    char metrics[256];
    snprintf(metrics, sizeof metrics, CACHE_LINE, "True");
    p.engine.owner = "vllm";
    p.engine.version = "{\"version\":\"0.10.2\"}";
    p.engine.metrics = metrics;
    node_open(&p);
    assert_string_equal(p.about.engine, "vLLM");
    expect_sent(SALT, "cache_salt", "\"" SALT "\"");
    char *a = sent(NULL, "cache_salt"), *b = sent(NULL, "cache_salt");
    assert_int_equal(strlen(a), 64 + 2);
    assert_string_not_equal(a, b);
    free(a);
    free(b);
}

static void vllm_without_a_prefix_cache_needs_no_salt(void **state)
{
    (void)state;
    char metrics[256];
    snprintf(metrics, sizeof metrics, CACHE_LINE, "False");
    p.engine.owner = "vllm";
    p.engine.version = "{\"version\":\"0.6.0\"}";
    p.engine.metrics = metrics;
    node_open(&p);
    expect_sent(SALT, "cache_salt", "none");
}

static void vllm_that_cannot_salt_is_refused(void **state)
{
    (void)state;
    static const char *const versions[] = {"{\"version\":\"0.9.2\"}", "{\"version\":\"0.10.1.1\"}",
                                           "{\"version\":\"main\"}", "{}", NULL};
    char metrics[256];
    snprintf(metrics, sizeof metrics, CACHE_LINE, "True");
    p.engine.owner = "vllm";
    for (int i = 0; i < 5; i++) {
        p.engine.metrics = i % 2 ? metrics : NULL;
        p.engine.version = versions[i];
        expect_refused(ST_POLICY, "vLLM before 0.10.2");
    }
}

static void newer_versions_of_vllm_are_taken(void **state)
{
    (void)state;
    p.engine.owner = "vllm";
    p.engine.version = "{\"version\":\"0.11.0rc2.dev3+g1234\"}";
    node_open(&p);
    expect_sent(SALT, "cache_salt", "\"" SALT "\"");
}

static void llama_cpp_gets_its_cache_switched_off(void **state)
{
    (void)state;
    p.engine.owner = "llamacpp";
    p.engine.props = "{\"total_slots\":2}";
    node_open(&p);
    assert_string_equal(p.about.engine, "llama.cpp");
    expect_sent(SALT, "cache_prompt", "false");
    expect_sent(NULL, "cache_salt", "none");
}

static void *ask_in_thread(void *arg)
{
    struct sealed_reply r;
    ask_sealed(p.about.port, arg, CHAT, NULL, ASKS, &r);
    st_buf_free(&r.content);
    return NULL;
}

static void slots_of_llama_cpp_are_named_and_shared_out(void **state)
{
    (void)state;
    static const char *const pieces[] = {"data: 1\n\n", "data: 2\n\n"};
    pthread_t first;
    p.engine.owner = "llamacpp";
    p.engine.props = "{\"total_slots\":2}";
    node_open(&p);
    expect_sent(NULL, "id_slot", "0");
    expect_sent(NULL, "id_slot", "0");
    struct node_key k = node_key(p.about.port, NONCE_A);
    p.engine.pieces = pieces;
    p.engine.n_piece = 2;
    p.engine.gap_ms = 300;
    p.engine.n_asked = 0;
    assert_int_equal(pthread_create(&first, NULL, ask_in_thread, &k), 0);
    while (p.engine.n_asked == 0)
        poll(NULL, 0, 5);
    expect_sent(NULL, "id_slot", "1"); /* the other one runs */
    pthread_join(first, NULL);
    expect_sent(NULL, "id_slot", "0");
}

static void llama_cpp_that_hides_its_slots_is_refused(void **state)
{
    (void)state;
    static const char *const props[] = {NULL, "{}", "{\"total_slots\":0}", "{\"total_slots\":\"4\"}"};
    p.engine.owner = "llamacpp";
    for (size_t i = 0; i < sizeof props / sizeof *props; i++) {
        p.engine.props = props[i];
        expect_refused(ST_POLICY, "how many slots");
    }
}

static void sglang_must_say_that_its_cache_is_off(void **state)
{
    (void)state;
    p.engine.owner = "sglang";
    p.engine.info = "{\"disable_radix_cache\": false}";
    expect_refused(ST_POLICY, "--disable-radix-cache");
    p.engine.info = NULL;
    expect_refused(ST_POLICY, "--disable-radix-cache");
    p.engine.info = "{\"disable_radix_cache\": true}";
    node_open(&p);
    expect_sent(SALT, "cache_salt", "none");
}

static void an_engine_that_is_not_known_is_refused(void **state)
{
    (void)state;
    p.engine.owner = "somebody";
    expect_refused(ST_POLICY, "known: vLLM, llama.cpp, SGLang, sotto serve");
}

static void an_engine_elsewhere_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *upstream;
        int code;
    } rows[] = {{"http://192.0.2.1:8000", ST_POLICY},
                {"http://engine.example:8000", ST_POLICY},
                {"http://0.0.0.0:8000", ST_POLICY},
                {"http://[2001:db8::1]:8000", ST_POLICY},
                {"https://127.0.0.1:8000", ST_USAGE},
                {"http://127.0.0.1:8000/v1", ST_USAGE},
                {"http://u@127.0.0.1:8000", ST_USAGE},
                {"127.0.0.1:8000", ST_USAGE},
                {"unix:", ST_USAGE}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        p.o.upstream = rows[i].upstream;
        expect_refused(rows[i].code, "--upstream: ");
    }
}

static void another_engine_at_the_same_address_is_judged_anew(void **state)
{
    (void)state;
    struct sealed_reply r;
    p.engine.owner = "llamacpp";
    p.engine.props = "{\"total_slots\":2}";
    node_open(&p);
    struct node_key k = node_key(p.about.port, NONCE_A);
    const int port = p.engine.port;
    fake_stop(&p.engine);
    p.engine.owner = "somebody";
    ask_sealed(p.about.port, &k, CHAT, NULL, ASKS, &r); /* finds out that it is gone */
    st_buf_free(&r.content);
    p.engine.n_asked = 0;
    fake_start(&p.engine, port);
    poll(NULL, 0, 600);
    ask_sealed(p.about.port, &k, CHAT, NULL, ASKS, &r);
    assert_int_equal(r.status, 503);
    st_buf_free(&r.content);
    assert_int_equal(p.engine.n_asked, 0);
}

static void an_engine_that_does_not_come_is_an_error_that_says_so(void **state)
{
    (void)state;
    const int port = p.engine.port;
    fake_stop(&p.engine);
    p.o.engine_wait_s = 0.3;
    expect_refused(ST_IO, "no engine within");
    fake_start(&p.engine, port);
}

/* ---- a child ---- */

/* This program as an engine: says one event, then dies as by kill -9. */
static int be_engine(int port)
{
    static const char *const pieces[] = {"data: 1\n\n", "data: 2\n\n"};
    static struct fake_engine f = {.owner = "sotto", .pieces = pieces, .n_piece = 2, .gap_ms = 3000};
    printf("this may be a prompt\n");
    fflush(stdout);
    fake_start(&f, port);
    while (f.n_asked == 0)
        poll(NULL, 0, 10);
    poll(NULL, 0, 100);
    raise(SIGKILL);
    return 1;
}

static void an_engine_of_its_own_is_named_and_its_death_is_told_inside(void **state)
{
    (void)state;
    char port[16], self[] = "/proc/self/exe", word[] = "engine";
    char *command[] = {self, word, port, NULL};
    struct sealed_reply r;
    struct st_err e;
    fake_stop(&p.engine); /* its port is free now */
    snprintf(port, sizeof port, "%d", p.engine.port);
    p.o.command = command;
    node_open(&p);
    assert_non_null(p.about.engine_digest);
    struct st_bundle b;
    node_bundle(p.about.port, NONCE_A, &b);
    assert_true(b.binding.has_engine);
    assert_memory_equal(b.binding.engine, p.about.engine_digest, 32);
    st_bundle_free(&b);

    /* As documented: length-prefixed digest of the file, and words. */
    struct st_map map;
    struct st_buf text = {0};
    uint8_t file[32], digest[32];
    assert_ok(st_map_open(self, &map, &e), &e);
    st_sha256(map.p, map.len, file);
    st_map_close(&map);
    st_buf_add(&text, "\x20\0\0\0", 4);
    st_buf_add(&text, file, 32);
    for (int i = 0; command[i]; i++) {
        const uint8_t len[4] = {(uint8_t)strlen(command[i])};
        st_buf_add(&text, len, 4);
        st_buf_add_str(&text, command[i]);
    }
    st_sha256(text.p, text.len, digest);
    assert_memory_equal(digest, p.about.engine_digest, 32);
    st_buf_free(&text);

    struct node_key k = node_key(p.about.port, NONCE_A);
    ask_sealed(p.about.port, &k, CHAT, NULL, ASKS, &r);
    assert_true(begins_with(&r, "data: 1\n\n"));
    assert_non_null(strstr(r.content.p, "\"code\":\"engine\""));
    st_buf_free(&r.content);
    for (int i = 0; i < 200; i++) { /* the node ends with it */
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)p.about.port)};
        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        bool gone = connect(fd, (struct sockaddr *)&a, sizeof a) != 0;
        close(fd);
        if (gone)
            break;
        poll(NULL, 0, 10);
    }
    expect_refusal(st_node_stop(p.node, &e), &e, ST_IO, "ended by signal 9");
    fake_start(&p.engine, 0);
}

static void an_engine_that_cannot_be_started_is_an_error(void **state)
{
    (void)state;
    char none[] = "/nowhere/engine", plain[] = "no-such-engine-program", fails[] = "/bin/false";
    char *commands[][2] = {{none, NULL}, {plain, NULL}, {fails, NULL}};
    const char *says[] = {"/nowhere/engine", "no such program in PATH", "ended with status 1"};
    fake_stop(&p.engine);
    for (int i = 0; i < 3; i++) {
        p.o.command = commands[i];
        expect_refused(ST_IO, says[i]);
    }
    fake_start(&p.engine, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(vllm_gets_the_clients_salt_or_a_random_one),
        TEST(vllm_without_a_prefix_cache_needs_no_salt),
        TEST(vllm_that_cannot_salt_is_refused),
        TEST(newer_versions_of_vllm_are_taken),
        TEST(llama_cpp_gets_its_cache_switched_off),
        TEST(slots_of_llama_cpp_are_named_and_shared_out),
        TEST(llama_cpp_that_hides_its_slots_is_refused),
        TEST(sglang_must_say_that_its_cache_is_off),
        TEST(an_engine_that_is_not_known_is_refused),
        TEST(an_engine_elsewhere_is_refused),
        TEST(another_engine_at_the_same_address_is_judged_anew),
        TEST(an_engine_that_does_not_come_is_an_error_that_says_so),
        TEST(an_engine_of_its_own_is_named_and_its_death_is_told_inside),
        TEST(an_engine_that_cannot_be_started_is_an_error),
    };
    if (argc == 3 && strcmp(argv[1], "engine") == 0)
        return be_engine(atoi(argv[2]));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
