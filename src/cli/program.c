/* sotto: the trusted side and the tools of operators. */
#include "cli/cli.h"

#define X(name) extern const struct st_cmd st_cmd_##name;
#include "cli/commands.def"
#undef X

const struct st_cmd *const st_commands[] = {
#define X(name) &st_cmd_##name,
#include "cli/commands.def"
#undef X
    NULL,
};

const struct st_program st_program = {
    .name = "sotto",
    .purpose = "Private inference for large language models.",
    .config = "config",
    .start = "sotto demo",
};
