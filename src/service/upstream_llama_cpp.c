/* Dialect "llama.cpp": POST /completion of llama-server with an array of ids, streaming. Source: its tools/server.
 * It has no stop ids, so the reply is ended here and the connection closed. Its penalties count the prompt's tokens
 * too, so those that OpenAI defines over the reply are refused. Samplers are asked for in our order. */
#include "service/upstream.h"

#include <inttypes.h>
#include <string.h>

static void put(const struct st_upstream_ask *a, struct st_buf *b)
{
    const struct st_sampling *s = &a->r->sampling;
    st_buf_add_str(b, "{\"model\":");
    st_json_quote(b, a->model, strlen(a->model));
    st_buf_add_str(b, ",\"prompt\":[");
    st_upstream_put_prompt(a, b);
    st_buf_addf(b,
                "],\"n_predict\":%" PRIu32 ",\"stream\":true,\"return_tokens\":true,\"samplers\":[\"penalties\","
                "\"temperature\",\"top_k\",\"top_p\",\"min_p\"],\"temperature\":%.7g,\"top_p\":%.7g,\"min_p\":%.7g,"
                "\"top_k\":%" PRIu32 ",\"repeat_penalty\":%.7g",
                a->r->n_predict, (double)s->temperature, (double)s->top_p, (double)s->min_p, s->top_k,
                (double)s->repetition_penalty);
    if (s->repetition_penalty != 1)
        st_buf_addf(b, ",\"repeat_last_n\":%zu", a->r->n_ids + a->r->n_predict);
    /* 32 bits there, and all ones mean a random seed. */
    if (s->temperature > 0)
        st_buf_addf(b, ",\"seed\":%" PRIu32, (uint32_t)s->seed & INT32_MAX);
    if (s->n_logprobs >= 0)
        st_buf_addf(b, ",\"n_probs\":%d", s->n_logprobs ? s->n_logprobs : 1);
    st_upstream_put_bias(a, b);
    st_buf_add_str(b, a->r->ignore_eos ? ",\"ignore_eos\":true}" : "}");
}

/* {"id","logprob","top_logprobs":[{"id","logprob"},..]} of the chosen token. */
static int get_logprobs(const struct st_upstream_reply *r, const json_t *probs, struct st_sampled *tok,
                        struct st_err *e)
{
    struct st_logprob all[ST_MAX_LOGPROBS];
    const json_t *top = json_object_get(probs, "top_logprobs");
    size_t n = json_array_size(top);
    uint32_t named;
    if (!probs || n > ST_MAX_LOGPROBS)
        return st_upstream_bad_logprobs(e);
    int rc = st_upstream_id(r, json_object_get(probs, "id"), &named, e);
    if (!rc && named != tok->id)
        rc = st_upstream_bad_logprobs(e);
    if (!rc)
        rc = st_upstream_logprob(json_object_get(probs, "logprob"), &tok->logprob, e);
    for (size_t i = 0; !rc && i < n; i++) {
        const json_t *alt = json_array_get(top, i);
        rc = st_upstream_id(r, json_object_get(alt, "id"), &all[i].id, e);
        if (!rc)
            rc = st_upstream_logprob(json_object_get(alt, "logprob"), &all[i].logprob, e);
    }
    if (!rc)
        st_upstream_top(r, all, n, tok);
    return rc;
}

static int take(struct st_upstream_reply *r, const json_t *v, const json_t *ids, struct st_err *e)
{
    const json_t *probs = json_object_get(v, "completion_probabilities");
    size_t n = json_array_size(ids);
    if (r->n_logprobs >= 0 && n && json_array_size(probs) != n)
        return st_upstream_bad_logprobs(e);
    for (size_t i = 0; i < n; i++) {
        struct st_sampled tok = {0};
        int rc = st_upstream_id(r, json_array_get(ids, i), &tok.id, e);
        /* The token that ends a text is streamed like any other. */
        if (rc || st_upstream_ends(r, tok.id))
            return rc;
        if (r->n_logprobs >= 0)
            rc = get_logprobs(r, json_array_get(probs, i), &tok, e);
        if (!rc)
            rc = st_upstream_token(r, &tok, e);
        if (rc)
            return rc;
    }
    return 0;
}

/* Its context was full. Requests that do not fit are refused before they are sent, so unless this one fills it to the
 * brim it was cut or shifted, and the reply is not one to this prompt. */
static int on_stop(struct st_upstream_reply *r, const json_t *v, struct st_err *e)
{
    const char *type = json_string_value(json_object_get(v, "stop_type"));
    if (!type)
        return st_upstream_not_ours(e);
    if (json_is_true(json_object_get(v, "truncated")) && r->n_tok < r->max_tokens)
        return st_fail(e, ST_IO, "upstream: its context is shorter than it says");
    if (strcmp(type, "eos") == 0 || strcmp(type, "word") == 0)
        st_upstream_finish(r, ST_GEN_STOP);
    else if (strcmp(type, "limit") == 0)
        st_upstream_finish(r, ST_GEN_LENGTH);
    else
        return st_fail(e, ST_IO, "upstream: it gave this request up");
    return 0;
}

static int event(struct st_upstream_reply *r, const json_t *v, struct st_err *e)
{
    const json_t *ids = json_object_get(v, "tokens"), *stop = json_object_get(v, "stop");
    if (!json_is_boolean(stop) || (ids && !json_is_array(ids)))
        return st_upstream_not_ours(e);
    if (!json_array_size(ids) && json_string_length(json_object_get(v, "content")))
        return st_fail(e, ST_UNSUPPORTED, "upstream: it does not return token ids (return_tokens)");
    int rc = take(r, v, ids, e);
    return rc || r->finished || !json_is_true(stop) ? rc : on_stop(r, v, e);
}

/* data[].meta.n_ctx of /v1/models in newer servers, default_generation_settings.n_ctx of /props in all. */
static int64_t context(const json_t *reply)
{
    const json_t *v = json_object_get(json_object_get(reply, "meta"), "n_ctx");
    if (!v)
        v = json_object_get(json_object_get(reply, "default_generation_settings"), "n_ctx");
    return json_is_integer(v) ? json_integer_value(v) : 0;
}

static const struct st_gen_refusal refused[] = {
    {"presence_penalty", "llama.cpp counts the prompt's tokens too"},
    {"frequency_penalty", "llama.cpp counts the prompt's tokens too"},
    {0},
};

const struct st_upstream_dialect st_upstream_llama_cpp = {
    .name = "llama.cpp",
    .owner = "llamacpp",
    .path = "/completion",
    .context_path = "/props",
    .context = context,
    .no_stop_ids = true,
    .refused = refused,
    .put = put,
    .event = event,
};
