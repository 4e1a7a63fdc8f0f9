/* What the two dialects of OpenAI's /v1/completions share: the fields of the API itself, the shape of an event, and
 * logprobs as parallel arrays. They differ in how a token is named. */
#ifndef ST_SERVICE_UPSTREAM_OPENAI_H
#define ST_SERVICE_UPSTREAM_OPENAI_H

#include "service/upstream.h"

/* {"model":..,"prompt": */
void st_openai_put_head(const struct st_upstream_ask *a, struct st_buf *b);
/* ,"max_tokens":.. and the sampling fields of OpenAI's API, logprobs and logit_bias. */
void st_openai_put_fields(const struct st_upstream_ask *a, struct st_buf *b);

/* max_model_len of an entry of /v1/models (vLLM, SGLang, sotto). */
int64_t st_openai_context(const json_t *model);

/* {"choices":[{.., "finish_reason"}]}: calls take for the choice's tokens, then reads the finish. */
int st_openai_event(struct st_upstream_reply *r, const json_t *event,
                    int (*take)(struct st_upstream_reply *r, const json_t *choice, struct st_err *e),
                    struct st_err *e) ST_MUST_CHECK;

/* A token's name in logprobs to a plain id. */
typedef int st_openai_name(const struct st_upstream_reply *r, const char *name, uint32_t *plain, struct st_err *e);
/* Logprobs of token i of n of a choice into tok, whose id is set. */
int st_openai_logprobs(const struct st_upstream_reply *r, const json_t *choice, size_t i, size_t n,
                       st_openai_name *name, struct st_sampled *tok, struct st_err *e) ST_MUST_CHECK;

#endif
