/* Zero queries against masks from a fixed basis: rows whose input is the same differ by masks alone, so m + delta
 * differences span all masks. The paper's attacker chooses zero activations; one who is a client as well asks for
 * the same token again and again, or waits for what stands in every prompt (the first token). Here the beginning of the
 * text is the attacker's own, as much of it as gives m + delta differences: of each token in it he subtracts the first
 * row from the later ones. Scored on the rest, which must be a quarter of the text or more.
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

/* Differences of rows with the same id, `want` of them, into out [want][d]. The number of rows that it took; 0: there
 * are not as many. first [n_vocab] is scratch. */
static size_t differences(const struct st_seen *s, const uint32_t *ids, size_t want, uint32_t *first, uint32_t n_vocab,
                          double *out)
{
    size_t n = 0;
    memset(first, 0xff, n_vocab * sizeof *first);
    for (size_t i = 0; i < s->n; i++) {
        if (first[ids[i]] == UINT32_MAX) {
            first[ids[i]] = (uint32_t)i;
            continue;
        }
        const double *x = s->rows + i * s->d, *y = s->rows + (size_t)first[ids[i]] * s->d;
        for (size_t k = 0; k < s->d; k++)
            out[n * s->d + k] = x[k] - y[k];
        if (++n == want)
            return i + 1;
    }
    return 0;
}

static int attack(const struct st_audit *a, const struct st_seen_text *s, struct st_rows *rows, struct st_err *e)
{
    size_t d = s->seen.d, m = s->seen.n_asked ? s->seen.n_asked : d / 2, own = 0;
    uint32_t *first = NULL, n_vocab = (uint32_t)s->table.n_row;
    double *diff = NULL, *rest = NULL;
    struct st_row row = {0};
    m = m < d ? m : d;
    int rc = st_alloc(&first, n_vocab, sizeof *first, "tokens", e);
    if (!rc)
        rc = st_alloc(&diff, m + DELTA, d * sizeof *diff, "differences of rows", e);
    if (!rc)
        rc = st_alloc(&rest, d, d * sizeof *rest, "directions of masks", e);
    if (!rc) {
        own = differences(&s->seen, a->target->text.ids, m + DELTA, first, n_vocab, diff);
        if (own == 0 || s->seen.n - own < s->seen.n / 4)
            rc = st_fail(e, ST_UNSUPPORTED,
                         "needs %zu rows with an input seen before, and a quarter of the text beside", m + DELTA);
    }
    if (!rc)
        rc = st_subspace_rest(diff, m + DELTA, d, m, rest, e);
    snprintf(row.variant, sizeof row.variant, "layer 0, m %zu of %zu, %zu queries", m, d, m + DELTA);
    snprintf(row.note, sizeof row.note, "The first %zu rows of %zu are the attacker's own.", own, s->seen.n);
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
    int rc = attack(a, &s, rows, e);
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
