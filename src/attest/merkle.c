#include "attest/merkle.h"
#include "crypto/digest.h"

#include <inttypes.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

struct st_merkle_hash st_merkle_leaf(const void *p, size_t len)
{
    struct st_merkle_hash h;
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    /* Hashing memory cannot fail but for want of it; going on with a wrong hash would be the worst outcome. */
    if (!ctx || EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1 || EVP_DigestUpdate(ctx, "\0", 1) != 1 ||
        EVP_DigestUpdate(ctx, p, len) != 1 || EVP_DigestFinal_ex(ctx, h.b, NULL) != 1)
        abort();
    EVP_MD_CTX_free(ctx);
    return h;
}

struct st_merkle_hash st_merkle_node(const struct st_merkle_hash *left, const struct st_merkle_hash *right)
{
    struct st_merkle_hash h = {{0}};
    uint8_t b[1 + 2 * ST_MERKLE_HASH];
    b[0] = 1;
    memcpy(b + 1, left->b, ST_MERKLE_HASH);
    memcpy(b + 1 + ST_MERKLE_HASH, right->b, ST_MERKLE_HASH);
    st_sha256(b, sizeof b, h.b);
    return h;
}

static bool same(const struct st_merkle_hash *a, const struct st_merkle_hash *b)
{
    return memcmp(a->b, b->b, ST_MERKLE_HASH) == 0;
}

int st_merkle_append(struct st_merkle_range *r, const struct st_merkle_hash *leaf, const struct st_merkle_sink *sink,
                     struct st_err *e)
{
    struct st_merkle_hash h = *leaf;
    size_t n = (size_t)__builtin_popcountll(r->size);
    unsigned level = 0;
    if (r->size >= ST_MERKLE_MAX_SIZE)
        return st_fail(e, ST_INPUT, "log: it is full");
    for (;; level++) {
        int rc = sink ? sink->node(sink->ctx, level, r->size >> level, &h, e) : 0;
        if (rc)
            return rc;
        if (!(r->size >> level & 1))
            break;
        h = st_merkle_node(&r->hashes[--n], &h);
    }
    r->hashes[n] = h;
    r->size++;
    return 0;
}

struct st_merkle_hash st_merkle_root(const struct st_merkle_range *r)
{
    struct st_merkle_hash h = {{0}};
    size_t n = (size_t)__builtin_popcountll(r->size);
    if (n == 0) {
        st_sha256("", 0, h.b);
        return h;
    }
    h = r->hashes[--n];
    while (n-- > 0)
        h = st_merkle_node(&r->hashes[n], &h);
    return h;
}

/* Range of the leaves [begin, end); begin is a multiple of a power of 2 that is no less than their number. */
static int load(const struct st_merkle_source *s, uint64_t begin, uint64_t end, struct st_merkle_range *out,
                struct st_err *e)
{
    size_t n = 0;
    out->size = end - begin;
    for (unsigned level = 63; level-- > 0;)
        if (out->size >> level & 1) {
            int rc = s->node(s->ctx, level, begin >> level, &out->hashes[n++], e);
            if (rc)
                return rc;
            begin += (uint64_t)1 << level;
        }
    return 0;
}

int st_merkle_load(const struct st_merkle_source *s, uint64_t size, struct st_merkle_range *out, struct st_err *e)
{
    *out = (struct st_merkle_range){0};
    if (size > ST_MERKLE_MAX_SIZE)
        return st_fail(e, ST_INPUT, "log: size %" PRIu64 " is too large", size);
    return load(s, 0, size, out, e);
}

/* The leaves [begin, end) whose root a proof holds, collected from the root downwards. */
struct parts {
    size_t n;
    struct {
        uint64_t begin, end;
    } part[ST_MERKLE_MAX_PROOF];
};

static void keep(struct parts *p, uint64_t begin, uint64_t end)
{
    p->part[p->n].begin = begin;
    p->part[p->n++].end = end;
}

/* Where the left subtree of [begin, end) ends: the largest power of 2 smaller than the number of leaves (>= 2). */
static uint64_t split(uint64_t begin, uint64_t end)
{
    return begin + ((uint64_t)1 << (63 - __builtin_clzll(end - begin - 1)));
}

static int prove(const struct st_merkle_source *s, const struct parts *p, struct st_merkle_proof *out, struct st_err *e)
{
    for (size_t i = p->n; i-- > 0;) {
        struct st_merkle_range r;
        int rc = load(s, p->part[i].begin, p->part[i].end, &r, e);
        if (rc)
            return rc;
        out->hashes[out->n++] = st_merkle_root(&r);
    }
    return 0;
}

