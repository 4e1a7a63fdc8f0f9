/* Which tokens were spent. A token is spent once: st_spent_take() says "taken" to one caller alone, whatever the number
 * of gateways on one database, and says so only when the row is durable; a machine that dies in the next moment finds
 * it there. When the database cannot be asked, the answer is "failed" and the caller must refuse: nothing is served on
 * the hope that a token is fresh. (The outcome of a failed take is open: the token may be spent or not.)
 *
 * Rows are the digest of a token (channel/token.h) and its day: nothing of a request, and nothing that the issuer has
 * seen. Days long gone are dropped.
 *
 * Databases block, so they have a thread of their own: all takes that wait when it comes round are one transaction, and
 * in a file those that come until 2 ms after the commit before (a commit costs what twenty takes do). Putting a row
 * into a file's open transaction blocks nobody: as long as that thread does nothing, a take does so itself, and only
 * the commit waits for it. The functions here belong to the thread of the event base, and `done` is called there. A
 * kind of database is one file spent_KIND.c that exports one const struct st_spent_kind: spent_sqlite.c    a file: one
 * gateway, or several on one machine spent_postgres.c  "postgresql://...": several gateways share it */
#ifndef ST_SERVICE_SPENT_H
#define ST_SERVICE_SPENT_H

#include "base/buf.h"

#include <event2/event.h>

struct st_spent;
struct st_spent_take;

struct st_spent_opts {
    const char *where;    /* a file, or a URL of PostgreSQL without a password (libpq takes it from its own files) */
    bool relaxed;         /* SQLite: survives the death of the process, not that of the machine */
    uint32_t max_waiting; /* takes that wait for the database; 0 = 8192 */
    double answer_s;      /* PostgreSQL: a server that says nothing for so long has failed; 0 = 15 */
};

enum st_spent_answer { ST_SPENT_TAKEN, ST_SPENT_BEFORE, ST_SPENT_FAILED };

/* IO: the file or server cannot be opened; INPUT: it is no such database; UNSUPPORTED: another version of it, or
 * built without libpq; USAGE: a password in the URL. */
int st_spent_open(struct event_base *base, const struct st_spent_opts *o, struct st_spent **out,
                  struct st_err *e) ST_MUST_CHECK;
/* Ends what runs; `done` is not called any more. */
void st_spent_close(struct st_spent *s);

struct st_spent_events {
    void (*fresh)(void *arg); /* at most once, before done, also before st_spent_take() returns; may be NULL */
    void (*done)(void *arg, enum st_spent_answer a); /* once, later */
    void *arg;
};
/* POLICY: max_waiting takes wait already; MEMORY. */
int st_spent_take(struct st_spent *s, const uint8_t digest[32], uint32_t day, const struct st_spent_events *ev,
                  struct st_spent_take **out, struct st_err *e) ST_MUST_CHECK;
/* The caller no longer wants to know; whether the token is taken stays open. */
void st_spent_cancel(struct st_spent_take *t);
/* Drops the rows of days before this one, when there is nothing else to do. */
void st_spent_forget(struct st_spent *s, uint32_t before);

/* ---- for spent_KIND.c ---- */

#define ST_SPENT_BATCH 256
struct st_spent_row {
    uint8_t digest[32];
    uint32_t day;
    bool fresh; /* out */
};
struct st_spent_kind {
    int (*open)(const struct st_spent_opts *o, void **db, struct st_err *e);
    bool gathers; /* a transaction may have several takes, one after the other */
    /* Begins a transaction, or goes on with one, and sets `fresh` of each row, of two equal ones in the first.
     * n <= ST_SPENT_BATCH. */
    int (*take)(void *db, struct st_spent_row *rows, size_t n, struct st_err *e);
    /* The same for one row, unless it would have to wait for somebody: then *taken is false, and nothing is changed.
     * NULL: it always may. */
    int (*try_take)(void *db, struct st_spent_row *row, bool *taken, struct st_err *e);
    /* Ends it, durably. After an error of either the rows may be there or not; the next take starts anew. */
    int (*commit)(void *db, struct st_err *e);
    /* Some rows of earlier days; *more when there may be more of them. */
    int (*forget)(void *db, uint32_t before, bool *more, struct st_err *e);
    void (*close)(void *db);
};
extern const struct st_spent_kind st_spent_sqlite, st_spent_postgres;

#endif
