/* Any bytes as config.json: refused, or a config from which a whole plan can be made. */
#include "model/arch.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_config c;
    struct st_plan p = {0};
    const struct st_arch *arch;
    struct st_err e;
    float freq[ST_MAX_HEAD_DIM / 2];
    if (st_config_parse(data, size, "fuzz", &c, &e) || st_arch_find(c.arch, &arch, &e))
        return 0;
    st_config_inv_freq(&c, freq);
    arch->plan(&c, &p);
    if (st_plan_check(&p, &e))
        abort();
    st_plan_free(&p);
    /* The same bytes as generation_config.json. */
    if (st_config_parse_generation(data, size, "fuzz", &c, &e) == 0 && c.n_eos > ST_MAX_EOS)
        abort();
    return 0;
}
