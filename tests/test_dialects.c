/* Dialects of upstream servers, sans I/O: what a request looks like to each, and what each may send back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/file.h"
#include "service/upstream.h"
#include "text/passthrough.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct heard {
    struct st_sampled tok[8];
    size_t n;
};

static uint32_t to[8] = {3, 2, 1, 0, 7, 6, 5, 4}; /* its own inverse */
static const struct st_cov_cipher cipher = {.n_vocab = 8, .to = to, .from = to};
static const uint32_t eos[] = {2};   /* 1 enciphered */
static const uint32_t stops[] = {6}; /* 5 enciphered */

static void hear(void *arg, const struct st_sampled *tok)
{
    struct heard *h = arg;
    assert_true(h->n < 8);
    h->tok[h->n++] = *tok;
}

static void start(struct st_upstream_reply *r, const char *dialect, int n_logprobs, struct heard *h)
{
    *r = (struct st_upstream_reply){.dialect = st_upstream_named(dialect),
                                    .cipher = &cipher,
                                    .ends = stops,
                                    .n_end = 1,
                                    .more_ends = eos,
                                    .n_more_end = 1,
                                    .max_tokens = 4,
                                    .n_logprobs = n_logprobs,
                                    .token = hear,
                                    .arg = h};
    assert_non_null(r->dialect);
    memset(h, 0, sizeof *h);
    st_upstream_reply_init(r, 4096);
}

/* events: JSON texts, one a line. */
static int feed(const char *dialect, const char *events, int n_logprobs, struct heard *h, struct st_upstream_reply *r,
                struct st_err *e)
{
    int rc = 0;
    start(r, dialect, n_logprobs, h);
    for (const char *p = events; *p && !rc;) {
        size_t len = strcspn(p, "\n");
        struct st_buf b = {0};
        st_buf_addf(&b, "data: %.*s\n\n", (int)len, p);
        rc = st_upstream_reply_feed(r, b.p, b.len, e);
        st_buf_free(&b);
        p += len + (p[len] == '\n');
    }
    st_upstream_reply_wipe(r);
    return rc;
}

/* Passthrough words of cipher ids, each a digit. */
static const char *words(const char *digits)
{
    static char out[8][128];
    static int turn;
    char *p = out[turn = (turn + 1) % 8];
    size_t n = 0;
    for (; digits[n]; n++)
        st_passthrough_word((uint32_t)(digits[n] - '0'), p + n * ST_PASSTHROUGH_LEN);
    p[n * ST_PASSTHROUGH_LEN] = 0;
    return p;
}

static void expect(const struct heard *h, const struct st_upstream_reply *r, size_t n, enum st_gen_finish finish)
{
    static const uint32_t ids[] = {0, 1, 3};
    assert_int_equal(h->n, n);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(h->tok[i].id, ids[i]);
    assert_true(r->finished);
    assert_int_equal(r->finish, finish);
}

