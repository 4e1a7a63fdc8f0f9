#include "field/backend.h"

#include <stdio.h>
#include <string.h>

/* One that is not linked into the program is NULL. */
#define ST_BACKEND(symbol) extern const struct st_backend symbol;
#define ST_BACKEND_IF_LINKED(symbol) extern const struct st_backend symbol __attribute__((weak));
#include "field/backends.def"
#undef ST_BACKEND
#undef ST_BACKEND_IF_LINKED

static const struct st_backend *const backends[] = {
#define ST_BACKEND(symbol) &symbol,
#define ST_BACKEND_IF_LINKED(symbol) &symbol,
#include "field/backends.def"
#undef ST_BACKEND
#undef ST_BACKEND_IF_LINKED
};

#define N_BACKEND (sizeof backends / sizeof backends[0])

int st_backend_find(const char *name, const struct st_backend **out, struct st_err *e)
{
    char known[128] = "";
    size_t len = 0;
    for (size_t i = 0; i < N_BACKEND; i++) {
        if (!backends[i])
            continue;
        if (strcmp(backends[i]->name, name) == 0) {
            *out = backends[i];
            return 0;
        }
        len += (size_t)snprintf(known + len, sizeof known - len, "%s%s", len ? ", " : "", backends[i]->name);
    }
    return st_fail(e, ST_UNSUPPORTED, "device '%s' is not in this build; it has: %s", name, known);
}

int st_backend_check(const struct st_backend_weight *weights, uint32_t n_weight, uint32_t max_row, uint32_t n_row,
                     const struct st_backend_job *jobs, int n_job, struct st_err *e)
{
    if (n_row == 0 || n_row > max_row || n_job < 1)
        return st_fail(e, ST_INTERNAL, "backend: %u rows for %d matrices: want 1..%u rows and a matrix", n_row, n_job,
                       max_row);
    for (int i = 0; i < n_job; i++)
        if (jobs[i].weight >= n_weight || weights[jobs[i].weight].n_in != weights[jobs[0].weight].n_in)
            return st_fail(e, ST_INTERNAL, "backend: matrix %u of %u does not fit the rows", jobs[i].weight, n_weight);
    return 0;
}
