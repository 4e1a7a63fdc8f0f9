#include "service/log_store.h"
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LEVELS (ST_TILE_MAX_LEVEL + 1)
#define TILE_BYTES ((size_t)ST_TILE_WIDTH * ST_MERKLE_HASH)
#define BUNDLE_BYTES ((size_t)ST_TILE_WIDTH * (2 + ST_TILE_MAX_ENTRY))

struct st_log_store {
    char dir[ST_PATH_MAX - 128]; /* room for the paths of tiles and temporary names */
    struct st_tlog_keys keys;    /* of the log alone */
    const struct st_ed25519 *key;
    int lock;
    struct st_merkle_range range; /* with what is not committed yet */
    struct st_buf tail[LEVELS];   /* hashes of the partial tile at the right edge */
    bool dirty[LEVELS];           /* tail has hashes that no file has */
    struct st_buf bundle;         /* entries of tail[0] */
    struct st_buf note;           /* `signed` */
    uint64_t size;                /* its tree's */
    bool broken;
    struct st_tile_reader reader;
    struct st_buf tile; /* last read */
};

static void path_in(const struct st_log_store *s, const char *name, char out[ST_PATH_MAX])
{
    snprintf(out, ST_PATH_MAX, "%s/%s", s->dir, name);
}

/* Writes one file below the log's directory, with the directories on the way; on disk when it returns. */
static int put(const struct st_log_store *s, const char *name, const void *p, size_t len, bool replace,
               struct st_err *e)
{
    char path[ST_PATH_MAX];
    path_in(s, name, path);
    int rc = 0;
    for (char *slash = path + strlen(s->dir); !rc && (slash = strchr(slash + 1, '/')) != NULL; *slash = '/') {
        *slash = 0;
        if (mkdir(path, 0755) == 0) {
            char *up = strrchr(path, '/');
            *up = 0;
            rc = st_dir_sync(path, e);
            *up = '/';
        } else if (errno != EEXIST) {
            rc = st_fail(e, ST_IO, "%s: cannot create: %s", path, strerror(errno));
        }
    }
    if (!rc)
        rc = st_file_write(path, p, len, 0644, replace, e);
    if (rc)
        return rc;
    *strrchr(path, '/') = 0;
    return st_dir_sync(path, e);
}

static int put_tile(const struct st_log_store *s, int level, uint64_t index, unsigned width, const struct st_buf *b,
                    struct st_err *e)
{
    char name[ST_TILE_MAX_PATH];
    struct st_tile t = {level, index, width};
    return put(s, st_tile_path(&t, name), b->p, b->len, true, e);
}

/* A tile or bundle; a partial one may be gone once the full one is there, whose beginning it is. */
static int get_tile(const struct st_log_store *s, const struct st_tile *t, struct st_buf *out, struct st_err *e)
{
    char name[ST_TILE_MAX_PATH], path[ST_PATH_MAX];
    struct st_tile full = {t->level, t->index, ST_TILE_WIDTH};
    path_in(s, st_tile_path(t, name), path);
    if (!st_path_exists(path))
        path_in(s, st_tile_path(&full, name), path);
    int rc = st_file_read(path, t->level == ST_TILE_ENTRIES ? BUNDLE_BYTES : TILE_BYTES, out, e);
    if (rc)
        return rc;
    size_t want = (size_t)t->width * ST_MERKLE_HASH;
    if (t->level == ST_TILE_ENTRIES) {
        struct st_span rest = {(const uint8_t *)out->p, out->len}, entry;
        for (unsigned i = 0; i < t->width && !rc; i++)
            rc = st_entry_next(&rest, &entry, NULL, e);
        if (rc)
            return st_err_prefix(e, "%s", path);
        want = out->len - rest.len;
    }
    if (out->len < want)
        return st_fail(e, ST_VERIFY, "%s: want %zu bytes, got %zu", path, want, out->len);
    out->len = want;
    return 0;
}

static int read_tile(void *ctx, const struct st_tile *t, struct st_span *bytes, struct st_err *e)
{
    struct st_log_store *s = ctx;
    int rc = get_tile(s, t, &s->tile, e);
    *bytes = (struct st_span){(const uint8_t *)s->tile.p, s->tile.len};
    return rc;
}

struct st_merkle_source st_log_store_source(struct st_log_store *s)
{
    s->reader = (struct st_tile_reader){read_tile, s, s->size};
    return st_tile_source(&s->reader);
}

/* Signs the tree of `range` into note, and puts it into `signed`. */
static int sign(const struct st_log_store *s, const struct st_merkle_range *range, bool replace, struct st_buf *note,
                struct st_err *e)
{
    struct st_checkpoint c = {.size = range->size, .root = st_merkle_root(range)};
    struct st_buf text = {0};
    memcpy(c.origin, s->keys.origin, sizeof c.origin);
    int rc = st_checkpoint_write(&c, &text, e);
    struct st_span t = {(const uint8_t *)text.p, text.len};
    if (!rc)
        rc = st_note_begin(t, note, e);
    if (!rc)
        rc = st_note_sign(t, s->keys.origin, s->key, note, e);
    if (!rc)
        rc = put(s, "signed", note->p, note->len, replace, e);
    st_buf_free(&text);
    return rc;
}

