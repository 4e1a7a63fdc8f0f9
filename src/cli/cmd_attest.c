/* sotto attest verify|show|receipt FILE: what evidence says, whether a policy accepts it, and whether a receipt is by a
 * key that accepted evidence certifies. No network. */
#include "attest/policy.h"
#include "base/hooks.h"
#include "cli/attest_receipt.h"
#include "cli/cli.h"
#include "crypto/digest.h"
#include "text/json.h"

#include <inttypes.h>
#include <string.h>
#include <time.h>

#define MAX_FILES 32

struct attest_opts {
    const char *policy, *checkpoint, *evidence, *request, *reply;
    const char *endorsements[MAX_FILES];
    size_t n_endorsement;
    uint8_t nonce[ST_BINDING_MAX_NONCE];
    size_t nonce_len;
    int64_t time;
    bool time_given;
};

enum {
    KEY_POLICY = ST_KEY(0),
    KEY_NONCE,
    KEY_CHECKPOINT,
    KEY_TIME,
    KEY_ENDORSEMENTS,
    KEY_EVIDENCE,
    KEY_REQUEST,
    KEY_REPLY,
};

static const struct argp_option options[] = {
    {"policy", KEY_POLICY, "FILE", 0, "verify, receipt: what is demanded of the evidence (docs/attestation.md)", 0},
    {"nonce", KEY_NONCE, "HEX", 0, "verify, receipt: the evidence must hold this nonce", 0},
    {"checkpoint", KEY_CHECKPOINT, "FILE", 0,
     "verify, receipt: the evidence must hold the digest of this checkpoint of the policy's log, whose time is its age",
     0},
    {"time", KEY_TIME, "RFC3339", 0,
     "verify, receipt: as of this time (2025-06-01T12:00:00Z) instead of now, or of the receipt's own time", 0},
    {"evidence", KEY_EVIDENCE, "FILE", 0, "receipt: the evidence of the node that signed it", 0},
    {"request", KEY_REQUEST, "FILE", 0, "receipt: the request's content, which it must be for", 0},
    {"reply", KEY_REPLY, "FILE", 0, "receipt: the reply's content, which it must be for", 0},
    {"endorsements", KEY_ENDORSEMENTS, "FILE", 0,
     "Certificates, revocation lists, vendor collateral, event logs, reference measurements; may be given often", 0},
    {0},
};

/* ---- options ---- */

static bool digits(const char **p, int n, int *out)
{
    *out = 0;
    for (; n; n--, ++*p) {
        if (**p < '0' || **p > '9')
            return false;
        *out = *out * 10 + (**p - '0');
    }
    return true;
}

/* RFC 3339, section 5.6; a fraction of a second is cut off. */
static bool parse_time(const char *s, int64_t *out)
{
    struct tm tm = {0};
    int year, month, hour = 0, minute = 0;
    if (!digits(&s, 4, &year) || *s++ != '-' || !digits(&s, 2, &month) || *s++ != '-' || !digits(&s, 2, &tm.tm_mday) ||
        (*s != 'T' && *s != 't' && *s != ' ') || (s++, !digits(&s, 2, &tm.tm_hour)) || *s++ != ':' ||
        !digits(&s, 2, &tm.tm_min) || *s++ != ':' || !digits(&s, 2, &tm.tm_sec))
        return false;
    if (month < 1 || month > 12 || tm.tm_mday < 1 || tm.tm_mday > 31 || tm.tm_hour > 23 || tm.tm_min > 59 ||
        tm.tm_sec > 60)
        return false;
    if (*s == '.')
        s += 1 + strspn(s + 1, "0123456789");
    int sign = *s == '+' ? 1 : *s == '-' ? -1 : 0;
    if (sign) {
        s++;
        if (!digits(&s, 2, &hour) || *s++ != ':' || !digits(&s, 2, &minute) || hour > 23 || minute > 59)
            return false;
    } else if (*s != 'Z' && *s != 'z')
        return false;
    else
        s++;
    tm.tm_year = year - 1900;
    tm.tm_mon = month - 1;
    *out = (int64_t)timegm(&tm) - sign * (hour * 3600 + minute * 60);
    return !*s && *out >= 0;
}

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    struct attest_opts *o = opts;
    switch (key) {
    case KEY_POLICY:
        o->policy = arg;
        return 0;
    case KEY_CHECKPOINT:
        o->checkpoint = arg;
        return 0;
    case KEY_EVIDENCE:
        o->evidence = arg;
        return 0;
    case KEY_REQUEST:
        o->request = arg;
        return 0;
    case KEY_REPLY:
        o->reply = arg;
        return 0;
    case KEY_NONCE:
        o->nonce_len = strlen(arg) / 2;
        if (o->nonce_len == 0 || o->nonce_len > sizeof o->nonce ||
            st_unhex(arg, strlen(arg), o->nonce, o->nonce_len, "--nonce", e))
            return st_fail(e, ST_USAGE, "--nonce: want 1..%zu bytes as hexadecimal digits", sizeof o->nonce);
        return 0;
    case KEY_TIME:
        o->time_given = parse_time(arg, &o->time);
        return o->time_given ? 0
                             : st_fail(e, ST_USAGE, "--time: want RFC 3339 as 2025-06-01T12:00:00Z, got '%.40s'", arg);
    default:
        if (o->n_endorsement == MAX_FILES)
            return st_fail(e, ST_USAGE, "--endorsements: at most %d files", MAX_FILES);
        o->endorsements[o->n_endorsement++] = arg;
        return 0;
    }
}

