/* Which of the known prompts was asked, by figures of its traffic: what atk_sizes.c and atk_timing.c share. The first
 * half of the requests is what the adversary asked himself, the other half is the victims'. */
#ifndef ST_AUDIT_WHICH_H
#define ST_AUDIT_WHICH_H

#include "audit/attack.h"
#include "audit/traffic.h"

struct st_which {
    const char *variant, *note;
    enum st_traffic_wire wire, open; /* open: where the unprotected score is taken */
    /* Figures of request i; how many there are is the same for all requests of a wire. */
    size_t (*count)(const struct st_traffic_asked *t, enum st_traffic_wire w);
    void (*figures)(const struct st_traffic_asked *t, enum st_traffic_wire w, size_t i, double *out);
};
/* A row for each of n questions, of the traffic that was made and of that which was recorded, where it has both wires;
 * UNSUPPORTED without traffic. */
int st_which_rows(const struct st_audit *a, const struct st_which *questions, size_t n, struct st_rows *rows,
                  struct st_err *e) ST_MUST_CHECK;

#endif
