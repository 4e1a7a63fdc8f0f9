/* Dialect "openai-text": /v1/completions of a server that takes and gives text only. The prompt goes out as passthrough
 * words, one per id (text/passthrough.h), and the text that comes back must be such words, however it is cut; anything
 * else means that the server has another tokenizer than the obfuscated checkpoint's, and ends the reply (VERIFY).
 * Only fields that OpenAI's API defines are sent: a server may drop others unseen. */
#include "service/upstream_openai.h"
#include "text/passthrough.h"

#include <string.h>

static void put(const struct st_upstream_ask *a, struct st_buf *b)
{
    char word[ST_PASSTHROUGH_LEN];
    st_openai_put_head(a, b);
    st_buf_add_str(b, "\"");
    for (size_t i = 0; i < a->r->n_ids; i++) {
        st_passthrough_word(st_upstream_encipher(a, a->r->ids[i]), word);
        st_buf_add(b, word, sizeof word);
    }
    st_buf_add_str(b, "\"");
    st_openai_put_fields(a, b);
    st_buf_add_str(b, "}");
}

static int no_word(struct st_err *e)
{
    return st_fail(e, ST_VERIFY, "upstream: text that is not of the obfuscated checkpoint's tokenizer");
}

/* The word at the start of p[len] to a plain id: its length; 0 when it is cut. */
static int next_word(const struct st_upstream_reply *r, const char *p, size_t len, uint32_t *plain, size_t *used,
                     struct st_err *e)
{
    uint32_t id;
    int n = st_passthrough_next(p, len, &id);
    if (n < 0 || (n > 0 && id >= st_cov_cipher_size(r->cipher)))
        return no_word(e);
    if (n > 0)
        *plain = r->cipher->from[id];
    *used = (size_t)n;
    return 0;
}

/* A whole word. */
static int named_id(const struct st_upstream_reply *r, const char *name, uint32_t *plain, struct st_err *e)
{
    size_t used = 0;
    int rc = name ? next_word(r, name, strlen(name), plain, &used, e) : st_upstream_bad_logprobs(e);
    return rc || (used && !name[used]) ? rc : no_word(e);
}

/* With logprobs every name must be the next word of the text; the id that ends the reply has no text. */
static int take_logged(struct st_upstream_reply *r, const json_t *choice, const char *text, size_t len,
                       struct st_err *e)
{
    const json_t *names = json_object_get(json_object_get(choice, "logprobs"), "tokens");
    size_t n = json_array_size(names), used = 0;
    if (len && !json_is_array(names))
        return st_fail(e, ST_UNSUPPORTED, "upstream: it gives no logprobs, or not in the form of /v1/completions");
    for (size_t i = 0; i < n; i++, text += used, len -= used) {
        struct st_sampled tok = {0};
        uint32_t spelt = 0;
        int rc = named_id(r, json_string_value(json_array_get(names, i)), &tok.id, e);
        if (rc || st_upstream_ends(r, tok.id))
            return rc;
        rc = next_word(r, text, len, &spelt, &used, e);
        if (!rc && (!used || spelt != tok.id))
            rc = st_upstream_bad_logprobs(e);
        if (!rc)
            rc = st_openai_logprobs(r, choice, i, n, named_id, &tok, e);
        if (!rc)
            rc = st_upstream_token(r, &tok, e);
        if (rc)
            return rc;
    }
    return len ? st_upstream_bad_logprobs(e) : 0;
}

/* Words may be cut between events: r->part holds the beginning of one. */
static int take_text(struct st_upstream_reply *r, const char *text, size_t len, struct st_err *e)
{
    char joined[2 * ST_PASSTHROUGH_LEN];
    while (len || r->n_part) {
        const char *p = text;
        size_t n = len, used = 0;
        if (r->n_part) {
            size_t more = len < ST_PASSTHROUGH_LEN ? len : ST_PASSTHROUGH_LEN;
            memcpy(joined, r->part, r->n_part);
            memcpy(joined + r->n_part, text, more);
            p = joined;
            n = r->n_part + more;
        }
        struct st_sampled tok = {0};
        int rc = next_word(r, p, n, &tok.id, &used, e);
        if (rc)
            return rc;
        if (!used) { /* all of it is the beginning of a word, so it is shorter than one */
            memcpy(r->part, p, n);
            r->n_part = n;
            return 0;
        }
        text += used - r->n_part;
        len -= used - r->n_part;
        r->n_part = 0;
        if (st_upstream_ends(r, tok.id))
            return 0;
        rc = st_upstream_token(r, &tok, e);
        if (rc)
            return rc;
    }
    return 0;
}

static int take(struct st_upstream_reply *r, const json_t *choice, struct st_err *e)
{
    const json_t *text = json_object_get(choice, "text");
    if (text && !json_is_null(text) && !json_is_string(text))
        return st_upstream_not_ours(e);
    const char *p = json_is_string(text) ? json_string_value(text) : "";
    size_t len = json_string_length(text);
    int rc = r->n_logprobs >= 0 ? take_logged(r, choice, p, len, e) : take_text(r, p, len, e);
    if (!rc && r->n_part && json_is_string(json_object_get(choice, "finish_reason")))
        rc = no_word(e);
    return rc;
}

static int event(struct st_upstream_reply *r, const json_t *v, struct st_err *e)
{
    return st_openai_event(r, v, take, e);
}

#define NOT_IN_THE_API "a server that takes text only need not know it"
static const struct st_gen_refusal refused[] = {
    {"top_k", NOT_IN_THE_API},
    {"min_p", NOT_IN_THE_API},
    {"repetition_penalty", NOT_IN_THE_API},
    {"ignore_eos", NOT_IN_THE_API},
    {0},
};

const struct st_upstream_dialect st_upstream_openai_text = {
    .name = "openai-text",
    .path = "/v1/completions",
    .context = st_openai_context,
    .no_stop_ids = true,
    .refused = refused,
    .put = put,
    .event = event,
};
