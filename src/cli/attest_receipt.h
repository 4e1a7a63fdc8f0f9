/* A saved receipt of a reply (channel/receipt.h) against evidence: further claims and checks of a verdict. */
#ifndef ST_CLI_ATTEST_RECEIPT_H
#define ST_CLI_ATTEST_RECEIPT_H

#include "attest/policy.h"
#include "channel/receipt.h"

struct st_saved_receipt {
    uint8_t bytes[ST_RECEIPT_LEN];
    struct st_receipt says; /* not verified */
};
/* The file holds it in hexadecimal, or as bytes. INPUT, UNSUPPORTED: it is none; IO. */
int st_saved_receipt_read(const char *path, struct st_saved_receipt *out, struct st_err *e) ST_MUST_CHECK;
/* Adds receipt.key, receipt.signature and receipt.model, and of request and reply where files with their contents are
 * given (NULL = not compared); the verdict stays good only when all pass. IO: a file cannot be read. */
int st_saved_receipt_judge(const struct st_saved_receipt *r, const struct st_bundle *b, const char *request,
                           const char *reply, struct st_verdict *v, struct st_err *e) ST_MUST_CHECK;

#endif
