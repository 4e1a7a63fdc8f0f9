/* The life of a program that serves HTTP on one thread: event loop, port, signals, draining, /health and /metrics. What
 * relay, gateway, issuer, log and witness share; each brings its own routes.
 *
 * Order: st_role_new(), then whatever the role stands on the event base (an HTTP client, timers), then
 * st_role_listen(), then st_role_run() or st_role_start() and st_role_stop(). st_role_close() ends the open exchanges
 * and must come before what they use is freed; st_role_free() comes last.
 * GET /health is answered to everybody, GET /metrics to this machine only: whoever could read counters as often as he
 * likes would see when each request comes. */
#ifndef ST_SERVICE_ROLE_H
#define ST_SERVICE_ROLE_H

#include "net/http_server.h"

struct st_role;

struct st_role_opts {
    const char *host;                 /* NULL = 127.0.0.1 */
    int port;                         /* 0 = chosen by the system */
    const char *tls_cert, *tls_key;   /* PEM; NULL = plain HTTP */
    bool bearer;                      /* keys travel here: beyond loopback TLS is demanded (POLICY) */
    size_t max_head, max_body;        /* 0 = 16 KiB, 64 KiB */
    size_t max_held;                  /* bodies of all requests at once; 0 = 256 MiB */
    size_t max_unsent;                /* bytes of replies that no client has taken; 0 = 512 MiB */
    uint32_t max_conn;                /* 0 = 4096 */
    double idle_s, receive_s, send_s; /* 0 = 75, 30, 60 */
    double grace_s;                   /* SIGTERM: running requests may finish within; 0 = 30 */
    /* A whole, well-formed request that is neither /health nor /metrics, and not while draining. One reply, now or
     * later. */
    void (*request)(void *arg, struct st_http_conn *c);
    bool (*refuses_head)(void *arg, const struct st_http_conn *c); /* net/http_server.h; may be NULL */
    /* Appends lines by st_role_count(); may be NULL. */
    void (*metrics)(void *arg, struct st_buf *b);
    /* False: /health says 503. May be NULL. */
    bool (*ready)(void *arg);
    void *arg;
};

int st_role_new(struct st_role **out, struct st_err *e) ST_MUST_CHECK;
struct event_base *st_role_base(struct st_role *r);
/* Strings of *o are kept until st_role_free(). Raises the soft limit of open files to the hard one, ignores SIGPIPE.
 * IO, USAGE, INPUT as st_http_server_new(); POLICY. */
int st_role_listen(struct st_role *r, const struct st_role_opts *o, struct st_err *e) ST_MUST_CHECK;
int st_role_port(const struct st_role *r);
const char *st_role_url(const struct st_role *r); /* "http://127.0.0.1:40123" */
/* Until SIGTERM or SIGINT, then new requests get 503 and running ones may finish within grace_s; a second signal ends
 * at once. */
int st_role_run(struct st_role *r, struct st_err *e) ST_MUST_CHECK;
/* The same in a thread of its own, without signals; stop waits for its end. */
int st_role_start(struct st_role *r, struct st_err *e) ST_MUST_CHECK;
void st_role_stop(struct st_role *r);
void st_role_close(struct st_role *r);
void st_role_free(struct st_role *r);

/* "# HELP", "# TYPE" and the value of one counter or gauge, in the text form of Prometheus. name: "sotto_relay_...";
 * type: "counter" or "gauge". */
void st_role_count(struct st_buf *b, const char *name, const char *type, const char *help, uint64_t value);
/* The peer is this machine. */
bool st_role_is_local(const struct st_http_conn *c);
/* A reply without content: what a peer learns of a refusal. */
void st_role_refuse(struct st_http_conn *c, int status);

#endif
