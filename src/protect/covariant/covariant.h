/* Covariant obfuscation (AloePri, arXiv 2603.01499; tight frame of our own): a checkpoint compiler and a token cipher.
 *
 * The server runs the compiled checkpoint on any stock engine and sees permuted token ids. It hides prompts from a
 * provider who does not hold the base weights, or who only logs. It hides NOTHING from a server that has the base
 * weights and compares them with the obfuscated ones (docs/covariant.md). */
#ifndef ST_PROTECT_COVARIANT_COVARIANT_H
#define ST_PROTECT_COVARIANT_COVARIANT_H

#include "protect/covariant/key.h"

#include <signal.h>

enum st_cov_preset { ST_COV_PRESET_TIGHT, ST_COV_PRESET_PAPER };
enum st_cov_format { ST_COV_FORMAT_HF, ST_COV_FORMAT_GGUF };
enum st_cov_store { ST_COV_STORE_KEEP, ST_COV_STORE_F32, ST_COV_STORE_F16, ST_COV_STORE_BF16, ST_COV_STORE_Q8_0 };

/* What a compilation took. */
struct st_cov_report {
    double flop;                 /* of the key products that the algebra asks for, without drawing keys */
    double seconds, cpu_seconds; /* from the first tensor to the last, keys drawn before it; over all threads */
    uint64_t key_bytes;          /* of the key matrices that stay in memory all the time */
};

/* All zeros is the preset `tight` without noise. st_cov_opts_init() fills the figures of a preset; every field can be
 * changed after it. */
struct st_cov_opts {
    enum st_cov_preset preset;
    uint32_t expand;     /* h: the hidden size becomes d + 2h; 0 = st_cov_expand() */
    double lambda;       /* paper: weight of the Gaussian part of B, 0..1 (paper .3); tight has none */
    double alpha_e;      /* noise of the embedding over the std of its trained rows (paper 1.0, tight 0) */
    double alpha_h;      /* noise of the head over its std (paper .2, tight 0) */
    double noise_all;    /* noise of every other matrix over its own std; 0 in both presets */
    uint32_t beta;       /* longest block of rotary pairs that is permuted; 0, 1 = none (paper 8, tight 0) */
    double gamma;        /* how near in frequency the pairs of a block are; several context lengths (1e3 in both) */
    uint32_t homophones; /* extra input ids per frequent token; 0 = none */
    enum st_cov_format format;
    enum st_cov_store dtype; /* of the matrices; KEEP = each as in the source. Q8_0 with GGUF only */
    uint64_t memory_bytes;   /* working memory beyond the key matrices; 0 = 2 GiB. The result does not depend on it */
    const char *calibrate;   /* paper: text file to measure the norms on; NULL = a small text of our own */
    int n_threads;           /* 0 = all; the result does not depend on it */
    uint64_t shard_bytes;    /* largest weight file; 0 = 4 GiB */
    const char *isa;         /* kernels of the engine that calibrates and verifies; NULL = best */
    bool progress;
    bool restart;                        /* throw away what an unfinished run with other inputs left */
    struct st_cov_report *report;        /* NULL, or filled by st_cov_obfuscate() */
    const volatile sig_atomic_t *cancel; /* NULL, or: stops soon after *cancel becomes nonzero (IO) */
};

/* The figures of a preset; everything else zero. */
void st_cov_opts_init(struct st_cov_opts *o, enum st_cov_preset preset);
/* USAGE, naming the field: out of range, or without effect under the preset; UNSUPPORTED: not available. */
int st_cov_opts_check(const struct st_cov_opts *o, struct st_err *e) ST_MUST_CHECK;
/* Whether logits stay those of the source but for rounding: not under the paper's keys, nor with noise. */
bool st_cov_opts_exact(const struct st_cov_opts *o);
const char *st_cov_preset_name(enum st_cov_preset p); /* "tight", "paper" */
const char *st_cov_format_name(enum st_cov_format f); /* "hf", "gguf" */
const char *st_cov_store_name(enum st_cov_store s);   /* "keep", "f32", "f16", "bf16", "q8_0" */
/* Everything that the result depends on as one line, "name=value name=value"; h as chosen. IO: o->calibrate. */
int st_cov_opts_line(const struct st_cov_opts *o, uint32_t h, char *out, size_t cap, struct st_err *e) ST_MUST_CHECK;

/* The h that is taken when none is given. Start: 128, or d/2 where d < 256. Of the h from 3/4 to 3/2 of that, the one
 * whose d + 2h is a multiple of n_head (transformers refuses others), then of 64, then of 32 (tensor parallel and
 * quantised engines), and then nearest to the start. d 64 -> 32, d 288 -> 144, d 896 -> 112, d 4096 -> 128. */
