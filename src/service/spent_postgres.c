/* Spent tokens in PostgreSQL, for several gateways: the primary key decides who was first. */
#include "service/spent.h"

#ifdef SOTTO_POSTGRES

#include "base/hooks.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libpq-fe.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONNECT_S "5"
#define STATEMENT_MS 10000 /* a lock that is held longer is somebody else's mistake */
#define RETRY_S 1.0
#define ANSWER_S 15.0

struct db {
    PGconn *pg;
    char *where;
    double retry; /* a server that is away is asked for once in RETRY_S */
    double answer_s;
};

static int fail(const struct db *d, struct st_err *e)
{
    /* The message may go over several lines. */
    const char *text = PQerrorMessage(d->pg);
    if (!*text)
        return st_fail(e, ST_IO, "PostgreSQL: no answer");
    return st_fail(e, ST_IO, "PostgreSQL: %.*s", (int)strcspn(text, "\n"), text);
}

static bool done(PGresult *r)
{
    bool ok = PQresultStatus(r) == PGRES_COMMAND_OK || PQresultStatus(r) == PGRES_TUPLES_OK;
    PQclear(r);
    return ok;
}

static void ignore(void *arg, const PGresult *r)
{
    (void)arg;
    (void)r;
}

/* Two gateways that make the table at once would both fail in one another's way: the lock lets one go first. */
static int set_up(struct db *d, struct st_err *e)
{
    char limit[64];
    snprintf(limit, sizeof limit, "SET statement_timeout = %d", STATEMENT_MS);
    if (!done(PQexec(d->pg, limit)) || !done(PQexec(d->pg, "SET synchronous_commit = on")) ||
        !done(PQexec(d->pg, "BEGIN")) || !done(PQexec(d->pg, "SELECT pg_advisory_xact_lock(1398035280)")) ||
        !done(PQexec(d->pg, "CREATE TABLE IF NOT EXISTS sotto_spent_1 (day integer NOT NULL, digest bytea NOT NULL, "
                            "PRIMARY KEY (day, digest))")) ||
        !done(PQexec(d->pg, "COMMIT")) ||
        !done(PQprepare(d->pg, "take", "INSERT INTO sotto_spent_1 (day, digest) VALUES ($1, $2) ON CONFLICT DO NOTHING",
                        2, NULL)) ||
        !done(PQprepare(d->pg, "forget",
                        "DELETE FROM sotto_spent_1 WHERE (day, digest) IN (SELECT day, digest FROM sotto_spent_1 WHERE "
                        "day < $1 LIMIT 1000)",
                        1, NULL)))
        return fail(d, e);
    return 0;
}

static int connect_anew(struct db *d, struct st_err *e)
{
    /* A server that is cut off says nothing: requests must not wait for it for hours. */
    const char *const names[] = {"dbname",          "connect_timeout",     "application_name", "tcp_user_timeout",
                                 "keepalives_idle", "keepalives_interval", "keepalives_count", NULL};
    const char *const values[] = {d->where, CONNECT_S, "sotto", "15000", "5", "5", "2", NULL};
    if (d->pg && st_now() < d->retry)
        return st_fail(e, ST_IO, "PostgreSQL: the server is away");
    PQfinish(d->pg);
    d->pg = PQconnectdbParams(names, values, 1);
    d->retry = st_now() + RETRY_S;
    if (PQstatus(d->pg) != CONNECTION_OK)
        return fail(d, e);
    PQsetNoticeReceiver(d->pg, ignore, NULL);
    return set_up(d, e);
}

static void postgres_close(void *db)
{
    struct db *d = db;
    PQfinish(d->pg);
    free(d->where);
    free(d);
}

/* Command lines are visible to every user of the machine. */
static int refuse_password(const char *where, struct st_err *e)
{
    char *why = NULL;
    PQconninfoOption *all = PQconninfoParse(where, &why);
    int rc = 0;
    if (!all)
        rc = st_fail(e, ST_USAGE, "--spent: want postgresql://[USER@]HOST[:PORT]/DATABASE");
    for (const PQconninfoOption *o = all; !rc && o->keyword; o++)
        if (strcmp(o->keyword, "password") == 0 && o->val)
            rc = st_fail(e, ST_USAGE, "--spent: a password does not belong on a command line; want it in ~/.pgpass");
    PQconninfoFree(all);
    PQfreemem(why);
    return rc;
}

static int postgres_open(const struct st_spent_opts *o, void **db, struct st_err *e)
{
    struct db *d = calloc(1, sizeof *d);
    if (!d || !(d->where = strdup(o->where))) {
        free(d);
        return st_fail(e, ST_MEMORY, "spent tokens: no memory");
    }
    d->answer_s = o->answer_s > 0 ? o->answer_s : ANSWER_S;
    int rc = refuse_password(d->where, e);
    if (!rc)
        rc = connect_anew(d, e);
    if (rc)
        postgres_close(d);
    else
        *db = d;
    return rc;
}

/* Whatever went wrong: the connection is of no use any more, and what it had begun is undone or done there. */
static int give_up(struct db *d, struct st_err *e)
{
    fail(d, e);
    PQfinish(d->pg);
    d->pg = NULL;
    return e->code;
}

