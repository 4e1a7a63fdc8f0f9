#include "attest/directory.h"
#include "attest/tiles.h"
#include "crypto/digest.h"
#include "text/base64.h"
#include "text/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_GATEWAY_KEYS 1024 /* bytes of application/ohttp-keys */
#define MAX_ISSUER_KEY 1024   /* bytes of a SubjectPublicKeyInfo */
#define MAX_TIME ((int64_t)1 << 40)
#define MAX_EVERY (31 * 86400)
#define MAX_UNITS (1 << 20)

/* Where the next nodes and key bytes go: one block, sized before anything is read into it. */
struct room {
    struct st_directory_node *nodes;
    uint8_t *bytes;
};

static int wrong(const char *where, const char *key, const char *want, struct st_err *e)
{
    return st_fail(e, ST_INPUT, "%s: %s: want %s", where, key, want);
}

/* ---- fields ---- */

static int need_int(const json_t *o, const char *where, const char *key, int64_t min, int64_t max, int64_t *out,
                    struct st_err *e)
{
    return st_json_need(o, where, key, e) || st_json_int(o, where, key, min, max, out, e) ? e->code : 0;
}

/* Names are parts of URLs and file names: they begin with a letter or digit, and hold those and . - _ only. */
static int read_name(const json_t *o, const char *where, char out[ST_DIRECTORY_MAX_NAME + 1], struct st_err *e)
{
    const char *s = NULL;
    if (st_json_need(o, where, "name", e) || st_json_str(o, where, "name", &s, e))
        return e->code;
    if (!st_directory_name_good(s))
        return wrong(where, "name", "1 to 64 letters, digits, '.', '-' and '_', a letter or digit first", e);
    snprintf(out, ST_DIRECTORY_MAX_NAME + 1, "%s", s);
    return 0;
}

bool st_directory_name_good(const char *s)
{
    static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz.-_";
    size_t n = strlen(s);
    return n > 0 && n <= ST_DIRECTORY_MAX_NAME && strspn(s, digits) == n && !strchr(".-_", s[0]);
}

static int read_hex(const json_t *o, const char *where, const char *key, uint8_t *out, size_t len, struct st_err *e)
{
    const char *s = NULL;
    if (st_json_need(o, where, key, e) || st_json_str(o, where, key, &s, e))
        return e->code;
    return st_unhex(s, strlen(s), out, len, key, e) ? st_err_prefix(e, "%s", where) : 0;
}

/* Decoded bytes are fewer than their text, so they fit the room. */
static int read_bytes(const json_t *o, const char *where, const char *key, size_t max, struct room *room,
                      struct st_span *out, struct st_err *e)
{
    struct st_buf b = {0};
    int rc = st_json_base64(o, where, key, &b, e);
    if (!rc && b.len > max)
        rc = st_fail(e, ST_INPUT, "%s: %s: want at most %zu bytes, got %zu", where, key, max, b.len);
    if (!rc) {
        memcpy(room->bytes, b.p, b.len);
        *out = (struct st_span){room->bytes, b.len};
        room->bytes += b.len;
    }
    st_buf_free(&b);
    return rc;
}

/* ---- gateways ---- */

static bool tag_good(const char *s)
{
    size_t n = strlen(s);
    bool good = n > 0 && n <= ST_NODE_MAX_TAG;
    for (size_t i = 0; i < n && good; i++)
        good = s[i] > 0x20 && s[i] < 0x7f;
    return good;
}

static int read_node(const json_t *o, const char *where, struct st_directory_node *out, struct st_err *e)
{
    static const char *const fields[] = {"id", "tags", "bundle", NULL};
    if (st_json_only(o, where, fields, e) || read_hex(o, where, "id", out->id, sizeof out->id, e) ||
        read_hex(o, where, "bundle", out->bundle, sizeof out->bundle, e) || st_json_need(o, where, "tags", e))
        return e->code;
    const json_t *tags = json_object_get(o, "tags");
    if (!json_is_array(tags) || json_array_size(tags) > ST_NODE_MAX_TAGS)
        return wrong(where, "tags", "a list of at most 16 words", e);
    for (size_t i = 0; i < json_array_size(tags); i++) {
        const char *tag = json_string_value(json_array_get(tags, i));
        if (!tag || !tag_good(tag))
            return wrong(where, "tags", "words of 1 to 128 characters of printable ASCII", e);
        memcpy(out->tags[out->n_tag++], tag, strlen(tag) + 1);
    }
    return 0;
}

