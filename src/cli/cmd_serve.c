/* sotto serve: an OpenAI-compatible endpoint on the engine of this process. */
#include "cli/serve_engine.h"

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
    {"model-name", KEY_NAME, "NAME", 0, "Its name in /v1/models; default: last part of the path", 0},
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

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    const struct serve_opts *o = opts;
    const struct st_serve_engine so = {.command = "serve",
                                       .port = 7789,
                                       .max_batch = o->max_batch,
                                       .max_queue = o->max_queue,
                                       .max_row = o->max_row,
                                       .kv_tokens = o->kv_tokens,
                                       .name = o->name,
                                       .ids_only = o->ids_only};
    return st_serve_engine(cli, &so, e);
}

const struct st_cmd st_cmd_serve = {
    .name = "serve",
    .summary = "Serve a model over an OpenAI-compatible endpoint",
    .args_doc = "MODEL",
    .min_args = 1,
    .max_args = 1,
    .doc = "Serves a model on http://127.0.0.1:7789/v1. By itself this protects nothing: whoever runs it sees every "
           "prompt. An "
           "obfuscated checkpoint is served the same way; only the proxy with the key can read what passes. With "
           "--protect "
           "masked prompts stay in this process, and untrusted workers compute linear layers on masked rows.",
    .examples = "  sotto serve models/demo\n  sotto serve ~/models/llama-1b --dtype int8 --port 8000\n"
                "  sotto serve my-model.cov --ids-only --host 0.0.0.0 \\\n"
                "      --allow-host gpu.example --api-key-file keys.txt\n"
                "  sotto serve ~/models/llama-1b --protect masked \\\n"
                "      --worker tls://gpu.example:7790",
    .shared = ST_CLI_LISTEN | ST_CLI_MODEL | ST_CLI_CHAT | ST_CLI_THREADS | ST_CLI_JSON | ST_CLI_MASKED |
              ST_CLI_SEALED | ST_CLI_UNLOCK | ST_CLI_ADAPTER,
    .options = options,
    .opts_size = sizeof(struct serve_opts),
    .set = set,
    .run = run,
};
