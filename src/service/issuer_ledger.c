#include "service/issuer_ledger.h"
#include "service/database.h"

#include <string.h>

/* kind: enum st_ledger_kind. */
static const char schema[] =
    "CREATE TABLE members (kind INTEGER NOT NULL, name TEXT NOT NULL, key BLOB NOT NULL UNIQUE,"
    " units INTEGER NOT NULL, daily INTEGER NOT NULL, used INTEGER NOT NULL, used_day INTEGER NOT NULL,"
    " PRIMARY KEY (kind, name)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE issued (account TEXT NOT NULL, id BLOB NOT NULL, hash BLOB NOT NULL, day INTEGER NOT NULL,"
    " PRIMARY KEY (account, id)) STRICT, WITHOUT ROWID;"
    "CREATE INDEX issued_day ON issued (day);"
    "CREATE TABLE refunds (token BLOB PRIMARY KEY, hash BLOB NOT NULL, day INTEGER NOT NULL) STRICT, WITHOUT ROWID;"
    "CREATE INDEX refunds_day ON refunds (day);"
    "CREATE TABLE keys (day INTEGER NOT NULL, units INTEGER NOT NULL, key BLOB NOT NULL,"
    " PRIMARY KEY (day, units)) STRICT";

/* The handle is the database's own; the type keeps others from running statements on it. */
static struct st_db *db(struct st_ledger *l)
{
    return (struct st_db *)l;
}

int st_ledger_open(const char *path, struct st_ledger **out, struct st_err *e)
{
    static const struct st_db_opts o = {
        .what = "an issuer's database", .id = 0x53744973, .version = 1, .schema = schema};
    struct st_db *d;
    int rc = st_db_open(path, &o, &d, e);
    *out = (struct st_ledger *)d;
    return rc;
}

void st_ledger_close(struct st_ledger *l)
{
    st_db_close(db(l));
}

int st_ledger_begin(struct st_ledger *l, struct st_err *e)
{
    return st_db_begin(db(l), e);
}

int st_ledger_end(struct st_ledger *l, int rc, struct st_err *e)
{
    return st_db_end(db(l), rc, e);
}

/* ---- accounts and gateways ---- */

static const char *kind_word(enum st_ledger_kind kind)
{
    return kind == ST_LEDGER_ACCOUNT ? "account" : "gateway";
}

int st_ledger_add(struct st_ledger *l, enum st_ledger_kind kind, const struct st_ledger_member *m,
                  const uint8_t key[32], struct st_err *e)
{
    int64_t changed;
    if (st_db_run(db(l), "INSERT OR IGNORE INTO members VALUES (?, ?, ?, ?, ?, 0, 0)",
                  ST_DB_ARGS(ST_DB_INT(kind), ST_DB_TEXT(m->name), ST_DB_BYTES(key, 32), ST_DB_INT(m->units),
                             ST_DB_INT(m->daily)),
                  &changed, e))
        return e->code;
    return changed ? 0 : st_fail(e, ST_INPUT, "%s %s: is there already", kind_word(kind), m->name);
}

int st_ledger_set(struct st_ledger *l, const char *name, int64_t units, int64_t daily, struct st_err *e)
{
    int64_t changed;
    if (st_db_run(db(l),
                  "UPDATE members SET units = CASE WHEN ?1 < 0 THEN units ELSE ?1 END,"
                  " daily = CASE WHEN ?2 < 0 THEN daily ELSE ?2 END WHERE kind = ?3 AND name = ?4",
                  ST_DB_ARGS(ST_DB_INT(units), ST_DB_INT(daily), ST_DB_INT(ST_LEDGER_ACCOUNT), ST_DB_TEXT(name)),
                  &changed, e))
        return e->code;
    return changed ? 0 : st_fail(e, ST_INPUT, "account %s: there is none", name);
}

