#include "service/conf_spare.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_KEYS = 64, SOON_US = 2000 };

struct spare {
    struct st_ohttp_config key;
    uint64_t asked; /* the number of the last request for this key; 0: none */
    bool ready;
    struct st_ohttp x;
    struct st_buf head;
};

struct st_spares {
    struct event *soon;
    uint64_t n_asked, n_used;
    struct spare of[MAX_KEYS];
};

/* What an exchange depends on. */
static bool same(const struct st_ohttp_config *a, const struct st_ohttp_config *b)
{
    return a->id == b->id && a->kem == b->kem && a->suites[0].kdf == b->suites[0].kdf &&
           a->suites[0].aead == b->suites[0].aead && memcmp(a->public, b->public, st_hpke_public_len(a->kem)) == 0;
}

static void wipe(struct spare *p)
{
    if (p->ready)
        st_ohttp_wipe(&p->x);
    st_buf_wipe(&p->head);
    OPENSSL_cleanse(p, sizeof *p);
}

/* That of the key, or of the one that nobody has asked for longest. */
static struct spare *find(struct st_spares *s, const struct st_ohttp_config *key)
{
    struct spare *oldest = &s->of[0];
    for (size_t i = 0; i < MAX_KEYS; i++) {
        struct spare *p = &s->of[i];
        if (p->asked && same(&p->key, key))
            return p;
        if (p->asked < oldest->asked)
            oldest = p;
    }
    wipe(oldest);
    oldest->key = *key;
    return oldest;
}

static void on_soon(evutil_socket_t fd, short what, void *arg)
{
    struct st_spares *s = arg;
    struct st_err e;
    (void)fd;
    (void)what;
    for (size_t i = 0; i < MAX_KEYS; i++) {
        struct spare *p = &s->of[i];
        if (!p->asked || p->ready)
            continue;
        /* An error comes again, and is told, when a request asks. */
        p->ready = st_ohttp_client(&p->x, ST_OHTTP_CHUNKED, &p->key, 0, &p->head, &e) == 0;
        if (!p->ready || p->head.failed)
            wipe(p);
    }
}

int st_spares_begin(struct st_spares *s, const struct st_ohttp_config *key, struct st_ohttp *x, struct st_buf *out,
                    struct st_err *e)
{
    const struct timeval soon = {0, SOON_US};
    if (!s)
        return st_ohttp_client(x, ST_OHTTP_CHUNKED, key, 0, out, e);
    struct spare *p = find(s, key);
    p->asked = ++s->n_asked;
    if (!evtimer_pending(s->soon, NULL))
        event_add(s->soon, &soon);
    if (!p->ready)
        return st_ohttp_client(x, ST_OHTTP_CHUNKED, key, 0, out, e);
    s->n_used++;
    *x = p->x;
    OPENSSL_cleanse(&p->x, sizeof p->x);
    p->ready = false;
    st_buf_add(out, p->head.p, p->head.len);
    st_buf_wipe(&p->head);
    return 0;
}

uint64_t st_spares_used(const struct st_spares *s)
{
    return s->n_used;
}

int st_spares_new(struct event_base *base, struct st_spares **out, struct st_err *e)
{
    struct st_spares *s = NULL;
    *out = NULL;
    if (st_alloc(&s, 1, sizeof *s, "exchanges", e))
        return e->code;
    s->soon = evtimer_new(base, on_soon, s);
    if (!s->soon) {
        free(s);
        return st_fail(e, ST_MEMORY, "event loop: out of memory");
    }
    *out = s;
    return 0;
}

void st_spares_free(struct st_spares *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < MAX_KEYS; i++)
        wipe(&s->of[i]);
    event_free(s->soon);
    free(s);
}
