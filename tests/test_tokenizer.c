/* Tokenizers: what a text becomes, what it becomes again, and what damaged files and texts do. Equality with the
 * `tokenizers` package on large texts is in tests/interop/test_tokenizers.py. */
#include "base/file.h"
#include "expect.h"
#include "mutate.h"
#include "tok_make.h"

#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#define BYTES ",\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"
#define SPECIAL(id, text, more) "{\"id\":" #id ",\"content\":\"" text "\",\"special\":true" more "}"
#define LLAMA2_NORM                                                                                                    \
    ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\u2581\"},"           \
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\u2581\"}]}"

static const struct st_encode_opts text_only = {0}, with_special = {.parse_special = true},
                                   with_bos = {.add_special = true, .parse_special = true};

static void encode(const struct st_tokenizer *t, const char *text, const struct st_encode_opts *o, struct st_ids *ids)
{
    struct st_err e;
    ids->len = 0;
    if (st_tokenizer_encode(t, text, strlen(text), o, ids, &e))
        fail_msg("%s", e.msg);
}

static void assert_ids_opts(const struct st_tokenizer *t, const char *text, const struct st_encode_opts *o,
                            const uint32_t *want, size_t n)
{
    struct st_ids ids = {0};
    encode(t, text, o, &ids);
    if (ids.len != n || memcmp(ids.p, want, n * sizeof *want) != 0) {
        for (size_t i = 0; i < ids.len; i++)
            print_message("%u ", ids.p[i]);
        fail_msg("'%s' has other ids", text);
    }
    st_ids_free(&ids);
}
#define assert_ids(t, text, ...)                                                                                       \
    do {                                                                                                               \
        const uint32_t want_[] = {__VA_ARGS__};                                                                        \
        assert_ids_opts(t, text, &text_only, want_, sizeof want_ / sizeof *want_);                                     \
    } while (0)

/* The pieces of a text with | between them. */
static void assert_pieces(const struct st_tokenizer *t, const char *text, const char *want)
{
    struct st_ids ids = {0};
    struct st_buf b = {0};
    encode(t, text, &text_only, &ids);
    for (size_t i = 0; i < ids.len; i++) {
        struct st_span p = st_tokenizer_piece(t, ids.p[i]);
        st_buf_add(&b, "|", i > 0);
        st_buf_add(&b, p.p, p.len);
    }
    assert_string_equal(b.p ? b.p : "", want);
    st_buf_free(&b);
    st_ids_free(&ids);
}

/* Model: BPE.
 * ------------------------------------------------------------------------------------------------------------ */

static void the_pair_of_lowest_rank_is_joined_first_from_the_left(void **state)
{
    static const char *const words[] = {"ab", "bc", "abc", "aa", NULL};
    struct st_buf b = {0};
    (void)state;
    make_byte_level(&b, words, "\"b c\",[\"a\",\"b\"],\"a bc\",\"a a\"", "", BYTES);
    struct st_tokenizer *t = make_open(&b);
    assert_ids(t, "abc", 258);
    assert_ids(t, "ab", 256);
    assert_ids(t, "aaa", 259, 'a');
    assert_ids(t, "aaabc", 259, 258);
    st_tokenizer_free(t);
}

static void long_words_give_what_short_ones_give(void **state)
{
    static const char *const words[] = {"ab", "bc", "abc", "aa", "aaaa", "ca", "bca", NULL};
    struct st_buf b = {0};
    struct st_rng r;
    (void)state;
    make_byte_level(&b, words, "\"b c\",\"a b\",\"a bc\",\"a a\",\"aa aa\",\"c a\",\"b ca\"", "", BYTES);
    struct st_tokenizer *t = make_open(&b);
    st_rng_seed(&r, 7);
    for (int round = 0; round < 2000; round++) {
        /* x ends every merge: a word made of parts is the parts' ids. */
        char part[32], whole[400] = "";
        struct st_ids one = {0}, all = {0}, sum = {0};
        for (int p = 0; p < 10; p++) {
            size_t n = 1 + mutate_below(&r, 20);
            for (size_t i = 0; i < n; i++)
                part[i] = "abc"[mutate_below(&r, 3)];
            strcpy(part + n, "x");
            encode(t, part, &text_only, &one);
            for (size_t i = 0; i < one.len; i++)
                st_ids_add(&sum, one.p[i]);
            strcat(whole, part);
        }
        encode(t, whole, &text_only, &all);
        assert_int_equal(all.len, sum.len);
        assert_memory_equal(all.p, sum.p, sum.len * sizeof *sum.p);
        st_ids_free(&one);
        st_ids_free(&all);
        st_ids_free(&sum);
    }
    st_tokenizer_free(t);
}

