#include "attest/tiles.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MAX_INDEX (ST_MERKLE_MAX_SIZE / ST_TILE_WIDTH)

const char *st_tile_path(const struct st_tile *t, char out[ST_TILE_MAX_PATH])
{
    uint64_t unit = 1;
    int n = t->level == ST_TILE_ENTRIES ? snprintf(out, ST_TILE_MAX_PATH, "tile/entries/")
                                        : snprintf(out, ST_TILE_MAX_PATH, "tile/%d/", t->level);
    while (t->index / unit >= 1000)
        unit *= 1000;
    for (; unit > 1; unit /= 1000)
        n += snprintf(out + n, ST_TILE_MAX_PATH - (size_t)n, "x%03u/", (unsigned)(t->index / unit % 1000));
    n += snprintf(out + n, ST_TILE_MAX_PATH - (size_t)n, "%03u", (unsigned)(t->index % 1000));
    if (t->width < ST_TILE_WIDTH)
        snprintf(out + n, ST_TILE_MAX_PATH - (size_t)n, ".p/%u", t->width);
    return out;
}

/* Decimal digits at *s; -1 when there is none or the number is above `max`. */
static int number(const char **s, const char *end, int max)
{
    int v = 0, n = 0;
    for (; *s < end && **s >= '0' && **s <= '9' && v <= max; (*s)++, n++)
        v = 10 * v + (**s - '0');
    return n == 0 || v > max ? -1 : v;
}

static bool skip(const char **s, const char *end, const char *what)
{
    size_t len = strlen(what);
    if ((size_t)(end - *s) < len || memcmp(*s, what, len) != 0)
        return false;
    *s += len;
    return true;
}

/* Reads loosely; st_tile_parse() then asks for the one way to write it. */
static bool parse(const char *s, const char *end, struct st_tile *t)
{
    *t = (struct st_tile){.width = ST_TILE_WIDTH};
    if (!skip(&s, end, "tile/"))
        return false;
    if (skip(&s, end, "entries/"))
        t->level = ST_TILE_ENTRIES;
    else if ((t->level = number(&s, end, ST_TILE_MAX_LEVEL)) < 0 || !skip(&s, end, "/"))
        return false;
    for (bool more = true; more;) {
        more = skip(&s, end, "x");
        int part = number(&s, end, 999);
        if (part < 0 || t->index > MAX_INDEX / 1000 || (more && !skip(&s, end, "/")))
            return false;
        t->index = t->index * 1000 + (unsigned)part;
    }
    if (skip(&s, end, ".p/")) {
        int width = number(&s, end, ST_TILE_WIDTH - 1);
        if (width < 1)
            return false;
        t->width = (unsigned)width;
    }
    return s == end && t->index <= MAX_INDEX;
}

int st_tile_parse(const char *path, size_t len, struct st_tile *out, struct st_err *e)
{
    char again[ST_TILE_MAX_PATH];
    if (len < ST_TILE_MAX_PATH && parse(path, path + len, out) && strlen(st_tile_path(out, again)) == len &&
        memcmp(again, path, len) == 0)
        return 0;
    *out = (struct st_tile){0};
    return st_fail(e, ST_INPUT, "tile: want tile/LEVEL/INDEX or tile/entries/INDEX, with .p/WIDTH where it is partial");
}

struct st_tile st_tile_at(int level, uint64_t index, uint64_t size)
{
    unsigned shift = level == ST_TILE_ENTRIES ? 0 : 8 * (unsigned)level;
    uint64_t hashes = size >> shift, before = index * ST_TILE_WIDTH;
    struct st_tile t = {.level = level, .index = index};
    if (index <= MAX_INDEX && before < hashes)
        t.width = hashes - before < ST_TILE_WIDTH ? (unsigned)(hashes - before) : ST_TILE_WIDTH;
    return t;
}

struct st_tile st_tile_of(unsigned level, uint64_t index, uint64_t size)
{
    return st_tile_at((int)(level / 8), (index << level % 8) / ST_TILE_WIDTH, size);
}

