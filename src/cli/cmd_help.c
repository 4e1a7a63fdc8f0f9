/* sotto help: the list of commands; and from the same tables the manual page, the bash completion and docs/commands.md
 * (`sotto help --format ...`), so that none of them can fall behind the program. */
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
    puts("Commands of sotto (`sotto COMMAND --help` explains one):\n");
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
    printf(".SS \"sotto %s %s\"\n", c->name, c->args_doc ? c->args_doc : "");
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
    puts(".\\\" Made by: sotto help --format man\n"
         ".TH SOTTO 1 \"\" \"sotto " SOTTO_VERSION "\" \"User Commands\"\n"
         ".SH NAME\nsotto \\- private inference for large language models\n"
         ".SH SYNOPSIS\n.B sotto\n.I COMMAND\n[\\fIARGUMENT\\fR...] [\\fIOPTION\\fR...]\n"
         ".SH COMMANDS");
    for (const struct st_cmd *const *c = st_commands; *c; c++)
        man_command(*c);
    puts(".SH CONFIGURATION\n"
         "Every option is also an environment variable SOTTO_<OPTION> (in capitals, \\- as _) and a line\n"
         ".B option = value\nunder\n.B [command]\nin the config file. The command line wins over the environment, the\n"
         "environment over the file. Unknown keys are refused.\n"
         ".SH FILES\n.I /etc/sotto/config\n.br\n.I $XDG_CONFIG_HOME/sotto/config\n(or ~/.config/sotto/config)\n"
         ".SH EXIT STATUS\n0 ok, 1 internal, 2 usage, 3 input, 4 io, 5 verify, 6 policy, 7 unsupported, 8 memory.\n"
         "An error is one line on standard error.");
}

static void print_bash(void)
{
    puts("# bash completion for sotto. Made by: sotto help --format bash\n"
         "_sotto()\n{\n"
         "    local cur=${COMP_WORDS[COMP_CWORD]} words\n"
         "    if ((COMP_CWORD == 1)); then");
    fputs("        words=\"", stdout);
    for (const struct st_cmd *const *c = st_commands; *c; c++)
        printf("%s ", (*c)->name);
    puts("--help --version\"\n    else\n        case ${COMP_WORDS[1]} in");
    for (const struct st_cmd *const *c = st_commands; *c; c++) {
        struct st_opt_list l;
        st_cli_options(*c, &l);
        printf("        %s) words=\"", (*c)->name);
        for (int i = 0; i < l.n; i++)
            printf("--%s ", l.p[i]->name);
        puts("--help\" ;;");
    }
    puts("        *) words= ;;\n        esac\n"
         "        [[ $cur == -* ]] || words=\n"
         "    fi\n"
         "    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
         "    [[ ${COMPREPLY[0]} ]] || compopt -o default\n"
         "}\n"
         "complete -F _sotto sotto");
}

static void print_markdown(void)
{
    puts("<!-- Made by: sotto help --format markdown -->\n# Commands");
    for (const struct st_cmd *const *c = st_commands; *c; c++) {
        struct st_opt_list l;
        printf("\n## sotto %s%s%s\n\n%s\n\n| option | meaning |\n|---|---|\n", (*c)->name, (*c)->args_doc ? " " : "",
               (*c)->args_doc ? (*c)->args_doc : "", (*c)->doc);
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
        "Lists the commands; `sotto help COMMAND` is `sotto COMMAND --help`. The manual page, the bash completion and "
        "docs/commands.md are printed from the same tables.",
    .examples = "  sotto help\n  sotto help --format man | man -l -",
    .options = options,
    .opts_size = sizeof(struct help_opts),
    .set = set,
    .run = run,
};
