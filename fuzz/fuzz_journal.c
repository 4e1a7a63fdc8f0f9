/* Any bytes as the journal of a staging directory: refused, or every tensor in it is found by its name. */
#include "protect/covariant/journal.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct st_cov_binding b = {
        .source = "aa", .commitment = "bb", .layout = "cc", .options = "preset=tight h=32"};
    struct st_err e = {0};
    struct st_cov_journal j = {0};
    char *text = malloc(size ? size : 1); /* no end mark: a read past it shows */
    if (!text)
        abort();
    memcpy(text, data, size);
    int rc = st_cov_journal_parse(&j, text, size, &b, &e);
    if (rc && rc != ST_INPUT && rc != ST_USAGE)
        abort();
    for (size_t i = 0; !rc && i < j.n_found; i++)
        if (st_cov_journal_find(&j, j.found[i].name) != j.found[i].sum)
            abort();
    st_cov_journal_close(&j);
    free(text);
    return 0;
}