/* Would take hours if any step were quadratic. */
static void texts_of_a_megabyte_without_a_space_are_encoded(void **state)
{
    static const char *const words[] = {"aa", "aaaa", "ab", "abab", NULL};
    static const char *const marks[] = {"a", "b", " ", "\u2581", "aa", "\u0300", NULL};
    static const char *const units[] = {"a", "ab", "\u0300\u0327", " ", "\n", "\u4e2d", "<"};
    struct st_buf b = {0};
    struct st_err e;
    struct st_tokenizer *t[2];
    (void)state;
    make_byte_level(&b, words, "\"a a\",\"aa aa\",\"a b\",\"ab ab\"", "",
                    ",\"normalizer\":{\"type\":\"NFC\"},\"added_tokens\":[" SPECIAL(260, "<|x|>", "") "]" BYTES);
    t[0] = make_open(&b);
    make_sentencepiece(&b, marks, "\"a a\"", ",\"byte_fallback\":true", LLAMA2_NORM);
    t[1] = make_open(&b);
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        struct st_buf text = {0};
        while (text.len < 1 << 20)
            st_buf_add_str(&text, units[u]);
        for (int k = 0; k < 2; k++) {
            struct st_ids ids = {0};
            struct st_buf back = {0};
            assert_int_equal(st_tokenizer_encode(t[k], text.p, text.len, &with_special, &ids, &e), 0);
            assert_int_equal(st_tokenizer_decode(t[k], ids.p, ids.len, false, &back, &e), 0);
            assert_int_equal(back.len, text.len);
            assert_true(u == 2 || memcmp(back.p, text.p, text.len) == 0); /* NFC reorders the marks */
            st_buf_free(&back);
            st_ids_free(&ids);
        }
        st_buf_free(&text);
    }
    st_tokenizer_free(t[0]);
    st_tokenizer_free(t[1]);
}

static void whole_words_win_with_ignore_merges(void **state)
{
    static const char *const words[] = {"ab", "abc", "\u0120ab", NULL};
    struct st_buf b = {0};
    (void)state;
    make_byte_level(&b, words, "\"a b\"", ",\"ignore_merges\":true", BYTES);
    struct st_tokenizer *t = make_open(&b);
    assert_ids(t, "abc ab", 257, 258);
    assert_ids(t, "abcd", 256, 'c', 'd');
    st_tokenizer_free(t);
}

static void a_word_level_model_takes_whole_words_or_refuses(void **state)
{
    static const char file[] =
        "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[ab][cd]\"},\"behavior\":\"Isolated\"},"
        "\"decoder\":{\"type\":\"Fuse\"},\"model\":{\"type\":\"WordLevel\",\"unk_token\":\"%s\","
        "\"vocab\":{\"ac\":0,\"ad\":1,\"bc\":2,\"ab\":3}}}";
    struct st_buf b = {0};
    struct st_ids ids = {0};
    struct st_err e;
    (void)state;
    st_buf_addf(&b, file, "absent");
    struct st_tokenizer *t = make_open(&b);
    assert_ids(t, "bcacadbc", 2, 0, 1, 2);
    assert_pieces(t, "bcad", "bc|ad");
    static const char *const unknown[] = {"bd", "ac bc", "xac", "a"};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(st_tokenizer_encode(t, unknown[i], strlen(unknown[i]), &text_only, &ids, &e), ST_INPUT);
        assert_int_equal(ids.len, 0);
    }
    st_tokenizer_free(t);
    st_buf_addf(&b, file, "ab");
    t = make_open(&b);
    assert_ids(t, "ac??bc", 0, 3, 2);
    st_tokenizer_free(t);
    st_ids_free(&ids);
}

static void unknown_characters_become_bytes_or_the_unknown_token(void **state)
{
    static const char *const words[] = {"a", "\u2581", NULL};
    struct st_buf b = {0};
    (void)state;
    make_sentencepiece(&b, words, "", ",\"byte_fallback\":true,\"fuse_unk\":true", "");
    struct st_tokenizer *t = make_open(&b);
    assert_ids(t, "a\u00e9z", 259, 3 + 0xc3, 3 + 0xa9, 3 + 'z');
    st_tokenizer_free(t);
    make_sentencepiece(&b, words, "", ",\"fuse_unk\":true", "");
    t = make_open(&b);
    assert_ids(t, "xya\u00e9z", 0, 259, 0);
    st_tokenizer_free(t);
    make_sentencepiece(&b, words, "", ",\"fuse_unk\":false", "");
    t = make_open(&b);
    assert_ids(t, "xya\u00e9", 0, 0, 259, 0);
    st_tokenizer_free(t);
}

/* Pre-tokenizers and normalizers.
 * ---------------------------------------------------------------------------------------- */

static void split_does_what_its_behavior_says(void **state)
{
    static const struct {
        const char *behavior, *pieces;
    } rows[] = {
        {"Removed", "the|final|countdown"},
        {"Isolated", "the|-|final|-|-|countdown"},
        {"MergedWithPrevious", "the-|final-|-|countdown"},
        {"MergedWithNext", "the|-final|-|-countdown"},
        {"Contiguous", "the|-|final|--|countdown"},
    };
    static const char *const words[] = {"the",        "the-", "final",       "-final",  "final-", "countdown",
                                        "-countdown", "--",   "--countdown", "final--", "-",      NULL};
    (void)state;
    for (size_t i = 0; i < 2 * sizeof rows / sizeof *rows; i++) {
        char pre[300];
        struct st_buf b = {0};
        snprintf(pre, sizeof pre,
                 ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"%s\":\"-\"},\"behavior\":\"%s\"}",
                 i & 1 ? "Regex" : "String", rows[i / 2].behavior);
        make_sentencepiece(&b, words, "", ",\"ignore_merges\":true", pre);
        struct st_tokenizer *t = make_open(&b);
        assert_pieces(t, "the-final--countdown", rows[i / 2].pieces);
        st_tokenizer_free(t);
    }
}

