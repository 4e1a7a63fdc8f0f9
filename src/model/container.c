#include "model/container.h"
#include "base/log.h"
#include "base/pool.h"
#include "crypto/digest.h"
#include "model/container_parse.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

bool st_container_named(const char *path)
{
    static const char tail[] = ".sealed";
    size_t len = strlen(path);
    return len >= sizeof tail && strcmp(path + len - (sizeof tail - 1), tail) == 0;
}

bool st_container_is(const char *path)
{
    char magic[8];
    struct stat sb;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    bool is = fd >= 0 && fstat(fd, &sb) == 0 && S_ISREG(sb.st_mode) && read(fd, magic, sizeof magic) == sizeof magic &&
              memcmp(magic, "SOTTOSEA", sizeof magic) == 0;
    bool there = fd >= 0;
    if (there)
        close(fd);
    return is || (there && st_container_named(path));
}

static const struct st_container_entry *entry_of(const struct st_container *c, const struct st_tensor *t)
{
    return st_container_find(c, t->name);
}

static int source_read(void *ctx, const struct st_tensor *t, uint64_t at, size_t len, void *dst, struct st_err *e)
{
    const struct st_container *c = ctx;
    const struct st_container_entry *n = entry_of(c, t);
    return n ? st_container_read(c, n, at, len, dst, e)
             : st_fail(e, ST_INTERNAL, "%s: %s: not in this container", st_container_label(c), t->name);
}

static uint32_t source_block(void *ctx, const struct st_tensor *t)
{
    const struct st_container_entry *n = entry_of(ctx, t);
    return n ? n->segment_bytes : 1;
}

static bool source_secret(void *ctx, const struct st_tensor *t)
{
    const struct st_container_entry *n = entry_of(ctx, t);
    return !n || n->place == ST_CONTAINER_INSIDE;
}

static bool source_readable(void *ctx, const struct st_tensor *t)
{
    return !source_secret(ctx, t);
}

const struct st_source st_container_outside = {
    .read = source_read, .block = source_block, .secret = source_secret, .readable = source_readable};

static int open_file(const char *path, const uint8_t *publisher, struct st_container **out, struct st_err *e)
{
    struct st_map map;
    *out = NULL;
    int rc = st_map_open(path, &map, e);
    if (rc)
        return rc;
    rc = st_container_parse(map.p, map.len, path, publisher, out, e);
    if (rc) {
        st_map_close(&map);
        return rc;
    }
    (*out)->map = map;
    return 0;
}

int st_container_open(const char *path, struct st_container **out, struct st_err *e)
{
    return open_file(path, NULL, out, e);
}

int st_container_open_by(const char *path, const uint8_t publisher[32], struct st_container **out, struct st_err *e)
{
    return open_file(path, publisher, out, e);
}

void st_container_close(struct st_container *c)
{
    if (!c)
        return;
    st_map_close(&c->map);
    json_decref(c->json);
    free(c->entries);
    free(c->place);
    free(c->by_name);
    free(c->digests);
    free(c->head);
    free(c->path);
    free(c);
}

const char *st_container_path(const struct st_container *c)
{
    return c->path;
}

const char *st_container_label(const struct st_container *c)
{
    const char *slash = strrchr(c->path, '/');
    return slash ? slash + 1 : c->path;
}

void st_container_about(const struct st_container *c, struct st_container_about *out)
{
    *out = c->about;
}

size_t st_container_count(const struct st_container *c)
{
    return c->n;
}

const struct st_container_entry *st_container_at(const struct st_container *c, size_t i)
{
    return i < c->n ? &c->entries[i] : NULL;
}

const struct st_container_entry *st_container_find(const struct st_container *c, const char *name)
{
    size_t lo = 0, hi = c->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        const struct st_container_entry *n = &c->entries[c->by_name[mid]];
        int order = strcmp(name, n->tensor.name);
        if (order == 0)
            return n;
        *(order < 0 ? &hi : &lo) = order < 0 ? mid : mid + 1;
    }
    return NULL;
}

