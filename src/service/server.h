/* The OpenAI-compatible endpoint of `sotto serve` and `sotto proxy`: routes, keys, limits, metrics, over any generator,
 * or over a passage that carries requests to somebody else as they are.
 *
 * Listens on 127.0.0.1 unless told otherwise; beyond loopback an API key file is required (POLICY). Requests whose Host
 * header is not on the allow-list get 403, so that a web page cannot reach a local server by rebinding a name.
 * Whoever reaches the port and has a key sees replies to its own requests only. Nothing of a request is logged or kept.
 * Limits: HTTP/1.1; one model; bodies up to max_body; docs/openai.md lists every field. */
#ifndef ST_SERVICE_SERVER_H
#define ST_SERVICE_SERVER_H

#include "model/chat.h"
#include "service/generator.h"
#include "service/passage.h"

/* Where tokens come from. open() is called once with the server's event base, before the port opens:
 * {st_gen_engine_open, &(struct st_gen_engine_opts){...}} or {st_gen_upstream_open, &(struct
 * st_gen_upstream_opts){...}}. */
struct st_gen_source {
    int (*open)(const void *opts, struct event_base *base, struct st_gen_ref *out, struct st_err *e);
    const void *opts; /* read during open only; what it points at: see the generator's header */
};

struct st_server_limits {
    size_t max_body;     /* bytes of a request body; 0 = 256 KiB + 64 per token of the context, at most 8 MiB */
    size_t max_header;   /* bytes of a request head; 0 = 32 KiB */
    uint32_t max_conn;   /* open connections; 0 = 4096 */
    uint32_t max_client; /* choices in progress per API key (or address, without keys); 0 = no limit */
    double idle_s;       /* an idle kept-alive connection is closed; 0 = 75 */
    double receive_s;    /* a request must arrive whole within; 0 = 60 */
    double send_s;       /* a client that reads nothing for so long is dropped; 0 = 120 */
    double grace_s;      /* SIGTERM: running requests may finish within; 0 = 30 */
};

enum st_server_tap { ST_TAP_REQUEST, ST_TAP_REPLY };

struct st_server_opts {
    const char *host;         /* NULL = 127.0.0.1 */
    int port;                 /* 0 = chosen by the system */
    const char *api_key_file; /* one key per line, '#' comments; NULL = any key is accepted */
    const char *tls_cert;     /* PEM chain; NULL = plain HTTP */
    const char *tls_key;
    const char *const *allowed_hosts; /* beside localhost, 127.0.0.1, [::1] and the listening address */
    size_t n_allowed_host;
    struct st_server_limits limits;
    const struct st_tokenizer *tokenizer; /* borrowed; NULL = token ids only */
    const struct st_chat_template *chat;  /* NULL = no chat endpoint */
    struct st_gen_source source;
    struct st_passage_source passage; /* in place of source, tokenizer and chat: requests pass through as JSON */
    /* Called once everything is open and the port listens, before the first request is read: where a process gives up
     * what it needs no more (base/sandbox.h). An error ends the server. May be NULL. */
    int (*settle)(void *arg, struct st_err *e);
    /* Appends members (`,"name":...`) to the object of /sotto/status. May be NULL. */
    void (*status)(void *arg, struct st_buf *b);
    /* Called on the event thread when the port is open; url is http(s)://host:port. May be NULL. */
    void (*on_listen)(void *arg, const char *url, int port);
    /* Called on the event thread with the bodies of completion requests and replies (stream: per event). May be NULL.
     */
    void (*tap)(void *arg, enum st_server_tap dir, const void *p, size_t len);
    void *arg;
};

/* Runs until SIGTERM or SIGINT, then drains: new requests get 503, running ones finish within grace_s; a second signal
 * ends at once. Ignores SIGPIPE and raises the soft limit of open files to the hard one.
 * Errors: IO (`127.0.0.1:7789: address already in use`, key or certificate file), POLICY (no API key beyond loopback),
 * INPUT (empty key file, bad certificate), USAGE (host), and those of the generator. */
int st_server_run(const struct st_server_opts *o, struct st_err *e) ST_MUST_CHECK;

/* The same in a thread of its own, without signal handling. Everything *o points at is kept until st_server_stop. */
struct st_server;
int st_server_start(const struct st_server_opts *o, struct st_server **out, struct st_err *e) ST_MUST_CHECK;
int st_server_port(const struct st_server *s);
const char *st_server_url(const struct st_server *s); /* "http://127.0.0.1:40123", without /v1 */
void st_server_stop(struct st_server *s);             /* ends running requests; NULL is fine */

#endif
