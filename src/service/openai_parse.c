#include "service/openai.h"
#include "text/utf8.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>

#define INVALID "invalid_request_error"

enum verdict { DONE, REFUSED, MEANINGLESS, PASSED, DROPPED };
enum { CHAT = ST_OAI_CHAT, TEXT = ST_OAI_TEXT, BOTH = ST_OAI_CHAT | ST_OAI_TEXT };

static const struct field {
    const char *name;
    int endpoints;
    enum verdict verdict;
    const char *neutral;
    enum verdict sealed;
    const char *note;
} fields[] = {
#define X(name, endpoints, verdict, neutral, sealed, note) {name, endpoints, verdict, neutral, sealed, note},
#include "service/openai_fields.def"
#undef X
};

int st_oai_fail(struct st_oai_error *err, int status, const char *type, const char *code, const char *param,
                const char *fmt, ...)
{
    va_list ap;
    err->status = status;
    err->type = type;
    err->code = code;
    snprintf(err->param, sizeof err->param, "%s", param ? param : "");
    va_start(ap, fmt);
    vsnprintf(err->message, sizeof err->message, fmt, ap);
    va_end(ap);
    return -1;
}

/* A name from outside, fit for a message: printable ASCII, cut. */
static const char *clean_name(const char *name, char out[48])
{
    size_t i = 0;
    for (; i < 40 && name[i]; i++)
        out[i] = isgraph((unsigned char)name[i]) ? name[i] : '?';
    out[i] = 0;
    return out;
}

static int wrong(struct st_oai_error *err, const char *param, const char *want)
{
    return st_oai_fail(err, 400, INVALID, "invalid_value", param, "%s: want %s", param, want);
}

static int refuse(struct st_oai_error *err, const char *param, const char *note)
{
    return st_oai_fail(err, 400, INVALID, "unsupported", param, "%s: not supported%s%s", param, *note ? ": " : "",
                       note);
}

/* From a getter's message ("request: field: want ..."); param is the field. */
static int from_getter(struct st_oai_error *err, const char *param, const struct st_err *e)
{
    const char *text = strncmp(e->msg, "request: ", 9) == 0 ? e->msg + 9 : e->msg;
    return st_oai_fail(err, 400, INVALID, "invalid_value", param, "%s", text);
}

static bool is_neutral(const json_t *v, const char *neutral)
{
    struct st_buf b = {0};
    bool same = false;
    st_json_dump(v, &b);
    for (const char *n = neutral; *n && !b.failed;) {
        size_t len = strcspn(n, "|");
        if (len == b.len && memcmp(n, b.p, len) == 0)
            same = true;
        n += len + (n[len] == '|');
    }
    st_buf_free(&b);
    return same;
}

static const struct field *find_field(const char *key, enum st_oai_endpoint ep)
{
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (strcmp(fields[i].name, key) == 0 && (fields[i].endpoints & (int)ep))
            return &fields[i];
    return NULL;
}

int st_oai_check_refused(const struct st_oai_request *r, const struct st_gen_refusal *list, struct st_oai_error *err)
{
    for (; list && list->field; list++) {
        const json_t *v = json_object_get(r->body, list->field);
        const struct field *f = find_field(list->field, r->endpoint);
        if (v && f && !json_is_null(v) && !is_neutral(v, f->neutral))
            return refuse(err, f->name, list->why);
    }
    return 0;
}

/* Every field is known and not refused. */
static int check_fields(const struct st_oai_request *r, struct st_oai_error *err)
{
    void *it = json_object_iter(r->body);
    for (; it; it = json_object_iter_next(r->body, it)) {
        const char *key = json_object_iter_key(it);
        const json_t *v = json_object_iter_value(it);
        const struct field *f = find_field(key, r->endpoint);
        char name[48];
        if (!f) {
            clean_name(key, name);
            return st_oai_fail(err, 400, INVALID, "unknown_field", name, "%s: not a field of this endpoint", name);
        }
        if ((r->sealed ? f->sealed : f->verdict) == REFUSED && !json_is_null(v) && !is_neutral(v, f->neutral))
            return refuse(err, f->name, f->note);
    }
    return 0;
}

static int get_real(const struct st_oai_request *r, const char *key, double min, double max, float *out,
                    struct st_oai_error *err)
{
    struct st_err e;
    double v = (double)*out;
    if (st_json_real(r->body, "request", key, min, max, &v, &e))
        return from_getter(err, key, &e);
    *out = (float)v;
    return 0;
}

