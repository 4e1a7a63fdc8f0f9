/* sotto complete: continues a text, or a list of token ids. */
#include "cli/generate.h"
#include "cli/open.h"
#include "cli/source.h"
#include "text/json.h"

#include <string.h>

struct complete_opts {
    const char *prompt, *prompt_file, *ids;
    uint32_t n;
    bool ignore_eos;
};
static const struct complete_opts defaults = {.n = 256};

enum { KEY_PROMPT_FILE = ST_KEY(0), KEY_IDS, KEY_IGNORE_EOS };

static const struct argp_option options[] = {
    {"prompt", 'p', "TEXT", 0, "The text to continue", 0},
    {"prompt-file", KEY_PROMPT_FILE, "FILE", 0, "Read it from FILE (- = standard input)", 0},
    {"ids", KEY_IDS, "LIST", 0, "Continue these token ids instead: 1,2,3", 0},
    {"max-tokens", 'n', "N", 0, "Tokens to generate; default 256, 0 = until the context is full", 0},
    {"ignore-eos", KEY_IGNORE_EOS, NULL, 0, "Go on after the model's end token", 0},
    {0},
};

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    struct complete_opts *o = opts;
    switch (key) {
    case 'p':
        o->prompt = arg;
        return 0;
    case 'n':
        return st_opt_u32("--max-tokens", arg, 0, 1u << 24, &o->n, e);
    case KEY_PROMPT_FILE:
        o->prompt_file = arg;
        return 0;
    case KEY_IDS:
        o->ids = arg;
        return 0;
    default:
        o->ignore_eos = true;
        return 0;
    }
}

static int read_prompt(const struct complete_opts *o, struct st_buf *out, struct st_err *e)
{
    if (o->prompt) {
        st_buf_add_str(out, o->prompt);
    } else if (strcmp(o->prompt_file, "-") != 0) {
        return st_file_read(o->prompt_file, 64u << 20, out, e);
    } else {
        char part[4096];
        for (size_t n; (n = fread(part, 1, sizeof part, stdin)) > 0 && out->len < (64u << 20);)
            st_buf_add(out, part, n);
    }
    return out->failed ? st_fail(e, ST_MEMORY, "no memory for the prompt") : 0;
}

static void print_piece(void *arg, const char *text, size_t len)
{
    (void)arg;
    fwrite(text, 1, len, stdout);
    fflush(stdout);
}

static void add_ids(struct st_buf *b, const uint32_t *ids, size_t n)
{
    st_buf_add_str(b, "[");
    for (size_t i = 0; i < n; i++)
        st_buf_addf(b, "%s%u", i ? "," : "", ids[i]);
    st_buf_add_str(b, "]");
}

/* Texts only with a tokenizer; text = prompt and completion, as the plain output. */
static int print_json(const struct st_open *m, const struct st_run *r, const struct st_buf *prompt, struct st_err *e)
{
    struct st_buf b = {0}, all = {0};
    double n_decode = r->ids.len > 1 ? (double)(r->ids.len - 1) : 0;
    st_buf_add_str(&b, "{");
    if (r->tokenizer) {
        st_buf_add(&all, prompt->p, prompt->len);
        st_buf_add(&all, r->text.p, r->text.len);
        st_buf_add_str(&b, "\"text\":");
        st_json_quote(&b, all.p, all.len);
        st_buf_add_str(&b, ",\"completion\":");
        st_json_quote(&b, r->text.p, r->text.len);
        st_buf_add_str(&b, ",");
    }
    st_buf_add_str(&b, "\"token_ids\":");
    add_ids(&b, r->ids.p, r->ids.len);
    st_buf_add_str(&b, ",\"prompt_token_ids\":");
    add_ids(&b, r->req.ids, r->req.n_ids);
    st_buf_addf(&b, ",\"finish_reason\":\"%s\"", st_finish_word(r->finish));
    st_open_put_protection(m, &b);
    st_buf_addf(&b, ",\"timings\":{\"ttft_ms\":%.3f,\"decode_ms\":%.3f,\"prefill_tps\":%.2f,\"decode_tps\":%.2f}}",
                r->ttft_s * 1e3, r->decode_s * 1e3, r->ttft_s > 0 ? (double)r->req.n_ids / r->ttft_s : 0,
                r->decode_s > 0 ? n_decode / r->decode_s : 0);
    if (b.failed || all.failed)
        st_fail(e, ST_MEMORY, "no memory for the result");
    else
        puts(b.p);
    st_buf_wipe(&all);
    st_buf_wipe(&b);
    return e->code;
}

