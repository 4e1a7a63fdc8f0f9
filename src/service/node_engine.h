/* The engine behind a node: where it is, which one it is, and how its prefix cache is kept from telling one client what
 * another has asked (a prompt that begins like another's is answered sooner). Each known engine is a row in
 * node_engine.c that says what must be seen of it: a cache that is off, or one that is salted with every request. An
 * engine that shows neither is refused (POLICY), also when another one stands at the same address later: it is looked
 * at again every LOOK_S seconds and whenever a call to it has failed. Reached over a Unix socket or loopback only.
 * Sends nothing of a user by itself. Event thread. */
#ifndef ST_SERVICE_NODE_ENGINE_H
#define ST_SERVICE_NODE_ENGINE_H

#include "net/http_client.h"
#include "text/json.h"

enum st_node_cache {
    ST_NODE_CACHE_NONE,   /* the engine has none, or it is switched off */
    ST_NODE_CACHE_OFF,    /* each request switches it off for itself */
    ST_NODE_CACHE_SALTED, /* each request salts it */
};

struct st_node_engine;
struct st_node_engine_opts {
    struct event_base *base;
    const char *upstream; /* "unix:PATH" or "http://HOST:PORT"; kept */
    /* It has become usable, or is refused (e: POLICY). What only keeps it from being reached is not told. May be NULL.
     */
    void (*judged)(void *arg, const struct st_err *e);
    void *arg;
};
/* Begins to look at it. USAGE: no address; POLICY: neither a Unix socket nor loopback. */
int st_node_engine_new(const struct st_node_engine_opts *o, struct st_node_engine **out,
                       struct st_err *e) ST_MUST_CHECK;
/* Cancels every call. */
void st_node_engine_free(struct st_node_engine *g);
bool st_node_engine_ready(const struct st_node_engine *g);
/* Why it is not; a zeroed error before anything is known. */
const struct st_err *st_node_engine_why(const struct st_node_engine *g);
/* "vLLM", and what keeps clients apart: "its prefix cache is salted per request"; "" until it is known. */
const char *st_node_engine_name(const struct st_node_engine *g);
const char *st_node_engine_cache(const struct st_node_engine *g);

/* TCP port, 0 for a Unix socket. */
uint16_t st_node_engine_port(const struct st_node_engine *g);

/* Sets what the engine's cache needs in a checked body. salt: "" = a random one. *slot: for st_node_engine_left() once
 * the request is over, also when this fails. */
int st_node_engine_apart(struct st_node_engine *g, json_t *body, const char *salt, int *slot,
                         struct st_err *e) ST_MUST_CHECK;
void st_node_engine_left(struct st_node_engine *g, int slot); /* -1 is fine */
/* A call to a path of the engine: fills in where, then as st_http_call_start(). */
int st_node_engine_call(struct st_node_engine *g, const char *path, struct st_http_call_opts *o,
                        struct st_http_call **out, struct st_err *e) ST_MUST_CHECK;
/* A call has failed: nothing more is sent before it was looked at again. */
void st_node_engine_doubt(struct st_node_engine *g);

#endif
