/* The request under a node's seal: binary HTTP, then JSON against node_fields.def, fed in one piece and byte by byte,
 * must come to the same; input that begins with '{' is the body of a chat, and behind a '[' that of a completion, in a
 * good head. What passes is dumped and read again: the engine gets no less than was looked at. */
#include "service/node_request.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct st_span span(const char *s)
{
    return (struct st_span){(const uint8_t *)s, strlen(s)};
}

static int take(const uint8_t *p, size_t len, size_t step, struct st_node_request *r, struct st_node_error *err)
{
    struct st_err e;
    int rc = 0;
    if (st_node_request_init(r, len, &e))
        abort();
    for (size_t at = 0; !rc && at < len; at += step) {
        size_t n = len - at < step ? len - at : step;
        rc = st_node_request_add(r, (struct st_span){p + at, n}, err);
    }
    return rc ? rc : st_node_request_end(r, err);
}

static void check(const uint8_t *p, size_t len)
{
    struct st_node_request a, b;
    struct st_node_error ea = {0}, eb = {0};
    struct st_buf text = {0};
    int rc = take(p, len, len ? len : 1, &a, &ea);
    if (rc != take(p, len, 1, &b, &eb) || (rc && (ea.status != eb.status || strcmp(ea.message, eb.message) != 0)))
        abort();
    if (rc) {
        st_node_error_json(&ea, &text);
    } else {
        struct st_err e;
        json_t *again;
        st_json_dump(a.body, &text);
        if (memcmp(a.hash, b.hash, 32) != 0 || st_json_parse(text.p, text.len, "body", &again, &e) ||
            json_object_size(again) != json_object_size(a.body))
            abort();
        json_decref(again);
    }
    st_buf_free(&text);
    st_node_request_wipe(&a);
    st_node_request_wipe(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct st_bhttp_field type = {span("content-type"), span("application/json")};
    struct st_bhttp_head head = {.method = span("POST"),
                                 .scheme = span("https"),
                                 .authority = span("node"),
                                 .path = span("/v1/chat/completions"),
                                 .fields = {&type, 1}};
    struct st_buf text = {0};
    struct st_err e;
    if (size > 65536)
        return 0;
    if (size && (data[0] == '{' || data[0] == '[')) {
        head.path = span(data[0] == '{' ? "/v1/chat/completions" : "/v1/completions");
        const struct st_span body = {data + (data[0] == '['), size - (data[0] == '[')};
        if (st_bhttp_write(&text, ST_BHTTP_REQUEST, &head, body, (struct st_bhttp_fields){0}, &e))
            abort();
        check((const uint8_t *)text.p, text.len);
        st_buf_free(&text);
    } else
        check(data, size);
    return 0;
}
