/* LWE masks: mask = c B + e with small secret c and e and the model's public basis B, unmask = c H with the hints
 * H = B W, so that a pad costs a small product and no weights. What stays of e in the result is its error. Source:
 * SimplePIR, eprint 2022/949, with the weights in the place of the database.
 *
 * Hints are kept as byte planes of their upper 24 bits where rows are wide (the rounding of narrow ones would outweigh
 * e), else of all 32. With ||e|| <= 1.3 sigma sqrt(d) and ||c||_1 <= m sigma, both enforced by drawing again,
 *   |sum_j| <= (||X|| + 1.3 sigma sqrt(d)) ||W_j|| + 2^7 m sigma [24 bits], which the slack keeps below q/2. */
#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "field/fq.h"
#include "field/sampler.h"
#include "protect/masked/groups.h"

#include <math.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

#define E_BOUND 1.3    /* ||e|| over sigma sqrt(d) */
#define NARROW 512     /* rows below this keep 32-bit hints */
#define ROUNDING 128.0 /* of one 24-bit hint */
#define COLUMN_STEP 16 /* columns of a piece go to threads in such steps */

struct lwe {
    const struct st_lwe_params *params;
    struct st_lwe_basis basis;
    struct st_gauss gauss;
    const struct st_limb_kernels *limb;
    const struct st_served *served;
    struct st_mask_group *groups;
    struct hints {
        uint8_t *p; /* [n][n_limb][m] */
        uint32_t n_limb;
    } * hints; /* [n_group] */
    struct st_area planes;
    char strength[160];
};

static uint32_t limbs_of(const struct st_mask_group *g)
{
    return g->d >= NARROW ? 3 : 4;
}

static const char *lwe_strength(const void *s)
{
    return ((const struct lwe *)s)->strength;
}

/* Set-up: one matrix after the other comes in pieces of columns. */

struct reading {
    struct lwe *l;
    const struct st_scheme_opts *o;
    struct st_mask_group *g;
    const struct st_served_weight *w;
    uint8_t *planes; /* of the matrix */
    float *scale;    /* of the matrix, in its group */
    uint32_t n_limb, next;
    uint32_t column;                  /* of the group, where the matrix begins */
    const struct st_freivalds *check; /* NULL: hints are taken as they are */
    int n_threads;
    uint64_t *sums; /* [n_threads][ST_FREIVALDS_N][2][m]: halves of H s */
    const struct st_hint_columns *c;
    bool bad; /* a residue that is not canonical */
    struct st_progress *bar;
    uint64_t done;
};

/* sum += s h with products of 64 bits added as halves: 2^32 of them fit. */
static void add_hint(uint64_t *low, uint64_t *high, const uint32_t *h, uint32_t s, uint32_t m)
{
    for (uint32_t k = 0; k < m; k++) {
        uint64_t p = (uint64_t)h[k] * s;
        low[k] += p & 0xffffffff;
        high[k] += p >> 32;
    }
}

static void read_part(void *arg, int thread, int n_threads)
{
    struct reading *r = arg;
    const struct st_hint_columns *c = r->c;
    size_t lo, hi, m = c->m;
    uint32_t most = 0;
    st_pool_part(c->n, COLUMN_STEP, thread, n_threads, &lo, &hi);
    for (size_t j = lo; j < hi; j++) {
        const uint32_t *h = c->h + j * m;
        size_t column = c->first + j;
        uint8_t *to = r->planes + column * r->n_limb * m;
        for (size_t k = 0; k < m; k++)
            most = h[k] > most ? h[k] : most;
        if (r->n_limb == 3)
            st_limbs_split24(h, 1, c->m, to);
        else
            st_limbs_split(h, 1, c->m, to);
        for (int v = 0; r->check && v < ST_FREIVALDS_N; v++) {
            uint64_t *low = r->sums + ((size_t)thread * ST_FREIVALDS_N + (size_t)v) * 2 * m;
            add_hint(low, low + m, h, r->check->secret->s[v][r->column + column], c->m);
        }
    }
    if (most >= ST_FQ)
        __atomic_store_n(&r->bad, true, __ATOMIC_RELAXED);
}

