/* Requests of the OpenAI API: what is read, what is refused by name; stop strings; event streams; the words of replies.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/hooks.h"
#include "net/http_parse.h"
#include "service/api_keys.h"
#include "service/metrics.h"
#include "service/openai.h"
#include "service/stops.h"
#include "text/sse.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct st_oai_error err;

static int parse(enum st_oai_endpoint ep, const char *body, struct st_oai_request *r)
{
    memset(&err, 0, sizeof err);
    return st_oai_parse(ep, body, strlen(body), r, &err);
}

static void refused(enum st_oai_endpoint ep, const char *body, const char *param, const char *code)
{
    struct st_oai_request r;
    if (parse(ep, body, &r) == 0)
        fail_msg("accepted: %s", body);
    if (err.status != 400 || strcmp(err.param, param) != 0 || strcmp(err.code, code) != 0)
        fail_msg("%s: status %d, param '%s', code '%s': %s", body, err.status, err.param, err.code, err.message);
    if (*param && !strstr(err.message, param))
        fail_msg("%s: the message does not name '%s': %s", body, param, err.message);
    st_oai_request_wipe(&r);
}

static void accepted(enum st_oai_endpoint ep, const char *body)
{
    struct st_oai_request r;
    if (parse(ep, body, &r))
        fail_msg("refused: %s: %s", body, err.message);
    st_oai_request_wipe(&r);
}

static void chat_request_is_read(void **state)
{
    (void)state;
    struct st_oai_request r;
    assert_int_equal(
        parse(ST_OAI_CHAT,
              "{\"model\":\"m\",\"messages\":[{\"role\":\"developer\",\"content\":\"be brief\"},"
              "{\"role\":\"user\",\"name\":\"u\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
              "{\"type\":\"text\",\"text\":\"b\"}]},{\"role\":\"assistant\",\"content\":\"c\",\"refusal\":null,"
              "\"tool_calls\":[]},{\"role\":\"user\",\"content\":\"d\"}],\"max_completion_tokens\":7,"
              "\"stop\":[\"x\",\"yy\"],\"temperature\":0.5,\"top_p\":0.9,\"n\":2,\"seed\":-3,\"stream\":true,"
              "\"stream_options\":{\"include_usage\":true},\"logprobs\":true,\"top_logprobs\":3,"
              "\"logit_bias\":{\"5\":-100,\"6\":1.5},\"stop_token_ids\":[1,2],\"top_k\":-1,\"user\":\"z\"}",
              &r),
        0);
    assert_int_equal(r.n_msg, 4);
    assert_int_equal(r.msgs[0].role, ST_CHAT_SYSTEM);
    assert_int_equal(r.msgs[1].len, 2);
    assert_memory_equal(r.msgs[1].text, "ab", 2);
    assert_string_equal(r.msgs[3].text, "d");
    assert_int_equal(r.max_tokens, 7);
    assert_int_equal(r.n_stop, 2);
    assert_string_equal(r.stop[1], "yy");
    assert_int_equal(r.n, 2);
    assert_true(r.has_seed && r.stream && r.include_usage);
    assert_int_equal(r.sampling.n_logprobs, 3);
    assert_int_equal(r.sampling.top_k, 0);
    assert_int_equal(r.sampling.n_bias, 2);
    assert_int_equal(r.bias[0].id, 5);
    assert_int_equal(r.n_stop_ids, 2);
    st_oai_request_wipe(&r);
}

static void prompt_is_a_text_or_ids(void **state)
{
    (void)state;
    struct st_oai_request r;
    assert_int_equal(parse(ST_OAI_TEXT, "{\"prompt\":[\"one\"]}", &r), 0);
    assert_string_equal(r.text, "one");
    assert_int_equal(r.max_tokens, 16);
    assert_int_equal(r.sampling.n_logprobs, -1);
    st_oai_request_wipe(&r);
    assert_int_equal(parse(ST_OAI_TEXT, "{\"prompt\":[[3,4,5]],\"logprobs\":2,\"return_token_ids\":true}", &r), 0);
    assert_int_equal(r.n_ids, 3);
    assert_int_equal(r.ids[2], 5);
    assert_int_equal(r.sampling.n_logprobs, 2);
    assert_true(r.want_ids);
    st_oai_request_wipe(&r);
    accepted(ST_OAI_TEXT, "{\"prompt\":[1,2]}");
    refused(ST_OAI_TEXT, "{\"prompt\":[\"a\",\"b\"]}", "prompt", "unsupported");
    refused(ST_OAI_TEXT, "{\"prompt\":[]}", "prompt", "invalid_value");
    refused(ST_OAI_TEXT, "{\"prompt\":[1,-2]}", "prompt[1]", "invalid_value");
    refused(ST_OAI_TEXT, "{\"prompt\":[1,99999999999]}", "prompt[1]", "invalid_value");
    refused(ST_OAI_TEXT, "{\"prompt\":7}", "prompt", "invalid_value");
    refused(ST_OAI_TEXT, "{}", "prompt", "invalid_value");
}

#define MSG "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

static void wrong_values_are_refused_by_name(void **state)
{
    (void)state;
    static const char *const rows[][3] = {
        {"{" MSG ",\"temperature\":\"hot\"}", "temperature", "invalid_value"},
        {"{" MSG ",\"temperature\":2.5}", "temperature", "invalid_value"},
        {"{" MSG ",\"top_p\":-0.1}", "top_p", "invalid_value"},
        {"{" MSG ",\"n\":9}", "n", "invalid_value"},
        {"{" MSG ",\"n\":0}", "n", "invalid_value"},
        {"{" MSG ",\"n\":1.5}", "n", "invalid_value"},
        {"{" MSG ",\"max_tokens\":0}", "max_tokens", "invalid_value"},
        {"{" MSG ",\"max_tokens\":1e300}", "max_tokens", "invalid_value"},
        {"{" MSG ",\"max_tokens\":5,\"max_completion_tokens\":6}", "max_completion_tokens", "invalid_value"},
        {"{" MSG ",\"stream\":1}", "stream", "invalid_value"},
        {"{" MSG ",\"stream_options\":{\"include_usage\":true}}", "stream_options", "invalid_value"},
        {"{" MSG ",\"stream\":true,\"stream_options\":{\"x\":1}}", "stream_options.x", "unsupported"},
        {"{" MSG ",\"stop\":5}", "stop", "invalid_value"},
        {"{" MSG ",\"stop\":[\"\"]}", "stop", "invalid_value"},
        {"{" MSG ",\"stop_token_ids\":[\"a\"]}", "stop_token_ids", "invalid_value"},
        {"{" MSG ",\"logit_bias\":{\"x\":1}}", "logit_bias", "invalid_value"},
        {"{" MSG ",\"logit_bias\":{\"1\":101}}", "logit_bias", "invalid_value"},
        {"{" MSG ",\"logit_bias\":[1]}", "logit_bias", "invalid_value"},
        {"{" MSG ",\"top_logprobs\":5}", "top_logprobs", "invalid_value"},
        {"{" MSG ",\"logprobs\":true,\"top_logprobs\":21}", "top_logprobs", "invalid_value"},
        {"{" MSG ",\"logprobs\":5}", "logprobs", "invalid_value"},
        {"{" MSG ",\"model\":5}", "model", "invalid_value"},
        {"{" MSG ",\"seed\":\"x\"}", "seed", "invalid_value"},
        {"{\"messages\":[]}", "messages", "invalid_value"},
        {"{\"messages\":{}}", "messages", "invalid_value"},
        {"{\"messages\":[5]}", "messages[0]", "invalid_value"},
        {"{\"messages\":[{\"content\":\"x\"}]}", "messages[0].role", "invalid_value"},
        {"{\"messages\":[{\"role\":\"x\",\"content\":\"x\"}]}", "messages[0].role", "invalid_value"},
        {"{\"messages\":[{\"role\":\"tool\",\"content\":\"x\"}]}", "messages[0].role", "unsupported"},
        {"{\"messages\":[{\"role\":\"user\"}]}", "messages[0].content", "invalid_value"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":null}]}", "messages[0].content", "invalid_value"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":\"x\",\"q\":1}]}", "messages[0].q", "unknown_field"},
        {"{\"messages\":[{\"role\":\"assistant\",\"content\":\"x\",\"tool_calls\":[{}]}]}", "messages[0].tool_calls",
         "unsupported"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]}]}",
         "messages[0].content[0]", "unsupported"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]}", "messages[0].content[0]",
         "invalid_value"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        refused(ST_OAI_CHAT, rows[i][0], rows[i][1], rows[i][2]);
}

static void unsupported_and_unknown_fields_are_refused_by_name(void **state)
{
    (void)state;
    refused(ST_OAI_CHAT, "{" MSG ",\"tools\":[{\"type\":\"function\"}]}", "tools", "unsupported");
    refused(ST_OAI_CHAT, "{" MSG ",\"response_format\":{\"type\":\"json_object\"}}", "response_format", "unsupported");
    refused(ST_OAI_CHAT, "{" MSG ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{}}}",
            "response_format", "unsupported");
    refused(ST_OAI_CHAT, "{" MSG ",\"audio\":{}}", "audio", "unsupported");
    refused(ST_OAI_CHAT, "{" MSG ",\"functions\":[{}]}", "functions", "unsupported");
    refused(ST_OAI_CHAT, "{" MSG ",\"store\":true}", "store", "unsupported");
    refused(ST_OAI_TEXT, "{\"prompt\":\"a\",\"echo\":true}", "echo", "unsupported");
    refused(ST_OAI_TEXT, "{\"prompt\":\"a\",\"best_of\":3}", "best_of", "unsupported");
    refused(ST_OAI_TEXT, "{\"prompt\":\"a\",\"messages\":[]}", "messages", "unknown_field");
    refused(ST_OAI_CHAT, "{" MSG ",\"frobnicate\":1}", "frobnicate", "unknown_field");
    accepted(ST_OAI_CHAT, "{" MSG ",\"tools\":null,\"tool_choice\":\"none\",\"response_format\":{\"type\":\"text\"},"
                          "\"store\":false,\"metadata\":{\"a\":\"b\"},\"functions\":[],\"modalities\":[\"text\"]}");
    accepted(ST_OAI_TEXT, "{\"prompt\":\"a\",\"echo\":false,\"best_of\":1,\"suffix\":null,\"logprobs\":null}");
}

static void behind_a_seal_the_engine_does_more_and_what_names_the_user_is_not_sent(void **state)
{
    (void)state;
    static const char body[] =
        "{\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{}]},{\"role\":\"tool\",\"content\":"
        "\"4\","
        "\"tool_call_id\":\"a\"}],\"tools\":[{\"type\":\"function\"}],\"user\":\"me\",\"metadata\":{\"a\":\"b\"},"
        "\"store\":false,\"seed\":null,\"model\":\"other\"}";
    struct st_oai_request r;
    struct st_oai_error why;
    struct st_buf sent = {0};
    struct st_err e;
    json_t *v;
    assert_int_equal(st_oai_parse_sealed(ST_OAI_CHAT, body, sizeof body - 1, &r, &why), 0);
    assert_int_equal(st_oai_put_sealed(&r, "demo", &sent, &e), 0);
    assert_int_equal(st_json_parse(sent.p, sent.len, "sent", &v, &e), 0);
    assert_int_equal(json_object_size(v), 3);
    assert_string_equal(json_string_value(json_object_get(v, "model")), "demo");
    assert_int_equal(json_array_size(json_object_get(v, "messages")), 2);
    assert_non_null(json_object_get(v, "tools"));
    json_decref(v);
    st_buf_free(&sent);
    st_oai_request_wipe(&r);
    static const char *const bad[][2] = {
        {"{" MSG ",\"store\":true}", "store"},
        {"{" MSG ",\"audio\":{}}", "audio"},
        {"{" MSG ",\"web_search_options\":{}}", "web_search_options"},
        {"{" MSG ",\"frobnicate\":1}", "frobnicate"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":null}]}", "messages[0].content"},
        {"{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]}]}",
         "messages[0].content[0]"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(st_oai_parse_sealed(ST_OAI_CHAT, bad[i][0], strlen(bad[i][0]), &r, &why), -1);
        assert_string_equal(why.param, bad[i][1]);
        st_oai_request_wipe(&r);
    }
}

static void what_is_no_json_object_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "{",
                                      "[]",
                                      "5",
                                      "null",
                                      "{\"a\":1,\"a\":2}",
                                      "{\"prompt\":\"\xff\"}",
                                      "{\"n\":99999999999999999999999}",
                                      "{\"n\":1e999}",
                                      "{\"prompt\":\"\\u0000\"}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        refused(ST_OAI_TEXT, bad[i], "", "invalid_json");
    struct st_buf deep = {0};
    st_buf_add_str(&deep, "{\"prompt\":");
    for (int i = 0; i < 100000; i++)
        st_buf_add_str(&deep, "[");
    refused(ST_OAI_TEXT, deep.p, "", "invalid_json");
    st_buf_free(&deep);
}

static void the_error_never_holds_content(void **state)
{
    (void)state;
    struct st_oai_request r;
    assert_int_equal(parse(ST_OAI_TEXT, "{\"prompt\":\"SECRET\",\"temperature\":\"SECRET\"}", &r), -1);
    assert_null(strstr(err.message, "SECRET"));
    st_oai_request_wipe(&r);
    assert_int_equal(parse(ST_OAI_TEXT, "{\"prompt\":\"SECRET\" SECRET", &r), -1);
    assert_null(strstr(err.message, "SECRET"));
    st_oai_request_wipe(&r);
}

/* The documentation has one row per field, made from the table. */
static void the_documentation_lists_every_field(void **state)
{
    (void)state;
    enum { CHAT = 1, TEXT = 2, BOTH = 3, DONE = 0, REFUSED = 1, MEANINGLESS = 2, PASSED = 3, DROPPED = 4 };
    static const struct {
        const char *name;
        int endpoints, verdict;
        const char *neutral;
        int sealed;
        const char *note;
    } rows[] = {
#define X(name, endpoints, verdict, neutral, sealed, note) {name, endpoints, verdict, neutral, sealed, note},
#include "service/openai_fields.def"
#undef X
    };
    static const char *const where[] = {"", "chat", "completions", "both"};
    static const char *const words[] = {"done", "refused", "meaningless", "passed", "not sent"};
    struct st_buf doc = {0};
    struct st_err e;
    bool print = getenv("SOTTO_PRINT_FIELDS") != NULL;
    if (st_file_read("docs/openai.md", 1 << 20, &doc, &e) && !print)
        fail_msg("%s", e.msg);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char line[512], but[128] = "";
        if ((rows[i].verdict == REFUSED || rows[i].sealed == REFUSED) && *rows[i].neutral)
            snprintf(but, sizeof but, " unless `%s`", rows[i].neutral);
        for (char *c = but; *c; c++)
            if (*c == '|')
                *c = '/';
        snprintf(line, sizeof line, "| `%s` | %s | %s%s | %s%s | %s |\n", rows[i].name, where[rows[i].endpoints],
                 words[rows[i].verdict], rows[i].verdict == REFUSED ? but : "", words[rows[i].sealed],
                 rows[i].sealed == REFUSED ? but : "", rows[i].note);
        if (print)
            printf("%s", line);
        else if (!strstr(doc.p, line))
            fail_msg("docs/openai.md misses this row: %s", line);
    }
    st_buf_free(&doc);
}

