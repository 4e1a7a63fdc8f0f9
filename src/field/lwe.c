#include "field/lwe.h"
#include "base/buf.h"
#include "base/mem.h"
#include "field/fq.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BITS_MIN 128
#define BLOCKS_MAX (ST_LWE_MAX_M / ST_NTT_N)
#define LABEL "sotto lwe basis 1"
#define SPARE 16 /* words beyond m in one attempt: of 2,000 words, half a word is q or more on average */

static const struct st_lwe_params sets[] = {
#define ST_LWE(...) {__VA_ARGS__},
#include "field/lwe_params.def"
#undef ST_LWE
};
#define N_SET (sizeof sets / sizeof *sets)

#define ST_LWE(name, m, sigma, module, ...)                                                                            \
    _Static_assert((m) <= ST_LWE_MAX_M && (!(module) || (m) % ST_NTT_N == 0) && sizeof(name) <= ST_LWE_NAME, name);
#include "field/lwe_params.def"
#undef ST_LWE

const struct st_lwe_params *st_lwe_params_at(int i)
{
    for (size_t k = 0; k < N_SET; k++)
        if (sets[k].bits_classical >= BITS_MIN && i-- == 0)
            return &sets[k];
    return NULL;
}

int st_lwe_params_find(const char *name, const struct st_lwe_params **out, struct st_err *e)
{
    const struct st_lwe_params *p;
    char list[256] = "";
    *out = NULL;
    for (size_t k = 0; name && !*out && k < N_SET; k++)
        if (strcmp(name, sets[k].name) == 0)
            *out = &sets[k];
    if (!name)
        *out = &sets[0];
    if (*out && (*out)->bits_classical < BITS_MIN) {
        int bits = (*out)->bits_classical;
        *out = NULL;
        return st_fail(e, ST_POLICY, "parameter set %s: too weak: %d bits classical, want at least %d", name, bits,
                       BITS_MIN);
    }
    if (*out)
        return 0;
    for (int i = 0; (p = st_lwe_params_at(i)); i++)
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", p->name);
    return st_fail(e, ST_USAGE, "parameter set '%.40s': unknown; known: %s", name, list);
}

static uint8_t *put_u32(uint8_t *p, uint32_t x)
{
    memcpy(p, &x, 4);
    return p + 4;
}

static uint8_t *put_field(uint8_t *p, const void *field, uint32_t len)
{
    p = put_u32(p, len);
    memcpy(p, field, len);
    return p + len;
}

struct expander {
    EVP_MD_CTX *ctx;
    uint8_t prefix[128]; /* the fields before number and attempt */
    size_t prefix_len;
    uint32_t m, words[ST_LWE_MAX_M + SPARE];
};

static void expander_init(struct expander *x, const struct st_lwe_params *p, const uint8_t digest[ST_LWE_DIGEST])
{
    uint8_t *at = put_field(x->prefix, LABEL, sizeof LABEL - 1);
    at = put_field(at, p->name, (uint32_t)strlen(p->name));
    at = put_field(at, digest, ST_LWE_DIGEST);
    x->prefix_len = (size_t)(at - x->prefix);
    x->m = p->m;
    x->ctx = EVP_MD_CTX_new();
}

/* The m residues of one number. */
static int expand(struct expander *x, uint32_t number, uint32_t *out, struct st_err *e)
{
    uint32_t n = 0, n_word = x->m + SPARE;
    for (uint32_t attempt = 0; n < x->m; attempt++) {
        uint8_t tail[16];
        put_field(put_field(tail, &number, 4), &attempt, 4);
        if (!x->ctx || EVP_DigestInit_ex(x->ctx, EVP_shake128(), NULL) != 1 ||
            EVP_DigestUpdate(x->ctx, x->prefix, x->prefix_len) != 1 ||
            EVP_DigestUpdate(x->ctx, tail, sizeof tail) != 1 ||
            EVP_DigestFinalXOF(x->ctx, (uint8_t *)x->words, n_word * sizeof *x->words) != 1)
            return st_fail(e, ST_INTERNAL, "LWE basis: OpenSSL has no SHAKE128");
        for (uint32_t i = 0; i < n_word && n < x->m; i++)
            if (x->words[i] < ST_FQ)
                out[n++] = x->words[i];
    }
    return 0;
}