int st_ledger_remove(struct st_ledger *l, enum st_ledger_kind kind, const char *name, struct st_err *e)
{
    int64_t changed = 0;
    int rc = st_db_begin(db(l), e);
    if (rc)
        return rc;
    rc = st_db_run(db(l), "DELETE FROM members WHERE kind = ? AND name = ?",
                   ST_DB_ARGS(ST_DB_INT(kind), ST_DB_TEXT(name)), &changed, e);
    if (!rc && !changed)
        rc = st_fail(e, ST_INPUT, "%s %s: there is none", kind_word(kind), name);
    if (!rc && kind == ST_LEDGER_ACCOUNT)
        rc = st_db_run(db(l), "DELETE FROM issued WHERE account = ?", ST_DB_ARGS(ST_DB_TEXT(name)), NULL, e);
    return st_db_end(db(l), rc, e);
}

/* Columns name, units, daily, used, used_day. */
static void read_member(sqlite3_stmt *s, uint32_t today, struct st_ledger_member *m)
{
    struct st_span name = st_db_bytes(s, 0);
    size_t len = name.len < ST_LEDGER_MAX_NAME ? name.len : ST_LEDGER_MAX_NAME;
    *m = (struct st_ledger_member){.units = sqlite3_column_int64(s, 1), .daily = sqlite3_column_int64(s, 2)};
    if (sqlite3_column_int64(s, 4) == today)
        m->used = sqlite3_column_int64(s, 3);
    if (len)
        memcpy(m->name, name.p, len);
}

int st_ledger_list(struct st_ledger *l, enum st_ledger_kind kind, uint32_t today,
                   void (*each)(void *arg, const struct st_ledger_member *m), void *arg, struct st_err *e)
{
    sqlite3_stmt *s;
    struct st_ledger_member m;
    bool row;
    if (st_db_start(db(l), "SELECT name, units, daily, used, used_day FROM members WHERE kind = ? ORDER BY name",
                    ST_DB_ARGS(ST_DB_INT(kind)), &s, e))
        return e->code;
    int rc;
    while (!(rc = st_db_next(db(l), s, &row, e)) && row) {
        read_member(s, today, &m);
        each(arg, &m);
    }
    st_db_done(s);
    return rc;
}

int st_ledger_find(struct st_ledger *l, enum st_ledger_kind kind, const uint8_t key[32], uint32_t today,
                   struct st_ledger_member *out, bool *found, struct st_err *e)
{
    sqlite3_stmt *s = NULL;
    *found = false;
    if (st_db_start(db(l), "SELECT name, units, daily, used, used_day FROM members WHERE key = ? AND kind = ?",
                    ST_DB_ARGS(ST_DB_BYTES(key, 32), ST_DB_INT(kind)), &s, e))
        return e->code;
    int rc = st_db_next(db(l), s, found, e);
    if (!rc && *found)
        read_member(s, today, out);
    st_db_done(s);
    return rc;
}

/* ---- purchases and refunds ---- */

/* Whether one is there, and with which hash. */
static int look_up(struct st_ledger *l, const char *sql, const struct st_db_value *in, size_t n_in,
                   const uint8_t hash[32], bool *found, enum st_ledger_verdict *verdict, struct st_err *e)
{
    sqlite3_stmt *s;
    if (st_db_start(db(l), sql, in, n_in, &s, e))
        return e->code;
    int rc = st_db_next(db(l), s, found, e);
    if (!rc && *found) {
        struct st_span had = st_db_bytes(s, 0);
        *verdict = had.len == 32 && memcmp(had.p, hash, 32) == 0 ? ST_LEDGER_AGAIN : ST_LEDGER_CONFLICT;
    }
    st_db_done(s);
    return rc;
}

