/* Signed notes: the published examples, and that nothing else opens. */
#include "attest/note.h"
#include "expect.h"
#include "mutate.h"
#include "text/base64.h"

/* The example of Go's sumdb/note, from which the specification grew: key pair, text, signature. */
#define NEUMANN_KEY "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
#define NEUMANN_SEED "gQoUAtUUbI2E8kQzMPVAgOv5juF9nHT2JS/F1ccoMXM="
#define NEUMANN_TEXT                                                                                                   \
    "If you think cryptography is the answer to your problem,\n"                                                       \
    "then you don't know what your problem is.\n"
#define NEUMANN_LINE                                                                                                   \
    "\xe2\x80\x94 PeterNeumann "                                                                                       \
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
/* A key of a public witness, for cosignatures. */
#define WITNESS_KEY "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2"
/* A note of the specification (its key is not published); the text holds an empty line. */
#define QUASIMODO_TEXT                                                                                                 \
    "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned \xc3\xa8 subito sera.\n"
#define QUASIMODO_LINE                                                                                                 \
    "\xe2\x80\x94 quasimodo.example/salvatore "                                                                        \
    "NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"

static struct st_span span(const char *s)
{
    return (struct st_span){(const uint8_t *)s, strlen(s)};
}

static void assert_span(struct st_span got, const char *want)
{
    assert_int_equal(got.len, strlen(want));
    assert_memory_equal(got.p, want, got.len);
}

static struct st_note_key key_of(const char *text)
{
    struct st_err e;
    struct st_note_key k;
    assert_ok(st_note_key_parse(text, strlen(text), &k, &e), &e);
    return k;
}

static struct st_ed25519 *neumann(void)
{
    struct st_err e;
    struct st_ed25519 *k;
    struct st_buf seed = {0};
    assert_true(st_base64_decode(NEUMANN_SEED, strlen(NEUMANN_SEED), &seed));
    assert_int_equal(seed.len, ST_ED25519_SEED);
    assert_ok(st_ed25519_import((const uint8_t *)seed.p, &k, &e), &e);
    st_buf_free(&seed);
    return k;
}

static void verifier_keys_are_read_and_written(void **state)
{
    (void)state;
    struct st_err e;
    struct st_buf text = {0};
    struct st_note_key k = key_of(NEUMANN_KEY), w = key_of(WITNESS_KEY);
    assert_string_equal(k.name, "PeterNeumann");
    assert_int_equal(k.type, ST_NOTE_ED25519);
    assert_memory_equal(k.id, "\xc7\x4f\x20\xa3", 4);
    assert_int_equal(w.type, ST_NOTE_COSIGNATURE);
    st_note_key_write(&k, &text);
    assert_string_equal(text.p, NEUMANN_KEY);
    st_buf_clear(&text);
    st_note_key_write(&w, &text);
    assert_string_equal(text.p, WITNESS_KEY);
    st_buf_free(&text);
    /* Every part of one, and every byte one higher: none is a key. */
    static const char key[] = NEUMANN_KEY;
    char bad[sizeof key];
    for (size_t i = 0; i < sizeof bad - 1; i++)
        for (size_t j = i + 1; j < sizeof bad; j++)
            if (i != 0 || j != sizeof bad - 1)
                assert_int_equal(st_note_key_parse(key + i, j - i, &k, &e), ST_INPUT);
    for (size_t i = 0; i < sizeof bad - 1; i++) {
        memcpy(bad, key, sizeof bad);
        bad[i]++;
        int rc = st_note_key_parse(bad, sizeof bad - 1, &k, &e);
        assert_true(rc == ST_INPUT || rc == ST_UNSUPPORTED);
    }
}

static void a_verifier_key_of_another_type_or_length_is_refused(void **state)
{
    (void)state;
    struct st_err e;
    struct st_note_key k;
    static const char longer[] = "PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==";
    static const char other[] = "PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    expect_refusal(st_note_key_parse(longer, sizeof longer - 1, &k, &e), &e, ST_INPUT, "PeterNeumann");
    expect_refusal(st_note_key_parse(other, sizeof other - 1, &k, &e), &e, ST_UNSUPPORTED, "type 101");
    expect_refusal(st_note_key_parse("a+00000000+", 11, &k, &e), &e, ST_INPUT, "base64");
}

