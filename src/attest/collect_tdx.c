/* Intel TDX: quotes from configfs-tsm. Collateral is not the machine's: it comes with the directory of endorsements. */
#include "attest/collect_tsm.h"

#include <stdlib.h>
#include <string.h>

static const char provider[] = "tdx_guest";

static int tdx_open(const struct st_collect_opts *o, void **h, struct st_err *e)
{
    const char *dir = o->tsm ? o->tsm : ST_TSM_DIR;
    if (st_tsm_probe(dir, provider, e))
        return st_err_prefix(e, "tdx");
    *h = strdup(dir);
    return *h ? 0 : st_fail(e, ST_MEMORY, "tdx: no memory");
}

static int tdx_collect(void *h, const uint8_t *data, size_t len, struct st_buf *evidence, st_endorse_fn *endorse,
                       void *ctx, struct st_err *e)
{
    (void)endorse;
    (void)ctx;
    return st_tsm_report(h, provider, data, len, evidence, NULL, e) ? st_err_prefix(e, "tdx") : 0;
}

static void tdx_needs(const void *h, struct st_collect_needs *out)
{
    st_collect_needs_write(out, h);
}

const struct st_collector st_collector_tdx = {
    .kind = "tdx",
    .endorsements = 1u << ST_ENDORSEMENT_CERTS | 1u << ST_ENDORSEMENT_CRL | 1u << ST_ENDORSEMENT_COLLATERAL |
                    1u << ST_ENDORSEMENT_TCB_INFO | 1u << ST_ENDORSEMENT_QE_IDENTITY,
    .open = tdx_open,
    .collect = tdx_collect,
    .needs = tdx_needs,
    .close = free};
