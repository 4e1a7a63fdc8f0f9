#include "base/file.h"
#include "base/log.h"
#include "crypto/digest.h"
#include "model/hints.h"
#include "model/hints_file.h"

#include <math.h>
#include <openssl/evp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* Columns of a parallel step, per thread: a few hundred milliseconds of work. */
#define STEP (8 * ST_LWE_HINTS)

struct writer {
    const struct st_hints_make *o;
    struct st_file_out file;
    struct st_lwe_basis basis;
    const struct st_limb_kernels *limb;
    struct st_pool *pool;
    struct st_progress bar;
    EVP_MD_CTX *sha;
    uint8_t *records; /* of one step */
    uint32_t *hints;  /* per thread [ST_LWE_HINTS][m] */
    uint32_t step;    /* columns */
    uint64_t at;      /* bytes written */

    const struct st_served_weight *w; /* of the step */
    uint32_t first, n;
    atomic_uint taken;
};

static void make_part(void *arg, int thread, int n_threads)
{
    struct writer *x = arg;
    const struct st_served_weight *w = x->w;
    const uint32_t m = x->o->params->m;
    uint32_t *hints = x->hints + (size_t)thread * ST_LWE_HINTS * m;
    (void)n_threads;
    for (uint32_t from; (from = atomic_fetch_add(&x->taken, ST_LWE_HINTS)) < x->n;) {
        uint32_t n = x->n - from < ST_LWE_HINTS ? x->n - from : ST_LWE_HINTS;
        const int8_t *columns = w->w + (size_t)(x->first + from) * w->n_in;
        st_lwe_basis_hints(&x->basis, x->limb, columns, n, w->n_in, hints);
        for (uint32_t i = 0; i < n; i++) {
            uint8_t *record = x->records + (from + i) * st_hints_record(m);
            float norm = st_served_norm(st_served_square(columns + (size_t)i * w->n_in, w->n_in));
            memcpy(record, &w->scale[x->first + from + i], 4);
            memcpy(record + 4, &norm, 4);
            memcpy(record + 8, hints + (size_t)i * m, (size_t)m * 4);
        }
    }
}

static int put(struct writer *x, const void *p, size_t len, struct st_err *e)
{
    x->at += len;
    if (x->o->progress)
        st_progress_update(&x->bar, x->at);
    return st_file_put(&x->file, p, len, e);
}

static int align(struct writer *x, struct st_err *e)
{
    static const uint8_t zeros[64];
    return put(x, zeros, (size_t)(st_hints_align(x->at) - x->at), e);
}

static int write_matrix(struct writer *x, const struct st_served_weight *w, uint8_t sum[32], struct st_err *e)
{
    const size_t record = st_hints_record(x->o->params->m);
    int rc = EVP_DigestInit_ex(x->sha, EVP_sha256(), NULL) == 1 ? align(x, e) : ST_INTERNAL;
    x->w = w;
    for (x->first = 0; !rc && x->first < w->n_out; x->first += x->n) {
        x->n = w->n_out - x->first < x->step ? w->n_out - x->first : x->step;
        atomic_store(&x->taken, 0);
        st_pool_run(x->pool, make_part, x);
        rc = EVP_DigestUpdate(x->sha, x->records, x->n * record) == 1 ? put(x, x->records, x->n * record, e)
                                                                      : ST_INTERNAL;
    }
    if (!rc && EVP_DigestFinal_ex(x->sha, sum, NULL) != 1)
        rc = ST_INTERNAL;
    return rc == ST_INTERNAL ? st_fail(e, ST_INTERNAL, "%s: OpenSSL cannot hash", x->file.path) : rc;
}

static void add_u32(struct st_buf *b, uint32_t x)
{
    st_buf_add(b, &x, sizeof x);
}

static void add_text(struct st_buf *b, const char *s)
{
    add_u32(b, (uint32_t)strlen(s));
    st_buf_add_str(b, s);
}

static uint64_t head_bytes(const struct st_hints_make *o)
{
    uint64_t n = 8 + 4 + 4 + 32 + 4 + strlen(o->params->name) + 32;
    for (uint32_t i = 0; i < o->served->n; i++)
        n += ST_HINTS_ENTRY_MIN - 1 + strlen(o->served->weights[i].name);
    return n;
}

/* Where matrix i ends; i = n - 1: the size of the file. */
static uint64_t end_of(const struct st_hints_make *o, uint32_t i, uint64_t before)
{
    return st_hints_align(before) + (uint64_t)o->served->weights[i].n_out * st_hints_record(o->params->m);
}

uint64_t st_hints_bytes(const struct st_hints_make *o)
{
    uint64_t end = head_bytes(o);
    for (uint32_t i = 0; i < o->served->n; i++)
        end = end_of(o, i, end);
    return end;
}