/* ---- reading ---- */

/* *readable: false when the files are there, but what they hold is no evidence or no endorsement; e says why. */
static int load(const struct attest_opts *o, const char *path, struct st_bundle *out, bool *readable, struct st_err *e)
{
    struct st_buf b = {0};
    *out = (struct st_bundle){0};
    *readable = false;
    int rc = st_file_read(path, ST_EVIDENCE_MAX_BYTES, &b, e);
    if (rc)
        return rc;
    rc = st_bundle_parse(b.p, b.len, path, out, e);
    for (size_t i = 0; i < o->n_endorsement && !rc; i++) {
        int io = st_file_read(o->endorsements[i], ST_EVIDENCE_MAX_BYTES, &b, e);
        if (io) {
            st_buf_free(&b);
            return io;
        }
        rc = st_bundle_endorse(out, b.p, b.len, o->endorsements[i], e);
    }
    st_buf_free(&b);
    *readable = rc == 0;
    return rc == ST_MEMORY || rc == ST_INTERNAL ? rc : 0;
}

static int load_policy(const char *path, struct st_policy **out, struct st_err *e)
{
    struct st_buf b = {0};
    int rc = st_file_read(path, ST_POLICY_MAX_BYTES, &b, e);
    if (!rc)
        rc = st_policy_parse(b.p, b.len, path, out, e);
    st_buf_free(&b);
    return rc;
}

/* ---- writing ---- */

static void add_time(struct st_buf *b, int64_t t)
{
    char text[32] = "";
    struct tm tm;
    time_t tt = (time_t)t;
    if (gmtime_r(&tt, &tm))
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm);
    st_buf_add_str(b, text);
}

static void add_quoted(struct st_buf *b, const char *s)
{
    st_json_quote(b, s, strlen(s));
}

/* json: as a JSON value. */
static void add_claim(struct st_buf *b, const struct st_claim *c, bool json)
{
    switch (c->type) {
    case ST_CLAIM_TEXT:
    case ST_CLAIM_HEX:
        if (json)
            add_quoted(b, c->text);
        else
            st_buf_add_str(b, c->text);
        break;
    case ST_CLAIM_BOOL:
        st_buf_add_str(b, c->number ? "true" : "false");
        break;
    case ST_CLAIM_TIME:
        st_buf_add_str(b, json ? "\"" : "");
        add_time(b, (int64_t)c->number);
        st_buf_add_str(b, json ? "\"" : "");
        break;
    default:
        st_buf_addf(b, "%" PRIu64, c->number);
    }
}

static void add_claims(struct st_buf *b, const struct st_appraisal *a, bool json)
{
    for (size_t i = 0; i < a->n_claim; i++) {
        const struct st_claim *c = &a->claims[i];
        if (json) {
            st_buf_add_str(b, i ? ", " : "");
            add_quoted(b, c->name);
            st_buf_add_str(b, ": ");
        } else
            st_buf_addf(b, "  %-28s ", c->name);
        add_claim(b, c, json);
        st_buf_add_str(b, json ? "" : "\n");
    }
}

