/* Finds the subcommand, lets the frame read its options, runs it, and turns an error into one line and an exit
 * status. */
#include "base/log.h"
#include "base/secret.h"
#include "cli/cli.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

const char *argp_program_version;

static void print_help(FILE *f)
{
    const char *name = st_program.name;
    if (st_program.plain)
        fprintf(f, "Usage: %s [OPTION...]\n  or:  %s COMMAND [ARGUMENT...] [OPTION...]\n%s\n\n", name, name,
                st_program.purpose);
    else
        fprintf(f, "Usage: %s COMMAND [ARGUMENT...] [OPTION...]\n%s\n\n", name, st_program.purpose);
    for (const struct st_cmd *const *c = st_commands; *c; c++)
        fprintf(f, "  %-10s %s\n", (*c)->name, (*c)->summary);
    fprintf(f, "\n`%s COMMAND --help` explains a command. `%s --version` prints the version.\n", name, name);
    if (st_program.plain)
        fprintf(f, "Without a command it is `%s`.\n", st_program.plain->name);
    fprintf(f, "Start with: %s\n", st_program.start);
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
    const struct st_cmd *cmd = argc > 1 ? find(argv[1]) : NULL;
    bool plain = st_program.plain && (argc < 2 || argv[1][0] == '-'); /* also when all is in the config file */
    if (argc < 2 && !plain)
        return st_fail(e, ST_USAGE, "no command given (see %s --help)", st_program.name);
    if (!cmd && !plain)
        return st_fail(e, ST_USAGE, "unknown command '%s' (see %s --help)", argv[1], st_program.name);
    if (plain)
        cmd = st_program.plain;
    const int skip = plain ? 0 : 1; /* words before the command's own, whose first is a name */
    struct st_cli cli;
    void *opts = calloc(1, cmd->opts_size + 1);
    if (!opts)
        return st_fail(e, ST_MEMORY, "no memory for options");
    int rc = st_cli_parse(cmd, argc - skip, argv + skip, &cli, opts, e);
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
    static char version[64];
    snprintf(version, sizeof version, "%s %s", st_program.name, SOTTO_VERSION);
    argp_program_version = version;
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
        fprintf(stderr, "%s: %s\n", st_program.name, e.msg);
    return rc;
}
