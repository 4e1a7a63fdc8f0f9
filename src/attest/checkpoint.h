/* Checkpoints of a log (C2SP tlog-checkpoint): a signed note whose text is
 *
 *   origin, size in decimal, base64 of the root hash, any lines more (extensions); none of them empty
 *
 * and witnesses' cosignatures on them (C2SP tlog-cosignature, cosignature/v1): 8 bytes of time (seconds since 1970,
 * big-endian) and an Ed25519 signature over "cosignature/v1\ntime N\n" and the text. A witness says by it that up to
 * this time it has seen no larger tree of this log, and that all it saw agree with this one; who runs neither log nor
 * witnesses learns from a quorum of them that everybody is shown the same log. Hostile input. The signature does not
 * cover the witness's name: one key, one witness. */
#ifndef ST_ATTEST_CHECKPOINT_H
#define ST_ATTEST_CHECKPOINT_H

#include "attest/merkle.h"
#include "attest/note.h"

#define ST_TLOG_MAX_WITNESSES 16
#define ST_TLOG_CLOCK_SLACK_S 300 /* a cosignature further ahead of the caller's clock does not count */

struct st_checkpoint {
    char origin[ST_NOTE_MAX_NAME + 1];
    uint64_t size;
    struct st_merkle_hash root;
    struct st_span extensions; /* lines with their newlines, borrowed; no witness vouches for what they say */
};
/* INPUT names what is wrong. */
int st_checkpoint_parse(struct st_span text, struct st_checkpoint *out, struct st_err *e) ST_MUST_CHECK;
/* Appends the text. INPUT for what could not be read back. */
int st_checkpoint_write(const struct st_checkpoint *c, struct st_buf *out, struct st_err *e) ST_MUST_CHECK;

/* Appends a cosignature line for this text to a note. time >= 0. Whether the log has only grown since the last
 * one is the witness's to check before (attest/tlog.h does). */
int st_cosignature_sign(struct st_span text, const char *name, const struct st_ed25519 *k, int64_t time,
                        struct st_buf *out, struct st_err *e) ST_MUST_CHECK;
/* For keys of type COSIGNATURE. VERIFY unless there is a cosignature under this key's name and id and every such one is
 * the key's; *time is the latest of theirs. */
int st_cosignature_verify(const struct st_note *n, const struct st_note_key *k, int64_t *time,
                          struct st_err *e) ST_MUST_CHECK;

/* Whom a client believes about one log. The caller fills it. */
struct st_tlog_keys {
    char origin[ST_NOTE_MAX_NAME + 1];
    struct st_note_key log; /* of type ED25519 */
    struct st_note_key witnesses[ST_TLOG_MAX_WITNESSES];
    size_t n_witness, quorum; /* so many of them must have cosigned; 0 = none, then the log can show each its own */
};
/* USAGE: a key of the wrong type, two roles with one key, a quorum that cannot be reached, no origin. */
int st_tlog_keys_check(const struct st_tlog_keys *k, struct st_err *e) ST_MUST_CHECK;

struct st_witnessed {
    struct st_checkpoint checkpoint; /* extensions point into the note */
    size_t n_witness;                /* that have cosigned */
    /* The latest time for which a quorum of witnesses speaks: fewer than a quorum cannot make a checkpoint look newer.
     * 0 when none is asked for. */
    int64_t time;
    /* SHA-256 of the whole note: the nonce of evidence made after this checkpoint, and after these cosignatures. One
     * tree is cosigned again and again; of its text alone, younger cosignatures would make old evidence look young. */
    uint8_t digest[32];
};
/* A whole note: the log's signature, the origin, the quorum. now: the caller's clock. INPUT, VERIFY. A known key's bad
 * signature refuses the whole; unknown ones are left alone. */
int st_checkpoint_open(const void *p, size_t len, const struct st_tlog_keys *keys, int64_t now,
                       struct st_witnessed *out, struct st_err *e) ST_MUST_CHECK;

#endif
