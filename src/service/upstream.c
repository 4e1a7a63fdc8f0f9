#include "service/upstream.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>

enum {
    EVENT_MAX = 1 << 20,  /* beside what grows with the request */
    TOKEN_BYTES = 8192,   /* of a token in a stream; with 20 logprobs it is about 2 KiB */
    REPEATED_BYTES = 64,  /* of an earlier token in a cumulative event: its id, and its text */
    REPEATED_LOGS = 64,   /* of each of its logprobs */
    PROMPT_ID_BYTES = 16, /* of an id of the prompt, which some servers echo */
};

#define X(symbol) extern const struct st_upstream_dialect st_upstream_##symbol;
#include "service/upstreams.def"
#undef X

const struct st_upstream_dialect *const st_upstream_dialects[] = {
#define X(symbol) &st_upstream_##symbol,
#include "service/upstreams.def"
#undef X
};
const size_t st_upstream_n_dialect = sizeof st_upstream_dialects / sizeof *st_upstream_dialects;

const struct st_upstream_dialect *st_upstream_named(const char *name)
{
    for (size_t i = 0; i < st_upstream_n_dialect; i++)
        if (strcmp(st_upstream_dialects[i]->name, name) == 0)
            return st_upstream_dialects[i];
    return NULL;
}

const struct st_upstream_dialect *st_upstream_owned(const char *owner)
{
    for (size_t i = 0; owner && i < st_upstream_n_dialect; i++)
        if (st_upstream_dialects[i]->owner && strcmp(st_upstream_dialects[i]->owner, owner) == 0)
            return st_upstream_dialects[i];
    return st_upstream_dialects[0];
}

void st_upstream_names(char *out, size_t size)
{
    size_t at = 0;
    out[0] = 0;
    for (size_t i = 0; i < st_upstream_n_dialect && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%s", i ? ", " : "", st_upstream_dialects[i]->name);
}

/* Bytes that an earlier token takes in each later event. */
static size_t repeated(const struct st_upstream_dialect *d, const struct st_gen_request *r)
{
    if (!d->cumulative)
        return 0;
    int logs = r->sampling.n_logprobs;
    return REPEATED_BYTES + (logs < 0 ? 0 : (size_t)(logs + 1) * REPEATED_LOGS);
}

size_t st_upstream_max_event(const struct st_upstream_dialect *d, const struct st_gen_request *r)
{
    return EVENT_MAX + r->n_ids * PROMPT_ID_BYTES + (size_t)r->n_predict * repeated(d, r);
}

size_t st_upstream_max_reply(const struct st_upstream_dialect *d, const struct st_gen_request *r)
{
    /* Sizes are of 64 bits, counts of 32, and the rest is below 2^12. */
    size_t per_token = TOKEN_BYTES + (size_t)r->n_predict / 2 * repeated(d, r);
    return EVENT_MAX + r->n_ids * PROMPT_ID_BYTES + r->n_predict * per_token;
}

void st_upstream_reply_init(struct st_upstream_reply *r, size_t max_event)
{
    st_sse_init(&r->sse, max_event);
    r->n_tok = r->n_part = 0;
    r->saw_ids = r->finished = r->hang_up = false;
}

void st_upstream_reply_wipe(struct st_upstream_reply *r)
{
    st_sse_wipe(&r->sse);
    OPENSSL_cleanse(r->part, sizeof r->part);
}

/* "code" of an error object, or "type" where the code is a number. */
static void code_word(const json_t *error, char out[48])
{
    const char *s = json_string_value(json_object_get(error, "code"));
    if (!s)
        s = json_string_value(json_object_get(error, "type"));
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
    code_word(json_object_get(v, "error"), out);
    json_decref(v);
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
    const json_t *error = json_object_get(v, "error");
    if (error && !json_is_null(error)) {
        code_word(error, word);
        rc = st_fail(e, ST_IO, "upstream: it reports an error%s%s", *word ? ": " : "", word);
    } else if (!json_is_object(v))
        rc = st_upstream_not_ours(e);
    else
        rc = r->dialect->event(r, v, e);
    json_decref(v);
    return rc;
}

int st_upstream_reply_feed(struct st_upstream_reply *r, const void *p, size_t len, struct st_err *e)
{
    int rc = st_sse_feed(&r->sse, p, len, on_event, r, e);
    /* Too long an event: the class of everything else that an upstream must not do. */
    return rc == ST_INPUT ? (e->code = ST_VERIFY) : rc;
}

/* ---- for the dialects ---- */

uint32_t st_upstream_encipher(const struct st_upstream_ask *a, uint32_t plain)
{
    return st_cov_cipher_any(a->cipher, plain, a->choice);
}

void st_upstream_put_prompt(const struct st_upstream_ask *a, struct st_buf *b)
{
    for (size_t i = 0; i < a->r->n_ids; i++) {
        st_buf_add(b, ",", i > 0);
        st_buf_add_u32(b, st_upstream_encipher(a, a->r->ids[i]));
    }
}

void st_upstream_put_real(struct st_buf *b, const char *key, float v, float neutral)
{
    if (v != neutral)
        st_buf_addf(b, ",\"%s\":%.7g", key, (double)v);
}

void st_upstream_put_bias(const struct st_upstream_ask *a, struct st_buf *b)
{
    const struct st_sampling *s = &a->r->sampling;
    for (uint32_t i = 0; i < s->n_bias; i++)
        st_buf_addf(b, "%s\"%" PRIu32 "\":%.7g", i ? "," : ",\"logit_bias\":{", a->cipher->to[s->bias[i].id],
                    (double)s->bias[i].bias);
    st_buf_add_str(b, s->n_bias ? "}" : "");
}

void st_upstream_put_stop_ids(const struct st_upstream_ask *a, struct st_buf *b)
{
    for (size_t i = 0; i < a->r->n_stop_ids; i++)
        st_buf_addf(b, "%s%" PRIu32, i ? "," : ",\"stop_token_ids\":[", a->cipher->to[a->r->stop_ids[i]]);
    st_buf_add_str(b, a->r->n_stop_ids ? "]" : "");
}

int st_upstream_id(const struct st_upstream_reply *r, const json_t *v, uint32_t *plain, struct st_err *e)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0 ||
        json_integer_value(v) >= (json_int_t)st_cov_cipher_size(r->cipher))
        return st_fail(e, ST_VERIFY, "upstream: a token id outside the vocabulary");
    *plain = r->cipher->from[json_integer_value(v)];
    return 0;
}

