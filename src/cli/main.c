/* sotto: finds the subcommand, lets the frame read its options, runs it, and turns an error into one line and an exit
 * status. */
#include "base/log.h"
#include "base/secret.h"
#include "cli/cli.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define X(name) extern const struct st_cmd st_cmd_##name;
#include "cli/commands.def"
#undef X

const struct st_cmd *const st_commands[] = {
#define X(name) &st_cmd_##name,
#include "cli/commands.def"
#undef X
    NULL,
};

const char *argp_program_version = "sotto " SOTTO_VERSION;

static void print_help(FILE *f)
{
    fputs("Usage: sotto COMMAND [ARGUMENT...] [OPTION...]\n"
          "Private inference for large language models.\n\n",
          f);
    for (const struct st_cmd *const *c = st_commands; *c; c++)
        fprintf(f, "  %-10s %s\n", (*c)->name, (*c)->summary);
    fputs("\n`sotto COMMAND --help` explains a command. `sotto --version` prints the version.\n"
          "Start with: sotto demo\n",
          f);
}

static const struct st_cmd *find(const char *name)
{
    for (const struct st_cmd *const *c = st_commands; *c; c++)
        if (strcmp((*c)->name, name) == 0)
            return *c;
    return NULL;
}

static int run(int argc, char **argv, struct st_err *e)
{
    if (argc < 2)
        return st_fail(e, ST_USAGE, "no command given (see sotto --help)");
    const struct st_cmd *cmd = find(argv[1]);
    if (!cmd)
        return st_fail(e, ST_USAGE, "unknown command '%s' (see sotto --help)", argv[1]);
    struct st_cli cli;
    void *opts = calloc(1, cmd->opts_size + 1);
    if (!opts)
        return st_fail(e, ST_MEMORY, "no memory for options");
    int rc = st_cli_parse(cmd, argc - 1, argv + 1, &cli, opts, e);
    if (!rc) {
        st_log_set_level(cli.quiet ? ST_LOG_ERROR : cli.verbose ? ST_LOG_DEBUG : ST_LOG_INFO);
        rc = cmd->run(&cli, opts, e);
    }
    if (!rc && (fflush(stdout) || ferror(stdout)))
        rc = st_fail(e, ST_IO, "cannot write to standard output");
    free(opts);
    free(cli.args);
    return rc;
}

int main(int argc, char **argv)
{
    /* A closed pipe or connection is an error return where it happens, not a signal. */
    signal(SIGPIPE, SIG_IGN);
    st_secret_process();
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        print_help(stdout);
        return 0;
    }
    if (argc == 2 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0)) {
        puts(argp_program_version);
        return 0;
    }
    static char help[] = "--help";
    char *explain[] = {argv[0], argc == 3 ? argv[2] : NULL, help, NULL};
    bool asked = argc == 3 && strcmp(argv[1], "help") == 0 && find(argv[2]); /* `sotto help key`: `sotto key --help` */
    struct st_err e = {0};
    int rc = run(argc, asked ? explain : argv, &e);
    if (rc)
        fprintf(stderr, "sotto: %s\n", e.msg);
    return rc;
}
