/* What server.c (routes), completion.c and passing.c (one completion request each) share: the running service. Private
 * to this folder. Lives on the event thread. */
#ifndef ST_SERVICE_SERVE_H
#define ST_SERVICE_SERVE_H

#include "net/http_server.h"
#include "service/api_keys.h"
#include "service/metrics.h"
#include "service/openai.h"
#include "service/server.h"

struct st_completion;

/* Choices in progress of one API key or address. */
struct st_client {
    struct st_client *next;
    uint32_t n;
    char name[72];
};

struct st_service {
    struct event_base *base;
    struct st_http_server *http;
    struct st_server_opts o;
    struct st_gen_ref gen; /* one of these two */
    struct st_passage_ref passage;
    struct st_api_keys keys;
    struct st_metrics metrics;
    struct st_client *clients;
    struct st_completion *completions; /* all that wait for a generator */
    uint32_t chat_stops[16];
    size_t n_chat_stop;
    bool draining;
    int64_t created;
    struct st_buf piece, text, event; /* scratch of the token path */
};

/* What generator or passage say about themselves; strings are borrowed until the next call. */
void st_service_info(struct st_service *s, struct st_gen_info *out);
/* Header lines that every reply carries; *b is cleared first. */
void st_service_fields(struct st_service *s, struct st_buf *b);
/* One whole reply, counted in the metrics. extra: further header lines, or NULL. */
void st_service_reply(struct st_service *s, struct st_http_conn *c, enum st_metric_route route, double t0, int status,
                      const char *extra, const char *type, const struct st_buf *body);
void st_service_error(struct st_service *s, struct st_http_conn *c, enum st_metric_route route, double t0,
                      const struct st_oai_error *err);
/* Takes n slots of a client, or returns NULL when it has too many (or no memory is left). */
struct st_client *st_client_take(struct st_service *s, const char *name, uint32_t n);
void st_client_give(struct st_service *s, struct st_client *client, uint32_t n);

/* Answers a POST to one of the completion endpoints, now or as tokens arrive. */
void st_completion_start(struct st_service *s, struct st_http_conn *c, enum st_oai_endpoint ep, const char *client,
                         double t0);
/* The same where requests pass through. */
void st_passing_start(struct st_service *s, struct st_http_conn *c, enum st_oai_endpoint ep, const char *client,
                      double t0);
void st_passing_info(struct st_service *s, struct st_gen_info *out);
/* Borrowed until the next call. */
size_t st_passing_models(struct st_service *s, const char *const **out);
void st_passing_metrics(struct st_service *s, const struct st_gen_info *info, struct st_buf *out);
/* Further members of the object at /sotto/status, each behind a comma. */
void st_passing_status(struct st_service *s, struct st_buf *out);
/* Frees what is left once the HTTP server and the generator are gone. */
void st_completion_free_all(struct st_service *s);

#endif
