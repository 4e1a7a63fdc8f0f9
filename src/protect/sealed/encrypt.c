#include "protect/sealed/encrypt.h"
#include "base/hooks.h"
#include "base/log.h"
#include "base/pool.h"
#include "base/stage.h"
#include "crypto/aead.h"
#include "crypto/digest.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct run {
    struct st_sealed_encrypt *w;
    bool *kept;        /* [n] finished by an earlier run */
    atomic_uint *left; /* [n] segments that are not written yet */
    atomic_size_t taken, n_kept;
    atomic_uint_fast64_t done; /* bytes */
    atomic_bool failed;
    pthread_mutex_t lock;
    struct st_err err; /* the first error */
    struct st_progress bar;
};

/* What one thread has of its own. */
struct hand {
    struct run *r;
    uint8_t *out; /* a sealed segment */
    bool draws;
};

static void fail(struct run *r, const struct st_err *e)
{
    pthread_mutex_lock(&r->lock);
    if (!atomic_exchange(&r->failed, true))
        r->err = *e;
    pthread_mutex_unlock(&r->lock);
}

static void advance(struct hand *h, uint64_t bytes)
{
    uint64_t done = atomic_fetch_add(&h->r->done, bytes) + bytes;
    if (h->draws)
        st_progress_update(&h->r->bar, done);
}

static size_t stored_bytes(const struct st_container_entry *n, uint32_t k)
{
    return st_container_segment_bytes(n, k) + (n->place == ST_CONTAINER_INSIDE ? ST_CONTAINER_SEAL_BYTES : 0);
}

static uint64_t stored_at(const struct st_sealed_encrypt *w, size_t i, uint32_t k)
{
    const struct st_container_entry *n = &w->contents->at[i];
    return w->layout->at[i] +
           (uint64_t)k * (n->segment_bytes + (n->place == ST_CONTAINER_INSIDE ? ST_CONTAINER_SEAL_BYTES : 0));
}

static uint8_t *digest_of(const struct st_sealed_encrypt *w, size_t i, uint32_t k)
{
    return w->digests + ((size_t)w->contents->at[i].first_segment + k) * ST_CONTAINER_HASH;
}

/* What the journal has of a finished entry: the hash of its segments' digests. */
static void sum_of(const struct st_sealed_encrypt *w, size_t i, uint8_t sum[32])
{
    st_sha256(digest_of(w, i, 0), (size_t)w->contents->at[i].n_segment * ST_CONTAINER_HASH, sum);
}

/* ---- what is there already ---- */

static bool read_at(int fd, uint64_t at, uint8_t *p, size_t len)
{
    while (len) {
        ssize_t n = pread(fd, p, len, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        p += n;
        at += (uint64_t)n;
        len -= (size_t)n;
    }
    return true;
}

/* Whether an earlier run finished the entry and its bytes are still those. */
static bool is_there(struct hand *h, size_t i)
{
    struct st_sealed_encrypt *w = h->r->w;
    const struct st_container_entry *n = &w->contents->at[i];
    const uint8_t *noted = st_journal_find(w->journal, n->tensor.name);
    uint8_t sum[32];
    if (!noted)
        return false;
    for (uint32_t k = 0; k < n->n_segment; k++) {
        size_t len = stored_bytes(n, k);
        if (!read_at(w->fd, stored_at(w, i, k), h->out, len))
            return false;
        st_sha256(h->out, len, digest_of(w, i, k));
    }
    sum_of(w, i, sum);
    return memcmp(sum, noted, sizeof sum) == 0;
}

static void look(struct hand *h, size_t i)
{
    struct run *r = h->r;
    const struct st_container_entry *n = &r->w->contents->at[i];
    r->kept[i] = is_there(h, i);
    atomic_store(&r->left[i], n->n_segment);
    if (r->kept[i]) {
        atomic_fetch_add(&r->n_kept, 1);
        advance(h, n->tensor.bytes);
    }
}

/* ---- what is not ---- */

/* nonce | ciphertext | tag, the nonce fresh for every segment that is ever written. */
static int seal(struct hand *h, const struct st_container_entry *n, uint32_t k, const uint8_t *plain, struct st_err *e)
{
    const struct st_sealed_encrypt *w = h->r->w;
    uint8_t ad[ST_CONTAINER_AD_MAX];
    size_t ad_len = st_container_segment_ad(w->about, n, k, ad);
    if (st_random(h->out, ST_AEAD_NONCE_LEN, e))
        return e->code;
    return st_aead_seal(w->segment_key->p, h->out, ad, ad_len, plain, st_container_segment_bytes(n, k),
                        h->out + ST_AEAD_NONCE_LEN, e);
}

/* The thread that writes an entry's last segment notes it. */
static int finish(struct run *r, size_t i, struct st_err *e)
{
    uint8_t sum[32];
    if (atomic_fetch_sub(&r->left[i], 1) != 1)
        return 0;
    sum_of(r->w, i, sum);
    return st_journal_add(r->w->journal, r->w->contents->at[i].tensor.name, sum, e);
}

static int write_segment(struct hand *h, size_t i, uint32_t k, struct st_err *e)
{
    const struct st_sealed_encrypt *w = h->r->w;
    const struct st_container_entry *n = &w->contents->at[i];
    size_t from = (size_t)k * n->segment_bytes, len = st_container_segment_bytes(n, k);
    const uint8_t *plain = (const uint8_t *)n->tensor.data + from;
    int rc = 0;
    if (n->place == ST_CONTAINER_INSIDE)
        rc = seal(h, n, k, plain, e);
    else
        memcpy(h->out, plain, len); /* so that what is hashed is what is written */
    if (rc)
        return rc;
    st_sha256(h->out, stored_bytes(n, k), digest_of(w, i, k));
    if (st_stage_write(w->fd, stored_at(w, i, k), h->out, stored_bytes(n, k)) != 0)
        return st_fail(e, ST_IO, "%s: cannot write: %s", n->tensor.name, strerror(errno));
    if (!n->is_file)
        st_ckpt_release_part(w->contents->ckpt, &n->tensor, from, len);
    advance(h, len);
    return finish(h->r, i, e);
}

/* The entry of a segment of the whole container. */
static size_t entry_of(const struct st_contents *c, uint32_t segment)
{
    size_t lo = 0, hi = c->n;
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
        *(c->at[mid].first_segment <= segment ? &lo : &hi) = mid;
    }
    return lo;
}

