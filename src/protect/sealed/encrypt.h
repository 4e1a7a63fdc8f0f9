/* The segments of a container that is being written: encrypted (or copied) by a pool of threads straight from the
 * mapped source to their places, and hashed. An entry that is finished is noted in a journal; of those that an earlier
 * run noted the stored segments are hashed, and when they are the same they stay. Memory: a segment for each thread. */
#ifndef ST_PROTECT_SEALED_ENCRYPT_H
#define ST_PROTECT_SEALED_ENCRYPT_H

#include "base/secret.h"
#include "model/journal.h"
#include "protect/sealed/layout.h"

struct st_sealed_encrypt {
    const struct st_contents *contents;
    const struct st_sealed_layout *layout;
    const struct st_container_about *about; /* id and version */
    const struct st_secret *segment_key;
    struct st_journal *journal;
    int fd;
    int n_threads; /* 0 = all */
    bool progress;
    uint8_t *digests; /* [n_segment][32], filled */
    size_t n_kept;    /* entries of an earlier run, filled */
};

/* IO names the entry. */
int st_sealed_encrypt(struct st_sealed_encrypt *w, struct st_err *e) ST_MUST_CHECK;

#endif