static uint32_t n_rows_of_blocks(const struct st_lwe_basis *b)
{
    return b->params->m / ST_NTT_N;
}

static uint32_t blocks_of(uint32_t d)
{
    return d / ST_NTT_N + (d % ST_NTT_N != 0);
}

static int fill_module(struct st_lwe_basis *b, struct expander *x, struct st_err *e)
{
    int rc = 0;
    st_ntt_init(&b->ntt);
    b->blocks = b->memory;
    for (uint32_t j = 0; !rc && j < blocks_of(b->d); j++) {
        uint32_t *block = b->blocks + (size_t)j * x->m;
        rc = expand(x, j, block, e);
        for (uint32_t i = 0; !rc && i < x->m; i += ST_NTT_N)
            st_ntt_factor(&b->ntt, block + i);
    }
    return rc;
}

/* Where byte l of B[row][column] is. */
static size_t plane_at(const struct st_lwe_basis *b, uint32_t row, uint32_t column, uint32_t l)
{
    size_t m = b->params->m;
    if (!b->for_hints)
        return ((size_t)column * 4 + l) * m + row;
    return ((column / ST_LWE_PIECE * m + row) * 4 + l) * ST_LWE_PIECE + column % ST_LWE_PIECE;
}

static int fill_dense(struct st_lwe_basis *b, struct expander *x, struct st_err *e)
{
    uint8_t *planes = b->memory;
    uint32_t column[ST_LWE_MAX_M];
    int rc = 0;
    b->limbs = b->for_hints ? (struct st_limbs){planes, x->m, 4, ST_LWE_PIECE} /* of one piece */
                            : (struct st_limbs){planes, b->d, 4, x->m};
    for (uint32_t k = 0; !rc && k < b->d; k++) {
        rc = expand(x, k, column, e);
        for (uint32_t l = 0; !rc && l < 4; l++) {
            uint8_t *to = planes + plane_at(b, 0, k, l);
            size_t step = plane_at(b, 1, k, l) - plane_at(b, 0, k, l);
            for (uint32_t row = 0; row < x->m; row++)
                to[row * step] = (uint8_t)(column[row] >> 8 * l);
        }
    }
    return rc;
}

static int take_memory(struct st_lwe_basis *b, struct st_err *e)
{
    size_t columns = b->params->module ? (size_t)blocks_of(b->d)
                     : b->for_hints    ? ((size_t)b->d + ST_LWE_PIECE - 1) / ST_LWE_PIECE * ST_LWE_PIECE
                                       : b->d;
    size_t bytes = columns * b->params->m * sizeof(uint32_t), have = st_mem_available();
    char need[ST_MEM_TEXT], there[ST_MEM_TEXT];
    if (bytes > have)
        return st_fail(e, ST_MEMORY, "LWE basis %s of %u columns needs %s of memory, %s are available", b->params->name,
                       b->d, st_mem_text(bytes, need), st_mem_text(have, there));
    return st_alloc(&b->memory, columns * b->params->m, sizeof(uint32_t), "LWE basis", e);
}

static int init(struct st_lwe_basis *b, struct st_err *e, const uint8_t digest[ST_LWE_DIGEST])
{
    struct expander x;
    int rc = take_memory(b, e);
    if (rc)
        return rc;
    expander_init(&x, b->params, digest);
    rc = b->params->module ? fill_module(b, &x, e) : fill_dense(b, &x, e);
    EVP_MD_CTX_free(x.ctx);
    if (rc)
        st_lwe_basis_free(b);
    return rc;
}

