#include "engine/attend_outside.h"
#include "base/buf.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TILE 256  /* query vectors of one exchange */
#define BLOCK 512 /* keys of one exchange */
_Static_assert(TILE <= ST_PAIR_ROWS && BLOCK <= ST_PAIR_ROWS && BLOCK <= ST_PAIR_INNER, "products leave whole");
_Static_assert(ST_ATTN_MAX_HEAD_DIM <= ST_PAIR_ROWS && ST_ATTN_MAX_HEAD_DIM <= ST_PAIR_INNER, "heads leave whole");
_Static_assert(ST_ATTN_MAX_GROUP <= TILE, "a row of a kv head's queries fits a tile");

struct st_attend_outside {
    float *q;              /* [TILE][head_dim] */
    float *keys;           /* [BLOCK][head_dim], or values [v_head_dim][BLOCK] */
    float *part;           /* [TILE][BLOCK] weights of one block */
    float *got;            /* what came back: [TILE][BLOCK] or [TILE][v_head_dim] */
    float *sum;            /* [TILE][v_head_dim] */
    struct st_area scores; /* [TILE][keys of the tile] */
};

/* Query vectors of one sequence and one kv head, and the keys that they may see. */
struct tile {
    const struct st_attn_seq *seq;
    uint32_t head, row, n_row; /* rows of the sequence */
    uint32_t group, n_q;       /* query heads of the kv head; n_row * group */
    uint32_t begin, end;       /* positions */
};

void st_attend_outside_free(struct st_attend_outside *o)
{
    if (!o)
        return;
    free(o->q);
    free(o->keys);
    free(o->part);
    free(o->got);
    free(o->sum);
    if (o->scores.p)
        st_area_free(&o->scores);
    free(o);
}

int st_attend_outside_new(const struct st_config *c, size_t max_pos, struct st_attend_outside **out, struct st_err *e)
{
    static const char what[] = "attention outside";
    struct st_attend_outside *o;
    size_t head = c->head_dim > c->v_head_dim ? c->head_dim : c->v_head_dim, wide = head > BLOCK ? head : BLOCK;
    if (st_alloc(&o, 1, sizeof *o, what, e))
        return e->code;
    if (st_alloc(&o->q, TILE, head * sizeof(float), what, e) ||
        st_alloc(&o->keys, BLOCK, head * sizeof(float), what, e) ||
        st_alloc(&o->part, TILE, BLOCK * sizeof(float), what, e) ||
        st_alloc(&o->got, TILE, wide * sizeof(float), what, e) ||
        st_alloc(&o->sum, TILE, head * sizeof(float), what, e) ||
        st_area_new(&o->scores, max_pos, TILE * sizeof(float), what, e)) {
        st_attend_outside_free(o);
        return e->code;
    }
    *out = o;
    return 0;
}

/* Keys, or values, at one position of the tile's kv head, in f32. */
static void load(const struct st_attention *a, const struct tile *t, const void *base, uint32_t dim, uint32_t pos,
                 float *to)
{
    const struct st_kv_layer *kv = a->kv;
    size_t at = t->seq->blocks[pos / kv->block_len] * kv->block_stride +
                ((size_t)t->head * kv->block_len + pos % kv->block_len) * dim;
    st_convert(kv->dtype, (const uint8_t *)base + at * st_dtype_size(kv->dtype), ST_DTYPE_F32, to, dim);
}

static uint32_t block_len(const struct tile *t, uint32_t from)
{
    return t->end - from < BLOCK ? t->end - from : BLOCK;
}

static int find_scores(struct st_attend_outside *o, struct st_boundary *b, const struct st_attention *a,
                       const struct tile *t, struct st_err *e)
{
    const uint32_t hd = a->kv->head_dim, n_key = t->end - t->begin;
    float *scores = o->scores.p;
    for (uint32_t from = t->begin, n; from < t->end; from += n) {
        n = block_len(t, from);
        const struct st_factors shape = {"attention_scores", t->n_q, n, hd};
        for (uint32_t j = 0; j < n; j++)
            load(a, t, a->kv->k, hd, from + j, o->keys + (size_t)j * hd);
        if (st_boundary_pair(b, a->plan, a->op, &shape, o->q, o->keys, o->got, e))
            return e->code;
        for (uint32_t i = 0; i < t->n_q; i++)
            memcpy(scores + (size_t)i * n_key + (from - t->begin), o->got + (size_t)i * n, n * sizeof *scores);
    }
    return 0;
}

