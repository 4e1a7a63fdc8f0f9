/* Good verdicts, remembered: judging a bundle costs milliseconds, and a client asks for the same nodes again and again.
 *
 * A verdict is that of one bundle (the digest of its bytes), one policy (the digest of its bytes), one nonce and one
 * time of that nonce; with any other of them there is none. It stands from the moment of judging until the first date
 * that it rests on passes (certificates, revocation lists, vendors' statements, the policy's max_age_s) and at most
 * keep_s seconds; that is looked at on every use, and a clock that went back counts as passed. Bad verdicts are not
 * kept. Entries are bounded; the one least recently used makes room. One thread at a time. */
#ifndef ST_ATTEST_VERDICT_CACHE_H
#define ST_ATTEST_VERDICT_CACHE_H

#include "attest/policy.h"

#define ST_VERDICT_CACHE_MAX 4096

struct st_verdict_cache;
/* max_entries 1..ST_VERDICT_CACHE_MAX, some tens of KiB each; keep_s at least 1. */
int st_verdict_cache_new(size_t max_entries, int64_t keep_s, struct st_verdict_cache **out,
                         struct st_err *e) ST_MUST_CHECK;
void st_verdict_cache_free(struct st_verdict_cache *c);

/* digest: SHA-256 of the bytes that j->bundle was read from, computed by the caller, never taken from a peer. Returned
 * verdicts are borrowed until the next call. */

/* NULL: none stands at j->time. Does not look at j->bundle, which may be NULL. */
const struct st_verdict *st_verdict_cache_find(struct st_verdict_cache *c, const uint8_t digest[32],
                                               const struct st_judge *j);
/* What st_policy_judge() says, good or bad, from memory where it can. */
int st_verdict_cache_judge(struct st_verdict_cache *c, const uint8_t digest[32], const struct st_judge *j,
                           const struct st_verdict **out, struct st_err *e) ST_MUST_CHECK;

#endif
