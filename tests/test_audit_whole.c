/* A whole demo audit of a small random model, all attacks: each is met or says why not, and the same seed gives the
 * same rows, bit for bit, whatever the number of threads. Runs the binary named by SOTTO_BIN (default build/bin/sotto),
 * whose worker lies beside it. */
#include "audit/attack.h"
#include "cov_make.h"
#include "text/json.h"
#include "tok_make.h"

#include <sys/wait.h>

static const struct tiny model = {
    .label = "model", .d = 32, .layers = 2, .heads = 4, .kv = 2, .dh = 8, .ff = 48, .vocab = 260};

/* A model with a tokenizer of bytes, and two texts of its users. */
static int make_all(void **state)
{
    struct st_err e = {0};
    struct st_buf tokenizer = {0}, text = {0}, prior = {0};
    static const char *const words[] = {"<a>", "<b>", "<c>", "<d>", NULL};
    if (make_work(state))
        return -1;
    char path[300];
    snprintf(path, sizeof path, "%s/tokenizer.json", write_tiny(&model));
    make_byte_level(&tokenizer, words, "", "", "");
    for (int i = 0; i < 12; i++) {
        st_buf_addf(&text, "Dear %d, the dog and the cat sat by the tree and sang. Yours, Lily.\n\n", 1000 + 7 * i);
        st_buf_addf(&prior, "Once upon a time %d friends went to the park to play with a ball.\n\n", 2 + i);
    }
    int rc = st_file_write(path, tokenizer.p, tokenizer.len, 0644, true, &e);
    if (!rc)
        rc = st_file_write(in_work("text"), text.p, text.len, 0644, true, &e);
    if (!rc)
        rc = st_file_write(in_work("prior"), prior.p, prior.len, 0644, true, &e);
    st_buf_free(&tokenizer);
    st_buf_free(&text);
    st_buf_free(&prior);
    return rc;
}

static json_t *audit(const char *attacks, int n_threads, int seed)
{
    const char *bin = getenv("SOTTO_BIN");
    struct st_err e = {0};
    struct st_buf out = {0};
    json_t *o;
    char cmd[2048];
    snprintf(cmd, sizeof cmd,
             "env -u SOTTO_BIN XDG_CONFIG_HOME=%s/none TMPDIR=%s %s audit demo --model %s/model --text %s/text --prior "
             "%s/prior --attacks %s --threads %d --seed %d --json --quiet --config= >%s/out",
             work, work, bin ? bin : "build/bin/sotto", work, work, work, attacks, n_threads, seed, work);
    int status = system(cmd);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_ok(st_file_read(in_work("out"), 1u << 24, &out, &e), &e);
    assert_ok(st_json_parse(out.p, out.len, "audit", &o, &e), &e);
    st_buf_free(&out);
    return o;
}

static bool names(const json_t *list, const char *attack)
{
    size_t i;
    const json_t *x;
    json_array_foreach(list, i,
                       x) if (strcmp(json_string_value(json_object_get(x, "attack")), attack) == 0) return true;
    return false;
}

/* Each name but those in `left_out` (NULL-ended), separated by commas; seeded: and but those on recordings and sealed
 * files, whose masks and keys come from the system. */
static void pick(const char *const *left_out, bool seeded, char list[1024])
{
    *list = 0;
    for (size_t i = 0; st_attacks[i]; i++) {
        bool out = seeded && (st_attacks[i]->needs & (ST_TARGET_RECORD | ST_TARGET_SEALED));
        for (size_t k = 0; left_out[k]; k++)
            out = out || strcmp(left_out[k], st_attacks[i]->name) == 0;
        size_t at = strlen(list);
        if (!out)
            snprintf(list + at, 1024 - at, "%s%s", at ? "," : "", st_attacks[i]->name);
    }
}

static void every_attack_is_met_or_says_why_not(void **state)
{
    static const char *const slow[] = {"process-memory", "pairwise", NULL}; /* test_atk_memory.c, test_atk_pairwise.c */
    char list[1024];
    (void)state;
    pick(slow, false, list);
    json_t *o = audit(list, 2, 1);
    const json_t *rows = json_object_get(o, "rows"), *not_run = json_object_get(o, "not_run");
    for (size_t i = 0; st_attacks[i]; i++) {
        const char *name = st_attacks[i]->name;
        if (strcmp(name, slow[0]) == 0 || strcmp(name, slow[1]) == 0)
            continue;
        if (!names(rows, name) && !names(not_run, name))
            fail_msg("%s is neither among the rows nor among what was not run", name);
        if (!names(json_object_get(o, "times"), name))
            fail_msg("%s has no time", name);
    }
    json_decref(o);
}

static void the_same_seed_gives_the_same_rows_whatever_the_number_of_threads(void **state)
{
    /* Blinding, draws of nodes and clocks are the system's. */
    static const char *const system_s[] = {"token-link",  "node-choice", "relay-timing",
                                           "relay-sizes", "pairwise",    NULL};
    char list[1024];
    (void)state;
    pick(system_s, true, list);
    json_t *one = audit(list, 1, 5), *three = audit(list, 3, 5), *other = audit("nearest", 3, 6);
    const json_t *a = json_object_get(one, "rows"), *b = json_object_get(three, "rows");
    assert_true(json_array_size(a) > 100);
    assert_int_equal(json_array_size(a), json_array_size(b));
    for (size_t i = 0; i < json_array_size(a); i++) {
        const json_t *x = json_array_get(a, i), *y = json_array_get(b, i);
        const char *name = json_string_value(json_object_get(x, "attack"));
        if (!json_equal(x, y))
            fail_msg("%s, %s: another row with other threads", name, json_string_value(json_object_get(x, "variant")));
        if (strcmp(name, "nearest") == 0)
            assert_false(json_equal(x, json_array_get(json_object_get(other, "rows"), 0)));
    }
    json_decref(one);
    json_decref(three);
    json_decref(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_attack_is_met_or_says_why_not),
        cmocka_unit_test(the_same_seed_gives_the_same_rows_whatever_the_number_of_threads),
    };
    return cmocka_run_group_tests(tests, make_all, drop_work);
}
