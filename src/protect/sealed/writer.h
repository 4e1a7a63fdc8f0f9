/* Seals a model or an adapter into a container (docs/sealed.md), and changes a container's recipients.
 *
 * The file appears whole or not at all. It is made in the staging directory DST.part (base/stage.h); a run that was
 * killed goes on with the same content key, fresh nonces and fresh wraps, and finished tensors are hashed, not done
 * again. The source is read through a map and never held in memory; one that changes meanwhile is refused (INPUT), and
 * nothing stays of it. */
#ifndef ST_PROTECT_SEALED_WRITER_H
#define ST_PROTECT_SEALED_WRITER_H

#include "protect/sealed/contents.h"
#include "protect/sealed/recipient.h"

struct st_seal_opts {
    const char *policy;            /* of st_placement_read(); NULL = all-inside */
    bool attention;                /* the policy may let attention products leave, and does */
    const char *name;              /* NULL = the source's */
    const char *tokenizer;         /* file; NULL = the source's own */
    uint64_t version;              /* 1..2^63-1; 0 = 1 */
    const char *const *recipients; /* [n_recipient] "KIND:ARG" */
    size_t n_recipient;            /* at least 1 */
    const struct st_secret *seed;  /* of the publisher's key, ST_ED25519_SEED bytes */
    const struct st_secret *passphrase;
    const struct st_argon2 *cost; /* NULL = ST_ARGON2_DEFAULT */
    const char *tcti, *tpm_roots;
    int n_threads; /* 0 = all */
    bool progress;
    bool restart; /* throws away what an unfinished run left */
};

struct st_seal_report {
    struct st_container_about about; /* without name */
    uint64_t bytes, inside;          /* of all entries, and of those inside, before they were sealed */
    uint64_t file_bytes;
    size_t n_tensor, n_inside, n_file, n_kept; /* kept: finished by an earlier run */
    double seconds;
    char moved[ST_PLAN_NAME]; /* of st_contents, as the next */
    bool no_tokenizer;
    char policy[64];
};

/* IO: dst exists, disk full; USAGE: bad options, or an unfinished run was begun for something else, named; errors of
 * st_contents_open() and of recipients. */
int st_seal(const char *src, const char *dst, const struct st_seal_opts *o, struct st_seal_report *report,
            struct st_err *e) ST_MUST_CHECK;

struct st_seal_change {
    const char *const *add; /* [n_add] "KIND:ARG" */
    const uint32_t *drop;   /* [n_drop] numbers from 1, as listed */
    size_t n_add, n_drop;
    const char *out;              /* NULL = in the place of the container itself */
    const struct st_secret *seed; /* of its publisher */
    const struct st_secret *passphrase;
    const struct st_argon2 *cost;
    const char *tcti, *tpm_roots;
};
/* Copies the container with another list; segments are copied as they are. VERIFY: the key is not its publisher's;
 * USAGE: no such recipient, none would be left; IO: out exists. */
int st_seal_change(const struct st_container *c, const struct st_seal_change *o, struct st_err *e) ST_MUST_CHECK;

#endif
