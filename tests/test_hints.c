/* Hints files: what is written is what the basis gives, and damage of any kind is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/hooks.h"
#include "crypto/digest.h"
#include "field/fq.h"
#include "model/hints.h"
#include "model/hints_file.h"
#include "mutate.h"
#include "tiny.h"

#include <math.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const uint8_t digest[32] = {9, 8, 7};

static void ok(int rc, const struct st_err *e)
{
    if (rc)
        fail_msg("%s", e->msg);
}

static void expect_refusal(int rc, const struct st_err *e, int code, const char *says)
{
    if (rc != code || !strstr(e->msg, says))
        fail_msg("want %d '%s', got %d '%s'", code, says, rc, e->msg);
}

/* A file of three matrices, in memory. */
struct made {
    char dir[64], path[128];
    struct st_served served;
    struct st_served_weight w[3];
    struct st_buf file;
};

static void made_init(struct made *d, const char *params)
{
    static const struct {
        const char *name;
        uint32_t n_out, n_in;
    } shapes[] = {{"b.weight", 1, 7}, {"a.weight", 70, 300}, {"c.weight^T", 16, 64}};
    const struct st_lwe_params *p;
    struct st_err e;
    struct st_rng r;
    st_rng_seed(&r, 1);
    *d = (struct made){.served = {.weights = d->w, .n = COUNT(shapes)}};
    for (size_t i = 0; i < COUNT(shapes); i++) {
        uint32_t n_out = shapes[i].n_out, n_in = shapes[i].n_in;
        int8_t *w = malloc((size_t)n_out * n_in);
        float *scale = malloc(n_out * sizeof *scale);
        for (size_t k = 0; k < (size_t)n_out * n_in; k++)
            w[k] = (int8_t)(st_rng_next(&r) % 255 - 127);
        for (uint32_t k = 0; k < n_out; k++)
            scale[k] = (float)st_rng_unit(&r);
        d->w[i] = (struct st_served_weight){.n_out = n_out, .n_in = n_in, .w = w, .scale = scale};
        snprintf(d->w[i].name, sizeof d->w[i].name, "%s", shapes[i].name);
    }
    ok(st_lwe_params_find(params, &p, &e), &e);
    struct st_hints_make o = {.served = &d->served, .params = p, .digest = digest, .n_threads = 2};
    tiny_mkdir(d->dir);
    snprintf(d->path, sizeof d->path, "%s/hints", d->dir);
    ok(st_hints_write(d->path, &o, &e), &e);
    ok(st_file_read(d->path, 1 << 24, &d->file, &e), &e);
    assert_int_equal(d->file.len, st_hints_bytes(&o));
}

static void made_free(struct made *d)
{
    for (size_t i = 0; i < COUNT(d->w); i++) {
        free((void *)d->w[i].w);
        free((void *)d->w[i].scale);
    }
    st_buf_free(&d->file);
    tiny_rmdir(d->dir);
}

struct check {
    const struct st_served_weight *w;
    struct st_lwe_basis basis;
    const struct st_limb_kernels *limb;
    uint32_t next, fail_at; /* fail_at: the sink fails at that column; 0 = never */
};

static int compare_columns(void *arg, const struct st_hint_columns *c, struct st_err *e)
{
    struct check *k = arg;
    uint32_t want[ST_LWE_MAX_M];
    assert_int_equal(c->first, k->next);
    assert_int_equal(c->m, k->basis.params->m);
    k->next += c->n;
    if (k->fail_at && k->next >= k->fail_at)
        return st_fail(e, ST_IO, "the sink is full");
    for (uint32_t i = 0; i < c->n; i++) {
        const int8_t *w = k->w->w + (size_t)(c->first + i) * k->w->n_in;
        double sum = 0;
        for (uint32_t j = 0; j < k->w->n_in; j++)
            sum += (double)w[j] * w[j];
        st_lwe_basis_hints(&k->basis, k->limb, w, 1, k->w->n_in, want);
        assert_memory_equal(want, c->h + (size_t)i * c->m, c->m * sizeof *want);
        assert_true(c->scale[i] == k->w->scale[c->first + i]);
        assert_true((double)c->norm[i] >= sqrt(sum) && (double)c->norm[i] <= sqrt(sum) * (1 + 2e-7));
    }
    return 0;
}

