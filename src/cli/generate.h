/* Runs one request on an engine of this process to its end, for commands that have nothing else to do meanwhile. */
#ifndef ST_CLI_GENERATE_H
#define ST_CLI_GENERATE_H

#include "engine/engine.h"
#include "model/tokenizer.h"

#include <signal.h>

struct st_run {
    struct st_request_opts req; /* callbacks and arg are set by st_run */
    /* Borrowed, may be NULL: pieces of the reply's text as they become whole characters. */
    const struct st_tokenizer *tokenizer;
    void (*on_text)(void *arg, const char *text, size_t len);
    void *arg;
    const volatile sig_atomic_t *interrupt; /* ends the reply when it becomes non-zero; may be NULL */
    /* Results. */
    struct st_ids ids;  /* generated, without the stop id */
    struct st_buf text; /* of them, if there is a tokenizer */
    enum st_finish finish;
    double ttft_s, decode_s; /* submit to first token; first token to end */
    /* Private while it runs. */
    bool done;
    double start, first;
    struct st_err err;
    struct st_detok detok;
};

/* Errors: those of st_engine_submit and of the engine. r's results are valid also after an error; free them by _wipe.
 */
int st_run(struct st_engine *en, struct st_run *r, struct st_err *e) ST_MUST_CHECK;
void st_run_wipe(struct st_run *r);
const char *st_finish_word(enum st_finish f); /* "stop", "length", "cancelled", "error" */
/* "1,2,3" appended to *out; `name` is the option. USAGE. */
int st_opt_ids(const char *name, const char *arg, struct st_ids *out, struct st_err *e) ST_MUST_CHECK;

#endif