static int take_scales(struct reading *r, const struct st_hint_columns *c, struct st_err *e)
{
    const bool known = r->w->w || r->o->preparer; /* what the hints say of scales counts for nothing then */
    double most = 128 * sqrt(r->g->d);
    for (uint32_t j = 0; j < c->n; j++) {
        if (!isfinite(c->scale[j]) || c->scale[j] < 0 || !(c->norm[j] >= 0 && c->norm[j] <= most))
            return st_fail(e, ST_INPUT, "hints of %s: column %u has no valid scale and norm", r->w->name, c->first + j);
        if (known && c->scale[j] != r->scale[c->first + j])
            return st_fail(e, ST_VERIFY, "hints of %s: column %u has another scale than the weights", r->w->name,
                           c->first + j);
        if (!known) {
            r->scale[c->first + j] = c->scale[j];
            r->g->norm = fmax(r->g->norm, c->norm[j]);
        }
    }
    return 0;
}

static int take_columns(void *arg, const struct st_hint_columns *c, struct st_err *e)
{
    struct reading *r = arg;
    if (c->m != r->l->params->m || c->first != r->next || c->n > r->w->n_out - r->next)
        return st_fail(e, ST_INPUT, "hints of %s: want columns of %u residues from %u on, got %u from %u", r->w->name,
                       r->l->params->m, r->next, c->m, c->first);
    if (take_scales(r, c, e))
        return e->code;
    r->c = c;
    if (r->o->pool)
        st_pool_run(r->o->pool, read_part, r);
    else
        read_part(r, 0, 1);
    if (r->bad)
        return st_fail(e, ST_INPUT, "hints of %s: a residue is not below the modulus", r->w->name);
    r->next += c->n;
    r->done += (uint64_t)c->n * c->m * sizeof *c->h;
    st_progress_update(r->bar, r->done);
    return 0;
}

/* H s = B (W s) for both secret vectors and the matrices of a group together, with the hints as they came, before any
 * rounding. */
static int check_group(struct reading *r, struct st_err *e)
{
    uint32_t m = r->l->params->m, *want, bad = 0;
    char site[ST_MASK_SITE];
    if (st_alloc(&want, m, sizeof *want, "check of hints", e))
        return e->code;
    for (int v = 0; v < ST_FREIVALDS_N; v++) {
        st_lwe_basis_times(&r->l->basis, r->check->ws[v], r->g->d, want);
        for (uint32_t k = 0; k < m; k++) {
            uint32_t got = 0;
            for (int t = 0; t < r->n_threads; t++) {
                const uint64_t *low = r->sums + ((size_t)t * ST_FREIVALDS_N + (size_t)v) * 2 * m;
                uint32_t high = st_fq_mul(st_fq_reduce(low[m + k]), (1u << 20) - 1); /* 2^32 mod q */
                got = st_fq_add(got, st_fq_add(st_fq_reduce(low[k]), high));
            }
            bad |= got ^ want[k];
        }
    }
    OPENSSL_cleanse(want, m * sizeof *want);
    free(want);
    return bad ? st_fail(e, ST_VERIFY, "hints of %s do not belong to the weights", st_mask_site(r->o->plan, r->g, site))
               : 0;
}

static int read_matrix(struct reading *r, struct st_err *e)
{
    const struct st_hint_source *h = r->o->hints;
    r->next = 0;
    if (h->read(h->ctx, r->w->name, r->w->n_out, r->w->n_in, take_columns, r, e))
        return e->code;
    if (r->next != r->w->n_out)
        return st_fail(e, ST_INPUT, "hints of %s: want %u columns, got %u", r->w->name, r->w->n_out, r->next);
    return 0;
}

static int read_group(struct reading *r, int group, struct st_err *e)
{
    const struct st_scheme_opts *o = r->o;
    uint32_t m = r->l->params->m;
    r->g = &r->l->groups[group];
    r->g->norm = fmax(r->g->norm, 1);
    r->n_limb = r->l->hints[group].n_limb;
    r->check = o->check_hints ? &o->checks[group] : NULL;
    r->column = 0;
    memset(r->sums, 0, (size_t)r->n_threads * ST_FREIVALDS_N * 2 * m * sizeof *r->sums);
    for (int k = 0; k < r->g->n_op; k++) {
        r->w = &o->served->weights[r->g->served[k]];
        r->planes = r->l->hints[group].p + (size_t)r->column * r->n_limb * m;
        r->scale = r->g->scale + r->column;
        if (read_matrix(r, e))
            return e->code;
        r->column += r->w->n_out;
    }
    return r->check ? check_group(r, e) : 0;
}

