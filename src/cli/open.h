/* Opens what most commands need: a MODEL path (directory, llama2.c .bin, or a Hugging Face name `org/name` that is in
 * the local cache), its tokenizer, its chat template and an engine, as the shared options ask. */
#ifndef ST_CLI_OPEN_H
#define ST_CLI_OPEN_H

#include "cli/cli.h"
#include "cli/hold.h"
#include "cli/sealed.h"
#include "engine/engine.h"
#include "model/chat.h"

struct st_masked_side;
struct st_harden;
struct st_masked_words;

struct st_open {
    struct st_model *model;
    struct st_engine *engine;
    struct st_tokenizer *tokenizer;      /* NULL if not asked for */
    const struct st_chat_template *chat; /* NULL if not asked for */
    struct st_masked_side *masked;       /* NULL without --protect masked (cli/masked.h) */
    struct st_harden *harden;            /* NULL without --harden (protect/sealed/harden.h) */
    const char *hardened;                /* how, as given */
    struct st_sealed_side sealed;        /* file.container NULL: the model is not sealed */
    struct st_hold hold;                 /* of a model that is, or an adapter */
    uint32_t adapter;                    /* what requests of the command name: 1 with --adapter, else 0 */
    bool sealed_adapter, pinned_adapter; /* one is sealed; --publisher named who signed it */
    double load_s;                       /* model and engine */
};

/* HOLD: the command opens nothing after st_open() but what its shared options name, and calls st_open_settle(): with a
 * sealed model the process goes into its sandbox. */
enum {
    ST_OPEN_TOKENIZER = 1,
    ST_OPEN_CHAT = 2,    /* needs the tokenizer */
    ST_OPEN_MEASURE = 4, /* what --harden costs (st_harden_stats()) */
    ST_OPEN_HOLD = 8,
    ST_OPEN_ADAPTERS = 16, /* several: requests say which */
    ST_OPEN_WEAK = 32,     /* weak on purpose: nobody's text is asked, and nobody needs to be warned */
};

/* more: engine options beside the shared ones (max_batch, n_kv, ...), or NULL. On failure *out is empty. */
int st_open(const struct st_cli *cli, const char *model, unsigned what, const struct st_engine_opts *more,
            struct st_open *out, struct st_err *e) ST_MUST_CHECK;
void st_open_close(struct st_open *o);
/* Before the first request: everything is open (cli/hold.h). Nothing when the model is not sealed. */
int st_open_settle(struct st_open *o, struct st_err *e) ST_MUST_CHECK;
/* What protects this model: of the masked side, else of the sealed one, else "none", "none", "no". */
void st_open_words(const struct st_open *o, struct st_masked_words *out);
/* Appends `,"protection":"masked","scheme":..,"verified":..` to a JSON object; nothing without a protection. */
void st_open_put_protection(const struct st_open *o, struct st_buf *b);

/* More about a sealed model or hardened logits: lines for people, or members `,"harden":"..","sealed":{...}`. */
void st_open_put_details(const struct st_open *o, bool json, struct st_buf *b);

/* `org/name` to its snapshot in the Hugging Face cache; anything that exists is left as it is. IO names both places. */
int st_open_model_path(const char *arg, char out[ST_PATH_MAX], struct st_err *e) ST_MUST_CHECK;
/* The tokenizer of a model path: `given` if not NULL, the directory itself, or tokenizer.bin / tok512.bin beside a .bin
 * file. */
int st_open_tokenizer_path(const char *model_path, const char *given, char out[ST_PATH_MAX],
                           struct st_err *e) ST_MUST_CHECK;
/* The config alone, without the weights. */
int st_open_config(const char *model_path, struct st_config *out, struct st_err *e) ST_MUST_CHECK;
/* Template forced by --chat-template or found in the checkpoint. */
int st_open_chat(const struct st_cli *cli, const char *model_path, const struct st_tokenizer *t,
                 const struct st_chat_template **out, struct st_err *e) ST_MUST_CHECK;
/* Sampling of the shared options; the seed is fresh unless given. */
int st_open_sampling(const struct st_cli *cli, float default_temp, struct st_sampling *out,
                     struct st_err *e) ST_MUST_CHECK;

#endif