static int get_int(const json_t *o, const char *key, int64_t min, int64_t max, int64_t *out, struct st_oai_error *err)
{
    struct st_err e;
    if (st_json_int(o, "request", key, min, max, out, &e))
        return from_getter(err, key, &e);
    return 0;
}

static int get_bool(const json_t *o, const char *key, bool *out, struct st_oai_error *err)
{
    struct st_err e;
    if (st_json_bool(o, "request", key, out, &e))
        return from_getter(err, key, &e);
    return 0;
}

static bool is_id(const json_t *v)
{
    return json_is_integer(v) && json_integer_value(v) >= 0 && json_integer_value(v) < UINT32_MAX;
}

/* "role" of a message. */
static int parse_role(const json_t *msg, const char *where, bool sealed, struct st_chat_msg *out,
                      struct st_oai_error *err)
{
    char param[96];
    snprintf(param, sizeof param, "%s.role", where);
    const char *role = json_string_value(json_object_get(msg, "role"));
    if (!role)
        return wrong(err, param, "a string");
    if (strcmp(role, "system") == 0 || strcmp(role, "developer") == 0)
        out->role = ST_CHAT_SYSTEM;
    else if (strcmp(role, "user") == 0)
        out->role = ST_CHAT_USER;
    else if (strcmp(role, "assistant") == 0)
        out->role = ST_CHAT_ASSISTANT;
    else if (strcmp(role, "tool") == 0 || strcmp(role, "function") == 0) {
        if (!sealed)
            return refuse(err, param, "no tools");
        out->role = ST_CHAT_USER; /* the engine's template says what it is */
    } else
        return wrong(err, param,
                     sealed ? "system, developer, user, assistant or tool" : "system, developer, user or assistant");
    return 0;
}

/* Content in parts: texts are joined in r->joined; *at is where, because the buffer may still move. */
static int parse_parts(struct st_oai_request *r, const json_t *parts, const char *where, size_t *len,
                       struct st_oai_error *err)
{
    char param[96], name[48];
    size_t start = r->joined.len, i;
    json_t *part;
    json_array_foreach((json_t *)parts, i, part)
    {
        snprintf(param, sizeof param, "%s.content[%zu]", where, i);
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *text = json_object_get(part, "text");
        if (!type)
            return wrong(err, param, "an object with a type");
        if (strcmp(type, "text") != 0)
            return st_oai_fail(err, 400, INVALID, "unsupported", param, "%s: content of type %s is not supported",
                               param, clean_name(type, name));
        if (!json_is_string(text) || json_object_size(part) != 2)
            return wrong(err, param, "an object with type and text");
        st_buf_add(&r->joined, json_string_value(text), json_string_length(text));
    }
    *len = r->joined.len - start;
    return r->joined.failed ? st_oai_fail(err, 503, "server_error", "memory", NULL, "no memory for the request") : 0;
}

static bool is_one_of(const char *word, const char *const *list)
{
    while (*list && strcmp(*list, word) != 0)
        list++;
    return *list != NULL;
}

/* Fields of a message beside role and content. Those of tools pass where an engine behind a seal reads them. */
static int check_message_fields(const json_t *msg, const char *where, bool sealed, struct st_oai_error *err)
{
    static const char *const plain[] = {"role", "content", "name", "annotations", "refusal", NULL};
    static const char *const tools[] = {"tool_calls", "function_call", "tool_call_id", NULL};
    char param[96], name[48];
    void *it = json_object_iter((json_t *)msg);
    for (; it; it = json_object_iter_next((json_t *)msg, it)) {
        const char *key = json_object_iter_key(it);
        const json_t *v = json_object_iter_value(it);
        bool empty = strcmp(key, "tool_calls") == 0 && json_is_array(v) && json_array_size(v) == 0;
        if (is_one_of(key, plain) || json_is_null(v) || empty || (sealed && is_one_of(key, tools)))
            continue;
        snprintf(param, sizeof param, "%s.%s", where, clean_name(key, name));
        if (is_one_of(key, tools) || strcmp(key, "audio") == 0)
            return refuse(err, param, "");
        return st_oai_fail(err, 400, INVALID, "unknown_field", param, "%s: not a field of a message", param);
    }
    return 0;
}

