/* The public interface as a program uses it: only sotto/sotto.h. */
#include "sotto/sotto.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define DEMO "models/demo"

static sotto_model *model;
static struct sotto_error err;

struct heard {
    char text[4096];
    size_t len, n, stop_after;
};

static int hear(void *arg, uint32_t id, const char *text, size_t len)
{
    struct heard *h = arg;
    assert_true(id < sotto_model_vocabulary(model));
    assert_true(h->len + len < sizeof h->text);
    memcpy(h->text + h->len, text, len);
    h->len += len;
    return h->stop_after && ++h->n >= h->stop_after;
}

static void opens_a_model_and_says_what_it_is(void **state)
{
    (void)state;
    assert_string_equal(sotto_model_name(model), "demo");
    assert_true(sotto_model_context(model) >= 256);
    assert_true(sotto_model_vocabulary(model) >= 1024);
    assert_true(strchr(sotto_version(), '.') != NULL);
}

static void errors_name_the_file_and_the_class(void **state)
{
    (void)state;
    sotto_model *m = model;
    assert_int_equal(sotto_open("models/absent", NULL, &m, &err), SOTTO_IO);
    assert_null(m);
    assert_int_equal(err.code, SOTTO_IO);
    assert_non_null(strstr(err.message, "models/absent"));
    const struct sotto_options bad = {.chat_template = "none"};
    assert_int_equal(sotto_open(DEMO, &bad, &m, &err), SOTTO_UNSUPPORTED);
    const struct sotto_options worse = {.kv_dtype = SOTTO_DTYPE_INT8};
    assert_int_equal(sotto_open(DEMO, &worse, &m, &err), SOTTO_USAGE);
    const uint32_t huge = UINT32_MAX;
    assert_int_equal(sotto_generate(model, &huge, 1, NULL, NULL, NULL, NULL, &err), SOTTO_INPUT);
    assert_int_equal(sotto_generate(model, &huge, 0, NULL, NULL, NULL, NULL, &err), SOTTO_INPUT);
}

static void text_survives_tokens_and_back(void **state)
{
    (void)state;
    static const char text[] = "Tim saw a r\xc3\xa9"
                               "d ball.";
    uint32_t *ids;
    size_t n, len;
    char *back;
    assert_int_equal(sotto_tokenize(model, text, strlen(text), 0, &ids, &n, &err), 0);
    assert_int_equal(sotto_detokenize(model, ids, n, &back, &len, &err), 0);
    assert_string_equal(back, text);
    assert_int_equal(len, strlen(text));
    sotto_free(back);
    sotto_free(ids);
    assert_int_equal(sotto_tokenize(model, "", 0, 0, &ids, &n, &err), 0);
    assert_int_equal(n, 0);
    sotto_free(ids);
    assert_int_equal(sotto_tokenize(model, "\xff", 1, 0, &ids, &n, &err), SOTTO_INPUT);
    assert_null(ids);
}

static void generates_the_same_greedy_text_twice(void **state)
{
    (void)state;
    const struct sotto_sampling s = {.max_tokens = 20};
    struct heard a = {0}, b = {0};
    assert_int_equal(sotto_generate_text(model, "Once upon a time", &s, hear, &a, &err), 0);
    assert_int_equal(sotto_generate_text(model, "Once upon a time", &s, hear, &b, &err), 0);
    assert_true(a.len > 10);
    assert_string_equal(a.text, b.text);
}

static void a_callback_may_stop_the_reply(void **state)
{
    (void)state;
    const uint32_t ids[] = {5, 6, 7};
    const struct sotto_sampling s = {.max_tokens = 50, .ignore_eos = 1};
    struct heard h = {.stop_after = 3};
    struct sotto_result r;
    assert_int_equal(sotto_generate(model, ids, 3, &s, hear, &h, &r, &err), 0);
    assert_int_equal(r.n_prompt, 3);
    assert_int_equal(r.n_reply, 3);
    assert_int_equal(r.finish, SOTTO_FINISH_STOP);
    h = (struct heard){0};
    assert_int_equal(sotto_generate(model, ids, 3, &s, hear, &h, &r, &err), 0);
    assert_int_equal(r.n_reply, 50);
    assert_int_equal(r.finish, SOTTO_FINISH_LENGTH);
}

static void a_session_remembers_and_resets(void **state)
{
    (void)state;
    const struct sotto_sampling s = {.max_tokens = 12};
    struct heard first = {0}, second = {0}, again = {0};
    struct sotto_result r1, r2;
    sotto_session *chat;
    assert_int_equal(sotto_session_new(model, NULL, &chat, &err), 0);
    assert_int_equal(sotto_session_say(chat, "Once upon a time", &s, hear, &first, &r1, &err), 0);
    assert_int_equal(sotto_session_say(chat, "Then a dog came", &s, hear, &second, &r2, &err), 0);
    assert_true(r2.n_prompt > r1.n_prompt + r1.n_reply / 2);
    assert_int_equal(sotto_session_say(chat, "\xff", &s, hear, &second, NULL, &err), SOTTO_INPUT);
    sotto_session_reset(chat);
    assert_int_equal(sotto_session_say(chat, "Once upon a time", &s, hear, &again, &r2, &err), 0);
    assert_int_equal(r2.n_prompt, r1.n_prompt);
    assert_string_equal(again.text, first.text);
    sotto_session_free(chat);
}

static int setup(void **state)
{
    (void)state;
    const struct sotto_options o = {.threads = 2};
    int rc = sotto_open(DEMO, &o, &model, &err);
    if (rc)
        printf("%s\n", err.message);
    return rc;
}

static int teardown(void **state)
{
    (void)state;
    sotto_close(model);
    sotto_close(NULL);
    sotto_session_free(NULL);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opens_a_model_and_says_what_it_is), cmocka_unit_test(errors_name_the_file_and_the_class),
        cmocka_unit_test(text_survives_tokens_and_back),     cmocka_unit_test(generates_the_same_greedy_text_twice),
        cmocka_unit_test(a_callback_may_stop_the_reply),     cmocka_unit_test(a_session_remembers_and_resets),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
