/* A monitor of a log: reads every tile and entry of one checkpoint's tree, recomputes the tree from its entries, and
 * looks at every directory in it. Tiles and entries come from the caller, as files or over the network; all of it is
 * hostile input, and its memory is bounded.
 *
 * A finding is what an honest log never has: a tile that is not what its entries give, a root that is not the signed
 * one, a tree that does not begin with the one seen before, two directories of one epoch or out of order, a last entry
 * that is no directory, or an issuer's key of a day and denomination that became another one. */
#ifndef ST_SERVICE_LOG_MONITOR_H
#define ST_SERVICE_LOG_MONITOR_H

#include "attest/checkpoint.h"
#include "attest/tiles.h"

struct st_log_monitor_opts {
    const struct st_tlog_keys *keys;
    struct st_span note;   /* the checkpoint; its signatures are checked */
    struct st_span before; /* the one seen before; len 0 = none */
    int64_t now;
    /* Appends the file of a tile or bundle, of exactly that width; `arg` of the caller. IO: it cannot be had. */
    int (*fetch)(void *arg, const struct st_tile *t, struct st_buf *out, struct st_err *e);
    /* Each entry once its tile has been verified; may be NULL. An error ends the reading. */
    int (*entry)(void *arg, uint64_t index, struct st_span entry, struct st_err *e);
    /* A finding, as one line. */
    void (*found)(void *arg, const char *line);
    void *arg;
};
struct st_log_monitor_result {
    struct st_witnessed checkpoint; /* extensions point into the note */
    uint64_t directories, findings;
    uint64_t epoch; /* of the newest directory */
};
/* INPUT, VERIFY: the checkpoint is not one to believe; IO: something could not be had. Findings are no error. */
int st_log_monitor(const struct st_log_monitor_opts *o, struct st_log_monitor_result *out,
                   struct st_err *e) ST_MUST_CHECK;

#endif
