/* The body of POST add-checkpoint, by which a log asks a witness for a cosignature (C2SP tlog-witness):
 *
 *   "old " size, newline; up to 63 lines of base64, one hash each; an empty line; the checkpoint as a signed note
 *
 * Hostile input. */
#ifndef ST_SERVICE_WITNESS_REQUEST_H
#define ST_SERVICE_WITNESS_REQUEST_H

#include "attest/merkle.h"

#define ST_WITNESS_MAX_BODY ((size_t)32 << 10) /* checkpoints are a few hundred bytes */
#define ST_WITNESS_MAX_PROOF 63

struct st_witness_request {
    uint64_t old;
    struct st_merkle_proof proof; /* consistency from the tree of `old` leaves */
    struct st_span note;          /* borrowed from the body */
};
/* INPUT for everything that is not exactly of that form. The note is not looked at. */
int st_witness_request_parse(struct st_span body, struct st_witness_request *out, struct st_err *e) ST_MUST_CHECK;
void st_witness_request_write(const struct st_witness_request *r, struct st_buf *out);

#endif
