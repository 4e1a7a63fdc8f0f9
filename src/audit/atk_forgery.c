/* Integrity: a worker that answers wrongly and is not to be noticed. Checks that hide known fingerprints among the rows
 * fall when the fingerprints come from a fixed basis: rows of two sets of inputs that have nothing else in common span
 * spaces that meet in it, after which every other row can be answered at will. Freivalds' check, which ours is, shows
 * the worker nothing: a wrong answer of any kind passes with probability 1 / q^2 for each refusal so far.
 *
 * Source: arXiv 2602.11088 (fingerprints of SOTER and TSQP, rows made here as it describes them); R. Freivalds, 1977,
 * as in arXiv 1806.03287. */
#include "audit/atk_forgery.h"
#include "audit/attack.h"
#include "audit/seen.h"
#include "audit/subspace.h"
#include "base/buf.h"
#include "base/hooks.h"
#include "field/fq.h"
#include "field/freivalds.h"

#include <cblas.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BATCHES 2000 /* wrong replies of each kind; thorough: 50 times as many */
#define MARKED_BATCHES 2000
#define REAL 12                           /* rows of a batch that are not fingerprints */
#define MARKED 4                          /* those that are */
#define CHOICES 1820                      /* MARKED of all */
#define OUTPUTS 64                        /* of a matrix: how many there are makes no difference to the check */
#define FINGERPRINTS "fixed fingerprints" /* not part of Sotto */

/* ---- Freivalds ---- */

const char *st_forgery_name(enum st_forgery f)
{
    static const char *const names[] = {"one value", "rows exchanged", "nothing computed", "a cheaper model",
                                        "the secret known"};
    return names[f];
}

struct cheat {
    const int8_t *w;
    uint32_t n_out, n_in;
    struct st_rng rng;
    struct st_stream *random; /* of secrets: uniform */
    struct st_freivalds_secret secret;
    struct st_freivalds check;
    uint32_t *u, *right, *cheap, *reply; /* [ROWS_IN][n_in], [ROWS_IN][n_out] of w, of the cheaper w, what is said */
};

static void product(const struct cheat *c, int drop, uint32_t *out)
{
    for (size_t r = 0; r < ST_FORGERY_ROWS_IN; r++)
        for (size_t o = 0; o < c->n_out; o++) {
            uint64_t plus = 0, minus = 0; /* below 2^32 * 2^7 * n_in each */
            for (size_t k = 0; k < c->n_in; k++) {
                int w = c->w[o * c->n_in + k] / drop * drop;
                uint64_t part = (uint64_t)c->u[r * c->n_in + k] * (unsigned)abs(w);
                plus += w > 0 ? part : 0;
                minus += w < 0 ? part : 0;
            }
            out[r * c->n_out + o] = st_fq_sub(st_fq_reduce(plus), st_fq_reduce(minus));
        }
}

static int draw_secret(struct cheat *c, struct st_err *e)
{
    const struct st_freivalds_matrix w = {c->w, c->n_out};
    st_freivalds_wipe(&c->check);
    st_freivalds_secret_wipe(&c->secret);
    int rc = st_freivalds_secret_init(&c->secret, c->n_out, c->random, e);
    return rc ? rc : st_freivalds_init(&c->check, &w, 1, c->n_in, &c->secret, e);
}

static void draw_rows(struct cheat *c)
{
    for (size_t i = 0; i < (size_t)ST_FORGERY_ROWS_IN * c->n_in; i++)
        c->u[i] = (uint32_t)(st_rng_next(&c->rng) % ST_FQ);
    product(c, 1, c->right);
    product(c, 16, c->cheap);
}

/* An error at values 0 to 2 of the first row that both secret vectors miss: 1, x, y with s_0 + x s_1 + y s_2 = 0. */
static void forge_knowing(struct cheat *c)
{
    const uint32_t *s = c->secret.s[0], *t = c->secret.s[1];
    uint32_t det = st_fq_sub(st_fq_mul(s[1], t[2]), st_fq_mul(s[2], t[1])), over = st_fq_inverse(det);
    uint32_t x = st_fq_sub(st_fq_mul(s[2], t[0]), st_fq_mul(s[0], t[2]));
    uint32_t y = st_fq_sub(st_fq_mul(s[0], t[1]), st_fq_mul(s[1], t[0]));
    c->reply[0] = st_fq_add(c->reply[0], 1);
    c->reply[1] = st_fq_add(c->reply[1], st_fq_mul(x, over));
    c->reply[2] = st_fq_add(c->reply[2], st_fq_mul(y, over));
}