/* A text cut at every pair of places, with its stop string found all the same. */
static void stop_strings_are_found_across_borders(void **state)
{
    (void)state;
    static const char text[] = "aab aabaac ##END## tail";
    static const char *const stops[] = {"aabaac #", "##EN", "zzz"};
    size_t len = sizeof text - 1;
    for (size_t i = 0; i <= len; i++)
        for (size_t j = i; j <= len; j++) {
            struct st_stops s;
            struct st_buf out = {0};
            st_stops_init(&s, stops, 3);
            bool hit = st_stops_push(&s, text, i, &out);
            hit = st_stops_push(&s, text + i, j - i, &out) || hit;
            hit = st_stops_push(&s, text + j, len - j, &out) || hit;
            assert_true(hit);
            assert_int_equal(out.len, 4);
            assert_memory_equal(out.p, "aab ", 4);
            st_buf_free(&out);
            st_stops_wipe(&s);
        }
}

static void text_that_may_become_a_stop_string_is_held_back(void **state)
{
    (void)state;
    static const char *const stops[] = {"<|end|>"};
    struct st_stops s;
    struct st_buf out = {0};
    st_stops_init(&s, stops, 1);
    assert_false(st_stops_push(&s, "one <|e", 7, &out));
    assert_string_equal(out.p, "one ");
    assert_false(st_stops_push(&s, "n", 1, &out));
    assert_string_equal(out.p, "one ");
    assert_false(st_stops_push(&s, "x", 1, &out));
    assert_string_equal(out.p, "one <|enx");
    assert_false(st_stops_push(&s, "<|", 2, &out));
    st_stops_end(&s, &out);
    assert_string_equal(out.p, "one <|enx<|");
    st_buf_free(&out);
    st_stops_wipe(&s);
}

