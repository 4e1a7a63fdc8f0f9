/* Trained inverter (A7): a network learns to say which plain token an embedding row is.
 *   N pairs    trained on the victim's own rows whose plain ids are known, with noise of the public size added: fair
 *   own keys   trained on rows that the adversary obfuscated himself, all of them, in the form of whitened rows with
 *              signs by third moments, which no rotation changes: the published form leaves the key's rotation in its
 *              inputs and so cannot succeed; this one can where variances of directions are apart
 * Sources: arXiv 2603.01499, section 6 (IMA); the form of the inputs is ours (papers/attacks.md A3, A7). */
#include "audit/known.h"
#include "audit/match.h"
#include "audit/mlp.h"
#include "audit/views.h"
#include "base/buf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HIDDEN 128
#define STEPS 400
#define STEPS_THOROUGH 6000
#define JITTER .05 /* noise of inputs where the method adds none: rows are few, and the network could learn them */

struct inverter {
    const struct st_audit *a;
    struct st_dense y, x, table; /* whitened rows of both sides; x at length 1 */
    double noise;                /* of a whitened value */
    uint32_t *guess;
};

static int open_rows(struct inverter *v, struct st_err *e)
{
    const struct st_pair *p = &v->a->target->pair;
    struct st_dense rows[2] = {0};
    double sigma;
    e->code = 0;
    if (st_view_rows(p->base, ST_ROLE_EMBED, &rows[0], e) || st_view_rows(p->seen, ST_ROLE_EMBED, &rows[1], e) ||
        st_view_spread(v->a->pool, &rows[0], &sigma, e))
        goto out;
    size_t d = rows[0].n_col < rows[1].n_col ? rows[0].n_col : rows[1].n_col;
    double noise = p->noise.embed * sigma;
    if (st_whiten_rows(v->a->pool, &rows[0], d, noise * noise, &v->x, e) ||
        st_whiten_rows(v->a->pool, &rows[1], d, 0, &v->y, e) || st_dense_new(&v->table, v->x.n_row, d, "inverter", e) ||
        st_alloc(&v->guess, v->y.n_row, sizeof *v->guess, "inverter", e))
        goto out;
    memcpy(v->table.p, v->x.p, v->x.n_row * d * sizeof *v->table.p);
    st_unit_rows(&v->table);
    /* Of a value of deviation 1, what is noise: 1 minus what is left of the plain rows' variance. */
    double left = 0;
    for (size_t i = 0; i < v->x.n_row * d; i++)
        left += (double)v->x.p[i] * v->x.p[i] / (double)(v->x.n_row * d);
    v->noise = sqrt(fmax(1 - left, JITTER * JITTER));
out:
    st_dense_free(&rows[0]);
    st_dense_free(&rows[1]);
    return e->code;
}

/* Learns from rows, and says what the victim's rows are. */
static int invert(struct inverter *v, const struct st_dense *rows, const struct st_pairs *p, double noise,
                  struct st_err *e)
{
    struct st_mlp m = {0};
    struct st_dense out = {0}, table = {0};
    uint32_t d = (uint32_t)v->x.n_col;
    const struct st_mlp_lesson l = {.rows = rows,
                                    .table = &v->x,
                                    .row = p->seen,
                                    .label = p->base,
                                    .n = p->n,
                                    .noise = noise,
                                    .n_step = v->a->thorough ? STEPS_THOROUGH : STEPS,
                                    .seed = v->a->seed,
                                    .cancel = v->a->cancel};
    e->code = 0;
    if (st_mlp_new(&m, d, HIDDEN, d, v->a->seed, e) || st_mlp_train(&m, &l, e) ||
        st_dense_new(&out, v->y.n_row, d, "inverter", e) || st_mlp_apply(&m, &v->y, &out, e) ||
        st_dense_new(&table, v->table.n_row, d, "inverter", e))
        goto out;
    memcpy(table.p, v->table.p, v->table.n_row * d * sizeof *table.p);
    st_unit_rows(&out);
    if (st_match_points(v->a->pool, &out, &table, false, v->guess, e))
        goto out;
out:
    st_mlp_free(&m);
    st_dense_free(&out);
    st_dense_free(&table);
    return e->code;
}

static int with_pairs(struct inverter *v, size_t n, struct st_rows *rows, struct st_err *e)
{
    struct st_known k;
    char name[40], note[80];
    if (st_known_pick(v->a, n, false, &k, e))
        return e->code;
    const struct st_pairs p = st_known_pairs(&k);
    snprintf(name, sizeof name, "%zu pairs", k.n);
    snprintf(note, sizeof note, "given %zu pairs of ids, drawn by chance", k.n);
    /* The rows that he has hold the victim's noise already; a little more keeps the network from learning them. */
    int rc = invert(v, &v->y, &p, .5 * v->noise, e);
    if (!rc)
        rc = st_known_report(v->a, name, v->guess, &k, note, rows, e);
    st_known_free(&k);
    return rc;
}

static int own_keys(struct inverter *v, struct st_rows *rows, struct st_err *e)
{
    uint32_t *same;
    if (st_alloc(&same, v->x.n_row, sizeof *same, "inverter", e))
        return e->code;
    for (uint32_t i = 0; i < v->x.n_row; i++)
        same[i] = i;
    const struct st_pairs p = {same, same, v->x.n_row};
    int rc = invert(v, &v->x, &p, v->noise, e);
    if (!rc)
        rc = st_match_report(v->a, "own keys", v->guess, "trained without any pair of the victim's", rows, e);
    free(same);
    return rc;
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    struct inverter v = {.a = a};
    uint32_t n = a->target->pair.base->config.n_vocab;
    e->code = 0;
    if (st_match_check(a, e) || open_rows(&v, e) || with_pairs(&v, n / 4, rows, e) ||
        (a->thorough && with_pairs(&v, n / 2, rows, e)) || own_keys(&v, rows, e))
        goto out;
out:
    st_dense_free(&v.y);
    st_dense_free(&v.x);
    st_dense_free(&v.table);
    free(v.guess);
    return e->code;
}

const struct st_attack st_atk_inverter = {
    .name = "ima-trained",
    .title = "Trained inversion of the embedding",
    .metric = "share of token types and of the text recovered that were not given",
    .source = "arXiv 2603.01499, section 6; form of the inputs ours",
    .adversary = ST_ADVERSARY_SERVER,
    .needs = ST_TARGET_PAIR,
    .run = run,
};
