/* sotto log: a transparency log of keys and releases, its witnesses, and who looks after it. */
#include "attest/policy.h"
#include "base/secret.h"
#include "cli/log.h"
#include "cli/role.h"
#include "cli/sign_key.h"
#include "service/log_server.h"
#include "service/witness.h"
#include "text/json.h"

#include <string.h>

enum {
    KEY_KEY = ST_KEY(0),
    KEY_ORIGIN,
    KEY_NAME,
    KEY_SUBMITTERS,
    KEY_WITNESS,
    KEY_QUORUM,
    KEY_EVERY,
    KEY_STATE,
    KEY_LOG,
    KEY_POLICY,
    KEY_FILE,
    KEY_KEY_FILE,
    KEY_CLAIM,
    KEY_VALUE,
    KEY_RELEASE,
    KEY_INTO,
    KEY_WAIT,
    KEY_AS_WITNESS,
    KEY_CA_BUNDLE,
};

static const struct argp_option options[] = {
    {"key", KEY_KEY, "FILE", 0, "new, key: the signing key, made when it is not there; serve, witness: it", 0},
    {"origin", KEY_ORIGIN, "NAME", 0, "new: the log's name, as log.example/keys", 0},
    {"name", KEY_NAME, "NAME", 0, "key, witness: the name that goes with the key", 0},
    {"as-witness", KEY_AS_WITNESS, NULL, 0, "key: print it as a witness's", 0},
    {"submitters", KEY_SUBMITTERS, "FILE", 0,
     "serve: lines gateway/NAME KEY, issuer/NAME KEY, entries/NAME KEY (mode 0600)", 0},
    {"witness", KEY_WITNESS, "URL=VKEY", 0,
     "serve: a witness to ask; may be given again. check, prove: VKEY of one that counts", 0},
    {"quorum", KEY_QUORUM, "N", 0, "So many of the witnesses must have cosigned; default all", 0},
    {"every", KEY_EVERY, "SECONDS", 0, "serve: an epoch, in which one directory may come; default 60", 0},
    {"state", KEY_STATE, "PATH", 0, "witness: directory of what it has cosigned; check: file of what it saw last", 0},
    {"log", KEY_LOG, "[ORIGIN=]VKEY", 0, "witness: a log to cosign; may be given again. check, prove: the log", 0},
    {"policy", KEY_POLICY, "FILE", 0, "check, prove: a policy whose log and witnesses count, in place of --log", 0},
    {"file", KEY_FILE, "FILE", 0, "add: the entry", 0},
    {"key-file", KEY_KEY_FILE, "FILE", 0, "add: the submitter's key", 0},
    {"claim", KEY_CLAIM, "KIND.NAME", 0, "add, prove: a measurement, as tdx.mrtd", 0},
    {"value", KEY_VALUE, "VALUE", 0, "add, prove: its value", 0},
    {"release", KEY_RELEASE, "TEXT", 0, "add: which release has it", 0},
    {"into", KEY_INTO, "POLICY", 0, "prove: put the proof into this policy", 0},
    {"wait", KEY_WAIT, "SECONDS", 0, "add: look for so long whether the entry is there; default 180", 0},
    {"ca-bundle", KEY_CA_BUNDLE, "FILE", 0, "Certificates that TLS of others is checked against (PEM)", 0},
    {0},
};

/* "[PREFIX=]VKEY": names of keys hold no '='. */
static int read_vkey(const char *option, char *arg, uint8_t type, const char **prefix, struct st_note_key *out,
                     struct st_err *e)
{
    struct st_err why;
    char *eq = strchr(arg, '=');
    const char *text = eq ? eq + 1 : arg;
    if (eq)
        *eq = 0;
    *prefix = eq ? arg : NULL;
    if (st_note_key_parse(text, strlen(text), out, &why) || out->type != type)
        return st_fail(e, ST_USAGE, "%s: want a verifier key of a %s, NAME+ID+KEY (`sotto log key` prints it)", option,
                       type == ST_NOTE_COSIGNATURE ? "witness" : "log");
    return 0;
}

static int add_witness(struct st_log_cmd *o, char *arg, struct st_err *e)
{
    if (o->n_witness == ST_TLOG_MAX_WITNESSES)
        return st_fail(e, ST_USAGE, "--witness: want at most %d", ST_TLOG_MAX_WITNESSES);
    struct st_cosign_witness *w = &o->witnesses[o->n_witness++];
    return read_vkey("--witness", arg, ST_NOTE_COSIGNATURE, &w->url, &w->key, e);
}