int st_lwe_basis_init(struct st_lwe_basis *b, const struct st_lwe_params *p, const uint8_t digest[ST_LWE_DIGEST],
                      uint32_t d, struct st_err *e)
{
    *b = (struct st_lwe_basis){.params = p, .d = d};
    return init(b, e, digest);
}

int st_lwe_basis_init_hints(struct st_lwe_basis *b, const struct st_lwe_params *p, const uint8_t digest[ST_LWE_DIGEST],
                            uint32_t d, struct st_err *e)
{
    *b = (struct st_lwe_basis){.params = p, .d = d, .for_hints = true};
    return init(b, e, digest);
}

void st_lwe_basis_free(struct st_lwe_basis *b)
{
    free(b->memory);
    *b = (struct st_lwe_basis){0};
}

typedef uint32_t lanes[ST_NTT_N][ST_NTT_LANES];

/* The residue of a small number, in constant time. */
static uint32_t from_small(int32_t c)
{
    uint32_t x = (uint32_t)c;
    return x + (ST_FQ & (0 - (x >> 31)));
}

/* A block of the matrix is b(X) mod X^256 + 1: the row c times it is c(X) b(X). */
struct apply {
    const struct st_lwe_basis *b;
    const int8_t *c;
    uint32_t n, d;
    uint32_t *out;
};

/* Secrets from..from + 16 as transformed polynomials, one per lane. */
static void load_secrets(const struct apply *a, uint32_t from, lanes *x)
{
    const uint32_t m = a->b->params->m;
    for (uint32_t r = 0; r < m / ST_NTT_N; r++) {
        for (uint32_t i = 0; i < ST_NTT_N; i++)
            for (uint32_t l = 0; l < ST_NTT_LANES; l++)
                x[r][i][l] = from + l < a->n ? from_small(a->c[(size_t)(from + l) * m + r * ST_NTT_N + i]) : 0;
        st_ntt_forward(&a->b->ntt, x[r]);
    }
}

static void store_rows(const struct apply *a, uint32_t from, uint32_t block, const lanes x)
{
    uint32_t first = block * ST_NTT_N, n = a->d - first < ST_NTT_N ? a->d - first : ST_NTT_N;
    for (uint32_t l = 0; l < ST_NTT_LANES && from + l < a->n; l++) {
        uint32_t *to = a->out + (size_t)(from + l) * a->d + first;
        for (uint32_t i = 0; i < n; i++)
            to[i] = x[i][l];
    }
}

/* A unit is one block of columns of sixteen secrets; those of the same secrets stand together. */
static void apply_module(void *arg, int thread, int n_threads)
{
    const struct apply *a = arg;
    const uint32_t rows = n_rows_of_blocks(a->b), columns = blocks_of(a->d);
    _Alignas(64) lanes x[BLOCKS_MAX], sum;
    size_t lo, hi, groups = (a->n + ST_NTT_LANES - 1) / ST_NTT_LANES;
    st_pool_part(groups * columns, 1, thread, n_threads, &lo, &hi);
    for (size_t unit = lo; unit < hi; unit++) {
        uint32_t from = (uint32_t)(unit / columns) * ST_NTT_LANES, block = (uint32_t)(unit % columns);
        if (unit == lo || block == 0)
            load_secrets(a, from, x);
        memset(sum, 0, sizeof sum);
        for (uint32_t r = 0; r < rows; r++)
            st_ntt_multiply(sum, x[r], a->b->blocks + ((size_t)block * rows + r) * ST_NTT_N);
        st_ntt_inverse(&a->b->ntt, sum);
        store_rows(a, from, block, sum);
    }
    explicit_bzero(x, rows * sizeof x[0]);
    explicit_bzero(sum, sizeof sum);
}

