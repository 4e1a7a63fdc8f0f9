/* What a log shows: the tree of its published checkpoint, which may be older than the one that it has signed last, and
 * the directory that ends it. Reads the files of service/log_store.h; one thread. */
#ifndef ST_SERVICE_LOG_VIEW_H
#define ST_SERVICE_LOG_VIEW_H

#include "service/log_store.h"

struct st_log_view {
    const char *dir;
    struct st_tlog_keys keys; /* of the log alone */
    struct st_buf note;       /* as published; empty = nothing yet */
    uint64_t size;
    struct st_buf entry; /* the directory; empty while the tree is */
};
/* dir is kept. Loads what is there; nothing published yet is fine. VERIFY: the published note is not the log's. */
int st_log_view_open(struct st_log_view *v, const char *dir, const char *origin, const struct st_ed25519 *key,
                     struct st_log_store *s, struct st_err *e) ST_MUST_CHECK;
/* Again, after something was published. */
int st_log_view_load(struct st_log_view *v, struct st_log_store *s, struct st_err *e) ST_MUST_CHECK;
void st_log_view_wipe(struct st_log_view *v);

/* The answer (service/log_reply.h) for a client that saw the tree of `from` entries: without a proof of growth when
 * that is larger than what is shown. The tree shown is not empty. */
int st_log_view_answer(struct st_log_view *v, struct st_log_store *s, uint64_t from, struct st_buf *out,
                       struct st_err *e) ST_MUST_CHECK;
/* The file of a path "tile/..." when the tree shown has all of it. INPUT, IO: there is no such tile. */
int st_log_view_tile(const struct st_log_view *v, const char *path, struct st_buf *out, struct st_err *e) ST_MUST_CHECK;
/* Entry `index` of the tree of `size` entries below dir. */
int st_log_view_entry(const char *dir, uint64_t index, uint64_t size, struct st_buf *out,
                      struct st_err *e) ST_MUST_CHECK;

#endif
