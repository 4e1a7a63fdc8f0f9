/* What happens to each weight: one rule per role, and from it the name, dtype and shape of the new tensor and the job
 * that makes it. obfuscate.c asks for one tensor after the other and knows no role; an architecture is supported when
 * each of its roles has a rule here.
 *
 * A weight has two sides. One runs along the hidden state (or a latent) and meets a frame: what reads it is multiplied
 * by Q, and takes in the weight of the norm before it; what writes it by P. The other runs along heads, neurons or
 * vocabulary and meets the keys of the layer (layer_keys.h) or the token cipher. Norm weights become constants.
 * Source: AloePri, arXiv 2603.01499, table of section 4; docs/covariant.md. */
#ifndef ST_PROTECT_COVARIANT_RULES_H
#define ST_PROTECT_COVARIANT_RULES_H

#include "model/model.h"
#include "protect/covariant/covariant.h"
#include "protect/covariant/keys_ahead.h"
#include "protect/covariant/transform.h"

/* What becomes of a norm on the residual stream. */
struct st_cov_site {
    float norm;  /* every value of its new weight: kappa as the checkpoint's dtype holds it */
    double gain; /* of what reads it: kappa over that */
};

struct st_cov_rules {
    /* The caller's; kept until wipe. */
    const struct st_model *model;
    const struct st_config *config; /* of the result */
    const struct st_cov_key *key;
    const uint8_t *digest; /* [32] of the source */
    const struct st_cov_cipher *cipher;
    const float *never; /* [d], the head's row of homophones; NULL without */
    const struct st_cov_frame *frame;
    const struct st_cov_site *sites; /* [plan.n_weight], filled for norms on the residual stream */
    double eps_ratio;                /* norm_eps of the result over that of the source */
    const struct st_cov_opts *opts;
    bool warns; /* logs what the paper's keys cost */
    /* The rules' own. */
    struct st_cov_layer_keys keys; /* of layer `layer`, once `entered` */
    struct st_cov_keys_ahead ahead;
    bool entered, warned_pairs, warned_router;
    int layer;
    int first[ST_ROLE_COUNT]; /* the layer's weights: index into the plan (of the first expert), -1 = none */
};

void st_cov_rules_wipe(struct st_cov_rules *r);
/* Whether a role is a norm on the residual stream, whose weight becomes a constant. */
bool st_cov_rules_is_norm(enum st_role role);

/* Name, dtype and shape of weight `i` of the plan in the result. UNSUPPORTED: its role has no rule. */
int st_cov_rules_describe(const struct st_cov_rules *r, int i, struct st_cov_out_tensor *t,
                          struct st_err *e) ST_MUST_CHECK;
/* The job that makes it, all but `out`; it may read another weight (experts change places). What the job points to is
 * valid until a call for another layer, which draws that layer's keys: weights come layer by layer. */
int st_cov_rules_job(struct st_cov_rules *r, int i, struct st_cov_job *j, struct st_err *e) ST_MUST_CHECK;

#endif