static void forge(struct cheat *c, enum st_forgery f)
{
    size_t n = (size_t)ST_FORGERY_ROWS_IN * c->n_out;
    memcpy(c->reply, f == ST_FORGERY_CHEAP ? c->cheap : c->right, n * sizeof *c->reply);
    if (f == ST_FORGERY_VALUE) {
        uint32_t *v = &c->reply[st_rng_next(&c->rng) % n];
        *v = st_fq_add(*v, 1 + (uint32_t)(st_rng_next(&c->rng) % (ST_FQ - 1)));
    }
    if (f == ST_FORGERY_ROWS)
        for (size_t r = 0; r < ST_FORGERY_ROWS_IN; r++)
            memcpy(c->reply + r * c->n_out, c->right + (r + 1) % ST_FORGERY_ROWS_IN * c->n_out,
                   c->n_out * sizeof *c->reply);
    if (f == ST_FORGERY_ZERO)
        memset(c->reply, 0, n * sizeof *c->reply);
    if (f == ST_FORGERY_KNOWING)
        forge_knowing(c);
}

static int cheat_new(struct cheat *c, uint64_t seed, struct st_err *e)
{
    size_t n = (size_t)ST_FORGERY_ROWS_IN * c->n_out;
    int rc = c->n_out < 3 || c->n_in >= 1u << 24
                 ? st_fail(e, ST_UNSUPPORTED, "forgery: a matrix of %u by %u values", c->n_out, c->n_in)
                 : 0;
    st_rng_seed(&c->rng, seed);
    if (!rc)
        rc = st_alloc(&c->u, (size_t)ST_FORGERY_ROWS_IN * c->n_in, sizeof *c->u, "rows", e);
    if (!rc)
        rc = st_alloc(&c->right, 3 * n, sizeof *c->right, "replies", e);
    if (!rc)
        rc = st_stream_new((const uint8_t *)&seed, sizeof seed, NULL, 0, "audit forgery", &c->random, e);
    if (rc)
        return rc;
    c->cheap = c->right + n;
    c->reply = c->cheap + n;
    draw_rows(c);
    return draw_secret(c, e);
}

static void cheat_free(struct cheat *c)
{
    st_freivalds_wipe(&c->check);
    st_freivalds_secret_wipe(&c->secret);
    st_stream_free(c->random);
    free(c->u);
    free(c->right);
}

int st_forgery_try(const int8_t *w, uint32_t n_out, uint32_t n_in, enum st_forgery f, size_t n_batch, uint64_t seed,
                   uint64_t *accepted, struct st_err *e)
{
    struct cheat c = {.w = w, .n_out = n_out, .n_in = n_in};
    *accepted = 0;
    int rc = cheat_new(&c, seed, e);
    if (!rc && !st_freivalds_check(&c.check, c.u, c.right, ST_FORGERY_ROWS_IN))
        rc = st_fail(e, ST_INTERNAL, "forgery: a right reply was refused");
    for (size_t i = 0; !rc && i < n_batch; i++) {
        forge(&c, f);
        if (st_freivalds_check(&c.check, c.u, c.reply, ST_FORGERY_ROWS_IN))
            ++*accepted;
        else
            rc = draw_secret(&c, e);
    }
    cheat_free(&c);
    return rc;
}

/* ---- fixed fingerprints ---- */

struct marks {
    const struct st_fingerprinted *f;
    struct st_rng rng;
    double *prints;  /* [FINGERPRINTS][d] secret */
    double *sent;    /* [n][d] rows as the worker gets them */
    bool *is_print;  /* [n] */
    uint32_t *order; /* [f->n] rows of f in an order by chance */
    double *basis;   /* [FINGERPRINTS][d] what the worker has learned */
    double *scratch; /* [2 d][d] */
};

/* n_real of the rows from `from` on and n_print fingerprints, scaled, in an order by chance. */
static void send(struct marks *m, size_t from, size_t n_real, size_t n_print)
{
    size_t d = m->f->d, n = n_real + n_print;
    memset(m->sent, 0, n * d * sizeof *m->sent);
    for (size_t i = 0; i < n; i++)
        m->is_print[i] = i >= n_real;
    for (size_t i = n; i > 1; i--) {
        size_t j = st_rng_next(&m->rng) % i;
        bool x = m->is_print[i - 1];
        m->is_print[i - 1] = m->is_print[j];
        m->is_print[j] = x;
    }
    for (size_t i = 0; i < n; i++) {
        double *to = m->sent + i * d, scale = 0.5 + st_rng_unit(&m->rng);
        if (!m->is_print[i])
            cblas_daxpy((int)d, scale, m->f->rows + m->order[from++ % m->f->n] * d, 1, to, 1);
        for (size_t k = 0; m->is_print[i] && k < ST_FINGERPRINTS; k++)
            cblas_daxpy((int)d, scale * (st_rng_unit(&m->rng) - 0.5), m->prints + k * d, 1, to, 1);
    }
}

