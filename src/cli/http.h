/* A blocking HTTP client for `status` and `demo`, over libcurl. Replies are bounded; redirects are not followed. */
#ifndef ST_CLI_HTTP_H
#define ST_CLI_HTTP_H

#include "base/buf.h"

#define ST_HTTP_MAX_BODY (8u << 20)

struct st_http {
    /* Request. */
    const char *url;
    const char *post; /* JSON body, or NULL for GET */
    double timeout_s;
    /* Called with each piece of the body as it arrives; may be NULL. */
    void (*on_data)(void *arg, const char *p, size_t len);
    void *arg;
    /* Reply. */
    long status;
    struct st_buf body;
    char protection[32], scheme[96], verified[32]; /* Sotto-* headers, empty when absent */
};

/* IO: names the URL's host and the cause. Free the reply by st_http_wipe. */
int st_http_run(struct st_http *h, struct st_err *e) ST_MUST_CHECK;
void st_http_wipe(struct st_http *h);

#endif
