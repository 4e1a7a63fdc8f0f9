#include "service/node_request.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* ---- errors ---- */

int st_node_fail(struct st_node_error *err, int status, const char *code, const char *param, const char *fmt, ...)
{
    va_list args;
    *err = (struct st_node_error){.status = status, .code = code};
    snprintf(err->param, sizeof err->param, "%s", param ? param : "");
    va_start(args, fmt);
    vsnprintf(err->message, sizeof err->message, fmt, args);
    va_end(args);
    return -1;
}

void st_node_error_json(const struct st_node_error *err, struct st_buf *out)
{
    st_buf_add_str(out, "{\"error\":{\"message\":");
    st_json_quote(out, err->message, strlen(err->message));
    st_buf_addf(out, ",\"type\":\"%s\",\"param\":", err->status < 500 ? "invalid_request_error" : "server_error");
    if (err->param[0])
        st_json_quote(out, err->param, strlen(err->param));
    else
        st_buf_add_str(out, "null");
    st_buf_addf(out, ",\"code\":\"%s\"}}", err->code);
}

static int bad(struct st_node_error *err, const char *param, const char *want)
{
    return st_node_fail(err, 400, "invalid_value", param, "%s: want %s", param, want);
}

/* ---- the body ---- */

enum shape {
    INT,
    REAL,
    BOOL,
    OBJECT,
    STRING,
    STRINGS,
    INTS,
    OBJECTS,
    NUMBERS,
    MESSAGES,
    PROMPT,
    CHOICE,
    LEVEL,
    STREAM,
    VARIABLES
};
enum { CHAT = ST_NODE_CHAT, TEXT = ST_NODE_TEXT, BOTH = CHAT | TEXT };

struct field {
    const char *name;
    int endpoints;
    enum shape shape;
    int64_t low, high;
};

static const struct field fields[] = {
#define X(name, endpoints, shape, low, high) {name, endpoints, shape, low, high},
#include "service/node_fields.def"
#undef X
};

static bool in_range(const json_t *v, const struct field *f)
{
    return json_is_integer(v) && json_integer_value(v) >= f->low && json_integer_value(v) <= f->high;
}

static bool is_text(const json_t *v, const struct field *f)
{
    return json_is_string(v) && json_string_length(v) >= (size_t)f->low && json_string_length(v) <= (size_t)f->high;
}

static bool all_of(const json_t *list, const struct field *f, bool (*good)(const json_t *, const struct field *))
{
    if (!json_is_array(list) || json_array_size(list) > (size_t)f->high)
        return false;
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!good(json_array_get(list, i), f))
            return false;
    return true;
}

static bool is_id(const json_t *v, const struct field *f)
{
    (void)f;
    return json_is_integer(v) && json_integer_value(v) >= 0 && json_integer_value(v) <= INT32_MAX;
}

static bool is_object(const json_t *v, const struct field *f)
{
    (void)f;
    return json_is_object(v);
}

static bool are_numbers(const json_t *v, const struct field *f)
{
    if (!json_is_object(v) || json_object_size(v) > (size_t)f->high)
        return false;
    for (void *it = json_object_iter((json_t *)v); it; it = json_object_iter_next((json_t *)v, it))
        if (!json_is_number(json_object_iter_value(it)))
            return false;
    return true;
}

/* A text, ids, or an array of either. */
static bool is_prompt(const json_t *v, const struct field *f)
{
    if (is_text(v, f) || all_of(v, f, is_id) || all_of(v, f, is_text))
        return true;
    if (!json_is_array(v) || json_array_size(v) > 128)
        return false;
    for (size_t i = 0; i < json_array_size(v); i++)
        if (!all_of(json_array_get(v, i), f, is_id))
            return false;
    return true;
}

static bool only(const json_t *o, const char *const *names)
{
    if (!json_is_object(o))
        return false;
    for (void *it = json_object_iter((json_t *)o); it; it = json_object_iter_next((json_t *)o, it)) {
        size_t i = 0;
        while (names[i] && strcmp(names[i], json_object_iter_key(it)) != 0)
            i++;
        if (!names[i])
            return false;
    }
    return true;
}

