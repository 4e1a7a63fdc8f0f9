/* Merkle trees of a log: published hashes and proofs, all trees of up to 70 leaves against the definitions of RFC 6962
 * written out, and every wrong number and hash refused; tiles and entry bundles. */
#include "attest/tiles.h"
#include "crypto/digest.h"
#include "expect.h"
#include "mutate.h"

#include <stdio.h>
#include <stdlib.h>

#define MAX_LEAVES 70

typedef struct st_merkle_hash hash;

static hash leaves[MAX_LEAVES];

static void make_leaves(void)
{
    for (uint8_t i = 0; i < MAX_LEAVES; i++)
        leaves[i] = st_merkle_leaf(&i, 1);
}

static void assert_hash(const hash *got, const hash *want)
{
    assert_memory_equal(got->b, want->b, ST_MERKLE_HASH);
}

static hash unhex(const char *hex)
{
    hash h;
    struct st_err e;
    assert_ok(st_unhex(hex, strlen(hex), h.b, sizeof h.b, "hash", &e), &e);
    return h;
}

/* The definitions of RFC 6962, section 2.1, word by word: MTH, PATH and SUBPROOF. */
static size_t largest_power(size_t n)
{
    size_t k = 1;
    while (2 * k < n)
        k *= 2;
    return k;
}

static hash mth(const hash *d, size_t n)
{
    hash left, right;
    if (n == 0) {
        st_sha256("", 0, left.b);
        return left;
    }
    if (n == 1)
        return d[0];
    size_t k = largest_power(n);
    left = mth(d, k);
    right = mth(d + k, n - k);
    return st_merkle_node(&left, &right);
}

static void path(size_t m, const hash *d, size_t n, struct st_merkle_proof *out)
{
    if (n == 1)
        return;
    size_t k = largest_power(n);
    if (m < k) {
        path(m, d, k, out);
        out->hashes[out->n++] = mth(d + k, n - k);
    } else {
        path(m - k, d + k, n - k, out);
        out->hashes[out->n++] = mth(d, k);
    }
}

static void subproof(size_t m, const hash *d, size_t n, bool known, struct st_merkle_proof *out)
{
    if (m == n) {
        if (!known)
            out->hashes[out->n++] = mth(d, n);
        return;
    }
    size_t k = largest_power(n);
    if (m <= k) {
        subproof(m, d, k, known, out);
        out->hashes[out->n++] = mth(d + k, n - k);
    } else {
        subproof(m - k, d + k, n - k, false, out);
        out->hashes[out->n++] = mth(d, k);
    }
}

/* Hashes of complete subtrees straight from the leaves; asking beyond them fails the test. */
static int leaf_source(void *ctx, unsigned level, uint64_t index, hash *out, struct st_err *e)
{
    (void)e;
    const size_t *size = ctx;
    assert_true((index + 1) << level <= *size);
    *out = mth(leaves + (index << level), (size_t)1 << level);
    return 0;
}

static void assert_proof(const struct st_merkle_proof *got, const struct st_merkle_proof *want)
{
    assert_int_equal(got->n, want->n);
    for (size_t i = 0; i < want->n; i++)
        assert_hash(&got->hashes[i], &want->hashes[i]);
}

/* The tree of eight leaves that implementations of RFC 6962 share as their example. */
static const struct {
    const char *leaf; /* hexadecimal */
    const char *root; /* of the tree that ends with it */
} example[] = {
    {"", "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"},
    {"00", "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"},
    {"10", "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"},
    {"2021", "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"},
    {"3031", "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4"},
    {"40414243", "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef"},
    {"5051525354555657", "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"},
    {"606162636465666768696a6b6c6d6e6f", "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"},
};

