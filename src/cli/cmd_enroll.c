/* sotto enroll: certificates for the attestation keys of one's own machines (attest/enroll.h). No network. */
#include "attest/enroll.h"
#include "base/hooks.h"
#include "cli/cli.h"
#include "crypto/digest.h"
#include "text/json.h"

#include <stdlib.h>
#include <string.h>

struct enroll_opts {
    const char *ca, *tcti, *ak, *roots;
    uint8_t ek[32];
    bool ek_given;
    uint32_t days;
};

static const struct enroll_opts defaults = {.days = 365};

enum { KEY_CA = ST_KEY(0), KEY_TCTI, KEY_AK, KEY_EK, KEY_EK_ROOTS, KEY_DAYS };

static const struct argp_option options[] = {
    {"ca", KEY_CA, "DIR", 0,
     "here, grant: directory of the certificate authority, made when it is not there: ca.pem goes into policies, "
     "ca.key "
     "stays secret",
     0},
    {"tcti", KEY_TCTI, "NAME:CONF", 0, "here, request, accept: how to reach the TPM (device:/dev/tpmrm0)", 0},
    {"tpm-ak", KEY_AK, "HANDLE", 0,
     "here, request, accept: a persistent attestation key, as 0x81000003, instead of the one that sotto-node makes", 0},
    {"ek", KEY_EK, "HEX", 0, "grant: the endorsement key with this digest (`request` prints it) is believed", 0},
    {"ek-roots", KEY_EK_ROOTS, "FILE", 0, "grant: endorsement keys certified below these certificates are believed", 0},
    {"days", KEY_DAYS, "N", 0, "here, grant: the certificate is good for so long (365)", 0},
    {0},
};

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    struct enroll_opts *o = opts;
    switch (key) {
    case KEY_CA:
        o->ca = arg;
        return 0;
    case KEY_TCTI:
        o->tcti = arg;
        return 0;
    case KEY_AK:
        o->ak = arg;
        return 0;
    case KEY_EK_ROOTS:
        o->roots = arg;
        return 0;
    case KEY_EK:
        o->ek_given = true;
        return st_unhex(arg, strlen(arg), o->ek, sizeof o->ek, "--ek", e)
                   ? st_fail(e, ST_USAGE, "--ek: want 64 hexadecimal digits")
                   : 0;
    default:
        return st_opt_u32("--days", arg, 1, 3650, &o->days, e);
    }
}

/* The files come from elsewhere: an error in one names it. */
static int read_message(const char *path, struct st_buf *out, struct st_err *e)
{
    return st_file_read(path, ST_ENROLL_MAX, out, e);
}

static int report(const struct st_cli *cli, const char *file, const uint8_t *ek, const char *ca, struct st_err *e)
{
    struct st_buf b = {0};
    char hex[65] = "";
    if (ek)
        st_hex(ek, 32, hex);
    if (cli->json) {
        st_buf_add_str(&b, "{\"file\": ");
        st_json_quote(&b, file, strlen(file));
        if (ek)
            st_buf_addf(&b, ", \"ek\": \"%s\"", hex);
        if (ca) {
            st_buf_add_str(&b, ", \"ca\": ");
            st_json_quote(&b, ca, strlen(ca));
        }
        st_buf_add_str(&b, "}\n");
    } else {
        st_buf_addf(&b, "wrote:           %s\n", file);
        if (ek)
            st_buf_addf(&b, "endorsement key: %s\n", hex);
        if (ca)
            st_buf_addf(&b, "for policies:    %s (\"roots\": {\"tpm\": ...})\n", ca);
    }
    int rc = b.failed ? st_fail(e, ST_MEMORY, "no memory for the report") : 0;
    if (!rc)
        fputs(b.p, stdout);
    st_buf_free(&b);
    return rc;
}

static int request(const struct st_cli *cli, const struct enroll_opts *o, const char *file, struct st_err *e)
{
    struct st_tpm_device *d = NULL;
    struct st_buf text = {0};
    uint8_t ek[32];
    int rc = st_tpm_device_open(o->tcti, o->ak, &d, e);
    if (!rc)
        rc = st_enroll_request(d, &text, e);
    if (!rc)
        rc = st_enroll_ek_digest(text.p, text.len, ek, e);
    if (!rc)
        rc = st_file_write(file, text.p, text.len, 0644, true, e);
    st_tpm_device_close(d);
    st_buf_free(&text);
    return rc ? rc : report(cli, file, ek, NULL, e);
}

static int grant(const struct st_cli *cli, const struct enroll_opts *o, const char *in, const char *out,
                 struct st_err *e)
{
    struct st_enroll_ca ca = {0};
    struct st_buf text = {0}, roots = {0}, granted = {0};
    char cert[ST_PATH_MAX];
    int rc = read_message(in, &text, e);
    if (!rc && o->roots)
        rc = st_file_read(o->roots, (size_t)1 << 20, &roots, e);
    if (!rc)
        rc = st_path_join(cert, sizeof cert, o->ca, "ca.pem", e);
    if (!rc)
        rc = st_enroll_ca_open(o->ca, true, &ca, e);
    const struct st_enroll_trust t = {.roots = {(const uint8_t *)roots.p, roots.len},
                                      .digest = o->ek_given ? o->ek : NULL};
    if (!rc && st_enroll_grant(&ca, text.p, text.len, &t, st_unix_time(), o->days, &granted, e))
        rc = st_err_prefix(e, "%s", in);
    if (!rc)
        rc = st_file_write(out, granted.p, granted.len, 0644, true, e);
    st_enroll_ca_free(&ca);
    st_buf_free(&text);
    st_buf_free(&roots);
    st_buf_free(&granted);
    return rc ? rc : report(cli, out, NULL, cert, e);
}