/* ---- threads ---- */

/* `work` on every item that is still to be taken. */
static void each(struct run *r, size_t n, bool draws, int (*work)(struct hand *h, size_t item, struct st_err *e))
{
    struct hand h = {.r = r, .draws = draws};
    struct st_err e;
    if (st_alloc(&h.out, 1, ST_CONTAINER_SEGMENT + ST_CONTAINER_SEAL_BYTES, "segment", &e))
        fail(r, &e);
    for (size_t i; !atomic_load(&r->failed) && (i = atomic_fetch_add(&r->taken, 1)) < n;)
        if (work(&h, i, &e))
            fail(r, &e);
    free(h.out);
}

static int look_at(struct hand *h, size_t i, struct st_err *e)
{
    (void)e;
    look(h, i);
    return 0;
}

static void look_all(void *arg, int thread, int n_threads)
{
    struct run *r = arg;
    (void)n_threads;
    each(r, r->w->contents->n, r->bar.on && thread == 0, look_at);
}

static int write_one(struct hand *h, size_t segment, struct st_err *e)
{
    const struct st_contents *c = h->r->w->contents;
    size_t i = entry_of(c, (uint32_t)segment);
    return h->r->kept[i] ? 0 : write_segment(h, i, (uint32_t)segment - c->at[i].first_segment, e);
}

static void write_all(void *arg, int thread, int n_threads)
{
    struct run *r = arg;
    (void)n_threads;
    each(r, r->w->contents->n_segment, r->bar.on && thread == 0, write_one);
}

int st_sealed_encrypt(struct st_sealed_encrypt *w, struct st_err *e)
{
    struct run r = {.w = w, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct st_pool *pool = NULL;
    size_t n = w->contents->n;
    int rc = st_alloc(&r.kept, n, sizeof *r.kept, "entries", e);
    if (!rc)
        rc = st_alloc(&r.left, n, sizeof *r.left, "entries", e);
    if (!rc)
        rc = st_pool_new(w->n_threads, &pool, e);
    if (!rc) {
        st_progress_start(&r.bar, "Sealing", "B", w->contents->bytes);
        r.bar.on = r.bar.on && w->progress;
        st_pool_run(pool, look_all, &r);
        atomic_store(&r.taken, 0);
        if (!atomic_load(&r.failed))
            st_pool_run(pool, write_all, &r);
        st_progress_end(&r.bar);
    }
    if (atomic_load(&r.failed))
        rc = st_fail(e, r.err.code, "%s", r.err.msg);
    w->n_kept = atomic_load(&r.n_kept);
    st_pool_free(pool);
    free(r.left);
    free(r.kept);
    pthread_mutex_destroy(&r.lock);
    return rc;
}