static void the_published_tree_has_the_published_roots(void **state)
{
    (void)state;
    struct st_err e;
    struct st_merkle_range r = {0};
    hash root = st_merkle_root(&r), want = unhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_hash(&root, &want);
    for (size_t i = 0; i < sizeof example / sizeof *example; i++) {
        uint8_t bytes[16];
        size_t len = strlen(example[i].leaf) / 2;
        assert_ok(st_unhex(example[i].leaf, 2 * len, bytes, len, "leaf", &e), &e);
        hash leaf = st_merkle_leaf(bytes, len);
        assert_ok(st_merkle_append(&r, &leaf, NULL, &e), &e);
        root = st_merkle_root(&r);
        want = unhex(example[i].root);
        assert_hash(&root, &want);
    }
}

static void the_published_proofs_hold(void **state)
{
    (void)state;
    struct st_err e;
    /* Entry 5 of 8, and 6 leaves grown to 8. */
    struct st_merkle_proof inclusion = {3,
                                        {unhex("bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"),
                                         unhex("ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"),
                                         unhex("d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7")}};
    struct st_merkle_proof consistency = {3,
                                          {unhex("0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"),
                                           unhex("ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"),
                                           unhex("d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7")}};
    hash leaf = st_merkle_leaf("@ABC", 4), root = unhex(example[7].root), before = unhex(example[5].root);
    assert_ok(st_merkle_verify_inclusion(&leaf, 5, 8, &root, &inclusion, &e), &e);
    assert_ok(st_merkle_verify_consistency(6, &before, 8, &root, &consistency, &e), &e);
    expect_refusal(st_merkle_verify_inclusion(&leaf, 4, 8, &root, &inclusion, &e), &e, ST_VERIFY, "entry 4");
    expect_refusal(st_merkle_verify_consistency(5, &before, 8, &root, &consistency, &e), &e, ST_VERIFY, "that of 5");
}

static void ranges_equal_the_definition(void **state)
{
    (void)state;
    struct st_err e;
    struct st_merkle_range r = {0}, loaded;
    for (size_t n = 0; n <= MAX_LEAVES; n++) {
        struct st_merkle_source s = {leaf_source, &n};
        hash want = mth(leaves, n), got = st_merkle_root(&r);
        assert_int_equal(r.size, n);
        assert_hash(&got, &want);
        assert_ok(st_merkle_load(&s, n, &loaded, &e), &e);
        got = st_merkle_root(&loaded);
        assert_hash(&got, &want);
        if (n < MAX_LEAVES)
            assert_ok(st_merkle_append(&r, &leaves[n], NULL, &e), &e);
    }
    r.size = ST_MERKLE_MAX_SIZE;
    expect_refusal(st_merkle_append(&r, &leaves[0], NULL, &e), &e, ST_INPUT, "full");
}

/* A wrong one of everything; good proofs were checked by the caller. */
static void refuse_wrong_inclusion(size_t index, size_t size, const hash *root, struct st_merkle_proof *p)
{
    struct st_err e;
    hash bad = *root;
    for (size_t i = 0; i <= size; i++)
        if (i != index)
            assert_int_equal(st_merkle_verify_inclusion(&leaves[index], i, size, root, p, &e), ST_VERIFY);
    for (size_t n = 0; n <= MAX_LEAVES; n++) {
        hash other = mth(leaves, n);
        if (n != size)
            assert_int_equal(st_merkle_verify_inclusion(&leaves[index], index, n, &other, p, &e), ST_VERIFY);
    }
    bad.b[7] ^= 1;
    assert_int_equal(st_merkle_verify_inclusion(&leaves[index], index, size, &bad, p, &e), ST_VERIFY);
    bad = leaves[index];
    bad.b[31] ^= 0x80;
    assert_int_equal(st_merkle_verify_inclusion(&bad, index, size, root, p, &e), ST_VERIFY);
    for (size_t i = 0; i < p->n; i++) {
        p->hashes[i].b[i % 32] ^= 4;
        assert_int_equal(st_merkle_verify_inclusion(&leaves[index], index, size, root, p, &e), ST_VERIFY);
        p->hashes[i].b[i % 32] ^= 4;
    }
    p->n++;
    p->hashes[p->n - 1] = *root;
    assert_int_equal(st_merkle_verify_inclusion(&leaves[index], index, size, root, p, &e), ST_VERIFY);
    p->n--;
    if (p->n > 0) {
        p->n--;
        assert_int_equal(st_merkle_verify_inclusion(&leaves[index], index, size, root, p, &e), ST_VERIFY);
        p->n++;
    }
}

