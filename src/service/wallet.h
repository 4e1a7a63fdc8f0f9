/* The client's tokens, in an SQLite file (0600): bought from the issuer ahead of need, taken out one at a time, put
 * back as change. A token is marked as taken, durably, before it leaves this machine: whatever crashes then, it is
 * never sent twice. What is bought is stored before it is asked for, and asked for again after a crash: a token that
 * was paid for is not lost. The file holds bearer tokens and the blinding of those in the making, and nothing of any
 * request. Everything runs on the thread of the event base; blinding is done ahead by a thread of its own. One process
 * at a time (the file is locked).
 *
 * The issuer sees when and how much is bought: so the wallet buys several tokens at a time, and again when half of them
 * are gone, not when a request needs one. */
#ifndef ST_SERVICE_WALLET_H
#define ST_SERVICE_WALLET_H

#include "attest/directory.h"
#include "channel/token.h"
#include "net/http_client.h"

struct st_wallet;

struct st_wallet_opts {
    const char *file;         /* copied; ":memory:" for none */
    const char *issuer_url;   /* copied */
    const char *account_file; /* the account's key at the issuer; read at open */
    uint32_t batch;           /* tokens to buy at a time, more when they run out soon; 0 = 8, at most 64 */
    double stall_s;           /* 0 = 30 */
    int64_t (*clock)(void);   /* NULL = the machine's */
};

/* http NULL: to look into it only. IO: in use, unreadable; POLICY: readable by others, or http:// beyond loopback. */
int st_wallet_open(struct st_http_client *http, const struct st_wallet_opts *o, struct st_wallet **out,
                   struct st_err *e) ST_MUST_CHECK;
void st_wallet_close(struct st_wallet *w);

/* The issuer's keys of the directory, whenever that changes; copied. Tokens of days that are gone are dropped. POLICY
 * when a key of a day and denomination is another one than before, or the issuer is another one than the wallet's. */
int st_wallet_keys(struct st_wallet *w, const struct st_directory_issuer *i, int64_t now,
                   struct st_err *e) ST_MUST_CHECK;
/* Units at hand. */
uint64_t st_wallet_units(struct st_wallet *w);
/* How many tokens there are of each of st_token_units. */
int st_wallet_count(struct st_wallet *w, uint64_t n[ST_TOKEN_N_UNITS], struct st_err *e) ST_MUST_CHECK;
/* Why the last try to buy failed; NULL when it did not. */
const struct st_err *st_wallet_trouble(const struct st_wallet *w);

/* Takes the smallest token of at least `units` out (of the largest denomination when that is less). When there is none
 * it buys first; when buying fails, the largest there is must do. `taken` is called once, from the event loop or before
 * this returns (*ticket is NULL then): t is borrowed, NULL with *e when none could be had (POLICY: the account is empty
 * or unknown, or no key is good today; IO; VERIFY: the issuer's answer is no signature). *ticket cancels. */
struct st_wallet_take;
int st_wallet_take(struct st_wallet *w, uint32_t units,
                   void (*taken)(void *arg, const struct st_token *t, const struct st_err *e), void *arg,
                   struct st_wallet_take **ticket, struct st_err *e) ST_MUST_CHECK;
void st_wallet_cancel(struct st_wallet_take *ticket);
/* Puts a token that never left this machine back. */
int st_wallet_return(struct st_wallet *w, const struct st_token *t, struct st_err *e) ST_MUST_CHECK;
/* Buys until at least `units` are there, in the background. */
void st_wallet_stock(struct st_wallet *w, uint32_t units);

/* Blanks for the change of a token of `units` units: fills *ask (spans borrow from *out until it is freed) to send
 * along. */
struct st_wallet_change;
int st_wallet_change_begin(struct st_wallet *w, uint32_t units, struct st_wallet_change **out,
                           struct st_change_ask *ask, struct st_err *e) ST_MUST_CHECK;
/* The answer in the reply's trailer: unblinds, verifies and keeps them. *units: what came back. VERIFY. */
int st_wallet_change_take(struct st_wallet *w, struct st_wallet_change *c, const struct st_change_answer *a,
                          uint32_t *units, struct st_err *e) ST_MUST_CHECK;
void st_wallet_change_free(struct st_wallet_change *c);

#endif
