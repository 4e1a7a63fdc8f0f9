/* sotto-node: the program inside of the trusted execution environment. It links no verifier, no policy, no engine and
 * no protection (scripts/symbols.sh). */
#include "cli/cli.h"

extern const struct st_cmd st_cmd_node_serve, st_cmd_help;

const struct st_cmd *const st_commands[] = {&st_cmd_node_serve, &st_cmd_help, NULL};

const struct st_program st_program = {
    .name = "sotto-node",
    .purpose = "Opens sealed requests beside an engine, and proves what it is.",
    .config = "node.config",
    .start = "sotto-node --upstream unix:/run/engine.sock --model DIR --evidence tdx",
    .plain = &st_cmd_node_serve,
};
