#include "service/wallet_store.h"
#include "base/file.h"
#include "base/log.h"
#include "service/database.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#define MARKED 8 /* of a denomination, at most: what a power cut may cost */

static const char schema[] =
    "CREATE TABLE issuer (name TEXT NOT NULL) STRICT;"
    "CREATE TABLE boot (id BLOB NOT NULL) STRICT;"
    "CREATE TABLE keys (day INTEGER NOT NULL, units INTEGER NOT NULL, key BLOB NOT NULL, PRIMARY KEY (day, units)) "
    "STRICT;"
    "CREATE TABLE tokens (random BLOB PRIMARY KEY, day INTEGER NOT NULL, units INTEGER NOT NULL,"
    " signature BLOB NOT NULL, marked INTEGER NOT NULL) STRICT;"
    "CREATE INDEX tokens_next ON tokens (units, marked DESC, day);"
    "CREATE TABLE blanks (batch BLOB NOT NULL, place INTEGER NOT NULL, day INTEGER NOT NULL, units INTEGER NOT NULL,"
    " random BLOB NOT NULL, inverse BLOB NOT NULL, blinded BLOB NOT NULL, PRIMARY KEY (batch, place)) STRICT";

struct st_wallet_store {
    struct st_db *db;
    /* What the tokens from worth_from on are worth, kept so that requests need not add it up; unless !worth_known. */
    uint64_t worth;
    uint32_t worth_from;
    bool worth_known;
};

static struct st_db *db(struct st_wallet_store *s)
{
    return s->db;
}

/* Compares the first column of the one row with want; *found false when there is no row. */
static int compare(struct st_wallet_store *s, const char *sql, const struct st_db_value *in, size_t n_in,
                   struct st_span want, bool *found, bool *same, struct st_err *e)
{
    sqlite3_stmt *q;
    *same = false;
    if (st_db_start(db(s), sql, in, n_in, &q, e))
        return e->code;
    int rc = st_db_next(db(s), q, found, e);
    if (!rc && *found) {
        struct st_span had = st_db_bytes(q, 0);
        *same = had.len == want.len && memcmp(had.p, want.p, want.len) == 0;
    }
    st_db_done(q);
    return rc;
}

/* Marked tokens after a start: of this boot they have not been taken; of another, who knows. */
static int settle_marks(struct st_wallet_store *s, struct st_err *e)
{
    struct st_buf boot = {0};
    bool found, same = false;
    int rc = st_file_read("/proc/sys/kernel/random/boot_id", 64, &boot, e);
    if (!rc)
        rc = compare(s, "SELECT id FROM boot", ST_DB_NO_ARGS, (struct st_span){(const uint8_t *)boot.p, boot.len},
                     &found, &same, e);
    if (rc || same)
        goto out;
    rc = st_db_begin(db(s), e);
    if (rc)
        goto out;
    rc = st_db_run(db(s), "DELETE FROM tokens WHERE marked = 1", ST_DB_NO_ARGS, NULL, e);
    if (!rc)
        rc = st_db_run(db(s), "DELETE FROM boot", ST_DB_NO_ARGS, NULL, e);
    if (!rc)
        rc = st_db_run(db(s), "INSERT INTO boot VALUES (?)", ST_DB_ARGS(ST_DB_BYTES(boot.p, boot.len)), NULL, e);
    rc = st_db_end(db(s), rc, e);
out:
    st_buf_free(&boot);
    return rc;
}

int st_wallet_store_open(const char *path, struct st_wallet_store **out, struct st_err *e)
{
    static const struct st_db_opts o = {
        .what = "a wallet", .id = 0x53745761, .version = 1, .schema = schema, .exclusive = true};
    struct st_wallet_store *s = NULL;
    *out = NULL;
    int rc = st_alloc(&s, 1, sizeof *s, "wallet", e);
    if (!rc)
        rc = st_db_open(path, &o, &s->db, e);
    if (!rc && (rc = settle_marks(s, e)))
        st_db_close(s->db);
    if (rc)
        free(s);
    else
        *out = s;
    return rc;
}

void st_wallet_store_close(struct st_wallet_store *s)
{
    struct st_err e;
    if (!s)
        return;
    if (st_db_run(db(s), "UPDATE tokens SET marked = 0 WHERE marked = 1", ST_DB_NO_ARGS, NULL, &e))
        st_log(ST_LOG_WARN, "wallet: %s", e.msg);
    st_db_close(db(s));
    free(s);
}