static void white_space_is_unicode_white_space(void **state)
{
    static const char pre[] = ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[\\\\s]|\\\\S+\"},"
                              "\"behavior\":\"Isolated\"}";
    static const char *const words[] = {"a", "\xc2\x85", "\u180e", "a\u180ea", "\u3000", "\u200b", "a\u200ba", NULL};
    struct st_buf b = {0};
    (void)state;
    make_sentencepiece(&b, words, "", ",\"ignore_merges\":true", pre);
    struct st_tokenizer *t = make_open(&b);
    assert_pieces(t,
                  "a\xc2\x85"
                  "a\u180ea\u3000a\u200ba",
                  "a|\xc2\x85|"
                  "a\u180ea|\u3000|a\u200ba");
    st_tokenizer_free(t);
}

static void metaspace_prepends_as_its_scheme_says(void **state)
{
    static const struct {
        const char *scheme, *pieces;
    } rows[] = {
        {"\"prepend_scheme\":\"always\"", " a| b| |<s>| b"},
        {"\"prepend_scheme\":\"first\"", " a| b| |<s>|b"},
        {"\"prepend_scheme\":\"never\"", "a| b| |<s>|b"},
        {"\"add_prefix_space\":false", "a| b| |<s>|b"},
        {"\"add_prefix_space\":true,\"split\":true", " a| b| |<s>| b"},
    };
    static const char *const words[] = {"a", "b", "\u2581", "\u2581a", "\u2581b", NULL};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char pre[300];
        struct st_buf b = {0}, text = {0};
        struct st_ids ids = {0};
        snprintf(
            pre, sizeof pre,
            ",\"added_tokens\":[" SPECIAL(1, "<s>", "") "],\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":"
                                                        "\"\u2581\",%s}",
            rows[i].scheme);
        make_sentencepiece(&b, words, "\"\u2581 a\",\"\u2581 b\"", "", pre);
        struct st_tokenizer *t = make_open(&b);
        encode(t, "a b <s>b", &with_special, &ids);
        for (size_t k = 0; k < ids.len; k++) {
            struct st_span p = st_tokenizer_piece(t, ids.p[k]);
            st_buf_add(&text, "|", k > 0);
            st_buf_add(&text, p.p, p.len);
        }
        assert_string_equal(text.p, rows[i].pieces);
        st_buf_free(&text);
        st_ids_free(&ids);
        st_tokenizer_free(t);
    }
}

static void a_regex_that_backtracks_without_end_is_stopped(void **state)
{
    static const char pre[] = ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?:a+)+$\"},"
                              "\"behavior\":\"Isolated\"}";
    struct st_buf b = {0};
    struct st_ids ids = {0};
    struct st_err e;
    (void)state;
    make_sentencepiece(&b, NULL, "", "", pre);
    struct st_tokenizer *t = make_open(&b);
    assert_int_equal(st_tokenizer_encode(t, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", 39, &text_only, &ids, &e),
                     ST_INPUT);
    assert_int_equal(ids.len, 0);
    st_ids_free(&ids);
    st_tokenizer_free(t);
}

/* Added and special tokens.
 * ---------------------------------------------------------------------------------------------- */

static void flags_of_added_tokens_are_kept(void **state)
{
    static const char added[] = ",\"added_tokens\":[" SPECIAL(256, "<l>", ",\"lstrip\":true") "," SPECIAL(
        257, "<r>",
        ",\"rstrip\":true") "," SPECIAL(258, "<w>",
                                        ",\"single_word\":true") "," SPECIAL(259, "<ll>",
                                                                             "") "," SPECIAL(260, "<l",
                                                                                             "") ","
                                                                                                 "{\"id\":261,"
                                                                                                 "\"content\":"
                                                                                                 "\"caf\u00e9\","
                                                                                                 "\"normalized\":true}]"
                                                                                                 ",\"normalizer\":{"
                                                                                                 "\"type\":\"NFC\"}";
    const uint32_t l[] = {'a', 256}, r[] = {257, 'a'}, w[] = {258}, ll[] = {259, 260, 'x'}, n[] = {261};
    struct st_buf b = {0}, pre = {0};
    struct st_ids ids = {0};
    (void)state;
    st_buf_add_str(&pre, added);
    st_buf_add_str(&pre, BYTES);
    make_byte_level(&b, NULL, "", "", pre.p);
    struct st_tokenizer *t = make_open(&b);
    assert_ids_opts(t, "a \n<l>", &with_special, l, 2);
    assert_ids_opts(t, "<r> \u3000a", &with_special, r, 2);
    assert_ids_opts(t, "<w>", &with_special, w, 1);
    assert_ids_opts(t, "<ll><lx", &with_special, ll, 3);
    assert_ids_opts(t, "cafe\u0301", &with_special, n, 1);
    encode(t, "a<w>", &with_special, &ids);
    assert_int_equal(ids.len, 4);
    st_ids_free(&ids);
    st_buf_free(&pre);
    st_tokenizer_free(t);
}

/* Counts special ids among the ids of a text with one plain range. */
static size_t specials(const struct st_tokenizer *t, const char *text, size_t start, size_t end)
{
    struct st_plain_range range = {start, end};
    struct st_encode_opts o = {.parse_special = true, .plain = &range, .n_plain = 1};
    struct st_ids ids = {0};
    size_t n = 0;
    encode(t, text, &o, &ids);
    for (size_t i = 0; i < ids.len; i++)
        n += st_tokenizer_is_special(t, ids.p[i]);
    st_ids_free(&ids);
    return n;
}