/* PATH(index, D[size]) of RFC 6962, 2.1.1; at most 63 steps. */
int st_merkle_prove_inclusion(const struct st_merkle_source *s, uint64_t index, uint64_t size,
                              struct st_merkle_proof *out, struct st_err *e)
{
    struct parts p = {0};
    uint64_t begin = 0, end = size;
    out->n = 0;
    if (size > ST_MERKLE_MAX_SIZE || index >= size)
        return st_fail(e, ST_INPUT, "log: there is no entry %" PRIu64 " in a tree of %" PRIu64, index, size);
    while (end - begin > 1) {
        uint64_t middle = split(begin, end);
        if (index < middle) {
            keep(&p, middle, end);
            end = middle;
        } else {
            keep(&p, begin, middle);
            begin = middle;
        }
    }
    return prove(s, &p, out, e);
}

/* PROOF(from, D[size]) of RFC 6962, 2.1.2; at most 63 steps and one more hash. */
int st_merkle_prove_consistency(const struct st_merkle_source *s, uint64_t from, uint64_t size,
                                struct st_merkle_proof *out, struct st_err *e)
{
    struct parts p = {0};
    uint64_t begin = 0, end = size;
    out->n = 0;
    if (size > ST_MERKLE_MAX_SIZE || from > size)
        return st_fail(e, ST_INPUT, "log: a tree of %" PRIu64 " does not begin with one of %" PRIu64, size, from);
    if (from == 0)
        return 0;
    while (from < end) {
        uint64_t middle = split(begin, end);
        if (from <= middle) {
            keep(&p, middle, end);
            end = middle;
        } else {
            keep(&p, begin, middle);
            begin = middle;
        }
    }
    if (begin > 0) /* otherwise it is the old root, which the verifier has */
        keep(&p, begin, end);
    return prove(s, &p, out, e);
}

int st_merkle_verify_inclusion(const struct st_merkle_hash *leaf, uint64_t index, uint64_t size,
                               const struct st_merkle_hash *root, const struct st_merkle_proof *proof, struct st_err *e)
{
    int rc = st_fail(e, ST_VERIFY, "log: entry %" PRIu64 " is not proved to be in the tree of %" PRIu64, index, size);
    struct st_merkle_hash h = *leaf;
    if (size > ST_MERKLE_MAX_SIZE || index >= size || proof->n > ST_MERKLE_MAX_PROOF)
        return rc;
    uint64_t at = index, last = size - 1; /* both at the level of the next hash */
    for (size_t i = 0; i < proof->n; i++) {
        if (last == 0)
            return rc;
        if (at & 1 || at == last) {
            h = st_merkle_node(&proof->hashes[i], &h);
            for (; !(at & 1) && at; at >>= 1) /* levels at which the right edge has no sibling */
                last >>= 1;
        } else {
            h = st_merkle_node(&h, &proof->hashes[i]);
        }
        at >>= 1;
        last >>= 1;
    }
    if (last == 0 && same(&h, root))
        rc = 0;
    return rc;
}

int st_merkle_verify_consistency(uint64_t from, const struct st_merkle_hash *from_root, uint64_t size,
                                 const struct st_merkle_hash *root, const struct st_merkle_proof *proof,
                                 struct st_err *e)
{
    static const struct st_merkle_range empty;
    int rc =
        st_fail(e, ST_VERIFY, "log: the tree of %" PRIu64 " is not proved to begin with that of %" PRIu64, size, from);
    if (size > ST_MERKLE_MAX_SIZE || from > size || proof->n > ST_MERKLE_MAX_PROOF)
        return rc;
    if (from == size)
        return proof->n == 0 && same(from_root, root) ? 0 : rc;
    if (from == 0) {
        struct st_merkle_hash nothing = st_merkle_root(&empty);
        return proof->n == 0 && same(from_root, &nothing) ? 0 : rc;
    }
    uint64_t at = from - 1, last = size - 1;
    for (; at & 1; at >>= 1)
        last >>= 1;
    /* Where the old tree is complete (at == 0), its root is the first hash and is left out of the proof. */
    size_t i = 0;
    if (at && proof->n == 0)
        return rc;
    struct st_merkle_hash before = at ? proof->hashes[i++] : *from_root, after = before;
    for (; i < proof->n; i++) {
        if (last == 0)
            return rc;
        if (at & 1 || at == last) {
            before = st_merkle_node(&proof->hashes[i], &before);
            after = st_merkle_node(&proof->hashes[i], &after);
            for (; !(at & 1) && at; at >>= 1)
                last >>= 1;
        } else {
            after = st_merkle_node(&after, &proof->hashes[i]);
        }
        at >>= 1;
        last >>= 1;
    }
    if (last == 0 && same(&before, from_root) && same(&after, root))
        rc = 0;
    return rc;
}
