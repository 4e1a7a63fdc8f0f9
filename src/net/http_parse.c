#include "net/http_parse.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

void st_http_parser_init(struct st_http_parser *p, size_t max_head, size_t max_body)
{
    memset(p, 0, sizeof *p);
    p->max_head = max_head;
    p->max_body = max_body;
    st_http_parser_reset(p);
}

void st_http_parser_reset(struct st_http_parser *p)
{
    /* Bodies hold prompts: they do not stay in memory, and a large one gives its room back. */
    st_buf_wipe(&p->body);
    st_buf_wipe(&p->head);
    p->state = ST_HTTP_HEAD;
    p->status = 0;
    p->why = NULL;
    p->method = p->path = p->query = p->host = "";
    p->n_field = 0;
    p->keep_alive = p->chunked = p->expect_continue = p->http10 = p->after_chunk = false;
    p->left = 0;
    p->line_len = p->trailer_len = 0;
}

void st_http_parser_wipe(struct st_http_parser *p)
{
    st_http_parser_reset(p);
}

bool st_http_parser_idle(const struct st_http_parser *p)
{
    return p->state == ST_HTTP_HEAD && p->head.len == 0;
}

const char *st_http_parser_field(const struct st_http_parser *p, const char *name)
{
    for (size_t i = 0; i < p->n_field; i++)
        if (strcasecmp(p->fields[i].name, name) == 0)
            return p->fields[i].value;
    return NULL;
}

static void bad(struct st_http_parser *p, int status, const char *why)
{
    p->state = ST_HTTP_BAD;
    p->status = status;
    p->why = why;
    p->keep_alive = false;
}

void st_http_parser_refuse(struct st_http_parser *p, int status, const char *why)
{
    bad(p, status, why);
}

/* RFC 9110 section 5.6.2 */
static bool is_token(const char *s)
{
    if (!*s)
        return false;
    for (; *s; s++)
        if (!isalnum((unsigned char)*s) && !strchr("!#$%&'*+-.^_`|~", *s))
            return false;
    return true;
}

/* METHOD SP target SP HTTP/1.x */
static bool parse_request_line(struct st_http_parser *p, char *line)
{
    char *target = strchr(line, ' ');
    char *version = target ? strchr(target + 1, ' ') : NULL;
    if (!version) {
        bad(p, 400, "malformed request line");
        return false;
    }
    *target++ = 0;
    *version++ = 0;
    for (const char *c = target; *c; c++)
        if ((unsigned char)*c <= 0x20 || (unsigned char)*c >= 0x7f) {
            bad(p, 400, "malformed request target");
            return false;
        }
    if (!is_token(line) || !*target) {
        bad(p, 400, "malformed request line");
        return false;
    }
    if (strcmp(version, "HTTP/1.1") != 0 && strcmp(version, "HTTP/1.0") != 0) {
        bad(p, strncmp(version, "HTTP/", 5) == 0 ? 505 : 400, "only HTTP/1.1 is spoken here");
        return false;
    }
    p->http10 = version[7] == '0';
    p->keep_alive = !p->http10;
    p->method = line;
    p->path = target;
    return true;
}

/* RFC 9112 section 3.2: origin form, absolute form, "*". The authority of an absolute form replaces Host. */
static bool parse_target(struct st_http_parser *p)
{
    char *t = (char *)p->path;
    if (strncasecmp(t, "http://", 7) == 0 || strncasecmp(t, "https://", 8) == 0) {
        char *authority = strchr(t, ':') + 3;
        char *slash = authority + strcspn(authority, "/?");
        size_t n = (size_t)(slash - authority);
        /* Moved to the front, over the scheme, to make room for its NUL. */
        memmove(t, authority, n);
        t[n] = 0;
        p->host = t;
        p->path = *slash == '/' ? slash : "/";
        if (*slash == '?') {
            p->query = slash + 1;
            return true;
        }
    } else if (*t != '/' && strcmp(t, "*") != 0) {
        bad(p, 400, "malformed request target");
        return false;
    }
    char *q = strchr(p->path, '?');
    if (q) {
        *q = 0;
        p->query = q + 1;
    }
    return true;
}