/* Query vector i stands at position pos and sees (pos - window, pos]; what it does not see gets weight 0. */
static void soften(const struct st_attention *a, const struct tile *t, uint32_t i, float *s)
{
    uint32_t pos = t->seq->pos0 + t->row + i / t->group, n = t->end - t->begin, hi = pos + 1 - t->begin;
    uint32_t lo = a->window && pos >= a->window ? pos - a->window + 1 - t->begin : 0;
    float most = -INFINITY, sum = 0;
    memset(s, 0, lo * sizeof *s);
    memset(s + hi, 0, (n - hi) * sizeof *s);
    for (uint32_t j = lo; j < hi; j++)
        most = s[j] > most ? s[j] : most;
    for (uint32_t j = lo; j < hi; j++)
        sum += s[j] = expf((s[j] - most) * a->scale);
    for (uint32_t j = lo; j < hi; j++)
        s[j] /= sum;
}

static int add_values(struct st_attend_outside *o, struct st_boundary *b, const struct st_attention *a,
                      const struct tile *t, struct st_err *e)
{
    const uint32_t hv = a->kv->v_head_dim, n_key = t->end - t->begin;
    const float *weights = o->scores.p;
    float value[ST_ATTN_MAX_HEAD_DIM];
    memset(o->sum, 0, (size_t)t->n_q * hv * sizeof *o->sum);
    for (uint32_t from = t->begin, n; from < t->end; from += n) {
        n = block_len(t, from);
        const struct st_factors shape = {"attention_values", t->n_q, hv, n};
        for (uint32_t j = 0; j < n; j++) {
            load(a, t, a->kv->v, hv, from + j, value);
            for (uint32_t d = 0; d < hv; d++)
                o->keys[(size_t)d * n + j] = value[d];
        }
        for (uint32_t i = 0; i < t->n_q; i++)
            memcpy(o->part + (size_t)i * n, weights + (size_t)i * n_key + (from - t->begin), n * sizeof *weights);
        if (st_boundary_pair(b, a->plan, a->op, &shape, o->part, o->keys, o->got, e))
            return e->code;
        for (size_t i = 0; i < (size_t)t->n_q * hv; i++)
            o->sum[i] += o->got[i];
    }
    return 0;
}

/* Rows of the step begin with the sequence's row0; a tile's vectors are [row][query head of the kv head]. */
static int run_tile(struct st_attend_outside *o, struct st_boundary *b, const struct st_attention *a,
                    const struct tile *t, const float *q, float *out, struct st_err *e)
{
    const size_t hd = a->kv->head_dim, hv = a->kv->v_head_dim, group = t->group;
    for (uint32_t r = 0; r < t->n_row; r++) {
        size_t from = (size_t)(t->seq->row0 + t->row + r) * a->n_head + t->head * group;
        memcpy(o->q + r * group * hd, q + from * hd, group * hd * sizeof *q);
    }
    if (find_scores(o, b, a, t, e))
        return e->code;
    for (uint32_t i = 0; i < t->n_q; i++)
        soften(a, t, i, (float *)o->scores.p + (size_t)i * (t->end - t->begin));
    if (add_values(o, b, a, t, e))
        return e->code;
    for (uint32_t r = 0; r < t->n_row; r++) {
        size_t to = (size_t)(t->seq->row0 + t->row + r) * a->n_head + t->head * group;
        memcpy(out + to * hv, o->sum + r * group * hv, group * hv * sizeof *out);
    }
    return 0;
}

int st_attend_outside(struct st_attend_outside *o, struct st_boundary *b, const struct st_attention *a, const float *q,
                      float *out, struct st_err *e)
{
    const uint32_t group = a->n_head / a->kv->n_kv_head, rows = TILE / group;
    for (uint32_t i = 0; i < a->n_seq; i++)
        for (uint32_t row = 0, n; row < a->seqs[i].n_row; row += n) {
            const struct st_attn_seq *seq = &a->seqs[i];
            n = seq->n_row - row < rows ? seq->n_row - row : rows;
            uint32_t pos = seq->pos0 + row;
            struct tile t = {.seq = seq,
                             .row = row,
                             .n_row = n,
                             .group = group,
                             .n_q = n * group,
                             .begin = a->window && pos >= a->window ? pos - a->window + 1 : 0,
                             .end = pos + n};
            for (t.head = 0; t.head < a->kv->n_kv_head; t.head++)
                if (run_tile(o, b, a, &t, q, out, e))
                    return e->code;
        }
    return 0;
}
