/* What changes a row of logits between the head and everybody who sees it: sampling, log probabilities, logits of a
 * prompt. The engine knows no more of it; protect/sealed/harden.h makes one. Supplied by who opens the engine. */
#ifndef ST_ENGINE_FILTER_H
#define ST_ENGINE_FILTER_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

struct st_filter {
    void *ctx;
    /* logits [n_vocab] that follow ids [n], to be overwritten; -INFINITY for what nobody may have. variant: of the
     * weights, 0 = the model's own. On the engine's thread. An error ends the request. */
    int (*row)(void *ctx, uint32_t variant, const uint32_t *ids, size_t n, float *logits, struct st_err *e);
};

#endif
