/* Attention over the paged cache, in tiles of query vectors and keys with an online softmax.
 *
 * One item = one kv head of one sequence x a tile of its rows: all query heads of that kv head share the loads of K and
 * V. A step with fewer items than threads (decoding one long sequence) cuts the keys of each item into parts, merged at
 * the end; not in deterministic mode, where a sum must not depend on what else is in the batch. */
#include "tensor/compute.h"
#include "tensor/compute_priv.h"

#include <math.h>
#include <string.h>

/* Query-key products below which one thread is faster than waking the others; keys worth a part of their own. */
#define MIN_PARALLEL 32768
#define MIN_PART_KEYS 256

struct step {
    struct st_compute *c;
    const struct st_kv_layer *kv;
    const struct st_attn_seq *seqs;
    uint32_t n_seq, n_head, group, tile_rows;
    const float *q;
    float scale;
    uint32_t window;
    float *out;
    size_t n_item;
    uint32_t n_part; /* parts of the keys of each item */
    /* head_dim and v_head_dim rounded up to 16: rows of q and k, and of v and o, in the workspace are padded with
     * zeros. */
    uint32_t width, v_width;
};

/* One item, found by its number. */
struct item {
    const struct st_attn_seq *seq;
    uint32_t head;       /* kv head */
    uint32_t row, n_row; /* rows of the sequence */
    uint32_t n_q;        /* n_row * group query vectors */
};

/* Walks forward only: `*seq` is the sequence of the last item and `*first` its first item. */
static struct item find_item(const struct step *s, size_t i, uint32_t *seq, size_t *first)
{
    for (;;) {
        const struct st_attn_seq *q = &s->seqs[*seq];
        uint32_t n_tile = (q->n_row + s->tile_rows - 1) / s->tile_rows;
        size_t n = (size_t)n_tile * s->kv->n_kv_head;
        if (i - *first < n) {
            /* Late rows see more keys: long items first, so that the threads end together. */
            uint32_t tile = n_tile - 1 - (uint32_t)((i - *first) / s->kv->n_kv_head), row = tile * s->tile_rows;
            uint32_t n_row = q->n_row - row < s->tile_rows ? q->n_row - row : s->tile_rows;
            return (struct item){q, (uint32_t)((i - *first) % s->kv->n_kv_head), row, n_row, n_row * s->group};
        }
        *first += n;
        ++*seq;
    }
}

/* Keys (or values) [t0, t0 + n) of one kv head, hd values each, in f32, in rows of `width`. */
static void load_rows(const struct st_kv_layer *kv, const void *base, const struct item *it, size_t hd, uint32_t width,
                      uint32_t t0, uint32_t n, float *to)
{
    size_t size = st_dtype_size(kv->dtype);
    for (uint32_t t = t0; t < t0 + n;) {
        uint32_t at = t % kv->block_len, run = kv->block_len - at < t0 + n - t ? kv->block_len - at : t0 + n - t;
        size_t from =
            it->seq->blocks[t / kv->block_len] * kv->block_stride + ((size_t)it->head * kv->block_len + at) * hd;
        const uint8_t *p = (const uint8_t *)base + from * size;
        t += run;
        if (width == hd) {
            st_convert(kv->dtype, p, ST_DTYPE_F32, to, run * hd);
            to += run * hd;
            continue;
        }
        for (; run; run--, p += hd * size, to += width) {
            st_convert(kv->dtype, p, ST_DTYPE_F32, to, hd);
            memset(to + hd, 0, (width - hd) * sizeof *to);
        }
    }
}

/* Softmax of one query vector's scores against keys [t0, t0 + n): s becomes the weights, o and sum are rescaled to the
 * new maximum. The vector at position pos sees (pos - window, pos]. */
static void soften(const struct step *st, struct st_attn_scratch *a, uint32_t i, uint32_t pos, uint32_t t0, uint32_t n)
{
    float *s = a->s + (size_t)i * ST_ATTN_TILE, *o = a->o + (size_t)i * st->v_width;
    uint32_t lo = 0, hi = pos < t0 ? 0 : pos - t0 + 1 < n ? pos - t0 + 1 : n;
    if (st->window && pos >= st->window && pos - st->window + 1 > t0)
        lo = pos - st->window + 1 - t0 < hi ? pos - st->window + 1 - t0 : hi;
    memset(s, 0, lo * sizeof *s);
    memset(s + hi, 0, (n - hi) * sizeof *s);
    if (lo == hi)
        return;
    float max = a->max[i];
    for (uint32_t j = lo; j < hi; j++)
        max = s[j] > max ? s[j] : max;
    if (max > a->max[i]) {
        float shrink = expf(a->max[i] - max);
        a->max[i] = max;
        a->sum[i] *= shrink;
        for (uint32_t d = 0; d < st->v_width; d++)
            o[d] *= shrink;
    }
    a->sum[i] += st->c->k.exp_sum(s + lo, hi - lo, max);
}

