/* Covariant obfuscation (AloePri, arXiv 2603.01499; tight frame of our own): a checkpoint compiler and a token cipher.
 *
 * The server runs the compiled checkpoint on any stock engine and sees permuted token ids. It hides prompts from a provider who
 * does not hold the base weights, or who only logs. It hides NOTHING from a server that has the base weights and compares them
 * with the obfuscated ones (docs/covariant.md). */
#ifndef ST_PROTECT_COVARIANT_COVARIANT_H
#define ST_PROTECT_COVARIANT_COVARIANT_H

#include "protect/covariant/key.h"

struct st_cov_opts {
    uint32_t expand; /* h: the hidden size becomes d + 2h; 0 = chosen */
    int n_threads;   /* 0 = all */
    bool progress;
};

/* SRC (HF directory or llama2.c file) -> DST (HF directory, must not exist; appears atomically).
 * UNSUPPORTED: architecture; INPUT: a checkpoint that does not fit its config; POLICY: key file too open. */
int st_cov_obfuscate(const char *src, const char *dst, const struct st_cov_key *key, const struct st_cov_opts *o,
                     struct st_err *e) ST_MUST_CHECK;

/* Re-reads DST and checks against SRC: end-to-end logits on a probe batch within the stated bound (VERIFY otherwise). */
int st_cov_verify(const char *src, const char *dst, const struct st_cov_key *key, const struct st_cov_opts *o,
                  double *max_rel_err, struct st_err *e) ST_MUST_CHECK;

/* The secret permutation of the vocabulary, tau. */
struct st_cov_cipher {
    uint32_t n_vocab;
    uint32_t *to;   /* [n_vocab] plain id -> cipher id */
    uint32_t *from; /* [n_vocab] cipher id -> plain id */
};
/* From the key and SRC (its digest and vocabulary size are read from the model directory). */
int st_cov_cipher_open(const char *src, const struct st_cov_key *key, struct st_cov_cipher *out, struct st_err *e) ST_MUST_CHECK;
void st_cov_cipher_wipe(struct st_cov_cipher *c);

#endif