static int parse_messages(struct st_oai_request *r, struct st_oai_error *err)
{
    const json_t *list = json_object_get(r->body, "messages");
    size_t n = json_array_size(list);
    if (!json_is_array(list) || n == 0 || n > ST_OAI_MAX_MSG)
        return wrong(err, "messages", "an array of 1 to 4096 messages");
    struct st_err e;
    if (st_alloc(&r->msgs, n, sizeof *r->msgs, "messages", &e))
        return st_oai_fail(err, 503, "server_error", "memory", NULL, "%s", e.msg);
    size_t i;
    json_t *msg;
    json_array_foreach((json_t *)list, i, msg)
    {
        char where[48], param[96];
        snprintf(where, sizeof where, "messages[%zu]", i);
        snprintf(param, sizeof param, "%s.content", where);
        struct st_chat_msg *m = &r->msgs[i];
        if (!json_is_object(msg))
            return wrong(err, where, "an object");
        if (parse_role(msg, where, r->sealed, m, err) || check_message_fields(msg, where, r->sealed, err))
            return -1;
        const json_t *content = json_object_get(msg, "content");
        if (r->sealed && m->role == ST_CHAT_ASSISTANT && (!content || json_is_null(content))) {
            m->text = ""; /* it called a tool */
            continue;
        }
        if (json_is_string(content)) {
            m->text = json_string_value(content);
            m->len = json_string_length(content);
        } else if (json_is_array(content)) {
            if (parse_parts(r, content, where, &m->len, err))
                return -1;
        } else
            return wrong(err, param, "a string or an array of text parts");
    }
    r->n_msg = n;
    /* Now that the buffer stands still: messages in parts lie in it one behind the other. */
    size_t at = 0;
    for (i = 0; i < n; i++)
        if (!r->msgs[i].text) {
            r->msgs[i].text = r->joined.p ? r->joined.p + at : "";
            at += r->msgs[i].len;
        }
    return 0;
}

static int parse_prompt(struct st_oai_request *r, struct st_oai_error *err)
{
    static const char want[] = "a text or an array of token ids";
    const json_t *p = json_object_get(r->body, "prompt");
    /* An array with one prompt in it is that prompt. */
    const json_t *first = json_array_get(p, 0);
    if (json_is_string(first) || json_is_array(first)) {
        if (json_array_size(p) > 1)
            return st_oai_fail(err, 400, INVALID, "unsupported", "prompt",
                               "prompt: several prompts in one request are not supported; send one request for each");
        p = first;
    }
    if (json_is_string(p)) {
        r->text = json_string_value(p);
        return 0;
    }
    size_t n = json_array_size(p);
    if (!json_is_array(p) || n == 0)
        return wrong(err, "prompt", want);
    struct st_err e;
    if (st_alloc(&r->ids, n, sizeof *r->ids, "prompt", &e))
        return st_oai_fail(err, 503, "server_error", "memory", NULL, "%s", e.msg);
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(p, i);
        if (!is_id(v)) {
            char param[96];
            snprintf(param, sizeof param, "prompt[%zu]", i);
            return wrong(err, param, "a token id");
        }
        r->ids[r->n_ids++] = (uint32_t)json_integer_value(v);
    }
    return 0;
}

static int add_stop(struct st_oai_request *r, const json_t *v, struct st_oai_error *err)
{
    size_t len = json_string_length(v);
    if (!json_is_string(v) || len == 0 || len > ST_OAI_MAX_STOP_LEN)
        return wrong(err, "stop", "texts of 1 to 1024 bytes");
    r->stop[r->n_stop++] = json_string_value(v);
    return 0;
}

static int parse_stop(struct st_oai_request *r, struct st_oai_error *err)
{
    const json_t *v = json_object_get(r->body, "stop"), *ids = json_object_get(r->body, "stop_token_ids");
    if (json_is_string(v)) {
        if (add_stop(r, v, err))
            return -1;
    } else if (json_is_array(v) && json_array_size(v) <= ST_OAI_MAX_STOP) {
        for (size_t i = 0; i < json_array_size(v); i++)
            if (add_stop(r, json_array_get(v, i), err))
                return -1;
    } else if (v && !json_is_null(v))
        return wrong(err, "stop", "a text or an array of up to 16 texts");
    if (!ids || json_is_null(ids))
        return 0;
    if (!json_is_array(ids) || json_array_size(ids) > ST_OAI_MAX_STOP_IDS)
        return wrong(err, "stop_token_ids", "an array of up to 64 token ids");
    for (size_t i = 0; i < json_array_size(ids); i++) {
        if (!is_id(json_array_get(ids, i)))
            return wrong(err, "stop_token_ids", "an array of up to 64 token ids");
        r->stop_ids[r->n_stop_ids++] = (uint32_t)json_integer_value(json_array_get(ids, i));
    }
    return 0;
}

