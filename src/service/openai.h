/* OpenAI's request and reply shapes: bytes to a checked struct, and reply parts to JSON. No socket, no tokenizer calls
 * but the pieces of logprobs. openai_fields.def decides about every field; a field that is not there is refused by
 * name. Source: OpenAI API reference (chat completions, completions); vLLM's extensions for token ids. */
#ifndef ST_SERVICE_OPENAI_H
#define ST_SERVICE_OPENAI_H

#include "engine/sampler.h"
#include "model/chat.h"
#include "service/generator.h"
#include "text/json.h"

enum {
    ST_OAI_MAX_STOP = 16,
    ST_OAI_MAX_STOP_LEN = 1024, /* bytes of one stop string */
    ST_OAI_MAX_STOP_IDS = 64,
    ST_OAI_MAX_BIAS = 300,
    ST_OAI_MAX_N = 8,
    ST_OAI_MAX_MSG = 4096,
};

enum st_oai_endpoint { ST_OAI_CHAT = 1, ST_OAI_TEXT = 2 };

/* {"error":{"message","type","param","code"}} and its HTTP status. */
struct st_oai_error {
    int status;
    const char *type, *code; /* static; code may be NULL */
    char param[96];          /* "" = null */
    char message[512];
};

struct st_oai_request {
    enum st_oai_endpoint endpoint;
    bool sealed;              /* checked for an engine behind a seal */
    json_t *body;             /* owns every text below; after trim the stop strings */
    const char *model;        /* NULL = not given */
    struct st_chat_msg *msgs; /* chat; texts in body or in joined */
    size_t n_msg;
    struct st_buf joined; /* texts of messages that came in parts */
    const char *text;     /* completions: a text ... */
    uint32_t *ids;        /* ... or ids */
    size_t n_ids;
    int64_t max_tokens; /* 0 = not given */
    bool stream, include_usage, ignore_eos, want_ids, tokens_as_ids, add_special, has_seed, legacy_logprobs;
    int n;
    struct st_sampling sampling; /* bias points to the array below */
    struct st_logit_bias bias[ST_OAI_MAX_BIAS];
    const char *stop[ST_OAI_MAX_STOP];
    int n_stop;
    uint32_t stop_ids[ST_OAI_MAX_STOP_IDS];
    size_t n_stop_ids;
};

/* Returns 0, or -1 with *err filled. *r is to be wiped in both cases. It holds the prompt. */
int st_oai_parse(enum st_oai_endpoint ep, const void *body, size_t len, struct st_oai_request *r,
                 struct st_oai_error *err) ST_MUST_CHECK;
/* The same for a request that goes sealed to an engine elsewhere (`sealed` in openai_fields.def). Tools pass. */
int st_oai_parse_sealed(enum st_oai_endpoint ep, const void *body, size_t len, struct st_oai_request *r,
                        struct st_oai_error *err) ST_MUST_CHECK;
/* Appends what of it is sent, for this model (NULL = as it says). MEMORY. */
int st_oai_put_sealed(const struct st_oai_request *r, const char *model, struct st_buf *out,
                      struct st_err *e) ST_MUST_CHECK;
/* What was accepted, against what the generator behind it refuses (NULL: nothing). -1 with *err filled. */
int st_oai_check_refused(const struct st_oai_request *r, const struct st_gen_refusal *list,
                         struct st_oai_error *err) ST_MUST_CHECK;
/* Once the prompt is ids: drops everything but numbers and stop strings, so that a request that waits or runs for long
 * holds neither its text nor the memory of a large body. */
void st_oai_request_trim(struct st_oai_request *r);
void st_oai_request_wipe(struct st_oai_request *r);

/* Fills *err; returns -1. param NULL = null. */
int st_oai_fail(struct st_oai_error *err, int status, const char *type, const char *code, const char *param,
                const char *fmt, ...) ST_PRINTF(6, 7);
/* An error of the program as the client sees it: status, stable code (network, integrity, policy, ...). */
void st_oai_from_err(struct st_oai_error *err, const struct st_err *e);
void st_oai_error_json(const struct st_oai_error *err, struct st_buf *out);

/* Ids as a JSON array. */
void st_oai_put_ids(struct st_buf *b, const uint32_t *ids, size_t n);
/* Logprobs of one token. chat: one object of `content`. Else four parts of the legacy object are kept by the caller. */
void st_oai_put_chat_logprob(struct st_buf *b, const struct st_tokenizer *t, bool as_ids, const struct st_sampled *s);
struct st_oai_legacy {
    struct st_buf tokens, token_logprobs, top_logprobs, text_offset; /* array contents without brackets */
};
void st_oai_legacy_add(struct st_oai_legacy *l, const struct st_tokenizer *t, bool as_ids, const struct st_sampled *s,
                       size_t text_offset);
void st_oai_legacy_put(struct st_buf *b, const struct st_oai_legacy *l);
void st_oai_legacy_clear(struct st_oai_legacy *l);
void st_oai_legacy_free(struct st_oai_legacy *l);
/* {"prompt_tokens":..,"completion_tokens":..,"total_tokens":..} */
void st_oai_put_usage(struct st_buf *b, size_t n_prompt, size_t n_reply);
const char *st_oai_finish_word(enum st_gen_finish f);

#endif
