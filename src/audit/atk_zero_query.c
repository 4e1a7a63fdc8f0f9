/* Zero queries against masks from a fixed basis: rows whose input is the same differ by masks alone, so m + delta
 * differences span all masks. The paper's attacker chooses zero activations; one who is a client as well asks for
 * the same token again and again, or waits for what stands in every prompt (the first token). Here the first quarter of
 * the text is the attacker's own: of each token in it he subtracts the first row from the later ones. Scored on the
 * other three quarters.
 *
 * Source: arXiv 2602.11088 (precomputed noise of SOTER, TSQP, TLG). */
#include "audit/seen.h"
#include "audit/subspace.h"
#include "base/buf.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DELTA 4 /* differences beyond m */

/* Differences of rows [0, own) with the same id into out [.][d]; their number. first [n_vocab] is scratch. */
static size_t differences(const struct st_seen *s, const uint32_t *ids, size_t own, uint32_t *first, uint32_t n_vocab,
                          double *out)
{
    size_t n = 0;
    memset(first, 0xff, n_vocab * sizeof *first);
    for (size_t i = 0; i < own; i++) {
        if (first[ids[i]] == UINT32_MAX) {
            first[ids[i]] = (uint32_t)i;
            continue;
        }
        const double *x = s->rows + i * s->d, *y = s->rows + (size_t)first[ids[i]] * s->d;
        for (size_t k = 0; k < s->d; k++)
            out[n * s->d + k] = x[k] - y[k];
        n++;
    }
    return n;
}

static int attack(const struct st_audit *a, const struct st_seen_text *s, size_t own, struct st_rows *rows,
                  struct st_err *e)
{
    size_t d = s->seen.d, m = s->seen.n_asked ? s->seen.n_asked : d / 2, n = 0;
    uint32_t *first = NULL, n_vocab = (uint32_t)s->table.n_row;
    double *diff = NULL, *rest = NULL;
    struct st_row row = {0};
    m = m < d ? m : d;
    int rc = st_alloc(&first, n_vocab, sizeof *first, "tokens", e);
    if (!rc)
        rc = st_alloc(&diff, own, d * sizeof *diff, "differences of rows", e);
    if (!rc)
        rc = st_alloc(&rest, d, d * sizeof *rest, "directions of masks", e);
    if (!rc) {
        n = differences(&s->seen, a->target->text.ids, own, first, n_vocab, diff);
        rc = st_subspace_rest(diff, n, d, m, rest, e);
    }
    snprintf(row.variant, sizeof row.variant, "layer 0, m %zu of %zu, %zu queries", m, d, n);
    if (n < m + DELTA)
        snprintf(row.note, sizeof row.note, "Fewer than %zu rows with an input seen before: too few to span the masks.",
                 m + DELTA);
    if (!rc)
        rc = st_seen_score(a, s, own, rest, d - m, &row, rows, e);
    free(first);
    free(diff);
    free(rest);
    return rc;
}

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    struct st_seen_text s;
    if (st_seen_open(a, 0, &s, e))
        return e->code;
    size_t own = s.seen.n / 4;
    int rc =
        own ? attack(a, &s, own, rows, e)
            : st_fail(e, ST_UNSUPPORTED, "needs a text of at least 4 ids, part of which the attacker asked himself");
    st_seen_close(&s);
    return rc;
}

const struct st_attack st_atk_zero_query = {.name = "zero-query",
                                            .title = "Basis of the masks from rows with equal inputs",
                                            .metric = "share of the other text's tokens recovered",
                                            .source = "arXiv 2602.11088",
                                            .adversary = ST_ADVERSARY_WORKER,
                                            .needs = ST_TARGET_RECORD,
                                            .run = run};
