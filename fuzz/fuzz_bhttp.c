/* Any bytes as a binary HTTP message, a request or a response by the first byte, cut by the second: refused, or the
 * same however it is cut, and written again it reads the same. */
#include "channel/bhttp.h"

#include <stdlib.h>
#include <string.h>

static const struct st_bhttp_limits limits = {
    .head = 1024, .n_fields = 16, .n_interim = 3, .content = 4096, .padding = 4096};

static int read_in(struct st_bhttp_reader *r, enum st_bhttp_kind kind, const uint8_t *p, size_t len, size_t step,
                   struct st_buf *content, struct st_err *e)
{
    int rc = st_bhttp_reader_init(r, kind, &limits, e);
    for (size_t at = 0; !rc && at < len; at += step) {
        struct st_span in = {p + at, len - at < step ? len - at : step}, piece;
        while (!rc && in.len) {
            const uint8_t *begin = in.p;
            rc = st_bhttp_read(r, &in, &piece, e);
            if (!rc && piece.len && (piece.p < begin || piece.p + piece.len != in.p))
                abort();
            if (!rc)
                st_buf_add(content, piece.p, piece.len);
        }
    }
    rc = rc ? rc : st_bhttp_read_end(r, e);
    if (rc && rc != ST_INPUT)
        abort();
    return rc;
}

static void same(struct st_span a, struct st_span b)
{
    if (a.len != b.len || (a.len && memcmp(a.p, b.p, a.len) != 0))
        abort();
}

static void same_fields(struct st_bhttp_fields a, struct st_bhttp_fields b)
{
    if (a.n != b.n)
        abort();
    for (size_t i = 0; i < a.n; i++) {
        same(a.p[i].name, b.p[i].name);
        same(a.p[i].value, b.p[i].value);
    }
}

static void same_message(const struct st_bhttp_reader *a, const struct st_bhttp_reader *b)
{
    const struct st_bhttp_head *x = st_bhttp_head(a), *y = st_bhttp_head(b);
    if (x->status != y->status)
        abort();
    same(x->method, y->method);
    same(x->path, y->path);
    same(x->scheme, y->scheme);
    same(x->authority, y->authority);
    same_fields(x->fields, y->fields);
    same_fields(st_bhttp_trailers(a), st_bhttp_trailers(b));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_err e;
    struct st_bhttp_reader whole, cut, again;
    struct st_buf a = {0}, b = {0}, c = {0}, written = {0};
    if (size < 2)
        return 0;
    enum st_bhttp_kind kind = data[0] & 1;
    size_t len = size - 2, step = 1 + data[1];
    int rc = read_in(&whole, kind, data + 2, len, len ? len : 1, &a, &e);
    if (read_in(&cut, kind, data + 2, len, step, &b, &e) != rc)
        abort();
    if (!rc) {
        struct st_span x = {(const uint8_t *)a.p, a.len}, y = {(const uint8_t *)b.p, b.len};
        same(x, y);
        same_message(&whole, &cut);
        if (st_bhttp_write(&written, kind, st_bhttp_head(&whole), x, st_bhttp_trailers(&whole), &e) != 0 ||
            read_in(&again, kind, (const uint8_t *)written.p, written.len, step, &c, &e) != 0)
            abort();
        same(x, (struct st_span){(const uint8_t *)c.p, c.len});
        same_message(&whole, &again);
        st_bhttp_reader_wipe(&again);
    }
    st_bhttp_reader_wipe(&whole);
    st_bhttp_reader_wipe(&cut);
    st_buf_free(&a);
    st_buf_free(&b);
    st_buf_free(&c);
    st_buf_free(&written);
    return 0;
}
