/* adapter_config.json of a LoRA adapter as `peft` writes it: which modules it changes, with which rank and scale.
 * Hostile input: lists and patterns are bounded, and a regex that backtracks without end is an error. A field that
 * would change the mathematics and that we do not carry out is refused by name unless it is null, false or empty; so is
 * every field that we do not know. Source: peft 0.21, LoraConfig; check_target_module_exists() and get_pattern_key()
 * say how names match. Patterns are Python's there and PCRE2's here, which read module names alike. */
#ifndef ST_MODEL_ADAPTER_CONFIG_H
#define ST_MODEL_ADAPTER_CONFIG_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ST_ADAPTER_CONFIG_MAX (4u << 20) /* bytes */
#define ST_ADAPTER_MAX_RANK 4096

struct st_adapter_config;

/* INPUT names the field; UNSUPPORTED: another kind of adapter, or a field that is not carried out. `where` is copied.
 */
int st_adapter_config_parse(const void *p, size_t len, const char *where, struct st_adapter_config **out,
                            struct st_err *e) ST_MUST_CHECK;
void st_adapter_config_free(struct st_adapter_config *c);

/* Whether it names a module: "model.layers.3.self_attn.q_proj" of layer 3; -1 = in no layer. INPUT: a pattern that
 * does not come to an end. */
int st_adapter_config_targets(const struct st_adapter_config *c, const char *module, int layer, bool *out,
                              struct st_err *e) ST_MUST_CHECK;
/* Whether target_parameters names a parameter: "model.layers.3.mlp.experts.down_proj". */
bool st_adapter_config_parameter(const struct st_adapter_config *c, const char *name);
/* Rank, and the factor of B A: alpha / rank, or alpha / sqrt(rank) with use_rslora. */
int st_adapter_config_rank(const struct st_adapter_config *c, const char *module, uint32_t *rank, float *scale,
                           struct st_err *e) ST_MUST_CHECK;

#endif
