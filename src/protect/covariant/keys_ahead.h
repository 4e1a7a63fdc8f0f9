/* The keys of one layer after the other, each drawn on a thread of its own while the layer before is at work: drawing
 * is serial (orthogonal matrices, permutations), and the pool would wait for it. */
#ifndef ST_PROTECT_COVARIANT_KEYS_AHEAD_H
#define ST_PROTECT_COVARIANT_KEYS_AHEAD_H

#include "protect/covariant/layer_keys.h"

#include <pthread.h>

struct st_cov_keys_ahead {
    struct st_cov_draw draw; /* what it points to is kept until stop */
    struct st_cov_layer_keys keys;
    struct st_err err;
    pthread_t thread;
    bool running;
    int layer;
};

/* Moves the layer's keys to *k, which the caller wipes, and begins to draw those of the next one. */
int st_cov_keys_ahead_take(struct st_cov_keys_ahead *a, const struct st_cov_draw *d, int layer,
                           struct st_cov_layer_keys *k, struct st_err *e) ST_MUST_CHECK;
/* Waits for what is being drawn and wipes it. */
void st_cov_keys_ahead_stop(struct st_cov_keys_ahead *a);

#endif
