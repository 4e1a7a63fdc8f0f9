/* One HTTP/1.1 request from bytes, without a socket. Strict where leniency is dangerous (RFC 9112): CRLF only, no
 * folded lines, no space before a colon, one Host, one Content-Length, never Content-Length beside Transfer-Encoding,
 * so that no two parties can disagree about where a request ends. Limits: max_head bytes for request line and fields,
 * ST_HTTP_MAX_FIELDS fields, max_body for the (decoded) body. */
#ifndef ST_NET_HTTP_PARSE_H
#define ST_NET_HTTP_PARSE_H

#include "base/buf.h"

#define ST_HTTP_MAX_FIELDS 64

struct st_http_field {
    const char *name, *value; /* both NUL-terminated inside the head */
};

enum st_http_state { ST_HTTP_HEAD, ST_HTTP_BODY, ST_HTTP_CHUNK, ST_HTTP_TRAILER, ST_HTTP_DONE, ST_HTTP_BAD };

struct st_http_parser {
    size_t max_head, max_body;
    enum st_http_state state;
    int status;         /* BAD: what to answer: 400, 413, 417, 431, 501, 505 */
    const char *why;    /* BAD: one static sentence */
    struct st_buf head; /* the strings below point into it */
    struct st_buf body;
    const char *method, *path, *query; /* query is "" when absent */
    const char *host;                  /* Host field or authority of the target; "" in HTTP/1.0 without one */
    struct st_http_field fields[ST_HTTP_MAX_FIELDS];
    size_t n_field;
    bool keep_alive, chunked, expect_continue, http10;
    bool after_chunk; /* the CRLF behind a chunk's data is next */
    uint64_t left;    /* bytes of the body or the current chunk that are still to come */
    char line[64];    /* chunk size line, or a trailer line's beginning */
    size_t line_len, trailer_len;
};

void st_http_parser_init(struct st_http_parser *p, size_t max_head, size_t max_body);
/* Ready for the next request of the connection; keeps the limits and the buffers. */
void st_http_parser_reset(struct st_http_parser *p);
/* Takes bytes up to the end of one request; returns how many were used. state says DONE, BAD or more to come. */
size_t st_http_parser_feed(struct st_http_parser *p, const void *data, size_t len);
/* The request becomes one that cannot be served, for a reason outside it; why is a static sentence. */
void st_http_parser_refuse(struct st_http_parser *p, int status, const char *why);
/* Nothing of a request was received yet. */
bool st_http_parser_idle(const struct st_http_parser *p);
/* Value of a field (name in any case), or NULL. */
const char *st_http_parser_field(const struct st_http_parser *p, const char *name);
void st_http_parser_wipe(struct st_http_parser *p);

#endif
