/* What `serve` and `proxy` share: the server's options from the command line, and the banner. */
#ifndef ST_CLI_LISTEN_H
#define ST_CLI_LISTEN_H

#include "cli/cli.h"
#include "service/server.h"

struct st_open;

/* What is printed once the port is open. Strings are borrowed until then. */
struct st_banner {
    const struct st_cli *cli;
    const char *command, *model, *protection, *scheme, *verified;
    const char *input, *note, *warning; /* lines of their own, may be NULL */
    struct st_open *open;               /* what is served here, settled before the first request; NULL = elsewhere */
};

/* Fills everything but tokenizer, chat and source; b is kept until the server ends. */
void st_listen_opts(const struct st_cli *cli, int default_port, struct st_banner *b, struct st_server_opts *out);

#endif
