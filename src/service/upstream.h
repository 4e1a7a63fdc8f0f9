/* Dialects of upstream servers: how a request is written, and what streams back. A dialect is one const struct in a
 * file of its own and one row in upstreams.def. What is common is here: events to ids, ids to plain tokens, every
 * value checked as hostile input.
 *
 * Every dialect sends enciphered ids and sampling numbers, asks for a stream of server-sent events, and takes the model
 * from {"data":[{"id","owned_by"}]} of /v1/models. What a dialect cannot carry is refused by name before anything is
 * sent (`refused`); stop strings, templates and usage never reach it. */
#ifndef ST_SERVICE_UPSTREAM_H
#define ST_SERVICE_UPSTREAM_H

#include "protect/covariant/covariant.h"
#include "service/generator.h"
#include "text/json.h"
#include "text/sse.h"

struct st_upstream_dialect;

/* One request, as a dialect writes it. */
struct st_upstream_ask {
    const struct st_gen_request *r; /* plain ids; n_predict is not 0 */
    const struct st_cov_cipher *cipher;
    const char *model;
    struct st_stream *choice; /* of homophones; NULL when the cipher has none */
};

/* One reply. The fields above sse are the caller's. */
struct st_upstream_reply {
    const struct st_upstream_dialect *dialect;
    const struct st_cov_cipher *cipher; /* borrowed, as the lists below */
    const uint32_t *ends;               /* plain ids that end the reply and are not part of it */
    size_t n_end;
    const uint32_t *more_ends;
    size_t n_more_end;
    size_t n_prompt, max_tokens;
    int n_logprobs;
    void (*token)(void *arg, const struct st_sampled *tok);
    void *arg;
    struct st_sse sse;
    size_t n_tok;
    bool finished, saw_ids;
    bool hang_up;              /* finished by an id that the other side does not know to end on */
    enum st_gen_finish finish; /* valid once finished */
    char part[8];              /* openai-text: the beginning of a word */
    size_t n_part;
};

struct st_upstream_dialect {
    const char *name;
    const char *owner; /* `owned_by` of a server that speaks it: how `auto` knows it; NULL = never guessed */
    const char *path;  /* completions are POSTed there */
    /* Where the context length is told, if /v1/models does not; NULL = nowhere. */
    const char *context_path;
    int64_t (*context)(const json_t *reply); /* of one entry of /v1/models, or of context_path; 0 = not told */
    bool cumulative;                         /* an event repeats the reply so far */
    bool no_stop_ids;                        /* it is not told stop ids: the reply ends here, and the connection */
    const struct st_gen_refusal *refused;    /* ended by a NULL field */
    void (*put)(const struct st_upstream_ask *a, struct st_buf *body);
    int (*event)(struct st_upstream_reply *r, const json_t *event, struct st_err *e);
};

extern const struct st_upstream_dialect *const st_upstream_dialects[];
extern const size_t st_upstream_n_dialect;
/* NULL when there is none of that name. */
const struct st_upstream_dialect *st_upstream_named(const char *name);
/* The dialect of a server that calls itself owner (NULL or unknown: the first). */
const struct st_upstream_dialect *st_upstream_owned(const char *owner);
/* "openai-ids, llama.cpp, ..." */
void st_upstream_names(char *out, size_t size);

/* Bounds of one event, and of a whole reply. */
size_t st_upstream_max_event(const struct st_upstream_dialect *d, const struct st_gen_request *r);
size_t st_upstream_max_reply(const struct st_upstream_dialect *d, const struct st_gen_request *r);

/* max_event bounds one event. */
void st_upstream_reply_init(struct st_upstream_reply *r, size_t max_event);
/* VERIFY: what cannot be true (ids out of range, too many, logprobs of other tokens); UNSUPPORTED: an upstream that
 * does not know the dialect; IO: an error that the upstream reports. Messages hold nothing that the upstream wrote but
 * an error code. */
int st_upstream_reply_feed(struct st_upstream_reply *r, const void *p, size_t len, struct st_err *e) ST_MUST_CHECK;
void st_upstream_reply_wipe(struct st_upstream_reply *r);

/* The stable code word in an error body: letters, digits and '_' only, else "". */
void st_upstream_error_code(const void *body, size_t len, char out[48]);

/* ---- for the dialects ---- */

/* A token of the prompt under the cipher: one of its ids, by chance. */
uint32_t st_upstream_encipher(const struct st_upstream_ask *a, uint32_t plain);
/* The ids of the prompt under the cipher, comma between them. */
void st_upstream_put_prompt(const struct st_upstream_ask *a, struct st_buf *b);
/* ,"KEY":V unless it is neutral. */
void st_upstream_put_real(struct st_buf *b, const char *key, float v, float neutral);
/* ,"logit_bias":{"ID":V,..} and ,"stop_token_ids":[..], unless empty. */
void st_upstream_put_bias(const struct st_upstream_ask *a, struct st_buf *b);
void st_upstream_put_stop_ids(const struct st_upstream_ask *a, struct st_buf *b);

/* A cipher id (JSON integer) to a plain one. VERIFY. */
int st_upstream_id(const struct st_upstream_reply *r, const json_t *v, uint32_t *plain, struct st_err *e) ST_MUST_CHECK;
int st_upstream_logprob(const json_t *v, float *out, struct st_err *e) ST_MUST_CHECK;
/* The best n_logprobs of all[n] into tok; sorts all. */
void st_upstream_top(const struct st_upstream_reply *r, struct st_logprob *all, size_t n, struct st_sampled *tok);
/* Whether this id ends the reply; if so, the reply is finished. */
bool st_upstream_ends(struct st_upstream_reply *r, uint32_t plain);
/* Hands one token on. VERIFY: more than were asked for. */
int st_upstream_token(struct st_upstream_reply *r, const struct st_sampled *tok, struct st_err *e) ST_MUST_CHECK;
void st_upstream_finish(struct st_upstream_reply *r, enum st_gen_finish f);
/* Fills e and returns its code: an event that is none of this dialect, logprobs that do not belong to the tokens. */
int st_upstream_not_ours(struct st_err *e) ST_MUST_CHECK;
int st_upstream_bad_logprobs(struct st_err *e) ST_MUST_CHECK;

#endif
