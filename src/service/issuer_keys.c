#include "service/issuer_keys.h"
#include "attest/directory.h"
#include "base/hooks.h"
#include "base/log.h"
#include "base/priority.h"
#include "service/issuer_ledger.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define KEY_BITS 2048
#define MAX_KEYS 32 /* yesterday's, today's and tomorrow's, and those that are still in use */

struct held {
    struct st_issuer_key key;
    uint32_t users;
    bool gone; /* forgotten: freed by the last user */
};

struct st_issuer_keys {
    struct st_issuer_keys_opts o;
    struct st_ledger *ledger; /* of the thread, once it runs */
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool stop, started;
    struct held *held[MAX_KEYS];
    size_t n_held;
    pthread_t thread;
};

uint32_t st_issuer_keys_today(const struct st_issuer_keys *k)
{
    return (uint32_t)(k->o.clock() / ST_TOKEN_DAY_S);
}

/* ---- the set, under the mutex ---- */

static struct held *find(const struct st_issuer_keys *k, uint32_t day, uint32_t units)
{
    for (size_t i = 0; i < k->n_held; i++)
        if (!k->held[i]->gone && k->held[i]->key.day == day && k->held[i]->key.units == units)
            return k->held[i];
    return NULL;
}

static void held_free(struct held *h)
{
    if (h)
        st_blind_rsa_free(h->key.rsa);
    free(h);
}

/* Frees what is forgotten and not in use. */
static void sweep(struct st_issuer_keys *k)
{
    size_t n = 0;
    for (size_t i = 0; i < k->n_held; i++)
        if (k->held[i]->gone && !k->held[i]->users)
            held_free(k->held[i]);
        else
            k->held[n++] = k->held[i];
    k->n_held = n;
}

const struct st_issuer_key *st_issuer_keys_take(struct st_issuer_keys *k, uint32_t day, uint32_t units)
{
    /* Another process may have forgotten the refunds of a day that this one still holds. */
    bool over = day + 1 < st_issuer_keys_today(k);
    pthread_mutex_lock(&k->mutex);
    struct held *h = over ? NULL : find(k, day, units);
    if (h)
        h->users++;
    pthread_mutex_unlock(&k->mutex);
    return h ? &h->key : NULL;
}

void st_issuer_keys_give(struct st_issuer_keys *k, const struct st_issuer_key *key)
{
    pthread_mutex_lock(&k->mutex);
    for (size_t i = 0; i < k->n_held; i++)
        if (&k->held[i]->key == key)
            k->held[i]->users--;
    sweep(k);
    pthread_mutex_unlock(&k->mutex);
}

static bool has_day(struct st_issuer_keys *k, uint32_t day)
{
    bool all = true;
    pthread_mutex_lock(&k->mutex);
    for (size_t i = 0; i < ST_TOKEN_N_UNITS; i++)
        all = all && find(k, day, st_token_units[i]);
    pthread_mutex_unlock(&k->mutex);
    return all;
}

bool st_issuer_keys_ready(struct st_issuer_keys *k)
{
    return has_day(k, st_issuer_keys_today(k));
}

/* ---- making and forgetting ---- */

/* One key of the ledger into the set. */
static int load(void *arg, uint32_t day, uint32_t units, struct st_span der, struct st_err *e)
{
    struct st_issuer_keys *k = arg;
    struct held *h = NULL;
    pthread_mutex_lock(&k->mutex);
    bool known = find(k, day, units) != NULL;
    pthread_mutex_unlock(&k->mutex);
    if (known)
        return 0;
    if (st_alloc(&h, 1, sizeof *h, "a key", e))
        return e->code;
    h->key = (struct st_issuer_key){.day = day, .units = units};
    int rc = st_blind_rsa_parse_private(der.p, der.len, &h->key.rsa, e);
    pthread_mutex_lock(&k->mutex);
    if (!rc && k->n_held == MAX_KEYS)
        rc = st_fail(e, ST_INPUT, "issuer: more than %d signing keys", MAX_KEYS);
    if (!rc) {
        k->held[k->n_held++] = h;
        h = NULL;
    }
    pthread_mutex_unlock(&k->mutex);
    held_free(h);
    return rc;
}

/* The ledger decides which key of a day is the one, so that a second process makes no other. */
static int make(struct st_issuer_keys *k, uint32_t day, uint32_t units, struct st_err *e)
{
    struct st_blind_rsa *rsa;
    uint8_t der[ST_BLIND_RSA_DER_MAX];
    size_t len = 0;
    if (st_blind_rsa_new(KEY_BITS, &rsa, e))
        return e->code;
    int rc = st_blind_rsa_write_private(rsa, der, &len, e);
    if (!rc)
        rc = st_ledger_key_add(k->ledger, day, units, (struct st_span){der, len}, e);
    OPENSSL_cleanse(der, sizeof der);
    st_blind_rsa_free(rsa);
    return rc;
}

static bool stopping(struct st_issuer_keys *k)
{
    pthread_mutex_lock(&k->mutex);
    bool stop = k->stop;
    pthread_mutex_unlock(&k->mutex);
    return stop;
}

