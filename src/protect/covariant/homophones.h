/* Homophones: further ids for frequent input tokens, each with an embedding row under noise of its own, so that
 * counting ids in prompts shows less. The proxy takes one of a token's ids by chance for each occurrence.
 *
 * Frequent are the tokens of a text: o->calibrate, or the small one of calibrate.h; or of what the source says by
 * itself, if it has no tokenizer. With them BOS, EOS and what the chat template adds: these stand in every prompt.
 *
 * Limits. The head never produces a homophone, so replies show the counts that they always show. Rows of one token are
 * the same row under different noise: whoever has the checkpoint can tell homophones by their head rows, which are all
 * alike, and with little noise which of them belong together. It is against counting only: a text that is sent twice,
 * and a reply that comes back in the next prompt, differ in homophones alone, which tells them. A server's prefix cache
 * finds nothing again, and its penalties count a token's ids apart. */
#ifndef ST_PROTECT_COVARIANT_HOMOPHONES_H
#define ST_PROTECT_COVARIANT_HOMOPHONES_H

#include "model/model.h"
#include "protect/covariant/covariant.h"

enum {
    ST_COV_FREQUENT_MAX = 1024,                                    /* tokens */
    ST_COV_FREQUENT_TEXT = 2 * (32 + 4 * ST_COV_FREQUENT_MAX) + 1, /* bytes, sealed */
};

/* src: where the tokenizer is looked for. INPUT, IO. */
int st_cov_frequent_choose(const struct st_model *m, const char *src, const struct st_cov_opts *o,
                           struct st_cov_frequent *out, struct st_err *e) ST_MUST_CHECK;
void st_cov_frequent_wipe(struct st_cov_frequent *f);

/* The list as hex text for the manifest, readable with the key only: tag[32] || ids (u32, little-endian) xor a stream.
 * The tag is a keyed hash of the list and labels the stream, so the same list gives the same text and different lists
 * different streams; only their number shows. */
int st_cov_frequent_seal(const struct st_cov_frequent *f, const uint8_t model_digest[32], const struct st_cov_key *key,
                         char out[ST_COV_FREQUENT_TEXT], struct st_err *e) ST_MUST_CHECK;
/* VERIFY: changed, or under another key. */
int st_cov_frequent_open(const char *text, uint32_t n_vocab, const uint8_t model_digest[32],
                         const struct st_cov_key *key, struct st_cov_frequent *out, struct st_err *e) ST_MUST_CHECK;

/* row [d_model]: the head's row of every homophone, in the source's space. It points against the direction that the
 * final states of the text (at most 512 tokens of it) have in common, as far as puts its logit 30 below the largest at
 * the position that needs the most, and twice that. (Their mean will not do: the state at BOS may point away from it.)
 * It must also stay 15 below at every position of what the source says by itself, or, for a source over 1 GiB, of the
 * second half of the text, the first being what it is made from. UNSUPPORTED: it does not; the states have no direction
 * in common. */
int st_cov_never_row(const struct st_model *m, const char *src, const struct st_cov_opts *o, float *row,
                     struct st_err *e) ST_MUST_CHECK;

#endif
