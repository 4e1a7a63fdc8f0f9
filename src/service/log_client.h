/* The client of a log: fetches the newest witnessed checkpoint with the directory that ends its tree, checks both, and
 * remembers the checkpoint in a file, so that a log that goes back or forks is noticed after a restart, too.
 * Everything runs on the thread of the event base; one fetch at a time.
 *
 * What the log shows is believed only when: the log's key and a quorum of witnesses signed the checkpoint, its tree
 * begins with the remembered one, the directory is its last entry, no other directory of the same epoch was seen, and
 * the witnesses' time is not older than max_age_s. A fork keeps both notes beside the state file (".fork") and stays an
 * error until somebody removes it. Where only the proof of growth does not hold, which may be the doing of whoever
 * carried it, both notes are kept as ".doubt". */
#ifndef ST_SERVICE_LOG_CLIENT_H
#define ST_SERVICE_LOG_CLIENT_H

#include "attest/directory.h"
#include "attest/tlog.h"
#include "net/http_client.h"

struct st_log_client;

struct st_log_client_opts {
    const char *url;        /* of the log, or of a relay with ST_RELAY_PATH_LOG; copied */
    const char *state_file; /* copied; made when it is not there; NULL = remembered by this process only */
    struct st_tlog_keys keys;
    int64_t max_age_s; /* of the witnesses' time; 0 = any; more needs a quorum */
    double stall_s;
};

int st_log_client_new(struct st_http_client *http, const struct st_log_client_opts *o, struct st_log_client **out,
                      struct st_err *e) ST_MUST_CHECK;
void st_log_client_free(struct st_log_client *c);

/* Asks now. done is called once, from the event loop: e is NULL when the directory is as fresh as can be; else IO,
 * INPUT or VERIFY, and what was known before stays. A second call while one runs only adds its callback. */
int st_log_client_refresh(struct st_log_client *c, void (*done)(void *arg, const struct st_err *e), void *arg,
                          struct st_err *e) ST_MUST_CHECK;
/* What is known, borrowed until the next refresh ends; NULL before the first success. */
const struct st_directory *st_log_client_directory(const struct st_log_client *c);
/* The checkpoint it stands in; its digest is what evidence is made with. */
const struct st_witnessed *st_log_client_checkpoint(const struct st_log_client *c);
struct st_span st_log_client_note(const struct st_log_client *c); /* as signed */

#endif