static int read_nodes(const json_t *o, const char *where, struct room *room, struct st_directory_gateway *out,
                      struct st_err *e)
{
    const json_t *nodes = json_object_get(o, "nodes");
    if (!json_is_array(nodes) || json_array_size(nodes) > ST_DIRECTORY_MAX_NODES)
        return wrong(where, "nodes", "a list of at most 256 nodes", e);
    out->nodes = room->nodes;
    for (size_t i = 0; i < json_array_size(nodes); i++) {
        char inner[192];
        struct st_directory_node *n = &out->nodes[i];
        snprintf(inner, sizeof inner, "%.150s: nodes[%zu]", where, i);
        if (read_node(json_array_get(nodes, i), inner, n, e))
            return e->code;
        if (st_directory_find_node(out, n->id))
            return wrong(inner, "id", "one that no other node has", e);
        out->n_node++;
    }
    room->nodes += out->n_node;
    return 0;
}

/* The row of a gateway; version and kind are in it when it is a part. */
static int read_gateway(const json_t *o, const char *where, struct room *room, struct st_directory_gateway *out,
                        struct st_err *e)
{
    static const char *const price_fields[] = {"request", "unit_bytes", NULL};
    int64_t request = 0, unit_bytes = 0;
    char inner[160];
    if (read_name(o, where, out->name, e) || read_bytes(o, where, "keys", MAX_GATEWAY_KEYS, room, &out->keys, e) ||
        st_json_need(o, where, "price", e))
        return e->code;
    const json_t *price = json_object_get(o, "price");
    snprintf(inner, sizeof inner, "%.120s: price", where);
    if (st_json_only(price, inner, price_fields, e) || need_int(price, inner, "request", 0, MAX_UNITS, &request, e) ||
        need_int(price, inner, "unit_bytes", 1, MAX_TIME, &unit_bytes, e))
        return e->code;
    out->price_request = (uint32_t)request;
    out->unit_bytes = (uint64_t)unit_bytes;
    return read_nodes(o, where, room, out, e);
}

/* ---- issuers ---- */

static int read_key(const json_t *o, const char *where, struct room *room, struct st_directory_key *out,
                    struct st_err *e)
{
    static const char *const fields[] = {"day", "units", "key", NULL};
    int64_t day = 0, units = 0;
    if (st_json_only(o, where, fields, e) || need_int(o, where, "day", 0, MAX_TIME / 86400, &day, e) ||
        need_int(o, where, "units", 1, MAX_UNITS, &units, e) ||
        read_bytes(o, where, "key", MAX_ISSUER_KEY, room, &out->key, e))
        return e->code;
    out->day = (uint32_t)day;
    out->units = (uint32_t)units;
    return 0;
}

static int read_issuer(const json_t *o, const char *where, struct room *room, struct st_directory_issuer *out,
                       struct st_err *e)
{
    const json_t *keys = json_object_get(o, "keys");
    if (read_name(o, where, out->name, e))
        return e->code;
    if (!json_is_array(keys) || json_array_size(keys) > ST_DIRECTORY_MAX_KEYS)
        return wrong(where, "keys", "a list of at most 64 keys", e);
    for (size_t i = 0; i < json_array_size(keys); i++) {
        char inner[192];
        struct st_directory_key k = {0};
        snprintf(inner, sizeof inner, "%.150s: keys[%zu]", where, i);
        if (read_key(json_array_get(keys, i), inner, room, &k, e))
            return e->code;
        if (st_directory_find_key(out, k.day, k.units))
            return wrong(inner, "units", "one key per day and denomination", e);
        out->keys[out->n_key++] = k;
    }
    return 0;
}

/* ---- the whole ---- */

