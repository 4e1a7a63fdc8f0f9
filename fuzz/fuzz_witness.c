/* Any bytes as a log's request to a witness: refused, or written back as the same bytes. */
#include "service/witness_request.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_witness_request r;
    struct st_buf out = {0};
    struct st_err e;
    int rc = st_witness_request_parse((struct st_span){data, size}, &r, &e);
    if (rc == 0) {
        st_witness_request_write(&r, &out);
        if (out.len != size || memcmp(out.p, data, size) != 0)
            abort();
        st_buf_free(&out);
    } else if (rc != ST_INPUT)
        abort();
    return 0;
}
