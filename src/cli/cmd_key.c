/* sotto key new|show|rotate FILE: the master key of covariant obfuscation. */
#include "cli/key_open.h"
#include "crypto/digest.h"
#include "text/json.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

struct key_opts {
    bool tpm;
    struct st_tpm_pcrs pcrs;
};

enum { KEY_TPM = ST_KEY(0), KEY_TPM_PCRS };

static const struct argp_option options[] = {
    {"tpm", KEY_TPM, NULL, 0, "new: seal the key to this machine's TPM 2.0", 0},
    {"tpm-pcrs", KEY_TPM_PCRS, "BANK:LIST", 0,
     "new: and to the values these PCRs have now, as sha256:7,11 (sha1, sha256 or sha384)", 0},
    {0},
};

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    struct key_opts *o = opts;
    if (key == KEY_TPM_PCRS)
        return st_tpm_pcrs_parse(arg, "--tpm-pcrs", &o->pcrs, e);
    o->tpm = true;
    return 0;
}

/* ---- show ---- */

static void add_text(struct st_buf *b, const struct st_cov_key_info *k, const char *id, const char *when)
{
    st_buf_addf(b, "id       %s\ncreated  %s\nversion  %u\nwrapped  ", id, when, k->version);
    switch (k->wrap) {
    case ST_COV_WRAP_PASSPHRASE:
        st_buf_addf(b, "by a passphrase (Argon2id, %u passes, %u MiB, %u lanes)\n", k->cost.passes,
                    k->cost.memory_kib / 1024, k->cost.lanes);
        break;
    case ST_COV_WRAP_TPM:
        st_buf_add_str(b, k->pcrs.bank ? "by a TPM, PCRs " : "by a TPM");
        st_tpm_pcrs_text(&k->pcrs, b);
        st_buf_add_str(b, "\n");
        break;
    default:
        st_buf_add_str(b, "no (the file itself is the secret)\n");
    }
}

static void add_json(struct st_buf *b, const struct st_cov_key_info *k, const char *id, const char *when)
{
    static const char *const wraps[ST_COV_WRAP_COUNT] = {"none", "passphrase", "tpm"};
    st_buf_addf(b, "{\"id\": \"%s\", \"created\": \"%s\", \"version\": %u, \"wrap\": \"%s\"", id, when, k->version,
                wraps[k->wrap]);
    if (k->wrap == ST_COV_WRAP_PASSPHRASE)
        st_buf_addf(b, ", \"kdf\": \"argon2id\", \"passes\": %u, \"memory_kib\": %u, \"lanes\": %u", k->cost.passes,
                    k->cost.memory_kib, k->cost.lanes);
    if (k->pcrs.bank) {
        st_buf_add_str(b, ", \"pcrs\": \"");
        st_tpm_pcrs_text(&k->pcrs, b);
        st_buf_add_str(b, "\"");
    }
}

/* old: where a rotation left the key that was there, or NULL. */
static int show(const struct st_cli *cli, const char *path, const char *old, struct st_err *e)
{
    struct st_cov_key_info k;
    struct st_buf b = {0};
    char id[33], when[32] = "unknown";
    struct tm tm;
    int rc = st_cov_key_show(path, &k, e);
    if (rc)
        return rc;
    st_hex(k.id, sizeof k.id, id);
    time_t t = (time_t)k.created;
    if (gmtime_r(&t, &tm))
        strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &tm);
    if (cli->json) {
        add_json(&b, &k, id, when);
        if (old) {
            st_buf_add_str(&b, ", \"old\": ");
            st_json_quote(&b, old, strlen(old));
        }
        st_buf_add_str(&b, "}\n");
    } else {
        add_text(&b, &k, id, when);
        if (old && !cli->quiet)
            st_buf_addf(
                &b,
                "\nThe old key is now %s. Models obfuscated under it need it still.\n"
                "Next: sotto obfuscate SRC NEW-DST --key %s for each of them, serve NEW-DST in its place, restart "
                "the proxies,\nand delete the old checkpoints, then the old key.\n",
                old, path);
    }
    if (b.failed)
        rc = st_fail(e, ST_MEMORY, "no memory for the report");
    else
        fputs(b.p, stdout);
    st_buf_free(&b);
    return rc;
}

