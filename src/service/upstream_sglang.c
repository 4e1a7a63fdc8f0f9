/* Dialect "sglang": POST /generate of SGLang with input_ids, streaming. `output_ids` and the logprobs of an event hold
 * the whole reply so far, or (with its --stream-output) only what is new; meta_info.completion_tokens tells which.
 * Source: SGLang's native API and sampling parameters. */
#include "service/upstream.h"

#include <inttypes.h>
#include <string.h>

static void put(const struct st_upstream_ask *a, struct st_buf *b)
{
    const struct st_sampling *s = &a->r->sampling;
    st_buf_add_str(b, "{\"input_ids\":[");
    st_upstream_put_prompt(a, b);
    /* What is left out would come from the checkpoint's generation_config.json. */
    st_buf_addf(b,
                "],\"stream\":true,\"sampling_params\":{\"max_new_tokens\":%" PRIu32 ",\"temperature\":%.7g,"
                "\"top_p\":%.7g,\"min_p\":%.7g,\"top_k\":%" PRId64 ",\"repetition_penalty\":1",
                a->r->n_predict, (double)s->temperature, (double)s->top_p, (double)s->min_p,
                s->top_k ? (int64_t)s->top_k : -1);
    st_upstream_put_real(b, "presence_penalty", s->presence_penalty, 0);
    st_upstream_put_real(b, "frequency_penalty", s->frequency_penalty, 0);
    st_upstream_put_bias(a, b);
    st_upstream_put_stop_ids(a, b);
    st_buf_add_str(b, a->r->ignore_eos ? ",\"ignore_eos\":true}" : "}");
    if (s->n_logprobs >= 0)
        st_buf_addf(b, ",\"return_logprob\":true,\"logprob_start_len\":-1,\"top_logprobs_num\":%d", s->n_logprobs);
    st_buf_add_str(b, "}");
}

/* [logprob, id, text or null] */
static int get_pair(const struct st_upstream_reply *r, const json_t *v, struct st_logprob *out, struct st_err *e)
{
    int rc = json_array_size(v) >= 2 ? st_upstream_logprob(json_array_get(v, 0), &out->logprob, e)
                                     : st_upstream_bad_logprobs(e);
    return rc ? rc : st_upstream_id(r, json_array_get(v, 1), &out->id, e);
}

/* Of the token that is `back` places before the last. */
static int get_logprobs(const struct st_upstream_reply *r, const json_t *meta, size_t back, struct st_sampled *tok,
                        struct st_err *e)
{
    const json_t *own = json_object_get(meta, "output_token_logprobs"), *tops = NULL;
    struct st_logprob mine, all[ST_MAX_LOGPROBS];
    if (json_array_size(own) <= back)
        return st_upstream_bad_logprobs(e);
    int rc = get_pair(r, json_array_get(own, json_array_size(own) - 1 - back), &mine, e);
    if (rc || mine.id != tok->id)
        return rc ? rc : st_upstream_bad_logprobs(e);
    tok->logprob = mine.logprob;
    if (r->n_logprobs == 0)
        return 0;
    tops = json_object_get(meta, "output_top_logprobs");
    const json_t *top = json_array_size(tops) > back ? json_array_get(tops, json_array_size(tops) - 1 - back) : NULL;
    size_t n = json_array_size(top);
    if (!top || n > ST_MAX_LOGPROBS)
        return st_upstream_bad_logprobs(e);
    for (size_t i = 0; !rc && i < n; i++)
        rc = get_pair(r, json_array_get(top, i), &all[i], e);
    if (!rc)
        st_upstream_top(r, all, n, tok);
    return rc;
}

static int take(struct st_upstream_reply *r, const json_t *ids, const json_t *meta, struct st_err *e)
{
    const json_t *total = json_object_get(meta, "completion_tokens");
    size_t n = json_array_size(ids), seen = r->n_tok;
    if (!json_is_integer(total) || json_integer_value(total) < 0)
        return st_upstream_not_ours(e);
    size_t want = (size_t)json_integer_value(total);
    /* All of the reply, or the new part of it. */
    size_t first = n == want ? seen : 0;
    if ((n != want && seen + n != want) || first > n)
        return st_upstream_not_ours(e);
    for (size_t i = first; i < n; i++) {
        struct st_sampled tok = {0};
        int rc = st_upstream_id(r, json_array_get(ids, i), &tok.id, e);
        if (rc || st_upstream_ends(r, tok.id))
            return rc;
        if (r->n_logprobs >= 0)
            rc = get_logprobs(r, meta, n - 1 - i, &tok, e);
        if (!rc)
            rc = st_upstream_token(r, &tok, e);
        if (rc)
            return rc;
    }
    return 0;
}

static int event(struct st_upstream_reply *r, const json_t *v, struct st_err *e)
{
    const json_t *ids = json_object_get(v, "output_ids"), *meta = json_object_get(v, "meta_info");
    const json_t *finish = json_object_get(meta, "finish_reason");
    if (!json_is_object(meta) || (ids && !json_is_array(ids)) ||
        (finish && !json_is_null(finish) && !json_is_object(finish)))
        return st_upstream_not_ours(e);
    if (!ids)
        return st_fail(e, ST_UNSUPPORTED, "upstream: it does not return token ids (output_ids)");
    int rc = take(r, ids, meta, e);
    if (rc || r->finished || !json_is_object(finish))
        return rc;
    const char *type = json_string_value(json_object_get(finish, "type"));
    if (!type || (strcmp(type, "stop") != 0 && strcmp(type, "length") != 0))
        return st_fail(e, ST_IO, "upstream: it gave this request up");
    st_upstream_finish(r, strcmp(type, "stop") == 0 ? ST_GEN_STOP : ST_GEN_LENGTH);
    return 0;
}

static int64_t context(const json_t *model)
{
    const json_t *v = json_object_get(model, "max_model_len");
    return json_is_integer(v) ? json_integer_value(v) : 0;
}

static const struct st_gen_refusal refused[] = {
    {"seed", "SGLang has seeds only in a mode of the whole server"},
    {"repetition_penalty", "SGLang does not say what it counts"},
    {0},
};

const struct st_upstream_dialect st_upstream_sglang = {
    .name = "sglang",
    .owner = "sglang",
    .path = "/generate",
    .context = context,
    .cumulative = true,
    .refused = refused,
    .put = put,
    .event = event,
};
