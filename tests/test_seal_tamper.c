/* Containers that were changed, cut, mixed or signed by others: refused with VERIFY, by the name of the tensor where it
 * is one. What the writer made is changed in memory and read by the real reader. */
#include "seal_make.h"

#include "crypto/digest.h"
#include "model/container_parse.h"
#include "protect/sealed/layout.h"

/* Two layers of equal shapes; matrices of several segments. */
static const struct tiny model = {.d_model = 128, .d_ff = 160, .n_layer = 2, .n_vocab = 64, .dtype = ST_DTYPE_F32};

static struct seal_rig rig;
static struct st_buf whole;   /* the container */
static struct st_secret key;  /* its content key */
static struct st_secret word; /* of its recipient */
static size_t recipients_at, digests_at, segments_at;

static int make(void **state)
{
    struct seal_opened o;
    struct st_err e;
    (void)state;
    seal_rig_open(&rig, &model);
    tiny_save(rig.src, "tokenizer.json", "{\"any\": 1}", 10);
    seal_it(&rig, rig.dst);
    assert_ok(st_file_read(rig.dst, 1 << 24, &whole, &e), &e);
    assert_ok(seal_open(rig.dst, "word", &o, &e), &e);
    recipients_at = (size_t)(o.c->recipients.p - (const uint8_t *)o.c->head);
    digests_at = recipients_at + o.c->recipients.len + ST_CONTAINER_SIGNATURE;
    segments_at = digests_at + (size_t)o.c->n_segment * ST_CONTAINER_HASH;
    key = seal_secret(o.key.p, o.key.len);
    word = seal_secret("word", 4);
    seal_close(&o);
    return 0;
}

static int unmake(void **state)
{
    (void)state;
    st_buf_free(&whole);
    st_secret_wipe(&key);
    st_secret_wipe(&word);
    seal_rig_close(&rig);
    return 0;
}

/* What reads a whole container: header, recipients, key, every segment. The first error. */
static int read_bytes(const void *p, size_t len, struct st_err *e)
{
    struct seal_opened o = {0};
    const struct st_unlock u = {.passphrase = &word};
    int rc = st_container_parse(p, len, "m.sealed", NULL, &o.c, e);
    if (!rc)
        rc = st_recipient_open(o.c, &u, &o.key, e);
    if (!rc)
        rc = st_vault_new(o.c, &o.key, false, &o.v, e);
    if (!rc)
        rc = seal_read_all(&o, e);
    seal_close(&o);
    return rc;
}

static struct st_buf copy_whole(void)
{
    struct st_buf b = {0};
    st_buf_add(&b, whole.p, whole.len);
    assert_false(b.failed);
    return b;
}

static struct st_container *parsed(const struct st_buf *b)
{
    struct st_container *c;
    struct st_err e;
    assert_ok(st_container_parse(b->p, b->len, "m.sealed", NULL, &c, &e), &e);
    return c;
}

static size_t offset_of(const struct st_container *c, const char *name, uint32_t k)
{
    const struct st_container_entry *n = st_container_find(c, name);
    assert_non_null(n);
    return (size_t)(st_container_segment(c, n, k).p - c->p);
}

/* The entry to which a byte behind the digests belongs. */
static const char *name_at(const struct st_container *c, size_t at)
{
    for (size_t i = 0; i < st_container_count(c); i++) {
        const struct st_container_entry *n = st_container_at(c, i);
        struct st_span last = st_container_segment(c, n, n->n_segment - 1);
        if (c->p + at < last.p + last.len)
            return n->tensor.name;
    }
    return "none";
}

static void as_it_is_it_opens(void **state)
{
    (void)state;
    struct st_err e;
    assert_ok(read_bytes(whole.p, whole.len, &e), &e);
}

/* ---- bytes ---- */

static void every_byte_before_the_segments_counts(void **state)
{
    (void)state;
    struct st_buf b = copy_whole();
    struct st_err e;
    for (size_t i = 0; i < segments_at; i++) {
        b.p[i] ^= 1 << (i % 8);
        int rc = read_bytes(b.p, b.len, &e);
        /* Of a format that is not known nothing can be verified: the version alone is refused as such. */
        if (rc != ST_VERIFY && !(i >= 8 && i < 12 && rc == ST_UNSUPPORTED))
            fail_msg("byte %zu: %d %s", i, rc, rc ? e.msg : "accepted");
        b.p[i] ^= 1 << (i % 8);
    }
    assert_ok(read_bytes(b.p, b.len, &e), &e);
    st_buf_free(&b);
}

