#include "service/metrics.h"

#include <inttypes.h>
#include <stdio.h>

static const double bounds[ST_N_BUCKET] = {.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300};
static const char *const routes[ST_N_ROUTE] = {
    "/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics", "other"};
static const char *const classes[ST_N_STATUS] = {"gone", "1xx", "2xx", "3xx", "4xx", "5xx"};

static void observe(struct st_histogram *h, double seconds)
{
    int i = 0;
    while (i < ST_N_BUCKET && seconds > bounds[i])
        i++;
    h->bucket[i]++;
    h->sum += seconds;
}

void st_metrics_request(struct st_metrics *m, enum st_metric_route r, int status, double seconds)
{
    int c = status / 100;
    m->requests[r][c >= 0 && c < ST_N_STATUS ? c : 5]++;
    observe(&m->duration[r], seconds);
}

void st_metrics_first_token(struct st_metrics *m, double seconds)
{
    observe(&m->first_token, seconds);
}

static void put_histogram(struct st_buf *b, const char *name, const char *label, const struct st_histogram *h)
{
    uint64_t n = 0;
    const char *sep = *label ? "," : "";
    for (int i = 0; i < ST_N_BUCKET; i++) {
        n += h->bucket[i];
        st_buf_addf(b, "%s_bucket{%s%sle=\"%g\"} %" PRIu64 "\n", name, label, sep, bounds[i], n);
    }
    n += h->bucket[ST_N_BUCKET];
    st_buf_addf(b, "%s_bucket{%s%sle=\"+Inf\"} %" PRIu64 "\n", name, label, sep, n);
    const char *open = *label ? "{" : "", *close = *label ? "}" : "";
    st_buf_addf(b, "%s_sum%s%s%s %.6f\n%s_count%s%s%s %" PRIu64 "\n", name, open, label, close, h->sum, name, open,
                label, close, n);
}

static void head(struct st_buf *b, const char *name, const char *type, const char *help)
{
    st_buf_addf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void value(struct st_buf *b, const char *name, const char *type, const char *help, uint64_t v)
{
    head(b, name, type, help);
    st_buf_addf(b, "%s %" PRIu64 "\n", name, v);
}

static void put_watch(const struct st_gen_watch *w, struct st_buf *b)
{
    value(b, "sotto_pads_ready", "gauge", "Pads made ahead and not used yet.", w->pads_ready);
    value(b, "sotto_pads_capacity", "gauge", "Pads that the budget of memory holds.", w->pads_capacity);
    value(b, "sotto_pads_made_total", "counter", "Pads made.", w->pads_made);
    value(b, "sotto_pads_taken_total", "counter", "Pads used, one row each.", w->pads_taken);
    value(b, "sotto_pad_waits_total", "counter", "Exchanges that waited for pads.", w->pad_waits);
    head(b, "sotto_pad_wait_seconds_total", "counter", "Time that they waited.");
    st_buf_addf(b, "sotto_pad_wait_seconds_total %.6f\n", w->pad_wait_s);
    value(b, "sotto_exchanges_total", "counter", "Exchanges with workers that gave a result.", w->exchanges);
    value(b, "sotto_exchanges_failed_total", "counter", "Exchanges that gave none.", w->failed);
    value(b, "sotto_exchanges_kept_total", "counter", "Groups of layers computed here instead.", w->kept);
    value(b, "sotto_worker_rejects_total", "counter", "Results of workers that did not pass their check.", w->rejects);
    value(b, "sotto_workers_quarantined", "gauge", "Workers that are not used any more.", (uint64_t)w->quarantined);
    head(b, "sotto_worker_bytes_total", "counter", "Bytes to and from workers.");
    st_buf_addf(b,
                "sotto_worker_bytes_total{direction=\"up\"} %" PRIu64
                "\nsotto_worker_bytes_total{direction=\"down\"} %" PRIu64 "\n",
                w->bytes_up, w->bytes_down);
}

void st_metrics_put(const struct st_metrics *m, const struct st_gen_info *info, struct st_buf *b)
{
    char label[96];
    head(b, "sotto_requests_total", "counter", "Requests answered, by route and status class.");
    for (int r = 0; r < ST_N_ROUTE; r++)
        for (int c = 0; c < ST_N_STATUS; c++)
            if (m->requests[r][c])
                st_buf_addf(b, "sotto_requests_total{route=\"%s\",status=\"%s\"} %" PRIu64 "\n", routes[r], classes[c],
                            m->requests[r][c]);
    head(b, "sotto_request_duration_seconds", "histogram", "From the whole request to the end of its reply.");
    for (int r = 0; r < ST_N_ROUTE; r++) {
        snprintf(label, sizeof label, "route=\"%s\"", routes[r]);
        put_histogram(b, "sotto_request_duration_seconds", label, &m->duration[r]);
    }
    head(b, "sotto_time_to_first_token_seconds", "histogram", "From the whole request to its first token.");
    put_histogram(b, "sotto_time_to_first_token_seconds", "", &m->first_token);
    head(b, "sotto_tokens_total", "counter", "Tokens of prompts and replies.");
    st_buf_addf(b, "sotto_tokens_total{kind=\"prompt\"} %" PRIu64 "\nsotto_tokens_total{kind=\"reply\"} %" PRIu64 "\n",
                m->prompt_tokens, m->reply_tokens);
    head(b, "sotto_requests_running", "gauge", "Choices being generated.");
    st_buf_addf(b, "sotto_requests_running %" PRIu32 "\n", info->n_running);
    head(b, "sotto_requests_waiting", "gauge", "Choices that wait for room.");
    st_buf_addf(b, "sotto_requests_waiting %" PRIu32 "\n", info->n_waiting);
    head(b, "sotto_protection_state", "gauge", "1 when ready under this protection, else 0.");
    st_buf_addf(b, "sotto_protection_state{protection=\"%s\",scheme=\"%s\",verified=\"%s\"} %d\n", info->protection,
                info->scheme, info->verified, info->ready);
    head(b, "sotto_verification_failures_total", "counter", "Replies refused because a check failed.");
    st_buf_addf(b, "sotto_verification_failures_total %" PRIu64 "\n", m->verification_failures);
    if (info->watched)
        put_watch(&info->watch, b);
}
