/* A transparency log on disk: a directory that only grows, with the files of C2SP tlog-tiles below it, ready to be
 * served as they are.
 *
 *   signed       the last checkpoint that this log has signed, without witnesses; the truth after a crash
 *   checkpoint   the last one that was published, with its witnesses' cosignatures; may be older
 *   tile/        tiles and entry bundles (attest/tiles.h)
 *   lock         held while the store is open
 *
 * Every file is written under another name, synced and renamed; `signed` comes last. So a crash at any moment leaves
 * the tree of `signed` whole; what was appended behind it is forgotten and written over, and a temporary file may stay
 * (NAME.XXXXXX; a server serves only `checkpoint` and what st_tile_parse() takes).
 *
 * A log must never sign two trees of which neither begins with the other: restoring this directory from a backup would
 * do that. One thread, one process. After an error of append or commit the store refuses both until it is opened
 * again. */
#ifndef ST_SERVICE_LOG_STORE_H
#define ST_SERVICE_LOG_STORE_H

#include "attest/checkpoint.h"
#include "attest/tiles.h"

struct st_log_store;

/* Makes the directory (its parent is there) and signs the empty tree. origin is the key's name as well. IO when there
 * is a log already. */
int st_log_store_create(const char *dir, const char *origin, const struct st_ed25519 *key,
                        struct st_err *e) ST_MUST_CHECK;
/* The key is borrowed until st_log_store_close(). VERIFY: `signed` is not this key's and origin's, or tiles and
 * entries at its right edge do not give its root. IO: another process has it open, or a file is missing. */
int st_log_store_open(const char *dir, const char *origin, const struct st_ed25519 *key, struct st_log_store **out,
                      struct st_err *e) ST_MUST_CHECK;
void st_log_store_close(struct st_log_store *s);

/* Adds an entry; *index is its place once st_log_store_commit() has succeeded. INPUT: too long (nothing has changed).
 */
int st_log_store_append(struct st_log_store *s, const void *p, size_t len, uint64_t *index,
                        struct st_err *e) ST_MUST_CHECK;
/* Puts all that was appended on disk and signs the tree. Without new entries it does nothing. */
int st_log_store_commit(struct st_log_store *s, struct st_err *e) ST_MUST_CHECK;
/* The signed note of the last commit: what witnesses cosign. Borrowed until the next commit. */
struct st_span st_log_store_signed(const struct st_log_store *s);
uint64_t st_log_store_size(const struct st_log_store *s); /* of that tree */
/* Publishes a note with cosignatures added. VERIFY unless it has the log's signature and the text of the last commit.
 */
int st_log_store_publish(struct st_log_store *s, const void *p, size_t len, struct st_err *e) ST_MUST_CHECK;
/* Hashes for proofs in trees of up to the committed size; valid while the store is open. */
struct st_merkle_source st_log_store_source(struct st_log_store *s);

#endif