static void ids_are_deciphered_in_every_dialect(void **state)
{
    (void)state;
    struct heard h;
    struct st_upstream_reply r;
    struct st_err e;
    struct st_buf text = {0};
    assert_int_equal(feed("openai-ids",
                          "{\"choices\":[{\"text\":\"\",\"token_ids\":[3,2],\"finish_reason\":null}]}\n"
                          "{\"choices\":[{\"text\":\"\",\"token_ids\":[0],\"finish_reason\":\"length\"}]}\n"
                          "[DONE]",
                          -1, &h, &r, &e),
                     0);
    expect(&h, &r, 3, ST_GEN_LENGTH);
    assert_int_equal(feed("llama.cpp",
                          "{\"index\":0,\"content\":\"x\",\"tokens\":[3],\"stop\":false,\"id_slot\":0}\n"
                          "{\"index\":0,\"content\":\"\",\"tokens\":[2],\"stop\":false}\n"
                          "{\"index\":0,\"content\":\"x\",\"tokens\":[0],\"stop\":false}\n"
                          "{\"index\":0,\"content\":\"\",\"tokens\":[],\"stop\":true,\"stop_type\":\"limit\","
                          "\"truncated\":false}",
                          -1, &h, &r, &e),
                     0);
    expect(&h, &r, 3, ST_GEN_LENGTH);
    assert_int_equal(feed("sglang",
                          "{\"text\":\"x\",\"output_ids\":[3],\"meta_info\":{\"finish_reason\":null,"
                          "\"completion_tokens\":1}}\n"
                          "{\"text\":\"xxx\",\"output_ids\":[3,2,0],\"meta_info\":{\"finish_reason\":{\"type\":"
                          "\"length\",\"length\":3},\"completion_tokens\":3}}\n[DONE]",
                          -1, &h, &r, &e),
                     0);
    expect(&h, &r, 3, ST_GEN_LENGTH);
    /* The same with only what is new in each event. */
    assert_int_equal(feed("sglang",
                          "{\"output_ids\":[3],\"meta_info\":{\"completion_tokens\":1}}\n"
                          "{\"output_ids\":[2,0],\"meta_info\":{\"completion_tokens\":3}}\n"
                          "{\"output_ids\":[],\"meta_info\":{\"finish_reason\":{\"type\":\"stop\"},"
                          "\"completion_tokens\":3}}",
                          -1, &h, &r, &e),
                     0);
    expect(&h, &r, 3, ST_GEN_STOP);
    st_buf_addf(&text,
                "{\"choices\":[{\"text\":\"%s\",\"finish_reason\":null}]}\n"
                "{\"choices\":[{\"text\":\"%s\",\"finish_reason\":\"length\"}]}",
                words("32"), words("0"));
    assert_int_equal(feed("openai-text", text.p, -1, &h, &r, &e), 0);
    expect(&h, &r, 3, ST_GEN_LENGTH);
    st_buf_free(&text);
}

/* An id that ends the reply is no part of it. Where the server was not told of it, the connection must close. */
static void end_ids_end_the_reply(void **state)
{
    (void)state;
    static const struct {
        const char *dialect, *eos, *stop;
        bool hang_up;
    } rows[] = {
        {"openai-ids", "{\"choices\":[{\"token_ids\":[3,1,2]}]}", "{\"choices\":[{\"token_ids\":[3,5,2]}]}", false},
        {"llama.cpp", "{\"tokens\":[3,1,2],\"stop\":false}", "{\"tokens\":[3,5,2],\"stop\":false}", true},
        {"sglang", "{\"output_ids\":[3,1,2],\"meta_info\":{\"completion_tokens\":3}}",
         "{\"output_ids\":[3,5,2],\"meta_info\":{\"completion_tokens\":3}}", false},
    };
    struct heard h;
    struct st_upstream_reply r;
    struct st_err e;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(feed(rows[i].dialect, rows[i].eos, -1, &h, &r, &e), 0);
        expect(&h, &r, 1, ST_GEN_STOP);
        assert_false(r.hang_up);
        assert_int_equal(feed(rows[i].dialect, rows[i].stop, -1, &h, &r, &e), 0);
        expect(&h, &r, 1, ST_GEN_STOP);
        assert_int_equal(r.hang_up, rows[i].hang_up);
    }
    struct st_buf text = {0};
    st_buf_addf(&text, "{\"choices\":[{\"text\":\"%s\"}]}", words("352"));
    assert_int_equal(feed("openai-text", text.p, -1, &h, &r, &e), 0);
    expect(&h, &r, 1, ST_GEN_STOP);
    assert_true(r.hang_up);
    st_buf_free(&text);
}