static int parse_bias(struct st_oai_request *r, struct st_oai_error *err)
{
    static const char want[] = "an object of up to 300 token ids, each with a number in -100..100";
    json_t *o = json_object_get(r->body, "logit_bias");
    if (!o || json_is_null(o))
        return 0;
    if (!json_is_object(o) || json_object_size(o) > ST_OAI_MAX_BIAS)
        return wrong(err, "logit_bias", want);
    for (void *it = json_object_iter(o); it; it = json_object_iter_next(o, it)) {
        const char *key = json_object_iter_key(it);
        const json_t *v = json_object_iter_value(it);
        size_t digits = strspn(key, "0123456789");
        unsigned long long id = digits && digits <= 10 && !key[digits] ? strtoull(key, NULL, 10) : UINT64_MAX;
        double b = json_number_value(v);
        if (id >= UINT32_MAX || !json_is_number(v) || !(b >= -100 && b <= 100))
            return wrong(err, "logit_bias", want);
        r->bias[r->sampling.n_bias++] = (struct st_logit_bias){(uint32_t)id, (float)b};
    }
    r->sampling.bias = r->bias;
    return 0;
}

static int parse_sampling(struct st_oai_request *r, struct st_oai_error *err)
{
    struct st_sampling *s = &r->sampling;
    s->temperature = 1;
    s->top_p = 1;
    s->repetition_penalty = 1;
    s->n_logprobs = -1;
    int64_t k = 0, seed = 0;
    if (get_real(r, "temperature", 0, 2, &s->temperature, err) || get_real(r, "top_p", 0, 1, &s->top_p, err) ||
        get_real(r, "min_p", 0, 1, &s->min_p, err) ||
        get_real(r, "repetition_penalty", 0.01, 10, &s->repetition_penalty, err) ||
        get_real(r, "presence_penalty", -2, 2, &s->presence_penalty, err) ||
        get_real(r, "frequency_penalty", -2, 2, &s->frequency_penalty, err) ||
        get_int(r->body, "top_k", -1, 1 << 24, &k, err) || get_int(r->body, "seed", INT64_MIN, INT64_MAX, &seed, err))
        return -1;
    s->top_k = k > 0 ? (uint32_t)k : 0;
    const json_t *v = json_object_get(r->body, "seed");
    r->has_seed = v && !json_is_null(v);
    s->seed = (uint64_t)seed;
    return parse_bias(r, err);
}

static int parse_logprobs(struct st_oai_request *r, struct st_oai_error *err)
{
    int64_t top = -1;
    if (r->endpoint == ST_OAI_TEXT) {
        const json_t *v = json_object_get(r->body, "logprobs");
        /* false is what generic clients send for "none". */
        if (!json_is_false(v) && get_int(r->body, "logprobs", 0, ST_MAX_LOGPROBS, &top, err))
            return -1;
        r->legacy_logprobs = true;
        r->sampling.n_logprobs = (int)top;
        return 0;
    }
    bool on = false;
    if (get_bool(r->body, "logprobs", &on, err) || get_int(r->body, "top_logprobs", 0, ST_MAX_LOGPROBS, &top, err))
        return -1;
    if (top > 0 && !on)
        return wrong(err, "top_logprobs", "logprobs to be true");
    r->sampling.n_logprobs = on ? (top > 0 ? (int)top : 0) : -1;
    return 0;
}

static int parse_stream_options(struct st_oai_request *r, struct st_oai_error *err)
{
    json_t *o = json_object_get(r->body, "stream_options");
    if (!o || json_is_null(o))
        return 0;
    if (!json_is_object(o) || !r->stream)
        return wrong(err, "stream_options", "an object, and stream to be true");
    for (void *it = json_object_iter(o); it; it = json_object_iter_next(o, it)) {
        const char *key = json_object_iter_key(it);
        /* include_obfuscation asks for padding against a watcher of packet sizes, which is not done. */
        if (strcmp(key, "include_usage") != 0 &&
            !(strcmp(key, "include_obfuscation") == 0 && json_is_false(json_object_iter_value(it)))) {
            char param[96], name[48];
            snprintf(param, sizeof param, "stream_options.%s", clean_name(key, name));
            return refuse(err, param, "");
        }
    }
    return get_bool(o, "include_usage", &r->include_usage, err);
}

