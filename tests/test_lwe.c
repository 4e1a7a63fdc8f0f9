/* Parameter sets and the public basis of the LWE masks, against schoolbook products and residues made by another
 * implementation of SHAKE. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/hooks.h"
#include "field/fq.h"
#include "field/lwe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static const char *const names[] = {"lwe-1280-12.8", "lwe-1408-6.4", "lwe-1280-12.8-dense", "lwe-1280-6.4"};
static const uint8_t digest[ST_LWE_DIGEST] = {1, 2, 3, 4, 5};

static void ok(int rc, const struct st_err *e)
{
    if (rc)
        fail_msg("%s", e->msg);
}

static const struct st_lwe_params *params(const char *name)
{
    const struct st_lwe_params *p;
    struct st_err e;
    ok(st_lwe_params_find(name, &p, &e), &e);
    return p;
}

static struct st_lwe_basis basis(const char *name, uint32_t d, bool for_hints)
{
    struct st_lwe_basis b;
    struct st_err e;
    if (for_hints)
        ok(st_lwe_basis_init_hints(&b, params(name), digest, d, &e), &e);
    else
        ok(st_lwe_basis_init(&b, params(name), digest, d, &e), &e);
    return b;
}

static const struct st_limb_kernels *best_limb(void)
{
    const struct st_limb_kernels *limb;
    struct st_err e;
    ok(st_limb_find(NULL, &limb, &e), &e);
    return limb;
}

static void *random_bytes(size_t n, uint64_t seed)
{
    struct st_rng r;
    uint8_t *p = malloc(n);
    st_rng_seed(&r, seed);
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)st_rng_next(&r);
    return p;
}

/* All columns, [d][m]. */
static uint32_t *columns_of(const struct st_lwe_basis *b)
{
    uint32_t *all = malloc((size_t)b->d * b->params->m * sizeof *all);
    for (uint32_t k = 0; k < b->d; k++)
        st_lwe_basis_column(b, k, all + (size_t)k * b->params->m);
    return all;
}

static void sets_are_found_by_name_and_weak_ones_refused(void **state)
{
    (void)state;
    const struct st_lwe_params *p;
    struct st_err e;
    int n = 0;
    assert_string_equal(params(NULL)->name, "lwe-1280-12.8");
    for (; (p = st_lwe_params_at(n)); n++) {
        assert_ptr_equal(params(p->name), p);
        assert_true(p->bits_classical >= 128 && p->bits_quantum >= 116);
    }
    assert_int_equal(n, COUNT(names));
    for (size_t i = 0; i < COUNT(names); i++)
        assert_string_equal(params(names[i])->name, names[i]);
    assert_string_equal(params("lwe-1280-6.4")->note, "no margin");
    assert_int_equal(st_lwe_params_find("lwe-1024-6.4", &p, &e), ST_POLICY);
    assert_non_null(strstr(e.msg, "lwe-1024-6.4: too weak: 94 bits classical, want at least 128"));
    assert_null(p);
    assert_int_equal(st_lwe_params_find("lwe-1280", &p, &e), ST_USAGE);
    assert_non_null(strstr(e.msg, "known: lwe-1280-12.8, lwe-1408-6.4, lwe-1280-12.8-dense, lwe-1280-6.4"));
}

/* Made by tests/interop/test_lwe.py, which compares them with hashlib's SHAKE128. */
static void the_basis_is_what_shake_gives(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        uint32_t column, row, value[3];
    } rows[] = {
        {"lwe-1280-12.8", 0, 0, {1847665863u, 2356753606u, 3367707419u}},
        {"lwe-1280-12.8", 299, 1021, {4033894229u, 2093769328u, 3735653151u}},
        {"lwe-1408-6.4", 7, 1405, {1981105530u, 3629626994u, 2257295313u}},
        {"lwe-1280-6.4", 255, 254, {3504628824u, 3041252695u, 1519289830u}},
        {"lwe-1280-12.8-dense", 299, 500, {1437347397u, 224756613u, 4047185110u}},
    };
    for (size_t i = 0; i < COUNT(rows); i++) {
        struct st_lwe_basis b = basis(rows[i].name, 300, false);
        uint32_t column[ST_LWE_MAX_M];
        st_lwe_basis_column(&b, rows[i].column, column);
        for (size_t k = 0; k < 3; k++)
            assert_int_equal(column[rows[i].row + k], rows[i].value[k]);
        st_lwe_basis_free(&b);
    }
}

