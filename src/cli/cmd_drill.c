/* sotto drill: what a client of confidential nodes refuses, shown on a running set-up: real evidence of a real node,
 * tampered with here in one place at a time. */
#include "base/file.h"
#include "base/hooks.h"
#include "cli/cli.h"
#include "crypto/digest.h"
#include "service/conf_drill.h"
#include "service/conf_evidence.h"
#include "text/base64.h"
#include "text/json.h"

#include <string.h>

struct drill_opts {
    const char *policy, *relay, *log, *gateway, *ca_bundle;
    double timeout_s;
};

enum { KEY_POLICY = ST_KEY(0), KEY_RELAY, KEY_LOG, KEY_GATEWAY, KEY_CA_BUNDLE, KEY_TIMEOUT };

static const struct drill_opts defaults = {.timeout_s = 30};

static const struct argp_option options[] = {
    {"policy", KEY_POLICY, "FILE", 0, "What evidence is accepted, and which log is believed", 0},
    {"relay", KEY_RELAY, "URL", 0, "The relay before the gateway", 0},
    {"log", KEY_LOG, "URL", 0, "The log itself; default: through the relay", 0},
    {"gateway", KEY_GATEWAY, "NAME", 0, "The gateway's name in the directory; default: the only one", 0},
    {"ca-bundle", KEY_CA_BUNDLE, "FILE", 0, "Certificates that the other side's TLS is checked against (PEM)", 0},
    {"timeout", KEY_TIMEOUT, "SECONDS", 0, "Give up after so long; default 30", 0},
    {0},
};

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    struct drill_opts *o = opts;
    switch (key) {
    case KEY_POLICY:
        o->policy = arg;
        return 0;
    case KEY_RELAY:
        o->relay = arg;
        return 0;
    case KEY_LOG:
        o->log = arg;
        return 0;
    case KEY_GATEWAY:
        o->gateway = arg;
        return 0;
    case KEY_CA_BUNDLE:
        o->ca_bundle = arg;
        return 0;
    default:
        return st_opt_real("--timeout", arg, 1, 3600, &o->timeout_s, e);
    }
}

/* ---- one judgement ---- */

struct drill {
    struct st_policy *policy, *other; /* the user's, and the same with other measurements */
    struct st_conf_drill got;
    int64_t now;
    json_t *rows;
    bool json, wrong; /* wrong: something did not end as it should */
};

/* What a client would say of this evidence; "" when it would use it. */
static void judge(const struct drill *d, const struct st_policy *policy, const struct st_buf *evidence,
                  const uint8_t listed[32], int64_t now, char why[400])
{
    struct st_conf_evidence ev;
    struct st_verdict v;
    struct st_err e;
    why[0] = 0;
    if (st_conf_evidence_open((struct st_span){(uint8_t *)evidence->p, evidence->len}, listed,
                              (struct st_span){(uint8_t *)d->got.note.p, d->got.note.len}, policy, now, &ev, &e)) {
        snprintf(why, 400, "%.390s", e.msg);
        return;
    }
    const struct st_judge j = {
        .policy = policy, .bundle = &ev.bundle, .time = now, .nonce = {ev.nonce, 32}, .nonce_time = ev.nonce_time};
    if (st_policy_judge(&j, &v, &e))
        snprintf(why, 400, "%.390s", e.msg);
    else {
        for (size_t i = 0; i < v.found.n_check && !v.good && !why[0]; i++)
            if (!st_policy_tolerates(policy, &v.found.checks[i]))
                snprintf(why, 400, "%s: %s", v.found.checks[i].name, v.found.checks[i].detail);
        if (!v.good && !why[0])
            snprintf(why, 400, "the verdict is not good");
        st_verdict_wipe(&v);
    }
    st_bundle_free(&ev.bundle);
}

static void row(struct drill *d, const char *what, bool want_refused, const char *why)
{
    bool refused = *why != 0, right = refused == want_refused;
    d->wrong = d->wrong || !right;
    if (d->json)
        json_array_append_new(
            d->rows, json_pack("{s:s, s:b, s:b, s:s}", "what", what, "refused", refused, "right", right, "why", why));
    else
        printf("%-8s %s%s%s\n", refused ? "refused" : "accepted", what, refused ? "\n         " : "", why);
}

/* ---- tampering ---- */

/* Evidence with one thing changed by `change`, and named by the directory as it is now: the gateway and the log would
 * have to lie together. */
