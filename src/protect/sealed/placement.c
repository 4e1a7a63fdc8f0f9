/* Presets and files of placement policies. */
#include "base/file.h"
#include "protect/sealed/place.h"

#include <stdio.h>
#include <string.h>

#define BYTES_MAX ((size_t)1 << 16)

static const struct {
    const char *name, *text;
} presets[] = {
    {"paper",
     "# As SecureInfer (arXiv 2510.19979) does: what lies open is the attention output projection and the head.\n"
     "default = inside\n"
     "o = outside\n"
     "head = outside\n"},
    {"adapters",
     "# The base is public: all of its weights lie open, and a worker computes with them on masked rows. What\n"
     "# is private are adapters, which are sealed by themselves, and always whole.\n"
     "default = outside\n"},
    {"all-inside", "# Every weight is sealed; a worker is of no use.\n"
                   "default = inside\n"},
};

/* What is no weight of the plan and never leaves. */
static const struct {
    const char *name, *why;
} kept[] = {
    {"activation", "it would show the rows that masks hide"},
    {"softmax", "it would show the attention"},
    {"cache", "it holds the conversation"},
    {"sampling", "it would show the reply"},
    {"lora", "an adapter is sealed by itself, and whole"},
    {"lora_a", "an adapter is sealed by itself, and whole"},
    {"lora_b", "an adapter is sealed by itself, and whole"},
};

bool st_placement_preset(size_t i, const char **name, const char **text)
{
    if (i >= sizeof presets / sizeof *presets)
        return false;
    *name = presets[i].name;
    *text = presets[i].text;
    return true;
}

const char *st_placement_role(size_t i)
{
    for (int r = ST_ROLE_NONE + 1; r < ST_ROLE_COUNT; r++)
        if (r != ST_ROLE_LORA_A && r != ST_ROLE_LORA_B && i-- == 0)
            return st_role_name((enum st_role)r);
    return NULL;
}

static struct st_span trimmed(const char *p, size_t len)
{
    while (len && (*p == ' ' || *p == '\t')) {
        p++;
        len--;
    }
    while (len && (p[len - 1] == ' ' || p[len - 1] == '\t' || p[len - 1] == '\r'))
        len--;
    return (struct st_span){(const uint8_t *)p, len};
}

static bool is(struct st_span s, const char *word)
{
    return s.len == strlen(word) && memcmp(s.p, word, s.len) == 0;
}

/* Of the plan's roles; ST_ROLE_NONE when it is none. */
static enum st_role role_of(struct st_span s)
{
    for (int r = ST_ROLE_NONE + 1; r < ST_ROLE_COUNT; r++)
        if (is(s, st_role_name((enum st_role)r)))
            return (enum st_role)r;
    return ST_ROLE_NONE;
}

struct parse {
    const char *where;
    int line;
    struct st_placement *out;
    bool attention, attention_seen; /* it may be outside; its line */
    bool seen[ST_ROLE_COUNT];       /* at ST_ROLE_NONE: the default */
    enum st_container_place others;
};

static int unknown_role(const struct parse *p, struct st_span role, struct st_err *e)
{
    char names[400] = "";
    const char *name;
    for (size_t i = 0; (name = st_placement_role(i)); i++) {
        size_t at = strlen(names);
        snprintf(names + at, sizeof names - at, " %s", name);
    }
    return st_fail(e, ST_INPUT, "%.60s: line %d: unknown role '%.*s'; want default or one of%s", p->where, p->line,
                   role.len < 30 ? (int)role.len : 30, (const char *)role.p, names);
}

/* The published ways of outsourcing QK^T and PV do not hide them: the owner says that he knows. */
static int take_attention(struct parse *p, enum st_container_place place, struct st_err *e)
{
    if (place == ST_CONTAINER_OUTSIDE && !p->attention)
        return st_fail(e, ST_POLICY,
                       "%s: line %d: attention = outside: no known way to outsource QK^T and PV both hides them and "
                       "saves work; refused without --attention outside-breakable",
                       p->where, p->line);
    if (p->attention_seen)
        return st_fail(e, ST_INPUT, "%s: line %d: attention is given twice", p->where, p->line);
    p->attention_seen = true;
    p->out->attention = place == ST_CONTAINER_OUTSIDE;
    return 0;
}

