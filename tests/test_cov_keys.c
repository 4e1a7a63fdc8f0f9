/* The keys of a layer, by their algebra: what must cancel does, and is well conditioned. */
#include "cov_make.h"

#include <lapacke.h>

static void value_keys_are_inverse_and_well_conditioned(void **state)
{
    (void)state;
    enum { DH = 32, KV = 3, N_FF = 50 };
    struct st_err e;
    struct st_cov_layer_keys k;
    struct st_model model = {.config = {.n_head = 6, .n_kv_head = KV, .head_dim = DH}};
    struct st_cov_key key = key_of(3);
    const uint8_t digest[32] = {0};
    const struct st_cov_draw draw = {.model = &model, .key = &key, .digest = digest, .eps_ratio = 1};
    assert_int_equal(st_plan_weight(&model.plan, ST_ROLE_GATE, 1, N_FF, 8, "gate"), 0);
    assert_ok(st_cov_layer_keys_init(&k, &draw, 1, &e), &e);
    for (int h = 0; h < KV; h++) {
        const double *v = k.units[ST_ROLE_V].mix + h * DH * DH, *o = k.units[ST_ROLE_O].mix + h * DH * DH;
        for (int i = 0; i < DH; i++)
            for (int j = 0; j < DH; j++) { /* v = U^T, o = U^-1 */
                double sum = 0;
                for (int m = 0; m < DH; m++)
                    sum += v[m * DH + i] * o[m * DH + j];
                assert_true(fabs(sum - (i == j)) < 1e-12);
            }
        double copy[DH * DH], sv[DH], unused[1];
        memcpy(copy, v, sizeof copy);
        assert_int_equal(LAPACKE_dgesdd(LAPACK_ROW_MAJOR, 'N', DH, DH, copy, DH, sv, unused, DH, unused, DH), 0);
        assert_true(sv[0] / sv[DH - 1] < 4.0001 && sv[0] / sv[DH - 1] > 1.5);
    }
    for (uint32_t i = 0; i < N_FF; i++) {
        double up = k.units[ST_ROLE_UP].scale[i], down = k.units[ST_ROLE_DOWN].scale[i];
        assert_true(fabs(up * down - 1) < 1e-15);
        assert_true(fabs(up) >= 0.5 && fabs(up) <= 2);
    }
    st_plan_free(&model.plan);
    st_cov_layer_keys_wipe(&k);
    st_cov_key_wipe(&key);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(value_keys_are_inverse_and_well_conditioned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
