/* The log as a server: takes parts of the directory and entries from those it knows, and serves its tree.
 *
 *   GET /checkpoint, /tile/...       C2SP tlog-tiles
 *   GET /directory?from=SIZE         service/log_reply.h; 404 while there is none
 *   POST /parts/KIND/NAME            a part, by its submitter: 200 it stands in the directory that is served, 202 it
 * will POST /entries                    an entry, by a submitter of that kind: 202 {"index": N}, where it will stand
 *
 * At most once per epoch, when something has come, it appends the entries and then a directory, which so is the last
 * entry of every tree that it signs; once an epoch it has the tree cosigned. Only a tree that a quorum of witnesses has
 * cosigned is shown. What was taken with 202 and not logged yet is lost in a crash: whoever handed it in looks, and
 * hands it in again. Submitters see a reason for a refusal, everybody else a status. One thread. */
#ifndef ST_SERVICE_LOG_SERVER_H
#define ST_SERVICE_LOG_SERVER_H

#include "service/cosign.h"
#include "service/role.h"

#define ST_LOG_MAX_PENDING 1024

struct st_log_server;

struct st_log_server_opts {
    struct st_role_opts listen;
    const char *dir;              /* service/log_store.h */
    const struct st_ed25519 *key; /* kept until st_log_server_free() */
    const char *submitters;       /* file of service/submitters.h; NULL = nobody */
    const struct st_cosign_witness *witnesses;
    size_t n_witness, quorum;
    uint32_t every;        /* seconds of an epoch; 0 = 60 */
    const char *ca_bundle; /* for the witnesses' TLS; NULL = the system's */
};
/* Opens store and port. Strings of *o are kept until st_log_server_free(). USAGE: an `every` other than before, or a
 * quorum that there are not witnesses for; errors of the store, the submitters and st_role_listen(). */
int st_log_server_new(const struct st_log_server_opts *o, struct st_log_server **out, struct st_err *e) ST_MUST_CHECK;
struct st_role *st_log_server_role(struct st_log_server *s);
const char *st_log_server_origin(const struct st_log_server *s);
/* After the loop has ended: IO when it ended because the store could not be written. */
int st_log_server_result(const struct st_log_server *s, struct st_err *e) ST_MUST_CHECK;
void st_log_server_free(struct st_log_server *s);

#endif
