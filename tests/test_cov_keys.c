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

/* ---- scores: what attention computes from one query and one key ---- */

enum { SCORE_DH = 16, SCORE_M = SCORE_DH / 2 };

static void rotate(const float *freq, bool interleaved, int pos, double *x)
{
    uint32_t at[2];
    for (uint32_t i = 0; i < SCORE_M; i++) {
        double angle = pos * (double)freq[i], a, b;
        st_cov_pair(interleaved, SCORE_M, i, at);
        a = x[at[0]];
        b = x[at[1]];
        x[at[0]] = a * cos(angle) - b * sin(angle);
        x[at[1]] = b * cos(angle) + a * sin(angle);
    }
}

/* x normed with weights w when there are any; eps is that of the checkpoint. */
static void norm_head(const double *w, double eps, double *x)
{
    double sum = 0;
    for (int i = 0; i < SCORE_DH; i++)
        sum += x[i] * x[i] / SCORE_DH;
    for (int i = 0; w && i < SCORE_DH; i++)
        x[i] *= w[i] / sqrt(sum + eps);
}

static double score(const double *q, const double *k, const double *wq, const double *wk, double eps, const float *freq,
                    bool interleaved, int pos)
{
    double a[SCORE_DH], b[SCORE_DH], sum = 0;
    memcpy(a, q, sizeof a);
    memcpy(b, k, sizeof b);
    norm_head(wq, eps, a);
    norm_head(wk, eps, b);
    rotate(freq, interleaved, pos, a);
    rotate(freq, interleaved, 5, b);
    for (int i = 0; i < SCORE_DH; i++)
        sum += a[i] * b[i];
    return sum;
}

static void mixed(const struct st_cov_units *u, uint32_t head, const double *x, double *y)
{
    const double *m = u->mix + (size_t)(head / u->share) * SCORE_DH * SCORE_DH;
    for (int i = 0; i < SCORE_DH; i++) {
        y[i] = 0;
        for (int j = 0; j < SCORE_DH; j++)
            y[i] += m[i * SCORE_DH + j] * x[j];
    }
}

/* The largest change of a score at a position, over heads, relative to |q| |k|. */
static double score_change(const struct st_model *m, const struct st_cov_draw *d, int pos)
{
    struct st_err e;
    struct st_cov_layer_keys k;
    struct st_stream *s = stream("scores");
    bool norms = m->config.qk_norm, from = m->config.rope_interleaved;
    double eps = (double)m->config.norm_eps, worst = 0;
    float freq[SCORE_M];
    st_config_inv_freq(&m->config, freq);
    assert_ok(st_cov_layer_keys_init(&k, d, 1, &e), &e);
    for (uint32_t head = 0; head < m->config.n_head; head++) {
        double q[SCORE_DH], key[SCORE_DH], wq[SCORE_DH], wk[SCORE_DH];
        double q2[SCORE_DH], key2[SCORE_DH], wq2[SCORE_DH], wk2[SCORE_DH], qq = 0, kk = 0;
        for (int i = 0; i < SCORE_DH; i++) {
            q[i] = st_stream_normal(s);
            key[i] = st_stream_normal(s);
            wq[i] = 0.5 + st_stream_unit(s);
            wk[i] = 0.5 + st_stream_unit(s);
            qq += q[i] * q[i];
            kk += key[i] * key[i];
        }
        mixed(&k.units[ST_ROLE_Q], head, q, q2);
        mixed(&k.units[ST_ROLE_K], head / (m->config.n_head / m->config.n_kv_head), key, key2);
        if (norms) {
            mixed(&k.units[ST_ROLE_Q_NORM], 0, wq, wq2);
            mixed(&k.units[ST_ROLE_K_NORM], 0, wk, wk2);
        }
        double want = score(q, key, norms ? wq : NULL, norms ? wk : NULL, eps, freq, from, pos);
        double got =
            score(q2, key2, norms ? wq2 : NULL, norms ? wk2 : NULL, eps * d->eps_ratio, freq, d->interleaved, pos);
        worst = fmax(worst, fabs(got - want) / (norms ? SCORE_DH : sqrt(qq * kk)));
    }
    st_cov_layer_keys_wipe(&k);
    st_stream_free(s);
    return worst;
}

