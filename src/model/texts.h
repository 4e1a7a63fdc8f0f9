/* The text files of a model: config, tokenizer, chat template; beside each other in a directory, or in a sealed
 * container. One that is open already is handed over, so that what is read is of the file that was verified, and not of
 * another that took its path meanwhile. */
#ifndef ST_MODEL_TEXTS_H
#define ST_MODEL_TEXTS_H

#include "base/file.h"
#include "model/container.h"

struct st_texts {
    const char *path;                     /* of the directory or container; borrowed */
    const struct st_container *container; /* NULL = a directory */
    struct st_container *own;             /* the same, when it was opened here */
};

/* container: NULL = opened here when the path is one. `path` and container are borrowed until close. IO, and what
 * st_container_open() refuses. */
int st_texts_open(const char *path, const struct st_container *container, struct st_texts *out,
                  struct st_err *e) ST_MUST_CHECK;
void st_texts_close(struct st_texts *t);

bool st_texts_has(const struct st_texts *t, const char *name);
/* A file that is there, of at most max bytes (else INPUT), to *out, which is cleared first. where[ST_PATH_MAX]: what to
 * call it in messages. */
int st_texts_read(const struct st_texts *t, const char *name, size_t max, struct st_buf *out, char *where,
                  struct st_err *e) ST_MUST_CHECK;

#endif
