/* help: the list of commands; and from the same tables the manual page, the bash completion and the files of commands
 * in docs/
 * (`help --format ...`), so that none of them can fall behind the program. */
#include "cli/cli.h"

#include <ctype.h>
#include <string.h>

struct help_opts {
    int format;
};
enum { FORMAT_TEXT, FORMAT_MAN, FORMAT_BASH, FORMAT_MARKDOWN };

static const struct argp_option options[] = {
    {"format", 'f', "FORMAT", 0, "text (default), man, bash (completion), markdown", 0},
    {0},
};

static int set(void *opts, int key, char *arg, struct st_err *e)
{
    static const char *const formats[] = {"text", "man", "bash", "markdown", NULL};
    struct help_opts *o = opts;
    (void)key;
    return st_opt_choice("--format", arg, formats, &o->format, e);
}

static bool is_short(int key)
{
    return key < 256 && isalnum(key);
}

static void print_text(void)
{
    printf("Commands of %s (`%s COMMAND --help` explains one):\n\n", st_program.name, st_program.name);
    for (const struct st_cmd *const *c = st_commands; *c; c++)
        printf("  %-10s %s\n", (*c)->name, (*c)->summary);
}

/* troff reads a leading dot or quote as a request and - as a hyphen. */
static void man_text(const char *s)
{
    bool start = true;
    for (; *s; s++) {
        if (start && (*s == '.' || *s == '\''))
            fputs("\\&", stdout);
        start = *s == '\n';
        if (*s == '-' || *s == '\\')
            printf("\\%s", *s == '\\' ? "e" : "-");
        else
            putchar(*s);
    }
}

static void man_option(const struct argp_option *o)
{
    puts(".TP");
    fputs(".B ", stdout);
    if (is_short(o->key))
        printf("\\-%c, ", o->key);
    fputs("\\-\\-", stdout);
    man_text(o->name);
    if (o->arg)
        printf("=\\fI%s\\fR", o->arg);
    putchar('\n');
    man_text(o->doc);
    putchar('\n');
}

static void man_command(const struct st_cmd *c)
{
    struct st_opt_list l;
    fputs(".SS \"", stdout);
    man_text(st_program.name);
    printf(" %s %s\"\n", c->name, c->args_doc ? c->args_doc : "");
    man_text(c->doc);
    putchar('\n');
    st_cli_options(c, &l);
    for (int i = 0; i < l.n; i++)
        man_option(l.p[i]);
    if (c->examples) {
        puts(".PP\nExamples:\n.PP\n.nf");
        man_text(c->examples);
        puts("\n.fi");
    }
}

static void print_man(void)
{
    const char *name = st_program.name;
    printf(".\\\" Made by: %s help --format man\n.TH %s 1 \"\" \"%s " SOTTO_VERSION "\" \"User Commands\"\n", name,
           name, name);
    fputs(".SH NAME\n", stdout);
    man_text(name);
    fputs(" \\- ", stdout);
    man_text(st_program.purpose);
    fputs("\n.SH SYNOPSIS\n", stdout);
    if (st_program.plain)
        printf(".B %s\n[\\fIOPTION\\fR...]\n.br\n", name);
    printf(".B %s\n.I COMMAND\n[\\fIARGUMENT\\fR...] [\\fIOPTION\\fR...]\n.SH COMMANDS\n", name);
    if (st_program.plain)
        printf("Without a command it is\n.B %s.\n", st_program.plain->name);
    for (const struct st_cmd *const *c = st_commands; *c; c++)
        man_command(*c);
    printf(
        ".SH CONFIGURATION\n"
        "Every option is also an environment variable SOTTO_<OPTION> (in capitals, \\- as _) and a line\n"
        ".B option = value\nunder\n.B [command]\nin the config file. The command line wins over the environment, the\n"
        "environment over the file. Unknown keys are refused.\n"
        ".SH FILES\n.I /etc/sotto/%s\n.br\n.I $XDG_CONFIG_HOME/sotto/%s\n(or ~/.config/sotto/%s)\n"
        ".SH EXIT STATUS\n0 ok, 1 internal, 2 usage, 3 input, 4 io, 5 verify, 6 policy, 7 unsupported, 8 memory.\n"
        "An error is one line on standard error.\n",
        st_program.config, st_program.config, st_program.config);
}

