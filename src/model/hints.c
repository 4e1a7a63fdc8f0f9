#include "model/hints.h"
#include "base/file.h"
#include "crypto/digest.h"
#include "field/fq.h"
#include "model/hints_file.h"

#include <math.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PIECE 64 /* columns given at a time */

struct matrix {
    char name[ST_HINTS_NAME];
    uint32_t n_out, n_in;
    uint64_t offset;
    const uint8_t *sha;
};

struct st_hints {
    struct st_map map; /* of st_hints_open() */
    char *where;
    const uint8_t *p;
    size_t len;
    uint8_t digest[32];
    const struct st_lwe_params *params;
    struct matrix *matrices; /* [n] sorted by name */
    uint32_t n;
    struct st_hint_source source;
};

/* What is left of the header. */
struct reader {
    const uint8_t *p;
    size_t len, at;
    const char *where;
};

static int cut_short(const struct reader *r, const char *field, struct st_err *e)
{
    return st_fail(e, ST_INPUT, "%s: %s: cut short at byte %zu of %zu", r->where, field, r->at, r->len);
}

static int get(struct reader *r, const char *field, void *out, size_t n, struct st_err *e)
{
    if (n > r->len - r->at)
        return cut_short(r, field, e);
    memcpy(out, r->p + r->at, n);
    r->at += n;
    return 0;
}

/* A prefixed text of 1..cap - 1 bytes of plain ASCII. */
static int get_text(struct reader *r, const char *field, char *out, size_t cap, struct st_err *e)
{
    uint32_t n = 0;
    int rc = get(r, field, &n, sizeof n, e);
    if (!rc && (n == 0 || n >= cap))
        rc = st_fail(e, ST_INPUT, "%s: %s: want 1..%zu bytes, got %u", r->where, field, cap - 1, n);
    if (!rc)
        rc = get(r, field, out, n, e);
    if (rc)
        return rc;
    out[n] = 0;
    for (uint32_t i = 0; i < n; i++)
        if (out[i] <= ' ' || out[i] > '~')
            return st_fail(e, ST_INPUT, "%s: %s: byte %u is no printable character", r->where, field, i);
    return 0;
}

static int read_params(struct st_hints *h, struct reader *r, struct st_err *e)
{
    char name[ST_LWE_NAME];
    if (get_text(r, "parameter set", name, sizeof name, e))
        return e->code;
    int rc = st_lwe_params_find(name, &h->params, e);
    if (rc)
        st_err_prefix(e, "%s", h->where);
    if (rc == ST_USAGE) /* the word of a file, not of a user */
        rc = e->code = ST_UNSUPPORTED;
    return rc;
}

static int read_head(struct st_hints *h, struct reader *r, struct st_err *e)
{
    char magic[8];
    uint32_t version = 0;
    int rc = get(r, "magic", magic, sizeof magic, e);
    if (!rc && memcmp(magic, ST_HINTS_MAGIC, sizeof magic) != 0)
        rc = st_fail(e, ST_INPUT, "%s: is no hints file (made by sotto-worker prepare)", h->where);
    if (!rc)
        rc = get(r, "version", &version, sizeof version, e);
    if (!rc && version != ST_HINTS_VERSION)
        rc = st_fail(e, ST_UNSUPPORTED, "%s: version %u is not supported; supported: %d", h->where, version,
                     ST_HINTS_VERSION);
    if (!rc)
        rc = get(r, "number of matrices", &h->n, sizeof h->n, e);
    if (!rc && (h->n == 0 || h->n > (r->len - r->at) / ST_HINTS_ENTRY_MIN))
        rc = st_fail(e, ST_INPUT, "%s: number of matrices: %u do not fit %zu bytes", h->where, h->n, r->len);
    if (!rc)
        rc = get(r, "model digest", h->digest, sizeof h->digest, e);
    return rc ? rc : read_params(h, r, e);
}

static int read_matrix(struct reader *r, struct matrix *m, struct st_err *e)
{
    int rc = get_text(r, "name of a matrix", m->name, sizeof m->name, e);
    if (!rc)
        rc = get(r, m->name, &m->n_out, sizeof m->n_out, e);
    if (!rc)
        rc = get(r, m->name, &m->n_in, sizeof m->n_in, e);
    if (!rc)
        rc = get(r, m->name, &m->offset, sizeof m->offset, e);
    if (!rc && (m->n_out == 0 || m->n_out > ST_HINTS_SIDE_MAX || m->n_in == 0 || m->n_in > ST_HINTS_SIDE_MAX))
        rc = st_fail(e, ST_INPUT, "%s: %s: [%u, %u]: want sides of 1..%u", r->where, m->name, m->n_out, m->n_in,
                     ST_HINTS_SIDE_MAX);
    if (!rc && r->len - r->at < 32)
        rc = cut_short(r, m->name, e);
    m->sha = r->p + r->at;
    r->at += rc ? 0 : 32;
    return rc;
}

