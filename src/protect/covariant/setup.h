/* All that source, key and options say before the first tensor is made: what compiles and what verifies begin here, so
 * that they cannot differ. Holds secrets until it is closed. */
#ifndef ST_PROTECT_COVARIANT_SETUP_H
#define ST_PROTECT_COVARIANT_SETUP_H

#include "protect/covariant/manifest.h"
#include "protect/covariant/rules.h"

struct st_cov_setup {
    struct st_model *model; /* the source */
    const struct st_cov_key *key;
    uint8_t digest[32];              /* of the source */
    uint32_t expand;                 /* h as chosen */
    struct st_cov_frequent frequent; /* tokens that have homophones */
    struct st_cov_cipher cipher;
    float *never; /* [d], see st_cov_never_row(); NULL without homophones */
    struct st_cov_frame frame;
    struct st_config config;   /* of the result */
    struct st_cov_site *sites; /* [plan.n_weight], for the rules */
    double norm_eps;           /* of the result: the mean kappa^2 times the source's, not rounded to f32 */
    struct st_cov_rules rules; /* points into this struct: it stays where it was opened */
};

/* of: the manifest of a result which must come from this source and key (VERIFY), or NULL. key and o are kept until
 * close. Errors of st_cov_obfuscate() that concern the source and the options; then it is
 * closed already. */
int st_cov_setup_open(struct st_cov_setup *s, const char *src, const struct st_cov_key *key,
                      const struct st_cov_opts *o, const struct st_cov_manifest *of, struct st_err *e) ST_MUST_CHECK;
void st_cov_setup_close(struct st_cov_setup *s);

#endif
