/* A witness of logs (C2SP tlog-witness): cosigns a log's checkpoint when its tree begins with the tree that it cosigned
 * last, and so keeps the log from showing two histories. It remembers one checkpoint per log, in a directory of its
 * own; that is on disk before a cosignature leaves.
 *
 *   POST /add-checkpoint   service/witness_request.h; the answer is a cosignature line, or
 *       400 malformed, or `old` is larger than the tree     404 a log that it does not know
 *       403 not signed by the log's key                     409 `old` is not the size it remembers, which is the body;
 *       422 the proof of growth does not hold                   or another tree of that size
 *
 * Anybody may ask: what counts is the log's signature. Its state must never go back: restored from a copy, it would
 * cosign a fork of what it has cosigned since. Requests hold nothing secret, and no address is kept. One thread. */
#ifndef ST_SERVICE_WITNESS_H
#define ST_SERVICE_WITNESS_H

#include "attest/tlog.h"
#include "service/role.h"

#define ST_WITNESS_MAX_LOGS 64

struct st_witness;

struct st_witness_opts {
    struct st_role_opts listen;
    const char *name;                /* of its key */
    const struct st_ed25519 *key;    /* kept until st_witness_free() */
    const char *state;               /* directory, made when it is not there */
    const struct st_tlog_keys *logs; /* their origin and log count; read by st_witness_new() */
    size_t n_log;
};
/* Opens the port. Strings of *o are kept until st_witness_free(). IO: another process has the state open. VERIFY,
 * INPUT: what it remembers is not what the log's key has signed. */
int st_witness_new(const struct st_witness_opts *o, struct st_witness **out, struct st_err *e) ST_MUST_CHECK;
struct st_role *st_witness_role(struct st_witness *w);
void st_witness_free(struct st_witness *w);

/* One request, without the network: returns the status, and appends the body to *answer. */
int st_witness_add(struct st_witness *w, struct st_span body, int64_t now, struct st_buf *answer);

#endif
