/* config.json and generation_config.json of an obfuscated checkpoint, written anew from what the engine needs (nothing
 * of the source's config.json is copied: such files name paths and authors). Of the source's generation_config.json the
 * sampling defaults are kept. */
#ifndef ST_PROTECT_COVARIANT_OUT_CONFIG_H
#define ST_PROTECT_COVARIANT_OUT_CONFIG_H

#include "model/config.h"
#include "protect/covariant/covariant.h"
#include "protect/covariant/out.h"

#include <jansson.h>

/* What the new checkpoint is: `plain` widened by 2h, untied, its special ids enciphered. norm_eps stays:
 * the caller knows kappa. */
void st_cov_config(const struct st_config *plain, uint32_t h, const struct st_cov_cipher *cipher,
                   struct st_config *out);
/* Into a Hugging Face directory. norm_eps in double, because kappa^2 eps is not a round number. src: the source. */
int st_cov_write_config(const struct st_cov_out *o, const struct st_config *c, double norm_eps, const char *src,
                        struct st_err *e) ST_MUST_CHECK;
/* v, which is taken (NULL = out of memory), as a file of the directory. */
int st_cov_write_json(const struct st_cov_out *o, const char *name, json_t *v, struct st_err *e) ST_MUST_CHECK;

#endif
