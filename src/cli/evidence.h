/* What evidence a process collects about its machine, from options: `sotto-node`, and `sotto serve` with --release. */
#ifndef ST_CLI_EVIDENCE_H
#define ST_CLI_EVIDENCE_H

#include "attest/collector.h"

struct st_cli_evidence {
    const char *kinds[ST_EVIDENCE_MAX_ITEMS];
    size_t n_kind;
    struct st_collect_opts collect;
};

/* Values of --evidence (kinds with commas between them; arg is cut up and kept) and --sim-measurement. USAGE. */
int st_evidence_kinds(struct st_cli_evidence *o, char *arg, struct st_err *e) ST_MUST_CHECK;
int st_evidence_sim_measurement(struct st_cli_evidence *o, const char *arg, struct st_err *e) ST_MUST_CHECK;
bool st_evidence_has(const struct st_cli_evidence *o, const char *kind);

#endif
