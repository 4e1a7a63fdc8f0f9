#include "attest/verdict_cache.h"
#include "attest/policy_priv.h"
#include "crypto/digest.h"
#include "crypto/x509.h"

#include <stdlib.h>
#include <string.h>

struct entry {
    uint8_t key[32];
    int64_t from, until; /* stands at from <= time < until */
    uint64_t used;       /* 0: free */
    struct st_verdict verdict;
};

struct st_verdict_cache {
    struct entry *entries;
    size_t n;
    int64_t keep_s;
    uint64_t clock;         /* of uses */
    struct st_verdict last; /* a bad one, for its caller only */
};

int st_verdict_cache_new(size_t max_entries, int64_t keep_s, struct st_verdict_cache **out, struct st_err *e)
{
    *out = NULL;
    if (max_entries == 0 || max_entries > ST_VERDICT_CACHE_MAX || keep_s < 1)
        return st_fail(e, ST_USAGE, "verdict cache: want 1..%d entries and 1 second at least", ST_VERDICT_CACHE_MAX);
    struct st_verdict_cache *c = calloc(1, sizeof *c);
    if (c)
        c->entries = calloc(max_entries, sizeof *c->entries);
    if (!c || !c->entries) {
        free(c);
        return st_fail(e, ST_MEMORY, "verdict cache: out of memory");
    }
    c->n = max_entries;
    c->keep_s = keep_s;
    *out = c;
    return 0;
}

void st_verdict_cache_free(struct st_verdict_cache *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->n; i++)
        st_verdict_wipe(&c->entries[i].verdict);
    st_verdict_wipe(&c->last);
    free(c->entries);
    free(c);
}

/* Fields of fixed length but the nonce, which stands last. */
static int make_key(const uint8_t digest[32], const struct st_judge *j, uint8_t key[32])
{
    uint8_t in[72 + ST_BINDING_MAX_NONCE];
    if (j->nonce.len > ST_BINDING_MAX_NONCE)
        return ST_INPUT;
    memcpy(in, digest, 32);
    memcpy(in + 32, j->policy->digest, 32);
    memcpy(in + 64, &j->nonce_time, 8);
    if (j->nonce.len)
        memcpy(in + 72, j->nonce.p, j->nonce.len);
    st_sha256(in, 72 + j->nonce.len, key);
    return 0;
}

static struct entry *find(struct st_verdict_cache *c, const uint8_t key[32])
{
    for (size_t i = 0; i < c->n; i++)
        if (c->entries[i].used && memcmp(c->entries[i].key, key, 32) == 0)
            return &c->entries[i];
    return NULL;
}

static const struct st_verdict *look_up(struct st_verdict_cache *c, const uint8_t key[32], int64_t time)
{
    struct entry *x = find(c, key);
    if (!x || time < x->from || time >= x->until)
        return NULL;
    x->used = ++c->clock;
    return &x->verdict;
}

const struct st_verdict *st_verdict_cache_find(struct st_verdict_cache *c, const uint8_t digest[32],
                                               const struct st_judge *j)
{
    uint8_t key[32];
    return make_key(digest, j, key) ? NULL : look_up(c, key, j->time);
}

/* The one with this key, whose time is over, or the one least recently used. */
static struct entry *make_room(struct st_verdict_cache *c, const uint8_t key[32])
{
    struct entry *x = find(c, key);
    for (size_t i = 0; i < c->n && !x; i++)
        x = c->entries[i].used ? NULL : &c->entries[i];
    if (!x) {
        x = c->entries;
        for (size_t i = 1; i < c->n; i++)
            if (c->entries[i].used < x->used)
                x = &c->entries[i];
    }
    st_verdict_wipe(&x->verdict);
    return x;
}

int st_verdict_cache_judge(struct st_verdict_cache *c, const uint8_t digest[32], const struct st_judge *j,
                           const struct st_verdict **out, struct st_err *e)
{
    uint8_t key[32];
    bool keyed = make_key(digest, j, key) == 0;
    *out = keyed ? look_up(c, key, j->time) : NULL;
    if (*out)
        return 0;
    st_verdict_wipe(&c->last);
    if (st_policy_judge(j, &c->last, e))
        return e->code;
    *out = &c->last;
    if (!keyed || !c->last.good)
        return 0;
    struct entry *x = make_room(c, key);
    memcpy(x->key, key, 32);
    x->verdict = c->last;
    c->last = (struct st_verdict){.code = ST_VERIFY};
    x->from = j->time;
    x->until = x->verdict.found.until;
    st_x509_limit(&x->until, j->time + c->keep_s);
    x->used = ++c->clock;
    *out = &x->verdict;
    return 0;
}