struct st_span st_container_recipients(const struct st_container *c)
{
    return c->recipients;
}

const uint8_t *st_container_mac(const struct st_container *c)
{
    return c->mac;
}

const struct st_source *st_container_source(const struct st_container *c)
{
    return &c->source;
}

uint32_t st_container_segment_bytes(const struct st_container_entry *n, uint32_t k)
{
    uint64_t at = (uint64_t)k * n->segment_bytes, left = at < n->tensor.bytes ? n->tensor.bytes - at : 0;
    return left < n->segment_bytes ? (uint32_t)left : n->segment_bytes;
}

struct st_span st_container_segment(const struct st_container *c, const struct st_container_entry *n, uint32_t k)
{
    uint32_t seal = n->place == ST_CONTAINER_INSIDE ? ST_CONTAINER_SEAL_BYTES : 0;
    uint64_t at = c->place[n - c->entries] + (uint64_t)k * (n->segment_bytes + seal);
    return (struct st_span){c->p + at, st_container_segment_bytes(n, k) + seal};
}

/* Whether these bytes, as they are stored, are segment k. */
static bool matches(const struct st_container *c, const struct st_container_entry *n, uint32_t k, const void *p,
                    size_t len)
{
    uint8_t hash[32];
    st_sha256(p, len, hash);
    return memcmp(hash, c->digests + ((size_t)n->first_segment + k) * ST_CONTAINER_HASH, sizeof hash) == 0;
}

static int changed(const struct st_container *c, const struct st_container_entry *n, uint32_t k, struct st_err *e)
{
    return st_fail(e, ST_VERIFY, "%s: %s: segment %" PRIu32 " is changed", st_container_label(c), n->tensor.name, k);
}

int st_container_read(const struct st_container *c, const struct st_container_entry *n, uint64_t at, size_t len,
                      void *dst, struct st_err *e)
{
    uint8_t *part = NULL, *to = dst;
    int rc = 0;
    if (n->place == ST_CONTAINER_INSIDE)
        return st_fail(e, ST_POLICY, "%s: %s: is sealed", st_container_label(c), n->tensor.name);
    if (at > n->tensor.bytes || len > n->tensor.bytes - at)
        return st_fail(e, ST_INTERNAL, "%s: %s: read beyond its end", st_container_label(c), n->tensor.name);
    while (!rc && len) {
        uint32_t k = (uint32_t)(at / n->segment_bytes), from = (uint32_t)(at % n->segment_bytes);
        struct st_span s = st_container_segment(c, n, k);
        size_t take = s.len - from < len ? s.len - from : len;
        bool whole = take == s.len;
        /* Copied first, then checked: the file may change between the two. */
        if (!whole && !part && (rc = st_alloc(&part, n->segment_bytes, 1, "segment", e)) != 0)
            break;
        memcpy(whole ? to : part, s.p, s.len);
        if (!matches(c, n, k, whole ? to : part, s.len))
            rc = changed(c, n, k, e);
        else if (!whole)
            memcpy(to, part + from, take);
        to += take;
        at += take;
        len -= take;
    }
    free(part);
    return rc;
}

int st_container_file(const struct st_container *c, const char *name, size_t max, struct st_buf *out, struct st_err *e)
{
    const struct st_container_entry *n = st_container_find(c, name);
    if (!n || !n->is_file)
        return st_fail(e, ST_INPUT, "%s: holds no %s", c->path, name);
    if (n->tensor.bytes > max)
        return st_fail(e, ST_INPUT, "%s: %s: %zu bytes; at most %zu are accepted", c->path, name, n->tensor.bytes, max);
    st_buf_clear(out);
    char *p = st_buf_room(out, n->tensor.bytes);
    if (!p)
        return st_fail(e, ST_MEMORY, "%s: %s: out of memory", c->path, name);
    int rc = st_container_read(c, n, 0, n->tensor.bytes, p, e);
    if (rc)
        st_buf_clear(out);
    return rc;
}

