/* What becomes a container: files, then tensors of a source, each with the place that a policy gives it, in the order
 * in which they are written. A source is a Hugging Face directory, a llama2.c file, or a directory of a PEFT adapter. A
 * model is opened as the engine opens one, so what would not run is refused before anything is written.
 *
 * Of a model the tensors are those of its plan, in its order; a tied head, stored rotary frequencies and layers that
 * take no part in the next token are left out. All tensors of an adapter lie inside. */
#ifndef ST_PROTECT_SEALED_CONTENTS_H
#define ST_PROTECT_SEALED_CONTENTS_H

#include "base/unchanged.h"
#include "protect/sealed/place.h"

#define ST_CONTENTS_FILES 16

struct st_contents {
    enum st_container_kind kind;
    uint8_t digest[32];            /* of the source (model/measure.h) */
    struct st_container_entry *at; /* [n]; tensor.data is there; first_segment and n_segment are filled */
    size_t n;
    uint32_t n_segment;
    uint64_t bytes, inside;   /* of all of them, and of those inside */
    char moved[ST_PLAN_NAME]; /* a tensor that lies open for the sake of another role of it, or "" */
    bool no_tokenizer;        /* a model without one: who runs it names one */
    struct st_ckpt *ckpt;
    struct st_unchanged source; /* as it was before the first byte was read */
    struct st_buf file[ST_CONTENTS_FILES];
    size_t n_file;
};

struct st_contents_opts {
    const struct st_placement *placement;
    const char *tokenizer; /* NULL = the source's own */
    int n_threads;
    bool progress;
};

/* Errors of st_model_open(); INPUT: a tensor that no container can hold. *c is to be closed, also after an error. */
int st_contents_open(const char *src, const struct st_contents_opts *o, struct st_contents *c,
                     struct st_err *e) ST_MUST_CHECK;
void st_contents_close(struct st_contents *c);

#endif
