/* Exact one-time pads: a mask uniform in Z_q^d for every row, and its product with the weights, formed here or by an
 * attested preparer. Hides rows
 * whatever the worker computes; costs a product of full size for every row, ahead of time. Source: Slalom, arXiv
 * 1806.03287. */
#include "base/buf.h"
#include "field/fq.h"
#include "field/product.h"
#include "protect/masked/scheme.h"

#include <stdlib.h>

struct otp {
    const struct st_served *served;
    const struct st_mask_group *groups;
    const struct st_limb_kernels *limb;
    const struct st_preparer *preparer;
    size_t bytes;
};

static const char *otp_strength(const void *s)
{
    (void)s;
    return "otp: hidden by exact one-time pads";
}

static int otp_open(const struct st_scheme_opts *o, void **out, struct st_err *e)
{
    size_t bytes = 0;
    for (int i = 0; i < o->n_group; i++)
        for (int k = 0; k < o->groups[i].n_op; k++) {
            const struct st_served_weight *w = &o->served->weights[o->groups[i].served[k]];
            if (!w->w && !o->preparer)
                return st_fail(e, ST_POLICY,
                               "otp: the product of a pad and the weights must be formed on this side, which has no "
                               "weights (`%s`); whoever else forms it knows the pad: use --scheme lwe, or an attested "
                               "--preparer",
                               w->name);
            bytes += o->preparer ? 0 : (size_t)w->n_out * w->n_in;
        }
    struct otp *p;
    if (st_alloc(&p, 1, sizeof *p, "scheme otp", e))
        return e->code;
    *p = (struct otp){.served = o->served, .groups = o->groups, .preparer = o->preparer, .bytes = bytes};
    if (st_limb_find(NULL, &p->limb, e)) {
        free(p);
        return e->code;
    }
    *out = p;
    return 0;
}

static void otp_close(void *s)
{
    free(s);
}

static double otp_slack(const void *s, int group)
{
    (void)s;
    (void)group;
    return 0;
}

/* Uniform residues: words of the stream, those that are not canonical drawn again. Which ones were says nothing of
 * those that stay. */
static void draw(struct st_stream *random, uint32_t *r, uint32_t n)
{
    st_stream_bytes(random, r, n * sizeof *r);
    for (uint32_t i = 0; i < n; i++)
        while (r[i] >= ST_FQ)
            st_stream_bytes(random, &r[i], sizeof r[i]);
}

struct make {
    const struct otp *p;
    const struct st_mask_group *g;
    uint32_t n, stride;
    uint32_t *pads;
    uint8_t *limbs; /* [n] vectors of at most ST_LIMB_MAX_K */
    uint32_t *part; /* [n][largest n_out] when there is more than one cut, else NULL */
};

/* Inputs [from, from + len) of all matrices: mask times weights, into the pads or added to them. */
static void multiply(const struct make *m, uint32_t from, uint32_t len)
{
    uint32_t at = m->g->d;
    for (uint32_t i = 0; i < m->n; i++)
        st_limbs_split(m->pads + (size_t)i * m->stride + from, 1, len, m->limbs + (size_t)i * 4 * len);
    for (int k = 0; k < m->g->n_op; k++) {
        const struct st_served_weight *w = &m->p->served->weights[m->g->served[k]];
        struct st_field_product f = {.s = w->w + from,
                                     .lds = w->n_in,
                                     .n_s = w->n_out,
                                     .u = {m->limbs, m->n, 4, len},
                                     .out = from ? m->part : m->pads + at,
                                     .out_s = 1,
                                     .out_u = from ? w->n_out : m->stride};
        st_field_product(NULL, m->p->limb, &f);
        for (uint32_t i = 0; from && i < m->n; i++)
            for (uint32_t j = 0; j < w->n_out; j++) {
                uint32_t *sum = m->pads + (size_t)i * m->stride + at + j;
                *sum = st_fq_add(*sum, m->part[(size_t)i * w->n_out + j]);
            }
        at += w->n_out;
    }
}

/* The masks stand in the pads: their products, from the weights of this side. */
static int products(const struct otp *p, const struct st_mask_group *g, uint32_t n, uint32_t *pads, struct st_err *e)
{
    struct st_locked scratch;
    uint32_t cut = g->d < ST_LIMB_MAX_K ? g->d : ST_LIMB_MAX_K;
    size_t limbs = (size_t)n * 4 * cut, part = g->d > cut ? (size_t)n * g->n * sizeof *pads : 0;
    if (st_locked_new(&scratch, limbs + part, &st_scheme_scratch, e))
        return e->code;
    struct make m = {.p = p, .g = g, .n = n, .stride = g->d + g->n, .pads = pads, .limbs = scratch.p};
    if (part)
        m.part = (uint32_t *)(scratch.p + limbs);
    for (uint32_t from = 0; from < g->d; from += cut)
        multiply(&m, from, g->d - from < cut ? g->d - from : cut);
    st_locked_free(&scratch);
    return 0;
}

static int otp_make(void *s, int group, uint32_t n, struct st_stream *random, uint32_t *pads, struct st_err *e)
{
    const struct otp *p = s;
    const struct st_mask_group *g = &p->groups[group];
    for (uint32_t i = 0; i < n; i++)
        draw(random, pads + (size_t)i * (g->d + g->n), g->d);
    return p->preparer ? p->preparer->fill(p->preparer->ctx, g, n, pads, e) : products(p, g, n, pads, e);
}

static size_t otp_bytes(const void *s)
{
    return ((const struct otp *)s)->bytes;
}

const struct st_scheme st_scheme_otp = {.name = "otp",
                                        .domain = ST_MASK_FIELD,
                                        .strength = otp_strength,
                                        .open = otp_open,
                                        .close = otp_close,
                                        .slack = otp_slack,
                                        .make = otp_make,
                                        .bytes = otp_bytes};
