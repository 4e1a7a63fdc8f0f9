/* sotto release: gives keys of sealed containers to attested enclaves (service/release.h). */
#include "cli/role.h"
#include "cli/sign_key.h"
#include "service/release.h"

#include <string.h>

struct release_opts {
    struct st_release_opts o;
    const char *sign_key;
    const char *containers[ST_RELEASE_MAX_CONTAINERS];
    struct st_release_minimum minima[ST_RELEASE_MAX_MINIMA];
};

enum { KEY_POLICY = ST_KEY(0), KEY_HPKE_KEY, KEY_SIGN_KEY, KEY_CONTAINER, KEY_MIN_VERSION, KEY_CHALLENGE_AGE };

static const struct argp_option options[] = {
    {"policy", KEY_POLICY, "FILE", 0, "What evidence an enclave must give (docs/attestation.md)", 0},
    {"container", KEY_CONTAINER, "FILE", 0, "A container whose key may be given; may be repeated, others are refused",
     0},
    {"hpke-key", KEY_HPKE_KEY, "FILE", 0, "Private key that containers are sealed for (`sotto seal key --hpke`)", 0},
    {"sign-key", KEY_SIGN_KEY, "FILE", 0, "Or the publisher's key, from which the keys of all its containers follow",
     0},
    {"min-version", KEY_MIN_VERSION, "[NAME=]N", 0,
     "Refuse versions below N: of containers of that name or id, or of all; may be repeated", 0},
    {"challenge-age", KEY_CHALLENGE_AGE, "SECONDS", 0, "A challenge is answered within; default 60", 0},
    {0},
};

static int set_minimum(struct release_opts *o, char *arg, struct st_err *e)
{
    char *number = strrchr(arg, '=');
    int64_t v = 0;
    if (o->o.n_minimum == ST_RELEASE_MAX_MINIMA)
        return st_fail(e, ST_USAGE, "--min-version: at most %d", ST_RELEASE_MAX_MINIMA);
    if (st_opt_int("--min-version", number ? number + 1 : arg, 1, INT64_MAX, &v, e))
        return e->code;
    if (number)
        *number = 0;
    o->minima[o->o.n_minimum++] = (struct st_release_minimum){number ? arg : NULL, (uint64_t)v};
    return 0;
}

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    struct release_opts *o = opts;
    switch (key) {
    case KEY_POLICY:
        o->o.policy = arg;
        return 0;
    case KEY_HPKE_KEY:
        o->o.hpke_key = arg;
        return 0;
    case KEY_SIGN_KEY:
        o->sign_key = arg;
        return 0;
    case KEY_CONTAINER:
        if (o->o.n_container == ST_RELEASE_MAX_CONTAINERS)
            return st_fail(e, ST_USAGE, "--container: at most %d", ST_RELEASE_MAX_CONTAINERS);
        o->containers[o->o.n_container++] = arg;
        return 0;
    case KEY_MIN_VERSION:
        return set_minimum(o, arg, e);
    default:
        return st_opt_real("--challenge-age", arg, 0.1, 3600, &o->o.nonce_s, e);
    }
}

static void announce(const struct st_cli *cli, const struct release_opts *o, const struct st_role *role)
{
    struct st_buf what = {0}, json = {0};
    st_buf_addf(&what, "%zu container%s, evidence as %s demands", o->o.n_container, o->o.n_container == 1 ? "" : "s",
                o->o.policy);
    st_buf_addf(&json, ",\"containers\":%zu", o->o.n_container);
    const char *const lines[] = {
        what.failed ? "" : what.p,
        o->sign_key ? "holds: the publisher's key: whoever takes this process over has all of its containers"
                    : "holds: a recipient's key: whoever takes this process over has the containers sealed for it",
        cli->listen.tls_cert ? "TLS: who listens sees sizes and times"
                             : "no TLS: who listens sees which container, and what the evidence says; never a key",
        NULL};
    st_role_announce(cli, role, lines, json.failed ? NULL : json.p);
    st_buf_free(&what);
    st_buf_free(&json);
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    struct release_opts *o = opts;
    struct st_secret seed = {0};
    struct st_release *r = NULL;
    if (!o->o.policy || !o->o.n_container || !o->o.hpke_key == !o->sign_key)
        return st_fail(e, ST_USAGE, "release: want --policy FILE, --container FILE, and --hpke-key or --sign-key FILE");
    st_secret_process();
    if (o->sign_key && st_sign_key_seed(o->sign_key, &seed, e))
        return e->code;
    o->o.seed = o->sign_key ? &seed : NULL;
    o->o.containers = o->containers;
    o->o.minima = o->minima;
    st_role_cli(cli, 7797, &o->o.listen);
    int rc = st_release_new(&o->o, &r, e);
    if (!rc) {
        announce(cli, o, st_release_role(r));
        rc = st_role_run(st_release_role(r), e);
    }
    st_release_free(r);
    st_secret_wipe(&seed);
    return rc;
}

const struct st_cmd st_cmd_release = {
    .name = "release",
    .summary = "Give the keys of sealed models to attested enclaves",
    .doc =
        "Runs where the owner of the weights trusts the machine. `sotto serve F.sealed --release URL --evidence KINDS` "
        "asks it for the content key: it gives a challenge, judges the evidence that comes back by the policy, and "
        "answers sealed to the key that this evidence names, so that nobody between them reads it. It gives keys of "
        "the containers of --container only, in those very versions, and none below --min-version: that is what "
        "keeps an older version from being run again. Nothing is written; refusals are explained in the log, and to "
        "nobody who asks. Who asks needs no account: the evidence is what counts. A key that was given cannot be "
        "taken back.",
    .examples = "  sotto seal key --hpke release.key\n"
                "  sotto seal my-model my-model.sealed --recipient hpke:release.key.pub\n"
                "  sotto release --hpke-key release.key --policy policy.json \\\n"
                "      --container my-model.sealed --min-version 3 --host 0.0.0.0\n"
                "  sotto serve my-model.sealed --evidence snp \\\n"
                "      --release https://keys.example:7797",
    .shared = ST_CLI_PORT | ST_CLI_JSON,
    .options = options,
    .opts_size = sizeof(struct release_opts),
    .set = set,
    .run = run,
};
