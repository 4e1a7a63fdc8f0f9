#include "service/openai.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* HTTP status, type and stable code for an error of the program. POLICY here is a refusal by a protection; a full queue
 * is answered before it becomes one. */
void st_oai_from_err(struct st_oai_error *err, const struct st_err *e)
{
    static const struct {
        int code, status;
        const char *type, *word;
    } rows[] = {
        {ST_INPUT, 400, "invalid_request_error", "invalid_value"},
        {ST_USAGE, 400, "invalid_request_error", "invalid_value"},
        {ST_UNSUPPORTED, 400, "invalid_request_error", "unsupported"},
        {ST_IO, 502, "upstream_error", "network"},
        {ST_VERIFY, 502, "upstream_error", "integrity"},
        {ST_POLICY, 502, "upstream_error", "policy"},
        {ST_MEMORY, 503, "server_error", "memory"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i].code == e->code) {
            st_oai_fail(err, rows[i].status, rows[i].type, rows[i].word, NULL, "%s", e->msg);
            return;
        }
    st_oai_fail(err, 500, "server_error", "internal", NULL, "%s", e->msg);
}

static void put_str(struct st_buf *b, const char *s)
{
    st_json_quote(b, s, strlen(s));
}

void st_oai_error_json(const struct st_oai_error *err, struct st_buf *out)
{
    st_buf_add_str(out, "{\"error\":{\"message\":");
    put_str(out, err->message);
    st_buf_add_str(out, ",\"type\":");
    put_str(out, err->type);
    st_buf_add_str(out, ",\"param\":");
    if (err->param[0])
        put_str(out, err->param);
    else
        st_buf_add_str(out, "null");
    st_buf_add_str(out, ",\"code\":");
    if (err->code)
        put_str(out, err->code);
    else
        st_buf_add_str(out, "null");
    st_buf_add_str(out, "}}");
}

void st_oai_put_ids(struct st_buf *b, const uint32_t *ids, size_t n)
{
    st_buf_add_str(b, "[");
    for (size_t i = 0; i < n; i++) {
        st_buf_add(b, ",", i > 0);
        st_buf_add_u32(b, ids[i]);
    }
    st_buf_add_str(b, "]");
}

void st_oai_put_usage(struct st_buf *b, size_t n_prompt, size_t n_reply)
{
    st_buf_addf(b, "{\"prompt_tokens\":%zu,\"completion_tokens\":%zu,\"total_tokens\":%zu}", n_prompt, n_reply,
                n_prompt + n_reply);
}

/* A token as a JSON string: its text, or its id where there is no tokenizer or the client asked for ids. */
static void put_token(struct st_buf *b, const struct st_tokenizer *t, bool as_ids, uint32_t id)
{
    if (as_ids || !t) {
        st_buf_addf(b, "\"token_id:%" PRIu32 "\"", id);
        return;
    }
    struct st_span s = st_tokenizer_piece(t, id);
    st_json_quote(b, (const char *)s.p, s.len);
}

/* JSON has no infinities; OpenAI's own floor is -9999. */
static void put_logprob(struct st_buf *b, float v)
{
    st_buf_addf(b, "%.6g", isfinite(v) && v > -9999 ? (double)v : -9999.0);
}

static void put_entry(struct st_buf *b, const struct st_tokenizer *t, bool as_ids, uint32_t id, float logprob)
{
    st_buf_add_str(b, "{\"token\":");
    put_token(b, t, as_ids, id);
    st_buf_add_str(b, ",\"logprob\":");
    put_logprob(b, logprob);
    st_buf_add_str(b, ",\"bytes\":");
    if (t) {
        struct st_span s = st_tokenizer_piece(t, id);
        st_buf_add_str(b, "[");
        for (size_t i = 0; i < s.len; i++)
            st_buf_addf(b, i ? ",%d" : "%d", s.p[i]);
        st_buf_add_str(b, "]");
    } else
        st_buf_add_str(b, "null");
}

