#include "service/log_view.h"
#include "base/file.h"
#include "service/log_reply.h"

#include <stdio.h>
#include <string.h>

#define MAX_FILE ((size_t)ST_TILE_WIDTH * (2 + ST_TILE_MAX_ENTRY))

int st_log_view_entry(const char *dir, uint64_t index, uint64_t size, struct st_buf *out, struct st_err *e)
{
    char name[ST_TILE_MAX_PATH], path[ST_PATH_MAX];
    struct st_buf file = {0};
    struct st_tile t = st_tile_at(ST_TILE_ENTRIES, index / ST_TILE_WIDTH, size);
    const struct st_tile full = {t.level, t.index, ST_TILE_WIDTH};
    int rc = st_path_join(path, sizeof path, dir, st_tile_path(&t, name), e);
    if (!rc && !st_path_exists(path)) /* a partial one is gone once the full one is there */
        rc = st_path_join(path, sizeof path, dir, st_tile_path(&full, name), e);
    if (!rc)
        rc = st_file_read(path, MAX_FILE, &file, e);
    struct st_span rest = {(const uint8_t *)file.p, file.len}, entry = {0};
    for (uint64_t i = 0; i <= index % ST_TILE_WIDTH && !rc; i++)
        rc = rest.len ? st_entry_next(&rest, &entry, NULL, e)
                      : st_fail(e, ST_INPUT, "%s: it has no entry %d", path, (int)i);
    if (!rc)
        st_buf_add(out, entry.p, entry.len);
    st_buf_free(&file);
    return rc ? rc : out->failed ? st_fail(e, ST_MEMORY, "%s: out of memory", path) : 0;
}

int st_log_view_load(struct st_log_view *v, struct st_log_store *s, struct st_err *e)
{
    char path[ST_PATH_MAX];
    struct st_witnessed w;
    struct st_buf note = {0}, entry = {0};
    if (st_path_join(path, sizeof path, v->dir, "checkpoint", e))
        return e->code;
    if (!st_path_exists(path))
        return 0;
    int rc = st_file_read(path, ST_NOTE_MAX_BYTES, &note, e);
    if (!rc && st_checkpoint_open(note.p, note.len, &v->keys, INT64_MAX, &w, e))
        rc = st_err_prefix(e, "%s", path);
    if (!rc && w.checkpoint.size > st_log_store_size(s))
        rc = st_fail(e, ST_VERIFY, "%s: it is of a larger tree than was signed last", path);
    /* Within one process a size names one tree: the entry is read once. */
    bool known = !rc && v->entry.len && v->size == w.checkpoint.size;
    if (!rc && !known && w.checkpoint.size > 0)
        rc = st_log_view_entry(v->dir, w.checkpoint.size - 1, w.checkpoint.size, &entry, e);
    if (rc) {
        st_buf_free(&note);
        st_buf_free(&entry);
        return rc;
    }
    st_buf_free(&v->note);
    v->note = note;
    if (!known) {
        st_buf_free(&v->entry);
        v->entry = entry;
    }
    v->size = w.checkpoint.size;
    return 0;
}

int st_log_view_open(struct st_log_view *v, const char *dir, const char *origin, const struct st_ed25519 *key,
                     struct st_log_store *s, struct st_err *e)
{
    uint8_t public[ST_ED25519_PUBLIC];
    *v = (struct st_log_view){.dir = dir};
    st_ed25519_public(key, public);
    if (st_note_key_make(origin, ST_NOTE_ED25519, public, &v->keys.log, e))
        return e->code;
    memcpy(v->keys.origin, v->keys.log.name, sizeof v->keys.origin);
    return st_log_view_load(v, s, e);
}

void st_log_view_wipe(struct st_log_view *v)
{
    st_buf_free(&v->note);
    st_buf_free(&v->entry);
}

int st_log_view_answer(struct st_log_view *v, struct st_log_store *s, uint64_t from, struct st_buf *out,
                       struct st_err *e)
{
    struct st_merkle_source source = st_log_store_source(s);
    struct st_log_reply r = {.note = v->note, .index = v->size - 1, .entry = v->entry}; /* borrows */
    if ((from <= v->size && st_merkle_prove_consistency(&source, from, v->size, &r.consistency, e)) ||
        st_merkle_prove_inclusion(&source, r.index, v->size, &r.inclusion, e))
        return e->code;
    st_log_reply_write(&r, out);
    return out->failed ? st_fail(e, ST_MEMORY, "log: out of memory") : 0;
}

/* Only what the tree shown has: files behind it may still be written over after a crash. */
int st_log_view_tile(const struct st_log_view *v, const char *path, struct st_buf *out, struct st_err *e)
{
    char file[ST_PATH_MAX];
    struct st_tile t;
    if (st_tile_parse(path, strlen(path), &t, e))
        return e->code;
    uint64_t nodes = t.level > 0 ? v->size >> 8 * t.level : v->size;
    if (t.index > nodes / ST_TILE_WIDTH || t.index * ST_TILE_WIDTH + t.width > nodes)
        return st_fail(e, ST_INPUT, "%s: the tree has no such tile", path);
    int rc = st_path_join(file, sizeof file, v->dir, path, e);
    return rc ? rc : st_file_read(file, MAX_FILE, out, e);
}