static size_t count_nodes(const json_t *o)
{
    size_t n = json_array_size(json_object_get(o, "nodes"));
    return n < ST_DIRECTORY_MAX_NODES ? n : ST_DIRECTORY_MAX_NODES;
}

static int take_room(size_t n_node, size_t len, struct st_directory *d, struct room *room, const char *where,
                     struct st_err *e)
{
    d->memory = calloc(1, n_node * sizeof *room->nodes + len + 1);
    if (!d->memory)
        return st_fail(e, ST_MEMORY, "%s: out of memory", where);
    room->nodes = d->memory;
    room->bytes = (uint8_t *)d->memory + n_node * sizeof *room->nodes;
    return 0;
}

static int check_kind(const json_t *o, const char *where, const char *kind, struct st_err *e)
{
    const char *s = NULL;
    int64_t version = 0;
    if (need_int(o, where, "version", 0, INT32_MAX, &version, e))
        return e->code;
    if (version != 1)
        return st_fail(e, ST_UNSUPPORTED, "%s: version: want 1, got %d", where, (int)version);
    if (st_json_need(o, where, "kind", e) || st_json_str(o, where, "kind", &s, e))
        return e->code;
    return strcmp(s, kind) == 0 ? 0 : st_fail(e, ST_INPUT, "%s: kind: want \"%s\"", where, kind);
}

static int read_time(const json_t *o, const char *where, struct st_directory *d, struct st_err *e)
{
    int64_t epoch = 0, every = 1;
    if (need_int(o, where, "epoch", 0, MAX_TIME, &epoch, e) || need_int(o, where, "time", 0, MAX_TIME, &d->time, e) ||
        need_int(o, where, "every", 1, MAX_EVERY, &every, e))
        return e->code;
    d->epoch = (uint64_t)epoch;
    d->every = (uint32_t)every;
    return epoch == d->time / every ? 0 : wrong(where, "epoch", "time divided by every", e);
}

static const char *const gateway_fields[] = {"name", "keys", "price", "nodes", NULL};
static const char *const issuer_fields[] = {"name", "keys", NULL};

static int read_gateways(const json_t *list, const char *where, struct room *room, struct st_directory *d,
                         struct st_err *e)
{
    if (!json_is_array(list) || json_array_size(list) > ST_DIRECTORY_MAX_GATEWAYS)
        return wrong(where, "gateways", "a list of at most 8 gateways", e);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *o = json_array_get(list, i);
        struct st_directory_gateway *g = &d->gateways[i];
        char inner[128];
        snprintf(inner, sizeof inner, "%.90s: gateways[%zu]", where, i);
        if (st_json_only(o, inner, gateway_fields, e) || read_gateway(o, inner, room, g, e))
            return e->code;
        if (st_directory_find_gateway(d, g->name))
            return wrong(inner, "name", "one that no other gateway has", e);
        d->n_gateway++;
    }
    return 0;
}

static int read_issuers(const json_t *list, const char *where, struct room *room, struct st_directory *d,
                        struct st_err *e)
{
    if (!json_is_array(list) || json_array_size(list) > ST_DIRECTORY_MAX_ISSUERS)
        return wrong(where, "issuers", "a list of at most 8 issuers", e);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *o = json_array_get(list, i);
        struct st_directory_issuer *s = &d->issuers[i];
        char inner[128];
        snprintf(inner, sizeof inner, "%.90s: issuers[%zu]", where, i);
        if (st_json_only(o, inner, issuer_fields, e) || read_issuer(o, inner, room, s, e))
            return e->code;
        if (st_directory_find_issuer(d, s->name))
            return wrong(inner, "name", "one that no other issuer has", e);
        d->n_issuer++;
    }
    return 0;
}

static int read_directory(const json_t *o, const char *where, size_t len, struct st_directory *d, struct st_err *e)
{
    static const char *const fields[] = {"version", "kind", "epoch", "time", "every", "gateways", "issuers", NULL};
    const json_t *gateways = json_object_get(o, "gateways");
    struct room room;
    size_t n_node = 0;
    if (st_json_only(o, where, fields, e) || check_kind(o, where, "directory", e) || read_time(o, where, d, e))
        return e->code;
    for (size_t i = 0; i < json_array_size(gateways) && i < ST_DIRECTORY_MAX_GATEWAYS; i++)
        n_node += count_nodes(json_array_get(gateways, i));
    if (take_room(n_node, len, d, &room, where, e) || read_gateways(gateways, where, &room, d, e))
        return e->code;
    return read_issuers(json_object_get(o, "issuers"), where, &room, d, e);
}

