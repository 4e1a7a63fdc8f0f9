/* Asks the witnesses of a log for cosignatures on the tree that its store has signed last (C2SP tlog-witness): all at
 * once, each with the proof of growth from the size that it remembers, which it says itself when ours is another. What
 * a witness answers counts only when it is its key's signature of this tree. One round at a time, on the thread of the
 * event base. */
#ifndef ST_SERVICE_COSIGN_H
#define ST_SERVICE_COSIGN_H

#include "net/http_client.h"
#include "service/log_store.h"

struct st_cosign;

struct st_cosign_witness {
    const char *url;        /* without /add-checkpoint */
    struct st_note_key key; /* of type COSIGNATURE */
};
struct st_cosign_opts {
    const struct st_cosign_witness *witnesses; /* copied with their URLs */
    size_t n_witness;
    double round_s; /* after that a round ends with what there is */
    /* A round has ended: the signed note with the cosignatures of n witnesses, borrowed. */
    void (*done)(void *arg, struct st_span note, size_t n);
    void *arg;
};
/* USAGE: a key of another type, or twice; st_http_base(). */
int st_cosign_new(struct event_base *base, struct st_http_client *http, struct st_log_store *store,
                  const struct st_cosign_opts *o, struct st_cosign **out, struct st_err *e) ST_MUST_CHECK;
void st_cosign_free(struct st_cosign *c);
/* Starts a round, unless one runs; nothing may be committed to the store until it ends. `done` comes from the event
 * loop, also when there are no witnesses. */
void st_cosign_start(struct st_cosign *c);
bool st_cosign_running(const struct st_cosign *c);

#endif
