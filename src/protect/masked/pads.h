/* The pool of pads: made ahead by threads of its own, used once, wiped. A pad hides one row of one exchange group;
 * using it twice gives the difference of two rows away, so everything here serves single use:
 *  - seeds come from getrandom(2) alone, fresh for every batch of pads; no flag reaches them;
 *  - pads live in memory that is locked (or the system has no swap, else refused unless allow_unlocked), left out of
 * core dumps, and emptied by the kernel in a forked child (MADV_WIPEONFORK): there taking a pad fails;
 *  - a change of the virtual machine's generation (a snapshot was started a second time) discards all pads (vmgen.h);
 *  - a pad that was taken is wiped by st_pads_done(), used or not; it never returns to the pool.
 * Out of scope: snapshots of a host that tells nobody. When the pool is dry, taking waits and counts the wait.
 * Thread-safe. */
#ifndef ST_PROTECT_MASKED_PADS_H
#define ST_PROTECT_MASKED_PADS_H

#include "protect/masked/scheme.h"
#include "protect/masked/vmgen.h"

struct st_pads;

struct st_pads_opts {
    const struct st_scheme *scheme;
    void *state; /* of the scheme; borrowed until free */
    const struct st_mask_group *groups;
    int n_group;
    size_t memory;    /* budget in bytes for pads; 0 = 1/8 of what is available, at most 1 GiB */
    int n_threads;    /* that make pads; 0 = one */
    uint32_t batch;   /* pads of one group made in one go; 0 = 64, fewer when memory is short */
    double wait_s;    /* how long taking waits; 0 = 60 */
    uint32_t max_row; /* rows that one exchange may take; the pool holds at least as many of every group */
    bool allow_unlocked;
    struct st_vmgen *vmgen; /* borrowed until free; NULL = the kernel's */
};

/* MEMORY says how much max_row rows of every group need. POLICY: memory cannot be locked and the system swaps. */
int st_pads_new(const struct st_pads_opts *o, struct st_pads **out, struct st_err *e) ST_MUST_CHECK;
void st_pads_free(struct st_pads *p);
/* n pads of one group: out[i] points at d + n words until st_pads_done(). IO: none came within wait_s, or the thread
 * that makes them failed (its error); INTERNAL: this process is a fork. */
int st_pads_take(struct st_pads *p, int group, uint32_t n, uint32_t **out, struct st_err *e) ST_MUST_CHECK;
/* wiped: so many words of each, from its front, were overwritten by the caller as soon as they were of no more use,
 * when they still stood in a cache; the rest is overwritten here. */
void st_pads_done(struct st_pads *p, int group, uint32_t n, uint32_t **pads, size_t wiped);
/* Brings the first words of the next n pads of a group, if they are ready, nearer to this processor: a matter of speed.
 */
void st_pads_warm(struct st_pads *p, int group, uint32_t n, size_t words);
/* Throws away every pad that is ready, as after a change of generation. */
void st_pads_discard(struct st_pads *p);

struct st_pads_stats {
    uint64_t made, taken, wiped, discarded; /* pads; taken == wiped when nothing is in flight */
    uint64_t n_wait;                        /* takes that had to wait */
    double wait_s, make_s;                  /* waited in all; processor seconds of making */
    size_t ready, capacity, bytes;
    bool locked;
    uint64_t n_generation;  /* changes of the generation that were noticed */
    const char *generation; /* "watched", or why not; static */
};
void st_pads_stats(struct st_pads *p, struct st_pads_stats *out);

#endif
