/* sotto log: its options, and the subcommands in files of their own. */
#ifndef ST_CLI_LOG_H
#define ST_CLI_LOG_H

#include "cli/cli.h"
#include "service/cosign.h"

struct st_log_cmd {
    const char *key, *origin, *name, *submitters, *state, *policy, *file, *key_file, *ca_bundle;
    const char *claim, *value, *release, *into;
    struct st_cosign_witness witnesses[ST_TLOG_MAX_WITNESSES]; /* url NULL: only whose signature counts */
    size_t n_witness;
    struct st_tlog_keys logs[8]; /* --log: origin and key */
    size_t n_log;
    uint32_t every;
    int64_t quorum; /* -1 = all witnesses */
    double wait_s;
    bool witness_key;
};

/* Whom to believe: --policy, or --log with --witness and --quorum. USAGE, errors of the policy. */
int st_log_keys(const struct st_log_cmd *o, struct st_tlog_keys *out, struct st_err *e) ST_MUST_CHECK;

int st_log_check(const struct st_cli *cli, const struct st_log_cmd *o, struct st_err *e) ST_MUST_CHECK;
int st_log_add(const struct st_cli *cli, const struct st_log_cmd *o, struct st_err *e) ST_MUST_CHECK;
int st_log_prove(const struct st_cli *cli, const struct st_log_cmd *o, struct st_err *e) ST_MUST_CHECK;

#endif