/* Part `part` of an item: a->o, a->max, a->sum over its keys. */
static void run_item(const struct step *s, const struct item *it, uint32_t part, struct st_attn_scratch *a)
{
    const struct st_kv_layer *kv = s->kv;
    uint32_t hd = kv->head_dim, width = s->width, pos = it->seq->pos0 + it->row, end = pos + it->n_row;
    uint32_t begin = s->window && pos >= s->window ? pos - s->window + 1 : 0;
    begin = begin / ST_ATTN_TILE * ST_ATTN_TILE;
    size_t lo, hi;
    st_pool_part(end - begin, ST_ATTN_TILE, (int)part, (int)s->n_part, &lo, &hi);
    for (uint32_t r = 0; r < it->n_row; r++) {
        const float *q = s->q + ((size_t)(it->seq->row0 + it->row + r) * s->n_head + it->head * s->group) * hd;
        for (uint32_t h = 0; h < s->group; h++, q += hd) {
            float *to = a->q + (size_t)(r * s->group + h) * width;
            for (uint32_t d = 0; d < width; d++)
                to[d] = d < hd ? q[d] * s->scale : 0;
        }
    }
    memset(a->o, 0, (size_t)it->n_q * s->v_width * sizeof *a->o);
    for (uint32_t i = 0; i < it->n_q; i++) {
        a->max[i] = -INFINITY;
        a->sum[i] = 0;
    }
    for (uint32_t t = begin + (uint32_t)lo; t < begin + (uint32_t)hi; t += ST_ATTN_TILE) {
        uint32_t n = begin + (uint32_t)hi - t < ST_ATTN_TILE ? begin + (uint32_t)hi - t : ST_ATTN_TILE;
        load_rows(kv, kv->k, it, hd, width, t, n, a->kv);
        s->c->k.scores(a->q, it->n_q, a->kv, n, width, a->s, ST_ATTN_TILE);
        for (uint32_t i = 0; i < it->n_q; i++)
            soften(s, a, i, pos + i / s->group, t, n);
        load_rows(kv, kv->v, it, kv->v_head_dim, s->v_width, t, n, a->kv);
        s->c->k.weigh(a->s, ST_ATTN_TILE, it->n_q, a->kv, n, s->v_width, a->o);
    }
}

static void write_out(const struct step *s, const struct item *it, const float *o, const float *sum)
{
    uint32_t hd = s->kv->v_head_dim;
    for (uint32_t i = 0; i < it->n_q; i++) {
        float *out =
            s->out +
            ((size_t)(it->seq->row0 + it->row + i / s->group) * s->n_head + it->head * s->group + i % s->group) * hd;
        float inv = 1 / sum[i];
        for (uint32_t d = 0; d < hd; d++)
            out[d] = o[(size_t)i * s->v_width + d] * inv;
    }
}

static void attend_part(void *arg, int thread, int n_threads)
{
    const struct step *s = arg;
    struct st_attn_scratch *a = &s->c->attn[thread];
    uint32_t seq = 0;
    size_t first = 0;
    (void)n_threads;
    for (size_t i; (i = atomic_fetch_add_explicit(&s->c->next, 1, memory_order_relaxed)) < s->n_item * s->n_part;) {
        struct item it = find_item(s, i / s->n_part, &seq, &first);
        run_item(s, &it, (uint32_t)(i % s->n_part), a);
        if (s->n_part == 1) {
            write_out(s, &it, a->o, a->sum);
            continue;
        }
        struct st_attn_part *p = &s->c->part[i];
        memcpy(p->o, a->o, (size_t)it.n_q * s->v_width * sizeof *p->o);
        memcpy(p->max, a->max, sizeof p->max);
        memcpy(p->sum, a->sum, sizeof p->sum);
    }
}

