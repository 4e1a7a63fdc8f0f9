#include "attest/log_proof.h"
#include "text/base64.h"

#include <inttypes.h>
#include <string.h>

int st_proof_read(const json_t *o, const char *where, const char *key, struct st_merkle_proof *out, struct st_err *e)
{
    const json_t *list = json_object_get(o, key);
    size_t n = json_array_size(list);
    struct st_buf raw = {0};
    bool good = json_is_array(list) && n <= ST_MERKLE_MAX_PROOF;
    *out = (struct st_merkle_proof){0};
    for (size_t i = 0; i < n && good; i++) {
        const char *s = json_string_value(json_array_get(list, i));
        st_buf_clear(&raw);
        good = s && strlen(s) == (ST_MERKLE_HASH + 2) / 3 * 4 && st_base64_decode(s, strlen(s), &raw) &&
               raw.len == ST_MERKLE_HASH;
        if (good)
            memcpy(out->hashes[out->n++].b, raw.p, ST_MERKLE_HASH);
    }
    st_buf_free(&raw);
    return good ? 0
                : st_fail(e, ST_INPUT, "%s: %s: want a list of at most %d hashes in base64", where, key,
                          ST_MERKLE_MAX_PROOF);
}

void st_proof_write(const struct st_merkle_proof *p, struct st_buf *out)
{
    st_buf_add_str(out, "[");
    for (size_t i = 0; i < p->n; i++) {
        st_buf_add_str(out, i ? ",\"" : "\"");
        st_base64_encode(p->hashes[i].b, ST_MERKLE_HASH, out);
        st_buf_add_str(out, "\"");
    }
    st_buf_add_str(out, "]");
}

int st_log_proof_read(const json_t *o, const char *where, struct st_log_proof *out, struct st_err *e)
{
    static const char *const fields[] = {"entry", "index", "hashes", "checkpoint", "comment", NULL};
    int64_t index = 0;
    *out = (struct st_log_proof){0};
    if (st_json_only(o, where, fields, e) || st_json_base64(o, where, "entry", &out->entry, e) ||
        st_json_need(o, where, "index", e) || st_json_int(o, where, "index", 0, INT64_MAX, &index, e) ||
        st_proof_read(o, where, "hashes", &out->hashes, e) || st_json_need(o, where, "checkpoint", e))
        return e->code;
    out->index = (uint64_t)index;
    return st_json_str(o, where, "checkpoint", &out->checkpoint, e);
}

void st_log_proof_wipe(struct st_log_proof *p)
{
    st_buf_free(&p->entry);
}

void st_log_proof_write(const struct st_log_proof *p, struct st_buf *out)
{
    st_buf_add_str(out, "{\"entry\":\"");
    st_base64_encode(p->entry.p, p->entry.len, out);
    st_buf_addf(out, "\",\"index\":%" PRIu64 ",\"hashes\":", p->index);
    st_proof_write(&p->hashes, out);
    st_buf_add_str(out, ",\"checkpoint\":");
    st_json_quote(out, p->checkpoint, strlen(p->checkpoint));
    st_buf_add_str(out, "}");
}

int st_log_proof_verify(const struct st_log_proof *p, const struct st_tlog_keys *keys, struct st_err *e)
{
    struct st_witnessed w;
    int rc = st_checkpoint_open(p->checkpoint, strlen(p->checkpoint), keys, INT64_MAX, &w, e);
    if (rc)
        return rc;
    struct st_merkle_hash leaf = st_merkle_leaf(p->entry.p, p->entry.len);
    return st_merkle_verify_inclusion(&leaf, p->index, w.checkpoint.size, &w.checkpoint.root, &p->hashes, e);
}