static int add_log(struct st_log_cmd *o, char *arg, struct st_err *e)
{
    const char *origin;
    if (o->n_log == sizeof o->logs / sizeof *o->logs)
        return st_fail(e, ST_USAGE, "--log: want at most %zu", sizeof o->logs / sizeof *o->logs);
    struct st_tlog_keys *k = &o->logs[o->n_log++];
    if (read_vkey("--log", arg, ST_NOTE_ED25519, &origin, &k->log, e))
        return e->code;
    origin = origin ? origin : k->log.name;
    if (strlen(origin) > ST_NOTE_MAX_NAME || !*origin)
        return st_fail(e, ST_USAGE, "--log: want an origin of 1 to %d bytes", ST_NOTE_MAX_NAME);
    memcpy(k->origin, origin, strlen(origin) + 1);
    return 0;
}

/* Where the text of an option goes; NULL when it is not mere text. */
static const char **text_of(struct st_log_cmd *o, int key)
{
    switch (key) {
    case KEY_KEY:
        return &o->key;
    case KEY_ORIGIN:
        return &o->origin;
    case KEY_NAME:
        return &o->name;
    case KEY_SUBMITTERS:
        return &o->submitters;
    case KEY_STATE:
        return &o->state;
    case KEY_POLICY:
        return &o->policy;
    case KEY_FILE:
        return &o->file;
    case KEY_KEY_FILE:
        return &o->key_file;
    case KEY_CLAIM:
        return &o->claim;
    case KEY_VALUE:
        return &o->value;
    case KEY_RELEASE:
        return &o->release;
    case KEY_INTO:
        return &o->into;
    case KEY_CA_BUNDLE:
        return &o->ca_bundle;
    default:
        return NULL;
    }
}

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    struct st_log_cmd *o = opts;
    const char **text = text_of(o, key);
    if (text) {
        *text = arg;
        return 0;
    }
    switch (key) {
    case KEY_WITNESS:
        return add_witness(o, arg, e);
    case KEY_LOG:
        return add_log(o, arg, e);
    case KEY_QUORUM:
        return st_opt_int("--quorum", arg, 0, ST_TLOG_MAX_WITNESSES, &o->quorum, e);
    case KEY_EVERY:
        return st_opt_u32("--every", arg, 1, 86400, &o->every, e);
    case KEY_WAIT:
        return st_opt_real("--wait", arg, 0, 86400, &o->wait_s, e);
    default:
        o->witness_key = true;
        return 0;
    }
}

static size_t quorum(const struct st_log_cmd *o)
{
    return o->quorum >= 0 ? (size_t)o->quorum : o->n_witness;
}

int st_log_keys(const struct st_log_cmd *o, struct st_tlog_keys *out, struct st_err *e)
{
    if (o->policy) {
        struct st_buf b = {0};
        struct st_policy *p = NULL;
        int rc = st_file_read(o->policy, ST_POLICY_MAX_BYTES, &b, e);
        if (!rc)
            rc = st_policy_parse(b.p ? b.p : "", b.len, o->policy, &p, e);
        if (!rc && !st_policy_log(p))
            rc = st_fail(e, ST_USAGE, "%s: the policy names no log", o->policy);
        if (!rc)
            *out = *st_policy_log(p);
        st_policy_free(p);
        st_buf_free(&b);
        return rc;
    }
    if (o->n_log != 1)
        return st_fail(e, ST_USAGE, "log %s: want --log VKEY once, or --policy FILE", "check");
    *out = o->logs[0];
    for (; out->n_witness < o->n_witness; out->n_witness++)
        out->witnesses[out->n_witness] = o->witnesses[out->n_witness].key;
    out->quorum = quorum(o);
    return st_tlog_keys_check(out, e);
}

/* ---- keys and new logs ---- */

/* The key of the file, which is made when it is not there. */
static int open_or_make(const char *path, struct st_ed25519 **k, struct st_err *e)
{
    return st_path_exists(path) ? st_sign_key_open(path, k, e) : st_sign_key_create(path, k, e);
}