static void logprobs_are_deciphered_in_every_dialect(void **state)
{
    (void)state;
    struct st_buf text = {0};
    st_buf_addf(&text,
                "{\"choices\":[{\"text\":\"%s\",\"logprobs\":{\"tokens\":[\"%s\",\"%s\"],\"token_logprobs\":[-2,-1],"
                "\"top_logprobs\":[{\"%s\":-2,\"%s\":-1,\"%s\":-1.5},{\"%s\":-1}]},\"finish_reason\":\"stop\"}]}",
                words("3"), words("3"), words("1"), words("3"), words("7"), words("6"), words("1"));
    const struct {
        const char *dialect, *event;
    } rows[] = {
        {"openai-ids", "{\"choices\":[{\"token_ids\":[3],\"logprobs\":{\"tokens\":[\"token_id:3\"],"
                       "\"token_logprobs\":[-2],\"top_logprobs\":[{\"token_id:3\":-2,\"token_id:7\":-1,"
                       "\"token_id:6\":-1.5}]},\"finish_reason\":\"stop\"}]}"},
        {"llama.cpp", "{\"content\":\"x\",\"tokens\":[3],\"stop\":false,\"completion_probabilities\":[{\"id\":3,"
                      "\"token\":\"x\",\"bytes\":[120],\"logprob\":-2,\"top_logprobs\":[{\"id\":7,\"logprob\":-1},"
                      "{\"id\":6,\"logprob\":-1.5}]}]}"},
        {"sglang", "{\"output_ids\":[3],\"meta_info\":{\"completion_tokens\":1,\"output_token_logprobs\":[[-2,3,null]],"
                   "\"output_top_logprobs\":[[[-1,7,null],[-1.5,6,null]]]}}"},
        {"openai-text", text.p},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct heard h;
        struct st_upstream_reply r;
        struct st_err e = {0};
        if (feed(rows[i].dialect, rows[i].event, 2, &h, &r, &e))
            fail_msg("%s: %s", rows[i].dialect, e.msg);
        assert_int_equal(h.n, 1);
        assert_int_equal(h.tok[0].n_top, 2);
        assert_int_equal(h.tok[0].top[0].id, 4);
        assert_int_equal(h.tok[0].top[1].id, 5);
        assert_true(h.tok[0].logprob == -2.0f);
    }
    st_buf_free(&text);
}

/* However the bytes are cut: in the middle of a line, and of a word's character. */
static void words_are_read_across_events_and_chunks(void **state)
{
    (void)state;
    const char *all = words("320");
    for (size_t at = 0; at <= 3 * ST_PASSTHROUGH_LEN; at++) {
        struct st_buf b = {0};
        struct heard h;
        struct st_upstream_reply r;
        struct st_err e = {0};
        /* JSON holds whole characters only, so events cut between those; bytes are cut below. */
        size_t cut = at - at % 3;
        st_buf_addf(&b, "data: {\"choices\":[{\"text\":\"%.*s\"}]}\n\n", (int)cut, all);
        st_buf_addf(&b, "data: {\"choices\":[{\"text\":\"%s\",\"finish_reason\":\"stop\"}]}\n\n", all + cut);
        for (size_t piece = 1; piece < 9; piece++) {
            start(&r, "openai-text", -1, &h);
            for (size_t i = 0; i < b.len; i += piece)
                assert_int_equal(st_upstream_reply_feed(&r, b.p + i, b.len - i < piece ? b.len - i : piece, &e), 0);
            expect(&h, &r, 3, ST_GEN_STOP);
            st_upstream_reply_wipe(&r);
        }
        st_buf_free(&b);
    }
}