static void nothing_in_a_plain_range_is_a_special_token(void **state)
{
    static const char *const normalized[] = {"", ",\"normalized\":true"};
    (void)state;
    for (int k = 0; k < 4; k++) {
        char more[1000];
        struct st_buf b = {0};
        snprintf(more, sizeof more, ",\"added_tokens\":[{\"id\":2,\"content\":\"</s>\",\"special\":true%s}]%s",
                 normalized[k & 1], k & 2 ? LLAMA2_NORM : ",\"normalizer\":{\"type\":\"NFC\"}");
        make_sentencepiece(&b, NULL, "", ",\"byte_fallback\":true", more);
        struct st_tokenizer *t = make_open(&b);
        if (k == 3) { /* Prepend changes the token itself: only a text that has the mark before it matches */
            assert_int_equal(specials(t, "</s>", 0, 0), 1);
            assert_int_equal(specials(t, " </s>", 0, 5), 0);
            assert_int_equal(specials(t, " </s>", 3, 4), 0);
        } else {
            assert_int_equal(specials(t, "a</s>b</s>c", 0, 0), 2);
            assert_int_equal(specials(t, "a</s>b</s>c", 1, 5), 1);
            assert_int_equal(specials(t, "a</s>b</s>c", 4, 5), 1); /* one byte is enough */
            assert_int_equal(specials(t, "a</s>b</s>c", 4, 7), 0);
            assert_int_equal(specials(t, "a</s>b</s>c", 5, 6), 2);
            assert_int_equal(specials(t, "a</s>b</s>c", 0, 11), 0);
        }
        st_tokenizer_free(t);
    }
}

static void merges_never_make_a_special_token(void **state)
{
    static const char *const words[] = {"<", "s>", "s", ">", "\u2581", NULL};
    struct st_buf b = {0};
    (void)state;
    make_sentencepiece(&b, words, "\"s >\",\"< s>\"", ",\"ignore_merges\":true",
                       ",\"added_tokens\":[" SPECIAL(1, "<s>", "") "]");
    struct st_tokenizer *t = make_open(&b);
    const uint32_t special[] = {1};
    assert_ids(t, "<s>", 259, 260);
    assert_ids_opts(t, "<s>", &with_special, special, 1);
    st_tokenizer_free(t);
}

static void bos_comes_from_the_post_processor_or_the_config(void **state)
{
    static const char post[] =
        ",\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},"
        "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}},{\"Sequence\":"
        "{\"id\":\"A\"}},{\"SpecialToken\":{\"id\":\"y\"}}],\"special_tokens\":{\"x\":{\"ids\":[1]},"
        "\"y\":{\"ids\":[2]}}}]}";
    char dir[] = "/tmp/sotto_tok_XXXXXX", path[64];
    const uint32_t around[] = {1, 259, 2}, front[] = {1, 259};
    static const char *const words[] = {"a", NULL};
    struct st_buf b = {0};
    struct st_tokenizer *t;
    struct st_err e;
    (void)state;
    make_sentencepiece(&b, words, "", "", post);
    t = make_open(&b);
    assert_int_equal(st_tokenizer_bos(t), 1);
    assert_ids_opts(t, "a", &with_bos, around, 3);
    assert_ids(t, "a", 259);
    st_tokenizer_free(t);

    assert_non_null(mkdtemp(dir));
    make_sentencepiece(&b, words, "", "", "");
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    assert_int_equal(st_file_write(path, b.p, b.len, 0644, true, &e), 0);
    st_buf_free(&b);
    assert_int_equal(st_tokenizer_open(dir, &t, &e), 0);
    assert_int_equal(st_tokenizer_bos(t), -1);
    st_tokenizer_free(t);
    static const struct {
        const char *text;
        int rc, bos;
    } configs[] = {
        {"{\"add_bos_token\":true,\"bos_token\":\"<s>\"}", 0, 1},
        {"{\"add_bos_token\":true,\"bos_token\":{\"content\":\"<s>\"}}", 0, 1},
        {"{\"add_bos_token\":false,\"bos_token\":\"<s>\"}", 0, -1},
        {"{\"add_bos_token\":true,\"bos_token\":\"nowhere\"}", ST_INPUT, 0},
        {"{\"add_bos_token\":3}", ST_INPUT, 0},
        {"{", ST_INPUT, 0},
    };
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        snprintf(path, sizeof path, "%s/tokenizer_config.json", dir);
        assert_int_equal(st_file_write(path, configs[i].text, strlen(configs[i].text), 0644, true, &e), 0);
        assert_int_equal(st_tokenizer_open(dir, &t, &e), configs[i].rc);
        if (!configs[i].rc) {
            assert_int_equal(st_tokenizer_bos(t), configs[i].bos);
            if (configs[i].bos == 1)
                assert_ids_opts(t, "a", &with_bos, front, 2);
            st_tokenizer_free(t);
        }
        unlink(path);
    }
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    unlink(path);
    assert_int_equal(st_tokenizer_open(dir, &t, &e), ST_IO);
    rmdir(dir);
}

/* Decoding.
 * -------------------------------------------------------------------------------------------------------------- */