static int take_line(struct parse *p, struct st_span role, enum st_container_place place, struct st_err *e)
{
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++) {
        if (!is(role, kept[i].name))
            continue;
        return place == ST_CONTAINER_INSIDE ? 0
                                            : st_fail(e, ST_UNSUPPORTED, "%s: line %d: %s = outside: %s", p->where,
                                                      p->line, kept[i].name, kept[i].why);
    }
    if (is(role, "attention"))
        return take_attention(p, place, e);
    bool is_default = is(role, "default");
    enum st_role r = is_default ? ST_ROLE_NONE : role_of(role);
    if (!is_default && r == ST_ROLE_NONE)
        return unknown_role(p, role, e);
    if (p->seen[r])
        return st_fail(e, ST_INPUT, "%s: line %d: %s is given twice", p->where, p->line,
                       is_default ? "default" : st_role_name(r));
    p->seen[r] = true;
    if (is_default)
        p->others = place;
    else
        p->out->of[r] = place;
    return 0;
}

static int parse_line(struct parse *p, const char *line, size_t len, struct st_err *e)
{
    const char *comment = memchr(line, '#', len);
    struct st_span text = trimmed(line, comment ? (size_t)(comment - line) : len);
    if (!text.len)
        return 0;
    const char *start = (const char *)text.p, *eq = memchr(start, '=', text.len);
    if (!eq)
        return st_fail(e, ST_INPUT, "%s: line %d: want ROLE = inside or ROLE = outside", p->where, p->line);
    struct st_span role = trimmed(start, (size_t)(eq - start));
    struct st_span place = trimmed(eq + 1, text.len - (size_t)(eq + 1 - start));
    if (!is(place, "inside") && !is(place, "outside"))
        return st_fail(e, ST_INPUT, "%s: line %d: want inside or outside behind the =", p->where, p->line);
    return take_line(p, role, is(place, "inside") ? ST_CONTAINER_INSIDE : ST_CONTAINER_OUTSIDE, e);
}

int st_placement_parse(const char *text, size_t len, const char *where, bool attention, struct st_placement *out,
                       struct st_err *e)
{
    struct parse p = {.where = where, .out = out, .attention = attention, .others = ST_CONTAINER_INSIDE};
    *out = (struct st_placement){.name = "custom"};
    for (size_t at = 0; at < len; at++) {
        const char *nl = memchr(text + at, '\n', len - at);
        size_t end = nl ? (size_t)(nl - text) : len;
        p.line++;
        if (parse_line(&p, text + at, end - at, e))
            return e->code;
        at = end;
    }
    for (int r = ST_ROLE_NONE; r < ST_ROLE_COUNT; r++)
        if (r == ST_ROLE_NONE || !p.seen[r])
            out->of[r] = p.others;
    if (attention && !out->attention)
        return st_fail(e, ST_USAGE, "--attention outside-breakable: %.200s has no line `attention = outside`", where);
    if (out->attention)
        snprintf(out->name, sizeof out->name, "%s", ST_PLACEMENT_ATTENTION);
    return 0;
}

int st_placement_read(const char *name_or_file, bool attention, struct st_placement *out, struct st_err *e)
{
    struct st_buf text = {0};
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++) {
        if (strcmp(name_or_file, presets[i].name) != 0)
            continue;
        int rc = st_placement_parse(presets[i].text, strlen(presets[i].text), presets[i].name, attention, out, e);
        snprintf(out->name, sizeof out->name, "%s", presets[i].name);
        return rc;
    }
    if (!st_path_exists(name_or_file))
        return st_fail(e, ST_USAGE, "policy '%.200s': want paper, adapters, all-inside, or a file", name_or_file);
    int rc = st_file_read(name_or_file, BYTES_MAX, &text, e);
    if (!rc)
        rc = st_placement_parse(text.p, text.len, name_or_file, attention, out, e);
    st_buf_free(&text);
    return rc;
}
