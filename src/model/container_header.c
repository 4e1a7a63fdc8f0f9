#include "model/container_header.h"
#include "crypto/digest.h"
#include "model/ckpt.h"
#include "text/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const st_container_files[] = {
    "config.json",           "generation_config.json",  "tokenizer.json",      "tokenizer.model",    "tokenizer.bin",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",   "vocab.json",         "merges.txt",
    "chat_template.jinja",   "chat_template.json",      "adapter_config.json", ST_CONTAINER_LLAMA2C, NULL};

/* A field that must be there and is a string of at most max bytes; control characters (in UTF-8 also U+0080 to U+009F)
 * would let it forge lines. */
static int need_text(const json_t *o, const char *where, const char *key, size_t max, const char **out,
                     struct st_err *e)
{
    *out = NULL;
    int rc = st_json_need(o, where, key, e);
    if (!rc)
        rc = st_json_str(o, where, key, out, e);
    if (rc)
        return rc;
    size_t len = strlen(*out);
    bool plain = len > 0 && len <= max;
    for (size_t i = 0; plain && i < len; i++)
        plain = (uint8_t)(*out)[i] >= 0x20 && (*out)[i] != 0x7f &&
                !((uint8_t)(*out)[i] == 0xc2 && (uint8_t)(*out)[i + 1] < 0xa0);
    return plain ? 0 : st_fail(e, ST_VERIFY, "%s: %s: want 1 to %zu bytes of text", where, key, max);
}

static int need_int(const json_t *o, const char *where, const char *key, int64_t min, int64_t max, int64_t *out,
                    struct st_err *e)
{
    int rc = st_json_need(o, where, key, e);
    return rc ? rc : st_json_int(o, where, key, min, max, out, e);
}

static int need_hex(const json_t *o, const char *where, const char *key, uint8_t *out, size_t len, struct st_err *e)
{
    const char *hex;
    char field[ST_PATH_MAX + 64];
    snprintf(field, sizeof field, "%s: %s", where, key);
    int rc = need_text(o, where, key, 2 * len, &hex, e);
    return rc ? rc : st_unhex(hex, strlen(hex), out, len, field, e);
}

static int read_about(struct st_container *c, const char *where, struct st_err *e)
{
    static const char *const fields[] = {"publisher", "id",     "version", "kind",    "name",
                                         "created",   "policy", "digests", "entries", NULL};
    struct st_container_about *a = &c->about;
    const json_t *o = c->json;
    const char *kind = NULL;
    uint8_t publisher[32];
    int64_t version = 0;
    int rc = st_json_only(o, where, fields, e);
    if (!rc)
        rc = need_hex(o, where, "publisher", publisher, sizeof publisher, e);
    if (!rc && memcmp(publisher, a->publisher, sizeof publisher) != 0)
        rc = st_fail(e, ST_VERIFY, "%s: publisher: not the one whose signature it has", where);
    if (!rc)
        rc = need_hex(o, where, "id", a->id, sizeof a->id, e);
    if (!rc)
        rc = need_hex(o, where, "digests", c->digests_hash, sizeof c->digests_hash, e);
    if (!rc)
        rc = need_int(o, where, "version", 1, INT64_MAX, &version, e);
    if (!rc)
        rc = need_int(o, where, "created", 0, INT64_MAX, &a->created, e);
    if (!rc)
        rc = need_text(o, where, "name", 127, &a->name, e);
    if (!rc)
        rc = need_text(o, where, "policy", 63, &a->policy, e);
    if (!rc)
        rc = need_text(o, where, "kind", 16, &kind, e);
    if (!rc && strcmp(kind, "model") != 0 && strcmp(kind, "adapter") != 0)
        rc = st_fail(e, ST_VERIFY, "%s: kind: want model or adapter", where);
    if (rc)
        return rc;
    a->version = (uint64_t)version;
    a->kind = strcmp(kind, "model") == 0 ? ST_CONTAINER_MODEL : ST_CONTAINER_ADAPTER;
    return 0;
}

static bool is_known_file(const char *name)
{
    for (size_t i = 0; st_container_files[i]; i++)
        if (strcmp(st_container_files[i], name) == 0)
            return true;
    return false;
}

/* Names go into paths of other programs, logs and associated data. */
static bool is_tensor_name(const char *s)
{
    for (size_t i = 0; s[i]; i++)
        if (s[i] <= 0x20 || s[i] >= 0x7f || s[i] == '/' || s[i] == '\\' || (s[i] == '.' && s[i + 1] == '.'))
            return false;
    return s[0] != '.';
}