static void inclusion_of_every_leaf_of_every_tree(void **state)
{
    (void)state;
    struct st_err e;
    for (size_t n = 1; n <= MAX_LEAVES; n++) {
        hash root = mth(leaves, n);
        for (size_t m = 0; m < n; m++) {
            struct st_merkle_source s = {leaf_source, &n};
            struct st_merkle_proof got, want = {0};
            assert_ok(st_merkle_prove_inclusion(&s, m, n, &got, &e), &e);
            path(m, leaves, n, &want);
            assert_proof(&got, &want);
            assert_ok(st_merkle_verify_inclusion(&leaves[m], m, n, &root, &got, &e), &e);
            if (n % 7 == 0 || n < 20) /* all of them would take too long */
                refuse_wrong_inclusion(m, n, &root, &got);
        }
    }
}

static void refuse_wrong_consistency(size_t from, size_t size, struct st_merkle_proof *p)
{
    struct st_err e;
    hash before = mth(leaves, from), after = mth(leaves, size), bad;
    for (size_t n = 0; n <= MAX_LEAVES; n++) {
        hash other = mth(leaves, n);
        if (n != from)
            assert_int_equal(st_merkle_verify_consistency(n, &other, size, &after, p, &e), ST_VERIFY);
        if (n != size)
            assert_int_equal(st_merkle_verify_consistency(from, &before, n, &other, p, &e), ST_VERIFY);
    }
    bad = before;
    bad.b[0] ^= 1;
    assert_int_equal(st_merkle_verify_consistency(from, &bad, size, &after, p, &e), ST_VERIFY);
    bad = after;
    bad.b[0] ^= 1;
    assert_int_equal(st_merkle_verify_consistency(from, &before, size, &bad, p, &e), ST_VERIFY);
    for (size_t i = 0; i < p->n; i++) {
        p->hashes[i].b[i % 32] ^= 4;
        assert_int_equal(st_merkle_verify_consistency(from, &before, size, &after, p, &e), ST_VERIFY);
        p->hashes[i].b[i % 32] ^= 4;
    }
    p->n++;
    p->hashes[p->n - 1] = after;
    assert_int_equal(st_merkle_verify_consistency(from, &before, size, &after, p, &e), ST_VERIFY);
    p->n--;
    if (p->n > 0) {
        p->n--;
        assert_int_equal(st_merkle_verify_consistency(from, &before, size, &after, p, &e), ST_VERIFY);
        p->n++;
    }
}

static void consistency_of_every_pair_of_trees(void **state)
{
    (void)state;
    struct st_err e;
    for (size_t n = 1; n <= MAX_LEAVES; n++) {
        hash after = mth(leaves, n);
        for (size_t m = 1; m <= n; m++) {
            struct st_merkle_source s = {leaf_source, &n};
            struct st_merkle_proof got, want = {0};
            hash before = mth(leaves, m);
            assert_ok(st_merkle_prove_consistency(&s, m, n, &got, &e), &e);
            subproof(m, leaves, n, true, &want);
            assert_proof(&got, &want);
            assert_ok(st_merkle_verify_consistency(m, &before, n, &after, &got, &e), &e);
            if (m < n && (n % 7 == 0 || n < 20))
                refuse_wrong_consistency(m, n, &got);
        }
    }
}

