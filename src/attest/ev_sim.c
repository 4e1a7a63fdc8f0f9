#include "attest/ev_sim.h"
#include "attest/verifier.h"

#include <string.h>

static uint64_t get(const uint8_t *p, size_t len)
{
    uint64_t v = 0;
    for (size_t i = 0; i < len; i++)
        v |= (uint64_t)p[i] << 8 * i;
    return v;
}

static bool recognise(const uint8_t *p, size_t len)
{
    return len >= 8 && memcmp(p, "SOTTOSIM", 8) == 0;
}

static int verify(const struct st_evidence *ev, const struct st_verify_env *env, struct st_appraisal *out,
                  struct st_err *e)
{
    const uint8_t *p = ev->data.p;
    struct st_err why;
    if (ev->data.len != ST_SIM_LEN || !recognise(p, ev->data.len))
        return st_fail(e, ST_INPUT, "sim: want %d bytes that begin with SOTTOSIM, got %zu", ST_SIM_LEN, ev->data.len);
    if (get(p + 8, 4) != 1)
        return st_fail(e, ST_UNSUPPORTED, "sim: version: want 1, got %u", (unsigned)get(p + 8, 4));
    if (get(p + 12, 4) > 1 || get(p + 20, 4))
        return st_fail(e, ST_INPUT, "sim: flags: unknown bits");
    struct st_check *c = st_appraisal_check(out, "sim.signature", "by the policy's sim_root");
    if (env->roots.len != ST_ED25519_PUBLIC)
        st_check_detail(c, "the policy names no sim_root");
    else if (st_ed25519_verify(env->roots.p, p, ST_SIM_SIGNED, p + ST_SIM_SIGNED, &why))
        st_check_detail(c, "%s", why.msg);
    else
        c->result = ST_CHECK_PASS;
    enum st_check_result result = c->result;
    st_appraisal_check(out, "sim.chain", "sim_root itself: nobody's hardware")->result = result;
    int64_t made = (int64_t)get(p + 24, 8);
    c = st_appraisal_check(out, "sim.time", "made before the time of this check");
    c->area = ST_AREA_STATUS;
    c->result = made >= 0 && made <= env->time ? ST_CHECK_PASS : ST_CHECK_FAIL;
    st_appraisal_bool(out, "sim.debug", get(p + 12, 4) & 1);
    st_appraisal_number(out, "sim.svn", get(p + 16, 4));
    st_appraisal_time(out, "sim.time", made);
    st_appraisal_hex(out, "sim.measurement", p + 32, 32);
    st_appraisal_hex(out, "sim.report_data", p + 64, 64);
    return 0;
}

const struct st_verifier st_verifier_sim = {.kind = "sim", .recognise = recognise, .verify = verify};
