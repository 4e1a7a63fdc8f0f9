/* The one way for commands to open a key file, and to take what unwraps it: --passphrase-file, --passphrase (asked for
 * on the terminal, without echo) and --tcti, the options of ST_CLI_UNLOCK. */
#ifndef ST_CLI_KEY_OPEN_H
#define ST_CLI_KEY_OPEN_H

#include "cli/cli.h"
#include "protect/covariant/key.h"

/* Opens `file` as the shared options say. Errors of st_cov_key_load and of st_key_passphrase; one that is missing
 * names the options. */
int st_key_open(const struct st_cli *cli, const char *file, struct st_cov_key *out, struct st_err *e) ST_MUST_CHECK;

/* The passphrase that the options name; *out stays empty (p NULL) when they name none. Of a file, its one line without
 * the line end. twice: a typed one must be typed the same again. USAGE: both options, no terminal, empty, over
 * ST_PASSPHRASE_MAX; POLICY: others can read the file; INPUT: more than one line; VERIFY: typed differently. */
int st_key_passphrase(const struct st_cli *cli, bool twice, struct st_secret *out, struct st_err *e) ST_MUST_CHECK;

/* Where the TPM is: --tcti, else the variable TSS2_TCTI of tpm2-tss, else NULL (the library's default). */
const char *st_key_tcti(const struct st_cli *cli);

#endif
