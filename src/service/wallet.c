#include "base/hooks.h"
#include "base/log.h"
#include "channel/confidential.h"
#include "service/api_keys.h"
#include "service/wallet_priv.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

static uint32_t this_day(const struct st_wallet *w)
{
    return (uint32_t)(w->clock() / ST_TOKEN_DAY_S);
}

uint32_t st_wallet_first_day(const struct st_wallet *w)
{
    return this_day(w) - 1;
}

uint32_t st_wallet_denomination(uint32_t units)
{
    for (size_t i = 0; i < ST_TOKEN_N_UNITS; i++)
        if (st_token_units[i] >= units)
            return st_token_units[i];
    return st_token_units[ST_TOKEN_N_UNITS - 1];
}

/* ---- keys ---- */

const struct st_wallet_key *st_wallet_find_key(const struct st_wallet *w, uint32_t day, uint32_t units)
{
    for (size_t i = 0; i < w->n_key; i++)
        if (w->keys[i].day == day && w->keys[i].units == units)
            return &w->keys[i];
    return NULL;
}

static void drop_keys(struct st_wallet *w, uint32_t before)
{
    size_t n = 0;
    for (size_t i = 0; i < w->n_key; i++)
        if (w->keys[i].day < before)
            st_blind_rsa_free(w->keys[i].rsa);
        else
            w->keys[n++] = w->keys[i];
    w->n_key = n;
}

static int load_key(void *arg, uint32_t day, uint32_t units, struct st_span der, struct st_err *e)
{
    struct st_wallet *w = arg;
    uint32_t today = this_day(w);
    if (!st_wallet_find_key(w, day, units)) {
        if (w->n_key == ST_DIRECTORY_MAX_KEYS)
            return st_fail(e, ST_INPUT, "wallet: more than %d keys", ST_DIRECTORY_MAX_KEYS);
        if (st_blind_rsa_parse_public(der.p, der.len, &w->keys[w->n_key].rsa, e))
            return e->code;
        w->keys[w->n_key].day = day;
        w->keys[w->n_key++].units = units;
    }
    /* Blanks are for today's key, or yesterday's as long as there is none. */
    bool newest = day == today || (day + 1 == today && !st_wallet_find_key(w, today, units));
    return newest && w->blanks ? st_wallet_blanks_key(w->blanks, day, units, der, e) : 0;
}

int st_wallet_keys(struct st_wallet *w, const struct st_directory_issuer *i, int64_t now, struct st_err *e)
{
    uint32_t first = (uint32_t)(now / ST_TOKEN_DAY_S) - 1;
    if (st_wallet_store_issuer(w->store, i->name, e))
        return e->code;
    for (size_t k = 0; k < i->n_key; k++)
        if (i->keys[k].day >= first && i->keys[k].day <= first + 2 &&
            st_wallet_store_key(w->store, i->keys[k].day, i->keys[k].units, i->keys[k].key, e))
            return e->code;
    if (st_wallet_store_forget(w->store, first, e))
        return e->code;
    drop_keys(w, first);
    return st_wallet_store_each_key(w->store, load_key, w, e);
}

/* ---- tokens out ---- */

uint64_t st_wallet_units(struct st_wallet *w)
{
    uint64_t units;
    struct st_err e;
    return st_wallet_store_worth(w->store, st_wallet_first_day(w), &units, &e) ? 0 : units;
}

int st_wallet_count(struct st_wallet *w, uint64_t n[ST_TOKEN_N_UNITS], struct st_err *e)
{
    struct st_wallet_sum sum;
    uint64_t larger = 0;
    for (size_t i = ST_TOKEN_N_UNITS; i-- > 0;) {
        if (st_wallet_store_sum(w->store, st_token_units[i], st_wallet_first_day(w), &sum, e))
            return e->code;
        n[i] = sum.n - larger;
        larger = sum.n;
    }
    return 0;
}

const struct st_err *st_wallet_trouble(const struct st_wallet *w)
{
    return w->trouble.code ? &w->trouble : NULL;
}

/* Half of a batch is gone: the next is bought, in the background. */
static void look_ahead(struct st_wallet *w)
{
    struct st_err e;
    bool few;
    uint32_t wanted = w->wanted, half = st_wallet_level(w, false) / 2;
    w->wanted = 0;
    if (wanted && !w->more_of && !st_wallet_store_few(w->store, wanted, st_wallet_first_day(w), half, &few, &e) && few)
        w->more_of = wanted;
}

/* What waits for the disk, or need not be known at once, is done when no request waits. */
static void on_idle(evutil_socket_t fd, short what, void *arg)
{
    struct st_wallet *w = arg;
    struct st_err e;
    (void)fd;
    (void)what;
    for (size_t i = 0; i < ST_TOKEN_N_UNITS; i++)
        if (w->mark >> i & 1 && st_wallet_store_mark(w->store, st_token_units[i], st_wallet_first_day(w), &e))
            st_log(ST_LOG_WARN, "wallet: %s", e.msg);
    w->mark = 0;
    look_ahead(w);
    if (w->more_of && !w->retry_s && st_wallet_buy(w, &e))
        st_log(ST_LOG_DEBUG, "wallet: %s", e.msg);
}