static int ignore_columns(void *arg, const struct st_hint_columns *c, struct st_err *e)
{
    (void)arg;
    (void)c;
    (void)e;
    return 0;
}

/* Reads all matrices; the first error. */
static int read_all(const struct st_hints *h, const struct made *d, struct st_err *e)
{
    const struct st_hint_source *s = st_hints_source(h);
    for (size_t i = 0; i < COUNT(d->w); i++) {
        int rc = s->read(s->ctx, d->w[i].name, d->w[i].n_out, d->w[i].n_in, ignore_columns, NULL, e);
        if (rc)
            return rc;
    }
    return 0;
}

static void what_is_written_is_read_back(void **state)
{
    (void)state;
    static const char *const names[] = {"lwe-1280-12.8", "lwe-1408-6.4"};
    for (size_t i = 0; i < COUNT(names); i++) {
        struct made d;
        struct st_hints *h;
        struct st_err e;
        made_init(&d, names[i]);
        ok(st_hints_open(d.path, &h, &e), &e);
        const struct st_hint_source *s = st_hints_source(h);
        assert_string_equal(s->params, names[i]);
        assert_memory_equal(s->digest, digest, 32);
        struct check k = {0};
        const struct st_lwe_params *p;
        ok(st_lwe_params_find(names[i], &p, &e), &e);
        ok(st_lwe_basis_init_hints(&k.basis, p, digest, 300, &e), &e);
        ok(st_limb_find(NULL, &k.limb, &e), &e);
        for (size_t j = 0; j < COUNT(d.w); j++) {
            k.w = &d.w[j];
            k.next = 0;
            ok(s->read(s->ctx, d.w[j].name, d.w[j].n_out, d.w[j].n_in, compare_columns, &k, &e), &e);
            assert_int_equal(k.next, d.w[j].n_out);
        }
        k.w = &d.w[1];
        k.next = 0;
        k.fail_at = 10;
        expect_refusal(s->read(s->ctx, "a.weight", 70, 300, compare_columns, &k, &e), &e, ST_IO, "the sink is full");
        st_lwe_basis_free(&k.basis);
        st_hints_close(h);
        made_free(&d);
    }
}

static void a_worker_serves_records_as_they_stand(void **state)
{
    (void)state;
    struct made d;
    struct st_hints *h;
    struct st_err e;
    const void *all, *some;
    size_t len, record = st_hints_record(1280);
    made_init(&d, NULL);
    ok(st_hints_open(d.path, &h, &e), &e);
    ok(st_hints_columns(h, "a.weight", 0, 70, &all, &len, &e), &e);
    assert_int_equal(len, 70 * record);
    assert_memory_equal(all, &d.w[1].scale[0], 4);
    ok(st_hints_columns(h, "a.weight", 69, 1, &some, &len, &e), &e);
    assert_ptr_equal(some, (const uint8_t *)all + 69 * record);
    assert_memory_equal(some, &d.w[1].scale[69], 4);
    ok(st_hints_columns(h, "a.weight", 70, 0, &some, &len, &e), &e);
    assert_int_equal(len, 0);
    expect_refusal(st_hints_columns(h, "a.weight", 70, 1, &some, &len, &e), &e, ST_INPUT, "columns 70 + 1 of 70");
    expect_refusal(st_hints_columns(h, "a.weight", 1, UINT32_MAX, &some, &len, &e), &e, ST_INPUT, "of 70");
    expect_refusal(st_hints_columns(h, "d", 0, 1, &some, &len, &e), &e, ST_INPUT, "d: has no hints here");
    st_hints_close(h);
    made_free(&d);
}

