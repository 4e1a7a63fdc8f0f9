#include "channel/issue.h"
#include "crypto/digest.h"
#include "text/base64.h"
#include "text/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *const where[] = {[ST_ISSUE_PURCHASE] = "purchase", [ST_ISSUE_REFUND] = "refund"};

static bool good_len(size_t len)
{
    return len == 256 || len == 384 || len == 512;
}

static int read_version(const json_t *o, const char *what, struct st_err *e)
{
    int64_t version = 0;
    if (st_json_need(o, what, "version", e) || st_json_int(o, what, "version", 0, INT32_MAX, &version, e))
        return e->code;
    return version == 1 ? 0 : st_fail(e, ST_UNSUPPORTED, "%s: version %d, this program reads 1", what, (int)version);
}

/* ---- requests ---- */

/* Spans are set by finish(), when bytes no longer move. */
static int read_item(const json_t *v, struct st_issue *r, struct st_err *e)
{
    static const char *const names[] = {"day", "units", "blinded", NULL};
    const char *what = where[r->kind];
    int64_t day = 0, units = 0;
    size_t before = r->bytes.len;
    if (st_json_only(v, what, names, e) || st_json_need(v, what, "day", e) ||
        st_json_int(v, what, "day", 0, UINT32_MAX, &day, e) || st_json_need(v, what, "units", e) ||
        st_json_int(v, what, "units", 1, ST_TOKEN_MAX_UNITS, &units, e) ||
        st_json_base64(v, what, "blinded", &r->bytes, e))
        return e->code;
    if (!good_len(r->bytes.len - before))
        return st_fail(e, ST_INPUT, "%s: blinded: want 256, 384 or 512 bytes", what);
    r->of[r->n].day = (uint32_t)day;
    r->of[r->n].units = (uint32_t)units;
    r->of[r->n++].blinded.len = r->bytes.len - before;
    return 0;
}

static int read_items(const json_t *o, const char *key, size_t max, struct st_issue *r, struct st_err *e)
{
    const json_t *list = json_object_get(o, key), *v;
    size_t i, at = 0, n = json_array_size(list);
    if (!json_is_array(list) || n == 0 || n > max)
        return st_fail(e, ST_INPUT, "%s: %s: want a list of 1 to %zu", where[r->kind], key, max);
    json_array_foreach((json_t *)(uintptr_t)list, i, v) if (read_item(v, r, e)) return e->code;
    for (i = 0; i < r->n; at += r->of[i++].blinded.len)
        r->of[i].blinded.p = (const uint8_t *)r->bytes.p + at;
    return 0;
}

static int read_purchase(const json_t *o, struct st_issue *r, struct st_err *e)
{
    static const char *const names[] = {"version", "id", "tokens", NULL};
    const char *what = where[ST_ISSUE_PURCHASE], *id = NULL;
    if (st_json_only(o, what, names, e) || read_version(o, what, e) || st_json_need(o, what, "id", e) ||
        st_json_str(o, what, "id", &id, e) || st_unhex(id, strlen(id), r->id, sizeof r->id, "purchase: id", e))
        return e->code;
    return read_items(o, "tokens", ST_ISSUE_MAX, r, e);
}

static int read_refund(const json_t *o, struct st_issue *r, struct st_err *e)
{
    static const char *const names[] = {"version", "token", "change", NULL};
    const char *what = where[ST_ISSUE_REFUND];
    struct st_buf b = {0};
    int rc = st_json_only(o, what, names, e);
    if (!rc)
        rc = read_version(o, what, e);
    if (!rc)
        rc = st_json_base64(o, what, "token", &b, e);
    if (!rc)
        rc = st_token_parse((struct st_span){(const uint8_t *)b.p, b.len}, &r->token, e);
    if (!rc)
        rc = read_items(o, "change", ST_CHANGE_MAX, r, e);
    if (!rc && st_issue_units(r) > r->token.units)
        rc = st_fail(e, ST_INPUT, "refund: change: want at most the token's units");
    st_buf_wipe(&b);
    return rc;
}

int st_issue_parse(enum st_issue_kind kind, struct st_span json, struct st_issue *out, struct st_err *e)
{
    json_t *o;
    *out = (struct st_issue){.kind = kind};
    if (json.len > ST_ISSUE_MAX_BYTES)
        return st_fail(e, ST_INPUT, "%s: want at most %zu bytes", where[kind], ST_ISSUE_MAX_BYTES);
    if (st_json_parse(json.p, json.len, where[kind], &o, e))
        return e->code;
    int rc = kind == ST_ISSUE_PURCHASE ? read_purchase(o, out, e) : read_refund(o, out, e);
    json_decref(o);
    return rc;
}

void st_issue_write(const struct st_issue *r, struct st_buf *out)
{
    if (r->kind == ST_ISSUE_PURCHASE) {
        char id[2 * ST_ISSUE_ID + 1];
        st_hex(r->id, sizeof r->id, id);
        st_buf_addf(out, "{\"version\":1,\"id\":\"%s\",\"tokens\":[", id);
    } else {
        struct st_buf b = {0};
        st_token_write(&r->token, &b);
        st_buf_add_str(out, "{\"version\":1,\"token\":\"");
        st_base64_encode(b.p, b.len, out);
        st_buf_add_str(out, "\",\"change\":[");
        st_buf_wipe(&b);
    }
    for (size_t i = 0; i < r->n; i++) {
        st_buf_addf(out, "%s{\"day\":%" PRIu32 ",\"units\":%" PRIu32 ",\"blinded\":\"", i ? "," : "", r->of[i].day,
                    r->of[i].units);
        st_base64_encode(r->of[i].blinded.p, r->of[i].blinded.len, out);
        st_buf_add_str(out, "\"}");
    }
    st_buf_add_str(out, "]}");
}