static void scores_stay_in_every_layout_with_and_without_norms(void **state)
{
    (void)state;
    struct st_cov_key key = key_of(3);
    const uint8_t digest[32] = {0};
    for (int i = 0; i < 16; i++) {
        bool norms = i & 1, moved = i & 8;
        const struct st_cov_opts opts = {
            .preset = moved ? ST_COV_PRESET_PAPER : ST_COV_PRESET_TIGHT, .beta = moved ? 4 : 0, .gamma = 20};
        struct st_model m = {.config = {.n_head = 12,
                                        .n_kv_head = 4,
                                        .head_dim = SCORE_DH,
                                        .v_head_dim = SCORE_DH,
                                        .rope_dim = SCORE_DH,
                                        .rope_theta = 1e4f,
                                        .n_ctx = 64,
                                        .norm_eps = 0.01f,
                                        .qk_norm = norms,
                                        .rope_interleaved = i & 2}};
        const struct st_cov_draw draw = {
            .model = &m, .key = &key, .digest = digest, .opts = &opts, .interleaved = i & 4, .eps_ratio = 0.7};
        assert_true(score_change(&m, &draw, 5) < 1e-12); /* at no distance moved pairs cost nothing */
        double far = score_change(&m, &draw, 60);
        assert_true(moved ? far > 1e-3 : far < 1e-12);
    }
    st_cov_key_wipe(&key);
}

static void a_small_eps_leaves_room_for_scales_of_heads(void **state)
{
    (void)state;
    struct st_cov_key key = key_of(3);
    const uint8_t digest[32] = {0};
    const struct st_cov_opts opts = {0};
    struct st_model m = {.config = {.n_head = 12,
                                    .n_kv_head = 4,
                                    .head_dim = SCORE_DH,
                                    .v_head_dim = SCORE_DH,
                                    .rope_dim = SCORE_DH,
                                    .rope_theta = 1e4f,
                                    .n_ctx = 64,
                                    .norm_eps = 1e-6f,
                                    .qk_norm = true}};
    const struct st_cov_draw draw = {.model = &m, .key = &key, .digest = digest, .opts = &opts, .eps_ratio = 0.7};
    double change = score_change(&m, &draw, 60);
    assert_true(change > 1e-12 && change < 2e-6);
    st_cov_key_wipe(&key);
}

static void the_paper_levels_the_router_and_tight_does_not(void **state)
{
    (void)state;
    enum { N = 6, D = 8 };
    struct st_err e;
    struct st_cov_layer_keys k;
    struct st_cov_key key = key_of(3);
    const uint8_t digest[32] = {0};
    const struct st_cov_opts opts = {.preset = ST_COV_PRESET_PAPER};
    struct st_stream *s = stream("router");
    float rows[N][D], norm[D];
    struct st_mat mats[2] = {{.data = rows, .dtype = ST_DTYPE_F32, .n_out = N, .n_in = D}, {.data = norm}};
    struct st_model m = {
        .mats = mats,
        .config = {
            .n_head = 1, .n_kv_head = 1, .head_dim = 8, .v_head_dim = 8, .rope_dim = 8, .n_expert = N, .moe_d_ff = 4}};
    const struct st_cov_draw draw = {.model = &m, .key = &key, .digest = digest, .opts = &opts, .eps_ratio = 1};
    for (int j = 0; j < D; j++) {
        norm[j] = 1 + (float)j;
        for (int i = 0; i < N; i++)
            rows[i][j] = (float)((i + 1) * st_stream_normal(s));
    }
    assert_int_equal(st_plan_weight(&m.plan, ST_ROLE_ROUTER, 1, N, D, "router"), 0);
    assert_int_equal(st_plan_weight(&m.plan, ST_ROLE_FFN_NORM, 1, D, 1, "norm"), 1);
    assert_ok(st_cov_layer_keys_init(&k, &draw, 1, &e), &e);
    double size[N], mean = 0;
    for (int i = 0; i < N; i++) {
        double sum = 0;
        for (int j = 0; j < D; j++)
            sum += pow((double)rows[i][j] * (double)norm[j], 2);
        size[i] = sqrt(sum);
        mean += size[i] / N;
    }
    for (int i = 0; i < N; i++)
        assert_true(fabs(size[i] * k.units[ST_ROLE_ROUTER].scale[i] / mean - 1) < 1e-12);
    assert_null(k.units[ST_ROLE_ROUTER_BIAS].scale);
    st_cov_layer_keys_wipe(&k);
    st_plan_free(&m.plan);
    st_stream_free(s);
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
        cmocka_unit_test(scores_stay_in_every_layout_with_and_without_norms),
        cmocka_unit_test(a_small_eps_leaves_room_for_scales_of_heads),
        cmocka_unit_test(the_paper_levels_the_router_and_tight_does_not),
        cmocka_unit_test(experts_move_with_their_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
