/* What numbers and times of exchanges tell: requests, lengths of prompts and replies. Arithmetic of
 * atk_record_traffic.c on plain arrays. */
#ifndef ST_AUDIT_ATK_RECORD_TRAFFIC_H
#define ST_AUDIT_ATK_RECORD_TRAFFIC_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* One step of the engine as a worker sees it: the exchange of the first layer's first group, and all until the next. */
struct st_step_seen {
    uint32_t n_row;
    double time; /* seconds; NAN when nobody kept times */
    double busy; /* until the step's last exchange was over */
};
struct st_request_seen {
    size_t prompt, reply; /* rows: tokens computed. Of a reply the last token never is */
    double start;         /* NAN without times */
};
/* Cuts steps of an engine that runs one request at a time into requests: a step of several rows begins one, unless the
 * step before was a prompt's full piece of `piece` rows (0 = prompts are never cut); single rows continue the reply.
 * With times, a pause begins a request of one token (a conversation that goes on with its cache): nothing passes for a
 * second, and for five times as long as single rows usually take. out [n]; their number. */
size_t st_steps_split(const struct st_step_seen *steps, size_t n, uint32_t piece, struct st_request_seen *out);

/* r^2: the part of the variance of y that a line over x explains, 0 when either does not vary; and its 95 % interval by
 * Fisher's z. By chance it is 1 / (n - 1). */
double st_explained(const double *x, const double *y, size_t n, double *low, double *high);

#endif
