/* `sotto-worker prepare`: what the owner of the weights makes for masked inference, once per model and parameter set.
 * The hints file (model/hints.h) is served by the worker or handed over; the kit (model/kit.h) lets a trusted side
 * without the weights open the model. Neither holds a secret of the trusted side; hints reveal the weights to whoever
 * gets them. */
#ifndef ST_SERVICE_PREPARE_H
#define ST_SERVICE_PREPARE_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct st_prepare_opts {
    const char *model;  /* directory; or, without a kit, a llama2.c file or what lies outside of a sealed container */
    const char *hints;  /* file to make; NULL = none */
    const char *params; /* parameter set; NULL = the default */
    const char *kit;    /* directory to make; NULL = none */
    bool embedding;     /* rows of the embedding come from the worker too: it gets hints, and the kit has no table */
    int n_threads;      /* 0 = all */
    bool progress;
};
struct st_prepare_result {
    uint8_t digest[32];     /* of the model */
    uint8_t kit_digest[32]; /* st_kit_measure(); zeros without a kit */
    const char *params;
    const char *note; /* what is to be said about the set, or "" */
    int bits_classical, bits_quantum;
    uint32_t n_matrix;
    uint64_t hint_bytes; /* of the file that was made, else 0 */
    double seconds;      /* making hints */
};
/* USAGE: nothing to make, unknown set. POLICY: set too weak. IO: something is there already (found before any work), no
 * room on the disk. Whatever st_model_open() refuses. Nothing half made is left behind; a kit that is whole stays when
 * the hints behind it fail. */
int st_prepare_run(const struct st_prepare_opts *o, struct st_prepare_result *out, struct st_err *e) ST_MUST_CHECK;

#endif