/* sums [n][32]. */
static void make_head(const struct st_hints_make *o, uint8_t (*sums)[32], struct st_buf *b)
{
    uint64_t end = head_bytes(o);
    uint8_t sum[32];
    st_buf_clear(b);
    st_buf_add(b, ST_HINTS_MAGIC, 8);
    add_u32(b, ST_HINTS_VERSION);
    add_u32(b, o->served->n);
    st_buf_add(b, o->digest, 32);
    add_text(b, o->params->name);
    for (uint32_t i = 0; i < o->served->n; i++) {
        const struct st_served_weight *w = &o->served->weights[i];
        uint64_t offset = st_hints_align(end);
        add_text(b, w->name);
        add_u32(b, w->n_out);
        add_u32(b, w->n_in);
        st_buf_add(b, &offset, sizeof offset);
        st_buf_add(b, sums[i], 32);
        end = end_of(o, i, end);
    }
    if (!b->failed)
        st_sha256(b->p, b->len, sum);
    st_buf_add(b, sum, sizeof sum);
}

/* The header first with hashes of zeros, which hold its place, then again with those of the columns. */
static int write_all(struct writer *x, uint8_t (*sums)[32], struct st_buf *head, struct st_err *e)
{
    const struct st_served *s = x->o->served;
    make_head(x->o, sums, head);
    int rc = head->failed ? st_fail(e, ST_MEMORY, "%s: out of memory", x->file.path) : put(x, head->p, head->len, e);
    for (uint32_t i = 0; !rc && i < s->n; i++)
        rc = write_matrix(x, &s->weights[i], sums[i], e);
    if (rc)
        return rc;
    make_head(x->o, sums, head);
    if (head->failed)
        return st_fail(e, ST_MEMORY, "%s: out of memory", x->file.path);
    rc = st_file_rewind(&x->file, e);
    return rc ? rc : st_file_put(&x->file, head->p, head->len, e);
}

static int check_served(const char *path, const struct st_served *s, uint32_t *n_in, struct st_err *e)
{
    for (uint32_t i = 0; i < s->n; i++) {
        const struct st_served_weight *w = &s->weights[i];
        if (!w->w || !w->scale)
            return st_fail(e, ST_INPUT, "%s: %s: no weights here to make hints of", path, w->name);
        if (w->n_in > ST_HINTS_SIDE_MAX || w->n_out > ST_HINTS_SIDE_MAX)
            return st_fail(e, ST_UNSUPPORTED, "%s: %s: [%u, %u]: want sides of at most %u", path, w->name, w->n_out,
                           w->n_in, ST_HINTS_SIDE_MAX);
        for (uint32_t k = 0; k < w->n_out; k++)
            if (!isfinite(w->scale[k]))
                return st_fail(e, ST_INPUT, "%s: %s: output %u: its weights are not finite", path, w->name, k);
        *n_in = w->n_in > *n_in ? w->n_in : *n_in;
    }
    return s->n ? 0 : st_fail(e, ST_INPUT, "%s: no matrices to make hints of: nothing of the model lies open", path);
}

/* Everything but the file. */
static int open_writer(struct writer *x, const char *path, struct st_err *e)
{
    const struct st_hints_make *o = x->o;
    uint32_t n_in = 0;
    int rc = check_served(path, o->served, &n_in, e);
    if (!rc)
        rc = st_limb_find(NULL, &x->limb, e);
    if (!rc)
        rc = st_lwe_basis_init_hints(&x->basis, o->params, o->digest, n_in, e);
    if (!rc)
        rc = st_pool_new(o->n_threads, &x->pool, e);
    if (rc)
        return rc;
    size_t n = (size_t)st_pool_size(x->pool);
    x->step = (uint32_t)n * STEP;
    rc = st_alloc(&x->records, x->step, st_hints_record(o->params->m), path, e);
    if (!rc)
        rc = st_alloc(&x->hints, n * ST_LWE_HINTS, o->params->m * sizeof *x->hints, path, e);
    if (!rc && !(x->sha = EVP_MD_CTX_new()))
        rc = st_fail(e, ST_MEMORY, "%s: out of memory", path);
    return rc;
}

int st_hints_write(const char *path, const struct st_hints_make *o, struct st_err *e)
{
    struct writer x = {.o = o, .file.fd = -1};
    struct st_buf head = {0};
    uint8_t(*sums)[32] = NULL;
    int rc = open_writer(&x, path, e);
    if (!rc)
        rc = st_alloc(&sums, o->served->n, sizeof *sums, path, e);
    if (!rc)
        rc = st_file_begin(&x.file, path, 0644, e);
    if (!rc) {
        if (o->progress)
            st_progress_start(&x.bar, "Making hints", "B", st_hints_bytes(o));
        rc = write_all(&x, sums, &head, e);
        if (o->progress)
            st_progress_end(&x.bar);
    }
    if (!rc)
        rc = st_file_commit(&x.file, false, e);
    st_file_abort(&x.file);
    st_buf_free(&head);
    free(sums);
    free(x.records);
    free(x.hints);
    EVP_MD_CTX_free(x.sha);
    st_pool_free(x.pool);
    st_lwe_basis_free(&x.basis);
    return rc;
}
