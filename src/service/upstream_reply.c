#include "service/upstream_reply.h"
#include "text/json.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void st_upstream_reply_init(struct st_upstream_reply *r, size_t max_event)
{
    st_sse_init(&r->sse, max_event);
    r->n_tok = 0;
    r->saw_ids = r->finished = false;
}

void st_upstream_reply_wipe(struct st_upstream_reply *r)
{
    st_sse_wipe(&r->sse);
}

static void code_word(const json_t *body, char out[48])
{
    const json_t *error = json_object_get(body, "error");
    const char *s = json_string_value(json_object_get(error, "code"));
    size_t n = s ? strlen(s) : 0;
    bool fine = n > 0 && n < 48;
    for (size_t i = 0; fine && i < n; i++)
        fine = isalnum((unsigned char)s[i]) || s[i] == '_';
    snprintf(out, 48, "%s", fine ? s : "");
}

void st_upstream_error_code(const void *body, size_t len, char out[48])
{
    struct st_err e;
    json_t *v;
    out[0] = 0;
    if (st_json_parse(body, len, "upstream", &v, &e))
        return;
    code_word(v, out);
    json_decref(v);
}

static int cipher_id(const struct st_upstream_reply *r, const json_t *v, uint32_t *plain, struct st_err *e)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= (json_int_t)r->cipher->n_vocab)
        return st_fail(e, ST_VERIFY, "upstream: a token id outside the vocabulary");
    *plain = r->cipher->from[json_integer_value(v)];
    return 0;
}

/* "token_id:N" to a plain id. */
static int named_id(const struct st_upstream_reply *r, const char *name, uint32_t *plain, struct st_err *e)
{
    size_t digits = name && strncmp(name, "token_id:", 9) == 0 ? strspn(name + 9, "0123456789") : 0;
    unsigned long long id = digits && digits <= 10 && !name[9 + digits] ? strtoull(name + 9, NULL, 10) : UINT64_MAX;
    if (!digits)
        return st_fail(e, ST_UNSUPPORTED, "upstream: logprobs without token ids (return_tokens_as_token_ids)");
    if (id >= r->cipher->n_vocab)
        return st_fail(e, ST_VERIFY, "upstream: logprobs of a token id outside the vocabulary");
    *plain = r->cipher->from[id];
    return 0;
}

static int get_logprob(const json_t *v, float *out, struct st_err *e)
{
    double x = json_number_value(v);
    if (!json_is_number(v) || x > 1e-3)
        return st_fail(e, ST_VERIFY, "upstream: a logprob that is none");
    *out = x < -9999 ? -9999.0f : (float)x;
    return 0;
}

