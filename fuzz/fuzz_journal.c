/* Any bytes as the journal of a staging directory: refused, or every tensor in it is found by its name. */
#include "model/journal.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_journal_head h = {.title = "sotto covariant journal 1",
                                .n = 4,
                                .fact = {{.name = "source", .value = "aa", .differs = "begun from another"},
                                         {.name = "commitment", .value = "bb", .kept = true},
                                         {.name = "options", .value = "preset=tight h=32"},
                                         {.name = "layout", .value = "cc", .differs = "laid out differently"}}};
    struct st_err e = {0};
    struct st_journal j = {0};
    char *text = malloc(size ? size : 1); /* no end mark: a read past it shows */
    if (!text)
        abort();
    memcpy(text, data, size);
    int rc = st_journal_parse(&j, text, size, &h, &e);
    if (rc && rc != ST_INPUT && rc != ST_USAGE)
        abort();
    for (size_t i = 0; !rc && i < j.n_found; i++)
        if (st_journal_find(&j, j.found[i].name) != j.found[i].sum)
            abort();
    st_journal_close(&j);
    free(text);
    return 0;
}
