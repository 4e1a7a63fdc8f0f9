/* Where replies of the OpenAI endpoint come from when they are not made of token ids here: requests pass through as
 * JSON, sealed for somebody else, and replies come back as JSON or server-sent events. server.c keeps routes, keys,
 * limits and metrics; a passage carries one request. Every call and callback happens on the event thread. */
#ifndef ST_SERVICE_PASSAGE_H
#define ST_SERVICE_PASSAGE_H

#include "base/buf.h"
#include "text/json.h"

#include <event2/event.h>

struct st_passage_request {
    const char *path;    /* "/v1/chat/completions" or "/v1/completions" */
    struct st_span body; /* JSON whose fields the server has checked against docs/openai.md; copied */
    bool stream;
    const char *model;  /* one of the passage's; "" where nodes name none */
    int64_t max_tokens; /* of one choice; 0 = not said */
    int n;              /* choices */
    bool logprobs;
    const char *client; /* API key's name or address: what may share a prefix cache; never sent */
};

/* Why a passage failed: the stable word of the client's error. */
enum st_passage_fault {
    ST_FAULT_NETWORK,     /* cannot be reached, cut */
    ST_FAULT_STALE,       /* evidence or log too old */
    ST_FAULT_MEASUREMENT, /* "measurement_changed" */
    ST_FAULT_INTEGRITY,   /* a reply or receipt that does not verify */
    ST_FAULT_POLICY,      /* no node that the policy accepts; payment */
};
const char *st_passage_fault_word(enum st_passage_fault f);

struct st_passage_events {
    /* Once, before data, when the reply begins: status and content type of the node's answer. */
    void (*head)(void *arg, int status, const char *type);
    void (*data)(void *arg, const void *p, size_t len);
    /* Last call. e NULL: the reply is complete and its receipt verified. */
    void (*end)(void *arg, enum st_passage_fault fault, const struct st_err *e);
};

struct st_passage_info {
    bool ready;        /* at least the minimum number of verified nodes, and a token */
    const char *state; /* "ok", "starting", or the word of what is missing */
    const char *why;   /* a sentence when it is not ready; NULL otherwise. This and what follows: borrowed until the
                          next call of the passage */
    const char *const *models;
    size_t n_model;
    const char *scheme;   /* kinds of evidence: "tdx+nvgpu" */
    const char *verified; /* "evidence", "no" */
    uint32_t n_running;
    uint64_t verifications, verification_failures, retries, receipts, units;
    json_t *detail; /* for /sotto/status: nodes with their verdicts; owned by the caller; may be NULL */
};

struct st_passage; /* the passage's own object */
struct st_passage_type {
    /* *handle is valid until `end` was called; no callback comes before start has returned. On error *fault says what
     * kind; INPUT, MEMORY and INTERNAL speak for themselves. */
    int (*start)(struct st_passage *p, const struct st_passage_request *r, const struct st_passage_events *ev,
                 void *arg, void **handle, enum st_passage_fault *fault, struct st_err *e);
    /* No callback comes afterwards. */
    void (*cancel)(struct st_passage *p, void *handle);
    /* Stops and goes on taking the reply, for a client that reads slowly. */
    void (*pause)(struct st_passage *p, void *handle, bool stop);
    void (*info)(struct st_passage *p, bool detail, struct st_passage_info *out);
    void (*free)(struct st_passage *p); /* drops every request without calling `end` */
};
struct st_passage_ref {
    const struct st_passage_type *vt;
    struct st_passage *p;
};

/* For st_server_opts: open() is called once with the server's event base, before the port opens. */
struct st_passage_source {
    int (*open)(const void *opts, struct event_base *base, struct st_passage_ref *out, struct st_err *e);
    const void *opts; /* read during open only; what it points at: see the passage's header */
};

#endif
