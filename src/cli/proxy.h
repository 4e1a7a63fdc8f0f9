/* What cmd_proxy.c (options, covariant and masked) and proxy_confidential.c share. */
#ifndef ST_CLI_PROXY_H
#define ST_CLI_PROXY_H

#include "cli/cli.h"

#define ST_PROXY_MAX_TAGS 8

struct st_proxy_opts {
    const char *key, *source, *manifest, *upstream, *upstream_model, *dialect, *upstream_key_file; /* covariant */
    const char *policy, *relay, *log, *issuer, *issuer_name, *account_file, *wallet, *state, *gateway, *receipts;
    const char *tags[ST_PROXY_MAX_TAGS]; /* confidential, as the line above */
    size_t n_tag;
    bool challenge;
    const char *ca_bundle; /* all */
    double stall_s;
    uint32_t max_queue, n_retry;
};

int st_proxy_confidential(const struct st_cli *cli, const struct st_proxy_opts *o, struct st_err *e) ST_MUST_CHECK;
/* The name of an option for --protect confidential that was given, NULL when none was. */
const char *st_proxy_confidential_given(const struct st_proxy_opts *o);

#endif
