#include "attest/endorsed.h"

int st_endorsed_certs(const struct st_evidence *ev, struct st_certs *out, struct st_err *e)
{
    size_t at = 0;
    for (const struct st_endorsement *n; (n = st_evidence_next(ev, ST_ENDORSEMENT_CERTS, &at));)
        if (st_certs_add(out, n->data.p, n->data.len, "certificates", e))
            return e->code;
    return 0;
}

int st_endorsed_crls(const struct st_evidence *ev, struct st_crls *out, struct st_err *e)
{
    size_t at = 0;
    for (const struct st_endorsement *n; (n = st_evidence_next(ev, ST_ENDORSEMENT_CRL, &at));)
        if (st_crls_add(out, n->data.p, n->data.len, "revocation list", e))
            return e->code;
    return 0;
}