static bool is_stream_options(const json_t *v)
{
    static const char *const names[] = {"include_usage", "continuous_usage_stats", NULL};
    if (!only(v, names))
        return false;
    for (size_t i = 0; names[i]; i++) {
        const json_t *flag = json_object_get(v, names[i]);
        if (flag && !json_is_boolean(flag) && !json_is_null(flag))
            return false;
    }
    return true;
}

/* Single values for a chat template, by names that are the template's own: engines merge them into their call of the
 * renderer, where these would choose another template, its sandbox's limits, or what is rendered. */
static bool are_variables(const json_t *v, const struct field *f)
{
    static const char *const taken[] = {"chat_template",
                                        "tokenize",
                                        "conversation",
                                        "messages",
                                        "tools",
                                        "documents",
                                        "tokenizer",
                                        "tokenizer_kwargs",
                                        "processor_kwargs",
                                        "add_generation_prompt",
                                        "continue_final_message",
                                        "padding",
                                        "truncation",
                                        "max_length",
                                        "return_tensors",
                                        "return_dict",
                                        "return_assistant_tokens_mask",
                                        "trust_remote_code",
                                        NULL};
    if (!json_is_object(v) || json_object_size(v) > (size_t)f->high)
        return false;
    for (void *it = json_object_iter((json_t *)v); it; it = json_object_iter_next((json_t *)v, it)) {
        const json_t *x = json_object_iter_value(it);
        if (json_is_object(x) || json_is_array(x))
            return false;
        for (size_t i = 0; taken[i]; i++)
            if (strcmp(taken[i], json_object_iter_key(it)) == 0)
                return false;
    }
    return true;
}

/* {"type": "text", "text": TEXT} */
static bool is_text_part(const json_t *v, const struct field *f)
{
    static const char *const names[] = {"type", "text", NULL};
    const char *type = json_string_value(json_object_get(v, "type"));
    (void)f;
    return only(v, names) && type && strcmp(type, "text") == 0 && json_is_string(json_object_get(v, "text"));
}

static bool is_message(const json_t *v, const struct field *f)
{
    static const char *const names[] = {"role",          "content",           "name",    "tool_calls", "tool_call_id",
                                        "function_call", "reasoning_content", "refusal", NULL};
    const json_t *content = json_object_get(v, "content"), *calls = json_object_get(v, "tool_calls"),
                 *call = json_object_get(v, "function_call");
    if (!only(v, names) || !json_is_string(json_object_get(v, "role")))
        return false;
    for (size_t i = 0; names[i]; i++) {
        const json_t *x = json_object_get(v, names[i]);
        if (x && x != content && x != calls && x != call && !json_is_string(x) && !json_is_null(x))
            return false;
    }
    return (!content || json_is_null(content) || json_is_string(content) || all_of(content, f, is_text_part)) &&
           (!calls || json_is_null(calls) || all_of(calls, f, is_object)) &&
           (!call || json_is_null(call) || json_is_object(call));
}

static int check_number(const struct field *f, const json_t *v, struct st_node_error *err)
{
    const double low = (double)f->low, high = (double)f->high;
    if (f->shape == INT && !in_range(v, f))
        return st_node_fail(err, 400, "invalid_value", f->name, "%s: want a whole number in %" PRId64 "..%" PRId64,
                            f->name, f->low, f->high);
    if (f->shape == REAL && (!json_is_number(v) || json_number_value(v) < low || json_number_value(v) > high))
        return st_node_fail(err, 400, "invalid_value", f->name, "%s: want a number in %" PRId64 "..%" PRId64, f->name,
                            f->low, f->high);
    return 0;
}

