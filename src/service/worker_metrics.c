#include "net/address.h"
#include "net/http_server.h"
#include "service/worker_priv.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define TYPE "text/plain; version=0.0.4; charset=utf-8"

void st_worker_count_batch(struct st_worker_counts *n, uint32_t rows, double seconds)
{
    int i = 0;
    while (i < ST_WORKER_N_BUCKET && rows > 1u << i)
        i++;
    n->batch[i]++;
    n->batches++;
    n->rows += rows;
    n->work_s += seconds;
}

static void put(struct st_buf *b, const char *name, const char *type, const char *help)
{
    st_buf_addf(b, "# HELP sotto_worker_%s %s\n# TYPE sotto_worker_%s %s\n", name, help, name, type);
}

static void put_count(struct st_buf *b, const char *name, const char *type, const char *help, uint64_t value)
{
    put(b, name, type, help);
    st_buf_addf(b, "sotto_worker_%s %" PRIu64 "\n", name, value);
}

static void put_metrics(const struct st_worker *w, struct st_buf *b)
{
    const struct st_worker_counts *n = &w->n;
    put_count(b, "connections", "gauge", "Open connections.", w->n_conn);
    put_count(b, "connections_total", "counter", "Connections accepted.", n->connections_total);
    put_count(b, "requests_total", "counter", "Products asked for.", n->requests);
    put_count(b, "hints_total", "counter", "Pieces of hints asked for.", n->hints);
    put_count(b, "clients_admitted_total", "counter", "Clients that proved what they run.", n->admitted);
    put_count(b, "clients_refused_total", "counter", "Clients whose evidence was not good.", n->refused);
    put_count(b, "failures_total", "counter", "Requests and connections that ended in a failure.", n->failures);
    put_count(b, "rows_total", "counter", "Rows computed.", n->rows);
    put_count(b, "received_bytes_total", "counter", "Bytes from clients.", n->bytes_in);
    put_count(b, "sent_bytes_total", "counter", "Bytes to clients.", n->bytes_out);
    put_count(b, "memory_bytes", "gauge", "Memory of requests and replies.", w->memory.total);
    put(b, "work_seconds_total", "counter", "Time of the device.");
    st_buf_addf(b, "sotto_worker_work_seconds_total %.6f\n", n->work_s);
    put(b, "batch_rows", "histogram", "Rows of one product, all clients together.");
    uint64_t sum = 0;
    for (int i = 0; i < ST_WORKER_N_BUCKET; i++) {
        sum += n->batch[i];
        st_buf_addf(b, "sotto_worker_batch_rows_bucket{le=\"%u\"} %" PRIu64 "\n", 1u << i, sum);
    }
    st_buf_addf(b, "sotto_worker_batch_rows_bucket{le=\"+Inf\"} %" PRIu64 "\n", n->batches);
    st_buf_addf(b, "sotto_worker_batch_rows_sum %" PRIu64 "\nsotto_worker_batch_rows_count %" PRIu64 "\n", n->rows,
                n->batches);
}

static void text(struct st_http_conn *c, int status, const char *s)
{
    st_http_reply(c, status, NULL, "text/plain; charset=utf-8", s, strlen(s));
}

static void on_request(void *arg, struct st_http_conn *c)
{
    const struct st_worker *w = arg;
    const char *why = "", *path;
    int bad = st_http_bad(c, &why);
    if (bad) {
        st_http_close_after(c);
        text(c, bad, why);
        return;
    }
    path = st_http_path(c);
    if (strcmp(st_http_method(c), "GET") != 0 && strcmp(st_http_method(c), "HEAD") != 0)
        text(c, 405, "want GET\n");
    else if (!strcmp(path, "/health"))
        text(c, w->draining ? 503 : 200, w->draining ? "draining\n" : "ok\n");
    else if (!strcmp(path, "/metrics")) {
        struct st_buf b = {0};
        put_metrics(w, &b);
        if (b.failed)
            text(c, 503, "no memory\n");
        else
            st_http_reply(c, 200, NULL, TYPE, b.p, b.len);
        st_buf_free(&b);
    } else
        text(c, 404, "want /health or /metrics\n");
}

int st_worker_metrics_new(struct st_worker *w, const char *address, struct st_http_server **out, struct st_err *e)
{
    struct st_address a;
    char full[300];
    *out = NULL;
    snprintf(full, sizeof full, "tcp://%s", address);
    if (!strrchr(address, ':'))
        return st_fail(e, ST_USAGE, "--metrics: want HOST:PORT, got '%s'", address);
    if (st_address_parse(full, 0, &a, e))
        return e->code;
    const struct st_http_server_opts o = {.host = a.host,
                                          .port = a.port,
                                          .max_head = 8 << 10,
                                          .max_body = 1 << 10,
                                          .max_conn = 64,
                                          .idle_s = 30,
                                          .receive_s = 10,
                                          .send_s = 10,
                                          .request = on_request,
                                          .arg = w};
    if (st_http_server_new(w->base, &o, out, e))
        return e->code;
    if (w->o.ready) {
        snprintf(full, sizeof full, strchr(a.host, ':') ? "http://[%s]:%d/metrics" : "http://%s:%d/metrics", a.host,
                 st_http_server_port(*out));
        w->o.ready(w->o.arg, full);
    }
    return 0;
}
