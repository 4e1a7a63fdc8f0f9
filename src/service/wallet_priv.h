/* What wallet.c (tokens in and out, keys, change) and wallet_buy.c (purchases) share. Private to both. */
#ifndef ST_SERVICE_WALLET_PRIV_H
#define ST_SERVICE_WALLET_PRIV_H

#include "service/wallet.h"
#include "service/wallet_blanks.h"
#include "service/wallet_store.h"

struct st_wallet_key {
    uint32_t day, units;
    struct st_blind_rsa *rsa;
};

/* Somebody who waits for a token. */
struct st_wallet_take {
    struct st_wallet *wallet;
    struct st_wallet_take *next;
    uint32_t units;
    void (*taken)(void *arg, const struct st_token *t, const struct st_err *e);
    void *arg;
};

struct st_wallet {
    struct st_http_client *http; /* NULL: nothing can be bought */
    struct st_wallet_store *store;
    struct st_wallet_blanks *blanks;
    int64_t (*clock)(void);
    uint32_t batch, level; /* tokens to buy at a time: as told, and now */
    uint32_t level_day;
    double bought_at;
    double stall_s;
    struct st_buf url, bearer;
    struct st_wallet_key keys[ST_DIRECTORY_MAX_KEYS];
    size_t n_key;
    struct st_wallet_take *waiting; /* in the order in which they came */
    struct event *idle;             /* marks tokens, and buys, when no request waits */
    uint32_t mark;                  /* bits of the denominations of which some should be marked */
    uint32_t wanted;                /* denomination of the last token taken: there should be enough of it; 0 = looked */
    /* wallet_buy.c */
    struct st_http_call *call; /* a purchase is on its way */
    struct st_wallet_batch batch_out;
    struct st_buf reply;
    bool smaller;        /* the account cannot afford what was asked for: this is what it can */
    uint32_t stock;      /* units that should be there */
    uint32_t more_of;    /* denomination of which a batch should be bought; 0 = none */
    struct event *retry; /* of what nobody waits for */
    int retry_s;
    struct st_err trouble; /* of the last purchase; code 0: none */
};

/* First day whose tokens are still good. */
uint32_t st_wallet_first_day(const struct st_wallet *w);
const struct st_wallet_key *st_wallet_find_key(const struct st_wallet *w, uint32_t day, uint32_t units);
/* The denomination to have for a request of `units`: the smallest that is enough, or the largest there is. */
uint32_t st_wallet_denomination(uint32_t units);
/* How many tokens to buy at a time: more when they run out soon after they were bought, until the day ends. */
uint32_t st_wallet_level(struct st_wallet *w, bool ran_out);
/* Gives tokens to those who wait, as long as there are good ones. */
void st_wallet_serve(struct st_wallet *w);
/* Buying has failed: those who wait get the largest token there is, or the error. */
void st_wallet_fail(struct st_wallet *w, const struct st_err *why);

/* Buys what is wanted, unless a purchase is under way. An error says why it cannot begin. */
int st_wallet_buy(struct st_wallet *w, struct st_err *e) ST_MUST_CHECK;
void st_wallet_buy_close(struct st_wallet *w);

#endif
