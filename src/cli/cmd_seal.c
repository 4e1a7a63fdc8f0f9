/* sotto seal SRC DST, and `sotto seal VERB ...`: containers of weights that travel and stay their owner's. */
#include "cli/seal.h"
#include "text/json.h"

#include <string.h>

enum {
    KEY_POLICY = ST_KEY(0),
    KEY_ATTENTION,
    KEY_RECIPIENT,
    KEY_SIGN_KEY,
    KEY_VERSION,
    KEY_NAME,
    KEY_RESTART,
    KEY_ADD,
    KEY_REMOVE,
    KEY_OUT,
    KEY_CHECK,
    KEY_HPKE,
    KEY_PCRS,
    KEY_COUNTER,
    KEY_STORAGE_KEY,
    KEY_CERTIFY,
    KEY_TPM_AK,
    KEY_TPM_ROOTS,
};

static const struct argp_option options[] = {
    {"policy", KEY_POLICY, "NAME", 0,
     "What is sealed: all-inside (default), paper, adapters, or a file as `sotto seal policy` prints it. What is left "
     "outside anybody with the file reads; what each gives away: docs/leakage.md",
     0},
    {"attention", KEY_ATTENTION, "WHERE", 0,
     "inside (default); outside-breakable: the policy is a file that says `attention = outside`, and whoever runs the "
     "model may let a worker compute attention products, which can read prompts, and keys and queries of the model",
     0},
    {"recipient", KEY_RECIPIENT, "KIND:ARG", 0,
     "Who may open it; may be given often. Default: passphrase, when one is given", 0},
    {"sign-key", KEY_SIGN_KEY, "FILE", 0,
     "The publisher's key, made by `sotto seal key`; default: publisher.key in ~/.config/sotto, made on first use", 0},
    {"version", KEY_VERSION, "N", 0, "The owner's number of this version of the model; default 1", 0},
    {"name", KEY_NAME, "NAME", 0, "The model's name in the container; default: SRC's", 0},
    {"restart", KEY_RESTART, NULL, 0, "Throw away what a stopped run left in DST.part", 0},
    {"add", KEY_ADD, "KIND:ARG", 0, "recipients: one more; may be given often", 0},
    {"remove", KEY_REMOVE, "N", 0, "recipients: number N of the list; may be given often", 0},
    {"out", KEY_OUT, "FILE", 0, "recipients: write a new file instead of replacing the old one", 0},
    {"check", KEY_CHECK, NULL, 0, "inspect: every segment against its digest, which needs no key either", 0},
    {"hpke", KEY_HPKE, NULL, 0, "key: a pair of keys for --recipient hpke:FILE.pub, as of a release service", 0},
    {"pcrs", KEY_PCRS, "BANK:LIST", 0,
     "device: PCRs that must have today's values when a container is opened; default: " ST_SEALED_PCRS, 0},
    {"counter", KEY_COUNTER, "INDEX", 0,
     "device: and a counter against older versions, as 0x01800000, made if it is not there; `new`: the first free one",
     0},
    {"storage-key", KEY_STORAGE_KEY, "KIND", 0, "device: ecc (P-256; default) or rsa (2048 bits)", 0},
    {"certify", KEY_CERTIFY, "FILE", 0,
     "device: the TPM's attestation key, whose certificate `sotto enroll` put into FILE, says that the storage key is "
     "the TPM's",
     0},
    {"tpm-ak", KEY_TPM_AK, "HANDLE", 0, "device: a persistent attestation key, as 0x81000003, for --certify", 0},
    {"tpm-roots", KEY_TPM_ROOTS, "FILE", 0,
     "SRC DST, recipients: storage keys of devices must be certified below these certificates (ca.pem of `sotto "
     "enroll`)",
     0},
    {0},
};

