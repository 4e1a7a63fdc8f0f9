/* One thread that does one piece of work at a time for an event loop, which goes on meanwhile. */
#ifndef ST_SERVICE_BACKGROUND_H
#define ST_SERVICE_BACKGROUND_H

#include "base/err.h"

#include <event2/event.h>
#include <stdbool.h>

struct st_background;
struct st_background_opts {
    void (*work)(void *arg); /* on the thread; what it touches belongs to it until done was called */
    void (*done)(void *arg); /* on the event loop's thread */
    void *arg;
};
int st_background_new(struct event_base *base, const struct st_background_opts *o, struct st_background **out,
                      struct st_err *e) ST_MUST_CHECK;
/* False when work is under way already: its `done` has not been called yet. */
bool st_background_run(struct st_background *b);
bool st_background_busy(const struct st_background *b);
/* Waits for work that is under way; `done` is not called any more. */
void st_background_free(struct st_background *b);

#endif