static int collect(void *arg, const char *data, size_t len, struct st_err *e)
{
    (void)e;
    st_buf_add(arg, data, len);
    st_buf_add(arg, "|", 1);
    return 0;
}

static void event_streams_are_read_however_they_are_cut(void **state)
{
    (void)state;
    static const char text[] = ": hi\ndata: a\ndata:b\n\nevent: x\r\ndata: {c}\r\n\r\nid: 1\n\ndata\n\ndata: cut";
    for (size_t cut = 0; cut < sizeof text; cut++) {
        struct st_sse s;
        struct st_buf out = {0};
        struct st_err e;
        st_sse_init(&s, 100);
        assert_int_equal(st_sse_feed(&s, text, cut, collect, &out, &e), 0);
        assert_int_equal(st_sse_feed(&s, text + cut, sizeof text - 1 - cut, collect, &out, &e), 0);
        assert_string_equal(out.p, "a\nb|{c}||");
        st_buf_free(&out);
        st_sse_wipe(&s);
    }
}

static void overlong_events_are_refused(void **state)
{
    (void)state;
    struct st_sse s;
    struct st_buf out = {0};
    struct st_err e;
    st_sse_init(&s, 16);
    assert_int_equal(st_sse_feed(&s, "data: 0123456789\n", 17, collect, &out, &e), 0);
    assert_int_equal(st_sse_feed(&s, "data: 0123456789\n", 17, collect, &out, &e), ST_INPUT);
    st_sse_wipe(&s);
    st_sse_init(&s, 16);
    assert_int_equal(st_sse_feed(&s, "data: 0123456789ab", 18, collect, &out, &e), ST_INPUT);
    st_sse_wipe(&s);
    st_buf_free(&out);
}

