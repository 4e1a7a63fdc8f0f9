/* The trusted half of a covariant deployment: the source model's tokenizer, template and token cipher. Holds secrets
 * (the permutation of the vocabulary) until st_source_close. The weights of the source are not read into memory. */
#ifndef ST_CLI_SOURCE_H
#define ST_CLI_SOURCE_H

#include "cli/cli.h"
#include "model/chat.h"
#include "model/config.h"
#include "protect/covariant/covariant.h"

struct st_cov_source {
    struct st_config config;
    struct st_tokenizer *tokenizer;
    const struct st_chat_template *chat;
    struct st_cov_cipher cipher;
    uint32_t eos[ST_MAX_EOS];
    size_t n_eos;
    const char *scheme; /* the preset, or "unknown" without a manifest */
};

/* src: MODEL path of the model that was obfuscated. manifest: of the result (a checkpoint or its sotto.json), or NULL;
 * VERIFY when it was made from another source or with another key. On failure *out is empty. */
int st_source_open(const struct st_cli *cli, const char *src, const char *key_file, const char *manifest,
                   struct st_cov_source *out, struct st_err *e) ST_MUST_CHECK;
/* INPUT when the directory is itself an obfuscated checkpoint. */
int st_source_plain(const char *path, struct st_err *e) ST_MUST_CHECK;
void st_source_close(struct st_cov_source *s);

#endif
