/* What `--protect masked` sets up around an engine of this process: the matrices that the model's owner serves, the
 * connection to the workers, hints, scheme, pads, and the door (engine/boundary.h) that the engine sends its linear
 * layers through. The same for a sealed model with --worker: then only layers whose matrices lie outside leave, and no
 * norms are folded into them. With `--reference masked-int` there is no worker: the exact integers are computed here,
 * which protects nothing and is for comparing.
 *
 * Owned by struct st_open (cli/open.h). After opening, the engine's thread alone uses it. */
#ifndef ST_CLI_MASKED_H
#define ST_CLI_MASKED_H

#include "cli/cli.h"
#include "engine/engine.h"
#include "protect/masked/masked.h"
#include "service/gen_engine.h"
#include "service/worker_client.h"

struct st_masked_side;

/* Whether the shared options ask for it; of a sealed model --worker or --reference alone do. USAGE: options of it
 * without it, options that do not go together, none of --worker and --reference; UNSUPPORTED: an unknown protection or
 * one of another command. */
int st_masked_wanted(const struct st_cli *cli, bool sealed, bool *out, struct st_err *e) ST_MUST_CHECK;
/* How the model at `path` is opened for it: int8 with folded norms, or as a kit; of a sealed one what lies outside as
 * int8. USAGE: --dtype says otherwise. */
int st_masked_model_opts(const struct st_cli *cli, const char *path, bool sealed, struct st_model_opts *o,
                         struct st_err *e) ST_MUST_CHECK;
/* Places the model's plan (that of a sealed model is placed already: st_sealed_place()), connects, makes the masks;
 * then *eo sends the engine through the door. Where nothing leaves, nobody is connected to. model and cli are borrowed
 * until close, which comes after the engine's end. Errors: those of the parts, one line each. */
int st_masked_open(const struct st_cli *cli, const char *path, bool sealed, struct st_model *model,
                   struct st_engine_opts *eo, struct st_masked_side **out, struct st_err *e) ST_MUST_CHECK;
void st_masked_close(struct st_masked_side *s);

/* What outputs say: protection "masked" or "sealed", scheme "lwe-1280-12.8" or "remo (breakable)", verified "integrity"
 * or "none".
 */
struct st_masked_words {
    const char *protection, *scheme, *verified;
    const char *strength; /* a line about what is hidden */
    const char *warning;  /* NULL, or what must not be overlooked: breakable, not checked */
};
void st_masked_words(const struct st_masked_side *s, struct st_masked_words *out);
/* What the planner chose, lines of text; "" when nothing was chosen. */
const char *st_masked_choice(const struct st_masked_side *s);
/* Figures of the moment; for st_gen_engine_opts.watch. */
void st_masked_watch(void *s, struct st_gen_watch *out);

/* Figures for benches. */
struct st_masked_figures {
    struct st_masked_stats masked;
    struct st_worker_client_stats client;
    int n_exchange; /* per step, of the plan */
};
void st_masked_figures(const struct st_masked_side *s, struct st_masked_figures *out);

#endif