static void when_idle(struct st_wallet *w)
{
    const struct timeval soon = {0, 20000};
    if (w->idle && !evtimer_pending(w->idle, NULL))
        event_add(w->idle, &soon);
}

/* The next token of this denomination should not wait for the disk. */
static void mark_soon(struct st_wallet *w, uint32_t units)
{
    for (size_t i = 0; i < ST_TOKEN_N_UNITS; i++)
        if (st_token_units[i] == units)
            w->mark |= 1u << i;
    when_idle(w);
}

static int take_now(struct st_wallet *w, uint32_t units, bool largest, struct st_token *t, bool *found,
                    struct st_err *e)
{
    uint32_t most = st_token_units[ST_TOKEN_N_UNITS - 1];
    if (st_wallet_store_take(w->store, units < most ? units : most, largest, st_wallet_first_day(w), t, found, e))
        return e->code;
    if (*found)
        mark_soon(w, t->units);
    return 0;
}

#define SOON_S 10

uint32_t st_wallet_level(struct st_wallet *w, bool ran_out)
{
    uint32_t today = this_day(w);
    if (w->level_day != today)
        w->level = w->batch;
    else if (ran_out && w->bought_at > 0 && st_now() - w->bought_at < SOON_S)
        w->level = 2 * w->level < ST_ISSUE_MAX ? 2 * w->level : ST_ISSUE_MAX;
    w->level_day = today;
    return w->level;
}

static void give(struct st_wallet_take *t, const struct st_token *token, const struct st_err *e)
{
    t->taken(t->arg, token, e);
    free(t);
}

void st_wallet_serve(struct st_wallet *w)
{
    struct st_token t;
    struct st_err e;
    bool found = true;
    while (w->waiting && found) {
        struct st_wallet_take *first = w->waiting;
        int rc = take_now(w, first->units, false, &t, &found, &e);
        if (!rc && !found)
            break;
        w->waiting = first->next;
        give(first, rc ? NULL : &t, rc ? &e : NULL);
        found = true;
    }
    OPENSSL_cleanse(&t, sizeof t);
}

void st_wallet_fail(struct st_wallet *w, const struct st_err *why)
{
    struct st_token t;
    struct st_err e;
    bool found;
    size_t n = 0;
    for (const struct st_wallet_take *q = w->waiting; q; q = q->next)
        n++;
    /* No more than wait now: who is told may ask again at once, or cancel others. */
    for (; n && w->waiting; n--) {
        struct st_wallet_take *first = w->waiting;
        w->waiting = first->next;
        int rc = take_now(w, 1, true, &t, &found, &e);
        give(first, !rc && found ? &t : NULL, rc ? &e : found ? NULL : why);
    }
    OPENSSL_cleanse(&t, sizeof t);
}

int st_wallet_take(struct st_wallet *w, uint32_t units,
                   void (*taken)(void *arg, const struct st_token *t, const struct st_err *e), void *arg,
                   struct st_wallet_take **ticket, struct st_err *e)
{
    struct st_token t;
    struct st_wallet_take *q = NULL, **last = &w->waiting;
    bool found = false;
    *ticket = NULL;
    if (take_now(w, units, false, &t, &found, e))
        return e->code;
    if (found) {
        taken(arg, &t, NULL);
        OPENSSL_cleanse(&t, sizeof t);
        w->wanted = st_wallet_denomination(units); /* on_idle() follows a token that was taken */
        return 0;
    }
    if (st_alloc(&q, 1, sizeof *q, "a request for a token", e))
        return e->code;
    *q = (struct st_wallet_take){.wallet = w, .units = units, .taken = taken, .arg = arg};
    while (*last)
        last = &(*last)->next;
    *last = q;
    if (st_wallet_buy(w, e) == 0) {
        *ticket = q;
        return 0;
    }
    /* Nothing can be bought: what is there must do. */
    *last = NULL;
    free(q);
    struct st_err why = *e;
    int rc = take_now(w, 1, true, &t, &found, e);
    if (!rc && found)
        taken(arg, &t, NULL);
    else if (!rc)
        rc = st_fail(e, why.code, "%s", why.msg);
    OPENSSL_cleanse(&t, sizeof t);
    return rc;
}

void st_wallet_cancel(struct st_wallet_take *ticket)
{
    if (!ticket)
        return;
    struct st_wallet_take **at = &ticket->wallet->waiting;
    while (*at != ticket)
        at = &(*at)->next;
    *at = ticket->next;
    free(ticket);
}

int st_wallet_return(struct st_wallet *w, const struct st_token *t, struct st_err *e)
{
    return st_wallet_store_add(w->store, t, 1, e);
}

