/* The matrices that an untrusted worker serves, in the one form that worker, preparer and trusted side share: int8 with
 * a scale per output, canonical (round to nearest even, max|w| / 127), norm weights folded into the matrices that read
 * them. Made from a model that was opened with dtype INT8 and fold_norms, from a kit, or from a sealed container (of
 * what it leaves open; norms may be sealed, so nothing is folded). Views; nothing is copied but the embedding, which is
 * transposed and quantised when asked for, so that a token's row can be fetched as a product with a one-hot row: each
 * of its n_out = d_model rows has a scale of its own. */
#ifndef ST_MODEL_SERVED_H
#define ST_MODEL_SERVED_H

#include "base/mem.h"
#include "model/digest.h"
#include "model/model.h"

struct st_served_weight {
    char name[ST_PLAN_NAME + 2]; /* of the plan's weight; the embedding's with "^T" behind it */
    int weight;                  /* index into the plan */
    enum st_role role;
    int expert;           /* -1 outside the routed experts */
    uint32_t n_out, n_in; /* of the transposed embedding: d_model, n_vocab */
    const int8_t *w;      /* [n_out][n_in]; NULL on a side that has no weights */
    const float *scale;   /* [n_out]; NULL likewise */
};

struct st_served {
    struct st_served_weight *weights; /* in the order of the plan; the embedding last */
    uint32_t n;
    uint32_t *by_name; /* [n] indices into weights */
    struct st_area embedding;
};

/* How the model at this path is to be opened for it, by a side that has no key to what is sealed. */
struct st_model_opts st_served_model_opts(const char *path);
/* Routers are not served: they stay f32 on the trusted side. Nor is what lies inside a sealed container: its matrices
 * have no data and their stored dtype. The model is borrowed until free. MEMORY. INPUT: the embedding is sealed.
 * INTERNAL: the model was not opened as said above. */
int st_served_init(struct st_served *s, const struct st_model *m, bool with_embedding, struct st_err *e) ST_MUST_CHECK;
void st_served_free(struct st_served *s);
/* Index by name, or -1. */
int st_served_find(const struct st_served *s, const char *name);
/* The sum of squares of a column of int8, and the norm that goes with it: rounded upwards, since whoever scales rows by
 * it must not come out too large; the same number wherever it is made. */
uint64_t st_served_square(const int8_t *w, uint32_t n);
float st_served_norm(uint64_t square);

#endif