static int setup(struct st_log_store *s, const char *dir, const char *origin, const struct st_ed25519 *key,
                 struct st_err *e)
{
    uint8_t public[ST_ED25519_PUBLIC];
    *s = (struct st_log_store){.key = key, .lock = -1};
    if ((size_t)snprintf(s->dir, sizeof s->dir, "%s", dir) >= sizeof s->dir)
        return st_fail(e, ST_USAGE, "%s: path too long", dir);
    st_ed25519_public(key, public);
    int rc = st_note_key_make(origin, ST_NOTE_ED25519, public, &s->keys.log, e);
    if (!rc)
        memcpy(s->keys.origin, s->keys.log.name, sizeof s->keys.origin);
    return rc;
}

int st_log_store_create(const char *dir, const char *origin, const struct st_ed25519 *key, struct st_err *e)
{
    static const struct st_merkle_range empty;
    struct st_log_store s;
    struct st_buf note = {0};
    int rc = setup(&s, dir, origin, key, e);
    if (rc)
        return rc;
    if (mkdir(dir, 0755) != 0 && errno != EEXIST)
        return st_fail(e, ST_IO, "%s: cannot create: %s", dir, strerror(errno));
    rc = sign(&s, &empty, false, &note, e);
    st_buf_free(&note);
    return rc;
}

/* The right edge of the tree of `signed`, which has to give its root. */
static int load(struct st_log_store *s, struct st_err *e)
{
    char path[ST_PATH_MAX];
    struct st_witnessed w;
    path_in(s, "signed", path);
    int rc = st_file_read(path, ST_NOTE_MAX_BYTES, &s->note, e);
    if (rc)
        return rc;
    rc = st_checkpoint_open(s->note.p, s->note.len, &s->keys, INT64_MAX, &w, e);
    if (rc)
        return st_err_prefix(e, "%s", path);
    s->size = w.checkpoint.size;
    struct st_merkle_source source = st_log_store_source(s);
    rc = st_merkle_load(&source, s->size, &s->range, e);
    if (rc)
        return rc;
    struct st_merkle_hash root = st_merkle_root(&s->range);
    if (memcmp(root.b, w.checkpoint.root.b, ST_MERKLE_HASH) != 0)
        return st_fail(e, ST_VERIFY, "%s: the tiles do not give the signed root", s->dir);
    for (int level = 0; level < LEVELS && !rc; level++) {
        struct st_tile t = st_tile_at(level, s->size >> 8 * level >> 8, s->size);
        if (t.width > 0)
            rc = get_tile(s, &t, &s->tail[level], e);
    }
    struct st_tile entries = st_tile_at(ST_TILE_ENTRIES, s->size / ST_TILE_WIDTH, s->size);
    if (rc || entries.width == 0)
        return rc;
    rc = get_tile(s, &entries, &s->bundle, e);
    if (!rc)
        rc = st_entries_verify((struct st_span){(const uint8_t *)s->bundle.p, s->bundle.len},
                               (struct st_span){(const uint8_t *)s->tail[0].p, s->tail[0].len}, e);
    return rc;
}

int st_log_store_open(const char *dir, const char *origin, const struct st_ed25519 *key, struct st_log_store **out,
                      struct st_err *e)
{
    char path[ST_PATH_MAX];
    struct st_log_store *s = malloc(sizeof *s);
    *out = NULL;
    if (!s)
        return st_fail(e, ST_MEMORY, "%s: out of memory", dir);
    int rc = setup(s, dir, origin, key, e);
    if (rc)
        goto out;
    path_in(s, "lock", path);
    s->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    if (s->lock < 0)
        rc = st_fail(e, ST_IO, "%s: cannot open: %s", path, strerror(errno));
    else if (flock(s->lock, LOCK_EX | LOCK_NB) != 0)
        rc = st_fail(e, ST_IO, "%s: another process has this log open", dir);
    else
        rc = load(s, e);
out:
    if (rc)
        st_log_store_close(s);
    else
        *out = s;
    return rc;
}

void st_log_store_close(struct st_log_store *s)
{
    if (!s)
        return;
    for (int level = 0; level < LEVELS; level++)
        st_buf_free(&s->tail[level]);
    st_buf_free(&s->bundle);
    st_buf_free(&s->note);
    st_buf_free(&s->tile);
    if (s->lock >= 0)
        close(s->lock); /* gives the lock back */
    free(s);
}

