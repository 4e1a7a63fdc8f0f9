#include "cli/log_source.h"
#include "base/file.h"

#include <stdlib.h>
#include <string.h>

#define MAX_TILE ((size_t)ST_TILE_WIDTH * (2 + ST_TILE_MAX_ENTRY))
#define STALL_S 30

int st_log_source_open(struct st_log_source *s, const char *where, const char *ca_bundle, struct st_err *e)
{
    const struct st_http_client_opts o = {.ca_bundle = ca_bundle, .connect_s = 10, .max_idle = 4};
    *s = (struct st_log_source){0};
    if (!strstr(where, "://")) {
        s->dir = where;
        return 0;
    }
    int rc = st_http_base("log", where, &s->url, e);
    if (!rc) {
        s->base = event_base_new();
        rc = s->base ? st_http_client_new(s->base, &o, &s->http, e) : st_fail(e, ST_MEMORY, "log: out of memory");
    }
    if (rc)
        st_log_source_close(s);
    return rc;
}

void st_log_source_close(struct st_log_source *s)
{
    if (s->http)
        st_http_client_free(s->http);
    if (s->base)
        event_base_free(s->base);
    free(s->url);
    *s = (struct st_log_source){0};
}

static int on_data(void *arg, int status, const void *p, size_t len, struct st_err *e)
{
    struct st_log_source *s = arg;
    (void)status;
    st_buf_add(s->into, p, len);
    return s->into->failed ? st_fail(e, ST_MEMORY, "out of memory") : 0;
}

static void on_end(void *arg, int status, const struct st_err *e)
{
    struct st_log_source *s = arg;
    s->status = status;
    s->failed = e ? *e : (struct st_err){0};
    s->ended = true;
}

/* body NULL: GET. */
static int call(struct st_log_source *s, const char *path, const char *bearer, struct st_buf *body, size_t max,
                struct st_buf *out, struct st_err *e)
{
    struct st_buf url = {0};
    struct st_http_call *c;
    st_buf_addf(&url, "%s/%s", s->url, path);
    const struct st_http_call_opts o = {.url = url.p,
                                        .bearer = bearer,
                                        .body = body,
                                        .type = "application/octet-stream",
                                        .stall_s = STALL_S,
                                        .max_reply = max,
                                        .data = on_data,
                                        .end = on_end,
                                        .arg = s};
    s->into = out;
    s->ended = false;
    int rc = url.failed ? st_fail(e, ST_MEMORY, "out of memory") : st_http_call_start(s->http, &o, &c, e);
    while (!rc && !s->ended)
        event_base_loop(s->base, EVLOOP_ONCE);
    if (!rc && s->failed.code)
        rc = st_fail(e, s->failed.code, "%s: %s", url.p, s->failed.msg);
    st_buf_free(&url);
    return rc;
}

int st_log_source_get(struct st_log_source *s, const char *path, size_t max, struct st_buf *out, struct st_err *e)
{
    char file[ST_PATH_MAX];
    if (!s->dir) {
        int rc = call(s, path, NULL, NULL, max, out, e);
        return rc || s->status == 200 ? rc : st_fail(e, ST_IO, "%s/%s: status %d", s->url, path, s->status);
    }
    struct st_buf b = {0};
    int rc = st_path_join(file, sizeof file, s->dir, path, e);
    if (!rc)
        rc = st_file_read(file, max, &b, e);
    if (!rc)
        st_buf_add(out, b.p, b.len);
    st_buf_free(&b);
    return rc;
}

/* The first `width` hashes or entries. */
static int cut(const struct st_tile *t, size_t start, struct st_buf *out, struct st_err *e)
{
    struct st_span rest = {(const uint8_t *)out->p + start, out->len - start}, entry;
    size_t want = (size_t)t->width * ST_MERKLE_HASH;
    if (t->level == ST_TILE_ENTRIES) {
        for (unsigned i = 0; i < t->width; i++)
            if (rest.len == 0 || st_entry_next(&rest, &entry, NULL, e))
                return st_fail(e, ST_INPUT, "a bundle has too few entries");
        want = out->len - start - rest.len;
    }
    if (out->len - start < want)
        return st_fail(e, ST_INPUT, "a tile has too few hashes");
    out->len = start + want;
    return 0;
}

int st_log_source_tile(struct st_log_source *s, const struct st_tile *t, struct st_buf *out, struct st_err *e)
{
    char path[ST_TILE_MAX_PATH];
    const struct st_tile full = {t->level, t->index, ST_TILE_WIDTH};
    size_t start = out->len;
    struct st_err ignored;
    int rc = st_log_source_get(s, st_tile_path(t, path), MAX_TILE, out, e);
    if (!rc || t->width == ST_TILE_WIDTH)
        return rc;
    out->len = start;
    if (st_log_source_get(s, st_tile_path(&full, path), MAX_TILE, out, &ignored))
        return rc; /* the first error says more */
    return cut(t, start, out, e) ? st_err_prefix(e, "%s", path) : 0;
}

int st_log_source_post(struct st_log_source *s, const char *path, const char *bearer, struct st_buf *body, int *status,
                       struct st_buf *out, struct st_err *e)
{
    char *checked;
    if (s->dir)
        return st_fail(e, ST_USAGE, "%s: want the URL of a log that runs", s->dir);
    if (st_http_base_for_key("log", s->url, &checked, e))
        return e->code;
    free(checked);
    int rc = call(s, path, bearer, body, 1 << 16, out, e);
    *status = s->status;
    return rc;
}