/* Pushes ids one by one: every part is UTF-8 and all parts together are the whole decode. */
static void assert_stream(const struct st_tokenizer *t, const uint32_t *ids, size_t n, bool skip, const char *want)
{
    struct st_detok d;
    struct st_buf whole = {0}, parts = {0};
    struct st_err e;
    st_detok_init(&d, t, skip);
    for (size_t i = 0; i < n; i++) {
        size_t before = parts.len;
        st_detok_push(&d, ids[i], &parts);
        assert_true(st_utf8_valid(parts.p + before, parts.len - before));
    }
    st_detok_end(&d, &parts);
    st_detok_wipe(&d);
    assert_int_equal(st_tokenizer_decode(t, ids, n, skip, &whole, &e), 0);
    assert_int_equal(whole.len, parts.len);
    assert_memory_equal(whole.p ? whole.p : "", parts.p ? parts.p : "", whole.len);
    assert_true(st_utf8_valid(whole.p, whole.len));
    if (want)
        assert_string_equal(whole.p ? whole.p : "", want);
    st_buf_free(&whole);
    st_buf_free(&parts);
}

static void streams_hold_back_half_characters(void **state)
{
    struct st_buf b = {0}, out = {0};
    struct st_detok d;
    struct st_rng r;
    (void)state;
    make_byte_level(&b, NULL, "", "", ",\"added_tokens\":[" SPECIAL(256, "<|x|>", "") "]" BYTES);
    struct st_tokenizer *t = make_open(&b);
    static const uint32_t smile[] = {'a', 0xf0, 0x9f, 0x98, 0x80, 256, 'b'};
    st_detok_init(&d, t, false);
    static const size_t len[] = {1, 1, 1, 1, 5, 10, 11};
    for (size_t i = 0; i < 7; i++) {
        st_detok_push(&d, smile[i], &out);
        assert_int_equal(out.len, len[i]);
    }
    st_detok_push(&d, 9999, &out);
    st_detok_end(&d, &out);
    st_detok_wipe(&d);
    assert_string_equal(out.p, "a\U0001f600<|x|>b");
    st_buf_free(&out);
    assert_stream(t, smile, 7, true, "a\U0001f600b");
    static const uint32_t cut[] = {0xf0, 0x9f, 'a', 0xe4, 0xb8, 256, 0xed, 0xa0, 0xff, 0xc3};
    assert_stream(t, cut, 10, false, "\ufffda\ufffd<|x|>\ufffd\ufffd\ufffd\ufffd");
    assert_stream(t, cut, 10, true, "\ufffda\ufffd\ufffd\ufffd\ufffd\ufffd");
    st_rng_seed(&r, 3);
    for (int i = 0; i < 5000; i++) {
        uint32_t ids[12];
        size_t n = mutate_below(&r, 13);
        for (size_t k = 0; k < n; k++)
            ids[k] = (uint32_t)(st_rng_next(&r) & 1 ? 0x80 + mutate_below(&r, 128) : mutate_below(&r, 258));
        assert_stream(t, ids, n, i & 1, NULL);
    }
    st_tokenizer_free(t);
}

static void runs_of_byte_tokens_are_text_or_all_unknown(void **state)
{
    static const char *const words[] = {"a", "\u2581a", "\u2581", NULL};
    struct st_buf b = {0};
    struct st_rng r;
    (void)state;
    make_sentencepiece(&b, words, "", ",\"byte_fallback\":true", ",\"added_tokens\":[" SPECIAL(1, "<s>", "") "]");
    struct st_tokenizer *t = make_open(&b);
    static const uint32_t good[] = {260, 3 + 0xc3, 3 + 0xa9, 261, 259, 3 + '\n'};
    static const uint32_t bad[] = {1, 261, 3 + 0xc3, 3 + 0xa9, 3 + 0xc3, 260, 1};
    assert_stream(t, good, 6, true, "a\u00e9 a\n");
    assert_stream(t, bad, 7, true, "\ufffd\ufffd\ufffd a");
    assert_stream(t, bad, 7, false, "<s> \ufffd\ufffd\ufffd a<s>");
    st_rng_seed(&r, 4);
    for (int i = 0; i < 5000; i++) {
        uint32_t ids[12];
        size_t n = mutate_below(&r, 13);
        for (size_t k = 0; k < n; k++)
            ids[k] = (uint32_t)(st_rng_next(&r) & 1 ? mutate_below(&r, 263) : 3 + 0x80 + mutate_below(&r, 128));
        assert_stream(t, ids, n, i & 1, NULL);
    }
    st_tokenizer_free(t);
}

/* Real files.
 * ------------------------------------------------------------------------------------------------------------ */

static bool shared_file(const char *name, char *path, size_t cap)
{
    const char *shared = getenv("SOTTO_SHARED");
    snprintf(path, cap, "%s/data/%s", shared ? shared : "../shared", name);
    if (!st_path_exists(path))
        print_message("skipped: %s is not there\n", name);
    return st_path_exists(path);
}

