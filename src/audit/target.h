/* What an audit looks at. Each target has views of one or more kinds, and each attack needs one kind:
 *
 *   PAIR       a base checkpoint and the obfuscated one made of it; the truth is the permutation, read from the key
 *   RECORD     a recording of the boundary (engine/record.h) and the base model; the truth is the text's ids
 *   SEALED     a sealed container with its public base; the truth is the base
 *   TRAFFIC    what relay, gateway and issuer of a running set-up saw; the truth is who asked what
 *
 * A subject is one base model with the text of its users and all targets made of it; it owns what they borrow. On the
 * command line: `BASE VIEW...`, where a VIEW is an obfuscated checkpoint (with --key), a recording or a sealed file, or
 * `demo`, which makes all of them from the built-in model (cli/audit_demo.c).
 *
 * INPUT names what does not belong together: another source or key (manifest), shapes, a recording that was cut short,
 * lacks layers or holds fewer rows than the text. */
#ifndef ST_AUDIT_TARGET_H
#define ST_AUDIT_TARGET_H

#include "audit/text.h"
#include "model/model.h"
#include "model/tokenizer.h"

#include <math.h>
#include <signal.h>

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
    uint32_t homophones;
};

/* A request whose reply was computed as well: tokens of both. */
struct st_asked {
    size_t prompt, reply;
};

struct st_container;
struct st_traffic; /* audit/traffic.h */

#define ST_TARGET_LABEL 48
struct st_target {
    char label[ST_TARGET_LABEL]; /* "tight", "lwe": tells targets apart, stands before the variant of each row */
    unsigned kinds;              /* of st_target_kind, those that are there; 0 of one that could not be made */
    char unmade[200];            /* why not; "" of all others */
    const struct st_model *base; /* f32, as the adversary has it; its directory or file: base->path */
    const struct st_tokenizer *tokenizer;
    struct st_texts_ids text;  /* what the victim's users wrote: scored on */
    struct st_texts_ids prior; /* public text of the adversary, other documents */
    struct st_pair pair;
    const char *ids_as;    /* label of an earlier pair whose ids tell the same: neither has homophones; NULL = none */
    struct st_pair before; /* PAIR: what an earlier key made of the same base; seen NULL = nothing is kept of it */
    const char *recording; /* RECORD: path; text is what was asked while it ran, and nothing else was */
    const char *scheme;    /* of it: "remo", "otp", "lwe"; NULL = not known */
    const struct st_asked *asked; /* [n_asked] what was asked behind the text; NULL = nothing */
    size_t n_asked;
    const char *sealed; /* SEALED: path */
    const struct st_container *container;
    const struct st_traffic *traffic;
    uint64_t seed;
    double cost; /* PAIR: perplexity of the protected model over the plain one's, minus 1; else NAN */
    /* One point of a series that the audit made; NULL = none. The frame fills sweep, x and cost of the rows. */
    const char *x_name; /* "alpha_e" */
    double x;
};

struct st_cov_key;
struct st_pool;
struct st_subject;

#define ST_SUBJECT_MAX 64
struct st_subject_opts {
    const char *base, *tokenizer; /* paths; tokenizer NULL = the base's */
    const char *text, *prior;     /* files; NULL = audit/text.h's own */
    uint64_t seed;
    int n_threads;
    const volatile sig_atomic_t *cancel;
};
/* Opens base, tokenizer and texts. Errors of st_model_open, st_tokenizer_open, st_texts_*. */
int st_subject_open(const struct st_subject_opts *o, struct st_subject **out, struct st_err *e) ST_MUST_CHECK;
void st_subject_close(struct st_subject *s);

/* Adds a target; label may be NULL: one is made of what the view says. USAGE: too many. Of a pair the cost is measured
 * here, on the prior text. */
int st_subject_add_pair(struct st_subject *s, const char *seen, const struct st_cov_key *key, const char *label,
                        struct st_err *e) ST_MUST_CHECK;
/* The last target that was added is a pair whose server kept `seen`, made under an earlier key. USAGE: it is none;
 * INPUT as of a pair. */
int st_subject_add_before(struct st_subject *s, const char *seen, const struct st_cov_key *key,
                          struct st_err *e) ST_MUST_CHECK;
/* n_doc: the text's first documents were asked; 0 = all. scheme: static, or NULL. */
int st_subject_add_recording(struct st_subject *s, const char *path, const char *scheme, size_t n_doc,
                             const char *label, struct st_err *e) ST_MUST_CHECK;
/* Behind the text of the last target, a recording, these were asked: borrowed until close. USAGE: it is none. */
int st_subject_add_asked(struct st_subject *s, const struct st_asked *asked, size_t n, struct st_err *e) ST_MUST_CHECK;
int st_subject_add_sealed(struct st_subject *s, const char *path, const char *label, struct st_err *e) ST_MUST_CHECK;
/* traffic is borrowed until close. */
int st_subject_add_traffic(struct st_subject *s, const struct st_traffic *traffic, const char *label,
                           struct st_err *e) ST_MUST_CHECK;
/* A target that there would be, had it not been refused: the audit lists it with what was not run. USAGE: too many. */
int st_subject_add_unmade(struct st_subject *s, const char *label, const char *why, struct st_err *e) ST_MUST_CHECK;
/* The last target that was added is a point of a series. USAGE: there is none. */
int st_subject_sweep(struct st_subject *s, const char *x_name, double x, struct st_err *e) ST_MUST_CHECK;

size_t st_subject_count(const struct st_subject *s);
const struct st_target *st_subject_at(const struct st_subject *s, size_t i);
/* Of no kind: base, tokenizer and texts. */
const struct st_target *st_subject_plain(const struct st_subject *s);

/* What kind a path is: a directory with sotto.json, a recording, a container; 0 when none of them. */
unsigned st_view_kind(const char *path);

#endif
