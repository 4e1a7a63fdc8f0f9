/* A generator on the engine of this process: one engine thread, a bounded queue to it, results back through one buffer
 * and an eventfd. The idle engine thread sleeps. */
#ifndef ST_SERVICE_GEN_ENGINE_H
#define ST_SERVICE_GEN_ENGINE_H

#include "engine/engine.h"
#include "service/generator.h"

struct st_gen_engine_opts {
    struct st_engine *engine;     /* borrowed until the generator is freed; used by its thread only meanwhile */
    const struct st_model *model; /* borrowed likewise */
    const char *model_name;       /* NULL = model->name */
    const char *protection, *scheme, *verified; /* static strings; NULL = "none", "none", "no" */
    /* Asked on the engine's thread after every step and, while it idles, twice a second. NULL = nothing to watch; then
     * it is always ready. */
    void (*watch)(void *ctx, struct st_gen_watch *out);
    void *watch_ctx;
    uint32_t max_live; /* requests that run or wait; 0 = 1024. More: POLICY. At most the engine's max_queue. */
};

/* For st_gen_source; opts is a struct st_gen_engine_opts. */
int st_gen_engine_open(const void *opts, struct event_base *base, struct st_gen_ref *out,
                       struct st_err *e) ST_MUST_CHECK;

#endif