static int print(struct st_buf *b, struct st_err *e)
{
    int rc = b->failed ? st_fail(e, ST_MEMORY, "no memory for the report") : 0;
    if (!rc)
        fputs(b->p, stdout);
    st_buf_free(b);
    return rc;
}

/* ---- verify ---- */

static const char *const results[] = {"fail", "pass", "absent"};

static const char *model_word(const struct st_verdict *v)
{
    return v->model_verified ? "verified" : v->model_stated ? "unverified" : "not stated";
}

static void verdict_json(struct st_buf *b, const struct st_verdict *v, const struct st_policy *p, int64_t time)
{
    st_buf_addf(b, "{\"verdict\": \"%s\", \"code\": \"%s\", \"model\": \"%s\", \"time\": \"", v->good ? "pass" : "fail",
                st_code_word(v->code), model_word(v));
    add_time(b, time);
    st_buf_add_str(b, "\", \"checks\": [");
    for (size_t i = 0; i < v->found.n_check; i++) {
        const struct st_check *c = &v->found.checks[i];
        st_buf_addf(b, "%s{\"name\": ", i ? ", " : "");
        add_quoted(b, c->name);
        st_buf_addf(b, ", \"result\": \"%s\", \"required\": %s, \"detail\": ", results[c->result],
                    c->result != ST_CHECK_PASS && st_policy_tolerates(p, c) ? "false" : "true");
        add_quoted(b, c->detail);
        st_buf_add_str(b, "}");
    }
    st_buf_add_str(b, "], \"claims\": {");
    add_claims(b, &v->found, true);
    st_buf_add_str(b, "}}\n");
}

static void verdict_text(struct st_buf *b, const struct st_verdict *v, const struct st_policy *p, int64_t time)
{
    for (size_t i = 0; i < v->found.n_check; i++) {
        const struct st_check *c = &v->found.checks[i];
        bool spared = c->result != ST_CHECK_PASS && st_policy_tolerates(p, c);
        st_buf_addf(b, "%-6s  %-28s %s%s\n", c->result == ST_CHECK_FAIL && !spared ? "FAIL" : results[c->result],
                    c->name, c->detail, spared ? " (the policy does without)" : "");
    }
    st_buf_add_str(b, "time:    ");
    add_time(b, time);
    st_buf_addf(b, "\nmodel:   %s\nverdict: %s\n", model_word(v), v->good ? "pass" : "fail");
}

static int print_verdict(const struct st_cli *cli, const struct st_verdict *v, const struct st_policy *p, int64_t time,
                         struct st_err *e)
{
    struct st_buf b = {0};
    (cli->json ? verdict_json : verdict_text)(&b, v, p, time);
    return print(&b, e);
}

/* The line on standard error: the first check that counts. */
static int refuse(const struct st_verdict *v, const struct st_policy *p, const char *path, struct st_err *e)
{
    for (size_t i = 0; i < v->found.n_check; i++) {
        const struct st_check *c = &v->found.checks[i];
        if (!st_policy_tolerates(p, c) && (v->code != ST_VERIFY || c->area != ST_AREA_POLICY))
            return st_fail(e, v->code, "%s: %s: %s", path, c->name, c->detail);
    }
    return st_fail(e, ST_VERIFY, "%s: nothing in it was verified", path);
}

/* The nonce that the evidence must hold, and since when it is known. */
static int set_nonce(const struct attest_opts *o, const struct st_policy *p, struct st_judge *j, struct st_witnessed *w,
                     struct st_err *e)
{
    struct st_buf note = {0};
    if (!o->checkpoint) {
        j->nonce = (struct st_span){o->nonce, o->nonce_len};
        j->nonce_time = o->nonce_len ? j->time : 0; /* whoever gives a nonce has just made it */
        return 0;
    }
    if (o->nonce_len)
        return st_fail(e, ST_USAGE, "attest: want --nonce or --checkpoint, not both");
    if (!st_policy_log(p))
        return st_fail(e, ST_USAGE, "--checkpoint: the policy names no log");
    int rc = st_file_read(o->checkpoint, ST_NOTE_MAX_BYTES, &note, e);
    if (!rc && st_checkpoint_open(note.p, note.len, st_policy_log(p), st_unix_time(), w, e))
        rc = st_err_prefix(e, "%s", o->checkpoint);
    w->checkpoint.extensions = (struct st_span){0}; /* it pointed into the note */
    j->nonce = (struct st_span){w->digest, sizeof w->digest};
    j->nonce_time = w->time;
    st_buf_free(&note);
    return rc;
}

