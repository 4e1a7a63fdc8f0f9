/* A container with its key: what was sealed comes out, as a whole or not at all. */
#include "container_make.h"
#include "model/container_parse.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#define ROWS 700
#define COLS 900

static float matrix[ROWS * COLS];
static uint16_t outside[ROWS * COLS];

static struct made_entry entries[] = {
    {.name = "in.weight",
     .json = "\"dtype\":\"F32\",\"shape\":[700,900]",
     .inside = true,
     .data = matrix,
     .bytes = sizeof matrix,
     .segment_bytes = 291 * COLS * 4},
    {.name = "out.weight",
     .json = "\"dtype\":\"BF16\",\"shape\":[700,900]",
     .data = outside,
     .bytes = sizeof outside,
     .segment_bytes = 582 * COLS * 2},
};

struct rig {
    struct made m;
    struct st_buf b;
    struct st_container *c;
    struct st_vault *v;
};

static void open_rig(struct rig *r)
{
    struct st_err e;
    *r = (struct rig){.m = {.seed = {5}, .id = {6}, .version = 1, .entries = entries, .n = 2}};
    made_container(&r->m, &r->b);
    assert_ok(st_container_parse(r->b.p, r->b.len, "made", NULL, &r->c, &e), &e);
    assert_ok(st_vault_new(r->c, &r->m.content_key, false, &r->v, &e), &e);
}

static void close_rig(struct rig *r)
{
    st_vault_free(r->v);
    st_container_close(r->c);
    st_secret_wipe(&r->m.content_key);
    st_buf_free(&r->b);
}

static int fill(void **state)
{
    (void)state;
    for (size_t i = 0; i < ROWS * COLS; i++) {
        matrix[i] = (float)i * 0.37f;
        outside[i] = (uint16_t)(i * 31);
    }
    return 0;
}

static void segments_come_out_as_they_went_in(void **state)
{
    (void)state;
    struct rig r;
    struct st_err e;
    uint8_t *got = malloc(ST_CONTAINER_SEGMENT);
    open_rig(&r);
    for (size_t i = 0; i < 2; i++) {
        const struct st_container_entry *n = st_container_at(r.c, i);
        for (uint32_t k = 0; k < n->n_segment; k++) {
            assert_ok(st_vault_segment(r.v, n, k, got, &e), &e);
            assert_memory_equal(got, (const uint8_t *)entries[i].data + (size_t)k * n->segment_bytes,
                                st_container_segment_bytes(n, k));
        }
    }
    assert_ptr_equal(st_vault_container(r.v), r.c);
    close_rig(&r);
    free(got);
}

static void any_range_can_be_read(void **state)
{
    (void)state;
    static const struct {
        size_t at, len;
    } ranges[] = {{0, 0}, {0, 1}, {0, sizeof matrix}, {sizeof matrix - 1, 1}, {1000000, 200000}, {5, 2200000}};
    struct rig r;
    struct st_err e;
    uint8_t *got = malloc(sizeof matrix);
    open_rig(&r);
    const struct st_source *s = st_vault_source(r.v);
    const struct st_tensor *t = &st_container_at(r.c, 0)->tensor;
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        assert_ok(s->read(s->ctx, t, ranges[i].at, ranges[i].len, got, &e), &e);
        assert_memory_equal(got, (const uint8_t *)matrix + ranges[i].at, ranges[i].len);
    }
    assert_true(s->secret(s->ctx, t));
    assert_true(s->readable(s->ctx, t));
    t = &st_container_at(r.c, 1)->tensor;
    assert_false(s->secret(s->ctx, t));
    assert_ok(s->read(s->ctx, t, 3, 77, got, &e), &e);
    assert_memory_equal(got, (const uint8_t *)outside + 3, 77);
    expect_refusal(s->read(s->ctx, &st_container_at(r.c, 0)->tensor, 1, sizeof matrix, got, &e), &e, ST_INTERNAL,
                   "beyond");
    close_rig(&r);
    free(got);
}

static void another_key_is_refused(void **state)
{
    (void)state;
    struct rig r;
    struct st_vault *v;
    struct st_secret key;
    struct st_err e;
    open_rig(&r);
    uint8_t seed[32] = {7}, id[16] = {6};
    assert_ok(st_vault_content_key(seed, id, &key, &e), &e);
    expect_refusal(st_vault_new(r.c, &key, false, &v, &e), &e, ST_VERIFY, "key is not this container's");
    assert_null(v);
    st_secret_wipe(&key);
    /* The same publisher's of another sealing. */
    id[0] = 8;
    assert_ok(st_vault_content_key(r.m.seed, id, &key, &e), &e);
    expect_refusal(st_vault_new(r.c, &key, false, &v, &e), &e, ST_VERIFY, "key is not this container's");
    st_secret_wipe(&key);
    close_rig(&r);
}

