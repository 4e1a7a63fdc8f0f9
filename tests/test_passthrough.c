/* The text form of token ids. */
#include "text/passthrough.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void every_id_has_a_word_that_parses_back(void **state)
{
    (void)state;
    char word[ST_PASSTHROUGH_LEN];
    for (uint32_t id = 0; id < ST_PASSTHROUGH_MAX_ID; id++) {
        uint32_t back = ~id;
        st_passthrough_word(id, word);
        if (st_passthrough_next(word, sizeof word, &back) != ST_PASSTHROUGH_LEN || back != id)
            fail_msg("id %u came back as %u", id, back);
    }
}

static void the_first_and_last_words_are_the_documented_ones(void **state)
{
    (void)state;
    char word[ST_PASSTHROUGH_LEN];
    const struct {
        uint32_t id;
        const char *text;
    } rows[] = {{0, "\u4e00\uac00"}, {511, "\u4e00\uadff"}, {512, "\u4e01\uac00"}, {(1u << 22) - 1, "\u6dff\uadff"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        st_passthrough_word(rows[i].id, word);
        assert_memory_equal(word, rows[i].text, sizeof word);
    }
}

static void a_cut_word_waits_for_its_rest(void **state)
{
    (void)state;
    char word[ST_PASSTHROUGH_LEN];
    uint32_t id;
    for (uint32_t want = 0; want < ST_PASSTHROUGH_MAX_ID; want += 9973) {
        st_passthrough_word(want, word);
        for (size_t len = 0; len < sizeof word; len++)
            assert_int_equal(st_passthrough_next(word, len, &id), 0);
    }
}

static void what_is_no_word_is_refused_at_once(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "a",        " \u4e00\uac00",  "\uac00\u4e00", "\u4e00\u4e00",
        "\u4e00a",  "\u4e00\uae00",   "\u6e00\uac00", "\u4dff",
        "\xe4\xb7", "\xe6\xb8",       "\xff",         "\x80",
        "\xe4\x41", "\u4e00\xea\xb8", "\xf0\x9f\x98", "\xe4\xb8\x41\xea\xb0\x80",
    };
    uint32_t id;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (st_passthrough_next(bad[i], strlen(bad[i]), &id) != -1)
            fail_msg("row %zu was taken", i);
}

static void any_bytes_give_a_word_a_wait_or_a_refusal(void **state)
{
    (void)state;
    srandom(5);
    for (int i = 0; i < 200000; i++) {
        char text[8];
        uint32_t id = UINT32_MAX;
        size_t len = (size_t)random() % sizeof text;
        st_passthrough_word((uint32_t)random() % ST_PASSTHROUGH_MAX_ID, text);
        for (size_t k = 0; k < len; k++)
            if (random() % 4 == 0)
                text[k] = (char)random();
        char *exact = malloc(len ? len : 1); /* a read past the end shows */
        assert_non_null(exact);
        memcpy(exact, text, len);
        int got = st_passthrough_next(exact, len, &id);
        free(exact);
        assert_true(got == 0 || got == -1 || (got == ST_PASSTHROUGH_LEN && id < ST_PASSTHROUGH_MAX_ID));
        assert_true(got != 0 || len < ST_PASSTHROUGH_LEN);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_id_has_a_word_that_parses_back),
        cmocka_unit_test(the_first_and_last_words_are_the_documented_ones),
        cmocka_unit_test(a_cut_word_waits_for_its_rest),
        cmocka_unit_test(what_is_no_word_is_refused_at_once),
        cmocka_unit_test(any_bytes_give_a_word_a_wait_or_a_refusal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