static void any_byte_of_a_segment_is_told_by_its_entry(void **state)
{
    (void)state;
    struct st_buf b = copy_whole();
    struct st_container *c = parsed(&whole);
    struct st_rng rng;
    struct st_err e;
    st_rng_seed(&rng, 3);
    for (int i = 0; i < 2000; i++) {
        size_t at = segments_at + st_rng_next(&rng) % (b.len - segments_at);
        uint8_t flip = (uint8_t)(1 + st_rng_next(&rng) % 255);
        b.p[at] = (char)(b.p[at] ^ flip);
        expect_refusal(read_bytes(b.p, b.len, &e), &e, ST_VERIFY, name_at(c, at));
        b.p[at] = (char)(b.p[at] ^ flip);
    }
    st_container_close(c);
    st_buf_free(&b);
}

static void a_cut_container_is_refused_at_every_length(void **state)
{
    (void)state;
    struct st_err e;
    for (size_t len = 0; len < whole.len; len += len < segments_at + 64 ? 1 : 997) {
        /* A copy of that length: a read behind it shows under a sanitizer. */
        char *p = malloc(len ? len : 1);
        memcpy(p, whole.p, len);
        int rc = read_bytes(p, len, &e);
        if (rc != ST_VERIFY && !(len < 8 && rc == ST_INPUT))
            fail_msg("length %zu: %d %s", len, rc, rc ? e.msg : "accepted");
        free(p);
    }
    struct st_buf b = copy_whole();
    st_buf_add_str(&b, "x");
    expect_refusal(read_bytes(b.p, b.len, &e), &e, ST_VERIFY, "m.sealed");
    st_buf_free(&b);
}

static void a_changed_file_is_refused_by_its_name_too(void **state)
{
    (void)state;
    static const size_t at[] = {0, 3, 30};
    struct seal_opened o;
    struct st_err e;
    char path[160];
    snprintf(path, sizeof path, "%s/changed.sealed", rig.dir);
    for (size_t i = 0; i < 3; i++) {
        struct st_buf b = copy_whole();
        b.p[at[i]] ^= 4;
        assert_ok(st_file_write(path, b.p, b.len, 0600, true, &e), &e);
        expect_refusal(seal_open(path, "word", &o, &e), &e, ST_VERIFY, "changed.sealed");
        seal_close(&o);
        st_buf_free(&b);
    }
}

/* ---- parts moved about ---- */

static void swap(struct st_buf *b, size_t x, size_t y, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        char c = b->p[x + i];
        b->p[x + i] = b->p[y + i];
        b->p[y + i] = c;
    }
}

static void swapped_tensors_are_told_by_name(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight"}, /* inside */
        {"model.layers.0.self_attn.o_proj.weight", "model.layers.1.self_attn.o_proj.weight"}, /* outside */
        {"model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.v_proj.weight"},
    };
    for (size_t i = 0; i < 3; i++) {
        struct st_buf b = copy_whole();
        struct st_container *c = parsed(&whole);
        struct st_err e;
        const struct st_container_entry *n = st_container_find(c, pairs[i][0]);
        for (uint32_t k = 0; k < n->n_segment; k++)
            swap(&b, offset_of(c, pairs[i][0], k), offset_of(c, pairs[i][1], k), st_container_segment(c, n, k).len);
        expect_refusal(read_bytes(b.p, b.len, &e), &e, ST_VERIFY, pairs[i][0]);
        st_container_close(c);
        st_buf_free(&b);
    }
}

static void swapped_segments_of_a_tensor_are_told(void **state)
{
    (void)state;
    static const char *const names[] = {"model.layers.0.self_attn.q_proj.weight",
                                        "model.layers.0.self_attn.o_proj.weight"};
    for (size_t i = 0; i < 2; i++) {
        struct st_buf b = copy_whole();
        struct st_container *c = parsed(&whole);
        struct st_err e;
        const struct st_container_entry *n = st_container_find(c, names[i]);
        assert_true(n->n_segment >= 3);
        swap(&b, offset_of(c, names[i], 0), offset_of(c, names[i], 1), st_container_segment(c, n, 0).len);
        expect_refusal(read_bytes(b.p, b.len, &e), &e, ST_VERIFY, names[i]);
        /* The first twice. */
        memcpy(b.p + offset_of(c, names[i], 1), b.p + offset_of(c, names[i], 0), st_container_segment(c, n, 0).len);
        expect_refusal(read_bytes(b.p, b.len, &e), &e, ST_VERIFY, names[i]);
        st_container_close(c);
        st_buf_free(&b);
    }
}

/* ---- containers mixed ---- */

/* The same model sealed again by the same publisher. */
static void seal_again(uint64_t version, struct st_buf *out)
{
    char path[160];
    struct st_err e;
    snprintf(path, sizeof path, "%s/again.sealed", rig.dir);
    rig.o.version = version;
    seal_it(&rig, path);
    rig.o.version = 0;
    assert_ok(st_file_read(path, 1 << 24, out, &e), &e);
    unlink(path);
    assert_int_equal(out->len, whole.len);
}

