#include "protect/covariant/covariant.h"

#include "base/buf.h"
#include "base/file.h"
#include "model/checkpoint.h"
#include "model/digest.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>

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

static int alloc_all(struct st_cov_cipher *c, struct st_err *e)
{
    static const char what[] = "token cipher";
    size_t n = st_cov_cipher_size(c);
    int rc = st_alloc(&c->to, c->n_vocab, sizeof *c->to, what, e);
    if (!rc)
        rc = st_alloc(&c->from, n, sizeof *c->from, what, e);
    if (!rc && c->n_frequent) {
        rc = st_alloc(&c->copies, n - c->n_vocab, sizeof *c->copies, what, e);
        if (!rc)
            rc = st_alloc(&c->place, c->n_vocab, sizeof *c->place, what, e);
        if (!rc)
            rc = st_alloc(&c->head, n, sizeof *c->head, what, e);
    }
    return rc;
}

/* tau [size]: the plain ids first, then the homophones, those of one token together. */
static void fill(struct st_cov_cipher *c, const struct st_cov_frequent *f, const uint32_t *tau)
{
    memcpy(c->to, tau, c->n_vocab * sizeof *tau);
    for (uint32_t i = 0; i < c->n_vocab; i++)
        c->from[tau[i]] = i;
    if (!c->n_frequent)
        return;
    for (uint32_t i = 0; i < c->n_vocab; i++) {
        c->place[i] = c->n_frequent;
        c->head[tau[i]] = i;
    }
    for (uint32_t k = 0; k < c->n_frequent; k++) {
        c->place[f->ids[k]] = k;
        for (uint32_t j = 0; j < c->n_copy; j++) {
            uint32_t id = tau[c->n_vocab + k * c->n_copy + j];
            c->copies[k * c->n_copy + j] = id;
            c->from[id] = f->ids[k];
            c->head[id] = c->n_vocab;
        }
    }
}

int st_cov_cipher_init(uint32_t n_vocab, const struct st_cov_frequent *frequent, uint32_t n_copy,
                       const uint8_t model_digest[32], const struct st_cov_key *key, struct st_cov_cipher *out,
                       struct st_err *e)
{
    struct st_stream *s = NULL;
    uint32_t *tau = NULL;
    uint32_t n_frequent = frequent && n_copy ? frequent->n : 0;
    *out = (struct st_cov_cipher){.n_vocab = n_vocab};
    if ((uint64_t)n_vocab + (uint64_t)n_frequent * n_copy > ST_MAX_VOCAB)
        return st_fail(e, ST_USAGE, "homophones: %u for each of %u tokens make the vocabulary larger than %u", n_copy,
                       n_frequent, ST_MAX_VOCAB);
    if (n_frequent) {
        out->n_frequent = n_frequent;
        out->n_copy = n_copy;
    }
    uint32_t size = st_cov_cipher_size(out);
    int rc = alloc_all(out, e);
    if (!rc)
        rc = st_alloc(&tau, size, sizeof *tau, "token cipher", e);
    if (!rc)
        rc = st_cov_key_stream(key, model_digest, "tau", &s, e);
    if (!rc) {
        st_stream_permutation(s, tau, size);
        fill(out, frequent, tau);
    } else
        st_cov_cipher_wipe(out);
    st_stream_free(s);
    if (tau)
        OPENSSL_cleanse(tau, size * sizeof *tau);
    free(tau);
    return rc;
}

uint32_t st_cov_cipher_any(const struct st_cov_cipher *c, uint32_t id, struct st_stream *s)
{
    if (!c->n_frequent || c->place[id] == c->n_frequent)
        return c->to[id];
    uint64_t pick = st_stream_below(s, (uint64_t)c->n_copy + 1);
    return pick == c->n_copy ? c->to[id] : c->copies[c->place[id] * c->n_copy + pick];
}

int st_cov_cipher_open(const char *src, const struct st_cov_key *key, struct st_cov_cipher *out, struct st_err *e)
{
    uint8_t digest[32];
    uint32_t n_vocab;
    *out = (struct st_cov_cipher){0};
    int rc = read_vocab(src, &n_vocab, e);
    if (!rc)
        rc = st_model_digest(src, false, digest, e);
    if (!rc)
        rc = st_cov_cipher_init(n_vocab, NULL, 0, digest, key, out, e);
    return rc;
}

static void drop(uint32_t *p, size_t n)
{
    if (p)
        OPENSSL_cleanse(p, n * sizeof *p);
    free(p);
}

void st_cov_cipher_wipe(struct st_cov_cipher *c)
{
    size_t n = st_cov_cipher_size(c);
    drop(c->to, c->n_vocab);
    drop(c->from, n);
    drop(c->copies, n - c->n_vocab);
    drop(c->place, c->n_vocab);
    drop(c->head, n);
    *c = (struct st_cov_cipher){0};
}
