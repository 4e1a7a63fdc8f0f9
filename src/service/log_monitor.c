#include "service/log_monitor.h"
#include "attest/directory.h"
#include "crypto/digest.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LEVELS (ST_TILE_MAX_LEVEL + 1)
#define KEPT_KEYS 1024 /* issuers' keys that are remembered, newest last */

struct kept {
    char name[ST_DIRECTORY_MAX_NAME + 1];
    uint32_t day, units;
    uint8_t digest[32];
};

struct reading {
    const struct st_log_monitor_opts *o;
    struct st_log_monitor_result *r;
    struct st_witnessed before;
    struct st_merkle_range range;
    struct st_buf tail[LEVELS]; /* hashes that entries gave and no tile was compared with yet */
    struct st_buf bundle, tile;
    struct st_directory *directory;
    struct kept *kept;
    size_t n_kept;
    bool last_is_directory;
};

static void find(struct reading *g, const char *fmt, ...) ST_PRINTF(2, 3);
static void find(struct reading *g, const char *fmt, ...)
{
    char line[400];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    g->r->findings++;
    g->o->found(g->o->arg, line);
}

/* ---- directories ---- */

static void look_at_key(struct reading *g, uint64_t index, const char *name, const struct st_directory_key *k)
{
    struct kept one = {.day = k->day, .units = k->units};
    memcpy(one.name, name, strlen(name) + 1);
    st_sha256(k->key.p, k->key.len, one.digest);
    for (size_t i = g->n_kept; i-- > 0;) {
        struct kept *old = &g->kept[i];
        if (old->day != one.day || old->units != one.units || strcmp(old->name, one.name) != 0)
            continue;
        if (memcmp(old->digest, one.digest, sizeof one.digest) != 0)
            find(g, "entry %" PRIu64 ": issuer %s: its key of day %u for %u units became another one", index, name,
                 one.day, one.units);
        *old = one; /* one change is one finding, however many directories show the new key */
        return;
    }
    if (g->n_kept == KEPT_KEYS) {
        g->n_kept /= 2;
        memmove(g->kept, g->kept + KEPT_KEYS - g->n_kept, g->n_kept * sizeof *g->kept);
    }
    g->kept[g->n_kept++] = one;
}

static void look_at_directory(struct reading *g, uint64_t index, const struct st_directory *d)
{
    if (g->r->directories > 0 && d->epoch == g->r->epoch)
        find(g, "entry %" PRIu64 ": a second directory of epoch %" PRIu64, index, d->epoch);
    else if (g->r->directories > 0 && d->epoch < g->r->epoch)
        find(g, "entry %" PRIu64 ": a directory of epoch %" PRIu64 " behind one of %" PRIu64, index, d->epoch,
             g->r->epoch);
    if (d->time > g->o->now + ST_TLOG_CLOCK_SLACK_S)
        find(g, "entry %" PRIu64 ": a directory from the future", index);
    g->r->epoch = d->epoch > g->r->epoch ? d->epoch : g->r->epoch;
    g->r->directories++;
    for (size_t i = 0; i < d->n_issuer; i++)
        for (size_t k = 0; k < d->issuers[i].n_key; k++)
            look_at_key(g, index, d->issuers[i].name, &d->issuers[i].keys[k]);
}

static int look_at_entry(struct reading *g, uint64_t index, struct st_span entry, struct st_err *e)
{
    struct st_err why;
    int rc = st_directory_parse(entry.p, entry.len, "entry", g->directory, &why);
    if (rc == ST_MEMORY)
        return st_fail(e, ST_MEMORY, "%s", why.msg);
    g->last_is_directory = rc == 0;
    if (rc == 0)
        look_at_directory(g, index, g->directory);
    st_directory_wipe(g->directory);
    return g->o->entry ? g->o->entry(g->o->arg, index, entry, e) : 0;
}

/* ---- the tree ---- */

/* Takes a hash that the entries gave; a full tile is fetched and compared. */
static int compare_tile(struct reading *g, int level, uint64_t index, struct st_err *e)
{
    char path[ST_TILE_MAX_PATH];
    struct st_buf *tail = &g->tail[level];
    const struct st_tile t = {level, index, (unsigned)(tail->len / ST_MERKLE_HASH)};
    st_buf_clear(&g->tile);
    if (g->o->fetch(g->o->arg, &t, &g->tile, e))
        return e->code;
    if (g->tile.len != tail->len || memcmp(g->tile.p, tail->p, tail->len) != 0)
        find(g, "%s: it is not what the entries give", st_tile_path(&t, path));
    st_buf_clear(tail);
    return 0;
}

