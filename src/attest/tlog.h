/* What a client remembers of a log, so that the log can neither take back what it showed nor show another history: the
 * last checkpoint. A new one must be of a tree that begins with the remembered tree. A witness does the same before it
 * cosigns. The first checkpoint is believed for its signatures alone.
 * On a fork, the remembered note and the refused one are both signed by the log and prove it: keep them. */
#ifndef ST_ATTEST_TLOG_H
#define ST_ATTEST_TLOG_H

#include "attest/checkpoint.h"

struct st_tlog {
    struct st_tlog_keys keys;
    struct st_buf note;       /* the last checkpoint as it came: what to store; empty = none yet */
    struct st_witnessed last; /* zeros = none yet; extensions point into note */
};
/* The keys are copied. USAGE (st_tlog_keys_check). End with st_tlog_wipe(). */
int st_tlog_init(struct st_tlog *t, const struct st_tlog_keys *keys, struct st_err *e) ST_MUST_CHECK;
void st_tlog_wipe(struct st_tlog *t);
/* Takes a note that was stored, as the remembered one; its signatures are checked again, its time is not. */
int st_tlog_restore(struct st_tlog *t, const void *p, size_t len, struct st_err *e) ST_MUST_CHECK;

/* Takes a new checkpoint. proof: consistency from t->last.checkpoint.size to the new size; empty when the sizes are
 * equal; not looked at when nothing is remembered. now: the caller's clock. INPUT; VERIFY: signatures, quorum, rollback
 * (a smaller tree), fork (another root of one size, or a proof that does not hold). On any error t is as it was. Of two
 * of one size the one with the later time stays. Store t->note before relying on it. */
int st_tlog_update(struct st_tlog *t, const void *p, size_t len, const struct st_merkle_proof *proof, int64_t now,
                   struct st_err *e) ST_MUST_CHECK;
/* VERIFY unless the entry stands at `index` of the remembered tree. */
int st_tlog_includes(const struct st_tlog *t, struct st_span entry, uint64_t index, const struct st_merkle_proof *proof,
                     struct st_err *e) ST_MUST_CHECK;

#endif
