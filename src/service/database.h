/* SQLite files of ours: made with mode 0600, refused when others can read them or another program has made them, every
 * commit on disk before it returns (WAL, synchronous FULL; st_db_wait()), what is deleted overwritten. Errors name the
 * file and never a value of a row.
 *
 * SQL texts are string literals: each is compiled once and found again by its address. A connection belongs to one
 * thread at a time. */
#ifndef ST_SERVICE_DATABASE_H
#define ST_SERVICE_DATABASE_H

#include "base/buf.h"

#include <sqlite3.h>

struct st_db;

struct st_db_opts {
    const char *what;   /* "an issuer's database", for messages */
    uint32_t id;        /* its application_id: four letters, big-endian */
    int version;        /* of the schema, as user_version */
    const char *schema; /* run once, when the file is new */
    bool exclusive;     /* one process at a time (IO: in use) */
};
/* path is copied; ":memory:" for none. Made when it is not there. IO; POLICY: readable by others; INPUT: not ours;
 * UNSUPPORTED: another version. */
int st_db_open(const char *path, const struct st_db_opts *o, struct st_db **out, struct st_err *e) ST_MUST_CHECK;
void st_db_close(struct st_db *d);

struct st_db_value {
    bool bytes, text; /* neither: a number */
    int64_t i;
    struct st_span s; /* borrowed for the call */
};
#define ST_DB_INT(x) ((struct st_db_value){.i = (int64_t)(x)})
#define ST_DB_BYTES(from, n) ((struct st_db_value){.bytes = true, .s = {(const uint8_t *)(from), (n)}})
#define ST_DB_TEXT(z) ((struct st_db_value){.text = true, .s = {(const uint8_t *)(z), strlen(z)}})
#define ST_DB_ARGS(...)                                                                                                \
    (const struct st_db_value[]){__VA_ARGS__}, sizeof((struct st_db_value[]){__VA_ARGS__}) / sizeof(struct st_db_value)
#define ST_DB_NO_ARGS NULL, 0

/* A statement that gives no rows. *changed: rows that it touched; may be NULL. */
int st_db_run(struct st_db *d, const char *sql, const struct st_db_value *in, size_t n_in, int64_t *changed,
              struct st_err *e) ST_MUST_CHECK;
/* Rows: start, then next until *row is false, then done (also to leave early). At most one query per text is open. */
int st_db_start(struct st_db *d, const char *sql, const struct st_db_value *in, size_t n_in, sqlite3_stmt **out,
                struct st_err *e) ST_MUST_CHECK;
int st_db_next(struct st_db *d, sqlite3_stmt *s, bool *row, struct st_err *e) ST_MUST_CHECK;
void st_db_done(sqlite3_stmt *s);
/* The bytes of a column, borrowed until the next call on the statement. */
struct st_span st_db_bytes(sqlite3_stmt *s, int column);
/* The first column of the first row as a number; *found false when there is no row. */
int st_db_number(struct st_db *d, const char *sql, const struct st_db_value *in, size_t n_in, int64_t *out, bool *found,
                 struct st_err *e) ST_MUST_CHECK;

/* A transaction that writes. rc of what was done inside: 0 commits, anything else undoes it; returns that, or the error
 * of the commit. */
int st_db_begin(struct st_db *d, struct st_err *e) ST_MUST_CHECK;
/* The same, unless another process is writing: then *begun is false. */
int st_db_try_begin(struct st_db *d, bool *begun, struct st_err *e) ST_MUST_CHECK;
int st_db_end(struct st_db *d, int rc, struct st_err *e) ST_MUST_CHECK;
/* Whether commits from now on wait for the disk, as they do from the start. One that does not outlives this program's
 * death, and the machine's only when a later one has waited. */
int st_db_wait(struct st_db *d, bool wait, struct st_err *e) ST_MUST_CHECK;
/* Overwrites what deleted rows left in the log of changes. */
int st_db_scrub(struct st_db *d, struct st_err *e) ST_MUST_CHECK;

#endif
