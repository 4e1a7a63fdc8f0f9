/* Spent tokens in an SQLite file (service/database.h): one fsync per batch. */
#include "service/database.h"
#include "service/spent.h"

/* The day comes first: new rows lie together, and so do those of a day that is gone. */
static const struct st_db_opts form = {
    .what = "a database of spent tokens",
    .id = 0x53545350, /* "STSP" */
    .version = 1,
    .schema =
        "CREATE TABLE spent (day INTEGER NOT NULL, digest BLOB NOT NULL, PRIMARY KEY (day, digest)) WITHOUT ROWID",
};

static int sqlite_open(const struct st_spent_opts *o, void **db, struct st_err *e)
{
    struct st_db *d;
    int rc = st_db_open(o->where, &form, &d, e);
    if (rc)
        return rc;
    if (o->relaxed && st_db_run(d, "PRAGMA synchronous = NORMAL", ST_DB_NO_ARGS, NULL, e)) {
        st_db_close(d);
        return e->code;
    }
    *db = d;
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

static int sqlite_take(void *db, struct st_spent_row *rows, size_t n, struct st_err *e)
{
    int rc = st_db_begin(db, e);
    if (rc)
        return rc;
    for (size_t i = 0; !rc && i < n; i++)
        rc = take_row(db, &rows[i], e);
    return rc ? st_db_end(db, rc, e) : 0;
}

static int sqlite_commit(void *db, struct st_err *e)
{
    return st_db_end(db, 0, e);
}

static int sqlite_forget(void *db, uint32_t before, bool *more, struct st_err *e)
{
    int64_t changed = 0;
    int rc = st_db_run(
        db, "DELETE FROM spent WHERE (day, digest) IN (SELECT day, digest FROM spent WHERE day < ? LIMIT 1000)",
        ST_DB_ARGS(ST_DB_INT(before)), &changed, e);
    *more = changed > 0;
    return rc;
}

static void sqlite_close(void *db)
{
    st_db_close(db);
}

const struct st_spent_kind st_spent_sqlite = {
    .open = sqlite_open, .take = sqlite_take, .commit = sqlite_commit, .forget = sqlite_forget, .close = sqlite_close};