static int on_node(void *ctx, unsigned level, uint64_t index, const struct st_merkle_hash *h, struct st_err *e)
{
    struct reading *g = ctx;
    if (level % 8)
        return 0;
    struct st_buf *tail = &g->tail[level / 8];
    st_buf_add(tail, h->b, ST_MERKLE_HASH);
    if (tail->failed)
        return st_fail(e, ST_MEMORY, "monitor: out of memory");
    return tail->len < ST_TILE_WIDTH * ST_MERKLE_HASH ? 0 : compare_tile(g, (int)(level / 8), index / ST_TILE_WIDTH, e);
}

static void compare_before(struct reading *g)
{
    const struct st_checkpoint *old = &g->before.checkpoint;
    struct st_merkle_hash root = st_merkle_root(&g->range);
    if (g->o->before.len && g->range.size == old->size && memcmp(root.b, old->root.b, ST_MERKLE_HASH) != 0)
        find(g, "fork: the first %" PRIu64 " entries are not those of the checkpoint seen before", old->size);
}

static int read_bundle(struct reading *g, const struct st_tile *t, struct st_err *e)
{
    char path[ST_TILE_MAX_PATH];
    const struct st_merkle_sink sink = {on_node, g};
    st_buf_clear(&g->bundle);
    int rc = g->o->fetch(g->o->arg, t, &g->bundle, e);
    struct st_span rest = {(const uint8_t *)g->bundle.p, g->bundle.len}, entry;
    for (unsigned i = 0; i < t->width && !rc; i++) {
        struct st_merkle_hash leaf;
        uint64_t index = g->range.size;
        rc = rest.len ? st_entry_next(&rest, &entry, &leaf, e) : st_fail(e, ST_INPUT, "it has too few entries");
        if (rc)
            return st_err_prefix(e, "%s", st_tile_path(t, path));
        rc = st_merkle_append(&g->range, &leaf, &sink, e);
        if (!rc)
            rc = look_at_entry(g, index, entry, e);
        compare_before(g);
    }
    if (!rc && rest.len)
        find(g, "%s: bytes behind its last entry", st_tile_path(t, path));
    return rc;
}

static int read_tree(struct reading *g, struct st_err *e)
{
    const struct st_checkpoint *c = &g->r->checkpoint.checkpoint;
    int rc = 0;
    compare_before(g);
    for (uint64_t i = 0; g->range.size < c->size && !rc; i++) {
        const struct st_tile t = st_tile_at(ST_TILE_ENTRIES, i, c->size);
        rc = read_bundle(g, &t, e);
    }
    for (int level = 0; level < LEVELS && !rc; level++)
        if (g->tail[level].len)
            rc = compare_tile(g, level, c->size >> 8 * level >> 8, e);
    if (rc)
        return rc;
    struct st_merkle_hash root = st_merkle_root(&g->range);
    if (memcmp(root.b, c->root.b, ST_MERKLE_HASH) != 0)
        find(g, "the entries do not give the signed root");
    if (c->size > 0 && !g->last_is_directory)
        find(g, "entry %" PRIu64 ": the last one is no directory", c->size - 1);
    return 0;
}

static int open_before(struct reading *g, struct st_err *e)
{
    if (g->o->before.len == 0)
        return 0;
    if (st_checkpoint_open(g->o->before.p, g->o->before.len, g->o->keys, INT64_MAX, &g->before, e))
        return st_err_prefix(e, "the checkpoint seen before");
    if (g->before.checkpoint.size > g->r->checkpoint.checkpoint.size)
        find(g, "rollback: %" PRIu64 " entries, there were %" PRIu64, g->r->checkpoint.checkpoint.size,
             g->before.checkpoint.size);
    return 0;
}

int st_log_monitor(const struct st_log_monitor_opts *o, struct st_log_monitor_result *out, struct st_err *e)
{
    struct reading g = {.o = o, .r = out};
    *out = (struct st_log_monitor_result){0};
    int rc = st_checkpoint_open(o->note.p, o->note.len, o->keys, o->now, &out->checkpoint, e);
    if (!rc)
        rc = st_alloc(&g.directory, 1, sizeof *g.directory, "monitor", e);
    if (!rc)
        rc = st_alloc(&g.kept, KEPT_KEYS, sizeof *g.kept, "monitor", e);
    if (!rc)
        rc = open_before(&g, e);
    if (!rc)
        rc = read_tree(&g, e);
    for (int level = 0; level < LEVELS; level++)
        st_buf_free(&g.tail[level]);
    st_buf_free(&g.bundle);
    st_buf_free(&g.tile);
    free(g.directory);
    free(g.kept);
    return rc;
}