/* ---- replies ---- */

static void errors_have_the_api_shape(void **state)
{
    (void)state;
    static const struct {
        int code, status;
        const char *word;
    } rows[] = {{ST_INPUT, 400, "invalid_value"}, {ST_IO, 502, "network"},    {ST_VERIFY, 502, "integrity"},
                {ST_POLICY, 502, "policy"},       {ST_MEMORY, 503, "memory"}, {ST_INTERNAL, 500, "internal"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct st_err e;
        struct st_buf b = {0};
        st_fail(&e, rows[i].code, "say \"why\"");
        st_oai_from_err(&err, &e);
        assert_int_equal(err.status, rows[i].status);
        assert_string_equal(err.code, rows[i].word);
        st_oai_error_json(&err, &b);
        json_t *v;
        assert_int_equal(st_json_parse(b.p, b.len, "error", &v, &e), 0);
        assert_string_equal(json_string_value(json_object_get(json_object_get(v, "error"), "message")), "say \"why\"");
        json_decref(v);
        st_buf_free(&b);
    }
}

static void legacy_logprobs_name_no_token_twice(void **state)
{
    (void)state;
    struct st_oai_legacy l = {0};
    struct st_sampled s = {.id = 5, .logprob = -1, .n_top = 2, .top = {{5, -1}, {9, -INFINITY}}};
    struct st_buf b = {0};
    struct st_err e;
    json_t *v;
    st_oai_legacy_add(&l, NULL, true, &s, 0);
    st_oai_legacy_add(&l, NULL, true, &s, 3);
    st_oai_legacy_put(&b, &l);
    assert_int_equal(st_json_parse(b.p, b.len, "logprobs", &v, &e), 0);
    const json_t *top = json_array_get(json_object_get(v, "top_logprobs"), 1);
    assert_int_equal(json_object_size(top), 2);
    assert_true(json_number_value(json_object_get(top, "token_id:9")) == -9999.0);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(v, "text_offset"), 1)), 3);
    json_decref(v);
    st_buf_free(&b);
    st_oai_legacy_free(&l);
}

