/* Any bytes as the table of certificates that a host hands to an SNP guest: what is found lies inside of them. */
#include "attest/collect_tsm.h"

#include <stdlib.h>

struct bounds {
    const uint8_t *p, *end;
};

static int found(void *ctx, const uint8_t *cert, size_t n, struct st_err *e)
{
    const struct bounds *b = ctx;
    if (cert < b->p || n > (size_t)(b->end - cert) || n == 0)
        abort();
    return cert[0] == 0xff ? st_fail(e, ST_INPUT, "stop") : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct bounds b = {data, data + size};
    struct st_err e;
    if (st_snp_cert_table(data, size, found, &b, &e) && e.code == 0)
        abort();
    return 0;
}
