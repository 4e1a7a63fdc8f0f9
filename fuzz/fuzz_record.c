/* Any bytes as a recording: refused, or entries that lie within it. Once more behind a right head of the file. */
#include "engine/record.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_all(struct st_span file)
{
    struct st_err e = {0};
    struct st_record_entry entry = {0};
    size_t at = ST_RECORD_FILE_HEAD;
    int rc = st_record_check_head(file, "fuzz", &e);
    if (rc && rc != ST_INPUT && rc != ST_UNSUPPORTED)
        abort();
    for (uint64_t n = 0; !rc && entry.kind != ST_RECORD_END; n++) {
        size_t before = at;
        rc = st_record_parse(file, &at, "fuzz", n, &entry, &e);
        if (rc && rc != ST_INPUT)
            abort();
        if (rc || entry.kind == ST_RECORD_END)
            break;
        if (at <= before || at > file.len || entry.bytes.p < file.p + before ||
            entry.bytes.p + entry.bytes.len > file.p + at || memchr(entry.roles, 0, sizeof entry.roles) == NULL)
            abort();
        if (entry.kind == ST_RECORD_OUT && entry.bytes.len != (uint64_t)entry.n_row * entry.n_in * 4)
            abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t head[ST_RECORD_FILE_HEAD] = "STRECORD\2";
    read_all((struct st_span){data, size});
    uint8_t *copy = malloc(sizeof head + size);
    if (!copy)
        return 0;
    memcpy(copy, head, sizeof head);
    if (size)
        memcpy(copy + sizeof head, data, size);
    read_all((struct st_span){copy, sizeof head + size});
    free(copy);
    return 0;
}
