/* The matrices of a container that lie inside, in memory while the model runs, within a budget. As many as fit stay
 * decrypted (what every step reads first; at the least two segments are left for the rest); the others are decrypted
 * ahead of use, segment by segment, in the order of the plan, into slots, and overwritten by what comes next. Of the
 * routed experts those that the step takes, of the embedding the segments with its tokens, are decrypted when they are
 * asked for. Everything decrypted lies in the store's own locked memory.
 *
 * The threads that compute take turns: some segments are decrypted by all of them, then computed with by all of them,
 * while they are still in a cache. While the engine waits for a worker, or has nothing to do, threads of the store go
 * ahead as far as there are slots. */
#ifndef ST_PROTECT_SEALED_STORE_H
#define ST_PROTECT_SEALED_STORE_H

#include "base/locked.h"
#include "model/model.h"
#include "protect/sealed/vault.h"

struct st_sealed_store;

struct st_sealed_store_opts {
    uint64_t memory; /* budget of decrypted matrices in bytes; 0 = all of them */
    int n_threads;   /* that decrypt while the engine does not compute; 0 = one for each processor */
    bool allow_unlocked;
    bool progress; /* draw a progress bar while what stays is decrypted */
};
/* The model was opened from the vault's source and is borrowed until free, as is the vault. MEMORY: the budget is too
 * small, says the least that works, or more than there is; POLICY: memory cannot be locked; VERIFY names a tensor. */
int st_sealed_store_new(struct st_vault *v, const struct st_model *m, const struct st_sealed_store_opts *o,
                        struct st_sealed_store **out, struct st_err *e) ST_MUST_CHECK;
void st_sealed_store_free(struct st_sealed_store *s);                    /* overwrites */
const struct st_store *st_sealed_store(const struct st_sealed_store *s); /* for the engine */

struct st_sealed_store_stats {
    uint64_t bytes, resident, ring; /* of all matrices inside; kept decrypted; of the ring */
    uint64_t peak;                  /* most bytes that were decrypted at once; at most resident + ring */
    uint64_t n_segment, n_byte;     /* decrypted since the start */
    uint64_t n_wait;                /* decrypted since the start; times that the engine had to wait */
    double wait_s, decrypt_s;       /* by the clock; processor time of all threads */
    const char *memory;             /* "memfd_secret", "locked", "unlocked" */
};
void st_sealed_store_stats(struct st_sealed_store *s, struct st_sealed_store_stats *out);
/* Whether [p, p + len) is within its memory: for tests that scan. */
bool st_sealed_store_owns(const struct st_sealed_store *s, const void *p, size_t len);

#endif