/* The header ends in its own hash. */
static int check_head(const struct st_hints *h, struct reader *r, struct st_err *e)
{
    uint8_t want[32], got[32];
    st_sha256(r->p, r->at, got);
    int rc = get(r, "hash of the table", want, sizeof want, e);
    if (!rc && memcmp(got, want, sizeof want) != 0)
        rc = st_fail(e, ST_INPUT, "%s: the table is damaged: it does not have its hash", h->where);
    return rc;
}

static bool is_zero(const uint8_t *p, uint64_t n)
{
    uint8_t any = 0;
    for (uint64_t i = 0; i < n; i++)
        any |= p[i];
    return !any;
}

/* Matrices stand where the format puts them, and the file ends behind the last. Sums stay below 2^64: an entry takes 54
 * bytes and its columns at most 2^38. */
static int check_places(const struct st_hints *h, uint64_t end, struct st_err *e)
{
    for (uint32_t i = 0; i < h->n; i++) {
        const struct matrix *m = &h->matrices[i];
        uint64_t first = st_hints_align(end), bytes = (uint64_t)m->n_out * st_hints_record(h->params->m);
        if (m->offset != first)
            return st_fail(e, ST_INPUT, "%s: %s: offset: want %llu, got %llu", h->where, m->name,
                           (unsigned long long)first, (unsigned long long)m->offset);
        if (first > h->len || bytes > h->len - first)
            return st_fail(e, ST_INPUT, "%s: %s: cut short: want %llu bytes, the file has %zu", h->where, m->name,
                           (unsigned long long)(first + bytes), h->len);
        if (!is_zero(h->p + end, first - end))
            return st_fail(e, ST_INPUT, "%s: %s: the bytes before it are not zero", h->where, m->name);
        end = first + bytes;
    }
    return end == h->len ? 0
                         : st_fail(e, ST_INPUT, "%s: %zu bytes, want %llu", h->where, h->len, (unsigned long long)end);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct matrix *)a)->name, ((const struct matrix *)b)->name);
}

static int sort_matrices(struct st_hints *h, struct st_err *e)
{
    qsort(h->matrices, h->n, sizeof *h->matrices, by_name);
    for (uint32_t i = 1; i < h->n; i++)
        if (strcmp(h->matrices[i - 1].name, h->matrices[i].name) == 0)
            return st_fail(e, ST_INPUT, "%s: %s: is there twice", h->where, h->matrices[i].name);
    return 0;
}

static int parse(struct st_hints *h, struct st_err *e)
{
    struct reader r = {h->p, h->len, 0, h->where};
    int rc = read_head(h, &r, e);
    if (!rc)
        rc = st_alloc(&h->matrices, h->n, sizeof *h->matrices, h->where, e);
    for (uint32_t i = 0; !rc && i < h->n; i++)
        rc = read_matrix(&r, &h->matrices[i], e);
    if (!rc)
        rc = check_head(h, &r, e);
    if (!rc)
        rc = check_places(h, r.at, e);
    return rc ? rc : sort_matrices(h, e);
}

static const struct matrix *find(const struct st_hints *h, const char *name)
{
    struct matrix key = {.n_out = 0};
    if (strlen(name) >= sizeof key.name)
        return NULL;
    strcpy(key.name, name);
    return bsearch(&key, h->matrices, h->n, sizeof key, by_name);
}

static int missing(const struct st_hints *h, const char *name, struct st_err *e)
{
    return st_fail(e, ST_INPUT, "%s: %s: has no hints here", h->where, name);
}

struct piece {
    float scale[PIECE], norm[PIECE];
    uint32_t h[];
};

/* Takes n records apart. A column of int8 has at most this norm; a scale is max|w| / 127 of finite weights. */
static int take_apart(const struct st_hints *h, const struct matrix *m, const uint8_t *records, uint32_t first,
                      uint32_t n, struct piece *out, struct st_err *e)
{
    const uint32_t m_len = h->params->m;
    const double longest = 128 * sqrt(m->n_in);
    for (uint32_t i = 0; i < n; i++) {
        const uint8_t *at = records + i * st_hints_record(m_len);
        uint32_t *to = out->h + (size_t)i * m_len, largest = 0;
        memcpy(&out->scale[i], at, 4);
        memcpy(&out->norm[i], at + 4, 4);
        memcpy(to, at + 8, (size_t)m_len * 4);
        if (!(out->scale[i] >= 0 && isfinite(out->scale[i])) || !(out->norm[i] >= 0 && out->norm[i] <= longest))
            return st_fail(e, ST_INPUT, "%s: %s: column %u: scale or norm is out of range", h->where, m->name,
                           first + i);
        for (uint32_t k = 0; k < m_len; k++)
            largest = to[k] > largest ? to[k] : largest;
        if (largest >= ST_FQ)
            return st_fail(e, ST_INPUT, "%s: %s: column %u: a residue is %u or more", h->where, m->name, first + i,
                           ST_FQ);
    }
    return 0;
}