/* Checking all of it.
 * ---------------------------------------------------------------------------------------------------------------- */

struct checking {
    const struct st_container *c;
    atomic_size_t taken; /* entries */
    atomic_uint_fast64_t done;
    atomic_bool failed;
    atomic_size_t entry; /* the first that failed */
    atomic_uint segment;
    struct st_progress bar;
    bool progress;
};

static void check_entry(struct checking *w, size_t i, bool draws)
{
    const struct st_container_entry *n = &w->c->entries[i];
    for (uint32_t k = 0; k < n->n_segment && !atomic_load(&w->failed); k++) {
        struct st_span s = st_container_segment(w->c, n, k);
        if (!matches(w->c, n, k, s.p, s.len) && !atomic_exchange(&w->failed, true)) {
            atomic_store(&w->entry, i);
            atomic_store(&w->segment, k);
        }
        uint64_t done = atomic_fetch_add(&w->done, s.len) + s.len;
        if (draws)
            st_progress_update(&w->bar, done);
    }
}

static void check_entries(void *arg, int thread, int n_threads)
{
    struct checking *w = arg;
    (void)n_threads;
    for (size_t i; (i = atomic_fetch_add(&w->taken, 1)) < w->c->n;)
        check_entry(w, i, w->progress && thread == 0);
}

int st_container_check(const struct st_container *c, int n_threads, bool progress, struct st_err *e)
{
    struct checking w = {.c = c, .progress = progress};
    struct st_pool *pool;
    int rc = st_pool_new(n_threads, &pool, e);
    if (rc)
        return rc;
    if (progress)
        st_progress_start(&w.bar, "Checking", "B", c->len - c->place[0]);
    st_pool_run(pool, check_entries, &w);
    if (progress)
        st_progress_end(&w.bar);
    st_pool_free(pool);
    if (atomic_load(&w.failed))
        rc = changed(c, &c->entries[atomic_load(&w.entry)], atomic_load(&w.segment), e);
    return rc;
}

/* Associated data.
 * ---------------------------------------------------------------------------------------------------------------- */

/* The next field, behind its length; where the one behind it goes. */
static uint8_t *put_field(uint8_t *to, const void *p, size_t len)
{
    for (int i = 0; i < 4; i++)
        *to++ = (uint8_t)(len >> (8 * i));
    memcpy(to, p, len);
    return to + len;
}

static void put_u64(uint8_t *out, uint64_t v)
{
    for (int i = 0; i < 8; i++)
        out[i] = (uint8_t)(v >> (8 * i));
}

static uint8_t *put_number(uint8_t *to, uint64_t v)
{
    uint8_t le[8];
    put_u64(le, v);
    return put_field(to, le, sizeof le);
}

size_t st_container_segment_ad(const struct st_container_about *a, const struct st_container_entry *n, uint32_t k,
                               uint8_t out[ST_CONTAINER_AD_MAX])
{
    static const char label[] = "sotto sealed 1 segment";
    const struct st_tensor *t = &n->tensor;
    const char *place = n->place == ST_CONTAINER_INSIDE ? "inside" : "outside";
    uint8_t shape[8 * ST_MAX_DIMS] = {0}, last = k + 1 == n->n_segment, *to = out;
    for (int i = 0; i < t->n_dim; i++)
        put_u64(shape + 8 * i, t->dim[i]);
    to = put_field(to, label, sizeof label - 1);
    to = put_field(to, a->id, sizeof a->id);
    to = put_number(to, a->version);
    to = put_field(to, t->name, strnlen(t->name, ST_CONTAINER_NAME_MAX));
    to = put_field(to, t->stored, strnlen(t->stored, ST_CONTAINER_DTYPE_MAX));
    to = put_field(to, shape, 8 * (size_t)t->n_dim);
    to = put_field(to, place, strlen(place));
    to = put_number(to, k);
    to = put_field(to, &last, 1);
    return (size_t)(to - out);
}