static int judge(const struct attest_opts *o, const struct st_policy *p, const struct st_bundle *b, int64_t now,
                 struct st_verdict *v, struct st_err *e)
{
    struct st_judge j = {.policy = p, .bundle = b, .time = now};
    struct st_witnessed w = {0};
    return set_nonce(o, p, &j, &w, e) ? e->code : st_policy_judge(&j, v, e);
}

/* receipt: NULL = the evidence alone. */
static int verify(const struct st_cli *cli, const struct attest_opts *o, const char *path,
                  const struct st_saved_receipt *receipt, struct st_err *e)
{
    struct st_policy *p = NULL;
    struct st_bundle b = {0};
    struct st_verdict v = {.code = ST_VERIFY};
    bool readable = false;
    int64_t now = o->time_given ? o->time : receipt ? receipt->says.time : st_unix_time();
    if (!o->policy)
        return st_fail(e, ST_USAGE, "attest %s: want --policy FILE: evidence alone says nothing about what you accept",
                       cli->args[0]);
    int rc = load_policy(o->policy, &p, e);
    if (!rc)
        rc = load(o, path, &b, &readable, e);
    if (!rc && !readable)
        st_appraisal_check(&v.found, "evidence.format", "%s", e->msg);
    else if (!rc)
        rc = judge(o, p, &b, now, &v, e);
    if (!rc && readable && receipt)
        rc = st_saved_receipt_judge(receipt, &b, o->request, o->reply, &v, e);
    if (!rc)
        rc = print_verdict(cli, &v, p, now, e);
    if (!rc && !readable)
        rc = st_fail(e, ST_VERIFY, "%s", v.found.checks[0].detail);
    else if (!rc && !v.good)
        rc = refuse(&v, p, path, e);
    st_verdict_wipe(&v);
    st_bundle_free(&b);
    st_policy_free(p);
    return rc;
}

static int verify_receipt(const struct st_cli *cli, const struct attest_opts *o, const char *path, struct st_err *e)
{
    struct st_saved_receipt r;
    if (!o->evidence)
        return st_fail(e, ST_USAGE, "attest receipt: want --evidence FILE: a receipt means nothing without its key's");
    return st_saved_receipt_read(path, &r, e) ? e->code : verify(cli, o, o->evidence, &r, e);
}

/* ---- show ---- */

static void show_binding(struct st_buf *b, const struct st_binding *k, bool json)
{
    const struct {
        const char *name;
        const uint8_t *p;
        size_t len;
    } fields[] = {{"hpke_key", k->hpke_key, k->hpke_key_len},
                  {"receipt_key", k->receipt_key, sizeof k->receipt_key},
                  {"nonce", k->nonce, k->nonce_len},
                  {"engine", k->engine, k->has_engine ? sizeof k->engine : 0},
                  {"model", k->model, k->has_model ? sizeof k->model : 0}};
    st_buf_addf(b, json ? ", \"binding\": {\"suite\": \"%04x-%04x-%04x\"" : "binding, suite %04x-%04x-%04x\n",
                k->suite.kem, k->suite.kdf, k->suite.aead);
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        char hex[2 * ST_HPKE_PUBLIC_MAX + 1];
        if (!fields[i].len)
            continue;
        st_hex(fields[i].p, fields[i].len, hex);
        st_buf_addf(b, json ? ", \"%s\": \"%s\"" : "  %-28s %s\n", fields[i].name, hex);
    }
    st_buf_add_str(b, json ? "}" : "");
}

static void show_item(struct st_buf *b, const struct st_evidence *ev, const struct st_appraisal *a, bool json)
{
    st_buf_addf(b, json ? "{\"kind\": \"%s\", \"bytes\": %zu, \"endorsements\": [" : "%s, %zu bytes\n", ev->kind,
                ev->data.len);
    for (size_t i = 0; i < ev->n_endorsement; i++)
        if (json)
            st_buf_addf(b, "%s{\"type\": \"%s\", \"bytes\": %zu}", i ? ", " : "",
                        st_endorsement_name(ev->endorsements[i].type), ev->endorsements[i].data.len);
        else
            st_buf_addf(b, "  endorsement                  %s, %zu bytes\n",
                        st_endorsement_name(ev->endorsements[i].type), ev->endorsements[i].data.len);
    st_buf_add_str(b, json ? "], \"claims\": {" : "");
    add_claims(b, a, json);
    st_buf_add_str(b, json ? "}}" : "");
}

