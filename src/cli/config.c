/* The config file: `key = value` lines under `[subcommand]` headings; # begins a comment line. Keys are the long
 * options of that subcommand. Whatever is not known is refused by name, in every section, so that a typing error never
 * turns a protection off unnoticed. */
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

#define CONFIG_MAX (1 << 20)

static char *trim(char *s)
{
    s += strspn(s, " \t\r");
    for (size_t n = strlen(s); n && strchr(" \t\r", s[n - 1]); n--)
        s[n - 1] = 0;
    return s;
}

static const struct st_cmd *find_command(const char *name)
{
    for (const struct st_cmd *const *c = st_commands; *c; c++)
        if (!strcmp((*c)->name, name))
            return *c;
    return NULL;
}

static const struct argp_option *find_option(const struct st_cmd *cmd, const char *key)
{
    struct st_opt_list l;
    st_cli_options(cmd, &l);
    for (int i = 0; i < l.n; i++)
        if (!strcmp(l.p[i]->name, key) && strcmp(key, "config"))
            return l.p[i];
    return NULL;
}

static int read_line(char *line, const char *where, const struct st_cmd **section, const struct st_cmd *cmd,
                     struct st_words *w, struct st_err *e)
{
    struct st_words checked = {0};
    char *s = trim(line);
    if (!*s || *s == '#')
        return 0;
    size_t n = strlen(s);
    if (*s == '[') {
        if (s[n - 1] != ']')
            return st_fail(e, ST_INPUT, "%s: want [subcommand]", where);
        s[n - 1] = 0;
        *section = find_command(trim(s + 1));
        return *section ? 0 : st_fail(e, ST_INPUT, "%s: unknown section [%s]", where, trim(s + 1));
    }
    char *eq = strchr(s, '=');
    if (!eq)
        return st_fail(e, ST_INPUT, "%s: want `key = value`", where);
    if (!*section)
        return st_fail(e, ST_INPUT, "%s: a key stands before the first [subcommand]", where);
    *eq = 0;
    char *key = trim(s), *value = trim(eq + 1);
    const struct argp_option *o = find_option(*section, key);
    if (!o)
        return st_fail(e, ST_INPUT, "%s: unknown key '%s' in [%s]", where, key, (*section)->name);
    if (st_words_setting(*section == cmd ? w : &checked, o, value, where, e))
        e->code = ST_INPUT;
    for (int i = 0; i < checked.n; i++)
        free(checked.p[i]);
    free(checked.p);
    return e->code;
}

static int read_config(const char *path, const struct st_cmd *cmd, struct st_words *w, struct st_err *e)
{
    const struct st_cmd *section = NULL;
    struct st_buf text = {0};
    char where[ST_PATH_MAX + 32];
    int line_no = 0;
    e->code = 0;
    if (st_file_read(path, CONFIG_MAX, &text, e))
        goto out;
    char *rest = text.p;
    for (char *line; (line = strsep(&rest, "\n"));) {
        snprintf(where, sizeof where, "%s:%d", path, ++line_no);
        if (read_line(line, where, &section, cmd, w, e))
            goto out;
    }
out:
    st_buf_free(&text);
    return e->code;
}

int st_cli_config(const struct st_cmd *cmd, const char *explicit_path, struct st_words *w, struct st_err *e)
{
    const char *xdg = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
    char system[64], user[ST_PATH_MAX] = "";
    snprintf(system, sizeof system, "/etc/sotto/%s", st_program.config);
    if (explicit_path && !*explicit_path)
        return 0;
    if (explicit_path)
        return read_config(explicit_path, cmd, w, e);
    if (xdg && *xdg)
        snprintf(user, sizeof user, "%s/sotto/%s", xdg, st_program.config);
    else if (home && *home)
        snprintf(user, sizeof user, "%s/.config/sotto/%s", home, st_program.config);
    if (st_path_exists(system) && read_config(system, cmd, w, e))
        return e->code;
    if (*user && st_path_exists(user) && read_config(user, cmd, w, e))
        return e->code;
    return 0;
}
