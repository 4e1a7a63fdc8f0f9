/* Dialect "openai-ids": /v1/completions with arrays of ids both ways, as in vLLM (return_token_ids,
 * return_tokens_as_token_ids) and `sotto serve`. Source: vLLM's OpenAI-compatible server, completion protocol. */
#include "service/upstream_openai.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int no_ids(struct st_err *e)
{
    return st_fail(e, ST_UNSUPPORTED, "upstream: it does not return token ids (return_token_ids)");
}

static void put(const struct st_upstream_ask *a, struct st_buf *b)
{
    const struct st_sampling *s = &a->r->sampling;
    st_openai_put_head(a, b);
    st_buf_add_str(b, "[");
    st_upstream_put_prompt(a, b);
    st_buf_add_str(b, "]");
    st_openai_put_fields(a, b);
    st_buf_add_str(b, ",\"return_token_ids\":true");
    if (s->n_logprobs >= 0)
        st_buf_add_str(b, ",\"return_tokens_as_token_ids\":true");
    st_buf_addf(b, ",\"min_p\":%.7g,\"repetition_penalty\":%.7g,\"top_k\":%" PRIu32, (double)s->min_p,
                (double)s->repetition_penalty, s->top_k);
    st_upstream_put_stop_ids(a, b);
    st_buf_add_str(b, a->r->ignore_eos ? ",\"ignore_eos\":true}" : "}");
}

/* "token_id:N" */
static int named_id(const struct st_upstream_reply *r, const char *name, uint32_t *plain, struct st_err *e)
{
    size_t digits = name && strncmp(name, "token_id:", 9) == 0 ? strspn(name + 9, "0123456789") : 0;
    unsigned long long id = digits && digits <= 10 && !name[9 + digits] ? strtoull(name + 9, NULL, 10) : UINT64_MAX;
    if (!digits)
        return st_fail(e, ST_UNSUPPORTED, "upstream: logprobs without token ids (return_tokens_as_token_ids)");
    if (id >= st_cov_cipher_size(r->cipher))
        return st_fail(e, ST_VERIFY, "upstream: logprobs of a token id outside the vocabulary");
    *plain = r->cipher->from[id];
    return 0;
}

static int take(struct st_upstream_reply *r, const json_t *choice, struct st_err *e)
{
    const json_t *ids = json_object_get(choice, "token_ids"), *finish = json_object_get(choice, "finish_reason");
    if (!json_is_array(ids)) {
        if (ids && !json_is_null(ids))
            return st_upstream_not_ours(e);
        if (json_string_length(json_object_get(choice, "text")) || (json_is_string(finish) && !r->saw_ids))
            return no_ids(e);
        return 0;
    }
    r->saw_ids = true;
    size_t n = json_array_size(ids);
    for (size_t i = 0; i < n; i++) {
        struct st_sampled tok = {0};
        int rc = st_upstream_id(r, json_array_get(ids, i), &tok.id, e);
        /* vLLM sends the id that ended the reply; we do not. */
        if (rc || st_upstream_ends(r, tok.id))
            return rc;
        if (r->n_logprobs >= 0)
            rc = st_openai_logprobs(r, choice, i, n, named_id, &tok, e);
        if (!rc)
            rc = st_upstream_token(r, &tok, e);
        if (rc)
            return rc;
    }
    return 0;
}

static int event(struct st_upstream_reply *r, const json_t *v, struct st_err *e)
{
    return st_openai_event(r, v, take, e);
}

static const struct st_gen_refusal refused[] = {{0}};

const struct st_upstream_dialect st_upstream_openai_ids = {
    .name = "openai-ids",
    .owner = "vllm",
    .path = "/v1/completions",
    .context = st_openai_context,
    .refused = refused,
    .put = put,
    .event = event,
};
