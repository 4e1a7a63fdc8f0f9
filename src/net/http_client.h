/* HTTP client: libcurl's multi interface on the event loop of the program. Honours HTTPS_PROXY and its relatives,
 * verifies TLS, follows no redirects. Everything runs on the thread of the event base. On a base of
 * ST_HTTP_N_PRIORITY priorities a call that starts is sent before the loop does anything else. What replies of
 * net/http_server.h are given in `data` and `end` leaves when these have returned. */
#ifndef ST_NET_HTTP_CLIENT_H
#define ST_NET_HTTP_CLIENT_H

#include "base/buf.h"

#include <event2/event.h>

struct st_http_client;
struct st_http_call;

#define ST_HTTP_N_PRIORITY 2 /* for event_base_priority_init() */

struct st_http_client_opts {
    const char *ca_bundle; /* copied; PEM file; NULL = the system's */
    double connect_s;
    uint32_t max_idle; /* connections kept for reuse */
};
/* IO: the bundle cannot be read. */
int st_http_client_new(struct event_base *base, const struct st_http_client_opts *o, struct st_http_client **out,
                       struct st_err *e) ST_MUST_CHECK;
/* Ends all calls without calling `end`. */
void st_http_client_free(struct st_http_client *c);
struct event_base *st_http_client_base(const struct st_http_client *c);

struct st_http_call_opts {
    const char *url;
    const char *unix_path;     /* a Unix socket to connect to in place of the URL's host; NULL = none */
    bool direct;               /* never through HTTPS_PROXY and its relatives */
    const char *bearer;        /* NULL = none */
    const char *const *fields; /* further "Name: value" lines, ended by NULL; NULL = none */
    struct st_buf *body;       /* taken over (left empty), wiped after use; NULL = GET */
    const char *type;          /* of the body; NULL = application/json */
    double stall_s;            /* no byte for so long ends the call; 0 = the caller watches */
    size_t max_reply;          /* bytes of the reply's body */
    /* A piece of the reply's body. A value other than 0 (with *e filled) ends the call with that error. */
    int (*data)(void *arg, int status, const void *p, size_t len, struct st_err *e);
    /* Once, last. e is NULL when a whole reply came, whatever its status; IO otherwise, or what data returned. */
    void (*end)(void *arg, int status, const struct st_err *e);
    void *arg;
};
int st_http_call_start(struct st_http_client *c, const struct st_http_call_opts *o, struct st_http_call **out,
                       struct st_err *e) ST_MUST_CHECK;
/* Allowed from anywhere, callbacks included; no callback of this call comes afterwards. */
void st_http_call_cancel(struct st_http_call *call);
/* Stops and goes on taking the reply, for a reader further on that is slow; allowed from anywhere. Pieces may come
 * before going on returns. A stopped call does not stall. */
void st_http_call_pause(struct st_http_call *call, bool stop);
/* From `end` only: nothing of the request that ends has left (no address, no connection, no TLS). */
bool st_http_client_unsent(const struct st_http_client *c);
/* Content-Type of the reply, NULL when it has none; from `data` only. */
const char *st_http_call_type(const struct st_http_call *call);

/* The base of URLs, from an option: http(s)://host[:port][/path] without what may end it, '/'. *out is owned. USAGE
 * names `what`: another form, a query, or a password in it (it is printed, and command lines are visible to others). */
int st_http_base(const char *what, const char *url, char **out, struct st_err *e) ST_MUST_CHECK;
/* The same where a bearer key goes along: POLICY when it would travel in the open, by http:// beyond loopback. */
int st_http_base_for_key(const char *what, const char *url, char **out, struct st_err *e) ST_MUST_CHECK;

#endif
