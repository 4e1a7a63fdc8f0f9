/* Recipients: lists as they are read, the passphrase, and who gets the content key. */
#include "base/hooks.h"
#include "container_make.h"
#include "model/container_parse.h"
#include "seal_make.h"

static json_t *wrap_one(const struct st_wrap_to *to)
{
    struct st_err e;
    json_t *list = json_array();
    assert_ok(st_recipient_add(list, "passphrase", *to, &e), &e);
    return list;
}

struct wrapped {
    struct st_secret key, word;
    uint8_t id[16];
    struct st_wrap_to to;
    json_t *list;
    const struct st_recipient_kind *kind;
};

static void wrapped_open(struct wrapped *w)
{
    struct st_err e;
    *w = (struct wrapped){.key = seal_seed(9), .word = seal_secret("word", 4), .id = {1, 2, 3}};
    w->to = (struct st_wrap_to){
        .id = w->id, .version = 5, .content_key = &w->key, .passphrase = &w->word, .cost = &seal_cheap};
    w->list = wrap_one(&w->to);
    assert_ok(st_recipient_find("passphrase", &w->kind, &e), &e);
}

static void wrapped_close(struct wrapped *w)
{
    st_secret_wipe(&w->key);
    st_secret_wipe(&w->word);
    json_decref(w->list);
}

static int unwrap(const struct wrapped *w, const char *word, const uint8_t *id, uint64_t version, struct st_err *e)
{
    struct st_secret given = seal_secret(word, strlen(word)), out;
    const struct st_unlock u = {.passphrase = &given};
    int rc = w->kind->unwrap(&u, id, version, json_array_get(w->list, 0), &out, e);
    if (!rc)
        assert_memory_equal(out.p, w->key.p, 32);
    else
        assert_null(out.p);
    st_secret_wipe(&out);
    st_secret_wipe(&given);
    return rc;
}

static void a_passphrase_gives_the_content_key_of_its_own_container(void **state)
{
    (void)state;
    struct wrapped w;
    struct st_err e;
    const uint8_t other[16] = {1, 2, 4};
    wrapped_open(&w);
    assert_ok(unwrap(&w, "word", w.id, 5, &e), &e);
    expect_refusal(unwrap(&w, "Word", w.id, 5, &e), &e, ST_VERIFY, "wrong passphrase");
    expect_refusal(unwrap(&w, "word", other, 5, &e), &e, ST_VERIFY, "not of this container");
    expect_refusal(unwrap(&w, "word", w.id, 4, &e), &e, ST_VERIFY, "not of this container");
    wrapped_close(&w);
}

/* Sets a field of the wrap, tries to open it, and puts the old one back. */
static int try_field(struct wrapped *w, const char *key, json_t *value, struct st_err *e)
{
    json_t *entry = json_array_get(w->list, 0), *old = json_incref(json_object_get(entry, key));
    if (value)
        json_object_set_new(entry, key, value);
    else
        json_object_del(entry, key);
    int rc = unwrap(w, "word", w->id, 5, e);
    json_object_set_new(entry, key, old);
    return rc;
}

static void a_changed_wrap_is_refused(void **state)
{
    (void)state;
    static const char *const fields[] = {"passes", "memory_kib", "lanes", "salt", "nonce", "sealed"};
    struct wrapped w;
    struct st_err e;
    wrapped_open(&w);
    for (size_t i = 0; i < 6; i++) {
        expect_refusal(try_field(&w, fields[i], NULL, &e), &e, ST_INPUT, fields[i]);
        expect_refusal(try_field(&w, fields[i], json_array(), &e), &e, ST_INPUT, fields[i]);
    }
    expect_refusal(try_field(&w, "salt", json_string("AAAA"), &e), &e, ST_INPUT, "salt: want 16 bytes, got 3");
    expect_refusal(try_field(&w, "sealed", json_string("*"), &e), &e, ST_INPUT, "sealed");
    expect_refusal(try_field(&w, "passes", json_integer(2), &e), &e, ST_VERIFY, "wrong passphrase");
    expect_refusal(try_field(&w, "memory_kib", json_integer(9), &e), &e, ST_VERIFY, "wrong passphrase");
    json_object_set_new(json_array_get(w.list, 0), "more", json_true());
    expect_refusal(unwrap(&w, "word", w.id, 5, &e), &e, ST_INPUT, "more");
    wrapped_close(&w);
}

