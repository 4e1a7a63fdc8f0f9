/* The small files of an obfuscated checkpoint: config.json and generation_config.json, written anew from what the
 * engine needs (nothing of the source's files is copied: they name paths and authors), and the manifest sotto.json. */
#ifndef ST_PROTECT_COVARIANT_MANIFEST_H
#define ST_PROTECT_COVARIANT_MANIFEST_H

#include "model/config.h"
#include "protect/covariant/covariant.h"
#include "protect/covariant/out.h"

#define ST_COV_MANIFEST "sotto.json"

/* What the new checkpoint is: `plain` widened by 2h, untied, its special ids enciphered, norm_eps times kappa^2. */
void st_cov_config(const struct st_config *plain, uint32_t h, const struct st_cov_cipher *cipher,
                   struct st_config *out);
/* config.json, generation_config.json. norm_eps in double, because kappa^2 eps is not a round number. */
int st_cov_write_config(const struct st_cov_out *o, const struct st_config *c, double norm_eps,
                        struct st_err *e) ST_MUST_CHECK;

struct st_cov_manifest {
    uint32_t expand;
    char commitment[65]; /* st_cov_key_commit(), hex */
};
int st_cov_write_manifest(const struct st_cov_out *o, const struct st_cov_manifest *m, struct st_err *e) ST_MUST_CHECK;
/* IO, INPUT, UNSUPPORTED (version, preset). */
int st_cov_read_manifest(const char *dir, struct st_cov_manifest *m, struct st_err *e) ST_MUST_CHECK;

#endif