/* Changed bytes of a sealed segment: refused, named, and nothing is left of what was decrypted. */
static void a_changed_segment_leaves_zeros(void **state)
{
    (void)state;
    struct rig r;
    struct st_err e;
    uint8_t *got = malloc(ST_CONTAINER_SEGMENT);
    open_rig(&r);
    const struct st_container_entry *n = st_container_at(r.c, 0);
    struct st_span s = st_container_segment(r.c, n, 1);
    const size_t places[] = {0, 11, 12, 500000, s.len - 17, s.len - 16, s.len - 1};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        uint8_t *p = (uint8_t *)r.b.p + (s.p - (const uint8_t *)r.b.p) + places[i];
        *p ^= 4;
        memset(got, 1, st_container_segment_bytes(n, 1));
        expect_refusal(st_vault_segment(r.v, n, 1, got, &e), &e, ST_VERIFY, "in.weight: segment 1 is changed");
        for (uint32_t k = 0; k < st_container_segment_bytes(n, 1); k++)
            assert_int_equal(got[k], 0);
        *p ^= 4;
    }
    assert_ok(st_vault_segment(r.v, n, 1, got, &e), &e);
    close_rig(&r);
    free(got);
}

static void segments_do_not_stand_for_each_other(void **state)
{
    (void)state;
    struct rig r;
    struct st_err e;
    uint8_t *got = malloc(ST_CONTAINER_SEGMENT);
    open_rig(&r);
    const struct st_container_entry *n = st_container_at(r.c, 0);
    struct st_span a = st_container_segment(r.c, n, 0), b = st_container_segment(r.c, n, 1);
    assert_int_equal(a.len, b.len);
    memcpy(r.b.p + (a.p - (const uint8_t *)r.b.p), b.p, b.len);
    expect_refusal(st_vault_segment(r.v, n, 0, got, &e), &e, ST_VERIFY, "in.weight: segment 0 is changed");
    close_rig(&r);
    free(got);
}

/* What OpenSSL has from the allocator: */
struct block {
    _Alignas(16) size_t len;
    struct block *before, *behind;
};
static struct block blocks = {.before = &blocks, .behind = &blocks};
static size_t n_allocation;

static void *counted_new(size_t len, const char *file, int line)
{
    (void)file;
    (void)line;
    struct block *b = malloc(sizeof *b + len);
    if (!b)
        return NULL;
    n_allocation++;
    *b = (struct block){.len = len, .before = blocks.before, .behind = &blocks};
    b->before->behind = b->behind->before = b;
    return b + 1;
}

static void counted_free(void *p, const char *file, int line)
{
    (void)file;
    (void)line;
    if (!p)
        return;
    struct block *b = (struct block *)p - 1;
    b->before->behind = b->behind;
    b->behind->before = b->before;
    free(b);
}

static void *counted_again(void *p, size_t len, const char *file, int line)
{
    void *q = counted_new(len, file, line);
    if (p && q) {
        size_t had = ((struct block *)p - 1)->len;
        memcpy(q, p, had < len ? had : len);
        counted_free(p, file, line);
    }
    return q;
}

static bool openssl_holds(const uint8_t *p, size_t len)
{
    for (const struct block *b = blocks.behind; b != &blocks; b = b->behind)
        if (memmem(b + 1, b->len, p, len))
            return true;
    return false;
}

static void segments_take_no_memory_and_leave_no_key(void **state)
{
    (void)state;
    struct rig r;
    struct st_err e;
    struct st_secret key;
    struct st_aead_reader control;
    uint8_t *got = malloc(ST_CONTAINER_SEGMENT), nonce[12] = {0}, sealed[20], text[4];
    open_rig(&r);
    const struct st_container_entry *n = st_container_at(r.c, 0);
    assert_ok(st_vault_segment_key(&r.m.content_key, r.m.id, &key, &e), &e);
    assert_ok(st_vault_segment(r.v, n, 0, got, &e), &e);
    size_t before = n_allocation;
    for (uint32_t k = 0; k < n->n_segment; k++)
        assert_ok(st_vault_segment(r.v, n, k, got, &e), &e);
    assert_int_equal(n_allocation, before);
    assert_false(openssl_holds(key.p, 16));
    assert_false(openssl_holds(key.p + 16, 16));
    /* Where it would be found: in a context that is not done with it. */
    assert_ok(st_aead_reader_new(&control, &e), &e);
    assert_ok(st_aead_seal(key.p, nonce, NULL, 0, nonce, 4, sealed, &e), &e);
    assert_ok(st_aead_read(&control, key.p, nonce, NULL, 0, sealed, sizeof sealed, text, &e), &e);
    assert_false(openssl_holds(key.p, 16));
    assert_int_equal(EVP_CipherInit_ex(control.ctx, NULL, NULL, key.p, nonce, 0), 1);
    assert_true(openssl_holds(key.p, 16));
    st_aead_reader_free(&control);
    st_secret_wipe(&key);
    close_rig(&r);
    free(got);
}

int main(void)
{
    if (CRYPTO_set_mem_functions(counted_new, counted_again, counted_free) != 1)
        return 1; /* too late: somebody allocated before */

    const struct CMUnitTest tests[] = {
        cmocka_unit_test(segments_come_out_as_they_went_in),
        cmocka_unit_test(any_range_can_be_read),
        cmocka_unit_test(another_key_is_refused),
        cmocka_unit_test(a_changed_segment_leaves_zeros),
        cmocka_unit_test(segments_do_not_stand_for_each_other),
        cmocka_unit_test(segments_take_no_memory_and_leave_no_key),
    };
    return cmocka_run_group_tests(tests, fill, NULL);
}