static int parse_lengths(struct st_oai_request *r, struct st_oai_error *err)
{
    int64_t n = 1, newer = 0;
    if (get_int(r->body, "max_tokens", 1, INT32_MAX, &r->max_tokens, err) ||
        get_int(r->body, "max_completion_tokens", 1, INT32_MAX, &newer, err) ||
        get_int(r->body, "n", 1, ST_OAI_MAX_N, &n, err))
        return -1;
    if (newer && r->max_tokens && newer != r->max_tokens)
        return wrong(err, "max_completion_tokens", "the same as max_tokens, or only one of them");
    if (newer)
        r->max_tokens = newer;
    if (!r->max_tokens && r->endpoint == ST_OAI_TEXT)
        r->max_tokens = 16;
    r->n = (int)n;
    return 0;
}

static int parse(enum st_oai_endpoint ep, bool sealed, const void *body, size_t len, struct st_oai_request *r,
                 struct st_oai_error *err)
{
    struct st_err e;
    memset(r, 0, sizeof *r);
    r->endpoint = ep;
    r->sealed = sealed;
    r->add_special = true;
    if (st_json_parse(body, len, "request body", &r->body, &e))
        return e.code == ST_MEMORY ? st_oai_fail(err, 503, "server_error", "memory", NULL, "%s", e.msg)
                                   : st_oai_fail(err, 400, INVALID, "invalid_json", NULL, "%s", e.msg);
    if (!json_is_object(r->body))
        return st_oai_fail(err, 400, INVALID, "invalid_json", NULL, "request body: want a JSON object");
    if (check_fields(r, err))
        return -1;
    if (st_json_str(r->body, "request", "model", &r->model, &e))
        return from_getter(err, "model", &e);
    if (get_bool(r->body, "stream", &r->stream, err) || get_bool(r->body, "ignore_eos", &r->ignore_eos, err) ||
        get_bool(r->body, "return_token_ids", &r->want_ids, err) ||
        get_bool(r->body, "return_tokens_as_token_ids", &r->tokens_as_ids, err) ||
        get_bool(r->body, "add_special_tokens", &r->add_special, err))
        return -1;
    if (parse_stream_options(r, err) || parse_lengths(r, err) || parse_sampling(r, err) || parse_logprobs(r, err) ||
        parse_stop(r, err))
        return -1;
    return ep == ST_OAI_CHAT ? parse_messages(r, err) : parse_prompt(r, err);
}

int st_oai_parse(enum st_oai_endpoint ep, const void *body, size_t len, struct st_oai_request *r,
                 struct st_oai_error *err)
{
    return parse(ep, false, body, len, r, err);
}

int st_oai_parse_sealed(enum st_oai_endpoint ep, const void *body, size_t len, struct st_oai_request *r,
                        struct st_oai_error *err)
{
    return parse(ep, true, body, len, r, err);
}

int st_oai_put_sealed(const struct st_oai_request *r, const char *model, struct st_buf *out, struct st_err *e)
{
    json_t *o = json_object();
    int rc = o ? 0 : -1;
    for (void *it = json_object_iter(r->body); it && !rc; it = json_object_iter_next(r->body, it)) {
        const char *key = json_object_iter_key(it);
        json_t *v = json_object_iter_value(it);
        const struct field *f = find_field(key, r->endpoint);
        if (f && f->sealed == PASSED && !json_is_null(v))
            rc = json_object_set(o, key, v);
    }
    if (!rc && model)
        rc = json_object_set_new(o, "model", json_string(model));
    if (!rc)
        st_json_dump(o, out);
    json_decref(o);
    return rc || out->failed ? st_fail(e, ST_MEMORY, "no memory for the request") : 0;
}

void st_oai_request_trim(struct st_oai_request *r)
{
    json_t *stop = json_incref(json_object_get(r->body, "stop"));
    st_oai_request_wipe(r);
    r->body = stop;
}

void st_oai_request_wipe(struct st_oai_request *r)
{
    if (r->ids)
        OPENSSL_cleanse(r->ids, r->n_ids * sizeof *r->ids);
    free(r->ids);
    free(r->msgs);
    st_buf_wipe(&r->joined);
    json_decref(r->body);
    r->model = r->text = NULL;
    r->ids = NULL;
    r->msgs = NULL;
    r->n_msg = r->n_ids = 0;
    r->body = NULL;
}