/* Brings the parts of each item to a common maximum and adds them into the first. */
static void merge(const struct step *s)
{
    uint32_t seq = 0, width = s->v_width;
    size_t first = 0;
    for (size_t i = 0; i < s->n_item; i++) {
        struct item it = find_item(s, i, &seq, &first);
        struct st_attn_part *parts = &s->c->part[i * s->n_part];
        for (uint32_t j = 0; j < it.n_q; j++) {
            float max = -INFINITY, sum = 0, *o = parts[0].o + (size_t)j * width;
            for (uint32_t p = 0; p < s->n_part; p++)
                max = parts[p].max[j] > max ? parts[p].max[j] : max;
            for (uint32_t p = 0; p < s->n_part; p++) {
                const float *from = parts[p].o + (size_t)j * width;
                /* A part whose keys all lie outside the window has maximum -inf and sum 0. */
                float f = expf(parts[p].max[j] - max);
                sum += f * parts[p].sum[j];
                for (uint32_t d = 0; d < width; d++)
                    o[d] = p ? o[d] + f * from[d] : f * from[d];
            }
            parts[0].sum[j] = sum;
        }
        write_out(s, &it, parts[0].o, parts[0].sum);
    }
}

void st_attend(struct st_compute *c, const struct st_kv_layer *kv, const struct st_attn_seq *seqs, uint32_t n_seq,
               const float *q, uint32_t n_head, float scale, uint32_t window, float *out)
{
    struct step s = {.c = c,
                     .kv = kv,
                     .seqs = seqs,
                     .n_seq = n_seq,
                     .n_head = n_head,
                     .group = n_head / kv->n_kv_head,
                     .q = q,
                     .scale = scale,
                     .window = window,
                     .out = out,
                     .width = (kv->head_dim + 15) & ~15u,
                     .v_width = (kv->v_head_dim + 15) & ~15u,
                     .n_part = 1};
    s.tile_rows = ST_ATTN_TILE / s.group;
    size_t products = 0;
    uint32_t keys = UINT32_MAX;
    for (uint32_t i = 0; i < n_seq; i++) {
        uint32_t seen = seqs[i].pos0 + seqs[i].n_row;
        seen = window && window < seen ? window : seen;
        keys = seen < keys ? seen : keys;
        products += (size_t)seqs[i].n_row * seen * n_head;
        s.n_item += (size_t)((seqs[i].n_row + s.tile_rows - 1) / s.tile_rows) * kv->n_kv_head;
    }
    size_t n_threads = (size_t)c->n_threads;
    if (!c->deterministic && s.n_item && s.n_item < n_threads && keys >= 2 * MIN_PART_KEYS) {
        size_t want = (n_threads + s.n_item - 1) / s.n_item, most = keys / MIN_PART_KEYS;
        s.n_part = (uint32_t)(want < most ? want : most);
    }
    atomic_store_explicit(&c->next, 0, memory_order_relaxed);
    if (products * kv->head_dim < MIN_PARALLEL)
        attend_part(&s, 0, 1);
    else
        st_pool_run(c->pool, attend_part, &s);
    if (s.n_part > 1)
        merge(&s);
}

struct store_step {
    const struct st_kv_layer *kv;
    const struct st_attn_seq *seqs;
    uint32_t n_seq;
    const float *k, *v;
};

static void store_part(void *arg, int thread, int n_threads)
{
    const struct store_step *s = arg;
    const struct st_kv_layer *kv = s->kv;
    size_t size = st_dtype_size(kv->dtype), hd = kv->head_dim, hv = kv->v_head_dim;
    for (uint32_t i = 0; i < s->n_seq; i++) {
        const struct st_attn_seq *q = &s->seqs[i];
        size_t lo, hi;
        st_pool_part(q->n_row, 1, thread, n_threads, &lo, &hi);
        for (size_t r = lo; r < hi; r++) {
            size_t pos = q->pos0 + r, block = q->blocks[pos / kv->block_len] * kv->block_stride;
            for (uint32_t h = 0; h < kv->n_kv_head; h++) {
                size_t from = (q->row0 + r) * kv->n_kv_head + h, to = (size_t)h * kv->block_len + pos % kv->block_len;
                uint8_t *k = (uint8_t *)kv->k + (block + to * hd) * size;
                uint8_t *v = (uint8_t *)kv->v + (block + to * hv) * size;
                st_convert(ST_DTYPE_F32, s->k + from * hd, kv->dtype, k, hd);
                st_convert(ST_DTYPE_F32, s->v + from * hv, kv->dtype, v, hv);
            }
        }
    }
}

void st_kv_store(struct st_compute *c, const struct st_kv_layer *kv, const struct st_attn_seq *seqs, uint32_t n_seq,
                 const float *k, const float *v)
{
    struct store_step s = {kv, seqs, n_seq, k, v};
    size_t n = 0;
    for (uint32_t i = 0; i < n_seq; i++)
        n += (size_t)seqs[i].n_row * kv->n_kv_head * kv->head_dim;
    if (n < MIN_PARALLEL)
        store_part(&s, 0, 1);
    else
        st_pool_run(c->pool, store_part, &s);
}
