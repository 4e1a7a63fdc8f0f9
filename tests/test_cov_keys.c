/* The keys of a layer, by their algebra: what must cancel does, and is well conditioned. */
#include "cov_make.h"
#include "protect/covariant/layer_parts.h"

#include <lapacke.h>

static void value_keys_are_inverse_and_well_conditioned(void **state)
{
    (void)state;
    enum { DH = 32, KV = 3, N_FF = 50 };
    struct st_err e;
    struct st_cov_layer_keys k;
    struct st_model model = {
        .config = {.n_head = 6, .n_kv_head = KV, .head_dim = DH, .v_head_dim = DH, .rope_dim = DH}};
    struct st_cov_key key = key_of(3);
    const uint8_t digest[32] = {0};
    const struct st_cov_opts opts = {0};
    const struct st_cov_draw draw = {.model = &model, .key = &key, .digest = digest, .opts = &opts, .eps_ratio = 1};
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

static struct st_stream *stream(const char *label)
{
    struct st_err e;
    struct st_stream *s;
    assert_ok(st_stream_new((const uint8_t *)"seed", 4, NULL, 0, label, &s, &e), &e);
    return s;
}

/* The figures of a program in another language, 4,000 draws each: pairs moved, and the RMS change of a score at
 * distances. */
static void pairs_change_places_as_often_and_as_far_as_calculated(void **state)
{
    (void)state;
    enum { DRAWS = 2000 };
    static const struct {
        uint32_t m;
        double theta, gamma, moved, at16, at128;
    } rows[] = {{32, 1e4, 1e3, 8.37, .0115, .0912},  {32, 1e6, 1e3, 13.00, .0114, .0903},
                {64, 1e4, 1e3, 21.27, .0093, .0738}, {64, 1e6, 1e3, 29.06, .0084, .0670},
                {32, 1e4, 1e5, .013, 0, .0002},      {32, 1e4, 1, 22.95, .701, .862}};
    struct st_stream *s = stream("blocks");
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        uint32_t m = rows[r].m, from[64];
        float freq[64];
        double moved = 0, at16 = 0, at128 = 0;
        for (uint32_t i = 0; i < m; i++)
            freq[i] = (float)pow(rows[r].theta, -(double)i / m);
        for (int d = 0; d < DRAWS; d++) {
            bool seen[64] = {0};
            st_cov_draw_blocks(s, freq, m, 8, rows[r].gamma, from);
            for (uint32_t i = 0; i < m; i++) {
                double by = (double)freq[i] - (double)freq[from[i]];
                assert_true(from[i] < m && !seen[from[i]] && labs((long)i - (long)from[i]) < 8);
                seen[from[i]] = true;
                moved += from[i] != i;
                at16 += 2 - 2 * cos(16 * by); /* |1 - e^(i by)|^2 */
                at128 += 2 - 2 * cos(128 * by);
            }
        }
        assert_true(fabs(moved / DRAWS - rows[r].moved) < 0.03 * rows[r].moved + 0.01);
        assert_true(fabs(sqrt(at16 / DRAWS / m) - rows[r].at16) < 0.05 * rows[r].at16 + 0.001);
        assert_true(fabs(sqrt(at128 / DRAWS / m) - rows[r].at128) < 0.05 * rows[r].at128 + 0.001);
    }
    st_stream_free(s);
}

static void no_pair_moves_without_a_window_and_the_rule_is_watched(void **state)
{
    (void)state;
    struct st_err e;
    struct st_cov_key key = key_of(3);
    struct st_model m = {.config = {.n_head = 2,
                                    .n_kv_head = 2,
                                    .head_dim = 64,
                                    .v_head_dim = 64,
                                    .rope_dim = 64,
                                    .rope_theta = 1e4f,
                                    .n_ctx = 2048}};
    static const struct {
        uint32_t beta;
        double gamma;
        bool moves, far;
    } rows[] = {{0, 1e3, false, false},
                {1, 1e3, false, false},
                {8, 1e3, true, true},
                {8, 1e5, false, false},
                {8, 2e4, true, false}};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        const uint8_t digest[32] = {0};
        const struct st_cov_opts opts = {.beta = rows[r].beta, .gamma = rows[r].gamma};
        const struct st_cov_draw draw = {.model = &m, .key = &key, .digest = digest, .opts = &opts, .eps_ratio = 1};
        struct st_cov_layer_keys k = {0};
        uint32_t *from, moved = 0;
        assert_ok(st_cov_draw_pair_orders(&k, &draw, 0, 40, 32, &from, &e), &e);
        for (uint32_t i = 0; i < 40 * 32; i++)
            moved += from[i] != i % 32;
        assert_true((moved > 0) == rows[r].moves);
        assert_true((k.n_far > 0) == rows[r].far);
        st_cov_layer_keys_wipe(&k);
    }
    st_cov_key_wipe(&key);
}

static void experts_move_with_their_group(void **state)
{
    (void)state;
    enum { N = 24, GROUP = 4, FF = 10 };
    struct st_err e;
    struct st_cov_layer_keys k;
    struct st_cov_key key = key_of(3);
    const uint8_t digest[32] = {0};
    const struct st_cov_opts opts = {0};
    for (uint32_t n_group = 0; n_group <= N / GROUP; n_group += N / GROUP) {
        struct st_model m = {.config = {.n_head = 1,
                                        .n_kv_head = 1,
                                        .head_dim = 8,
                                        .v_head_dim = 8,
                                        .rope_dim = 8,
                                        .n_expert = N,
                                        .moe_d_ff = FF,
                                        .n_group = n_group}};
        const struct st_cov_draw draw = {.model = &m, .key = &key, .digest = digest, .opts = &opts, .eps_ratio = 1};
        int together = 0;
        bool seen[N] = {0};
        assert_int_equal(st_plan_weight(&m.plan, ST_ROLE_ROUTER, 1, N, 8, "router"), 0);
        assert_ok(st_cov_layer_keys_init(&k, &draw, 1, &e), &e);
        for (uint32_t i = 0; i < N; i++) {
            seen[k.expert_order[i]] = true;
            together += k.expert_order[i] / GROUP == k.expert_order[i / GROUP * GROUP] / GROUP;
        }
        for (int i = 0; i < N; i++)
            assert_true(seen[i]);
        assert_true(n_group ? together == N : together < N);
        assert_ptr_equal(k.units[ST_ROLE_ROUTER].order, k.expert_order);
        assert_ptr_equal(k.units[ST_ROLE_ROUTER_BIAS].order, k.expert_order);
        assert_null(k.units[ST_ROLE_ROUTER].scale);
        for (int i = 0; i < N; i++) {
            struct st_cov_units up = st_cov_layer_units(&k, ST_ROLE_EXPERT_UP, i),
                                down = st_cov_layer_units(&k, ST_ROLE_EXPERT_DOWN, i),
                                gate = st_cov_layer_units(&k, ST_ROLE_EXPERT_GATE, i);
            assert_true(gate.order == up.order && gate.order == down.order && !gate.scale);
            for (int j = 0; j < FF; j++)
                assert_true(gate.order[j] < FF && fabs(up.scale[j] * down.scale[j] - 1) < 1e-15);
        }
        st_cov_layer_keys_wipe(&k);
        st_plan_free(&m.plan);
    }
    st_cov_key_wipe(&key);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(value_keys_are_inverse_and_well_conditioned),
        cmocka_unit_test(pairs_change_places_as_often_and_as_far_as_calculated),
        cmocka_unit_test(no_pair_moves_without_a_window_and_the_rule_is_watched),
        cmocka_unit_test(experts_move_with_their_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