void st_lwe_basis_apply(const struct st_lwe_basis *b, struct st_pool *pool, const struct st_limb_kernels *limb,
                        const int8_t *c, uint32_t n, uint32_t d, uint32_t *out)
{
    if (b->params->module) {
        struct apply a = {b, c, n, d, out};
        if (pool)
            st_pool_run(pool, apply_module, &a);
        else
            apply_module(&a, 0, 1);
        return;
    }
    struct st_limbs u = b->limbs;
    u.n_vec = d;
    st_field_product(
        pool, limb,
        &(struct st_field_product){.s = c, .lds = b->params->m, .n_s = n, .u = u, .out = out, .out_s = d, .out_u = 1});
}

/* The other side: a block times a column w is the transposed product, w(X) b(1/X). With f*(X) = f(1/X), which is f with
 * coefficient k at -(256 - k), that is (w* b)*: the same transformed blocks serve. */
static uint32_t star_at(uint32_t k)
{
    return (ST_NTT_N - k) % ST_NTT_N;
}

static uint32_t star_of(uint32_t k, uint32_t x)
{
    return k ? st_fq_sub(0, x) : x;
}

/* out [n][m] = the rows of blocks, starred back. */
static void store_hints(const struct st_lwe_basis *b, lanes *sum, uint32_t n, uint32_t *out)
{
    const uint32_t m = b->params->m;
    for (uint32_t r = 0; r < m / ST_NTT_N; r++) {
        st_ntt_inverse(&b->ntt, sum[r]);
        for (uint32_t l = 0; l < n; l++)
            for (uint32_t t = 0; t < ST_NTT_N; t++)
                out[(size_t)l * m + r * ST_NTT_N + t] = star_of(t, sum[r][star_at(t)][l]);
    }
}

/* sum += block * the transformed x. */
static void add_block(const struct st_lwe_basis *b, uint32_t block, lanes x, lanes *sum)
{
    const uint32_t rows = n_rows_of_blocks(b);
    st_ntt_forward(&b->ntt, x);
    for (uint32_t r = 0; r < rows; r++)
        st_ntt_multiply(sum[r], x, b->blocks + ((size_t)block * rows + r) * ST_NTT_N);
}

static void module_hints(const struct st_lwe_basis *b, const int8_t *w, uint32_t n, uint32_t d, uint32_t *out)
{
    _Alignas(64) lanes x, sum[BLOCKS_MAX];
    memset(sum, 0, n_rows_of_blocks(b) * sizeof sum[0]);
    for (uint32_t block = 0; block < blocks_of(d); block++) {
        uint32_t first = block * ST_NTT_N, n_k = d - first < ST_NTT_N ? d - first : ST_NTT_N;
        if (n < ST_NTT_LANES || n_k < ST_NTT_N)
            memset(x, 0, sizeof x);
        for (uint32_t l = 0; l < n; l++) {
            const int8_t *from = w + (size_t)l * d + first;
            x[0][l] = from_small(from[0]);
            for (uint32_t k = 1; k < n_k; k++)
                x[ST_NTT_N - k][l] = from_small(-from[k]);
        }
        add_block(b, block, x, sum);
    }
    store_hints(b, sum, n, out);
}

/* One vector of residues, in lane 0. */
static void module_times(const struct st_lwe_basis *b, const uint32_t *x, uint32_t d, uint32_t *out)
{
    _Alignas(64) lanes one, sum[BLOCKS_MAX];
    memset(sum, 0, n_rows_of_blocks(b) * sizeof sum[0]);
    for (uint32_t block = 0; block < blocks_of(d); block++) {
        uint32_t first = block * ST_NTT_N, n = d - first < ST_NTT_N ? d - first : ST_NTT_N;
        memset(one, 0, sizeof one);
        for (uint32_t k = 0; k < n; k++)
            one[star_at(k)][0] = star_of(k, x[first + k]);
        add_block(b, block, one, sum);
    }
    store_hints(b, sum, 1, out);
    explicit_bzero(one, sizeof one);
    explicit_bzero(sum, n_rows_of_blocks(b) * sizeof sum[0]);
}

