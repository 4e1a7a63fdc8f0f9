/* HTTP/1.1 server on libevent bufferevents, with TLS from certificate files. Bytes only: it knows no route and no key.
 *
 * One exchange at a time per connection; pipelined requests wait in the socket. Reading stays on while a request is
 * answered, so that a client that goes away is noticed at once (half a close counts as going away).
 * Everything runs on the thread of the event base. Limits are in the options; a request that breaks them is answered by
 * the handler too (st_http_bad), so that every error has the same form. Sends no Server field. */
#ifndef ST_NET_HTTP_SERVER_H
#define ST_NET_HTTP_SERVER_H

#include "base/buf.h"

#include <event2/event.h>

struct st_http_server;
struct st_http_conn; /* a connection and the exchange that is open on it */

struct st_http_server_opts {
    const char *host;               /* name or address, "[::1]" or "::1" */
    int port;                       /* 0 = chosen by the system */
    const char *tls_cert, *tls_key; /* PEM files; NULL = plain */
    size_t max_head, max_body;
    size_t max_held;   /* bytes of all requests' bodies at once, beyond which one gets 503; 0 = no limit */
    size_t max_unsent; /* bytes of replies that no client has taken, beyond which the largest is cut; 0 = no limit */
    uint32_t max_conn; /* when reached, the connection that has waited longest for a request gives way */
    double idle_s, receive_s, send_s;
    /* A whole request, or one that cannot be served (st_http_bad != 0). Must lead to one reply, now or later. */
    void (*request)(void *arg, struct st_http_conn *c);
    /* Asked when the head of a request is in and its body is not, before memory is taken for it. True: `request` is
     * called at once, must refuse, and the connection ends with its reply. May be NULL. */
    bool (*refuses_head)(void *arg, const struct st_http_conn *c);
    void *arg;
};

/* IO (`host:port: address already in use`, unreadable files), USAGE (unknown host), INPUT (bad certificate or key). */
int st_http_server_new(struct event_base *base, const struct st_http_server_opts *o, struct st_http_server **out,
                       struct st_err *e) ST_MUST_CHECK;
/* Closes everything; `gone` is called for open exchanges. */
void st_http_server_free(struct st_http_server *s);
int st_http_server_port(const struct st_http_server *s);
/* Takes a connected socket as if it had been accepted; closes fd on failure. */
void st_http_server_adopt(struct st_http_server *s, int fd, const char *peer);
size_t st_http_server_conns(const struct st_http_server *s);
/* Replies that are not fully sent yet. */
size_t st_http_server_busy(const struct st_http_server *s);

/* The request; strings live until the reply ends. */
int st_http_bad(const struct st_http_conn *c, const char **why); /* 0, or the status that it deserves */
const char *st_http_method(const struct st_http_conn *c);
const char *st_http_path(const struct st_http_conn *c);
const char *st_http_query(const struct st_http_conn *c); /* behind '?'; "" when there is none */
const char *st_http_host(const struct st_http_conn *c);
const char *st_http_field(const struct st_http_conn *c, const char *name);
struct st_span st_http_body(const struct st_http_conn *c);
/* Overwrites and frees the body, for a reply that takes its time. */
void st_http_body_drop(struct st_http_conn *c);
const char *st_http_peer(const struct st_http_conn *c); /* address without port */
/* Address of this end, "127.0.0.1" or "[::1]"; "" when unknown. */
void st_http_local(const struct st_http_conn *c, char *out, size_t cap);

/* gone: the client left before the reply ended; the connection must not be used afterwards. drained: the unsent part
 * fell under 16 KiB. Both are cleared when the reply ends. */
struct st_http_watch {
    void (*gone)(void *arg);
    void (*drained)(void *arg);
    void *arg;
};
void st_http_watch(struct st_http_conn *c, const struct st_http_watch *w);

/* fields: further header lines, each ended by CRLF, or NULL. The reply is complete afterwards. */
void st_http_reply(struct st_http_conn *c, int status, const char *fields, const char *type, const void *body,
                   size_t len);
/* A reply in pieces (chunked; HTTP/1.0 clients get a body that ends with the connection). */
void st_http_stream_begin(struct st_http_conn *c, int status, const char *fields, const char *type);
void st_http_stream_send(struct st_http_conn *c, const void *p, size_t len);
void st_http_stream_end(struct st_http_conn *c);
/* The reply cannot go on: what was sent leaves, then the connection ends where a chunk should come, so that the client
 * sees a cut and no whole reply. */
void st_http_stream_cut(struct st_http_conn *c);
/* No further request on this connection after the current reply. */
void st_http_close_after(struct st_http_conn *c);
/* Between these two, which may be nested, all replies of this thread gather what is put into them; the last pass()
 * sends it. For whoever passes on what comes from elsewhere: pieces that come together leave together, and none waits
 * until the event loop has been around all the other connections. Pass may free connections. */
void st_http_gather(void);
void st_http_pass(void);
/* Bytes of the reply that the client has not taken yet. */
size_t st_http_unsent(const struct st_http_conn *c);

#endif