static int encode(const struct complete_opts *o, const struct st_open *m, struct st_buf *prompt, struct st_ids *ids,
                  struct st_err *e)
{
    if (o->ids) {
        if (st_opt_ids("--ids", o->ids, ids, e))
            return e->code;
        return m->tokenizer ? st_tokenizer_decode(m->tokenizer, ids->p, ids->len, true, prompt, e) : 0;
    }
    const struct st_encode_opts eo = {.add_special = true, .parse_special = true};
    return st_tokenizer_encode(m->tokenizer, prompt->p ? prompt->p : "", prompt->len, &eo, ids, e);
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    const struct complete_opts *o = opts;
    struct st_open m = {0};
    struct st_buf prompt = {0};
    struct st_ids ids = {0};
    struct st_run r = {0};
    struct st_err absent = {0};
    const struct st_engine_opts eo = {.max_batch = 1};
    if (!o->prompt + !o->prompt_file + !o->ids != 2)
        return st_fail(e, ST_USAGE, "complete: want one of --prompt, --prompt-file and --ids");
    /* Ids alone need no tokenizer: only then a missing one is no error. */
    char path[ST_PATH_MAX], tok[ST_PATH_MAX];
    if (st_open_model_path(cli->args[0], path, e) || (!o->ids && st_source_plain(path, e)))
        return e->code;
    bool has_tok = !o->ids || !st_open_tokenizer_path(path, cli->tokenizer, tok, &absent);
    /* The prompt is read first: a sealed model closes files off. */
    if ((!o->ids && read_prompt(o, &prompt, e)) ||
        st_open(cli, cli->args[0], ST_OPEN_HOLD | (has_tok ? ST_OPEN_TOKENIZER : 0), &eo, &m, e) ||
        st_open_settle(&m, e) || encode(o, &m, &prompt, &ids, e) || st_open_sampling(cli, 0, &r.req.sampling, e))
        goto out;
    r.req.ids = ids.p;
    r.req.n_ids = ids.len;
    r.req.n_predict = o->n;
    r.req.ignore_eos = o->ignore_eos;
    r.req.adapter = m.adapter;
    r.tokenizer = m.tokenizer;
    if (!cli->json) {
        print_piece(NULL, prompt.p ? prompt.p : "", prompt.len);
        r.on_text = print_piece;
    }
    if (st_run(m.engine, &r, e))
        goto out;
    if (cli->json)
        print_json(&m, &r, &prompt, e);
    else
        putchar('\n');
out:
    st_run_wipe(&r);
    st_ids_free(&ids);
    st_buf_wipe(&prompt);
    st_open_close(&m);
    return e->code;
}

const struct st_cmd st_cmd_complete = {
    .name = "complete",
    .summary = "Continue a text with a model on this machine",
    .args_doc = "MODEL",
    .min_args = 1,
    .max_args = 1,
    .doc = "Continues a text and prints it, prompt included. The temperature is 0 unless --temp says otherwise. MODEL "
           "is a "
           "Hugging Face directory, a llama2.c .bin file, or the name of a model in the Hugging Face cache.",
    .examples = "  sotto complete models/demo -p \"Once upon a time\" -n 100 --temp 0\n"
                "  sotto complete stories260K.bin --tokenizer tok512.bin -p \"Lily\" -n 50 --json",
    .shared = ST_CLI_MODEL | ST_CLI_SAMPLE | ST_CLI_THREADS | ST_CLI_JSON | ST_CLI_MASKED | ST_CLI_SEALED |
              ST_CLI_UNLOCK | ST_CLI_ADAPTER,
    .options = options,
    .opts_size = sizeof(struct complete_opts),
    .defaults = &defaults,
    .set = set,
    .run = run,
};
