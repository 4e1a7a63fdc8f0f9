#include "cli/attested.h"
#include "cli/key_open.h"
#include "model/kit.h"
#include "net/address.h"
#include "service/host.h"

#include <string.h>

/* Proofs are bound to TLS connections. */
static int want_tls(const struct st_cli_masked *o, const char *option, struct st_err *e)
{
    for (int i = 0; i < o->n_worker; i++) {
        struct st_address a;
        if (st_address_parse(o->workers[i], ST_WORKER_PORT, &a, e))
            return e->code;
        if (a.kind != ST_ADDRESS_TLS)
            return st_fail(e, ST_USAGE,
                           "%s: worker %s: what is proved is bound to a TLS connection: want tls://HOST:PORT", option,
                           o->workers[i]);
    }
    return 0;
}

int st_attested_check(const struct st_cli *cli, bool sealed, struct st_err *e)
{
    const struct st_cli_masked *o = &cli->masked;
    const struct st_cli_evidence *ev = &cli->sealed.evidence;
    const char *private = o->private_weights ? "--private-weights" : o->preparer ? "--preparer" : NULL;
    if (sealed && private)
        return st_fail(e, ST_USAGE, "%s: is for a kit; what leaves of a sealed model lies open in its file", private);
    if (o->private_weights && o->record)
        return st_fail(e, ST_USAGE,
                       "--record: holds products from which the weights follow; not with --private-weights");
    if (o->private_weights && !ev->n_kind)
        return st_fail(e, ST_USAGE, "--private-weights: want --evidence KINDS, which prove what this side runs");
    if (o->private_weights && st_evidence_has(ev, "sim") && !ev->collect.sim_key)
        return st_fail(e, ST_USAGE, "--evidence sim wants --sim-key FILE");
    if (!o->preparer != !o->preparer_policy)
        return st_fail(e, ST_USAGE, "--preparer and --preparer-policy belong together");
    if (o->preparer && o->scheme && strcmp(o->scheme, "remo") == 0)
        return st_fail(e, ST_USAGE, "--preparer: belongs to --scheme lwe and otp, got remo");
    if ((o->private_weights && want_tls(o, "--private-weights", e)) ||
        (o->worker_policy && want_tls(o, "--worker-policy", e)))
        return e->code;
    return 0;
}

int st_attested_open(const struct st_cli *cli, const char *path, struct st_attested *out, struct st_err *e)
{
    const struct st_cli_masked *o = &cli->masked;
    const struct st_cli_evidence *ev = &cli->sealed.evidence;
    struct st_collect_opts collect = ev->collect;
    *out = (struct st_attested){0};
    if ((o->private_weights || o->preparer) && !st_kit_is(path))
        return st_fail(e, ST_USAGE, "%s: has the weights; --%s is for a kit (sotto-worker prepare --kit)", path,
                       o->private_weights ? "private-weights" : "preparer");
    collect.tcti = st_key_tcti(cli);
    /* Hints and products come in, masks and secrets go to a preparer: nobody else reads this memory. */
    if ((o->private_weights || o->preparer) && st_host_harden(e))
        return e->code;
    if (o->private_weights && st_kit_measure(path, out->kit, e))
        return e->code;
    if ((o->worker_policy &&
         st_proof_policy(o->worker_policy, "this side's rows and evidence", &out->worker_policy, e)) ||
        (o->preparer_policy &&
         st_proof_policy(o->preparer_policy, "the secrets of pads and checks", &out->preparer_policy, e)) ||
        (o->private_weights && st_collection_open(ev->kinds, ev->n_kind, &collect, &out->collection, e))) {
        st_attested_close(out);
        return e->code;
    }
    return 0;
}

int st_attested_prepare(struct st_attested *a, const struct st_cli *cli, const uint8_t digest[32],
                        const struct st_plan *plan, struct st_err *e)
{
    const struct st_cli_masked *o = &cli->masked;
    const struct st_preparer_opts po = {.address = o->preparer,
                                        .tls_ca = o->worker_ca,
                                        .digest = digest,
                                        .plan = plan,
                                        .proof = {a->preparer_policy, a->collection, a->kit},
                                        .timeout_s = o->timeout_s};
    return o->preparer ? st_preparer_client_new(&po, &a->preparer, e) : 0;
}

void st_attested_close(struct st_attested *a)
{
    if (a->preparer)
        st_preparer_client_free(a->preparer);
    if (a->collection)
        st_collection_close(a->collection);
    st_policy_free(a->worker_policy);
    st_policy_free(a->preparer_policy);
    *a = (struct st_attested){0};
}
