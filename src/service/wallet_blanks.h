/* Blanks made ahead: a request brings up to 22 along, each a millisecond's third by itself. A thread
 * keeps some of each denomination ready, for the keys that are set. What is not ready is made on the spot. */
#ifndef ST_SERVICE_WALLET_BLANKS_H
#define ST_SERVICE_WALLET_BLANKS_H

#include "channel/token.h"

struct st_wallet_blanks;

int st_wallet_blanks_new(struct st_wallet_blanks **out, struct st_err *e) ST_MUST_CHECK;
void st_wallet_blanks_free(struct st_wallet_blanks *b);
/* The key of a denomination (public, DER); what was made for another key is dropped. */
int st_wallet_blanks_key(struct st_wallet_blanks *b, uint32_t day, uint32_t units, struct st_span der,
                         struct st_err *e) ST_MUST_CHECK;
/* A blank that was never handed out before. POLICY: the denomination has no key. *out is to be wiped. */
int st_wallet_blanks_take(struct st_wallet_blanks *b, uint32_t units, struct st_token_blank *out,
                          struct st_err *e) ST_MUST_CHECK;

#endif
