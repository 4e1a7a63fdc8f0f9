/* What a node lets through to its engine: the message around the body, the fields of the body, their shapes. */
#include "expect.h"

#include "service/node_request.h"

#include <stdlib.h>

#define CHAT "/v1/chat/completions"
#define TEXT "/v1/completions"
#define MESSAGES "\"messages\":[{\"role\":\"user\",\"content\":\"q\"}]"

static struct st_span span(const char *s)
{
    return (struct st_span){(const uint8_t *)s, strlen(s)};
}

/* Fed in pieces of `step` bytes. 0, or -1 with *err. */
static int read_in(const struct st_buf *text, size_t step, struct st_node_request *r, struct st_node_error *err)
{
    struct st_err e;
    int rc = 0;
    assert_ok(st_node_request_init(r, text->len, &e), &e);
    for (size_t at = 0; !rc && at < text->len; at += step) {
        size_t n = text->len - at < step ? text->len - at : step;
        rc = st_node_request_add(r, (struct st_span){(const uint8_t *)text->p + at, n}, err);
    }
    return rc ? rc : st_node_request_end(r, err);
}

static int read_request(const struct st_bhttp_head *head, const char *json, struct st_node_request *r,
                        struct st_node_error *err)
{
    struct st_buf text = {0};
    struct st_err e;
    assert_ok(st_bhttp_write(&text, ST_BHTTP_REQUEST, head, span(json), (struct st_bhttp_fields){0}, &e), &e);
    st_bhttp_pad(&text, 0, st_bhttp_bucket(text.len));
    int rc = read_in(&text, 1000, r, err);
    st_buf_free(&text);
    return rc;
}

static const struct st_bhttp_field json_field = {{(const uint8_t *)"content-type", 12},
                                                 {(const uint8_t *)"application/json", 16}};

static struct st_bhttp_head plain_head(const char *path)
{
    return (struct st_bhttp_head){.method = span("POST"),
                                  .scheme = span("https"),
                                  .authority = span("node"),
                                  .path = span(path),
                                  .fields = {&json_field, 1}};
}

static void expect_body(const char *path, const char *json, const char *param)
{
    struct st_node_request r;
    struct st_node_error err;
    const struct st_bhttp_head head = plain_head(path);
    int rc = read_request(&head, json, &r, &err);
    if (param && (rc == 0 || err.status != 400 || strcmp(err.param, param) != 0))
        fail_msg("%s: want %s refused, got %d %s", json, param, rc, rc ? err.param : "");
    if (!param && rc)
        fail_msg("%s: %d %s %s", json, err.status, err.param, err.message);
    st_node_request_wipe(&r);
}

static void every_field_passes_with_a_value_of_its_shape(void **state)
{
    (void)state;
    expect_body(CHAT,
                "{\"model\":\"m\",\"messages\":[{\"role\":\"system\",\"content\":[{\"type\":\"text\",\"text\":\"t\"}]},"
                "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"1\",\"type\":\"function\","
                "\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]},{\"role\":\"tool\",\"content\":\"r\","
                "\"tool_call_id\":\"1\",\"name\":\"f\"}],\"max_tokens\":5,\"max_completion_tokens\":5,\"stream\":true,"
                "\"stream_options\":{\"include_usage\":true},\"n\":1,\"stop\":[\"a\",\"b\"],\"stop_token_ids\":[1],"
                "\"temperature\":0.5,\"top_p\":1,\"top_k\":-1,\"min_p\":0,\"repetition_penalty\":1.1,"
                "\"presence_penalty\":-2,\"frequency_penalty\":2,\"seed\":-5,\"logit_bias\":{\"5\":-100},"
                "\"logprobs\":true,\"top_logprobs\":3,\"ignore_eos\":false,\"min_tokens\":0,"
                "\"response_format\":{\"type\":\"json_object\"},\"tools\":[{\"type\":\"function\"}],"
                "\"tool_choice\":\"auto\",\"parallel_tool_calls\":false,\"reasoning_effort\":\"low\","
                "\"return_token_ids\":true,\"chat_template_kwargs\":{\"enable_thinking\":false}}",
                NULL);
    expect_body(TEXT, "{\"prompt\":\"p\",\"logprobs\":5,\"echo\":true,\"suffix\":\"s\",\"best_of\":1,\"seed\":null}",
                NULL);
    expect_body(TEXT, "{\"prompt\":[1,2,3]}", NULL);
    expect_body(TEXT, "{\"prompt\":[[1,2],[3]]}", NULL);
    expect_body(TEXT, "{\"prompt\":[\"a\",\"b\"]}", NULL);
    expect_body(CHAT, "{" MESSAGES ",\"tool_choice\":{\"type\":\"function\"}}", NULL);
}