static int by_logprob(const void *a, const void *b)
{
    const struct st_logprob *x = a, *y = b;
    if (x->logprob != y->logprob)
        return x->logprob < y->logprob ? 1 : -1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* The alternatives at one position: an object {"token_id:N": logprob}. It names the chosen token beside the best n. */
static int get_top(const struct st_upstream_reply *r, json_t *top, struct st_sampled *tok, struct st_err *e)
{
    struct st_logprob all[ST_MAX_LOGPROBS + 1];
    size_t n = 0;
    if (!json_is_object(top) || json_object_size(top) > (size_t)r->n_logprobs + 1)
        return st_fail(e, ST_VERIFY, "upstream: logprobs of other length than asked for");
    for (void *it = json_object_iter(top); it; it = json_object_iter_next(top, it), n++) {
        int rc = named_id(r, json_object_iter_key(it), &all[n].id, e);
        if (!rc)
            rc = get_logprob(json_object_iter_value(it), &all[n].logprob, e);
        if (rc)
            return rc;
    }
    qsort(all, n, sizeof *all, by_logprob);
    tok->n_top = n < (size_t)r->n_logprobs ? (int)n : r->n_logprobs;
    memcpy(tok->top, all, (size_t)tok->n_top * sizeof *all);
    return 0;
}

/* Logprobs of token i of a choice, into tok. */
static int get_logprobs(const struct st_upstream_reply *r, const json_t *logprobs, size_t i, size_t n,
                        struct st_sampled *tok, struct st_err *e)
{
    uint32_t named;
    const json_t *names = json_object_get(logprobs, "tokens");
    const json_t *values = json_object_get(logprobs, "token_logprobs");
    const json_t *tops = json_object_get(logprobs, "top_logprobs");
    if (json_array_size(names) != n || json_array_size(values) != n)
        return st_fail(e, ST_VERIFY, "upstream: logprobs of other length than its tokens");
    int rc = named_id(r, json_string_value(json_array_get(names, i)), &named, e);
    if (!rc && named != tok->id)
        rc = st_fail(e, ST_VERIFY, "upstream: logprobs of other tokens than it sent");
    if (!rc)
        rc = get_logprob(json_array_get(values, i), &tok->logprob, e);
    if (rc || r->n_logprobs == 0)
        return rc;
    if (json_array_size(tops) != n)
        return st_fail(e, ST_VERIFY, "upstream: logprobs of other length than its tokens");
    return get_top(r, json_array_get(tops, i), tok, e);
}

static bool in_list(uint32_t id, const uint32_t *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (list[i] == id)
            return true;
    return false;
}

static int on_tokens(struct st_upstream_reply *r, const json_t *choice, const json_t *ids, struct st_err *e)
{
    const json_t *logprobs = json_object_get(choice, "logprobs");
    size_t n = json_array_size(ids);
    for (size_t i = 0; i < n && !r->finished; i++) {
        struct st_sampled tok = {0};
        int rc = cipher_id(r, json_array_get(ids, i), &tok.id, e);
        if (rc)
            return rc;
        /* vLLM sends the id that ended the reply; we do not. */
        if (in_list(tok.id, r->ends, r->n_end) || in_list(tok.id, r->more_ends, r->n_more_end)) {
            r->finished = true;
            r->finish = ST_GEN_STOP;
            break;
        }
        if (r->n_logprobs >= 0 && (rc = get_logprobs(r, logprobs, i, n, &tok, e)) != 0)
            return rc;
        if (++r->n_tok > r->max_tokens)
            return st_fail(e, ST_VERIFY, "upstream: more tokens than the %zu asked for", r->max_tokens);
        r->token(r->arg, &tok);
    }
    return 0;
}

static int on_finish(struct st_upstream_reply *r, const char *word, struct st_err *e)
{
    if (strcmp(word, "stop") != 0 && strcmp(word, "length") != 0)
        return st_fail(e, ST_IO, "upstream: it gave this request up");
    if (!r->saw_ids)
        return st_fail(e, ST_UNSUPPORTED, "upstream: it does not return token ids (return_token_ids)");
    r->finished = true;
    r->finish = strcmp(word, "stop") == 0 ? ST_GEN_STOP : ST_GEN_LENGTH;
    return 0;
}

static int on_choice(struct st_upstream_reply *r, const json_t *choice, struct st_err *e)
{
    const json_t *ids = json_object_get(choice, "token_ids");
    const json_t *finish = json_object_get(choice, "finish_reason");
    if (!json_is_object(choice) || (ids && !json_is_null(ids) && !json_is_array(ids)) ||
        (finish && !json_is_null(finish) && !json_is_string(finish)))
        return st_fail(e, ST_VERIFY, "upstream: an event that is no completion");
    if (json_is_array(ids)) {
        r->saw_ids = true;
        int rc = on_tokens(r, choice, ids, e);
        if (rc)
            return rc;
    } else if (json_string_length(json_object_get(choice, "text")))
        return st_fail(e, ST_UNSUPPORTED, "upstream: it does not return token ids (return_token_ids)");
    return json_is_string(finish) && !r->finished ? on_finish(r, json_string_value(finish), e) : 0;
}

static int on_event(void *arg, const char *data, size_t len, struct st_err *e)
{
    struct st_upstream_reply *r = arg;
    json_t *v;
    char word[48];
    if (r->finished || (len == 6 && memcmp(data, "[DONE]", 6) == 0))
        return 0;
    int rc = st_json_parse(data, len, "upstream", &v, e);
    if (rc)
        return st_fail(e, rc == ST_MEMORY ? ST_MEMORY : ST_VERIFY, "upstream: an event that is no JSON");
    const json_t *choices = json_object_get(v, "choices");
    if (json_is_object(json_object_get(v, "error"))) {
        code_word(v, word);
        rc = st_fail(e, ST_IO, "upstream: it reports an error%s%s", *word ? ": " : "", word);
    } else if (!json_is_array(choices) || json_array_size(choices) > 1)
        rc = st_fail(e, ST_VERIFY, "upstream: an event that is no completion");
    else if (json_array_size(choices) == 1)
        rc = on_choice(r, json_array_get(choices, 0), e);
    json_decref(v);
    return rc;
}

int st_upstream_reply_feed(struct st_upstream_reply *r, const void *p, size_t len, struct st_err *e)
{
    int rc = st_sse_feed(&r->sse, p, len, on_event, r, e);
    /* Too long an event: the class of everything else that an upstream must not do. */
    return rc == ST_INPUT ? (e->code = ST_VERIFY) : rc;
}