static int accept_grant(const struct st_cli *cli, const struct enroll_opts *o, const char *in, const char *out,
                        struct st_err *e)
{
    struct st_tpm_device *d = NULL;
    struct st_buf text = {0}, pem = {0};
    int rc = read_message(in, &text, e);
    if (!rc)
        rc = st_tpm_device_open(o->tcti, o->ak, &d, e);
    if (!rc && st_enroll_accept(d, text.p, text.len, &pem, e))
        rc = st_err_prefix(e, "%s", in);
    if (!rc)
        rc = st_file_write(out, pem.p, pem.len, 0644, true, e);
    st_tpm_device_close(d);
    st_buf_free(&text);
    st_buf_free(&pem);
    return rc ? rc : report(cli, out, NULL, NULL, e);
}

/* All three steps with this machine's TPM, which is believed because it is this machine's. */
static int here(const struct st_cli *cli, const struct enroll_opts *o, const char *out, struct st_err *e)
{
    struct st_tpm_device *d = NULL;
    struct st_enroll_ca ca = {0};
    struct st_buf asked = {0}, granted = {0}, pem = {0};
    uint8_t ek[32];
    const struct st_enroll_trust t = {.digest = ek};
    char cert[ST_PATH_MAX];
    int rc = st_path_join(cert, sizeof cert, o->ca, "ca.pem", e);
    if (!rc)
        rc = st_tpm_device_open(o->tcti, o->ak, &d, e);
    if (!rc)
        rc = st_enroll_ca_open(o->ca, true, &ca, e);
    if (!rc)
        rc = st_enroll_request(d, &asked, e);
    if (!rc)
        rc = st_enroll_ek_digest(asked.p, asked.len, ek, e);
    if (!rc)
        rc = st_enroll_grant(&ca, asked.p, asked.len, &t, st_unix_time(), o->days, &granted, e);
    if (!rc)
        rc = st_enroll_accept(d, granted.p, granted.len, &pem, e);
    if (!rc)
        rc = st_file_write(out, pem.p, pem.len, 0644, true, e);
    st_tpm_device_close(d);
    st_enroll_ca_free(&ca);
    st_buf_free(&asked);
    st_buf_free(&granted);
    st_buf_free(&pem);
    return rc ? rc : report(cli, out, ek, cert, e);
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    static const struct {
        const char *verb;
        int files;
        bool ca;
    } verbs[] = {{"here", 1, true}, {"request", 1, false}, {"grant", 2, true}, {"accept", 2, false}};
    const struct enroll_opts *o = opts;
    const char *verb = cli->args[0], *a = cli->args[1], *b = cli->n_args > 2 ? cli->args[2] : NULL;
    size_t i = 0;
    /* tpm2-tss writes to standard error by itself; the one line of an error is ours. */
    setenv("TSS2_LOG", "all+NONE", 0);
    while (i < sizeof verbs / sizeof *verbs && strcmp(verb, verbs[i].verb) != 0)
        i++;
    if (i == sizeof verbs / sizeof *verbs || cli->n_args - 1 != verbs[i].files)
        return st_fail(e, ST_USAGE,
                       "enroll: want `here CERT`, `request REQUEST`, `grant REQUEST GRANT` or `accept GRANT "
                       "CERT`");
    if (verbs[i].ca != (o->ca != NULL))
        return st_fail(e, ST_USAGE,
                       verbs[i].ca ? "enroll %s: want --ca DIR"
                                   : "enroll %s: --ca goes with `here` and "
                                     "`grant`",
                       verb);
    if ((o->ek_given || o->roots) && strcmp(verb, "grant") != 0)
        return st_fail(e, ST_USAGE, "enroll %s: --ek and --ek-roots go with `grant`", verb);
    switch (i) {
    case 0:
        return here(cli, o, a, e);
    case 1:
        return request(cli, o, a, e);
    case 2:
        return grant(cli, o, a, b, e);
    default:
        return accept_grant(cli, o, a, b, e);
    }
}

const struct st_cmd st_cmd_enroll = {
    .name = "enroll",
    .summary = "Certify the attestation key of a TPM in a machine of your own",
    .args_doc = "here|request|grant|accept FILE [FILE]",
    .min_args = 2,
    .max_args = 3,
    .doc =
        "Evidence of a TPM counts when its attestation key is certified below a root that the policy names. Clouds "
        "certify theirs; for your own machines you do, with an authority of your own. `here CERT` does all of it for "
        "the TPM of this machine. Across two machines: `request FILE` where the TPM is, `grant REQUEST FILE` where "
        "the authority's key is, `accept GRANT CERT` where the TPM is. A grant can be opened by the TPM with that "
        "endorsement key only, and only while it holds that attestation key. Before you grant, say which "
        "endorsement keys you believe: one by its digest (--ek), or all that their makers certified (--ek-roots). "
        "sotto-node takes the certificate by --tpm-certs.",
    .examples = "  sotto enroll here ak.pem --ca ~/ca\n"
                "  sotto enroll request node1.request\n"
                "  sotto enroll grant node1.request node1.grant --ca ~/ca --ek 00ff...\n"
                "  sotto enroll accept node1.grant ak.pem",
    .shared = ST_CLI_JSON,
    .options = options,
    .opts_size = sizeof(struct enroll_opts),
    .defaults = &defaults,
    .set = set,
    .run = run,
};
