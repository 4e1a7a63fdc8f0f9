/* The wallet's file (service/database.h, one process at a time): tokens, purchases under way, and the issuer's keys as
 * they were first seen.
 *
 * A token must not come out twice, whatever stops, and must come out without waiting for the disk. So some are marked
 * ahead, on disk; only marked ones are taken out, and that without waiting. When this program dies, those that were
 * not taken are marked still, and good. When the machine dies, that they were taken may be forgotten: then all that
 * were marked are dropped (the machine's boot id tells), at most eight of a denomination; st_wallet_store_close() takes
 * the marks off. Everything else is on disk when its function returns, but for what st_wallet_store_add() adds.
 *
 * A purchase is stored whole before it is sent, so that it can be sent again after a crash; its answer becomes tokens
 * in the transaction that forgets it. */
#ifndef ST_SERVICE_WALLET_STORE_H
#define ST_SERVICE_WALLET_STORE_H

#include "channel/issue.h"

struct st_wallet_store;

int st_wallet_store_open(const char *path, struct st_wallet_store **out, struct st_err *e) ST_MUST_CHECK;
void st_wallet_store_close(struct st_wallet_store *s);

/* Days before `day` are forgotten: tokens, keys, purchases. */
int st_wallet_store_forget(struct st_wallet_store *s, uint32_t day, struct st_err *e) ST_MUST_CHECK;

/* POLICY: the file is of another issuer, or has another key of that day and denomination. */
int st_wallet_store_issuer(struct st_wallet_store *s, const char *name, struct st_err *e) ST_MUST_CHECK;
int st_wallet_store_key(struct st_wallet_store *s, uint32_t day, uint32_t units, struct st_span der,
                        struct st_err *e) ST_MUST_CHECK;
/* The newest first. */
int st_wallet_store_each_key(struct st_wallet_store *s,
                             int (*each)(void *arg, uint32_t day, uint32_t units, struct st_span der, struct st_err *e),
                             void *arg, struct st_err *e) ST_MUST_CHECK;

/* Adds tokens (change, one that was not used); those that are there already are passed over. */
int st_wallet_store_add(struct st_wallet_store *s, const struct st_token *t, size_t n, struct st_err *e) ST_MUST_CHECK;
/* Takes the smallest token of at least `units` out, of those the oldest; with largest, the largest there is. Only days
 * from `day` on. */
int st_wallet_store_take(struct st_wallet_store *s, uint32_t units, bool largest, uint32_t day, struct st_token *out,
                         bool *found, struct st_err *e) ST_MUST_CHECK;
/* Marks further tokens of a denomination, so that eight are; only when fewer than half of that are. */
int st_wallet_store_mark(struct st_wallet_store *s, uint32_t units, uint32_t day, struct st_err *e) ST_MUST_CHECK;
/* Whether there are at most n tokens of at least `units`; counts no further. */
int st_wallet_store_few(struct st_wallet_store *s, uint32_t units, uint32_t day, uint64_t n, bool *few,
                        struct st_err *e) ST_MUST_CHECK;
/* What the tokens from `day` on are worth, and how many of them are of at least `units`. */
struct st_wallet_sum {
    uint64_t units, n;
};
int st_wallet_store_sum(struct st_wallet_store *s, uint32_t units, uint32_t day, struct st_wallet_sum *out,
                        struct st_err *e) ST_MUST_CHECK;
/* What the tokens from `day` on are worth; remembered, and cheap to ask again. */
int st_wallet_store_worth(struct st_wallet_store *s, uint32_t day, uint64_t *units, struct st_err *e) ST_MUST_CHECK;

/* A purchase under way. */
struct st_wallet_batch {
    uint8_t id[ST_ISSUE_ID];
    size_t n;
    struct st_token_blank *blanks; /* [n] */
};
int st_wallet_store_begin(struct st_wallet_store *s, const struct st_wallet_batch *b, struct st_err *e) ST_MUST_CHECK;
/* The oldest; n 0 when there is none. */
int st_wallet_store_pending(struct st_wallet_store *s, struct st_wallet_batch *out, struct st_err *e) ST_MUST_CHECK;
/* t [n_t]: the tokens that came of it; forgets it. */
int st_wallet_store_end(struct st_wallet_store *s, const uint8_t id[ST_ISSUE_ID], const struct st_token *t, size_t n_t,
                        struct st_err *e) ST_MUST_CHECK;
void st_wallet_batch_wipe(struct st_wallet_batch *b);

#endif