static int print_key(const struct st_cli *cli, const struct st_ed25519 *k, const char *name, uint8_t type,
                     struct st_err *e)
{
    struct st_buf vkey = {0}, json = {0};
    int rc = st_sign_key_public(k, name, type, &vkey, e);
    if (!rc) {
        st_json_quote(&json, vkey.p, vkey.len);
        printf(cli->json ? "{\"key\":%s}\n" : "%s\n", cli->json ? json.p : vkey.p);
    }
    st_buf_free(&vkey);
    st_buf_free(&json);
    return rc;
}

static int make(const struct st_cli *cli, const struct st_log_cmd *o, struct st_err *e)
{
    struct st_ed25519 *k = NULL;
    if (!o->key || !o->origin)
        return st_fail(e, ST_USAGE, "log new: want --origin NAME and --key FILE");
    int rc = open_or_make(o->key, &k, e);
    if (!rc)
        rc = st_log_store_create(cli->args[1], o->origin, k, e);
    if (!rc)
        rc = print_key(cli, k, o->origin, ST_NOTE_ED25519, e);
    st_ed25519_free(k);
    return rc;
}

static int show_key(const struct st_cli *cli, const struct st_log_cmd *o, struct st_err *e)
{
    struct st_ed25519 *k = NULL;
    if (!o->key || !o->name)
        return st_fail(e, ST_USAGE, "log key: want --key FILE and --name NAME");
    int rc = open_or_make(o->key, &k, e);
    if (!rc)
        rc = print_key(cli, k, o->name, o->witness_key ? ST_NOTE_COSIGNATURE : ST_NOTE_ED25519, e);
    st_ed25519_free(k);
    return rc;
}

/* ---- serving ---- */

static int serve_with(const struct st_cli *cli, const struct st_log_cmd *o, const struct st_ed25519 *k,
                      struct st_err *e)
{
    struct st_log_server *s;
    struct st_buf vkey = {0}, line = {0}, json = {0};
    struct st_log_server_opts so = {.dir = cli->args[1],
                                    .key = k,
                                    .submitters = o->submitters,
                                    .witnesses = o->witnesses,
                                    .n_witness = o->n_witness,
                                    .quorum = quorum(o),
                                    .every = o->every,
                                    .ca_bundle = o->ca_bundle};
    st_role_cli(cli, 7795, &so.listen);
    if (st_log_server_new(&so, &s, e))
        return e->code;
    int rc = st_sign_key_public(k, st_log_server_origin(s), ST_NOTE_ED25519, &vkey, e);
    if (!rc) {
        st_buf_addf(&line, "key: %s", vkey.p);
        st_buf_add_str(&json, ",\"key\":");
        st_json_quote(&json, vkey.p, vkey.len);
        const char *const lines[] = {
            line.p ? line.p : "", "sees: keys and releases, which are public.",
            so.quorum ? "never restore its directory from a copy: witnesses would cosign no more, for good."
                      : "no witness must cosign: whoever runs this log can show each client a log of its own.",
            NULL};
        st_role_announce(cli, st_log_server_role(s), lines, json.failed ? NULL : json.p);
        rc = st_role_run(st_log_server_role(s), e);
    }
    if (!rc)
        rc = st_log_server_result(s, e);
    st_log_server_free(s);
    st_buf_free(&vkey);
    st_buf_free(&line);
    st_buf_free(&json);
    return rc;
}

static int serve(const struct st_cli *cli, const struct st_log_cmd *o, struct st_err *e)
{
    struct st_ed25519 *k;
    if (!o->key)
        return st_fail(e, ST_USAGE, "log serve: want --key FILE");
    for (size_t i = 0; i < o->n_witness; i++)
        if (!o->witnesses[i].url)
            return st_fail(e, ST_USAGE, "--witness: want URL=VKEY: a log asks its witnesses");
    st_secret_process();
    if (st_sign_key_open(o->key, &k, e))
        return e->code;
    int rc = serve_with(cli, o, k, e);
    st_ed25519_free(k);
    return rc;
}

