/* What an audit looks at, opened once and shared by all attacks. Each attack needs one kind of view:
 *
 *   PAIR       a base checkpoint and the obfuscated one made of it; the truth is the permutation, read from the key
 *   RECORD     a recording of the boundary (engine/record.h) and the base model; the truth is the text's ids
 *   SEALED     a sealed container or adapter with its public base; the truth is the unsealed source
 *   TRAFFIC    what relay, gateway and issuer of a running set-up saw (sizes, times, tokens, keys); the truth is who
 *              asked what
 *
 * TARGET on the command line: `BASE OBFUSCATED --key KEY`, `BASE RECORDING`, `BASE SEALED`, or `demo`, which makes all
 * four from the built-in model in a private temporary directory. INPUT names what does not belong together. */
#ifndef ST_AUDIT_TARGET_H
#define ST_AUDIT_TARGET_H

#include "model/model.h"
#include "model/tokenizer.h"

enum st_target_kind { ST_TARGET_PAIR = 1, ST_TARGET_RECORD = 2, ST_TARGET_SEALED = 4, ST_TARGET_TRAFFIC = 8 };

/* Noise and preset that the obfuscated checkpoint was made with: public, the adversary knows the method. */
struct st_pair_noise {
    double embed, head, all;
};
struct st_pair {
    const struct st_model *base, *seen; /* f32 */
    const uint32_t *truth;              /* [n_vocab of seen] plain id of each cipher id; n_vocab of base = none */
    struct st_pair_noise noise;
    const char *preset;
};

struct st_texts_ids {
    const uint32_t *ids; /* documents one behind the other */
    const size_t *ends;  /* [n] */
    size_t n;
};

struct st_target {
    unsigned kinds;              /* of st_target_kind, those that are there */
    const struct st_model *base; /* f32, as the adversary has it */
    const struct st_tokenizer *tokenizer;
    struct st_texts_ids text;  /* what the victim's users wrote: scored on */
    struct st_texts_ids prior; /* public text of the adversary, other documents */
    struct st_pair pair;
    const char *recording; /* RECORD: path; text is what was asked while it ran */
    uint64_t seed;
};

#endif
