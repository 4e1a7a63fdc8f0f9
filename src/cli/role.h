/* What the commands of relay, gateway, issuer, log and witness share: where they listen, from the options of
 * ST_CLI_PORT, and what they print once the port is open. */
#ifndef ST_CLI_ROLE_H
#define ST_CLI_ROLE_H

#include "cli/cli.h"
#include "service/role.h"

/* Fills host, port, TLS, connections and grace. */
void st_role_cli(const struct st_cli *cli, int default_port, struct st_role_opts *out);
/* The banner `sotto COMMAND: URL` with one line for each of lines (NULL-ended); with --json one object {"url", "port"}
 * and the members of json (",\"name\":value..." or NULL). */
void st_role_announce(const struct st_cli *cli, const struct st_role *r, const char *const *lines, const char *json);

#endif