static void a_basis_depends_on_model_and_set_and_not_on_its_width(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(names); i++) {
        const struct st_lwe_params *p = params(names[i]);
        struct st_lwe_basis narrow = basis(names[i], 3, false), wide = basis(names[i], 400, false), other;
        struct st_lwe_basis rows = basis(names[i], 400, true);
        uint32_t a[ST_LWE_MAX_M], b[ST_LWE_MAX_M];
        struct st_err e;
        uint8_t changed[ST_LWE_DIGEST];
        memcpy(changed, digest, sizeof changed);
        changed[31] ^= 1;
        ok(st_lwe_basis_init(&other, p, changed, 3, &e), &e);
        for (uint32_t k = 0; k < 3; k++) {
            st_lwe_basis_column(&narrow, k, a);
            st_lwe_basis_column(&wide, k, b);
            assert_memory_equal(a, b, p->m * sizeof *a);
            st_lwe_basis_column(&rows, k, b);
            assert_memory_equal(a, b, p->m * sizeof *a);
            st_lwe_basis_column(&other, k, b);
            assert_memory_not_equal(a, b, 64);
        }
        for (uint32_t k = 0; k < 400; k++) {
            st_lwe_basis_column(&wide, k, a);
            for (uint32_t row = 0; row < p->m; row++)
                assert_true(a[row] < ST_FQ);
        }
        st_lwe_basis_free(&narrow);
        st_lwe_basis_free(&wide);
        st_lwe_basis_free(&other);
        st_lwe_basis_free(&rows);
    }
    struct st_lwe_basis module = basis("lwe-1280-12.8-dense", 1, false), dense = basis("lwe-1280-12.8", 1, false);
    uint32_t a[ST_LWE_MAX_M], b[ST_LWE_MAX_M];
    st_lwe_basis_column(&module, 0, a);
    st_lwe_basis_column(&dense, 0, b);
    assert_memory_not_equal(a, b, 64);
    st_lwe_basis_free(&module);
    st_lwe_basis_free(&dense);
}

static void secrets_times_the_basis_equal_the_schoolbook_product(void **state)
{
    (void)state;
    static const struct {
        uint32_t n, d;
    } shapes[] = {{1, 1}, {3, 255}, {16, 256}, {17, 300}, {33, 520}};
    struct st_pool *pool;
    struct st_err e;
    ok(st_pool_new(3, &pool, &e), &e);
    for (size_t i = 0; i < COUNT(names); i++) {
        struct st_lwe_basis b = basis(names[i], 520, false);
        uint32_t m = b.params->m, *columns = columns_of(&b);
        for (size_t k = 0; k < COUNT(shapes); k++) {
            uint32_t n = shapes[k].n, d = shapes[k].d;
            int8_t *c = random_bytes((size_t)n * m, k);
            uint32_t *got = malloc((size_t)n * d * 4), *threads = malloc((size_t)n * d * 4);
            st_lwe_basis_apply(&b, NULL, best_limb(), c, n, d, got);
            st_lwe_basis_apply(&b, pool, best_limb(), c, n, d, threads);
            assert_memory_equal(got, threads, (size_t)n * d * 4);
            for (uint32_t r = 0; r < n; r++)
                for (uint32_t j = 0; j < d; j++) {
                    int64_t sum = 0; /* below 2^51 */
                    for (uint32_t t = 0; t < m; t++)
                        sum += (int64_t)c[r * m + t] * columns[(size_t)j * m + t];
                    assert_int_equal(got[(size_t)r * d + j], st_fq_from(sum));
                }
            free(c);
            free(got);
            free(threads);
        }
        free(columns);
        st_lwe_basis_free(&b);
    }
    st_pool_free(pool);
}