static void the_empty_tree_begins_every_tree(void **state)
{
    (void)state;
    struct st_err e;
    size_t n = 5;
    struct st_merkle_source s = {leaf_source, &n};
    struct st_merkle_proof p;
    hash empty = mth(leaves, 0), five = mth(leaves, 5);
    assert_ok(st_merkle_prove_consistency(&s, 0, 5, &p, &e), &e);
    assert_int_equal(p.n, 0);
    assert_ok(st_merkle_verify_consistency(0, &empty, 5, &five, &p, &e), &e);
    assert_ok(st_merkle_verify_consistency(0, &empty, 0, &empty, &p, &e), &e);
    assert_int_equal(st_merkle_verify_consistency(0, &five, 5, &five, &p, &e), ST_VERIFY);
    p.n = 1;
    p.hashes[0] = five;
    assert_int_equal(st_merkle_verify_consistency(0, &empty, 5, &five, &p, &e), ST_VERIFY);
    assert_int_equal(st_merkle_verify_inclusion(&five, 0, 0, &five, &p, &e), ST_VERIFY);
    p.n = 0;
    assert_int_equal(st_merkle_verify_inclusion(&empty, 0, 0, &empty, &p, &e), ST_VERIFY);
}

static int zero_source(void *ctx, unsigned level, uint64_t index, hash *out, struct st_err *e)
{
    (void)e;
    const uint64_t *size = ctx;
    assert_true(level < 63 && index < *size >> level);
    memset(out, (int)level, sizeof *out);
    return 0;
}

static void numbers_at_the_limit_stay_in_bounds(void **state)
{
    (void)state;
    struct st_err e;
    uint64_t size = ST_MERKLE_MAX_SIZE;
    struct st_merkle_source s = {zero_source, &size};
    struct st_merkle_proof p;
    hash h = {{0}};
    static const uint64_t at[] = {0, 1, 2, (uint64_t)1 << 62, ((uint64_t)1 << 62) - 1, ST_MERKLE_MAX_SIZE - 1};
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        assert_ok(st_merkle_prove_inclusion(&s, at[i], size, &p, &e), &e);
        assert_true(p.n <= ST_MERKLE_MAX_PROOF);
        assert_int_equal(st_merkle_verify_inclusion(&h, at[i], size, &h, &p, &e), ST_VERIFY);
        assert_ok(st_merkle_prove_consistency(&s, at[i], size, &p, &e), &e);
        assert_true(p.n <= ST_MERKLE_MAX_PROOF);
        assert_int_equal(st_merkle_verify_consistency(at[i], &h, size, &h, &p, &e), ST_VERIFY);
    }
    assert_int_equal(st_merkle_prove_inclusion(&s, 5, 5, &p, &e), ST_INPUT);
    assert_int_equal(st_merkle_prove_inclusion(&s, 5, size + 1, &p, &e), ST_INPUT);
    assert_int_equal(st_merkle_prove_consistency(&s, 6, 5, &p, &e), ST_INPUT);
    p.n = ST_MERKLE_MAX_PROOF + 1;
    assert_int_equal(st_merkle_verify_inclusion(&h, 0, size, &h, &p, &e), ST_VERIFY);
    assert_int_equal(st_merkle_verify_consistency(1, &h, size, &h, &p, &e), ST_VERIFY);
    p.n = 64;
    assert_int_equal(st_merkle_verify_inclusion(&h, 0, UINT64_MAX, &h, &p, &e), ST_VERIFY);
    assert_int_equal(st_merkle_verify_consistency(1, &h, UINT64_MAX, &h, &p, &e), ST_VERIFY);
}

