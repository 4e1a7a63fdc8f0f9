/* Which norm's weights go into which matrices: y = (x g) W^T equals x (W diag(g))^T, so a norm over a whole row can
 * hand its weights to every matrix that reads its output, and keep ones. Found from the plan alone: slots are followed
 * from the norm to its readers, through GATHER as well. Norms inside heads stay as they are. */
#ifndef ST_MODEL_FOLD_H
#define ST_MODEL_FOLD_H

#include "model/plan.h"

#include <stdbool.h>

struct st_fold {
    int *norm;    /* [n_weight] of a matrix: the weight of the norm that goes into its columns; -1 = none */
    bool *unit;   /* [n_weight] a norm that becomes ones */
    bool *linear; /* [n_weight] a matrix of a linear layer other than a router: what a worker serves */
};

/* UNSUPPORTED, naming the weight, when something else than linear layers reads a norm's output. MEMORY. */
int st_fold_init(struct st_fold *f, const struct st_plan *p, struct st_err *e) ST_MUST_CHECK;
void st_fold_free(struct st_fold *f);

#endif