static int read_part(const json_t *o, const char *where, size_t len, struct st_directory *d, struct st_err *e)
{
    static const char *const gateway[] = {"version", "kind", "name", "keys", "price", "nodes", NULL};
    static const char *const issuer[] = {"version", "kind", "name", "keys", NULL};
    const char *kind = json_string_value(json_object_get(o, "kind"));
    bool is_issuer = kind && strcmp(kind, "issuer") == 0;
    struct room room;
    if (st_json_only(o, where, is_issuer ? issuer : gateway, e) ||
        check_kind(o, where, is_issuer ? "issuer" : "gateway", e) || take_room(count_nodes(o), len, d, &room, where, e))
        return e->code;
    d->n_issuer = is_issuer;
    d->n_gateway = !is_issuer;
    return is_issuer ? read_issuer(o, where, &room, &d->issuers[0], e)
                     : read_gateway(o, where, &room, &d->gateways[0], e);
}

static int parse(const void *p, size_t len, const char *where,
                 int (*read)(const json_t *, const char *, size_t, struct st_directory *, struct st_err *),
                 struct st_directory *out, struct st_err *e)
{
    json_t *o;
    *out = (struct st_directory){0};
    if (len > ST_TILE_MAX_ENTRY)
        return st_fail(e, ST_INPUT, "%s: want at most %d bytes, got %zu", where, ST_TILE_MAX_ENTRY, len);
    int rc = st_json_parse(p, len, where, &o, e);
    if (rc)
        return rc;
    rc = read(o, where, len, out, e);
    json_decref(o);
    if (rc)
        st_directory_wipe(out);
    return rc;
}

int st_directory_parse(const void *p, size_t len, const char *where, struct st_directory *out, struct st_err *e)
{
    return parse(p, len, where, read_directory, out, e);
}

int st_directory_parse_part(const void *p, size_t len, const char *where, struct st_directory *out, struct st_err *e)
{
    return parse(p, len, where, read_part, out, e);
}

void st_directory_wipe(struct st_directory *d)
{
    free(d->memory);
    *d = (struct st_directory){0};
}

/* ---- writing ---- */

static void write_hex(struct st_buf *out, const char *key, const uint8_t *p, size_t len)
{
    char hex[2 * 32 + 1];
    st_hex(p, len, hex);
    st_buf_addf(out, "\"%s\":\"%s\"", key, hex);
}

static void write_base64(struct st_buf *out, const char *key, struct st_span bytes)
{
    st_buf_addf(out, "\"%s\":\"", key);
    st_base64_encode(bytes.p, bytes.len, out);
    st_buf_add_str(out, "\"");
}

static void write_node(const struct st_directory_node *n, struct st_buf *out)
{
    st_buf_add_str(out, "{");
    write_hex(out, "id", n->id, sizeof n->id);
    st_buf_add_str(out, ",\"tags\":[");
    for (size_t i = 0; i < n->n_tag; i++) {
        st_buf_add_str(out, i ? "," : "");
        st_json_quote(out, n->tags[i], strlen(n->tags[i]));
    }
    st_buf_add_str(out, "],");
    write_hex(out, "bundle", n->bundle, sizeof n->bundle);
    st_buf_add_str(out, "}");
}

/* Fields of the row, without braces. Names need no quoting. */
static void write_gateway(const struct st_directory_gateway *g, struct st_buf *out)
{
    st_buf_addf(out, "\"name\":\"%s\",", g->name);
    write_base64(out, "keys", g->keys);
    st_buf_addf(out, ",\"price\":{\"request\":%" PRIu32 ",\"unit_bytes\":%" PRIu64 "},\"nodes\":[", g->price_request,
                g->unit_bytes);
    for (size_t i = 0; i < g->n_node; i++) {
        st_buf_add_str(out, i ? "," : "");
        write_node(&g->nodes[i], out);
    }
    st_buf_add_str(out, "]");
}

