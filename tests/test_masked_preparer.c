/* Masks of a side without weights, whose checks and pads somebody trusted makes: the same results, the same refusals.
 */
#include "masked_setup.h"

#include <stdatomic.h>

/* A preparer that multiplies here, and can be made to fail or to lie. */
struct fake_preparer {
    const struct st_served *served; /* with the weights */
    struct st_preparer face;
    struct st_hint_source scales;
    int n_combine;
    atomic_bool down; /* threads that make pads look at it */
    bool lies, other_scale;
};

static const struct st_served_weight *matrix(const struct fake_preparer *f, const struct st_mask_group *g, int k)
{
    return &f->served->weights[g->served[k]];
}

static int fake_fill(void *ctx, const struct st_mask_group *g, uint32_t n, uint32_t *pads, struct st_err *e)
{
    const struct fake_preparer *f = ctx;
    if (f->down)
        return st_fail(e, ST_IO, "preparer: gone");
    for (uint32_t i = 0; i < n; i++) {
        uint32_t *pad = pads + (size_t)i * (g->d + g->n), *out = pad + g->d;
        for (int k = 0; k < g->n_op; out += matrix(f, g, k++)->n_out)
            worker_multiply(matrix(f, g, k), pad, 1, true, out);
    }
    return 0;
}

static int fake_combine(void *ctx, const struct st_mask_group *g, const uint32_t *s, uint32_t n_vec, uint32_t *ws,
                        struct st_err *e)
{
    struct fake_preparer *f = ctx;
    if (f->down)
        return st_fail(e, ST_IO, "preparer: gone");
    __atomic_fetch_add(&f->n_combine, 1, __ATOMIC_RELAXED);
    for (uint32_t v = 0; v < n_vec; v++)
        for (uint32_t i = 0; i < g->d; i++) {
            uint32_t sum = f->lies;
            const uint32_t *part = s + (size_t)v * g->n;
            for (int k = 0; k < g->n_op; part += matrix(f, g, k++)->n_out)
                for (uint32_t j = 0; j < matrix(f, g, k)->n_out; j++)
                    sum = st_fq_add(
                        sum, st_fq_mul(st_fq_from(matrix(f, g, k)->w[(size_t)j * matrix(f, g, k)->n_in + i]), part[j]));
            ws[(size_t)v * g->d + i] = sum;
        }
    return 0;
}

static int fake_scales(void *ctx, const char *name, uint32_t n_out, uint32_t n_in,
                       int (*sink)(void *arg, const struct st_hint_columns *c, struct st_err *e), void *arg,
                       struct st_err *e)
{
    const struct fake_preparer *f = ctx;
    int at = st_served_find(f->served, name), rc = 0;
    assert_true(at >= 0);
    const struct st_served_weight *w = &f->served->weights[at];
    assert_true(w->n_out == n_out && w->n_in == n_in);
    for (uint32_t j = 0; j < n_out && !rc; j++) {
        float norm = st_served_norm(st_served_square(w->w + (size_t)j * n_in, n_in)), scale = w->scale[j];
        scale = f->other_scale ? 2 * scale : scale;
        rc = sink(arg, &(struct st_hint_columns){j, 1, 0, &scale, &norm, NULL}, e);
    }
    return rc;
}

/* A side without weights in front of a worker that has them. */
struct blind {
    struct setup s;
    struct st_served served; /* as a kit has it: no weights */
    struct fake_preparer preparer;
};

static void blind_init(struct blind *b, const struct tiny *t, const struct st_masked_place *place)
{
    plant(&b->s, t, place);
    b->served = b->s.served;
    b->served.weights = malloc(b->served.n * sizeof *b->served.weights);
    memcpy(b->served.weights, b->s.served.weights, b->served.n * sizeof *b->served.weights);
    for (uint32_t i = 0; i < b->served.n; i++) {
        b->served.weights[i].w = NULL;
        b->served.weights[i].scale = NULL;
    }
    struct fake_preparer *f = &b->preparer;
    *f = (struct fake_preparer){.served = &b->s.served};
    f->scales = (struct st_hint_source){.params = "", .read = fake_scales, .ctx = f};
    f->face = (struct st_preparer){.fill = fake_fill, .combine = fake_combine, .scales = &f->scales, .ctx = f};
}

static struct st_masked_opts blind_options(struct blind *b, const char *scheme)
{
    struct st_masked_opts o = options(&b->s, scheme);
    o.scheme_opts.served = &b->served;
    o.scheme_opts.preparer = &b->preparer.face;
    return o;
}

