#include "protect/covariant/covariant.h"

#include "base/buf.h"
#include "base/file.h"
#include "crypto/digest.h"
#include "model/checkpoint.h"

#include <openssl/crypto.h>
#include <stdlib.h>

/* Vocabulary size of a model directory or a llama2.c file. */
static int read_vocab(const char *src, uint32_t *n_vocab, struct st_err *e)
{
    struct st_config config;
    if (st_path_is_dir(src)) {
        int rc = st_config_read(src, &config, e);
        *n_vocab = rc ? 0 : config.n_vocab;
        return rc;
    }
    struct st_ckpt *ckpt;
    int rc = st_ckpt_open_llama2c(src, &ckpt, &config, e);
    if (rc)
        return rc;
    st_ckpt_close(ckpt);
    *n_vocab = config.n_vocab;
    return 0;
}

int st_cov_cipher_init(uint32_t n_vocab, const uint8_t model_digest[32], const struct st_cov_key *key,
                       struct st_cov_cipher *out, struct st_err *e)
{
    struct st_stream *s = NULL;
    *out = (struct st_cov_cipher){0};
    int rc = st_alloc(&out->to, n_vocab, sizeof *out->to, "token cipher", e);
    if (!rc)
        rc = st_alloc(&out->from, n_vocab, sizeof *out->from, "token cipher", e);
    if (!rc)
        rc = st_cov_key_stream(key, model_digest, "tau", &s, e);
    if (rc) {
        st_cov_cipher_wipe(out);
        return rc;
    }
    out->n_vocab = n_vocab;
    st_stream_permutation(s, out->to, n_vocab);
    for (uint32_t i = 0; i < n_vocab; i++)
        out->from[out->to[i]] = i;
    st_stream_free(s);
    return 0;
}

int st_cov_cipher_open(const char *src, const struct st_cov_key *key, struct st_cov_cipher *out, struct st_err *e)
{
    uint8_t digest[32];
    uint32_t n_vocab;
    *out = (struct st_cov_cipher){0};
    int rc = read_vocab(src, &n_vocab, e);
    if (!rc)
        rc = st_model_digest(src, digest, e);
    if (!rc)
        rc = st_cov_cipher_init(n_vocab, digest, key, out, e);
    return rc;
}

void st_cov_cipher_wipe(struct st_cov_cipher *c)
{
    if (c->to)
        OPENSSL_cleanse(c->to, c->n_vocab * sizeof *c->to);
    if (c->from)
        OPENSSL_cleanse(c->from, c->n_vocab * sizeof *c->from);
    free(c->to);
    free(c->from);
    *c = (struct st_cov_cipher){0};
}
