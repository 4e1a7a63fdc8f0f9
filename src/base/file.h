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

/* Writes to a temporary name in the same directory, fsyncs, renames. Refuses to overwrite unless `replace`.
 * `mode` e.g. 0644 or 0600. Nothing is left behind on failure. */
int st_file_write(const char *path, const void *p, size_t len, unsigned mode, bool replace,
                  struct st_err *e) ST_MUST_CHECK;

/* dir + "/" + name into out[cap]; USAGE if too long. */
int st_path_join(char *out, size_t cap, const char *dir, const char *name, struct st_err *e) ST_MUST_CHECK;
bool st_path_exists(const char *path);
bool st_path_is_dir(const char *path);

#define ST_PATH_MAX 4096

#endif
