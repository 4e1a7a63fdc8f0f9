/* Counters and histograms in Prometheus' text form (exposition format 0.0.4). Numbers only: no content, no client, no
 * key. Used from the event thread. */
#ifndef ST_SERVICE_METRICS_H
#define ST_SERVICE_METRICS_H

#include "base/buf.h"
#include "service/generator.h"

enum st_metric_route {
    ST_ROUTE_CHAT,
    ST_ROUTE_TEXT,
    ST_ROUTE_MODELS,
    ST_ROUTE_HEALTH,
    ST_ROUTE_METRICS,
    ST_ROUTE_OTHER,
    ST_N_ROUTE
};

enum { ST_N_STATUS = 6, ST_N_BUCKET = 14 };

struct st_histogram {
    uint64_t bucket[ST_N_BUCKET + 1]; /* the last is +Inf */
    double sum;
};

struct st_metrics {
    uint64_t requests[ST_N_ROUTE][ST_N_STATUS]; /* by status class; [0] = client gone before the reply */
    struct st_histogram duration[ST_N_ROUTE];
    struct st_histogram first_token;
    uint64_t prompt_tokens, reply_tokens;
    uint64_t verification_failures;
};

/* status 0 = the client left. */
void st_metrics_request(struct st_metrics *m, enum st_metric_route r, int status, double seconds);
void st_metrics_first_token(struct st_metrics *m, double seconds);
void st_metrics_put(const struct st_metrics *m, const struct st_gen_info *info, struct st_buf *out);

#endif
