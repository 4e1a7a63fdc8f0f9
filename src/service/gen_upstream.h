/* A generator behind the covariant protection: prompt ids are enciphered, POSTed to a stock engine that runs the
 * obfuscated checkpoint, and the ids that stream back are deciphered. upstream.h has the dialects of such engines.
 *
 * The upstream sees: enciphered ids, lengths, times, sampling parameters. It may be hostile: every id is range-checked,
 * lines and totals are bounded, its error texts are not passed on, and a request without tokens for stall_s ends. */
#ifndef ST_SERVICE_GEN_UPSTREAM_H
#define ST_SERVICE_GEN_UPSTREAM_H

#include "protect/covariant/covariant.h"
#include "service/generator.h"

struct st_gen_upstream_opts {
    const char *url;                    /* http(s)://host:port, with or without /v1 */
    const char *api_key_file;           /* first line is sent as the bearer; NULL = none */
    const char *ca_bundle;              /* PEM; NULL = the system's */
    const char *model;                  /* upstream's model name; NULL = the first of its /v1/models */
    const char *dialect;                /* a name of upstreams.def; NULL or "auto": as the upstream calls itself */
    const struct st_cov_cipher *cipher; /* borrowed until the generator is freed */
    const char *scheme;                 /* "tight", "paper"; static; NULL = "unknown" */
    uint32_t n_ctx;                     /* of the source model; what the upstream says may lower it; 0 = unknown */
    const uint32_t *eos;                /* plain ids that end a reply (copied): dropped when an upstream sends them */
    size_t n_eos;
    double connect_s;  /* 0 = 10 */
    double stall_s;    /* no token for so long ends a try; 0 = 300 */
    uint32_t n_retry;  /* tries after the first, before anything of a reply has come */
    uint32_t max_live; /* requests at once; 0 = 1024. More: POLICY. */
    bool show_egress;  /* print each request body on standard error */
    /* What leaves and enters, for the demo: sent = request bodies, else raw reply bytes. Event thread. May be NULL. */
    void (*tap)(void *arg, bool sent, const void *p, size_t len);
    void *arg;
};

/* For st_gen_source; opts is a struct st_gen_upstream_opts. Does not wait for the upstream: info says ready once its
 * /v1/models answered (retried in the background). */
int st_gen_upstream_open(const void *opts, struct event_base *base, struct st_gen_ref *out,
                         struct st_err *e) ST_MUST_CHECK;

#endif
