/* A whole demo audit of a small random model, all attacks: each is met or says why not, and the same seed gives the
 * same rows, bit for bit, whatever the number of threads and of attacks at once. Runs the binary named by SOTTO_BIN
 * (default build/bin/sotto), whose worker lies beside it. */
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

static json_t *audit(const char *attacks, int n_threads, int seed, const char *memory)
{
    const char *bin = getenv("SOTTO_BIN");
    struct st_err e = {0};
    struct st_buf out = {0};
    json_t *o;
    char cmd[2048];
    snprintf(cmd, sizeof cmd,
             "env -u SOTTO_BIN XDG_CONFIG_HOME=%s/none TMPDIR=%s %s audit demo --model %s/model --text %s/text --prior "
             "%s/prior --attacks %s --threads %d --seed %d --memory %s --json --quiet --config= >%s/out",
             work, work, bin ? bin : "build/bin/sotto", work, work, work, attacks, n_threads, seed, memory, work);
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

/* Tests of their own: test_atk_memory.c, test_atk_pairwise.c, test_atk_function.c, test_audit_running.c. */
static const char *const slow[] = {"process-memory", "pairwise", "ima-trained", "relay-sizes", "relay-timing", NULL};

static bool is_slow(const char *name)
{
    size_t k = 0;
    while (slow[k] && strcmp(slow[k], name) != 0)
        k++;
    return slow[k];
}

/* All others, separated by commas. */
static void pick(char list[1024])
{
    *list = 0;
    for (size_t i = 0; st_attacks[i]; i++) {
        size_t at = strlen(list);
        if (!is_slow(st_attacks[i]->name))
            snprintf(list + at, 1024 - at, "%s%s", at ? "," : "", st_attacks[i]->name);
    }
}

static json_t *whole; /* two at once, seed 5 */

static void every_attack_is_met_or_says_why_not(void **state)
{
    char list[1024];
    (void)state;
    pick(list);
    whole = audit(list, 2, 5, "4G");
    const json_t *rows = json_object_get(whole, "rows"), *not_run = json_object_get(whole, "not_run");
    assert_int_equal(json_integer_value(json_object_get(whole, "at_once")), 2);
    for (size_t i = 0; st_attacks[i]; i++) {
        const char *name = st_attacks[i]->name;
        if (is_slow(name))
            continue;
        if (!names(rows, name) && !names(not_run, name))
            fail_msg("%s is neither among the rows nor among what was not run", name);
        if (!names(json_object_get(whole, "times"), name))
            fail_msg("%s has no time", name);
    }
}

static const json_t *row_of(const json_t *audit, const json_t *like)
{
    static const char *const key[] = {"attack", "variant"};
    size_t i;
    const json_t *x;
    json_array_foreach(json_object_get(audit, "rows"), i,
                       x) if (json_equal(json_object_get(x, key[0]), json_object_get(like, key[0])) &&
                              json_equal(json_object_get(x, key[1]), json_object_get(like, key[1]))) return x;
    return NULL;
}

/* Nor on how many attacks run at once, for which there is no memory here. */
static void the_same_seed_gives_the_same_rows_whatever_the_number_of_threads(void **state)
{
    static const char seeded[] =
        "vma-row-sort,vma-columns,gate-ia,attn-ia,nearest,known-pairs,ima-ridge,states,function,"
        "key-rotation,frequency,substitution,repetition,forgery,unit-directions,distillation,"
        "verifier-gaps,key-config";
    (void)state;
    json_t *one = audit(seeded, 3, 5, "1G"), *other = audit("nearest", 3, 6, "4G");
    const json_t *a = json_object_get(one, "rows");
    assert_int_equal(json_integer_value(json_object_get(one, "at_once")), 1);
    assert_true(json_array_size(a) > 100);
    for (size_t i = 0; i < json_array_size(a); i++) {
        const json_t *x = json_array_get(a, i), *y = row_of(whole, x);
        const char *name = json_string_value(json_object_get(x, "attack"));
        if (!y || !json_equal(x, y))
            fail_msg("%s, %s: another row with other threads", name, json_string_value(json_object_get(x, "variant")));
        if (strcmp(name, "nearest") == 0)
            assert_false(json_equal(x, row_of(other, x)));
    }
    json_decref(one);
    json_decref(other);
    json_decref(whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_attack_is_met_or_says_why_not),
        cmocka_unit_test(the_same_seed_gives_the_same_rows_whatever_the_number_of_threads),
    };
    return cmocka_run_group_tests(tests, make_all, drop_work);
}
