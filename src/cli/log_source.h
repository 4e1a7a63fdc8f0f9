/* Where `sotto log` reads a log from: its URL or its directory. Calls block. */
#ifndef ST_CLI_LOG_SOURCE_H
#define ST_CLI_LOG_SOURCE_H

#include "attest/tiles.h"
#include "net/http_client.h"

struct st_log_source {
    const char *dir; /* or NULL */
    char *url;
    struct event_base *base;
    struct st_http_client *http;
    /* the call under way */
    struct st_buf *into;
    int status;
    bool ended;
    struct st_err failed;
};

/* where: http(s)://... or a directory, which is kept. */
int st_log_source_open(struct st_log_source *s, const char *where, const char *ca_bundle,
                       struct st_err *e) ST_MUST_CHECK;
void st_log_source_close(struct st_log_source *s);
/* Appends a file below the log's prefix, "checkpoint" or a tile. IO. */
int st_log_source_get(struct st_log_source *s, const char *path, size_t max, struct st_buf *out,
                      struct st_err *e) ST_MUST_CHECK;
/* A tile of exactly that width; one that has grown full meanwhile is cut. */
int st_log_source_tile(struct st_log_source *s, const struct st_tile *t, struct st_buf *out,
                       struct st_err *e) ST_MUST_CHECK;
/* POSTs to a URL's path; *status and the reply's body, whatever the status. A directory takes no POST: USAGE. */
int st_log_source_post(struct st_log_source *s, const char *path, const char *bearer, struct st_buf *body, int *status,
                       struct st_buf *out, struct st_err *e) ST_MUST_CHECK;

#endif