static void segments_of_another_sealing_are_refused(void **state)
{
    (void)state;
    for (uint64_t version = 1; version < 3; version++) {
        struct st_buf b = copy_whole(), other = {0};
        struct st_container *c = parsed(&whole);
        struct st_err e;
        const char *name = "model.layers.1.mlp.gate_proj.weight";
        seal_again(version, &other);
        size_t at = offset_of(c, name, 0), len = st_container_segment(c, st_container_find(c, name), 0).len;
        memcpy(b.p + at, other.p + at, len);
        expect_refusal(read_bytes(b.p, b.len, &e), &e, ST_VERIFY, name);
        st_buf_clear(&b);
        st_buf_add(&b, whole.p, segments_at);
        st_buf_add(&b, other.p + segments_at, other.len - segments_at);
        expect_refusal(read_bytes(b.p, b.len, &e), &e, ST_VERIFY, "model.");
        st_container_close(c);
        st_buf_free(&b);
        st_buf_free(&other);
    }
}

static void heads_of_another_sealing_are_refused(void **state)
{
    (void)state;
    struct st_buf b = {0}, other = {0};
    struct st_err e;
    seal_again(2, &other);
    const size_t cuts[] = {ST_CONTAINER_FIXED, recipients_at - ST_CONTAINER_SIGNATURE - ST_CONTAINER_MAC,
                           recipients_at - ST_CONTAINER_SIGNATURE, recipients_at, digests_at};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        /* The first part of the other one, and the rest of this. */
        st_buf_clear(&b);
        st_buf_add(&b, other.p, cuts[i]);
        st_buf_add(&b, whole.p + cuts[i], whole.len - cuts[i]);
        if (i == 0) /* the fixed part is the same in both */
            assert_ok(read_bytes(b.p, b.len, &e), &e);
        else
            expect_refusal(read_bytes(b.p, b.len, &e), &e, ST_VERIFY, "m.sealed");
    }
    st_buf_free(&b);
    st_buf_free(&other);
}

/* ---- others sign ---- */

/* The container with another header and list, signed by the key that a seed gives; the mac is by `content_key`. */
static void resign(struct st_span header, struct st_span recipients, const struct st_secret *content_key,
                   uint8_t first_of_seed, struct st_buf *out)
{
    struct st_container *c = parsed(&whole);
    struct st_container_about a;
    struct st_secret seed = seal_seed(first_of_seed);
    struct st_ed25519 *signer;
    struct st_err e;
    st_container_about(c, &a);
    assert_ok(st_ed25519_import(seed.p, &signer, &e), &e);
    const struct st_sealed_head h = {.header = header,
                                     .recipients = recipients,
                                     .n_segment = c->n_segment,
                                     .content_key = content_key,
                                     .publisher = signer};
    assert_ok(st_sealed_write_head(&h, &a, out, &e), &e);
    st_buf_add(out, whole.p + digests_at, whole.len - digests_at);
    st_ed25519_free(signer);
    st_secret_wipe(&seed);
    st_container_close(c);
}

static struct st_span header_of(const struct st_buf *b)
{
    return (struct st_span){(const uint8_t *)b->p + ST_CONTAINER_FIXED,
                            recipients_at - ST_CONTAINER_FIXED - ST_CONTAINER_MAC - ST_CONTAINER_SIGNATURE};
}

static struct st_span list_of(const struct st_buf *b)
{
    return (struct st_span){(const uint8_t *)b->p + recipients_at, digests_at - recipients_at - ST_CONTAINER_SIGNATURE};
}

static void recipients_of_another_container_give_no_key(void **state)
{
    (void)state;
    struct st_buf b = {0}, other = {0};
    struct st_err e;
    resign(header_of(&whole), list_of(&whole), &key, 3, &b);
    assert_int_equal(b.len, whole.len);
    assert_memory_equal(b.p, whole.p,
                        whole.len); /* signing again gives the same: the tests below change what they say */
    for (uint64_t version = 1; version < 3; version++) {
        st_buf_clear(&b);
        st_buf_clear(&other);
        seal_again(version, &other);
        resign(header_of(&whole), list_of(&other), &key, 3, &b); /* even when their publisher signs it */
        expect_refusal(read_bytes(b.p, b.len, &e), &e, ST_VERIFY, "wrong passphrase, or not of this container");
    }
    st_buf_free(&b);
    st_buf_free(&other);
}

