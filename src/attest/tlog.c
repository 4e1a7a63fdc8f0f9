#include "attest/tlog.h"

#include <inttypes.h>
#include <string.h>

int st_tlog_init(struct st_tlog *t, const struct st_tlog_keys *keys, struct st_err *e)
{
    *t = (struct st_tlog){.keys = *keys};
    return st_tlog_keys_check(keys, e);
}

void st_tlog_wipe(struct st_tlog *t)
{
    st_buf_free(&t->note);
    *t = (struct st_tlog){0};
}

/* Opens a copy of the note, so that what is remembered points into memory of its own. */
static int open_copy(const struct st_tlog *t, const void *p, size_t len, int64_t now, struct st_buf *note,
                     struct st_witnessed *w, struct st_err *e)
{
    st_buf_add(note, p, len);
    if (note->failed)
        return st_fail(e, ST_MEMORY, "log %s: out of memory", t->keys.origin);
    int rc = st_checkpoint_open(note->p, note->len, &t->keys, now, w, e);
    return rc ? st_err_prefix(e, "log %s", t->keys.origin) : 0;
}

static void remember(struct st_tlog *t, struct st_buf *note, const struct st_witnessed *w)
{
    st_buf_free(&t->note);
    t->note = *note;
    t->last = *w;
    *note = (struct st_buf){0};
}

int st_tlog_restore(struct st_tlog *t, const void *p, size_t len, struct st_err *e)
{
    struct st_buf note = {0};
    struct st_witnessed w;
    int rc = open_copy(t, p, len, INT64_MAX, &note, &w, e);
    if (!rc)
        remember(t, &note, &w);
    st_buf_free(&note);
    return rc;
}

/* Whether the new tree begins with the remembered one. */
static int check_growth(const struct st_tlog *t, const struct st_checkpoint *c, const struct st_merkle_proof *proof,
                        struct st_err *e)
{
    const struct st_checkpoint *old = &t->last.checkpoint;
    struct st_err why;
    if (c->size < old->size)
        return st_fail(e, ST_VERIFY, "log %s: rollback: size %" PRIu64 ", it was %" PRIu64, t->keys.origin, c->size,
                       old->size);
    if (c->size == old->size && memcmp(c->root.b, old->root.b, ST_MERKLE_HASH) != 0)
        return st_fail(e, ST_VERIFY, "log %s: fork: another tree of size %" PRIu64, t->keys.origin, c->size);
    if (st_merkle_verify_consistency(old->size, &old->root, c->size, &c->root, proof, &why) != 0)
        return st_fail(e, ST_VERIFY, "log %s: fork, or a wrong proof: %s", t->keys.origin, why.msg);
    return 0;
}

int st_tlog_update(struct st_tlog *t, const void *p, size_t len, const struct st_merkle_proof *proof, int64_t now,
                   struct st_err *e)
{
    struct st_buf note = {0};
    struct st_witnessed w;
    int rc = open_copy(t, p, len, now, &note, &w, e);
    if (!rc && t->note.len > 0)
        rc = check_growth(t, &w.checkpoint, proof, e);
    if (!rc && (t->note.len == 0 || w.checkpoint.size > t->last.checkpoint.size || w.time > t->last.time))
        remember(t, &note, &w);
    st_buf_free(&note);
    return rc;
}

int st_tlog_includes(const struct st_tlog *t, struct st_span entry, uint64_t index, const struct st_merkle_proof *proof,
                     struct st_err *e)
{
    if (t->note.len == 0)
        return st_fail(e, ST_VERIFY, "log %s: no checkpoint is known", t->keys.origin);
    struct st_merkle_hash leaf = st_merkle_leaf(entry.p, entry.len);
    int rc = st_merkle_verify_inclusion(&leaf, index, t->last.checkpoint.size, &t->last.checkpoint.root, proof, e);
    return rc ? st_err_prefix(e, "log %s", t->keys.origin) : 0;
}