static void paths_are_those_of_the_specification(void **state)
{
    (void)state;
    struct st_err e;
    struct st_tile t;
    char path_text[ST_TILE_MAX_PATH];
    static const struct {
        struct st_tile t;
        const char *path;
    } good[] = {
        {{0, 1234067, 256}, "tile/0/x001/x234/067"},
        {{1, 0, 17}, "tile/1/000.p/17"},
        {{0, 273, 112}, "tile/0/273.p/112"},
        {{7, 999, 256}, "tile/7/999"},
        {{0, 1000, 1}, "tile/0/x001/000.p/1"},
        {{ST_TILE_ENTRIES, 3, 5}, "tile/entries/003.p/5"},
        {{ST_TILE_ENTRIES, 1234067, 256}, "tile/entries/x001/x234/067"},
        {{0, ST_MERKLE_MAX_SIZE / 256, 255}, "tile/0/x036/x028/x797/x018/x963/967.p/255"},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_string_equal(st_tile_path(&good[i].t, path_text), good[i].path);
        assert_ok(st_tile_parse(good[i].path, strlen(good[i].path), &t, &e), &e);
        assert_int_equal(t.level, good[i].t.level);
        assert_int_equal(t.index, good[i].t.index);
        assert_int_equal(t.width, good[i].t.width);
    }
    static const char *const bad[] = {"",
                                      "tile/",
                                      "tile/0",
                                      "tile/0/",
                                      "tile/0/0",
                                      "tile/0/0000",
                                      "tile/00/000",
                                      "tile/8/000",
                                      "tile/64/000",
                                      "tile/-1/000",
                                      "tile/0/x000/001",
                                      "tile/0/x001",
                                      "tile/0/001/002",
                                      "tile/0/x01/002",
                                      "tile/0/001.p/0",
                                      "tile/0/001.p/256",
                                      "tile/0/001.p/012",
                                      "tile/0/001.p/",
                                      "tile/0/001.p",
                                      "tile/0/001/",
                                      "tile/0/../001",
                                      "/tile/0/001",
                                      "tile/entries/001.p/999999999999",
                                      "tile/0/x999/x999/x999/x999/x999/999",
                                      "tile/0/x999/x999/x999/x999/x999/x999/x999/x999/x999/x999/999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_refusal(st_tile_parse(bad[i], strlen(bad[i]), &t, &e), &e, ST_INPUT, "want tile/");
}

static void a_tree_of_70000_has_the_tiles_of_the_specification(void **state)
{
    (void)state;
    static const struct {
        int level;
        uint64_t index;
        unsigned width;
    } want[] = {{0, 0, 256},
                {0, 272, 256},
                {0, 273, 112},
                {0, 274, 0},
                {1, 0, 256},
                {1, 1, 17},
                {1, 2, 0},
                {2, 0, 1},
                {2, 1, 0},
                {3, 0, 0},
                {ST_TILE_ENTRIES, 273, 112}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        assert_int_equal(st_tile_at(want[i].level, want[i].index, 70000).width, want[i].width);
    assert_int_equal(st_tile_at(0, 0, 256).width, 256);
    assert_int_equal(st_tile_at(1, 0, 256).width, 1);
    assert_int_equal(st_tile_at(0, 0, 0).width, 0);
    assert_int_equal(st_tile_at(0, UINT64_MAX, ST_MERKLE_MAX_SIZE).width, 0);
}

/* A log in memory: what appending gives is put into tiles, and proofs are made from these alone. */
#define TILED 70000
struct tiled {
    hash *level[3];
    size_t n[3];
};

static int to_tiles(void *ctx, unsigned level, uint64_t index, const hash *h, struct st_err *e)
{
    (void)e;
    struct tiled *t = ctx;
    if (level % 8)
        return 0;
    assert_int_equal(index, t->n[level / 8]);
    t->level[level / 8][t->n[level / 8]++] = *h;
    return 0;
}

static int read_tile(void *ctx, const struct st_tile *t, struct st_span *bytes, struct st_err *e)
{
    (void)e;
    const struct tiled *log = ctx;
    assert_true(t->level < 3 && t->index * 256 + t->width <= log->n[t->level]);
    *bytes = (struct st_span){log->level[t->level][t->index * 256].b, (size_t)t->width * ST_MERKLE_HASH};
    return 0;
}

static void proofs_from_tiles_hold(void **state)
{
    (void)state;
    struct st_err e;
    struct tiled log = {0};
    struct st_merkle_range r = {0}, loaded;
    struct st_merkle_sink sink = {to_tiles, &log};
    struct st_merkle_proof p;
    struct st_rng rng;
    static const size_t sizes[] = {1, 255, 256, 257, 511, 512, 513, 4095, 65535, 65536, 65537, 69999, TILED};
    hash roots[sizeof sizes / sizeof *sizes];
    size_t n_size = sizeof sizes / sizeof *sizes, at = 0;
    for (int i = 0; i < 3; i++)
        assert_non_null(log.level[i] = malloc(((size_t)TILED >> 8 * i) * sizeof(hash)));
    for (uint32_t i = 0; i < TILED; i++) {
        hash leaf = st_merkle_leaf(&i, sizeof i);
        assert_ok(st_merkle_append(&r, &leaf, &sink, &e), &e);
        if (r.size == sizes[at])
            roots[at++] = st_merkle_root(&r);
    }
    assert_int_equal(log.n[1], 273);
    assert_int_equal(log.n[2], 1);
    st_rng_seed(&rng, 3);
    for (size_t i = 0; i < n_size; i++) {
        struct st_tile_reader reader = {read_tile, &log, sizes[i]};
        struct st_merkle_source s = st_tile_source(&reader);
        assert_ok(st_merkle_load(&s, sizes[i], &loaded, &e), &e);
        hash root = st_merkle_root(&loaded);
        assert_hash(&root, &roots[i]);
        for (int j = 0; j < 50; j++) {
            uint64_t index = j ? mutate_below(&rng, sizes[i]) : sizes[i] - 1;
            assert_ok(st_merkle_prove_inclusion(&s, index, sizes[i], &p, &e), &e);
            assert_ok(st_merkle_verify_inclusion(&log.level[0][index], index, sizes[i], &roots[i], &p, &e), &e);
        }
        for (size_t j = 0; j <= i; j++) {
            assert_ok(st_merkle_prove_consistency(&s, sizes[j], sizes[i], &p, &e), &e);
            assert_ok(st_merkle_verify_consistency(sizes[j], &roots[j], sizes[i], &roots[i], &p, &e), &e);
        }
    }
    for (int i = 0; i < 3; i++)
        free(log.level[i]);
}

static int short_tile(void *ctx, const struct st_tile *t, struct st_span *bytes, struct st_err *e)
{
    (void)t, (void)e;
    *bytes = *(struct st_span *)ctx;
    return 0;
}

static int no_tile(void *ctx, const struct st_tile *t, struct st_span *bytes, struct st_err *e)
{
    char text[ST_TILE_MAX_PATH];
    (void)ctx, (void)bytes;
    return st_fail(e, ST_IO, "%s: not there", st_tile_path(t, text));
}

static void a_wrong_or_missing_tile_is_an_error_that_names_it(void **state)
{
    (void)state;
    struct st_err e;
    static const uint8_t bytes[257 * ST_MERKLE_HASH];
    struct st_span b = {bytes, 4 * ST_MERKLE_HASH};
    struct st_tile_reader reader = {short_tile, &b, 5};
    struct st_merkle_source s = st_tile_source(&reader);
    struct st_merkle_proof p;
    struct st_tile narrow = {0, 0, 3};
    hash h;
    expect_refusal(st_merkle_prove_inclusion(&s, 0, 5, &p, &e), &e, ST_INPUT, "tile/0/000.p/5: want 160 bytes");
    b.len = 5 * ST_MERKLE_HASH + 1;
    expect_refusal(st_merkle_prove_inclusion(&s, 0, 5, &p, &e), &e, ST_INPUT, "tile/0/000.p/5: want 160 bytes");
    reader.read = no_tile;
    expect_refusal(st_merkle_prove_inclusion(&s, 0, 5, &p, &e), &e, ST_IO, "tile/0/000.p/5: not there");
    /* A reader made for a smaller tree than is asked about. */
    reader.read = short_tile;
    b.len = 5 * ST_MERKLE_HASH;
    expect_refusal(st_merkle_prove_inclusion(&s, 0, 300, &p, &e), &e, ST_INPUT, "node 1 of level 2");
    expect_refusal(st_merkle_prove_inclusion(&s, 299, 300, &p, &e), &e, ST_INPUT, "has no node");
    b.len = 3 * ST_MERKLE_HASH;
    expect_refusal(st_tile_node(&narrow, b, 2, 0, &h, &e), &e, ST_INPUT, "too narrow");
    expect_refusal(st_tile_node(&narrow, b, 0, 3, &h, &e), &e, ST_INPUT, "too narrow");
    assert_ok(st_tile_node(&narrow, b, 1, 0, &h, &e), &e);
}

static void entry_bundles_equal_their_tile(void **state)
{
    (void)state;
    struct st_err e;
    struct st_buf bundle = {0};
    static uint8_t large[ST_TILE_MAX_ENTRY + 1];
    hash tile[3] = {st_merkle_leaf("", 0), st_merkle_leaf("abc", 3), st_merkle_leaf(large, ST_TILE_MAX_ENTRY)};
    struct st_span hashes = {tile[0].b, sizeof tile}, entry;
    assert_ok(st_entry_add("", 0, &bundle, &e), &e);
    assert_ok(st_entry_add("abc", 3, &bundle, &e), &e);
    assert_memory_equal(bundle.p, "\0\0\0\3abc", 7);
    assert_ok(st_entry_add(large, ST_TILE_MAX_ENTRY, &bundle, &e), &e);
    expect_refusal(st_entry_add(large, sizeof large, &bundle, &e), &e, ST_INPUT, "at most 65535");
    struct st_span b = {(const uint8_t *)bundle.p, bundle.len};
    assert_ok(st_entries_verify(b, hashes, &e), &e);
    for (size_t cut = 0; cut < 20; cut++) {
        int rc = st_entries_verify((struct st_span){b.p, cut}, hashes, &e);
        assert_true(rc == ST_INPUT || rc == ST_VERIFY);
    }
    expect_refusal(st_entries_verify((struct st_span){b.p, b.len - 1}, hashes, &e), &e, ST_INPUT, "cut");
    hashes.len -= ST_MERKLE_HASH;
    expect_refusal(st_entries_verify(b, hashes, &e), &e, ST_VERIFY, "entry 2");
    hashes.len -= 1;
    expect_refusal(st_entries_verify((struct st_span){b.p, 7}, hashes, &e), &e, ST_VERIFY, "entry 1");
    hashes.len = sizeof tile;
    bundle.p[5] ^= 1;
    expect_refusal(st_entries_verify(b, hashes, &e), &e, ST_VERIFY, "entry 1");
    struct st_span one = {(const uint8_t *)"\0\1", 2};
    expect_refusal(st_entry_next(&one, &entry, NULL, &e), &e, ST_INPUT, "cut");
    one.len = 1;
    expect_refusal(st_entry_next(&one, &entry, NULL, &e), &e, ST_INPUT, "cut");
    st_buf_free(&bundle);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_published_tree_has_the_published_roots),
        cmocka_unit_test(the_published_proofs_hold),
        cmocka_unit_test(ranges_equal_the_definition),
        cmocka_unit_test(inclusion_of_every_leaf_of_every_tree),
        cmocka_unit_test(consistency_of_every_pair_of_trees),
        cmocka_unit_test(the_empty_tree_begins_every_tree),
        cmocka_unit_test(numbers_at_the_limit_stay_in_bounds),
        cmocka_unit_test(paths_are_those_of_the_specification),
        cmocka_unit_test(a_tree_of_70000_has_the_tiles_of_the_specification),
        cmocka_unit_test(proofs_from_tiles_hold),
        cmocka_unit_test(a_wrong_or_missing_tile_is_an_error_that_names_it),
        cmocka_unit_test(entry_bundles_equal_their_tile),
    };
    make_leaves();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
