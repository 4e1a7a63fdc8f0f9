/* The exchange groups of a placed plan: which ops leave together, and what their matrices need to be hidden and brought
 * back (scheme.h). Shared by the masks and by the integer reference. */
#ifndef ST_PROTECT_MASKED_GROUPS_H
#define ST_PROTECT_MASKED_GROUPS_H

#include "base/mem.h"
#include "protect/masked/scheme.h"

struct st_mask_groups {
    struct st_mask_group *g; /* [n] */
    int n;
    int *of_op;           /* [plan->n_op] index into g for the first op of a group, else -1 */
    struct st_area scale; /* float, of all groups */
    const struct st_plan *plan;
    bool weights; /* all their matrices are on this side: norms and scales are filled in */
    const struct st_served *served;
};

/* INTERNAL: a group in two places; INPUT: a matrix that is not served, or in another shape. Norms of columns take one
 * pass over the weights, on the pool's threads. */
int st_mask_groups_init(struct st_mask_groups *g, const struct st_plan *plan, const struct st_served *served,
                        struct st_pool *pool, struct st_err *e) ST_MUST_CHECK;
/* Norms and scales of a side without weights, from whoever is trusted to tell them. INPUT: names the matrix. */
int st_mask_groups_scales(struct st_mask_groups *g, const struct st_hint_source *from, struct st_err *e) ST_MUST_CHECK;
void st_mask_groups_free(struct st_mask_groups *g);
/* The group of an exchange. INTERNAL: none begins with its ops. */
int st_mask_groups_find(const struct st_mask_groups *g, const struct st_exchange *x, int *out,
                        struct st_err *e) ST_MUST_CHECK;

/* "layer 3 (q, k, v)", "layer 3 expert 7 (expert_down)", "head". */
#define ST_MASK_SITE 320
const char *st_mask_site(const struct st_plan *plan, const struct st_mask_group *g, char out[ST_MASK_SITE]);

/* Calls fn for every group, spread over the threads of the pool, the last first: the head is large. Stops after the
 * first failure and returns it. */
int st_mask_groups_each(const struct st_mask_groups *g, struct st_pool *pool,
                        const char *label /* of a progress bar, or NULL */,
                        int (*fn)(void *ctx, int group, struct st_err *e), void *ctx, struct st_err *e) ST_MUST_CHECK;

#endif