static void what_is_not_known_is_refused_by_name(void **state)
{
    (void)state;
    static const char *const names[] = {"cache_salt", "cache_prompt", "id_slot",  "kv_transfer_params",
                                        "user",       "store",        "metadata", "chat_template",
                                        "lora",       "priority",     "audio",    "Messages",
                                        "",           "service_tier"};
    char json[256];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(json, sizeof json, "{" MESSAGES ",\"%s\":null}", names[i]);
        expect_body(CHAT, json, names[i]);
        snprintf(json, sizeof json, "{\"prompt\":\"p\",\"%s\":1}", names[i]);
        expect_body(TEXT, json, names[i]);
    }
    /* Of the other endpoint. */
    expect_body(CHAT, "{" MESSAGES ",\"prompt\":\"p\"}", "prompt");
    expect_body(TEXT, "{\"prompt\":\"p\"," MESSAGES "}", "messages");
    expect_body(TEXT, "{\"prompt\":\"p\",\"tools\":[]}", "tools");
}

static void values_of_another_shape_or_size_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *field, *value;
    } rows[] = {{"max_tokens", "-1"},
                {"max_tokens", "1.5"},
                {"max_tokens", "\"5\""},
                {"n", "0"},
                {"n", "129"},
                {"temperature", "-0.1"},
                {"temperature", "\"hot\""},
                {"top_p", "1.01"},
                {"stream", "1"},
                {"stream_options", "{\"include_usage\":true,\"x\":1}"},
                {"stream_options", "{\"include_usage\":1}"},
                {"stop", "[1]"},
                {"stop", "{}"},
                {"stop_token_ids", "[-1]"},
                {"stop_token_ids", "5"},
                {"logit_bias", "{\"5\":\"x\"}"},
                {"logit_bias", "[]"},
                {"logprobs", "5"},
                {"tools", "{}"},
                {"tools", "[1]"},
                {"tool_choice", "5"},
                {"response_format", "\"json\""},
                {"chat_template_kwargs", "[]"},
                {"chat_template_kwargs", "{\"chat_template\":\"{% for i in range(9) %}{% endfor %}\"}"},
                {"chat_template_kwargs", "{\"enable_thinking\":true,\"tokenize\":true}"},
                {"chat_template_kwargs", "{\"documents\":null}"},
                {"chat_template_kwargs", "{\"x\":{\"y\":1}}"},
                {"model", "\"\""},
                {"model", "5"},
                {"seed", "1.5"},
                {"messages", "[]"},
                {"messages", "\"q\""},
                {"messages", "[1]"},
                {"messages", "[{\"content\":\"q\"}]"},
                {"messages", "[{\"role\":5,\"content\":\"q\"}]"},
                {"messages", "[{\"role\":\"user\",\"content\":\"q\",\"cache_control\":{}}]"},
                {"messages", "[{\"role\":\"user\",\"content\":5}]"},
                {"messages", "[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":"
                             "\"https://a.example\"}}]}]"},
                {"messages", "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"t\",\"x\":1}]}]"},
                {"messages", "[{\"role\":\"user\",\"tool_calls\":{}}]"}};
    char json[512];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const bool other = strcmp(rows[i].field, "messages") != 0;
        snprintf(json, sizeof json, "{%s\"%s\":%s}", other ? MESSAGES "," : "", rows[i].field, rows[i].value);
        expect_body(CHAT, json, rows[i].field);
    }
    expect_body(CHAT, "{\"model\":\"m\"}", "messages");
    expect_body(CHAT, "{\"messages\":null}", "messages");
    expect_body(TEXT, "{\"prompt\":5}", "prompt");
    expect_body(TEXT, "{\"prompt\":[1,\"a\"]}", "prompt");
    expect_body(TEXT, "{\"prompt\":\"p\",\"logprobs\":true}", "logprobs");
    expect_body(TEXT, "[]", "");
    expect_body(TEXT, "{\"prompt\":\"p\",\"prompt\":\"q\"}", "");
    expect_body(TEXT, "", "");
}

