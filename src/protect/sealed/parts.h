/* Which segments of a container a store deals with, in which order they are used, and which of them stay decrypted: the
 * layout of protect/sealed/store.h, without keys and threads.
 *
 * A model is read from its first layer to its last and again from the first, so that a cache which drops what was used
 * longest ago would always miss; instead a fixed set stays, spread evenly, and the rest passes through slots of one
 * size. What every step reads stays first, then experts, then the embedding, of which a step reads a few rows. */
#ifndef ST_PROTECT_SEALED_PARTS_H
#define ST_PROTECT_SEALED_PARTS_H

#include "model/container.h"
#include "model/model.h"

#define ST_PARTS_ALIGN 64
#define ST_PARTS_SLOTS_MAX 32

struct st_part { /* one segment */
    int matrix;
    uint32_t k, row, n_row; /* number in its entry; rows of the matrix */
    uint32_t bytes;
    bool kept;
    size_t at;    /* where it lies, if it is kept */
    int position; /* in `order`, -1 = only when asked for */
};

struct st_part_matrix {
    const struct st_container_entry *entry;
    enum st_dtype dtype;
    uint32_t n_in, row_bytes, rows; /* rows of a segment */
    uint32_t first, n;              /* parts */
    bool scanned, expert;           /* read by every step; of a routed expert */
};

struct st_part_use { /* the order in which a step uses what does not stay */
    uint32_t part;
    int section; /* of which expert (numbered over all layers); -1: every step uses it */
    int next;    /* the next use, cyclically, by every step; -1 = none */
};

struct st_parts {
    int *matrix_of; /* [n_weight], -1 = not inside */
    struct st_part_matrix *matrices;
    struct st_part *parts;
    struct st_part_use *order;
    int n_weight, n_matrix, n_part, n_order;
    uint64_t bytes; /* of all parts */
    uint64_t kept;  /* bytes that the kept ones take */
    size_t slot;    /* bytes of a slot */
    int n_slot;     /* 0: all are kept */
};

/* memory: budget, 0 = everything. Needed bytes are kept + n_slot * slot. The container and the plan are borrowed.
 * MEMORY: says the least that works; INPUT: an entry whose segments are no whole rows. */
int st_parts_new(const struct st_container *c, const struct st_model *m, uint64_t memory, struct st_parts *out,
                 struct st_err *e) ST_MUST_CHECK;
void st_parts_free(struct st_parts *p);
/* The part with a row of a weight; the weight is inside and the row in range. */
uint32_t st_parts_find(const struct st_parts *p, int weight, uint32_t row);

#endif
