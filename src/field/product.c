#include "field/product.h"
#include "field/fq.h"
#include "field/kernels.h"

#include <stdatomic.h>
#include <string.h>

/* What a thread works with. */
#define PANEL (128u << 10)
#define ROWS 192 /* byte vectors of the larger side in one chunk */
struct scratch {
    union {
        _Alignas(64) uint8_t panel[PANEL];
        int16_t digits[PANEL / 2];
    };
    union {
        _Alignas(64) int32_t sum[ROWS * ST_LIMB_LANES];
        int64_t sum64[ROWS * ST_LIMB_LANES / 2];
    };
    uint32_t joined[ROWS];
    /* Results, one row per vector of the smaller side: rows of `out` may lie a power of two apart, where writing them
     * in turns would miss the cache each time. */
    uint32_t block[ST_LIMB_LANES][ROWS + 16];
    size_t panel_used, sum_used; /* bytes to wipe */
};
_Static_assert(sizeof(struct scratch) + 8192 < ST_PRODUCT_STACK, "the limit of the header");

#define DOT_VECS 8    /* vectors of u in one call of dots() */
#define DOT_K 2048    /* values of k in one pass over them */
#define CHUNK 65536   /* bytes of the larger side that a thread takes at a time, when few vectors meet it */
#define TILE_LANES 12 /* fewer byte vectors on the smaller side go through dot */
#define PAD 64        /* between planes on the stack: a power of two apart, they would share a few lines of cache */
#define MAX_SHARE 16

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

void st_limbs_split(const uint32_t *x, uint32_t n_vec, uint32_t len, uint8_t *p)
{
    const struct st_field_kernels *k = st_field_kernels();
    for (uint32_t v = 0; v < n_vec; v++)
        k->split(x + (size_t)v * len, len, 0, 4, p + (size_t)v * 4 * len);
}

void st_limbs_split24(const uint32_t *x, uint32_t n_vec, uint32_t len, uint8_t *p)
{
    const struct st_field_kernels *k = st_field_kernels();
    for (uint32_t v = 0; v < n_vec; v++)
        k->split(x + (size_t)v * len, len, 128, 3, p + (size_t)v * 3 * len);
}

/* A part of a product: some vectors of both sides, sums over [k0, k0 + n_k), n_k <= ST_LIMB_MAX_K. */
struct part {
    const struct st_field_product *p;
    uint32_t s0, n_s, v0, n_v, k0, n_k;
};

static const uint8_t *plane(const struct part *t, uint32_t v)
{
    const struct st_limbs *u = &t->p->u;
    return u->p + (size_t)(t->v0 + v) * u->n_limb * u->len + t->k0;
}

static const int8_t *vector(const struct part *t, uint32_t i)
{
    return t->p->s + (t->s0 + i) * t->p->lds + t->k0;
}

/* n results, the first of vectors i and v, the others `step` apart. */
static void put(const struct part *t, uint32_t i, uint32_t v, const uint32_t *x, uint32_t n, size_t step)
{
    uint32_t *out = &t->p->out[(t->s0 + i) * t->p->out_s + (t->v0 + v) * t->p->out_u];
    for (uint32_t j = 0; j < n; j++)
        out[j * step] = t->k0 ? st_fq_add(out[j * step], x[j]) : x[j];
}

static void clear(struct scratch *w, size_t panel_used, size_t n_sum)
{
    memset(w->sum, 0, n_sum * sizeof *w->sum);
    w->panel_used = panel_used > w->panel_used ? panel_used : w->panel_used;
    w->sum_used = n_sum * sizeof *w->sum > w->sum_used ? n_sum * sizeof *w->sum : w->sum_used;
}

/* n_s <= ROWS, n_v <= DOT_VECS, by dot products. `copy`: the planes, few, go to the stack, and s is read once, in the
 * order of memory; otherwise u is the larger side. */
