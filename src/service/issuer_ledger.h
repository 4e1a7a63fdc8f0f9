/* What an issuer remembers, in an SQLite file (service/database.h): accounts and what is left on them, gateways, which
 * purchases and refunds there were, and the signing keys. Of keys that others hold (accounts, gateways) only SHA-256
 * digests. Nothing in it can be matched with a token: purchases are remembered by a digest of blinded messages, refunds
 * by st_token_digest(), which the issuer sees when a token comes back and at no other time.
 *
 * An account has units that were paid for and an allowance per day that does not add up; the allowance is used first.
 * One connection per thread; several processes may have the file open. */
#ifndef ST_SERVICE_ISSUER_LEDGER_H
#define ST_SERVICE_ISSUER_LEDGER_H

#include "base/buf.h"

#define ST_LEDGER_MAX_NAME 64
#define ST_LEDGER_ID 16
#define ST_LEDGER_MAX_UNITS ((int64_t)1 << 40)

struct st_ledger;

int st_ledger_open(const char *path, struct st_ledger **out, struct st_err *e) ST_MUST_CHECK;
void st_ledger_close(struct st_ledger *l);

/* Those who may ask: accounts buy, gateways bring tokens back. Names as st_directory_name_good(). */
enum st_ledger_kind { ST_LEDGER_ACCOUNT, ST_LEDGER_GATEWAY };
struct st_ledger_member {
    char name[ST_LEDGER_MAX_NAME + 1];
    int64_t units, daily, used; /* of an account: what is left, allowance per day, how much of it today's took */
};
/* key: SHA-256 of the bearer key. INPUT: the name is there already, or none. */
int st_ledger_add(struct st_ledger *l, enum st_ledger_kind kind, const struct st_ledger_member *m,
                  const uint8_t key[32], struct st_err *e) ST_MUST_CHECK;
/* Of an account; negative = as it is. INPUT: no such account. */
int st_ledger_set(struct st_ledger *l, const char *name, int64_t units, int64_t daily, struct st_err *e) ST_MUST_CHECK;
/* INPUT: no such name. */
int st_ledger_remove(struct st_ledger *l, enum st_ledger_kind kind, const char *name, struct st_err *e) ST_MUST_CHECK;
/* In order of names. */
int st_ledger_list(struct st_ledger *l, enum st_ledger_kind kind, uint32_t today,
                   void (*each)(void *arg, const struct st_ledger_member *m), void *arg,
                   struct st_err *e) ST_MUST_CHECK;

/* Everything between begin and end is on disk when end returns, or not at all. */
int st_ledger_begin(struct st_ledger *l, struct st_err *e) ST_MUST_CHECK;
int st_ledger_end(struct st_ledger *l, int rc, struct st_err *e) ST_MUST_CHECK;
/* Whose key that is; *found false when nobody's. */
int st_ledger_find(struct st_ledger *l, enum st_ledger_kind kind, const uint8_t key[32], uint32_t today,
                   struct st_ledger_member *out, bool *found, struct st_err *e) ST_MUST_CHECK;

enum st_ledger_verdict {
    ST_LEDGER_DONE,     /* charged, or noted as refunded */
    ST_LEDGER_AGAIN,    /* the same was done before: answer it again, it costs nothing */
    ST_LEDGER_CONFLICT, /* the same id, or token, came before with something else */
    ST_LEDGER_EMPTY,    /* not enough units */
};
/* A purchase of `units` by account m (as found), which signs with keys of days up to `day`. */
int st_ledger_charge(struct st_ledger *l, const struct st_ledger_member *m, const uint8_t id[ST_LEDGER_ID],
                     const uint8_t hash[32], uint32_t units, uint32_t day, uint32_t today,
                     enum st_ledger_verdict *verdict, struct st_err *e) ST_MUST_CHECK;
/* Change for a spent token of `day`. */
int st_ledger_refund(struct st_ledger *l, const uint8_t token[32], const uint8_t hash[32], uint32_t day,
                     enum st_ledger_verdict *verdict, struct st_err *e) ST_MUST_CHECK;

/* Signing keys, PKCS#8. Adding one that is there changes nothing. */
int st_ledger_key_add(struct st_ledger *l, uint32_t day, uint32_t units, struct st_span key,
                      struct st_err *e) ST_MUST_CHECK;
int st_ledger_keys(struct st_ledger *l,
                   int (*each)(void *arg, uint32_t day, uint32_t units, struct st_span key, struct st_err *e),
                   void *arg, struct st_err *e) ST_MUST_CHECK;
/* Forgets keys, purchases and refunds of days before `day`, and overwrites them on disk. */
int st_ledger_forget(struct st_ledger *l, uint32_t day, struct st_err *e) ST_MUST_CHECK;

#endif