static bool parse_field(struct st_http_parser *p, char *line)
{
    char *colon = strchr(line, ':');
    if (!colon) {
        bad(p, 400, "a header field without a colon");
        return false;
    }
    *colon = 0;
    char *v = colon + 1 + strspn(colon + 1, " \t");
    size_t n = strlen(v);
    while (n && (v[n - 1] == ' ' || v[n - 1] == '\t'))
        v[--n] = 0;
    if (!is_token(line)) {
        bad(p, 400, "a malformed header field name");
        return false;
    }
    for (const char *c = v; *c; c++)
        if (((unsigned char)*c < 0x20 && *c != '\t') || *c == 0x7f) {
            bad(p, 400, "a control character in a header field");
            return false;
        }
    if (p->n_field == ST_HTTP_MAX_FIELDS) {
        bad(p, 431, "too many header fields");
        return false;
    }
    p->fields[p->n_field++] = (struct st_http_field){line, v};
    return true;
}

/* True when a comma-separated list holds the word. */
static bool list_has(const char *list, const char *word)
{
    size_t n = strlen(word);
    while (list && *list) {
        list += strspn(list, " \t,");
        size_t len = strcspn(list, ", \t");
        if (len == n && strncasecmp(list, word, n) == 0)
            return true;
        list += len;
    }
    return false;
}

static int count_field(const struct st_http_parser *p, const char *name)
{
    int n = 0;
    for (size_t i = 0; i < p->n_field; i++)
        n += strcasecmp(p->fields[i].name, name) == 0;
    return n;
}

/* RFC 9112 section 6.3: how long the body is. */
static void parse_framing(struct st_http_parser *p)
{
    const char *te = st_http_parser_field(p, "Transfer-Encoding");
    const char *cl = st_http_parser_field(p, "Content-Length");
    if (count_field(p, "Content-Length") > 1 || count_field(p, "Transfer-Encoding") > 1 || (te && cl) ||
        (te && p->http10)) {
        bad(p, 400, "ambiguous body length");
        return;
    }
    if (te) {
        if (strcasecmp(te, "chunked") != 0) {
            bad(p, 501, "only the chunked transfer encoding is understood");
            return;
        }
        p->chunked = true;
        p->state = ST_HTTP_CHUNK;
        return;
    }
    uint64_t n = 0;
    if (cl) {
        size_t digits = strspn(cl, "0123456789");
        if (digits == 0 || cl[digits]) {
            bad(p, 400, "malformed Content-Length");
            return;
        }
        /* 18 digits fit in 64 bits; longer is over any limit. */
        for (size_t i = 0; i < digits && n <= p->max_body; i++)
            n = n * 10 + (uint64_t)(cl[i] - '0');
    }
    if (n > p->max_body) {
        bad(p, 413, "request body too large");
        return;
    }
    p->left = n;
    p->state = n ? ST_HTTP_BODY : ST_HTTP_DONE;
}

static void parse_head(struct st_http_parser *p)
{
    if (memchr(p->head.p, 0, p->head.len)) {
        bad(p, 400, "a NUL byte in the request head");
        return;
    }
    bool first = true;
    for (char *line = p->head.p, *end; *line; line = end + 2) {
        end = strstr(line, "\r\n");
        *end = 0;
        if (strchr(line, '\n') || strchr(line, '\r')) {
            bad(p, 400, "a bare line break in the request head");
            return;
        }
        if (!*line)
            break;
        if (*line == ' ' || *line == '\t') {
            bad(p, 400, "a folded header field");
            return;
        }
        if (!(first ? parse_request_line(p, line) : parse_field(p, line)))
            return;
        first = false;
    }
    if (first) {
        bad(p, 400, "malformed request line");
        return;
    }
    const char *connection = st_http_parser_field(p, "Connection");
    if (list_has(connection, "close"))
        p->keep_alive = false;
    else if (p->http10)
        p->keep_alive = list_has(connection, "keep-alive");
    int n_host = count_field(p, "Host");
    if (n_host > 1 || (n_host == 0 && !p->http10)) {
        bad(p, 400, "want exactly one Host field");
        return;
    }
    if (n_host)
        p->host = st_http_parser_field(p, "Host");
    if (!parse_target(p))
        return;
    const char *expect = st_http_parser_field(p, "Expect");
    if (expect && strcasecmp(expect, "100-continue") != 0) {
        bad(p, 417, "unknown expectation");
        return;
    }
    p->expect_continue = expect && !p->http10;
    parse_framing(p);
}