static void dots(const struct st_limb_kernels *f, const struct part *t, bool copy, struct scratch *w)
{
    const struct st_field_product *p = t->p;
    uint32_t n_limb = p->u.n_limb, n_plane = t->n_v * n_limb;
    uint32_t step = copy ? (PANEL / n_plane - PAD) / 64 * 64 : DOT_K;
    size_t ldu = copy ? (least(step, t->n_k) + 63) / 64 * 64 + PAD : p->u.len, ld_sum = t->n_s * ST_LIMB_U;
    clear(w, copy ? n_plane * ldu : 0, t->n_v * ld_sum);
    for (uint32_t k = 0; k < t->n_k; k += step) {
        uint32_t n_k = least(step, t->n_k - k), n_s = t->n_v == 1 ? t->n_s : ST_LIMB_S;
        for (uint32_t j = 0; copy && j < n_plane; j++)
            memcpy(w->panel + j * ldu, plane(t, 0) + (size_t)j * p->u.len + k, n_k);
        for (uint32_t i = 0; i < t->n_s; i += n_s)
            for (uint32_t v = 0; v < t->n_v; v++)
                f->dot(&(struct st_limb_dot){.s = vector(t, i) + k,
                                             .lds = p->lds,
                                             .n_s = least(n_s, t->n_s - i),
                                             .u = copy ? w->panel + v * n_limb * ldu : plane(t, v) + k,
                                             .ldu = ldu,
                                             .n_u = n_limb,
                                             .n_k = n_k,
                                             .stream = copy && v == 0 && n_k == p->lds,
                                             .sum = w->sum + v * ld_sum + i * ST_LIMB_U});
    }
    for (uint32_t v = 0; v < t->n_v; v++) {
        st_field_kernels()->join(w->sum + v * ld_sum, t->n_s, ST_LIMB_U, 1, n_limb, w->joined);
        put(t, 0, v, w->joined, t->n_s, p->out_s);
    }
}

/* The same by products of 16 bits: the digits of the vectors of u always go to the stack. */
static void dots16(const struct st_limb_kernels *f, const struct part *t, bool s_streams, struct scratch *w)
{
    const struct st_field_product *p = t->p;
    uint32_t step = s_streams ? (PANEL / (t->n_v * 4) - PAD) / 64 * 64 : DOT_K;
    uint32_t ldu = (least(step, t->n_k) + 63) / 64 * 64 + PAD / 2;
    int16_t *u = w->digits;
    int64_t *sum = w->sum64;
    clear(w, (size_t)t->n_v * ldu * 4, t->n_v * t->n_s * 4);
    for (uint32_t k = 0; k < t->n_k; k += step) {
        uint32_t n_k = least(step, t->n_k - k), n_s = t->n_v == 1 ? t->n_s : ST_LIMB_S;
        for (uint32_t v = 0; v < t->n_v; v++)
            st_field_kernels()->digits(plane(t, v) + k, p->u.len, p->u.n_limb, n_k, u + v * 2 * ldu,
                                       u + (v * 2 + 1) * ldu);
        for (uint32_t i = 0; i < t->n_s; i += n_s)
            for (uint32_t v = 0; v < t->n_v; v++)
                f->dot16(&(struct st_limb_dot16){.s = vector(t, i) + k,
                                                 .lds = p->lds,
                                                 .n_s = least(n_s, t->n_s - i),
                                                 .u = u + v * 2 * ldu,
                                                 .ldu = ldu,
                                                 .n_k = n_k,
                                                 .stream = s_streams && v == 0 && n_k == p->lds,
                                                 .sum = sum + ((size_t)v * t->n_s + i) * 2});
    }
    /* |low| <= 2^16 * 2^7 * 2^15, so |low + 2^16 high| < 2^55. */
    for (uint32_t v = 0; v < t->n_v; v++) {
        for (uint32_t i = 0; i < t->n_s; i++) {
            const int64_t *x = sum + ((size_t)v * t->n_s + i) * 2;
            w->joined[i] = st_fq_from(x[0] + x[1] * 65536);
        }
        put(t, 0, v, w->joined, t->n_s, p->out_s);
    }
}