static void blind_free(struct blind *b)
{
    tear_down(&b->s);
    free(b->served.weights);
}

static const struct tiny model = {.arch = "Qwen2ForCausalLM", .seed = 3};

static void a_prepared_side_gives_the_bits_of_the_integer_reference(void **state)
{
    (void)state;
    struct blind b;
    struct st_err e;
    blind_init(&b, &model, &(struct st_masked_place){.embedding = true});
    struct st_masked_opts o = blind_options(&b, "otp");
    mask(&b.s, &o);
    with_reference(&b.s);
    int n_group = st_plan_exchanges(&b.s.m->plan);
    assert_int_equal(b.preparer.n_combine, n_group);
    assert_non_null(strstr(st_masked_describe(b.s.masked), "integrity checked; prepared by an attested holder"));
    assert_non_null(strstr(st_masked_plan_text(b.s.masked), "since this side has no weights"));
    for (int g = 0; g < n_group; g++) {
        struct rows r;
        rows_make(&r, &b.s, g, 5, (uint64_t)g);
        assert_ok(send(&b.s, &b.s.b, &r, r.outs, &e), &e);
        assert_ok(send(&b.s, &b.s.ref, &r, r.want, &e), &e);
        for (int k = 0; k < r.n_op; k++)
            assert_memory_equal(r.outs[k].p, r.want[k].p, (size_t)r.in.n_row * r.outs[k].width * sizeof(float));
        rows_free(&r);
    }
    assert_all_wiped(&b.s);
    blind_free(&b);
}

static void a_prepared_side_checks_hints_and_takes_no_scale_from_them(void **state)
{
    (void)state;
    struct blind b;
    struct st_err e;
    struct rows r;
    blind_init(&b, &model, &(struct st_masked_place){0});
    struct st_masked_opts o = blind_options(&b, "lwe");
    mask(&b.s, &o);
    rows_make(&r, &b.s, 1, 3, 8);
    assert_ok(send(&b.s, &b.s.b, &r, r.outs, &e), &e);
    rows_free(&r);
    st_masked_free(b.s.masked);
    b.s.masked = NULL;
    b.s.hints.wrong_name = b.served.weights[3].name;
    b.s.hints.wrong = HINTS_FLIPPED;
    expect_refusal(st_masked_new(b.s.m, &o, &b.s.masked, &e), &e, ST_VERIFY, "do not belong to the weights");
    b.s.hints.wrong = HINTS_RIGHT;
    b.preparer.other_scale = true;
    expect_refusal(st_masked_new(b.s.m, &o, &b.s.masked, &e), &e, ST_VERIFY, "another scale than the weights");
    blind_free(&b);
}

static void flip(void *arg, struct st_exposed *reply)
{
    uint32_t *v = reply->p;
    v[*(size_t *)arg] = st_fq_add(v[*(size_t *)arg], 1);
}

static void a_wrong_reply_is_found_and_the_secret_is_prepared_anew(void **state)
{
    (void)state;
    static const char *const schemes[] = {"otp", "lwe"};
    for (int i = 0; i < 2; i++) {
        struct blind b;
        struct st_err e;
        struct rows r;
        size_t at = 7;
        blind_init(&b, &model, &(struct st_masked_place){0});
        struct st_masked_opts o = blind_options(&b, schemes[i]);
        mask(&b.s, &o);
        int before = b.preparer.n_combine;
        rows_make(&r, &b.s, 2, 2, 8);
        b.s.worker.twist = flip;
        b.s.worker.arg = &at;
        expect_refusal(send(&b.s, &b.s.b, &r, r.outs, &e), &e, ST_VERIFY, "is not the product");
        assert_int_equal(b.s.n_quarantine, 1);
        b.s.worker.twist = NULL;
        assert_ok(send(&b.s, &b.s.b, &r, r.outs, &e), &e);
        assert_int_equal(b.preparer.n_combine, 2 * before);
        assert_int_equal(stats_of(&b.s).n_redraw, 1);
        assert_all_wiped(&b.s);
        rows_free(&r);
        blind_free(&b);
    }
}

