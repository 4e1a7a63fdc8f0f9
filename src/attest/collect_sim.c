#include "attest/ev_sim.h"

#include <string.h>

static void put(uint8_t *p, uint64_t v, size_t len)
{
    for (size_t i = 0; i < len; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

int st_sim_collect(const struct st_ed25519 *root, const struct st_sim *s, uint8_t out[ST_SIM_LEN], struct st_err *e)
{
    memset(out, 0, ST_SIM_LEN);
    memcpy(out, "SOTTOSIM", 8);
    put(out + 8, 1, 4);
    put(out + 12, s->debug, 4);
    put(out + 16, s->svn, 4);
    put(out + 24, (uint64_t)s->time, 8);
    memcpy(out + 32, s->measurement, sizeof s->measurement);
    memcpy(out + 64, s->report_data, sizeof s->report_data);
    return st_ed25519_sign(root, out, ST_SIM_SIGNED, out + ST_SIM_SIGNED, e);
}
