#include "protect/covariant/out.h"
#include "base/log.h"
#include "crypto/digest.h"
#include "protect/covariant/out_split.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define HASH_STEP ((size_t)1 << 20)

uint64_t st_cov_out_bytes(const struct st_cov_out_tensor *t, uint64_t n)
{
    return t->q8_0 ? n / 32 * 34 : n * st_dtype_size(t->dtype);
}

/* ---- resuming ---- */

static int layout_digest(struct st_cov_out_tensor *const *t, int n, char hex[65], struct st_err *e)
{
    struct st_buf b = {0};
    uint8_t sum[32];
    for (int i = 0; i < n; i++)
        st_buf_addf(&b, "%s %s %d %u %u\n", t[i]->name, t[i]->q8_0 ? "q8_0" : st_dtype_name(t[i]->dtype), t[i]->n_dim,
                    t[i]->dim[0], t[i]->n_dim == 2 ? t[i]->dim[1] : 1);
    if (b.failed) {
        st_buf_free(&b);
        return st_fail(e, ST_MEMORY, "layout: out of memory");
    }
    st_sha256(b.p, b.len, sum);
    st_hex(sum, sizeof sum, hex);
    st_buf_free(&b);
    return 0;
}

int st_cov_out_open(struct st_cov_out *o, const char *dst, struct st_err *e)
{
    *o = (struct st_cov_out){0};
    return st_stage_open(&o->stage, dst, ".partial", "an obfuscation", e);
}

/* source before commitment: the commitment covers both, and the more telling cause is named. */
static int fill_head(const struct st_cov_binding *b, struct st_cov_out_tensor *const *t, int n,
                     struct st_journal_head *h, struct st_err *e)
{
    *h = (struct st_journal_head){
        .title = "sotto covariant journal 2",
        .n = 4,
        .fact = {{.name = "source", .differs = "begun from another source model"},
                 {.name = "commitment", .differs = "begun with another key"},
                 {.name = "options"},
                 {.name = "layout", .differs = "begun by a version that lays tensors out differently"}}};
    snprintf(h->fact[0].value, sizeof h->fact[0].value, "%s", b->source);
    snprintf(h->fact[1].value, sizeof h->fact[1].value, "%s", b->commitment);
    snprintf(h->fact[2].value, sizeof h->fact[2].value, "%s", b->options);
    return layout_digest(t, n, h->fact[3].value, e);
}

int st_cov_out_bind(struct st_cov_out *o, const struct st_cov_binding *b, struct st_cov_out_tensor *const *t, int n,
                    bool restart, struct st_err *e)
{
    char path[ST_PATH_MAX], cause[sizeof e->msg];
    struct st_journal_head head;
    int rc = fill_head(b, t, n, &head, e);
    if (!rc)
        rc = st_stage_journal(&o->stage, path, e);
    if (!rc && restart)
        st_stage_restart(&o->stage);
    if (!rc)
        rc = st_journal_open(&o->journal, path, &head, e);
    if (rc == ST_USAGE || rc == ST_INPUT) {
        memcpy(cause, e->msg, sizeof cause);
        return st_fail(e, rc, "%.380s; start over with --restart", cause);
    }
    if (!rc && o->journal.n_found)
        st_log(ST_LOG_INFO, "%s: goes on; %zu of %d tensors were finished before", o->stage.final, o->journal.n_found,
               n);
    return rc;
}

/* ---- hashes: SHA-256 of the SHA-256 of all pieces, so that threads share a large tensor ---- */

#define PIECE ((uint64_t)16 << 20)

static uint32_t pieces_of(uint64_t bytes)
{
    return (uint32_t)((bytes + PIECE - 1) / PIECE);
}

static uint32_t n_piece(const struct st_cov_out_tensor *t)
{
    return pieces_of(t->bytes) + (t->split ? pieces_of(t->split->bytes) : 0);
}

uint32_t st_cov_out_pieces(const struct st_cov_out *o, const struct st_cov_out_tensor *t)
{
    return o->journal.open ? n_piece(t) : 0;
}

static int hash_range(int fd, uint64_t at, uint64_t len, EVP_MD_CTX *ctx, void *buf)
{
    while (len) {
        size_t want = len < HASH_STEP ? (size_t)len : HASH_STEP;
        ssize_t n = pread(fd, buf, want, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0 || EVP_DigestUpdate(ctx, buf, (size_t)n) != 1)
            return -1;
        at += (uint64_t)n;
        len -= (uint64_t)n;
    }
    return 0;
}

/* Of the tensor as it stands in its file. */
static int hash_piece(const struct st_cov_out *o, const struct st_cov_out_tensor *t, uint32_t piece, uint8_t sum[32])
{
    uint32_t first = pieces_of(t->bytes);
    bool own = piece < first;
    uint64_t lo = (own ? piece : piece - first) * PIECE, bytes = own ? t->bytes : t->split->bytes;
    uint64_t at = (own ? t->at : t->split->at) + lo, len = bytes - lo < PIECE ? bytes - lo : PIECE;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    void *buf = malloc(HASH_STEP);
    int bad = !ctx || !buf || EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1;
    st_stage_push(o->fd[t->shard], at, len);
    if (!bad)
        bad = hash_range(o->fd[t->shard], at, len, ctx, buf);
    bad = bad || EVP_DigestFinal_ex(ctx, sum, NULL) != 1;
    EVP_MD_CTX_free(ctx);
    free(buf);
    return bad;
}