/* Without the preparer nothing new passes: no pad, and after a refusal no check. */
static void a_preparer_that_is_gone_ends_exchanges_and_comes_back(void **state)
{
    (void)state;
    struct blind b;
    struct st_err e;
    struct rows r;
    size_t at = 0;
    blind_init(&b, &model, &(struct st_masked_place){0});
    struct st_masked_opts o = blind_options(&b, "otp");
    o.pads.wait_s = 2;
    b.preparer.down = true;
    expect_refusal(st_masked_new(b.s.m, &o, &b.s.masked, &e), &e, ST_IO, "preparer: gone");
    b.preparer.down = false;
    mask(&b.s, &o);
    rows_make(&r, &b.s, 0, 1, 8);
    b.s.worker.twist = flip;
    b.s.worker.arg = &at;
    expect_refusal(send(&b.s, &b.s.b, &r, r.outs, &e), &e, ST_VERIFY, "is not the product");
    b.s.worker.twist = NULL;
    b.preparer.down = true;
    expect_refusal(send(&b.s, &b.s.b, &r, r.outs, &e), &e, ST_IO, "preparer: gone");
    b.preparer.down = false;
    assert_ok(send(&b.s, &b.s.b, &r, r.outs, &e), &e);
    assert_all_wiped(&b.s);
    rows_free(&r);
    blind_free(&b);
}

static void a_reply_that_nothing_is_left_to_check_with_blames_nobody(void **state)
{
    (void)state;
    struct blind b;
    struct st_err e;
    struct rows r[2];
    size_t at = 0;
    blind_init(&b, &model, &(struct st_masked_place){0});
    struct st_masked_opts o = blind_options(&b, "otp");
    o.pads.wait_s = 2;
    mask(&b.s, &o);
    rows_make(&r[0], &b.s, 0, 1, 8);
    rows_make(&r[1], &b.s, 0, 1, 9);
    struct st_exchange late = {.plan = &b.s.m->plan, .ops = r[0].ops, .n_op = r[0].n_op};
    assert_ok(st_boundary_submit(&b.s.b, &late, &r[0].in, &e), &e);
    b.s.worker.twist = flip;
    b.s.worker.arg = &at;
    expect_refusal(send(&b.s, &b.s.b, &r[1], r[1].outs, &e), &e, ST_VERIFY, "is not the product");
    b.s.worker.twist = NULL;
    b.preparer.down = true; /* no new secrets: what was there is gone */
    expect_refusal(send(&b.s, &b.s.b, &r[1], r[1].outs, &e), &e, ST_IO, "preparer: gone");
    assert_int_equal(stats_of(&b.s).n_reject, 1);
    expect_refusal(st_boundary_complete(&b.s.b, &late, b.s.m->mats, r[0].outs, &e), &e, ST_IO, "cannot be checked");
    assert_int_equal(stats_of(&b.s).n_reject, 1);
    b.preparer.down = false;
    assert_ok(send(&b.s, &b.s.b, &r[1], r[1].outs, &e), &e);
    assert_all_wiped(&b.s);
    rows_free(&r[0]);
    rows_free(&r[1]);
    blind_free(&b);
}

/* It is trusted: but products that do not fit the worker's are refused, not used. */
static void a_preparer_that_lies_about_the_check_makes_every_reply_fail(void **state)
{
    (void)state;
    struct blind b;
    struct st_err e;
    struct rows r;
    blind_init(&b, &model, &(struct st_masked_place){0});
    struct st_masked_opts o = blind_options(&b, "otp");
    b.preparer.lies = true;
    mask(&b.s, &o);
    rows_make(&r, &b.s, 0, 1, 8);
    expect_refusal(send(&b.s, &b.s.b, &r, r.outs, &e), &e, ST_VERIFY, "is not the product");
    rows_free(&r);
    blind_free(&b);
}

static void without_weights_and_preparer_integrity_is_refused_by_name(void **state)
{
    (void)state;
    struct blind b;
    struct st_err e;
    blind_init(&b, &model, &(struct st_masked_place){0});
    struct st_masked_opts o = blind_options(&b, "otp");
    o.scheme_opts.preparer = NULL;
    expect_refusal(st_masked_new(b.s.m, &o, &b.s.masked, &e), &e, ST_POLICY, "without --preparer or --no-integrity");
    o.no_integrity = true;
    expect_refusal(st_masked_new(b.s.m, &o, &b.s.masked, &e), &e, ST_POLICY, "an attested --preparer");
    blind_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prepared_side_gives_the_bits_of_the_integer_reference),
        cmocka_unit_test(a_prepared_side_checks_hints_and_takes_no_scale_from_them),
        cmocka_unit_test(a_wrong_reply_is_found_and_the_secret_is_prepared_anew),
        cmocka_unit_test(a_preparer_that_is_gone_ends_exchanges_and_comes_back),
        cmocka_unit_test(a_reply_that_nothing_is_left_to_check_with_blames_nobody),
        cmocka_unit_test(a_preparer_that_lies_about_the_check_makes_every_reply_fail),
        cmocka_unit_test(without_weights_and_preparer_integrity_is_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