static void smollm2_and_llama3_give_known_ids(void **state)
{
    char path[4096];
    struct st_tokenizer *t;
    struct st_err e;
    (void)state;
    if (shared_file("tokenizers/smollm2_tokenizer.json", path, sizeof path)) {
        assert_int_equal(st_tokenizer_open(path, &t, &e), 0);
        assert_int_equal(st_tokenizer_vocab(t), 49152);
        assert_ids(t, "Hello, world! It's 2024; we'll see.", 19556, 28, 905, 17, 657, 506, 216, 34, 32, 34, 36, 43, 392,
                   3060, 963, 30);
        assert_ids(t, "  caf\u00e9 \u4e2d\u6587 \U0001f600\n\n\tx", 216, 37366, 216, 28589, 29184, 40303, 218, 1116,
                   197, 104);
        const uint32_t turn[] = {1, 4093, 198, 26843, 2};
        assert_ids_opts(t, "<|im_start|>user\nHi<|im_end|>", &with_special, turn, 5);
        st_tokenizer_free(t);
    }
    if (shared_file("tokenizers/llama3_tokenizer.model", path, sizeof path)) {
        const uint32_t turn[] = {128000, 128006, 882, 128007, 271, 13347, 128009};
        assert_int_equal(st_tokenizer_open(path, &t, &e), 0);
        assert_int_equal(st_tokenizer_vocab(t), 128256);
        assert_int_equal(st_tokenizer_bos(t), 128000);
        assert_int_equal(st_tokenizer_id(t, "<|eot_id|>"), 128009);
        assert_int_equal(st_tokenizer_id(t, "<|reserved_special_token_245|>"), 128255);
        assert_ids_opts(t, "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>", &with_bos, turn, 7);
        st_tokenizer_free(t);
    }
}

static void llama2c_gives_the_ids_of_run_c(void **state)
{
    char path[4096];
    struct st_tokenizer *t;
    struct st_err e;
    const uint32_t once[] = {1, 403, 407, 261, 378};
    (void)state;
    if (!shared_file("models/tok512.bin", path, sizeof path))
        return;
    assert_int_equal(st_tokenizer_open(path, &t, &e), 0);
    assert_int_equal(st_tokenizer_vocab(t), 512);
    assert_ids_opts(t, "Once upon a time", &with_bos, once, 5);
    assert_stream(t, once, 5, true, "Once upon a time");
    assert_stream(t, once + 1, 4, true, " Once upon a time"); /* only after BOS is the space dropped */
    static const uint32_t bytes[] = {1, 3 + 0xf0, 3 + 0x9f, 3 + 0x98, 3 + 0x80, 3 + '\n', 2};
    assert_stream(t, bytes, 7, true, "\U0001f600\n");
    st_tokenizer_free(t);
}

/* Refusals.
 * -------------------------------------------------------------------------------------------------------------- */

static void unknown_parts_are_refused_by_name(void **state)
{
    static const struct {
        const char *json, *name;
    } rows[] = {
        {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", "WordPiece"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "Unigram"},
        {"{\"model\":{\"vocab\":{}}}", "unknown"},
        {"{\"normalizer\":{\"type\":\"Precompiled\"},\"model\":{\"merges\":[],\"vocab\":{}}}", "Precompiled"},
        {"{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Lowercase\"}]},\"model\":{\"merges\":[],"
         "\"vocab\":{}}}",
         "Lowercase"},
        {"{\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},\"model\":{\"merges\":[],\"vocab\":{}}}",
         "BertPreTokenizer"},
        {"{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},{\"type\":\"Digits\"}]}"
         ","
         "\"model\":{\"merges\":[],\"vocab\":{}}}",
         "Digits"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[[:alpha:]]\"},\"behavior\":\"Isolated\"},"
         "\"model\":{\"merges\":[],\"vocab\":{}}}",
         "class"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\bx\"},\"behavior\":\"Isolated\"},"
         "\"model\":{\"merges\":[],\"vocab\":{}}}",
         "\\b"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"x\"},\"behavior\":\"Eaten\"},"
         "\"model\":{\"merges\":[],\"vocab\":{}}}",
         "Eaten"},
        {"{\"decoder\":{\"type\":\"CTC\"},\"model\":{\"merges\":[],\"vocab\":{}}}", "CTC"},
        {"{\"post_processor\":{\"type\":\"RobertaProcessing\"},\"model\":{\"merges\":[],\"vocab\":{}}}",
         "RobertaProcessing"},
        {"{\"model\":{\"merges\":[],\"vocab\":{},\"dropout\":0.1}}", "dropout"},
        {"{\"model\":{\"merges\":[],\"vocab\":{},\"end_of_word_suffix\":\"</w>\"}}", "end_of_word_suffix"},
        {"\n\x0e\n\x05<unk>", "SentencePiece"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct st_tokenizer *t;
        struct st_err e;
        assert_int_equal(st_tokenizer_parse(rows[i].json, strlen(rows[i].json), "file", &t, &e), ST_UNSUPPORTED);
        assert_null(t);
        assert_non_null(strstr(e.msg, rows[i].name));
        assert_non_null(strstr(e.msg, "file"));
    }
}

static void malformed_files_name_what_is_wrong(void **state)
{
    static const struct {
        const char *file, *part;
    } rows[] = {
        {"", "empty"},
        {"{", "JSON"},
        {"{}", "model"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":[],\"merges\":[]}}", "model.vocab"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", "model.vocab"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":4294967296},\"merges\":[]}}", "model.vocab"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1,\"b\":1},\"merges\":[]}}", "twice"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1},\"merges\":{}}}", "model.merges"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1},\"merges\":[\"a\"]}}", "model.merges[0]"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1},\"merges\":[\"a a\"]}}", "model.merges[0]"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[],\"unk_token\":\"u\"}}", "unk_token"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":1},\"merges\":[]},\"added_tokens\":[{\"id\":2,\"content\":"
         "\"a\"}]}",
         "added_tokens[0]"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]},\"added_tokens\":{}}", "added_tokens"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]},\"decoder\":[]}", "object"},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]},\"pre_tokenizer\":{\"type\":\"Split\"}}", "pattern"},
        {"IQ== 0\nIQ== 1\n", "line 2"},
        {"IQ== x\n", "line 1"},
        {"IQ= 0\n", "line 1"},
        {"IQ== 0\n", "byte 0"},
        {"IQ== 99999999\n", "line 1"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct st_tokenizer *t;
        struct st_err e;
        assert_int_equal(st_tokenizer_parse(rows[i].file, strlen(rows[i].file), "file", &t, &e), ST_INPUT);
        assert_null(t);
        if (!strstr(e.msg, rows[i].part))
            fail_msg("row %zu: %s", i, e.msg);
    }
}

