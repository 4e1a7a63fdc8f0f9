#include "cli/role.h"

void st_role_cli(const struct st_cli *cli, int default_port, struct st_role_opts *out)
{
    const struct st_cli_listen *l = &cli->listen;
    out->host = l->host;
    out->port = l->port >= 0 ? l->port : default_port;
    out->tls_cert = l->tls_cert;
    out->tls_key = l->tls_key;
    out->max_conn = l->max_conn;
    out->grace_s = l->grace_s;
}

void st_role_announce(const struct st_cli *cli, const struct st_role *r, const char *const *lines, const char *json)
{
    if (cli->json)
        printf("{\"url\":\"%s\",\"port\":%d%s}\n", st_role_url(r), st_role_port(r), json ? json : "");
    else if (!cli->quiet) {
        printf("sotto %s: %s\n", cli->cmd->name, st_role_url(r));
        for (; *lines; lines++)
            printf("  %s\n", *lines);
    }
    fflush(stdout);
}
