/* The secrets of the integrity check of all matrices that leave (field/freivalds.h), made here from the weights: one
 * pass over them, on all threads. All groups share one pair of vectors s, as long as the outputs of the largest group.
 * After a reject they are drawn anew before the next exchange. */
#ifndef ST_PROTECT_MASKED_CHECK_H
#define ST_PROTECT_MASKED_CHECK_H

#include "protect/masked/groups.h"

struct st_mask_checks {
    struct st_freivalds *of; /* [n] every served matrix on its own; empty for those that stay */
    uint32_t n;
    struct st_freivalds *groups; /* [n_group] the matrices of a group as one */
    int n_group;
    uint32_t *s[ST_FREIVALDS_N]; /* [n_s] */
    uint32_t n_s;
};

/* The groups' weights must be on this side. MEMORY. */
int st_mask_checks_init(struct st_mask_checks *c, const struct st_mask_groups *g, const struct st_served *served,
                        struct st_pool *pool, bool progress, struct st_err *e) ST_MUST_CHECK;
/* One verdict on the reply to rows u of one group: v as it came, [n_row, n_out] of each of its matrices. */
bool st_mask_checks_pass(const struct st_mask_checks *c, const struct st_mask_group *g, int group, const uint32_t *u,
                         const uint32_t *v, uint32_t n_row);
void st_mask_checks_wipe(struct st_mask_checks *c);

#endif