/* What a proxy passes on, a node takes. */
static void every_field_that_proxies_seal_is_known(void **state)
{
    (void)state;
    enum { REFUSED, DROPPED, PASSED, CHAT_ROW = 1, TEXT_ROW = 2, BOTH_ROW = 3 };
    static const struct {
        const char *name;
        int endpoints, sealed;
    } rows[] = {
#define X(name, endpoints, verdict, neutral, sealed, note) {name, ENDPOINTS_##endpoints, sealed},
#define ENDPOINTS_CHAT CHAT_ROW
#define ENDPOINTS_TEXT TEXT_ROW
#define ENDPOINTS_BOTH BOTH_ROW
#include "service/openai_fields.def"
#undef X
    };
    char json[256];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int ep = 1; ep <= 2; ep++) {
            const bool chat = ep == CHAT_ROW;
            if (rows[i].sealed != PASSED || !(rows[i].endpoints & ep) || !strcmp(rows[i].name, "messages") ||
                !strcmp(rows[i].name, "prompt"))
                continue;
            snprintf(json, sizeof json, "{%s,\"%s\":null}", chat ? MESSAGES : "\"prompt\":\"p\"", rows[i].name);
            expect_body(chat ? CHAT : TEXT, json, NULL);
        }
}

static void the_message_around_it_has_one_form(void **state)
{
    (void)state;
    static const char ok[] = "{" MESSAGES "}";
    const struct st_bhttp_field salted[] = {
        json_field, {span("cache-salt"), span("00112233445566778899aabbccddeeff")}, json_field, {span("x"), span("y")}};
    struct st_node_request r;
    struct st_node_error err;
    struct st_bhttp_head h = plain_head(CHAT);
    h.fields = (struct st_bhttp_fields){salted, 2};
    assert_int_equal(read_request(&h, ok, &r, &err), 0);
    assert_string_equal(r.salt, "00112233445566778899aabbccddeeff");
    assert_int_equal(r.endpoint, ST_NODE_CHAT);
    uint8_t hash[32];
    st_sha256(ok, strlen(ok), hash);
    assert_memory_equal(r.hash, hash, 32);
    st_node_request_wipe(&r);
    const struct {
        const char *method, *scheme, *authority, *path;
        const struct st_bhttp_field *fields;
        size_t n;
        int status;
    } rows[] = {{"GET", "https", "node", CHAT, salted, 1, 405},
                {"POST", "http", "node", CHAT, salted, 1, 400},
                {"POST", "https", "", CHAT, salted, 1, 400},
                {"POST", "https", "gateway", CHAT, salted, 1, 400},
                {"POST", "https", "node", "/v1/models", salted, 1, 404},
                {"POST", "https", "node", CHAT "?x", salted, 1, 404},
                {"POST", "https", "node", CHAT, salted, 0, 415},
                {"POST", "https", "node", CHAT, salted + 1, 1, 415},
                {"POST", "https", "node", CHAT, salted, 3, 400},
                {"POST", "https", "node", CHAT, salted, 4, 400},
                {"POST", "https", "node", CHAT, salted + 2, 2, 400}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        h = (struct st_bhttp_head){.method = span(rows[i].method),
                                   .scheme = span(rows[i].scheme),
                                   .authority = span(rows[i].authority),
                                   .path = span(rows[i].path),
                                   .fields = {rows[i].fields, rows[i].n}};
        assert_int_equal(read_request(&h, ok, &r, &err), -1);
        if (err.status != rows[i].status)
            fail_msg("row %zu: want %d, got %d %s", i, rows[i].status, err.status, err.message);
        st_node_request_wipe(&r);
    }
    static const char *const salts[] = {"", "00112233445566778899aabbccddee", "00112233445566778899AABBCCDDEEFF",
                                        "00112233445566778899aabbccddeef\""};
    for (size_t i = 0; i < sizeof salts / sizeof *salts; i++) {
        const struct st_bhttp_field f[] = {json_field, {span("cache-salt"), span(salts[i])}};
        h = plain_head(CHAT);
        h.fields = (struct st_bhttp_fields){f, 2};
        assert_int_equal(read_request(&h, ok, &r, &err), -1);
        assert_string_equal(err.param, "cache-salt");
        st_node_request_wipe(&r);
    }
}