static int ready(struct db *d, struct st_err *e)
{
    return d->pg && PQstatus(d->pg) == CONNECTION_OK ? 0 : connect_anew(d, e);
}

static bool send_row(struct db *d, const struct st_spent_row *r)
{
    uint32_t day = htonl(r->day);
    const char *const values[] = {(const char *)&day, (const char *)r->digest};
    static const int lengths[] = {sizeof(uint32_t), 32}, binary[] = {1, 1};
    return PQsendQueryPrepared(d->pg, "take", 2, values, lengths, binary, 0) == 1;
}

/* The next result; NULL also when it does not come in time. libpq by itself would wait for a server that stands still
 * as long as that lasts. */
static PGresult *next_result(struct db *d)
{
    const double end = st_now() + d->answer_s;
    while (PQisBusy(d->pg)) {
        struct pollfd p = {PQsocket(d->pg), POLLIN, 0};
        double left = end - st_now();
        int n = left > 0 ? poll(&p, 1, (int)(left * 1000) + 1) : 0;
        if (n == 0 || (n < 0 && errno != EINTR) || PQconsumeInput(d->pg) != 1)
            return NULL;
    }
    return PQgetResult(d->pg);
}

/* The result of one command of a pipeline, with the NULL behind it. */
static bool read_command(struct db *d, PGresult **out)
{
    *out = next_result(d);
    bool ok = PQresultStatus(*out) == PGRES_COMMAND_OK;
    if (*out)
        PQclear(next_result(d));
    return ok;
}

static bool read_rows(struct db *d, struct st_spent_row *const *rows, size_t n)
{
    PGresult *r;
    bool ok = read_command(d, &r); /* BEGIN */
    PQclear(r);
    for (size_t i = 0; ok && i < n; i++) {
        ok = read_command(d, &r);
        rows[i]->fresh = ok && strcmp(PQcmdTuples(r), "1") == 0;
        PQclear(r);
    }
    return ok;
}

static bool send_text(struct db *d, const char *command)
{
    return PQsendQueryParams(d->pg, command, 0, NULL, NULL, NULL, NULL, 0) == 1;
}

static int by_digest(const void *a, const void *b)
{
    const struct st_spent_row *const *x = a, *const *y = b;
    int order = memcmp((*x)->digest, (*y)->digest, 32);
    return order ? order : (*x > *y) - (*x < *y);
}

/* In one order everywhere, so that two gateways with the same tokens wait for one another and never in a circle. */
static int postgres_take(void *db, struct st_spent_row *rows, size_t n, struct st_err *e)
{
    struct db *d = db;
    struct st_spent_row *order[ST_SPENT_BATCH];
    int rc = ready(d, e);
    if (rc)
        return rc;
    for (size_t i = 0; i < n; i++)
        order[i] = &rows[i];
    qsort(order, n, sizeof *order, by_digest);
    bool ok = PQenterPipelineMode(d->pg) == 1 && send_text(d, "BEGIN");
    for (size_t i = 0; ok && i < n; i++)
        ok = send_row(d, order[i]);
    ok = ok && PQsendFlushRequest(d->pg) == 1 && PQflush(d->pg) == 0 && read_rows(d, order, n);
    return ok ? 0 : give_up(d, e);
}

static int postgres_commit(void *db, struct st_err *e)
{
    struct db *d = db;
    PGresult *r = NULL, *sync = NULL;
    bool ok = send_text(d, "COMMIT") && PQpipelineSync(d->pg) == 1 && read_command(d, &r) &&
              strcmp(PQcmdStatus(r), "COMMIT") == 0 && (sync = next_result(d)) != NULL &&
              PQresultStatus(sync) == PGRES_PIPELINE_SYNC && PQexitPipelineMode(d->pg) == 1;
    PQclear(r);
    PQclear(sync);
    return ok ? 0 : give_up(d, e);
}

static int postgres_forget(void *db, uint32_t before, bool *more, struct st_err *e)
{
    struct db *d = db;
    uint32_t day = htonl(before);
    const char *const values[] = {(const char *)&day};
    static const int lengths[] = {sizeof day}, binary[] = {1};
    int rc = ready(d, e);
    if (rc)
        return rc;
    PGresult *r = NULL;
    bool ok = PQsendQueryPrepared(d->pg, "forget", 1, values, lengths, binary, 0) == 1 && read_command(d, &r);
    *more = ok && strcmp(PQcmdTuples(r), "0") != 0;
    PQclear(r);
    return ok ? 0 : give_up(d, e);
}

const struct st_spent_kind st_spent_postgres = {.open = postgres_open,
                                                .take = postgres_take,
                                                .commit = postgres_commit,
                                                .forget = postgres_forget,
                                                .close = postgres_close};

#else

static int postgres_open(const struct st_spent_opts *o, void **db, struct st_err *e)
{
    (void)o;
    (void)db;
    return st_fail(e, ST_UNSUPPORTED, "--spent: this program was built without PostgreSQL (libpq)");
}

const struct st_spent_kind st_spent_postgres = {.open = postgres_open};

#endif