int st_wallet_store_forget(struct st_wallet_store *s, uint32_t day, struct st_err *e)
{
    static const char *const all[] = {"DELETE FROM tokens WHERE day < ?", "DELETE FROM keys WHERE day < ?",
                                      "DELETE FROM blanks WHERE day < ?"};
    s->worth_known = false;
    int rc = st_db_begin(db(s), e);
    if (rc)
        return rc;
    for (size_t i = 0; !rc && i < sizeof all / sizeof *all; i++)
        rc = st_db_run(db(s), all[i], ST_DB_ARGS(ST_DB_INT(day)), NULL, e);
    return st_db_end(db(s), rc, e);
}

/* ---- the issuer ---- */

int st_wallet_store_issuer(struct st_wallet_store *s, const char *name, struct st_err *e)
{
    bool found, same;
    if (compare(s, "SELECT name FROM issuer", ST_DB_NO_ARGS, (struct st_span){(const uint8_t *)name, strlen(name)},
                &found, &same, e))
        return e->code;
    if (!found)
        return st_db_run(db(s), "INSERT INTO issuer VALUES (?)", ST_DB_ARGS(ST_DB_TEXT(name)), NULL, e);
    return same ? 0 : st_fail(e, ST_POLICY, "wallet: it holds tokens of another issuer than '%s'", name);
}

int st_wallet_store_key(struct st_wallet_store *s, uint32_t day, uint32_t units, struct st_span der, struct st_err *e)
{
    bool found, same;
    if (compare(s, "SELECT key FROM keys WHERE day = ? AND units = ?", ST_DB_ARGS(ST_DB_INT(day), ST_DB_INT(units)),
                der, &found, &same, e))
        return e->code;
    if (!found)
        return st_db_run(db(s), "INSERT INTO keys VALUES (?, ?, ?)",
                         ST_DB_ARGS(ST_DB_INT(day), ST_DB_INT(units), ST_DB_BYTES(der.p, der.len)), NULL, e);
    return same ? 0
                : st_fail(e, ST_POLICY, "wallet: the issuer's key of day %u and %u units is another one than before",
                          (unsigned)day, (unsigned)units);
}

int st_wallet_store_each_key(struct st_wallet_store *s,
                             int (*each)(void *arg, uint32_t day, uint32_t units, struct st_span der, struct st_err *e),
                             void *arg, struct st_err *e)
{
    sqlite3_stmt *q;
    bool row;
    if (st_db_start(db(s), "SELECT day, units, key FROM keys ORDER BY day DESC", ST_DB_NO_ARGS, &q, e))
        return e->code;
    int rc;
    while (!(rc = st_db_next(db(s), q, &row, e)) && row)
        if ((rc = each(arg, (uint32_t)sqlite3_column_int64(q, 0), (uint32_t)sqlite3_column_int64(q, 1),
                       st_db_bytes(q, 2), e)))
            break;
    st_db_done(q);
    return rc;
}

/* ---- tokens ---- */

static int count_marked(struct st_wallet_store *s, uint32_t units, int64_t *n, struct st_err *e)
{
    bool found;
    return st_db_number(db(s), "SELECT count(*) FROM tokens WHERE units = ? AND marked = 1",
                        ST_DB_ARGS(ST_DB_INT(units)), n, &found, e);
}

/* As many as may be are marked from the start: the next request may take one at once. */
static int add_tokens(struct st_wallet_store *s, const struct st_token *t, size_t n, struct st_err *e)
{
    int64_t marked = 0, added = 0;
    for (size_t i = 0; i < n; i++) {
        if (count_marked(s, t[i].units, &marked, e) ||
            st_db_run(db(s), "INSERT OR IGNORE INTO tokens VALUES (?, ?, ?, ?, ?)",
                      ST_DB_ARGS(ST_DB_BYTES(t[i].random, ST_TOKEN_RANDOM), ST_DB_INT(t[i].day), ST_DB_INT(t[i].units),
                                 ST_DB_BYTES(t[i].signature, t[i].signature_len), ST_DB_INT(marked < MARKED)),
                      &added, e))
            return e->code;
        if (added == 1 && t[i].day >= s->worth_from)
            s->worth += t[i].units;
    }
    return 0;
}

/* The end of what has changed the tokens: after an error nobody knows what they are worth. */
static int changed(struct st_wallet_store *s, int rc)
{
    s->worth_known = s->worth_known && !rc;
    return rc;
}

/* A transaction that does not wait for the disk. */
static int begin_light(struct st_wallet_store *s, struct st_err *e)
{
    int rc = st_db_wait(db(s), false, e);
    return rc ? rc : st_db_begin(db(s), e);
}

static int end_light(struct st_wallet_store *s, int rc, struct st_err *e)
{
    struct st_err other;
    rc = st_db_end(db(s), rc, e);
    if (st_db_wait(db(s), true, &other) && !rc)
        rc = st_fail(e, other.code, "%s", other.msg);
    return rc;
}

