#include "field/backend.h"

#include <stdio.h>
#include <string.h>

#define ST_BACKEND(symbol) extern const struct st_backend symbol;
#include "field/backends.def"
#undef ST_BACKEND

static const struct st_backend *const backends[] = {
#define ST_BACKEND(symbol) &symbol,
#include "field/backends.def"
#undef ST_BACKEND
};

#define N_BACKEND (sizeof backends / sizeof backends[0])

int st_backend_find(const char *name, const struct st_backend **out, struct st_err *e)
{
    char known[128] = "";
    size_t len = 0;
    for (size_t i = 0; i < N_BACKEND; i++) {
        if (strcmp(backends[i]->name, name) == 0) {
            *out = backends[i];
            return 0;
        }
        len += (size_t)snprintf(known + len, sizeof known - len, "%s%s", i ? ", " : "", backends[i]->name);
    }
    return st_fail(e, ST_UNSUPPORTED, "device '%s' is not in this build; it has: %s", name, known);
}