static int witness_with(const struct st_cli *cli, const struct st_log_cmd *o, const struct st_ed25519 *k,
                        struct st_err *e)
{
    struct st_witness *w;
    struct st_buf vkey = {0}, line = {0}, json = {0};
    struct st_witness_opts wo = {.name = o->name, .key = k, .state = o->state, .logs = o->logs, .n_log = o->n_log};
    st_role_cli(cli, 7796, &wo.listen);
    if (st_witness_new(&wo, &w, e))
        return e->code;
    int rc = st_sign_key_public(k, o->name, ST_NOTE_COSIGNATURE, &vkey, e);
    if (!rc) {
        st_buf_addf(&line, "key: %s, logs: %zu", vkey.p, o->n_log);
        st_buf_add_str(&json, ",\"key\":");
        st_json_quote(&json, vkey.p, vkey.len);
        const char *const lines[] = {line.p ? line.p : "", "must not be run by whoever runs a log that it cosigns.",
                                     "never restore its state from a copy: it would cosign what contradicts it.", NULL};
        st_role_announce(cli, st_witness_role(w), lines, json.failed ? NULL : json.p);
        rc = st_role_run(st_witness_role(w), e);
    }
    st_witness_free(w);
    st_buf_free(&vkey);
    st_buf_free(&line);
    st_buf_free(&json);
    return rc;
}

static int witness(const struct st_cli *cli, const struct st_log_cmd *o, struct st_err *e)
{
    struct st_ed25519 *k;
    if (!o->key || !o->name || !o->state || o->n_log == 0)
        return st_fail(e, ST_USAGE, "log witness: want --key FILE, --name NAME, --state DIR and --log VKEY");
    st_secret_process();
    if (st_sign_key_open(o->key, &k, e))
        return e->code;
    int rc = witness_with(cli, o, k, e);
    st_ed25519_free(k);
    return rc;
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    static const struct {
        const char *name;
        int n_args;
        int (*run)(const struct st_cli *, const struct st_log_cmd *, struct st_err *);
    } verbs[] = {{"new", 2, make},           {"key", 1, show_key},   {"serve", 2, serve},       {"witness", 1, witness},
                 {"check", 2, st_log_check}, {"add", 2, st_log_add}, {"prove", 2, st_log_prove}};
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        if (strcmp(cli->args[0], verbs[i].name) != 0)
            continue;
        if (cli->n_args != verbs[i].n_args)
            return st_fail(e, ST_USAGE, "log %s: want %s", verbs[i].name,
                           verbs[i].n_args == 2 ? "one argument, a directory or a URL" : "no further argument");
        return verbs[i].run(cli, opts, e);
    }
    return st_fail(e, ST_USAGE, "log: want new, key, serve, witness, check, add or prove, got '%.40s'", cli->args[0]);
}

const struct st_cmd st_cmd_log = {
    .name = "log",
    .summary = "Run, witness and check a transparency log of keys and releases",
    .args_doc = "new DIR|key|serve DIR|witness|check URL|add URL|prove URL",
    .min_args = 1,
    .max_args = 2,
    .doc =
        "A log that only grows (C2SP tlog-tiles), with the directory of all keys of gateways, nodes and issuers as "
        "the last entry of each tree, so that nobody can be given a key of his own without everybody seeing it. `new` "
        "makes one, `serve` runs it and has each tree cosigned before it is shown, `witness` is who cosigns "
        "(C2SP tlog-witness), `key` makes a signing key or prints what others are told of it. `check` downloads a "
        "whole log (or reads it from its directory) and recomputes its tree, and finds directories that should not "
        "be; a finding ends it with status 5. `add` puts an entry in, and `prove` writes the proof that a measurement "
        "stands in it, for a policy. Neither the log's directory nor a witness's state may ever be restored from a "
        "copy.",
    .examples = "  sotto log new keys.log --origin log.example/keys --key log.key\n"
                "  sotto log key --key w1.key --name witness.example/w1 --as-witness\n"
                "  sotto log serve keys.log --key log.key --submitters submitters.txt \\\n"
                "      --witness https://witness.example=witness.example/w1+8a...+B...\n"
                "  sotto log witness --key w1.key --name witness.example/w1 --state w1 \\\n"
                "      --log log.example/keys+1f...+A...\n"
                "  sotto log check https://log.example --policy policy.json --state seen\n"
                "  sotto log add https://log.example --key-file ci.key --claim tdx.mrtd \\\n"
                "      --value 2a90... --release \"sotto-node 1.2\"\n"
                "  sotto log prove https://log.example --policy policy.json --claim tdx.mrtd \\\n"
                "      --value 2a90... --into policy.json",
    .shared = ST_CLI_PORT | ST_CLI_JSON,
    .options = options,
    .opts_size = sizeof(struct st_log_cmd),
    .defaults = &(const struct st_log_cmd){.quorum = -1, .wait_s = 180},
    .set = set,
    .run = run,
};
