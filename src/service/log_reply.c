#include "service/log_reply.h"
#include "attest/log_proof.h"
#include "attest/tiles.h"
#include "text/base64.h"

#include <inttypes.h>
#include <string.h>

static const char where[] = "the log's answer";

static int read_reply(const json_t *o, struct st_log_reply *out, struct st_err *e)
{
    static const char *const fields[] = {"version", "checkpoint", "consistency", "index", "entry", "inclusion", NULL};
    const char *note = NULL;
    int64_t version = 0, index = 0;
    if (st_json_only(o, where, fields, e) || st_json_need(o, where, "version", e) ||
        st_json_int(o, where, "version", 0, INT32_MAX, &version, e))
        return e->code;
    if (version != 1)
        return st_fail(e, ST_UNSUPPORTED, "%s: version: want 1, got %d", where, (int)version);
    if (st_json_need(o, where, "checkpoint", e) || st_json_str(o, where, "checkpoint", &note, e) ||
        st_proof_read(o, where, "consistency", &out->consistency, e) ||
        st_proof_read(o, where, "inclusion", &out->inclusion, e) || st_json_need(o, where, "index", e) ||
        st_json_int(o, where, "index", 0, INT64_MAX, &index, e) || st_json_base64(o, where, "entry", &out->entry, e))
        return e->code;
    if (out->entry.len > ST_TILE_MAX_ENTRY)
        return st_fail(e, ST_INPUT, "%s: entry: want at most %d bytes, got %zu", where, ST_TILE_MAX_ENTRY,
                       out->entry.len);
    out->index = (uint64_t)index;
    st_buf_add_str(&out->note, note);
    return out->note.failed ? st_fail(e, ST_MEMORY, "%s: out of memory", where) : 0;
}

int st_log_reply_parse(const void *p, size_t len, struct st_log_reply *out, struct st_err *e)
{
    json_t *o;
    *out = (struct st_log_reply){0};
    if (len > ST_LOG_REPLY_MAX)
        return st_fail(e, ST_INPUT, "%s: want at most %zu bytes, got %zu", where, ST_LOG_REPLY_MAX, len);
    int rc = st_json_parse(p, len, where, &o, e);
    if (rc)
        return rc;
    rc = read_reply(o, out, e);
    json_decref(o);
    return rc;
}

void st_log_reply_wipe(struct st_log_reply *r)
{
    st_buf_free(&r->note);
    st_buf_free(&r->entry);
}

void st_log_reply_write(const struct st_log_reply *r, struct st_buf *out)
{
    st_buf_add_str(out, "{\"version\":1,\"checkpoint\":");
    st_json_quote(out, r->note.p ? r->note.p : "", r->note.len);
    st_buf_add_str(out, ",\"consistency\":");
    st_proof_write(&r->consistency, out);
    st_buf_addf(out, ",\"index\":%" PRIu64 ",\"entry\":\"", r->index);
    st_base64_encode(r->entry.p, r->entry.len, out);
    st_buf_add_str(out, "\",\"inclusion\":");
    st_proof_write(&r->inclusion, out);
    st_buf_add_str(out, "}");
}
