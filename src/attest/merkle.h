/* Merkle trees of a log (RFC 6962 section 2.1, RFC 9162 section 2.1, SHA-256): hashes, proofs made and verified, and
 * the compact range with which a tree grows. Nothing here is secret. A proof is hostile input; so is what a source of
 * hashes gives, therefore whoever made a proof from hashes of others verifies it as well.
 *
 * Node (level, index) is the root of the complete subtree over leaves [index << level, (index + 1) << level); its hash
 * never changes once those leaves are there. */
#ifndef ST_ATTEST_MERKLE_H
#define ST_ATTEST_MERKLE_H

#include "base/buf.h"

#define ST_MERKLE_HASH 32
#define ST_MERKLE_MAX_SIZE ((uint64_t)INT64_MAX) /* leaves */
#define ST_MERKLE_MAX_PROOF 64                   /* hashes; no tree of the maximal size needs more */

struct st_merkle_hash {
    uint8_t b[ST_MERKLE_HASH];
};

struct st_merkle_hash st_merkle_leaf(const void *p, size_t len);
struct st_merkle_hash st_merkle_node(const struct st_merkle_hash *left, const struct st_merkle_hash *right);

/* The complete subtrees that cover a tree from the left, largest first: one per set bit of its size. Zeros = empty. */
struct st_merkle_range {
    uint64_t size;
    struct st_merkle_hash hashes[63];
};
/* Told of each node that a new leaf completes, the leaf first, then upwards. */
struct st_merkle_sink {
    int (*node)(void *ctx, unsigned level, uint64_t index, const struct st_merkle_hash *h, struct st_err *e);
    void *ctx;
};
/* sink may be NULL. INPUT when the tree is full; what the sink returns, and the range is as it was. */
int st_merkle_append(struct st_merkle_range *r, const struct st_merkle_hash *leaf, const struct st_merkle_sink *sink,
                     struct st_err *e) ST_MUST_CHECK;
/* SHA-256 of nothing for the empty tree. */
struct st_merkle_hash st_merkle_root(const struct st_merkle_range *r);

/* Where hashes of complete subtrees come from. */
struct st_merkle_source {
    int (*node)(void *ctx, unsigned level, uint64_t index, struct st_merkle_hash *out, struct st_err *e);
    void *ctx;
};
/* The range of the first `size` leaves; all three ask only for nodes that are complete in a tree of `size`. Errors:
 * INPUT for numbers that fit no tree; what the source returns. */
int st_merkle_load(const struct st_merkle_source *s, uint64_t size, struct st_merkle_range *out,
                   struct st_err *e) ST_MUST_CHECK;

struct st_merkle_proof {
    size_t n;
    struct st_merkle_hash hashes[ST_MERKLE_MAX_PROOF]; /* from the leaf's side to the root's */
};
/* index < size. */
int st_merkle_prove_inclusion(const struct st_merkle_source *s, uint64_t index, uint64_t size,
                              struct st_merkle_proof *out, struct st_err *e) ST_MUST_CHECK;
/* from <= size; empty when they are equal and when `from` is 0. */
int st_merkle_prove_consistency(const struct st_merkle_source *s, uint64_t from, uint64_t size,
                                struct st_merkle_proof *out, struct st_err *e) ST_MUST_CHECK;

/* VERIFY unless the leaf hash stands at `index` of the tree of `size` leaves with this root (RFC 9162, 2.1.3.2). */
int st_merkle_verify_inclusion(const struct st_merkle_hash *leaf, uint64_t index, uint64_t size,
                               const struct st_merkle_hash *root, const struct st_merkle_proof *proof,
                               struct st_err *e) ST_MUST_CHECK;
/* VERIFY unless the tree (size, root) begins with all leaves of the tree (from, from_root) (RFC 9162, 2.1.4.2). Any
 * tree begins with the empty one, whose root must be right. */
int st_merkle_verify_consistency(uint64_t from, const struct st_merkle_hash *from_root, uint64_t size,
                                 const struct st_merkle_hash *root, const struct st_merkle_proof *proof,
                                 struct st_err *e) ST_MUST_CHECK;

#endif