static void a_message_cut_anywhere_is_refused(void **state)
{
    (void)state;
    struct st_buf text = {0};
    struct st_err e;
    struct st_node_request r;
    struct st_node_error err;
    const struct st_bhttp_head head = plain_head(CHAT);
    assert_ok(st_bhttp_write(&text, ST_BHTTP_REQUEST, &head, span("{" MESSAGES "}"), (struct st_bhttp_fields){0}, &e),
              &e);
    assert_int_equal(read_in(&text, 1, &r, &err), 0);
    st_node_request_wipe(&r);
    const size_t whole = text.len - 1; /* its last byte says that there is no trailer, and may be missing */
    for (size_t len = 0; len < whole; len++) {
        text.len = len;
        assert_int_equal(read_in(&text, 7, &r, &err), -1);
        assert_true(err.status == 400 || err.status == 415); /* a head without fields is whole */
        st_node_request_wipe(&r);
    }
    st_buf_free(&text);
}

static void a_trailer_is_refused(void **state)
{
    (void)state;
    struct st_buf text = {0};
    struct st_err e;
    struct st_node_request r;
    struct st_node_error err;
    const struct st_bhttp_head head = plain_head(CHAT);
    assert_ok(st_bhttp_write(&text, ST_BHTTP_REQUEST, &head, span("{" MESSAGES "}"),
                             (struct st_bhttp_fields){&json_field, 1}, &e),
              &e);
    assert_int_equal(read_in(&text, 100, &r, &err), -1);
    st_node_request_wipe(&r);
    st_buf_free(&text);
}

static void errors_name_fields_and_hold_no_values(void **state)
{
    (void)state;
    struct st_node_request r;
    struct st_node_error err;
    struct st_buf b = {0};
    const struct st_bhttp_head head = plain_head(CHAT);
    assert_int_equal(read_request(&head, "{" MESSAGES ",\"stop\":{\"my\":\"secret\"}}", &r, &err), -1);
    st_node_error_json(&err, &b);
    assert_string_equal(b.p, "{\"error\":{\"message\":\"stop: want a text or an array of texts\",\"type\":"
                             "\"invalid_request_error\",\"param\":\"stop\",\"code\":\"invalid_value\"}}");
    st_buf_free(&b);
    st_node_request_wipe(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field_passes_with_a_value_of_its_shape),
        cmocka_unit_test(what_is_not_known_is_refused_by_name),
        cmocka_unit_test(values_of_another_shape_or_size_are_refused_by_name),
        cmocka_unit_test(every_field_that_proxies_seal_is_known),
        cmocka_unit_test(the_message_around_it_has_one_form),
        cmocka_unit_test(a_message_cut_anywhere_is_refused),
        cmocka_unit_test(a_trailer_is_refused),
        cmocka_unit_test(errors_name_fields_and_hold_no_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