int st_wallet_store_add(struct st_wallet_store *s, const struct st_token *t, size_t n, struct st_err *e)
{
    int rc = begin_light(s, e);
    return changed(s, end_light(s, rc ? rc : add_tokens(s, t, n, e), e));
}

/* A column of a row into [len] bytes; false when it has another length. */
static bool copy(sqlite3_stmt *q, int column, uint8_t *out, size_t min, size_t max, size_t *len)
{
    struct st_span b = st_db_bytes(q, column);
    if (b.len < min || b.len > max)
        return false;
    memcpy(out, b.p, b.len);
    *len = b.len;
    return true;
}

static int broken(struct st_err *e)
{
    return st_fail(e, ST_INPUT, "wallet: a row that is none");
}

static int find_token(struct st_wallet_store *s, uint32_t units, bool largest, uint32_t day, struct st_token *out,
                      bool *marked, bool *found, struct st_err *e)
{
    sqlite3_stmt *q;
    size_t len;
    int rc = largest ? st_db_start(db(s),
                                   "SELECT random, day, units, signature, marked FROM tokens WHERE day >= ?"
                                   " ORDER BY units DESC, marked DESC, day LIMIT 1",
                                   ST_DB_ARGS(ST_DB_INT(day)), &q, e)
                     : st_db_start(db(s),
                                   "SELECT random, day, units, signature, marked FROM tokens"
                                   " WHERE units >= ? AND day >= ? ORDER BY units, marked DESC, day LIMIT 1",
                                   ST_DB_ARGS(ST_DB_INT(units), ST_DB_INT(day)), &q, e);
    if (rc)
        return rc;
    rc = st_db_next(db(s), q, found, e);
    if (!rc && *found) {
        out->day = (uint32_t)sqlite3_column_int64(q, 1);
        out->units = (uint32_t)sqlite3_column_int64(q, 2);
        *marked = sqlite3_column_int64(q, 4) != 0;
        if (!copy(q, 0, out->random, ST_TOKEN_RANDOM, ST_TOKEN_RANDOM, &len) ||
            !copy(q, 3, out->signature, 1, sizeof out->signature, &out->signature_len))
            rc = broken(e);
    }
    st_db_done(q);
    return rc;
}

static int delete_token(struct st_wallet_store *s, const struct st_token *t, struct st_err *e)
{
    return st_db_run(db(s), "DELETE FROM tokens WHERE random = ?", ST_DB_ARGS(ST_DB_BYTES(t->random, ST_TOKEN_RANDOM)),
                     NULL, e);
}

int st_wallet_store_take(struct st_wallet_store *s, uint32_t units, bool largest, uint32_t day, struct st_token *out,
                         bool *found, struct st_err *e)
{
    bool marked = false;
    *found = false;
    *out = (struct st_token){0};
    int rc = find_token(s, units, largest, day, out, &marked, found, e);
    if (!rc && *found && marked) {
        rc = begin_light(s, e);
        rc = end_light(s, rc ? rc : delete_token(s, out, e), e);
    } else if (!rc && *found) {
        rc = st_db_begin(db(s), e);
        if (!rc)
            rc = st_db_end(db(s), delete_token(s, out, e), e);
    }
    if (!rc && *found && out->day >= s->worth_from)
        s->worth -= out->units;
    if (rc) {
        *found = false;
        OPENSSL_cleanse(out, sizeof *out);
    }
    return changed(s, rc);
}

int st_wallet_store_mark(struct st_wallet_store *s, uint32_t units, uint32_t day, struct st_err *e)
{
    int64_t have;
    if (count_marked(s, units, &have, e))
        return e->code;
    if (have >= MARKED / 2)
        return 0;
    return st_db_run(db(s),
                     "UPDATE tokens SET marked = 1 WHERE random IN (SELECT random FROM tokens"
                     " WHERE units = ? AND day >= ? AND marked = 0 ORDER BY day LIMIT ?)",
                     ST_DB_ARGS(ST_DB_INT(units), ST_DB_INT(day), ST_DB_INT(MARKED - have)), NULL, e);
}

int st_wallet_store_few(struct st_wallet_store *s, uint32_t units, uint32_t day, uint64_t n, bool *few,
                        struct st_err *e)
{
    int64_t have;
    bool found;
    int rc = st_db_number(db(s), "SELECT count(*) FROM (SELECT 1 FROM tokens WHERE units >= ? AND day >= ? LIMIT ?)",
                          ST_DB_ARGS(ST_DB_INT(units), ST_DB_INT(day), ST_DB_INT(n + 1)), &have, &found, e);
    *few = !rc && (uint64_t)have <= n;
    return rc;
}