/* The same for one panel of the smaller side. s_rows: the rows that are read where they lie are those of s. */
static void tiles(const struct st_limb_kernels *f, const struct part *t, bool s_rows, struct scratch *w)
{
    const struct st_field_product *p = t->p;
    const struct st_field_kernels *fk = st_field_kernels();
    uint32_t n_limb = p->u.n_limb, n_plane = t->n_v * n_limb;
    uint32_t n_few = s_rows ? t->n_v : t->n_s, n_item = s_rows ? t->n_s : t->n_v;
    uint32_t used = s_rows ? n_plane : t->n_s, n_lane = (used + 15) & ~15u;
    const uint8_t *packed = s_rows ? plane(t, 0) : (const uint8_t *)vector(t, 0);
    const uint8_t *rows = s_rows ? (const uint8_t *)vector(t, 0) : plane(t, 0);
    struct st_limb_tile tile = {.panel = w->panel,
                                .n_lane = n_lane,
                                .ld = s_rows ? p->lds : p->u.len,
                                .n_row = s_rows ? t->n_s : n_plane,
                                .rows_signed = s_rows,
                                .sum = w->sum};
    /* A large panel stays in the first-level cache, and rows go by in pieces; a small one may fill half of the second
     * level, so that rows go by whole: they are what takes the time then. */
    uint32_t step = (n_lane > 32 ? 16u << 10 : PANEL) / n_lane / 64 * 64;
    bool first = s_rows ? t->v0 == 0 : t->s0 == 0; /* the rows come from memory */
    clear(w, (size_t)n_lane * least(step, t->n_k + 3), tile.n_row * n_lane);
    for (uint32_t k = 0; k < t->n_k; k += step) {
        tile.n_k = least(step, t->n_k - k);
        tile.rows = rows + k;
        /* Next are the same rows further on; after the last piece, the rows of the next chunk. Whole rows: those behind
         * (16 are as many as a tile has). */
        tile.ahead = tile.n_k < t->n_k - k ? step : k ? tile.n_row * tile.ld - k : 16 * tile.ld;
        tile.ahead = first ? tile.ahead : 0;
        f->pack(packed + k, s_rows ? p->u.len : p->lds, used, n_lane, tile.n_k, w->panel);
        f->tile(&tile);
    }
    for (uint32_t i = 0; i < n_item; i++) {
        if (s_rows)
            fk->join(w->sum + i * n_lane, n_few, n_limb, 1, n_limb, w->joined);
        else
            fk->join(w->sum + i * n_limb * n_lane, n_few, 1, n_lane, n_limb, w->joined);
        for (uint32_t j = 0; j < n_few; j++)
            w->block[j][i] = w->joined[j];
    }
    for (uint32_t j = 0; j < n_few; j++)
        put(t, s_rows ? 0 : j, s_rows ? j : 0, w->block[j], n_item, s_rows ? p->out_s : p->out_u);
}

/* How a product is done. */
struct way {
    bool s_rows, tile; /* the larger side is s; by tiles */
    uint32_t n_item;   /* vectors of the larger side */
    uint32_t chunk;    /* of them at a time */
    size_t first;      /* chunks of the products before this one */
};

static struct way way_of(const struct st_limb_kernels *f, const struct st_field_product *p, uint32_t n_threads)
{
    struct way y = {.s_rows = p->n_s >= p->u.n_vec};
    uint32_t few = y.s_rows ? p->u.n_vec * p->u.n_limb : p->n_s, most = y.s_rows ? ROWS : ROWS / p->u.n_limb;
    size_t bytes = y.s_rows ? p->u.len : (size_t)p->u.len * p->u.n_limb;
    y.n_item = y.s_rows ? p->n_s : p->u.n_vec;
    y.tile = f->tile && few >= TILE_LANES;
    /* All threads get something; short tiles are rare. */
    uint32_t fair = (y.n_item / n_threads + 23) / 24 * 24 + 24;
    uint32_t want = y.tile ? most : (uint32_t)least(most, (uint32_t)(CHUNK / bytes / ST_LIMB_S + 1) * ST_LIMB_S);
    if (!y.s_rows && !y.tile)
        want = DOT_VECS;
    y.chunk = least(want, fair);
    return y;
}

