#include "service/database.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_STMT 48
#define BUSY_MS 10000

struct st_db {
    sqlite3 *db;
    char *path;
    int busy_ms; /* how long another process's transaction is waited for */
    struct {
        const char *sql;
        sqlite3_stmt *s;
    } stmt[MAX_STMT];
    size_t n_stmt;
};

/* SQLite's message can hold values of rows: its code's text cannot. */
static int failed(const struct st_db *d, int code, struct st_err *e)
{
    if ((code & 0xff) == SQLITE_BUSY || (code & 0xff) == SQLITE_LOCKED)
        return st_fail(e, ST_IO, "%s: in use by another process", d->path);
    if ((code & 0xff) == SQLITE_NOTADB || (code & 0xff) == SQLITE_CORRUPT)
        return st_fail(e, ST_INPUT, "%s: not a whole SQLite file", d->path);
    if ((code & 0xff) == SQLITE_NOMEM)
        return st_fail(e, ST_MEMORY, "%s: out of memory", d->path);
    return st_fail(e, ST_IO, "%s: %s", d->path, sqlite3_errstr(code));
}

/* ---- statements ---- */

static int find(struct st_db *d, const char *sql, sqlite3_stmt **out, struct st_err *e)
{
    for (size_t i = 0; i < d->n_stmt; i++)
        if (d->stmt[i].sql == sql) {
            *out = d->stmt[i].s;
            return 0;
        }
    *out = NULL;
    if (d->n_stmt == MAX_STMT)
        return st_fail(e, ST_INTERNAL, "%s: more than %d statements", d->path, MAX_STMT);
    int code = sqlite3_prepare_v3(d->db, sql, -1, SQLITE_PREPARE_PERSISTENT, out, NULL);
    if (code != SQLITE_OK)
        return failed(d, code, e);
    d->stmt[d->n_stmt].sql = sql;
    d->stmt[d->n_stmt++].s = *out;
    return 0;
}

static int bind(sqlite3_stmt *s, int at, const struct st_db_value *v)
{
    if (v->text)
        return sqlite3_bind_text(s, at, (const char *)v->s.p, (int)v->s.len, SQLITE_STATIC);
    if (v->bytes) /* a blob of no bytes is not NULL */
        return sqlite3_bind_blob(s, at, v->s.len ? v->s.p : (const uint8_t *)"", (int)v->s.len, SQLITE_STATIC);
    return sqlite3_bind_int64(s, at, v->i);
}

int st_db_start(struct st_db *d, const char *sql, const struct st_db_value *in, size_t n_in, sqlite3_stmt **out,
                struct st_err *e)
{
    if (find(d, sql, out, e))
        return e->code;
    int code = SQLITE_OK;
    for (size_t i = 0; code == SQLITE_OK && i < n_in; i++)
        code = bind(*out, (int)i + 1, &in[i]);
    if (code == SQLITE_OK)
        return 0;
    st_db_done(*out);
    *out = NULL;
    return failed(d, code, e);
}

int st_db_next(struct st_db *d, sqlite3_stmt *s, bool *row, struct st_err *e)
{
    int code = sqlite3_step(s);
    *row = code == SQLITE_ROW;
    return *row || code == SQLITE_DONE ? 0 : failed(d, code, e);
}

void st_db_done(sqlite3_stmt *s)
{
    sqlite3_reset(s);
    sqlite3_clear_bindings(s);
}

struct st_span st_db_bytes(sqlite3_stmt *s, int column)
{
    const uint8_t *p = sqlite3_column_blob(s, column);
    return (struct st_span){p, p ? (size_t)sqlite3_column_bytes(s, column) : 0};
}

int st_db_run(struct st_db *d, const char *sql, const struct st_db_value *in, size_t n_in, int64_t *changed,
              struct st_err *e)
{
    sqlite3_stmt *s;
    bool row;
    if (st_db_start(d, sql, in, n_in, &s, e))
        return e->code;
    int rc = st_db_next(d, s, &row, e);
    if (changed)
        *changed = rc ? 0 : sqlite3_changes64(d->db);
    st_db_done(s);
    return rc;
}

int st_db_number(struct st_db *d, const char *sql, const struct st_db_value *in, size_t n_in, int64_t *out, bool *found,
                 struct st_err *e)
{
    sqlite3_stmt *s;
    *out = 0;
    *found = false;
    if (st_db_start(d, sql, in, n_in, &s, e))
        return e->code;
    int rc = st_db_next(d, s, found, e);
    if (!rc && *found)
        *out = sqlite3_column_int64(s, 0);
    st_db_done(s);
    return rc;
}

static const char begin_sql[] = "BEGIN IMMEDIATE";

int st_db_begin(struct st_db *d, struct st_err *e)
{
    return st_db_run(d, begin_sql, ST_DB_NO_ARGS, NULL, e);
}

int st_db_try_begin(struct st_db *d, bool *begun, struct st_err *e)
{
    sqlite3_stmt *s;
    *begun = false;
    if (find(d, begin_sql, &s, e))
        return e->code;
    sqlite3_busy_timeout(d->db, 0);
    int code = sqlite3_step(s);
    st_db_done(s);
    sqlite3_busy_timeout(d->db, d->busy_ms);
    *begun = code == SQLITE_DONE;
    return *begun || (code & 0xff) == SQLITE_BUSY ? 0 : failed(d, code, e);
}

