/* Any bytes as a placement policy: refused, or a place for every role. */
#include "protect/sealed/place.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_placement p;
    struct st_err e = {0};
    char *text = malloc(size ? size : 1); /* no end mark: a read past it shows */
    if (!text)
        abort();
    memcpy(text, data, size);
    bool attention = size & 1;
    int rc = st_placement_parse(text, size, "fuzz", attention, &p, &e);
    if (rc && rc != ST_INPUT && rc != ST_USAGE && rc != ST_UNSUPPORTED && rc != ST_POLICY)
        abort();
    if (!rc && p.attention != attention)
        abort();
    for (int r = 0; !rc && r < ST_ROLE_COUNT; r++)
        if (p.of[r] != ST_CONTAINER_INSIDE && p.of[r] != ST_CONTAINER_OUTSIDE)
            abort();
    free(text);
    return 0;
}