static int check_value(const struct field *f, enum st_node_endpoint ep, const json_t *v, struct st_node_error *err)
{
    switch (f->shape) {
    case INT:
    case REAL:
        return check_number(f, v, err);
    case BOOL:
        return json_is_boolean(v) ? 0 : bad(err, f->name, "true or false");
    case OBJECT:
        return json_is_object(v) ? 0 : bad(err, f->name, "an object");
    case STRING:
        return is_text(v, f) ? 0 : bad(err, f->name, "a text that is not longer than allowed");
    case STRINGS:
        return is_text(v, f) || all_of(v, f, is_text) ? 0 : bad(err, f->name, "a text or an array of texts");
    case INTS:
        return all_of(v, f, is_id) ? 0 : bad(err, f->name, "an array of token ids");
    case OBJECTS:
        return all_of(v, f, is_object) ? 0 : bad(err, f->name, "an array of objects");
    case NUMBERS:
        return are_numbers(v, f) ? 0 : bad(err, f->name, "an object of numbers");
    case MESSAGES:
        return json_array_size(v) >= 1 && all_of(v, f, is_message)
                   ? 0
                   : bad(err, f->name, "an array of messages with a role and text");
    case PROMPT:
        return is_prompt(v, f) ? 0 : bad(err, f->name, "a text, token ids, or an array of these");
    case CHOICE:
        return json_is_object(v) || is_text(v, f) ? 0 : bad(err, f->name, "a word or an object");
    case LEVEL:
        return ep == ST_NODE_CHAT ? (json_is_boolean(v) ? 0 : bad(err, f->name, "true or false"))
               : in_range(v, f)   ? 0
                                  : bad(err, f->name, "a whole number");
    case VARIABLES:
        return are_variables(v, f) ? 0 : bad(err, f->name, "an object of single values for the model's own template");
    case STREAM:
        return is_stream_options(v) ? 0 : bad(err, f->name, "an object with include_usage");
    }
    return bad(err, f->name, "another value");
}

static const struct field *find_field(const char *name, enum st_node_endpoint ep)
{
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if ((fields[i].endpoints & (int)ep) && strcmp(fields[i].name, name) == 0)
            return &fields[i];
    return NULL;
}

static int check_body(struct st_node_request *r, struct st_node_error *err)
{
    const char *asked = r->endpoint == ST_NODE_CHAT ? "messages" : "prompt";
    if (!json_is_object(r->body))
        return st_node_fail(err, 400, "invalid_json", NULL, "want a JSON object");
    for (void *it = json_object_iter(r->body); it; it = json_object_iter_next(r->body, it)) {
        const char *name = json_object_iter_key(it);
        const struct field *f = find_field(name, r->endpoint);
        const json_t *v = json_object_iter_value(it);
        if (!f)
            return st_node_fail(err, 400, "unknown_field", name, "%.60s: this node does not take that field", name);
        if (!json_is_null(v) && check_value(f, r->endpoint, v, err))
            return -1;
    }
    if (!json_object_get(r->body, asked) || json_is_null(json_object_get(r->body, asked)))
        return bad(err, asked, "it to be there");
    r->stream = json_is_true(json_object_get(r->body, "stream"));
    return 0;
}

/* ---- the message around it ---- */

static bool is(struct st_span s, const char *word)
{
    return s.len == strlen(word) && memcmp(s.p, word, s.len) == 0;
}

static int check_salt(struct st_node_request *r, struct st_span salt, struct st_node_error *err)
{
    if (salt.len < ST_NODE_SALT_MIN || salt.len > ST_NODE_SALT_MAX)
        return bad(err, ST_NODE_FIELD_SALT, "32 to 128 hexadecimal digits");
    for (size_t i = 0; i < salt.len; i++)
        if (!memchr("0123456789abcdef", salt.p[i], 16))
            return bad(err, ST_NODE_FIELD_SALT, "32 to 128 hexadecimal digits");
    memcpy(r->salt, salt.p, salt.len);
    r->salt[salt.len] = 0;
    return 0;
}