static int read_all(struct lwe *l, const struct st_scheme_opts *o, uint64_t total, struct st_err *e)
{
    struct st_progress bar;
    struct reading r = {.l = l, .o = o, .n_threads = o->pool ? st_pool_size(o->pool) : 1, .bar = &bar};
    size_t sums = (size_t)r.n_threads * ST_FREIVALDS_N * 2 * l->params->m;
    if (st_alloc(&r.sums, sums, sizeof *r.sums, "check of hints", e))
        return e->code;
    st_progress_start(&bar, "hints", "B", total);
    bar.on = bar.on && o->progress;
    int rc = 0;
    for (int i = 0; i < o->n_group && !rc; i++)
        rc = read_group(&r, i, e);
    st_progress_end(&bar);
    OPENSSL_cleanse(r.sums, sums * sizeof *r.sums);
    free(r.sums);
    return rc;
}

static int alloc_planes(struct lwe *l, const struct st_scheme_opts *o, uint64_t *wire, struct st_err *e)
{
    char need[ST_MEM_TEXT], have[ST_MEM_TEXT];
    size_t bytes = 0, room = st_mem_available(), m = l->params->m;
    for (int i = 0; i < o->n_group; i++) {
        l->hints[i].n_limb = limbs_of(&l->groups[i]);
        bytes += l->groups[i].n * m * l->hints[i].n_limb;
        *wire += l->groups[i].n * m * sizeof(uint32_t);
    }
    if (bytes > room)
        return st_fail(e, ST_MEMORY, "not enough memory for hints: %s needed, %s available", st_mem_text(bytes, need),
                       st_mem_text(room, have));
    if (st_area_new(&l->planes, bytes, 1, "hints", e))
        return e->code;
    st_area_huge(&l->planes);
    uint8_t *p = l->planes.p;
    for (int i = 0; i < o->n_group; i++) {
        l->hints[i].p = p;
        p += l->groups[i].n * m * l->hints[i].n_limb;
    }
    return 0;
}

static void lwe_close(void *s)
{
    struct lwe *l = s;
    if (!l)
        return;
    st_lwe_basis_free(&l->basis);
    st_area_free(&l->planes);
    free(l->hints);
    free(l);
}

static int check_source(const struct st_scheme_opts *o, const struct st_lwe_params *p, struct st_err *e)
{
    if (!o->hints)
        return st_fail(e, ST_INPUT, "missing hints: the owner of the weights makes them (`sotto-worker prepare`)");
    if (strcmp(o->hints->params, p->name) != 0)
        return st_fail(e, ST_USAGE,
                       "hints belong to the parameter set %.40s, want %s (`sotto-worker prepare --params %s`)",
                       o->hints->params, p->name, p->name);
    if (memcmp(o->hints->digest, o->digest, ST_LWE_DIGEST) != 0)
        return st_fail(e, ST_VERIFY, "hints belong to another model (its digest differs)");
    if (o->check_hints && !o->checks)
        return st_fail(e, ST_POLICY, "hints cannot be checked: this side has no weights");
    return 0;
}

static int lwe_open(const struct st_scheme_opts *o, void **out, struct st_err *e)
{
    const struct st_lwe_params *p = o->params;
    struct lwe *l;
    uint32_t d = 0;
    uint64_t wire = 0;
    if ((!p && st_lwe_params_find(NULL, &p, e)) || check_source(o, p, e) || st_alloc(&l, 1, sizeof *l, "scheme lwe", e))
        return e->code;
    *l = (struct lwe){.params = p, .served = o->served, .groups = o->groups};
    for (int i = 0; i < o->n_group; i++)
        d = o->groups[i].d > d ? o->groups[i].d : d;
    snprintf(l->strength, sizeof l->strength, "%s: hidden under %s (%d bits classical)%s%s", p->name,
             p->module ? "Module-LWE" : "LWE", p->bits_classical, *p->note ? ", " : "", p->note);
    if (st_gauss_init(&l->gauss, p->sigma, e) || st_limb_find(NULL, &l->limb, e) ||
        st_alloc(&l->hints, (size_t)o->n_group, sizeof *l->hints, "hints", e) || alloc_planes(l, o, &wire, e) ||
        st_lwe_basis_init(&l->basis, p, o->digest, d, e) || read_all(l, o, wire, e)) {
        lwe_close(l);
        return e->code;
    }
    *out = l;
    return 0;
}