bool st_cov_out_done(const struct st_cov_out *o, const struct st_cov_out_tensor *t)
{
    uint8_t sum[32];
    const uint8_t *want = st_journal_find(&o->journal, t->name);
    uint8_t(*sums)[32] = want ? malloc(n_piece(t) * sizeof *sums) : NULL;
    bool done = sums;
    for (uint32_t i = 0; done && i < n_piece(t); i++)
        done = hash_piece(o, t, i, sums[i]) == 0;
    if (done) {
        st_sha256(sums, n_piece(t) * sizeof *sums, sum);
        done = memcmp(sum, want, sizeof sum) == 0;
    }
    free(sums);
    return done;
}

int st_cov_out_flush(const struct st_cov_out *o, const struct st_cov_out_tensor *t, struct st_err *e)
{
    return t->split ? st_cov_split_flush(o, t, e) : 0;
}

int st_cov_out_hash(const struct st_cov_out *o, const struct st_cov_out_tensor *t, uint32_t piece, uint8_t sum[32],
                    struct st_err *e)
{
    if (hash_piece(o, t, piece, sum) != 0)
        return st_fail(e, ST_IO, "%s: %s: cannot read back: %s", o->stage.dir, t->name, strerror(errno));
    return 0;
}

int st_cov_out_settle(const struct st_cov_out *o, const struct st_cov_out_tensor *t, struct st_err *e)
{
    int bad = st_stage_settle(o->fd[t->shard], t->at, t->bytes);
    if (!bad && t->split)
        bad = st_stage_settle(o->fd[t->shard], t->split->at, t->split->bytes);
    return bad ? st_fail(e, ST_IO, "%s: %s: cannot write: %s", o->stage.dir, t->name, strerror(errno)) : 0;
}

int st_cov_out_finish(struct st_cov_out *o, const struct st_cov_out_tensor *t, const uint8_t (*sums)[32],
                      struct st_err *e)
{
    uint8_t sum[32];
    if (!o->journal.open)
        return 0;
    st_sha256(sums, n_piece(t) * sizeof *sums, sum);
    return st_journal_add(&o->journal, t->name, sum, e);
}

/* ---- files ---- */

/* Small files are written again, and what a killed run left of one must not be published. */
int st_cov_out_make_dir(struct st_cov_out *o, struct st_err *e)
{
    static const char weights[] = ".safetensors";
    if (mkdir(o->stage.result, 0755) == 0)
        return 0;
    /* Not what a link points to: it is not ours to empty. */
    int fd = errno == EEXIST ? open(o->stage.result, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW) : -1;
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        int err = errno;
        if (fd >= 0)
            close(fd);
        return st_fail(e, ST_IO, "%s: cannot create a directory: %s", o->stage.result, strerror(err));
    }
    for (struct dirent *d; (d = readdir(dir));) {
        size_t len = strlen(d->d_name), n = sizeof weights - 1;
        if (len < n || strcmp(d->d_name + len - n, weights) != 0)
            unlinkat(dirfd(dir), d->d_name, 0);
    }
    closedir(dir);
    return 0;
}

int st_cov_out_make_file(struct st_cov_out *o, const char *name, const struct st_buf *header, uint64_t total,
                         struct st_err *e)
{
    char path[ST_PATH_MAX];
    int rc = 0;
    if (name)
        rc = st_path_join(path, sizeof path, o->stage.result, name, e);
    else
        memcpy(path, o->stage.result, sizeof path);
    if (rc)
        return rc;
    rc = st_stage_file(path, total, &o->fd[o->n_shard], e);
    if (rc)
        return rc;
    if (st_stage_write(o->fd[o->n_shard++], 0, header->p, header->len) != 0)
        return st_fail(e, ST_IO, "%s: cannot write: %s", path, strerror(errno));
    return 0;
}

int st_cov_out_write(const struct st_cov_out *o, const struct st_cov_out_tensor *t, uint64_t at, const void *p,
                     size_t len, struct st_err *e)
{
    if (t->split)
        return st_cov_split_take(t, at, p, len, e);
    if (st_stage_write(o->fd[t->shard], t->at + at, p, len) != 0)
        return st_fail(e, ST_IO, "%s: %s: cannot write: %s", o->stage.dir, t->name, strerror(errno));
    return 0;
}

int st_cov_out_file(const struct st_cov_out *o, const char *name, const void *p, size_t len, struct st_err *e)
{
    char path[ST_PATH_MAX];
    int rc = st_path_join(path, sizeof path, o->stage.result, name, e);
    return rc ? rc : st_file_write(path, p, len, 0644, true, e);
}

/* ---- the end ---- */

int st_cov_out_publish(struct st_cov_out *o, struct st_err *e)
{
    bool bad = false;
    for (int i = 0; i < o->n_shard; i++)
        bad = fsync(o->fd[i]) != 0 || bad;
    if (bad)
        return st_fail(e, ST_IO, "%s: cannot sync: %s", o->stage.dir, strerror(errno));
    return st_stage_publish(&o->stage, e);
}

void st_cov_out_close(struct st_cov_out *o)
{
    for (int i = 0; i < o->n_shard; i++)
        close(o->fd[i]);
    free(o->fd);
    st_journal_close(&o->journal);
    st_stage_close(&o->stage);
    *o = (struct st_cov_out){0};
}
