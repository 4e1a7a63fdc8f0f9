/* sotto serve: an OpenAI-compatible endpoint on the engine of this process. */
#include "cli/listen.h"
#include "cli/open.h"
#include "service/gen_engine.h"

struct serve_opts {
    uint32_t max_batch, max_queue, max_row, kv_tokens;
    const char *name;
    bool ids_only;
};

enum { KEY_MAX_BATCH = ST_KEY(0), KEY_MAX_QUEUE, KEY_MAX_ROW, KEY_KV_TOKENS, KEY_NAME, KEY_IDS_ONLY };

static const struct argp_option options[] = {
    {"max-batch", KEY_MAX_BATCH, "N", 0, "Requests that decode together; default 16", 0},
    {"max-queue", KEY_MAX_QUEUE, "N", 0, "Requests that may wait; default 1024", 0},
    {"max-row", KEY_MAX_ROW, "N", 0, "Tokens per step; a long prompt is read in such pieces; default 512", 0},
    {"kv-tokens", KEY_KV_TOKENS, "N", 0, "Tokens that the key/value cache holds; default context times batch", 0},
    {"model-name", KEY_NAME, "NAME", 0, "Name in /v1/models; default: last part of the path", 0},
    {"ids-only", KEY_IDS_ONLY, NULL, 0, "Without a tokenizer: prompts and replies are token ids", 0},
    {0},
};

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    struct serve_opts *o = opts;
    switch (key) {
    case KEY_MAX_BATCH:
        return st_opt_u32("--max-batch", arg, 1, 4096, &o->max_batch, e);
    case KEY_MAX_QUEUE:
        return st_opt_u32("--max-queue", arg, 1, 1u << 20, &o->max_queue, e);
    case KEY_MAX_ROW:
        return st_opt_u32("--max-row", arg, 1, 1u << 16, &o->max_row, e);
    case KEY_KV_TOKENS:
        return st_opt_u32("--kv-tokens", arg, 16, UINT32_MAX, &o->kv_tokens, e);
    case KEY_NAME:
        o->name = arg;
        return 0;
    default:
        o->ids_only = true;
        return 0;
    }
}

/* Without a tokenizer: say what to do before the model is loaded. */
static int check_tokenizer(const struct st_cli *cli, struct st_err *e)
{
    char path[ST_PATH_MAX], file[ST_PATH_MAX + 32];
    if (st_open_model_path(cli->args[0], path, e))
        return e->code;
    if (cli->tokenizer || !st_path_is_dir(path))
        return 0;
    for (int i = 0; i < 2; i++) {
        snprintf(file, sizeof file, "%s/%s", path, i ? "tokenizer.model" : "tokenizer.json");
        if (st_path_exists(file))
            return 0;
    }
    return st_fail(e, ST_USAGE, "%s: has no tokenizer; serve token ids with --ids-only, or name one with --tokenizer",
                   path);
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    const struct serve_opts *o = opts;
    struct st_open m = {0};
    if (!o->ids_only && check_tokenizer(cli, e))
        return e->code;
    const struct st_engine_opts eo = {
        .max_batch = o->max_batch, .max_queue = o->max_queue, .max_row = o->max_row, .n_kv = o->kv_tokens};
    int rc = st_open(cli, cli->args[0], o->ids_only ? 0 : ST_OPEN_TOKENIZER | ST_OPEN_CHAT, &eo, &m, e);
    if (rc)
        return rc;
    const struct st_gen_engine_opts go = {
        .engine = m.engine, .model = m.model, .model_name = o->name, .max_live = o->max_queue};
    struct st_banner banner = {.cli = cli,
                               .command = "serve",
                               .model = o->name ? o->name : m.model->name,
                               .protection = "none",
                               .scheme = "none",
                               .note = o->ids_only ? "token ids only: no text comes in or goes out" : NULL};
    struct st_server_opts so;
    st_listen_opts(cli, 7789, &banner, &so);
    so.tokenizer = m.tokenizer;
    so.chat = m.chat;
    so.source = (struct st_gen_source){st_gen_engine_open, &go};
    rc = st_server_run(&so, e);
    st_open_close(&m);
    return rc;
}

const struct st_cmd st_cmd_serve = {
    .name = "serve",
    .summary = "Serve a model over an OpenAI-compatible endpoint",
    .args_doc = "MODEL",
    .min_args = 1,
    .max_args = 1,
    .doc = "Serves a model on http://127.0.0.1:7789/v1. By itself this protects nothing: whoever runs it sees every "
           "prompt. An "
           "obfuscated checkpoint is served the same way; only the proxy with the key can read what passes.",
    .examples = "  sotto serve models/demo\n  sotto serve ~/models/llama-1b --dtype int8 --port 8000\n"
                "  sotto serve my-model.cov --ids-only --host 0.0.0.0 \\\n"
                "      --allow-host gpu.example --api-key-file keys.txt",
    .shared = ST_CLI_LISTEN | ST_CLI_MODEL | ST_CLI_CHAT | ST_CLI_THREADS | ST_CLI_JSON,
    .options = options,
    .opts_size = sizeof(struct serve_opts),
    .set = set,
    .run = run,
};
