/* Any bytes as limits of an audit: refused, or limits within their range that a row can be judged by. */
#include "audit/gate.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct st_gate g;
    struct st_row row = {.attack = "row-sort", .variant = "tight, gates", .score = 0.5, .low = 0.4};
    const struct st_rows rows = {.at = &row, .n = 1};
    struct st_err e = {0};
    char *text = malloc(size ? size : 1); /* no end mark: a read past it shows */
    if (!text)
        abort();
    memcpy(text, data, size);
    int rc = st_gate_parse(text, size, "fuzz", &g, &e);
    if (rc && rc != ST_INPUT && rc != ST_UNSUPPORTED)
        abort();
    for (size_t i = 0; i < g.n; i++)
        if (!(g.limits[i].max >= 0 && g.limits[i].max <= 1))
            abort();
    if (!rc && st_gate_judge(&g, &rows, &e) && e.code != ST_POLICY)
        abort();
    free(text);
    return 0;
}