int st_upstream_logprob(const json_t *v, float *out, struct st_err *e)
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

void st_upstream_top(const struct st_upstream_reply *r, struct st_logprob *all, size_t n, struct st_sampled *tok)
{
    qsort(all, n, sizeof *all, by_logprob);
    tok->n_top = n < (size_t)r->n_logprobs ? (int)n : r->n_logprobs;
    memcpy(tok->top, all, (size_t)tok->n_top * sizeof *all);
}

static bool in_list(uint32_t id, const uint32_t *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (list[i] == id)
            return true;
    return false;
}

bool st_upstream_ends(struct st_upstream_reply *r, uint32_t plain)
{
    bool known = in_list(plain, r->more_ends, r->n_more_end);
    if (!known && !in_list(plain, r->ends, r->n_end))
        return false;
    r->hang_up = !known && r->dialect->no_stop_ids;
    st_upstream_finish(r, ST_GEN_STOP);
    return true;
}

int st_upstream_token(struct st_upstream_reply *r, const struct st_sampled *tok, struct st_err *e)
{
    if (++r->n_tok > r->max_tokens)
        return st_fail(e, ST_VERIFY, "upstream: more tokens than the %zu asked for", r->max_tokens);
    r->token(r->arg, tok);
    return 0;
}

void st_upstream_finish(struct st_upstream_reply *r, enum st_gen_finish f)
{
    r->finished = true;
    r->finish = f;
}

int st_upstream_not_ours(struct st_err *e)
{
    return st_fail(e, ST_VERIFY, "upstream: an event that is no completion");
}

int st_upstream_bad_logprobs(struct st_err *e)
{
    return st_fail(e, ST_VERIFY, "upstream: logprobs of other tokens than it sent, or of another number");
}
