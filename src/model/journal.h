/* The journal of a staging directory (base/stage.h): what the run that made it was asked for, and which tensors are
 * finished. No secret, but a source's digest tells which model it was.
 *
 * Text, one fact a line; a line without its end (a killed run) does not count:
 *     sotto covariant journal 1   its title
 *     source HEX                  the facts, which appear together with the title
 *     options preset=tight h=32 ...
 *     tensor HEX NAME             SHA-256 of its bytes as written; of two for one name the later counts
 * The file is read as hostile. */
#ifndef ST_MODEL_JOURNAL_H
#define ST_MODEL_JOURNAL_H

#include "base/err.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ST_JOURNAL_FACTS 8

struct st_journal_fact {
    const char *name;
    char value[512]; /* one line */
    /* Said when the file has another value: "begun from another source model". NULL: the value is words `name=value`,
     * and the first one that differs is named. */
    const char *differs;
    bool kept; /* what the file says counts: `value` is what a new one gets, and becomes that */
};

struct st_journal_head {
    const char *title;
    struct st_journal_fact fact[ST_JOURNAL_FACTS];
    size_t n;
};

struct st_journal {
    bool open;
    int fd;
    atomic_size_t n_noted; /* tensors that this run finished */
    size_t n_found;        /* that earlier runs finished */
    struct st_journal_entry {
        char name[208];
        uint8_t sum[32];
        size_t line;
    } * found; /* sorted by name */
};

/* Makes the file, or reads the one that is there and checks that it was begun for the same. USAGE: it was not: says in
 * what; INPUT: damaged. On error nothing is open. */
int st_journal_open(struct st_journal *j, const char *path, struct st_journal_head *h, struct st_err *e) ST_MUST_CHECK;
/* The text of a journal, into *j, zeroed: what open() reads. The text is changed; j is to be closed, also after an
 * error. INPUT, USAGE as above. */
int st_journal_parse(struct st_journal *j, char *text, size_t len, struct st_journal_head *h,
                     struct st_err *e) ST_MUST_CHECK;
/* From any thread. In the file when it returns (not necessarily on disk: a tensor is hashed again before it counts). */
int st_journal_add(struct st_journal *j, const char *name, const uint8_t sum[32], struct st_err *e) ST_MUST_CHECK;
/* The digest that an earlier run noted, or NULL. */
const uint8_t *st_journal_find(const struct st_journal *j, const char *name);
void st_journal_close(struct st_journal *j);

#endif