/* All keys of a day; *made when there are new ones. */
static int make_day(struct st_issuer_keys *k, uint32_t day, bool *made, struct st_err *e)
{
    if (has_day(k, day))
        return 0;
    for (size_t i = 0; i < ST_TOKEN_N_UNITS && !stopping(k); i++)
        if (make(k, day, st_token_units[i], e))
            return e->code;
    *made = true;
    return st_ledger_keys(k->ledger, load, k, e);
}

static int forget(struct st_issuer_keys *k, uint32_t before, bool *changed, struct st_err *e)
{
    bool some = false;
    pthread_mutex_lock(&k->mutex);
    for (size_t i = 0; i < k->n_held; i++)
        if (k->held[i]->key.day < before)
            some = k->held[i]->gone = true;
    sweep(k);
    pthread_mutex_unlock(&k->mutex);
    *changed = *changed || some;
    return st_ledger_forget(k->ledger, before, e);
}

/* Today's first, and told at once: until they are there, nothing can be sold. */
static void look(struct st_issuer_keys *k, uint32_t *forgotten)
{
    struct st_err e;
    uint32_t today = st_issuer_keys_today(k);
    bool changed = false;
    int rc = make_day(k, today, &changed, &e);
    if (!rc && *forgotten != today) {
        rc = forget(k, today - 1, &changed, &e);
        *forgotten = rc ? 0 : today;
    }
    if (!rc && changed && k->o.changed)
        k->o.changed(k->o.arg);
    changed = false;
    if (!rc)
        rc = make_day(k, today + 1, &changed, &e);
    if (!rc && changed && k->o.changed)
        k->o.changed(k->o.arg);
    if (rc)
        st_log(ST_LOG_WARN, "signing keys: %s", e.msg);
}

static void *thread_main(void *arg)
{
    struct st_issuer_keys *k = arg;
    uint32_t forgotten = 0;
    st_priority_background();
    while (!stopping(k)) {
        struct timespec until;
        look(k, &forgotten);
        clock_gettime(CLOCK_MONOTONIC, &until);
        double at = (double)until.tv_sec + (double)until.tv_nsec * 1e-9 + k->o.every_s;
        until = (struct timespec){.tv_sec = (time_t)at, .tv_nsec = (long)((at - (double)(time_t)at) * 1e9)};
        pthread_mutex_lock(&k->mutex);
        while (!k->stop && pthread_cond_timedwait(&k->wake, &k->mutex, &until) == 0)
            ;
        pthread_mutex_unlock(&k->mutex);
    }
    return NULL;
}

/* ---- what the log is told ---- */

int st_issuer_keys_part(struct st_issuer_keys *k, const char *name, struct st_buf *out, struct st_err *e)
{
    struct st_directory_issuer *i = NULL;
    uint8_t(*der)[ST_BLIND_RSA_DER_MAX] = NULL;
    int rc = st_alloc(&i, 1, sizeof *i, "issuer's part", e);
    if (!rc)
        rc = st_alloc(&der, MAX_KEYS, sizeof *der, "issuer's part", e);
    if (rc)
        goto out;
    snprintf(i->name, sizeof i->name, "%s", name);
    pthread_mutex_lock(&k->mutex);
    for (size_t at = 0; !rc && at < k->n_held; at++) {
        const struct held *h = k->held[at];
        size_t len = 0;
        if (h->gone)
            continue;
        rc = st_blind_rsa_write_public(h->key.rsa, der[at], &len, e);
        i->keys[i->n_key++] =
            (struct st_directory_key){.day = h->key.day, .units = h->key.units, .key = {der[at], len}};
    }
    pthread_mutex_unlock(&k->mutex);
    if (!rc)
        st_directory_write_issuer(i, out);
out:
    free(der);
    free(i);
    return rc;
}

/* ---- life ---- */

static int start(struct st_issuer_keys *k, struct st_err *e)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int err = pthread_create(&k->thread, NULL, thread_main, k);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    k->started = !err;
    return err ? st_fail(e, ST_IO, "thread: %s", strerror(err)) : 0;
}

int st_issuer_keys_new(const struct st_issuer_keys_opts *o, struct st_issuer_keys **out, struct st_err *e)
{
    struct st_issuer_keys *k = NULL;
    pthread_condattr_t monotonic;
    *out = NULL;
    if (st_alloc(&k, 1, sizeof *k, "signing keys", e))
        return e->code;
    k->o = *o;
    k->o.clock = o->clock ? o->clock : st_unix_time;
    k->o.every_s = o->every_s > 0 ? o->every_s : 30;
    pthread_mutex_init(&k->mutex, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&k->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    int rc = st_ledger_open(o->db, &k->ledger, e);
    if (!rc)
        rc = st_ledger_keys(k->ledger, load, k, e);
    if (!rc)
        rc = start(k, e);
    if (rc)
        st_issuer_keys_free(k);
    else
        *out = k;
    return rc;
}

void st_issuer_keys_free(struct st_issuer_keys *k)
{
    if (!k)
        return;
    pthread_mutex_lock(&k->mutex);
    k->stop = true;
    pthread_cond_signal(&k->wake);
    pthread_mutex_unlock(&k->mutex);
    if (k->started)
        pthread_join(k->thread, NULL);
    for (size_t i = 0; i < k->n_held; i++)
        held_free(k->held[i]);
    st_ledger_close(k->ledger);
    pthread_cond_destroy(&k->wake);
    pthread_mutex_destroy(&k->mutex);
    free(k);
}