/* Collects the hashes of tiles; a full one goes to disk at once. */
static int collect(void *ctx, unsigned level, uint64_t index, const struct st_merkle_hash *h, struct st_err *e)
{
    struct st_log_store *s = ctx;
    if (level % 8)
        return 0;
    struct st_buf *tail = &s->tail[level / 8];
    st_buf_add(tail, h->b, ST_MERKLE_HASH);
    if (tail->failed)
        return st_fail(e, ST_MEMORY, "%s: out of memory", s->dir);
    s->dirty[level / 8] = true;
    if (tail->len < TILE_BYTES)
        return 0;
    int rc = put_tile(s, (int)(level / 8), index / ST_TILE_WIDTH, ST_TILE_WIDTH, tail, e);
    if (!rc && level == 0)
        rc = put_tile(s, ST_TILE_ENTRIES, index / ST_TILE_WIDTH, ST_TILE_WIDTH, &s->bundle, e);
    if (rc)
        return rc;
    s->dirty[level / 8] = false;
    st_buf_clear(tail);
    if (level == 0)
        st_buf_clear(&s->bundle);
    return 0;
}

static int check_usable(const struct st_log_store *s, struct st_err *e)
{
    return s->broken ? st_fail(e, ST_IO, "%s: it failed before; open it again", s->dir) : 0;
}

int st_log_store_append(struct st_log_store *s, const void *p, size_t len, uint64_t *index, struct st_err *e)
{
    int rc = check_usable(s, e);
    if (!rc && len > ST_TILE_MAX_ENTRY)
        rc = st_fail(e, ST_INPUT, "%s: want an entry of at most %d bytes, got %zu", s->dir, ST_TILE_MAX_ENTRY, len);
    if (rc)
        return rc;
    struct st_merkle_hash leaf = st_merkle_leaf(p, len);
    struct st_merkle_sink sink = {collect, s};
    *index = s->range.size;
    rc = st_entry_add(p, len, &s->bundle, e);
    if (!rc)
        rc = st_merkle_append(&s->range, &leaf, &sink, e);
    s->broken = rc != 0;
    return rc;
}

/* Partial files of tiles that have become full between two sizes. What cannot be removed does no harm. */
static void drop_partials(const struct st_log_store *s, int level, uint64_t from, uint64_t to)
{
    char name[ST_TILE_MAX_PATH], path[ST_PATH_MAX];
    unsigned shift = level == ST_TILE_ENTRIES ? 8 : 8 * (unsigned)level + 8;
    for (uint64_t i = from >> shift; i < to >> shift; i++) {
        struct st_tile t = {level, i, ST_TILE_WIDTH - 1};
        path_in(s, st_tile_path(&t, name), path);
        *strrchr(path, '/') = 0;
        if (!st_path_is_dir(path))
            continue;
        for (t.width = 1; t.width < ST_TILE_WIDTH; t.width++) {
            char file[ST_PATH_MAX];
            path_in(s, st_tile_path(&t, name), file);
            unlink(file);
        }
        rmdir(path);
    }
}

static int commit(struct st_log_store *s, struct st_buf *note, struct st_err *e)
{
    int rc = 0;
    if (s->dirty[0])
        rc = put_tile(s, ST_TILE_ENTRIES, s->range.size / ST_TILE_WIDTH, (unsigned)(s->tail[0].len / ST_MERKLE_HASH),
                      &s->bundle, e);
    for (int level = 0; level < LEVELS && !rc; level++)
        if (s->dirty[level]) {
            rc = put_tile(s, level, s->range.size >> 8 * level >> 8, (unsigned)(s->tail[level].len / ST_MERKLE_HASH),
                          &s->tail[level], e);
            s->dirty[level] = false;
        }
    return rc ? rc : sign(s, &s->range, true, note, e);
}

int st_log_store_commit(struct st_log_store *s, struct st_err *e)
{
    struct st_buf note = {0};
    int rc = check_usable(s, e);
    if (rc || s->range.size == s->size)
        return rc;
    rc = commit(s, &note, e);
    if (rc) {
        s->broken = true;
        st_buf_free(&note);
        return rc;
    }
    st_buf_free(&s->note);
    s->note = note;
    for (int level = ST_TILE_ENTRIES; level < ST_TILE_MAX_LEVEL; level++) /* the highest has no full tile */
        drop_partials(s, level, s->size, s->range.size);
    s->size = s->reader.size = s->range.size;
    return 0;
}

struct st_span st_log_store_signed(const struct st_log_store *s)
{
    return (struct st_span){(const uint8_t *)s->note.p, s->note.len};
}

uint64_t st_log_store_size(const struct st_log_store *s)
{
    return s->size;
}

int st_log_store_publish(struct st_log_store *s, const void *p, size_t len, struct st_err *e)
{
    struct st_note n, own;
    int rc = st_note_parse(s->note.p, s->note.len, &own, e);
    if (rc)
        return rc;
    rc = st_note_parse(p, len, &n, e);
    if (!rc) {
        rc = st_note_verify(&n, &s->keys.log, e);
        if (!rc && (n.text.len != own.text.len || memcmp(n.text.p, own.text.p, n.text.len) != 0))
            rc = st_fail(e, ST_VERIFY, "%s: the note is not of the tree signed last", s->dir);
        if (!rc)
            rc = put(s, "checkpoint", p, len, true, e);
        st_note_wipe(&n);
    }
    st_note_wipe(&own);
    return rc;
}
