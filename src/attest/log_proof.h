/* Proofs of a log as JSON: lists of hashes, and the proof that one entry stands in the log, whole by itself, so that it
 * can be judged without asking anybody:
 *
 *   {"entry": BASE64, "index": N, "hashes": [BASE64, ...], "checkpoint": NOTE}
 *
 * hashes lead from the entry to the root of the tree that the checkpoint names (attest/merkle.h). A "comment" may
 * stand beside. Hostile input.
 * Such a proof says that the entry was logged for all to see before the checkpoint; it never grows old. */
#ifndef ST_ATTEST_LOG_PROOF_H
#define ST_ATTEST_LOG_PROOF_H

#include "attest/checkpoint.h"
#include "text/json.h"

/* A field that must be there: at most ST_MERKLE_MAX_PROOF hashes. INPUT. */
int st_proof_read(const json_t *o, const char *where, const char *key, struct st_merkle_proof *out,
                  struct st_err *e) ST_MUST_CHECK;
/* Appends the list. */
void st_proof_write(const struct st_merkle_proof *p, struct st_buf *out);

struct st_log_proof {
    struct st_buf entry;
    uint64_t index;
    struct st_merkle_proof hashes;
    const char *checkpoint; /* borrowed from the JSON */
};
/* INPUT, MEMORY. End with st_log_proof_wipe(), after an error too. */
int st_log_proof_read(const json_t *o, const char *where, struct st_log_proof *out, struct st_err *e) ST_MUST_CHECK;
void st_log_proof_wipe(struct st_log_proof *p);
void st_log_proof_write(const struct st_log_proof *p, struct st_buf *out);
/* VERIFY, INPUT: the note is not one that these keys believe, or the entry does not stand in its tree. */
int st_log_proof_verify(const struct st_log_proof *p, const struct st_tlog_keys *keys, struct st_err *e) ST_MUST_CHECK;

#endif
