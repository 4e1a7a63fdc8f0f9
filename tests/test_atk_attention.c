/* Attention that left for a worker in TwinShield's packing: prompts are read off a recording of the real thing, and
 * there is nothing to read where it stays inside. */
#include "record_make.h"

static const struct st_attack *attack(void)
{
    const struct st_attack *one[ST_ATTACKS_MAX];
    size_t n;
    struct st_err e;
    assert_ok(st_attacks_pick("pairwise-attention", one, ST_ATTACKS_MAX, &n, &e), &e);
    assert_int_equal(n, 1);
    return one[0];
}

static void prompts_are_read_off_attention_products_that_left(void **state)
{
    (void)state;
    static const char *const schemes[] = {"otp", "lwe"}; /* of the linear layers: that does not matter */
    for (int i = 0; i < 2; i++) {
        struct rig *r = rig_new(&(struct rig_opts){.scheme = schemes[i], .n_doc = 6, .len = 24, .attention = true});
        const struct st_row *row = rig_run(r, attack());
        assert_true(row->score > 0.95);
        assert_true(row->chance < 0.1);
        assert_int_equal(row->n, 6 * 24);
        assert_non_null(strstr(row->note, "144 keys of 144"));
        rig_free(r);
    }
}

static void documents_of_any_length_are_found_among_each_other(void **state)
{
    (void)state;
    struct rig *r = rig_new(
        &(struct rig_opts){.scheme = "otp", .n_doc = 5, .len = 30, .uneven = true, .n_asked = 3, .attention = true});
    assert_true(rig_run(r, attack())->score > 0.95);
    rig_free(r);
}

static void prompts_of_a_trained_model_are_read_too(void **state)
{
    (void)state;
    char model[256], tokenizer[256];
    if (!rig_shared("stories260K.bin", model) || !rig_shared("tok512.bin", tokenizer))
        return;
    struct rig *r = rig_new(&(struct rig_opts){.scheme = "otp",
                                               .model = model,
                                               .tokenizer = tokenizer,
                                               .n_doc = 6,
                                               .len = 40,
                                               .attention = true,
                                               .own_words = true});
    assert_true(rig_run(r, attack())->score > 0.9);
    rig_free(r);
}

static void attention_inside_leaves_nothing_to_attack(void **state)
{
    (void)state;
    struct rig *r = rig_new(&(struct rig_opts){.scheme = "otp", .n_doc = 4, .len = 16});
    struct st_err e;
    expect_refusal(attack()->run(&r->audit, &r->rows, &e), &e, ST_UNSUPPORTED,
                   "no attention product is in the recording: they stay inside");
    assert_int_equal(r->rows.n, 0);
    rig_free(r);
}

static void a_recording_of_other_documents_is_refused(void **state)
{
    (void)state;
    struct rig *r = rig_new(&(struct rig_opts){.scheme = "otp", .n_doc = 2, .len = 16, .attention = true});
    struct st_err e;
    r->ends[0] = 12; /* of another length than what was asked */
    expect_refusal(attack()->run(&r->audit, &r->rows, &e), &e, ST_INPUT,
                   "no attention product with the 12 keys of document 1");
    rig_free(r);
}

static void attacks_on_masked_rows_pass_over_attention(void **state)
{
    (void)state;
    struct rig *r = rig_new(&(struct rig_opts){.scheme = "otp", .n_doc = 6, .len = 24, .attention = true});
    const struct st_attack *some[ST_ATTACKS_MAX];
    size_t n;
    struct st_err e;
    assert_ok(st_attacks_pick("null-space,uniformity,row-counts", some, ST_ATTACKS_MAX, &n, &e), &e);
    assert_int_equal(n, 3);
    for (size_t i = 0; i < n; i++) {
        const struct st_row *row = rig_run(r, some[i]);
        assert_true(i == 2 ? row->score == 1 : row->score < 0.1);
    }
    rig_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_are_read_off_attention_products_that_left),
        cmocka_unit_test(documents_of_any_length_are_found_among_each_other),
        cmocka_unit_test(prompts_of_a_trained_model_are_read_too),
        cmocka_unit_test(attention_inside_leaves_nothing_to_attack),
        cmocka_unit_test(a_recording_of_other_documents_is_refused),
        cmocka_unit_test(attacks_on_masked_rows_pass_over_attention),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
