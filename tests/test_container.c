/* The reader of sealed containers: what is signed comes out, whatever else is refused before it is used. */
#include "container_make.h"
#include "model/container_parse.h"

#include <sys/stat.h>
#include <unistd.h>

static const char config[] = "{\"model_type\": \"test\"}";
static uint8_t inside[5 * 8 * 4], outside[3 * 16 * 2], vector[7 * 4];

/* A file, a matrix inside of two segments, one outside of two, a vector inside. */
static struct made_entry standard[] = {
    {.name = "config.json", .data = config, .bytes = sizeof config - 1, .segment_bytes = 1 << 20},
    {.name = "a.weight",
     .json = "\"dtype\":\"F32\",\"shape\":[5,8]",
     .inside = true,
     .data = inside,
     .bytes = sizeof inside,
     .segment_bytes = 3 * 8 * 4},
    {.name = "b.weight",
     .json = "\"dtype\":\"BF16\",\"shape\":[3,16]",
     .data = outside,
     .bytes = sizeof outside,
     .segment_bytes = 2 * 16 * 2},
    {.name = "a.bias",
     .json = "\"dtype\":\"F32\",\"shape\":[7]",
     .inside = true,
     .data = vector,
     .bytes = sizeof vector,
     .segment_bytes = 1 << 20},
};

static int fill(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof inside; i++)
        inside[i] = (uint8_t)(i * 7);
    for (size_t i = 0; i < sizeof outside; i++)
        outside[i] = (uint8_t)(i * 11 + 1);
    for (size_t i = 0; i < sizeof vector; i++)
        vector[i] = (uint8_t)(i * 13 + 2);
    return 0;
}

static struct made model(void)
{
    return (struct made){
        .seed = {1, 2, 3}, .id = {9, 8, 7}, .version = 4, .entries = standard, .n = sizeof standard / sizeof *standard};
}

static int parse(const struct st_buf *b, struct st_container **c, struct st_err *e)
{
    return st_container_parse(b->p, b->len, "made.sealed", NULL, c, e);
}

/* Makes it and expects that it's refused. */
static void refuses(struct made m, int code, const char *says)
{
    struct st_buf b = {0};
    struct st_container *c;
    struct st_err e = {0};
    made_container(&m, &b);
    expect_refusal(parse(&b, &c, &e), &e, code, says);
    assert_null(c);
    st_secret_wipe(&m.content_key);
    st_buf_free(&b);
}

static void what_was_signed_comes_out(void **state)
{
    (void)state;
    struct made m = model();
    struct st_buf b = {0}, text = {0};
    struct st_container *c;
    struct st_container_about about;
    struct st_err e;
    made_container(&m, &b);
    assert_ok(parse(&b, &c, &e), &e);
    st_container_about(c, &about);
    assert_memory_equal(about.id, m.id, 16);
    assert_int_equal(about.version, 4);
    assert_int_equal(about.kind, ST_CONTAINER_MODEL);
    assert_string_equal(about.name, "made");
    assert_string_equal(about.policy, "custom");
    assert_int_equal(st_container_count(c), 4);
    const struct st_container_entry *n = st_container_find(c, "a.weight");
    assert_ptr_equal(n, st_container_at(c, 1));
    assert_int_equal(n->n_segment, 2);
    assert_int_equal(n->first_segment, 1);
    assert_int_equal(n->tensor.dtype, ST_DTYPE_F32);
    assert_int_equal(n->tensor.dim[1], 8);
    assert_int_equal(st_container_segment_bytes(n, 1), 2 * 8 * 4);
    assert_int_equal(st_container_segment(c, n, 1).len, 2 * 8 * 4 + 28);
    assert_null(st_container_find(c, "a.weigh"));
    assert_null(st_container_at(c, 4));
    assert_ok(st_container_file(c, "config.json", 1000, &text, &e), &e);
    assert_string_equal(text.p, config);
    expect_refusal(st_container_file(c, "config.json", 5, &text, &e), &e, ST_INPUT, "at most 5");
    expect_refusal(st_container_file(c, "a.weight", 1000, &text, &e), &e, ST_INPUT, "holds no a.weight");
    assert_ok(st_container_check(c, 2, false, &e), &e);
    assert_int_equal(st_container_recipients(c).len, 4);
    st_container_close(c);
    st_secret_wipe(&m.content_key);
    st_buf_free(&text);
    st_buf_free(&b);
}