static void matrices_that_are_missing_or_of_another_shape_are_named(void **state)
{
    (void)state;
    struct made d;
    struct st_hints *h;
    struct st_err e;
    char longest[400];
    made_init(&d, NULL);
    ok(st_hints_open(d.path, &h, &e), &e);
    const struct st_hint_source *s = st_hints_source(h);
    memset(longest, 'x', sizeof longest);
    longest[sizeof longest - 1] = 0;
    expect_refusal(s->read(s->ctx, "lm_head.weight", 70, 300, ignore_columns, NULL, &e), &e, ST_INPUT,
                   "lm_head.weight: has no hints here");
    assert_int_equal(s->read(s->ctx, longest, 70, 300, ignore_columns, NULL, &e), ST_INPUT);
    expect_refusal(s->read(s->ctx, "a.weight", 300, 70, ignore_columns, NULL, &e), &e, ST_INPUT,
                   "a.weight: want [300, 70], got [70, 300]");
    st_hints_close(h);
    made_free(&d);
}

static void a_file_cut_at_any_length_is_refused(void **state)
{
    (void)state;
    struct made d;
    struct st_hints *h;
    struct st_err e;
    made_init(&d, NULL);
    for (size_t len = 0; len < d.file.len; len++) {
        int rc = st_hints_parse((const uint8_t *)d.file.p, len, "cut", &h, &e);
        if (rc != ST_INPUT || strncmp(e.msg, "cut: ", 5) != 0)
            fail_msg("length %zu: got %d '%s'", len, rc, e.msg);
    }
    /* In blocks of their own, so that a read behind the end shows. */
    for (size_t len = 0; len < 600; len++) {
        uint8_t *exact = malloc(len ? len : 1);
        memcpy(exact, d.file.p, len);
        assert_int_equal(st_hints_parse(exact, len, "cut", &h, &e), ST_INPUT);
        free(exact);
    }
    made_free(&d);
}

static void every_changed_byte_is_found(void **state)
{
    (void)state;
    struct made d;
    struct st_err e;
    made_init(&d, NULL);
    uint8_t *p = (uint8_t *)d.file.p;
    const size_t head = 8 + 4 + 4 + 32 + 4 + 13 + 3 * (4 + 4 + 4 + 8 + 32) + 8 + 8 + 10 + 32;
    for (size_t at = 0; at < d.file.len; at += at < head + 200 ? 1 : 211) {
        struct st_hints *h;
        p[at] ^= 1;
        int rc = st_hints_parse(p, d.file.len, "bad", &h, &e);
        if (at < head && !rc)
            fail_msg("byte %zu of the header: not found", at);
        if (!rc) {
            rc = read_all(h, &d, &e);
            st_hints_close(h);
        }
        if (rc != ST_INPUT && rc != ST_VERIFY && rc != ST_UNSUPPORTED)
            fail_msg("byte %zu: got %d", at, rc);
        p[at] ^= 1;
    }
    made_free(&d);
}

/* The header's own hash is put right again: whoever forges it can do that. */
static void rehash(struct made *d, size_t head)
{
    uint8_t sum[32];
    st_sha256(d->file.p, head - 32, sum);
    memcpy(d->file.p + head - 32, sum, 32);
}