static void a_wrap_that_asks_for_too_much_work_is_refused_at_once(void **state)
{
    (void)state;
    static const struct {
        const char *field;
        json_int_t value;
    } rows[] = {{"passes", 17}, {"passes", 4294967295}, {"memory_kib", 1048577}, {"memory_kib", 4294967295},
                {"lanes", 17},  {"memory_kib", 7}};
    struct wrapped w;
    struct st_err e;
    wrapped_open(&w);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        expect_refusal(try_field(&w, rows[i].field, json_integer(rows[i].value), &e), &e, ST_INPUT, "Argon2id: want");
    expect_refusal(try_field(&w, "passes", json_integer(0), &e), &e, ST_INPUT, "passes");
    expect_refusal(try_field(&w, "lanes", json_integer(-1), &e), &e, ST_INPUT, "lanes");
    wrapped_close(&w);
}

static void a_recipient_that_cannot_be_is_named(void **state)
{
    (void)state;
    struct wrapped w;
    struct st_err e;
    struct st_secret empty = {0};
    wrapped_open(&w);
    struct st_wrap_to to = w.to;
    expect_refusal(st_recipient_add(w.list, "carrier-pigeon:loft", to, &e), &e, ST_USAGE, "want one of passphrase");
    expect_refusal(st_recipient_add(w.list, "passphrase:secret", to, &e), &e, ST_USAGE, "nothing follows");
    to.passphrase = NULL;
    expect_refusal(st_recipient_add(w.list, "passphrase", to, &e), &e, ST_USAGE, "no passphrase was given");
    to.passphrase = &empty;
    expect_refusal(st_recipient_add(w.list, "passphrase", to, &e), &e, ST_USAGE, "want 1..1024 bytes");
    while (json_array_size(w.list) < ST_RECIPIENTS_MAX)
        json_array_append(w.list, json_array_get(w.list, 0));
    expect_refusal(st_recipient_add(w.list, "passphrase", w.to, &e), &e, ST_USAGE, "at most 64");
    wrapped_close(&w);
}

static int parse(const char *text, struct st_err *e)
{
    json_t *list;
    int rc = st_recipients_parse((struct st_span){(const uint8_t *)text, strlen(text)}, "f", &list, e);
    assert_int_equal(rc == 0, list != NULL);
    json_decref(list);
    return rc;
}

static void lists_are_arrays_of_objects_with_a_kind(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "", "{}", "[]", "[1]", "[{}]", "[[]]", "[{\"kind\": 1}]", "[{\"kind\": \"a\"}", "[{\"kind\": null}]"};
    struct st_err e;
    struct st_buf many = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_refusal(parse(bad[i], &e), &e, ST_INPUT, "f");
    assert_ok(parse("[{\"kind\": \"of tomorrow\", \"x\": 1}]      \n", &e), &e);
    static const char *const shown[] = {"", "\\u001b[2J", "tpm\\n2  passphrase", "\\u009b2J",
                                        "a kind whose name is longer than any line of words"};
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++) {
        char text[128];
        snprintf(text, sizeof text, "[{\"kind\": \"%s\"}]", shown[i]);
        expect_refusal(parse(text, &e), &e, ST_INPUT, "recipient 1: kind");
    }
    st_buf_add_str(&many, "[{\"kind\": \"a\"}");
    for (int i = 1; i < 65; i++)
        st_buf_add_str(&many, ",{\"kind\": \"a\"}");
    st_buf_add_str(&many, "]");
    expect_refusal(parse(many.p, &e), &e, ST_INPUT, "1..64");
    st_buf_free(&many);
}

/* ---- with a container ---- */

static void whoever_is_no_recipient_is_told_what_would_open_it(void **state)
{
    (void)state;
    struct seal_rig r;
    struct seal_opened o;
    struct st_err e;
    const struct tiny t = {.n_layer = 1};
    const struct st_unlock nothing = {0};
    seal_rig_open(&r, &t);
    seal_it(&r, r.dst);
    assert_ok(st_container_open(r.dst, &o.c, &e), &e);
    expect_refusal(st_recipient_open(o.c, &nothing, &o.key, &e), &e, ST_USAGE, "--passphrase-file FILE (passphrase)");
    st_container_close(o.c);
    expect_refusal(seal_open(r.dst, "wurd", &o, &e), &e, ST_VERIFY, "recipient 1 (passphrase): wrong passphrase");
    seal_close(&o);
    seal_rig_close(&r);
}

/* Whoever signs a container can put a list into it. */
static void a_list_that_asks_for_hours_is_refused_before_any_is_tried(void **state)
{
    (void)state;
    static const struct made_entry config = {.name = "config.json", .data = "{}", .bytes = 2, .segment_bytes = 1 << 20};
    struct made m = {.version = 1, .entries = &config, .n = 1};
    struct st_buf b = {0}, text = {0};
    struct st_container *c;
    struct st_secret word = seal_secret("word", 4), key;
    const struct st_unlock u = {.passphrase = &word};
    struct st_err e;
    json_t *list = json_array();
    for (int i = 0; i < ST_RECIPIENTS_MAX; i++)
        json_array_append_new(list, json_pack("{s:s,s:i,s:i,s:i}", "kind", "passphrase", "passes", 16, "memory_kib",
                                              1 << 20, "lanes", 1));
    st_json_dump(list, &text);
    st_buf_add(&text, "", 1);
    m.recipients = text.p;
    made_container(&m, &b);
    assert_ok(st_container_parse(b.p, b.len, "m.sealed", NULL, &c, &e), &e);
    double start = st_now();
    expect_refusal(st_recipient_open(c, &u, &key, &e), &e, ST_INPUT, "would write 1024 GiB of memory");
    assert_true(st_now() - start < 1);
    assert_null(key.p);
    st_container_close(c);
    st_secret_wipe(&word);
    st_secret_wipe(&m.content_key);
    st_buf_free(&b);
    st_buf_free(&text);
    json_decref(list);
}

