/* What the verbs of `sotto seal` share; cmd_seal.c reads the options. */
#ifndef ST_CLI_SEAL_H
#define ST_CLI_SEAL_H

#include "cli/cli.h"
#include "protect/sealed/device.h"
#include "protect/sealed/writer.h"

struct st_seal_cmd {
    const char *policy, *name, *sign_key, *out, *tpm_roots;
    uint64_t version;
    bool restart, attention;                   /* --attention outside-breakable */
    const char *recipients[ST_RECIPIENTS_MAX]; /* --recipient, --add */
    size_t n_recipient;
    uint32_t drop[ST_RECIPIENTS_MAX];
    size_t n_drop;
    bool added; /* some came by --add */
    bool hpke;  /* key: of a recipient, not the publisher's */
    bool check; /* inspect: the segments, too */
    struct st_sealed_device_opts device;
    bool device_given;       /* one of its options */
    const char *certificate; /* device: of the attestation key */
};

/* SRC DST */
int st_seal_make(const struct st_cli *cli, const struct st_seal_cmd *o, struct st_err *e) ST_MUST_CHECK;
/* recipients FILE: lists them, or changes them when --add or --remove is given */
int st_seal_recipients(const struct st_cli *cli, const struct st_seal_cmd *o, struct st_err *e) ST_MUST_CHECK;
/* inspect FILE */
int st_seal_inspect(const struct st_cli *cli, const struct st_seal_cmd *o, struct st_err *e) ST_MUST_CHECK;
/* device; and its options */
int st_seal_device(const struct st_cli *cli, const struct st_seal_cmd *o, struct st_err *e) ST_MUST_CHECK;
int st_seal_counter(const char *arg, uint32_t *index, struct st_err *e) ST_MUST_CHECK;
int st_seal_storage_key(const char *arg, enum st_tpm_storage_key *out, struct st_err *e) ST_MUST_CHECK;
/* key FILE */
int st_seal_key(const struct st_cli *cli, const struct st_seal_cmd *o, struct st_err *e) ST_MUST_CHECK;

/* The publisher's seed: of --sign-key, else of publisher.key in the user's configuration. make: the latter comes into
 * being when it is not there, which is said. */
int st_seal_seed(const struct st_seal_cmd *o, bool make, struct st_secret *out, struct st_err *e) ST_MUST_CHECK;

#endif
