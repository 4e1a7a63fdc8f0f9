/* What an issuer does with a request once it has been read, off the event thread: one thread writes the ledger, where
 * all requests that wait share a transaction and so one wait for the disk; then threads of their own sign, when what
 * was asked is paid and on disk. So a crash at any moment costs nobody anything: the same request gets the same answer.
 */
#ifndef ST_SERVICE_ISSUER_WORK_H
#define ST_SERVICE_ISSUER_WORK_H

#include "channel/issue.h"
#include "service/issuer_keys.h"

struct st_issuer_job {
    struct st_issue ask;
    uint8_t bearer[32]; /* SHA-256 of the key that came with it */
    /* The outcome. */
    int status;               /* of HTTP */
    const char *word;         /* of a refusal, NULL = none to tell */
    int64_t units;            /* what the account has left, for "units" */
    bool again;               /* it was done before */
    struct st_buf signatures; /* one after the other, each as long as its blinded message */
    void *owner;              /* the submitter's */
    /* Private. */
    const struct st_issuer_key *keys[ST_ISSUE_MAX];
    struct st_issuer_job *next;
};
void st_issuer_job_free(struct st_issuer_job *j);

struct st_issuer_work;

struct st_issuer_work_opts {
    const char *db;
    struct st_issuer_keys *keys; /* borrowed */
    int n_threads;               /* that sign; 0 = one per CPU, at most 16 */
    uint32_t rate;               /* requests of one account per minute */
    uint32_t max_wait;           /* jobs */
    void (*done)(void *arg);     /* called by any thread when st_issuer_work_take() has something */
    void *arg;
};
int st_issuer_work_new(const struct st_issuer_work_opts *o, struct st_issuer_work **out,
                       struct st_err *e) ST_MUST_CHECK;
/* Drops what has not been taken. */
void st_issuer_work_free(struct st_issuer_work *w);
/* Takes j over; false (and j stays the caller's) when too many wait. */
bool st_issuer_work_put(struct st_issuer_work *w, struct st_issuer_job *j) ST_MUST_CHECK;
/* A job that is done; NULL when there is none now. */
struct st_issuer_job *st_issuer_work_take(struct st_issuer_work *w);
size_t st_issuer_work_waiting(struct st_issuer_work *w);

#endif