static double lwe_slack(const void *s, int group)
{
    const struct lwe *l = s;
    const struct st_mask_group *g = &l->groups[group];
    double slack = E_BOUND * l->params->sigma * sqrt(g->d);
    if (l->hints[group].n_limb == 3)
        slack += ROUNDING * l->params->m * l->params->sigma / g->norm;
    return slack;
}

/* Secrets of one pad. Redrawn while a bound does not hold: c practically never, e of narrow rows now and then. */
static void draw_c(const struct lwe *l, struct st_stream *random, int8_t *c)
{
    double sum;
    do {
        st_gauss_fill(&l->gauss, random, c, l->params->m);
        int32_t size = 0;
        for (uint32_t k = 0; k < l->params->m; k++)
            size += abs(c[k]);
        sum = size;
    } while (sum > l->params->m * l->params->sigma);
}

static void draw_e(const struct lwe *l, struct st_stream *random, int8_t *noise, uint32_t d)
{
    double sum, bound = E_BOUND * E_BOUND * l->params->sigma * l->params->sigma * d;
    do {
        st_gauss_fill(&l->gauss, random, noise, d);
        int64_t square = 0;
        for (uint32_t i = 0; i < d; i++)
            square += (int32_t)noise[i] * noise[i];
        sum = (double)square;
    } while (sum > bound);
}

static int lwe_make(void *s, int group, uint32_t n, struct st_stream *random, uint32_t *pads, struct st_err *e)
{
    const struct lwe *l = s;
    const struct st_mask_group *g = &l->groups[group];
    const struct hints *h = &l->hints[group];
    struct st_locked scratch;
    uint32_t m = l->params->m;
    size_t stride = (size_t)g->d + g->n;
    if (st_locked_new(&scratch, (size_t)n * m + g->d, &st_scheme_scratch, e))
        return e->code;
    int8_t *c = (int8_t *)scratch.p, *noise = c + (size_t)n * m;
    for (uint32_t i = 0; i < n; i++)
        draw_c(l, random, c + (size_t)i * m);
    /* c B stands in the pads' own memory, packed at its front, and moves apart from the last row on. */
    st_lwe_basis_apply(&l->basis, NULL, l->limb, c, n, g->d, pads);
    for (uint32_t i = n; i-- > 0;) {
        uint32_t *mask = pads + i * stride;
        memmove(mask, pads + (size_t)i * g->d, g->d * sizeof *mask);
        draw_e(l, random, noise, g->d);
        for (uint32_t k = 0; k < g->d; k++) {
            uint32_t small = (uint32_t)noise[k];
            mask[k] = st_fq_add(mask[k], small + (ST_FQ & (0 - (small >> 31))));
        }
    }
    struct st_field_product f = {
        .s = c, .lds = m, .n_s = n, .u = {h->p, g->n, h->n_limb, m}, .out = pads + g->d, .out_s = stride, .out_u = 1};
    st_field_product(NULL, l->limb, &f);
    st_locked_free(&scratch);
    return 0;
}

static size_t lwe_bytes(const void *s)
{
    const struct lwe *l = s;
    return l->planes.len + (size_t)l->params->m * l->basis.d * sizeof(uint32_t);
}

const struct st_scheme st_scheme_lwe = {.name = "lwe",
                                        .domain = ST_MASK_FIELD,
                                        .strength = lwe_strength,
                                        .open = lwe_open,
                                        .close = lwe_close,
                                        .slack = lwe_slack,
                                        .make = lwe_make,
                                        .bytes = lwe_bytes};
