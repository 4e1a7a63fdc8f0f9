/* What the files of the node share. Private to this folder; event thread. */
#ifndef ST_SERVICE_NODE_PRIV_H
#define ST_SERVICE_NODE_PRIV_H

#include "service/node.h"
#include "service/node_child.h"
#include "service/node_engine.h"
#include "service/node_evidence.h"
#include "service/node_keys.h"

struct st_node_exchange;

struct st_node_counts {
    uint64_t requests;      /* that opened */
    uint64_t refused;       /* that did not */
    uint64_t faulty;        /* opened, and refused under the seal */
    uint64_t engine_failed; /* the engine could not be asked, or broke off */
    uint64_t gone;          /* the other side left */
    uint64_t running;
};

struct st_node {
    struct st_node_opts o;
    struct st_role *role;
    struct st_node_keys keys;
    struct st_node_evidence *evidence;
    struct st_node_engine *engine;
    struct st_node_child *child;
    struct event *second;
    struct event *soon; /* replies are prepared while engines work */
    struct st_node_exchange *exchanges;
    struct st_node_counts counts;
    uint8_t model[32], command[32]; /* digests */
    struct st_err refused;          /* what the engine is refused for */
    bool serving;
    char sandbox[128];
    struct st_err ended;  /* why the engine, its child, has */
    struct st_err failed; /* why the node ends */
};

/* node_exchange.c: POST / from its sealed body to the end of its reply. */
void st_node_exchange_start(struct st_node *n, struct st_http_conn *c);
/* An engine works on something: what the reply needs is made ahead. */
void st_node_exchanges_prepare(struct st_node *n);
/* The evidence was looked at just now: those that waited for it go on. */
void st_node_exchanges_checked(struct st_node *n);
/* Once the server is closed: what is left. */
void st_node_exchanges_free(struct st_node *n);

#endif
