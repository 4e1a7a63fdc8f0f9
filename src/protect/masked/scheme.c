#include "protect/masked/scheme.h"

#include <stdio.h>
#include <string.h>

#define ST_SCHEME(symbol) extern const struct st_scheme symbol;
#include "protect/masked/schemes.def"
#undef ST_SCHEME

static const struct st_scheme *const schemes[] = {
#define ST_SCHEME(symbol) &symbol,
#include "protect/masked/schemes.def"
#undef ST_SCHEME
};

const struct st_locked_opts st_scheme_scratch = {.what = "secrets of pads", .allow_unlocked = true};

int st_scheme_find(const char *name, const struct st_scheme **out, struct st_err *e)
{
    char list[128] = "";
    size_t n = sizeof schemes / sizeof *schemes, at = 0;
    *out = schemes[0];
    if (!name)
        return 0;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(name, schemes[i]->name) == 0) {
            *out = schemes[i];
            return 0;
        }
        at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", i ? ", " : "", schemes[i]->name);
    }
    return st_fail(e, ST_USAGE, "scheme `%.32s`: want one of %s", name, list);
}
