/* `sotto audit demo` looks at a confidential set-up that runs: what its relay sees of sizes tells no prompt, lengths
 * do. Starts the binary named by SOTTO_BIN (default build/bin/sotto), and sotto-node beside it. */
#include "cov_make.h"
#include "text/json.h"

#include <sys/wait.h>

static json_t *findings;

static const json_t *row(const char *variant)
{
    size_t i;
    const json_t *r;
    json_array_foreach(json_object_get(findings, "rows"), i,
                       r) if (strstr(json_string_value(json_object_get(r, "variant")), variant)) return r;
    fail_msg("no row '%s'", variant);
    return NULL;
}

static double figure(const char *variant, const char *name)
{
    return json_number_value(json_object_get(row(variant), name));
}

static void sizes_at_the_relay_tell_no_prompt_and_lengths_do(void **state)
{
    /* The first half of each is asked: of other lengths, and none ends a sentence. */
    static const char text[] =
        "Once upon a time there was a little girl named Lily who loved to play.\n\n"
        "One day a big red bird and a small cat went to the park to play with the other animals in the sun and the "
        "bird said that it was a happy day.\n\n"
        "Tom and Sue went to the beach with mom and dad and they saw a very big boat on the water and Tom wanted to go "
        "on the boat with the man who had a big hat and a small dog that ran and ran until it was tired.\n\n"
        "There was a boy who liked to draw pictures of the sun and the moon and the stars in the sky and every night "
        "he "
        "looked out of the window and he saw the moon and the stars and he was happy and then one night he saw a light "
        "that was so bright that he ran to his mom and told her what he had seen and she smiled.\n";
    struct st_err e = {0};
    struct st_buf out = {0};
    char cmd[1024];
    const char *bin = getenv("SOTTO_BIN");
    (void)state;
    assert_ok(st_file_write(in_work("text"), text, strlen(text), 0644, true, &e), &e);
    snprintf(cmd, sizeof cmd,
             "env XDG_CONFIG_HOME=%s/none TMPDIR=%s %s audit demo --attacks relay-sizes,relay-timing --text %s/text "
             "--prior %s/text --json --quiet --config= >%s/out",
             work, work, bin ? bin : "build/bin/sotto", work, work, work);
    int status = system(cmd);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_ok(st_file_read(in_work("out"), 1u << 24, &out, &e), &e);
    assert_ok(st_json_parse(out.p, out.len, "audit", &findings, &e), &e);
    /* Four prompts. In the open both sizes tell them apart, and every reply has its own length. */
    assert_true(figure("running: request, in buckets", "unprotected") > 0.99);
    assert_true(figure("running: request, in buckets", "score") == 0.25);
    assert_true(figure("running: size of each piece", "unprotected") > 0.99);
    assert_true(figure("running: size of each piece", "score") == 0.25);
    assert_true(figure("running: length of the reply, as produced", "score") > 0.9);
    row("running: pauses, as produced");
    row("running: pauses, on a cadence");
    json_decref(findings);
    st_buf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(sizes_at_the_relay_tell_no_prompt_and_lengths_do, make_work, drop_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