/* Shape and dtype to bytes and the length of a row: all dimensions but the first; of a vector a value. */
static int read_shape(const json_t *o, const char *where, struct st_tensor *t, uint64_t *row, struct st_err *e)
{
    const char *word;
    unsigned bits = 0;
    int rc = need_text(o, where, "dtype", 16, &word, e);
    if (rc)
        return rc;
    t->stored = st_stored_dtype(word, &t->dtype, &bits);
    if (!t->stored)
        return st_fail(e, ST_VERIFY, "%s: dtype: '%s' is not known", where, word);
    t->n_dim = st_stored_list(json_object_get(o, "shape"), ST_MAX_DIMS, t->dim);
    bool ok = t->n_dim > 0;
    uint64_t n = bits, bytes;
    for (int i = 1; ok && i < t->n_dim; i++)
        ok = t->dim[i] && !__builtin_mul_overflow(n, t->dim[i], &n);
    *row = n / 8;
    ok = ok && n % 8 == 0 && t->dim[0] && !__builtin_mul_overflow(*row, t->dim[0], &bytes) && bytes <= SIZE_MAX;
    if (!ok)
        return st_fail(e, ST_VERIFY, "%s: shape: want 1 to %d sizes that are not 0, and rows of whole bytes", where,
                       ST_MAX_DIMS);
    t->bytes = (size_t)bytes;
    return 0;
}

static int read_place(const json_t *o, const char *where, struct st_container_entry *n, struct st_err *e)
{
    const char *place;
    int rc = need_text(o, where, "place", 16, &place, e);
    if (rc)
        return rc;
    bool inside = strcmp(place, "inside") == 0;
    if (!inside && strcmp(place, "outside") != 0)
        return st_fail(e, ST_VERIFY, "%s: place: want inside or outside", where);
    if (inside && n->is_file)
        return st_fail(e, ST_VERIFY, "%s: place: a file lies outside", where);
    n->place = inside ? ST_CONTAINER_INSIDE : ST_CONTAINER_OUTSIDE;
    return 0;
}

/* Everything of an entry but its place in the file. */
static int read_entry(const json_t *o, const char *where, struct st_container_entry *n, struct st_err *e)
{
    static const char *const of_file[] = {"name", "place", "bytes", "segment_bytes", NULL},
                             *const of_tensor[] = {"name", "place", "dtype", "shape", "segment_bytes", NULL};
    int64_t bytes = 0, segment = 0;
    uint64_t row = 1;
    n->is_file = json_object_get(o, "bytes") != NULL;
    n->tensor = (struct st_tensor){.dtype = ST_DTYPE_COUNT, .stored = ""};
    int rc = st_json_only(o, where, n->is_file ? of_file : of_tensor, e);
    if (!rc)
        rc = need_text(o, where, "name", ST_CONTAINER_NAME_MAX, &n->tensor.name, e);
    if (!rc && (n->is_file ? !is_known_file(n->tensor.name) : !is_tensor_name(n->tensor.name)))
        rc = st_fail(e, ST_VERIFY, "%s: name: not one that %s may have", where, n->is_file ? "a file" : "a tensor");
    if (!rc)
        rc = read_place(o, where, n, e);
    if (!rc && n->is_file) {
        rc = need_int(o, where, "bytes", 1, INT64_MAX, &bytes, e);
        n->tensor.bytes = (size_t)bytes;
    } else if (!rc)
        rc = read_shape(o, where, &n->tensor, &row, e);
    if (!rc)
        rc = need_int(o, where, "segment_bytes", 1, ST_CONTAINER_SEGMENT, &segment, e);
    if (!rc && (uint64_t)segment % row != 0)
        rc = st_fail(e, ST_VERIFY, "%s: segment_bytes: want whole rows of %" PRIu64 " bytes", where, row);
    n->segment_bytes = (uint32_t)segment;
    return rc;
}

