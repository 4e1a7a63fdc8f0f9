/* The sotto program as a user meets it: options, environment, config file, exit codes, and each command on real input.
 * Runs the binary named by SOTTO_BIN (default build/bin/sotto). */
#include "base/buf.h"
#include "base/file.h"
#include "text/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#ifdef __SANITIZE_ADDRESS__
#define SANITIZED 1
#elif defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

static char tmp[64];
static struct st_buf out, err;

static void slurp(const char *path, struct st_buf *b)
{
    struct st_err e = {0};
    assert_int_equal(st_file_read(path, 64u << 20, b, &e), 0);
    st_buf_add(b, "", 0);
}

/* Runs `sotto ARGS` by the shell in an environment without SOTTO_ variables but those written before ARGS's program;
 * its output goes to `out` and `err`. Returns the exit status. */
static int sotto_env(const char *env, const char *fmt, va_list ap) ST_PRINTF(2, 0);
static int sotto_env(const char *env, const char *fmt, va_list ap)
{
    char args[4096], cmd[8192], path[256];
    const char *bin = getenv("SOTTO_BIN");
    vsnprintf(args, sizeof args, fmt, ap);
    snprintf(cmd, sizeof cmd, "env -u SOTTO_BIN XDG_CONFIG_HOME=%s/none %s %s %s >%s/out 2>%s/err", tmp, env,
             bin ? bin : "build/bin/sotto", args, tmp, tmp);
    int status = system(cmd);
    snprintf(path, sizeof path, "%s/out", tmp);
    slurp(path, &out);
    snprintf(path, sizeof path, "%s/err", tmp);
    slurp(path, &err);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int sotto(const char *fmt, ...) ST_PRINTF(1, 2);
static int sotto(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int rc = sotto_env("", fmt, ap);
    va_end(ap);
    return rc;
}

static int sotto_with(const char *env, const char *fmt, ...) ST_PRINTF(2, 3);
static int sotto_with(const char *env, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int rc = sotto_env(env, fmt, ap);
    va_end(ap);
    return rc;
}

static void put_file(const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", tmp, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

/* An error is exactly one line `sotto: ...` that names `what`; nothing is on standard output. */
static void assert_error(int rc, int want, const char *what)
{
    if (rc != want || strncmp(err.p, "sotto: ", 7) != 0 || strchr(err.p, '\n') != err.p + err.len - 1 ||
        !strstr(err.p, what))
        fail_msg("exit %d (want %d), want `%s` in: %s", rc, want, what, err.p);
    assert_int_equal(out.len, 0);
}

static json_t *json(void)
{
    struct st_err e = {0};
    json_t *o;
    assert_int_equal(st_json_parse(out.p, out.len, "stdout", &o, &e), 0);
    return o;
}

static double number(const json_t *o, const char *key)
{
    assert_true(json_is_number(json_object_get(o, key)));
    return json_number_value(json_object_get(o, key));
}

/* A file of the shared data, or NULL with a line that says so. */
static const char *shared(const char *name)
{
    static char path[4][512];
    static int i;
    const char *base = getenv("SOTTO_SHARED");
    i = (i + 1) % 4;
    snprintf(path[i], sizeof path[i], "%s/data/%s", base ? base : "../shared", name);
    if (st_path_exists(path[i]))
        return path[i];
    printf("skips: %s is not there\n", path[i]);
    return NULL;
}

static void unknown_commands_and_options_are_named(void **state)
{
    (void)state;
    assert_error(sotto("%s", ""), 2, "no command");
    assert_error(sotto("sing"), 2, "'sing'");
    assert_error(sotto("complete --sing"), 2, "'--sing'");
    assert_error(sotto("complete -z"), 2, "'-z'");
    assert_error(sotto("complete"), 2, "MODEL");
    assert_error(sotto("complete a b"), 2, "'b'");
    assert_error(sotto("complete models/demo -p"), 2, "'-p'");
    assert_error(sotto("complete models/demo --json=yes"), 2, "'--json'");
    assert_error(sotto("complete models/demo"), 2, "--prompt");
    assert_error(sotto("complete models/demo -p x -n many"), 2, "--max-tokens");
    assert_error(sotto("complete models/demo -p x --top-p 2"), 2, "--top-p");
    assert_error(sotto("complete models/demo -p x --dtype fp4"), 2, "int8");
    assert_error(sotto("complete models/demo --ids 1,,2"), 2, "--ids");
    assert_error(sotto("bench disk models/demo"), 2, "'disk'");
    assert_error(sotto("obfuscate models/demo %s/x.gguf --key x", tmp), 2, "--format gguf");
    put_file("sotto.json", "{}");
    assert_error(sotto("obfuscate %s %s/x.cov --key x", tmp, tmp), 3, "an obfuscated checkpoint");
    assert_error(sotto("complete %s -p x", tmp), 3, "an obfuscated checkpoint");
}

/* argp wraps an example that is too long to be copied, and adds a line of blanks to a text that just fits. */
static void help_has_no_broken_lines(const char *name)
{
    bool example = false;
    for (const char *line = out.p; *line; line += strspn(line, "\n") ? 1 : strcspn(line, "\n")) {
        size_t len = strcspn(line, "\n");
        if (len && strspn(line, " ") >= len)
            fail_msg("%s --help has a line of blanks", name);
        if (example && len && strncmp(line, "  ", 2) != 0)
            fail_msg("%s --help wraps an example: %.*s", name, (int)len, line);
        example = len && (example || strncmp(line, "Examples:", 9) == 0);
    }
}

static void every_command_explains_itself_with_an_example(void **state)
{
    (void)state;
    assert_int_equal(sotto("help"), 0);
    char list[8192];
    snprintf(list, sizeof list, "%s", out.p);
    int n = 0;
    for (char *line = strtok(list, "\n"); line; line = strtok(NULL, "\n")) {
        char name[32], want[48];
        if (strncmp(line, "  ", 2) != 0 || sscanf(line, " %31s", name) != 1)
            continue;
        assert_int_equal(sotto("%s --help", name), 0);
        snprintf(want, sizeof want, "  sotto %s", name);
        if (!strstr(out.p, want) || !strstr(out.p, "Examples:"))
            fail_msg("%s --help has no example", name);
        help_has_no_broken_lines(name);
        n++;
    }
    assert_true(n >= 9);
    assert_int_equal(sotto("help key"), 0);
    assert_non_null(strstr(out.p, "  sotto key rotate"));
    assert_int_equal(sotto("--version"), 0);
    assert_true(!strncmp(out.p, "sotto ", 6));
}

static void flag_beats_environment_beats_file(void **state)
{
    (void)state;
    char env[256];
    put_file("config", "# a comment\n[help]\n  format = man  \n\n[complete]\ntop-p = 0.5\n");
    snprintf(env, sizeof env, "SOTTO_CONFIG=%s/config", tmp);
    assert_int_equal(sotto_with(env, "help"), 0);
    assert_non_null(strstr(out.p, ".TH sotto"));
    snprintf(env, sizeof env, "SOTTO_CONFIG=%s/config SOTTO_FORMAT=bash", tmp);
    assert_int_equal(sotto_with(env, "help"), 0);
    assert_non_null(strstr(out.p, "complete -F"));
    assert_int_equal(sotto_with(env, "help --format text"), 0);
    assert_non_null(strstr(out.p, "Commands of sotto"));
    assert_int_equal(sotto("help --config %s/config", tmp), 0);
    assert_non_null(strstr(out.p, ".TH sotto"));
}

static void unknown_keys_and_sections_are_refused_with_their_line(void **state)
{
    (void)state;
    put_file("config", "[serve]\nprotekt = covariant\n");
    if (sotto("serve --help") == 0)
        assert_error(sotto("help --config %s/config", tmp), 3, "config:2: unknown key 'protekt' in [serve]");
    put_file("config", "\n[compleet]\n");
    assert_error(sotto("help --config %s/config", tmp), 3, "config:2: unknown section [compleet]");
    put_file("config", "format = man\n");
    assert_error(sotto("help --config %s/config", tmp), 3, "config:1");
    put_file("config", "[complete]\njson = perhaps\n");
    assert_error(sotto("help --config %s/config", tmp), 3, "config:2: want yes or no");
    put_file("config", "[complete]\nconfig = x\n");
    assert_error(sotto("help --config %s/config", tmp), 3, "unknown key 'config'");
    assert_error(sotto("help --config %s/absent", tmp), 4, "absent");
    assert_error(sotto_with("SOTTO_QUIET=perhaps", "help"), 2, "SOTTO_QUIET");
}

static void completion_is_valid_bash_and_docs_are_of_today(void **state)
{
    (void)state;
    assert_int_equal(sotto("help --format bash | bash -n"), 0);
    assert_int_equal(sotto("help --format markdown"), 0);
    struct st_buf committed = {0};
    slurp("docs/commands.md", &committed);
    if (strcmp(out.p, committed.p) != 0)
        fail_msg("docs/commands.md is behind the program; make docs");
    st_buf_free(&committed);
}

static void complete_continues_as_llama2c_does(void **state)
{
    (void)state;
    static const char want[] =
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw "
        "a "
        "big, red ball. She wanted to play with it, but it was too high.\nLily's mom said, \"Lily, let's go to the "
        "park.\" Lily was sad and didn't know what to do. She said, \"I want to play with your ball, but I can't find "
        "it.\"\nLily was sad and didn't know what to do. She said, \"I'm sorry, Lily. I didn't know what to "
        "do.\"\nLily "
        "didn't want to help her mom, so she";
    const char *m = shared("models/stories260K.bin");
    if (!m)
        skip();
    assert_int_equal(sotto("complete %s -p 'Once upon a time' -n 200 --temp 0", m), 0);
    assert_memory_equal(out.p, want, sizeof want - 1);
    assert_error(sotto("complete %s -p x --tokenizer %s/absent", m, tmp), 4, "absent");
}

static void complete_prints_ids_and_timings_as_json(void **state)
{
    (void)state;
    assert_int_equal(sotto("complete models/demo -p 'The cat' -n 4 --json"), 0);
    json_t *o = json();
    const char *text = json_string_value(json_object_get(o, "text"));
    assert_non_null(text);
    assert_memory_equal(text, "The cat", 7);
    assert_string_equal(text + 7, json_string_value(json_object_get(o, "completion")));
    assert_int_equal(json_array_size(json_object_get(o, "token_ids")), 4);
    assert_string_equal(json_string_value(json_object_get(o, "finish_reason")), "length");
    assert_true(number(json_object_get(o, "timings"), "ttft_ms") > 0);
    /* The same ids as a prompt give the same reply. */
    struct st_buf ids = {0};
    size_t i;
    const json_t *id;
    json_array_foreach(json_object_get(o, "prompt_token_ids"), i, id)
        st_buf_addf(&ids, "%s%lld", i ? "," : "", json_integer_value(id));
    assert_int_equal(sotto("complete models/demo --ids %s -n 4 --json", ids.p), 0);
    json_t *again = json();
    assert_true(json_equal(json_object_get(o, "token_ids"), json_object_get(again, "token_ids")));
    json_decref(again);
    json_decref(o);
    st_buf_free(&ids);
}

static void a_seed_makes_sampling_repeatable(void **state)
{
    (void)state;
    struct st_buf first = {0};
    assert_int_equal(sotto("complete models/demo -p 'The dog' -n 12 --temp 1 --top-k 50 --seed 7"), 0);
    st_buf_add(&first, out.p, out.len);
    assert_int_equal(sotto("complete models/demo -p 'The dog' -n 12 --temp 1 --top-k 50 --seed 7"), 0);
    assert_string_equal(first.p, out.p);
    st_buf_free(&first);
}

static void chat_reads_a_pipe_and_remembers_until_reset(void **state)
{
    (void)state;
    struct st_buf first = {0};
    char input[256];
    snprintf(input, sizeof input, "%s/talk", tmp);
    put_file("talk", "Once upon a time\n/exit\n");
    assert_int_equal(sotto("chat models/demo --temp 0 -n 12 <%s", input), 0);
    st_buf_add(&first, out.p, out.len);
    put_file("talk", "A dog\n/reset\nOnce upon a time\n");
    assert_int_equal(sotto("chat models/demo --temp 0 -n 12 <%s", input), 0);
    const char *second = strchr(out.p, '\n');
    assert_non_null(second);
    assert_true(out.len >= first.len);
    assert_string_equal(out.p + out.len - first.len, first.p);
    st_buf_free(&first);
}

static void eval_gives_the_known_perplexity_of_the_golden_model(void **state)
{
    (void)state;
    const char *m = shared("models/stories260K.bin"), *text = shared("eval/tinystories_sample.txt");
    if (!m || !text)
        skip();
    int n_docs = SANITIZED ? 10 : 300;
    assert_int_equal(sotto("eval %s --text %s --separator '<|endoftext|>' --max-docs %d --json -q", m, text, n_docs),
                     0);
    json_t *o = json();
    assert_int_equal(number(o, "documents"), n_docs);
    if (!SANITIZED) {
        assert_int_equal(number(o, "tokens"), 120756);
        double ppl = number(o, "perplexity");
        assert_true(ppl > 4.4819 * 0.999 && ppl < 4.4819 * 1.001);
        assert_true(number(o, "bits_per_byte") > 1 && number(o, "nats_per_token") > 1.49);
    }
    json_decref(o);
}

static void eval_reads_windows_without_a_separator(void **state)
{
    (void)state;
    static const char story[] = "Once upon a time there was a cat. The cat had a hat and a red ball.\n";
    put_file("story", story);
    assert_int_equal(sotto("complete models/demo --prompt-file %s/story -n 1 --json", tmp), 0);
    json_t *o = json();
    int n = (int)json_array_size(json_object_get(o, "prompt_token_ids")) - 1; /* without BOS */
    json_decref(o);
    assert_int_equal(sotto("eval models/demo --text %s/story --ctx 8 --json", tmp), 0);
    o = json();
    assert_int_equal(number(o, "tokens"), n);
    assert_int_equal(number(o, "documents"), (n + 6) / 7);
    assert_int_equal(number(o, "bytes"), sizeof story - 1);
    json_decref(o);
    put_file("story", "");
    assert_error(sotto("eval models/demo --text %s/story", tmp), 3, "no text");
}

static void logits_have_one_row_per_position(void **state)
{
    (void)state;
    assert_int_equal(sotto("logits models/demo --ids 0,365,697 --json"), 0);
    json_t *o = json(), *rows = json_object_get(o, "logits");
    assert_int_equal(number(o, "n_tokens"), 3);
    assert_int_equal(json_array_size(rows), 3);
    size_t n = (size_t)number(o, "vocab_size"), best = 0;
    json_t *last = json_array_get(rows, 2);
    assert_int_equal(json_array_size(last), n);
    for (size_t i = 1; i < n; i++)
        if (json_number_value(json_array_get(last, i)) > json_number_value(json_array_get(last, best)))
            best = i;
    json_decref(o);
    assert_int_equal(sotto("complete models/demo --ids 0,365,697 -n 1 --json"), 0);
    o = json();
    assert_int_equal(json_integer_value(json_array_get(json_object_get(o, "token_ids"), 0)), best);
    json_decref(o);
    assert_error(sotto("logits models/demo --ids 1,4000000000 --json"), 3, "vocabulary");
}

static void bench_prints_one_flat_object(void **state)
{
    (void)state;
    static const char *const keys[] = {"prefill_tps", "decode_tps", "ttft_ms", "rss_bytes", "weight_bytes", "kv_bytes",
                                       "read_gbps",   "roof_gbps",  "load_ms", "threads",   "batch"};
    assert_int_equal(sotto("bench engine models/demo --prompt 16 --gen 4 --batch 2 --json"), 0);
    json_t *o = json();
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        assert_true(number(o, keys[i]) > 0);
    assert_true(json_is_string(json_object_get(o, "isa")));
    json_decref(o);
}

static void models_of_the_hugging_face_cache_are_found_by_name(void **state)
{
    (void)state;
    char env[256], cmd[1024];
    snprintf(cmd, sizeof cmd,
             "d=%s/hf/hub/models--org--tiny; mkdir -p $d/refs $d/snapshots && printf abc123 >$d/refs/main && ln -s "
             "$PWD/models/demo $d/snapshots/abc123",
             tmp);
    assert_int_equal(system(cmd), 0);
    snprintf(env, sizeof env, "HF_HOME=%s/hf", tmp);
    assert_int_equal(sotto_with(env, "complete org/tiny -p 'The cat' -n 2"), 0);
    assert_error(sotto_with(env, "complete org/absent -p x"), 4, "org/absent");
    assert_error(sotto_with(env, "complete ../tiny -p x"), 4, "../tiny");
}

static void bad_models_end_with_the_code_of_their_class(void **state)
{
    (void)state;
    char cmd[512];
    assert_error(sotto("complete %s/absent -p x", tmp), 4, "absent");
    snprintf(cmd, sizeof cmd, "mkdir -p %s/bad && echo '{' >%s/bad/config.json", tmp, tmp);
    assert_int_equal(system(cmd), 0);
    assert_error(sotto("complete %s/bad -p x", tmp), 3, "config.json");
    snprintf(cmd, sizeof cmd,
             "sed 's/LlamaForCausalLM/GPT2LMHeadModel/' models/demo/config.json >%s/bad/config.json && cp "
             "models/demo/model.safetensors %s/bad",
             tmp, tmp);
    assert_int_equal(system(cmd), 0);
    assert_error(sotto("complete %s/bad -p x", tmp), 7, "GPT2LMHeadModel");
    assert_error(sotto("complete models/demo -p x --chat-template none"), 2, "--chat-template");
    assert_error(sotto("chat models/demo --chat-template none </dev/null"), 7, "none");
    assert_error(sotto("complete models/demo -p x --cpu z80"), 7, "z80");
}

static void doctor_says_what_it_found(void **state)
{
    (void)state;
    sotto_with("SOTTO_UPSTREAM=http://gpu.example:8000", "doctor --network --json");
    json_t *o = json();
    assert_true(json_array_size(json_object_get(o, "checks")) >= 8);
    assert_true(json_is_array(json_object_get(o, "network")));
    /* What keeps a sealed model's weights from others (docs/host.md). */
    static const char *const host[] = {"secret mem", "memlock", "swap",     "core", "dumpable",
                                       "ptrace",     "seccomp", "landlock", "tpm",  "tee"};
    for (size_t i = 0; i < sizeof host / sizeof *host; i++) {
        size_t k, n = 0;
        json_t *check;
        json_array_foreach(json_object_get(o, "checks"), k, check) n +=
            strcmp(json_string_value(json_object_get(check, "check")), host[i]) == 0;
        assert_int_equal(n, 1);
    }
    json_decref(o);
    assert_error(sotto("status --url http://127.0.0.1:1"), 4, "127.0.0.1:1");
}

static int count_files(const char *dir)
{
    char cmd[256];
    snprintf(cmd, sizeof cmd, "ls -A %s | wc -l >%s/count", dir, tmp);
    assert_int_equal(system(cmd), 0);
    snprintf(cmd, sizeof cmd, "%s/count", tmp);
    slurp(cmd, &out);
    return atoi(out.p);
}

static void the_demo_reply_equals_the_plain_models(void **state)
{
    (void)state;
    char env[256], dir[128];
    snprintf(dir, sizeof dir, "%s/t", tmp);
    assert_int_equal(mkdir(dir, 0700), 0);
    snprintf(env, sizeof env, "TMPDIR=%s", dir);
    assert_int_equal(sotto_with(env, "demo --json -n 24 --prompt 'Tim had a red ball'"), 0);
    json_t *o = json();
    assert_true(json_is_true(json_object_get(o, "reply_equal")));
    assert_string_equal(json_string_value(json_object_get(o, "protect")), "covariant");
    assert_string_equal(json_string_value(json_object_get(o, "scheme")), "tight");
    assert_string_equal(json_string_value(json_object_get(o, "reply")),
                        json_string_value(json_object_get(o, "plain_reply")));
    /* What left the machine holds ids, and nothing of the words. */
    const char *sent = json_string_value(json_object_get(o, "sent"));
    assert_non_null(strstr(sent, "\"prompt\":["));
    assert_null(strstr(sent, "ball"));
    assert_non_null(strstr(json_string_value(json_object_get(o, "received")), "token_ids"));
    json_decref(o);
    assert_int_equal(count_files(dir), 0);
    assert_error(sotto("demo --protect secret"), 7, "supported: covariant, masked, confidential, sealed");
}

static void demo_of_a_sealed_model_is_equal_and_refuses_a_changed_file(void **state)
{
    (void)state;
    char env[256], dir[128];
    snprintf(dir, sizeof dir, "%s/t3", tmp);
    snprintf(env, sizeof env, "TMPDIR=%s", dir);
    assert_int_equal(mkdir(dir, 0700), 0);
    assert_int_equal(sotto_with(env, "demo --protect sealed --json -q -n 20"), 0);
    json_t *o = json();
    assert_true(json_is_true(json_object_get(o, "reply_equal")) &&
                json_is_true(json_object_get(o, "tampered_refused")));
    assert_string_equal(json_string_value(json_object_get(o, "protect")), "sealed");
    assert_non_null(strstr(json_string_value(json_object_get(o, "refusal")), "is changed"));
    assert_string_not_equal(json_string_value(json_object_get(o, "on_disk")),
                            json_string_value(json_object_get(o, "in_the_model")));
    const char *sent = json_string_value(json_object_get(o, "sent"));
    assert_non_null(strstr(sent, "rows for layer 0 (o)"));
    json_decref(o);
    assert_int_equal(count_files(dir), 0);
}

static void hardened_logits_keep_the_reply_and_eval_tells_what_they_cost(void **state)
{
    (void)state;
    struct st_buf plain = {0};
    assert_int_equal(sotto("complete models/demo -p 'Once upon a time' -n 24 --temp 0 -q"), 0);
    st_buf_add(&plain, out.p, out.len + 1);
    assert_int_equal(
        sotto("complete models/demo -p 'Once upon a time' -n 24 --temp 0 -q --harden topk=5,round=1,noise=2"), 0);
    assert_string_equal(out.p, plain.p);
    st_buf_free(&plain);
    put_file("text", "Once upon a time there was a little dog who liked to run in the park with his friends.");
    assert_int_equal(sotto("eval models/demo --text %s/text --json -q --harden topk=5,round=1,noise=2", tmp), 0);
    json_t *o = json();
    assert_string_equal(json_string_value(json_object_get(o, "harden")), "topk=5,round=1,noise=2");
    assert_true(json_number_value(json_object_get(o, "kl")) > 0.1);
    assert_true(json_number_value(json_object_get(o, "top1_agreement")) == 1);
    assert_true(json_integer_value(json_object_get(o, "tokens_outside")) > 0);
    json_decref(o);
    assert_int_equal(sotto("logits models/demo --ids 1,2 --json --harden topk=5"), 0);
    assert_non_null(strstr(out.p, "-9999"));
    assert_error(sotto("complete models/demo -p x --harden topk=99999"), 2, "at most the vocabulary's 2048");
    assert_error(sotto("proxy --key a --tokenizer b --upstream http://c --harden topk=3"), 2, "--harden");
}

static void an_interrupted_demo_leaves_nothing_behind(void **state)
{
    (void)state;
    char cmd[512], dir[128];
    const char *bin = getenv("SOTTO_BIN");
    snprintf(dir, sizeof dir, "%s/t2", tmp);
    assert_int_equal(mkdir(dir, 0700), 0);
    snprintf(cmd, sizeof cmd, "TMPDIR=%s timeout -s TERM 0.7 %s demo -n 400 >/dev/null 2>&1", dir,
             bin ? bin : "build/bin/sotto");
    assert_true(WIFEXITED(system(cmd)));
    assert_int_equal(count_files(dir), 0);
}

static void serve_answers_status_and_stops_on_sigterm(void **state)
{
    (void)state;
    char cmd[1024], url[256];
    const char *bin = getenv("SOTTO_BIN");
    snprintf(cmd, sizeof cmd,
             "%s serve models/demo --port 0 --json --config= >%s/banner 2>/dev/null & echo $! >%s/pid; for i in $(seq "
             "200); do "
             "grep -q url %s/banner && break; sleep 0.05; done",
             bin ? bin : "build/bin/sotto", tmp, tmp, tmp);
    assert_int_equal(system(cmd), 0);
    snprintf(cmd, sizeof cmd, "%s/banner", tmp);
    slurp(cmd, &out);
    json_t *o = json();
    snprintf(url, sizeof url, "%s", json_string_value(json_object_get(o, "url")));
    json_decref(o);
    assert_int_equal(sotto("status --url %s --json", url), 0);
    o = json();
    assert_true(json_is_true(json_object_get(o, "ready")));
    assert_string_equal(json_string_value(json_object_get(o, "protection")), "none");
    assert_string_equal(json_string_value(json_array_get(json_object_get(o, "models"), 0)), "demo");
    json_decref(o);
    assert_error(sotto("serve models/demo --port %s", strrchr(url, ':') + 1), 4, "in use");
    snprintf(cmd, sizeof cmd,
             "kill $(cat %s/pid); for i in $(seq 100); do kill -0 $(cat %s/pid) 2>/dev/null || exit 0; sleep 0.05; "
             "done; exit 1",
             tmp, tmp);
    assert_int_equal(system(cmd), 0);
    assert_error(sotto("serve models/demo --host 0.0.0.0 --port 0"), 6, "API key");
    assert_error(sotto("proxy --key k --upstream http://x"), 2, "--tokenizer");
    assert_error(sotto("proxy --protect sealed"), 7, "sealed");
}

static void a_tokenizer_larger_than_the_vocabulary_is_refused_with_both_sizes(void **state)
{
    (void)state;
    char cmd[1024];
    snprintf(cmd, sizeof cmd,
             "cp -r models/demo %s/less && sed -i 's/\"vocab_size\": 2048/\"vocab_size\": 2000/' %s/less/config.json",
             tmp, tmp);
    assert_int_equal(system(cmd), 0);
    assert_int_equal(sotto("key new %s/less.key", tmp), 0);
    int rc = sotto("proxy --key %s/less.key --tokenizer %s/less --upstream http://127.0.0.1:1 --port 0", tmp, tmp);
    assert_error(rc, 3, "has 2048 token ids");
    assert_non_null(strstr(err.p, "has 2000"));
}

static int setup(void **state)
{
    (void)state;
    snprintf(tmp, sizeof tmp, "/tmp/test_cli_XXXXXX");
    return mkdtemp(tmp) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf %s", tmp);
    st_buf_free(&out);
    st_buf_free(&err);
    return system(cmd);
}

static void options_of_masked_layers_that_do_not_go_together_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *options;
        int code;
        const char *says;
    } bad[] = {
        {"--protect masked", 2, "want --worker ADDRESS"},
        {"--worker unix:/x", 2, "--worker: only with --protect masked"},
        {"--show-egress", 2, "--show-egress: only with --protect masked"},
        {"--protect secret", 7, "supported: none, masked"},
        {"--protect sealed", 2, "the model is not sealed"},
        {"--protect covariant", 7, "sotto proxy"},
        {"--protect masked --worker unix:/x --scheme shamir", 2, "want one of lwe, otp, remo"},
        {"--protect masked --worker unix:/x --params lwe-1", 2, "lwe-1280-12.8"},
        {"--protect masked --worker unix:/x --scheme otp --params lwe-1280-12.8", 2, "--params: belongs to"},
        {"--protect masked --worker unix:/x --scheme otp --hints h", 2, "--hints: belongs to"},
        {"--protect masked --worker unix:/x --rank 8", 2, "--rank: belongs to --scheme remo"},
        {"--protect masked --worker unix:/x --scheme remo --embedding remote", 2, "--embedding remote"},
        {"--protect masked --worker unix:/x --private-weights", 2, "want --evidence KINDS"},
        {"--protect masked --worker unix:/x --private-weights --evidence sim", 2, "--sim-key"},
        {"--protect masked --worker unix:/x --private-weights --evidence snp", 2, "want tls://"},
        {"--protect masked --worker tls://x:1 --private-weights --evidence snp --record r", 2, "--record: holds"},
        {"--protect masked --worker unix:/x --worker-policy p", 2, "--worker-policy: worker unix:/x"},
        {"--protect masked --worker unix:/x --preparer tls://x:1", 2, "--preparer-policy belong together"},
        {"--protect masked --worker unix:/x --preparer tls://x:1 --preparer-policy p", 2, "has the weights"},
        {"--protect masked --worker tls://x:1 --private-weights --evidence snp", 2, "has the weights"},
        {"--protect masked --worker unix:/x --scheme remo --preparer tls://x:1 --preparer-policy p", 2, "got remo"},
        {"--protect masked --worker unix:/x --evidence snp", 2, "only with a sealed model, or --private-weights"},
        {"--protect masked --reference masked-int --preparer tls://x:1", 2, "--preparer"},
        {"--protect masked --worker unix:/x --dtype f32", 2, "--dtype"},
        {"--protect masked --worker unix:/x --pad-memory 3", 2, "--pad-memory"},
        {"--protect masked --worker unix:/x --offload some", 2, "--offload: want auto, all or a number of rows"},
        {"--protect masked --worker unix:/x --offload 0", 2, "--offload: want auto, all or a number of rows"},
        {"--protect masked --reference int", 2, "masked-int"},
        {"--protect masked --reference masked-int --worker unix:/x", 2, "not with --worker"},
        {"--protect masked --reference masked-int --scheme otp", 2, "not with --scheme"},
        {"--protect masked --worker pigeon:/x", 2, "pigeon:/x"},
        {"--protect masked --worker unix:/nonexistent/worker", 4, "worker unix:/nonexistent/worker"},
        {"--protect masked --worker tcp://127.0.0.1:1 --worker-timeout 5", 4, "worker tcp://127.0.0.1:1"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_error(sotto("complete models/demo -p x -n 1 %s", bad[i].options), bad[i].code, bad[i].says);
    assert_error(sotto("proxy --protect masked"), 2, "wants a MODEL");
    assert_error(sotto("proxy --protect masked models/demo"), 2, "want --worker ADDRESS");
    assert_error(sotto("proxy --protect masked models/demo --key k --worker unix:/x"), 2, "--key");
    assert_error(sotto("proxy models/demo"), 2, "for --protect masked");
    assert_error(sotto("proxy --worker unix:/x"), 2, "--worker: only with --protect masked");
    assert_error(sotto("proxy --ctx 64 --key k"), 2, "--ctx");
    assert_error(sotto("bench masked models/demo"), 2, "want --worker ADDRESS or --spawn");
    assert_error(sotto("bench masked models/demo --spawn --clients 1,x"), 2, "--clients");
    assert_error(sotto("bench engine models/demo --spawn"), 2, "--spawn");
    /* The integer reference runs without a worker, protects nothing, and says so. */
    assert_int_equal(sotto("complete models/demo -p 'Once upon' -n 4 --json --protect masked --reference masked-int"),
                     0);
    json_t *o = json();
    assert_string_equal(json_string_value(json_object_get(o, "protection")), "none");
    assert_string_equal(json_string_value(json_object_get(o, "scheme")), "masked-int");
    json_decref(o);
}

static void words_of_a_command_line_are_quoted_where_a_shell_needs_it(void **state)
{
    struct st_buf b = {0};
    (void)state;
    st_buf_add_word(&b, "a/b-1.txt");
    st_buf_add_str(&b, " ");
    st_buf_add_word(&b, "it's; $x");
    st_buf_add_str(&b, " ");
    st_buf_add_word(&b, "");
    assert_string_equal(b.p, "a/b-1.txt 'it'\\''s; $x' ''");
    st_buf_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_of_a_command_line_are_quoted_where_a_shell_needs_it),
        cmocka_unit_test(unknown_commands_and_options_are_named),
        cmocka_unit_test(every_command_explains_itself_with_an_example),
        cmocka_unit_test(flag_beats_environment_beats_file),
        cmocka_unit_test(unknown_keys_and_sections_are_refused_with_their_line),
        cmocka_unit_test(completion_is_valid_bash_and_docs_are_of_today),
        cmocka_unit_test(complete_continues_as_llama2c_does),
        cmocka_unit_test(complete_prints_ids_and_timings_as_json),
        cmocka_unit_test(a_seed_makes_sampling_repeatable),
        cmocka_unit_test(chat_reads_a_pipe_and_remembers_until_reset),
        cmocka_unit_test(eval_gives_the_known_perplexity_of_the_golden_model),
        cmocka_unit_test(eval_reads_windows_without_a_separator),
        cmocka_unit_test(logits_have_one_row_per_position),
        cmocka_unit_test(bench_prints_one_flat_object),
        cmocka_unit_test(models_of_the_hugging_face_cache_are_found_by_name),
        cmocka_unit_test(bad_models_end_with_the_code_of_their_class),
        cmocka_unit_test(doctor_says_what_it_found),
        cmocka_unit_test(the_demo_reply_equals_the_plain_models),
        cmocka_unit_test(demo_of_a_sealed_model_is_equal_and_refuses_a_changed_file),
        cmocka_unit_test(hardened_logits_keep_the_reply_and_eval_tells_what_they_cost),
        cmocka_unit_test(an_interrupted_demo_leaves_nothing_behind),
        cmocka_unit_test(serve_answers_status_and_stops_on_sigterm),
        cmocka_unit_test(a_tokenizer_larger_than_the_vocabulary_is_refused_with_both_sizes),
        cmocka_unit_test(options_of_masked_layers_that_do_not_go_together_are_named),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