static int give_all(const struct st_hints *h, const struct matrix *m, struct piece *piece, EVP_MD_CTX *sha,
                    int (*sink)(void *arg, const struct st_hint_columns *c, struct st_err *e), void *arg,
                    struct st_err *e)
{
    const size_t record = st_hints_record(h->params->m);
    const uint8_t *at = h->p + m->offset;
    for (uint32_t first = 0; first < m->n_out; first += PIECE, at += PIECE * record) {
        uint32_t n = m->n_out - first < PIECE ? m->n_out - first : PIECE;
        if (EVP_DigestUpdate(sha, at, n * record) != 1)
            return st_fail(e, ST_INTERNAL, "%s: OpenSSL cannot hash", h->where);
        if (take_apart(h, m, at, first, n, piece, e))
            return e->code;
        struct st_hint_columns c = {first, n, h->params->m, piece->scale, piece->norm, piece->h};
        int rc = sink(arg, &c, e);
        if (rc)
            return rc;
    }
    return 0;
}

/* The pages of a matrix may leave memory: a hints file is as large as the model. */
static void release(const struct st_hints *h, const struct matrix *m)
{
    const size_t page = 4096;
    uintptr_t from = (uintptr_t)(h->p + m->offset) & ~(page - 1);
    uintptr_t to = (uintptr_t)(h->p + m->offset) + m->n_out * st_hints_record(h->params->m);
    if (h->map.p)
        (void)madvise((void *)from, to - from, MADV_DONTNEED);
}

static int read_columns(void *ctx, const char *name, uint32_t n_out, uint32_t n_in,
                        int (*sink)(void *arg, const struct st_hint_columns *c, struct st_err *e), void *arg,
                        struct st_err *e)
{
    const struct st_hints *h = ctx;
    const struct matrix *m = find(h, name);
    struct piece *piece = NULL;
    uint8_t sum[32];
    if (!m)
        return missing(h, name, e);
    if (m->n_out != n_out || m->n_in != n_in)
        return st_fail(e, ST_INPUT, "%s: %s: want [%u, %u], got [%u, %u]", h->where, name, n_out, n_in, m->n_out,
                       m->n_in);
    EVP_MD_CTX *sha = EVP_MD_CTX_new();
    int rc = st_alloc(&piece, 1, sizeof *piece + (size_t)PIECE * h->params->m * 4, h->where, e);
    if (!rc && (!sha || EVP_DigestInit_ex(sha, EVP_sha256(), NULL) != 1))
        rc = st_fail(e, ST_INTERNAL, "%s: OpenSSL cannot hash", h->where);
    if (!rc)
        rc = give_all(h, m, piece, sha, sink, arg, e);
    if (!rc && (EVP_DigestFinal_ex(sha, sum, NULL) != 1 || memcmp(sum, m->sha, sizeof sum) != 0))
        rc = st_fail(e, ST_VERIFY, "%s: %s: the columns are damaged: they do not have their hash", h->where, name);
    EVP_MD_CTX_free(sha);
    free(piece);
    release(h, m);
    return rc;
}

int st_hints_parse(const uint8_t *p, size_t len, const char *where, struct st_hints **out, struct st_err *e)
{
    struct st_hints *h = NULL;
    *out = NULL;
    int rc = st_alloc(&h, 1, sizeof *h, where, e);
    if (rc)
        return rc;
    h->p = p;
    h->len = len;
    h->where = strdup(where);
    rc = h->where ? parse(h, e) : st_fail(e, ST_MEMORY, "%s: out of memory", where);
    if (rc) {
        st_hints_close(h);
        return rc;
    }
    h->source = (struct st_hint_source){h->digest, h->params->name, read_columns, h};
    *out = h;
    return 0;
}

int st_hints_open(const char *path, struct st_hints **out, struct st_err *e)
{
    struct st_map map;
    *out = NULL;
    int rc = st_map_open(path, &map, e);
    if (rc)
        return rc;
    rc = st_hints_parse(map.p, map.len, path, out, e);
    if (rc)
        st_map_close(&map);
    else
        (*out)->map = map;
    return rc;
}

void st_hints_close(struct st_hints *h)
{
    if (!h)
        return;
    st_map_close(&h->map);
    free(h->matrices);
    free(h->where);
    free(h);
}

const struct st_hint_source *st_hints_source(const struct st_hints *h)
{
    return &h->source;
}

int st_hints_columns(const struct st_hints *h, const char *name, uint32_t first, uint32_t n, const void **records,
                     size_t *len, struct st_err *e)
{
    const struct matrix *m = find(h, name);
    const size_t record = st_hints_record(h->params->m);
    if (!m)
        return missing(h, name, e);
    if (first > m->n_out || n > m->n_out - first)
        return st_fail(e, ST_INPUT, "%s: %s: columns %u + %u of %u", h->where, name, first, n, m->n_out);
    *records = h->p + m->offset + first * record;
    *len = n * record;
    return 0;
}
