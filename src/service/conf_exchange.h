/* One exchange with the gateway, behind the relay: sealed for the gateway's key (service/conf_sealed.h), POSTed to the
 * relay, and the reply opened as it comes. One that pays takes a token first, sends blanks for its change along, and
 * puts what comes back into the wallet. Everything runs on the thread of the event base.
 *
 * A token that never left this machine goes back into the wallet; one that left and whose reply is lost is lost with
 * its change, and so is that of an exchange that is cancelled in between. Errors: IO (relay or gateway not reached,
 * cut), VERIFY and INPUT (what came does not open, or is no reply), POLICY (no token), MEMORY. */
#ifndef ST_SERVICE_CONF_EXCHANGE_H
#define ST_SERVICE_CONF_EXCHANGE_H

#include "channel/bhttp.h"
#include "channel/ohttp_config.h"
#include "net/http_client.h"
#include "service/conf_spare.h"
#include "service/wallet.h"

/* What all exchanges share; kept by its owner while any runs. */
struct st_conf_way {
    struct event_base *base;
    struct st_http_client *http;
    char *relay; /* base URL, owned */
    struct st_wallet *wallet;
    struct st_spares *spares;       /* of exchanges with gateway and nodes; NULL = none */
    struct st_ohttp_config gateway; /* its key, from the directory */
    bool has_gateway;
    uint32_t price_request;
    uint64_t unit_bytes;
    double stall_s;
    bool show_egress; /* print on standard error what leaves */
    uint64_t n_sent, bytes_up, bytes_down, units_charged;
};

struct st_conf_exchange;
struct st_conf_exchange_opts {
    const char *method, *path; /* copied */
    struct st_buf *content;    /* taken over (left empty), wiped after use; NULL = none */
    uint32_t units;            /* what a token should be worth; 0 = nothing is paid */
    uint64_t max_reply;        /* bytes of content */
    /* Pieces of the reply's content, once its status is known. An error ends the exchange with it. May be NULL. */
    int (*data)(void *arg, unsigned status, struct st_span piece, struct st_err *e);
    /* Once, last; e is NULL when the whole reply came, whatever its status. The exchange is gone afterwards. No
     * callback comes before start has returned. */
    void (*end)(void *arg, unsigned status, const struct st_err *e);
    void *arg;
};

int st_conf_exchange_start(struct st_conf_way *way, const struct st_conf_exchange_opts *o,
                           struct st_conf_exchange **out, struct st_err *e) ST_MUST_CHECK;
/* No callback comes afterwards. Not from `data`. */
void st_conf_exchange_cancel(struct st_conf_exchange *x);
void st_conf_exchange_pause(struct st_conf_exchange *x, bool stop);
/* A field of the reply's head or, in `end` without an error, of its trailer; false when it is not there once. */
bool st_conf_exchange_field(const struct st_conf_exchange *x, bool trailer, const char *name, struct st_span *value);

/* In `end`: nothing was lost with this exchange: nothing was paid, the token never left, or the gateway said what it
 * charged. */
bool st_conf_exchange_settled(const struct st_conf_exchange *x);

#endif