static void texts_that_are_no_utf8_are_refused(void **state)
{
    struct st_buf b = {0};
    struct st_ids ids = {0};
    struct st_err e;
    (void)state;
    make_byte_level(&b, NULL, "", "", BYTES);
    struct st_tokenizer *t = make_open(&b);
    assert_int_equal(st_tokenizer_encode(t, "a\xc3", 2, &text_only, &ids, &e), ST_INPUT);
    assert_int_equal(st_tokenizer_encode(t, "\xed\xa0\x80", 3, &text_only, &ids, &e), ST_INPUT);
    assert_int_equal(st_tokenizer_encode(t, "", 0, &with_special, &ids, &e), 0);
    assert_int_equal(ids.len, 0);
    assert_int_equal(st_tokenizer_encode(t, "a\0b", 3, &with_special, &ids, &e), 0);
    assert_int_equal(ids.len, 3);
    st_ids_free(&ids);
    st_tokenizer_free(t);
}

/* Opens damaged bytes; what still opens must encode and decode. */
static void try_file(const uint8_t *p, size_t len)
{
    static const char sample[] = "Hello  w\u00f6rld <|x|></s> 123\n\u4e2d\U0001f600 e\u0301";
    struct st_tokenizer *t;
    struct st_err e = {0};
    struct st_ids ids = {0};
    struct st_buf out = {0};
    int rc = st_tokenizer_parse(p, len, "damaged", &t, &e);
    if (rc) {
        if (rc != ST_INPUT && rc != ST_UNSUPPORTED)
            fail_msg("code %d: %s", rc, e.msg);
        return;
    }
    struct st_plain_range plain = {3, 12};
    const struct st_encode_opts o = {.add_special = true, .parse_special = true, .plain = &plain, .n_plain = 1};
    rc = st_tokenizer_encode(t, sample, sizeof sample - 1, &o, &ids, &e);
    assert_true(rc == 0 || rc == ST_INPUT);
    st_ids_add(&ids, 5);
    assert_int_equal(st_tokenizer_decode(t, ids.p, ids.len, false, &out, &e), 0);
    st_buf_free(&out);
    st_ids_free(&ids);
    st_tokenizer_free(t);
}

static void make_llama2c(struct st_buf *b)
{
    uint32_t max = 7, zero = 0;
    st_buf_add(b, &max, 4);
    for (uint32_t id = 0; id < 264; id++) {
        static const char *const rest[] = {" ", "a", "b", " a", "ab"};
        static const char *const control[] = {"<unk>", "\n<s>\n", "\n</s>\n"};
        char text[16];
        float score = -(float)id;
        snprintf(text, sizeof text, "<0x%02X>", (id - 3) & 255);
        const char *s = id < 3 ? control[id] : id < 259 ? text : rest[id - 259];
        uint32_t len = (uint32_t)strlen(s);
        st_buf_add(b, id < 259 ? (void *)&zero : (void *)&score, 4);
        st_buf_add(b, &len, 4);
        st_buf_add(b, s, len);
    }
}

static void make_ranks(struct st_buf *b)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 0; i < 256; i++)
        st_buf_addf(b, "%c%c== %d\n", digits[i >> 2], digits[(i & 3) << 4], i);
    st_buf_add_str(b, "SGVs 256\nSGU= 257\nbG8= 258\n");
}

