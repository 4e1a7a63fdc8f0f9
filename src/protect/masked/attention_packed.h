/* TwinShield's packing (arXiv 2507.03278), for products of two matrices that both are this side's: attention. The
 * worker gets [A + R ; a R], rows in secret order, and [B + S ; b S], rows in secret order, and multiplies; with the
 * four quarters T1 .. T4 of the product, a quarter of which is (A + R)(B + S)^T, A B^T = T1 - T2/b - T3/a + T4/(ab).
 *
 * BREAKABLE, at every size: of two rows u = x + r and w = a r the difference u - w/a is small in all places, and one
 * place says what a can be, so that whoever gets the rows has A and B but for a factor of each row. It hides nothing
 * from a worker (audit/atk_pairwise.c; audit/atk_attention.c on a recording). It is here because the literature claims
 * that it does, and behind a flag that says that it does not.
 *
 * Rows are brought to the field with one scale each (rows.h), so that no sum can wrap; R, S uniform, a, b and both
 * orders fresh for each product, from the kernel's generator. Replies are checked by Freivalds' equation with secrets
 * drawn after the reply is here: a wrong one passes with probability 1/q^2. One product outstanding at a time. */
#ifndef ST_PROTECT_MASKED_ATTENTION_PACKED_H
#define ST_PROTECT_MASKED_ATTENTION_PACKED_H

#include "engine/boundary.h"

struct st_attention_packed;

int st_attention_packed_new(bool check /* replies */, struct st_attention_packed **out, struct st_err *e) ST_MUST_CHECK;
void st_attention_packed_free(struct st_attention_packed *p);
/* As enter_pair of st_protection_hooks; rows are p's until leave, forget or the next enter. VERIFY: a value that is not
 * finite. */
int st_attention_packed_enter(struct st_attention_packed *p, struct st_exchange *x, const float *a, const float *b,
                              struct st_exposed *rows, struct st_err *e) ST_MUST_CHECK;
/* VERIFY: it is not the product, and out is untouched. Secrets of the exchange are gone afterwards. */
int st_attention_packed_leave(struct st_attention_packed *p, const struct st_exposed *reply, float *out,
                              struct st_err *e) ST_MUST_CHECK;
/* The exchange failed. */
void st_attention_packed_forget(struct st_attention_packed *p);

#endif
