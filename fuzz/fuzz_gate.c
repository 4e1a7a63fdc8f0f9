/* Any bytes as limits of an audit: refused, or limits within their range that a row can be judged by. */
#include "audit/gate.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct st_gate g;
    struct st_row row = {.attack = "row-sort", .variant = "tight, gates", .score = 0.5, .low = 0.4, .n = 40};
    struct st_not_run lost = {.attack = "columns", .label = "tight", .code = ST_MEMORY, .why = "too little"};
    const struct st_findings f = {.rows = {.at = &row, .n = 1}, .not_run = &lost, .n_not_run = 1};
    struct st_err e = {0};
    char *text = malloc(size ? size : 1); /* no end mark: a read past it shows */
    if (!text)
        abort();
    memcpy(text, data, size);
    int rc = st_gate_parse(text, size, "fuzz", &g, &e);
    if (rc && rc != ST_INPUT && rc != ST_UNSUPPORTED)
        abort();
    for (size_t i = 0; i < g.n; i++)
        if (!(g.limits[i].max >= 0 && g.limits[i].max <= 1) || g.limits[i].min_n < 0)
            abort();
    if (!rc && st_gate_judge(&g, &f, &e) && e.code != ST_POLICY)
        abort();
    free(text);
    return 0;
}