static int tampered(struct drill *d, const char *what, int (*change)(json_t *bundle, struct st_err *e),
                    struct st_err *e)
{
    json_t *bundle = NULL;
    struct st_buf text = {0};
    uint8_t listed[32];
    char why[400];
    int rc = st_json_parse(d->got.evidence.p, d->got.evidence.len, "evidence", &bundle, e);
    if (!rc)
        rc = change(bundle, e);
    if (!rc) {
        st_json_dump(bundle, &text);
        st_sha256(text.p ? text.p : "", text.len, listed);
        judge(d, d->policy, &text, listed, d->now, why);
        row(d, what, true, why);
    }
    json_decref(bundle);
    st_buf_free(&text);
    return rc;
}

static int flip_evidence(json_t *bundle, struct st_err *e)
{
    json_t *item = json_array_get(json_object_get(bundle, "items"), 0);
    const char *was = json_string_value(json_object_get(item, "evidence"));
    struct st_buf bytes = {0}, text = {0};
    if (!was || !st_base64_decode(was, strlen(was), &bytes) || bytes.len < 2) {
        st_buf_free(&bytes);
        return st_fail(e, ST_INPUT, "evidence: items[0]: want bytes in base64");
    }
    bytes.p[bytes.len / 2] ^= 1;
    st_base64_encode(bytes.p, bytes.len, &text);
    int rc = json_object_set_new(item, "evidence", json_string(text.p));
    st_buf_free(&bytes);
    st_buf_free(&text);
    return rc ? st_fail(e, ST_MEMORY, "no memory") : 0;
}

/* Another first hexadecimal digit. */
static int flip_digit(json_t *bundle, const char *field, struct st_err *e)
{
    json_t *binding = json_object_get(bundle, "binding");
    const char *was = json_string_value(json_object_get(binding, field));
    char digits[257];
    if (!was || !*was || strlen(was) >= sizeof digits)
        return st_fail(e, ST_INPUT, "evidence: binding: %s: want hexadecimal digits", field);
    snprintf(digits, sizeof digits, "%s", was);
    digits[0] = digits[0] == '1' ? '2' : '1';
    return json_object_set_new(binding, field, json_string(digits)) ? st_fail(e, ST_MEMORY, "no memory") : 0;
}

static int change_key(json_t *bundle, struct st_err *e)
{
    return flip_digit(bundle, "hpke_key", e);
}

static int change_receipt_key(json_t *bundle, struct st_err *e)
{
    return flip_digit(bundle, "receipt_key", e);
}

static int change_nonce(json_t *bundle, struct st_err *e)
{
    return flip_digit(bundle, "nonce", e);
}

/* The gateway gives evidence, however good, that the directory does not name. */
static void unlisted(struct drill *d)
{
    struct st_buf other = {0};
    char why[400];
    st_buf_add(&other, d->got.evidence.p, d->got.evidence.len);
    st_buf_add_str(&other, " ");
    judge(d, d->policy, &other, d->got.listed, d->now, why);
    row(d, "the gateway gives other evidence than the log's directory names", true, why);
    st_buf_free(&other);
}

/* A checkpoint with one digit changed: of what the log and its witnesses signed. */
static void forged_log(struct drill *d)
{
    struct st_buf note = {0};
    struct st_witnessed w;
    struct st_err e = {0};
    st_buf_add(&note, d->got.checkpoint.p, d->got.checkpoint.len);
    char *size = note.p ? strchr(note.p, '\n') : NULL;
    if (size && size[1])
        size[1] = size[1] == '9' ? '8' : '9';
    bool refused = st_checkpoint_open(note.p, note.len, st_policy_log(d->policy), d->now, &w, &e) != 0;
    row(d, "the log shows a tree of another size than was signed", true, refused ? e.msg : "");
    st_buf_free(&note);
}

static void run_all(struct drill *d, struct st_err *e, int *rc)
{
    static const struct {
        const char *what;
        int (*change)(json_t *bundle, struct st_err *e);
    } rows[] = {
        {"one bit of the evidence is changed", flip_evidence},
        {"the node's encryption key is exchanged", change_key},
        {"the key that signs receipts is exchanged", change_receipt_key},
        {"the evidence is of another time (its nonce)", change_nonce},
    };
    char why[400];
    judge(d, d->policy, &d->got.evidence, d->got.listed, d->now, why);
    row(d, "the node as it is", false, why);
    unlisted(d);
    for (size_t i = 0; i < sizeof rows / sizeof *rows && !*rc; i++)
        *rc = tampered(d, rows[i].what, rows[i].change, e);
    if (d->other) {
        judge(d, d->other, &d->got.evidence, d->got.listed, d->now, why);
        row(d, "the node measures otherwise than the policy allows", true, why);
    }
    if (st_policy_max_age(d->policy) >= 0) {
        judge(d, d->policy, &d->got.evidence, d->got.listed, d->now + st_policy_max_age(d->policy) + 1, why);
        row(d, "the evidence has grown older than max_age_s", true, why);
    }
    forged_log(d);
}

