/* sotto-worker: the untrusted machine's program. It links no protection, no engine and no key (scripts/symbols.sh). */
#include "cli/cli.h"

extern const struct st_cmd st_cmd_worker_serve, st_cmd_worker_prepare, st_cmd_help;

const struct st_cmd *const st_commands[] = {&st_cmd_worker_serve, &st_cmd_worker_prepare, &st_cmd_help, NULL};

const struct st_program st_program = {
    .name = "sotto-worker",
    .purpose = "Linear layers of a language model, computed on rows that it cannot read.",
    .config = "worker.config",
    .start = "sotto-worker --model DIR",
    .plain = &st_cmd_worker_serve,
};