uint32_t st_cov_expand(uint32_t d_model, uint32_t n_head);

/* SRC (HF directory or llama2.c file) -> DST (HF directory, must not exist; appears atomically and holds config.json,
 * generation_config.json, model.safetensors (or shards and their index), a tokenizer of passthrough words and the
 * manifest sotto.json), or one GGUF file.
 * Matrices keep their dtype unless o->dtype says another. Memory: (d + 2h)^2 doubles and a few tiles per thread; SRC is
 * mapped, DST written as it comes. Same key, source, options and machine: the same bytes. (Other CPUs may round a last
 * bit differently.) UNSUPPORTED: architecture; INPUT: a checkpoint that does not fit its config, or values that the
 * dtype cannot hold; USAGE: an h that does not fit; IO: DST exists, disk full, cancelled.
 * A run that was killed, cancelled or ran out of disk or memory leaves DST.partial (out.h): the same call hashes what
 * is finished there and makes the rest. With other inputs: USAGE, naming what differs, unless o->restart. */
int st_cov_obfuscate(const char *src, const char *dst, const struct st_cov_key *key, const struct st_cov_opts *o,
                     struct st_err *e) ST_MUST_CHECK;

/* Re-reads DST and checks it against SRC: the manifest's commitment; the fields of the config that depend on the key;
 * every tensor by random probes (probe.h: P Q = I, keys, noise; norms constant); then the logits of both models (f32
 * cache) on probe batches of seeded random ids, after deciphering. max_rel_err is the largest |difference| of a
 * position over its largest |logit|. VERIFY names the field or tensor; for logits above ST_COV_BOUND_*: a right f32
 * checkpoint stays under 1e-5; for f16 and bf16 rounding dominates and the bounds leave room above what we measured
 * (docs/covariant.md). Under noise or the preset `paper` logits differ by design: they are measured, not judged. Of a
 * GGUF file metadata and tensors are checked; our engine does not run it, so max_rel_err is NAN. How DST was made is
 * read from its manifest; o->calibrate must be as it was, o gives threads, cancel and progress. Other errors as there.
 */
#define ST_COV_BOUND_F32 1e-4
#define ST_COV_BOUND_F16 2e-2
#define ST_COV_BOUND_BF16 1e-1
int st_cov_verify(const char *src, const char *dst, const struct st_cov_key *key, const struct st_cov_opts *o,
                  double *max_rel_err, struct st_err *e) ST_MUST_CHECK;

/* The secret permutation of the vocabulary, tau. With homophones the vocabulary has grown, and some plain ids have
 * several cipher ids: any of them may be sent, and all are read back as the one token. */
struct st_cov_cipher {
    uint32_t n_vocab; /* plain ids */
    uint32_t *to;     /* [n_vocab] plain id -> cipher id, the one that the head produces */
    uint32_t *from;   /* [st_cov_cipher_size()] cipher id -> plain id */
    /* Homophones; all zero when there are none. */
    uint32_t n_frequent, n_copy; /* tokens that have n_copy further cipher ids each */
    uint32_t *copies;            /* [n_frequent][n_copy] cipher ids */
    uint32_t *place;             /* [n_vocab] of a plain id in copies; n_frequent = it has none */
    uint32_t *head;              /* [st_cov_cipher_size()] as from; n_vocab for a homophone */
};
/* Ids below this are sent and received. */
static inline uint32_t st_cov_cipher_size(const struct st_cov_cipher *c)
{
    return c->n_vocab + c->n_frequent * c->n_copy;
}
/* One of a token's cipher ids, each as likely; s gives the choice and is not asked where there is none. */
uint32_t st_cov_cipher_any(const struct st_cov_cipher *c, uint32_t id, struct st_stream *s);
/* From the key and SRC (its digest and vocabulary size are read from the model: every byte of it is hashed). No
 * homophones. */
int st_cov_cipher_open(const char *src, const struct st_cov_key *key, struct st_cov_cipher *out,
                       struct st_err *e) ST_MUST_CHECK;

/* Tokens that have homophones: see homophones.h for where they come from. */
struct st_cov_frequent {
    uint32_t *ids; /* [n], ascending, each once */
    uint32_t n;
};
/* The same when all is known; frequent NULL or n_copy 0: no homophones. USAGE: the vocabulary would grow too large. */
int st_cov_cipher_init(uint32_t n_vocab, const struct st_cov_frequent *frequent, uint32_t n_copy,
                       const uint8_t model_digest[32], const struct st_cov_key *key, struct st_cov_cipher *out,
                       struct st_err *e) ST_MUST_CHECK;
void st_cov_cipher_wipe(struct st_cov_cipher *c);

#endif