void st_oai_put_chat_logprob(struct st_buf *b, const struct st_tokenizer *t, bool as_ids, const struct st_sampled *s)
{
    put_entry(b, t, as_ids, s->id, s->logprob);
    st_buf_add_str(b, ",\"top_logprobs\":[");
    for (int i = 0; i < s->n_top; i++) {
        st_buf_add_str(b, i ? "," : "");
        put_entry(b, t, as_ids, s->top[i].id, s->top[i].logprob);
        st_buf_add_str(b, "}");
    }
    st_buf_add_str(b, "]}");
}

void st_oai_legacy_add(struct st_oai_legacy *l, const struct st_tokenizer *t, bool as_ids, const struct st_sampled *s,
                       size_t text_offset)
{
    const char *comma = l->tokens.len ? "," : "";
    st_buf_add_str(&l->tokens, comma);
    put_token(&l->tokens, t, as_ids, s->id);
    st_buf_add_str(&l->token_logprobs, comma);
    put_logprob(&l->token_logprobs, s->logprob);
    st_buf_addf(&l->text_offset, "%s%zu", comma, text_offset);
    /* One object per position, keyed by token. Tokens that print alike (parts of characters) are given once: a JSON
     * object has no room for two. The chosen token is always there. */
    struct st_buf *top = &l->top_logprobs;
    struct st_buf keys[ST_MAX_LOGPROBS + 1];
    memset(keys, 0, sizeof keys);
    int n = 0;
    st_buf_addf(top, "%s{", comma);
    for (int i = -1; i < s->n_top; i++) {
        uint32_t id = i < 0 ? s->id : s->top[i].id;
        put_token(&keys[n], t, as_ids, id);
        bool seen = keys[n].failed;
        for (int j = 0; j < n && !seen; j++)
            seen = keys[j].len == keys[n].len && memcmp(keys[j].p, keys[n].p, keys[n].len) == 0;
        if (seen) {
            st_buf_clear(&keys[n]);
            continue;
        }
        st_buf_add_str(top, n ? "," : "");
        st_buf_add(top, keys[n].p, keys[n].len);
        st_buf_add_str(top, ":");
        put_logprob(top, i < 0 ? s->logprob : s->top[i].logprob);
        n++;
    }
    st_buf_add_str(top, "}");
    for (int i = 0; i <= ST_MAX_LOGPROBS; i++)
        st_buf_free(&keys[i]);
}

void st_oai_legacy_put(struct st_buf *b, const struct st_oai_legacy *l)
{
    st_buf_add_str(b, "{\"tokens\":[");
    st_buf_add(b, l->tokens.p, l->tokens.len);
    st_buf_add_str(b, "],\"token_logprobs\":[");
    st_buf_add(b, l->token_logprobs.p, l->token_logprobs.len);
    st_buf_add_str(b, "],\"top_logprobs\":[");
    st_buf_add(b, l->top_logprobs.p, l->top_logprobs.len);
    st_buf_add_str(b, "],\"text_offset\":[");
    st_buf_add(b, l->text_offset.p, l->text_offset.len);
    st_buf_add_str(b, "]}");
}

void st_oai_legacy_clear(struct st_oai_legacy *l)
{
    st_buf_clear(&l->tokens);
    st_buf_clear(&l->token_logprobs);
    st_buf_clear(&l->top_logprobs);
    st_buf_clear(&l->text_offset);
}

void st_oai_legacy_free(struct st_oai_legacy *l)
{
    st_buf_wipe(&l->tokens);
    st_buf_wipe(&l->token_logprobs);
    st_buf_wipe(&l->top_logprobs);
    st_buf_wipe(&l->text_offset);
}

const char *st_oai_finish_word(enum st_gen_finish f)
{
    return f == ST_GEN_LENGTH ? "length" : "stop";
}