/* Directions that both sets of batches have: those that neither lacks. */
static int learn(struct marks *m, struct st_err *e)
{
    size_t d = m->f->d, own = d / 4, rank = own + ST_FINGERPRINTS, lacks = d - rank;
    for (size_t set = 0; set < 2; set++) {
        send(m, set * own, own, (size_t)2 * ST_FINGERPRINTS);
        if (st_subspace_rest(m->sent, own + (size_t)2 * ST_FINGERPRINTS, d, rank, m->scratch + set * lacks * d, e))
            return e->code;
    }
    return st_subspace_rest(m->scratch, 2 * lacks, d, d - ST_FINGERPRINTS, m->basis, e);
}

static bool looks_like_print(const struct marks *m, const double *row)
{
    int d = (int)m->f->d;
    double all = cblas_ddot(d, row, 1, row, 1), in = 0;
    for (size_t k = 0; k < ST_FINGERPRINTS; k++) {
        double x = cblas_ddot(d, row, 1, m->basis + k * m->f->d, 1);
        in += x * x;
    }
    return in > (1 - 1e-4) * all;
}

/* Replies are wrong where the worker sees no fingerprint. The trusted side knows the products of the fingerprints: it
 * refuses when one of them is wrong. A batch without a wrong row is no forgery. */
static bool passes(struct marks *m, bool looks)
{
    size_t n = REAL + MARKED, n_wrong = 0, left = MARKED;
    bool noticed = false;
    for (size_t i = 0; i < n; i++) {
        const double *row = m->sent + i * m->f->d;
        bool honest = looks ? looks_like_print(m, row) : st_rng_next(&m->rng) % (n - i) < left;
        left -= !looks && honest;
        n_wrong += !honest;
        noticed |= !honest && m->is_print[i];
    }
    return n_wrong && !noticed;
}

static int marks_new(struct marks *m, struct st_err *e)
{
    const struct st_fingerprinted *f = m->f;
    size_t d = f->d, most = d / 4 + (size_t)2 * ST_FINGERPRINTS + REAL + MARKED;
    if (d < (size_t)4 * ST_FINGERPRINTS || f->n < 3 * d / 4)
        return st_fail(e, ST_UNSUPPORTED, "fingerprints: needs %d values in a row and %zu rows, got %zu and %zu",
                       4 * ST_FINGERPRINTS, 3 * d / 4, d, f->n);
    if (st_alloc(&m->prints, ST_FINGERPRINTS, d * sizeof *m->prints, "fingerprints", e) ||
        st_alloc(&m->basis, ST_FINGERPRINTS, d * sizeof *m->basis, "fingerprints", e) ||
        st_alloc(&m->sent, most, d * sizeof *m->sent, "fingerprints", e) ||
        st_alloc(&m->scratch, 2 * d, d * sizeof *m->scratch, "fingerprints", e) ||
        st_alloc(&m->is_print, most, sizeof *m->is_print, "fingerprints", e) ||
        st_alloc(&m->order, f->n, sizeof *m->order, "fingerprints", e))
        return e->code;
    st_rng_seed(&m->rng, f->seed);
    for (size_t i = 0; i < ST_FINGERPRINTS * d; i++)
        m->prints[i] = st_rng_unit(&m->rng) - 0.5;
    for (uint32_t i = 0; i < f->n; i++)
        m->order[i] = i;
    for (size_t i = f->n; i > 1; i--) {
        size_t j = st_rng_next(&m->rng) % i;
        uint32_t x = m->order[i - 1];
        m->order[i - 1] = m->order[j];
        m->order[j] = x;
    }
    return 0;
}

int st_fingerprints_try(const struct st_fingerprinted *f, bool looks, uint64_t *accepted, struct st_err *e)
{
    struct marks m = {.f = f};
    *accepted = 0;
    int rc = marks_new(&m, e);
    if (!rc && looks)
        rc = learn(&m, e);
    for (size_t i = 0; !rc && i < f->n_batch; i++) {
        send(&m, st_rng_next(&m.rng) % f->n, REAL, MARKED);
        *accepted += passes(&m, looks);
    }
    free(m.prints);
    free(m.basis);
    free(m.sent);
    free(m.scratch);
    free(m.is_print);
    free(m.order);
    return rc;
}

/* ---- on a model ---- */

static int add(const char *what, const char *name, uint64_t hits, uint64_t n, double chance, const char *note,
               struct st_rows *rows, struct st_err *e)
{
    struct st_row row = {.metric = "share of wrong replies that are accepted",
                         .chance = chance,
                         .unprotected = 1,
                         .in_clear = true,
                         .cost = NAN};
    row.others = strcmp(what, FINGERPRINTS) == 0;
    snprintf(row.variant, sizeof row.variant, "%s: %s", what, name);
    snprintf(row.note, sizeof row.note, "%s", note);
    st_row_share(&row, hits, n);
    return st_rows_add(rows, &row, e);
}

