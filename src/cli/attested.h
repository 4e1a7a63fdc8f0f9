/* What the trusted side proves, and what is proved to it, around --protect masked: evidence of this side for workers
 * whose weights it may not learn (--private-weights, --evidence), evidence of workers (--worker-policy), and the
 * attested preparer that takes the place of the weights (--preparer, --preparer-policy; service/preparer.h). */
#ifndef ST_CLI_ATTESTED_H
#define ST_CLI_ATTESTED_H

#include "cli/cli.h"
#include "service/preparer.h"

struct st_attested {
    struct st_policy *worker_policy, *preparer_policy;
    struct st_collection *collection;
    uint8_t kit[32]; /* with collection */
    struct st_preparer_client *preparer;
};

/* Options of it that do not go together, or not with the model. USAGE. */
int st_attested_check(const struct st_cli *cli, bool sealed, struct st_err *e) ST_MUST_CHECK;
/* The model at path must be a kit where weights are private or prepared: USAGE. Reads policies (POLICY: one that pins
 * nothing), opens what collects evidence. */
int st_attested_open(const struct st_cli *cli, const char *path, struct st_attested *out,
                     struct st_err *e) ST_MUST_CHECK;
/* Connects to the preparer, if there is one. plan: placed, borrowed until close. */
int st_attested_prepare(struct st_attested *a, const struct st_cli *cli, const uint8_t digest[32],
                        const struct st_plan *plan, struct st_err *e) ST_MUST_CHECK;
void st_attested_close(struct st_attested *a);

#endif
