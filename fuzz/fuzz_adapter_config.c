/* Any bytes as adapter_config.json: refused, or modules have a rank within bounds. The first bytes up to a zero are the
 * name of a module. */
#include "model/adapter_config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void ask(const struct st_adapter_config *c, const char *module, int layer)
{
    struct st_err e;
    uint32_t rank;
    float scale;
    bool yes;
    if (st_adapter_config_targets(c, module, layer, &yes, &e) || st_adapter_config_rank(c, module, &rank, &scale, &e))
        return;
    if (rank < 1 || rank > ST_ADAPTER_MAX_RANK)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_adapter_config *c;
    struct st_err e;
    char module[120];
    const uint8_t *zero = memchr(data, 0, size);
    size_t n = zero ? (size_t)(zero - data) : 0, at = zero ? n + 1 : 0;
    snprintf(module, sizeof module, "%.*s", (int)n, (const char *)data);
    if (st_adapter_config_parse(data + at, size - at, "fuzz", &c, &e))
        return 0;
    ask(c, module, 0);
    ask(c, "model.layers.3.self_attn.q_proj", 3);
    ask(c, "lm_head", -1);
    st_adapter_config_free(c);
    return 0;
}