/* "sotto_worker": a name that a shell function can have. */
static void print_function(void)
{
    putchar('_');
    for (const char *c = st_program.name; *c; c++)
        putchar(*c == '-' ? '_' : *c);
}

static void print_words(const struct st_cmd *cmd)
{
    struct st_opt_list l;
    st_cli_options(cmd, &l);
    for (int i = 0; i < l.n; i++)
        printf("--%s ", l.p[i]->name);
}

static void print_bash(void)
{
    const struct st_cmd *plain = st_program.plain;
    printf("# bash completion for %s. Made by: %s help --format bash\n", st_program.name, st_program.name);
    print_function();
    fputs("()\n{\n"
          "    local cur=${COMP_WORDS[COMP_CWORD]} words\n"
          "    if ((COMP_CWORD == 1)); then\n"
          "        words=\"",
          stdout);
    for (const struct st_cmd *const *c = st_commands; *c; c++)
        printf("%s ", (*c)->name);
    if (plain)
        print_words(plain);
    puts("--help --version\"\n    else\n        case ${COMP_WORDS[1]} in");
    for (const struct st_cmd *const *c = st_commands; *c; c++) {
        printf(*c == plain ? "        %s | -*) words=\"" : "        %s) words=\"", (*c)->name);
        print_words(*c);
        puts("--help\" ;;");
    }
    puts("        *) words= ;;\n        esac\n"
         "        [[ $cur == -* ]] || words=\n"
         "    fi\n"
         "    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
         "    [[ ${COMPREPLY[0]} ]] || compopt -o default\n"
         "}");
    fputs("complete -F ", stdout);
    print_function();
    printf(" %s\n", st_program.name);
}

static void print_markdown(void)
{
    printf("<!-- Made by: %s help --format markdown -->\n# Commands of %s\n", st_program.name, st_program.name);
    for (const struct st_cmd *const *c = st_commands; *c; c++) {
        struct st_opt_list l;
        printf("\n## %s %s%s%s\n\n%s\n\n| option | meaning |\n|---|---|\n", st_program.name, (*c)->name,
               (*c)->args_doc ? " " : "", (*c)->args_doc ? (*c)->args_doc : "", (*c)->doc);
        st_cli_options(*c, &l);
        for (int i = 0; i < l.n; i++) {
            const struct argp_option *o = l.p[i];
            fputs("| ", stdout);
            if (is_short(o->key))
                printf("`-%c`, ", o->key);
            printf("`--%s%s%s` | %s |\n", o->name, o->arg ? " " : "", o->arg ? o->arg : "", o->doc);
        }
        if ((*c)->examples)
            printf("\n```\n%s\n```\n", (*c)->examples);
    }
}

static int run(const struct st_cli *cli, void *opts, struct st_err *e)
{
    static void (*const print[])(void) = {print_text, print_man, print_bash, print_markdown};
    (void)cli;
    (void)e;
    print[((struct help_opts *)opts)->format]();
    return 0;
}

const struct st_cmd st_cmd_help = {
    .name = "help",
    .summary = "List the commands; print the manual page or the bash completion",
    .doc =
        "Lists the commands; `help COMMAND` is `COMMAND --help`. The manual page, the bash completion and the list of "
        "commands in docs/ are printed from the same tables.",
    .examples = "  sotto help\n  sotto help --format man | man -l -",
    .options = options,
    .opts_size = sizeof(struct help_opts),
    .set = set,
    .run = run,
};
