#include "service/upstream_openai.h"

#include <inttypes.h>
#include <string.h>

void st_openai_put_head(const struct st_upstream_ask *a, struct st_buf *b)
{
    st_buf_add_str(b, "{\"model\":");
    st_json_quote(b, a->model, strlen(a->model));
    st_buf_add_str(b, ",\"prompt\":");
}

void st_openai_put_fields(const struct st_upstream_ask *a, struct st_buf *b)
{
    const struct st_sampling *s = &a->r->sampling;
    /* What is left out may come from the checkpoint's generation_config.json. */
    st_buf_addf(b, ",\"max_tokens\":%" PRIu32 ",\"stream\":true,\"temperature\":%.7g,\"top_p\":%.7g", a->r->n_predict,
                (double)s->temperature, (double)s->top_p);
    st_upstream_put_real(b, "presence_penalty", s->presence_penalty, 0);
    st_upstream_put_real(b, "frequency_penalty", s->frequency_penalty, 0);
    if (s->temperature > 0)
        st_buf_addf(b, ",\"seed\":%" PRIu64, s->seed & INT64_MAX);
    if (s->n_logprobs >= 0)
        st_buf_addf(b, ",\"logprobs\":%d", s->n_logprobs);
    st_upstream_put_bias(a, b);
}

int64_t st_openai_context(const json_t *model)
{
    const json_t *v = json_object_get(model, "max_model_len");
    return json_is_integer(v) ? json_integer_value(v) : 0;
}

int st_openai_event(struct st_upstream_reply *r, const json_t *event,
                    int (*take)(struct st_upstream_reply *r, const json_t *choice, struct st_err *e), struct st_err *e)
{
    const json_t *choices = json_object_get(event, "choices");
    if (!json_is_array(choices) || json_array_size(choices) > 1)
        return st_upstream_not_ours(e);
    if (json_array_size(choices) == 0) /* usage comes like this */
        return 0;
    const json_t *choice = json_array_get(choices, 0);
    const json_t *finish = json_object_get(choice, "finish_reason");
    if (!json_is_object(choice) || (finish && !json_is_null(finish) && !json_is_string(finish)))
        return st_upstream_not_ours(e);
    int rc = take(r, choice, e);
    const char *word = json_string_value(finish);
    if (rc || !word || r->finished)
        return rc;
    if (strcmp(word, "stop") != 0 && strcmp(word, "length") != 0)
        return st_fail(e, ST_IO, "upstream: it gave this request up");
    st_upstream_finish(r, strcmp(word, "stop") == 0 ? ST_GEN_STOP : ST_GEN_LENGTH);
    return 0;
}

/* The alternatives at one position: an object {NAME: logprob}. It names the chosen token beside the best n. */
static int get_top(const struct st_upstream_reply *r, json_t *top, st_openai_name *name, struct st_sampled *tok,
                   struct st_err *e)
{
    struct st_logprob all[ST_MAX_LOGPROBS + 1];
    size_t n = 0;
    if (!json_is_object(top) || json_object_size(top) > (size_t)r->n_logprobs + 1)
        return st_upstream_bad_logprobs(e);
    for (void *it = json_object_iter(top); it; it = json_object_iter_next(top, it), n++) {
        int rc = name(r, json_object_iter_key(it), &all[n].id, e);
        if (!rc)
            rc = st_upstream_logprob(json_object_iter_value(it), &all[n].logprob, e);
        if (rc)
            return rc;
    }
    st_upstream_top(r, all, n, tok);
    return 0;
}

int st_openai_logprobs(const struct st_upstream_reply *r, const json_t *choice, size_t i, size_t n,
                       st_openai_name *name, struct st_sampled *tok, struct st_err *e)
{
    uint32_t named;
    const json_t *logprobs = json_object_get(choice, "logprobs");
    const json_t *names = json_object_get(logprobs, "tokens");
    const json_t *values = json_object_get(logprobs, "token_logprobs");
    const json_t *tops = json_object_get(logprobs, "top_logprobs");
    if (json_array_size(names) != n || json_array_size(values) != n || (r->n_logprobs && json_array_size(tops) != n))
        return st_upstream_bad_logprobs(e);
    int rc = name(r, json_string_value(json_array_get(names, i)), &named, e);
    if (!rc && named != tok->id)
        rc = st_upstream_bad_logprobs(e);
    if (!rc)
        rc = st_upstream_logprob(json_array_get(values, i), &tok->logprob, e);
    return rc || r->n_logprobs == 0 ? rc : get_top(r, json_array_get(tops, i), name, tok, e);
}
