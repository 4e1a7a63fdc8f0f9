/* An issuer's signing keys: one RSA key of 2048 bits per day and denomination, made ahead (today's and tomorrow's) by a
 * thread of their own, kept in the ledger, and forgotten when tokens of their day are no longer good: at the end of the
 * day after it. Who has a key of a day can make as many tokens of that day as he likes. */
#ifndef ST_SERVICE_ISSUER_KEYS_H
#define ST_SERVICE_ISSUER_KEYS_H

#include "channel/token.h"

struct st_issuer_keys;

struct st_issuer_keys_opts {
    const char *db;             /* of the ledger; copied */
    int64_t (*clock)(void);     /* wall clock; NULL = st_unix_time */
    double every_s;             /* how often the day is looked at; 0 = 30 */
    void (*changed)(void *arg); /* called by the thread that makes them; may be NULL */
    void *arg;
};
/* Reads the ledger's keys; starts the thread. */
int st_issuer_keys_new(const struct st_issuer_keys_opts *o, struct st_issuer_keys **out,
                       struct st_err *e) ST_MUST_CHECK;
void st_issuer_keys_free(struct st_issuer_keys *k);

struct st_issuer_key {
    uint32_t day, units;
    struct st_blind_rsa *rsa;
};
/* NULL when it is not held. To be given back. From any thread. */
const struct st_issuer_key *st_issuer_keys_take(struct st_issuer_keys *k, uint32_t day, uint32_t units);
void st_issuer_keys_give(struct st_issuer_keys *k, const struct st_issuer_key *key);
uint32_t st_issuer_keys_today(const struct st_issuer_keys *k);
/* True when all keys of today are there. */
bool st_issuer_keys_ready(struct st_issuer_keys *k);
/* Appends what the log is told: the part of the directory (attest/directory.h). */
int st_issuer_keys_part(struct st_issuer_keys *k, const char *name, struct st_buf *out, struct st_err *e) ST_MUST_CHECK;

#endif
