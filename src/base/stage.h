/* A result, file or directory, that appears whole or not at all, and that a killed run goes on with. Everything goes
 * into a staging directory beside it, DST and a suffix:
 *     journal   what the directory was begun for, and what is finished (model/journal.h)
 *     result    what becomes DST
 * It is the user's alone (0700; another user's, or one that others may write to, is refused): the journal tells the
 * source. One run at a time holds it (flock; a killed run lets go). At the end everything is synced and `result` is
 * renamed to DST, which is never overwritten. */
#ifndef ST_BASE_STAGE_H
#define ST_BASE_STAGE_H

#include "base/file.h"

#define ST_STAGE_JOURNAL "journal"

struct st_stage {
    char final[ST_PATH_MAX];
    char dir[ST_PATH_MAX]; /* empty: nothing open */
    char result[ST_PATH_MAX];
    int lock;  /* the directory, locked */
    bool keep; /* close() leaves it: an earlier run began it, or the caller says so */
};

/* Makes or finds the directory and locks it. `by` names the work for messages: "an obfuscation". IO: dst exists; its
 * parent cannot be written; another run has the directory; something else is there under its name. */
int st_stage_open(struct st_stage *s, const char *dst, const char *suffix, const char *by,
                  struct st_err *e) ST_MUST_CHECK;
/* Throws away what an earlier run left. */
void st_stage_restart(struct st_stage *s);
/* Path of the journal. */
int st_stage_journal(const struct st_stage *s, char out[ST_PATH_MAX], struct st_err *e) ST_MUST_CHECK;
/* Creates or opens a file of the result for reading and writing and makes it `total` bytes long, all of them reserved,
 * so that a full disk shows at the start. IO. */
int st_stage_file(const char *path, uint64_t total, int *fd, struct st_err *e) ST_MUST_CHECK;
/* All of len bytes at an offset. Returns 0, or -1 with errno. */
int st_stage_write(int fd, uint64_t at, const void *p, size_t len);
/* A result of many gigabytes, once written, is not read again soon, and in the page cache each of its pages is a page
 * that the kernel has to find (under a hypervisor, one that the host has to find: tens of times the cost of the copy).
 * push() begins to bring a range to disk and does not wait; settle(), some time later, waits for what is left of that
 * and gives the pages back, for the next range to be written into. Where a file system cannot, nothing happens.
 * settle() returns 0, or -1 with errno: the disk did not take it, which a later sync might not tell again. */
void st_stage_push(int fd, uint64_t at, uint64_t len);
int st_stage_settle(int fd, uint64_t at, uint64_t len) ST_MUST_CHECK;
/* Syncs the result (its files are synced by the caller), renames it, removes the directory. IO, also when dst has come
 * into being meanwhile. */
int st_stage_publish(struct st_stage *s, struct st_err *e) ST_MUST_CHECK;
/* After an error. What stopped the run may be gone next time (IO, MEMORY): then what is finished stays, and the message
 * says so. A source that is refused is refused again. */
void st_stage_keep(struct st_stage *s, size_t n_finished, struct st_err *e);
/* Closes; removes the directory, unless `keep`. */
void st_stage_close(struct st_stage *s);

#endif
