/* Known plaintext (A3). The adversary has the embeddings of both sides and some pairs of ids; no product of weights is
 * needed. Whitened rows of both sides differ by a rotation, which about d pairs determine.
 *   N pairs          the best of a rotation and ridges, judged by pairs held out; nearest row by angle
 *   N pairs, grown   the surest guesses join the pairs, round by round
 *   no pairs, grown  begins with the strongest directions of both sides, each with the sign of its third moment: ours
 * Source: papers/attacks.md A3 (ours); no pairs: ours. */
#include "audit/known.h"
#include "audit/match.h"
#include "audit/views.h"
#include "base/buf.h"

#include <stdio.h>
#include <stdlib.h>

#define ROUNDS 8

static int whiten_both(const struct st_audit *a, struct st_dense *y, struct st_dense *x, struct st_err *e)
{
    const struct st_pair *p = &a->target->pair;
    struct st_dense rows[2] = {0};
    double sigma;
    e->code = 0;
    if (st_view_rows(p->base, ST_ROLE_EMBED, &rows[0], e) || st_view_rows(p->seen, ST_ROLE_EMBED, &rows[1], e) ||
        st_view_spread(a->pool, &rows[0], &sigma, e))
        goto out;
    size_t d = rows[0].n_col < rows[1].n_col ? rows[0].n_col : rows[1].n_col;
    double noise = p->noise.embed * sigma;
    if (st_whiten_rows(a->pool, &rows[0], d, noise * noise, x, e) || st_whiten_rows(a->pool, &rows[1], d, 0, y, e))
        goto out;
out:
    st_dense_free(&rows[0]);
    st_dense_free(&rows[1]);
    return e->code;
}

static int with_pairs(const struct st_audit *a, const struct st_dense *y, const struct st_dense *x, size_t n,
                      bool common, uint32_t *guess, struct st_rows *rows, struct st_err *e)
{
    struct st_known k;
    char name[64], note[120];
    if (st_known_pick(a, n, common, &k, e))
        return e->code;
    const struct st_pairs p = st_known_pairs(&k);
    snprintf(note, sizeof note, "given %zu pairs of ids, %s", k.n,
             common ? "the commonest of the prior text" : "drawn by chance");
    uint32_t *guesses[] = {guess + y->n_row, guess}; /* before and behind growing */
    int rc = st_pairs_match(a->pool, y, x, &p, ROUNDS, guesses[0], guesses[1], e);
    for (unsigned grown = 0; !rc && grown < 2; grown++) {
        snprintf(name, sizeof name, "%zu %spairs%s", k.n, common ? "common " : "", grown ? ", grown" : "");
        rc = st_known_report(a, name, guesses[grown], &k, note, rows, e);
    }
    st_known_free(&k);
    return rc;
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    static const double of_d[] = {.5, 1, 2, 4};
    struct st_dense y = {0}, x = {0};
    uint32_t *guess = NULL, n = a->target->pair.base->config.n_vocab;
    const struct st_pairs none = {.n = 0};
    e->code = 0;
    if (st_match_check(a, e) || st_match_fits(a, st_match_embed_bytes(a), e) || whiten_both(a, &y, &x, e) ||
        st_alloc(&guess, 2 * y.n_row, sizeof *guess, "pairs", e))
        goto out;
    for (size_t i = 0; i < (a->thorough ? 4 : 3); i++) {
        size_t k = (size_t)(of_d[i] * (double)x.n_col);
        if (a->cancel && *a->cancel) {
            st_fail(e, ST_IO, "cancelled");
            goto out;
        }
        if (k > n / 2)
            break;
        if (with_pairs(a, &y, &x, k, false, guess, rows, e))
            goto out;
    }
    size_t d = x.n_col < n / 2 ? x.n_col : n / 2;
    if (with_pairs(a, &y, &x, d / 2, true, guess, rows, e)) {
        if (e->code != ST_UNSUPPORTED || st_rows_leave_out(rows, "common pairs", e->msg, e))
            goto out;
        e->code = 0;
    }
    if (st_pairs_match(a->pool, &y, &x, &none, ROUNDS, NULL, guess, e) ||
        st_match_report(a, "no pairs, grown", guess, NULL, rows, e))
        goto out;
out:
    st_dense_free(&y);
    st_dense_free(&x);
    free(guess);
    return e->code;
}

const struct st_attack st_atk_known_pairs = {
    .name = "known-pairs",
    .title = "Known plaintext: a rotation from pairs of ids",
    .metric = "share of token types and of the text recovered that were not given",
    .source = "ours",
    .adversary = ST_ADVERSARY_SERVER,
    .needs = ST_TARGET_PAIR,
    .run = run,
};