static int add_recipient(struct st_seal_cmd *o, const char *spec, struct st_err *e)
{
    if (o->n_recipient == ST_RECIPIENTS_MAX)
        return st_fail(e, ST_USAGE, "--recipient: at most %d", ST_RECIPIENTS_MAX);
    o->recipients[o->n_recipient++] = spec;
    return 0;
}

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    struct st_seal_cmd *o = opts;
    static const char *const attention[] = {"inside", "outside-breakable", NULL};
    int64_t v;
    int i = 0;
    switch (key) {
    case KEY_ATTENTION:
        if (st_opt_choice("--attention", arg, attention, &i, e))
            return e->code;
        o->attention = i;
        return 0;
    case KEY_POLICY:
        o->policy = arg;
        return 0;
    case KEY_ADD:
        o->added = true;
        return add_recipient(o, arg, e);
    case KEY_RECIPIENT:
        return add_recipient(o, arg, e);
    case KEY_SIGN_KEY:
        o->sign_key = arg;
        return 0;
    case KEY_VERSION:
        if (st_opt_int("--version", arg, 1, INT64_MAX, &v, e))
            return e->code;
        o->version = (uint64_t)v;
        return 0;
    case KEY_NAME:
        o->name = arg;
        return 0;
    case KEY_OUT:
        o->out = arg;
        return 0;
    case KEY_CHECK:
        o->check = true;
        return 0;
    case KEY_HPKE:
        o->hpke = true;
        return 0;
    case KEY_PCRS:
        o->device_given = true;
        return st_tpm_pcrs_parse(arg, "--pcrs", &o->device.pcrs, e);
    case KEY_COUNTER:
        o->device_given = o->device.counter = true;
        return st_seal_counter(arg, &o->device.index, e);
    case KEY_STORAGE_KEY:
        o->device_given = true;
        return st_seal_storage_key(arg, &o->device.kind, e);
    case KEY_CERTIFY:
        o->device_given = true;
        o->certificate = arg;
        return 0;
    case KEY_TPM_AK:
        o->device_given = true;
        o->device.ak = arg;
        return 0;
    case KEY_TPM_ROOTS:
        o->tpm_roots = arg;
        return 0;
    case KEY_REMOVE:
        if (o->n_drop == ST_RECIPIENTS_MAX)
            return st_fail(e, ST_USAGE, "--remove: at most %d", ST_RECIPIENTS_MAX);
        return st_opt_u32("--remove", arg, 1, ST_RECIPIENTS_MAX, &o->drop[o->n_drop++], e);
    default:
        o->restart = true;
        return 0;
    }
}

static void add_policy(const char *name, const char *text, bool json, struct st_buf *b)
{
    const char *role;
    struct st_buf file = {0};
    st_buf_add_str(&file, text);
    st_buf_add_str(&file, "# Roles:");
    for (size_t i = 0; (role = st_placement_role(i)); i++)
        st_buf_addf(&file, "%s%s", i % 10 == 0 ? "\n#   " : " ", role);
    st_buf_add_str(&file, "\n");
    if (json) {
        st_buf_addf(b, "{\"policy\": \"%s\", \"text\": ", name);
        st_json_quote(b, file.p ? file.p : "", file.len);
        st_buf_add_str(b, "}\n");
    } else
        st_buf_add(b, file.p, file.len);
    st_buf_free(&file);
}

/* A preset as a file to start from; without a name what there is. */
static int show_policy(const struct st_cli *cli, const struct st_seal_cmd *o, struct st_err *e)
{
    const char *name, *text, *wanted = cli->n_args > 1 ? cli->args[1] : NULL;
    struct st_buf b = {0};
    (void)o;
    for (size_t i = 0; st_placement_preset(i, &name, &text); i++) {
        if (wanted && strcmp(wanted, name) == 0)
            add_policy(name, text, cli->json, &b);
        else if (!wanted && cli->json)
            st_buf_addf(&b, "%s\"%s\"", i ? ", " : "{\"policies\": [", name);
        else if (!wanted)
            st_buf_addf(&b, "%s\n", name);
    }
    if (!wanted && cli->json)
        st_buf_add_str(&b, "]}\n");
    int rc = b.len ? 0 : st_fail(e, ST_USAGE, "seal policy: '%.40s': want paper, adapters or all-inside", wanted);
    if (b.failed)
        rc = st_fail(e, ST_MEMORY, "no memory for the policy");
    if (!rc)
        fputs(b.p, stdout);
    st_buf_free(&b);
    return rc;
}

/* Which options a verb takes beside those of the frame. */
enum { TAKES_SEALING = 1, TAKES_CHANGE = 2, TAKES_SIGN_KEY = 4, TAKES_CHECK = 8, TAKES_DEVICE = 16, TAKES_HPKE = 32 };

static const struct verb {
    const char *name, *want;
    int min_args, max_args; /* with the verb */
    unsigned takes;
    int (*run)(const struct st_cli *cli, const struct st_seal_cmd *o, struct st_err *e);
} verbs[] = {
    {"device", "device", 1, 1, TAKES_DEVICE, st_seal_device},
    {"inspect", "inspect FILE", 2, 2, TAKES_CHECK, st_seal_inspect},
    {"key", "key FILE", 2, 2, TAKES_HPKE, st_seal_key},
    {"policy", "policy [NAME]", 1, 2, 0, show_policy},
    {"recipients", "recipients FILE", 2, 2, TAKES_CHANGE | TAKES_SIGN_KEY, st_seal_recipients},
};
static const struct verb sealing = {NULL, "SRC DST", 2, 2, TAKES_SEALING | TAKES_SIGN_KEY, st_seal_make};

