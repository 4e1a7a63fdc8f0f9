/* sotto key new FILE, sotto key show FILE: the master key of covariant obfuscation. */
#include "cli/cli.h"
#include "crypto/digest.h"
#include "protect/covariant/key.h"

#include <string.h>
#include <time.h>

static int show(const struct st_cli *cli, const char *path, struct st_err *e)
{
    struct st_cov_key key;
    char id[33], when[32] = "unknown";
    struct tm tm;
    int rc = st_cov_key_load(path, &key, e);
    if (rc)
        return rc;
    st_hex(key.id, sizeof key.id, id);
    time_t t = (time_t)key.created;
    if (gmtime_r(&t, &tm))
        strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &tm);
    if (cli->json)
        printf("{\"id\": \"%s\", \"created\": \"%s\", \"version\": 1, \"kdf\": \"none\"}\n", id, when);
    else
        printf("id       %s\ncreated  %s\nversion  1\nwrapped  no (the file itself is the secret)\n", id, when);
    st_cov_key_wipe(&key);
    return 0;
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    const char *verb = cli->args[0], *path = cli->args[1];
    (void)opts;
    if (strcmp(verb, "show") == 0)
        return show(cli, path, e);
    if (strcmp(verb, "new") != 0)
        return st_fail(e, ST_USAGE, "key: want `new FILE` or `show FILE`, got '%.40s'", verb);
    int rc = st_cov_key_create(path, e);
    return rc ? rc : show(cli, path, e);
}

const struct st_cmd st_cmd_key = {
    .name = "key",
    .summary = "Make or show the key of an obfuscated model",
    .args_doc = "new|show FILE",
    .min_args = 2,
    .max_args = 2,
    .doc =
        "`new` writes 32 random bytes to a new file that only you can read; an existing file is never overwritten. "
        "`show` prints the key's id and when it was made, never the secret. Whoever has the file and the source model "
        "can read every conversation with models obfuscated under it; whoever loses it can no longer use them.",
    .examples = "  sotto key new my.key\n  sotto key show my.key --json",
    .shared = ST_CLI_JSON,
    .run = run,
};
