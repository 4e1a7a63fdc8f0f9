/* Files. Paths come from the user and may name anything; sizes are checked before memory is taken. */
#ifndef ST_BASE_FILE_H
#define ST_BASE_FILE_H

#include "base/buf.h"

/* A read-only memory map. `p` is valid until st_map_close. An empty file gives len 0. */
struct st_map {
    const uint8_t *p;
    size_t len;
};
/* IO errors name the path. A directory or a device is refused. */
int st_map_open(const char *path, struct st_map *out, struct st_err *e) ST_MUST_CHECK;
void st_map_close(struct st_map *m);

/* Reads a whole file of at most `max` bytes (else INPUT). *b is cleared first. */
int st_file_read(const char *path, size_t max, struct st_buf *b, struct st_err *e) ST_MUST_CHECK;

#define ST_PATH_MAX 4096

/* Writes to a temporary name in the same directory, fsyncs, renames. Refuses to overwrite unless `replace`.
 * `mode` e.g. 0644 or 0600. Nothing is left behind on failure. */
int st_file_write(const char *path, const void *p, size_t len, unsigned mode, bool replace,
                  struct st_err *e) ST_MUST_CHECK;

/* The same for a file that is written piece by piece. After st_file_begin() succeeded, st_file_commit() (whatever it
 * returns) or st_file_abort() ends it; abort after either does nothing. Errors of all: IO. */
struct st_file_out {
    const char *path; /* borrowed until the end */
    char tmp[ST_PATH_MAX];
    int fd;
};
int st_file_begin(struct st_file_out *f, const char *path, unsigned mode, struct st_err *e) ST_MUST_CHECK;
int st_file_put(struct st_file_out *f, const void *p, size_t len, struct st_err *e) ST_MUST_CHECK;
/* The next bytes go over the first ones. */
int st_file_rewind(struct st_file_out *f, struct st_err *e) ST_MUST_CHECK;
int st_file_commit(struct st_file_out *f, bool replace, struct st_err *e) ST_MUST_CHECK;
void st_file_abort(struct st_file_out *f);

/* Makes all folders of the path that are not there, for this user alone. The path is as before afterwards. IO. */
int st_dir_make(char *path, struct st_err *e) ST_MUST_CHECK;
/* Makes what was renamed or created in a directory survive a crash. IO. */
int st_dir_sync(const char *path, struct st_err *e) ST_MUST_CHECK;

/* dir + "/" + name into out[cap]; USAGE if too long. */
int st_path_join(char *out, size_t cap, const char *dir, const char *name, struct st_err *e) ST_MUST_CHECK;
bool st_path_exists(const char *path);
bool st_path_is_dir(const char *path);

#endif
