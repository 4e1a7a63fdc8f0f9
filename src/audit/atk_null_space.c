/* Null space of the public factor. A worker of ReMO computes R_pub = M_pub W, so it has seen M_pub, rows [m][d]; what
 * arrives later is X = H + A M_pub. With N a basis of { v : M_pub v = 0 }, X N = H N holds exactly, and the embedding's
 * nearest row in those d - m directions is the token.
 *
 * Schemes without such a factor (otp, lwe) never send one: then rows are matched as they are, in all directions, which
 * reads rows without masks and nothing else.
 *
 * Source: papers on ReMO, arXiv 2603.00196 (the scheme); the projection is elementary and is ours. */
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
    size_t d = s.seen.d, m = s.seen.n_asked < d ? s.seen.n_asked : d;
    struct st_row row = {0};
    int rc = st_alloc(&rest, d, d * sizeof *rest, "directions of masks", e);
    if (!rc)
        rc = st_subspace_rest(s.seen.asked, s.seen.n_asked, d, m, rest, e);
    snprintf(row.variant, sizeof row.variant, "layer 0, m %zu of %zu", m, d);
    snprintf(row.note, sizeof row.note, "%s",
             m ? "The worker was sent the public factor of the masks and projects it out."
               : "No public factor was ever sent; rows are matched as they are.");
    if (!rc)
        rc = st_seen_score(a, &s, 0, rest, d - m, &row, rows, e);
    free(rest);
    st_seen_close(&s);
    return rc;
}

const struct st_attack st_atk_null_space = {.name = "null-space",
                                            .title = "Projection on the complement of the public factor",
                                            .metric = "share of the text's tokens recovered",
                                            .source = "ours, on the masks of arXiv 2603.00196",
                                            .adversary = ST_ADVERSARY_WORKER,
                                            .needs = ST_TARGET_RECORD,
                                            .run = run};