static void hints_equal_the_schoolbook_product(void **state)
{
    (void)state;
    static const struct {
        uint32_t n, d;
    } shapes[] = {{1, 1}, {2, 255}, {16, 256}, {5, 300}, {16, ST_LWE_PIECE + 52}};
    for (size_t i = 0; i < COUNT(names); i++) {
        struct st_lwe_basis b = basis(names[i], ST_LWE_PIECE + 52, true);
        uint32_t m = b.params->m, *columns = columns_of(&b), *got = malloc((size_t)ST_LWE_HINTS * m * 4);
        for (size_t k = 0; k < COUNT(shapes); k++) {
            uint32_t n = shapes[k].n, d = shapes[k].d;
            int8_t *w = random_bytes((size_t)n * d, k + 10);
            w[0] = -128;
            st_lwe_basis_hints(&b, best_limb(), w, n, d, got);
            int64_t *want = malloc(m * sizeof *want);
            for (uint32_t r = 0; r < n; r++) {
                memset(want, 0, m * sizeof *want);
                for (uint32_t j = 0; j < d; j++)
                    for (uint32_t t = 0; t < m; t++)
                        want[t] += (int64_t)w[(size_t)r * d + j] * columns[(size_t)j * m + t];
                for (uint32_t t = 0; t < m; t++)
                    assert_int_equal(got[(size_t)r * m + t], st_fq_from(want[t]));
            }
            free(want);
            free(w);
        }
        free(columns);
        free(got);
        st_lwe_basis_free(&b);
    }
}

static void hints_of_more_inputs_than_one_limb_product_takes_are_whole(void **state)
{
    (void)state;
    const uint32_t d = ST_LIMB_MAX_K + 700;
    const uint32_t places[] = {0, 65535, 65536, 66235};
    struct st_lwe_basis b = basis("lwe-1280-12.8", d, true);
    uint32_t m = b.params->m, column[ST_LWE_MAX_M], *got = malloc(m * sizeof *got), *want = calloc(m, sizeof *want);
    int8_t *w = calloc(d, 1);
    for (size_t i = 0; i < COUNT(places); i++) {
        w[places[i]] = (int8_t)(100 - 60 * (int)i);
        st_lwe_basis_column(&b, places[i], column);
        for (uint32_t t = 0; t < m; t++)
            want[t] = st_fq_add(want[t], st_fq_mul(column[t], st_fq_from(w[places[i]])));
    }
    st_lwe_basis_hints(&b, best_limb(), w, 1, d, got);
    assert_memory_equal(got, want, m * sizeof *want);
    free(w);
    free(got);
    free(want);
    st_lwe_basis_free(&b);
}

static void honest_hints_pass_the_check_with_secret_vectors(void **state)
{
    (void)state;
    const uint32_t n = 16, d = 300;
    for (size_t i = 0; i < COUNT(names); i++) {
        struct st_lwe_basis maker = basis(names[i], d, true), checker = basis(names[i], d, false);
        uint32_t m = maker.params->m, s[16], left[ST_LWE_MAX_M] = {0}, right[ST_LWE_MAX_M];
        uint32_t *hints = malloc((size_t)n * m * 4), *ws = calloc(d, 4);
        int8_t *w = random_bytes((size_t)n * d, i);
        struct st_rng r;
        st_rng_seed(&r, i);
        st_lwe_basis_hints(&maker, best_limb(), w, n, d, hints);
        for (uint32_t j = 0; j < n; j++) {
            s[j] = (uint32_t)(st_rng_next(&r) % ST_FQ);
            for (uint32_t k = 0; k < d; k++)
                ws[k] = st_fq_add(ws[k], st_fq_mul(st_fq_from(w[j * d + k]), s[j]));
            for (uint32_t t = 0; t < m; t++)
                left[t] = st_fq_add(left[t], st_fq_mul(hints[j * m + t], s[j]));
        }
        st_lwe_basis_times(&checker, ws, d, right);
        assert_memory_equal(left, right, m * sizeof *left);
        free(hints);
        free(ws);
        free(w);
        st_lwe_basis_free(&maker);
        st_lwe_basis_free(&checker);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sets_are_found_by_name_and_weak_ones_refused),
        cmocka_unit_test(the_basis_is_what_shake_gives),
        cmocka_unit_test(a_basis_depends_on_model_and_set_and_not_on_its_width),
        cmocka_unit_test(secrets_times_the_basis_equal_the_schoolbook_product),
        cmocka_unit_test(hints_equal_the_schoolbook_product),
        cmocka_unit_test(hints_of_more_inputs_than_one_limb_product_takes_are_whole),
        cmocka_unit_test(honest_hints_pass_the_check_with_secret_vectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
