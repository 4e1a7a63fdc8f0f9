/* Whether the upstream is there, and what it is: asks for /v1/models (and for the context length elsewhere, if that
 * does not tell it) now and then, in the background. Sends nothing of a user. */
#ifndef ST_SERVICE_UPSTREAM_PROBE_H
#define ST_SERVICE_UPSTREAM_PROBE_H

#include "net/http_client.h"
#include "service/upstream.h"

struct st_upstream_state {
    bool ready;
    char model[128];
    uint32_t n_ctx; /* 0 = unknown */
    const struct st_upstream_dialect *dialect;
};

struct st_upstream_probe_opts {
    struct event_base *base;
    struct st_http_client *client;             /* borrowed, as all that follows, until the probe is freed */
    const char *url;                           /* without a slash at its end */
    const char *bearer;                        /* NULL = none */
    const char *model;                         /* that must be there; NULL = the first */
    const struct st_upstream_dialect *dialect; /* NULL = as the server calls itself */
    uint32_t n_ctx;                            /* at most so long; 0 = unknown */
};

struct st_upstream_probe;
int st_upstream_probe_new(const struct st_upstream_probe_opts *o, struct st_upstream_probe **out,
                          struct st_err *e) ST_MUST_CHECK;
/* Changes only in the event loop. */
const struct st_upstream_state *st_upstream_probe_state(const struct st_upstream_probe *p);
void st_upstream_probe_free(struct st_upstream_probe *p);

#endif
