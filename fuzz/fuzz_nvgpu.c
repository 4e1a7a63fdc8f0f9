/* Any bytes as a GPU's report (a u16 and that many bytes), with the rest as its certificates or as reference
 * measurements: refused, or never found signed. */
#include "attest/rim.h"
#include "attest/roots.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_rim(const uint8_t *p, size_t len)
{
    static struct st_rim rim;
    struct st_certs roots = {0};
    const struct st_verify_env env = {0};
    struct st_err e;
    if (st_roots_add(&env, ST_ROOT_NVIDIA_RIM, &roots, &e))
        abort();
    if (st_rim_read(p, len, &roots, 1700000000, &rim, &e) == 0)
        abort(); /* nobody but NVIDIA signs these, and no signed one is in the corpus */
    if (rim.n_value > ST_RIM_MAX_VALUES)
        abort();
    st_certs_free(&roots);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_evidence ev = {.kind = "nvgpu"};
    struct st_appraisal a = {0};
    const struct st_verify_env env = {.time = 1700000000};
    struct st_err e;
    size_t first = size < 2 ? 0 : data[0] | (size_t)data[1] << 8;
    if (size < 2 || first > size - 2)
        return 0;
    const uint8_t *rest = data + 2 + first;
    size_t n_rest = size - 2 - first;
    ev.data = (struct st_span){data + 2, first};
    if (n_rest) {
        bool rim = rest[0] == '<';
        ev.endorsements[0] = (struct st_endorsement){rim ? ST_ENDORSEMENT_RIM : ST_ENDORSEMENT_CERTS, {rest, n_rest}};
        ev.n_endorsement = 1;
        if (rim)
            read_rim(rest, n_rest);
    }
    if (st_verifier_find("nvgpu")->verify(&ev, &env, &a, &e) == 0) {
        const struct st_check *c = st_appraisal_find_check(&a, "nvgpu.signature");
        if (!c || c->result == ST_CHECK_PASS)
            abort();
    }
    st_appraisal_wipe(&a);
    return 0;
}
