/* What wallets and gateways say to an issuer, and its answer, as JSON (docs/confidential.md). Bytes in, bytes out;
 * hostile input on both sides. Blinded messages and signatures tell nothing about tokens. */
#ifndef ST_CHANNEL_ISSUE_H
#define ST_CHANNEL_ISSUE_H

#include "channel/token.h"

#define ST_ISSUE_MAX 64 /* tokens of one purchase; of one refund ST_CHANGE_MAX */
#define ST_ISSUE_ID 16
/* Bytes of JSON: of a request, of an answer. */
#define ST_ISSUE_MAX_BYTES ((size_t)64 << 10)

enum st_issue_kind { ST_ISSUE_PURCHASE, ST_ISSUE_REFUND };

struct st_issue {
    enum st_issue_kind kind;
    uint8_t id[ST_ISSUE_ID]; /* of a purchase */
    struct st_token token;   /* of a refund */
    size_t n;
    struct {
        uint32_t day, units;
        struct st_span blinded; /* points into bytes, or into the caller's memory when it is to be written */
    } of[ST_ISSUE_MAX];
    struct st_buf bytes;
};
/* INPUT names the field. End with st_issue_wipe(), also when it fails. */
int st_issue_parse(enum st_issue_kind kind, struct st_span json, struct st_issue *out, struct st_err *e) ST_MUST_CHECK;
void st_issue_write(const struct st_issue *r, struct st_buf *out);
void st_issue_wipe(struct st_issue *r);
/* The sum of what it asks for. */
uint32_t st_issue_units(const struct st_issue *r);
/* SHA-256 by which the same request is known again: of everything but a purchase's id and a refund's token. */
int st_issue_digest(const struct st_issue *r, uint8_t out[32], struct st_err *e) ST_MUST_CHECK;

struct st_issue_answer {
    size_t n;
    struct st_span signature[ST_ISSUE_MAX]; /* points into bytes, or into the caller's memory */
    struct st_buf bytes;
};
/* INPUT, also unless there are `n` signatures. End with st_issue_answer_wipe(). */
int st_issue_answer_parse(struct st_span json, size_t n, struct st_issue_answer *out, struct st_err *e) ST_MUST_CHECK;
void st_issue_answer_write(const struct st_issue_answer *a, struct st_buf *out);
void st_issue_answer_wipe(struct st_issue_answer *a);

/* Refusals: {"error": {"code": WORD, "units": N}}, where units says what the account has left (code "units"). The word
 * of an unknown or no refusal is "". INPUT: not JSON of that form. */
#define ST_ISSUE_WORD 16
int st_issue_refusal_parse(struct st_span json, char word[ST_ISSUE_WORD], int64_t *units,
                           struct st_err *e) ST_MUST_CHECK;
void st_issue_refusal_write(const char *word, int64_t units, struct st_buf *out);

#endif
