/* Linking tokens spent to tokens sold. Arithmetic of atk_token_link.c on plain arrays. */
#ifndef ST_AUDIT_ATK_TOKEN_LINK_H
#define ST_AUDIT_ATK_TOKEN_LINK_H

#include "audit/traffic.h"

/* By what the issuer saw of each sale: the one whose answer agrees with the spent signature in most bits. values
 * [n_token]: of each spent token 0, or 1 over how many sales agree as well as the true one, which is best. */
void st_link_by_bits(const struct st_traffic *t, double *values);
/* By time: the buyer of the sale that came last before the token was spent. values [n_token]: 0 or 1. */
void st_link_by_time(const struct st_traffic *t, double *values);

#endif