/* The first outputs of the first matrix of a layer, each at 8 bits. */
static int eight_bits(const struct st_model *m, int8_t **out, uint32_t *n_out, uint32_t *n_in, struct st_err *e)
{
    const struct st_mat *mat = NULL;
    float *row = NULL;
    for (int i = 0; i < m->plan.n_op && !mat; i++)
        if (m->plan.ops[i].op == ST_OP_LINEAR && m->plan.ops[i].layer >= 0)
            mat = &m->mats[m->plan.ops[i].weight];
    if (!mat || !mat->data || mat->dtype == ST_DTYPE_I8)
        return st_fail(e, ST_UNSUPPORTED, "%s: no matrix of a layer in floats", m->name);
    *n_out = mat->n_out < OUTPUTS ? mat->n_out : OUTPUTS;
    *n_in = mat->n_in;
    int rc = st_alloc(out, *n_out, *n_in, "a matrix", e);
    if (!rc)
        rc = st_alloc(&row, *n_in, sizeof *row, "a matrix", e);
    for (uint32_t o = 0; !rc && o < *n_out; o++) {
        float most = FLT_MIN;
        st_convert(mat->dtype, (const char *)mat->data + (size_t)o * *n_in * st_dtype_size(mat->dtype), ST_DTYPE_F32,
                   row, *n_in);
        for (uint32_t k = 0; k < *n_in; k++)
            most = fmaxf(most, fabsf(row[k]));
        for (uint32_t k = 0; k < *n_in; k++)
            (*out)[(size_t)o * *n_in + k] = (int8_t)rintf(row[k] * 127 / most);
    }
    free(row);
    return rc;
}

static int run_freivalds(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    uint32_t n_out = 0, n_in = 0;
    int8_t *w = NULL;
    size_t n = a->thorough ? (size_t)50 * BATCHES : BATCHES;
    int rc = eight_bits(a->target->base, &w, &n_out, &n_in, e);
    for (int f = 0; !rc && f < ST_FORGERY_KNOWING; f++) {
        uint64_t accepted;
        rc = a->cancel && *a->cancel
                 ? st_fail(e, ST_IO, "cancelled")
                 : st_forgery_try(w, n_out, n_in, (enum st_forgery)f, n, a->seed + (uint64_t)f, &accepted, e);
        if (!rc)
            rc = add("Freivalds", st_forgery_name((enum st_forgery)f), accepted, n, 1 / ((double)ST_FQ * ST_FQ),
                     "The check of the masked path, its secret drawn anew after each refusal.", rows, e);
    }
    free(w);
    return rc;
}

static int run_fingerprints(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    static const char *const names[] = {"by chance", "spans that meet"};
    struct st_dense table;
    double *all = NULL;
    if (st_seen_table(a->target->base, &table, e))
        return e->code;
    struct st_fingerprinted f = {.d = table.n_col, .n_batch = MARKED_BATCHES, .seed = a->seed};
    f.n = table.n_row < 4 * f.d ? table.n_row : 4 * f.d;
    int rc = st_alloc(&all, f.n, f.d * sizeof *all, "rows", e);
    for (size_t i = 0; !rc && i < f.n; i++) /* from the whole vocabulary */
        for (size_t k = 0; k < f.d; k++)
            all[i * f.d + k] = st_dense_row(&table, i * (table.n_row / f.n))[k];
    f.rows = all;
    for (int looks = 0; !rc && looks < 2; looks++) {
        uint64_t accepted;
        rc = st_fingerprints_try(&f, looks, &accepted, e);
        if (!rc)
            rc =
                add(FINGERPRINTS, names[looks], accepted, f.n_batch, 1.0 / CHOICES,
                    "Published schemes that are not part of Sotto (SOTER, TSQP), on rows made for this test.", rows, e);
    }
    free(all);
    st_dense_free(&table);
    return rc;
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    if (!a->target->base)
        return st_fail(e, ST_UNSUPPORTED, "needs a model");
    int rc = run_freivalds(a, rows, e);
    return rc ? rc : run_fingerprints(a, rows, e);
}

const struct st_attack st_atk_forgery = {.name = "forgery",
                                         .title = "Wrong replies that are not noticed",
                                         .metric = "share of wrong replies that are accepted",
                                         .source = "arXiv 2602.11088 (integrity); arXiv 1806.03287",
                                         .adversary = ST_ADVERSARY_WORKER,
                                         .needs = 0,
                                         .run = run};
