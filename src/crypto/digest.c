#include "crypto/digest.h"
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

void st_sha256(const void *p, size_t len, uint8_t out[32])
{
    SHA256(p, len, out);
}

void st_hex(const uint8_t *p, size_t len, char *out)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < len; i++) {
        out[2 * i] = digits[p[i] >> 4];
        out[2 * i + 1] = digits[p[i] & 15];
    }
    out[2 * len] = 0;
}

/* Hashes in slices and gives each back, so that a model larger than memory does not push everything else out. */
static int hash_map(const struct st_map *m, uint8_t out[32])
{
    const size_t slice = (size_t)16 << 20;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    int ok = ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1;
    for (size_t at = 0; ok && at < m->len; at += slice) {
        size_t n = m->len - at < slice ? m->len - at : slice;
        ok = EVP_DigestUpdate(ctx, m->p + at, n) == 1;
        madvise((void *)(m->p + at), n, MADV_DONTNEED);
    }
    ok = ok && EVP_DigestFinal_ex(ctx, out, NULL) == 1;
    EVP_MD_CTX_free(ctx);
    return ok;
}

static int add_line(struct st_buf *lines, const char *path, const char *name, struct st_err *e)
{
    struct st_map map;
    uint8_t hash[32];
    char hex[65];
    int rc = st_map_open(path, &map, e);
    if (rc)
        return rc;
    if (hash_map(&map, hash)) {
        st_hex(hash, sizeof hash, hex);
        st_buf_addf(lines, "%s %zu %s\n", hex, map.len, name);
    } else {
        rc = st_fail(e, ST_INTERNAL, "%s: OpenSSL cannot hash", path);
    }
    st_map_close(&map);
    return rc;
}

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), t = strlen(tail);
    return n > t && strcmp(s + n - t, tail) == 0;
}

static bool counts(const char *name)
{
    static const char *const names[] = {"config.json",
                                        "generation_config.json",
                                        "tokenizer.json",
                                        "tokenizer.model",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "added_tokens.json",
                                        "vocab.json",
                                        "merges.txt",
                                        "chat_template.jinja",
                                        "chat_template.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return ends_with(name, ".safetensors") || ends_with(name, ".safetensors.index.json");
}

static int select_file(const struct dirent *d)
{
    return counts(d->d_name);
}

/* Bytewise, whatever the locale. */
static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int add_dir(struct st_buf *lines, const char *dir, struct st_err *e)
{
    struct dirent **list = NULL;
    int n = scandir(dir, &list, select_file, by_name);
    if (n < 0)
        return st_fail(e, ST_IO, "%s: cannot list: %s", dir, strerror(errno));
    int rc = n ? 0 : st_fail(e, ST_INPUT, "%s: holds no model (no config.json, no *.safetensors)", dir);
    for (int i = 0; i < n; i++) {
        char path[ST_PATH_MAX];
        if (!rc)
            rc = st_path_join(path, sizeof path, dir, list[i]->d_name, e);
        if (!rc)
            rc = add_line(lines, path, list[i]->d_name, e);
        free(list[i]);
    }
    free(list);
    return rc;
}

int st_model_digest(const char *path, uint8_t out[32], struct st_err *e)
{
    struct st_buf lines = {0};
    int rc = st_path_is_dir(path) ? add_dir(&lines, path, e) : add_line(&lines, path, "model.bin", e);
    if (!rc && lines.failed)
        rc = st_fail(e, ST_MEMORY, "%s: out of memory", path);
    if (!rc)
        st_sha256(lines.p, lines.len, out);
    st_buf_free(&lines);
    return rc;
}