static void write_issuer(const struct st_directory_issuer *s, struct st_buf *out)
{
    st_buf_addf(out, "\"name\":\"%s\",\"keys\":[", s->name);
    for (size_t i = 0; i < s->n_key; i++) {
        const struct st_directory_key *k = &s->keys[i];
        st_buf_addf(out, "%s{\"day\":%" PRIu32 ",\"units\":%" PRIu32 ",", i ? "," : "", k->day, k->units);
        write_base64(out, "key", k->key);
        st_buf_add_str(out, "}");
    }
    st_buf_add_str(out, "]");
}

int st_directory_write(const struct st_directory *d, struct st_buf *out, struct st_err *e)
{
    size_t start = out->len;
    st_buf_addf(out,
                "{\"version\":1,\"kind\":\"directory\",\"epoch\":%" PRIu64 ",\"time\":%" PRId64 ",\"every\":%" PRIu32
                ",\"gateways\":[",
                d->epoch, d->time, d->every);
    for (size_t i = 0; i < d->n_gateway; i++) {
        st_buf_add_str(out, i ? ",{" : "{");
        write_gateway(&d->gateways[i], out);
        st_buf_add_str(out, "}");
    }
    st_buf_add_str(out, "],\"issuers\":[");
    for (size_t i = 0; i < d->n_issuer; i++) {
        st_buf_add_str(out, i ? ",{" : "{");
        write_issuer(&d->issuers[i], out);
        st_buf_add_str(out, "}");
    }
    st_buf_add_str(out, "]}");
    if (out->failed)
        return st_fail(e, ST_MEMORY, "directory: out of memory");
    if (out->len - start > ST_TILE_MAX_ENTRY)
        return st_fail(e, ST_INPUT, "directory: want at most %d bytes, got %zu", ST_TILE_MAX_ENTRY, out->len - start);
    return 0;
}

void st_directory_write_gateway(const struct st_directory_gateway *g, struct st_buf *out)
{
    st_buf_add_str(out, "{\"version\":1,\"kind\":\"gateway\",");
    write_gateway(g, out);
    st_buf_add_str(out, "}");
}

void st_directory_write_issuer(const struct st_directory_issuer *i, struct st_buf *out)
{
    st_buf_add_str(out, "{\"version\":1,\"kind\":\"issuer\",");
    write_issuer(i, out);
    st_buf_add_str(out, "}");
}

/* ---- finding ---- */

const struct st_directory_gateway *st_directory_find_gateway(const struct st_directory *d, const char *name)
{
    for (size_t i = 0; i < d->n_gateway; i++)
        if (strcmp(d->gateways[i].name, name) == 0)
            return &d->gateways[i];
    return NULL;
}

const struct st_directory_issuer *st_directory_find_issuer(const struct st_directory *d, const char *name)
{
    for (size_t i = 0; i < d->n_issuer; i++)
        if (strcmp(d->issuers[i].name, name) == 0)
            return &d->issuers[i];
    return NULL;
}

const struct st_directory_node *st_directory_find_node(const struct st_directory_gateway *g,
                                                       const uint8_t id[ST_NODE_ID])
{
    for (size_t i = 0; i < g->n_node; i++)
        if (memcmp(g->nodes[i].id, id, ST_NODE_ID) == 0)
            return &g->nodes[i];
    return NULL;
}

const struct st_directory_key *st_directory_find_key(const struct st_directory_issuer *i, uint32_t day, uint32_t units)
{
    for (size_t k = 0; k < i->n_key; k++)
        if (i->keys[k].day == day && i->keys[k].units == units)
            return &i->keys[k];
    return NULL;
}

bool st_node_has_tags(const struct st_directory_node *n, const char *const *tags, size_t n_tag)
{
    for (size_t i = 0; i < n_tag; i++) {
        bool has = false;
        for (size_t k = 0; k < n->n_tag && !has; k++)
            has = strcmp(n->tags[k], tags[i]) == 0;
        if (!has)
            return false;
    }
    return true;
}
