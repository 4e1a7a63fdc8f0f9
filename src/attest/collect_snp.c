/* AMD SEV-SNP: reports from configfs-tsm, with the certificates that the host hands over. What it hands over may be
 * anything: what is neither certificate nor revocation list is left out, and who verifies judges the rest. */
#include "attest/bundle.h"
#include "attest/collect_tsm.h"

#include <stdlib.h>
#include <string.h>

static const char provider[] = "sev_guest";

static int snp_open(const struct st_collect_opts *o, void **h, struct st_err *e)
{
    const char *dir = o->tsm ? o->tsm : ST_TSM_DIR;
    if (st_tsm_probe(dir, provider, e))
        return st_err_prefix(e, "snp");
    *h = strdup(dir);
    return *h ? 0 : st_fail(e, ST_MEMORY, "snp: no memory");
}

struct sink {
    st_endorse_fn *endorse;
    void *ctx;
};

static int pass_on(void *ctx, const uint8_t *cert, size_t n, struct st_err *e)
{
    const struct sink *s = ctx;
    const unsigned types = st_endorsement_recognise(cert, n);
    if (types & 1u << ST_ENDORSEMENT_CERTS)
        return s->endorse(s->ctx, ST_ENDORSEMENT_CERTS, cert, n, e);
    if (types & 1u << ST_ENDORSEMENT_CRL)
        return s->endorse(s->ctx, ST_ENDORSEMENT_CRL, cert, n, e);
    return 0;
}

static int snp_collect(void *h, const uint8_t *data, size_t len, struct st_buf *evidence, st_endorse_fn *endorse,
                       void *ctx, struct st_err *e)
{
    struct st_buf table = {0};
    struct sink s = {endorse, ctx};
    int rc = st_tsm_report(h, provider, data, len, evidence, &table, e);
    if (rc)
        st_err_prefix(e, "snp");
    if (!rc)
        rc = st_snp_cert_table((const uint8_t *)table.p, table.len, pass_on, &s, e);
    st_buf_free(&table);
    return rc;
}

static void snp_needs(const void *h, struct st_collect_needs *out)
{
    st_collect_needs_write(out, h);
}

const struct st_collector st_collector_snp = {.kind = "snp",
                                              .endorsements = 1u << ST_ENDORSEMENT_CERTS | 1u << ST_ENDORSEMENT_CRL,
                                              .open = snp_open,
                                              .collect = snp_collect,
                                              .needs = snp_needs,
                                              .close = free};
