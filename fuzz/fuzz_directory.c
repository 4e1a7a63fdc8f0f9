/* Any bytes as a directory and as a part of one: refused, or written again and read back as the same. */
#include "attest/directory.h"

#include <stdlib.h>
#include <string.h>

static void directory(const uint8_t *data, size_t size)
{
    struct st_err e;
    struct st_buf first = {0}, second = {0};
    struct st_directory *d = malloc(sizeof *d);
    /* Its own spelling can be longer than the one that was read. */
    if (st_directory_parse(data, size, "fuzz", d, &e) == 0 && st_directory_write(d, &first, &e) == 0) {
        st_directory_wipe(d);
        if (st_directory_parse(first.p, first.len, "fuzz", d, &e) || st_directory_write(d, &second, &e) ||
            first.len != second.len || memcmp(first.p, second.p, first.len) != 0)
            abort();
    }
    st_directory_wipe(d);
    free(d);
    st_buf_free(&first);
    st_buf_free(&second);
}

static void part(const uint8_t *data, size_t size)
{
    struct st_err e;
    struct st_buf out = {0};
    struct st_directory *d = malloc(sizeof *d);
    if (st_directory_parse_part(data, size, "fuzz", d, &e) == 0) {
        if (d->n_gateway + d->n_issuer != 1)
            abort();
        if (d->n_gateway)
            st_directory_write_gateway(&d->gateways[0], &out);
        else
            st_directory_write_issuer(&d->issuers[0], &out);
    }
    st_directory_wipe(d);
    free(d);
    st_buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    directory(data, size);
    part(data, size);
    return 0;
}
