/* What numbers and times of exchanges tell: requests, lengths of prompts and replies. Arithmetic of
 * atk_record_traffic.c on plain arrays. */
#ifndef ST_AUDIT_ATK_RECORD_TRAFFIC_H
#define ST_AUDIT_ATK_RECORD_TRAFFIC_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* One step of the engine as a worker sees it: the exchange of the first layer's first group. */
struct st_step_seen {
    uint32_t n_row;
    double time; /* seconds; NAN when nobody kept times */
};
struct st_request_seen {
    size_t prompt, reply; /* rows: tokens computed. Of a reply the last token never is */
    double start;         /* NAN without times */
};
/* Cuts steps of an engine that runs one request at a time into requests: a step of several rows begins one, unless the
 * step before was a prompt's full piece of `piece` rows (0 = prompts are never cut); single rows continue the reply.
 * With times, a pause of more than 5 times the median one between single rows begins a request of one token (a
 * conversation that goes on with its cache). out [n]; their number. */
size_t st_steps_split(const struct st_step_seen *steps, size_t n, uint32_t piece, struct st_request_seen *out);

#endif