/* An option that would have no effect is refused. */
static int check_options(const struct verb *v, const struct st_seal_cmd *o, struct st_err *e)
{
    bool seals = o->policy || o->attention || o->version || o->name || o->restart || (o->n_recipient && !o->added);
    bool changes = o->added || o->n_drop || o->out;
    if (seals && !(v->takes & TAKES_SEALING))
        return st_fail(
            e, ST_USAGE,
            "seal %s: --policy, --attention, --recipient, --version, --name and --restart go with `seal SRC DST`",
            v->want);
    if (changes && !(v->takes & TAKES_CHANGE))
        return st_fail(e, ST_USAGE, "seal %s: --add, --remove and --out go with `seal recipients FILE`", v->want);
    if (o->check && !(v->takes & TAKES_CHECK))
        return st_fail(e, ST_USAGE, "seal %s: --check goes with `seal inspect FILE`", v->want);
    if (o->hpke && !(v->takes & TAKES_HPKE))
        return st_fail(e, ST_USAGE, "seal %s: --hpke goes with `seal key FILE`", v->want);
    if (o->device_given && !(v->takes & TAKES_DEVICE))
        return st_fail(e, ST_USAGE,
                       "seal %s: --pcrs, --counter, --storage-key, --certify and --tpm-ak go with `seal device`",
                       v->want);
    if (o->tpm_roots && !(v->takes & (TAKES_SEALING | TAKES_CHANGE)))
        return st_fail(e, ST_USAGE, "seal %s: takes no --tpm-roots", v->want);
    if (o->sign_key && !(v->takes & TAKES_SIGN_KEY))
        return st_fail(e, ST_USAGE, "seal %s: takes no --sign-key", v->want);
    return 0;
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    const struct verb *v = &sealing;
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
        if (strcmp(cli->args[0], verbs[i].name) == 0)
            v = &verbs[i];
    if (cli->n_args < v->min_args || cli->n_args > v->max_args)
        return st_fail(e, ST_USAGE, "seal: want %s", v->want);
    int rc = check_options(v, opts, e);
    return rc ? rc : v->run(cli, opts, e);
}

const struct st_cmd st_cmd_seal = {
    .name = "seal",
    .summary = "Encrypt a model or an adapter for machines that are not yours",
    .args_doc = "SRC DST | device | inspect FILE | key FILE | policy [NAME] | recipients FILE",
    .min_args = 1,
    .max_args = 3,
    .doc = "Writes DST, one file, from SRC: a Hugging Face directory, a llama2.c file, or a directory of a PEFT "
           "adapter. What the policy puts inside is encrypted, and decrypted only in the memory of a process "
           "that runs the model; what it puts outside lies open, and a worker may compute with it on masked "
           "rows. Whoever is a recipient can run it: `passphrase` (for development), the TPM of one machine, or "
           "a public key, as of `sotto release`, which gives keys to attested enclaves (docs/sealed.md). DST is a "
           "MODEL: `sotto serve DST`. It appears when it is complete; a "
           "run that was stopped goes on when the same command is given. There is no way back: keep SRC. "
           "`device` prints what a publisher needs to seal for this machine's TPM (--recipient tpm:FILE): run it "
           "there yourself. `inspect` says what a container is and who signed it, which needs no key (-v: every "
           "tensor). `key` makes a publisher's key, which signs containers and from which their keys follow, or with "
           "--hpke a recipient's; FILE.pub is its public half (--publisher FILE.pub, --recipient hpke:FILE.pub). "
           "`policy` prints a preset. `recipients` lists who may open a container, and with --add and --remove "
           "writes another list without touching the weights; that does not revoke what an old copy gives.",
    .examples = "  sotto seal my-model my-model.sealed --passphrase-file pass\n"
                "  sotto seal policy paper > my.policy\n"
                "  sotto seal my-model my-model.sealed --policy my.policy \\\n"
                "      --passphrase-file pass\n"
                "  sotto seal device --counter new > device.json\n"
                "  sotto seal my-model my-model.sealed --recipient tpm:device.json --version 2\n"
                "  sotto seal key --hpke release.key\n"
                "  sotto seal my-model my-model.sealed --recipient hpke:release.key.pub\n"
                "  sotto seal inspect my-model.sealed --check\n"
                "  sotto seal recipients my-model.sealed\n"
                "  sotto seal recipients my-model.sealed --add passphrase --remove 1 \\\n"
                "      --passphrase-file new-pass",
    .shared = ST_CLI_JSON | ST_CLI_THREADS | ST_CLI_UNLOCK | ST_CLI_TOKENIZER,
    .options = options,
    .opts_size = sizeof(struct st_seal_cmd),
    .set = set,
    .run = run,
};
