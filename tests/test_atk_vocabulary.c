/* States of a deeper layer, read token by token with the base model. */
#include "record_make.h"

static void remo_is_read_at_a_deeper_layer_and_otp_and_lwe_are_not(void **state)
{
    (void)state;
    static const char *const schemes[] = {"remo", "otp", "lwe"};
    for (int i = 0; i < 3; i++) {
        struct rig *r = rig_new(&(struct rig_opts){.scheme = schemes[i], .n_doc = 3, .len = 16});
        r->audit.thorough = true;
        const struct st_row *row = rig_run(r, &st_atk_vocabulary);
        assert_int_equal(row->n, 48);
        assert_true(row->unprotected > 0.99);
        if (i == 0)
            assert_true(row->score > 0.95);
        else /* BOS is known and comes first */
            assert_true(row->score <= 8 / 48.0);
        rig_free(r);
    }
}

static void a_trained_model_is_read_through_half_rank_masks(void **state)
{
    (void)state;
    char model[256], tokenizer[256];
    if (!rig_shared("stories260K.bin", model) || !rig_shared("tok512.bin", tokenizer))
        return;
    static const char *const schemes[] = {"remo", "otp"};
    for (int i = 0; i < 2; i++) {
        struct rig *r = rig_new(&(struct rig_opts){
            .scheme = schemes[i], .model = model, .tokenizer = tokenizer, .n_doc = 4, .len = 40, .own_words = true});
        const struct st_row *row = rig_run(r, &st_atk_vocabulary);
        assert_true(row->unprotected > 0.95);
        assert_true(i == 0 ? row->score > 0.95 : row->score < 0.2);
        rig_free(r);
    }
}

static void what_does_not_fit_the_memory_is_refused(void **state)
{
    (void)state;
    struct st_err e;
    struct rig *r = rig_new(&(struct rig_opts){.scheme = "otp", .n_doc = 3, .len = 16});
    r->audit.memory = 32 << 10;
    expect_refusal(st_atk_vocabulary.run(&r->audit, &r->rows, &e), &e, ST_MEMORY, "--memory leaves it 0 MiB");
    rig_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(remo_is_read_at_a_deeper_layer_and_otp_and_lwe_are_not),
        cmocka_unit_test(what_does_not_fit_the_memory_is_refused),
        cmocka_unit_test(a_trained_model_is_read_through_half_rank_masks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
