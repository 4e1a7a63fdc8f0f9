#include "audit/traffic_read.h"

#include <string.h>

#define CHUNK_MAX ((size_t)1 << 24)

struct reading {
    const char *p;
    size_t at, len;
};

/* Behind the next "\r\n", which is searched from where the reading stands. */
static bool pass_line(struct reading *r, size_t *line_len)
{
    const char *end = r->at < r->len ? memmem(r->p + r->at, r->len - r->at, "\r\n", 2) : NULL;
    if (!end)
        return false;
    *line_len = (size_t)(end - r->p) - r->at;
    r->at += *line_len + 2;
    return true;
}

/* The lines of a head, and the empty one behind them. */
static bool pass_head(struct reading *r, bool *chunked)
{
    static const char name[] = "transfer-encoding: chunked";
    size_t line;
    *chunked = false;
    do {
        const char *at = r->p + r->at;
        if (!pass_line(r, &line))
            return false;
        *chunked = *chunked || (line == sizeof name - 1 && strncasecmp(at, name, line) == 0);
    } while (line > 0);
    return true;
}

static int digit(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* The next chunk's length, 0 = the last; its bytes and their line end are passed. */
static bool pass_chunk(struct reading *r, size_t *size)
{
    const char *at = r->p + r->at;
    size_t line, k = 0;
    *size = 0;
    if (!pass_line(r, &line))
        return false;
    for (; k < line && digit(at[k]) >= 0 && *size < CHUNK_MAX; k++)
        *size = *size << 4 | (size_t)digit(at[k]);
    if (k == 0 || (k < line && at[k] != ';') || *size >= CHUNK_MAX || *size > r->len - r->at)
        return false;
    r->at += *size;
    return pass_line(r, &line) && line == 0;
}

static double time_at(const struct st_traffic_heard *h, size_t end, size_t *mark)
{
    while (*mark + 1 < h->n_mark && h->marks[*mark].end < end)
        ++*mark;
    return h->marks[*mark].time - h->start;
}

static int read_pieces(const struct st_traffic_heard *h, struct reading *r, uint32_t overhead, struct st_buf *pieces,
                       struct st_err *e)
{
    size_t size, mark = 0;
    for (;;) {
        if (!pass_chunk(r, &size))
            return st_fail(e, ST_INPUT, "traffic: chunk %zu of a reply is cut short or has no length",
                           pieces->len / sizeof(struct st_traffic_piece));
        if (size == 0)
            return 0;
        const struct st_traffic_piece piece = {(uint32_t)size + overhead, time_at(h, r->at, &mark)};
        st_buf_add(pieces, &piece, sizeof piece);
    }
}

int st_traffic_read(const struct st_traffic_heard *h, uint32_t overhead, struct st_traffic_request *out,
                    struct st_err *e)
{
    struct reading r = {.p = (const char *)h->down.p, .len = h->down.len};
    struct st_buf pieces = {0};
    bool chunked = false;
    if (h->n_mark == 0 || !pass_head(&r, &chunked) || !chunked)
        return st_fail(e, ST_INPUT, "traffic: want a reply in chunks");
    int rc = read_pieces(h, &r, overhead, &pieces, e);
    if (!rc && r.at != r.len)
        rc = st_fail(e, ST_INPUT, "traffic: %zu bytes behind a reply", r.len - r.at);
    if (!rc && pieces.failed)
        rc = st_fail(e, ST_MEMORY, "traffic: no memory");
    if (rc) {
        st_buf_free(&pieces);
        return rc;
    }
    out->up = (uint32_t)h->up.len + overhead;
    out->pieces = (void *)pieces.p; /* handed over */
    out->n_piece = pieces.len / sizeof *out->pieces;
    return 0;
}