int st_tile_node(const struct st_tile *t, struct st_span bytes, unsigned level, uint64_t index,
                 struct st_merkle_hash *out, struct st_err *e)
{
    char path[ST_TILE_MAX_PATH];
    struct st_merkle_hash row[ST_TILE_WIDTH / 2], one[2];
    size_t n = (size_t)1 << level % 8, at = (size_t)((index << level % 8) % ST_TILE_WIDTH);
    if (bytes.len != (size_t)t->width * ST_MERKLE_HASH)
        return st_fail(e, ST_INPUT, "%s: want %u bytes, got %zu", st_tile_path(t, path), t->width * ST_MERKLE_HASH,
                       bytes.len);
    if (at + n > t->width)
        return st_fail(e, ST_INPUT, "%s: it is too narrow for node %" PRIu64 " of level %u", st_tile_path(t, path),
                       index, level);
    const uint8_t *p = bytes.p + at * ST_MERKLE_HASH;
    if (n == 1) {
        memcpy(out, p, sizeof *out);
        return 0;
    }
    for (size_t i = 0; i < n / 2; i++) {
        memcpy(one, p + 2 * i * ST_MERKLE_HASH, sizeof one);
        row[i] = st_merkle_node(&one[0], &one[1]);
    }
    for (n /= 2; n > 1; n /= 2)
        for (size_t i = 0; i < n / 2; i++)
            row[i] = st_merkle_node(&row[2 * i], &row[2 * i + 1]);
    *out = row[0];
    return 0;
}

static int source_node(void *ctx, unsigned level, uint64_t index, struct st_merkle_hash *out, struct st_err *e)
{
    const struct st_tile_reader *r = ctx;
    struct st_tile t = st_tile_of(level, index, r->size);
    struct st_span bytes;
    if (t.width == 0)
        return st_fail(e, ST_INPUT, "log: a tree of %" PRIu64 " has no node %" PRIu64 " of level %u", r->size, index,
                       level);
    int rc = r->read(r->ctx, &t, &bytes, e);
    return rc ? rc : st_tile_node(&t, bytes, level, index, out, e);
}

struct st_merkle_source st_tile_source(const struct st_tile_reader *r)
{
    return (struct st_merkle_source){source_node, (void *)(uintptr_t)r};
}

int st_entry_add(const void *p, size_t len, struct st_buf *bundle, struct st_err *e)
{
    if (len > ST_TILE_MAX_ENTRY)
        return st_fail(e, ST_INPUT, "log: want an entry of at most %d bytes, got %zu", ST_TILE_MAX_ENTRY, len);
    uint8_t head[2] = {(uint8_t)(len >> 8), (uint8_t)len};
    st_buf_add(bundle, head, sizeof head);
    st_buf_add(bundle, p, len);
    return bundle->failed ? st_fail(e, ST_MEMORY, "log: out of memory") : 0;
}

int st_entry_next(struct st_span *bundle, struct st_span *entry, struct st_merkle_hash *leaf, struct st_err *e)
{
    size_t len = bundle->len < 2 ? SIZE_MAX : (size_t)bundle->p[0] << 8 | bundle->p[1];
    if (bundle->len < 2 || bundle->len - 2 < len)
        return st_fail(e, ST_INPUT, "log: a bundle of entries is cut");
    *entry = (struct st_span){bundle->p + 2, len};
    bundle->p += 2 + len;
    bundle->len -= 2 + len;
    if (leaf)
        *leaf = st_merkle_leaf(entry->p, entry->len);
    return 0;
}

int st_entries_verify(struct st_span bundle, struct st_span tile, struct st_err *e)
{
    struct st_span entry;
    struct st_merkle_hash leaf;
    size_t n = 0;
    for (; bundle.len > 0; n++) {
        int rc = st_entry_next(&bundle, &entry, &leaf, e);
        if (rc)
            return rc;
        if ((n + 1) * ST_MERKLE_HASH > tile.len || memcmp(leaf.b, tile.p + n * ST_MERKLE_HASH, ST_MERKLE_HASH) != 0)
            return st_fail(e, ST_VERIFY, "log: entry %zu of a bundle is not that of the tile", n);
    }
    if (n * ST_MERKLE_HASH != tile.len)
        return st_fail(e, ST_VERIFY, "log: a bundle has %zu entries, the tile %zu bytes", n, tile.len);
    return 0;
}
