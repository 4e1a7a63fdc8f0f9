#include "service/wallet_blanks.h"
#include "base/priority.h"

#include <openssl/crypto.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* Of each denomination: enough for the change of some requests that come at once. */
#define READY 128
#define AT_ONCE ST_BLIND_RSA_JOBS /* made together, which is cheaper */

struct shelf {
    uint32_t day;
    uint8_t der[ST_BLIND_RSA_DER_MAX];
    size_t der_len; /* 0: no key yet */
    struct st_blind_rsa *key;
    uint32_t edition; /* counts the keys */
    int users;        /* the maker is at work with the key */
    struct st_token_blank ready[READY];
    size_t n;
};

struct st_wallet_blanks {
    pthread_mutex_t mutex;
    pthread_cond_t wake; /* there is something to make, or a key is free */
    struct shelf shelf[ST_TOKEN_N_UNITS];
    bool stop, started;
    pthread_t thread;
};

static struct shelf *find(struct st_wallet_blanks *b, uint32_t units)
{
    for (size_t i = 0; i < ST_TOKEN_N_UNITS; i++)
        if (st_token_units[i] == units)
            return &b->shelf[i];
    return NULL;
}

/* The emptiest shelf that has a key and room; NULL when all are full. */
static struct shelf *next_to_fill(struct st_wallet_blanks *b)
{
    struct shelf *best = NULL;
    for (size_t i = 0; i < ST_TOKEN_N_UNITS; i++)
        if (b->shelf[i].key && b->shelf[i].n <= READY - AT_ONCE && (!best || b->shelf[i].n < best->n))
            best = &b->shelf[i];
    return best;
}

static void *thread_main(void *arg)
{
    struct st_wallet_blanks *b = arg;
    struct st_token_blank made[AT_ONCE];
    struct st_err e;
    st_priority_background();
    pthread_mutex_lock(&b->mutex);
    while (!b->stop) {
        struct shelf *s = next_to_fill(b);
        if (!s) {
            pthread_cond_wait(&b->wake, &b->mutex);
            continue;
        }
        uint32_t edition = s->edition, day = s->day, units = st_token_units[s - b->shelf];
        struct st_blind_rsa *key = s->key;
        s->users++;
        pthread_mutex_unlock(&b->mutex);
        int rc = st_token_begin_many(key, day, units, made, AT_ONCE, &e);
        pthread_mutex_lock(&b->mutex);
        s->users--;
        for (size_t i = 0; !rc && s->edition == edition && i < AT_ONCE && s->n < READY; i++)
            s->ready[s->n++] = made[i];
        pthread_cond_broadcast(&b->wake);
        if (rc) /* whoever takes the next one makes it, and sees the error */
            pthread_cond_wait(&b->wake, &b->mutex);
    }
    pthread_mutex_unlock(&b->mutex);
    OPENSSL_cleanse(made, sizeof made);
    return NULL;
}

int st_wallet_blanks_key(struct st_wallet_blanks *b, uint32_t day, uint32_t units, struct st_span der, struct st_err *e)
{
    struct shelf *s = find(b, units);
    struct st_blind_rsa *key;
    if (!s || der.len > sizeof s->der)
        return st_fail(e, ST_INPUT, "wallet: a key of %u units, which is no denomination", (unsigned)units);
    /* Only this function changes keys, and only one thread calls it. */
    if (s->day == day && s->der_len == der.len && memcmp(s->der, der.p, der.len) == 0)
        return 0;
    if (st_blind_rsa_parse_public(der.p, der.len, &key, e))
        return e->code;
    pthread_mutex_lock(&b->mutex);
    while (s->users)
        pthread_cond_wait(&b->wake, &b->mutex);
    st_blind_rsa_free(s->key);
    s->key = key;
    s->day = day;
    memcpy(s->der, der.p, der.len);
    s->der_len = der.len;
    s->edition++;
    OPENSSL_cleanse(s->ready, sizeof s->ready);
    s->n = 0;
    pthread_cond_broadcast(&b->wake);
    pthread_mutex_unlock(&b->mutex);
    return 0;
}

/* The shelf is empty, and the maker busy: several are made here, one to take and the others for the shelf. */
static int make_here(struct st_wallet_blanks *b, struct shelf *s, struct st_token_blank *out, struct st_err *e)
{
    struct st_token_blank made[AT_ONCE];
    int rc = st_token_begin_many(s->key, s->day, st_token_units[s - b->shelf], made, AT_ONCE, e);
    if (!rc) {
        *out = made[0];
        pthread_mutex_lock(&b->mutex);
        for (size_t i = 1; i < AT_ONCE && s->n < READY; i++)
            s->ready[s->n++] = made[i];
        pthread_mutex_unlock(&b->mutex);
    }
    OPENSSL_cleanse(made, sizeof made);
    return rc;
}

int st_wallet_blanks_take(struct st_wallet_blanks *b, uint32_t units, struct st_token_blank *out, struct st_err *e)
{
    struct shelf *s = find(b, units);
    if (!s || !s->key)
        return st_fail(e, ST_POLICY, "wallet: the directory has no key of the issuer for %u units", (unsigned)units);
    pthread_mutex_lock(&b->mutex);
    bool ready = s->n > 0;
    if (ready) {
        *out = s->ready[--s->n];
        OPENSSL_cleanse(&s->ready[s->n], sizeof s->ready[s->n]);
        if (s->n % AT_ONCE == 0) /* there is room for so many */
            pthread_cond_broadcast(&b->wake);
    }
    pthread_mutex_unlock(&b->mutex);
    return ready ? 0 : make_here(b, s, out, e);
}

int st_wallet_blanks_new(struct st_wallet_blanks **out, struct st_err *e)
{
    struct st_wallet_blanks *b = NULL;
    sigset_t all, old;
    *out = NULL;
    if (st_alloc(&b, 1, sizeof *b, "wallet", e))
        return e->code;
    pthread_mutex_init(&b->mutex, NULL);
    pthread_cond_init(&b->wake, NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int err = pthread_create(&b->thread, NULL, thread_main, b);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    b->started = !err;
    *out = b;
    if (!err)
        return 0;
    st_wallet_blanks_free(b);
    *out = NULL;
    return st_fail(e, ST_IO, "thread: %s", strerror(err));
}

void st_wallet_blanks_free(struct st_wallet_blanks *b)
{
    if (!b)
        return;
    pthread_mutex_lock(&b->mutex);
    b->stop = true;
    pthread_cond_broadcast(&b->wake);
    pthread_mutex_unlock(&b->mutex);
    if (b->started)
        pthread_join(b->thread, NULL);
    for (size_t i = 0; i < ST_TOKEN_N_UNITS; i++)
        st_blind_rsa_free(b->shelf[i].key);
    pthread_cond_destroy(&b->wake);
    pthread_mutex_destroy(&b->mutex);
    OPENSSL_cleanse(b, sizeof *b);
    free(b);
}