static void who_has_not_the_content_key_makes_no_header(void **state)
{
    (void)state;
    struct st_buf b = {0}, header = {0};
    struct st_secret guess = seal_seed(77), seed = seal_seed(50);
    struct st_ed25519 *thief;
    uint8_t public[32];
    char hex[65];
    struct st_err e;
    /* Somebody signs the container in his own name, or claims another policy for it, and keeps the recipients. */
    assert_ok(st_ed25519_import(seed.p, &thief, &e), &e);
    st_ed25519_public(thief, public);
    st_hex(public, sizeof public, hex);
    st_buf_add(&header, header_of(&whole).p, header_of(&whole).len);
    memcpy(strstr(header.p, "\"publisher\":\"") + 13, hex, 64);
    resign((struct st_span){(const uint8_t *)header.p, header.len}, list_of(&whole), &guess, 50, &b);
    expect_refusal(read_bytes(b.p, b.len, &e), &e, ST_VERIFY, "gives a key that is not this container's");
    st_ed25519_free(thief);
    st_secret_wipe(&guess);
    st_secret_wipe(&seed);
    st_buf_free(&b);
    st_buf_free(&header);
}

/* What a publisher signs wrongly, by mistake or by a stolen key: bounds are checked none the less. */
static void a_header_that_lies_is_refused_although_it_is_signed(void **state)
{
    (void)state;
    static const char *const changes[][2] = {
        {"\"place\":\"inside\"", "\"place\":\"insidr\""},
        {"\"dtype\":\"F32\"", "\"dtype\":\"F64\""},
        {"[128,128]", "[127,128]"},
        {"[128,128]", "[128,129]"},
        {"\"segment_bytes\":16384", "\"segment_bytes\":16385"},
        {"\"segment_bytes\":16384", "\"segment_bytes\":00000"},
        {"\"segment_bytes\":16384", "\"segment_bytes\":81920"},
        {"\"version\":1", "\"version\":0"},
        {"\"kind\":\"model\"", "\"kind\":\"modem\""},
        {"\"digests\":\"", "\"digestz\":\""},
        {"model.layers.1.self_attn.q_proj.weight", "model.layers.0.self_attn.q_proj.weight"},
    };
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        struct st_buf b = {0}, header = {0};
        struct st_err e;
        st_buf_add(&header, header_of(&whole).p, header_of(&whole).len);
        char *at = strstr(header.p, changes[i][0]);
        if (!at)
            fail_msg("the header has no %s", changes[i][0]);
        memcpy(at, changes[i][1], strlen(changes[i][1]));
        resign((struct st_span){(const uint8_t *)header.p, header.len}, list_of(&whole), &key, 3, &b);
        int rc = read_bytes(b.p, b.len, &e);
        if (rc != ST_VERIFY)
            fail_msg("%s: %d %s", changes[i][1], rc, rc ? e.msg : "accepted");
        st_buf_free(&b);
        st_buf_free(&header);
    }
}

/* The publisher himself gives it another name: the same bytes under it do not open. */
static void a_segment_is_bound_to_its_name(void **state)
{
    (void)state;
    struct st_buf b = {0}, header = {0};
    struct st_err e;
    const char *name = "model.layers.0.self_attn.q_proj.weight";
    st_buf_add(&header, header_of(&whole).p, header_of(&whole).len);
    char *at = strstr(header.p, name);
    assert_non_null(at);
    at[strlen("model.layers.0.self_attn.")] = 'x';
    resign((struct st_span){(const uint8_t *)header.p, header.len}, list_of(&whole), &key, 3, &b);
    expect_refusal(read_bytes(b.p, b.len, &e), &e, ST_VERIFY, "model.layers.0.self_attn.x_proj.weight");
    st_buf_free(&b);
    st_buf_free(&header);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_it_is_it_opens),
        cmocka_unit_test(every_byte_before_the_segments_counts),
        cmocka_unit_test(any_byte_of_a_segment_is_told_by_its_entry),
        cmocka_unit_test(a_cut_container_is_refused_at_every_length),
        cmocka_unit_test(a_changed_file_is_refused_by_its_name_too),
        cmocka_unit_test(swapped_tensors_are_told_by_name),
        cmocka_unit_test(swapped_segments_of_a_tensor_are_told),
        cmocka_unit_test(segments_of_another_sealing_are_refused),
        cmocka_unit_test(heads_of_another_sealing_are_refused),
        cmocka_unit_test(recipients_of_another_container_give_no_key),
        cmocka_unit_test(who_has_not_the_content_key_makes_no_header),
        cmocka_unit_test(a_header_that_lies_is_refused_although_it_is_signed),
        cmocka_unit_test(a_segment_is_bound_to_its_name),
    };
    return cmocka_run_group_tests(tests, make, unmake);
}
