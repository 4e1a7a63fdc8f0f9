/* The same without knowing M_pub: masks are much larger than what they hide, so the m strongest directions of the
 * traffic span them. Needs more than m rows; larger masks help the attacker. m is a public parameter of the scheme:
 * half of d unless --rank says otherwise; where no factor was sent (otp, lwe) half of d is tried.
 *
 * A worker that is honest in the protocol knows M_pub anyway. This one does not: it took over later, or M_pub W was
 * computed elsewhere.
 *
 * Source: ours; principal components by the eigenvectors of X^T X. */
#include "audit/seen.h"
#include "audit/subspace.h"
#include "base/buf.h"

#include <stdio.h>
#include <stdlib.h>

static int run(const struct st_audit *a, struct st_rows *rows, struct st_err *e)
{
    struct st_seen_text s;
    double *rest = NULL;
    if (st_seen_open(a, 0, &s, e))
        return e->code;
    size_t d = s.seen.d, m = s.seen.n_asked ? s.seen.n_asked : d / 2;
    m = m < d ? m : d;
    struct st_row row = {0};
    int rc = s.seen.n > m ? st_alloc(&rest, d, d * sizeof *rest, "directions of masks", e)
                          : st_fail(e, ST_UNSUPPORTED, "needs more than %zu rows to learn from", m);
    if (!rc)
        rc = st_subspace_rest(s.seen.rows, s.seen.n, d, m, rest, e);
    snprintf(row.variant, sizeof row.variant, "layer 0, m %zu of %zu, %zu rows", m, d, s.seen.n);
    if (!rc)
        rc = st_seen_score(a, &s, 0, rest, d - m, &row, rows, e);
    free(rest);
    st_seen_close(&s);
    return rc;
}

const struct st_attack st_atk_learned_basis = {.name = "learned-basis",
                                               .title = "Projection on the complement of the strongest directions",
                                               .metric = "share of the text's tokens recovered",
                                               .source = "ours, on the masks of arXiv 2603.00196",
                                               .adversary = ST_ADVERSARY_WORKER,
                                               .needs = ST_TARGET_RECORD,
                                               .run = run};
