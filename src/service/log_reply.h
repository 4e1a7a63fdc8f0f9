/* What a log answers to GET /directory?from=SIZE: its newest published checkpoint, that it grew from SIZE, and the
 * directory that ends its tree. Read and written here; nothing of it is verified. Hostile input.
 *
 *   {"version": 1, "checkpoint": NOTE, "consistency": [BASE64], "index": N, "entry": BASE64, "inclusion": [BASE64]} */
#ifndef ST_SERVICE_LOG_REPLY_H
#define ST_SERVICE_LOG_REPLY_H

#include "attest/merkle.h"

#define ST_LOG_REPLY_MAX ((size_t)512 << 10)

struct st_log_reply {
    struct st_buf note;
    struct st_merkle_proof consistency, inclusion;
    uint64_t index;
    struct st_buf entry;
};
/* INPUT, UNSUPPORTED for another version, MEMORY. End with st_log_reply_wipe(), after an error too. */
int st_log_reply_parse(const void *p, size_t len, struct st_log_reply *out, struct st_err *e) ST_MUST_CHECK;
void st_log_reply_wipe(struct st_log_reply *r);
void st_log_reply_write(const struct st_log_reply *r, struct st_buf *out);

#endif