/* ---- new, rotate ---- */

static int make(const struct st_cli *cli, const struct key_opts *o, const char *path, struct st_err *e)
{
    struct st_secret passphrase;
    if (o->pcrs.bank && !o->tpm)
        return st_fail(e, ST_USAGE, "--tpm-pcrs: goes with --tpm");
    if (o->tpm && (cli->unlock.passphrase || cli->unlock.passphrase_file))
        return st_fail(e, ST_USAGE, "want --tpm or a passphrase, not both");
    int rc = st_key_passphrase(cli, true, &passphrase, e);
    if (rc)
        return rc;
    const struct st_cov_lock lock = {.wrap = o->tpm         ? ST_COV_WRAP_TPM
                                             : passphrase.p ? ST_COV_WRAP_PASSPHRASE
                                                            : ST_COV_WRAP_NONE,
                                     .passphrase = passphrase.p ? &passphrase : NULL,
                                     .tcti = st_key_tcti(cli),
                                     .pcrs = o->pcrs};
    rc = st_cov_key_create(path, &lock, e);
    st_secret_wipe(&passphrase);
    return rc ? rc : show(cli, path, NULL, e);
}

static int rotate(const struct st_cli *cli, const struct key_opts *o, const char *path, struct st_err *e)
{
    struct st_secret passphrase;
    char old[ST_PATH_MAX];
    if (o->tpm || o->pcrs.bank)
        return st_fail(e, ST_USAGE, "key rotate: the new key is wrapped as the old one; --tpm goes with `new`");
    int rc = st_key_passphrase(cli, false, &passphrase, e);
    if (rc)
        return rc;
    const struct st_cov_lock lock = {.passphrase = passphrase.p ? &passphrase : NULL, .tcti = st_key_tcti(cli)};
    rc = st_cov_key_rotate(path, &lock, old, e);
    st_secret_wipe(&passphrase);
    return rc ? rc : show(cli, path, old, e);
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    const char *verb = cli->args[0], *path = cli->args[1];
    if (strcmp(verb, "new") == 0)
        return make(cli, opts, path, e);
    if (strcmp(verb, "rotate") == 0)
        return rotate(cli, opts, path, e);
    if (strcmp(verb, "show") == 0)
        return show(cli, path, NULL, e);
    return st_fail(e, ST_USAGE, "key: want `new FILE`, `show FILE` or `rotate FILE`, got '%.40s'", verb);
}

const struct st_cmd st_cmd_key = {
    .name = "key",
    .summary = "Make, show or replace the key of obfuscated models",
    .args_doc = "new|show|rotate FILE",
    .min_args = 2,
    .max_args = 2,
    .doc =
        "`new` writes 32 random bytes to a new file that only you can read; an existing file is never overwritten. "
        "With "
        "a passphrase or --tpm the file alone is of no use. `show` prints the key's id, when it was made and how it is "
        "wrapped, never the secret. `rotate` puts a fresh key, wrapped the same way, in the file's place and keeps the "
        "old one as FILE.<its id> for the models that were obfuscated under it. Whoever has the key and the source "
        "model can read every conversation with models obfuscated under it; whoever loses it can no longer use them.",
    .examples = "  sotto key new my.key\n  sotto key new my.key --passphrase\n"
                "  sotto key new my.key --tpm --tpm-pcrs sha256:7\n  sotto key show my.key --json\n"
                "  sotto key rotate my.key",
    .shared = ST_CLI_JSON | ST_CLI_UNLOCK,
    .options = options,
    .opts_size = sizeof(struct key_opts),
    .set = set,
    .run = run,
};
