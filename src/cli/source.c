#include "cli/source.h"
#include "cli/key_open.h"
#include "cli/open.h"
#include "model/digest.h"
#include "protect/covariant/manifest.h"

/* What was made with this key from this source, and how. */
static int read_manifest(const char *path, const struct st_cov_key *key, const uint8_t digest[32],
                         struct st_cov_manifest *m, struct st_err *e)
{
    int rc = st_cov_read_manifest(path, m, e);
    if (!rc && (rc = st_cov_manifest_check(m, key, digest, e)) != 0)
        st_err_prefix(e, "%s", path);
    return rc;
}

static int open_cipher(const struct st_cli *cli, const char *path, const char *key_file, const char *manifest,
                       struct st_cov_source *out, struct st_err *e)
{
    struct st_cov_key key;
    struct st_cov_manifest m = {0};
    struct st_cov_frequent frequent = {0};
    uint8_t digest[32];
    int rc = st_key_open(cli, key_file, &key, e);
    if (!rc)
        rc = st_model_digest(path, false, digest, e);
    if (!rc && manifest) {
        rc = read_manifest(manifest, &key, digest, &m, e);
        out->scheme = st_cov_preset_name(m.made.preset);
    }
    if (!rc && m.made.homophones)
        rc = st_cov_frequent_open(m.frequent, out->config.n_vocab, digest, &key, &frequent, e);
    if (!rc)
        rc = st_cov_cipher_init(out->config.n_vocab, &frequent, m.made.homophones, digest, &key, &out->cipher, e);
    st_cov_frequent_wipe(&frequent);
    st_cov_key_wipe(&key);
    return rc;
}

int st_source_plain(const char *path, struct st_err *e)
{
    char manifest[ST_PATH_MAX];
    struct st_err ignored = {0};
    if (st_path_join(manifest, sizeof manifest, path, ST_COV_MANIFEST, &ignored) || !st_path_exists(manifest))
        return 0;
    return st_fail(e, ST_INPUT, "%s: an obfuscated checkpoint (it has %s); want the model that it was made from", path,
                   ST_COV_MANIFEST);
}

/* An id that the model does not have could not be enciphered. Fewer are usual: vocabularies are rounded up. */
static int check_vocab(const struct st_cov_source *s, const char *tok, const char *model, struct st_err *e)
{
    size_t n = st_tokenizer_vocab(s->tokenizer);
    return n <= s->config.n_vocab ? 0
                                  : st_fail(e, ST_INPUT, "%s: has %zu token ids, but the vocabulary of %s has %u", tok,
                                            n, model, s->config.n_vocab);
}

int st_source_open(const struct st_cli *cli, const char *src, const char *key_file, const char *manifest,
                   struct st_cov_source *out, struct st_err *e)
{
    char path[ST_PATH_MAX], tok[ST_PATH_MAX];
    int rc;
    *out = (struct st_cov_source){.scheme = "unknown"};
    if ((rc = st_open_model_path(src, path, e)) != 0 || (rc = st_source_plain(path, e)) != 0 ||
        (rc = st_open_config(path, &out->config, e)) != 0 || (rc = st_open_tokenizer_path(path, NULL, tok, e)) != 0 ||
        (rc = st_tokenizer_open(tok, &out->tokenizer, e)) != 0 || (rc = check_vocab(out, tok, path, e)) != 0 ||
        (rc = st_open_chat(cli, path, out->tokenizer, &out->chat, e)) != 0 ||
        (rc = open_cipher(cli, path, key_file, manifest, out, e)) != 0) {
        st_source_close(out);
        return rc;
    }
    for (int i = 0; i < out->config.n_eos; i++)
        out->eos[out->n_eos++] = (uint32_t)out->config.eos[i];
    return 0;
}

void st_source_close(struct st_cov_source *s)
{
    if (s->tokenizer)
        st_tokenizer_free(s->tokenizer);
    st_cov_cipher_wipe(&s->cipher);
    *s = (struct st_cov_source){0};
}
