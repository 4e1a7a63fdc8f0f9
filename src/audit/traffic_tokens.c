/* Tokens sold and spent: the arithmetic is channel/token.h's; times are drawn. */
#include "audit/traffic.h"
#include "base/hooks.h"
#include "channel/token.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BATCH 16            /* tokens of one purchase */
#define DAY_S 86400.0       /* within which all buy */
#define KEPT_S (4 * 3600.0) /* mean time that a token lies in a wallet */
#define BITS 2048
#define UNITS 64

/* With a blinding factor of 1 the issuer sees what it signs. */
static int begin_unblinded(const struct st_blind_rsa *k, struct st_token_blank *b, struct st_err *e)
{
    static const char text[] = "sotto token 1"; /* channel/token.h */
    uint8_t salt[ST_BLIND_RSA_SALT], prepared[ST_TOKEN_RANDOM + sizeof text - 1];
    memset(b->state.inverse, 0, sizeof b->state.inverse);
    b->state.inverse[b->len - 1] = 1;
    memcpy(prepared, b->token.random, ST_TOKEN_RANDOM);
    memcpy(prepared + ST_TOKEN_RANDOM, text, sizeof text - 1);
    int rc = st_random(salt, sizeof salt, e);
    return rc ? rc : st_blind_rsa_blind_from(k, prepared, sizeof prepared, salt, &b->state, b->blinded, e);
}

static int trade(const struct st_blind_rsa *k, bool unblinded, struct st_token_blank *b, struct st_traffic_sold *sold,
                 struct st_traffic_spent *spent, struct st_err *e)
{
    struct st_token token;
    int rc = st_token_begin(k, 0, UNITS, b, e);
    if (!rc && unblinded)
        rc = begin_unblinded(k, b, e);
    if (!rc)
        rc = st_blind_rsa_sign(k, b->blinded, b->len, sold->answer, e);
    if (rc)
        return rc;
    memcpy(sold->blinded, b->blinded, b->len);
    rc = st_token_finish(b, k, (struct st_span){sold->answer, b->len}, &token, e);
    if (!rc)
        memcpy(spent->signature, token.signature, token.signature_len);
    return rc;
}

static int by_time(const void *a, const void *b)
{
    double x = ((const struct st_traffic_spent *)a)->time, y = ((const struct st_traffic_spent *)b)->time;
    return (x > y) - (x < y);
}

int st_traffic_tokens(struct st_traffic *t, const struct st_traffic_opts *o, struct st_err *e)
{
    struct st_blind_rsa *k = NULL;
    struct st_token_blank blank;
    struct st_rng rng;
    double now = 0;
    t->n_token = BATCH * t->n_client;
    int rc = st_alloc(&t->sold, t->n_token, sizeof *t->sold, "tokens", e);
    if (!rc)
        rc = st_alloc(&t->spent, t->n_token, sizeof *t->spent, "tokens", e);
    if (!rc)
        rc = st_blind_rsa_new(BITS, &k, e);
    if (rc)
        return rc;
    st_rng_seed(&rng, o->seed);
    t->token_len = st_blind_rsa_len(k);
    for (size_t i = 0; !rc && i < t->n_token; i++) {
        struct st_traffic_sold *sold = &t->sold[i];
        now = i % BATCH ? now : DAY_S * st_rng_unit(&rng);
        sold->client = (uint32_t)(i / BATCH);
        sold->time = now;
        t->spent[i].sold = (uint32_t)i;
        t->spent[i].time = now - KEPT_S * log(1 - st_rng_unit(&rng));
        rc = trade(k, o->unblinded, &blank, sold, &t->spent[i], e);
        explicit_bzero(&blank, sizeof blank);
    }
    st_blind_rsa_free(k);
    if (!rc)
        qsort(t->spent, t->n_token, sizeof *t->spent, by_time); /* the order of the sales is the issuer's alone */
    return rc;
}