int st_ledger_charge(struct st_ledger *l, const struct st_ledger_member *m, const uint8_t id[ST_LEDGER_ID],
                     const uint8_t hash[32], uint32_t units, uint32_t day, uint32_t today,
                     enum st_ledger_verdict *verdict, struct st_err *e)
{
    bool found = false;
    *verdict = ST_LEDGER_EMPTY;
    if (look_up(l, "SELECT hash FROM issued WHERE account = ? AND id = ?",
                ST_DB_ARGS(ST_DB_TEXT(m->name), ST_DB_BYTES(id, ST_LEDGER_ID)), hash, &found, verdict, e))
        return e->code;
    int64_t left = m->daily > m->used ? m->daily - m->used : 0;
    int64_t allowance = left < units ? left : units, paid = units - allowance;
    if (found || paid > m->units)
        return 0;
    *verdict = ST_LEDGER_DONE;
    if (st_db_run(db(l),
                  "UPDATE members SET units = units - ?1, used = ?2, used_day = ?3 WHERE kind = ?4 AND name = ?5",
                  ST_DB_ARGS(ST_DB_INT(paid), ST_DB_INT(m->used + allowance), ST_DB_INT(today),
                             ST_DB_INT(ST_LEDGER_ACCOUNT), ST_DB_TEXT(m->name)),
                  NULL, e))
        return e->code;
    return st_db_run(
        db(l), "INSERT INTO issued VALUES (?, ?, ?, ?)",
        ST_DB_ARGS(ST_DB_TEXT(m->name), ST_DB_BYTES(id, ST_LEDGER_ID), ST_DB_BYTES(hash, 32), ST_DB_INT(day)), NULL, e);
}

int st_ledger_refund(struct st_ledger *l, const uint8_t token[32], const uint8_t hash[32], uint32_t day,
                     enum st_ledger_verdict *verdict, struct st_err *e)
{
    bool found = false;
    *verdict = ST_LEDGER_DONE;
    if (look_up(l, "SELECT hash FROM refunds WHERE token = ?", ST_DB_ARGS(ST_DB_BYTES(token, 32)), hash, &found,
                verdict, e))
        return e->code;
    return found ? 0
                 : st_db_run(db(l), "INSERT INTO refunds VALUES (?, ?, ?)",
                             ST_DB_ARGS(ST_DB_BYTES(token, 32), ST_DB_BYTES(hash, 32), ST_DB_INT(day)), NULL, e);
}

/* ---- signing keys ---- */

int st_ledger_key_add(struct st_ledger *l, uint32_t day, uint32_t units, struct st_span key, struct st_err *e)
{
    return st_db_run(db(l), "INSERT OR IGNORE INTO keys VALUES (?, ?, ?)",
                     ST_DB_ARGS(ST_DB_INT(day), ST_DB_INT(units), ST_DB_BYTES(key.p, key.len)), NULL, e);
}

int st_ledger_keys(struct st_ledger *l,
                   int (*each)(void *arg, uint32_t day, uint32_t units, struct st_span key, struct st_err *e),
                   void *arg, struct st_err *e)
{
    sqlite3_stmt *s;
    bool row;
    if (st_db_start(db(l), "SELECT day, units, key FROM keys ORDER BY day, units", ST_DB_NO_ARGS, &s, e))
        return e->code;
    int rc;
    while (!(rc = st_db_next(db(l), s, &row, e)) && row)
        if ((rc = each(arg, (uint32_t)sqlite3_column_int64(s, 0), (uint32_t)sqlite3_column_int64(s, 1),
                       st_db_bytes(s, 2), e)))
            break;
    st_db_done(s);
    return rc;
}

int st_ledger_forget(struct st_ledger *l, uint32_t day, struct st_err *e)
{
    static const char *const all[] = {"DELETE FROM keys WHERE day < ?", "DELETE FROM issued WHERE day < ?",
                                      "DELETE FROM refunds WHERE day < ?"};
    int64_t changed, n = 0;
    int rc = st_db_begin(db(l), e);
    if (rc)
        return rc;
    for (size_t i = 0; !rc && i < sizeof all / sizeof *all; i++) {
        rc = st_db_run(db(l), all[i], ST_DB_ARGS(ST_DB_INT(day)), &changed, e);
        n += changed;
    }
    rc = st_db_end(db(l), rc, e);
    return rc || !n ? rc : st_db_scrub(db(l), e);
}
