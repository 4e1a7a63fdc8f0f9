/* From points to guesses, and from guesses to rows: what the attacks on a covariant pair have in common. */
#ifndef ST_AUDIT_MATCH_H
#define ST_AUDIT_MATCH_H

#include "audit/attack.h"
#include "audit/dense.h"

/* For each row of seen the row of base that it is nearest to (both are shifted); one to one when asked for, the numbers
 * are the same and at most ST_MATCH_ASSIGN. */
#define ST_MATCH_ASSIGN 4096
int st_match_points(struct st_pool *pool, struct st_dense *seen, struct st_dense *base, bool one_to_one,
                    uint32_t *guess, struct st_err *e) ST_MUST_CHECK;

/* Rows for a guess of every cipher id's plain id: token types of the text, the text's tokens, its personal items where
 * it has some. `variant` gets ": types" and so on behind it. */
int st_match_report(const struct st_audit *a, const char *variant, const uint32_t *guess, const char *note,
                    struct st_rows *rows, struct st_err *e) ST_MUST_CHECK;

/* Points of one family put beside those that are there: to [n][k] at column *at, each value times `by`. */
void st_match_append(struct st_dense *to, size_t *at, const struct st_dense *points, double by);

/* How many layers fit the budget when each takes so many bytes; at least one. */
uint32_t st_match_layers(const struct st_audit *a, uint64_t bytes);

/* MEMORY when it would take more than the budget: says how much of which. */
int st_match_fits(const struct st_audit *a, uint64_t bytes, struct st_err *e) ST_MUST_CHECK;
/* At most what embedding rows of both sides take: read, whitened, mapped onto each other, and matched. */
uint64_t st_match_embed_bytes(const struct st_audit *a);

/* Whether the pair is one that such attacks can look at; INPUT says why not. */
int st_match_check(const struct st_audit *a, struct st_err *e) ST_MUST_CHECK;

#endif
