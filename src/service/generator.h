/* Where the tokens of the OpenAI endpoint come from: the engine of this process (gen_engine.c), or an upstream server
 * behind a protection (gen_upstream.c). openai.c knows only this interface: it templates and tokenises, asks a
 * generator for plaintext token ids, and turns them into text, stop strings, logprobs and events.
 *
 * Every call and every callback happens on the event thread. */
#ifndef ST_SERVICE_GENERATOR_H
#define ST_SERVICE_GENERATOR_H

#include "base/err.h"
#include "engine/sampler.h"

#include <event2/event.h>

struct st_gen_request {
    const uint32_t *ids; /* copied */
    size_t n_ids;
    uint32_t n_predict;          /* 0 = until the context is full */
    struct st_sampling sampling; /* its bias list is copied */
    const uint32_t *stop_ids;    /* copied; beside the model's own */
    size_t n_stop_ids;
    bool ignore_eos;
    uint32_t adapter; /* number of the name in st_gen_info.adapters, from 1; 0 = the model itself */
};

/* BUSY: the other side has no room, nothing was generated; the client may try again. */
enum st_gen_finish { ST_GEN_STOP, ST_GEN_LENGTH, ST_GEN_CANCELLED, ST_GEN_BUSY, ST_GEN_ERROR };

struct st_gen_events {
    void (*token)(void *arg, const struct st_sampled *tok);
    /* Last call for this request. e is NULL unless finish is ST_GEN_ERROR. */
    void (*end)(void *arg, enum st_gen_finish finish, const struct st_err *e);
};

/* A field of the API that this generator cannot carry out, and why; the neutral value is accepted. */
struct st_gen_refusal {
    const char *field, *why;
};

/* Figures of a protection that outsources layers, for /health and /metrics. */
struct st_gen_watch {
    bool ready; /* somebody is left to compute */
    uint64_t pads_ready, pads_capacity, pads_made, pads_taken, pad_waits;
    double pad_wait_s;
    uint64_t exchanges, failed, rejects, kept; /* rejects: replies that did not pass; kept: groups that stayed here */
    uint64_t bytes_up, bytes_down;
    int quarantined;
};

/* What /v1/models, /health, headers and metrics say. */
struct st_gen_info {
    char model[128];
    const char *const *adapters; /* [n_adapter] further names, of the model with an adapter each; as long as st_gen */
    uint32_t n_adapter;
    uint32_t n_ctx; /* 0 = not known yet */
    uint32_t n_vocab;
    bool ready;
    const char *protection; /* "none", "covariant", "masked", "confidential" */
    const char *scheme;     /* "none", "tight", "lwe-1280-12.8", "tdx+nvgpu" */
    const char *verified;   /* "no", "integrity", "none", "evidence" */
    const char *state;      /* what is missing, as one word; NULL = "starting" or "no worker" */
    bool watched;           /* watch is filled in */
    struct st_gen_watch watch;
    uint32_t n_running, n_waiting;
    const struct st_gen_refusal *refused[2]; /* static lists, each ended by a NULL field; NULL = nothing is */
};

struct st_gen; /* the generator's own object */

struct st_generator {
    /* *handle is valid until `end` was called; no callback comes before start has returned. POLICY: no room, try later.
     */
    int (*start)(struct st_gen *g, const struct st_gen_request *r, const struct st_gen_events *ev, void *arg,
                 void **handle, struct st_err *e);
    /* `end` is still called once (CANCELLED, or what came first), from the event loop, never from inside cancel. */
    void (*cancel)(struct st_gen *g, void *handle);
    void (*info)(struct st_gen *g, struct st_gen_info *out);
    /* Drops every request without calling `end`. */
    void (*free)(struct st_gen *g);
};

struct st_gen_ref {
    const struct st_generator *vt;
    struct st_gen *g;
};

#endif
