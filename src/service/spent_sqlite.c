/* Spent tokens in an SQLite file (service/database.h): one fsync per batch. */
#include "service/database.h"
#include "service/spent.h"

#include <stdlib.h>

/* The day comes first: new rows lie together, and so do those of a day that is gone. */
static const struct st_db_opts form = {
    .what = "a database of spent tokens",
    .id = 0x53545350, /* "STSP" */
    .version = 1,
    .schema =
        "CREATE TABLE spent (day INTEGER NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (day, digest)) WITHOUT ROWID",
};

struct file {
    struct st_db *db;
    bool begun; /* a transaction */
};

static void sqlite_close(void *db)
{
    struct file *f = db;
    st_db_close(f->db);
    free(f);
}

static int sqlite_open(const struct st_spent_opts *o, void **db, struct st_err *e)
{
    struct file *f = NULL;
    if (st_alloc(&f, 1, sizeof *f, "spent tokens", e))
        return e->code;
    if (st_db_open(o->where, &form, &f->db, e) ||
        (o->relaxed && st_db_run(f->db, "PRAGMA synchronous = NORMAL", ST_DB_NO_ARGS, NULL, e))) {
        sqlite_close(f);
        return e->code;
    }
    *db = f;
    return 0;
}

static int take_row(struct st_db *d, struct st_spent_row *r, struct st_err *e)
{
    int64_t changed = 0;
    int rc = st_db_run(d, "INSERT OR IGNORE INTO spent (day, digest) VALUES (?, ?)",
                       ST_DB_ARGS(ST_DB_INT(r->day), ST_DB_BYTES(r->digest, sizeof r->digest)), &changed, e);
    r->fresh = !rc && changed == 1;
    return rc;
}

static int sqlite_commit(void *db, struct st_err *e)
{
    struct file *f = db;
    f->begun = false;
    return st_db_end(f->db, 0, e);
}

/* What is known of the rows of a failed transaction ends with it. */
static int undo(struct file *f, int rc, struct st_err *e)
{
    f->begun = false;
    return st_db_end(f->db, rc, e);
}

static int sqlite_take(void *db, struct st_spent_row *rows, size_t n, struct st_err *e)
{
    struct file *f = db;
    int rc = f->begun ? 0 : st_db_begin(f->db, e);
    if (rc)
        return rc;
    f->begun = true;
    for (size_t i = 0; !rc && i < n; i++)
        rc = take_row(f->db, &rows[i], e);
    return rc ? undo(f, rc, e) : 0;
}

static int sqlite_try_take(void *db, struct st_spent_row *row, bool *taken, struct st_err *e)
{
    struct file *f = db;
    *taken = false;
    if (!f->begun && st_db_try_begin(f->db, &f->begun, e))
        return e->code;
    if (!f->begun)
        return 0;
    int rc = take_row(f->db, row, e);
    *taken = !rc;
    return rc ? undo(f, rc, e) : 0;
}

static int sqlite_forget(void *db, uint32_t before, bool *more, struct st_err *e)
{
    struct file *f = db;
    int64_t changed = 0;
    int rc = st_db_run(
        f->db, "DELETE FROM spent WHERE (day, digest) IN (SELECT day, digest FROM spent WHERE day < ? LIMIT 1000)",
        ST_DB_ARGS(ST_DB_INT(before)), &changed, e);
    *more = changed > 0;
    return rc;
}

const struct st_spent_kind st_spent_sqlite = {.open = sqlite_open,
                                              .gathers = true,
                                              .take = sqlite_take,
                                              .try_take = sqlite_try_take,
                                              .commit = sqlite_commit,
                                              .forget = sqlite_forget,
                                              .close = sqlite_close};
