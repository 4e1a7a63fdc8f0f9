/* Which tensors of an adapter, and what of them, belong to one linear layer of the base. */
#include "model/adapter_priv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Matrices of an expert by the names of the checkpoints, and the parameters in which transformers 5 holds them. */
static const struct {
    const char *part, *parameter;
    bool up;
} fused[] = {
    {"gate_proj", "gate_up_proj", false}, {"w1", "gate_up_proj", false},     {"up_proj", "gate_up_proj", true},
    {"w3", "gate_up_proj", true},         {"down_proj", "down_proj", false}, {"w2", "down_proj", false},
};

/* Mixtral's block has another name in transformers 5 than in checkpoints. */
static void rename_block(char module[ST_PLAN_NAME])
{
    static const char old[] = ".block_sparse_moe.";
    char *at = strstr(module, old);
    if (!at)
        return;
    memmove(at + 5, at + sizeof old - 1, strlen(at + sizeof old - 1) + 1);
    memcpy(at, ".mlp.", 5);
}

static int check_named(const struct st_adapter *a, const struct st_tensor *t, bool named, struct st_err *e)
{
    return named ? 0
                 : st_fail(e, ST_INPUT, "%s: %.200s: adapter_config.json does not name this module", a->path, t->name);
}

static int whole(const struct st_adapter *a, const struct st_adapter_pair *p, int layer, struct st_adapter_part *out,
                 struct st_err *e)
{
    char parameter[ST_PLAN_NAME + 8];
    bool named;
    snprintf(parameter, sizeof parameter, "%s.weight", p->module);
    if (st_adapter_config_targets(a->config, p->module, layer, &named, e))
        return e->code;
    named = named || st_adapter_config_parameter(a->config, parameter);
    *out = (struct st_adapter_part){.pair = p, .n_expert = 1, .halves = 1};
    if (check_named(a, p->a, named, e) || st_adapter_config_rank(a->config, p->module, &out->rank, &out->scale, e))
        return e->code;
    return 0;
}

/* One expert's share of adapters to all of them at once. With two parameters the wrapper of gate_up_proj is inside. */
static int share(const struct st_adapter *a, const char *container, uint32_t expert, size_t kind,
                 struct st_adapter_part *out, struct st_err *e)
{
    const char *parameter = fused[kind].parameter;
    const bool down = strcmp(parameter, "down_proj") == 0;
    char name[2 * ST_PLAN_NAME], other[2 * ST_PLAN_NAME], inside[ST_PLAN_NAME];
    snprintf(name, sizeof name, "%s.%s", container, parameter);
    snprintf(other, sizeof other, "%s.%s", container, down ? "gate_up_proj" : "down_proj");
    if ((size_t)snprintf(inside, sizeof inside, "%s.base_layer", container) >= sizeof inside ||
        !st_adapter_config_parameter(a->config, name))
        return 0;
    bool both = st_adapter_config_parameter(a->config, other);
    const struct st_adapter_pair *p = st_adapter_find(a, both && !down ? inside : container);
    if (!p)
        return st_fail(e, ST_INPUT, "%s: base_model.model.%s.lora_A.weight: missing; adapter_config.json names %s",
                       a->path, both && !down ? inside : container, parameter);
    *out = (struct st_adapter_part){
        .pair = p, .shared = true, .expert = expert, .halves = down ? 1 : 2, .half = fused[kind].up};
    if (st_adapter_config_rank(a->config, name, &out->rank, &out->scale, e))
        return e->code;
    out->n_expert = (uint32_t)(p->a->dim[0] / out->rank);
    return 0;
}

/* "model.layers.3.mlp.experts.17.up_proj": the container, the expert, the row of `fused`. */
static bool is_expert(char module[ST_PLAN_NAME], uint32_t *expert, size_t *kind)
{
    static const char word[] = ".experts.";
    char *at = strstr(module, word), *end;
    if (!at)
        return false;
    unsigned long n = strtoul(at + sizeof word - 1, &end, 10);
    if (end == at + sizeof word - 1 || *end != '.' || n > UINT16_MAX)
        return false;
    *expert = (uint32_t)n;
    for (*kind = 0; *kind < sizeof fused / sizeof *fused; ++*kind)
        if (strcmp(end + 1, fused[*kind].part) == 0) {
            at[sizeof word - 2] = 0; /* behind "experts" */
            return true;
        }
    return false;
}

int st_adapter_part(const struct st_adapter *a, const char *module, int layer, struct st_adapter_part *out,
                    struct st_err *e)
{
    char name[ST_PLAN_NAME];
    uint32_t expert;
    size_t kind;
    *out = (struct st_adapter_part){0};
    const struct st_adapter_pair *p = st_adapter_find(a, module);
    snprintf(name, sizeof name, "%s", module);
    if (!p) {
        rename_block(name);
        p = st_adapter_find(a, name);
    }
    if (p)
        return whole(a, p, layer, out, e);
    return is_expert(name, &expert, &kind) ? share(a, name, expert, kind, out, e) : 0;
}