int st_db_end(struct st_db *d, int rc, struct st_err *e)
{
    struct st_err other;
    if (!rc)
        rc = st_db_run(d, "COMMIT", ST_DB_NO_ARGS, NULL, e);
    if (rc && !sqlite3_get_autocommit(d->db) && st_db_run(d, "ROLLBACK", ST_DB_NO_ARGS, NULL, &other))
        return st_fail(e, ST_IO, "%s", other.msg);
    return rc;
}

int st_db_wait(struct st_db *d, bool wait, struct st_err *e)
{
    return st_db_run(d, wait ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL", ST_DB_NO_ARGS, NULL, e);
}

int st_db_scrub(struct st_db *d, struct st_err *e)
{
    int code = sqlite3_wal_checkpoint_v2(d->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);
    return code == SQLITE_OK ? 0 : failed(d, code, e);
}

/* ---- opening ---- */

/* The file is made here, so that it is never readable by others, and neither are SQLite's own files beside it, which
 * take its mode. */
static int prepare_file(const char *path, const char *what, struct st_err *e)
{
    struct stat sb;
    if (strcmp(path, ":memory:") == 0)
        return 0;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || fstat(fd, &sb) != 0) {
        int rc = st_fail(e, ST_IO, "%s: cannot open %s: %s", path, what, strerror(errno));
        if (fd >= 0)
            close(fd);
        return rc;
    }
    close(fd);
    if (!S_ISREG(sb.st_mode))
        return st_fail(e, ST_IO, "%s: want a file for %s", path, what);
    if (sb.st_mode & 077)
        return st_fail(e, ST_POLICY, "%s: readable by others; want mode 0600", path);
    return 0;
}

static int set_up(struct st_db *d, bool exclusive, struct st_err *e)
{
    static const char settings[] = "PRAGMA trusted_schema=OFF; PRAGMA secure_delete=ON; PRAGMA foreign_keys=ON;"
                                   "PRAGMA cell_size_check=ON; PRAGMA temp_store=MEMORY; PRAGMA journal_mode=WAL;"
                                   "PRAGMA synchronous=FULL;";
    int code = sqlite3_extended_result_codes(d->db, 1);
    d->busy_ms = exclusive ? 0 : BUSY_MS;
    sqlite3_busy_timeout(d->db, d->busy_ms);
    if (code == SQLITE_OK && exclusive)
        code = sqlite3_exec(d->db, "PRAGMA locking_mode=EXCLUSIVE", NULL, NULL, NULL);
    if (code == SQLITE_OK)
        code = sqlite3_exec(d->db, settings, NULL, NULL, NULL);
    return code == SQLITE_OK ? 0 : failed(d, code, e);
}

/* In one transaction: a file is new, or ours and whole. */
static int check_schema(struct st_db *d, const struct st_db_opts *o, struct st_err *e)
{
    int64_t id, version, tables;
    bool found;
    struct st_buf sql = {0};
    int code = SQLITE_OK;
    if (st_db_number(d, "PRAGMA application_id", ST_DB_NO_ARGS, &id, &found, e) ||
        st_db_number(d, "PRAGMA user_version", ST_DB_NO_ARGS, &version, &found, e) ||
        st_db_number(d, "SELECT count(*) FROM sqlite_schema", ST_DB_NO_ARGS, &tables, &found, e))
        return e->code;
    if (id == (int64_t)o->id && version == o->version)
        return 0;
    if (id == (int64_t)o->id)
        return st_fail(e, ST_UNSUPPORTED, "%s: version %d of %s, this program reads %d", d->path, (int)version, o->what,
                       o->version);
    if (id || tables)
        return st_fail(e, ST_INPUT, "%s: not %s", d->path, o->what);
    st_buf_addf(&sql, "%s; PRAGMA application_id=%u; PRAGMA user_version=%d;", o->schema, o->id, o->version);
    if (sql.failed)
        return st_fail(e, ST_MEMORY, "%s: out of memory", d->path);
    code = sqlite3_exec(d->db, sql.p, NULL, NULL, NULL);
    st_buf_free(&sql);
    return code == SQLITE_OK ? 0 : failed(d, code, e);
}

int st_db_open(const char *path, const struct st_db_opts *o, struct st_db **out, struct st_err *e)
{
    struct st_db *d = NULL;
    *out = NULL;
    if (prepare_file(path, o->what, e) || st_alloc(&d, 1, sizeof *d, "database", e))
        return e->code;
    d->path = strdup(path);
    int rc = d->path ? 0 : st_fail(e, ST_MEMORY, "database: out of memory");
    if (!rc) {
        int code =
            sqlite3_open_v2(path, &d->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
        rc = code == SQLITE_OK ? set_up(d, o->exclusive, e) : failed(d, code, e);
    }
    if (!rc)
        rc = st_db_begin(d, e);
    if (!rc)
        rc = st_db_end(d, check_schema(d, o, e), e);
    if (rc)
        st_db_close(d);
    else
        *out = d;
    return rc;
}

void st_db_close(struct st_db *d)
{
    if (!d)
        return;
    for (size_t i = 0; i < d->n_stmt; i++)
        sqlite3_finalize(d->stmt[i].s);
    sqlite3_close(d->db);
    free(d->path);
    free(d);
}