static int check_fields(struct st_node_request *r, const struct st_bhttp_head *h, struct st_node_error *err)
{
    static const char json[] = "application/json";
    bool typed = false, salted = false;
    for (size_t i = 0; i < h->fields.n; i++) {
        const struct st_bhttp_field *f = &h->fields.p[i];
        if (is(f->name, "content-type") && !typed && is(f->value, json))
            typed = true;
        else if (is(f->name, ST_NODE_FIELD_SALT) && !salted) {
            salted = true;
            if (check_salt(r, f->value, err))
                return -1;
        } else
            return st_node_fail(err, 400, "bad_request", NULL,
                                "header: want content-type: %s and " ST_NODE_FIELD_SALT ", once each, and no other",
                                json);
    }
    return typed ? 0 : st_node_fail(err, 415, "content_type", NULL, "want content-type: %s", json);
}

static int check_head(struct st_node_request *r, const struct st_bhttp_head *h, struct st_node_error *err)
{
    if (!is(h->method, "POST"))
        return st_node_fail(err, 405, "method_not_allowed", NULL, "want POST");
    if (!is(h->scheme, "https") || !is(h->authority, "node"))
        return st_node_fail(err, 400, "bad_request", NULL, "want a target below https://node");
    if (is(h->path, "/v1/chat/completions"))
        r->endpoint = ST_NODE_CHAT;
    else if (is(h->path, "/v1/completions"))
        r->endpoint = ST_NODE_TEXT;
    else
        return st_node_fail(err, 404, "not_found", NULL, "want /v1/chat/completions or /v1/completions");
    r->path = r->endpoint == ST_NODE_CHAT ? "/v1/chat/completions" : "/v1/completions";
    return check_fields(r, h, err);
}

int st_node_request_init(struct st_node_request *r, size_t len, struct st_err *e)
{
    const struct st_bhttp_limits limits = {
        .head = 2048, .n_fields = 4, .content = ST_CONFIDENTIAL_MAX_REQUEST, .padding = ST_CONFIDENTIAL_MAX_REQUEST};
    *r = (struct st_node_request){0};
    if (st_bhttp_reader_init(&r->reader, ST_BHTTP_REQUEST, &limits, e))
        return e->code;
    /* All at once: a buffer that grows leaves copies behind. */
    (void)st_buf_room(&r->content, len);
    st_buf_clear(&r->content);
    return r->content.failed ? st_fail(e, ST_MEMORY, "no memory for a request") : 0;
}

static int not_binary_http(const struct st_err *e, struct st_node_error *err)
{
    return st_node_fail(err, 400, "bad_request", NULL, "%.150s", e->msg);
}

int st_node_request_add(struct st_node_request *r, struct st_span text, struct st_node_error *err)
{
    struct st_span piece;
    struct st_err e;
    while (text.len) {
        if (st_bhttp_read(&r->reader, &text, &piece, &e))
            return not_binary_http(&e, err);
        st_buf_add(&r->content, piece.p, piece.len);
    }
    return r->content.failed ? st_node_fail(err, 503, "memory", NULL, "no memory for this request") : 0;
}

int st_node_request_end(struct st_node_request *r, struct st_node_error *err)
{
    struct st_err e;
    if (st_bhttp_read_end(&r->reader, &e))
        return not_binary_http(&e, err);
    const struct st_bhttp_head *h = st_bhttp_head(&r->reader);
    if (!h || st_bhttp_trailers(&r->reader).n)
        return st_node_fail(err, 400, "bad_request", NULL, "want a request without trailer");
    st_sha256(r->content.p ? r->content.p : "", r->content.len, r->hash);
    if (check_head(r, h, err))
        return -1;
    int rc = st_json_parse(r->content.p, r->content.len, "body", &r->body, &e);
    st_buf_wipe(&r->content);
    if (rc)
        return st_node_fail(err, rc == ST_MEMORY ? 503 : 400, rc == ST_MEMORY ? "memory" : "invalid_json", NULL,
                            "%.150s", e.msg);
    return check_body(r, err);
}

void st_node_request_wipe(struct st_node_request *r)
{
    st_bhttp_reader_wipe(&r->reader);
    st_buf_wipe(&r->content);
    json_decref(r->body);
    explicit_bzero(r, sizeof *r);
}
