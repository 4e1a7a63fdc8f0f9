#include "protect/masked/attention_packed.h"
#include "base/buf.h"
#include "base/hooks.h"
#include "base/mem.h"
#include "crypto/stream.h"
#include "field/fq.h"
#include "field/mask_kernels.h"
#include "protect/masked/rows.h"

#include <math.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#define N_SECRET 2 /* of a check, as of the others (field/freivalds.h) */

/* One of the two matrices. */
struct side {
    uint32_t n;                       /* rows before packing */
    uint32_t *rows;                   /* [2 n][n_inner] as they leave */
    uint32_t back;                    /* 1 / the scalar */
    float alpha[ST_PAIR_ROWS];        /* [n] */
    uint32_t place[2 * ST_PAIR_ROWS]; /* where row i with its mask stands, and from n on where the masks alone do */
};

struct st_attention_packed {
    bool check;
    struct st_stream *random;
    uint32_t n_inner; /* 0: none is outstanding */
    struct side a, b;
    struct st_area rows; /* of a, then of b */
    uint32_t mask[ST_PAIR_INNER];
    uint32_t s[N_SECRET][2 * ST_PAIR_ROWS], bs[N_SECRET][ST_PAIR_INNER]; /* secret vectors, and b^T s */
};

int st_attention_packed_new(bool check, struct st_attention_packed **out, struct st_err *e)
{
    static const char what[] = "packed attention";
    struct st_attention_packed *p;
    uint8_t seed[32];
    if (st_alloc(&p, 1, sizeof *p, what, e))
        return e->code;
    p->check = check;
    int rc = st_random(seed, sizeof seed, e);
    if (!rc)
        rc = st_stream_new(seed, sizeof seed, NULL, 0, what, &p->random, e);
    OPENSSL_cleanse(seed, sizeof seed);
    if (!rc)
        rc = st_area_new(&p->rows, 4 * (size_t)ST_PAIR_ROWS, ST_PAIR_INNER * sizeof(uint32_t), what, e);
    if (rc)
        st_attention_packed_free(p);
    else
        *out = p;
    return rc;
}

void st_attention_packed_free(struct st_attention_packed *p)
{
    if (!p)
        return;
    st_stream_free(p->random);
    if (p->rows.p)
        st_area_free(&p->rows);
    OPENSSL_cleanse(p, sizeof *p);
    free(p);
}

void st_attention_packed_forget(struct st_attention_packed *p)
{
    OPENSSL_cleanse(&p->a, sizeof p->a);
    OPENSSL_cleanse(&p->b, sizeof p->b);
    OPENSSL_cleanse(p->mask, sizeof p->mask);
    p->n_inner = 0;
}

/* ---- way out ---- */

/* Scales by which no sum of products of two rows passes q/2, whatever the rows are (Cauchy and Schwarz): both sides get
 * the square root of the room. */
static int find_scales(struct side *s, const float *x, uint32_t n_inner, struct st_err *e)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (st_rows_alpha(x + (size_t)i * n_inner, n_inner, sqrt(ST_FQ / 2.0), 0, &s->alpha[i], e))
            return e->code;
    return 0;
}

static void pack(struct st_attention_packed *p, struct side *s, const float *x)
{
    const uint32_t d = p->n_inner, scalar = 1 + (uint32_t)st_stream_below(p->random, ST_FQ - 1);
    s->back = st_fq_inverse(scalar);
    st_stream_permutation(p->random, s->place, 2 * s->n);
    for (uint32_t i = 0; i < s->n; i++) {
        uint32_t *masked = s->rows + (size_t)s->place[i] * d, *alone = s->rows + (size_t)s->place[s->n + i] * d;
        for (uint32_t k = 0; k < d; k++)
            p->mask[k] = (uint32_t)st_stream_below(p->random, ST_FQ);
        st_mask_kernels()->mask(x + (size_t)i * d, s->alpha[i], p->mask, masked, d);
        for (uint32_t k = 0; k < d; k++)
            alone[k] = st_fq_mul(scalar, p->mask[k]);
    }
}