int st_wallet_store_sum(struct st_wallet_store *s, uint32_t units, uint32_t day, struct st_wallet_sum *out,
                        struct st_err *e)
{
    int64_t sum, n;
    bool found;
    *out = (struct st_wallet_sum){0};
    if (st_db_number(db(s), "SELECT coalesce(sum(units), 0) FROM tokens WHERE day >= ?", ST_DB_ARGS(ST_DB_INT(day)),
                     &sum, &found, e) ||
        st_db_number(db(s), "SELECT count(*) FROM tokens WHERE units >= ? AND day >= ?",
                     ST_DB_ARGS(ST_DB_INT(units), ST_DB_INT(day)), &n, &found, e))
        return e->code;
    *out = (struct st_wallet_sum){(uint64_t)sum, (uint64_t)n};
    return 0;
}

int st_wallet_store_worth(struct st_wallet_store *s, uint32_t day, uint64_t *units, struct st_err *e)
{
    struct st_wallet_sum sum;
    *units = 0;
    if (!s->worth_known || s->worth_from != day) {
        if (st_wallet_store_sum(s, 0, day, &sum, e))
            return e->code;
        s->worth = sum.units;
        s->worth_from = day;
        s->worth_known = true;
    }
    *units = s->worth;
    return 0;
}

/* ---- purchases ---- */

void st_wallet_batch_wipe(struct st_wallet_batch *b)
{
    if (b->blanks)
        OPENSSL_cleanse(b->blanks, b->n * sizeof *b->blanks);
    free(b->blanks);
    *b = (struct st_wallet_batch){.n = 0};
}

int st_wallet_store_begin(struct st_wallet_store *s, const struct st_wallet_batch *b, struct st_err *e)
{
    int rc = st_db_begin(db(s), e);
    if (rc)
        return rc;
    for (size_t i = 0; !rc && i < b->n; i++) {
        const struct st_token_blank *k = &b->blanks[i];
        rc = st_db_run(db(s), "INSERT INTO blanks VALUES (?, ?, ?, ?, ?, ?, ?)",
                       ST_DB_ARGS(ST_DB_BYTES(b->id, ST_ISSUE_ID), ST_DB_INT(i), ST_DB_INT(k->token.day),
                                  ST_DB_INT(k->token.units), ST_DB_BYTES(k->token.random, ST_TOKEN_RANDOM),
                                  ST_DB_BYTES(k->state.inverse, k->len), ST_DB_BYTES(k->blinded, k->len)),
                       NULL, e);
    }
    return st_db_end(db(s), rc, e);
}

static int read_blank(sqlite3_stmt *q, struct st_token_blank *out, struct st_err *e)
{
    size_t len;
    out->token.day = (uint32_t)sqlite3_column_int64(q, 1);
    out->token.units = (uint32_t)sqlite3_column_int64(q, 2);
    return copy(q, 3, out->token.random, ST_TOKEN_RANDOM, ST_TOKEN_RANDOM, &len) &&
                   copy(q, 4, out->state.inverse, 256, ST_BLIND_RSA_MAX, &len) &&
                   copy(q, 5, out->blinded, len, len, &out->len)
               ? 0
               : broken(e);
}

int st_wallet_store_pending(struct st_wallet_store *s, struct st_wallet_batch *out, struct st_err *e)
{
    sqlite3_stmt *q;
    bool row;
    size_t len;
    *out = (struct st_wallet_batch){.n = 0};
    if (st_db_start(db(s),
                    "SELECT batch, day, units, random, inverse, blinded FROM blanks"
                    " WHERE batch = (SELECT batch FROM blanks ORDER BY rowid LIMIT 1) ORDER BY place LIMIT ?",
                    ST_DB_ARGS(ST_DB_INT(ST_ISSUE_MAX)), &q, e))
        return e->code;
    int rc = st_alloc(&out->blanks, ST_ISSUE_MAX, sizeof *out->blanks, "a purchase", e);
    while (!rc && !(rc = st_db_next(db(s), q, &row, e)) && row) {
        if (!copy(q, 0, out->id, ST_ISSUE_ID, ST_ISSUE_ID, &len))
            rc = broken(e);
        else
            rc = read_blank(q, &out->blanks[out->n++], e);
    }
    st_db_done(q);
    if (rc || !out->n)
        st_wallet_batch_wipe(out);
    return rc;
}

int st_wallet_store_end(struct st_wallet_store *s, const uint8_t id[ST_ISSUE_ID], const struct st_token *t, size_t n_t,
                        struct st_err *e)
{
    int rc = st_db_begin(db(s), e);
    if (rc)
        return rc;
    rc = add_tokens(s, t, n_t, e);
    if (!rc)
        rc = st_db_run(db(s), "DELETE FROM blanks WHERE batch = ?", ST_DB_ARGS(ST_DB_BYTES(id, ST_ISSUE_ID)), NULL, e);
    return changed(s, st_db_end(db(s), rc, e));
}
