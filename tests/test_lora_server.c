/* Adapters behind the server: the model that a request names decides, also while requests for others run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "lora_make.h"
#include "service/gen_engine.h"
#include "serving.h"

#define TEXT "/v1/completions"
#define BODY "\"prompt\":[5,6,7,8],\"max_tokens\":12,\"temperature\":0,\"ignore_eos\":true,\"return_token_ids\":true}"

static struct st_model *model;
static struct st_engine *engine;
static struct st_server *server;
static struct st_gen_engine_opts gen;
static int port;

static int set_up(void **state)
{
    (void)state;
    struct lora l[2] = {{.targets = "[\"q_proj\", \"down_proj\"]", .seed = 1, .alpha = 30}, {.seed = 2, .alpha = 40}};
    struct st_err e = {0};
    model = lora_model(&(struct tiny){.seed = 3}, l, 2, (struct st_model_opts){0});
    engine = tiny_engine(model, (struct st_engine_opts){0});
    gen = (struct st_gen_engine_opts){.engine = engine, .model = model, .model_name = "base"};
    const struct st_server_opts o = {.source = {st_gen_engine_open, &gen}};
    tiny_check(st_server_start(&o, &server, &e), &e);
    port = st_server_port(server);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    st_server_stop(server);
    st_engine_free(engine);
    st_model_close(model);
    return 0;
}

/* The ids that the engine itself gives. */
static void want_ids(uint32_t adapter, uint32_t *out)
{
    struct client c = {0};
    struct st_engine *en = tiny_engine(model, (struct st_engine_opts){0});
    struct st_request_opts o = client_opts(&c, (uint32_t[]){5, 6, 7, 8}, 4, 12);
    o.adapter = adapter;
    client_submit(&c, en, &o);
    while (st_engine_step(en))
        ;
    memcpy(out, c.ids, 12 * sizeof *out);
    st_engine_free(en);
}

static void expect_ids(char *answer, const char *name, uint32_t adapter)
{
    uint32_t want[12];
    json_t *v = json_of(answer);
    const json_t *ids = json_object_get(json_array_get(json_object_get(v, "choices"), 0), "token_ids");
    want_ids(adapter, want);
    assert_int_equal(status_of(answer), 200);
    assert_string_equal(json_string_value(json_object_get(v, "model")), name);
    assert_int_equal(json_array_size(ids), 12);
    for (size_t i = 0; i < 12; i++)
        assert_int_equal(json_integer_value(json_array_get(ids, i)), want[i]);
    json_decref(v);
    free(answer);
}

static void base_and_adapters_are_listed_as_models(void **state)
{
    (void)state;
    static const char *const names[] = {"base", "adapter-1", "adapter-2"};
    char *a = ask(port, "GET", "/v1/models", NULL, NULL);
    json_t *v = json_of(a);
    const json_t *data = json_object_get(v, "data");
    assert_int_equal(json_array_size(data), 3);
    for (size_t i = 0; i < 3; i++)
        assert_string_equal(json_string_value(json_object_get(json_array_get(data, i), "id")), names[i]);
    json_decref(v);
    free(a);
    a = ask(port, "GET", "/v1/models/adapter-2", NULL, NULL);
    assert_int_equal(status_of(a), 200);
    free(a);
    assert_error(ask(port, "GET", "/v1/models/adapter-3", NULL, NULL), 404, "model_not_found");
}

static void the_model_of_a_request_chooses_the_adapter(void **state)
{
    (void)state;
    for (int round = 0; round < 2; round++) {
        expect_ids(ask(port, "POST", TEXT, NULL, "{\"model\":\"adapter-1\"," BODY), "adapter-1", 1);
        expect_ids(ask(port, "POST", TEXT, NULL, "{\"model\":\"base\"," BODY), "base", 0);
        expect_ids(ask(port, "POST", TEXT, NULL, "{\"model\":\"adapter-2\"," BODY), "adapter-2", 2);
        expect_ids(ask(port, "POST", TEXT, NULL, "{" BODY), "base", 0);
    }
}

static void requests_for_different_models_run_together(void **state)
{
    (void)state;
    static const char *const models[] = {"base", "adapter-1", "adapter-2"};
    struct st_buf answers[9] = {0};
    int fd[9];
    for (int i = 0; i < 9; i++) {
        struct st_buf body = {0}, q = {0};
        st_buf_addf(&body, "{\"model\":\"%s\"," BODY, models[i % 3]);
        st_buf_addf(&q,
                    "POST " TEXT " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: "
                    "application/json\r\nContent-Length: %zu\r\n\r\n%s",
                    body.len, body.p);
        fd[i] = dial(port);
        assert_true(put(fd[i], q.p, q.len));
        st_buf_free(&body);
        st_buf_free(&q);
    }
    for (int i = 0; i < 9; i++) {
        assert_true(get_all(fd[i], &answers[i]));
        close(fd[i]);
        st_buf_add(&answers[i], "", 1);
        expect_ids(answers[i].p, models[i % 3], (uint32_t)(i % 3));
    }
}

static void an_unknown_model_is_not_found(void **state)
{
    (void)state;
    char *a = ask(port, "POST", TEXT, NULL, "{\"model\":\"gpt-5\"," BODY);
    assert_non_null(strstr(a, "this server has 'base' and others (/v1/models)"));
    assert_error(a, 404, "model_not_found");
}

static void an_adapter_with_the_name_of_the_model_is_refused(void **state)
{
    (void)state;
    struct st_err e = {0};
    struct st_server *second;
    const struct st_gen_engine_opts same = {.engine = engine, .model = model, .model_name = "adapter-2"};
    const struct st_server_opts o = {.source = {st_gen_engine_open, &same}};
    assert_int_equal(st_server_start(&o, &second, &e), ST_USAGE);
    assert_non_null(strstr(e.msg, "adapter 'adapter-2': has the name of the model"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(base_and_adapters_are_listed_as_models),
        cmocka_unit_test(the_model_of_a_request_chooses_the_adapter),
        cmocka_unit_test(requests_for_different_models_run_together),
        cmocka_unit_test(an_unknown_model_is_not_found),
        cmocka_unit_test(an_adapter_with_the_name_of_the_model_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
