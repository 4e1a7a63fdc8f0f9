/* The issuer: sells tokens to accounts and gives change to gateways, both by blind signatures, so that it cannot tell
 * whose a token is that comes back, nor what it was spent on. It sees accounts, how much each buys and when, and when
 * tokens are spent (by which gateway, of which day and denomination); its ledger: service/issuer_ledger.h.
 *
 * POST /issue and /refund with a bearer key, GET /keys; forms: channel/issue.h. 401 for any key that is not right, with
 * no body. To those with a right key refusals name a word: "units" (402: with what is left), "day" (400: no such key is
 * held), "blinded", "request", "token" (400), "id", "token" (409: came before with something else), "rate" (429),
 * "busy" (503). The event thread reads and answers; ledger and signatures have threads of their own. It hands its keys
 * to the log whenever they change, and sells nothing of its own accord that the log does not show: clients take keys
 * from the log only. */
#ifndef ST_SERVICE_ISSUER_H
#define ST_SERVICE_ISSUER_H

#include "service/issuer_keys.h"
#include "service/role.h"

struct st_issuer;

struct st_issuer_opts {
    struct st_role_opts listen; /* where; limits of bodies, handlers and arg are the issuer's own */
    const char *db;             /* file of the ledger */
    const char *name;           /* in the directory; NULL = "issuer" */
    const char *log;            /* base URL; NULL = keys are not handed to a log */
    const char *log_key_file;   /* bearer key for it; read at the start */
    const char *ca_bundle;      /* PEM; NULL = the system's */
    int n_threads;              /* that sign; 0 = one per CPU */
    uint32_t rate;              /* requests of one account per minute; 0 = 120 */
    int64_t (*clock)(void);     /* NULL = the machine's */
};

/* Opens the port. Strings of *o are kept until st_issuer_free(). Errors: of st_ledger_open(), st_http_base(),
 * st_role_listen(); USAGE: name, or a log without a key. */
int st_issuer_new(const struct st_issuer_opts *o, struct st_issuer **out, struct st_err *e) ST_MUST_CHECK;
struct st_role *st_issuer_role(struct st_issuer *i); /* to run it */
void st_issuer_free(struct st_issuer *i);

#endif