void st_issue_wipe(struct st_issue *r)
{
    st_buf_wipe(&r->bytes);
    *r = (struct st_issue){0};
}

uint32_t st_issue_units(const struct st_issue *r)
{
    uint32_t sum = 0; /* at most ST_ISSUE_MAX * ST_TOKEN_MAX_UNITS */
    for (size_t i = 0; i < r->n; i++)
        sum += r->of[i].units;
    return sum;
}

static void add_number(struct st_digest *d, uint32_t v)
{
    const uint8_t le[4] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)};
    st_digest_add(d, le, sizeof le);
}

int st_issue_digest(const struct st_issue *r, uint8_t out[32], struct st_err *e)
{
    static const char label[] = "sotto issue 1";
    struct st_digest d;
    if (st_digest_init(&d, e))
        return e->code;
    add_number(&d, sizeof label - 1);
    st_digest_add(&d, label, sizeof label - 1);
    for (size_t i = 0; i < r->n; i++) {
        add_number(&d, 4);
        add_number(&d, r->of[i].day);
        add_number(&d, 4);
        add_number(&d, r->of[i].units);
        add_number(&d, (uint32_t)r->of[i].blinded.len);
        st_digest_add(&d, r->of[i].blinded.p, r->of[i].blinded.len);
    }
    st_digest_end(&d, out);
    return 0;
}

/* ---- answers ---- */

int st_issue_answer_parse(struct st_span json, size_t n, struct st_issue_answer *out, struct st_err *e)
{
    static const char *const names[] = {"version", "signatures", NULL};
    json_t *o, *list, *v;
    size_t i, at = 0;
    *out = (struct st_issue_answer){0};
    if (st_json_parse(json.p, json.len, "answer", &o, e))
        return e->code;
    int rc = st_json_only(o, "answer", names, e);
    if (!rc)
        rc = read_version(o, "answer", e);
    list = json_object_get(o, "signatures");
    if (!rc && (!json_is_array(list) || json_array_size(list) != n || n > ST_ISSUE_MAX))
        rc = st_fail(e, ST_INPUT, "answer: signatures: want a list of %zu", n);
    if (!rc)
        json_array_foreach(list, i, v)
        {
            size_t before = out->bytes.len;
            if (!json_is_string(v) || !st_base64_decode(json_string_value(v), json_string_length(v), &out->bytes) ||
                !good_len(out->bytes.len - before)) {
                rc = st_fail(e, ST_INPUT, "answer: signatures: %zu: want 256, 384 or 512 bytes in base64", i);
                break;
            }
            out->signature[out->n++].len = out->bytes.len - before;
        }
    for (i = 0; i < out->n; at += out->signature[i++].len)
        out->signature[i].p = (const uint8_t *)out->bytes.p + at;
    if (!rc && out->bytes.failed)
        rc = st_fail(e, ST_MEMORY, "answer: out of memory");
    json_decref(o);
    return rc;
}

void st_issue_answer_write(const struct st_issue_answer *a, struct st_buf *out)
{
    st_buf_add_str(out, "{\"version\":1,\"signatures\":[");
    for (size_t i = 0; i < a->n; i++) {
        st_buf_add_str(out, i ? ",\"" : "\"");
        st_base64_encode(a->signature[i].p, a->signature[i].len, out);
        st_buf_add_str(out, "\"");
    }
    st_buf_add_str(out, "]}");
}

void st_issue_answer_wipe(struct st_issue_answer *a)
{
    st_buf_wipe(&a->bytes);
    *a = (struct st_issue_answer){0};
}

/* ---- refusals ---- */

int st_issue_refusal_parse(struct st_span json, char word[ST_ISSUE_WORD], int64_t *units, struct st_err *e)
{
    json_t *o;
    const char *code = "";
    *units = 0;
    *word = 0;
    if (st_json_parse(json.p, json.len, "refusal", &o, e))
        return e->code;
    const json_t *error = json_object_get(o, "error");
    int rc = json_is_object(error) ? st_json_str(error, "refusal", "code", &code, e)
                                   : st_fail(e, ST_INPUT, "refusal: error: want an object");
    if (!rc)
        rc = st_json_int(error, "refusal", "units", 0, INT64_MAX, units, e);
    if (!rc && strlen(code) < ST_ISSUE_WORD)
        snprintf(word, ST_ISSUE_WORD, "%s", code);
    json_decref(o);
    return rc;
}

void st_issue_refusal_write(const char *word, int64_t units, struct st_buf *out)
{
    st_buf_addf(out, "{\"error\":{\"code\":\"%s\"", word);
    if (strcmp(word, "units") == 0)
        st_buf_addf(out, ",\"units\":%" PRId64, units);
    st_buf_add_str(out, "}}");
}