void st_wallet_stock(struct st_wallet *w, uint32_t units)
{
    struct st_err e;
    w->stock = units;
    if (st_wallet_units(w) < units && st_wallet_buy(w, &e))
        w->trouble = e;
}

/* ---- change ---- */

struct st_wallet_change {
    size_t n;
    struct st_token_blank of[ST_CHANGE_MAX];
};

int st_wallet_change_begin(struct st_wallet *w, uint32_t units, struct st_wallet_change **out,
                           struct st_change_ask *ask, struct st_err *e)
{
    struct st_wallet_change *c = NULL;
    *out = NULL;
    st_change_plan(units, 0, ask);
    if (st_alloc(&c, 1, sizeof *c, "change", e))
        return e->code;
    int rc = 0;
    for (size_t i = 0; !rc && i < ask->n; i++) {
        struct st_token_blank *b = &c->of[c->n++];
        rc = st_wallet_blanks_take(w->blanks, ask->of[i].units, b, e);
        ask->of[i].day = b->token.day;
        ask->of[i].blinded = (struct st_span){b->blinded, b->len};
    }
    if (rc) {
        st_wallet_change_free(c);
        *ask = (struct st_change_ask){0};
    } else
        *out = c;
    return rc;
}

int st_wallet_change_take(struct st_wallet *w, struct st_wallet_change *c, const struct st_change_answer *a,
                          uint32_t *units, struct st_err *e)
{
    struct st_token got[ST_CHANGE_MAX];
    struct st_err why;
    size_t n = 0;
    int bad = 0;
    *units = 0;
    for (size_t i = 0; i < a->n; i++) {
        const struct st_token_blank *b = a->of[i].place < c->n ? &c->of[a->of[i].place] : NULL;
        const struct st_wallet_key *k = b ? st_wallet_find_key(w, b->token.day, b->token.units) : NULL;
        if (!k)
            bad = st_fail(&why, ST_VERIFY, "change: signature %zu is for nothing that was asked", i);
        else if (st_token_finish(b, k->rsa, a->of[i].signature, &got[n], &why))
            bad = why.code;
        else
            *units += got[n++].units;
    }
    /* What is good is kept, whatever the rest is. */
    int rc = n ? st_wallet_store_add(w->store, got, n, e) : 0;
    OPENSSL_cleanse(got, sizeof got);
    if (rc)
        *units = 0;
    return rc ? rc : bad ? st_fail(e, bad, "%s", why.msg) : 0;
}

void st_wallet_change_free(struct st_wallet_change *c)
{
    if (c)
        OPENSSL_cleanse(c, sizeof *c);
    free(c);
}

/* ---- life ---- */

static int set_up(struct st_wallet *w, const struct st_wallet_opts *o, struct st_err *e)
{
    char *base = NULL;
    w->clock = o->clock ? o->clock : st_unix_time;
    w->batch = o->batch == 0 ? 8 : o->batch > ST_ISSUE_MAX ? ST_ISSUE_MAX : o->batch;
    w->stall_s = o->stall_s > 0 ? o->stall_s : 30;
    if (w->http) {
        if (st_http_base_for_key("--issuer", o->issuer_url, &base, e))
            return e->code;
        st_buf_addf(&w->url, "%s%s", base, ST_ISSUER_PATH_ISSUE);
        free(base);
        if (st_api_key_first(o->account_file, &w->bearer, e))
            return e->code;
        if (w->url.failed || w->bearer.failed)
            return st_fail(e, ST_MEMORY, "wallet: out of memory");
        if (st_wallet_blanks_new(&w->blanks, e))
            return e->code;
        w->idle = evtimer_new(st_http_client_base(w->http), on_idle, w);
        if (!w->idle)
            return st_fail(e, ST_MEMORY, "wallet: out of memory");
    }
    if (st_wallet_store_open(o->file, &w->store, e))
        return e->code;
    return st_wallet_store_each_key(w->store, load_key, w, e);
}

int st_wallet_open(struct st_http_client *http, const struct st_wallet_opts *o, struct st_wallet **out,
                   struct st_err *e)
{
    struct st_wallet *w = NULL;
    *out = NULL;
    if (st_alloc(&w, 1, sizeof *w, "wallet", e))
        return e->code;
    w->http = http;
    int rc = set_up(w, o, e);
    if (rc)
        st_wallet_close(w);
    else
        *out = w;
    return rc;
}

void st_wallet_close(struct st_wallet *w)
{
    if (!w)
        return;
    st_wallet_buy_close(w);
    while (w->waiting)
        st_wallet_cancel(w->waiting);
    if (w->idle)
        event_free(w->idle);
    st_wallet_blanks_free(w->blanks);
    drop_keys(w, UINT32_MAX);
    st_wallet_store_close(w->store);
    st_buf_free(&w->url);
    st_buf_wipe(&w->bearer);
    free(w);
}
