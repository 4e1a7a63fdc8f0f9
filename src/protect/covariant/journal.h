/* The journal of a staging directory: what the run that made it was asked for, and which tensors are finished. No
 * secret, but the source's digest tells which model it was: the staging directory is not for the server.
 *
 * Text, one fact a line; a line without its end (a killed run) does not count:
 *     sotto covariant journal 1
 *     source HEX               model digest
 *     commitment HEX           of key and source (key.h)
 *     options preset=tight h=32 ...
 *     layout HEX               SHA-256 over names, dtypes and shapes of all tensors
 *     tensor HEX NAME          SHA-256 of its bytes as written; of two for one name the later counts
 * The first five lines appear together. The file is read as hostile. */
#ifndef ST_PROTECT_COVARIANT_JOURNAL_H
#define ST_PROTECT_COVARIANT_JOURNAL_H

#include "base/err.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct st_cov_binding {
    char commitment[65], source[65], layout[65];
    char options[512]; /* "name=value name=value"; no newline */
};

struct st_cov_journal {
    bool open;
    int fd;
    atomic_size_t n_noted; /* tensors that this run finished */
    size_t n_found;        /* that earlier runs finished */
    struct st_cov_journal_entry {
        char name[120];
        uint8_t sum[32];
        size_t line;
    } * found; /* sorted by name */
};

/* Makes the file, or reads the one that is there and checks that it was begun for the same. USAGE: it was not: names
 * what differs; INPUT: damaged. On error nothing is open. */
int st_cov_journal_open(struct st_cov_journal *j, const char *path, const struct st_cov_binding *b,
                        struct st_err *e) ST_MUST_CHECK;
/* The text of a journal, into *j, zeroed: what open() reads. The text is changed; j is to be closed, also after an
 * error. INPUT, USAGE as above. */
int st_cov_journal_parse(struct st_cov_journal *j, char *text, size_t len, const struct st_cov_binding *b,
                         struct st_err *e) ST_MUST_CHECK;
/* From any thread. In the file when it returns (not necessarily on disk: a tensor is hashed again before it counts). */
int st_cov_journal_add(struct st_cov_journal *j, const char *name, const uint8_t sum[32],
                       struct st_err *e) ST_MUST_CHECK;
/* The digest that an earlier run noted, or NULL. */
const uint8_t *st_cov_journal_find(const struct st_cov_journal *j, const char *name);
void st_cov_journal_close(struct st_cov_journal *j);

#endif