static int show(const struct st_cli *cli, const struct attest_opts *o, const char *path, struct st_err *e)
{
    struct st_bundle u = {0};
    struct st_buf b = {0};
    const struct st_verify_env env = {.time = st_unix_time()};
    bool readable;
    int rc = load(o, path, &u, &readable, e);
    if (!rc && !readable)
        rc = e->code;
    st_buf_add_str(&b,
                   cli->json ? "{\"verified\": false, \"items\": [" : "what it says; nothing of it is verified here\n");
    for (size_t i = 0; i < u.n_item && !rc; i++) {
        struct st_appraisal a = {0};
        rc = st_verifier_find(u.items[i].kind)->verify(&u.items[i], &env, &a, e);
        st_buf_add_str(&b, cli->json && i ? ", " : "");
        if (!rc)
            show_item(&b, &u.items[i], &a, cli->json);
        else
            st_err_prefix(e, "%s", path);
        st_appraisal_wipe(&a);
    }
    st_buf_add_str(&b, cli->json ? "]" : "");
    if (u.has_binding)
        show_binding(&b, &u.binding, cli->json);
    st_buf_add_str(&b, cli->json ? "}\n" : "");
    if (!rc)
        rc = print(&b, e);
    st_buf_free(&b);
    st_bundle_free(&u);
    return rc;
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    const struct attest_opts *o = opts;
    const char *verb = cli->args[0], *path = cli->args[1];
    if (strcmp(verb, "receipt") == 0)
        return verify_receipt(cli, o, path, e);
    if (o->evidence || o->request || o->reply)
        return st_fail(e, ST_USAGE, "attest %.40s: --evidence, --request and --reply go with `receipt`", verb);
    if (strcmp(verb, "verify") == 0)
        return verify(cli, o, path, NULL, e);
    if (strcmp(verb, "show") != 0)
        return st_fail(e, ST_USAGE, "attest: want `verify FILE`, `show FILE` or `receipt FILE`, got '%.40s'", verb);
    if (o->policy || o->nonce_len || o->checkpoint || o->time_given)
        return st_fail(e, ST_USAGE,
                       "attest show: verifies nothing; --policy, --nonce, --checkpoint and --time go with `verify`");
    return show(cli, o, path, e);
}

const struct st_cmd st_cmd_attest = {
    .name = "attest",
    .summary = "Verify evidence of confidential computing and receipts, or show what it says",
    .args_doc = "verify|show|receipt FILE",
    .min_args = 2,
    .max_args = 2,
    .doc =
        "FILE is a bundle of evidence (JSON) or one raw item, recognised by content: an Intel TDX or SGX quote, an AMD "
        "SEV-SNP report, a TPM 2.0 quote, an NVIDIA Hopper report; as bytes, hexadecimal digits or PEM. `verify` "
        "checks "
        "it against the vendors' roots, which are built in, and against your policy, and lists every check with its "
        "value; exit status 0 when the policy accepts it, 5 when the evidence does not verify, 6 when it verifies but "
        "the policy refuses. `show` prints what the evidence says. `receipt` takes a receipt that `sotto proxy "
        "--receipts` "
        "has kept, and the evidence beside it, judges that as of the receipt's time, and checks that a key of the "
        "evidence "
        "signed that this node gave this reply to this request. None of them uses the network.",
    .examples = "  sotto attest show quote.bin\n"
                "  sotto attest verify quote.bin --policy policy.json --endorsements collateral.json\n"
                "  sotto attest verify node.json --policy policy.json --nonce 00ff... --json\n"
                "  sotto attest receipt R/17.receipt --evidence R/ab12.bundle --policy policy.json \\\n"
                "      --request R/17.request --reply R/17.reply",
    .shared = ST_CLI_JSON,
    .options = options,
    .opts_size = sizeof(struct attest_opts),
    .set = set,
    .run = run,
};