static void any_part_of_what_lies_outside_is_read(void **state)
{
    (void)state;
    struct made m = model();
    struct st_buf b = {0};
    struct st_container *c;
    struct st_err e;
    uint8_t got[sizeof outside];
    made_container(&m, &b);
    assert_ok(parse(&b, &c, &e), &e);
    const struct st_container_entry *n = st_container_find(c, "b.weight");
    for (size_t at = 0; at <= sizeof outside; at++)
        for (size_t len = 0; at + len <= sizeof outside; len++) {
            assert_ok(st_container_read(c, n, at, len, got, &e), &e);
            assert_memory_equal(got, outside + at, len);
        }
    expect_refusal(st_container_read(c, n, 1, sizeof outside, got, &e), &e, ST_INTERNAL, "beyond");
    expect_refusal(st_container_read(c, st_container_find(c, "a.bias"), 0, 4, got, &e), &e, ST_POLICY, "a.bias");
    st_container_close(c);
    st_secret_wipe(&m.content_key);
    st_buf_free(&b);
}

/* Flips bits of byte i. Before the segments: refused; in a segment: by the check, naming the entry. */
static void flip(struct st_buf *b, size_t i, size_t segments_at)
{
    struct st_container *c = NULL;
    struct st_err e = {0};
    b->p[i] ^= (char)(1 << i % 8);
    int rc = parse(b, &c, &e);
    int want = i >= 8 && i < 12 ? ST_UNSUPPORTED : i < segments_at ? ST_VERIFY : 0;
    if (rc != want)
        fail_msg("byte %zu: want %d, got %d '%s'", i, want, rc, e.msg);
    if (!rc) {
        expect_refusal(st_container_check(c, 1, false, &e), &e, ST_VERIFY, "is changed");
        st_container_close(c);
    }
    b->p[i] ^= (char)(1 << i % 8);
}

static void every_flipped_byte_is_noticed(void **state)
{
    (void)state;
    struct made m = model();
    struct st_buf b = {0};
    size_t segments = 0;
    made_container(&m, &b);
    for (size_t i = 0; i < m.n; i++)
        segments += m.entries[i].bytes;
    segments += 3 * 28; /* three segments are sealed */
    for (size_t i = 0; i < b.len; i++)
        flip(&b, i, b.len - segments);
    st_secret_wipe(&m.content_key);
    st_buf_free(&b);
}

/* What anybody can sign takes no more time and memory than the segments that are really there. */
static void a_header_is_bounded_by_its_segments(void **state)
{
    (void)state;
    struct made m = model();
    struct st_buf text = {0};
    st_buf_add_str(&text, "\"x\":\"");
    for (int i = 0; i < 3000; i++)
        st_buf_add_str(&text, "a,b\\\"");
    st_buf_add_str(&text, "\",");
    m.more = text.p;
    refuses(m, ST_VERIFY, "longer than that of");
    /* Signs within a text are no values. */
    memcpy(text.p + 6 + 5 * 300, "\",", 3);
    m.more = text.p;
    refuses(m, ST_VERIFY, "unknown field 'x'");
    st_buf_clear(&text);
    st_buf_add_str(&text, "\"x\":[");
    for (int i = 0; i < 150; i++)
        st_buf_add_str(&text, "0,");
    st_buf_add_str(&text, "0],");
    m.more = text.p;
    refuses(m, ST_VERIFY, "more values than that of");
    st_buf_free(&text);
}

static void another_publisher_is_refused_before_the_header_is_looked_at(void **state)
{
    (void)state;
    struct made m = model();
    struct st_buf b = {0};
    struct st_container *c;
    struct st_err e;
    uint8_t publisher[32];
    m.more = "\"no JSON";
    made_container(&m, &b);
    memset(publisher, 5, sizeof publisher);
    expect_refusal(st_container_parse(b.p, b.len, "made.sealed", publisher, &c, &e), &e, ST_VERIFY,
                   "which is not --publisher");
    assert_int_equal(st_unhex(b.p + 24 + 14, 64, publisher, sizeof publisher, "publisher", &e), 0);
    expect_refusal(st_container_parse(b.p, b.len, "made.sealed", publisher, &c, &e), &e, ST_VERIFY, "not valid JSON");
    st_buf_free(&b);
    st_secret_wipe(&m.content_key);
    m = model();
    made_container(&m, &b);
    assert_ok(st_container_parse(b.p, b.len, "made.sealed", publisher, &c, &e), &e);
    st_container_close(c);
    st_buf_free(&b);
    st_secret_wipe(&m.content_key);
}

static void a_file_cut_anywhere_is_refused(void **state)
{
    (void)state;
    struct made m = model();
    struct st_buf b = {0};
    struct st_container *c;
    struct st_err e;
    made_container(&m, &b);
    for (size_t len = 0; len < b.len; len++) {
        /* In memory of its own, so that a sanitizer sees reading beyond it. */
        uint8_t *copy = malloc(len ? len : 1);
        memcpy(copy, b.p, len);
        int rc = st_container_parse(copy, len, "cut", NULL, &c, &e);
        assert_int_equal(rc, len < 4 ? ST_INPUT : ST_VERIFY);
        free(copy);
    }
    st_buf_add(&b, "x", 1);
    expect_refusal(parse(&b, &c, &e), &e, ST_VERIFY, "the file has");
    st_secret_wipe(&m.content_key);
    st_buf_free(&b);
}

