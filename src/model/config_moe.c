/* The mixture-of-experts part of a config. */
#include "model/arch.h"

_Static_assert(ST_ROUTE_MAX_EXPERTS <= ST_MAX_LAYER_EXPERTS, "one layer alone is within the limit of all");

bool st_config_is_moe(const struct st_config *c, uint32_t layer)
{
    return c->n_expert && !(c->dense_layers[layer / 64] >> layer % 64 & 1);
}

void st_config_set_dense(struct st_config *c, uint32_t layer)
{
    c->dense_layers[layer / 64] |= UINT64_C(1) << layer % 64;
}

int st_arch_experts(const json_t *json, const char *where, const char *key, const char *key2, struct st_config *c,
                    struct st_err *e)
{
    int64_t n = -1, n2 = -1, used = 0;
    int rc = st_json_int(json, where, key, 1, ST_ROUTE_MAX_EXPERTS, &n, e);
    if (!rc)
        rc = st_json_int(json, where, key2, 1, ST_ROUTE_MAX_EXPERTS, &n2, e);
    if (!rc && n < 0 && n2 < 0)
        rc = st_json_need(json, where, key, e);
    if (!rc && n > 0 && n2 > 0 && n != n2)
        rc = st_fail(e, ST_INPUT, "%s: %s %d and %s %d do not agree", where, key, (int)n, key2, (int)n2);
    if (!rc)
        rc = st_json_need(json, where, "num_experts_per_tok", e);
    if (!rc)
        rc = st_json_int(json, where, "num_experts_per_tok", 1, ST_ROUTE_MAX_EXPERTS, &used, e);
    c->n_expert = (uint32_t)(n > 0 ? n : n2);
    c->n_expert_used = (uint32_t)used;
    return rc;
}

/* Whether the groups divide the experts and leave enough of them open. */
static int check_groups(const struct st_config *c, const char *where, struct st_err *e)
{
    if (c->n_expert % c->n_group)
        return st_fail(e, ST_INPUT, "%s: n_group %u does not divide the %u experts", where, c->n_group, c->n_expert);
    if (c->n_group_used < 1 || c->n_group_used > c->n_group)
        return st_fail(e, ST_INPUT, "%s: topk_group: want 1..%u, got %u", where, c->n_group, c->n_group_used);
    uint32_t size = c->n_expert / c->n_group;
    if (c->group_score == ST_GROUP_TOP2 && size < 2)
        return st_fail(e, ST_INPUT, "%s: n_group: want at least 2 experts in each of the %u groups", where, c->n_group);
    if (c->n_expert_used > c->n_group_used * size)
        return st_fail(e, ST_INPUT, "%s: num_experts_per_tok: want at most the %u experts of topk_group %u, got %u",
                       where, c->n_group_used * size, c->n_group_used, c->n_expert_used);
    return 0;
}

int st_config_check_moe(const struct st_config *c, const char *where, struct st_err *e)
{
    if (c->n_expert == 0)
        return 0;
    if (c->n_expert > ST_ROUTE_MAX_EXPERTS || c->n_expert < 2)
        return st_fail(e, ST_INPUT, "%s: number of experts: want 2..%u, got %u", where, ST_ROUTE_MAX_EXPERTS,
                       c->n_expert);
    if ((uint64_t)c->n_expert * c->n_layer > ST_MAX_LAYER_EXPERTS)
        return st_fail(e, ST_INPUT, "%s: experts x num_hidden_layers: want at most %u, got %u x %u", where,
                       ST_MAX_LAYER_EXPERTS, c->n_expert, c->n_layer);
    if (c->n_expert_used < 1 || c->n_expert_used > c->n_expert)
        return st_fail(e, ST_INPUT, "%s: num_experts_per_tok: want 1..%u, got %u", where, c->n_expert,
                       c->n_expert_used);
    if (c->moe_d_ff < 2 || c->moe_d_ff > ST_MAX_FF)
        return st_fail(e, ST_INPUT, "%s: width of an expert: want 2..%u, got %u", where, ST_MAX_FF, c->moe_d_ff);
    if ((uint64_t)c->n_shared_expert * c->moe_d_ff > ST_MAX_FF)
        return st_fail(e, ST_INPUT, "%s: n_shared_experts x width of an expert: want at most %u, got %u x %u", where,
                       ST_MAX_FF, c->n_shared_expert, c->moe_d_ff);
    if (!(c->routed_scale >= 0 && c->routed_scale <= 1e6f))
        return st_fail(e, ST_INPUT, "%s: routed_scaling_factor: want 0..1e6, got %g", where, (double)c->routed_scale);
    return c->n_group ? check_groups(c, where, e) : 0;
}
