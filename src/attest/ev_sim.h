/* Simulated evidence: a statement signed by a key that somebody made, for tests and for the demo. It proves nothing
 * about any machine; policies accept it only when they name the key ("sim_root").
 *
 *   0  "SOTTOSIM"        8
 *   8  u32 version 1        all little-endian
 *  12  u32 flags            bit 0: debug
 *  16  u32 svn              patch level
 *  20  u32 zero
 *  24  u64 time             seconds since 1970 when it was made
 *  32  measurement [32]
 *  64  report data [64]
 * 128  Ed25519 signature [64] over the 128 bytes before it */
#ifndef ST_ATTEST_EV_SIM_H
#define ST_ATTEST_EV_SIM_H

#include "crypto/ed25519.h"

#include <stdbool.h>

#define ST_SIM_SIGNED 128
#define ST_SIM_LEN (ST_SIM_SIGNED + ST_ED25519_SIGNATURE)

struct st_sim {
    bool debug;
    uint32_t svn;
    int64_t time;
    uint8_t measurement[32], report_data[64];
};
/* Signs a statement (collect_sim.c). */
int st_sim_collect(const struct st_ed25519 *root, const struct st_sim *s, uint8_t out[ST_SIM_LEN],
                   struct st_err *e) ST_MUST_CHECK;

#endif