static void names_with_spaces_or_pluses_are_refused(void **state)
{
    (void)state;
    struct st_err e;
    struct st_note_key k;
    static const uint8_t key[32];
    static const char *const bad[] = {"",
                                      "a b",
                                      "a+b",
                                      "a\tb",
                                      "a\nb",
                                      "a\xc2\x85",
                                      "a\xc2\xa0",
                                      "\xe1\x9a\x80",
                                      "\xe2\x80\x80",
                                      "\xe2\x80\x8a",
                                      "\xe2\x80\xa8",
                                      "\xe2\x80\xa9",
                                      "\xe2\x80\xaf",
                                      "\xe2\x81\x9f",
                                      "\xe3\x80\x80",
                                      "\xff"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_refusal(st_note_key_make(bad[i], ST_NOTE_ED25519, key, &k, &e), &e, ST_INPUT, "key name");
    char name[ST_NOTE_MAX_NAME + 2];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = 0;
    expect_refusal(st_note_key_make(name, ST_NOTE_ED25519, key, &k, &e), &e, ST_INPUT, "255");
    name[ST_NOTE_MAX_NAME] = 0;
    assert_ok(st_note_key_make(name, ST_NOTE_ED25519, key, &k, &e), &e);
}

static void the_published_note_opens(void **state)
{
    (void)state;
    struct st_err e;
    struct st_note n;
    struct st_note_key k = key_of(NEUMANN_KEY);
    static const char note[] = NEUMANN_TEXT "\n" NEUMANN_LINE;
    assert_ok(st_note_parse(note, sizeof note - 1, &n, &e), &e);
    assert_span(n.text, NEUMANN_TEXT);
    assert_int_equal(n.n_signature, 1);
    assert_span(n.signatures[0].name, "PeterNeumann");
    assert_ok(st_note_verify(&n, &k, &e), &e);
    st_note_wipe(&n);
}

static void signing_gives_the_published_bytes(void **state)
{
    (void)state;
    struct st_err e;
    struct st_buf out = {0};
    struct st_ed25519 *k = neumann();
    assert_ok(st_note_begin(span(NEUMANN_TEXT), &out, &e), &e);
    assert_ok(st_note_sign(span(NEUMANN_TEXT), "PeterNeumann", k, &out, &e), &e);
    assert_string_equal(out.p, NEUMANN_TEXT "\n" NEUMANN_LINE);
    expect_refusal(st_note_sign(span(NEUMANN_TEXT), "Peter Neumann", k, &out, &e), &e, ST_INPUT, "key name");
    st_ed25519_free(k);
    st_buf_free(&out);
}

static void the_last_empty_line_ends_the_text(void **state)
{
    (void)state;
    struct st_err e;
    struct st_note n;
    static const char note[] = QUASIMODO_TEXT "\n" QUASIMODO_LINE;
    assert_ok(st_note_parse(note, sizeof note - 1, &n, &e), &e);
    assert_span(n.text, QUASIMODO_TEXT);
    assert_memory_equal(n.signatures[0].id.p, "\x36\x7b\xa0\x4b", 4);
    assert_int_equal(n.signatures[0].bytes.len, 64);
    st_note_wipe(&n);
    static const char empty_line_last[] = "text\n\n\n" QUASIMODO_LINE;
    assert_ok(st_note_parse(empty_line_last, sizeof empty_line_last - 1, &n, &e), &e);
    assert_span(n.text, "text\n\n");
    st_note_wipe(&n);
}

static void unknown_signatures_are_kept_and_left_alone(void **state)
{
    (void)state;
    struct st_err e;
    struct st_note n;
    struct st_note_key k = key_of(NEUMANN_KEY), w = key_of(WITNESS_KEY);
    /* The same name with another id, another name with the same id, a type that nobody here knows. */
    static const char note[] = NEUMANN_TEXT "\n\xe2\x80\x94 PeterNeumann AAAAAAA=\n" NEUMANN_LINE
                                            "\xe2\x80\x94 Peter x08goww=\n" QUASIMODO_LINE;
    assert_ok(st_note_parse(note, sizeof note - 1, &n, &e), &e);
    assert_int_equal(n.n_signature, 4);
    assert_int_equal(n.signatures[0].bytes.len, 1);
    assert_span(n.signatures[3].name, "quasimodo.example/salvatore");
    assert_ok(st_note_verify(&n, &k, &e), &e);
    struct st_note_key other = k;
    strcpy(other.name, "Nobody");
    expect_refusal(st_note_verify(&n, &other, &e), &e, ST_VERIFY, "not signed by Nobody");
    expect_refusal(st_note_verify(&n, &w, &e), &e, ST_USAGE, "remora");
    st_note_wipe(&n);
}

static void a_bad_signature_of_a_known_key_refuses_the_note(void **state)
{
    (void)state;
    struct st_err e;
    struct st_note n;
    struct st_note_key k = key_of(NEUMANN_KEY);
    /* A good one and a cut one under the same name and id, in both orders. */
    static const char *const notes[] = {NEUMANN_TEXT "\n" NEUMANN_LINE "\xe2\x80\x94 PeterNeumann x08gowA=\n",
                                        NEUMANN_TEXT "\n\xe2\x80\x94 PeterNeumann x08gowA=\n" NEUMANN_LINE};
    for (int i = 0; i < 2; i++) {
        assert_ok(st_note_parse(notes[i], strlen(notes[i]), &n, &e), &e);
        expect_refusal(st_note_verify(&n, &k, &e), &e, ST_VERIFY, "not the key's");
        st_note_wipe(&n);
    }
}

static void every_flipped_bit_and_every_truncation_is_refused(void **state)
{
    (void)state;
    struct st_err e;
    struct st_note n;
    struct st_note_key k = key_of(NEUMANN_KEY);
    char note[] = NEUMANN_TEXT "\n" NEUMANN_LINE;
    size_t len = sizeof note - 1;
    for (size_t at = 0; at < len * 8; at++) {
        note[at / 8] ^= (char)(1 << at % 8);
        int rc = st_note_parse(note, len, &n, &e);
        if (!rc)
            rc = st_note_verify(&n, &k, &e);
        assert_true(rc == ST_INPUT || rc == ST_VERIFY);
        st_note_wipe(&n);
        note[at / 8] ^= (char)(1 << at % 8);
    }
    for (size_t cut = 0; cut < len; cut++)
        assert_int_equal(st_note_parse(note, cut, &n, &e), ST_INPUT);
}

static void malformed_notes_are_refused_by_what_is_wrong(void **state)
{
    (void)state;
    struct st_err e;
    struct st_note n;
    static const struct {
        const char *note, *says;
    } bad[] = {
        {"", "newline"},
        {"text\n", "empty line"},
        {"text\n\n", "no signature"},
        {"\n" QUASIMODO_LINE, "empty line"},
        {"te\txt\n\n" QUASIMODO_LINE, "control character 9"},
        {"te\rxt\n\n" QUASIMODO_LINE, "control character 13"},
        {"t\xc3\n\n" QUASIMODO_LINE, "UTF-8"},
        {"text\n\n- name AAAAAAA=\n", "does not begin"},
        {"text\n\n\xe2\x80\x94 AAAAAAA=\n", "want name and signature"},
        {"text\n\n\xe2\x80\x94  AAAAAAA=\n", "key name"},
        {"text\n\n\xe2\x80\x94 na+me AAAAAAA=\n", "key name"},
        {"text\n\n\xe2\x80\x94 name AAAAAA==\n", "want base64"},
        {"text\n\n\xe2\x80\x94 name AAAAAAB=\n", "want base64"},
        {"text\n\n\xe2\x80\x94 name AAAAAAA= \n", "want base64"},
        {"text\n\n\xe2\x80\x94 name AAAAAAA\n", "want base64"},
        {"text\n\n\xe2\x80\x94 name \n", "want base64"},
        {"text\n\n" QUASIMODO_LINE "more\n", "signature line 2"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_refusal(st_note_parse(bad[i].note, strlen(bad[i].note), &n, &e), &e, ST_INPUT, bad[i].says);
    struct st_buf out = {0};
    expect_refusal(st_note_begin(span("no end"), &out, &e), &e, ST_INPUT, "newline");
    expect_refusal(st_note_begin(span("a\x01\n"), &out, &e), &e, ST_INPUT, "control");
    st_buf_free(&out);
}

static void as_many_signatures_as_the_limit_and_no_more(void **state)
{
    (void)state;
    struct st_err e;
    struct st_note n;
    struct st_buf note = {0};
    st_buf_add_str(&note, "text\n\n");
    for (int i = 0; i < ST_NOTE_MAX_SIGNATURES; i++)
        st_buf_add_str(&note, QUASIMODO_LINE);
    assert_ok(st_note_parse(note.p, note.len, &n, &e), &e);
    assert_int_equal(n.n_signature, ST_NOTE_MAX_SIGNATURES);
    assert_memory_equal(n.signatures[0].bytes.p, n.signatures[ST_NOTE_MAX_SIGNATURES - 1].bytes.p, 64);
    st_note_wipe(&n);
    st_buf_add_str(&note, QUASIMODO_LINE);
    expect_refusal(st_note_parse(note.p, note.len, &n, &e), &e, ST_INPUT, "more than 64");
    st_buf_clear(&note);
    memset(st_buf_room(&note, ST_NOTE_MAX_BYTES), 'a', ST_NOTE_MAX_BYTES);
    st_buf_add_str(&note, "\n\n" QUASIMODO_LINE);
    expect_refusal(st_note_parse(note.p, note.len, &n, &e), &e, ST_INPUT, "at most");
    st_buf_free(&note);
}

static void damaged_notes_never_open(void **state)
{
    (void)state;
    struct st_err e;
    struct st_note n;
    struct st_rng r;
    struct st_note_key k = key_of(NEUMANN_KEY);
    static const char note[] = NEUMANN_TEXT "\n" NEUMANN_LINE QUASIMODO_LINE;
    static const size_t signed_len = sizeof NEUMANN_TEXT "\n" NEUMANN_LINE - 1;
    st_rng_seed(&r, 5);
    for (int i = 0; i < 20000; i++) {
        size_t len;
        uint8_t *b = mutate(&r, note, sizeof note - 1, signed_len, &len);
        bool intact = len >= signed_len && memcmp(b, note, signed_len) == 0;
        int rc = st_note_parse(b, len, &n, &e);
        if (!rc && st_note_verify(&n, &k, &e) == 0 && !intact) {
            /* A repeated good line is good; nothing else that changed the signed part is. */
            assert_span(n.text, NEUMANN_TEXT);
        }
        st_note_wipe(&n);
        free(b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(verifier_keys_are_read_and_written),
        cmocka_unit_test(a_verifier_key_of_another_type_or_length_is_refused),
        cmocka_unit_test(names_with_spaces_or_pluses_are_refused),
        cmocka_unit_test(the_published_note_opens),
        cmocka_unit_test(signing_gives_the_published_bytes),
        cmocka_unit_test(the_last_empty_line_ends_the_text),
        cmocka_unit_test(unknown_signatures_are_kept_and_left_alone),
        cmocka_unit_test(a_bad_signature_of_a_known_key_refuses_the_note),
        cmocka_unit_test(every_flipped_bit_and_every_truncation_is_refused),
        cmocka_unit_test(malformed_notes_are_refused_by_what_is_wrong),
        cmocka_unit_test(as_many_signatures_as_the_limit_and_no_more),
        cmocka_unit_test(damaged_notes_never_open),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