/* Segments are numbered and lie in the order of the entries, and fill the file to its end. */
static int place_entry(struct st_container *c, size_t i, const char *where, uint64_t *at, uint64_t *first,
                       struct st_err *e)
{
    struct st_container_entry *n = &c->entries[i];
    uint64_t count = (n->tensor.bytes - 1) / n->segment_bytes + 1, stored;
    if (count > c->n_segment - *first)
        return st_fail(e, ST_VERIFY, "%s: more segments than the container has", where);
    uint64_t seal = n->place == ST_CONTAINER_INSIDE ? count * ST_CONTAINER_SEAL_BYTES : 0;
    if (__builtin_add_overflow(n->tensor.bytes, seal, &stored) || stored > c->len - *at)
        return st_fail(e, ST_VERIFY, "%s: lies behind the end of the file; it is cut", where);
    c->place[i] = *at;
    n->first_segment = (uint32_t)*first;
    n->n_segment = (uint32_t)count;
    *at += stored;
    *first += count;
    return 0;
}

static int by_name(const void *a, const void *b, void *arg)
{
    const struct st_container_entry *n = arg;
    return strcmp(n[*(const uint32_t *)a].tensor.name, n[*(const uint32_t *)b].tensor.name);
}

static int sort_names(struct st_container *c, const char *where, struct st_err *e)
{
    for (uint32_t i = 0; i < c->n; i++)
        c->by_name[i] = i;
    qsort_r(c->by_name, c->n, sizeof *c->by_name, by_name, c->entries);
    for (size_t i = 1; i < c->n; i++)
        if (by_name(&c->by_name[i - 1], &c->by_name[i], c->entries) == 0)
            return st_fail(e, ST_VERIFY, "%s: %s: there twice", where, c->entries[c->by_name[i]].tensor.name);
    return 0;
}

static int read_entries(struct st_container *c, const char *where, uint64_t at, struct st_err *e)
{
    const json_t *list = json_object_get(c->json, "entries");
    uint64_t first = 0;
    size_t n = json_array_size(list);
    if (!n || n > c->n_segment)
        return st_fail(e, ST_VERIFY, "%s: entries: want a list of 1 to %" PRIu32 ", the number of segments", where,
                       c->n_segment);
    int rc = st_alloc(&c->entries, n, sizeof *c->entries, where, e);
    if (!rc)
        rc = st_alloc(&c->place, n, sizeof *c->place, where, e);
    if (!rc)
        rc = st_alloc(&c->by_name, n, sizeof *c->by_name, where, e);
    for (c->n = 0; !rc && c->n < n; c->n++) {
        const json_t *o = json_array_get(list, c->n);
        const char *name = json_string_value(json_object_get(o, "name"));
        char what[ST_PATH_MAX + 64];
        snprintf(what, sizeof what, "%s: %.*s", where, ST_CONTAINER_NAME_MAX, name ? name : "an entry without a name");
        rc = read_entry(o, what, &c->entries[c->n], e);
        if (!rc)
            rc = place_entry(c, c->n, what, &at, &first, e);
    }
    if (!rc && (first != c->n_segment || at != c->len))
        rc =
            st_fail(e, ST_VERIFY, "%s: %" PRIu64 " bytes in %" PRIu64 " segments; the file has %" PRIu64 " in %" PRIu32,
                    where, at, first, c->len, c->n_segment);
    return rc ? rc : sort_names(c, where, e);
}

/* Values that the text could have: a parser takes memory and time for each, some fifty times its length. Those of an
 * entry are five fields and up to eight sizes. */
static int count_values(const struct st_container *c, struct st_err *e)
{
    const uint64_t most = 32 + (uint64_t)c->n_segment * 16;
    const uint8_t *p = c->header.p;
    bool quoted = false;
    uint64_t n = 0;
    for (size_t i = 0; i < c->header.len; i++) {
        quoted ^= p[i] == '"';
        i += quoted && p[i] == '\\';
        n += !quoted && (p[i] == ',' || p[i] == '[' || p[i] == '{');
    }
    return n <= most ? 0
                     : st_fail(e, ST_VERIFY, "%s: its header has more values than that of %" PRIu32 " segments",
                               c->path, c->n_segment);
}

int st_container_read_header(struct st_container *c, uint64_t data_at, struct st_err *e)
{
    int rc = count_values(c, e);
    if (!rc)
        rc = st_json_parse(c->header.p, c->header.len, c->path, &c->json, e);
    if (!rc)
        rc = read_about(c, c->path, e);
    if (!rc)
        rc = read_entries(c, c->path, data_at, e);
    /* What a publisher signed and is none the less malformed was changed before it was signed. */
    if (rc == ST_INPUT)
        rc = e->code = ST_VERIFY;
    return rc;
}
