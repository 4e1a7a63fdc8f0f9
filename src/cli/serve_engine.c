#include "cli/serve_engine.h"
#include "cli/listen.h"
#include "cli/masked.h"
#include "cli/open.h"

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

int st_serve_engine(const struct st_cli *given, const struct st_serve_engine *o, struct st_err *e)
{
    struct st_open m = {0};
    struct st_cli with_port = *given; /* the sandbox must know it */
    const struct st_cli *cli = &with_port;
    with_port.listen.port = given->listen.port >= 0 ? given->listen.port : o->port;
    if (!o->ids_only && check_tokenizer(cli, e))
        return e->code;
    const struct st_engine_opts eo = {
        .max_batch = o->max_batch, .max_queue = o->max_queue, .max_row = o->max_row, .n_kv = o->kv_tokens};
    const unsigned what =
        ST_OPEN_HOLD | ST_OPEN_ADAPTERS | (o->ids_only ? 0u : (unsigned)(ST_OPEN_TOKENIZER | ST_OPEN_CHAT));
    int rc = st_open(cli, cli->args[0], what, &eo, &m, e);
    if (rc)
        return rc;
    struct st_masked_words w;
    st_open_words(&m, &w);
    const struct st_gen_engine_opts go = {.engine = m.engine,
                                          .model = m.model,
                                          .model_name = o->name,
                                          .protection = w.protection,
                                          .scheme = w.scheme,
                                          .verified = w.verified,
                                          .watch = m.masked ? st_masked_watch : NULL,
                                          .watch_ctx = m.masked,
                                          .max_live = o->max_queue};
    struct st_banner banner = {.cli = cli,
                               .command = o->command,
                               .model = o->name ? o->name : m.model->name,
                               .protection = w.protection,
                               .scheme = w.scheme,
                               .verified = w.verified,
                               .note = w.strength,
                               .input = o->ids_only ? "token ids only: no text comes in or goes out" : NULL,
                               .warning = w.warning,
                               .open = &m};
    struct st_server_opts so;
    st_listen_opts(cli, o->port, &banner, &so);
    so.tokenizer = m.tokenizer;
    so.chat = m.chat;
    so.source = (struct st_gen_source){st_gen_engine_open, &go};
    rc = st_server_run(&so, e);
    st_open_close(&m);
    return rc;
}