/* ---- policies ---- */

static int parse(const struct st_buf *text, const char *path, struct st_policy **out, struct st_err *e)
{
    int rc = st_policy_parse(text->p, text->len, path, out, e);
    if (!rc && (st_policy_signature_only(*out) || !st_policy_log(*out))) {
        st_policy_free(*out);
        *out = NULL;
        rc = st_fail(e, ST_POLICY, "%.200s: want a policy that names a log and judges more than signatures", path);
    }
    return rc;
}

/* The same policy with the last digit of every measurement changed; none when it pins none, or proves them from a log.
 */
static int other_policy(const struct st_buf *text, const char *path, struct st_policy **out, struct st_err *e)
{
    json_t *p = NULL, *list;
    const char *name;
    struct st_buf changed = {0};
    int rc = st_json_parse(text->p, text->len, path, &p, e);
    json_t *all = rc ? NULL : json_object_get(p, "measurements");
    bool any = false;
    json_object_foreach(all, name, list)
    {
        for (size_t i = 0; i < json_array_size(list); i++) {
            const char *was = json_string_value(json_array_get(list, i));
            char value[300];
            size_t n = was ? strlen(was) : 0;
            if (n == 0 || n >= sizeof value)
                continue;
            memcpy(value, was, n + 1);
            value[n - 1] = value[n - 1] == '1' ? '2' : '1';
            json_array_set_new(list, i, json_string(value));
            any = true;
        }
    }
    if (any && !json_object_get(p, "logged")) {
        st_json_dump(p, &changed);
        rc = parse(&changed, path, out, e);
    }
    json_decref(p);
    st_buf_free(&changed);
    return rc;
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    const struct drill_opts *o = opts;
    struct drill d = {.json = cli->json, .now = st_unix_time()};
    struct st_buf text = {0}, out = {0};
    if (!o->policy || !o->relay)
        return st_fail(e, ST_USAGE, "drill: want --policy FILE and --relay URL (missing: %s)",
                       o->policy ? "--relay" : "--policy");
    const struct st_conf_drill_opts fo = {
        .relay = o->relay, .log = o->log, .gateway = o->gateway, .ca_bundle = o->ca_bundle, .timeout_s = o->timeout_s};
    int rc = st_file_read(o->policy, ST_POLICY_MAX_BYTES, &text, e);
    if (!rc)
        rc = parse(&text, o->policy, &d.policy, e);
    if (!rc)
        rc = other_policy(&text, o->policy, &d.other, e);
    if (!rc)
        rc = st_conf_drill_fetch(&fo, d.policy, &d.got, e);
    d.rows = json_array();
    if (!rc)
        run_all(&d, e, &rc);
    if (!rc && d.json) {
        json_t *all = json_pack("{s:b, s:O}", "right", !d.wrong, "rows", d.rows);
        st_json_dump(all, &out);
        puts(out.p ? out.p : "{}");
        json_decref(all);
    }
    if (!rc && d.wrong)
        rc = st_fail(e, ST_VERIFY, "drill: not everything ended as it should");
    json_decref(d.rows);
    st_buf_free(&out);
    st_buf_free(&text);
    st_conf_drill_free(&d.got);
    st_policy_free(d.policy);
    st_policy_free(d.other);
    return rc;
}

const struct st_cmd st_cmd_drill = {
    .name = "drill",
    .summary = "Tamper with a running confidential set-up on purpose, and see it refused",
    .doc = "Fetches the evidence of a node through relay and gateway, as `sotto proxy --protect confidential` does, "
           "changes it here in one place at a time, and prints what a client says to each. Sends no request, pays "
           "nothing, changes nothing over there. Exit code 5 when the node itself is refused, or anything tampered "
           "with is not.",
    .examples = "  sotto drill --policy policy.json --relay http://127.0.0.1:7793",
    .shared = ST_CLI_JSON,
    .options = options,
    .opts_size = sizeof(struct drill_opts),
    .defaults = &defaults,
    .set = set,
    .run = run,
};