int st_attention_packed_enter(struct st_attention_packed *p, struct st_exchange *x, const float *a, const float *b,
                              struct st_exposed *rows, struct st_err *e)
{
    const uint32_t d = x->pair.n_inner;
    if (p->n_inner)
        return st_fail(e, ST_INTERNAL, "packed attention: a product is outstanding already");
    p->a.n = x->pair.n_a;
    p->b.n = x->pair.n_b;
    if (find_scales(&p->a, a, d, e) || find_scales(&p->b, b, d, e))
        return e->code;
    p->n_inner = d;
    p->a.rows = p->rows.p;
    p->b.rows = p->a.rows + 2 * (size_t)p->a.n * d;
    pack(p, &p->a, a);
    pack(p, &p->b, b);
    x->pair.n_a *= 2;
    x->pair.n_b *= 2;
    *rows = (struct st_exposed){
        .p = p->rows.p, .len = 2 * (size_t)(p->a.n + p->b.n) * d * sizeof(uint32_t), .format = ST_EXPOSED_FIELD};
    return 0;
}

/* ---- way back ---- */

/* v s = a (b^T s) for every row of a and both secrets; all residues canonical. Nobody has seen the secrets before, so
 * that a reply cannot have been made for them. */
static bool passes(struct st_attention_packed *p, const uint32_t *v)
{
    const struct st_mask_kernels *k = st_mask_kernels();
    const uint32_t d = p->n_inner, n = 2 * p->b.n;
    uint32_t bad = 0;
    memset(p->bs, 0, sizeof p->bs);
    for (uint32_t i = 0; i < n && p->check; i++)
        for (int c = 0; c < N_SECRET; c++) {
            const uint32_t *row = p->b.rows + (size_t)i * d;
            p->s[c][i] = (uint32_t)st_stream_below(p->random, ST_FQ);
            for (uint32_t j = 0; j < d; j++)
                p->bs[c][j] = st_fq_add(p->bs[c][j], st_fq_mul(p->s[c][i], row[j]));
        }
    for (uint32_t i = 0; i < 2 * p->a.n; i++) {
        uint32_t got[2], want[2];
        bad |= k->dots(v + (size_t)i * n, p->s[0], p->s[1], n, got);
        k->dots(p->a.rows + (size_t)i * d, p->bs[0], p->bs[1], d, want);
        bad |= p->check && ((got[0] ^ want[0]) | (got[1] ^ want[1]));
    }
    return !bad;
}

static void unpack(const struct st_attention_packed *p, const uint32_t *v, float *out)
{
    const struct side *a = &p->a, *b = &p->b;
    const uint32_t both = st_fq_mul(a->back, b->back);
    for (uint32_t i = 0; i < a->n; i++) {
        const uint32_t *masked = v + (size_t)a->place[i] * 2 * b->n, *alone = v + (size_t)a->place[a->n + i] * 2 * b->n;
        for (uint32_t j = 0; j < b->n; j++) {
            uint32_t at = b->place[j], mask_at = b->place[b->n + j];
            uint32_t minus = st_fq_add(st_fq_mul(masked[mask_at], b->back), st_fq_mul(alone[at], a->back));
            uint32_t sum = st_fq_sub(st_fq_add(masked[at], st_fq_mul(alone[mask_at], both)), minus);
            out[(size_t)i * b->n + j] =
                (float)(st_fq_centre(sum) / ((double)a->alpha[i] * (double)b->alpha[j])); /* no f32 holds all of them */
        }
    }
}

int st_attention_packed_leave(struct st_attention_packed *p, const struct st_exposed *reply, float *out,
                              struct st_err *e)
{
    const size_t want = 4 * (size_t)p->a.n * p->b.n * sizeof(uint32_t);
    int rc = ST_VERIFY;
    if (!p->n_inner)
        return st_fail(e, ST_INTERNAL, "packed attention: no product is outstanding");
    if (reply->format != ST_EXPOSED_FIELD || reply->len != want)
        st_fail(e, rc, "the worker's reply has %zu bytes, want %zu residues", reply->len, want / sizeof(uint32_t));
    else if (!passes(p, reply->p))
        st_fail(e, rc, "the worker's reply is not the product that was asked for");
    else
        rc = 0;
    if (!rc)
        unpack(p, reply->p, out);
    st_attention_packed_forget(p);
    return rc;
}
