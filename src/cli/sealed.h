/* A sealed MODEL (docs/sealed.md) as commands open it: the container, its publisher, the content key by whatever the
 * options give, this process held (cli/hold.h), then the model from the container, and its matrices that lie inside in
 * a store. Owned by struct st_open (cli/open.h). */
#ifndef ST_CLI_SEALED_H
#define ST_CLI_SEALED_H

#include "cli/hold.h"
#include "engine/engine.h"
#include "protect/sealed/store.h"

/* An opened container with its key: of a model, or of an adapter. */
struct st_sealed_file {
    struct st_container *container;
    struct st_vault *vault;
    bool pinned;        /* --publisher named who signed it */
    char publisher[65]; /* in hexadecimal digits */
};
/* The container at `path`, its publisher against --publisher, its version against --min-version, and its key by the
 * options of ST_CLI_UNLOCK and ST_CLI_SEALED. Says on standard error when the publisher is not pinned. The process must
 * be hardened before (st_hold_begin()). INPUT: of another kind; VERIFY: another publisher; POLICY: an older version;
 * and errors of container, recipients and vault. */
int st_sealed_unlock(const struct st_cli *cli, const char *path, enum st_container_kind kind,
                     struct st_sealed_file *out, struct st_err *e) ST_MUST_CHECK;
void st_sealed_file_close(struct st_sealed_file *f);

struct st_sealed_side {
    struct st_sealed_file file;
    struct st_sealed_store *store;
};
/* Whether options of a sealed model were given without one. USAGE. */
int st_sealed_unwanted(const struct st_cli *cli, struct st_err *e) ST_MUST_CHECK;
/* The model was opened from the vault's source and is placed: its matrices inside, for the engine. model and side are
 * borrowed until close; *eo takes the rows of the store. */
int st_sealed_hold(const struct st_cli *cli, struct st_sealed_side *s, const struct st_model *model,
                   struct st_engine_opts *eo, struct st_err *e) ST_MUST_CHECK;
void st_sealed_close(struct st_sealed_side *s); /* the store overwrites what it held */

/* Lines for people, each ended by \n; and members of a JSON object without its brackets: what was sealed, by whom,
 * where it lies now. Nothing when the model is not sealed. */
void st_sealed_text(const struct st_sealed_side *s, struct st_buf *b);
void st_sealed_json(const struct st_sealed_side *s, struct st_buf *b);
/* What must not be overlooked, a line; NULL when there is nothing. swaps: the machine does, or it is not known. */
const char *st_sealed_warning(bool swaps);

#endif
