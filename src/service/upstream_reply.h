/* What an upstream streams back for one request, checked as hostile input: events to cipher ids, and those to plain
 * tokens. Dialect "openai-ids": /v1/completions of vLLM and of `sotto serve` with return_token_ids and
 * return_tokens_as_token_ids. */
#ifndef ST_SERVICE_UPSTREAM_REPLY_H
#define ST_SERVICE_UPSTREAM_REPLY_H

#include "protect/covariant/covariant.h"
#include "service/generator.h"
#include "text/sse.h"

struct st_upstream_reply {
    const struct st_cov_cipher *cipher; /* borrowed, as the lists below */
    const uint32_t *ends;               /* plain ids that end the reply and are not part of it */
    size_t n_end;
    const uint32_t *more_ends;
    size_t n_more_end;
    size_t max_tokens;
    int n_logprobs;
    void (*token)(void *arg, const struct st_sampled *tok);
    void *arg;
    struct st_sse sse;
    size_t n_tok;
    bool saw_ids, finished;
    enum st_gen_finish finish; /* valid once finished */
};

/* max_event bounds one event. The fields above sse are the caller's. */
void st_upstream_reply_init(struct st_upstream_reply *r, size_t max_event);
/* VERIFY: what cannot be true (ids out of range, too many, logprobs of other tokens); UNSUPPORTED: an upstream that
 * does not know the dialect; IO: an error that the upstream reports. Messages hold nothing that the upstream wrote but
 * an error code. */
int st_upstream_reply_feed(struct st_upstream_reply *r, const void *p, size_t len, struct st_err *e) ST_MUST_CHECK;
void st_upstream_reply_wipe(struct st_upstream_reply *r);

/* The stable code word in an OpenAI error body: letters, digits and '_' only, else "". */
void st_upstream_error_code(const void *body, size_t len, char out[48]);

#endif