static void write_keys(const char *path, const char *text, mode_t mode)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    chmod(path, mode);
}

static void api_keys_are_told_apart(void **state)
{
    (void)state;
    char path[] = "/tmp/sotto_keys_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    struct st_api_keys k;
    struct st_err e;
    write_keys(path, "# staff\nalpha\n\n  beta \r\n", 0600);
    assert_int_equal(st_api_keys_load(path, &k, &e), 0);
    assert_int_equal(k.n, 2);
    assert_int_equal(st_api_keys_check(&k, "Bearer alpha"), 0);
    assert_int_equal(st_api_keys_check(&k, "bearer beta"), 1);
    static const char *const bad[] = {
        NULL, "", "Bearer", "Bearer ", "Bearer alph", "Bearer alphaa", "Basic alpha", "alpha", "Bearer # staff"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(st_api_keys_check(&k, bad[i]), -1);
    st_api_keys_free(&k);
    write_keys(path, "alpha\n", 0644);
    assert_int_equal(st_api_keys_load(path, &k, &e), ST_POLICY);
    write_keys(path, "# none\n", 0600);
    assert_int_equal(st_api_keys_load(path, &k, &e), ST_INPUT);
    unlink(path);
    assert_int_equal(st_api_keys_load(path, &k, &e), ST_IO);
}

/* ---- requests as bytes ---- */

static int http_status(const char *text, size_t len, size_t step)
{
    struct st_http_parser p;
    st_http_parser_init(&p, 512, 64);
    for (size_t at = 0; at < len && p.state != ST_HTTP_DONE && p.state != ST_HTTP_BAD;) {
        size_t n = len - at < step ? len - at : step;
        at += st_http_parser_feed(&p, text + at, n);
    }
    int status = p.state == ST_HTTP_DONE ? 200 : (p.state == ST_HTTP_BAD ? p.status : 0);
    st_http_parser_wipe(&p);
    return status;
}

static void http_requests_are_read_strictly(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int status;
    } rows[] = {
        {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200},
        {"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 200},
        {"GET http://a:1/x?y HTTP/1.1\r\nHost: a\r\n\r\n", 200},
        {"GET / HTTP/1.0\r\n\r\n", 200},
        {"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 200},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 200},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: 1\r\n\r\n",
         200},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab", 0},
        {"GET / HTTP/1.1\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400},
        {"GET /\r\nHost: a\r\n\r\n", 400},
        {"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505},
        {"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"GET x HTTP/1.1\r\nHost: a\r\n\r\n", 400},
        {"GET / HTTP/1.1\nHost: a\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nHost: a\r\nX: \001\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 65\r\n\r\n", 413},
        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999999\r\n\r\n", 413},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n41\r\n", 413},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc", 400},
        {"POST / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", 417},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t step = 1; step < 100; step += 7) {
            int got = http_status(rows[i].text, strlen(rows[i].text), step);
            if (got != rows[i].status)
                fail_msg("%s: %d in pieces of %zu, want %d", rows[i].text, got, step, rows[i].status);
        }
    char big[600];
    memset(big, 'a', sizeof big);
    memcpy(big, "GET /", 5);
    assert_int_equal(http_status(big, sizeof big, 50), 431);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chat_request_is_read),
        cmocka_unit_test(prompt_is_a_text_or_ids),
        cmocka_unit_test(wrong_values_are_refused_by_name),
        cmocka_unit_test(unsupported_and_unknown_fields_are_refused_by_name),
        cmocka_unit_test(behind_a_seal_the_engine_does_more_and_what_names_the_user_is_not_sent),
        cmocka_unit_test(what_is_no_json_object_is_refused),
        cmocka_unit_test(the_error_never_holds_content),
        cmocka_unit_test(the_documentation_lists_every_field),
        cmocka_unit_test(stop_strings_are_found_across_borders),
        cmocka_unit_test(text_that_may_become_a_stop_string_is_held_back),
        cmocka_unit_test(event_streams_are_read_however_they_are_cut),
        cmocka_unit_test(overlong_events_are_refused),
        cmocka_unit_test(errors_have_the_api_shape),
        cmocka_unit_test(legacy_logprobs_name_no_token_twice),
        cmocka_unit_test(api_keys_are_told_apart),
        cmocka_unit_test(http_requests_are_read_strictly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