static size_t feed_head(struct st_http_parser *p, const char *data, size_t len)
{
    /* Empty lines in front of a request are skipped (RFC 9112 section 2.2). */
    size_t used = 0;
    if (p->head.len == 0) {
        while (used < len && (data[used] == '\r' || data[used] == '\n'))
            used++;
        if (used == len)
            return used;
    }
    size_t had = p->head.len;
    size_t room = p->max_head - had, take = len - used < room ? len - used : room;
    st_buf_add(&p->head, data + used, take);
    if (p->head.failed) {
        bad(p, 503, "no memory");
        return len;
    }
    size_t from = had > 3 ? had - 3 : 0;
    char *end = memmem(p->head.p + from, p->head.len - from, "\r\n\r\n", 4);
    if (!end) {
        if (p->head.len >= p->max_head)
            bad(p, 431, "request head too large");
        return used + take;
    }
    size_t head_len = (size_t)(end - p->head.p) + 4;
    used += head_len - had;
    p->head.len = head_len;
    p->head.p[head_len] = 0;
    parse_head(p);
    return used;
}

static size_t feed_body(struct st_http_parser *p, const char *data, size_t len)
{
    size_t take = len < p->left ? len : (size_t)p->left;
    st_buf_add(&p->body, data, take);
    if (p->body.failed) {
        bad(p, 503, "no memory");
        return len;
    }
    p->left -= take;
    if (p->left == 0) {
        if (p->chunked) {
            p->state = ST_HTTP_CHUNK;
            p->after_chunk = true;
        } else
            p->state = ST_HTTP_DONE;
    }
    return take;
}

/* One complete chunk-size line without its CRLF. */
static void chunk_line(struct st_http_parser *p)
{
    if (p->after_chunk) {
        p->after_chunk = false;
        if (p->line_len)
            bad(p, 400, "malformed chunk");
        return;
    }
    uint64_t n = 0;
    size_t i = 0;
    for (; i < p->line_len && isxdigit((unsigned char)p->line[i]) && i < 16; i++) {
        char c = (char)tolower((unsigned char)p->line[i]);
        n = n * 16 + (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    /* Chunk extensions (";...") have no meaning for us and are read over; a CR in one might end the line for others. */
    if (i == 0 || i == 16 || (i < p->line_len && p->line[i] != ';') || memchr(p->line, '\r', p->line_len)) {
        bad(p, 400, "malformed chunk size");
        return;
    }
    if (n > p->max_body || p->body.len + n > p->max_body) {
        bad(p, 413, "request body too large");
        return;
    }
    p->left = n;
    p->state = n ? ST_HTTP_BODY : ST_HTTP_TRAILER;
}

/* Chunk size lines and trailer fields: lines that end with CRLF. */
static size_t feed_line(struct st_http_parser *p, const char *data, size_t len)
{
    size_t used = 0;
    while (used < len) {
        char c = data[used++];
        if (c == '\n') {
            if (p->line_len == 0 || p->line[p->line_len - 1] != '\r') {
                bad(p, 400, "a bare line break in the body");
                return used;
            }
            p->line_len--;
            if (p->state == ST_HTTP_CHUNK)
                chunk_line(p);
            else if (p->line_len == 0)
                p->state = ST_HTTP_DONE;
            p->line_len = 0;
            return used;
        }
        /* Trailers are dropped; a long one keeps its last byte only, for the CR. */
        if (p->state == ST_HTTP_TRAILER && (++p->trailer_len > p->max_head)) {
            bad(p, 431, "trailer too large");
            return used;
        }
        if (p->line_len == sizeof p->line) {
            if (p->state == ST_HTTP_CHUNK) {
                bad(p, 400, "chunk size line too long");
                return used;
            }
            p->line_len = 1;
        }
        p->line[p->line_len++] = c;
    }
    return used;
}

size_t st_http_parser_feed(struct st_http_parser *p, const void *data, size_t len)
{
    const char *d = data;
    size_t used = 0;
    while (used < len && p->state != ST_HTTP_DONE && p->state != ST_HTTP_BAD) {
        if (p->state == ST_HTTP_HEAD)
            used += feed_head(p, d + used, len - used);
        else if (p->state == ST_HTTP_BODY)
            used += feed_body(p, d + used, len - used);
        else
            used += feed_line(p, d + used, len - used);
    }
    return used;
}
