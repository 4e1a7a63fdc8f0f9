/* How a log's tree and entries lie in files (C2SP tlog-tiles): tiles of 256 hashes of one level in eight, and bundles
 * of 256 entries. A file's path names level, index and, for one that is not full yet, its width:
 *
 *   tile/0/x001/x234/067        tile/1/000.p/17        tile/entries/003.p/5
 *
 * Hash i of tile (level, index) is node (8 * level, 256 * index + i) of attest/merkle.h. A tree of `size` leaves needs
 * the full tiles and, where one is left, the partial tile at the right edge of each level. Paths and bytes are hostile
 * input: what tiles say is worth nothing until a proof made from them holds against a checkpoint. */
#ifndef ST_ATTEST_TILES_H
#define ST_ATTEST_TILES_H

#include "attest/merkle.h"

#define ST_TILE_WIDTH 256
#define ST_TILE_MAX_LEVEL 7 /* no tree of ST_MERKLE_MAX_SIZE has more */
#define ST_TILE_ENTRIES (-1)
#define ST_TILE_MAX_PATH 64
#define ST_TILE_MAX_ENTRY 65535 /* bytes of one entry */

struct st_tile {
    int level; /* or ST_TILE_ENTRIES */
    uint64_t index;
    unsigned width; /* 1 to 256 */
};

/* Writes the path, below the log's prefix; also returned. */
const char *st_tile_path(const struct st_tile *t, char out[ST_TILE_MAX_PATH]);
/* From a path of exactly that form. INPUT. */
int st_tile_parse(const char *path, size_t len, struct st_tile *out, struct st_err *e) ST_MUST_CHECK;

/* The tile of a level (ST_TILE_ENTRIES: the bundle) at this index in a tree of `size` leaves, as wide as it is there;
 * width 0 when the tree has none. */
struct st_tile st_tile_at(int level, uint64_t index, uint64_t size);
/* The tile that holds or makes up node (level, index), which is complete in a tree of `size` leaves. */
struct st_tile st_tile_of(unsigned level, uint64_t index, uint64_t size);
/* The hash of that node, from the bytes of that tile. INPUT when they are not 32 times its width. */
int st_tile_node(const struct st_tile *t, struct st_span bytes, unsigned level, uint64_t index,
                 struct st_merkle_hash *out, struct st_err *e) ST_MUST_CHECK;

/* A source of hashes from tiles that `read` brings: exactly the tile that is asked for, borrowed until the next call.
 * Made for a tree of one size. */
struct st_tile_reader {
    int (*read)(void *ctx, const struct st_tile *t, struct st_span *bytes, struct st_err *e);
    void *ctx;
    uint64_t size;
};
/* The reader is kept until the source is no longer used. */
struct st_merkle_source st_tile_source(const struct st_tile_reader *r);

/* Appends one entry to a bundle: its length in two bytes (big-endian), then itself. INPUT when it is too long. */
int st_entry_add(const void *p, size_t len, struct st_buf *bundle, struct st_err *e) ST_MUST_CHECK;
/* Takes the next entry off a bundle, and its leaf hash into *leaf unless NULL. INPUT when it is cut; call it only while
 * bundle->len is not 0. */
int st_entry_next(struct st_span *bundle, struct st_span *entry, struct st_merkle_hash *leaf,
                  struct st_err *e) ST_MUST_CHECK;
/* VERIFY unless the bundle holds exactly the entries whose leaf hashes the tile of level 0 lists. */
int st_entries_verify(struct st_span bundle, struct st_span tile, struct st_err *e) ST_MUST_CHECK;

#endif
