#include "attest/statement.h"
#include "text/json.h"

#include <string.h>

static int take(const json_t *o, const char *where, const char *key, char *out, size_t cap, struct st_err *e)
{
    const char *s = NULL;
    if (st_json_need(o, where, key, e) || st_json_str(o, where, key, &s, e))
        return e->code;
    size_t n = strlen(s);
    if (n == 0 || n >= cap)
        return st_fail(e, ST_INPUT, "%s: %s: want 1 to %zu bytes, got %zu", where, key, cap - 1, n);
    memcpy(out, s, n + 1);
    return 0;
}

static int read_statement(const json_t *o, const char *where, struct st_statement *out, struct st_err *e)
{
    static const char *const fields[] = {"version", "kind", "claim", "value", "release", NULL};
    const char *kind = "";
    int64_t version = 0;
    if (st_json_only(o, where, fields, e) || st_json_need(o, where, "version", e) ||
        st_json_int(o, where, "version", 0, INT32_MAX, &version, e))
        return e->code;
    if (version != 1)
        return st_fail(e, ST_UNSUPPORTED, "%s: version: want 1, got %d", where, (int)version);
    if (st_json_str(o, where, "kind", &kind, e))
        return e->code;
    if (strcmp(kind, "measurement") != 0)
        return st_fail(e, ST_INPUT, "%s: kind: want \"measurement\"", where);
    return take(o, where, "claim", out->claim, sizeof out->claim, e) ||
                   take(o, where, "value", out->value, sizeof out->value, e) ||
                   take(o, where, "release", out->release, sizeof out->release, e)
               ? e->code
               : 0;
}

int st_statement_parse(const void *p, size_t len, const char *where, struct st_statement *out, struct st_err *e)
{
    json_t *o;
    *out = (struct st_statement){0};
    int rc = st_json_parse(p, len, where, &o, e);
    if (rc)
        return rc;
    rc = read_statement(o, where, out, e);
    json_decref(o);
    return rc;
}

void st_statement_write(const struct st_statement *s, struct st_buf *out)
{
    st_buf_add_str(out, "{\"version\":1,\"kind\":\"measurement\",\"claim\":");
    st_json_quote(out, s->claim, strlen(s->claim));
    st_buf_add_str(out, ",\"value\":");
    st_json_quote(out, s->value, strlen(s->value));
    st_buf_add_str(out, ",\"release\":");
    st_json_quote(out, s->release, strlen(s->release));
    st_buf_add_str(out, "}");
}
