/* Signed notes (C2SP signed-note): UTF-8 text, an empty line, then one line per signature,
 *
 *   EM DASH, space, key name, space, base64(key id as 4 bytes, signature)
 *
 * and verifier keys, the text "name+id in hexadecimal+base64(signature type, public key)". The last empty line ends the
 * text, so text may hold empty lines. A key id is the beginning of SHA-256(name, newline, type, public key): it finds a
 * key, it proves nothing. Hostile input: notes, and names in them.
 * Stricter than the specification demands: base64 in its canonical form only; the limits below. */
#ifndef ST_ATTEST_NOTE_H
#define ST_ATTEST_NOTE_H

#include "base/buf.h"
#include "crypto/ed25519.h"

#define ST_NOTE_MAX_BYTES ((size_t)1 << 20)
#define ST_NOTE_MAX_NAME 255
#define ST_NOTE_MAX_SIGNATURES 64

/* Signature types of the keys that we use. */
#define ST_NOTE_ED25519 0x01     /* over the text */
#define ST_NOTE_COSIGNATURE 0x04 /* with a time before it, of a witness (attest/checkpoint.h) */

struct st_note_key {
    char name[ST_NOTE_MAX_NAME + 1];
    uint8_t type, id[4];
    uint8_t key[ST_ED25519_PUBLIC];
};

/* INPUT for a name that is empty, too long, not UTF-8, or holds a space of any kind, a plus or a control character. */
int st_note_key_make(const char *name, uint8_t type, const uint8_t key[ST_ED25519_PUBLIC], struct st_note_key *out,
                     struct st_err *e) ST_MUST_CHECK;
/* From the text of a verifier key. INPUT; UNSUPPORTED for a signature type other than the two above. */
int st_note_key_parse(const char *s, size_t len, struct st_note_key *out, struct st_err *e) ST_MUST_CHECK;
void st_note_key_write(const struct st_note_key *k, struct st_buf *out);

struct st_note_signature {
    struct st_span name, id, bytes; /* bytes: what follows the key id, at least one */
};
struct st_note {
    struct st_span text;                                         /* up to and with its last newline */
    struct st_note_signature signatures[ST_NOTE_MAX_SIGNATURES]; /* of any key and type, in order */
    size_t n_signature;
    struct st_buf memory; /* the decoded signatures */
};
/* Splits a note; verifies nothing: the text means nothing yet. The spans point into p, which is borrowed until
 * st_note_wipe(), or into memory. INPUT. */
int st_note_parse(const void *p, size_t len, struct st_note *out, struct st_err *e) ST_MUST_CHECK;
void st_note_wipe(struct st_note *n);
/* The next signature under this key's name and id at or behind *at, which moves on; NULL when there is none. */
const struct st_note_signature *st_note_next(const struct st_note *n, const struct st_note_key *k, size_t *at);
/* For keys of type ED25519. VERIFY unless there is a signature under this key's name and id and every such signature is
 * the key's. Signatures under other names or ids are left alone. */
int st_note_verify(const struct st_note *n, const struct st_note_key *k, struct st_err *e) ST_MUST_CHECK;

/* Making one: st_note_begin() appends text and empty line, then each signer appends a line to the whole. INPUT for a
 * text that a note cannot hold (it ends in a newline, is UTF-8 and has no control characters but newlines). */
int st_note_begin(struct st_span text, struct st_buf *out, struct st_err *e) ST_MUST_CHECK;
int st_note_sign(struct st_span text, const char *name, const struct st_ed25519 *k, struct st_buf *out,
                 struct st_err *e) ST_MUST_CHECK;
/* Appends the line of a signature made elsewhere; bytes without the key id. */
void st_note_add(const struct st_note_key *k, struct st_span bytes, struct st_buf *out);

#endif
