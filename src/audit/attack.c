#include "audit/attack.h"

#include <stdio.h>
#include <string.h>

const struct st_attack *const st_attacks[] = {
#define ST_ATTACK(name) &(name),
#include "audit/attacks.def"
#undef ST_ATTACK
    NULL};

static const struct {
    const char *name, *what;
} adversaries[] = {
#define X(id, name, what) [ST_ADVERSARY_##id] = {name, what},
    ST_ADVERSARIES(X)
#undef X
};

const char *st_adversary_name(enum st_adversary a)
{
    return (unsigned)a < ST_ADVERSARY_COUNT ? adversaries[a].name : "unknown";
}

const char *st_adversary_what(enum st_adversary a)
{
    return (unsigned)a < ST_ADVERSARY_COUNT ? adversaries[a].what : "";
}

int st_adversary_find(const char *name, enum st_adversary *out, struct st_err *e)
{
    char all[200] = "";
    for (int i = 0; i < ST_ADVERSARY_COUNT; i++) {
        if (strcmp(name, adversaries[i].name) == 0) {
            *out = (enum st_adversary)i;
            return 0;
        }
        size_t at = strlen(all);
        snprintf(all + at, sizeof all - at, "%s%s", i ? ", " : "", adversaries[i].name);
    }
    return st_fail(e, ST_USAGE, "--adversary: '%.40s' is none; there are %s", name, all);
}

static const struct st_attack *find(const char *name, size_t len)
{
    for (size_t i = 0; st_attacks[i]; i++)
        if (strlen(st_attacks[i]->name) == len && memcmp(st_attacks[i]->name, name, len) == 0)
            return st_attacks[i];
    return NULL;
}

static bool listed(const char *list, const struct st_attack *a)
{
    size_t n = strlen(a->name);
    for (const char *p = list; (p = strstr(p, a->name)) != NULL; p += n)
        if ((p == list || p[-1] == ',') && (p[n] == ',' || !p[n]))
            return true;
    return false;
}

/* Each name must be one; the order is that of attacks.def, whatever the list's. */
static int check_names(const char *list, struct st_err *e)
{
    for (const char *p = list;; p++) {
        size_t n = strcspn(p, ",");
        if (!find(p, n)) {
            char all[420] = "";
            for (size_t i = 0; st_attacks[i]; i++) {
                size_t at = strlen(all);
                snprintf(all + at, sizeof all - at, " %s", st_attacks[i]->name);
            }
            return st_fail(e, ST_USAGE, "--attacks: '%.*s' is none; want all, or some of:%s", n < 40 ? (int)n : 40, p,
                           all);
        }
        p += n;
        if (!*p)
            return 0;
    }
}

int st_attacks_pick(const char *list, const struct st_attack **out, size_t max, size_t *n, struct st_err *e)
{
    bool all = strcmp(list, "all") == 0;
    int rc = all ? 0 : check_names(list, e);
    *n = 0;
    for (size_t i = 0; !rc && st_attacks[i]; i++)
        if ((all || listed(list, st_attacks[i])) && *n < max)
            out[(*n)++] = st_attacks[i];
    return rc;
}
