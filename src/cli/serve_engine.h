/* An OpenAI-compatible endpoint on an engine of this process: what `sotto serve` and `sotto proxy --protect masked`
 * both are. */
#ifndef ST_CLI_SERVE_ENGINE_H
#define ST_CLI_SERVE_ENGINE_H

#include "cli/cli.h"

struct st_serve_engine {
    const char *command;                               /* for the banner */
    int port;                                          /* unless --port says otherwise */
    uint32_t max_batch, max_queue, max_row, kv_tokens; /* 0 = the engine's choice */
    const char *name;                                  /* in /v1/models; NULL = the model's */
    bool ids_only;
};
/* Serves cli->args[0] until SIGTERM or SIGINT. */
int st_serve_engine(const struct st_cli *cli, const struct st_serve_engine *o, struct st_err *e) ST_MUST_CHECK;

#endif