static void lengths_beyond_the_limits_are_refused(void **state)
{
    (void)state;
    struct made m = model();
    struct st_buf b = {0};
    struct st_container *c;
    struct st_err e;
    made_container(&m, &b);
    for (int field = 12; field < 24; field += 4) {
        uint8_t kept[4];
        memcpy(kept, b.p + field, 4);
        const uint32_t values[] = {0, 1, 0x7fffffff, 0x80000000, 0xffffffff, 0xffffffe7};
        for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
            put_u32((uint8_t *)b.p + field, values[i]);
            assert_int_equal(parse(&b, &c, &e), ST_VERIFY);
        }
        memcpy(b.p + field, kept, 4);
    }
    st_secret_wipe(&m.content_key);
    st_buf_free(&b);
}

static void a_signed_header_that_is_malformed_is_refused_by_field(void **state)
{
    (void)state;
    static const struct {
        const char *name, *json, *says;
        uint32_t segment_bytes;
    } bad[] = {
        {"x", "\"dtype\":\"F32\",\"shape\":[5,8]", "x: segment_bytes", 100},
        {"x", "\"dtype\":\"F32\",\"shape\":[5,8]", "x: segment_bytes", (1 << 20) + 32},
        {"x", "\"dtype\":\"F32\",\"shape\":[0,8]", "x: shape", 32},
        {"x", "\"dtype\":\"F32\",\"shape\":[]", "x: shape", 32},
        {"x", "\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1]", "x: shape", 32},
        {"x", "\"dtype\":\"F32\",\"shape\":[-5,8]", "x: shape", 32},
        {"x", "\"dtype\":\"F32\",\"shape\":[4611686018427387904,8]", "x: shape", 32},
        {"x", "\"dtype\":\"F32\",\"shape\":[2,4611686018427387904,8]", "x: shape", 32},
        {"x", "\"dtype\":\"F32\",\"shape\":[500,8]", "x: more segments", 32},
        {"x", "\"dtype\":\"F32\",\"shape\":[500,8]", "x: lies behind the end", 1 << 20},
        {"x", "\"dtype\":\"F4\",\"shape\":[3]", "x: shape", 1},
        {"x", "\"dtype\":\"F33\",\"shape\":[5,8]", "x: dtype", 32},
        {"x", "\"dtype\":\"F32\"", "x: shape", 32},
        {"x", "\"dtype\":\"F32\",\"shape\":[5,8],\"data\":1", "x: unknown field 'data'", 32},
        {"x", "\"dtype\":\"F32\",\"shape\":[5,8],\"bytes\":160", "x: unknown field", 32},
        {"x/y", "\"dtype\":\"F32\",\"shape\":[5,8]", "name", 32},
        {"x..y", "\"dtype\":\"F32\",\"shape\":[5,8]", "name", 32},
        {".x", "\"dtype\":\"F32\",\"shape\":[5,8]", "name", 32},
        {"x y", "\"dtype\":\"F32\",\"shape\":[5,8]", "name", 32},
        {"x\\u0007", "\"dtype\":\"F32\",\"shape\":[5,8]", "name", 32},
        {"", "\"dtype\":\"F32\",\"shape\":[5,8]", "name", 32},
        {"b.weight", "\"dtype\":\"F32\",\"shape\":[5,8]", "b.weight: there twice", 96},
        {"x.json", NULL, "x.json: name", 1 << 20},
        {"../config.json", NULL, "name", 1 << 20},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct made_entry entries[4];
        struct made m = model();
        struct st_buf b = {0}, header = {0}, segments = {0}, digests = {0};
        struct st_container *c;
        struct st_err e = {0};
        uint8_t publisher[32];
        struct st_ed25519 *key;
        memcpy(entries, standard, sizeof entries);
        assert_ok(st_vault_content_key(m.seed, m.id, &m.content_key, &e), &e);
        made_segments(&m, &segments, &digests); /* of what is right */
        entries[1].name = bad[i].name;
        entries[1].json = bad[i].json;
        entries[1].inside = bad[i].json != NULL;
        entries[1].segment_bytes = bad[i].segment_bytes;
        m.entries = entries;
        assert_ok(st_ed25519_import(m.seed, &key, &e), &e);
        st_ed25519_public(key, publisher);
        st_ed25519_free(key);
        made_header(&m, &digests, publisher, &header);
        made_frame(&m, &header, &digests, &segments, &b);
        expect_refusal(parse(&b, &c, &e), &e, ST_VERIFY, bad[i].says);
        st_secret_wipe(&m.content_key);
        st_buf_free(&b);
        st_buf_free(&header);
        st_buf_free(&segments);
        st_buf_free(&digests);
    }
}

