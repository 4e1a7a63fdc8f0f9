/* Windows of jobs: a tensor that does not fit into the memory allowed is made in parts with the same bytes, and one
 * that cannot be cut small enough is refused by name; the report adds up. */
#include "base/file.h"
#include "cov_make.h"
#include "protect/covariant/transform.h"

static void read_weights(const char *dir, struct st_buf *b)
{
    struct st_err e;
    char path[300];
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_ok(st_file_read(path, (size_t)1 << 30, b, &e), &e);
}

static void tensors_made_in_parts_have_the_same_bytes(void **state)
{
    (void)state;
    struct st_err e;
    struct st_buf a = {0}, b = {0};
    struct st_cov_key key = key_of(9);
    struct st_cov_report report = {0};
    struct tiny m = plain_tiny;
    /* The rows of down's result take three products, and with its source more than 64 MiB leave; so does gate with all
     * of its rows, which are gathered only when there is more. */
    m.d = 2000;
    m.dh = 64;
    m.layers = 1;
    m.ff = 3200;
    const char *src = write_tiny(&m);
    struct st_cov_opts o = {.n_threads = 2, .expand = 50, .memory_bytes = (uint64_t)64 << 20, .noise_all = 0.1};
    assert_ok(st_cov_obfuscate(src, in_work("a"), &key, &o, &e), &e);
    o.memory_bytes = 0;
    o.n_threads = 1;
    o.report = &report;
    assert_ok(st_cov_obfuscate(src, in_work("b"), &key, &o, &e), &e);
    read_weights(in_work("a"), &a);
    read_weights(in_work("b"), &b);
    assert_int_equal(a.len, b.len);
    assert_memory_equal(a.p, b.p, a.len);
    /* Readers 3200 * 2 + 256 + 2 * 128 + 97 rows and writers 3200 + 256 columns and 97 rows, at 2 d wide, at least. */
    double least = 2.0 * 2000 * 2100 * (3200 * 2 + 256 + 2 * 128 + 97 + 3200 + 256 + 97);
    assert_true(report.flop > least && report.flop < 1.3 * least);
    assert_int_equal(report.key_bytes, 2100 * 2100 * 12);
    assert_true(report.seconds > 0 && report.cpu_seconds > 0);
    st_buf_free(&a);
    st_buf_free(&b);
    st_cov_key_wipe(&key);
}

static void too_little_memory_names_the_tensor(void **state)
{
    (void)state;
    struct st_err e;
    struct st_cov_key key = key_of(9);
    struct st_progress progress = {0};
    struct st_cov_out out = {.stage = {.lock = -1}};
    struct st_cov_frame f;
    struct st_stream *s;
    struct st_cov_run *run;
    static float src[64 * 512];
    const uint8_t digest[32] = {0};
    assert_ok(st_stream_new((const uint8_t *)"seed", 4, NULL, 0, "frame", &s, &e), &e);
    assert_ok(st_cov_frame_init(&f, ST_COV_PRESET_TIGHT, 64, 16, 0, s, &e), &e);
    const struct st_cov_run_opts o = {
        .key = &key, .digest = digest, .out = &out, .n_threads = 2, .memory = 1 << 20, .progress = &progress};
    struct st_cov_out_tensor t = {.name = "down", .dtype = ST_DTYPE_F32, .n_dim = 2, .dim = {f.wide, 512}};
    struct st_cov_job j = {.side = ST_COV_WRITES_COLUMNS,
                           .frame = &f,
                           .name = "a.tensor",
                           .src = src,
                           .src_dtype = ST_DTYPE_F32,
                           .weight = -1,
                           .n = 512,
                           .n_src = 512,
                           .len = 64,
                           .unit = 1,
                           .mix_share = 1,
                           .gain = 1,
                           .out = &t};
    assert_ok(st_cov_run_new(&o, &run, &e), &e);
    assert_int_equal(st_cov_run_add(run, &j, &e), ST_MEMORY);
    assert_non_null(strstr(e.msg, "a.tensor"));
    assert_non_null(strstr(e.msg, "--memory"));
    st_cov_run_free(run);
    st_cov_frame_wipe(&f);
    st_stream_free(s);
    st_cov_key_wipe(&key);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, make_work, drop_work)
    const struct CMUnitTest tests[] = {
        TEST(tensors_made_in_parts_have_the_same_bytes),
        TEST(too_little_memory_names_the_tensor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