static void lies_are_refused_in_every_dialect(void **state)
{
    (void)state;
    struct st_buf half = {0}, far = {0}, other = {0}, more = {0};
    st_buf_addf(&half, "{\"choices\":[{\"text\":\"%.3s\",\"finish_reason\":\"stop\"}]}", words("3"));
    st_buf_addf(&far, "{\"choices\":[{\"text\":\"%s\"}]}", words("8"));
    st_buf_addf(&other, "{\"choices\":[{\"text\":\"%s\",\"logprobs\":{\"tokens\":[\"%s\"],\"token_logprobs\":[-1]}}]}",
                words("3"), words("4"));
    st_buf_addf(&more, "{\"choices\":[{\"text\":\"%s\",\"logprobs\":{\"tokens\":[\"%s\"],\"token_logprobs\":[-1]}}]}",
                words("34"), words("3"));
    const struct {
        const char *dialect, *event;
        int code, n_logprobs;
    } rows[] = {
        {"openai-ids", "{\"choices\":[{\"token_ids\":[8]}]}", ST_VERIFY, -1},
        {"openai-ids", "{\"choices\":[{\"token_ids\":[-1]}]}", ST_VERIFY, -1},
        {"openai-ids", "{\"choices\":[{\"token_ids\":[\"1\"]}]}", ST_VERIFY, -1},
        {"openai-ids", "{\"choices\":[{\"token_ids\":[3,3,3,3,3]}]}", ST_VERIFY, -1},
        {"openai-ids", "{\"choices\":[{\"token_ids\":7}]}", ST_VERIFY, -1},
        {"openai-ids", "{\"choices\":[7]}", ST_VERIFY, -1},
        {"openai-ids", "{\"choices\":[{},{}]}", ST_VERIFY, -1},
        {"openai-ids", "{\"choices\":{}}", ST_VERIFY, -1},
        {"openai-ids", "[]", ST_VERIFY, -1},
        {"openai-ids", "{", ST_VERIFY, -1},
        {"openai-ids", "{\"choices\":[{\"finish_reason\":5}]}", ST_VERIFY, -1},
        {"openai-ids", "{\"choices\":[{\"text\":\"hello\"}]}", ST_UNSUPPORTED, -1},
        {"openai-ids", "{\"choices\":[{\"text\":\"\",\"finish_reason\":\"stop\"}]}", ST_UNSUPPORTED, -1},
        {"openai-ids", "{\"choices\":[{\"token_ids\":[],\"finish_reason\":\"abort\"}]}", ST_IO, -1},
        {"openai-ids", "{\"error\":{\"message\":\"EVIL\",\"code\":\"out_of_memory\"}}", ST_IO, -1},
        {"openai-ids", "{\"choices\":[{\"token_ids\":[3]}]}", ST_VERIFY, 0},
        {"openai-ids", "{\"choices\":[{\"token_ids\":[3],\"logprobs\":{\"tokens\":[\"a\"],\"token_logprobs\":[-1]}}]}",
         ST_UNSUPPORTED, 0},
        {"openai-ids",
         "{\"choices\":[{\"token_ids\":[3],\"logprobs\":{\"tokens\":[\"token_id:9\"],\"token_logprobs\":[-1]}}]}",
         ST_VERIFY, 0},
        {"openai-ids",
         "{\"choices\":[{\"token_ids\":[3],\"logprobs\":{\"tokens\":[\"token_id:4\"],\"token_logprobs\":[-1]}}]}",
         ST_VERIFY, 0},
        {"openai-ids",
         "{\"choices\":[{\"token_ids\":[3],\"logprobs\":{\"tokens\":[\"token_id:3\"],\"token_logprobs\":[7]}}]}",
         ST_VERIFY, 0},
        {"openai-ids",
         "{\"choices\":[{\"token_ids\":[3],\"logprobs\":{\"tokens\":[\"token_id:3\"],\"token_logprobs\":[-1],"
         "\"top_logprobs\":[{\"token_id:1\":-1,\"token_id:2\":-1,\"token_id:3\":-1}]}}]}",
         ST_VERIFY, 1},
        {"openai-text", "{\"choices\":[{\"text\":\"EVIL\"}]}", ST_VERIFY, -1},
        {"openai-text", "{\"choices\":[{\"text\":7}]}", ST_VERIFY, -1},
        {"openai-text", half.p, ST_VERIFY, -1},
        {"openai-text", far.p, ST_VERIFY, -1},
        {"openai-text", other.p, ST_VERIFY, 0},
        {"openai-text", more.p, ST_VERIFY, 0},
        {"llama.cpp", "{\"tokens\":[8],\"stop\":false}", ST_VERIFY, -1},
        {"llama.cpp", "{\"tokens\":[3]}", ST_VERIFY, -1},
        {"llama.cpp", "{\"tokens\":7,\"stop\":false}", ST_VERIFY, -1},
        {"llama.cpp", "{\"tokens\":[3,3,3,3,3],\"stop\":false}", ST_VERIFY, -1},
        {"llama.cpp", "{\"content\":\"EVIL\",\"tokens\":[],\"stop\":false}", ST_UNSUPPORTED, -1},
        {"llama.cpp", "{\"tokens\":[],\"stop\":true}", ST_VERIFY, -1},
        {"llama.cpp", "{\"tokens\":[],\"stop\":true,\"stop_type\":\"none\"}", ST_IO, -1},
        {"llama.cpp", "{\"tokens\":[3],\"stop\":true,\"stop_type\":\"limit\",\"truncated\":true}", ST_IO, -1},
        {"llama.cpp", "{\"tokens\":[3],\"stop\":false}", ST_VERIFY, 0},
        {"llama.cpp",
         "{\"tokens\":[3],\"stop\":false,\"completion_probabilities\":[{\"id\":4,\"logprob\":-1,\"top_logprobs\":[]}]}",
         ST_VERIFY, 0},
        {"llama.cpp", "{\"error\":{\"code\":400,\"message\":\"EVIL\",\"type\":\"exceed_context_size_error\"}}", ST_IO,
         -1},
        {"sglang", "{\"output_ids\":[8],\"meta_info\":{\"completion_tokens\":1}}", ST_VERIFY, -1},
        {"sglang", "{\"output_ids\":[3]}", ST_VERIFY, -1},
        {"sglang", "{\"output_ids\":[3],\"meta_info\":{\"completion_tokens\":9}}", ST_VERIFY, -1},
        {"sglang", "{\"output_ids\":[3],\"meta_info\":{\"completion_tokens\":-1}}", ST_VERIFY, -1},
        {"sglang", "{\"output_ids\":[3,3,3,3,3],\"meta_info\":{\"completion_tokens\":5}}", ST_VERIFY, -1},
        {"sglang",
         "{\"output_ids\":[3,2],\"meta_info\":{\"completion_tokens\":2}}\n"
         "{\"output_ids\":[3],\"meta_info\":{\"completion_tokens\":1}}",
         ST_VERIFY, -1},
        {"sglang", "{\"text\":\"EVIL\",\"meta_info\":{}}", ST_UNSUPPORTED, -1},
        {"sglang", "{\"output_ids\":[],\"meta_info\":{\"completion_tokens\":0,\"finish_reason\":{\"type\":\"abort\"}}}",
         ST_IO, -1},
        {"sglang", "{\"output_ids\":[3],\"meta_info\":{\"completion_tokens\":1}}", ST_VERIFY, 0},
        {"sglang",
         "{\"output_ids\":[3],\"meta_info\":{\"completion_tokens\":1,\"output_token_logprobs\":[[-1,4,null]]}}",
         ST_VERIFY, 0},
        {"sglang",
         "{\"output_ids\":[3],\"meta_info\":{\"completion_tokens\":1,\"output_token_logprobs\":[[\"x\",3,null]]}}",
         ST_VERIFY, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct heard h;
        struct st_upstream_reply r;
        struct st_err e = {0};
        int rc = feed(rows[i].dialect, rows[i].event, rows[i].n_logprobs, &h, &r, &e);
        if (rc != rows[i].code)
            fail_msg("%s: %s: code %d, want %d", rows[i].dialect, rows[i].event, rc, rows[i].code);
        assert_null(strstr(e.msg, "EVIL"));
    }
    st_buf_free(&half);
    st_buf_free(&far);
    st_buf_free(&other);
    st_buf_free(&more);
}

/* ---- what goes out ---- */

static void requests_hold_cipher_ids_and_numbers_only(void **state)
{
    (void)state;
    static const uint32_t ids[] = {0, 1, 7};
    static const struct st_logit_bias bias[] = {{4, -5}, {0, 2.5f}};
    struct st_gen_request r = {.ids = ids,
                               .n_ids = 3,
                               .n_predict = 9,
                               .sampling = {.temperature = 0.5f,
                                            .top_p = 0.9f,
                                            .top_k = 5,
                                            .min_p = 0.25f,
                                            .repetition_penalty = 1.5f,
                                            .seed = 77,
                                            .bias = bias,
                                            .n_bias = 2,
                                            .n_logprobs = 0},
                               .stop_ids = stops,
                               .n_stop_ids = 1,
                               .ignore_eos = true};
    struct st_buf text = {0};
    st_buf_addf(&text,
                "{\"model\":\"m\",\"prompt\":\"%s\",\"max_tokens\":9,\"stream\":true,\"temperature\":0.5,"
                "\"top_p\":0.9,\"seed\":77,\"logprobs\":0,\"logit_bias\":{\"7\":-5,\"3\":2.5}}",
                words("324"));
    const struct {
        const char *dialect, *body;
    } rows[] = {
        {"openai-ids", "{\"model\":\"m\",\"prompt\":[3,2,4],\"max_tokens\":9,\"stream\":true,\"temperature\":0.5,"
                       "\"top_p\":0.9,\"seed\":77,\"logprobs\":0,\"logit_bias\":{\"7\":-5,\"3\":2.5},"
                       "\"return_token_ids\":true,\"return_tokens_as_token_ids\":true,\"min_p\":0.25,"
                       "\"repetition_penalty\":1.5,\"top_k\":5,\"stop_token_ids\":[5],\"ignore_eos\":true}"},
        {"llama.cpp",
         "{\"model\":\"m\",\"prompt\":[3,2,4],\"n_predict\":9,\"stream\":true,\"return_tokens\":true,\"samplers\":["
         "\"penalties\",\"temperature\",\"top_k\",\"top_p\",\"min_p\"],\"temperature\":0.5,\"top_p\":0.9,"
         "\"min_p\":0.25,\"top_k\":5,\"repeat_penalty\":1.5,\"repeat_last_n\":12,\"seed\":77,\"n_probs\":1,"
         "\"logit_bias\":{\"7\":-5,\"3\":2.5},\"ignore_eos\":true}"},
        {"sglang", "{\"input_ids\":[3,2,4],\"stream\":true,\"sampling_params\":{\"max_new_tokens\":9,"
                   "\"temperature\":0.5,\"top_p\":0.9,\"min_p\":0.25,\"top_k\":5,\"repetition_penalty\":1,"
                   "\"logit_bias\":{\"7\":-5,\"3\":2.5},\"stop_token_ids\":[5],\"ignore_eos\":true},"
                   "\"return_logprob\":true,\"logprob_start_len\":-1,\"top_logprobs_num\":0}"},
        {"openai-text", text.p},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct st_buf b = {0};
        struct st_err e;
        json_t *v;
        st_upstream_named(rows[i].dialect)->put(&(struct st_upstream_ask){&r, &cipher, "m", NULL}, &b);
        assert_string_equal(b.p, rows[i].body);
        assert_int_equal(st_json_parse(b.p, b.len, "body", &v, &e), 0);
        json_decref(v);
        st_buf_free(&b);
    }
    st_buf_free(&text);
}

/* A server fills in what is left out from the checkpoint's generation_config.json, also for greedy replies. */
static void what_a_request_does_not_ask_for_is_switched_off_by_name(void **state)
{
    (void)state;
    static const uint32_t ids[] = {0};
    const struct st_gen_request r = {
        .ids = ids, .n_ids = 1, .n_predict = 1, .sampling = {.top_p = 1, .repetition_penalty = 1, .n_logprobs = -1}};
    const struct {
        const char *dialect, *fields[5];
    } rows[] = {
        {"openai-ids",
         {"\"temperature\":0,", "\"top_p\":1,", "\"min_p\":0,", "\"repetition_penalty\":1,", "\"top_k\":0"}},
        {"llama.cpp", {"\"temperature\":0,", "\"top_p\":1,", "\"min_p\":0,", "\"repeat_penalty\":1", "\"top_k\":0,"}},
        {"sglang", {"\"temperature\":0,", "\"top_p\":1,", "\"min_p\":0,", "\"repetition_penalty\":1", "\"top_k\":-1,"}},
        {"openai-text", {"\"temperature\":0,", "\"top_p\":1"}}, /* it may not know the others */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct st_buf b = {0};
        st_upstream_named(rows[i].dialect)->put(&(struct st_upstream_ask){&r, &cipher, "m", NULL}, &b);
        for (size_t k = 0; k < 5 && rows[i].fields[k]; k++)
            if (!strstr(b.p, rows[i].fields[k]))
                fail_msg("%s: no %s in %s", rows[i].dialect, rows[i].fields[k], b.p);
        st_buf_free(&b);
    }
}

static void servers_are_known_by_what_they_call_themselves(void **state)
{
    (void)state;
    char names[128];
    assert_string_equal(st_upstream_owned("vllm")->name, "openai-ids");
    assert_string_equal(st_upstream_owned("sotto")->name, "openai-ids");
    assert_string_equal(st_upstream_owned("llamacpp")->name, "llama.cpp");
    assert_string_equal(st_upstream_owned("sglang")->name, "sglang");
    assert_string_equal(st_upstream_owned("organization-owner")->name, "openai-ids");
    assert_string_equal(st_upstream_owned(NULL)->name, "openai-ids");
    assert_null(st_upstream_named("ollama"));
    st_upstream_names(names, sizeof names);
    assert_string_equal(names, "openai-ids, llama.cpp, openai-text, sglang");
}

static void the_documented_refusals_are_these(void **state)
{
    (void)state;
    struct st_buf doc = {0};
    struct st_err e;
    bool print = getenv("SOTTO_PRINT_FIELDS") != NULL;
    if (st_file_read("docs/openai.md", 1 << 20, &doc, &e) && !print)
        fail_msg("%s", e.msg);
    size_t rows = 0;
    for (size_t i = 0; i < st_upstream_n_dialect; i++) {
        const struct st_upstream_dialect *d = st_upstream_dialects[i];
        for (const struct st_gen_refusal *f = d->refused; f->field; f++, rows++) {
            char line[256];
            snprintf(line, sizeof line, "| `%s` | `%s` | %s |\n", d->name, f->field, f->why);
            if (print)
                printf("%s", line);
            else if (!strstr(doc.p, line))
                fail_msg("docs/openai.md misses this row: %s", line);
        }
    }
    /* And no others. */
    size_t found = 0;
    for (const char *p = doc.p; p && (p = strstr(p, "\n| `")) != NULL; p++)
        for (size_t i = 0; i < st_upstream_n_dialect; i++) {
            const char *name = st_upstream_dialects[i]->name;
            found += strncmp(p + 4, name, strlen(name)) == 0 && strncmp(p + 4 + strlen(name), "` | `", 5) == 0;
        }
    if (!print)
        assert_int_equal(found, rows);
    st_buf_free(&doc);
}

static void bounds_grow_with_what_was_asked_for(void **state)
{
    (void)state;
    struct st_gen_request r = {.n_ids = 1000, .n_predict = 100000, .sampling = {.n_logprobs = -1}};
    const struct st_upstream_dialect *plain = st_upstream_named("openai-ids"), *repeats = st_upstream_named("sglang");
    assert_true(st_upstream_max_event(plain, &r) < 2 << 20);
    assert_true(st_upstream_max_event(repeats, &r) > 100000 * 16);
    assert_true(st_upstream_max_reply(repeats, &r) > st_upstream_max_reply(plain, &r));
    r.n_predict = INT32_MAX;
    r.sampling.n_logprobs = 20;
    assert_true(st_upstream_max_reply(repeats, &r) > st_upstream_max_event(repeats, &r));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_are_deciphered_in_every_dialect),
        cmocka_unit_test(end_ids_end_the_reply),
        cmocka_unit_test(logprobs_are_deciphered_in_every_dialect),
        cmocka_unit_test(words_are_read_across_events_and_chunks),
        cmocka_unit_test(lies_are_refused_in_every_dialect),
        cmocka_unit_test(requests_hold_cipher_ids_and_numbers_only),
        cmocka_unit_test(what_a_request_does_not_ask_for_is_switched_off_by_name),
        cmocka_unit_test(servers_are_known_by_what_they_call_themselves),
        cmocka_unit_test(the_documented_refusals_are_these),
        cmocka_unit_test(bounds_grow_with_what_was_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