static void fields_of_the_whole_are_checked(void **state)
{
    (void)state;
    struct made m = model();
    m.kind = "thing";
    refuses(m, ST_VERIFY, "kind");
    m = model();
    m.version = 0;
    refuses(m, ST_VERIFY, "version");
    m = model();
    m.more = "\"comment\":\"\",";
    refuses(m, ST_VERIFY, "unknown field 'comment'");
    m.more = "\"\\u009b2J\":\"\","; /* not for the terminal */
    refuses(m, ST_VERIFY, "unknown field '??2J'");
    m = model();
    m.more = "\"name\":\"again\",";
    refuses(m, ST_VERIFY, "JSON");
    m = model();
    m.begin = "{ \"publisher\":\"";
    refuses(m, ST_VERIFY, "begins with its publisher");
    m = model();
    m.n = 0;
    refuses(m, ST_VERIFY, "entries");
}

/* Header and digests of one container, segments of another of the same publisher and shapes. */
static void segments_of_another_container_are_noticed(void **state)
{
    (void)state;
    struct made m = model(), other = model();
    struct st_buf a = {0}, b = {0};
    struct st_container *c;
    struct st_err e;
    other.id[0]++;
    made_container(&m, &a);
    made_container(&other, &b);
    assert_int_equal(a.len, b.len);
    size_t tail = sizeof inside + sizeof outside + sizeof vector + 3 * 28;
    memcpy(a.p + a.len - tail, b.p + b.len - tail, tail);
    assert_ok(parse(&a, &c, &e), &e);
    expect_refusal(st_container_check(c, 1, false, &e), &e, ST_VERIFY, "a.weight: segment 0 is changed");
    st_container_close(c);
    /* The digests too: then the header does not match. */
    size_t digests = tail + sizeof config - 1 + 6 * 32;
    memcpy(a.p + a.len - digests, b.p + b.len - digests, digests);
    expect_refusal(parse(&a, &c, &e), &e, ST_VERIFY, "digests");
    st_secret_wipe(&m.content_key);
    st_secret_wipe(&other.content_key);
    st_buf_free(&a);
    st_buf_free(&b);
}

static void files_are_told_apart_by_what_they_begin_with(void **state)
{
    (void)state;
    char dir[] = "/tmp/sotto-container-XXXXXX", path[128], named[128];
    struct made m = model();
    struct st_buf b = {0};
    struct st_container *c;
    struct st_err e;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/model", dir);
    snprintf(named, sizeof named, "%s/x.sealed", dir);
    made_container(&m, &b);
    assert_ok(st_file_write(path, b.p, b.len, 0644, false, &e), &e);
    assert_ok(st_file_write(named, "hello", 5, 0644, false, &e), &e);
    assert_true(st_container_is(path));
    assert_true(st_container_is(named));
    assert_false(st_container_is(dir));
    assert_false(st_container_is("/dev/null"));
    assert_ok(st_container_open(path, &c, &e), &e);
    assert_string_equal(st_container_path(c), path);
    const struct st_source *s = st_container_source(c);
    assert_false(s->readable(s->ctx, &st_container_find(c, "a.bias")->tensor));
    assert_true(s->readable(s->ctx, &st_container_find(c, "b.weight")->tensor));
    assert_int_equal(s->block(s->ctx, &st_container_find(c, "b.weight")->tensor), 64);
    st_container_close(c);
    expect_refusal(st_container_open(named, &c, &e), &e, ST_VERIFY, "not a sealed container");
    assert_ok(st_file_write(path, "hello", 5, 0644, true, &e), &e);
    expect_refusal(st_container_open(path, &c, &e), &e, ST_INPUT, "not a sealed container");
    expect_refusal(st_container_open(dir, &c, &e), &e, ST_IO, "regular");
    unlink(path);
    unlink(named);
    rmdir(dir);
    st_secret_wipe(&m.content_key);
    st_buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_signed_comes_out),
        cmocka_unit_test(any_part_of_what_lies_outside_is_read),
        cmocka_unit_test(every_flipped_byte_is_noticed),
        cmocka_unit_test(a_header_is_bounded_by_its_segments),
        cmocka_unit_test(another_publisher_is_refused_before_the_header_is_looked_at),
        cmocka_unit_test(a_file_cut_anywhere_is_refused),
        cmocka_unit_test(lengths_beyond_the_limits_are_refused),
        cmocka_unit_test(a_signed_header_that_is_malformed_is_refused_by_field),
        cmocka_unit_test(fields_of_the_whole_are_checked),
        cmocka_unit_test(segments_of_another_container_are_noticed),
        cmocka_unit_test(files_are_told_apart_by_what_they_begin_with),
    };
    return cmocka_run_group_tests(tests, fill, NULL);
}
