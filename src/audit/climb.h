/* Hill climbing over a substitution: ids change places when a trigram model likes the text better. Arithmetic of
 * audit/decipher.h. */
#ifndef ST_AUDIT_CLIMB_H
#define ST_AUDIT_CLIMB_H

#include "audit/ngram.h"

#include <signal.h>

struct st_climb {
    const uint32_t *seq; /* [n] the text; ids below n_type, or breaks */
    size_t n;
    uint32_t n_type;
    const struct st_dense *score; /* [n_type][..] which plain ids are tried for an id: the best, and near the best */
    const uint32_t *room;         /* of each plain id: how many ids may stand for it */
    uint32_t n_fixed;             /* the last so many ids keep what they have */
    const struct st_ngram *model; /* of order 3 */
    const volatile sig_atomic_t *cancel;
};
/* map [n_type]: plain id of each id, ST_NGRAM_BREAK = none; changed in place. How many changes were made in one pass
 * comes back in *changes. MEMORY; IO: cancelled. */
int st_climb(const struct st_climb *c, uint32_t *map, size_t *changes, struct st_err *e) ST_MUST_CHECK;

#endif