/* One file of each kind, with every section that is read. */
static void make_kind(int kind, struct st_buf *b)
{
    static const char *const words[] = {"ab", "\u2581a", "\u2581", "a", "b", NULL};
    static const char *const letters[] = {"ab", "cd", "ef", "gh", "ij", NULL};
    static const char sections[] = ",\"added_tokens\":[" SPECIAL(
        261, "<|x|>",
        ",\"lstrip\":true,\"rstrip\":true,\"single_word\":true") ","
                                                                 "{\"id\":262,\"content\":\"tool\",\"normalized\":true}"
                                                                 "],\"normalizer\":{\"type\":\"NFC\"},\"pre_"
                                                                 "tokenizer\":{"
                                                                 "\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":"
                                                                 "\"Split\",\"pattern\":{\"Regex\":\"(?i:'s|'t)|[^"
                                                                 "\\\\r\\\\n\\\\p{L}]?"
                                                                 "\\\\p{L}+|\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":"
                                                                 "\"Isolated\",\"invert\":false},{\"type\":\"Digits\","
                                                                 "\"individual_digits\":"
                                                                 "true},{\"type\":\"ByteLevel\",\"add_prefix_space\":"
                                                                 "true,\"use_regex\":true}]},\"post_processor\":{"
                                                                 "\"type\":"
                                                                 "\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
                                                                 "{\"id\":\"<|x|>\"}},{\"Sequence\":{\"id\":\"A\"}}],"
                                                                 "\"special_tokens\":{\"<|x|>\":{\"ids\":[261]}}}";
    if (kind == 0)
        make_byte_level(b, letters, "\"a b\"", ",\"ignore_merges\":true,\"byte_fallback\":false,\"unk_token\":null",
                        sections);
    else if (kind == 1)
        make_sentencepiece(b, words, "\"\u2581 a\",[\"a\",\"b\"]", ",\"byte_fallback\":true,\"fuse_unk\":true",
                           LLAMA2_NORM ",\"added_tokens\":[" SPECIAL(2, "</s>", ",\"normalized\":true") "]");
    else if (kind == 2)
        make_sentencepiece(
            b, words, "\"\u2581 a\"", "",
            ",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\u2581\",\"prepend_scheme\":\"first\","
            "\"split\":true},\"normalizer\":{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":true}");
    else if (kind == 3)
        make_ranks(b);
    else
        make_llama2c(b);
}
#define N_KIND 5

static void every_truncation_is_refused(void **state)
{
    (void)state;
    for (int kind = 0; kind < N_KIND; kind++) {
        struct st_buf b = {0};
        make_kind(kind, &b);
        try_file((const uint8_t *)b.p, b.len);
        size_t step = kind == 3 ? 3 : 1;
        for (size_t len = 0; len < b.len; len += step) {
            uint8_t *exact = malloc(len ? len : 1);
            memcpy(exact, b.p, len);
            try_file(exact, len);
            free(exact);
        }
        st_buf_free(&b);
    }
}

static void ten_thousand_damaged_files_do_no_harm(void **state)
{
    struct st_rng r;
    (void)state;
    st_rng_seed(&r, 11);
    for (int kind = 0; kind < N_KIND; kind++) {
        struct st_buf b = {0};
        make_kind(kind, &b);
        const char *sections = strstr(b.p, "\"vocab\"");
        size_t hot = kind < 3 && sections ? (size_t)(sections - b.p) : 400;
        for (int i = 0; i < 2000; i++) {
            size_t len;
            uint8_t *p = mutate(&r, b.p, b.len, hot, &len);
            try_file(p, len);
            free(p);
        }
        st_buf_free(&b);
    }
}

static void *encode_often(void *arg)
{
    const struct st_tokenizer *t = arg;
    struct st_ids first = {0}, ids = {0};
    bool same = true;
    encode(t, "one thread or two, abababababababababababababababababab cafe\u0301", &with_special, &first);
    for (int i = 0; i < 200; i++) {
        encode(t, "one thread or two, abababababababababababababababababab cafe\u0301", &with_special, &ids);
        same = same && ids.len == first.len && memcmp(ids.p, first.p, ids.len * sizeof *ids.p) == 0;
    }
    st_ids_free(&first);
    st_ids_free(&ids);
    return same ? arg : NULL;
}

static void threads_may_share_a_tokenizer(void **state)
{
    struct st_buf b = {0};
    pthread_t thread[3];
    (void)state;
    make_kind(0, &b);
    struct st_tokenizer *t = make_open(&b);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, encode_often, t), 0);
    for (int i = 0; i < 3; i++) {
        void *result;
        assert_int_equal(pthread_join(thread[i], &result), 0);
        assert_ptr_equal(result, t);
    }
    st_tokenizer_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_pair_of_lowest_rank_is_joined_first_from_the_left),
        cmocka_unit_test(long_words_give_what_short_ones_give),
        cmocka_unit_test(texts_of_a_megabyte_without_a_space_are_encoded),
        cmocka_unit_test(whole_words_win_with_ignore_merges),
        cmocka_unit_test(a_word_level_model_takes_whole_words_or_refuses),
        cmocka_unit_test(unknown_characters_become_bytes_or_the_unknown_token),
        cmocka_unit_test(split_does_what_its_behavior_says),
        cmocka_unit_test(white_space_is_unicode_white_space),
        cmocka_unit_test(metaspace_prepends_as_its_scheme_says),
        cmocka_unit_test(a_regex_that_backtracks_without_end_is_stopped),
        cmocka_unit_test(flags_of_added_tokens_are_kept),
        cmocka_unit_test(nothing_in_a_plain_range_is_a_special_token),
        cmocka_unit_test(merges_never_make_a_special_token),
        cmocka_unit_test(bos_comes_from_the_post_processor_or_the_config),
        cmocka_unit_test(streams_hold_back_half_characters),
        cmocka_unit_test(runs_of_byte_tokens_are_text_or_all_unknown),
        cmocka_unit_test(smollm2_and_llama3_give_known_ids),
        cmocka_unit_test(llama2c_gives_the_ids_of_run_c),
        cmocka_unit_test(unknown_parts_are_refused_by_name),
        cmocka_unit_test(malformed_files_name_what_is_wrong),
        cmocka_unit_test(texts_that_are_no_utf8_are_refused),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(ten_thousand_damaged_files_do_no_harm),
        cmocka_unit_test(threads_may_share_a_tokenizer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
