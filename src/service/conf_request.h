/* One request of a client on its way: what conf_client.c (the passage) and conf_request.c share. Private to them. */
#ifndef ST_SERVICE_CONF_REQUEST_H
#define ST_SERVICE_CONF_REQUEST_H

#include "service/conf_client.h"
#include "service/conf_nodes.h"

struct st_conf_request;
struct st_passage {
    struct st_conf_client_opts o;
    struct st_policy *policy;
    struct st_conf_way way;
    struct st_conf_nodes *nodes;
    struct st_conf_request *requests;
    uint32_t n_live;
    uint8_t secret[32]; /* of salts of prefix caches; new with every process */
    size_t chunk;       /* sealed bytes of the chunks that nodes send, as last seen */
    uint64_t n_retry, n_receipt, n_failed;
};

int st_conf_request_start(struct st_passage *p, const struct st_passage_request *r, const struct st_passage_events *ev,
                          void *arg, void **handle, enum st_passage_fault *fault, struct st_err *e);
void st_conf_request_cancel(struct st_passage *p, void *handle);
void st_conf_request_pause(struct st_passage *p, void *handle, bool stop);

#endif