/* Items [lo, hi) of the larger side times all of the smaller. */
static void chunk(const struct st_limb_kernels *f, const struct st_field_product *p, const struct way *y, uint32_t lo,
                  uint32_t hi, struct scratch *w)
{
    uint32_t n_limb = p->u.n_limb, group = y->tile ? ST_LIMB_LANES : ROWS;
    if (y->s_rows)
        group = y->tile ? ST_LIMB_LANES / n_limb : DOT_VECS;
    for (uint32_t k = 0; k < p->u.len; k += ST_LIMB_MAX_K)
        for (uint32_t g = 0; g < (y->s_rows ? p->u.n_vec : p->n_s); g += group) {
            struct part t = {.p = p, .k0 = k, .n_k = least(ST_LIMB_MAX_K, p->u.len - k)};
            t.s0 = y->s_rows ? lo : g;
            t.n_s = y->s_rows ? hi - lo : least(group, p->n_s - g);
            t.v0 = y->s_rows ? g : lo;
            t.n_v = y->s_rows ? least(group, p->u.n_vec - g) : hi - lo;
            if (y->tile)
                tiles(f, &t, y->s_rows, w);
            else if (f->dot16)
                dots16(f, &t, y->s_rows, w);
            else
                dots(f, &t, y->s_rows, w);
        }
}

/* Every thread starts with a contiguous share of the chunks, one sequential stream through memory, and then helps with
 * the others'. */
struct work {
    const struct st_limb_kernels *f;
    const struct st_field_product *p;
    uint32_t n;
    uint32_t n_share;
    struct share {
        _Alignas(64) atomic_size_t next;
        size_t end;
    } shares[MAX_SHARE];
};

static void run(void *arg, int thread, int n_threads)
{
    struct work *w = arg;
    struct scratch scratch;
    struct way y = {0};
    scratch.panel_used = scratch.sum_used = 0;
    for (uint32_t i = 0; i < w->n_share; i++) {
        struct share *share = &w->shares[((uint32_t)thread + i) % w->n_share];
        for (size_t at; (at = atomic_fetch_add_explicit(&share->next, 1, memory_order_relaxed)) < share->end;) {
            size_t first = 0;
            for (uint32_t j = 0; j < w->n; j++) {
                y = way_of(w->f, &w->p[j], (uint32_t)n_threads);
                size_t n = (y.n_item + y.chunk - 1) / y.chunk;
                if (at < first + n) {
                    uint32_t lo = (uint32_t)(at - first) * y.chunk;
                    chunk(w->f, &w->p[j], &y, lo, least(lo + y.chunk, y.n_item), &scratch);
                    break;
                }
                first += n;
            }
        }
    }
    explicit_bzero(scratch.panel, scratch.panel_used);
    explicit_bzero(scratch.sum, scratch.sum_used);
    explicit_bzero(scratch.joined, sizeof scratch.joined);
    explicit_bzero(scratch.block, y.tile ? sizeof scratch.block : 0);
}

void st_field_products(struct st_pool *pool, const struct st_limb_kernels *f, const struct st_field_product *p,
                       uint32_t n)
{
    struct work w = {.f = f, .p = p, .n = n};
    uint32_t n_threads = pool ? (uint32_t)st_pool_size(pool) : 1;
    size_t total = 0;
    w.n_share = least(n_threads, MAX_SHARE);
    for (uint32_t i = 0; i < n; i++) {
        struct way y = way_of(f, &p[i], n_threads);
        total += (y.n_item + y.chunk - 1) / y.chunk;
    }
    for (uint32_t i = 0; i < w.n_share; i++) {
        size_t lo;
        st_pool_part(total, 1, (int)i, (int)w.n_share, &lo, &w.shares[i].end);
        atomic_init(&w.shares[i].next, lo);
    }
    if (pool)
        st_pool_run(pool, run, &w);
    else
        run(&w, 0, 1);
}

void st_field_product(struct st_pool *pool, const struct st_limb_kernels *f, const struct st_field_product *p)
{
    st_field_products(pool, f, p, 1);
}