static void a_forged_header_is_refused_by_field(void **state)
{
    (void)state;
    struct made d;
    struct st_err e;
    struct st_hints *h;
    made_init(&d, NULL);
    const size_t params = 8 + 4 + 4 + 32, table = params + 4 + 13, first = table + 4 + 8;
    const size_t second = first + 4 + 4 + 8 + 32, head = 65 + 3 * 52 + 8 + 8 + 10 + 32;
    const struct {
        size_t at;
        const char *bytes;
        size_t n;
        int code;
        const char *says;
    } rows[] = {
        {0, "x", 1, ST_INPUT, "is no hints file"},
        {8, "\2", 1, ST_UNSUPPORTED, "version 2 is not supported; supported: 1"},
        {12, "\0", 1, ST_INPUT, "number of matrices: 0"},
        {12, "\377\377\377\377", 4, ST_INPUT, "number of matrices: 4294967295 do not fit"},
        {params, "\377\377\377\377", 4, ST_INPUT, "parameter set: want 1..31 bytes"},
        {params + 4, "LWE", 3, ST_UNSUPPORTED, "parameter set 'LWE-1280-12.8': unknown"},
        {params + 4, "lwe\n", 4, ST_INPUT, "byte 3 is no printable character"},
        {table, "\0", 1, ST_INPUT, "name of a matrix: want 1..121 bytes, got 0"},
        {table, "\300", 1, ST_INPUT, "name of a matrix: want 1..121 bytes, got 192"},
        {table + 4, "\200", 1, ST_INPUT, "name of a matrix: byte 0"},
        {first, "\0", 1, ST_INPUT, "b.weight: [0, 7]: want sides of"},
        {first, "\377\377\377\377", 4, ST_INPUT, "b.weight: [4294967295, 7]: want sides of"},
        {first + 4, "\0", 1, ST_INPUT, "b.weight: [1, 0]: want sides of"},
        {first, "\2", 1, ST_INPUT, "offset: want"},
        {first + 8, "\1", 1, ST_INPUT, "b.weight: offset: want"},
        {first + 8, "\0\0\0\0\0\0\0\200", 8, ST_INPUT, "b.weight: offset: want"},
        {second, "\1\0\0\0a", 5, ST_INPUT, ""},
        {second + 4, "b", 1, ST_INPUT, "b.weight: is there twice"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        char keep[8];
        memcpy(keep, d.file.p + rows[i].at, rows[i].n);
        memcpy(d.file.p + rows[i].at, rows[i].bytes, rows[i].n);
        rehash(&d, head);
        expect_refusal(st_hints_parse((const uint8_t *)d.file.p, d.file.len, "bad", &h, &e), &e, rows[i].code,
                       rows[i].says);
        memcpy(d.file.p + rows[i].at, keep, rows[i].n);
    }
    rehash(&d, head);
    ok(st_hints_parse((const uint8_t *)d.file.p, d.file.len, "good", &h, &e), &e);
    st_hints_close(h);
    d.file.p[head] ^= 1;
    expect_refusal(st_hints_parse((const uint8_t *)d.file.p, d.file.len, "bad", &h, &e), &e, ST_INPUT,
                   "the bytes before it are not zero");
    made_free(&d);
}

static void a_set_that_is_too_weak_is_refused(void **state)
{
    (void)state;
    struct st_buf b = {0};
    struct st_hints *h;
    struct st_err e;
    const uint32_t numbers[] = {1, 1, 12};
    uint8_t rest[200] = {0};
    st_buf_add(&b, ST_HINTS_MAGIC, 8);
    st_buf_add(&b, numbers, 8);
    st_buf_add(&b, digest, 32);
    st_buf_add(&b, &numbers[2], 4);
    st_buf_add_str(&b, "lwe-1024-6.4");
    st_buf_add(&b, rest, sizeof rest);
    expect_refusal(st_hints_parse((const uint8_t *)b.p, b.len, "weak", &h, &e), &e, ST_POLICY,
                   "weak: parameter set lwe-1024-6.4: too weak");
    st_buf_free(&b);
}

/* With the hash of the columns put right: what reading alone must find. */
static void columns_out_of_range_are_refused(void **state)
{
    (void)state;
    struct made d;
    struct st_err e;
    made_init(&d, NULL);
    static const struct {
        size_t at; /* in the record of column 3 */
        uint32_t value;
        const char *says;
    } rows[] = {
        {0, 0x7fc00000, "a.weight: column 3: scale or norm is out of range"}, /* NaN */
        {0, 0x7f800000, "scale or norm"},                                     /* infinite */
        {0, 0xbf800000, "scale or norm"},                                     /* -1 */
        {4, 0x7fc00000, "scale or norm"},
        {4, 0xbf800000, "scale or norm"},
        {4, 0x7e000000, "scale or norm"},
        {8, ST_FQ, "a.weight: column 3: a residue is 4293918721 or more"},
        {8 + 4 * 1279, UINT32_MAX, "a residue is"},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct st_hints *h;
        const void *records;
        size_t len, record = st_hints_record(1280);
        ok(st_hints_parse((const uint8_t *)d.file.p, d.file.len, "bad", &h, &e), &e);
        ok(st_hints_columns(h, "a.weight", 3, 1, &records, &len, &e), &e);
        assert_int_equal(len, record);
        uint8_t *at = (uint8_t *)d.file.p + ((const uint8_t *)records - (const uint8_t *)d.file.p) + rows[i].at;
        uint8_t keep[4];
        memcpy(keep, at, 4);
        memcpy(at, &rows[i].value, 4);
        expect_refusal(read_all(h, &d, &e), &e, ST_INPUT, rows[i].says);
        memcpy(at, keep, 4);
        ok(read_all(h, &d, &e), &e);
        st_hints_close(h);
    }
    made_free(&d);
}

static void random_damage_is_refused(void **state)
{
    (void)state;
    struct made d;
    struct st_rng r;
    struct st_err e;
    made_init(&d, NULL);
    st_rng_seed(&r, 5);
    for (int i = 0; i < 2000; i++) {
        size_t len;
        struct st_hints *h;
        uint8_t *p = mutate(&r, d.file.p, d.file.len, 330, &len);
        int rc = st_hints_parse(p, len, "bad", &h, &e);
        if (!rc) {
            bool same = len == d.file.len && memcmp(p, d.file.p, len) == 0;
            rc = read_all(h, &d, &e);
            assert_true(same ? rc == 0 : rc == ST_VERIFY || rc == ST_INPUT);
            st_hints_close(h);
        }
        free(p);
    }
    made_free(&d);
}

static void a_file_that_is_there_stays_and_failures_leave_nothing(void **state)
{
    (void)state;
    struct made d;
    struct st_err e;
    const struct st_lwe_params *p;
    char path[256];
    made_init(&d, NULL);
    ok(st_lwe_params_find(NULL, &p, &e), &e);
    struct st_hints_make o = {.served = &d.served, .params = p, .digest = digest, .n_threads = 1};
    expect_refusal(st_hints_write(d.path, &o, &e), &e, ST_IO, "exists already; not overwritten");
    snprintf(path, sizeof path, "%s/absent/hints", d.dir);
    expect_refusal(st_hints_write(path, &o, &e), &e, ST_IO, "cannot create");
    const int8_t *w = d.w[2].w;
    d.w[2].w = NULL;
    snprintf(path, sizeof path, "%s/other", d.dir);
    expect_refusal(st_hints_write(path, &o, &e), &e, ST_INPUT, "c.weight^T: no weights here");
    d.w[2].w = w;
    ((float *)d.w[1].scale)[69] = INFINITY;
    expect_refusal(st_hints_write(path, &o, &e), &e, ST_INPUT, "a.weight: output 69: its weights are not finite");
    int n = 0;
    DIR *dir = opendir(d.dir);
    for (struct dirent *f; (f = readdir(dir));)
        n += f->d_name[0] != '.';
    closedir(dir);
    assert_int_equal(n, 1);
    made_free(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read_back),
        cmocka_unit_test(a_worker_serves_records_as_they_stand),
        cmocka_unit_test(matrices_that_are_missing_or_of_another_shape_are_named),
        cmocka_unit_test(a_file_cut_at_any_length_is_refused),
        cmocka_unit_test(every_changed_byte_is_found),
        cmocka_unit_test(a_forged_header_is_refused_by_field),
        cmocka_unit_test(a_set_that_is_too_weak_is_refused),
        cmocka_unit_test(columns_out_of_range_are_refused),
        cmocka_unit_test(random_damage_is_refused),
        cmocka_unit_test(a_file_that_is_there_stays_and_failures_leave_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