static uint32_t dense_at(const struct st_lwe_basis *b, uint32_t row, uint32_t column)
{
    uint32_t x = 0;
    for (uint32_t l = 0; l < 4; l++)
        x |= (uint32_t)b->limbs.p[plane_at(b, row, column, l)] << 8 * l;
    return x;
}

/* Sums of bytes times residues, a sum per byte of B: 2^8 * 2^32 * 2^24 columns fit 64 bits. */
static void dense_times(const struct st_lwe_basis *b, const uint32_t *x, uint32_t d, uint32_t *out)
{
    const uint32_t m = b->params->m;
    uint64_t sum[4][ST_LWE_MAX_M];
    for (uint32_t l = 0; l < 4; l++) {
        memset(sum[l], 0, m * sizeof sum[l][0]);
        for (uint32_t k = 0; k < d; k++) {
            const uint8_t *bytes = b->limbs.p + plane_at(b, 0, k, l);
            for (uint32_t row = 0; row < m; row++)
                sum[l][row] += (uint64_t)bytes[row] * x[k];
        }
    }
    for (uint32_t row = 0; row < m; row++) {
        uint32_t y = 0;
        for (uint32_t l = 0; l < 4; l++)
            y = st_fq_add(y, st_fq_mul(st_fq_reduce(sum[l][row]), 1u << 8 * l));
        out[row] = y;
    }
    explicit_bzero(sum, sizeof sum);
}

void st_lwe_basis_times(const struct st_lwe_basis *b, const uint32_t *x, uint32_t d, uint32_t *out)
{
    if (b->params->module)
        module_times(b, x, d, out);
    else
        dense_times(b, x, d, out);
}

void st_lwe_basis_column(const struct st_lwe_basis *b, uint32_t column, uint32_t *out)
{
    if (!b->params->module) {
        for (uint32_t row = 0; row < b->params->m; row++)
            out[row] = dense_at(b, row, column);
        return;
    }
    _Alignas(64) lanes unit, sum[BLOCKS_MAX];
    uint32_t k = column % ST_NTT_N;
    memset(unit, 0, sizeof unit);
    memset(sum, 0, n_rows_of_blocks(b) * sizeof sum[0]);
    unit[star_at(k)][0] = star_of(k, 1);
    add_block(b, column / ST_NTT_N, unit, sum);
    store_hints(b, sum, 1, out);
}

/* Piece by piece, the last one through a copy that is filled up with zeros. */
static void dense_hints(const struct st_lwe_basis *b, const struct st_limb_kernels *limb, const int8_t *w, uint32_t n,
                        uint32_t d, uint32_t *out)
{
    const uint32_t m = b->params->m;
    int8_t filled[ST_LWE_HINTS * ST_LWE_PIECE];
    uint32_t part[ST_LWE_HINTS * ST_LWE_MAX_M];
    memset(out, 0, (size_t)n * m * sizeof *out);
    for (uint32_t first = 0; first < d; first += ST_LWE_PIECE) {
        struct st_field_product p = {
            .s = w + first, .lds = d, .n_s = n, .u = b->limbs, .out = part, .out_s = m, .out_u = 1};
        if (d - first < ST_LWE_PIECE) {
            memset(filled, 0, n * ST_LWE_PIECE);
            for (uint32_t l = 0; l < n; l++)
                memcpy(filled + l * ST_LWE_PIECE, w + (size_t)l * d + first, d - first);
            p.s = filled;
            p.lds = ST_LWE_PIECE;
        }
        p.u.p += (size_t)first * m * 4;
        st_field_product(NULL, limb, &p);
        for (size_t i = 0; i < (size_t)n * m; i++)
            out[i] = st_fq_add(out[i], part[i]);
    }
}

void st_lwe_basis_hints(const struct st_lwe_basis *b, const struct st_limb_kernels *limb, const int8_t *w, uint32_t n,
                        uint32_t d, uint32_t *out)
{
    if (b->params->module)
        module_hints(b, w, n, d, out);
    else
        dense_hints(b, limb, w, n, d, out);
}
