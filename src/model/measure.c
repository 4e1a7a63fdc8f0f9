#include "model/measure.h"
#include "base/file.h"
#include "base/log.h"
#include "base/pool.h"
#include "crypto/digest.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Hashed in slices that are given back, so that a model larger than memory does not push everything else out. */
#define SLICE_BYTES ((size_t)16 << 20)

struct part {
    char name[NAME_MAX + 1];
    struct st_map map;
    uint8_t hash[32];
    bool ok;
};

struct work {
    struct part *parts; /* [n] */
    size_t n, cap;
    atomic_size_t taken, done; /* parts, bytes */
    struct st_progress bar;
    bool progress;
};

static bool hash_part(struct work *w, struct part *p, bool draws)
{
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool ok = ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1;
    for (size_t at = 0; ok && at < p->map.len; at += SLICE_BYTES) {
        size_t n = p->map.len - at < SLICE_BYTES ? p->map.len - at : SLICE_BYTES;
        ok = EVP_DigestUpdate(ctx, p->map.p + at, n) == 1;
        madvise((void *)(p->map.p + at), n, MADV_DONTNEED);
        size_t done = atomic_fetch_add(&w->done, n) + n;
        if (draws)
            st_progress_update(&w->bar, done);
    }
    ok = ok && EVP_DigestFinal_ex(ctx, p->hash, NULL) == 1;
    EVP_MD_CTX_free(ctx);
    return ok;
}

static void hash_parts(void *arg, int thread, int n_threads)
{
    struct work *w = arg;
    (void)n_threads;
    for (size_t i; (i = atomic_fetch_add(&w->taken, 1)) < w->n;)
        w->parts[i].ok = hash_part(w, &w->parts[i], w->progress && thread == 0);
}

static int add_part(struct work *w, const char *path, const char *name, struct st_err *e)
{
    if (w->n == w->cap) {
        size_t cap = w->cap ? 2 * w->cap : 16;
        struct part *parts = reallocarray(w->parts, cap, sizeof *parts);
        if (!parts)
            return st_fail(e, ST_MEMORY, "%s: out of memory", path);
        w->parts = parts;
        w->cap = cap;
    }
    struct part *p = &w->parts[w->n];
    *p = (struct part){.ok = false};
    snprintf(p->name, sizeof p->name, "%s", name);
    int rc = st_map_open(path, &p->map, e);
    if (!rc)
        w->n++;
    return rc;
}

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), t = strlen(tail);
    return n > t && strcmp(s + n - t, tail) == 0;
}

const char *const st_model_texts[] = {"config.json",
                                      "generation_config.json",
                                      "tokenizer.json",
                                      "tokenizer.model",
                                      "tokenizer_config.json",
                                      "special_tokens_map.json",
                                      "added_tokens.json",
                                      "vocab.json",
                                      "merges.txt",
                                      "chat_template.jinja",
                                      "chat_template.json",
                                      NULL};

bool st_model_counts(const char *name)
{
    for (size_t i = 0; st_model_texts[i]; i++)
        if (strcmp(name, st_model_texts[i]) == 0)
            return true;
    return ends_with(name, ".safetensors") || ends_with(name, ".safetensors.index.json");
}

static int counts(const struct dirent *d)
{
    return st_model_counts(d->d_name);
}

/* Bytewise, whatever the locale. */
static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int add_dir(struct work *w, const char *dir, struct st_err *e)
{
    struct dirent **list = NULL;
    int n = scandir(dir, &list, counts, by_name);
    if (n < 0)
        return st_fail(e, ST_IO, "%s: cannot list: %s", dir, strerror(errno));
    int rc = n ? 0 : st_fail(e, ST_INPUT, "%s: holds no model (no config.json, no *.safetensors)", dir);
    for (int i = 0; i < n; i++) {
        char path[ST_PATH_MAX];
        if (!rc)
            rc = st_path_join(path, sizeof path, dir, list[i]->d_name, e);
        if (!rc)
            rc = add_part(w, path, list[i]->d_name, e);
        free(list[i]);
    }
    free(list);
    return rc;
}

/* Fills the hashes. Threads only where a file is worth one. */
static int hash_all(struct work *w, struct st_err *e)
{
    struct st_pool *pool = NULL;
    uint64_t total = 0;
    for (size_t i = 0; i < w->n; i++)
        total += w->parts[i].map.len;
    int rc = w->n > 1 && total > SLICE_BYTES ? st_pool_new(0, &pool, e) : 0;
    if (rc)
        return rc;
    if (w->progress)
        st_progress_start(&w->bar, "Reading the model", "B", total);
    if (pool)
        st_pool_run(pool, hash_parts, w);
    else
        hash_parts(w, 0, 1);
    if (w->progress)
        st_progress_end(&w->bar);
    st_pool_free(pool);
    return 0;
}

static int digest_of(const struct work *w, const char *path, uint8_t out[32], struct st_err *e)
{
    struct st_buf lines = {0};
    int rc = 0;
    for (size_t i = 0; !rc && i < w->n; i++) {
        const struct part *p = &w->parts[i];
        char hex[65];
        if (!p->ok)
            rc = st_fail(e, ST_INTERNAL, "%s: %s: OpenSSL cannot hash", path, p->name);
        st_hex(p->hash, sizeof p->hash, hex);
        st_buf_addf(&lines, "%s %zu %s\n", hex, p->map.len, p->name);
    }
    if (!rc && lines.failed)
        rc = st_fail(e, ST_MEMORY, "%s: out of memory", path);
    if (!rc)
        st_sha256(lines.p, lines.len, out);
    st_buf_free(&lines);
    return rc;
}

int st_model_measure(const char *path, bool progress, uint8_t out[32], struct st_err *e)
{
    struct work w = {.progress = progress};
    int rc = st_path_is_dir(path) ? add_dir(&w, path, e) : add_part(&w, path, "model.bin", e);
    if (!rc)
        rc = hash_all(&w, e);
    if (!rc)
        rc = digest_of(&w, path, out, e);
    for (size_t i = 0; i < w.n; i++)
        st_map_close(&w.parts[i].map);
    free(w.parts);
    return rc;
}