static void recipients_change_and_the_segments_stay(void **state)
{
    (void)state;
    struct seal_rig r;
    struct seal_opened o;
    struct st_err e;
    const struct tiny t = {.n_layer = 1};
    struct st_secret next = seal_secret("next", 4), other = seal_seed(4);
    struct st_buf before = {0}, after = {0};
    struct stat sb;
    const char *const add[] = {"passphrase"};
    const uint32_t first = 1, both[] = {1, 2}, third = 3;
    char copy[160];
    seal_rig_open(&r, &t);
    snprintf(copy, sizeof copy, "%s/copy.sealed", r.dir);
    seal_it(&r, r.dst);
    assert_ok(st_file_read(r.dst, 1 << 24, &before, &e), &e);
    struct st_seal_change sc = {
        .add = add, .n_add = 1, .seed = &r.seed, .passphrase = &next, .cost = &seal_cheap, .out = copy};
    assert_ok(st_container_open(r.dst, &o.c, &e), &e);
    assert_int_equal(chmod(r.dst, 0640), 0);
    assert_ok(st_seal_change(o.c, &sc, &e), &e);
    assert_int_equal(stat(copy, &sb), 0);
    assert_int_equal(sb.st_mode & 0777, 0640); /* nobody more can read it */
    expect_refusal(st_seal_change(o.c, &sc, &e), &e, ST_IO, "exists already");
    st_container_close(o.c);
    seal_check(copy, "word", r.src);
    seal_check(copy, "next", r.src);
    assert_ok(st_file_read(copy, 1 << 24, &after, &e), &e);
    assert_int_equal(before.len, after.len); /* the list fitted into the same room */
    assert_ok(st_container_open(copy, &o.c, &e), &e);
    size_t at = before.len;
    for (size_t i = 0; i < st_container_count(o.c); i++)
        for (uint32_t k = 0; k < st_container_at(o.c, i)->n_segment; k++)
            at -= st_container_segment(o.c, st_container_at(o.c, i), k).len;
    st_container_close(o.c);
    assert_memory_equal(before.p + at, after.p + at, before.len - at);
    /* The old one, in its place. */
    assert_ok(st_container_open(copy, &o.c, &e), &e);
    sc = (struct st_seal_change){.drop = &third, .n_drop = 1, .seed = &r.seed};
    expect_refusal(st_seal_change(o.c, &sc, &e), &e, ST_USAGE, "no recipient 3; there are 2");
    sc = (struct st_seal_change){.drop = both, .n_drop = 2, .seed = &r.seed};
    expect_refusal(st_seal_change(o.c, &sc, &e), &e, ST_USAGE, "no recipient would be left");
    sc = (struct st_seal_change){.drop = &first, .n_drop = 1, .seed = &other};
    expect_refusal(st_seal_change(o.c, &sc, &e), &e, ST_VERIFY, "not its publisher's");
    sc.seed = &r.seed;
    assert_ok(st_seal_change(o.c, &sc, &e), &e);
    st_container_close(o.c);
    expect_refusal(seal_open(copy, "word", &o, &e), &e, ST_VERIFY, "wrong passphrase");
    seal_close(&o);
    seal_check(copy, "next", r.src);
    /* What was copied before is still open to whoever it was for. */
    seal_check(r.dst, "word", r.src);
    st_secret_wipe(&next);
    st_secret_wipe(&other);
    st_buf_free(&before);
    st_buf_free(&after);
    seal_rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_passphrase_gives_the_content_key_of_its_own_container),
        cmocka_unit_test(a_changed_wrap_is_refused),
        cmocka_unit_test(a_wrap_that_asks_for_too_much_work_is_refused_at_once),
        cmocka_unit_test(a_recipient_that_cannot_be_is_named),
        cmocka_unit_test(lists_are_arrays_of_objects_with_a_kind),
        cmocka_unit_test(a_list_that_asks_for_hours_is_refused_before_any_is_tried),
        cmocka_unit_test(whoever_is_no_recipient_is_told_what_would_open_it),
        cmocka_unit_test(recipients_change_and_the_segments_stay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
