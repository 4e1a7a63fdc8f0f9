#include "base/log.h"
#include "service/gateway_priv.h"

#include <string.h>

#define TEXT(z) ((struct st_span){(const uint8_t *)(z), strlen(z)})

/* What cannot be sealed ends as a broken reply; it is a fault of this machine, not of the message. */
static void broken(struct st_gateway_exchange *ex, const struct st_err *e)
{
    st_log(ST_LOG_ERROR, "a reply could not be sealed: %s", e->msg);
    st_http_close_after(ex->conn);
    st_role_refuse(ex->conn, 503);
}

static int write_answer(struct st_gateway_exchange *ex, const struct st_gateway_answer *a, struct st_err *e)
{
    struct st_gateway *g = ex->g;
    struct st_bhttp_field fields[4] = {{TEXT("content-type"), TEXT(a->type ? a->type : "application/json")}};
    struct st_bhttp_head head = {.status = a->status, .fields = {fields, 1}};
    for (size_t i = 0; i < a->fields.n && head.fields.n < 4; i++)
        fields[head.fields.n++] = a->fields.p[i];
    st_buf_clear(&g->text);
    st_buf_clear(&g->out);
    if (st_bhttp_write(&g->text, ST_BHTTP_RESPONSE, &head, a->content, a->trailers, e))
        return e->code;
    st_bhttp_pad(&g->text, 0, st_bhttp_bucket(g->text.len));
    if (g->text.failed)
        return st_fail(e, ST_MEMORY, "no memory");
    if (st_ohttp_reply(&ex->x, &g->out, e) || st_ohttp_seal_all(&ex->x, g->text.p, g->text.len, &g->out, e))
        return e->code;
    return g->out.failed ? st_fail(e, ST_MEMORY, "no memory") : 0;
}

void st_gateway_answer(struct st_gateway_exchange *ex, const struct st_gateway_answer *a)
{
    struct st_err e;
    if (write_answer(ex, a, &e)) {
        broken(ex, &e);
        return;
    }
    ex->g->n.bytes_out += ex->g->out.len;
    st_http_reply(ex->conn, 200, "Cache-Control: no-store\r\n", st_ohttp_reply_type(ST_OHTTP_CHUNKED), ex->g->out.p,
                  ex->g->out.len);
}

void st_gateway_refuse(struct st_gateway_exchange *ex, unsigned status, const char *word,
                       struct st_bhttp_fields trailers)
{
    struct st_buf text = {0};
    st_buf_addf(&text, "{\"error\":{\"code\":\"%s\"}}", word);
    st_gateway_answer(ex, &(struct st_gateway_answer){
                              .status = status, .content = {(uint8_t *)text.p, text.len}, .trailers = trailers});
    st_buf_free(&text);
}

/* ---- chunks ---- */

static void leave(struct st_gateway_exchange *ex)
{
    ex->g->n.bytes_out += ex->g->out.len;
    st_http_stream_send(ex->conn, ex->g->out.p, ex->g->out.len);
    st_buf_clear(&ex->g->out);
}

/* The head leaves with the first piece: a chunk of its own would be one chunk more to see. */
static int begin(struct st_gateway_exchange *ex, struct st_err *e)
{
    struct st_gateway *g = ex->g;
    const struct st_bhttp_field fields[] = {{TEXT("content-type"), TEXT(st_ohttp_reply_type(ST_OHTTP_CHUNKED))}};
    const struct st_bhttp_head head = {.status = 200, .fields = {fields, 1}};
    if (st_bhttp_begin(&g->text, ST_BHTTP_RESPONSE, &head, e) || st_ohttp_reply(&ex->x, &g->out, e))
        return e->code;
    st_http_stream_begin(ex->conn, 200, "Cache-Control: no-store\r\n", st_ohttp_reply_type(ST_OHTTP_CHUNKED));
    ex->begun = true;
    return 0;
}

int st_gateway_piece(struct st_gateway_exchange *ex, struct st_span piece, struct st_err *e)
{
    struct st_gateway *g = ex->g;
    st_buf_clear(&g->text);
    st_buf_clear(&g->out);
    int rc = ex->begun ? 0 : begin(ex, e);
    st_bhttp_add_content(&g->text, piece.p, piece.len);
    if (!rc && g->text.failed)
        rc = st_fail(e, ST_MEMORY, "no memory");
    for (size_t at = 0; !rc && at < g->text.len; at += ST_CHUNK_TEXT_MAX) {
        size_t left = g->text.len - at;
        rc = st_ohttp_seal(&ex->x, g->text.p + at, left < ST_CHUNK_TEXT_MAX ? left : ST_CHUNK_TEXT_MAX, false, &g->out,
                           e);
    }
    if (!rc && g->out.failed)
        rc = st_fail(e, ST_MEMORY, "no memory");
    if (!rc)
        leave(ex);
    return rc;
}

void st_gateway_pieces_end(struct st_gateway_exchange *ex, struct st_bhttp_fields trailers)
{
    struct st_gateway *g = ex->g;
    struct st_err e = {0};
    st_buf_clear(&g->text);
    st_buf_clear(&g->out);
    int rc = st_bhttp_end(&g->text, trailers, &e);
    if (!rc) {
        st_bhttp_pad(&g->text, 0, st_bhttp_bucket(g->text.len));
        rc = g->text.failed ? ST_MEMORY : st_ohttp_seal_all(&ex->x, g->text.p, g->text.len, &g->out, &e);
    }
    if (rc || g->out.failed) {
        st_http_stream_cut(ex->conn);
        return;
    }
    leave(ex);
    st_http_stream_end(ex->conn);
}
